//! MQTT 5 packets as bytes. The only place that knows the crate `rumqttc`.
//!
//! Its packets are used and its event loop is not (decision 6). Two packets that the protocol allows and the
//! crate does not read are completed before it sees them:
//!
//! | Packet | As it comes | What is added |
//! | --- | --- | --- |
//! | DISCONNECT | without reason (0 bytes) or with the reason alone (1 byte) | reason 0; no properties |
//! | CONNACK of a broker without MQTT 5 | 2 bytes, 1 for "version refused" | no properties, 0x84 for the same |
//!
//! [`decode`] takes any bytes whatsoever and waits for no more than [`MAX_INCOMING`] of them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{
        self, Connect, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, Login,
        Packet, PubAck, PubAckReason, Publish, Subscribe, SubscribeReasonCode,
    },
};

/// The longest packet that is taken, said to the broker when connecting. An instruction with a certificate
/// in it has some ten kilobytes; the usual limit of clients, 8 KiB, would end the connection.
pub const MAX_INCOMING: u32 = 1 << 20;

/// Reason and properties' length, where a DISCONNECT has neither or only the first.
const DISCONNECT: u8 = 0xE0;
const CONNACK: u8 = 0x20;

/// "Version refused" in MQTT 3.1.1 and in MQTT 5.
const VERSION_REFUSED: (u8, u8) = (1, 0x84);

/// What we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Begins a session that remembers nothing.
    Connect {
        /// The client's ID.
        client_id: String,
        /// A user name, where the broker wants one.
        username: Option<&'static str>,
        /// The longest silence, in seconds.
        keep_alive_secs: u16,
    },
    /// Asks for the messages of a topic, each at least once.
    Subscribe {
        /// A number of our own, not 0.
        id: u16,
        /// The topic, without wildcards.
        topic: String,
    },
    /// A message.
    Publish {
        /// A number of our own by which it is acknowledged, not 0; `None` for one that is not.
        id: Option<u16>,
        /// Where to.
        topic: String,
        /// Whether the broker keeps it for later subscribers.
        retain: bool,
        /// What it says.
        payload: Bytes,
    },
    /// A message of the broker's was received.
    Acknowledge {
        /// Its number.
        id: u16,
    },
    /// Are you there?
    Ping,
    /// The end, as intended.
    Disconnect,
}

/// What the broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The session has begun.
    Connected(Terms),
    /// There will be no session.
    Refused(Refusal),
    /// The answer to a subscription.
    Subscribed {
        /// Its number.
        id: u16,
        /// Why there is none.
        refused: Option<Refusal>,
    },
    /// The answer to a message.
    Acknowledged {
        /// Its number.
        id: u16,
        /// Why the broker did not take it.
        refused: Option<Refusal>,
    },
    /// A message.
    Message {
        /// The number by which it is acknowledged, if it is to be.
        id: Option<u16>,
        /// What it says.
        payload: Bytes,
    },
    /// Yes.
    Pong,
    /// The broker ends the session.
    Disconnected(Refusal),
    /// What a broker does not say to a client like us.
    Unexpected,
}

/// What the broker allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Messages without acknowledgement.
    pub in_flight: u16,
    /// The longest packet it takes.
    pub max_packet: Option<u32>,
    /// The longest silence in seconds, where it wants another than ours.
    pub keep_alive_secs: Option<u16>,
}

impl Terms {
    /// The longest silence, where we want it to be `ours`: a broker that wants none, or a longer one, may be pinged
    /// as often all the same.
    #[must_use]
    pub(super) fn keep_alive(&self, ours: Duration) -> Duration {
        let asked = self.keep_alive_secs.filter(|secs| *secs > 0);
        asked.map_or(ours, |secs| ours.min(Duration::from_secs(secs.into())))
    }
}

/// Why the broker does not want something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its rules do not allow us that.
    NotAuthorized,
    /// It does not accept our ID or name.
    Identity(String),
    /// Another client with our ID has come.
    TakenOver,
    /// It does not speak MQTT 5.
    Version,
    /// Nobody listens to the topic, so it kept nothing.
    Unheard,
    /// Something else, in the protocol's words.
    Other(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAuthorized => f.write_str("not authorized"),
            Self::TakenOver => f.write_str("session taken over"),
            Self::Version => f.write_str("MQTT 5 not supported"),
            Self::Unheard => f.write_str("nobody listens there"),
            Self::Identity(words) | Self::Other(words) => f.write_str(words),
        }
    }
}

/// Bytes that are no packet, or one that is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// Bytes that a message takes beside its topic and payload, at most: type, length, both lengths within, number.
const OVERHEAD: usize = 1 + 4 + 2 + 2 + 1;

/// The length of a message's packet, at most.
#[must_use]
pub(super) fn publish_len(topic: &str, payload: &[u8]) -> usize {
    OVERHEAD + topic.len() + payload.len()
}

/// Appends a packet to what is to be sent.
///
/// # Errors
///
/// If it is longer than any packet can be.
pub(super) fn encode(packet: Outgoing, out: &mut BytesMut) -> Result<(), Malformed> {
    let packet = match packet {
        Outgoing::Connect { client_id, username, keep_alive_secs } => {
            let mut properties = ConnectProperties::new();
            properties.max_packet_size = Some(MAX_INCOMING);
            let connect = Connect {
                keep_alive: keep_alive_secs,
                client_id,
                clean_start: true,
                properties: Some(properties),
            };
            Packet::Connect(connect, None, username.map(|name| Login::new(name, "")))
        }
        Outgoing::Subscribe { id, topic } => {
            let mut subscribe = Subscribe::new(Filter::new(topic, QoS::AtLeastOnce), None);
            subscribe.pkid = id;
            Packet::Subscribe(subscribe)
        }
        Outgoing::Publish { id, topic, retain, payload } => {
            let qos = if id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
            let mut publish = Publish::new(topic, qos, payload, None);
            publish.pkid = id.unwrap_or(0);
            publish.retain = retain;
            Packet::Publish(publish)
        }
        Outgoing::Acknowledge { id } => Packet::PubAck(PubAck::new(id, None)),
        Outgoing::Ping => Packet::PingReq(v5::PingReq),
        Outgoing::Disconnect => {
            Packet::Disconnect(v5::Disconnect::new(DisconnectReasonCode::NormalDisconnection))
        }
    };
    // Some packets count from the beginning of their buffer.
    let mut alone = BytesMut::with_capacity(packet.size());
    packet.write(&mut alone, None).map_err(|error| Malformed(error.to_string()))?;
    out.unsplit(alone);
    Ok(())
}

/// Takes the first packet off what was received; `None` while it is not complete.
///
/// # Errors
///
/// If it is none, longer than [`MAX_INCOMING`], or against the protocol.
pub fn decode(received: &mut BytesMut) -> Result<Option<Incoming>, Malformed> {
    let length = match v5::check(received.iter(), Some(MAX_INCOMING)) {
        Ok(header) => header.frame_length(),
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed(error.to_string())),
    };
    let frame = received.split_to(length);
    let mut frame = match (&frame[..], length) {
        (&[DISCONNECT, 0], _) => BytesMut::from(&[DISCONNECT, 2, 0, 0][..]),
        (&[DISCONNECT, 1, reason], _) => BytesMut::from(&[DISCONNECT, 2, reason, 0][..]),
        (&[CONNACK, 2, flags, code], _) => {
            let code = if code == VERSION_REFUSED.0 { VERSION_REFUSED.1 } else { code };
            BytesMut::from(&[CONNACK, 3, flags, code, 0][..])
        }
        _ => frame,
    };
    let packet = Packet::read(&mut frame, None).map_err(|error| Malformed(error.to_string()))?;
    match of_packet(packet) {
        // The protocol forbids it, and nothing could ever be sent.
        Incoming::Connected(Terms { in_flight: 0, .. } | Terms { max_packet: Some(0), .. }) => {
            Err(Malformed("a Receive Maximum or Maximum Packet Size of 0".to_owned()))
        }
        incoming => Ok(Some(incoming)),
    }
}

fn of_packet(packet: Packet) -> Incoming {
    match packet {
        Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
            let properties = ack.properties.as_ref();
            Incoming::Connected(Terms {
                in_flight: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
                max_packet: properties.and_then(|p| p.max_packet_size),
                keep_alive_secs: properties.and_then(|p| p.server_keep_alive),
            })
        }
        Packet::ConnAck(ack) => Incoming::Refused(match ack.code {
            ConnectReturnCode::NotAuthorized => Refusal::NotAuthorized,
            ConnectReturnCode::RefusedProtocolVersion
            | ConnectReturnCode::UnsupportedProtocolVersion => Refusal::Version,
            code @ (ConnectReturnCode::BadClientId
            | ConnectReturnCode::ClientIdentifierNotValid
            | ConnectReturnCode::BadUserNamePassword
            | ConnectReturnCode::Banned) => Refusal::Identity(words(&code)),
            code => Refusal::Other(words(&code)),
        }),
        Packet::SubAck(ack) => {
            let refused = ack.return_codes.into_iter().find_map(|code| match code {
                SubscribeReasonCode::Success(_) => None,
                SubscribeReasonCode::NotAuthorized => Some(Refusal::NotAuthorized),
                code => Some(Refusal::Other(words(&code))),
            });
            Incoming::Subscribed { id: ack.pkid, refused }
        }
        Packet::PubAck(ack) => {
            let refused = match ack.reason {
                PubAckReason::Success => None,
                // The broker has thrown it away.
                PubAckReason::NoMatchingSubscribers => Some(Refusal::Unheard),
                PubAckReason::NotAuthorized => Some(Refusal::NotAuthorized),
                reason => Some(Refusal::Other(words(&reason))),
            };
            Incoming::Acknowledged { id: ack.pkid, refused }
        }
        Packet::Publish(message) => {
            let id = (message.qos != QoS::AtMostOnce).then_some(message.pkid);
            Incoming::Message { id, payload: message.payload }
        }
        Packet::PingResp(_) => Incoming::Pong,
        Packet::Disconnect(end) => Incoming::Disconnected(match end.reason_code {
            DisconnectReasonCode::SessionTakenOver => Refusal::TakenOver,
            DisconnectReasonCode::NotAuthorized => Refusal::NotAuthorized,
            code => Refusal::Other(words(&code)),
        }),
        _ => Incoming::Unexpected,
    }
}

/// `ServerBusy` as `server busy`.
fn words(code: &impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Option<Incoming>, Malformed> {
        decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn connect_asks_for_a_clean_start_and_names_the_longest_packet() {
        let mut out = BytesMut::from(&b"before"[..]);
        let connect = Outgoing::Connect {
            client_id: "123".to_owned(),
            username: Some("solarnode"),
            keep_alive_secs: 60,
        };
        encode(connect, &mut out).expect("a packet");
        let expected = [
            b"before\x10\x20\x00\x04MQTT\x05\x82\x00\x3c".as_slice(),
            b"\x05\x27\x00\x10\x00\x00\x00\x03123\x00\x09solarnode",
        ];
        assert_eq!(&out[..], expected.concat());
    }

    #[test]
    fn a_message_that_wants_an_answer_has_a_number_and_another_one_has_none() {
        let publish = |id| {
            let mut out = BytesMut::new();
            let (topic, payload) = ("t".to_owned(), Bytes::from_static(b"xy"));
            let length = publish_len(&topic, &payload);
            encode(Outgoing::Publish { id, topic, retain: id.is_none(), payload }, &mut out)
                .expect("a packet");
            assert!(out.len() <= length, "{out:?}");
            out
        };
        assert_eq!(&publish(Some(7))[..], b"\x32\x08\x00\x01t\x00\x07\x00xy");
        assert_eq!(&publish(None)[..], b"\x31\x06\x00\x01t\x00xy");
    }

    #[test]
    fn an_end_is_understood_with_a_reason_alone_and_without_one() {
        let ended = |refusal| Ok(Some(Incoming::Disconnected(refusal)));
        assert_eq!(decoded(b"\xe0\x01\x8e"), ended(Refusal::TakenOver));
        assert_eq!(decoded(b"\xe0\x02\x8e\x00"), ended(Refusal::TakenOver));
        assert_eq!(decoded(b"\xe0\x01\x8b"), ended(Refusal::Other("server shutting down".into())));
        assert_eq!(decoded(b"\xe0\x00"), ended(Refusal::Other("normal disconnection".into())));
    }

    #[test]
    fn answers_say_what_was_refused() {
        let refused = |id, refused| Ok(Some(Incoming::Acknowledged { id, refused }));
        assert_eq!(decoded(b"\x40\x02\x00\x07"), refused(7, None));
        assert_eq!(decoded(b"\x40\x03\x00\x07\x10"), refused(7, Some(Refusal::Unheard)));
        assert_eq!(decoded(b"\x40\x03\x00\x07\x87"), refused(7, Some(Refusal::NotAuthorized)));
        let quota = Refusal::Other("quota exceeded".into());
        assert_eq!(decoded(b"\x40\x04\x00\x07\x97\x00"), refused(7, Some(quota)));
        let of_subscription = Incoming::Subscribed { id: 1, refused: Some(Refusal::NotAuthorized) };
        assert_eq!(decoded(b"\x90\x04\x00\x01\x00\x87"), Ok(Some(of_subscription)));
    }

    #[test]
    fn a_session_begins_on_the_brokers_terms() {
        let terms = Terms { in_flight: 10, max_packet: Some(2048), keep_alive_secs: Some(30) };
        let bytes = b"\x20\x0e\x00\x00\x0b\x21\x00\x0a\x27\x00\x00\x08\x00\x13\x00\x1e";
        assert_eq!(decoded(bytes), Ok(Some(Incoming::Connected(terms))));
        let terms = Terms { in_flight: u16::MAX, max_packet: None, keep_alive_secs: None };
        assert_eq!(decoded(b"\x20\x03\x00\x00\x00"), Ok(Some(Incoming::Connected(terms))));
        assert_eq!(decoded(b"\x20\x02\x00\x01"), Ok(Some(Incoming::Refused(Refusal::Version))));
        assert!(decoded(b"\x20\x06\x00\x00\x03\x21\x00\x00").is_err(), "no message at all");
        assert!(decoded(b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x00").is_err(), "no byte of any");
        let bad_id = Refusal::Identity("client identifier not valid".into());
        assert_eq!(decoded(b"\x20\x03\x00\x85\x00"), Ok(Some(Incoming::Refused(bad_id))));
    }

    #[test]
    fn the_shorter_keep_alive_counts_and_none_counts_as_ours() {
        let ours = Duration::from_secs(60);
        for (asked, secs) in [(None, 60), (Some(0), 60), (Some(30), 30), (Some(u16::MAX), 60)] {
            let terms = Terms { in_flight: 1, max_packet: None, keep_alive_secs: asked };
            assert_eq!(terms.keep_alive(ours).as_secs(), secs);
        }
    }

    #[test]
    fn a_packet_in_pieces_is_waited_for_and_one_without_end_is_not() {
        let mut received = BytesMut::from(&b"\x30\x06\x00\x01t\x00x"[..]);
        assert_eq!(decode(&mut received), Ok(None));
        received.extend_from_slice(b"y\xd0\x00");
        let message = Incoming::Message { id: None, payload: Bytes::from_static(b"xy") };
        assert_eq!(decode(&mut received), Ok(Some(message)));
        assert_eq!(decode(&mut received), Ok(Some(Incoming::Pong)));
        assert_eq!(decode(&mut received), Ok(None));
        assert!(decoded(b"\x30\xff\xff\xff\x7f").is_err(), "256 MiB");
        assert!(decoded(b"\x30\xff\xff\xff\xff\x7f").is_err(), "a length without end");
    }

    proptest! {
        #[test]
        fn any_bytes_are_packets_or_not_and_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut received = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut received) {}
        }

        #[test]
        fn a_complete_packet_is_never_waited_for(
            kind in 0u8..16, flags in 0u8..16, body in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = vec![kind << 4 | flags, u8::try_from(body.len()).expect("short")];
            bytes.extend(body);
            prop_assert_ne!(decoded(&bytes), Ok(None));
        }
    }
}
