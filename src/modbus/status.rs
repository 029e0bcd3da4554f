//! What `status` shows about a bus, and the log lines about its sources.
//!
//! Changes are logged, not conditions: one line when a source goes down, one when it comes back. A
//! property that comes and goes would still fill the journal, so a change in what is missing is
//! logged at most every ten minutes a source; `status` always shows the present state.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::{info, warn};

use super::{reading::Outcome, source::Source};
use crate::domain::Stamp;

/// Shortest time between two lines about what is missing from a source.
const PARTIAL_EVERY: Duration = Duration::from_mins(10);

/// A bus, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BusStatus {
    /// Its name in the configuration.
    pub bus: String,
    /// Its units.
    pub sources: Vec<SourceStatus>,
}

/// A unit as a source, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// The source ID.
    pub source: String,
    /// The unit's address.
    pub unit: u8,
    /// How it stands.
    pub state: SourceState,
    /// When it was last read, in part at least; absent while the clock was not trusted.
    pub last_read: Option<DateTime<Utc>>,
    /// Reads and probes without any value since then.
    pub consecutive_failures: u64,
    /// What is wrong, if anything is.
    pub reason: Option<String>,
    /// The properties that the last read with any value did not bring.
    pub missing: Vec<String>,
    /// Reads that brought at least one value.
    pub reads: u64,
    /// Reads and probes that brought none.
    pub failed: u64,
    /// Turns skipped because the bus was busy or the queue full.
    pub skipped: u64,
}

/// How a source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Not read yet.
    Waiting,
    /// All its properties are read.
    Up,
    /// Some of its properties are missing.
    Partial,
    /// Nothing is read.
    Down,
}

impl SourceState {
    /// Whether the unit answers.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Partial)
    }
}

/// What is remembered about a source between its log lines.
#[derive(Debug, Default)]
pub struct Journal {
    down_since: Option<Duration>,
    partial_logged: Option<Duration>,
}

impl SourceStatus {
    /// A source that was not read yet.
    #[must_use]
    pub fn new(source: &Source) -> Self {
        Self {
            source: source.unit().source.to_string(),
            unit: source.unit().id,
            state: SourceState::Waiting,
            last_read: None,
            consecutive_failures: 0,
            reason: None,
            missing: Vec::new(),
            reads: 0,
            failed: 0,
            skipped: 0,
        }
    }

    /// A read is over.
    pub fn read(&mut self, outcome: &Outcome, now: Duration, journal: &mut Journal) {
        let before = self.state;
        let reason = outcome.failed.first().map(|failed| failed.reason.to_string());
        let Some(datum) = &outcome.datum else {
            self.not_read(reason.unwrap_or_default());
            if before != SourceState::Down {
                journal.down_since = Some(now);
                warn!(
                    event = "source.down",
                    source_id = self.source,
                    unit_id = self.unit,
                    reason = self.reason,
                    "source down"
                );
            }
            return;
        };
        self.reads += 1;
        self.consecutive_failures = 0;
        self.last_read = match datum.stamp {
            Stamp::Wall { unix_ms } => DateTime::from_timestamp_millis(unix_ms),
            Stamp::Boot { .. } => None,
        };
        self.reason = reason;
        let same = outcome.failed.iter().map(|f| &f.property).eq(&self.missing);
        if !same {
            self.missing = outcome.failed.iter().map(|f| f.property.clone()).collect();
        }
        if let Some(since) = journal.down_since.take() {
            info!(
                event = "source.up",
                source_id = self.source,
                unit_id = self.unit,
                down_secs = now.saturating_sub(since).as_secs(),
                "source up"
            );
        }
        if outcome.failed.is_empty() {
            self.state = SourceState::Up;
        } else {
            self.state = SourceState::Partial;
            let quiet = journal.partial_logged.is_some_and(|at| now < at + PARTIAL_EVERY);
            if !same && !quiet {
                journal.partial_logged = Some(now);
                warn!(
                    event = "source.partial",
                    source_id = self.source,
                    unit_id = self.unit,
                    missing = self.missing.join(", "),
                    reason = self.reason,
                    "source read in part"
                );
            }
        }
    }

    /// Nothing was read.
    pub fn not_read(&mut self, reason: String) {
        self.state = SourceState::Down;
        self.failed += 1;
        self.consecutive_failures += 1;
        self.reason = Some(reason);
    }
}
