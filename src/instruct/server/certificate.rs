//! SolarIn with the node's certificate: an exchange that brings what is said and fetches what waits, and in
//! front of it, while there is a connection, the broker.
//!
//! A state goes to the broker first; where that takes no message within [`PUBLISH_LIMIT`], it goes with an
//! exchange. Both may then have happened, which is harmless: the same word twice is the same word.
//!
//! What is harmful is an older word that a broker still holds when the end has gone the other way: the server
//! writes what comes last. So the end of an instruction of which the broker had heard before is told to the broker
//! as well, behind the older word, as soon as it takes messages again. This is not on disk: after a restart in
//! between the older word may stay, and the node's journal knows better.
//!
//! An acknowledgement that reaches the server before the row of an instruction that was just pushed is
//! lost there. The instruction is then offered again by an exchange half a minute later, still `Queued`,
//! and gets the same acknowledgement again from the journal.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use super::{
    super::parse::{self, Parsed},
    Server, ServerError, Viewed, Way,
};
use crate::{
    domain::{Chain, InstructionId, InstructionState, NodeId},
    mqtt::Handle,
    solarin::{Acknowledgement, Item, SolarIn, cbor},
};

/// How long the broker may take to confirm a message before it goes another way.
const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// Instructions that are remembered as spoken of to the broker and not ended there.
const SPOKEN_OF: usize = 64;

/// Says something to SolarIn, or nothing, and hears what waits.
pub trait Exchange: Send + Sync {
    /// One exchange.
    fn exchange(
        &self,
        word: Option<&Acknowledgement>,
    ) -> impl Future<Output = Result<Heard, ServerError>> + Send;

    /// The instruction was spoken of by another way: no older word of ours must follow by this one.
    fn forget(&self, id: InstructionId);
}

impl Exchange for SolarIn {
    async fn exchange(&self, word: Option<&Acknowledgement>) -> Result<Heard, ServerError> {
        let items: Vec<Item<'_>> = word.into_iter().map(Item::Ack).collect();
        let exchanged = SolarIn::exchange(self, &items).await?;
        let taken = word.is_some_and(|word| exchanged.acknowledged.contains(&word.id));
        Ok(Heard { taken, instructions: exchanged.instructions })
    }

    fn forget(&self, id: InstructionId) {
        SolarIn::forget(self, id);
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

    /// Whether there is a connection at present.
    fn is_connected(&self) -> bool;
}

impl Broker for Handle {
    async fn publish(&self, message: Bytes) -> Result<(), String> {
        Handle::publish(self, message).await.map_err(|error| Chain(&error).to_string())
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
    /// What the broker heard of and not the end, with the end where that was told another way.
    spoken_of: Mutex<BTreeMap<InstructionId, Option<Bytes>>>,
}

impl<E: Exchange, B: Broker> Certificate<E, B> {
    /// Nothing was told yet.
    pub fn new(solarin: E, broker: B, node: NodeId) -> Self {
        Self { solarin, broker, node, spoken_of: Mutex::default() }
    }

    fn spoken_of(&self) -> MutexGuard<'_, BTreeMap<InstructionId, Option<Bytes>>> {
        self.spoken_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the broker took it in time.
    async fn publish(&self, id: InstructionId, message: Bytes) -> bool {
        match timeout(PUBLISH_LIMIT, self.broker.publish(message)).await {
            Ok(Ok(())) => return true,
            Ok(Err(reason)) => debug!(instruction_id = id.0, reason, "state not published"),
            Err(_) => debug!(instruction_id = id.0, "state not confirmed by the broker"),
        }
        false
    }

    /// It goes to the broker, which may hold it back, whatever it answers.
    fn may_be_held(&self, id: InstructionId) {
        let mut spoken_of = self.spoken_of();
        spoken_of.insert(id, None);
        if spoken_of.len() > SPOKEN_OF {
            spoken_of.pop_first();
        }
    }

    /// Tells the broker the ends that went another way.
    async fn tell_ends(&self) {
        let ends: Vec<_> =
            self.spoken_of().iter().filter_map(|(id, end)| Some((*id, end.clone()?))).collect();
        for (id, end) in ends {
            if !self.broker.is_connected() || !self.publish(id, end).await {
                return;
            }
            self.spoken_of().remove(&id);
        }
    }
}

impl<E: Exchange, B: Broker> Server for Certificate<E, B> {
    async fn pending(&self) -> Result<Parsed, ServerError> {
        self.tell_ends().await;
        let heard = self.solarin.exchange(None).await?;
        Ok(parse::message(&heard.instructions, self.node))
    }

    async fn view(&self, id: InstructionId) -> Result<Viewed, ServerError> {
        Ok(Viewed::of(id, self.pending().await?))
    }

    async fn tell(&self, word: Acknowledgement) -> Result<bool, ServerError> {
        let message = Bytes::from(cbor::acknowledgement(&word));
        if self.broker.is_connected() {
            if !word.state.is_final() {
                self.may_be_held(word.id);
            }
            if self.publish(word.id, message.clone()).await {
                if word.state.is_final() {
                    self.spoken_of().remove(&word.id);
                }
                self.solarin.forget(word.id);
                return Ok(true);
            }
        }
        let Heard { taken, .. } = self.solarin.exchange(Some(&word)).await?;
        if !taken {
            return Err(ServerError::NotTaken);
        }
        if word.state.is_final()
            && let Some(end) = self.spoken_of().get_mut(&word.id)
        {
            *end = Some(message);
        }
        Ok(true)
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
