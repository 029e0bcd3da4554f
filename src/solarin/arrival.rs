//! Instructions that arrive unasked, pushed or in an answer to something else, on their way to the inbox.
//!
//! Each goes with the instant of its arrival, and no longer than it will be read. When the inbox is full it is not
//! waited for: the server offers again what is not acknowledged.

use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

/// Most instructions of one message: as many as the server puts into one answer.
pub const MOST: usize = 100;

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
