//! The prover: does what [`super::machine`] says.
//!
//! It hears of rows also while it asks or reads, so that no uploader ever waits for SolarQuery. Stopped, it forgets
//! everything: what was not proved is in the queue.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    super::retry::{self, Pause},
    Ask, Told,
    look::{self, LookError},
    machine::Machine,
    terms::{Effect, Failed, Held, Limits, Note, Step},
};
use crate::{
    audit::{
        query::API_PATHS,
        tally::{Content, Tally},
    },
    clock::Clock,
    domain::{NodeId, SourceId},
    pulse::{Bound, Pulse},
    queue::{Queue, QueueStat, Ranges, Row},
    runtime::{self, off_thread},
    solarnet::{CallError, Caller, Cause},
};

/// How proofs by query stand: `upload.proof` in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `ok`, `waiting` (it passes) or `stopped` (a person has to do something).
    pub state: &'static str,
    /// Datum that the server took and SolarQuery has not shown yet.
    pub waiting: u64,
    /// Datum shown since the daemon started.
    pub shown: u64,
    /// Datum sent again since the daemon started because they were not shown.
    pub sent_again: u64,
    /// Those of them that are still not shown.
    pub unseen: u64,
    /// When datum were shown last.
    pub last_shown: Option<DateTime<Utc>>,
    /// What is being waited for, if anything.
    pub waits_for: Option<String>,
}

/// Asks SolarQuery for what was handed over. Owns its caller.
pub struct Prover<C, K> {
    /// Whose data this is.
    pub node: NodeId,
    /// How patient it is.
    pub limits: Limits,
    /// What uploaders tell.
    pub told: Told,
    /// Who asks, as the token of audits.
    pub caller: C,
    /// Where the rows are.
    pub queue: Queue,
    /// Which time it is.
    pub clock: Clock,
    /// Changes whenever another signing key is in use.
    pub key_changed: watch::Receiver<K>,
    /// How it stands.
    pub status: watch::Sender<Option<Status>>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends it.
    pub stop: CancellationToken,
}

impl<C: Caller, K> Prover<C, K> {
    /// Runs until it is stopped.
    pub async fn run(self) {
        let status = self.status.borrow().clone().unwrap_or_default();
        let stat = self.queue.stat();
        let run = Run {
            node: self.node,
            machine: Machine::new(self.limits),
            began: Instant::now(),
            queue: self.queue,
            stat,
            clock: self.clock,
            pulse: self.pulse,
            // What was counted is counted since the daemon started.
            status: Status { state: "ok", ..status },
            publish: self.status,
            waiting: self.told.waiting,
        };
        let work = run.work(&self.caller, self.told.asks, self.key_changed);
        self.stop.run_until_cancelled(work).await;
    }
}

struct Run {
    node: NodeId,
    machine: Machine,
    began: Instant,
    queue: Queue,
    stat: watch::Receiver<QueueStat>,
    clock: Clock,
    pulse: Pulse,
    status: Status,
    publish: watch::Sender<Option<Status>>,
    waiting: watch::Sender<u64>,
}

impl Run {
    async fn work<C: Caller, K>(
        mut self,
        caller: &C,
        mut asks: mpsc::Receiver<Ask>,
        mut key_changed: watch::Receiver<K>,
    ) {
        loop {
            self.show();
            let durable = self.stat.borrow_and_update().durable_up_to;
            match self.machine.next(self.began.elapsed(), durable) {
                Step::Read(seqs) => {
                    let queue = self.queue.clone();
                    let reading = async move {
                        let rows = queue.read(seqs).await;
                        off_thread(move || held(&rows)).await
                    };
                    let rows = self.hearing(&mut asks, reading).await;
                    self.machine.read(rows);
                }
                Step::Look { rows, last } => {
                    let looking = look::look(caller, self.node, &rows, last);
                    let result = self.hearing(&mut asks, looking).await;
                    let result = result.map_err(|error| self.failed(&error));
                    let now = self.began.elapsed();
                    let effects = self.machine.looked(now, fastrand::f64(), result);
                    self.apply(effects).await;
                }
                Step::Wait(until) => {
                    let left = until.map(|until| until.saturating_sub(self.began.elapsed()));
                    let waiting =
                        self.pulse.enter("waiting for uploads or time", Bound::until(left));
                    let deadline = until.map(|until| self.began + until);
                    tokio::select! {
                        Some(ask) = asks.recv() => {
                            drop(waiting);
                            self.hear(ask).await;
                        }
                        () = runtime::until(deadline) => {}
                        // Without a sender there will never be another key.
                        Ok(()) = key_changed.changed() => {
                            self.machine.key_changed(self.began.elapsed());
                        }
                    }
                }
            }
        }
    }

    /// Does `work`, and hears what uploaders tell meanwhile.
    async fn hearing<T>(
        &mut self,
        asks: &mut mpsc::Receiver<Ask>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                Some(ask) = asks.recv() => {
                    self.hear(ask).await;
                    self.show();
                }
            }
        }
    }

    async fn hear(&mut self, ask: Ask) {
        match ask {
            Ask::HandedOver(seqs) => self.machine.handed_over(self.began.elapsed(), &seqs),
            Ask::Begin { known, done } => {
                self.begin(known).await;
                // An error is that whoever began has ended meanwhile.
                done.send(()).ok();
            }
        }
    }

    /// Gives back every claim but those of rows that wait here, and takes those of `known`.
    async fn begin(&mut self, mut known: Ranges) {
        self.queue.release_all().await;
        let held = self.machine.held();
        let mut gone = held.clone();
        gone.subtract(&self.queue.claim_exactly(held.clone()).await);
        self.machine.forget(&gone);
        known.subtract(&held);
        let known = self.queue.claim_exactly(known).await;
        self.machine.known(self.began.elapsed(), &known);
    }

    fn failed(&self, error: &LookError) -> Failed {
        let (pause, kind, not_before) = match error {
            LookError::Call(call) => {
                let (next, now) = (call.next(), self.clock.signing_now());
                let not_before = retry::not_before(next, now, self.began.elapsed());
                (Pause::before(next), call.cause.name(), not_before)
            }
            LookError::Aggregated => (Pause::Person, "aggregated", None),
        };
        Failed { pause, kind, not_before, text: explain(error) }
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        // Before the queue changes, which is what makes an uploader look whether there is room.
        self.show();
        for effect in effects {
            match effect {
                Effect::Acknowledge(seqs) => {
                    self.status.shown += seqs.count();
                    self.status.last_shown = Some(self.clock.signing_now());
                    debug!(event = "proof.shown", datum_count = seqs.count(), "datum proved");
                    self.queue.acknowledge(&seqs);
                }
                Effect::Release(seqs) => {
                    self.status.sent_again += seqs.count();
                    debug!(
                        event = "proof.released",
                        datum_count = seqs.count(),
                        "datum sent again"
                    );
                    self.queue.release(seqs).await;
                }
                Effect::Note(note) => tell(note),
            }
        }
    }

    fn show(&mut self) {
        let waiting = self.machine.waiting();
        self.status.waiting = waiting;
        self.status.unseen = self.machine.unseen();
        self.status.waits_for = self.machine.waits_for();
        self.status.state = match (self.machine.needs_a_person(), &self.status.waits_for) {
            (true, _) => "stopped",
            (false, Some(_)) => "waiting",
            (false, None) => "ok",
        };
        let changed = |known: &mut Option<Status>| {
            let changed = known.as_ref() != Some(&self.status);
            *known = Some(self.status.clone());
            changed
        };
        self.publish.send_if_modified(changed);
        self.waiting.send_if_modified(|known| std::mem::replace(known, waiting) != waiting);
    }
}

fn tell(note: Note) {
    match note {
        Note::Unseen { rows, source, unix_ms, other_values } => {
            let at = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
            let reason = match other_values {
                true => {
                    "SolarQuery shows other values at that time: another writer uses the source"
                }
                false => "the server took them, and SolarQuery does not show them",
            };
            warn!(
                event = "proof.unseen",
                datum_count = rows,
                source_id = &*source,
                at = at.to_rfc3339_opts(SecondsFormat::Millis, true),
                reason,
                "datum not shown, they are sent again"
            );
        }
        Note::Complete => info!(event = "proof.complete", "all that was sent again is shown"),
        Note::Stopped(Failed { pause: Pause::Trouble, kind, text, .. }) => {
            warn!(event = "proof.waiting", error_kind = kind, error = text, "proofs wait");
        }
        Note::Stopped(Failed { kind, text, .. }) => {
            error!(event = "proof.stopped", error_kind = kind, error = text, "proofs stopped");
        }
        Note::Resumed { down } => {
            info!(event = "proof.resumed", down_secs = down.as_secs(), "proofs go on");
        }
    }
}

/// The error and, where the token is the reason, what it lacks.
fn explain(error: &LookError) -> String {
    let hint = match error {
        LookError::Call(CallError { cause: Cause::PathDenied, .. }) => {
            format!("; the token that asks needs {} in its apiPaths", API_PATHS[0])
        }
        LookError::Call(CallError { cause: Cause::UnknownObject, .. }) => {
            "; is `node.id` right, and is the node not archived?".to_owned()
        }
        LookError::Call(_) | LookError::Aggregated => String::new(),
    };
    format!("{error}{hint}")
}

/// Rows as they are compared.
fn held(rows: &[Row]) -> Vec<Held> {
    let mut sources = BTreeMap::<SourceId, Arc<str>>::new();
    let held = |row: &Row| {
        // The queue hands out nothing else.
        let datum = row.datum().ok()?;
        let contents = Tally::one(row.unix_ms, &Content::sent(&datum.samples)).contents;
        let source = match sources.get(&datum.source) {
            Some(source) => source.clone(),
            None => {
                sources.entry(datum.source.clone()).or_insert(datum.source.as_str().into()).clone()
            }
        };
        Some(Held { seq: row.seq, source, unix_ms: row.unix_ms, contents })
    };
    rows.iter().filter_map(held).collect()
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
