//! What the uploader's [`super::machine`] is told, what it asks for, and what it says came of it.
//!
//! Plain values: batches and jobs as both sides know them, the steps to take, the effects of what
//! happened, and the notes for the journal.

use std::time::Duration;

pub use super::super::terms::{Batch, Limits, Note, Waiting};
use crate::{
    queue::Ranges,
    solarnet::{Cause, Next},
};

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
