//! What every way in shares: batches, when rows are claimed for one, and what the journal says of uploads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use super::{UploadStatus, retry::Pause, waits::Failed};
use crate::queue::Ranges;

/// What uploads wait for on a machine that nobody has told the time.
pub(super) const NO_TIME: &str =
    "the time is not known yet: no server was reached since the machine started";

/// Rows on their way together. As JSON it is what is on disk before the first of them is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Unique for ever.
    pub id: String,
    /// Its name, which a job has: the ID and the range that the rows lie in.
    pub name: String,
    /// Which rows.
    pub seqs: Ranges,
    /// How many there were. Fewer of them may be left after a restart.
    pub rows: u64,
    /// Whether the next row in the queue has the key of one of these.
    pub twin: bool,
}

impl Batch {
    /// A batch of all these rows.
    #[must_use]
    pub fn new(id: String, seqs: Ranges, twin: bool) -> Self {
        let (first, last) = (seqs.first().unwrap_or(0), seqs.last().unwrap_or(0));
        Self { name: format!("{id} {first}-{last}"), rows: seqs.count(), id, seqs, twin }
    }
}

/// Rows that were never claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub count: u64,
    /// Since when there have been any.
    pub since: Duration,
}

/// What an operator may want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// A batch is proved.
    Proved {
        /// Its ID.
        batch: String,
        /// Its rows.
        rows: u64,
    },
    /// An answer did not fit its batch, which is sent again, whole or in part. Once until the next proof.
    Odd {
        /// The batch.
        batch: String,
        /// What did not fit.
        what: String,
    },
    /// A batch was refused for its content. Once until the next proof.
    Refused {
        /// The batch.
        batch: String,
        /// The server's words.
        reason: String,
    },
    /// Uploads wait. Once for each cause.
    Stopped {
        /// What is waited for.
        pause: Pause,
        /// A fixed name.
        kind: &'static str,
        /// For people, remedy included.
        text: String,
    },
    /// Uploads go on.
    Resumed {
        /// How long they waited.
        down: Duration,
    },
}

/// Settings of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest that a row waits while all is well.
    pub every: Duration,
    /// As many rows are worth a batch at once.
    pub enough: u64,
}

/// How long no rows are claimed after a claim that gave none, although some were said to wait: the
/// queue's disk is in trouble.
const EMPTY_HANDED: Duration = Duration::from_secs(1);

/// When rows are claimed.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    limits: Limits,
    /// The last claim was cut short by a bound: the rest goes at once.
    backlog: bool,
    not_before: Duration,
}

impl Claims {
    /// With a `backlog`, the first claim does not wait.
    pub(super) fn new(limits: Limits, backlog: bool) -> Self {
        Self { limits, backlog, not_before: Duration::ZERO }
    }

    /// When the next claim is due, if any.
    pub(super) fn due(&self, waiting: Option<Waiting>) -> Option<Duration> {
        let waiting = waiting.filter(|waiting| waiting.count > 0)?;
        let at_once = self.backlog || waiting.count >= self.limits.enough;
        let wait = if at_once { Duration::ZERO } else { self.limits.every };
        Some((waiting.since + wait).max(self.not_before))
    }

    /// Rows were claimed, or none were to be had; more than these wait where there is a `backlog`.
    pub(super) fn claimed(&mut self, now: Duration, none: bool, backlog: bool) {
        self.backlog = backlog;
        if none {
            self.not_before = now + EMPTY_HANDED;
        }
    }
}

impl From<Failed> for Note {
    fn from(failed: Failed) -> Self {
        Self::Stopped { pause: failed.pause, kind: failed.kind, text: failed.text }
    }
}

impl Note {
    /// Writes it to the journal, and what remains of it to the status.
    pub(super) fn tell(self, status: &mut UploadStatus, now: DateTime<Utc>) {
        match self {
            Self::Proved { batch, rows } => {
                status.uploaded += rows;
                status.last_success = Some(now);
                debug!(
                    event = "upload.proved",
                    batch_id = batch,
                    datum_count = rows,
                    "batch proved"
                );
            }
            Self::Odd { batch, what } => {
                warn!(
                    event = "upload.repeated",
                    batch_id = batch,
                    reason = what,
                    "batch is sent again"
                );
            }
            Self::Refused { batch, reason } => {
                warn!(
                    event = "upload.refused",
                    batch_id = batch,
                    reason,
                    "batch refused, looking for what is wrong in it"
                );
                status.last_error = Some(reason);
            }
            Self::Stopped { pause: Pause::Trouble, kind, text } => {
                warn!(event = "upload.waiting", error_kind = kind, error = text, "uploads wait");
            }
            Self::Stopped { pause: Pause::Key | Pause::Person, kind, text } => {
                error!(
                    event = "upload.stopped",
                    error_kind = kind,
                    error = text,
                    "uploads stopped"
                );
                status.last_error = Some(text);
            }
            Self::Resumed { down } => {
                info!(event = "upload.resumed", down_secs = down.as_secs(), "uploads go on");
                status.last_error = None;
            }
        }
    }
}
