//! A session with a broker that does what no good one does. There is no network, so that the time is the test's.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::{advance, timeout},
};

use super::*;

const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long there had been no connection before.
const TROUBLE: Duration = Duration::from_secs(320);

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(3600);

const TERMS: Terms = Terms { in_flight: 20, max_packet: None, keep_alive_secs: None };

struct Nobody;

impl Surroundings for Nobody {
    async fn find_broker(&self) -> Result<BrokerUrl, String> {
        Err("nobody knows".to_owned())
    }

    async fn learn_time(&self) {}
}

struct Takes;

impl Deliver for Takes {
    fn deliver(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// A session that has begun, and the broker's end of its line.
struct Bench {
    handle: Handle,
    status: watch::Receiver<Status>,
    serving: JoinHandle<(Session<Nobody>, Result<End, LinkError>)>,
    broker: DuplexStream,
}

impl Bench {
    async fn begin(terms: Terms) -> Self {
        let clock = Clock::system();
        let client = Client {
            link: "mqtt",
            id: "123".to_owned(),
            username: None,
            topic: "node/123/datum".to_owned(),
            broker: settings::Broker::default(),
            keep_alive: KEEP_ALIVE,
            in_flight: 20,
        };
        let tls = Tls::new("solarnet.ca_file", None, clock.clone(), None).expect("TLS");
        let (status, seen) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let (session, handle) =
            Session::new(client, tls, Nobody, clock, status, (&Pulse::unheard(), &stop));
        let topic = "node/123/instr".to_owned();
        let mut session = session.listening(Subscription { topic, deliver: Box::new(Takes) });
        session.reconnect.lost(session.now(), "unreachable", false, 0.5);
        advance(TROUBLE).await;
        let (ours, broker) = duplex(1024);
        let link = Link::over(Box::new(ours));
        let url = "mqtt://broker".parse().expect("an address");
        let serving = tokio::spawn(async move {
            let ended = session.serve(&url, link, terms).await;
            (session, ended)
        });
        Self { handle, status: seen, serving, broker }
    }

    /// The next packet of a kind; pings are answered meanwhile.
    async fn next(&mut self, wanted: u8) -> Vec<u8> {
        loop {
            let kind = self.broker.read_u8().await.expect("a connection");
            // Those of these tests are short.
            let mut body = vec![0; self.broker.read_u8().await.expect("a length").into()];
            self.broker.read_exact(&mut body).await.expect("a body");
            match kind >> 4 {
                kind if kind == wanted => return body,
                12 => self.say(b"\xd0\x00").await,
                _ => {}
            }
        }
    }

    async fn say(&mut self, packet: &[u8]) {
        self.broker.write_all(packet).await.expect("a connection");
    }

    async fn end(self) -> Option<LinkError> {
        timeout(LONG, self.serving).await.expect("an end").expect("no panic").1.err()
    }
}

const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;

#[tokio::test(start_paused = true)]
async fn a_broker_that_wants_fewer_pings_is_left_as_soon_when_it_falls_silent() {
    let bench = Bench::begin(Terms { keep_alive_secs: Some(65_535), ..TERMS }).await;
    let begun = Instant::now();
    assert_eq!(bench.end().await, Some(LinkError::Silent("the subscription")));
    assert!(begun.elapsed() < KEEP_ALIVE * 2, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_was_refused_is_asked_for_again_on_the_same_connection() {
    let mut bench = Bench::begin(TERMS).await;
    bench.next(SUBSCRIBE).await;
    bench.say(b"\x90\x04\x00\x01\x00\x87").await;
    let error =
        bench.status.wait_for(|status| status.last_error.is_some()).await.expect("a status");
    assert!(error.last_error.as_ref().is_some_and(|error| error.contains("node/123/instr")));
    drop(error);
    timeout(LONG, bench.next(SUBSCRIBE)).await.expect("another one");
    bench.say(b"\x90\x04\x00\x01\x00\x01").await;
    bench.status.wait_for(|status| status.last_error.is_none()).await.expect("a status");
    assert!(timeout(LONG, bench.next(SUBSCRIBE)).await.is_err(), "it is there");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_sends_and_does_not_read_costs_bounded_memory() {
    let mut bench = Bench::begin(TERMS).await;
    let messages = b"\x32\x06\x00\x01t\x00\x07\x00".repeat(1000);
    let mut sent = 0;
    while bench.broker.write_all(&messages).await.is_ok() {
        sent += 1000;
        assert!(sent < 1_000_000, "it took them all");
    }
    let error = bench.end().await;
    assert!(matches!(error, Some(LinkError::Garbled(_))), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn only_a_message_that_was_taken_ends_the_trouble() {
    for (reason, wait) in [(0x87, TROUBLE / 16), (0, Duration::from_secs(1))] {
        let mut bench = Bench::begin(TERMS).await;
        let handle = bench.handle.clone();
        let publishing = tokio::spawn(async move { handle.publish("x".into()).await });
        bench.next(PUBLISH).await;
        // What was never sent, and what was.
        bench.say(b"\x40\x02\x00\x63").await;
        bench.say(&[0x40, 3, 0, 2, reason]).await;
        assert_eq!(publishing.await.expect("no panic").is_ok(), reason == 0);
        drop(bench.broker);
        let (mut session, ended) = bench.serving.await.expect("no panic");
        assert!(matches!(ended, Err(LinkError::Closed(_))), "{ended:?}");
        let lost = session.reconnect.lost(session.now(), "unreachable", false, 0.5);
        assert_eq!(lost.wait.as_secs(), wait.as_secs());
    }
}
