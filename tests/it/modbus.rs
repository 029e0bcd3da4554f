//! Modbus TCP against pymodbus and mbpoll, which others wrote, and against answers made to mislead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    time::{Duration, Instant},
};

use rust_decimal::Decimal;
use serde_json::{Value, json};
use solarnode_agent::{
    cli::{Exit, read::Read},
    clock::Clock,
    config::settings::{
        Allow, Audit, Broker, Bus, Control, Encoding, Identity, Instructions, Link, Mqtt, Order,
        Phase, Proof, Property, Queue, Register, Scale, Select, Settings, SolarNet, Table, Unit,
        Upload, Via,
    },
    domain::{ControlWrite, Datum, Kind, WriteReport},
    modbus::{
        Channels, Poller, TcpLink, Wire, WriteJob,
        frame::{Answer, Data, Exception, Request},
        wire::{CallError, Discarded, LinkError, RequestError},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::support::modbus::{Pymodbus, Scripted};

/// More than anything takes that happens at all, even on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// How long is waited for what does not come.
const WAIT: Duration = Duration::from_millis(300);
/// How long is waited where another one answers in its place, which does come.
const FOREIGN: Duration = Duration::from_secs(2);

fn register(table: Table, address: u16, encoding: Encoding) -> Register {
    let (word_order, byte_order) = (Order::Big, Order::Big);
    Register { table, address, encoding, word_order, byte_order, select: Select::All }
}

fn property(name: &str, kind: Kind, register: Register) -> Property {
    let scale = Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None };
    let (invalid, tags) = (Vec::new(), Vec::new());
    Property { name: name.to_owned(), kind, register, scale, invalid, tags }
}

fn holding(name: &str, address: u16, encoding: Encoding) -> Property {
    property(name, Kind::Instantaneous, register(Table::Holding, address, encoding))
}

fn unit(id: u8, properties: Vec<Property>) -> Unit {
    Unit {
        id,
        source: format!("/unit/{id}").parse().expect("a source ID"),
        every: Duration::from_millis(200),
        phase: Phase::Spread,
        max_registers: 125,
        max_bits: 2000,
        max_gap: 8,
        timeout: SOON,
        retries: 0,
        pause: Duration::ZERO,
        properties: properties.into(),
        tags: vec!["site".to_owned()],
    }
}

fn bus(port: u16, units: Vec<Unit>) -> Bus {
    Bus {
        name: "bus".to_owned(),
        link: Link::Tcp { host: "127.0.0.1".to_owned(), port },
        pause: Duration::ZERO,
        connect_timeout: SOON,
        units,
    }
}

fn settings(bus: Bus) -> Settings {
    let url = || "http://127.0.0.1:1/none".to_owned();
    Settings {
        node: 1.try_into().expect("a node ID"),
        state_dir: "/nonexistent".into(),
        control_socket: "/nonexistent".into(),
        solarnet: SolarNet {
            user_url: url(),
            query_url: url(),
            in_url: url(),
            token: "none".parse().expect("a name"),
            sign_host: None,
            ca_file: None,
            requests_per_second: 0.5,
            timeout: SOON,
        },
        identity: Identity { renew: false, renew_before: SOON },
        mqtt: Mqtt { broker: Broker::default(), keep_alive: SOON },
        flux: None,
        upload: Upload {
            via: Via::Import,
            every: SOON,
            proof: Proof::Answer,
            in_flight: 1,
            fallback_after: None,
        },
        audit: Audit { token: None, settle: Duration::from_secs(15) },
        queue: Queue { limit_bytes: 1 << 20, at_risk: SOON },
        modbus: vec![bus],
        controls: Vec::new(),
        instructions: Instructions {
            enabled: false,
            poll_fastest: SOON,
            poll_slowest: SOON,
            max_age: SOON,
            result_source: None,
            allow: BTreeSet::new(),
        },
        repository: None,
        files: Vec::new(),
    }
}

/// `read --json` of the first unit: its exit code and what it printed.
fn read(port: u16, unit: Unit) -> (Exit, Value) {
    let command = Read { source: unit.source.to_string(), json: true, watch: false };
    let mut out = Vec::new();
    let exit = match command.run(&settings(bus(port, vec![unit])), &mut out) {
        Ok(exit) => exit,
        Err(failure) => failure.exit,
    };
    (exit, serde_json::from_slice(&out).expect("JSON"))
}

fn everything() -> Vec<Property> {
    let input = |name, address, encoding| {
        property(name, Kind::Accumulating, register(Table::Input, address, encoding))
    };
    let status = |name, register| property(name, Kind::Status, register);
    let mut tenth = holding("tenth", 0, Encoding::U16);
    tenth.scale.multiply = Decimal::new(1, 1);
    let mut absent = holding("absent", 10, Encoding::U16);
    absent.invalid = vec![65535.into()];
    let mut bits = holding("bits", 11, Encoding::U16);
    bits.register.select = Select::Mask(0x0F00);
    let mut swapped = holding("swapped", 4, Encoding::U32);
    swapped.register.word_order = Order::Little;
    vec![
        tenth,
        holding("signed", 1, Encoding::I16),
        holding("volts", 2, Encoding::F32),
        holding("long", 4, Encoding::U32),
        swapped,
        holding("huge", 6, Encoding::U64),
        absent,
        bits,
        status("serial", register(Table::Holding, 13, Encoding::Ascii(4))),
        input("energy", 104, Encoding::U32),
        status("on", register(Table::Coil, 3, Encoding::Bit)),
        property("off", Kind::Instantaneous, register(Table::Discrete, 3, Encoding::Bit)),
    ]
}

#[test]
fn a_unit_that_others_serve_is_read_exactly() {
    let server = Pymodbus::start();
    let (exit, mut datum) = read(server.port, unit(1, everything()));
    assert_eq!(exit, Exit::Ok);
    assert!(datum["created"].take().as_str().is_some_and(|created| created.ends_with('Z')));
    let text = r#"{
        "source": "/unit/1", "created": null,
        "i": {"tenth": 230.1, "signed": -5, "volts": 230.1, "long": 305419896, "swapped": 1450709556,
              "huge": 18446744073709551615, "bits": 2, "off": 0},
        "a": {"energy": 305419896}, "s": {"serial": "SN-0042", "on": "true"}, "t": ["site"],
        "failed": [{"property": "absent", "reason": "not available: the device sent 65535"}]
    }"#;
    assert_eq!(datum, serde_json::from_str::<Value>(text).expect("JSON"));
}

#[test]
fn mbpoll_reads_the_same_values() {
    let server = Pymodbus::start();
    for (table, name, first, count) in [
        (Table::Holding, "4", 0, 21),
        (Table::Input, "3", 100, 21),
        (Table::Coil, "0", 0, 8),
        (Table::Discrete, "1", 0, 8),
    ] {
        let encoding = match table {
            Table::Coil | Table::Discrete => Encoding::Bit,
            Table::Input | Table::Holding => Encoding::U16,
        };
        let one = |i| {
            property(&format!("p{i}"), Kind::Instantaneous, register(table, first + i, encoding))
        };
        let (_, datum) = read(server.port, unit(1, (0..count).map(one).collect()));
        let ours: Vec<u64> =
            (0..count).filter_map(|i| datum["i"][format!("p{i}")].as_u64()).collect();
        assert_eq!(ours, server.mbpoll(1, name, first, count), "{table:?}");
    }
}

#[test]
fn units_that_misbehave_are_named_and_end_with_69() {
    let server = Pymodbus::start();
    for (id, timeout, want) in [
        (2, WAIT, "no answer within 300 ms"),
        (3, FOREIGN, "no answer within 2000 ms, but unit 99 answered in its place"),
        (4, SOON, "the unit answered with exception 4 (server device failure)"),
        (5, WAIT, "no answer within 300 ms"),
    ] {
        let unit = Unit { timeout, ..unit(id, vec![holding("p", 0, Encoding::U16)]) };
        let (exit, datum) = read(server.port, unit);
        let reason = format!("{want} (function 3, holding 0 (40001))");
        assert_eq!(
            (exit, &datum["failed"]),
            (Exit::Unavailable, &json!([{"property": "p", "reason": reason}]))
        );
    }
}

#[test]
fn a_register_that_does_not_exist_costs_only_its_own_property() {
    let server = Pymodbus::start();
    let properties = (10..16).map(|a| holding(&format!("r{a}"), a, Encoding::U16)).collect();
    let (exit, datum) = read(server.port, unit(6, properties));
    assert_eq!(exit, Exit::Ok);
    assert_eq!(datum["i"].as_object().map(|i| i.len()), Some(5), "{datum}");
    assert_eq!(datum["failed"][0]["property"], "r12");
}

#[test]
fn a_source_that_is_not_configured_is_answered_with_those_that_are() {
    let settings = settings(bus(1, vec![unit(1, everything())]));
    let command = Read { source: "/unit/7".to_owned(), json: false, watch: false };
    let failure = command.run(&settings, &mut Vec::new()).expect_err("no such source");
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(failure.error.to_string(), "no source `/unit/7` is configured; known: /unit/1");
}

#[test]
fn people_see_values_with_their_place_in_both_notations() {
    let server = Pymodbus::start();
    let settings = settings(bus(
        server.port,
        vec![unit(6, vec![holding("volts", 2, Encoding::F32), holding("gone", 12, Encoding::U16)])],
    ));
    let command = Read { source: "/unit/6".to_owned(), json: false, watch: false };
    let mut out = Vec::new();
    assert_eq!(command.run(&settings, &mut out).expect("a datum"), Exit::Ok);
    let text = String::from_utf8(out).expect("text");
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "  volts  i  230.1  holding 2..3 (40003..40004)",
            "  gone   i      -  holding 12 (40013)",
            "  gone: the unit answered with exception 2 (illegal data address) (function 3, holding 12 (40013))",
        ]
    );
}

/// A bus as the daemon runs it.
struct Running {
    datum: mpsc::Receiver<Datum>,
    writes: mpsc::Sender<WriteJob>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), solarnode_agent::modbus::PollError>>,
}

impl Running {
    fn start(bus: &Bus, controls: &[Control]) -> Self {
        let (datum, datum_end) = mpsc::channel(1000);
        let (writes, writes_end) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let channels = Channels { datum, writes: writes_end, stop: stop.clone() };
        let wire = solarnode_agent::modbus::Carrier::of(bus);
        let poller = Poller::new(bus, controls, wire, Clock::system(), channels).expect("a plan");
        Self { datum: datum_end, writes, stop, task: tokio::spawn(Box::new(poller).run()) }
    }

    async fn write(&self, control: &Control, value: Decimal) -> WriteReport {
        let (reply, result) = oneshot::channel();
        let job = ControlWrite { control: control.id.clone(), value };
        self.writes.send((job, reply)).await.expect("a running task");
        timeout(SOON, result).await.expect("in time").expect("a result").expect("a report")
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = timeout(SOON, self.task).await.expect("in time").expect("no panic");
        assert!(ended.is_ok());
    }
}

fn control(id: &str, register: Register) -> Control {
    Control {
        id: id.parse().expect("a source ID"),
        bus: "bus".to_owned(),
        unit: 1,
        register,
        scale: Scale { multiply: Decimal::new(1, 1), offset: Decimal::ZERO, digits: None },
        timeout: SOON,
        tolerance: Decimal::ZERO,
        settle: Duration::from_secs(1),
        allow: Allow { min: Decimal::ZERO, max: Decimal::ONE_HUNDRED, every: Duration::ZERO },
        states: BTreeMap::new(),
        signals: BTreeMap::new(),
    }
}

#[tokio::test]
async fn neighbours_of_silent_and_foreign_units_are_read_on() {
    let server = Pymodbus::start();
    let one = || vec![holding("p", 0, Encoding::U16)];
    let units = [(1, SOON), (2, WAIT), (3, WAIT), (4, SOON), (6, SOON)];
    let units = units.map(|(id, timeout)| Unit { timeout, ..unit(id, one()) }).into();
    let mut running = Running::start(&bus(server.port, units), &[]);
    let mut seen = [0; 7];
    let started = Instant::now();
    while (seen[1] < 15 || seen[6] < 15) && started.elapsed() < SOON {
        let datum = timeout(SOON, running.datum.recv()).await.expect("in time").expect("a datum");
        let id = datum.source.as_str().trim_start_matches("/unit/").parse::<usize>().expect("ours");
        seen[id] += 1;
    }
    assert!(seen[1] >= 15 && seen[6] >= 15, "{seen:?}");
    assert_eq!(seen[2..=4], [0, 0, 0]);
    running.stop().await;
}

#[tokio::test]
async fn what_is_written_is_seen_by_mbpoll() {
    let server = Pymodbus::start();
    let mut coil = control("/coil", register(Table::Coil, 1, Encoding::Bit));
    coil.scale.multiply = Decimal::ONE;
    let single = control("/single", register(Table::Holding, 20, Encoding::I16));
    let float = control("/float", register(Table::Holding, 2, Encoding::F32));
    let controls = [coil.clone(), single.clone(), float.clone()];
    let running = Running::start(&bus(server.port, vec![unit(1, everything())]), &controls);

    let report = running.write(&coil, Decimal::ONE).await;
    assert_eq!(report, WriteReport { before: 0.into(), after: 1.into(), taken: true });
    let value = Decimal::new(-215, 1);
    let report = running.write(&single, value).await;
    assert_eq!(report, WriteReport { before: 0.into(), after: value, taken: true });
    let report = running.write(&float, Decimal::new(25, 2)).await;
    assert_eq!((report.after, report.taken), (Decimal::new(25, 2), true));
    running.stop().await;

    let (coils, single, float) = tokio::task::spawn_blocking(move || {
        (server.mbpoll(1, "0", 0, 3), server.mbpoll(1, "4", 20, 1), server.mbpoll(1, "4", 2, 2))
    })
    .await
    .expect("no panic");
    assert_eq!(coils, [1, 1, 1]);
    assert_eq!(single, [u64::from((-215_i16).cast_unsigned())]);
    assert_eq!(float, [0x4020, 0], "2.5");
}

const READ: Request<'_> = Request::Read { table: Table::Holding, address: 0, count: 1 };

fn link(port: u16) -> TcpLink {
    TcpLink::new("127.0.0.1", port, SOON)
}

async fn word(link: &mut TcpLink) -> Result<[u8; 2], CallError> {
    word_within(link, SOON).await
}

async fn word_within(link: &mut TcpLink, wait: Duration) -> Result<[u8; 2], CallError> {
    match link.call(1, &READ, wait).await? {
        Answer::Data(Data::Words(word)) => Ok(word.try_into().expect("one word")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next_one() {
    let (listener, port) = Scripted::listen().await;
    let server = async {
        let mut end = Scripted::accept(&listener).await;
        let first = end.request().await;
        let second = end.request().await;
        end.answer(first, 1, &[3, 2, 0, 1]).await;
        end.answer(second, 1, &[3, 2, 0, 2]).await;
        let third = end.request().await;
        end.answer(third, 1, &[3, 2, 0, 3]).await;
        end
    };
    let client = async {
        let mut link = link(port);
        assert!(matches!(
            word_within(&mut link, WAIT).await,
            Err(CallError::Request(RequestError::Silent { .. }))
        ));
        assert_eq!(word(&mut link).await, Ok([0, 2]));
        assert_eq!(link.take_late(), Some(1));
        assert_eq!(word(&mut link).await, Ok([0, 3]));
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn foreign_answers_are_discarded_and_waited_past() {
    let (listener, port) = Scripted::listen().await;
    let server = async {
        let mut end = Scripted::accept(&listener).await;
        let id = end.request().await;
        end.answer(id.wrapping_add(1), 1, &[3, 2, 0, 1]).await;
        end.answer(id, 2, &[3, 2, 0, 2]).await;
        end.answer(id, 1, &[4, 2, 0, 3]).await;
        end.answer(id, 1, &[3, 4, 0, 4, 0, 4]).await;
        end.answer(id, 1, &[3, 2, 0, 5]).await;
        let id = end.request().await;
        end.answer(id, 1, &[0x83, 2]).await;
        let id = end.request().await;
        end.answer(id, 7, &[3, 2, 0, 6]).await;
        end
    };
    let client = async {
        let mut link = link(port);
        assert_eq!(word(&mut link).await, Ok([0, 5]));
        let refused = word(&mut link).await.expect_err("a refusal");
        assert_eq!(refused.exception(), Some(Exception::ILLEGAL_ADDRESS));
        let foreign = RequestError::Foreign { after: FOREIGN, discarded: Discarded::Unit(7) };
        assert_eq!(word_within(&mut link, FOREIGN).await, Err(foreign.into()));
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn an_answer_in_single_bytes_is_put_together() {
    let (listener, port) = Scripted::listen().await;
    let server = async {
        let mut end = Scripted::accept(&listener).await;
        let [high, low] = end.request().await.to_be_bytes();
        for byte in [high, low, 0, 0, 0, 5, 1, 3, 2, 0xAB, 0xCD] {
            end.bytes(&[byte]).await;
            tokio::task::yield_now().await;
        }
        end
    };
    let mut link = link(port);
    let (_end, result) = tokio::join!(server, word(&mut link));
    assert_eq!(result, Ok([0xAB, 0xCD]));
}

#[tokio::test]
async fn what_is_not_modbus_ends_the_connection() {
    let (listener, port) = Scripted::listen().await;
    let mut link = link(port);
    let server = async {
        let mut end = Scripted::accept(&listener).await;
        end.request().await;
        end.bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        end
    };
    let (_end, result) = tokio::join!(server, word(&mut link));
    assert!(matches!(result, Err(CallError::Link(LinkError::NotModbus { .. }))), "{result:?}");
    assert!(
        matches!(word(&mut link).await, Err(CallError::Link(_))),
        "waits before it tries again"
    );
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_unnoticed() {
    let (listener, port) = Scripted::listen().await;
    let mut link = link(port);
    for round in 1..=3_u8 {
        let server = async {
            let mut end = Scripted::accept(&listener).await;
            let id = end.request().await;
            end.answer(id, 1, &[3, 2, 0, round]).await;
            // Dropped here: closed.
        };
        let ((), result) = tokio::join!(server, word(&mut link));
        assert_eq!(result, Ok([0, round]));
        // The runtime looks at its sockets when it has nothing else to do, as between two reads.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_dead_peer_gets_a_new_connection_after_three_requests() {
    let (listener, port) = Scripted::listen().await;
    let mut link = link(port);
    let mute = Scripted::accept(&listener);
    let (mute, first) = tokio::join!(mute, word_within(&mut link, WAIT));
    assert!(first.is_err());
    for _ in 0..2 {
        assert!(word_within(&mut link, WAIT).await.is_err());
    }
    let server = async {
        let mut end = Scripted::accept(&listener).await;
        let id = end.request().await;
        end.answer(id, 1, &[3, 2, 0, 9]).await;
        end
    };
    let (_end, result) =
        timeout(SOON, async { tokio::join!(server, word(&mut link)) }).await.expect("reconnects");
    assert_eq!(result, Ok([0, 9]));
    drop(mute);
}

#[tokio::test]
async fn while_nobody_listens_calls_fail_at_once_between_attempts() {
    let (listener, port) = Scripted::listen().await;
    drop(listener);
    let mut link = link(port);
    let first = word(&mut link).await.expect_err("nobody listens");
    assert!(!first.may_have_arrived());
    assert!(first.to_string().starts_with(&format!("could not connect to 127.0.0.1:{port}: ")));
    let again = TcpListener::bind(("127.0.0.1", port)).expect("the same port");
    again.set_nonblocking(true).expect("a flag");
    // However slow the machine is, the next attempt is not due.
    tokio::time::pause();
    for _ in 0..1000 {
        assert_eq!(word(&mut link).await.expect_err("still in back-off"), first);
    }
    assert!(again.accept().is_err(), "no connection is tried");
}

#[tokio::test]
async fn a_peer_that_hangs_up_on_every_request_is_not_called_back_at_once() {
    let (listener, port) = Scripted::listen().await;
    let mut link = link(port);
    let server = async {
        let mut end = Scripted::accept(&listener).await;
        end.request().await;
    };
    let ((), lost) = tokio::join!(server, word(&mut link));
    let lost = lost.expect_err("hung up");
    assert!(matches!(lost, CallError::Link(LinkError::Lost { .. })) && lost.may_have_arrived());
    let waiting = word(&mut link).await.expect_err("waits");
    assert!(!waiting.may_have_arrived(), "{waiting}: nothing was sent");
    assert!(timeout(WAIT, Scripted::accept(&listener)).await.is_err(), "no connection is tried");
}
