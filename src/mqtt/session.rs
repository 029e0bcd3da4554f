//! The task that keeps a session with a broker: connects, serves, connects again.
//!
//! ```text
//!  address ──▶ open (TCP, TLS, CONNECT) ──▶ serve: subscribe, publish, acknowledge, ping
//!     ▲             │ failed                  │ lost           │ another certificate
//!     └── wait ◀────┴─────────────────────────┘                └──▶ open at once
//! ```
//!
//! * Whoever publishes is answered once: when the broker took the message, refused it, or the connection
//!   was lost before it did either. Nothing is sent again by itself; that is the publisher's business.
//! * While there is no connection whoever publishes hears that at once.
//! * Nothing that comes from the broker ends the task. What is not understood is told once and ends the
//!   connection, an oversized packet included; a message whose content is not understood ends nothing.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    dialogue::{Dialogue, Due},
    link::{Link, LinkError, Whom},
    packet::{self, Incoming, Outgoing, Terms},
    reconnect::Reconnect,
};
use crate::{
    clock::Clock,
    config::settings,
    domain::BrokerUrl,
    net::Tls,
    pulse::{Bound, Pulse},
};

/// Messages waiting for the session; whoever publishes waits beyond, or drops what may be dropped.
const REQUESTS: usize = 64;

/// Bytes waiting for the network before no more messages are taken.
const UNSENT: usize = 64 * 1024;

/// Between two looks for the broker's address.
const ADDRESS_EVERY: Duration = Duration::from_secs(60);

/// The state of a session that has no certificate to show.
const NO_CERTIFICATE: &str = "no_certificate";

/// Between two questions for the time, while nobody has told it.
const TIME_EVERY: Duration = Duration::from_secs(15);

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
        refusal: packet::Refusal,
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

/// How a session stands, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// `connected`, `connecting`, `waiting` (for the next attempt), `no_certificate` (waiting for one to be imported),
    /// or `stopped` (a person has to do something).
    pub state: &'static str,
    /// The broker, where it is known.
    pub broker: Option<String>,
    /// Since when it has been connected, or not.
    pub since: Option<DateTime<Utc>>,
    /// Connections that were made since the daemon started.
    pub connections: u64,
    /// Messages since the daemon started that the broker took, or that were sent and want no acknowledgement.
    pub published: u64,
    /// Messages that were received since the daemon started.
    pub received: u64,
    /// Why there is no connection, or what was refused on it.
    pub last_error: Option<String>,
}

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Request {
    topic: String,
    payload: Bytes,
    retain: bool,
    /// Who hears of it; without anybody it is sent once and not acknowledged.
    done: Option<oneshot::Sender<Result<(), PublishError>>>,
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

/// Takes what comes on the topic that is subscribed to.
pub trait Deliver: Send {
    /// Takes a message, or says why it cannot be understood.
    ///
    /// # Errors
    ///
    /// If it is none.
    fn deliver(&mut self, payload: &[u8]) -> Result<(), String>;
}

/// What a session asks of the world beside its broker.
pub trait Surroundings: Send + Sync {
    /// Where the broker is. Asked before each attempt.
    fn find_broker(&self) -> impl Future<Output = Result<BrokerUrl, String>> + Send;

    /// Asks somebody for the time: the broker's certificate is not valid at the one that is believed in.
    fn learn_time(&self) -> impl Future<Output = ()> + Send;
}

/// Who a client is to its broker.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it is called in the log: the section of the configuration that its broker has.
    pub link: &'static str,
    /// Its ID.
    pub id: String,
    /// Its name, where one is wanted.
    pub username: Option<&'static str>,
    /// Where its messages go that [`Handle::publish`] takes.
    pub topic: String,
    /// The broker.
    pub broker: settings::Broker,
    /// The longest silence.
    pub keep_alive: Duration,
    /// Messages without acknowledgement, at most.
    pub in_flight: u16,
}

/// A subscription and who gets its messages.
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// Who gets them.
    pub deliver: Box<dyn Deliver>,
}

/// The work of one session.
pub struct Session<S> {
    client: Client,
    tls: Tls,
    surroundings: Arc<S>,
    subscription: Option<Subscription>,
    /// Changes when another certificate is to be shown.
    certificate: Option<watch::Receiver<u64>>,
    clock: Clock,
    requests: mpsc::Receiver<Request>,
    /// Without anybody who publishes there is still somebody who listens.
    _sender: mpsc::Sender<Request>,
    connected: watch::Sender<bool>,
    status: watch::Sender<Status>,
    began: Instant,
    reconnect: Reconnect,
    garbled_told: bool,
    unsubscribed_told: bool,
    pulse: Pulse,
    stop: CancellationToken,
}

/// How serving ended.
enum End {
    Stopped,
    NewCertificate,
}

impl<S: Surroundings> Session<S> {
    /// A session that does nothing yet, and its handle.
    pub fn new(
        client: Client,
        tls: Tls,
        surroundings: S,
        clock: Clock,
        status: watch::Sender<Status>,
        (pulse, stop): (&Pulse, &CancellationToken),
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (connected, is_connected) = watch::channel(false);
        let topic = client.topic.clone();
        let handle = Handle {
            topic,
            requests: sender.clone(),
            connected: is_connected,
            status: status.subscribe(),
            pulse: Pulse::unheard(),
        };
        let session = Self {
            client,
            tls,
            surroundings: Arc::new(surroundings),
            subscription: None,
            certificate: None,
            clock,
            requests,
            _sender: sender,
            connected,
            status,
            began: Instant::now(),
            reconnect: Reconnect::default(),
            garbled_told: false,
            unsubscribed_told: false,
            pulse: pulse.clone(),
            stop: stop.clone(),
        };
        (session, handle)
    }

    /// The same with a topic to listen to.
    #[must_use]
    pub fn listening(self, subscription: Subscription) -> Self {
        Self { subscription: Some(subscription), ..self }
    }

    /// The same with a certificate that may change.
    #[must_use]
    pub fn following(self, certificate: watch::Receiver<u64>) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let url = tokio::select! {
                () = stop.cancelled() => return self.tell_down("stopped"),
                url = self.find() => url,
            };
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return self.tell_down("stopped"),
                opened = self.open(&url) => opened,
            };
            let ended = match ended {
                Ok((link, terms)) => self.serve(&url, link, terms).await,
                Err(error) => Err(error),
            };
            self.connected.send_replace(false);
            match ended {
                Ok(End::Stopped) => return self.tell_down("stopped"),
                Ok(End::NewCertificate) => {
                    let link = self.client.link;
                    info!(
                        event = "mqtt.certificate_changed",
                        link, "connecting with another certificate"
                    );
                }
                Err(error) => tokio::select! {
                    () = stop.cancelled() => return self.tell_down("stopped"),
                    () = self.wait_after(error) => {}
                },
            }
        }
    }

    /// Asks for the address until there is one, and a certificate where one is shown.
    async fn find(&mut self) -> BrokerUrl {
        let (mut told, mut missing_told) = (false, false);
        loop {
            let asking = self.pulse.enter("asking for the broker's address", Bound::Open);
            let found = refusing(&mut self.requests, self.surroundings.find_broker()).await;
            drop(asking);
            let link = self.client.link;
            let reason = match found {
                Ok(url) if url.secure && !self.tls.has_certificate() => {
                    let reason =
                        "no certificate: `solarnode-agent identity import FILE` installs one";
                    if !std::mem::replace(&mut missing_told, true) {
                        warn!(event = "mqtt.no_certificate", link, broker = %url, reason, "no connection to the broker without a certificate");
                    }
                    self.status.send_modify(|status| {
                        status.state = NO_CERTIFICATE;
                        status.broker = Some(url.to_string());
                        status.last_error = Some(reason.to_owned());
                    });
                    self.rest(ADDRESS_EVERY).await;
                    continue;
                }
                Ok(url) => return url,
                Err(reason) => reason,
            };
            if !std::mem::replace(&mut told, true) {
                warn!(event = "mqtt.address_unknown", link, reason, "no broker to connect to");
            }
            self.status.send_modify(|status| {
                status.state = "waiting";
                status.broker = None;
                status.last_error = Some(reason);
            });
            self.rest(ADDRESS_EVERY).await;
        }
    }

    async fn open(&mut self, url: &BrokerUrl) -> Result<(Link, Terms), LinkError> {
        if let Some(certificate) = &mut self.certificate {
            certificate.mark_unchanged();
        }
        self.status.send_modify(|status| {
            status.state = "connecting";
            status.broker = Some(url.to_string());
        });
        let whom = Whom {
            url: url.clone(),
            server_name: self.client.broker.server_name.clone(),
            client_id: self.client.id.clone(),
            username: self.client.username,
            keep_alive: self.client.keep_alive,
        };
        let _opening = self.pulse.enter("connecting to the broker", Bound::Open);
        refusing(&mut self.requests, Link::open(&whom, &self.tls)).await
    }

    async fn serve(
        &mut self,
        url: &BrokerUrl,
        mut link: Link,
        terms: Terms,
    ) -> Result<End, LinkError> {
        let asked = terms.keep_alive_secs.map(|secs| Duration::from_secs(secs.into()));
        // A broker that wants no keep-alive at all is pinged all the same.
        let keep_alive = asked.filter(|asked| !asked.is_zero()).unwrap_or(self.client.keep_alive);
        let in_flight = self.client.in_flight.min(terms.in_flight);
        let mut dialogue = Dialogue::new(self.now(), keep_alive, in_flight.into());
        if let Some(subscription) = &self.subscription {
            let id = dialogue.subscribe(self.now());
            link.push(Outgoing::Subscribe { id, topic: subscription.topic.clone() })?;
        }
        self.tell_connected(url);
        let mut requests = Vec::new();
        let asking = ask_for_time(self.surroundings.clone(), self.clock.clone());
        let mut asking = std::pin::pin!(asking);
        loop {
            while let Some(packet) = link.next()? {
                self.take(packet, &mut link, &mut dialogue)?;
            }
            let left = dialogue.next().saturating_sub(self.now());
            let room = if link.unsent() < UNSENT { dialogue.room() } else { 0 };
            let waiting = self.pulse.enter("waiting for messages", Bound::Within(left));
            tokio::select! {
                () = self.stop.cancelled() => {
                    link.close().await;
                    return Ok(End::Stopped);
                }
                () = changed(&mut self.certificate) => {
                    link.close().await;
                    return Ok(End::NewCertificate);
                }
                done = link.turn() => done?,
                () = &mut asking => {}
                _ = self.requests.recv_many(&mut requests, room), if room > 0 => {
                    for request in requests.drain(..) {
                        if send(request, self.began.elapsed(), terms, &mut link, &mut dialogue)? {
                            self.status.send_modify(|status| status.published += 1);
                        }
                    }
                }
                () = sleep(left) => match dialogue.due(self.began.elapsed()) {
                    Due::Ping => link.push(Outgoing::Ping)?,
                    Due::Silent(what) => return Err(LinkError::Silent(what)),
                    Due::Nothing => {}
                },
            }
            drop(waiting);
        }
    }

    fn take(
        &mut self,
        packet: Incoming,
        link: &mut Link,
        dialogue: &mut Dialogue<Tag>,
    ) -> Result<(), LinkError> {
        dialogue.received(self.now());
        match packet {
            Incoming::Acknowledged { id, refused } => {
                let Some(tag) = dialogue.acknowledged(id) else { return Ok(()) };
                self.reconnect.useful();
                if refused.is_none() {
                    self.status.send_modify(|status| status.published += 1);
                }
                tag.answer(refused);
            }
            Incoming::Message { id, payload } => {
                self.reconnect.useful();
                self.status.send_modify(|status| status.received += 1);
                // Whoever gets it has it before the broker hears so.
                self.deliver(&payload);
                if let Some(id) = id {
                    link.push(Outgoing::Acknowledge { id })?;
                    dialogue.sent(self.now());
                }
            }
            Incoming::Subscribed { refused, .. } => {
                dialogue.subscribed();
                match refused {
                    None => self.unsubscribed_told = false,
                    Some(refusal) => self.tell_unsubscribed(&refusal),
                }
            }
            Incoming::Pong => dialogue.pong(),
            Incoming::Disconnected(packet::Refusal::TakenOver) => return Err(LinkError::TakenOver),
            Incoming::Disconnected(refusal) => return Err(LinkError::Ended(refusal)),
            Incoming::Connected(_) | Incoming::Refused(_) | Incoming::Unexpected => {
                return Err(LinkError::Garbled("a packet out of place".into()));
            }
        }
        Ok(())
    }

    fn deliver(&mut self, payload: &[u8]) {
        let Some(subscription) = &mut self.subscription else { return };
        let Err(reason) = subscription.deliver.deliver(payload) else {
            self.garbled_told = false;
            return;
        };
        if !std::mem::replace(&mut self.garbled_told, true) {
            let (link, topic) = (self.client.link, &subscription.topic);
            warn!(
                event = "mqtt.message_garbled",
                link,
                topic,
                bytes = payload.len(),
                reason,
                "message not understood"
            );
        }
    }

    /// Waits until it is time for the next attempt, or there is another certificate to try with.
    async fn wait_after(&mut self, error: LinkError) {
        let error = match error {
            LinkError::Closed(_) if self.reconnect.closed(self.now()) => LinkError::Rival,
            error => error,
        };
        let (kind, taken_over) = (error.kind(), error == LinkError::TakenOver);
        let lost = self.reconnect.lost(self.now(), kind, taken_over, fastrand::f64());
        self.tell_lost(&error, lost.tell);
        if matches!(error, LinkError::Dates(_)) {
            let _asking = self.pulse.enter("asking for the time", Bound::Open);
            refusing(&mut self.requests, self.surroundings.learn_time()).await;
        }
        self.rest(lost.wait).await;
    }

    async fn rest(&mut self, wait: Duration) {
        let _waiting = self.pulse.enter("waiting to connect again", Bound::Within(wait));
        let waited = async {
            tokio::select! {
                () = sleep(wait) => {}
                () = changed(&mut self.certificate) => {}
            }
        };
        refusing(&mut self.requests, waited).await;
    }

    fn tell_connected(&mut self, url: &BrokerUrl) {
        let down = self.reconnect.connected(self.now());
        let link = self.client.link;
        if let Some(down) = down {
            info!(event = "mqtt.connected", link, broker = %url, down_secs = down.as_secs(), "connected to the broker");
        } else {
            debug!(link, broker = %url, "connected to the broker again");
        }
        let now = self.clock.trusted_now();
        self.status.send_modify(|status| {
            status.state = "connected";
            status.since = now;
            status.connections += 1;
            status.last_error = None;
        });
        self.connected.send_replace(true);
    }

    fn tell_lost(&mut self, error: &LinkError, tell: bool) {
        let (link, kind) = (self.client.link, error.kind());
        let needs_a_person = error.needs_a_person();
        let error = error.in_section(link);
        let broker = self.status.borrow().broker.clone();
        if !tell {
            debug!(link, error_kind = kind, error, "no connection to the broker");
        } else if needs_a_person {
            error!(
                event = "mqtt.stopped",
                link,
                broker,
                error_kind = kind,
                error,
                "no connection to the broker until somebody acts"
            );
        } else {
            warn!(
                event = "mqtt.disconnected",
                link,
                broker,
                error_kind = kind,
                error,
                "no connection to the broker"
            );
        }
        let now = self.clock.trusted_now();
        self.status.send_modify(|status| {
            if status.state == "connected" || status.since.is_none() {
                status.since = now;
            }
            status.state = if needs_a_person { "stopped" } else { "waiting" };
            status.last_error = Some(error);
        });
    }

    /// Publishing goes on without it.
    fn tell_unsubscribed(&mut self, refusal: &packet::Refusal) {
        let topic = self.subscription.as_ref().map_or("", |subscription| &subscription.topic);
        let reason = format!(
            "the broker refused the subscription to {topic}: {refusal}; its rules must let this node read it"
        );
        if !std::mem::replace(&mut self.unsubscribed_told, true) {
            let link = self.client.link;
            error!(
                event = "mqtt.subscription_refused",
                link, topic, reason, "instructions do not come over the broker"
            );
        }
        self.status.send_modify(|status| status.last_error = Some(reason));
    }

    fn tell_down(&self, state: &'static str) {
        self.connected.send_replace(false);
        self.status.send_modify(|status| {
            status.state = state;
            status.broker = None;
        });
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What is known of a message on its way.
struct Tag {
    topic: String,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Tag {
    fn answer(self, refused: Option<packet::Refusal>) {
        let Self { topic, done } = self;
        let result = match refused {
            None => Ok(()),
            Some(packet::Refusal::Unheard) => Err(PublishError::Unheard { topic }),
            Some(refusal) => Err(PublishError::Refused { topic, refusal }),
        };
        // Who does not wait any more does not want to know.
        drop(done.send(result));
    }
}

/// Sends a message; says whether that is all there is to it, as it wants no acknowledgement.
fn send(
    request: Request,
    now: Duration,
    terms: Terms,
    link: &mut Link,
    dialogue: &mut Dialogue<Tag>,
) -> Result<bool, LinkError> {
    let Request { topic, payload, retain, done } = request;
    let bytes = packet::publish_len(&topic, &payload);
    if let Some(most) = terms.max_packet.filter(|most| bytes > *most as usize) {
        if let Some(done) = done {
            drop(done.send(Err(PublishError::TooLong { bytes, most })));
        }
        return Ok(false);
    }
    let id = match done {
        // Nobody waits for it any more: it was not sent, and need not be.
        Some(done) if done.is_closed() => return Ok(false),
        Some(done) => Some(dialogue.publish(now, Tag { topic: topic.clone(), done })),
        None => {
            dialogue.sent(now);
            None
        }
    };
    link.push(Outgoing::Publish { id, topic, retain, payload })?;
    Ok(id.is_none())
}

/// Does something while there is no connection: whoever publishes hears so at once.
async fn refusing<T>(requests: &mut mpsc::Receiver<Request>, work: impl Future<Output = T>) -> T {
    let refuse = async {
        while let Some(request) = requests.recv().await {
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

/// A broker tells no time, and without one no reading is sent: somebody else is asked until it is known.
/// Never ends, so that it can stand beside what does.
async fn ask_for_time<S: Surroundings>(surroundings: Arc<S>, clock: Clock) {
    while clock.trusted_now().is_none() {
        surroundings.learn_time().await;
        sleep(TIME_EVERY).await;
    }
    pending().await
}

/// When there is another certificate; never, if there is none that could change.
async fn changed(certificate: &mut Option<watch::Receiver<u64>>) {
    if let Some(certificate) = certificate
        && certificate.changed().await.is_ok()
    {
        return;
    }
    pending().await
}
