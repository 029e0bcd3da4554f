//! What the server's collector makes of a message on `node/{id}/datum`: one datum, stream datum or status in
//! CBOR. Nobody is told what becomes of it; [`Dropped`] remembers what came to nothing.

use serde_json::Value;

use super::cbor::{self, Item};
use crate::ledger::Datum;
use crate::solarin::batch::{self, Dropped, arrival};
use crate::solarin::datum::{self, Posted};
use crate::world::World;

/// What the ledger names as the way of a datum that came like this.
const WAY: &str = "mqtt";
/// The tag that says that scales are written as they are meant.
const RIGHT_SCALE: &str = "_v2";

impl World {
    /// Takes a message as the broker delivers it; the topic says whose it is.
    pub(crate) fn take_message(&mut self, topic: &str, payload: &[u8]) {
        self.advance();
        let node = topic.strip_prefix("node/").and_then(|rest| rest.strip_suffix("/datum"));
        let node = node.and_then(|id| id.parse().ok()).unwrap_or(-1);
        let taken = match self.nodes.contains_key(&node) {
            true => self.take_item(node, payload),
            false => Err(format!("no node has the topic {topic}")),
        };
        if let Err(reason) = taken {
            self.dropped.push(Dropped { node, way: WAY, reason });
        }
    }

    fn take_item(&mut self, node: i64, payload: &[u8]) -> Result<(), String> {
        let item = cbor::read(payload).map_err(|error| error.to_string())?;
        if matches!(item.member("instructionId"), Some(Item::Number(_))) {
            return self.take_status(node, &item.to_json(false));
        }
        let now = self.clock.now();
        if matches!(item.member("created"), Some(Item::Number(number)) if number.is_decimal) {
            return Err("created is no integer".to_owned());
        }
        let arrival = match datum::read(&item.to_json(false))? {
            Posted::Stream(stream) => self.stream_arrival(node, stream)?,
            Posted::Object(mut posted) => {
                if has_right_scale(&posted.datum) {
                    posted.datum.t.retain(|tag| tag != RIGHT_SCALE);
                } else if let Posted::Object(swapped) = datum::read(&item.to_json(true))? {
                    posted.datum = swapped.datum;
                }
                if posted.created.is_none() {
                    return Err("a datum without created".to_owned());
                }
                arrival(node, posted, now)?
            }
        };
        self.store(arrival, WAY, now);
        Ok(())
    }

    /// A status over MQTT is written whatever there was, and replaces the results, also by none.
    fn take_status(&mut self, node: i64, status: &Value) -> Result<(), String> {
        let now = self.clock.now();
        let id = status["instructionId"].as_i64().ok_or("instructionId is no integer")?;
        let state = batch::state_of(status)?;
        let known = self.instructions.get(id).filter(|instruction| instruction.node == node);
        if known.is_none() {
            return Err(format!("node {node} has no instruction {id}"));
        }
        let results = status["resultParameters"].as_object().cloned();
        self.instructions.replace_status(id, state, results, now);
        Ok(())
    }
}

fn has_right_scale(datum: &Datum) -> bool {
    datum.t.iter().any(|tag| tag == RIGHT_SCALE)
}
