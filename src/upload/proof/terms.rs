//! What the prover's [`super::machine`] is told, what it asks for, and what it says came of it.
//!
//! Plain values: rows as they are compared, what a look gave, the steps to take, the effects, and the notes
//! for the journal.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

pub use super::super::waits::Failed;
use crate::queue::Ranges;

/// What SolarQuery is asked for: one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its number in the queue.
    pub seq: u64,
    /// Its source.
    pub source: Arc<str>,
    /// When it was read.
    pub unix_ms: i64,
    /// A hash of its time and values.
    pub contents: u64,
}

impl Held {
    /// What the server knows it by.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.source.clone(), self.unix_ms)
    }
}

/// What a row is known by at the server, within one node.
pub type Key = (Arc<str>, i64);

/// What a look gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The keys among those asked for that are there, with the hash of what they have there.
    pub shown: HashMap<Key, u64>,
    /// Sources that the token may not see.
    pub hidden: BTreeSet<Arc<str>>,
}

/// How patient it is.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long rows are gathered for one look.
    pub every: Duration,
    /// How long SolarQuery may take to show a row.
    pub settle: Duration,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read these rows: [`super::machine::Machine::read`].
    Read(Ranges),
    /// Ask for these rows: [`super::machine::Machine::looked`].
    Look {
        /// Which.
        rows: Arc<[Held]>,
        /// Whether those that are not shown will be sent again, so that it has to be known why.
        last: bool,
    },
    /// Nothing before this moment, or before something is handed over.
    Wait(Option<Duration>),
}

/// What has to be done because of what happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// SolarQuery shows these rows.
    Acknowledge(Ranges),
    /// These rows are to be sent again.
    Release(Ranges),
    /// For the journal.
    Note(Note),
}

/// What an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The server took rows and does not show them. Once until all are shown.
    Unseen {
        /// How many.
        rows: u64,
        /// One of them.
        source: Arc<str>,
        /// One of them.
        unix_ms: i64,
        /// Whether others than those sent are there in their place.
        other_values: bool,
    },
    /// All that had not been shown is.
    Complete,
    /// Nothing can be asked. Once for each kind.
    Stopped(Failed),
    /// It can be asked again.
    Resumed {
        /// How long it could not.
        down: Duration,
    },
}
