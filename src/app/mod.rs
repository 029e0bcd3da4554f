//! Builds every task from the settings, joins them, stops them: the only wiring.
//!
//! ```text
//!  open:  state folder, control socket, what lives as long as the process, clients   (an error here: no start)
//!  spawn: the queue's thread, then every part
//!  ready ── until asked to stop, or a task ends on its own
//!  stop:  front (buses, instructor), back (all that sends and answers), brokers, queue   (within the grace period)
//! ```
//!
//! The order of stopping is the order of the data: who stores datum stops first, the queue last, so
//! what was read is committed. A task that ends on its own takes the daemon down: systemd starts it
//! again, and what is on disk is always enough to go on from.

mod brokers;
mod change;
mod ends;
mod error;
mod part;
mod rehearse;
mod reload;
mod services;
mod spare;
mod task;
mod view;

use std::{
    collections::BTreeMap,
    fs,
    future::poll_fn,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tracing::{error, info};

use crate::{
    clock::Clock,
    config::{Settings, settings},
    credential::{Signer, Store, store::identity::Slot},
    domain::{Chain, Datum},
    identity::{self, Identity, Installer},
    instruct::Inbox,
    modbus::Plans,
    observe::{control::ControlSocket, log::Levels, systemd, watchdog::Watchdog},
    pulse::{Bound, Pulse, Pulses},
    queue::{self, Queue, Worker},
    runtime::trim_memory,
    solarin::SolarIn,
    solarnet::Api,
};

use brokers::{IdleSession, Live};
pub use error::AppError;
use part::{Base, Bus, IdleBus, QueueThread, Ways};
pub use rehearse::rehearse;
use reload::Configuration;
use services::Services;
use task::{Task, finish_all};
use view::{Board, View};

/// How long the tasks get to finish what is under way. The unit's `TimeoutStopSec` is longer.
const GRACE: Duration = Duration::from_secs(30);

/// How much of it is the tasks' at most: the rest is for the last commit, whoever did not finish.
const TASKS_GRACE: Duration = Duration::from_secs(25);

/// How often systemd's status line is renewed, if it changed.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The main loop's turns come at least so often.
const TICK: Bound = Bound::Within(STATUS_EVERY);

/// The whole daemon, built and running.
struct Daemon {
    base: Base,
    view: Arc<View>,
    pulse: Pulse,
    api: Api,
    solarin: SolarIn,
    _watchdog: Watchdog,
    /// Who produces datum: the buses, by name, and the instructor.
    buses: BTreeMap<String, Bus>,
    instructor: Task,
    /// Who sends them on, and who answers questions.
    uploader: Task,
    /// Who asks SolarQuery for what was sent, where that is configured.
    proving: Vec<Task>,
    refresher: Task,
    files: Task,
    identity: Task,
    control: Task,
    /// What those two use: they end after them. `None` where there is no such broker.
    mqtt: Option<Live>,
    flux: Option<Live>,
    /// Who keeps on disk what was learnt about the time.
    keeper: Task,
    queue: QueueThread,
}

/// What the daemon begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The configuration file, which a reload reads again.
    pub file: PathBuf,
    /// What stands in it.
    pub settings: Arc<Settings>,
    /// The folder of credentials that systemd passed.
    pub passed_credentials: Option<PathBuf>,
    /// What is logged.
    pub levels: Levels,
}

/// Why the daemon ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// An instruction asked for a restart.
    ToRestart,
}

/// Runs the daemon until `shutdown`, and stops it within the grace period. Each `hangup` is a reload.
///
/// # Errors
///
/// If something needed cannot be opened, a task ended on its own, or the stop took too long.
pub async fn run(
    beginning: Beginning,
    hangup: Signal,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, AppError> {
    let mut daemon = Daemon::start(beginning)?;
    systemd::ready();
    systemd::status(&daemon.view.line());
    trim_memory();
    info!(event = "agent.started", version = env!("CARGO_PKG_VERSION"), "agent started");

    let pulse = daemon.pulse.clone();
    let ended = pulse.watched(daemon.until(hangup, shutdown)).await;
    systemd::stopping();
    let stopped = daemon.stop().await;
    match ended {
        Err(lost) => {
            error!(event = "agent.task_lost", error = %Chain(&lost), "task lost, stopping");
            Err(lost)
        }
        Ok(ended) => {
            info!(event = "agent.stopped", clean = stopped.is_ok(), "agent stopped");
            stopped.map(|()| ended)
        }
    }
}

impl Daemon {
    fn start(beginning: Beginning) -> Result<Self, AppError> {
        let pulses = Pulses::default();
        let watchdog = Watchdog::start(pulses.clone()).map_err(AppError::Watchdog)?;
        let pulse = pulses.of("agent");
        let settings = beginning.settings.clone();
        make_state_dir(&settings.state_dir)?;
        let socket = ControlSocket::bind(&settings.control_socket)?;
        let levels = beginning.levels.clone();
        let (base, worker) = open(beginning, pulses)?;

        let api = part::api(&base, &settings.solarnet)?;
        let solarin = part::solarin(&base, &settings)?;
        let idle = |bus: &settings::Bus| {
            Ok((bus.name.clone(), IdleBus::new(&base, bus, &settings.controls)?))
        };
        let idle: Vec<_> = settings.modbus.iter().map(idle).collect::<Result<_, AppError>>()?;
        let (mqtt, flux) = (brokers::mqtt(&base, &settings)?, brokers::flux(&base, &settings)?);
        let view = Arc::new(View {
            clock: base.clock.clone(),
            board: base.board.clone(),
            queue: base.queue.stat(),
            pulses: base.pulses.clone(),
            levels,
            signer: base.signer.clone(),
            credential_changed: base.credential_changed.clone(),
            identity_changed: base.identity_changed.clone(),
        });
        let thread = QueueThread::start(worker, &base.pulses)?;
        let buses = idle.into_iter().map(|(name, bus)| (name, bus.start()));
        let buses: BTreeMap<String, Bus> = buses.collect();
        part::show_buses(&base.board, &settings, &buses);
        let mqtt = mqtt.map(IdleSession::start);
        let ways = Ways { api: &api, solarin: &solarin, mqtt: mqtt.as_ref() };
        let (proof, proving) = part::proof(&base, &settings, &api);
        Ok(Self {
            instructor: part::instructor(&base, &settings, ways, &buses),
            uploader: part::uploader(&base, &settings, ways, proof),
            proving,
            mqtt,
            flux: flux.map(|idle| idle.start_feed(&base, &settings)),
            refresher: part::refresher(&base, &settings, &api),
            files: part::files(&base, &settings, &api),
            identity: part::keeper_of_identity(&base, &settings),
            control: part::control(&base, socket, view.clone()),
            keeper: part::keeper(&base),
            queue: thread,
            pulse,
            _watchdog: watchdog,
            buses,
            api,
            solarin,
            view,
            base,
        })
    }

    /// Until asked to stop or to start again, or until a task is lost, which is the error.
    async fn until(
        &mut self,
        mut hangup: Signal,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, AppError> {
        let restart = self.base.services.restart_asked();
        let mut shutdown = std::pin::pin!(async {
            tokio::select! {
                () = shutdown => Ended::Asked,
                () = restart => Ended::ToRestart,
            }
        });
        let mut renew = tokio::time::interval(STATUS_EVERY);
        let mut shown = String::new();
        loop {
            let _waiting = self.pulse.enter("watching over the others", TICK);
            tokio::select! {
                ended = &mut shutdown => return Ok(ended),
                lost = self.lost() => return Err(lost),
                Some(()) = hangup.recv() => tokio::select! {
                    ended = &mut shutdown => return Ok(ended),
                    () = self.reload() => {}
                },
                _ = renew.tick() => {
                    let line = self.view.line();
                    if line != shown {
                        systemd::status(&line);
                        shown = line;
                    }
                }
            }
        }
    }

    /// Waits until any part ends on its own, and says which and why.
    async fn lost(&mut self) -> AppError {
        let buses = self.buses.values_mut().map(|bus| &mut bus.task);
        let others = [
            &mut self.instructor,
            &mut self.uploader,
            &mut self.refresher,
            &mut self.files,
            &mut self.identity,
            &mut self.control,
            &mut self.keeper,
        ];
        let brokers = [&mut self.mqtt, &mut self.flux].into_iter().flatten();
        let brokers = brokers.flat_map(|live| &mut live.tasks).chain(&mut self.proving);
        let mut tasks: Vec<&mut Task> = buses.chain(others).chain(brokers).collect();
        let any = poll_fn(|context| {
            let lost = tasks.iter_mut().map(|task| task.poll_lost(context)).find(|p| p.is_ready());
            lost.unwrap_or(std::task::Poll::Pending)
        });
        tokio::select! {
            lost = any => lost,
            ended = self.queue.end() => match ended {
                Err(error) => AppError::Queue(error),
                Ok(reason) => {
                    AppError::TaskLost { task: "queue".to_owned(), reason: reason.to_owned() }
                }
            },
        }
    }

    async fn stop(mut self) -> Result<(), AppError> {
        let buses = self.buses.values_mut().map(|bus| &mut bus.task);
        let front: Vec<&mut Task> = buses.chain([&mut self.instructor]).collect();
        let back = [
            &mut self.uploader,
            &mut self.refresher,
            &mut self.files,
            &mut self.identity,
            &mut self.control,
            &mut self.keeper,
        ];
        let last = [&mut self.mqtt, &mut self.flux].into_iter().flatten();
        let last = last.flat_map(|live| &mut live.tasks);
        let tasks = async {
            finish_all(front).await;
            finish_all(back.into_iter().chain(&mut self.proving)).await;
            finish_all(last).await;
        };
        within_grace(tasks, self.queue.finish()).await
    }
}

/// What lives as long as the process, and the queue's work, which is not begun.
fn open(beginning: Beginning, pulses: Pulses) -> Result<(Base, Worker), AppError> {
    let Beginning { file, settings, passed_credentials, levels } = beginning;
    let clock = Clock::open(&settings.state_dir)?;
    let store = Store::new(&settings.state_dir, passed_credentials);
    // What is wrong with the store, if anything, is the refresher's to say.
    let stored = store.load(&settings.solarnet.token, clock.signing_now().date_naive());
    let signer = Signer::new(stored.ok().flatten().map(|(credential, _)| credential));
    let identity = Identity::new();
    // Likewise the keeper's.
    let certificate = identity::keeper::load_of(&store, Slot::Current, settings.node);
    identity.replace(certificate.ok().flatten());
    let (installer, arrivals) = Installer::channel();
    let (datum, readings) = mpsc::channel::<Datum>(queue::READINGS);
    let (queue, worker) =
        Queue::open(&settings.state_dir, &settings.queue, clock.clone(), readings)?;
    // A daemon may be started in a folder that it does not stay in.
    let file = std::path::absolute(&file).unwrap_or(file);
    let sources = settings.modbus.iter().flat_map(|bus| &bus.units).map(|unit| &unit.source);
    let plans = Plans::open(&settings.state_dir, sources);
    let services = Services::new(&settings.control_socket, clock.boot(), levels, installer);
    let (inbox_sender, inbox) = Inbox::channel();
    let base = Base {
        clock,
        store,
        signer,
        queue,
        datum,
        board: Board::new(Configuration { file, settings, last_reload: None }),
        pulses,
        credential_changed: Arc::default(),
        identity,
        identity_changed: Arc::default(),
        arrivals,
        plans,
        inbox,
        inbox_sender,
        services,
    };
    Ok((base, worker))
}

/// The tasks' end and then the last commit, which comes also where a task did not finish.
async fn within_grace(
    tasks: impl Future<Output = ()>,
    commit: impl Future<Output = Result<(), queue::QueueError>>,
) -> Result<(), AppError> {
    let over = Instant::now() + GRACE;
    let finished = timeout(TASKS_GRACE, tasks).await;
    timeout_at(over, commit).await.map_err(|_| AppError::GraceOver)??;
    finished.map_err(|_| AppError::GraceOver)
}

fn make_state_dir(path: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| AppError::StateDir { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_commit_comes_within_the_grace_period_although_a_task_hangs() {
        let begun = Instant::now();
        let mut committed = None;
        let commit = async {
            committed = Some(begun.elapsed());
            Ok(())
        };
        let stopped = within_grace(pending(), commit).await;
        assert!(matches!(stopped, Err(AppError::GraceOver)));
        assert!(committed.is_some_and(|after| after < GRACE), "{committed:?}");
        assert!(matches!(within_grace(ready(()), pending()).await, Err(AppError::GraceOver)));
        assert!(within_grace(ready(()), ready(Ok(()))).await.is_ok());
    }
}
