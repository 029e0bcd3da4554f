//! What the uploader's [`super::machine`] is told, what it asks for, and what it says came of it.
//!
//! Plain values: batches and jobs as both sides know them, the steps to take, the effects of what
//! happened, and the notes for the journal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::retry::Pause;
use crate::{
    queue::Ranges,
    solarnet::{Cause, Next},
};

/// Rows on their way in one job. As JSON it is what is on disk before the job is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Unique for ever.
    pub id: String,
    /// The job's name: the ID and the range that the rows lie in.
    pub name: String,
    /// Which rows.
    pub seqs: Ranges,
    /// How many the job was given. Fewer of them may be left after a restart.
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

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It may still come to its end.
    Pending,
    /// It came to its end, good or bad.
    Completed,
    /// Retracted, or a state that no documentation knows.
    Lost,
}

/// What the server says about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The server's ID.
    pub id: String,
    /// The name it was given, where told.
    pub name: Option<String>,
    /// How far it is.
    pub state: JobState,
    /// Whether its end was a good one.
    pub success: bool,
    /// Rows loaded.
    pub loaded: Option<u64>,
    /// The server's words.
    pub message: Option<String>,
    /// Any text that differs when the job has moved.
    pub progress: String,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Why.
    pub cause: Cause,
    /// What that means.
    pub next: Next,
    /// No call before this moment.
    pub not_before: Option<Duration>,
    /// For people, remedy included.
    pub text: String,
}

/// Rows that were never claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub count: u64,
    /// Since when there have been any.
    pub since: Duration,
}

/// What to do now. Each is answered by the method named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Claim the oldest rows and make a batch: [`super::machine::Machine::opened`].
    Claim,
    /// Make a batch of these rows: [`super::machine::Machine::opened`].
    Build(Ranges),
    /// Tell which of these rows belong together by source: [`super::machine::Machine::split`].
    Split(Ranges),
    /// Send this batch: [`super::machine::Machine::sent`].
    Send(Batch),
    /// Fetch the list of jobs: [`super::machine::Machine::looked`].
    Look,
    /// Fetch one job: [`super::machine::Machine::followed`].
    Follow {
        /// The batch.
        batch: String,
        /// The server's ID of its job.
        job: String,
    },
    /// Nothing before this moment, or before rows or another key arrive.
    Wait(Option<Duration>),
}

/// What has to be done because of what happened, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write [`super::machine::Machine::open_batches`] to disk before anything else.
    Save,
    /// The server has these rows.
    Acknowledge(Ranges),
    /// The server will not take this row.
    GiveUp {
        /// Which.
        seq: u64,
        /// The server's words.
        reason: String,
    },
    /// These rows may be claimed again.
    Release(Ranges),
    /// For the journal.
    Note(Note),
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
    /// A job's answer did not fit its batch, which is sent again. Once until the next proof.
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
