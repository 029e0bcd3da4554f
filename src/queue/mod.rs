//! What was read and not yet proved to have arrived: the agent's queue over the log engine `spool`.
//!
//! ```text
//!  readers ──mpsc──▶ ┌────────┐ commit within at_risk ┌───────┐
//!  instruct ───────▶ │ worker │──────────────────────▶│ spool │ state_dir/queue/
//!                    │ thread │◀──────────────────────│       │
//!  upload ◀─ claim ──└────────┘        peek           └───────┘
//!         ── acknowledge, release, reject ──▶             rejected.jsonl
//! ```
//!
//! One thread owns the spool, so nothing else ever waits for a disk. Everybody else holds a
//! [`Queue`], a cheap clone that sends to it.
//!
//! What it guarantees:
//!
//! * A datum is committed at the latest `at_risk` after it arrived; with `at_risk` zero before the next
//!   one is looked at (those that arrived together are committed together). [`Queue::store_durably`]
//!   returns after the commit.
//! * A committed datum leaves in one of four ways: acknowledged, rejected (kept in a bounded
//!   file and counted), dropped at the limit (counted, with a loss record), or found damaged (counted).
//! * A row is claimed by at most one batch at a time. Claims are in memory: after a restart the rows of
//!   open batches are claimed again by their numbers ([`Queue::claim_exactly`]).
//! * A full disk refuses what arrives and loses nothing that was committed; it goes on by itself.
//! * After a failed write or sync the spool is opened anew, and what was not committed or has arrived
//!   since is appended again from memory, under new numbers.
//!
//! A datum without samples is never queued. A datum of a boot that never learnt the time is *unplaced*:
//! it is skipped by claims, counted as far as claims have looked, shown by `queue export`, and the
//! first to be dropped when the limit is reached. As soon as its boot has an anchor it is claimed as any
//! other.

mod proved;
mod ranges;
pub mod record;
mod rejected;
pub mod show;
mod tap;
mod worker;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use crate::{
    clock::Clock,
    config::settings,
    domain::Datum,
    pulse::{Bound, Pulse},
};

use proved::Proved;
pub use ranges::Ranges;
pub use record::RecordError;
pub use rejected::rejected_count;
pub use tap::{Tap, Tapped, tap};
pub use worker::Worker;

/// Datum waiting in the channel of the readers: a minute of a large bus. When it is full, readers
/// wait, and their missed reads are skipped by their schedule.
pub const READINGS: usize = 1024;

/// Calls waiting for the thread; a caller beyond waits.
const CALLS: usize = 64;

/// Between two attempts to read rows while the disk has failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The folder of the spool below the state folder.
#[must_use]
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("queue")
}

/// A record as it waits, with its place in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number in the queue, never used twice.
    pub seq: u64,
    /// When it was read.
    pub unix_ms: i64,
    /// The datum, still encoded: a claimed backlog stays small.
    pub payload: Vec<u8>,
}

impl Row {
    /// The datum.
    ///
    /// # Errors
    ///
    /// If the payload is not one; the queue hands out none such.
    pub fn datum(&self) -> Result<Datum, RecordError> {
        record::decode(&self.payload)
    }
}

/// The answer to [`Queue::claim`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The rows, the oldest first.
    pub rows: Vec<Row>,
    /// Whether the look through the queue was cut short, so that the next claim may find more.
    pub cut: bool,
}

/// How the queue stands: the members of `queue stat`, and what the uploader watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueStat {
    /// Datum that wait, uncommitted ones included.
    pub records: u64,
    /// Bytes that they take on disk, whole segments.
    pub bytes: u64,
    /// Bytes that they may take.
    pub limit: u64,
    /// When the oldest was read, if that is known.
    pub oldest: Option<DateTime<Utc>>,
    /// Datum given up because the server will not take them, since the queue exists.
    pub rejected: u64,
    /// Datum dropped at the limit, since the queue exists.
    pub dropped: u64,
    /// Damaged records met since the queue was opened.
    pub corrupt: u64,
    /// Datum of boots that never learnt the time.
    pub unplaced: u64,
    /// Datum refused since the daemon started because the disk was full or failed.
    pub refused: u64,
    /// Datum that no batch has claimed and that could be sent.
    #[serde(skip)]
    pub waiting: u64,
    /// Every number up to here is on disk, or was acknowledged before.
    #[serde(skip)]
    pub durable_up_to: u64,
}

/// Why a datum was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is nothing in it that the server would store.
    #[error("the datum has no samples")]
    NoSamples,
    /// It does not fit into one record.
    #[error(
        "the datum takes {bytes} bytes, more than {} fit into one record: read fewer properties into one source",
        record::MAX_BYTES
    )]
    TooLarge {
        /// Its size when encoded.
        bytes: usize,
    },
    /// No room on the disk.
    #[error("the disk of the queue is full: make room in the file system of `state_dir`")]
    Full,
    /// The disk failed.
    #[error("the queue's disk failed: {reason}")]
    Failed {
        /// What the file system said.
        reason: String,
    },
    /// The queue was stopped.
    #[error("the queue is stopped")]
    Stopped,
}

/// Why the queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The spool says no; also if another process has it.
    #[error("could not open the queue in {}", folder.display())]
    Open {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: spool::Error,
    },
    /// The thread could not be started.
    #[error("could not start the queue's thread")]
    Thread(#[source] std::io::Error),
    /// The last commit failed, so what had arrived within `at_risk` is lost.
    #[error("could not commit the queue when stopping")]
    Close(#[source] spool::Error),
}

/// What the thread is asked.
#[derive(Debug)]
enum Ask {
    Store(Datum),
    StoreDurably(Datum, oneshot::Sender<Result<(), StoreError>>),
    Claim { rows: usize, bytes: usize, reply: oneshot::Sender<Claimed> },
    ClaimExactly(Ranges, oneshot::Sender<Ranges>),
    Read { seqs: Ranges, reply: oneshot::Sender<Option<Vec<Row>>> },
    Release(Ranges),
    Reject { seq: u64, reason: String },
    ReleaseAll,
    Adjust(settings::Queue),
    Tap(Option<Tap>),
}

/// The handle that everybody holds. After the queue has stopped, asking does nothing and gives nothing.
#[derive(Debug, Clone)]
pub struct Queue {
    asks: mpsc::Sender<Ask>,
    proved: Proved,
    stat: watch::Receiver<QueueStat>,
    pulse: Pulse,
}

impl Queue {
    /// Opens the queue below `state_dir` and gives the handle and the work to be run.
    ///
    /// `readings` is the channel of the readers, see [`READINGS`].
    ///
    /// # Errors
    ///
    /// If another process has the queue or the disk does not let us.
    pub fn open(
        state_dir: &Path,
        settings: &settings::Queue,
        clock: Clock,
        readings: mpsc::Receiver<Datum>,
    ) -> Result<(Self, Worker), QueueError> {
        let (asks, asked) = mpsc::channel(CALLS);
        let (publish, stat) = watch::channel(QueueStat::default());
        let proved = Proved::default();
        let worker =
            Worker::open(state_dir, settings, clock, asked, readings, proved.clone(), publish)?;
        Ok((Self { asks, proved, stat, pulse: Pulse::unheard() }, worker))
    }

    /// The same for a task, whose pulse shows when it waits for the queue.
    #[must_use]
    pub fn for_task(&self, pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), ..self.clone() }
    }

    /// Hands over a datum; it is committed within `at_risk`.
    pub async fn store(&self, datum: Datum) {
        self.tell(Ask::Store(datum)).await;
    }

    /// Stores a datum; it is committed when this returns.
    ///
    /// # Errors
    ///
    /// If it is not on disk.
    pub async fn store_durably(&self, datum: Datum) -> Result<(), StoreError> {
        self.ask(|reply| Ask::StoreDurably(datum, reply)).await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Claims the oldest rows that nobody has: at most `rows`, at most `bytes` of payload.
    pub async fn claim(&self, rows: usize, bytes: usize) -> Claimed {
        self.ask(|reply| Ask::Claim { rows, bytes, reply }).await.unwrap_or_default()
    }

    /// Claims those of `seqs` that still wait, and says which they are.
    pub async fn claim_exactly(&self, seqs: Ranges) -> Ranges {
        self.ask(|reply| Ask::ClaimExactly(seqs, reply)).await.unwrap_or_default()
    }

    /// Reads claimed rows again; those that were dropped meanwhile are missing. Waits while the disk has failed:
    /// whoever took its silence for an answer would forget rows that nobody else may claim.
    pub async fn read(&self, seqs: Ranges) -> Vec<Row> {
        loop {
            let answer = self.ask(|reply| Ask::Read { seqs: seqs.clone(), reply }).await;
            if let Some(rows) = answer.unwrap_or_else(|| Some(Vec::new())) {
                return rows;
            }
            let _waiting = self.pulse.enter("waiting for the queue's disk", Bound::Within(AGAIN));
            sleep(AGAIN).await;
        }
    }

    /// The server has proved that it has these rows: their room is used again, before anything else is done that is
    /// asked from now on.
    pub fn acknowledge(&self, seqs: &Ranges) {
        self.proved.tell(seqs);
    }

    /// These rows may be claimed again.
    pub async fn release(&self, seqs: Ranges) {
        self.tell(Ask::Release(seqs)).await;
    }

    /// Every row may be claimed again: whoever claimed has ended.
    pub async fn release_all(&self) {
        self.tell(Ask::ReleaseAll).await;
    }

    /// Goes on with other settings. What waits stays; a lower limit is kept to as if it were reached.
    pub async fn adjust(&self, settings: settings::Queue) {
        self.tell(Ask::Adjust(settings)).await;
    }

    /// Gives every datum to a tap as well once it was appended, from now on.
    pub async fn tap(&self, tap: Option<Tap>) {
        self.tell(Ask::Tap(tap)).await;
    }

    /// The server will not take this row: it is kept in the file of the rejected and leaves the queue.
    pub async fn reject(&self, seq: u64, reason: String) {
        self.tell(Ask::Reject { seq, reason }).await;
    }

    /// How the queue stands, as it changes.
    #[must_use]
    pub fn stat(&self) -> watch::Receiver<QueueStat> {
        self.stat.clone()
    }

    /// Asks for an answer; `None` if the worker has ended.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(ask(reply)).await;
        let _waiting = self.pulse.enter("waiting for the queue", Bound::Open);
        answer.await.ok()
    }

    async fn tell(&self, ask: Ask) {
        let _waiting = self.pulse.enter("waiting for the queue", Bound::Open);
        // The only error is that the worker has ended; then nothing can be done any more, and
        // those who wait for an answer learn it from the dropped sender.
        drop(self.asks.send(ask).await);
    }
}

#[cfg(test)]
mod tests;
