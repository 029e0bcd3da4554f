//! What a node says about an instruction.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::domain::{InstructionId, InstructionState};

/// One instruction's state, and with a final one its results.
///
/// Both belong into one message: over HTTPS results that come with a state which the server has already are
/// dropped, over MQTT a later message replaces them. Saying the same twice is harmless.
#[derive(Debug, Clone, PartialEq)]
pub struct Acknowledgement {
    /// Which instruction.
    pub id: InstructionId,
    /// Its state on this node. Never one that the server does not have: over HTTPS that fails the whole request.
    pub state: InstructionState,
    /// Since when.
    pub at: DateTime<Utc>,
    /// The whole of its results, never a part of them.
    pub result: Option<Map<String, Value>>,
}
