//! `/solaruser/api/v1/sec/instr`: reading, adding and changing instructions. `exec` is not played.

use serde_json::Value;

use super::Call;
use crate::answer::{Answer, Refusal};
use crate::misbehave::Act;
use crate::time;
use crate::world::World;
use crate::world::instruction::{Instruction, NewInstruction, State};

/// Longest topic that the database takes.
const TOPIC_LIMIT: usize = 128;

impl World {
    pub(super) fn instruction_call(
        &mut self,
        method: &str,
        path: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Refusal> {
        match (method, path) {
            ("GET", "/view") => match call.parameter("id") {
                Some(_) => {
                    let ids = call.ids(&["id"])?;
                    let shown = self.by_ids(call, &ids)?;
                    shown.into_iter().next().map(Answer::data).ok_or_else(Refusal::unknown_object)
                }
                None => Ok(Answer::data(self.by_ids(call, &call.ids(&["ids"])?)?.into())),
            },
            ("GET", "/viewActive") => self.in_states(call, &[State::Queued]),
            ("GET", "/viewPending") => {
                self.in_states(call, &[State::Queued, State::Received, State::Executing])
            }
            ("GET", "" | "/") => {
                let shown = self.filtered(call)?;
                Ok(Answer::data(shown.iter().map(|i| i.to_json()).collect()))
            }
            ("POST", "/add") => self.add(call, None),
            ("POST", path) if path.starts_with("/add/") => self.add(call, path.get(5..)),
            ("POST", "/updateState") => self.update_state(call),
            _ => Err(Refusal::not_found()),
        }
    }

    fn by_ids(&self, call: &Call<'_>, ids: &[i64]) -> Result<Vec<Value>, Refusal> {
        if ids.is_empty() {
            return Err(Refusal::invalid("Required request parameter 'id' is not present"));
        }
        let mut shown = Vec::new();
        for id in ids {
            let instruction = self.instructions.get(*id).ok_or_else(Refusal::unknown_object)?;
            self.check_node(&call.caller, instruction.node)?;
            shown.push(instruction.to_json());
        }
        Ok(shown)
    }

    /// The nodes of a list call; none at all is refused.
    fn instruction_nodes(&self, call: &Call<'_>) -> Result<Vec<i64>, Refusal> {
        let nodes = call.ids(&["nodeId", "nodeIds"])?;
        for node in &nodes {
            self.check_node(&call.caller, *node)?;
        }
        Ok(nodes)
    }

    fn in_states(&self, call: &Call<'_>, states: &[State]) -> Result<Answer, Refusal> {
        let nodes = self.instruction_nodes(call)?;
        if nodes.is_empty() {
            return Err(Refusal::access_denied());
        }
        let replayed = |instruction: &Instruction| {
            call.act == Some(&Act::ReplayInstruction) && instruction.state.is_final()
        };
        let mut list: Vec<Value> = Vec::new();
        for instruction in self.instructions.visible(call.now) {
            if !nodes.contains(&instruction.node) {
                continue;
            }
            if replayed(instruction) {
                let mut shown = instruction.to_json();
                shown["state"] = State::Queued.name().into();
                list.push(shown);
            } else if states.contains(&instruction.state) {
                list.push(instruction.to_json());
            }
        }
        match call.act {
            Some(Act::DuplicateInstruction) => list.extend(list.clone()),
            Some(Act::HoldInstruction) => list.clear(),
            _ => {}
        }
        Ok(Answer::data(list.into()))
    }

    /// The general filter of the base call and of `updateState`.
    fn filtered(&self, call: &Call<'_>) -> Result<Vec<&Instruction>, Refusal> {
        let nodes = self.instruction_nodes(call)?;
        let ids = call.ids(&["instructionIds"])?;
        if nodes.is_empty() && ids.is_empty() {
            return Err(Refusal::access_denied());
        }
        let mut states = Vec::new();
        // For `updateState` the parameter `state` is the one to set.
        let names: &[&str] = match call.request.method.as_str() {
            "POST" => &["states"],
            _ => &["state", "states"],
        };
        for name in call.list(names) {
            states.push(named_state(name)?);
        }
        let date = |name: &str| match call.parameter(name) {
            None => Ok(None),
            Some(text) => time::read_text(text)
                .map(Some)
                .ok_or_else(|| Refusal::illegal_argument(format!("{name} is not a date: {text}"))),
        };
        let (start, end) = (date("startDate")?, date("endDate")?);
        let mut found = Vec::new();
        for instruction in self.instructions.visible(call.now) {
            let fits = (nodes.is_empty() || nodes.contains(&instruction.node))
                && (ids.is_empty() || ids.contains(&instruction.id))
                && (states.is_empty() || states.contains(&instruction.state))
                && start.is_none_or(|start| instruction.instruction_date >= start)
                && end.is_none_or(|end| instruction.instruction_date < end);
            if fits {
                self.check_node(&call.caller, instruction.node)?;
                found.push(instruction);
            }
        }
        Ok(found)
    }

    fn add(&mut self, call: &Call<'_>, topic: Option<&str>) -> Result<Answer, Refusal> {
        let (nodes, new, many) = match call.request.is_json() {
            true => {
                let json = call.json()?;
                let node = json["nodeId"].as_i64();
                (Vec::from_iter(node), from_json(&json)?, false)
            }
            false => {
                let several = call.ids(&["nodeIds"])?;
                let many = !several.is_empty();
                let nodes = if many { several } else { call.ids(&["nodeId"])? };
                (nodes, from_form(call)?, many)
            }
        };
        let topic = topic.unwrap_or(&new.topic).to_owned();
        if nodes.is_empty() || topic.is_empty() || topic.chars().count() > TOPIC_LIMIT {
            return Err(Refusal::illegal_argument("nodeId and topic are required"));
        }
        for node in &nodes {
            self.check_node(&call.caller, *node)?;
        }
        let mut added = Vec::new();
        for node in nodes {
            let new = NewInstruction { node, topic: topic.clone(), ..new.clone() };
            added.push(self.instructions.add(new, call.now).to_json());
        }
        Ok(Answer::data(match many {
            true => added.into(),
            false => added.into_iter().next().unwrap_or_default(),
        }))
    }

    fn update_state(&mut self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let state = named_state(call.required("state")?)?;
        let ids = call.ids(&["id", "ids"])?;
        if !ids.is_empty() {
            self.by_ids(call, &ids)?;
            for id in ids {
                self.instructions.set_state(id, state, call.now);
            }
            return Ok(Answer::success());
        }
        let found = self.filtered(call)?;
        let changed: Vec<i64> = found.iter().map(|instruction| instruction.id).collect();
        for id in &changed {
            self.instructions.set_state(*id, state, call.now);
        }
        Ok(Answer::data(changed.into()))
    }
}

fn named_state(name: &str) -> Result<State, Refusal> {
    State::named(name)
        .ok_or_else(|| Refusal::illegal_argument(format!("No instruction state {name}")))
}

fn date(value: &Value, name: &str) -> Result<Option<chrono::DateTime<chrono::Utc>>, Refusal> {
    match value {
        Value::Null => Ok(None),
        value => time::read(value)
            .map(Some)
            .ok_or_else(|| Refusal::illegal_argument(format!("{name} is not a date: {value}"))),
    }
}

/// The instruction in a JSON body, without its node. Parameters are a list of name and value, or an object.
fn from_json(json: &Value) -> Result<NewInstruction, Refusal> {
    Ok(NewInstruction {
        topic: json["topic"].as_str().unwrap_or_default().to_owned(),
        parameters: parameters(json),
        instruction_date: date(&json["instructionDate"], "instructionDate")?,
        expires: date(&json["expirationDate"], "expirationDate")?,
        ..NewInstruction::default()
    })
}

/// `parameters` as a list or object, or `params` as an object.
pub(crate) fn parameters(json: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    match (&json["parameters"], &json["params"]) {
        (Value::Array(list), _) => {
            list.iter().map(|entry| (text(&entry["name"]), text(&entry["value"]))).collect()
        }
        (Value::Object(map), _) | (_, Value::Object(map)) => {
            map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        }
        _ => Vec::new(),
    }
}

fn from_form(call: &Call<'_>) -> Result<NewInstruction, Refusal> {
    let text = |name: &str| call.parameter(name).map(str::to_owned);
    let instant = |name: &str| {
        // Forms carry epoch milliseconds as text too.
        let Some(text) = call.parameter(name) else { return Ok(None) };
        let value = text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from);
        date(&value, name)
    };
    let mut parameters = Vec::new();
    for index in 0.. {
        let part = |field: &str| text(&format!("parameters[{index}].{field}"));
        match (part("name"), part("value")) {
            (None, None) => break,
            (name, value) => parameters.push((name.unwrap_or_default(), value.unwrap_or_default())),
        }
    }
    Ok(NewInstruction {
        topic: text("topic").unwrap_or_default(),
        parameters,
        instruction_date: instant("instructionDate")?,
        expires: instant("expirationDate")?,
        ..NewInstruction::default()
    })
}
