//! Builds every task from the settings, joins them, stops them: the only wiring.
//!
//! ```text
//!  open: state folder, control socket, clock, store, client, queue     (an error here: no start)
//!  spawn: buses, instructor │ uploader, refresher, control │ queue
//!  ready ── until asked to stop, or a task ends on its own
//!  stop:   first the front    then the back                  last     (within the grace period)
//! ```
//!
//! The order of stopping is the order of the data: who stores datum stops first, the queue last, so
//! what was read is committed. A task that ends on its own takes the daemon down: systemd starts it
//! again, and what is on disk is always enough to go on from.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock::{Clock, ClockError, Trust},
    config::Settings,
    credential::{Signer, Store},
    domain::{Chain, ControlWrite, Datum, SourceId, WriteError, WriteReport},
    instruct::{self, Actuator, Instructor, NotStored, Results},
    modbus::{self, BusStatus, PlanError, Poller, WriteJob},
    net::{Net, NetError},
    observe::{
        control::{Answers, Ask, BindError, ControlSocket},
        systemd,
    },
    queue::{self, Queue, QueueError, QueueStat},
    refresh::{self, Refresher},
    solarnet::Api,
    upload::{UploadStatus, Uploader},
};

/// How long the tasks get to finish what is under way. The unit's `TimeoutStopSec` is longer.
const GRACE: Duration = Duration::from_secs(30);

/// Writes waiting for one bus; the instructor waits beyond.
const WRITES: usize = 4;

/// How often systemd's status line is renewed, if it changed.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Why the daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder cannot be made.
    #[error("could not make the state folder {} (`state_dir`)", path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] BindError),
    /// The clock's file or the boot ID cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The HTTPS client cannot be made.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The queue cannot be opened, or could not commit when stopping.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A unit cannot be read as configured.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A task ended although nobody asked it to.
    #[error("the task `{task}` ended on its own: {reason}")]
    TaskLost {
        /// Which.
        task: String,
        /// Why.
        reason: String,
    },
    /// Not every task finished in time.
    #[error("not everything was finished within {} s of being asked to stop", GRACE.as_secs())]
    GraceOver,
}

/// One group of tasks with a common stop.
struct Group {
    stop: CancellationToken,
    tasks: JoinSet<(String, Result<(), String>)>,
}

impl Group {
    fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: JoinSet::new() }
    }

    fn spawn<E: std::error::Error + 'static>(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let name = name.into();
        self.tasks.spawn(async move {
            let result = task.await.map_err(|error| Chain(&error).to_string());
            (name, result)
        });
    }

    /// As [`Group::spawn`], for a task that cannot fail.
    fn spawn_sure(&mut self, name: &str, task: impl Future<Output = ()> + Send + 'static) {
        let name = name.to_owned();
        self.tasks.spawn(async move {
            task.await;
            (name, Ok(()))
        });
    }

    /// Waits until any task ends, and says which and why.
    async fn first_lost(&mut self) -> AppError {
        let (task, reason) = match self.tasks.join_next().await {
            Some(Ok((task, Err(reason)))) => (task, reason),
            Some(Ok((task, Ok(())))) => (task, "without an error".to_owned()),
            Some(Err(panic)) => ("?".to_owned(), panic.to_string()),
            None => std::future::pending().await,
        };
        AppError::TaskLost { task, reason }
    }

    /// Asks every task to stop and waits until all have.
    async fn finish(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((task, Err(reason))) => warn!(task, reason, "task stopped with an error"),
                Err(panic) => error!(%panic, "task panicked while stopping"),
            }
        }
    }
}

/// The whole daemon, built and running.
struct Daemon {
    /// Who produces datum: buses and the instructor.
    front: Group,
    /// Who sends them on, and who answers questions.
    back: Group,
    queue_stop: CancellationToken,
    /// `None` once its end was heard.
    queue_ended: Option<oneshot::Receiver<Result<(), QueueError>>>,
    view: Arc<View>,
}

/// Runs the daemon until `shutdown`, and stops it within the grace period.
///
/// # Errors
///
/// If something needed cannot be opened, a task ended on its own, or the stop took too long.
pub async fn run(
    settings: Settings,
    passed_credentials: Option<PathBuf>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AppError> {
    let mut daemon = Daemon::start(settings, passed_credentials)?;
    systemd::ready();
    systemd::status(&daemon.view.line());
    info!(event = "agent.started", version = env!("CARGO_PKG_VERSION"), "agent started");

    let lost = daemon.until(shutdown).await;
    systemd::stopping();
    let stopped = timeout(GRACE, daemon.stop()).await.unwrap_or(Err(AppError::GraceOver));
    match lost {
        Some(lost) => {
            error!(event = "agent.task_lost", error = %Chain(&lost), "task lost, stopping");
            Err(lost)
        }
        None => {
            info!(event = "agent.stopped", clean = stopped.is_ok(), "agent stopped");
            stopped
        }
    }
}

impl Daemon {
    fn start(settings: Settings, passed: Option<PathBuf>) -> Result<Self, AppError> {
        make_state_dir(&settings.state_dir)?;
        let socket = ControlSocket::bind(&settings.control_socket)?;
        let clock = Clock::open(&settings.state_dir)?;
        let solarnet = &settings.solarnet;
        let store = Store::new(&settings.state_dir, passed);
        // What is wrong with the store, if anything, is the refresher's to say.
        let stored = store.load(&solarnet.token, clock.signing_now().date_naive());
        let signer = Signer::new(stored.ok().flatten().map(|(credential, _)| credential));
        let net = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone())?;
        let api = Api::new(solarnet, net, clock.clone(), signer.clone());

        // Readings: a bus waits when the queue's thread is behind, so none is lost between them.
        let (datum, readings) = mpsc::channel::<Datum>(queue::READINGS);
        let (queue, worker) =
            Queue::open(&settings.state_dir, &settings.queue, clock.clone(), readings)?;
        let queue_stop = CancellationToken::new();
        let queue_ended = worker.spawn(queue_stop.clone())?;

        let (mut front, mut back) = (Group::new(), Group::new());
        let mut buses = Vec::new();
        let mut actuators = Vec::new();
        for bus in &settings.modbus {
            let (write, writes) = mpsc::channel(WRITES);
            let channels =
                modbus::Channels { datum: datum.clone(), writes, stop: front.stop.clone() };
            let wire = modbus::wire(bus);
            let poller = Poller::new(bus, &settings.controls, wire, clock.clone(), channels)?;
            buses.push(poller.status());
            let own = settings.controls.iter().filter(|control| control.bus == bus.name);
            actuators.extend(own.map(|control| (control.id.clone(), write.clone())));
            front.spawn(format!("bus {}", bus.name), modbus::run(&bus.link, poller));
        }
        let instructions = watch::Sender::new(instruct::Status::default());
        let instructions_seen = instructions.subscribe();
        let instructor = Instructor {
            caller: api.clone(),
            actuator: Buses(actuators),
            results: Outcomes(queue.clone()),
            time: clock.clone(),
            node: settings.node,
            controls: settings.controls.clone(),
            settings: settings.instructions.clone(),
            state_dir: settings.state_dir.clone(),
            status: instructions,
            stop: front.stop.clone(),
        };
        front.spawn("instructor", instructor.run());

        let upload = watch::Sender::new(UploadStatus::default());
        let upload_seen = upload.subscribe();
        let uploader = Uploader {
            node: settings.node,
            settings: settings.upload.clone(),
            state_dir: settings.state_dir.clone(),
            caller: api.clone(),
            queue: queue.clone(),
            clock: clock.clone(),
            key_changed: signer.changed(),
            status: upload,
            stop: back.stop.clone(),
        };
        back.spawn("uploader", uploader.run());

        let reload = Arc::new(Notify::new());
        let credential = watch::Sender::new(refresh::Status::default());
        let view = Arc::new(View {
            clock: clock.clone(),
            buses,
            queue: queue.stat(),
            upload: upload_seen,
            credential: credential.subscribe(),
            instructions: instructions_seen,
            reload: reload.clone(),
        });
        let refresher = Refresher {
            name: settings.solarnet.token.clone(),
            store,
            signer,
            clock,
            calls: api,
            reload,
            status: credential,
            stop: back.stop.clone(),
        };
        back.spawn_sure("refresher", refresher.run());
        let answering = socket.serve(view.clone(), back.stop.clone());
        back.spawn_sure("control socket", answering);
        Ok(Self { front, back, queue_stop, queue_ended: Some(queue_ended), view })
    }

    /// Until asked to stop (`None`), or until a task is lost.
    async fn until(&mut self, shutdown: impl Future<Output = ()>) -> Option<AppError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut renew = tokio::time::interval(STATUS_EVERY);
        let mut shown = String::new();
        loop {
            tokio::select! {
                () = &mut shutdown => return None,
                lost = self.front.first_lost() => return Some(lost),
                lost = self.back.first_lost() => return Some(lost),
                ended = queue_end(&mut self.queue_ended) => return Some(match ended {
                    Err(error) => AppError::Queue(error),
                    Ok(reason) => {
                        AppError::TaskLost { task: "queue".to_owned(), reason: reason.to_owned() }
                    }
                }),
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

    async fn stop(mut self) -> Result<(), AppError> {
        self.front.finish().await;
        self.back.finish().await;
        self.queue_stop.cancel();
        // Already heard, or lost: that was said then.
        if self.queue_ended.is_some() {
            queue_end(&mut self.queue_ended).await?;
        }
        Ok(())
    }
}

/// Waits for the queue's end, once: afterwards for ever. Says how it ended, if not with an error.
async fn queue_end(
    end: &mut Option<oneshot::Receiver<Result<(), QueueError>>>,
) -> Result<&'static str, QueueError> {
    let Some(receiver) = end else { return std::future::pending().await };
    let ended = receiver.await;
    *end = None;
    match ended {
        Ok(result) => result.map(|()| "without an error"),
        Err(_) => Ok("its thread panicked"),
    }
}

/// Makes, for `check`, all that the daemon makes before it touches anything, and says for which key of the
/// configuration that fails. No file is written, no port opened.
#[must_use]
pub fn rehearse(settings: &Settings) -> Vec<(String, AppError)> {
    let (solarnet, clock) = (&settings.solarnet, Clock::untold());
    let mut failed = Vec::new();
    if let Err(error) = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone()) {
        failed.push(("solarnet.ca_file".to_owned(), error.into()));
    }
    for (index, bus) in settings.modbus.iter().enumerate() {
        let (channels, wire) = (modbus::Channels::unconnected(), modbus::wire(bus));
        if let Err(error) = Poller::new(bus, &settings.controls, wire, clock.clone(), channels) {
            failed.push((format!("modbus[{index}]"), error.into()));
        }
    }
    failed
}

fn make_state_dir(path: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| AppError::StateDir { path: path.to_owned(), source })
}

/// Where each control's writes go.
struct Buses(Vec<(SourceId, mpsc::Sender<WriteJob>)>);

impl Actuator for Buses {
    async fn write(&self, write: ControlWrite) -> Result<WriteReport, WriteError> {
        let control = write.control.clone();
        let not_started = |reason: &str| WriteError::NotStarted {
            control: control.clone(),
            reason: reason.into(),
        };
        let Some((_, bus)) = self.0.iter().find(|(id, _)| *id == write.control) else {
            return Err(not_started("no bus has it"));
        };
        let (reply, report) = oneshot::channel();
        if bus.send((write, reply)).await.is_err() {
            return Err(not_started("its bus has stopped"));
        }
        // The bus took the job and ended without a word: nobody knows how far it came.
        report.await.unwrap_or_else(|_| {
            Err(WriteError::Unknown { control, reason: "its bus stopped meanwhile".into() })
        })
    }
}

/// Outcomes of instructions, committed before the server hears of them.
struct Outcomes(Queue);

impl Results for Outcomes {
    async fn store(&self, datum: Datum) -> Result<(), NotStored> {
        self.0.store_durably(datum).await.map_err(|error| NotStored(error.to_string()))
    }
}

/// What can be seen from outside: the published status of every task.
struct View {
    clock: Clock,
    buses: Vec<watch::Receiver<BusStatus>>,
    queue: watch::Receiver<QueueStat>,
    upload: watch::Receiver<UploadStatus>,
    credential: watch::Receiver<refresh::Status>,
    instructions: watch::Receiver<instruct::Status>,
    reload: Arc<Notify>,
}

impl View {
    /// The members of `status --json`.
    fn status(&self) -> Value {
        let sources: Vec<Value> = self
            .buses
            .iter()
            .flat_map(|bus| {
                let bus = bus.borrow();
                let named = |source: &modbus::SourceStatus| {
                    let mut value = json!(source);
                    value["bus"] = json!(bus.bus);
                    value
                };
                bus.sources.iter().map(named).collect::<Vec<_>>()
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "sources": sources,
            "queue": *self.queue.borrow(),
            "upload": *self.upload.borrow(),
            "clock": self.clock_status(),
            "credentials": [*self.credential.borrow()],
            "instructions": *self.instructions.borrow(),
        })
    }

    fn clock_status(&self) -> Value {
        let (trust, ahead_ms) = match self.clock.trust() {
            Trust::Unknown => ("unknown", None),
            Trust::Synchronised => ("synchronised", None),
            Trust::Server { ahead } => ("server", Some(ahead.num_milliseconds())),
        };
        json!({ "trust": trust, "ahead_ms": ahead_ms, "now": self.clock.trusted_now() })
    }

    /// One line for `systemctl status`.
    fn line(&self) -> String {
        let (mut up, mut all) = (0, 0);
        for bus in &self.buses {
            let bus = bus.borrow();
            all += bus.sources.len();
            up += bus.sources.iter().filter(|s| s.state.is_up()).count();
        }
        let (queue, upload) = (self.queue.borrow(), self.upload.borrow());
        let waits = upload.waits_for.as_deref().map(|w| format!(", {w}")).unwrap_or_default();
        format!(
            "{up} of {all} sources answer, {} datum wait, uploads {}{waits}",
            queue.records, upload.state
        )
    }
}

impl Answers for View {
    fn answer(&self, ask: Ask) -> Value {
        match ask {
            Ask::Status => self.status(),
            Ask::CredentialChanged => {
                self.reload.notify_one();
                json!({ "ok": true })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_queue_is_heard_once_and_hinders_no_stop() {
        let (end, ended) = oneshot::channel();
        let (group, queue_stop) = (Group::new, CancellationToken::new());
        let view = Arc::new(View {
            clock: Clock::system(),
            buses: Vec::new(),
            queue: watch::channel(QueueStat::default()).1,
            upload: watch::channel(UploadStatus::default()).1,
            credential: watch::channel(refresh::Status::default()).1,
            instructions: watch::channel(instruct::Status::default()).1,
            reload: Arc::new(Notify::new()),
        });
        let mut daemon =
            Daemon { front: group(), back: group(), queue_stop, queue_ended: Some(ended), view };
        drop(end);
        let lost = daemon.until(std::future::pending()).await;
        assert!(matches!(lost, Some(AppError::TaskLost { task, .. }) if task == "queue"));
        assert!(daemon.stop().await.is_ok());
    }
}
