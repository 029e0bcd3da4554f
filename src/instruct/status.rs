//! What `status` says about instructions.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{outcome::Code, record::Record, server::Way, state::State};

/// Most waiting instructions that are listed; all are counted.
const LISTED: usize = 16;

/// A snapshot, published whenever something changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Status {
    /// When the server was last asked with success.
    pub last_poll: Option<DateTime<Utc>>,
    /// When instructions last arrived unasked.
    pub last_arrival: Option<DateTime<Utc>>,
    /// The present interval between polls.
    pub poll_every_ms: u64,
    /// Ended as `Completed`, among those remembered.
    pub completed: usize,
    /// Ended as `Declined`, among those remembered.
    pub declined: usize,
    /// Those of the declined that may have happened.
    pub uncertain: usize,
    /// Ended here, and the server does not have the final state yet.
    pub undelivered: usize,
    /// How many wait for their `executionDate`.
    pub waiting_count: usize,
    /// The first of them.
    pub waiting: Vec<Waiting>,
    /// The one that ended last.
    pub last: Option<Last>,
    /// Whether instructions are held because the time cannot be trusted.
    pub held: bool,
    /// What is in the way at present.
    pub error: Option<String>,
}

/// One that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The server's number.
    pub id: i64,
    /// When it is to be carried out.
    pub until: Option<DateTime<Utc>>,
}

/// The last one that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Last {
    /// The server's number.
    pub id: i64,
    /// What was asked.
    pub topic: String,
    /// How it ended.
    pub state: State,
    /// When.
    pub ended: Option<DateTime<Utc>>,
    /// Why, for programs.
    pub code: Option<Code>,
    /// Why, for people.
    pub message: Option<String>,
    /// By which way it came.
    pub way: Option<Way>,
}

impl Status {
    /// Counts what the journal holds.
    pub(super) fn count<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        let (mut waiting, mut last) = (Vec::new(), None::<&Record>);
        (self.completed, self.declined, self.uncertain, self.undelivered) = (0, 0, 0, 0);
        for record in records {
            match record.state {
                State::New | State::Executing => continue,
                State::Received => {
                    waiting.push(Waiting { id: record.id.0, until: record.execution_date });
                    continue;
                }
                State::Completed => self.completed += 1,
                State::Declined => self.declined += 1,
            }
            self.uncertain += usize::from(record.code == Some(Code::MayHaveHappened));
            self.undelivered += usize::from(!record.acknowledged);
            if last.is_none_or(|last| record.ended >= last.ended) {
                last = Some(record);
            }
        }
        waiting.sort_by_key(|waiting| (waiting.until, waiting.id));
        self.waiting_count = waiting.len();
        waiting.truncate(LISTED);
        self.waiting = waiting;
        self.last = last.map(|record| Last {
            id: record.id.0,
            topic: record.topic.clone(),
            state: record.state,
            ended: record.ended,
            code: record.code,
            message: record.message.clone(),
            way: record.way,
        });
    }
}
