//! The broker's side: what the collector makes of messages, and how instructions are pushed. Needs mosquitto.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{
    Authority, Broker, InstructionState, NewInstruction, NodeCertificate, NodeIdentity, Sim,
};
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use super::batch::{assert_stored, new, stream_of, vectors};
use super::{Bench, client_config};
use crate::{NODE, eventually, simple};

const TOPIC: &str = "node/123/datum";

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    hex::decode(vector[name].as_str().unwrap()).unwrap()
}

#[test]
fn messages_are_read_as_the_real_server_reads_them() {
    let accepted = vectors("accept_cbor").into_iter().map(|vector| (vector, "cbor_hex"));
    let written = vectors("datum").into_iter().flat_map(|vector| {
        [(vector.clone(), "cbor_mqtt_java_hex"), (vector, "cbor_mqtt_compact_hex")]
    });
    let streams = vectors("stream_datum").into_iter().flat_map(|vector| {
        [(vector.clone(), "cbor_mqtt_java_hex"), (vector, "cbor_mqtt_compact_hex")]
    });
    for (vector, name) in accepted.chain(written).chain(streams) {
        let sim = simple();
        sim.put_stream(stream_of(&vector["server_reads"]));
        sim.take_message(TOPIC, &bytes(&vector, name));
        let (id, mut reads) = (vector["id"].as_str().unwrap(), vector["server_reads"].clone());
        let has_tag = reads["t"].as_array().is_some_and(|tags| tags.contains(&json!("_v2")));
        if reads["timestamp"].is_null()
            || reads["sourceId"].is_null() && reads["streamId"].is_null()
        {
            // Here it is none without a time and a source.
            reads = json!({ "rejected": true });
        } else if name == "cbor_hex" && reads["streamId"].is_null() && !has_tag {
            // What a decoder reads is not what is stored then: the test below.
            assert_eq!(sim.dropped(), [], "{id}");
            continue;
        } else if let Some(tags) = reads.get_mut("t").and_then(Value::as_array_mut) {
            tags.retain(|tag| tag != "_v2");
        }
        assert_stored(&sim, &reads, id);
    }
}

#[test]
fn without_the_tag_numbers_that_are_no_integers_are_damaged() {
    let sim = simple();
    // {"created": 1000, "sourceId": "/m", "i": {"f": 12.5, "d": 230.5, "n": 7}}, as a float and as a fraction.
    let message = "a3 67 63726561746564 1903e8 68 736f757263654964 62 2f6d \
        61 69 a3 61 66 f94a40 61 64 c482201909 01 61 6e 07";
    sim.take_message(TOPIC, &hex::decode(message.replace(' ', "")).unwrap());
    let stored = sim.entry(NODE, "/m", 1000).unwrap().datum.to_json();
    assert_eq!(stored, json!({ "i": { "d": 23050, "f": 1250, "n": 7 } }));
    assert_eq!(sim.entry(NODE, "/m", 1000).unwrap().first_job, "mqtt");
}

#[test]
fn what_the_server_ignores_over_mqtt_comes_to_nothing() {
    let sim = simple();
    for (topic, hex) in [
        (TOPIC, "ff"),
        (TOPIC, "a1 67 63726561746564 1903e8"),
        ("node/9/datum", "a2 67 63726561746564 1903e8 68 736f757263654964 62 2f6d"),
        // {"instructionId": 1, "state": "No"}
        (TOPIC, "a2 6d 696e737472756374696f6e4964 01 65 7374617465 62 4e6f"),
        (TOPIC, "80"),
    ] {
        sim.take_message(topic, &hex::decode(hex.replace(' ', "")).unwrap());
    }
    assert_eq!((sim.ledger_count().datum, sim.dropped().len()), (0, 5));
}

#[test]
fn a_status_over_mqtt_replaces_the_results_there_were() {
    for vector in vectors("instruction_status") {
        for name in ["cbor_mqtt_hex", "cbor_mqtt_compact_hex"] {
            let sim = simple();
            let id = sim.add_instruction(new("Signal"));
            // The vectors' instruction is 12345.
            let wanted = hex::decode(format!("19{id:04x}")).unwrap();
            let message = bytes(&vector, name);
            let at = message.windows(3).position(|three| three == [0x19, 0x30, 0x39]).unwrap();
            let message = [&message[..at], &wanted, &message[at + 3..]].concat();
            for _ in 0..2 {
                sim.take_message(TOPIC, &message);
            }
            let told: Value =
                serde_json::from_str(vector["json_http_item"].as_str().unwrap()).unwrap();
            let instruction = sim.instruction(id).unwrap();
            assert_eq!(instruction.state.name(), told["state"]);
            let results = told.get("resultParameters").and_then(Value::as_object).cloned();
            assert_eq!(instruction.results, results, "{}", vector["id"]);
            assert_eq!(instruction.history.len(), 3, "it is written again");
        }
    }
}

/// A node's connection to the broker, MQTT 3.1.1.
struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    fn open(
        broker: &Broker,
        authority: &Authority,
        identity: Option<&NodeIdentity>,
    ) -> io::Result<Self> {
        let config = Arc::new(client_config(authority, identity));
        let name = "127.0.0.1".try_into().unwrap();
        let stream = TcpStream::connect(broker.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let tls = ClientConnection::new(config, name).unwrap();
        let mut connection = Self(StreamOwned::new(tls, stream));
        connection.0.write_all(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03123")?;
        assert_eq!(connection.packet()?, (0x20, vec![0, 0]));
        Ok(connection)
    }

    /// The first byte and the body of a packet.
    fn packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        let first = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.0.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((first, body))
    }

    fn send(&mut self, first: u8, parts: &[&[u8]]) {
        let body = parts.concat();
        assert!(body.len() < 0x80);
        self.0.write_all(&[&[first, body.len() as u8], &body[..]].concat()).unwrap();
    }

    /// With quality of service 1; gives back when the broker has it.
    fn publish(&mut self, topic: &str, payload: &[u8]) {
        let length = (topic.len() as u16).to_be_bytes();
        self.send(0x32, &[&length, topic.as_bytes(), &[0, 9], payload]);
        assert_eq!(self.packet().unwrap(), (0x40, vec![0, 9]));
    }

    /// What comes on the topic after this.
    fn subscribe(&mut self, topic: &str) -> u8 {
        let length = (topic.len() as u16).to_be_bytes();
        self.send(0x82, &[&[0, 5], &length, topic.as_bytes(), &[1]]);
        self.packet().unwrap().1[2]
    }

    /// The payload of the next message, and its acknowledgement.
    fn message(&mut self) -> Vec<u8> {
        let (first, body) = self.packet().unwrap();
        assert_eq!(first & 0xf6, 0x32);
        let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        self.send(0x40, &[&body[end..end + 2]]);
        body[end + 2..].to_vec()
    }
}

struct MqttBench {
    bench: Bench,
    broker: Broker,
    identity: NodeIdentity,
}

impl MqttBench {
    fn new() -> Self {
        let bench = Bench::of_two();
        let broker = Broker::start(&bench.sim, &bench.authority).unwrap();
        let wanted = NodeCertificate::around(NODE, Utc::now());
        let identity = bench.authority.issue_node(&wanted).unwrap();
        Self { bench, broker, identity }
    }

    fn sim(&self) -> &Sim {
        &self.bench.sim
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.broker, &self.bench.authority, Some(&self.identity)).unwrap()
    }
}

/// A datum with this time on source `/m`.
fn datum(ms: u16) -> Vec<u8> {
    let head =
        hex::decode("a467637265617465641900006169a1617701617481635f763268736f757263654964622f6d");
    let mut message = head.unwrap();
    message[10..12].copy_from_slice(&ms.to_be_bytes());
    message
}

#[test]
fn a_node_publishes_on_its_own_topic_and_on_no_other() {
    let bench = MqttBench::new();
    let mut foreign = bench.connect();
    foreign.publish("node/124/datum", &datum(999));
    assert!(foreign.packet().is_err(), "the broker ends the connection");
    bench.connect().publish(TOPIC, &datum(1000));
    eventually("the datum is there", || bench.sim().entry(NODE, "/m", 1000).is_some());
    assert_eq!((bench.sim().ledger_count().datum, bench.sim().dropped().len()), (1, 0));
    let session = &bench.broker.sessions()[0];
    assert_eq!(session.user, "UID=123,CN=node-123,OU=SolarNode,O=SolarNetwork");
    assert_eq!((session.client.as_str(), session.version, session.clean), ("123", 4, true));
    assert_eq!(session.keep_alive, 60);

    // Who has no certificate, or an old one, does not get as far as that.
    let (now, authority) = (Utc::now(), &bench.bench.authority);
    let day = TimeDelta::days(1);
    let old = NodeCertificate::between(NODE, now - day * 2, now - day);
    let old = authority.issue_node(&old).unwrap();
    assert!(Connection::open(&bench.broker, authority, None).is_err());
    assert!(Connection::open(&bench.broker, authority, Some(&old)).is_err());
    let stranger = Authority::new().unwrap();
    let foreign = stranger.issue_node(&NodeCertificate::around(NODE, now)).unwrap();
    assert!(Connection::open(&bench.broker, authority, Some(&foreign)).is_err());
}

#[test]
fn an_instruction_is_pushed_and_offered_over_http_when_that_did_not_help() {
    let bench = MqttBench::new();
    bench.sim().set_instruction_queuing(TimeDelta::seconds(2));
    let mut node = bench.connect();
    assert_eq!(node.subscribe("node/123/instr"), 1);
    let parameters = vec![("/switch/1".to_owned(), "1".to_owned())];
    let id =
        bench.sim().add_instruction(NewInstruction { parameters, ..new("SetControlParameter") });
    assert_eq!(bench.sim().instruction(id).unwrap().state, InstructionState::Queuing);
    assert!(bench.bench.post("[]")["data"].get("instructions").is_none());
    let message = node.message();
    assert!(message.starts_with(b"\xbf\x6cinstructions\x81\xa7\x62id\x01\x67created"));
    let text = String::from_utf8_lossy(&message).into_owned();
    assert!(text.contains("Queuing") && text.contains("/switch/1") && !text.contains("statusDate"));
    eventually("it is offered over HTTP", || {
        bench.bench.post("[]")["data"]["instructions"][0]["id"] == id
    });

    // Again, something that is none, and something that is too long.
    assert!(bench.broker.push(id));
    assert_eq!(node.message(), message);
    for payload in [vec![0xff], vec![b'x'; 300_000]] {
        assert!(bench.broker.publish("node/123/instr", &payload));
        assert_eq!(node.message(), payload);
    }

    bench.broker.hold_pushes(true);
    let held = bench.sim().add_instruction(new("Signal"));
    eventually("the held one is Queued", || {
        bench.sim().instruction(held).unwrap().state == InstructionState::Queued
    });
    bench.broker.kill();
    bench.broker.hold_pushes(false);
    bench.sim().set_instruction_queuing(TimeDelta::hours(1));
    let failed = bench.sim().add_instruction(new("Signal"));
    eventually("one that cannot be pushed is Queued", || {
        bench.sim().instruction(failed).unwrap().state == InstructionState::Queued
    });
}

#[test]
fn the_broker_goes_away_and_comes_back_on_its_port() {
    let bench = MqttBench::new();
    bench.connect().publish(TOPIC, &datum(1));
    for stop in [Broker::kill, Broker::stop] {
        stop(&bench.broker);
        assert!(
            !bench.broker.publish(TOPIC, b"")
                && TcpStream::connect(bench.broker.address()).is_err()
        );
        bench.broker.start_again().unwrap();
        bench.connect().publish(TOPIC, &datum(2));
    }
    eventually("both are there", || bench.sim().ledger_count().datum == 2);
    let told = bench.bench.node.get("/solarin/identity.do").data();
    assert_eq!(told["networkServiceURLs"]["solarin-mqtt"], bench.broker.url());
}

#[test]
fn what_is_shown_on_flux_is_recorded_and_what_is_retained_can_be_asked() {
    let bench = Bench::new();
    let broker = Broker::start_flux(&bench.sim, &bench.authority).unwrap();
    let identity = bench.authority.issue_node(&NodeCertificate::around(NODE, Utc::now())).unwrap();
    let mut node = Connection::open(&broker, &bench.authority, Some(&identity)).unwrap();
    let topic = "node/123/datum/0/m/1";
    let publish = |node: &mut Connection, first: u8, payload: &[u8]| {
        let length = (topic.len() as u16).to_be_bytes();
        node.send(first, &[&length, topic.as_bytes(), payload]);
    };
    publish(&mut node, 0x30, b"\xa1\x61w\x01");
    publish(&mut node, 0x31, b"\xa1\x61w\x02");
    eventually("both are seen", || broker.flux().len() == 2);
    assert_eq!((&*broker.flux()[0].topic, &broker.flux()[0].content), (topic, &json!({ "w": 1 })));
    let retained = broker.retained("node/123/#").unwrap();
    assert_eq!(retained.len(), 1);
    assert_eq!(retained[0].content, json!({ "w": 2 }));
    assert_eq!(bench.sim.ledger_count().datum, 0);
}
