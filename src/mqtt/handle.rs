//! What others hold of a session: they publish through it, and are answered once.
//!
//! ```text
//!  Handle::publish ──Request──▶ session ──▶ on its way ──▶ Tag::answer ──▶ taken, or why not
//! ```

use std::future::pending;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    packet::Refusal,
    report::{NO_CERTIFICATE, Status},
};
use crate::pulse::{Bound, Pulse};

/// Messages waiting for the session; whoever publishes waits beyond, or drops what may be dropped.
const REQUESTS: usize = 64;

/// Why a message did not reach the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection now.
    #[error("there is no connection to the broker")]
    NotConnected,
    /// The connection was lost before the broker answered: it may have it or not.
    #[error("the connection to the broker was lost before it answered")]
    Lost,
    /// The broker does not take it.
    #[error(
        "the broker refused a message to {topic}: {refusal}; its rules must let this node write there"
    )]
    Refused {
        /// Where to.
        topic: String,
        /// Its word.
        refusal: Refusal,
    },
    /// Nobody would have got it.
    #[error(
        "nobody listens to {topic} at the broker: the reader of SolarNetwork's queue is away, or the broker is another one than the server reads"
    )]
    Unheard {
        /// Where to.
        topic: String,
    },
    /// It is longer than the broker takes.
    #[error(
        "a message of {bytes} bytes is longer than the broker takes ({most}): raise its limit, or read fewer properties into one source"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: u32,
    },
}

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    /// Who hears of it; without anybody it is sent once and not acknowledged.
    pub(super) done: Option<oneshot::Sender<Result<(), PublishError>>>,
}

/// What others hold of a session. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    topic: String,
    requests: mpsc::Sender<Request>,
    connected: watch::Receiver<bool>,
    status: watch::Receiver<Status>,
    pulse: Pulse,
}

impl Handle {
    /// Of a session that publishes on this topic, and where what is published arrives.
    pub(super) fn new(
        topic: String,
        connected: watch::Receiver<bool>,
        status: watch::Receiver<Status>,
    ) -> (Self, Requests) {
        let (sender, received) = mpsc::channel(REQUESTS);
        let requests = Requests { received, _sender: sender.clone() };
        let pulse = Pulse::unheard();
        (Self { topic, requests: sender, connected, status, pulse }, requests)
    }

    /// The same for a task, whose pulse shows when it waits for the broker.
    #[must_use]
    pub fn for_task(&self, pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), ..self.clone() }
    }

    /// Hands a message over; returns when the broker took it.
    ///
    /// # Errors
    ///
    /// If it did not, or nobody knows.
    pub async fn publish(&self, payload: Bytes) -> Result<(), PublishError> {
        if !*self.connected.borrow() {
            return Err(PublishError::NotConnected);
        }
        let (done, answer) = oneshot::channel();
        let topic = self.topic.clone();
        let request = Request { topic, payload, retain: false, done: Some(done) };
        let _waiting = self.pulse.enter("waiting for the broker", Bound::Open);
        if self.requests.send(request).await.is_err() {
            return Err(PublishError::NotConnected);
        }
        answer.await.unwrap_or(Err(PublishError::Lost))
    }

    /// Sends a message at most once, if there is a connection and room; says whether it will be tried.
    #[must_use]
    pub fn offer(&self, topic: String, payload: Bytes, retain: bool) -> bool {
        let request = Request { topic, payload, retain, done: None };
        *self.connected.borrow() && self.requests.try_send(request).is_ok()
    }

    /// Whether nothing is tried for want of a certificate.
    #[must_use]
    pub fn lacks_certificate(&self) -> bool {
        self.status.borrow().state == NO_CERTIFICATE
    }

    /// Whether there is a connection, as it changes.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

/// What is published, as the session gets it.
pub(super) struct Requests {
    received: mpsc::Receiver<Request>,
    /// Without anybody who publishes there is still somebody who listens.
    _sender: mpsc::Sender<Request>,
}

impl Requests {
    /// Waits for messages, and takes so many at most.
    pub(super) async fn take(&mut self, into: &mut Vec<Request>, most: usize) {
        self.received.recv_many(into, most).await;
    }

    /// Does something while there is no connection: whoever publishes hears so at once.
    pub(super) async fn refused_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let refuse = async {
            while let Some(request) = self.received.recv().await {
                if let Some(done) = request.done {
                    drop(done.send(Err(PublishError::NotConnected)));
                }
            }
            pending().await
        };
        tokio::select! {
            done = work => done,
            done = refuse => done,
        }
    }
}

/// What is known of a message on its way.
pub(super) struct Tag {
    pub(super) topic: String,
    pub(super) done: oneshot::Sender<Result<(), PublishError>>,
}

impl Tag {
    /// Says what became of it.
    pub(super) fn answer(self, refused: Option<Refusal>) {
        let Self { topic, done } = self;
        let result = match refused {
            None => Ok(()),
            Some(Refusal::Unheard) => Err(PublishError::Unheard { topic }),
            Some(refusal) => Err(PublishError::Refused { topic, refusal }),
        };
        // Who does not wait any more does not want to know.
        drop(done.send(result));
    }
}
