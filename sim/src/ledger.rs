//! The ledger: every datum that was accepted, by (node, source, millisecond), how often and from which
//! jobs. This is the oracle of loss tests: it says what arrived, and whether the content changed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value, json};

use crate::stream::{Kind, Streams};
use crate::{number, time};

/// The samples of one datum, numbers exactly as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Datum {
    /// Instantaneous properties.
    pub i: BTreeMap<String, Number>,
    /// Accumulating properties.
    pub a: BTreeMap<String, Number>,
    /// Status properties.
    pub s: BTreeMap<String, String>,
    /// Tags.
    pub t: Vec<String>,
}

impl Datum {
    /// Whether the values are the same, however their numbers are written.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |mine: &BTreeMap<String, Number>, others: &BTreeMap<String, Number>| {
            mine.len() == others.len()
                && mine.iter().zip(others).all(|((name, value), (other, text))| {
                    name == other && number::is_same(value, text)
                })
        };
        same(&self.i, &other.i)
            && same(&self.a, &other.a)
            && (&self.s, &self.t) == (&other.s, &other.t)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.i.is_empty() && self.a.is_empty() && self.s.is_empty() && self.t.is_empty()
    }

    /// An instantaneous or accumulating property as a decimal, if it fits one.
    pub fn decimal(&self, property: &str) -> Option<Decimal> {
        let text = self.i.get(property).or_else(|| self.a.get(property))?.to_string();
        text.parse().or_else(|_| Decimal::from_scientific(&text)).ok()
    }

    /// `{"i":…,"a":…,"s":…,"t":…}`, empty groups left out.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        if !self.i.is_empty() {
            out.insert("i".to_owned(), json!(self.i));
        }
        if !self.a.is_empty() {
            out.insert("a".to_owned(), json!(self.a));
        }
        if !self.s.is_empty() {
            out.insert("s".to_owned(), json!(self.s));
        }
        if !self.t.is_empty() {
            out.insert("t".to_owned(), json!(self.t));
        }
        Value::Object(out)
    }
}

/// Where a datum belongs; the server replaces what it has under the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Node ID.
    pub node: i64,
    /// Source ID.
    pub source: String,
    /// Timestamp, epoch milliseconds.
    pub ms: i64,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The content as accepted last.
    pub datum: Datum,
    /// How often a datum with this key was accepted.
    pub accepts: u32,
    /// How often its content differed from the one before.
    pub changes: u32,
    /// The job that brought it first; `bulk` and `mqtt` are the ways in without one.
    pub first_job: String,
    /// The job, or the way, that brought it last.
    pub last_job: String,
    /// When it was accepted first, by the simulator's clock.
    pub accepted: DateTime<Utc>,
}

impl Entry {
    pub(crate) fn new(datum: Datum, job: &str, now: DateTime<Utc>) -> Self {
        let job = job.to_owned();
        Self { datum, accepts: 1, changes: 0, first_job: job.clone(), last_job: job, accepted: now }
    }
}

/// The ledger's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerCount {
    /// Distinct keys.
    pub datum: usize,
    /// Accepted datum, repeats included.
    pub accepts: u64,
    /// Keys accepted more than once.
    pub repeated: usize,
    /// Keys whose content changed between two accepts. A correct client never causes one.
    pub changed: usize,
}

/// All datum accepted so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rows: BTreeMap<Key, Entry>,
    /// Those of locations, whose IDs stand where those of nodes stand in `rows`.
    locations: BTreeMap<Key, Entry>,
    pub(crate) streams: Streams,
}

impl Ledger {
    pub(crate) fn accept(&mut self, key: Key, datum: Datum, job: &str, now: DateTime<Utc>) {
        self.accept_of(Kind::Node, key, datum, job, now);
    }

    /// The ID of a location's datum stands where that of a node stands.
    pub(crate) fn accept_of(
        &mut self,
        kind: Kind,
        key: Key,
        datum: Datum,
        job: &str,
        now: DateTime<Utc>,
    ) {
        self.streams.extend(kind, key.node, &key.source, &datum);
        let rows = match kind {
            Kind::Node => &mut self.rows,
            Kind::Location => &mut self.locations,
        };
        match rows.get_mut(&key) {
            Some(entry) => {
                entry.accepts += 1;
                entry.changes += u32::from(!entry.datum.is_same(&datum));
                entry.datum = datum;
                job.clone_into(&mut entry.last_job);
            }
            None => {
                rows.insert(key, Entry::new(datum, job, now));
            }
        }
    }

    pub(crate) fn location(&self, key: &Key) -> Option<&Entry> {
        self.locations.get(key)
    }

    /// Loses a datum, as a server must not.
    pub(crate) fn lose(&mut self, key: &Key) -> bool {
        self.rows.remove(key).is_some()
    }

    pub(crate) fn rows(&self) -> &BTreeMap<Key, Entry> {
        &self.rows
    }

    pub(crate) fn count(&self) -> LedgerCount {
        LedgerCount {
            datum: self.rows.len(),
            accepts: self.rows.values().map(|entry| u64::from(entry.accepts)).sum(),
            repeated: self.rows.values().filter(|entry| entry.accepts > 1).count(),
            changed: self.rows.values().filter(|entry| entry.changes > 0).count(),
        }
    }
}

/// A request as it was seen, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When it arrived, by the simulator's clock.
    pub time: DateTime<Utc>,
    /// Method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Query as sent.
    pub query: String,
    /// The token ID that it claimed, verified or not.
    pub token: Option<String>,
    /// The node that a certificate named, whatever is to be thought of it.
    pub node: Option<i64>,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
}

impl Seen {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "time": time::write(self.time),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "token": self.token,
            "node": self.node,
            "status": self.status,
        })
    }
}
