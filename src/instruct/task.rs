//! The task: polls, takes one step with each instruction, and waits.
//!
//! ```text
//!   ┌─▶ end what a crash interrupted ─▶ poll, if due ─▶ one step each ─▶ wait ─┐
//!   └──── poll due, a message arrived, an executionDate or an expiry reached ──┘
//! ```
//!
//! * What is polled and what arrives unasked goes the same way: the same journal, the same decisions.
//! * One instruction at a time; those to cancel others go first. A write takes as long as the bus's
//!   timeouts allow, and [`ACT_LIMIT`] at most.
//! * The interval between polls starts at `poll_fastest` when something new was seen and doubles up to
//!   `poll_slowest`. After a failed call it doubles as well, nothing is asked before the instant that
//!   the server named, and no step is taken that needs the server.
//! * On `stop` an action under way is finished and recorded; its final state is told if the
//!   server takes it within [`LAST_WORD`], and otherwise after the next start.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    decide::FRESH,
    inbox::Inbox,
    journal::{Journal, JournalError},
    parse::{self, Parsed, Skipped},
    server::{Server, ServerError},
    services::Services,
    state::State,
    status::Status,
    topic::Rules,
};
use crate::{
    clock::Clock,
    config::settings::{Control, Instructions},
    domain::{
        Chain, ControlWrite, Datum, Instruction, InstructionId, InstructionState, NodeId,
        WriteError, WriteReport,
    },
    pulse::{Bound, Pulse},
    solarnet::Next,
};

/// The longest that a write may take before it counts as "may have happened". The bus's own
/// timeouts, and its queue of one request, lie well below.
pub const ACT_LIMIT: Duration = Duration::from_secs(60);

/// How long a call may still take once the daemon is to stop.
pub const LAST_WORD: Duration = Duration::from_secs(3);

/// The longest that a message may have waited and still be read. What is older is offered again, if it still
/// stands.
const WAITED: Duration = ACT_LIMIT;

/// Elements of answers that are remembered as complained about.
const COMPLAINTS: usize = 64;

/// Carries out writes: the bus in the daemon, a fake with behaviour in tests.
pub trait Actuator: Send + Sync {
    /// Writes and reads back. Dropping the future withdraws a write that has not begun.
    fn write(
        &self,
        write: ControlWrite,
    ) -> impl Future<Output = Result<WriteReport, WriteError>> + Send;
}

/// A result datum could not be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the result datum could not be stored: {0}")]
pub struct NotStored(pub String);

/// Keeps result datum: the queue in the daemon.
pub trait Results: Send + Sync {
    /// Returns once the datum is committed. The same datum may come again after a crash.
    fn store(&self, datum: Datum) -> impl Future<Output = Result<(), NotStored>> + Send;
}

/// Tells the time, if it can be trusted.
pub trait Time: Send + Sync {
    /// See [`Clock::trusted_now`].
    fn trusted_now(&self) -> Option<DateTime<Utc>>;
}

impl Time for Clock {
    fn trusted_now(&self) -> Option<DateTime<Utc>> {
        Clock::trusted_now(self)
    }
}

/// Everything the task needs.
#[derive(Debug)]
pub struct Instructor<S, A, R, T, V> {
    /// Reaches SolarNetwork.
    pub server: S,
    /// Brings what SolarNetwork sends unasked.
    pub inbox: Inbox,
    /// Reaches the devices.
    pub actuator: A,
    /// Keeps the outcomes.
    pub results: R,
    /// Knows the time.
    pub time: T,
    /// Acts on the node itself.
    pub services: V,
    /// Whose instructions these are.
    pub node: NodeId,
    /// What may be set.
    pub controls: Vec<Control>,
    /// How instructions are fetched and bounded.
    pub settings: Instructions,
    /// Where the journal's folder is.
    pub state_dir: PathBuf,
    /// Where the task's status goes.
    pub status: watch::Sender<Status>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends the task.
    pub stop: CancellationToken,
}

impl<S: Server, A: Actuator, R: Results, T: Time, V: Services> Instructor<S, A, R, T, V> {
    /// Runs until `stop`; an action under way is finished first.
    ///
    /// # Errors
    ///
    /// If the journal cannot be opened. Later trouble is logged, shown in the status and retried.
    pub async fn run(self) -> Result<(), JournalError> {
        if !self.settings.enabled {
            let _waiting = self.pulse.enter("switched off", Bound::Open);
            self.stop.cancelled().await;
            return Ok(());
        }
        let journal = Journal::open_off_thread(self.state_dir).await?;
        let worker = Worker {
            server: self.server,
            inbox: self.inbox,
            actuator: self.actuator,
            results: self.results,
            time: self.time,
            services: self.services,
            node: self.node,
            rules: Rules {
                controls: self.controls,
                allow: self.settings.allow.clone(),
                max_age: self.settings.max_age,
            },
            interval: self.settings.poll_fastest,
            settings: self.settings,
            journal,
            status: self.status,
            pulse: self.pulse,
            stop: self.stop,
            seen: BTreeMap::new(),
            outdated: BTreeMap::new(),
            polled: None,
            aside: BTreeMap::new(),
            put_off: BTreeSet::new(),
            skipped: VecDeque::new(),
            trouble: None,
            held: false,
        };
        worker.run().await;
        Ok(())
    }
}

/// What the server last said of an instruction.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) instruction: Instruction,
    pub(super) at: Instant,
}

/// When the broker is tried again with a word that it did not take.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) at: Instant,
    /// What had been waited for until then.
    pub(super) waited: Duration,
}

/// Why a step could not be finished. It is taken again later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Results(#[from] NotStored),
    #[error("the journal is full of instructions that cannot be forgotten yet")]
    Full,
    #[error("the server's answer makes no sense: {0}")]
    Unreadable(Skipped),
    #[error("the agent is stopping")]
    Stopping,
}

impl Trouble {
    /// Whether the other instructions would meet the same.
    fn is_general(&self) -> bool {
        match self {
            Self::Server(error) => error.is_general(),
            Self::Journal(_) | Self::Stopping => true,
            Self::Results(_) | Self::Full | Self::Unreadable(_) => false,
        }
    }
}

fn is_general(result: &Result<(), Trouble>) -> bool {
    result.as_ref().is_err_and(Trouble::is_general)
}

/// The task at work.
#[derive(Debug)]
pub(super) struct Worker<S, A, R, T, V> {
    pub(super) server: S,
    inbox: Inbox,
    pub(super) actuator: A,
    pub(super) results: R,
    pub(super) time: T,
    pub(super) services: V,
    node: NodeId,
    pub(super) rules: Rules,
    pub(super) settings: Instructions,
    pub(super) journal: Journal,
    status: watch::Sender<Status>,
    pub(super) pulse: Pulse,
    pub(super) stop: CancellationToken,
    /// The server's word, since the last poll; what is being pushed, for as long as it is fresh.
    pub(super) seen: BTreeMap<InstructionId, Seen>,
    /// What arrived unasked up to then is no news of that instruction: lately, this node spoke of it, or the
    /// server did not have it.
    outdated: BTreeMap<InstructionId, Instant>,
    /// When the last poll was answered.
    polled: Option<Instant>,
    /// What ended and was told over HTTPS, while the broker may have an older word: it gets the end, too.
    pub(super) aside: BTreeMap<InstructionId, Aside>,
    /// What met trouble of its own waits for the next poll: the answer to its own word is a message, too.
    put_off: BTreeSet<InstructionId>,
    /// Elements that were complained about lately, at most [`COMPLAINTS`].
    skipped: VecDeque<String>,
    /// The present interval between polls.
    interval: Duration,
    /// What was already complained about.
    trouble: Option<String>,
    /// Whether a step was held back because the time is not known.
    pub(super) held: bool,
}

impl<S: Server, A: Actuator, R: Results, T: Time, V: Services> Worker<S, A, R, T, V> {
    async fn run(mut self) {
        let mut next_poll = Instant::now();
        let mut up = false;
        let mut arrived = Vec::new();
        loop {
            let was_held = std::mem::take(&mut self.held);
            let mut result = self.tidy().await;
            let mut failed = is_general(&result);
            // What arrives unasked shows that the server is there, whatever became of the last poll.
            up |= !arrived.is_empty();
            for (at, message) in arrived.drain(..) {
                self.take_in(&message, at);
            }
            if !failed && Instant::now() >= next_poll {
                result = self.poll().await;
                up = result.is_ok() || self.server.is_connected();
                failed = !up;
                let pause =
                    if up && result.is_err() { self.back_off(&result) } else { self.interval };
                next_poll = Instant::now() + pause;
            }
            if !failed && up {
                let round = self.round().await;
                failed = is_general(&round);
                result = if failed { round } else { result.and(round) };
            }
            if failed {
                // Steps that need the server wait for the next poll that works.
                up = false;
                next_poll = Instant::now() + self.back_off(&result);
            }
            self.publish(was_held, up, result.as_ref().err());
            let wake = next_poll.min(self.next_date().unwrap_or(next_poll));
            let left = Bound::Within(wake.saturating_duration_since(Instant::now()));
            let _waiting = self.pulse.enter("waiting for the next poll, date or message", left);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                messages = self.inbox.next() => arrived = messages,
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Takes what arrived unasked as the server's word of that instant, unless there is a later one.
    fn take_in(&mut self, message: &Value, at: Instant) {
        if at.elapsed() > WAITED {
            return;
        }
        let Parsed { instructions, skipped } = parse::message(message, self.node);
        self.complain(&skipped);
        self.outdated.retain(|_, until| until.elapsed() <= WAITED);
        let is_news = |i: &Instruction| {
            // A poll brings all but those that are being pushed.
            let polled = self.polled.filter(|_| i.state != InstructionState::Queuing);
            polled.max(self.outdated.get(&i.id).copied()).is_none_or(|until| until < at)
        };
        let instructions: Vec<_> = instructions.into_iter().filter(is_news).collect();
        if instructions.is_empty() {
            return;
        }
        self.see(instructions, at);
        let now = self.time.trusted_now();
        self.status.send_modify(|status| status.last_arrival = now);
    }

    fn see(&mut self, instructions: Vec<Instruction>, at: Instant) {
        for instruction in instructions {
            if self.seen.get(&instruction.id).is_none_or(|seen| seen.at <= at) {
                self.seen.insert(instruction.id, Seen { instruction, at });
            }
        }
    }

    /// What arrived up to `until` is no news of this instruction.
    pub(super) fn outdate(&mut self, id: InstructionId, until: Instant) {
        let latest = self.outdated.entry(id).or_insert(until);
        *latest = until.max(*latest);
    }

    /// Names each element that cannot be used, once.
    fn complain(&mut self, skipped: &[Skipped]) {
        for reason in skipped.iter().map(ToString::to_string) {
            if self.skipped.contains(&reason) {
                continue;
            }
            warn!(event = "instruction.skipped", reason, "instruction not understood");
            if self.skipped.len() == COMPLAINTS {
                self.skipped.pop_front();
            }
            self.skipped.push_back(reason);
        }
    }

    async fn poll(&mut self) -> Result<(), Trouble> {
        self.put_off.clear();
        let parsed = self.before_stop(self.server.pending()).await??;
        self.complain(&parsed.skipped);
        let is_new = |i: &Instruction| self.journal.get(i.id).is_none();
        self.interval = if parsed.instructions.iter().any(is_new) {
            self.settings.poll_fastest
        } else {
            (self.interval * 2).min(self.settings.poll_slowest)
        };
        let at = Instant::now();
        self.polled = Some(at);
        // One that is being pushed is not listed, and its word still counts.
        self.seen.retain(|_, seen| {
            seen.instruction.state == InstructionState::Queuing && seen.at.elapsed() <= FRESH
        });
        self.see(parsed.instructions, at);
        let now = self.time.trusted_now();
        self.status.send_modify(|status| status.last_poll = now);
        Ok(())
    }

    /// One step with each instruction that is not settled, or that the server speaks of.
    async fn round(&mut self) -> Result<(), Trouble> {
        let unsettled = self.journal.records().filter(|r| !r.is_settled()).map(|r| r.id);
        let mut ids: Vec<_> = self.seen.keys().copied().chain(unsettled).collect();
        ids.sort_unstable_by_key(|id| (!self.cancels(*id), *id));
        ids.dedup();
        ids.retain(|id| !self.put_off.contains(id));
        let mut first = Ok(());
        for id in ids {
            if self.stop.is_cancelled() {
                return Err(Trouble::Stopping);
            }
            match self.step(id).await {
                Err(trouble) if trouble.is_general() => return Err(trouble),
                Err(trouble) => {
                    self.put_off.insert(id);
                    first = first.and(Err(trouble));
                }
                Ok(()) => {}
            }
        }
        first
    }

    /// How long nothing is asked after this.
    fn back_off(&mut self, result: &Result<(), Trouble>) -> Duration {
        let mut named = Duration::ZERO;
        if let Err(Trouble::Server(error)) = result {
            match error.next() {
                Next::Stop => self.interval = self.settings.poll_slowest,
                Next::Retry { not_before: Some(at) } => {
                    let left = self.time.trusted_now().map(|now| (at - now).to_std());
                    named = left.and_then(Result::ok).unwrap_or_default();
                }
                Next::Retry { not_before: None }
                | Next::RefreshKey
                | Next::Content
                | Next::Gone => {}
            }
        }
        self.interval = (self.interval * 2).min(self.settings.poll_slowest);
        self.interval.max(named)
    }

    /// When the next waiting instruction is due or ends by itself, if the time is known.
    fn next_date(&self) -> Option<Instant> {
        let now = self.time.trusted_now()?;
        self.journal
            .records()
            .filter(|record| record.state == State::Received)
            .flat_map(|record| [record.execution_date, record.not_after])
            .flatten()
            // What has passed was seen to in this round, or waits for the server.
            .filter(|at| *at > now)
            .min()
            // Instants that are rounded down would wake just before the date.
            .and_then(|at| (at - now + TimeDelta::milliseconds(1)).to_std().ok())
            .and_then(|left| Instant::now().checked_add(left))
    }

    fn publish(&mut self, was_held: bool, up: bool, trouble: Option<&Trouble>) {
        if self.held && !was_held {
            warn!(event = "instruction.held", "instructions held until the time is known");
        }
        let text =
            trouble.filter(|t| !matches!(t, Trouble::Stopping)).map(|t| Chain(t).to_string());
        // Until a poll works again, nothing has shown that the trouble is over.
        let text = if up && self.put_off.is_empty() {
            text
        } else {
            text.or_else(|| self.trouble.clone())
        };
        match (&self.trouble, &text) {
            (Some(before), Some(now)) if before == now => {}
            (_, Some(error)) => {
                warn!(event = "instruction.trouble", error, "instructions not handled for now");
            }
            (Some(_), None) => {
                info!(event = "instruction.trouble_over", "instructions handled again")
            }
            (None, None) => {}
        }
        self.trouble.clone_from(&text);
        let mut status = self.status.borrow().clone();
        status.count(self.journal.records());
        status.poll_every_ms = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        status.held = self.held;
        status.error = text;
        self.status.send_if_modified(|published| {
            let changed = *published != status;
            *published = status;
            changed
        });
    }

    /// Waits for a call, but not much longer than the daemon runs.
    pub(super) async fn before_stop<W>(&self, call: impl Future<Output = W>) -> Result<W, Trouble> {
        let cut = async {
            self.stop.cancelled().await;
            sleep(LAST_WORD).await;
        };
        tokio::select! {
            biased;
            answer = call => Ok(answer),
            () = cut => Err(Trouble::Stopping),
        }
    }
}
