//! A server, a device, a queue and a clock that remember what was done to them, and that can stop
//! the agent's world at any moment.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::settings::{
        Allow, Control, Encoding, Instructions, Order, Register, Scale, Select, Table,
    },
    domain::{
        ControlWrite, Datum, InstructionId, InstructionState, NodeId, NodeTopic, OperatingState,
        WriteError, WriteReport,
    },
    instruct::{
        Actuator, Inbox, Instructor, NotStored, Results, Status, Time,
        journal::{self, JournalError},
        record::Record,
        server::{Certificate, Server, Token},
        state::State,
    },
    solarnet::{Answer, Call, CallError, Caller, Cause, Method, Priority},
};

/// What the device does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Obeys,
    Ignores,
    LosesTheAnswer,
    Refuses,
    TakesItsTime(Duration),
}

#[derive(Debug)]
pub(super) struct Inner {
    /// What happened, in order.
    pub(super) log: Vec<String>,
    pub(super) instructions: BTreeMap<i64, Value>,
    /// IDs that the server showed in a final state, and did not take back.
    shown_final: BTreeSet<i64>,
    /// States written onto one that was seen to be final.
    pub(super) onto_final: Vec<String>,
    pub(super) calls: Vec<Call>,
    pub(super) writes: Vec<(ControlWrite, DateTime<Utc>)>,
    pub(super) datum: Vec<Datum>,
    pub(super) time_known: bool,
    pub(super) device: Device,
    register: Decimal,
    /// How the next calls fail; `None` is one that works.
    pub(super) failures: VecDeque<Option<Cause>>,
    /// How long a call takes until the server acts, and again until its answer is here.
    pub(super) latency: Duration,
    pub(super) queue_works: bool,
    /// Await points of the fakes passed so far, and the one at which everything stops.
    pub(super) passed: usize,
    pub(super) crash_at: Option<usize>,
    /// The journal's state on disk at each write.
    pub(super) on_disk: Vec<Option<State>>,
    dir: PathBuf,
    /// By which way the agent reaches the server.
    pub(super) via: Via,
    /// Where the broker pushes to.
    pub(super) push: Option<mpsc::Sender<(Instant, Value)>>,
    pub(super) broker_up: bool,
    /// Whether the connection is lost over each end that is told; how often it was.
    pub(super) cuts_ends: bool,
    pub(super) cuts: usize,
    /// Whether the server takes what the broker has; what it has not taken yet, in order.
    pub(super) collector_up: bool,
    pub(super) at_broker: Vec<Bytes>,
    /// How long after it was added an acknowledgement over the broker finds no row.
    pub(super) invisible: Duration,
    /// An ID that no answer to an acknowledgement names.
    pub(super) unnamed: Option<i64>,
    /// When each instruction was added.
    pub(super) added: BTreeMap<i64, DateTime<Utc>>,
    /// The result parameters that the server keeps.
    pub(super) results: BTreeMap<i64, Map<String, Value>>,
    /// What the node itself may be asked for.
    pub(super) allow: BTreeSet<NodeTopic>,
    /// What was done to the node itself.
    pub(super) done: Vec<String>,
    /// Lives of the agent and of the machine.
    pub(super) lives: u32,
    pub(super) boots: u32,
    pub(super) reboot: Reboot,
}

/// By which way the agent reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Token,
    Certificate,
}

/// What becomes of a request to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reboot {
    /// Nobody takes it.
    NotTaken,
    /// It is taken, and nothing comes of it.
    NeverComes,
    /// The machine goes down.
    Comes,
}

/// A handle that the fakes share.
#[derive(Debug, Clone)]
pub(super) struct World {
    inner: Arc<Mutex<Inner>>,
    started: Instant,
    pub(super) crashed: Arc<Notify>,
    pub(super) status: watch::Sender<Status>,
}

pub(super) fn noon() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().expect("a date")
}

pub(super) fn node() -> NodeId {
    NodeId::try_from(123).expect("above zero")
}

pub(super) fn settings() -> Instructions {
    Instructions {
        enabled: true,
        poll_fastest: Duration::from_secs(2),
        poll_slowest: Duration::from_secs(30),
        max_age: Duration::from_secs(900),
        result_source: Some("/agent".parse().expect("a source")),
        allow: BTreeSet::new(),
    }
}

fn control(id: &str, table: Table, every_secs: u64) -> Control {
    Control {
        id: id.parse().expect("a source"),
        bus: "bus".to_owned(),
        unit: 3,
        register: Register {
            table,
            address: 0,
            encoding: Encoding::U16,
            word_order: Order::Big,
            byte_order: Order::Big,
            select: Select::All,
        },
        scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
        timeout: Duration::from_secs(1),
        tolerance: Decimal::ZERO,
        settle: Duration::ZERO,
        allow: Allow {
            min: Decimal::ZERO,
            max: Decimal::from(1000),
            every: Duration::from_secs(every_secs),
        },
        states: [("Normal", 1), ("Standby", 0)]
            .into_iter()
            .filter_map(|(name, value)| Some((OperatingState::from_text(name)?, value.into())))
            .collect(),
        signals: BTreeMap::from([("open".to_owned(), Decimal::ONE)]),
    }
}

impl World {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                log: Vec::new(),
                instructions: BTreeMap::new(),
                shown_final: BTreeSet::new(),
                onto_final: Vec::new(),
                calls: Vec::new(),
                writes: Vec::new(),
                datum: Vec::new(),
                time_known: true,
                device: Device::Obeys,
                register: Decimal::ZERO,
                failures: VecDeque::new(),
                latency: Duration::ZERO,
                queue_works: true,
                passed: 0,
                crash_at: None,
                on_disk: Vec::new(),
                dir: dir.to_owned(),
                via: Via::Token,
                push: None,
                broker_up: true,
                cuts_ends: false,
                cuts: 0,
                collector_up: true,
                at_broker: Vec::new(),
                invisible: Duration::ZERO,
                unnamed: None,
                added: BTreeMap::new(),
                results: BTreeMap::new(),
                allow: BTreeSet::from(NodeTopic::ALL),
                done: Vec::new(),
                lives: 0,
                boots: 1,
                reboot: Reboot::Comes,
            })),
            started: Instant::now(),
            crashed: Arc::new(Notify::new()),
            status: watch::Sender::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no fake panics while it holds the lock")
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        noon() + TimeDelta::from_std(self.started.elapsed()).expect("tests are short")
    }

    /// Adds an instruction; `more` are members beside the usual ones.
    pub(super) fn add(&self, id: i64, topic: &str, parameters: Value, more: Value) {
        let mut instruction = json!({
            "id": id, "nodeId": 123, "topic": topic, "instructionDate": self.now().to_rfc3339(),
            "state": "Queued", "parameters": parameters,
        });
        for (name, value) in more.as_object().expect("members") {
            instruction[name] = value.clone();
        }
        let now = self.now();
        let mut inner = self.lock();
        inner.added.insert(id, now);
        inner.instructions.insert(id, instruction);
        drop(inner);
        self.push(id);
    }

    /// A value for `/control`, which may be written at any rate.
    pub(super) fn set(&self, id: i64, value: &str) {
        self.add(id, "SetControlParameter", json!({"/control": value}), json!({}));
    }

    /// Sets a state as somebody else would.
    pub(super) fn force(&self, id: i64, state: InstructionState) {
        let mut inner = self.lock();
        inner.shown_final.remove(&id);
        if let Some(instruction) = inner.instructions.get_mut(&id) {
            instruction["state"] = json!(state.name());
        }
    }

    pub(super) fn state(&self, id: i64) -> Option<InstructionState> {
        let inner = self.lock();
        let name = inner.instructions.get(&id)?.get("state")?.as_str()?.to_owned();
        InstructionState::from_name(&name)
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    pub(super) fn record(&self, id: i64) -> Option<Record> {
        let folder = journal::folder(&self.lock().dir);
        journal::read(&folder).expect("a journal").records.remove(&InstructionId(id))
    }

    pub(super) fn start(&self) -> Running {
        // What waited in the process is gone with it.
        let (push, inbox) = Inbox::channel();
        let via = {
            let mut inner = self.lock();
            inner.push = Some(push);
            inner.lives += 1;
            inner.via
        };
        let stop = CancellationToken::new();
        let node = node();
        let task = match via {
            Via::Token => {
                let server = Token { caller: self.clone(), node };
                tokio::spawn(self.instructor(server, inbox, &stop).run())
            }
            Via::Certificate => {
                let server = Certificate { solarin: self.clone(), broker: self.clone(), node };
                tokio::spawn(self.instructor(server, inbox, &stop).run())
            }
        };
        Running { task, stop }
    }

    fn instructor<S: Server>(
        &self,
        server: S,
        inbox: Inbox,
        stop: &CancellationToken,
    ) -> Instructor<S, Self, Self, Self, Self> {
        let (allow, state_dir) = {
            let inner = self.lock();
            (inner.allow.clone(), inner.dir.clone())
        };
        Instructor {
            pulse: crate::pulse::Pulse::unheard(),
            server,
            inbox,
            services: self.clone(),
            actuator: self.clone(),
            results: self.clone(),
            time: self.clone(),
            node: node(),
            controls: vec![
                control("/control", Table::Holding, 0),
                control("/relay", Table::Coil, 60),
            ],
            settings: Instructions { allow, ..settings() },
            state_dir,
            status: self.status.clone(),
            stop: stop.clone(),
        }
    }

    /// Runs the agent for that long, and starts it again at once whenever it crashes.
    pub(super) async fn run_for(&self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let running = self.start();
            tokio::select! {
                biased;
                () = self.crashed.notified() => running.kill().await,
                () = sleep(until - Instant::now()) => {
                    // Nobody listens for a crash while it stops: it would wait for ever.
                    let crash_at = self.lock().crash_at.take();
                    running.stop().await;
                    self.lock().crash_at = crash_at;
                    return;
                }
            }
        }
    }

    /// A point at which the agent's world may end.
    pub(super) async fn pass(&self) {
        let over = {
            let mut inner = self.lock();
            inner.passed += 1;
            let over = inner.crash_at == Some(inner.passed);
            if over {
                inner.crash_at = None;
            }
            over
        };
        if over {
            self.crashed.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn answer(&self, call: Call) -> Result<Value, Cause> {
        let now = self.now();
        let mut inner = self.lock();
        inner.calls.push(call.clone());
        if let Some(Some(cause)) = inner.failures.pop_front() {
            return Err(cause);
        }
        let query =
            |name: &str| call.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let state = |instruction: &Value| {
            instruction["state"].as_str().and_then(InstructionState::from_name).expect("a state")
        };
        // The server's own job, which no reading goes without here.
        for instruction in inner.instructions.values_mut() {
            let expiry = instruction["expirationDate"].as_str().map(|t| t.parse::<DateTime<Utc>>());
            let over = expiry.is_some_and(|at| at.expect("a date") <= now);
            if call.method == Method::Get && over && !state(instruction).is_final() {
                instruction["state"] = json!("Declined");
            }
        }
        match call.path.as_str() {
            "/api/v1/sec/instr/viewPending" => {
                assert_eq!(query("nodeId").as_deref(), Some("123"));
                use InstructionState::{Executing, Queued, Received};
                let pending = |i: &&Value| matches!(state(i), Queued | Received | Executing);
                Ok(inner.instructions.values().filter(pending).cloned().collect())
            }
            "/api/v1/sec/instr/view" => {
                let id: i64 = query("id").expect("an ID").parse().expect("a number");
                let found = inner.instructions.get(&id).cloned().ok_or(Cause::UnknownObject)?;
                if state(&found).is_final() {
                    inner.shown_final.insert(id);
                }
                Ok(found)
            }
            "/api/v1/sec/instr/updateState" => {
                let id: i64 = query("id").expect("an ID").parse().expect("a number");
                let to = query("state").expect("a state");
                let line = format!("{id} {to}");
                if inner.shown_final.contains(&id) {
                    inner.onto_final.push(line.clone());
                }
                let told = inner.instructions.get_mut(&id).ok_or(Cause::UnknownObject)?;
                told["state"] = json!(to);
                inner.log.push(line);
                Ok(Value::Null)
            }
            other => panic!("a call to {other}"),
        }
    }
}

/// A started agent.
pub(super) struct Running {
    task: JoinHandle<Result<(), JournalError>>,
    pub(super) stop: CancellationToken,
}

impl Running {
    /// A graceful stop.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a journal");
    }

    /// As a power cut would.
    pub(super) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

impl Caller for World {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        assert_eq!((call.priority, &call.body), (Priority::Urgent, &None));
        let (method, path) = (call.method.name(), call.path.clone());
        let latency = self.lock().latency;
        self.pass().await;
        sleep(latency).await;
        let answer = self.answer(call);
        // The answer may be lost on the way, too.
        self.pass().await;
        sleep(latency).await;
        answer.map(|data| Answer { data }).map_err(|cause| CallError {
            method,
            path,
            cause,
            refusal: None,
            detail: None,
        })
    }
}

impl Actuator for World {
    async fn write(&self, write: ControlWrite) -> Result<WriteReport, WriteError> {
        self.pass().await;
        let id = self.writing();
        let on_disk = id.and_then(|id| self.record(id)).map(|record| record.state);
        let now = self.now();
        let device = {
            let mut inner = self.lock();
            inner.on_disk.push(on_disk);
            inner.log.push(format!("write {} {}", write.control, write.value));
            inner.writes.push((write.clone(), now));
            inner.device
        };
        if let Device::TakesItsTime(time) = device {
            sleep(time).await;
        }
        self.pass().await;
        let before = self.lock().register;
        let ControlWrite { control, value } = write;
        let reason = "the link broke".to_owned();
        match device {
            Device::LosesTheAnswer => return Err(WriteError::Unknown { control, reason }),
            Device::Refuses => return Err(WriteError::Refused { control, reason }),
            Device::Ignores => {}
            Device::Obeys | Device::TakesItsTime(_) => self.lock().register = value,
        }
        let after = self.lock().register;
        Ok(WriteReport { before, after, taken: after == value })
    }
}

impl World {
    /// The instruction that the server was last told to be executing.
    fn writing(&self) -> Option<i64> {
        let log = self.log();
        let line = log.iter().rev().find_map(|line| line.strip_suffix(" Executing"))?;
        line.parse().ok()
    }
}

impl Results for World {
    async fn store(&self, datum: Datum) -> Result<(), NotStored> {
        self.pass().await;
        {
            let mut inner = self.lock();
            if !inner.queue_works {
                return Err(NotStored("the disk is full".to_owned()));
            }
            let status = |name: &str| {
                datum.samples.status.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
            };
            let (id, outcome) = (status("instruction"), status("outcome"));
            inner.log.push(format!(
                "datum {} {} {}",
                datum.source,
                id.unwrap_or_default(),
                outcome.unwrap_or_default()
            ));
            inner.datum.push(datum);
        }
        self.pass().await;
        Ok(())
    }
}

impl Time for World {
    fn trusted_now(&self) -> Option<DateTime<Utc>> {
        self.lock().time_known.then(|| self.now())
    }
}
