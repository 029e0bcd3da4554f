//! As much of MQTT 3.1.1 as the collector speaks: it connects, subscribes, takes and gives messages, and pings.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;
const PINGRESP: u8 = 13;

/// Longer ones are nonsense.
const LENGTH_LIMIT: usize = 256 * 1024 * 1024;

/// What the broker says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Connected,
    Subscribed,
    Message {
        topic: String,
        payload: Vec<u8>,
        /// It was there before we subscribed.
        retained: bool,
        /// To be acknowledged, unless its quality of service is 0.
        id: Option<u16>,
    },
    Acknowledged(u16),
    Pong,
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![first];
    loop {
        let more = length >= 0x80;
        out.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A text with its length before it. All of ours are short.
fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// The session is kept by the broker unless it is to be clean. Keep-alive is a minute.
pub(super) fn connect(client: &str, clean: bool) -> Vec<u8> {
    let flags = [4, if clean { 2 } else { 0 }, 0, 60];
    packet(0x10, &[&text("MQTT"), &flags, &text(client)])
}

/// With quality of service 1.
pub(super) fn subscribe(topics: &[&str]) -> Vec<u8> {
    let topics: Vec<u8> = topics.iter().flat_map(|topic| [text(topic), vec![1]].concat()).collect();
    packet(0x82, &[&[0, 1], &topics])
}

/// With quality of service 1.
pub(super) fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    packet(0x32, &[&text(topic), &id.to_be_bytes(), payload])
}

pub(super) fn acknowledge(id: u16) -> Vec<u8> {
    packet(PUBACK << 4, &[&id.to_be_bytes()])
}

pub(super) fn ping() -> Vec<u8> {
    packet(0xc0, &[])
}

/// The next packet.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Packet> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let first = stream.read_u8().await?;
    let mut length = 0;
    for place in 0.. {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
        if place == 3 {
            return Err(wrong("a length of more than four bytes"));
        }
    }
    if length > LENGTH_LIMIT {
        return Err(wrong("a packet without measure"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let number = |at: usize| match body.get(at..at + 2) {
        Some([high, low]) => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(wrong("a packet that ends too soon")),
    };
    match first >> 4 {
        CONNACK if number(0)? & 0xff == 0 => Ok(Packet::Connected),
        CONNACK => Err(wrong("the broker does not want us")),
        SUBACK => Ok(Packet::Subscribed),
        PUBACK => Ok(Packet::Acknowledged(number(0)?)),
        PINGRESP => Ok(Packet::Pong),
        PUBLISH => {
            let end = 2 + usize::from(number(0)?);
            let topic = body.get(2..end).ok_or_else(|| wrong("a topic that ends too soon"))?;
            let topic = String::from_utf8_lossy(topic).into_owned();
            let id = if first & 0x06 == 0 { None } else { Some(number(end)?) };
            let from = if id.is_some() { end + 2 } else { end };
            Ok(Packet::Message {
                topic,
                payload: body.split_off(from),
                retained: first & 1 == 1,
                id,
            })
        }
        _ => Err(wrong("a packet that no broker sends")),
    }
}
