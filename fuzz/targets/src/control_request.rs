//! What may be asked on the control socket.

use crate::json;
use solarnode_agent::observe::control::Ask;

pub(crate) fn check(line: &[u8]) {
    let Ok(ask) = serde_json::from_slice::<Ask>(line) else { return };
    // Only what is written out is understood: nothing more stands in it.
    assert_eq!(serde_json::to_value(ask).ok(), json(line));
}
