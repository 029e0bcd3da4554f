//! Instructions as SolarUser keeps them.
//!
//! ```text
//! add ─▶ Queuing ─(queuing_ms)─▶ Queued      no transition is checked by the server:
//!            └────────── updateState ──────▶ any state to any other
//!        not final and past expirationDate ─▶ Declined, message "Expired"
//! ```

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::time;

/// Longest parameter value in one piece; longer ones are split and stored as repeated parameters.
const VALUE_LIMIT: usize = 256;

/// Where an instruction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not known.
    Unknown,
    /// Waiting for delivery.
    Queued,
    /// Being pushed over MQTT; not in `viewPending`.
    Queuing,
    /// The device has it.
    Received,
    /// The device acts.
    Executing,
    /// Done.
    Completed,
    /// Refused, failed, cancelled or expired.
    Declined,
}

impl State {
    const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Queued,
        Self::Queuing,
        Self::Received,
        Self::Executing,
        Self::Completed,
        Self::Declined,
    ];

    /// The name that the API uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Queued => "Queued",
            Self::Queuing => "Queuing",
            Self::Received => "Received",
            Self::Executing => "Executing",
            Self::Completed => "Completed",
            Self::Declined => "Declined",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing should follow.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Declined)
    }
}

/// An instruction to add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewInstruction {
    /// For which node.
    pub node: i64,
    /// What to do.
    pub topic: String,
    /// Ordered; names may repeat.
    pub parameters: Vec<(String, String)>,
    /// The user's date; absent: now.
    pub instruction_date: Option<DateTime<Utc>>,
    /// When the server declines it.
    pub expires: Option<DateTime<Utc>>,
    /// When it appears in lists; absent: at once. Plays one that arrives late.
    pub visible_from: Option<DateTime<Utc>>,
}

/// An instruction as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Unique ID.
    pub id: i64,
    /// When it was added.
    pub created: DateTime<Utc>,
    /// For which node.
    pub node: i64,
    /// What to do.
    pub topic: String,
    /// The user's date.
    pub instruction_date: DateTime<Utc>,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub status_date: DateTime<Utc>,
    /// When the server declines it.
    pub expires: Option<DateTime<Utc>>,
    /// Ordered; names may repeat.
    pub parameters: Vec<(String, String)>,
    /// What the device answered, and the server's `message` on expiry.
    pub results: Option<Map<String, Value>>,
    /// Every state that was written, with its time, the first included.
    pub history: Vec<(DateTime<Utc>, State)>,
    visible_from: DateTime<Utc>,
    /// It was given to the broker, or nobody will.
    pushed: bool,
}

impl Instruction {
    fn set(&mut self, state: State, now: DateTime<Utc>) {
        self.state = state;
        self.status_date = now;
        self.history.push((now, state));
    }

    /// Adds to what was answered before.
    fn merge(&mut self, results: Map<String, Value>) {
        self.results.get_or_insert_default().extend(results);
    }

    /// The instruction as the API shows it.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
        put("id", self.id.into());
        put("created", time::write(self.created).into());
        put("nodeId", self.node.into());
        put("topic", self.topic.as_str().into());
        put("instructionDate", time::write(self.instruction_date).into());
        put("state", self.state.name().into());
        put("statusDate", time::write(self.status_date).into());
        if let Some(expires) = self.expires {
            put("expirationDate", time::write(expires).into());
        }
        if !self.parameters.is_empty() {
            let list: Vec<Value> = self
                .parameters
                .iter()
                .map(|(name, value)| json!({ "name": name, "value": value }))
                .collect();
            put("parameters", list.into());
        }
        if let Some(results) = &self.results {
            put("resultParameters", Value::Object(results.clone()));
        }
        Value::Object(out)
    }
}

/// All instructions.
#[derive(Debug, Default)]
pub(crate) struct Instructions {
    /// How long a new one stays `Queuing`, where MQTT is played as tried first. Zero: it is `Queued` at once.
    pub(crate) queuing: TimeDelta,
    /// There is a broker that they are pushed through.
    push: bool,
    /// Nothing is pushed for the time being.
    pub(crate) hold: bool,
    list: BTreeMap<i64, Instruction>,
    last_id: i64,
}

impl Instructions {
    /// The two jobs of the server that change states.
    pub(crate) fn advance(&mut self, now: DateTime<Utc>) {
        for instruction in self.list.values_mut() {
            let begun = instruction.instruction_date.max(instruction.visible_from);
            let pushed_in_vain = now - begun >= self.queuing;
            if instruction.state == State::Queuing && pushed_in_vain {
                instruction.set(State::Queued, now);
            }
            let expired = instruction.expires.is_some_and(|expires| expires < now);
            if expired && !instruction.state.is_final() {
                instruction.set(State::Declined, now);
                instruction.merge(Map::from_iter([("message".to_owned(), "Expired".into())]));
            }
        }
    }

    pub(crate) fn add(&mut self, new: NewInstruction, now: DateTime<Utc>) -> &Instruction {
        self.last_id += 1;
        let id = self.last_id;
        let queues = self.push || self.queuing > TimeDelta::zero();
        let state = if queues { State::Queuing } else { State::Queued };
        let instruction = Instruction {
            id,
            created: now,
            node: new.node,
            topic: new.topic,
            instruction_date: new.instruction_date.unwrap_or(now),
            state,
            status_date: now,
            expires: new.expires,
            parameters: split(new.parameters),
            results: None,
            history: vec![(now, state)],
            visible_from: new.visible_from.unwrap_or(now),
            pushed: !self.push,
        };
        self.list.entry(id).or_insert(instruction)
    }

    pub(crate) fn get(&self, id: i64) -> Option<&Instruction> {
        self.list.get(&id)
    }

    pub(crate) fn set_state(&mut self, id: i64, state: State, now: DateTime<Utc>) {
        if let Some(instruction) = self.list.get_mut(&id) {
            instruction.set(state, now);
        }
    }

    /// From now on they are pushed, and Queued when that did not help for 30 s, or as long as was said before.
    pub(crate) fn push_first(&mut self) {
        self.push = true;
        if self.queuing.is_zero() {
            self.queuing = TimeDelta::seconds(30);
        }
    }

    /// Those that are visible and were not pushed yet; each is given once.
    pub(crate) fn due_pushes(&mut self, now: DateTime<Utc>) -> Vec<Instruction> {
        if self.hold {
            return Vec::new();
        }
        let waits = |instruction: &&mut Instruction| {
            instruction.state == State::Queuing
                && !instruction.pushed
                && instruction.visible_from <= now
        };
        let due = self.list.values_mut().filter(waits);
        due.map(|instruction| {
            instruction.pushed = true;
            instruction.clone()
        })
        .collect()
    }

    /// Only what is still Queuing goes back.
    pub(crate) fn push_failed(&mut self, id: i64, now: DateTime<Utc>) {
        let queuing = |instruction: &&mut Instruction| instruction.state == State::Queuing;
        if let Some(instruction) = self.list.get_mut(&id).filter(queuing) {
            instruction.set(State::Queued, now);
        }
    }

    /// A status over MQTT: written whatever there was, and the results are these or none.
    pub(crate) fn replace_status(
        &mut self,
        id: i64,
        state: State,
        results: Option<Map<String, Value>>,
        now: DateTime<Utc>,
    ) {
        if let Some(instruction) = self.list.get_mut(&id) {
            instruction.set(state, now);
            instruction.results = results;
        }
    }

    /// A status over HTTP: results are added to those that there are; nothing changes in the state that it has.
    pub(crate) fn acknowledge(
        &mut self,
        id: i64,
        state: State,
        results: Option<Map<String, Value>>,
        now: DateTime<Utc>,
    ) {
        let Some(instruction) = self.list.get_mut(&id) else { return };
        if instruction.state != state {
            instruction.set(state, now);
            results.into_iter().for_each(|results| instruction.merge(results));
        }
    }

    /// Those that are visible, in order of their IDs.
    pub(crate) fn visible(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Instruction> {
        self.list.values().filter(move |instruction| instruction.visible_from <= now)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Instruction> {
        self.list.values()
    }
}

/// Drops empty names and values; cuts long values into pieces of 256 characters, in order.
fn split(parameters: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, value) in parameters {
        if name.is_empty() {
            continue;
        }
        let characters: Vec<char> = value.chars().collect();
        for piece in characters.chunks(VALUE_LIMIT) {
            out.push((name.clone(), piece.iter().collect()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_750_000_000_000 + ms).unwrap()
    }

    fn new(expires: Option<DateTime<Utc>>) -> NewInstruction {
        NewInstruction { node: 1, topic: "Signal".to_owned(), expires, ..NewInstruction::default() }
    }

    #[test]
    fn a_pushed_instruction_is_queued_after_its_time() {
        let mut list = Instructions { queuing: TimeDelta::seconds(30), ..Instructions::default() };
        let id = list.add(new(None), instant(0)).id;
        list.advance(instant(29_999));
        assert_eq!(list.get(id).unwrap().state, State::Queuing);
        list.advance(instant(30_000));
        assert_eq!(list.get(id).unwrap().state, State::Queued);
    }

    #[test]
    fn an_expired_instruction_is_declined_unless_it_is_final() {
        let mut list = Instructions::default();
        let open = list.add(new(Some(instant(10))), instant(0)).id;
        let done = list.add(new(Some(instant(10))), instant(0)).id;
        list.set_state(done, State::Completed, instant(5));
        list.advance(instant(11));
        assert_eq!(list.get(open).unwrap().state, State::Declined);
        assert_eq!(list.get(open).unwrap().to_json()["resultParameters"]["message"], "Expired");
        assert_eq!(list.get(done).unwrap().state, State::Completed);
    }

    #[test]
    fn long_values_are_split_and_empty_ones_dropped() {
        let long = "x".repeat(600);
        let parameters = [("a", long.as_str()), ("", "1"), ("b", ""), ("c", "2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let split = super::split(parameters.into());
        let lengths: Vec<(&str, usize)> =
            split.iter().map(|(name, value)| (name.as_str(), value.len())).collect();
        assert_eq!(lengths, [("a", 256), ("a", 256), ("a", 88), ("c", 1)]);
    }
}
