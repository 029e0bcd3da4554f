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

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    dialogue::{Dialogue, Due},
    handle::{Handle, PublishError, Request, Requests, Tag},
    link::{Link, LinkError, Whom},
    packet::{self, Incoming, Outgoing, Terms},
    reconnect::Reconnect,
    report::{Report, Status},
};
use crate::{
    clock::Clock,
    config::settings,
    domain::BrokerUrl,
    net::Tls,
    pulse::{Bound, Pulse},
};

/// Bytes waiting for the network before no more messages are taken.
const UNSENT: usize = 64 * 1024;

/// Bytes waiting for the network after which the broker is left. Only answers to messages that it sends without
/// reading on come to so many.
const UNREAD: usize = 512 * 1024;

/// Between two looks for the broker's address.
const ADDRESS_EVERY: Duration = Duration::from_secs(60);

/// Between two questions for the time, while nobody has told it.
const TIME_EVERY: Duration = Duration::from_secs(15);

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
    requests: Requests,
    connected: watch::Sender<bool>,
    report: Report,
    began: Instant,
    reconnect: Reconnect,
    pulse: Pulse,
    stop: CancellationToken,
}

/// How serving ended.
#[derive(Debug)]
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
        let (connected, is_connected) = watch::channel(false);
        let (handle, requests) =
            Handle::new(client.topic.clone(), is_connected, status.subscribe());
        let session = Self {
            report: Report::new(client.link, clock.clone(), status),
            client,
            tls,
            surroundings: Arc::new(surroundings),
            subscription: None,
            certificate: None,
            clock,
            requests,
            connected,
            began: Instant::now(),
            reconnect: Reconnect::default(),
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
                () = stop.cancelled() => return self.ended(),
                url = self.find() => url,
            };
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return self.ended(),
                opened = self.open(&url) => opened,
            };
            let ended = match ended {
                Ok((link, terms)) => self.serve(&url, link, terms).await,
                Err(error) => Err(error),
            };
            self.connected.send_replace(false);
            match ended {
                Ok(End::Stopped) => return self.ended(),
                Ok(End::NewCertificate) => {
                    self.report.certificate_changed(self.tls.has_certificate());
                }
                Err(error) => tokio::select! {
                    () = stop.cancelled() => return self.ended(),
                    () = self.wait_after(error) => {}
                },
            }
        }
    }

    /// Asks for the address until there is one, and a certificate where one is shown.
    async fn find(&mut self) -> BrokerUrl {
        let (mut unknown_told, mut missing_told) = (false, false);
        loop {
            let asking = self.pulse.enter("asking for the broker's address", Bound::Open);
            let found = self.requests.refused_during(self.surroundings.find_broker()).await;
            drop(asking);
            match found {
                Ok(url) if url.secure && !self.tls.has_certificate() => {
                    let tell = !std::mem::replace(&mut missing_told, true);
                    self.report.no_certificate(&url, tell);
                }
                Ok(url) => return url,
                Err(reason) => {
                    let tell = !std::mem::replace(&mut unknown_told, true);
                    self.report.address_unknown(reason, tell);
                }
            }
            self.rest(ADDRESS_EVERY).await;
        }
    }

    async fn open(&mut self, url: &BrokerUrl) -> Result<(Link, Terms), LinkError> {
        if let Some(certificate) = &mut self.certificate {
            certificate.mark_unchanged();
        }
        self.report.connecting(url);
        let whom = Whom {
            url: url.clone(),
            server_name: self.client.broker.server_name.clone(),
            client_id: self.client.id.clone(),
            username: self.client.username,
            keep_alive: self.client.keep_alive,
        };
        let _opening = self.pulse.enter("connecting to the broker", Bound::Open);
        self.requests.refused_during(Link::open(&whom, &self.tls)).await
    }

    async fn serve(
        &mut self,
        url: &BrokerUrl,
        mut link: Link,
        terms: Terms,
    ) -> Result<End, LinkError> {
        let keep_alive = terms.keep_alive(self.client.keep_alive);
        let in_flight = self.client.in_flight.min(terms.in_flight);
        let mut dialogue = Dialogue::new(self.now(), keep_alive, in_flight.into());
        self.subscribe(&mut link, &mut dialogue)?;
        self.report.connected(url, self.reconnect.connected(self.now()));
        self.connected.send_replace(true);
        let mut requests = Vec::new();
        let asking = ask_for_time(self.surroundings.clone(), self.clock.clone());
        let mut asking = std::pin::pin!(asking);
        loop {
            while let Some(packet) = link.next()? {
                self.take(packet, &mut link, &mut dialogue)?;
            }
            if link.unsent() > UNREAD {
                return Err(LinkError::Garbled(
                    "messages without end, and it reads no answer".into(),
                ));
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
                () = self.requests.take(&mut requests, room), if room > 0 => {
                    for request in requests.drain(..) {
                        if send(request, self.began.elapsed(), terms, &mut link, &mut dialogue)? {
                            self.report.published();
                        }
                    }
                }
                () = sleep(left) => match dialogue.due(self.began.elapsed()) {
                    Due::Ping => link.push(Outgoing::Ping)?,
                    Due::Subscribe => self.subscribe(&mut link, &mut dialogue)?,
                    Due::Silent(what) => return Err(LinkError::Silent(what)),
                    Due::Nothing => {}
                },
            }
            drop(waiting);
        }
    }

    fn subscribe(&self, link: &mut Link, dialogue: &mut Dialogue<Tag>) -> Result<(), LinkError> {
        let Some(Subscription { topic, .. }) = &self.subscription else { return Ok(()) };
        let id = dialogue.subscribe(self.now());
        link.push(Outgoing::Subscribe { id, topic: topic.clone() })
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
                let Some(tag) = dialogue.acknowledged(self.now(), id) else { return Ok(()) };
                if refused.is_none() {
                    self.reconnect.useful();
                    self.report.published();
                }
                tag.answer(refused);
            }
            Incoming::Message { id, payload } => {
                self.reconnect.useful();
                // Whoever gets it has it before the broker hears so.
                if let Some(Subscription { topic, deliver }) = &mut self.subscription {
                    self.report.received(topic, payload.len(), deliver.deliver(&payload));
                }
                if let Some(id) = id {
                    link.push(Outgoing::Acknowledge { id })?;
                    dialogue.sent(self.now());
                }
            }
            Incoming::Subscribed { refused, .. } => {
                dialogue.subscribed(self.now(), refused.is_some());
                if let Some(Subscription { topic, .. }) = &self.subscription {
                    self.report.subscribed(topic, refused);
                }
            }
            Incoming::Pong => dialogue.pong(),
            Incoming::Disconnected(refusal) => return Err(LinkError::ended(refusal)),
            Incoming::Connected(_) | Incoming::Refused(_) | Incoming::Unexpected => {
                return Err(LinkError::Garbled("a packet out of place".into()));
            }
        }
        Ok(())
    }

    /// Waits until it is time for the next attempt, or there is another certificate to try with.
    async fn wait_after(&mut self, error: LinkError) {
        let error = match error {
            LinkError::Closed(_) if self.reconnect.closed(self.now()) => LinkError::Rival,
            error => error,
        };
        let (kind, taken_over) = (error.kind(), error == LinkError::TakenOver);
        let lost = self.reconnect.lost(self.now(), kind, taken_over, fastrand::f64());
        self.report.lost(&error, lost.tell);
        if matches!(error, LinkError::Dates(_)) {
            let _asking = self.pulse.enter("asking for the time", Bound::Open);
            self.requests.refused_during(self.surroundings.learn_time()).await;
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
        self.requests.refused_during(waited).await;
    }

    fn ended(&self) {
        self.connected.send_replace(false);
        self.report.stopped();
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
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

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
