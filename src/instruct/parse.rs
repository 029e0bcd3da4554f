//! Instructions as SolarUser writes them, into [`Instruction`].
//!
//! What is accepted, beside the documented form:
//!
//! * times with a blank or a `T` between date and time, with `Z` or an offset, or as milliseconds
//!   since the epoch;
//! * `parameters` (or `params`) as a list of `{name, value}` or as an object; names may repeat in the
//!   list; values that are numbers or truth values become text; empty or missing names and values are
//!   dropped, as the server drops them;
//! * any other member, which is ignored.
//!
//! A message is such a list, one instruction, or an object that has the list as `instructions`. Of one message
//! [`MOST`] elements are read; of an instruction with more than [`MOST_BYTES`] of parameters none of these.
//!
//! An instruction of which something cannot be read says so ([`Instruction::unreadable`]), so that it is declined
//! instead of being offered for ever. An element without a readable ID, or that belongs to another node, is named
//! and skipped; so is one whose state is not known, since it may have ended. The others are not affected.
//! This file is pure and never panics on foreign data.

use chrono::{DateTime, Datelike, Utc};
use serde_json::Value;

use crate::{
    domain::{Instruction, InstructionId, InstructionState, NodeId, Parameter},
    solarin::arrival::MOST,
};

/// Most bytes of one instruction's parameters. A chain of certificates takes a tenth of it.
pub const MOST_BYTES: usize = 64 << 10;

/// What an answer held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// What could be read, in the server's order.
    pub instructions: Vec<Instruction>,
    /// What could not.
    pub skipped: Vec<Skipped>,
}

/// An element of an answer that is not an instruction for this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{}: {reason}", .id.map_or_else(|| format!("element {index}"), |id| format!("instruction {id}")))]
pub struct Skipped {
    /// Its place in the answer, from 0.
    pub index: usize,
    /// Its ID, if that much could be read.
    pub id: Option<InstructionId>,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a message that was pushed, or came with an answer to something else.
#[must_use]
pub fn message(message: &Value, node: NodeId) -> Parsed {
    let list = message.get("instructions").unwrap_or(message);
    let more = list.as_array().map_or(0, Vec::len).saturating_sub(MOST);
    if more == 0 {
        return instructions(list, node);
    }
    let first = list.as_array().into_iter().flatten().take(MOST).cloned().collect();
    let mut parsed = instructions(&Value::Array(first), node);
    let reason = format!("it and those after it are more than {MOST} in one message");
    parsed.skipped.push(Skipped { index: MOST, id: None, reason });
    parsed
}

/// Reads the `data` of `viewPending` (a list) or of `view` (one object).
#[must_use]
pub fn instructions(data: &Value, node: NodeId) -> Parsed {
    let elements = match data {
        Value::Array(elements) => elements.as_slice(),
        Value::Null => &[],
        other => std::slice::from_ref(other),
    };
    let mut parsed = Parsed::default();
    for (index, element) in elements.iter().enumerate() {
        match instruction(element, node) {
            Ok(instruction) => parsed.instructions.push(instruction),
            Err(reason) => {
                let id = element.get("id").and_then(id).map(InstructionId);
                parsed.skipped.push(Skipped { index, id, reason });
            }
        }
    }
    parsed
}

/// Reads an instant as SolarNetwork writes it anywhere: text or milliseconds since the epoch.
///
/// `None` for anything else, and for years before 1970 or after 9999.
#[must_use]
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let at = if let Ok(unix_ms) = text.parse::<i64>() {
        DateTime::from_timestamp_millis(unix_ms)?
    } else {
        let date = text.get(..10)?;
        let rest = text.get(10..)?.strip_prefix([' ', 'T', 't'])?;
        DateTime::parse_from_rfc3339(&format!("{date}T{rest}")).ok()?.to_utc()
    };
    (1970..=9999).contains(&at.year()).then_some(at)
}

fn instruction(element: &Value, node: NodeId) -> Result<Instruction, String> {
    if !element.is_object() {
        return Err("it is not an object".to_owned());
    }
    let id = element.get("id").and_then(id).ok_or("its `id` is not a whole number above zero")?;
    // Absent in some answers; where it is there, it decides.
    if let Some(owner) = element.get("nodeId").filter(|v| !v.is_null())
        && self::id(owner).and_then(|id| id.try_into().ok()) != Some(node)
    {
        return Err("it belongs to another node".to_owned());
    }
    let state = element
        .get("state")
        .and_then(Value::as_str)
        .and_then(InstructionState::from_name)
        .ok_or("its `state` is not one that SolarNetwork has")?;
    let mut instruction = Instruction {
        id: InstructionId(id),
        topic: "unknown".to_owned(),
        instruction_date: DateTime::UNIX_EPOCH,
        state,
        expiration_date: None,
        parameters: Vec::new(),
        unreadable: None,
    };
    instruction.unreadable = fill_in(&mut instruction, element).err();
    Ok(instruction)
}

/// Reads what is asked, up to the first part that cannot be read. The parameters are last, since nothing of them
/// counts without the rest.
fn fill_in(instruction: &mut Instruction, element: &Value) -> Result<(), String> {
    let topic = element.get("topic").and_then(Value::as_str).map(str::trim);
    instruction.topic = topic.filter(|t| !t.is_empty()).ok_or("it has no `topic`")?.to_owned();
    instruction.instruction_date = time(element, "instructionDate")?
        .or(time(element, "created")?)
        .ok_or("it has neither `instructionDate` nor `created`")?;
    instruction.expiration_date = time(element, "expirationDate")?;
    instruction.parameters = parameters(element)?;
    Ok(())
}

fn id(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|id| *id > 0)
}

/// A time that may be absent; one that is there must be readable, or an expiry would be overlooked.
fn time(element: &Value, member: &str) -> Result<Option<DateTime<Utc>>, String> {
    let at = match element.get(member) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => instant(text),
        Some(Value::Number(number)) => instant(&number.to_string()),
        Some(_) => None,
    };
    at.map(Some).ok_or_else(|| format!("its `{member}` is not a time"))
}

fn parameters(element: &Value) -> Result<Vec<Parameter>, String> {
    let mut members = ["parameters", "params"].iter().filter_map(|name| element.get(name));
    let Some(given) = members.find(|value| !value.is_null()) else { return Ok(Vec::new()) };
    if members.any(|value| !value.is_null()) {
        return Err("it has both `parameters` and `params`".to_owned());
    }
    let pairs: Vec<(&str, &Value)> = match given {
        Value::Array(list) => list.iter().map(listed).collect::<Result<_, _>>()?,
        Value::Object(members) => members.iter().map(|(n, v)| (n.as_str(), v)).collect(),
        _ => return Err("its `parameters` are neither a list nor an object".to_owned()),
    };
    let (mut parameters, mut bytes) = (Vec::with_capacity(pairs.len()), 0);
    for (name, value) in pairs {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err("a value among its `parameters` is not text".to_owned());
            }
        };
        if !name.is_empty() && !value.is_empty() {
            bytes += name.len() + value.len();
            parameters.push(Parameter { name: name.to_owned(), value });
        }
    }
    if bytes > MOST_BYTES {
        return Err(format!("its parameters are more than {} KiB", MOST_BYTES >> 10));
    }
    Ok(parameters)
}

/// One parameter of a list. Of what is absent nothing is meant; of any other form nobody knows what is.
fn listed(parameter: &Value) -> Result<(&str, &Value), String> {
    let name = parameter.get("name").unwrap_or(&Value::Null);
    let value = parameter.get("value").unwrap_or(&Value::Null);
    match (parameter, name) {
        (Value::Object(_), Value::String(name)) => Ok((name, value)),
        (Value::Object(_), Value::Null) | (Value::Null, _) => Ok(("", value)),
        _ => Err("one of its `parameters` is not a name with a value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node() -> NodeId {
        NodeId::try_from(123).expect("above zero")
    }

    fn whole() -> Value {
        json!({
            "id": 12345, "created": "2024-06-11 21:39:08.120001Z", "nodeId": 123,
            "topic": "SetControlParameter", "instructionDate": "2024-06-11 21:39:08.123456Z",
            "state": "Queued", "statusDate": "2024-06-11 21:39:08.120001Z",
            "expirationDate": "2024-06-11T22:00:00Z", "somethingNew": {"a": [1]},
            "parameters": [{"name": "/switch/1", "value": "1"}, {"name": "x", "value": "a"},
                           {"name": "x", "value": "b"}],
            "resultParameters": {"message": "…"}
        })
    }

    #[test]
    fn the_documented_form_is_read_with_repeated_names_in_order() {
        let parsed = instructions(&json!([whole()]), node());
        assert_eq!(parsed.skipped, []);
        let instruction = &parsed.instructions[0];
        assert_eq!(instruction.id, InstructionId(12345));
        assert_eq!(instruction.state, InstructionState::Queued);
        assert_eq!(instruction.instruction_date, instant("2024-06-11T21:39:08.123456Z").unwrap());
        assert_eq!(instruction.expiration_date, instant("2024-06-11 22:00:00Z"));
        let names: Vec<_> = instruction.parameters.iter().map(|p| (&*p.name, &*p.value)).collect();
        assert_eq!(names, [("/switch/1", "1"), ("x", "a"), ("x", "b")]);
    }

    /// A control, no parameters, a value in two pieces; as JSON and as CBOR.
    #[test]
    fn messages_of_a_real_server_are_read() {
        let text = include_str!("../../tests/vectors/datum.json");
        let vectors: Value = serde_json::from_str(text).expect("JSON");
        let given = vectors["instructions"].as_array().expect("a list");
        for vector in given {
            let json = vector["json"].as_str().expect("text");
            let json: Value = serde_json::from_str(json).expect("JSON");
            let cbor = hex::decode(vector["cbor_mqtt_hex"].as_str().expect("hex"));
            let cbor = crate::solarin::cbor::decode(&cbor.expect("hex")).expect("CBOR");
            let parsed = message(&json, node());
            assert_eq!(message(&cbor, node()), parsed);
            assert_eq!(parsed.skipped, []);
            let count =
                |instruction: &Value| instruction["parameters"].as_array().map_or(0, Vec::len);
            let counts = json["instructions"].as_array().expect("a list").iter().map(count);
            assert!(parsed.instructions.iter().map(|read| read.parameters.len()).eq(counts));
        }
    }

    #[test]
    fn what_waits_to_be_read_is_short_and_reads_as_the_whole() {
        let node = 123.try_into().expect("a node");
        let list: Value = (1..=5000).map(|id| serde_json::json!({ "id": id })).collect();
        for whole in [list.clone(), serde_json::json!({ "instructions": list })] {
            let short = crate::solarin::arrival::readable(&whole);
            assert_eq!(short.as_array().map(Vec::len), Some(MOST + 1));
            assert_eq!(message(&short, node), message(&whole, node));
        }
        assert_eq!(crate::solarin::arrival::readable(&Value::Null), Value::Null);
    }

    #[test]
    fn a_message_of_any_length_costs_no_more_than_its_first_hundred() {
        let many = json!({ "instructions": vec![whole(); 5000] });
        let parsed = message(&many, node());
        assert_eq!(parsed.instructions.len(), MOST);
        assert_eq!(parsed.skipped.len(), 1);
        let mut huge = whole();
        huge["parameters"] = json!({ "a": "x".repeat(MOST_BYTES) });
        let parsed = message(&json!([huge, whole()]), node());
        let cut = &parsed.instructions[0];
        assert_eq!(cut.unreadable.as_deref(), Some("its parameters are more than 64 KiB"));
        assert!(cut.parameters.is_empty() && parsed.instructions[1].unreadable.is_none());
    }

    #[test]
    fn one_bad_element_is_named_and_spoils_nothing() {
        type Change = fn(&mut Value);
        let bad: [(Change, &str); 5] = [
            (|v| v["id"] = json!("x"), "its `id` is not a whole number above zero"),
            (|v| v["nodeId"] = json!(124), "it belongs to another node"),
            (|v| v["nodeId"] = json!("0123x"), "it belongs to another node"),
            (|v| v["state"] = json!("Odd"), "its `state` is not one that SolarNetwork has"),
            (|v| *v = json!(7), "it is not an object"),
        ];
        for (change, reason) in bad {
            let mut element = whole();
            change(&mut element);
            let parsed = instructions(&json!([element, whole()]), node());
            assert_eq!(parsed.instructions.len(), 1, "{reason}");
            assert_eq!(parsed.skipped[0].reason, reason);
        }
    }

    #[test]
    fn one_with_an_id_and_a_part_that_cannot_be_read_says_which_and_asks_for_nothing() {
        let shape = "its `parameters` are neither a list nor an object";
        let part = "one of its `parameters` is not a name with a value";
        let bad = [
            ("topic", json!(" "), "it has no `topic`"),
            ("topic", json!(["SystemReboot"]), "it has no `topic`"),
            ("instructionDate", json!("yesterday"), "its `instructionDate` is not a time"),
            ("expirationDate", json!("soon"), "its `expirationDate` is not a time"),
            (
                "parameters",
                json!([{"name": "a", "value": {}}]),
                "a value among its `parameters` is not text",
            ),
            ("parameters", json!("a=1"), shape),
            ("parameters", json!([{"name": "a", "value": "1"}, {"name": 5, "value": "2"}]), part),
            ("parameters", json!([{"name": "a", "value": "1"}, "b=2"]), part),
            ("params", json!({"b": "2"}), "it has both `parameters` and `params`"),
        ];
        for (member, value, reason) in bad {
            let mut element = whole();
            element[member] = value;
            let parsed = instructions(&json!([element, whole()]), node());
            assert_eq!(parsed.skipped, []);
            let [bad, good] = parsed.instructions.as_slice() else { panic!("{reason}") };
            assert_eq!(bad.unreadable.as_deref(), Some(reason));
            assert_eq!((bad.id, bad.parameters.len()), (InstructionId(12345), 0));
            assert_eq!(good.unreadable, None);
        }
    }

    #[test]
    fn parameters_may_be_an_object_and_numbers() {
        let mut element = whole();
        element["parameters"] = Value::Null;
        element["params"] =
            serde_json::from_str(r#"{"/a":1.50,"/b":true,"/c":null,"/d":""}"#).expect("JSON");
        let parsed = instructions(&element, node());
        let got: Vec<_> = parsed.instructions[0]
            .parameters
            .iter()
            .map(|p| format!("{}={}", p.name, p.value))
            .collect();
        assert_eq!(got, ["/a=1.50", "/b=true"]);
    }

    #[test]
    fn times_are_read_in_every_form_and_nonsense_is_not() {
        let want = instant("2024-06-11T21:50:00Z");
        assert!(want.is_some());
        for same in ["2024-06-11 21:50:00Z", "2024-06-11T23:50:00+02:00", "1718142600000"] {
            assert_eq!(instant(same), want, "{same}");
        }
        for bad in
            ["", "2024-06-11", "2024-06-11 21:50:00", "-1", "9999999999999999", "２０２４-06-11"]
        {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }

    fn foreign() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|n| json!(n)),
            "\\PC{0,24}".prop_map(Value::from),
            "[0-9T :.Z+-]{0,30}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-z]{0,8}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever stands in a member, nothing panics and the neighbour is read.
        #[test]
        fn a_mutated_element_never_spoils_its_neighbour(
            member in prop::sample::select(vec![
                "id", "created", "nodeId", "topic", "instructionDate", "state",
                "expirationDate", "parameters", "params", "more",
            ]),
            value in foreign(),
        ) {
            let mut element = whole();
            element[member] = value;
            let parsed = instructions(&json!([element, whole()]), node());
            prop_assert_eq!(parsed.instructions.len() + parsed.skipped.len(), 2);
            prop_assert_eq!(parsed.instructions.last().map(|i| i.id), Some(InstructionId(12345)));
        }

        /// Any JSON at all is read without a panic.
        #[test]
        fn any_json_is_survived(data in foreign()) {
            let parsed = instructions(&data, node());
            prop_assert!(parsed.instructions.is_empty());
        }
    }
}
