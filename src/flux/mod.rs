//! SolarFlux, a live feed for dashboards: each datum once, as it is taken, to a broker of its own.
//!
//! ```text
//!  queue's thread ──Tap (never waits)─▶ Feed ──Handle::offer──▶ mqtt session ──QoS 0──▶ broker
//!                      │ full              │ not connected, or no room
//!                      └──────counted──────┘
//! ```
//!
//! It is a view, not storage: a datum that cannot be published now never is. Nobody waits for it, and
//! nothing else depends on it. What is left out is counted and shown.
//!
//! Without a time there is no datum for others to see, so those of a boot that has not learnt it yet are
//! left out as well.

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    domain::{Datum, NodeId, SourceId},
    mqtt::Handle,
    pulse::{Bound, Pulse},
    queue::{Queue, tap},
    solarin::cbor,
};

/// The user name that node clients have there.
pub const USERNAME: &str = "solarnode";

/// Datum that are looked at in one turn.
const AT_ONCE: usize = 32;

/// How the live feed stands, for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Datum given to the broker's session since the feed started.
    pub published: u64,
    /// Datum left out since the feed started: no connection, no room, or no time.
    pub left_out: u64,
}

/// Publishes what comes out of a tap.
pub struct Feed {
    /// Whose data this is.
    pub node: NodeId,
    /// Whether the broker keeps the last message of each source.
    pub retain: bool,
    /// Where the datum are.
    pub queue: Queue,
    /// The session with the broker.
    pub broker: Handle,
    /// Which time it is.
    pub clock: Clock,
    /// How it stands.
    pub status: watch::Sender<Status>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Feed {
    /// Runs until it is stopped.
    pub async fn run(self) {
        let stop = self.stop.clone();
        let mut datum = Vec::with_capacity(AT_ONCE);
        let mut status = Status::default();
        self.status.send_replace(status);
        let (tap, mut tapped) = tap();
        self.queue.tap(Some(tap)).await;
        loop {
            let waiting = self.pulse.enter("waiting for datum", Bound::Open);
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.queue.tap(None).await,
                count = tapped.recv_many(&mut datum, AT_ONCE) => {
                    // The tap goes with the queue, which is the last to stop.
                    if count == 0 {
                        return stop.cancelled().await;
                    }
                }
            }
            drop(waiting);
            for datum in datum.drain(..) {
                if self.publish(&datum) { status.published += 1 } else { status.left_out += 1 }
            }
            status.left_out += tapped.missed();
            self.status.send_replace(status);
        }
    }

    fn publish(&self, datum: &Datum) -> bool {
        let Some(unix_ms) = self.clock.place(datum.stamp) else { return false };
        let payload = Bytes::from(cbor::live(datum, unix_ms));
        self.broker.offer(topic(self.node, &datum.source), payload, self.retain)
    }
}

/// Where a datum goes: `0` says that it is no aggregate.
fn topic(node: NodeId, source: &SourceId) -> String {
    let source = source.as_str();
    format!("node/{node}/datum/0/{}", source.strip_prefix('/').unwrap_or(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Samples, Stamp};

    #[test]
    fn a_topic_has_the_source_without_one_leading_slash() {
        let node = NodeId::try_from(123).expect("a node");
        let of = |source: &str| topic(node, &source.parse().expect("a source"));
        assert_eq!(of("/site/meter/1"), "node/123/datum/0/site/meter/1");
        assert_eq!(of("meter"), "node/123/datum/0/meter");
        assert_eq!(of("//x"), "node/123/datum/0//x");
    }

    #[test]
    fn a_message_is_flat_and_keeps_private_properties_to_itself() {
        let number = |text: &str| text.parse().expect("a number");
        let datum = Datum {
            source: "/site/meter/1".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 1 },
            samples: Samples {
                instantaneous: vec![
                    ("watts".to_owned(), number("230.50")),
                    ("_raw".to_owned(), number("7")),
                ],
                accumulating: vec![("wattHours".to_owned(), number("41899999"))],
                status: vec![("opState".to_owned(), "Normal".to_owned())],
                tags: vec!["consumption".to_owned()],
            },
        };
        let read = cbor::decode(&cbor::live(&datum, 1_718_141_949_500)).expect("CBOR");
        let expected = serde_json::from_str::<serde_json::Value>(
            r#"{"created":1718141949500,"sourceId":"/site/meter/1","watts":230.5,
                "wattHours":41899999,"opState":"Normal","_v":2}"#,
        );
        assert_eq!(read, expected.expect("JSON"));
    }

    #[test]
    fn a_name_in_several_groups_is_said_once() {
        let one = |value: &str| vec![("x".to_owned(), value.parse().expect("a number"))];
        let mut datum = Datum {
            source: "/m".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 1 },
            samples: Samples {
                instantaneous: one("1"),
                accumulating: one("2"),
                ..Samples::default()
            },
        };
        // A map with a name twice is not read.
        let x = |datum: &Datum| cbor::decode(&cbor::live(datum, 1)).expect("CBOR")["x"].clone();
        assert_eq!(x(&datum), 2);
        datum.samples.status = vec![("x".to_owned(), "on".to_owned())];
        assert_eq!(x(&datum), "on");
    }
}
