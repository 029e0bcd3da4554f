//! Streams: each (kind, object, source) has a UUID and the names of its properties, in the order in which they
//! appeared.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::ledger::Datum;
use crate::random;

/// Whose datum they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node's.
    Node,
    /// A location's.
    Location,
}

impl Kind {
    /// `n` or `l`, as the API writes it.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Node => "n",
            Self::Location => "l",
        }
    }
}

/// A stream's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// UUID.
    pub id: String,
    /// Whose.
    pub kind: Kind,
    /// The node's or location's ID.
    pub object: i64,
    /// Source ID.
    pub source: String,
    /// Names of the instantaneous properties, in their order.
    pub i: Vec<String>,
    /// Names of the accumulating ones.
    pub a: Vec<String>,
    /// Names of the status ones.
    pub s: Vec<String>,
}

impl Stream {
    /// As the API shows it.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
        put("streamId", self.id.as_str().into());
        put("zone", "UTC".into());
        put("kind", self.kind.letter().into());
        put("objectId", self.object.into());
        put("sourceId", self.source.as_str().into());
        for (name, names) in [("i", &self.i), ("a", &self.a), ("s", &self.s)] {
            if !names.is_empty() {
                put(name, json!(names));
            }
        }
        Value::Object(out)
    }
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    list: BTreeMap<(Kind, i64, String), Stream>,
}

impl Streams {
    /// Takes note of a datum's names; the first datum makes the stream.
    pub(crate) fn extend(&mut self, kind: Kind, object: i64, source: &str, datum: &Datum) {
        let key = (kind, object, source.to_owned());
        let stream = self.list.entry(key).or_insert_with(|| Stream {
            id: random::uuid(),
            kind,
            object,
            source: source.to_owned(),
            i: Vec::new(),
            a: Vec::new(),
            s: Vec::new(),
        });
        append(&mut stream.i, datum.i.keys());
        append(&mut stream.a, datum.a.keys());
        append(&mut stream.s, datum.s.keys());
    }

    /// Puts a stream in the place of what there is.
    pub(crate) fn put(&mut self, stream: Stream) {
        self.list.insert((stream.kind, stream.object, stream.source.clone()), stream);
    }

    pub(crate) fn get(&self, kind: Kind, object: i64, source: &str) -> Option<&Stream> {
        self.list.get(&(kind, object, source.to_owned()))
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<&Stream> {
        self.list.values().find(|stream| stream.id == id)
    }
}

fn append<'a>(names: &mut Vec<String>, new: impl Iterator<Item = &'a String>) {
    for name in new {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}
