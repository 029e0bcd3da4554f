//! Instructions that arrive unasked, pushed or in an answer to something else, on their way to the inbox.
//!
//! Each goes with the instant of its arrival, and no longer than it will be read. When the inbox is full it is not
//! waited for: the server offers again what is not acknowledged.

use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::cbor;

/// Most instructions of one message: as many as the server puts into one answer.
pub const MOST: usize = 100;

/// Reads what a broker pushed: CBOR, which is what SolarNetwork sends, or JSON, within the same bounds.
///
/// What begins with a brace or bracket would as CBOR be text or bytes of a length in eight bytes: no instructions.
///
/// # Errors
///
/// If it is neither; in words.
pub fn read(payload: &[u8]) -> Result<Value, String> {
    if !matches!(payload.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return cbor::decode(payload).map_err(|error| error.to_string());
    }
    // Every item but the first stands behind one of these.
    let marks = payload.iter().filter(|byte| matches!(byte, b'{' | b'[' | b':' | b','));
    if payload.len() > cbor::MAX_BYTES || marks.count() >= cbor::MAX_ITEMS {
        return Err("it is JSON of more than 1 MiB or 50,000 items".to_owned());
    }
    serde_json::from_slice(payload).map_err(|error| format!("it is not JSON: {error}"))
}

/// Puts a message into the inbox, if there is room.
pub fn deliver(inbox: &mpsc::Sender<(Instant, Value)>, message: &Value) {
    drop(inbox.try_send((Instant::now(), readable(message))));
}

/// As much of a message as is read, and one instruction more, so that the reader can tell that there were.
#[must_use]
pub fn readable(message: &Value) -> Value {
    match message.get("instructions").unwrap_or(message) {
        Value::Array(elements) => elements.iter().take(MOST + 1).cloned().collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_as_cbor_and_as_json() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/datum.json");
        let all = std::fs::read(path).expect("the vectors are there");
        let all: Value = serde_json::from_slice(&all).expect("the vectors are JSON");
        for case in all["instructions"].as_array().expect("a list of cases") {
            let json = case["json"].as_str().expect("text");
            let cbor = hex::decode(case["cbor_mqtt_hex"].as_str().expect("hex")).expect("hex");
            let want = serde_json::from_str(json).expect("JSON");
            assert_eq!(read(json.as_bytes()).as_ref(), Ok(&want));
            assert_eq!(read(format!("\n {json}\r\n").as_bytes()).as_ref(), Ok(&want));
            assert_eq!(read(&cbor).as_ref(), Ok(&want));
        }
    }

    #[test]
    fn what_is_neither_or_too_much_is_refused() {
        let many = format!("[{}0]", "0,".repeat(cbor::MAX_ITEMS));
        let long = format!("[\"{}\"]", "x".repeat(cbor::MAX_BYTES));
        let deep = "[".repeat(1000);
        for bad in ["", "{", "[1,2", "{\"a\":1} x", "hello", &many, &long, &deep] {
            assert!(read(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(20)]);
        }
    }
}
