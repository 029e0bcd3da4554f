//! Instructions that arrive unasked, pushed or in an answer to something else, on their way to the inbox.
//!
//! Each goes with the instant of its arrival, and no longer than it will be read. When the inbox is full it is not
//! waited for: the server offers again what is not acknowledged.

use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::cbor::{self, DecodeError, MAX_BYTES, MAX_ITEMS};

/// Most instructions of one message: as many as the server puts into one answer.
pub const MOST: usize = 100;

/// Reads a message of the broker: CBOR, as SolarNetwork's servers push it, or the same as JSON.
///
/// # Errors
///
/// If it is neither, or larger than anything expected here.
pub fn read(payload: &[u8]) -> Result<Value, String> {
    // What begins so is no map and no list in CBOR.
    if !matches!(payload.first(), Some(b'{' | b'[')) {
        return cbor::decode(payload).map_err(|error| error.to_string());
    }
    let begins = |byte: &&u8| matches!(byte, b'{' | b'[' | b',' | b':');
    if payload.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge("1 MiB").to_string());
    }
    // No more values than that, whatever stands in texts.
    if payload.iter().filter(begins).count() > MAX_ITEMS {
        return Err(DecodeError::TooLarge("50,000 items").to_string());
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
    fn a_pushed_message_is_read_as_cbor_and_as_json() {
        let json = br#"{"instructions":[{"id":7}]}"#;
        let cbor = b"\xbf\x6cinstructions\x81\xa1\x62id\x07\xff";
        assert_eq!(read(json), read(cbor));
        assert_eq!(read(json).unwrap()["instructions"][0]["id"], 7);
        assert!(read(b"[]").unwrap().is_array());
    }

    #[test]
    fn json_that_is_none_or_too_much_is_refused_with_the_reason() {
        let many = "[".to_owned() + &"0,".repeat(MAX_ITEMS) + "0]";
        let long = format!("[\"{}\"]", "x".repeat(MAX_BYTES));
        let deep = "[".repeat(10_000);
        for (text, reason) in [
            (r#"{"instructions":["#, "not JSON"),
            (r#"{"instructions":[]} {}"#, "not JSON"),
            (&deep, "not JSON"),
            (&many, "50,000 items"),
            (&long, "1 MiB"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
