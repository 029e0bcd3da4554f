//! SolarIn with the node's certificate: an exchange that brings what is said and fetches what waits, and in
//! front of it, while there is a connection, the broker.
//!
//! A state goes to the broker first; where that takes no message within [`PUBLISH_LIMIT`], it goes with an
//! exchange. Both may then have happened, which is harmless: the same word twice is the same word.
//!
//! The server takes what the broker has when it comes to it, perhaps long after it was published, and asks for
//! no order. A word that goes with an exchange may thus be undone by an older one ([`Told::Aside`]); what the
//! broker takes after the older one is not.
//!
//! An acknowledgement that reaches the server before the row of an instruction that was just pushed is
//! lost there. The instruction is then offered again by an exchange half a minute later, still `Queued`,
//! and gets the same acknowledgement again from the journal.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use super::{
    super::parse::{self, Parsed},
    Server, ServerError, Told, Viewed, Way,
};
use crate::{
    domain::{Chain, InstructionId, InstructionState, NodeId},
    mqtt::Handle,
    solarin::{Acknowledgement, Item, SolarIn, cbor},
};

/// How long the broker may take to confirm a message before it goes another way.
const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// Says something to SolarIn, or nothing, and hears what waits.
pub trait Exchange: Send + Sync {
    /// One exchange.
    fn exchange(
        &self,
        word: Option<&Acknowledgement>,
    ) -> impl Future<Output = Result<Heard, ServerError>> + Send;

    /// The instruction is to be spoken of by another way. Returns once no older word of ours can follow by this one.
    fn hush(&self, id: InstructionId) -> impl Future<Output = ()> + Send;
}

impl Exchange for SolarIn {
    async fn exchange(&self, word: Option<&Acknowledgement>) -> Result<Heard, ServerError> {
        let items: Vec<Item<'_>> = word.into_iter().map(Item::Ack).collect();
        let exchanged = SolarIn::exchange(self, &items).await?;
        let taken = word.is_some_and(|word| exchanged.acknowledged.contains(&word.id));
        Ok(Heard { taken, instructions: exchanged.instructions })
    }

    async fn hush(&self, id: InstructionId) {
        SolarIn::hush(self, id).await;
    }
}

/// What an exchange brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Whether the acknowledgement was taken, if there was one.
    pub taken: bool,
    /// The instructions that wait.
    pub instructions: Value,
}

/// Publishes to the broker where the node's messages go.
pub trait Broker: Send + Sync {
    /// Returns once the broker has the message; the error says in words why not.
    fn publish(&self, message: Bytes) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether there is a session that connects when it can.
    fn is_used(&self) -> bool;

    /// Whether there is a connection at present.
    fn is_connected(&self) -> bool;
}

impl Broker for Handle {
    async fn publish(&self, message: Bytes) -> Result<(), String> {
        Handle::publish(self, message).await.map_err(|error| Chain(&error).to_string())
    }

    fn is_used(&self) -> bool {
        true
    }

    fn is_connected(&self) -> bool {
        *self.connected().borrow()
    }
}

/// `None` where there is no session with a broker.
impl<B: Broker> Broker for Option<B> {
    async fn publish(&self, message: Bytes) -> Result<(), String> {
        match self {
            Some(broker) => broker.publish(message).await,
            None => Err("there is no session".to_owned()),
        }
    }

    fn is_used(&self) -> bool {
        self.as_ref().is_some_and(Broker::is_used)
    }

    fn is_connected(&self) -> bool {
        self.as_ref().is_some_and(Broker::is_connected)
    }
}

/// SolarIn and the broker, for a node that has a certificate.
#[derive(Debug)]
pub struct Certificate<E, B> {
    /// Always there.
    pub solarin: E,
    /// Quicker, while it is connected.
    pub broker: B,
    /// Whose instructions these are.
    pub node: NodeId,
}

impl<E: Exchange, B: Broker> Server for Certificate<E, B> {
    async fn pending(&self) -> Result<Parsed, ServerError> {
        let heard = self.solarin.exchange(None).await?;
        Ok(parse::message(&heard.instructions, self.node))
    }

    async fn view(&self, id: InstructionId) -> Result<Viewed, ServerError> {
        Ok(Viewed::of(id, self.pending().await?))
    }

    async fn tell(&self, word: Acknowledgement) -> Result<Told, ServerError> {
        if self.broker.is_connected() {
            self.solarin.hush(word.id).await;
            let message = Bytes::from(cbor::acknowledgement(&word));
            match timeout(PUBLISH_LIMIT, self.broker.publish(message)).await {
                Ok(Ok(())) => return Ok(Told::Taken),
                Ok(Err(reason)) => {
                    debug!(instruction_id = word.id.0, reason, "state not published")
                }
                Err(_) => debug!(instruction_id = word.id.0, "state not confirmed by the broker"),
            }
        }
        match self.solarin.exchange(Some(&word)).await? {
            Heard { taken: true, .. } if self.broker.is_used() => Ok(Told::Aside),
            Heard { taken: true, .. } => Ok(Told::Taken),
            Heard { taken: false, .. } => Err(ServerError::NotTaken),
        }
    }

    fn shows_acknowledged(&self) -> bool {
        false
    }

    fn is_connected(&self) -> bool {
        self.broker.is_connected()
    }

    fn way(&self, state: InstructionState) -> Way {
        // What is offered over HTTPS is `Queued`: one that is being pushed is not offered there.
        if state == InstructionState::Queuing { Way::Mqtt } else { Way::Https }
    }
}
