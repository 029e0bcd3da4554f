//! `bulkCollector.do`: one exchange of datum, acknowledgements and instructions over mutual TLS.
//!
//! ```text
//!  datum ───────────▶ ┌──────────┐ POST, gzip   ┌─────────┐
//!  acknowledgements ─▶│ exchange │─────────────▶│ SolarIn │
//!       outbox ──────▶└──────────┘◀─────────────└─────────┘
//!                       │      │ entries by key, instructions
//!         to the caller ┘      └──▶ inbox
//! ```
//!
//! * Every exchange takes along the acknowledgements that wait ([`Outbox`]) when its turn has come; one that could
//!   not be said stays for the next exchange, whoever makes it. Of one instruction only one is under way at a
//!   time, and a later one waits for it.
//! * Instructions in any answer go to the inbox as well. When it is full they are not waited for: the server
//!   offers them until they are acknowledged.
//! * The server fails a whole batch for one item. Where datum and acknowledgements went together, or several
//!   acknowledgements, they are said again apart, so that one kind never holds up the other. An acknowledgement
//!   that fails alone leaves the outbox, and its owner hears of it.
//! * After a change of the certificate the next exchange has new connections.
//!
//! It retries nothing else, and tells the clock the server's time as every call does.

use std::{
    collections::HashSet,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use rustls::client::ResolvesClientCert;
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::{
    Acknowledgement,
    answer::{self, Cause, Heard, InError, Key, Received},
    arrival, json,
    outbox::Outbox,
};
use crate::{
    clock::Clock,
    config::settings::SolarNet,
    domain::{Datum, InstructionId, NodeId},
    net::{Incoming, Net, NetError, Outgoing, SendError},
    pulse::{Bound, Pulse},
    runtime::off_thread,
    solarnet::{Next, Priority, pace::Pace},
};

/// The most exchanges a second. One follows the other, so only a server that answers at once meets it.
const PER_SECOND: f64 = 20.0;

/// Requests that one attempt makes at most: refused for the certificate's dates, the probe, once more.
const ATTEMPTS: u32 = 3;

/// A body below this many bytes is not worth compressing.
const COMPRESS_FROM: usize = 200;

/// A body from this many bytes on takes long enough to compress that others should not wait for it.
const COMPRESS_BESIDE: usize = 16 * 1024;

/// Something to say.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// A datum, and when it was read.
    Datum(&'a Datum, i64),
    /// What this node says of an instruction.
    Ack(&'a Acknowledgement),
}

/// What came of an exchange.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exchanged {
    /// The datum, of those that were said, whose keys the answer names: the server has them.
    pub stored: HashSet<Key>,
    /// The instructions of which the server heard the state; those of others that went along, too.
    pub acknowledged: Vec<InstructionId>,
    /// The instructions that wait, as they came; null for none.
    pub instructions: Value,
}

/// The client. Cheap to clone; clones share connections, pace and outbox.
#[derive(Debug, Clone)]
pub struct SolarIn {
    shared: Arc<Shared>,
    pulse: Pulse,
}

#[derive(Debug)]
struct Shared {
    url: String,
    node: NodeId,
    timeout: Duration,
    clock: Clock,
    identity: Arc<dyn ResolvesClientCert>,
    changed: watch::Receiver<u64>,
    connections: Mutex<Connections>,
    pace: Pace,
    outbox: Mutex<Outbox>,
    /// Something that was being said is over.
    over: Notify,
    inbox: mpsc::Sender<(Instant, Value)>,
}

/// Connections, and which certificate they were made with.
#[derive(Debug)]
struct Connections {
    net: Net,
    of: u64,
}

impl SolarIn {
    /// Talks to `solarnet.in_url` for `node`, as whoever `identity` is at that moment; `changed` says when it is
    /// another.
    ///
    /// # Errors
    ///
    /// If the client cannot be made.
    pub fn new(
        solarnet: &SolarNet,
        node: NodeId,
        identity: Arc<dyn ResolvesClientCert>,
        changed: watch::Receiver<u64>,
        clock: Clock,
        inbox: mpsc::Sender<(Instant, Value)>,
    ) -> Result<Self, NetError> {
        let (ca_file, timeout) = (solarnet.ca_file.as_ref(), solarnet.timeout);
        let net = Net::with_identity(ca_file, timeout, clock.clone(), identity.clone())?;
        let connections = Connections { net, of: *changed.borrow() };
        let shared = Shared {
            url: format!("{}/bulkCollector.do", solarnet.in_url),
            node,
            timeout,
            clock,
            identity,
            changed,
            connections: Mutex::new(connections),
            pace: Pace::new(PER_SECOND),
            outbox: Mutex::default(),
            over: Notify::new(),
            inbox,
        };
        Ok(Self { shared: Arc::new(shared), pulse: Pulse::unheard() })
    }

    /// The same for a task, whose pulse shows its exchanges.
    #[must_use]
    pub fn for_task(&self, pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), ..self.clone() }
    }

    /// Says nothing more of an instruction that is to be spoken of anew. Returns once nothing of it is under way.
    pub async fn hush(&self, id: InstructionId) {
        self.with_outbox(|outbox| outbox.forget(id));
        let longest = Bound::Within(self.shared.timeout * ATTEMPTS);
        let _waiting = self.pulse.enter("waiting for another call to the server", longest);
        loop {
            let over = self.shared.over.notified();
            if !self.with_outbox(|outbox| outbox.is_being_said(id)) {
                return;
            }
            over.await;
        }
    }

    /// Says all of `items` and hears what the server has to say. Nothing to say is a poll.
    ///
    /// # Errors
    ///
    /// If the server did not answer, or refused. With `Internal` one of the datum may be to blame, or, where no
    /// datum were said, one of the acknowledgements, unless it is the server itself.
    pub async fn exchange(&self, items: &[Item<'_>]) -> Result<Exchanged, InError> {
        let (mut datum, mut own) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Datum(said, unix_ms) => datum.push((*said, *unix_ms)),
                Item::Ack(said) => own.push(*said),
            }
        }
        self.turn().await?;
        for said in &own {
            self.hush(said.id).await;
        }
        let saying = self.begin(|outbox| {
            own.iter().for_each(|said| outbox.put((*said).clone()));
            outbox.begin()
        });
        let kinds = usize::from(!datum.is_empty()) + saying.words.len();
        match self.say(&datum, &saying.words).await {
            Err(error) if error.cause == Cause::Internal && kinds > 1 => {
                let words = saying.words.clone();
                drop(saying);
                self.say_apart(&datum, &words, &own).await
            }
            Err(error) => {
                if let (Next::Content, [only]) = (error.next(), saying.words.as_slice()) {
                    self.with_outbox(|outbox| outbox.settle(only));
                }
                Err(error)
            }
            exchanged => exchanged,
        }
    }

    /// The datum together, then every acknowledgement alone. The caller's result is that of its own items.
    async fn say_apart(
        &self,
        datum: &[(&Datum, i64)],
        acknowledgements: &[Acknowledgement],
        own: &[&Acknowledgement],
    ) -> Result<Exchanged, InError> {
        let mut all = Exchanged::default();
        let mut failed = None;
        if !datum.is_empty() {
            self.turn().await?;
            match self.say(datum, &[]).await {
                Ok(exchanged) => all = exchanged,
                Err(error) if error.next() == Next::Content => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        let is_own = |said: &Acknowledgement| own.iter().any(|own| own.id == said.id);
        for said in acknowledgements {
            self.turn().await?;
            let saying = self.begin(|outbox| outbox.begin_alone(said));
            if saying.words.is_empty() {
                // Heard by another exchange, or another word has taken its place.
                continue;
            }
            match self.say(&[], &saying.words).await {
                Ok(exchanged) => {
                    all.acknowledged.extend(exchanged.acknowledged);
                    all.instructions = exchanged.instructions;
                }
                Err(error) if error.next() == Next::Content => {
                    self.with_outbox(|outbox| outbox.settle(said));
                    if datum.is_empty() && is_own(said) {
                        failed = Some(error);
                    }
                }
                // The others stay for the next exchange.
                Err(error) => {
                    let own_left = datum.is_empty() && acknowledgements.iter().any(is_own);
                    failed = failed.or(own_left.then_some(error));
                    break;
                }
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// One request and its answer.
    async fn say(
        &self,
        datum: &[(&Datum, i64)],
        acknowledgements: &[Acknowledgement],
    ) -> Result<Exchanged, InError> {
        let heard = self.post(body(datum, acknowledgements)).await?;
        let Heard { mut stored, acknowledged, instructions, .. } = heard;
        let said: HashSet<Key> =
            datum.iter().map(|(datum, unix_ms)| key(datum, *unix_ms)).collect();
        stored.retain(|key| said.contains(key));
        let mut settled = Vec::new();
        for said in acknowledgements {
            let names = |(id, state): &(InstructionId, Option<_>)| {
                *id == said.id && state.is_none_or(|state| state == said.state)
            };
            if acknowledged.iter().any(names) {
                self.with_outbox(|outbox| outbox.settle(said));
                settled.push(said.id);
            }
        }
        if instructions.as_array().is_some_and(|list| !list.is_empty()) {
            arrival::deliver(&self.shared.inbox, &instructions);
        }
        Ok(Exchanged { stored, acknowledged: settled, instructions })
    }

    /// Waits until a request may be made, if one can be.
    async fn turn(&self) -> Result<(), InError> {
        let shared = &self.shared;
        if shared.url.starts_with("https:") && !shared.identity.has_certs() {
            return Err(InError::of(Cause::Identity, "there is no certificate".to_owned()));
        }
        shared.pace.turn(Priority::Bulk, &self.pulse).await;
        Ok(())
    }

    /// Takes words from the outbox to say them.
    fn begin(&self, take: impl FnOnce(&mut Outbox) -> Vec<Acknowledgement>) -> Saying<'_> {
        Saying { words: self.with_outbox(take), solarin: self }
    }

    async fn post(&self, json: String) -> Result<Heard, InError> {
        let shared = &self.shared;
        let net = self.net()?;
        let request = request(shared.url.clone(), json).await;
        let longest = Bound::Within(shared.timeout * ATTEMPTS);
        let _calling = self.pulse.enter("calling the server", longest);
        let sent = match net.send(&request).await {
            Err(SendError::CertificateDates(_)) if net.probe_date(&shared.url).await => {
                net.send(&request).await
            }
            sent => sent,
        };
        let incoming = sent.map_err(|error| {
            let (cause, detail) = match error {
                SendError::CertificateDates(detail) | SendError::Tls(detail) => {
                    (Cause::Tls, detail)
                }
                SendError::OwnCertificate(detail) => (Cause::Identity, detail),
                SendError::Unreachable(detail)
                | SendError::TooLong(detail)
                | SendError::Content(detail) => (Cause::Unreachable, detail),
            };
            InError::of(cause, detail)
        })?;
        self.read(&incoming)
    }

    fn read(&self, incoming: &Incoming) -> Result<Heard, InError> {
        let now = self.shared.clock.signing_now();
        let received = Received {
            status: incoming.status,
            body: &incoming.body,
            retry_after: incoming.header("retry-after"),
            rate_limit_retry_after: incoming.header("x-sn-rate-limit-retry-after"),
            now,
        };
        let heard = answer::read(&received, self.shared.node);
        heard.inspect_err(|error| {
            let not_before = error.refusal.as_ref().and_then(|refusal| refusal.retry_after);
            if let Some(wait) = not_before.and_then(|at| (at - now).to_std().ok()) {
                self.shared.pace.block(wait);
            }
        })
    }

    /// Connections of the certificate that counts now.
    fn net(&self) -> Result<Net, InError> {
        let connections = &self.shared.connections;
        let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
        let now = *self.shared.changed.borrow();
        if connections.of != now {
            let renewed = connections.net.renewed();
            let net = renewed.map_err(|error| InError::of(Cause::Tls, error.to_string()))?;
            *connections = Connections { net, of: now };
        }
        Ok(connections.net.clone())
    }

    fn with_outbox<T>(&self, f: impl FnOnce(&mut Outbox) -> T) -> T {
        f(&mut self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Words that are being said until this is dropped.
struct Saying<'a> {
    solarin: &'a SolarIn,
    words: Vec<Acknowledgement>,
}

impl Drop for Saying<'_> {
    fn drop(&mut self) {
        self.solarin.with_outbox(|outbox| outbox.over(&self.words));
        self.solarin.shared.over.notify_waiters();
    }
}

/// The server's key of a datum.
#[must_use]
pub fn key(datum: &Datum, unix_ms: i64) -> Key {
    Key { source: datum.source.as_str().to_owned(), unix_ms }
}

/// Acknowledgements first: the server applies them as it reads.
fn body(datum: &[(&Datum, i64)], acknowledgements: &[Acknowledgement]) -> String {
    let mut body = String::from("[");
    for acknowledgement in acknowledgements {
        json::push_acknowledgement(&mut body, acknowledgement);
        body.push(',');
    }
    for (datum, unix_ms) in datum {
        json::push_datum(&mut body, datum, *unix_ms);
        body.push(',');
    }
    if body.ends_with(',') {
        body.pop();
    }
    body.push(']');
    body
}

/// A long body is compressed beside the runtime, which reads the meters: a full batch takes a small processor a
/// good part of a second.
async fn request(url: String, json: String) -> Outgoing {
    if json.len() < COMPRESS_BESIDE {
        return compressed(url, json);
    }
    off_thread(move || compressed(url, json)).await
}

fn compressed(url: String, json: String) -> Outgoing {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut headers = vec![
        header("Content-Type", "application/json;charset=UTF-8"),
        header("Accept", "application/json"),
    ];
    let mut body = Bytes::from(json);
    if body.len() >= COMPRESS_FROM {
        headers.push(header("Content-Encoding", "gzip"));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&body).expect("memory is always written");
        body = gzip.finish().expect("memory is always written").into();
    }
    Outgoing { method: "POST", url, headers, body }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
