//! `POST /solarin/bulkCollector.do`: one JSON array of datum, stream datum and instruction statuses.
//!
//! ```text
//! elements ─▶ status? ─yes─▶ applied at once, and stays, whatever comes after
//!               └─no──▶ read ─▶ dropped without a word, or put with its group
//! then stream datum ─▶ node datum ─▶ location datum, each group stored as a unit
//! then up to 100 instructions that are Queued
//! ```
//!
//! Anything that goes wrong is `{"success":false,"message":"Internal error"}` with status 200. What was stored
//! before that stays stored. What the answer does not tell, [`Dropped`] remembers for tests.

use std::collections::BTreeMap;
use std::io::Read;

use chrono::{DateTime, Utc};
use flate2::read::GzDecoder;
use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use super::datum::{self, Posted, PostedDatum, PostedStream};
use crate::answer::{Answer, Refusal};
use crate::ledger::{Datum, Key};
use crate::misbehave::Act;
use crate::request::Incoming;
use crate::stream::Kind;
use crate::time;
use crate::world::World;
use crate::world::instruction::{Instruction, State};

/// Longest source ID that the database takes, in characters.
pub(crate) const SOURCE_LIMIT: usize = 64;
/// Most instructions in one answer.
const INSTRUCTION_LIMIT: usize = 100;
/// What the ledger names as the way of a datum that came like this.
const WAY: &str = "bulk";

/// Something that a node sent and the server let fall without telling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Whose.
    pub node: i64,
    /// `bulk` or `mqtt`.
    pub way: &'static str,
    /// Why.
    pub reason: String,
}

impl Dropped {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "node": self.node, "way": self.way, "reason": self.reason })
    }
}

/// One datum on its way into the database.
pub(crate) struct Arrival {
    kind: Kind,
    key: Key,
    datum: Datum,
    /// How the answer lists it.
    listed: Value,
}

impl World {
    pub(super) fn collect(
        &mut self,
        request: &Incoming,
        node: i64,
        act: Option<&Act>,
    ) -> Result<Answer, Refusal> {
        if !request.is_json() {
            return Err(Refusal::wrong_media_type());
        }
        // Why it fails is told to nobody but whoever asks the simulator.
        let answer = match self.take_batch(request, node, act) {
            Ok(data) => Answer::data(data),
            Err(reason) => {
                self.dropped.push(Dropped { node, way: WAY, reason });
                let failed = json!({ "success": false, "message": "Internal error" });
                Answer::json(200, &failed)
            }
        };
        // As the servers may write it. Slashes stand in texts only.
        let text = String::from_utf8_lossy(&answer.body).replace('/', "\\/");
        Ok(Answer { body: text.into(), ..answer })
    }

    fn take_batch(
        &mut self,
        request: &Incoming,
        node: i64,
        act: Option<&Act>,
    ) -> Result<Value, String> {
        let body = decoded(request)?;
        let now = self.clock.now();
        let mut listed = Vec::new();
        let mut posted = Vec::new();
        each_element(&body, |element| {
            match act {
                Some(Act::BatchFailsOver { texts }) if holds(&element, texts) => {
                    return Err("an element that was to fail".to_owned());
                }
                Some(Act::BatchSkips { texts }) if holds(&element, texts) => return Ok(()),
                _ => {}
            }
            if is_status(&element) {
                match self.apply_status(node, &element, now)? {
                    Some(applied) => listed.push(applied),
                    None => {
                        let reason = "a status without ID or state".to_owned();
                        self.dropped.push(Dropped { node, way: WAY, reason });
                    }
                }
            } else if !["", "datum"].contains(&type_of(&element).as_str()) {
                let reason = format!("an element of the type {}", element["__type__"]);
                self.dropped.push(Dropped { node, way: WAY, reason });
            } else {
                match datum::read(&element) {
                    Ok(read) => posted.push(read),
                    Err(reason) => self.dropped.push(Dropped { node, way: WAY, reason }),
                }
            }
            Ok(())
        })?;
        self.store_groups(node, posted, now, act, &mut listed)?;
        let mut data = Map::new();
        if !listed.is_empty() {
            data.insert("datum".to_owned(), listed.into());
        }
        let instructions = self.offered(node, now, act);
        if !instructions.is_empty() {
            data.insert("instructions".to_owned(), instructions.into());
        }
        Ok(data.into())
    }

    /// Stores stream datum, node datum and location datum, in that order, each group as a unit.
    fn store_groups(
        &mut self,
        node: i64,
        posted: Vec<Posted>,
        now: DateTime<Utc>,
        act: Option<&Act>,
        listed: &mut Vec<Value>,
    ) -> Result<(), String> {
        let (mut streams, mut nodes, mut locations) = (Vec::new(), Vec::new(), Vec::new());
        let (mut left, mut unstored) = (posted.len(), 0);
        for one in posted {
            match one {
                Posted::Stream(one) => streams.push(one),
                Posted::Object(one) if one.kind == Kind::Node => nodes.push(one),
                Posted::Object(one) => locations.push(one),
            }
        }
        let mut groups = 3;
        match act {
            Some(Act::BatchLosesEntries { entries }) => left = left.saturating_sub(*entries),
            Some(Act::BatchDropsEntries { entries }) => unstored = *entries,
            Some(Act::BatchTransient { groups: stored }) => groups = *stored,
            _ => {}
        }
        for group in 0..groups.min(3) {
            let arrivals: Result<Vec<Arrival>, String> = match group {
                0 => streams.drain(..).map(|one| self.stream_arrival(node, one)).collect(),
                1 => nodes.drain(..).map(|one| arrival(node, one, now)).collect(),
                _ => locations.drain(..).map(|one| arrival(node, one, now)).collect(),
            };
            for arrival in arrivals? {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                listed.push(arrival.listed.clone());
                match unstored {
                    0 => self.store(arrival, WAY, now),
                    _ => unstored -= 1,
                }
            }
        }
        Ok(())
    }

    /// A datum without samples is no row.
    pub(crate) fn store(&mut self, arrival: Arrival, way: &str, now: DateTime<Utc>) {
        let Arrival { kind, key, datum, .. } = arrival;
        if !datum.is_empty() {
            self.ledger.accept_of(kind, key, datum, way, now);
        }
    }

    /// Gives values the names that the stream has for them.
    pub(crate) fn stream_arrival(&self, node: i64, one: PostedStream) -> Result<Arrival, String> {
        let stream = self.ledger.streams.by_id(&one.stream);
        let stream = stream.filter(|stream| stream.kind == Kind::Location || stream.object == node);
        let stream = stream.ok_or_else(|| format!("no stream {} of this node", one.stream))?;
        let datum = Datum {
            i: named(&stream.i, one.i)?,
            a: named(&stream.a, one.a)?,
            s: named(&stream.s, one.s)?,
            t: one.t,
        };
        let ms = one.created.timestamp_millis();
        Ok(Arrival {
            kind: stream.kind,
            key: Key { node: stream.object, source: stream.source.clone(), ms },
            datum,
            listed: json!({ "streamId": stream.id, "timestamp": time::write(one.created) }),
        })
    }

    /// Applies a status; gives what the answer lists for it. One without ID or state is none.
    fn apply_status(
        &mut self,
        node: i64,
        element: &Value,
        now: DateTime<Utc>,
    ) -> Result<Option<Value>, String> {
        let has = |member: &str| element.get(member).is_some();
        if !has("instructionId") || !has("state") && !has("status") {
            return Ok(None);
        }
        let id = match &element["instructionId"] {
            Value::String(text) => text.parse().ok(),
            other => other.as_i64(),
        };
        let id = id.ok_or_else(|| format!("instructionId is {}", element["instructionId"]))?;
        let state = state_of(element)?;
        let results = element["resultParameters"].as_object();
        if self.instructions.get(id).is_some_and(|instruction| instruction.node != node) {
            return Err(format!("instruction {id} is not for node {node}"));
        }
        self.instructions.acknowledge(id, state, results.cloned(), now);
        let mut listed = json!({ "id": id, "state": state.name() });
        if let Some(results) = results {
            listed["resultParameters"] = results.clone().into();
        }
        Ok(Some(listed))
    }

    /// The instructions of an answer.
    fn offered(&self, node: i64, now: DateTime<Utc>, act: Option<&Act>) -> Vec<Value> {
        let replay = act == Some(&Act::ReplayInstruction);
        let wanted = |instruction: &&Instruction| {
            instruction.node == node
                && (instruction.state == State::Queued || replay && instruction.state.is_final())
        };
        let found = self.instructions.visible(now).filter(wanted).take(INSTRUCTION_LIMIT);
        let mut offered: Vec<Value> = found
            .map(|instruction| {
                let mut shown = instruction.to_json();
                shown["state"] = State::Queued.name().into();
                shown
            })
            .collect();
        match act {
            Some(Act::DuplicateInstruction) => offered.extend(offered.clone()),
            Some(Act::HoldInstruction) => offered.clear(),
            _ => {}
        }
        offered
    }
}

/// The state in a status, under its name or its old one.
pub(crate) fn state_of(status: &Value) -> Result<State, String> {
    let named = [&status["state"], &status["status"]].into_iter().find_map(Value::as_str);
    let named = named.unwrap_or_default();
    State::named(named).ok_or_else(|| format!("no instruction state {named:?}"))
}

fn holds(element: &Value, texts: &[String]) -> bool {
    let json = element.to_string();
    texts.iter().all(|text| json.contains(text))
}

fn is_status(element: &Value) -> bool {
    element.is_object()
        && (element["instructionId"].is_number() || type_of(element) == "instructionstatus")
}

/// What an element says that it is, in small letters; nothing is a datum.
fn type_of(element: &Value) -> String {
    match element.get("__type__") {
        None => "datum".to_owned(),
        Some(Value::String(text)) => text.to_ascii_lowercase(),
        Some(other) => other.to_string(),
    }
}

/// A datum in the object form, as the database would take it. Without a time it is the server's.
pub(crate) fn arrival(node: i64, one: PostedDatum, now: DateTime<Utc>) -> Result<Arrival, String> {
    let created = one.created.unwrap_or(now);
    let source = one.source.ok_or("a datum without sourceId")?;
    if !one.datum.is_empty() && source.chars().count() > SOURCE_LIMIT {
        return Err(format!("sourceId is longer than {SOURCE_LIMIT} characters: {source}"));
    }
    let object = match one.kind {
        Kind::Node => node,
        Kind::Location => one.object.unwrap_or(-1),
    };
    let id = if one.kind == Kind::Node { "nodeId" } else { "locationId" };
    let shown = time::write(created);
    let listed = json!({
        "kind": one.kind.letter(),
        id: object,
        "objectId": object,
        "sourceId": source,
        "created": shown,
        "timestamp": shown,
    });
    let key = Key { node: object, source, ms: created.timestamp_millis() };
    Ok(Arrival { kind: one.kind, key, datum: one.datum, listed })
}

fn named<T>(names: &[String], values: Vec<Option<T>>) -> Result<BTreeMap<String, T>, String> {
    if values.len() > names.len() {
        return Err(format!("{} values for {} names of the stream", values.len(), names.len()));
    }
    let pairs = names.iter().zip(values);
    Ok(pairs.filter_map(|(name, value)| Some((name.clone(), value?))).collect())
}

/// The body, unpacked where its encoding says so.
fn decoded(request: &Incoming) -> Result<Vec<u8>, String> {
    if !request.header("content-encoding").is_some_and(|encoding| encoding.contains("gzip")) {
        return Ok(request.body.to_vec());
    }
    let mut out = Vec::new();
    let unpacked = GzDecoder::new(&request.body[..]).read_to_end(&mut out);
    unpacked.map_err(|error| format!("the body is not gzip: {error}"))?;
    Ok(out)
}

/// Hands over the array's elements while it is being read; any other value is read and ignored.
fn each_element(body: &[u8], each: impl FnMut(Value) -> Result<(), String>) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json.deserialize_any(Elements(each)).and_then(|()| json.end());
    read.map_err(|error| error.to_string())
}

struct Elements<F>(F);

impl<'de, F: FnMut(Value) -> Result<(), String>> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            (self.0)(element).map_err(A::Error::custom)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
