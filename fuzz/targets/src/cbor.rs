//! A message in CBOR, as a broker pushes it.
//!
//! What is read is JSON that can be written and read as the same, is no deeper than allowed, and as the result
//! of an instruction goes out as CBOR that is read again.

use chrono::DateTime;
use serde_json::{Map, Value};
use solarnode_agent::{
    domain::{InstructionId, InstructionState},
    solarin::{Acknowledgement, cbor},
};

pub(crate) fn check(input: &[u8]) {
    let Ok(value) = cbor::decode(input) else { return };
    assert_eq!(serde_json::from_str::<Value>(&value.to_string()).expect("JSON"), value);
    assert!(depth(&value) <= cbor::MAX_DEPTH + 1);
    if depth(&value) + 2 > cbor::MAX_DEPTH {
        return;
    }
    let result = Some(Map::from_iter([("result".to_owned(), value)]));
    let (id, state, at) = (InstructionId(1), InstructionState::Completed, DateTime::UNIX_EPOCH);
    let written = cbor::acknowledgement(&Acknowledgement { id, state, at, result });
    if written.len() <= cbor::MAX_BYTES {
        let again = cbor::decode(&written).expect("what we write");
        assert_eq!(again["instructionId"], 1);
        assert!(again["resultParameters"].get("result").is_some());
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}
