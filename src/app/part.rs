//! How each part of the daemon is started. All of them stop as [`Task`]s do, each on its own.

use std::{collections::BTreeMap, sync::Arc};

use chrono::TimeDelta;
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    brokers::Live,
    ends::{Buses, Outcomes},
    services::Services,
    spare,
    task::Task,
    view::{Auditing, Board, View},
};
use crate::{
    clock::Clock,
    config::{
        Settings,
        settings::{self, Via},
    },
    credential::{Signer, Store},
    domain::{Datum, NodeTopic, TokenName},
    files::{self, FileUploader},
    identity::{Arrivals, Identity, Keeper, calls::Calls, renewal::Terms},
    instruct::{
        Inbox, Instructor,
        server::{Certificate, Server, Token},
    },
    modbus::{self, BusStatus, Carrier, PlanError, Plans, Poller, WriteJob, ring::Recorded},
    needs::{self, Needs},
    net::{Net, NetError},
    observe::control::ControlSocket,
    pulse::{Bound, During, Pulse, Pulses},
    queue::{Queue, QueueError, Worker},
    refresh::{self, Refresher},
    solarin::SolarIn,
    solarnet::Api,
    upload::{
        bulk, import, mqtt,
        proof::{self, Proof, Prover},
    },
};

/// Writes waiting for one bus; the instructor waits beyond.
const WRITES: usize = 4;

/// What lives as long as the process, whatever becomes of the configuration.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) signer: Signer,
    pub(super) queue: Queue,
    /// Readings: a bus waits when the queue's thread is behind, so none is lost between them.
    pub(super) datum: mpsc::Sender<Datum>,
    pub(super) board: Board,
    pub(super) pulses: Pulses,
    pub(super) credential_changed: Arc<Notify>,
    /// Who this node is to servers that want to see a certificate.
    pub(super) identity: Identity,
    pub(super) identity_changed: Arc<Notify>,
    /// Renewed certificates.
    pub(super) arrivals: Arrivals,
    /// What units taught about their registers.
    pub(super) plans: Plans,
    /// Instructions that arrive unasked.
    pub(super) inbox: Inbox,
    pub(super) inbox_sender: mpsc::Sender<(Instant, Value)>,
    /// What instructions may ask of the node itself.
    pub(super) services: Services,
}

/// By which ways the server can be reached.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    pub(super) api: &'a Api,
    pub(super) solarin: &'a SolarIn,
    pub(super) mqtt: Option<&'a Live>,
}

/// The client that calls the server.
///
/// # Errors
///
/// If it cannot be made as configured.
pub(super) fn api(base: &Base, solarnet: &settings::SolarNet) -> Result<Api, NetError> {
    let net = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, base.clock.clone())?;
    Ok(Api::new(solarnet, net, base.clock.clone(), base.signer.clone()))
}

/// The client that reaches the server with the node's certificate, if there is one by then.
///
/// # Errors
///
/// If it cannot be made as configured.
pub(super) fn solarin(base: &Base, settings: &Settings) -> Result<SolarIn, NetError> {
    let identity = Arc::new(base.identity.clone());
    let (changed, clock) = (base.identity.changed(), base.clock.clone());
    let (solarnet, node) = (&settings.solarnet, settings.node);
    SolarIn::new(solarnet, node, identity, changed, clock, base.inbox_sender.clone())
}

/// A bus that is made and does nothing yet.
#[derive(Debug)]
pub(super) struct IdleBus {
    poller: Poller<Recorded<Carrier>>,
    writes: mpsc::Sender<WriteJob>,
    pulse: Pulse,
    /// In a reload this takes as long as the parts that end need.
    waiting: During,
    stop: CancellationToken,
}

/// A bus at work.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) task: Task,
    status: watch::Receiver<BusStatus>,
    writes: mpsc::Sender<WriteJob>,
}

impl IdleBus {
    /// Plans a bus and opens nothing. `controls` may hold those of other buses as well.
    ///
    /// # Errors
    ///
    /// If a unit cannot be read as configured.
    pub(super) fn new(
        base: &Base,
        bus: &settings::Bus,
        controls: &[settings::Control],
    ) -> Result<Self, PlanError> {
        let pulse = base.pulses.of(format!("bus {}", bus.name));
        let stop = CancellationToken::new();
        let (writes, taken) = mpsc::channel(WRITES);
        let channels =
            modbus::Channels { datum: base.datum.clone(), writes: taken, stop: stop.clone() };
        let wire = base.board.frames.on(&bus.name, Carrier::of(bus));
        let poller = Poller::new(bus, controls, wire, base.clock.clone(), channels)?;
        let poller = poller.for_task(&pulse).with_plans(&base.plans);
        let waiting = pulse.enter("waiting to be started", Bound::Open);
        Ok(Self { poller, writes, pulse, waiting, stop })
    }

    /// Begins to read.
    pub(super) fn start(self) -> Bus {
        drop(self.waiting);
        let status = self.poller.status();
        let task = Task::spawn(&self.pulse, self.stop, modbus::run(self.poller));
        Bus { task, status, writes: self.writes }
    }
}

/// Publishes the buses that run, in the order of the configuration.
pub(super) fn show_buses(board: &Board, settings: &Settings, buses: &BTreeMap<String, Bus>) {
    let running = settings.modbus.iter().filter_map(|bus| buses.get(&bus.name));
    board.buses.send_replace(running.map(|bus| bus.status.clone()).collect());
}

/// Starts to obey. The buses must be those that the controls name.
pub(super) fn instructor(
    base: &Base,
    settings: &Settings,
    ways: Ways<'_>,
    buses: &BTreeMap<String, Bus>,
) -> Task {
    let (pulse, node) = (base.pulses.of("instructor"), settings.node);
    match settings.upload.via {
        Via::Import => {
            let server = Token { caller: ways.api.for_task(&pulse), node };
            instructor_of(server, base, settings, pulse, buses)
        }
        Via::Bulk | Via::Mqtt => {
            let broker = ways.mqtt.map(|live| live.handle.for_task(&pulse));
            let server = Certificate { solarin: ways.solarin.for_task(&pulse), broker, node };
            instructor_of(server, base, settings, pulse, buses)
        }
    }
}

fn instructor_of<S: Server + 'static>(
    server: S,
    base: &Base,
    settings: &Settings,
    pulse: Pulse,
    buses: &BTreeMap<String, Bus>,
) -> Task {
    let stop = CancellationToken::new();
    let mut instructions = settings.instructions.clone();
    if settings.identity.renew {
        // Whoever renews is sent the new certificate that way.
        instructions.allow.insert(NodeTopic::RenewCertificate);
    }
    let end = |control: &settings::Control| {
        buses.get(&control.bus).map(|bus| (control.id.clone(), bus.writes.clone()))
    };
    let instructor = Instructor {
        server,
        inbox: base.inbox.clone(),
        services: base.services.clone(),
        actuator: Buses(settings.controls.iter().filter_map(end).collect()),
        results: Outcomes(base.queue.for_task(&pulse)),
        time: base.clock.clone(),
        node: settings.node,
        controls: settings.controls.clone(),
        settings: instructions,
        state_dir: settings.state_dir.clone(),
        status: base.board.instructions.clone(),
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    Task::spawn(&pulse, stop, instructor.run())
}

/// What becomes of rows that the server took, and who sees to it beside the uploader.
pub(super) fn proof(base: &Base, settings: &Settings, api: &Api) -> (Proof, Vec<Task>) {
    if settings.upload.proof == settings::Proof::Answer {
        base.board.proof.send_replace(None);
        base.board.auditing.send_replace(None);
        return (Proof::at_once(base.queue.clone()), Vec::new());
    }
    let own = settings.audit.token.as_ref().filter(|name| **name != settings.solarnet.token);
    let own = own.map(|name| auditing(base, name, settings, api));
    let (api, signer, mut tasks) = match own {
        Some((api, own, refresher)) => {
            let signer = own.signer.clone();
            base.board.auditing.send_replace(Some(own));
            (api, signer, vec![refresher])
        }
        None => {
            base.board.auditing.send_replace(None);
            (api.clone(), base.signer.clone(), Vec::new())
        }
    };
    let (pulse, stop) = (base.pulses.of("prover"), CancellationToken::new());
    let queue = base.queue.for_task(&pulse);
    let (proof, told) = Proof::by_query(queue.clone());
    let prover = Prover {
        node: settings.node,
        limits: proof::Limits { every: settings.upload.every, settle: settings.audit.settle },
        told,
        caller: api.for_task(&pulse),
        queue,
        clock: base.clock.clone(),
        key_changed: signer.changed(),
        status: base.board.proof.clone(),
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    tasks.push(Task::spawn_sure(&pulse, stop, prover.run()));
    (proof, tasks)
}

/// Calls as the token of audits, whose key is kept alive. Its calls have a pace of their own, as the server's
/// limit is one for each token.
fn auditing(
    base: &Base,
    name: &TokenName,
    settings: &Settings,
    api: &Api,
) -> (Api, Auditing, Task) {
    let (pulse, stop) = (base.pulses.of("refresher of the audit"), CancellationToken::new());
    let (signer, changed) = (Signer::new(None), Arc::new(Notify::new()));
    let net = api.net().clone();
    let api = Api::new(&settings.solarnet, net, base.clock.clone(), signer.clone());
    let (status, shown) = watch::channel(refresh::Status::default());
    let refresher = Refresher {
        name: name.clone(),
        needed: true,
        store: base.store.clone(),
        signer: signer.clone(),
        clock: base.clock.clone(),
        calls: api.for_task(&pulse),
        reload: changed.clone(),
        status,
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    let task = Task::spawn_sure(&pulse, stop, refresher.run());
    (api, Auditing { status: shown, signer, changed }, task)
}

/// Starts to send what is in the queue.
pub(super) fn uploader(base: &Base, settings: &Settings, ways: Ways<'_>, proof: Proof) -> Task {
    let (pulse, stop) = (base.pulses.of("uploader"), CancellationToken::new());
    let (queue, proof) = (base.queue.for_task(&pulse), proof.for_task(&pulse));
    if let Some(live) = ways.mqtt {
        let uploader = mqtt::Uploader {
            node: settings.node,
            state_dir: settings.state_dir.clone(),
            settings: settings.upload.clone(),
            broker: live.handle.clone(),
            spare: spare::Shown {
                way: bulk_uploads(base, settings, ways, proof.clone(), &pulse),
                clock: base.clock.clone(),
                since: base.board.over_https.clone(),
            },
            queue,
            proof,
            clock: base.clock.clone(),
            status: base.board.upload.clone(),
            pulse: pulse.clone(),
            stop: stop.clone(),
        };
        return Task::spawn(&pulse, stop, uploader.run());
    }
    if settings.upload.via != Via::Import {
        let uploader = bulk_uploads(base, settings, ways, proof, &pulse)(stop.clone());
        return Task::spawn(&pulse, stop, uploader.run());
    }
    let uploader = import::Uploader {
        node: settings.node,
        settings: settings.upload.clone(),
        state_dir: settings.state_dir.clone(),
        caller: ways.api.for_task(&pulse),
        queue,
        proof,
        clock: base.clock.clone(),
        key_changed: base.signer.changed(),
        status: base.board.upload.clone(),
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    Task::spawn(&pulse, stop, uploader.run())
}

/// Makes uploaders that send over HTTPS with the node's certificate.
fn bulk_uploads(
    base: &Base,
    settings: &Settings,
    ways: Ways<'_>,
    proof: Proof,
    pulse: &Pulse,
) -> impl Fn(CancellationToken) -> bulk::Uploader<SolarIn> + Send + Sync + 'static {
    let (node, upload) = (settings.node, settings.upload.clone());
    let (state_dir, solarin) = (settings.state_dir.clone(), ways.solarin.for_task(pulse));
    let (queue, clock) = (base.queue.for_task(pulse), base.clock.clone());
    let identity_changed = base.identity.changed();
    let (status, pulse) = (base.board.upload.clone(), pulse.clone());
    move |stop| bulk::Uploader {
        node,
        settings: upload.clone(),
        state_dir: state_dir.clone(),
        solarin: solarin.clone(),
        queue: queue.clone(),
        proof: proof.clone(),
        clock: clock.clone(),
        identity_changed: identity_changed.clone(),
        status: status.clone(),
        pulse: pulse.clone(),
        stop,
    }
}

/// Starts to keep the signing key alive.
pub(super) fn refresher(base: &Base, settings: &Settings, api: &Api) -> Task {
    let (pulse, stop) = (base.pulses.of("refresher"), CancellationToken::new());
    let refresher = Refresher {
        name: settings.solarnet.token.clone(),
        needed: Needs::of(settings).is_any(),
        store: base.store.clone(),
        signer: base.signer.clone(),
        clock: base.clock.clone(),
        calls: api.for_task(&pulse),
        reload: base.credential_changed.clone(),
        status: base.board.credential.clone(),
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    Task::spawn_sure(&pulse, stop, refresher.run())
}

/// Starts to keep the node's certificate.
pub(super) fn keeper_of_identity(base: &Base, settings: &Settings) -> Task {
    let (pulse, stop) = (base.pulses.of("identity"), CancellationToken::new());
    let (solarnet, upload) = (&settings.solarnet, base.board.upload.clone());
    let (instructions, broker) = (base.board.instructions.clone(), base.board.mqtt.clone());
    let clock = base.clock.clone();
    let keeper = Keeper {
        node: settings.node,
        needed: needs::certificate(settings),
        terms: Terms {
            allowed: settings.identity.renew,
            before: TimeDelta::from_std(settings.identity.renew_before).unwrap_or(TimeDelta::MAX),
        },
        store: base.store.clone(),
        state_dir: settings.state_dir.clone(),
        identity: base.identity.clone(),
        clock: base.clock.clone(),
        calls: Calls {
            in_url: solarnet.in_url.clone(),
            ca_file: solarnet.ca_file.clone(),
            timeout: solarnet.timeout,
            clock: base.clock.clone(),
        },
        reload: base.identity_changed.clone(),
        arrivals: base.arrivals.clone(),
        contact: Box::new(move || {
            let (upload, asked) = (upload.borrow(), instructions.borrow());
            // Meters may be silent while polls are answered, or the broker's session lives.
            let now = clock.trusted_now().filter(|_| broker.borrow().state == "connected");
            upload.last_success.max(asked.last_poll).max(asked.last_arrival).max(now)
        }),
        status: base.board.identity.clone(),
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    Task::spawn_sure(&pulse, stop, keeper.run())
}

/// Starts to upload files, where any are configured.
pub(super) fn files(base: &Base, settings: &Settings, api: &Api) -> Task {
    let (pulse, stop) = (base.pulses.of("files"), CancellationToken::new());
    let folders = settings.files.clone();
    let Some(repository) = settings.repository.clone().filter(|_| !folders.is_empty()) else {
        base.board.files.send_replace(files::Status::default());
        let idle = pulse.enter("nothing to do", Bound::Open);
        return Task::spawn_sure(&pulse, stop.clone(), async move {
            stop.cancelled_owned().await;
            drop(idle);
        });
    };
    let uploader = FileUploader {
        repository,
        folders,
        state_dir: settings.state_dir.clone(),
        store: base.store.clone(),
        net: api.net().clone(),
        clock: base.clock.clone(),
        reports: Outcomes(base.queue.for_task(&pulse)),
        status: base.board.files.clone(),
        pulse: pulse.clone(),
        stop: stop.clone(),
    };
    Task::spawn_sure(&pulse, stop, uploader.run())
}

/// Starts to answer `status` and its like.
pub(super) fn control(base: &Base, socket: ControlSocket, view: Arc<View>) -> Task {
    let (pulse, stop) = (base.pulses.of("control socket"), CancellationToken::new());
    let serving = socket.serve(view, pulse.clone(), stop.clone());
    Task::spawn_sure(&pulse, stop, serving)
}

/// Starts to keep on disk what is learnt about the time.
pub(super) fn keeper(base: &Base) -> Task {
    let (pulse, stop) = (base.pulses.of("clock"), CancellationToken::new());
    let keeping = base.clock.clone().keep(pulse.clone(), stop.clone());
    Task::spawn_sure(&pulse, stop, keeping)
}

/// The queue's thread, which ends last.
#[derive(Debug)]
pub(super) struct QueueThread {
    stop: CancellationToken,
    /// `None` once its end was heard.
    ended: Option<oneshot::Receiver<Result<(), QueueError>>>,
}

impl QueueThread {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If there can be none.
    pub(super) fn start(worker: Worker, pulses: &Pulses) -> Result<Self, QueueError> {
        let stop = CancellationToken::new();
        let ended = worker.for_task(pulses.of("queue")).spawn(stop.clone())?;
        Ok(Self { stop, ended: Some(ended) })
    }

    /// Commits what has arrived, and ends. At once where the end was heard before.
    ///
    /// # Errors
    ///
    /// If the last commit failed.
    pub(super) async fn finish(&mut self) -> Result<(), QueueError> {
        self.stop.cancel();
        if self.ended.is_some() { self.end().await.map(|_| ()) } else { Ok(()) }
    }

    /// Waits for the end, once: afterwards for ever. Says how it ended, if not with an error.
    pub(super) async fn end(&mut self) -> Result<&'static str, QueueError> {
        let Some(receiver) = &mut self.ended else { return std::future::pending().await };
        let ended = receiver.await;
        self.ended = None;
        match ended {
            Ok(result) => result.map(|()| "without an error"),
            Err(_) => Ok("its thread panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_queue_is_heard_once_and_hinders_no_stop() {
        let (end, ended) = oneshot::channel();
        let mut queue = QueueThread { stop: CancellationToken::new(), ended: Some(ended) };
        drop(end);
        assert!(matches!(queue.end().await, Ok("its thread panicked")));
        assert!(queue.finish().await.is_ok());
    }
}
