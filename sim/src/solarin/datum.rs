//! What the server makes of one element that is to be a datum, in JSON or turned into JSON.
//!
//! An object walks in as it is: the order of its members does not matter, unknown members that hold objects are
//! walked into wherever they stand (so `samples` works), and what is found there counts as if it stood above; what
//! is no number in `i` and `a` is left out without a word. An array is a stream datum, whose values stand in the
//! order of the stream's names.

use chrono::{DateTime, Utc};
use serde_json::{Map, Number, Value};

use crate::ledger::Datum;
use crate::stream::Kind;
use crate::time;

/// An element that could be read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Posted {
    Object(PostedDatum),
    Stream(PostedStream),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PostedDatum {
    /// Absent: the way that it comes decides.
    pub(crate) created: Option<DateTime<Utc>>,
    pub(crate) kind: Kind,
    /// What was given, -1 where it is no number; for a node's datum the server takes the node that it knows.
    pub(crate) object: Option<i64>,
    pub(crate) source: Option<String>,
    pub(crate) datum: Datum,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PostedStream {
    pub(crate) created: DateTime<Utc>,
    /// UUID.
    pub(crate) stream: String,
    pub(crate) i: Vec<Option<Number>>,
    pub(crate) a: Vec<Option<Number>>,
    pub(crate) s: Vec<Option<String>>,
    pub(crate) t: Vec<String>,
}

/// Reads an element; the error is why the server drops it.
pub(crate) fn read(element: &Value) -> Result<Posted, String> {
    match element {
        Value::Object(members) => object(members).map(Posted::Object),
        Value::Array(members) => stream(members).map(Posted::Stream),
        _ => Err("neither object nor array".to_owned()),
    }
}

fn object(members: &Map<String, Value>) -> Result<PostedDatum, String> {
    let mut out = PostedDatum {
        created: None,
        kind: Kind::Node,
        object: None,
        source: None,
        datum: Datum::default(),
    };
    out.take(members)?;
    Ok(out)
}

impl PostedDatum {
    /// Takes the members that are known, and walks into whatever else holds objects.
    fn take(&mut self, members: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in members {
            match name.as_str() {
                "created" => {
                    let read = time::read(value).ok_or_else(|| format!("created is {value}"))?;
                    self.created = Some(read);
                }
                "nodeId" => {
                    (self.kind, self.object) = (Kind::Node, Some(value.as_i64().unwrap_or(-1)));
                }
                "locationId" => {
                    (self.kind, self.object) = (Kind::Location, Some(value.as_i64().unwrap_or(-1)));
                }
                "sourceId" => self.source = value.as_str().map(str::to_owned),
                "i" => self.datum.i.extend(group(value)?.filter_map(number_of)),
                "a" => self.datum.a.extend(group(value)?.filter_map(number_of)),
                "s" => self.datum.s.extend(
                    group(value)?.filter_map(|(name, value)| Some((name.clone(), text(value)?))),
                ),
                "t" => {
                    for tag in value.as_array().into_iter().flatten().filter_map(text) {
                        if !self.datum.t.contains(&tag) {
                            self.datum.t.push(tag);
                        }
                    }
                }
                _ => self.walk(value)?,
            }
        }
        Ok(())
    }

    fn walk(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Object(inner) => self.take(inner),
            Value::Array(items) => items.iter().try_for_each(|item| self.walk(item)),
            _ => Ok(()),
        }
    }
}

/// The members of a group. One that is no object spoils the datum, unless it is null.
fn group(value: &Value) -> Result<impl Iterator<Item = (&String, &Value)>, String> {
    if !(value.is_object() || value.is_null()) {
        return Err(format!("a group of values is {value}"));
    }
    Ok(value.as_object().into_iter().flatten())
}

fn number_of((name, value): (&String, &Value)) -> Option<(String, Number)> {
    Some((name.clone(), value.as_number()?.clone()))
}

/// A status as it is stored.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn stream(members: &[Value]) -> Result<PostedStream, String> {
    if members.len() > 7 {
        return Err(format!("{} members", members.len()));
    }
    let member = |at: usize| members.get(at).unwrap_or(&Value::Null);
    let whole = |at: usize| member(at).as_i64().ok_or_else(|| format!("member {at} is no integer"));
    let (created, high, low) = (whole(0)?, whole(1)?, whole(2)?);
    if high == 0 || low == 0 {
        return Err("half of the stream's ID is zero".to_owned());
    }
    let created = (created >= 1).then(|| DateTime::from_timestamp_millis(created)).flatten();
    let hex = hex::encode([high.to_be_bytes(), low.to_be_bytes()].concat());
    Ok(PostedStream {
        created: created.ok_or("the time is not after 1970")?,
        stream: [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"),
        i: values(member(3), number)?,
        a: values(member(4), number)?,
        s: values(member(5), text)?,
        t: values(member(6), text)?.into_iter().flatten().collect(),
    })
}

/// Numeric text counts here.
fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

fn values<T>(group: &Value, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<Option<T>>, String> {
    match group {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values
            .iter()
            .map(|value| match value {
                Value::Null => Ok(None),
                value => read(value).map(Some).ok_or_else(|| format!("{value} in a stream datum")),
            })
            .collect(),
        other => Err(format!("a group of a stream datum is {other}")),
    }
}
