//! A node with its certificate under faults: readings and instructions at the same time, by MQTT and by HTTPS, while
//! links break and are slow, certificates are wrong, messages come twice or are too large, and the program is killed.

use std::{collections::BTreeMap, time::Duration};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{
    Act, Authority, Broker, Certificate, Fault, Instruction, InstructionState as State,
    Misbehaviour, NodeCertificate, Site, Table, Unit,
};

use crate::support::{
    agent::{Agent, Daemon, NODE, eventually, link, patient_meter},
    ledger::{Ledger, committed},
    network::Network,
    orders::{self, order},
    wire::{Way, Wire},
};

const BULK: &str = "/solarin/bulkCollector.do";
const METER: u8 = 1;
const RELAY: u8 = 3;
const SOURCE: &str = "/site/meter";
const SETPOINT: &str = "/site/setpoint";

/// A meter that is read five times a second, a register that instructions write, and links that can be cut.
struct Bench {
    network: Network,
    site: Site,
    to_solarin: Wire,
    to_broker: Option<Wire>,
    agent: Agent,
}

impl Bench {
    fn mqtt() -> Self {
        Self::new(Network::with_broker(), "mqtt", "")
    }

    fn bulk() -> Self {
        Self::new(Network::new(), "bulk", "")
    }

    fn new(network: Network, via: &str, more: &str) -> Self {
        let relay = Unit::new(RELAY).with(Table::Holding, 10, &[200]);
        let site = Site::start(vec![Unit::meter(METER), relay]).expect("a site");
        let to_solarin = Wire::to(network.solarin.address());
        let to_broker = (via == "mqtt").then(|| Wire::to(network.broker().address()));
        let mut config = network.config_through(to_solarin.address(), via);
        if let Some(wire) = &to_broker {
            config = config.replace("[upload]", "[upload]\nfallback_after = \"3s\"");
            config +=
                &format!("\n[mqtt]\nurl = \"mqtts://{}\"\nkeep_alive = \"5s\"\n", wire.address());
        }
        let setpoint = format!(
            r#"
[[control]]
id = "{SETPOINT}"
settle = "500ms"
timeout = "30s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "holding", address = 10 }}
allow = {{ min = 0, max = 1000, every = "0s" }}
"#
        );
        let allow = "[instructions]\nallow = [\"SystemRestart\"]";
        let config = config.replace("[instructions]", allow);
        let units = link(&site) + &patient_meter(METER, SOURCE, "200ms");
        let agent = Agent::new(&(config + &units + &setpoint + more));
        network.sim.set_instruction_queuing(TimeDelta::seconds(1));
        Self { network, site, to_solarin, to_broker, agent }
    }

    fn with_certificate(self) -> Self {
        self.network.give_certificate(&self.agent);
        self
    }

    /// The link that readings and instructions go over.
    fn wire(&self) -> &Wire {
        self.to_broker.as_ref().unwrap_or(&self.to_solarin)
    }

    fn set(&self, value: u16) -> i64 {
        self.add("SetControlParameter", SETPOINT, &value.to_string())
    }

    fn add(&self, topic: &str, name: &str, value: &str) -> i64 {
        self.network.sim.add_instruction(order(topic, &[(name, value)]))
    }

    fn get(&self, id: i64) -> Instruction {
        self.network.sim.instruction(id).expect("an instruction")
    }

    fn ended(&self, id: i64) -> State {
        orders::ended(&self.network.sim, id).state
    }

    /// How often this value was written to the device.
    fn writes(&self, value: u16) -> usize {
        self.site.writes(RELAY).iter().filter(|write| write.values == [value]).count()
    }

    /// An instruction that nothing may keep from being carried out, once.
    fn is_carried_out(&self, id: i64, value: u16) {
        assert_eq!(self.ended(id), State::Completed, "{value}: {:?}", self.get(id));
        assert_eq!(self.writes(value), 1, "{value}");
    }

    /// One with more parameters than are read.
    fn is_declined_once(&self, daemon: &Daemon, id: i64) {
        assert_eq!(self.ended(id), State::Declined);
        let results = Value::Object(self.get(id).results.expect("results"));
        assert_eq!(results["code"], "parameters", "{results}");
        let id = format!("instruction_id={id} ");
        assert_eq!(daemon.lines_with(&["instruction.declined", &id]).len(), 1);
    }

    fn fresh_readings_arrive(&self) {
        let read = self.site.readings(METER);
        eventually("a fresh reading arrives", || {
            Ledger::of(&self.network.sim).readings(SOURCE).iter().any(|number| *number > read)
        });
    }

    fn arrived(&self) -> usize {
        Ledger::of(&self.network.sim).readings(SOURCE).len()
    }

    /// The ledger's questions, and that nothing waits any more; gives the outcomes by instruction.
    fn everything_arrived(&self) -> BTreeMap<String, Value> {
        self.site.set_fault(METER, Some(Fault::Silent));
        let newest = self.site.readings(METER);
        // Before it is queued nothing waits, too.
        eventually("the newest reading arrives", || {
            Ledger::of(&self.network.sim).readings(SOURCE).contains(&newest)
        });
        self.agent.until_nothing_waits();
        assert!(self.to_broker.is_none() || self.network.broker().until_taken());
        let ledger = Ledger::of(&self.network.sim);
        ledger.assert_has_all(committed(&self.agent).values());
        ledger.assert_only_readings(SOURCE, self.site.readings(METER));
        ledger.assert_unchanged();
        assert_eq!(self.network.sim.dropped(), []);
        let rows = self.network.sim.ledger();
        let outcomes = rows.iter().filter(|(key, _)| key.source == SETPOINT);
        let mut by_instruction = BTreeMap::new();
        for (_, entry) in outcomes {
            let datum = entry.datum.to_json();
            let id = datum["s"]["instruction"].as_str().expect("an outcome").to_owned();
            assert_eq!(by_instruction.insert(id, datum["s"].clone()), None, "two outcomes of one");
        }
        by_instruction
    }
}

/// On a live connection, while an instruction is pushed, carried out and answered between readings.
fn cut_in_the_middle(bench: &Bench, cuts: &[(Way, u64)]) {
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    // Long enough for a cut to fall between the beginning and the end.
    bench.site.set_fault(RELAY, Some(Fault::Slow(60)));
    for (value, (way, bytes)) in (100..).zip(cuts) {
        let connections = bench.wire().connections();
        bench.wire().cut_after(*way, *bytes);
        let id = bench.set(value);
        bench.is_carried_out(id, value);
        eventually("it was cut", || bench.wire().connections() > connections);
    }
    // Slow, and silent for a moment, as a link that loses packets.
    bench.wire().delay(Duration::from_millis(100));
    bench.wire().throttle(Some(8_000));
    let id = bench.set(50);
    bench.wire().hush(true);
    let read = bench.site.readings(METER);
    eventually("the meter is read on", || bench.site.readings(METER) >= read + 8);
    bench.wire().hush(false);
    bench.is_carried_out(id, 50);
    bench.wire().delay(Duration::ZERO);
    bench.wire().throttle(None);
    let outcomes = bench.everything_arrived();
    assert_eq!(outcomes.len(), cuts.len() + 1, "{outcomes:?}");
    let read = bench.site.readings(METER);
    assert_eq!(Ledger::of(&bench.network.sim).readings(SOURCE), (1..=read).collect());
    assert!(daemon.stop().success());
}

#[test]
fn over_mqtt_a_link_that_breaks_off_anywhere_costs_no_instruction_and_does_none_twice() {
    let there = [1, 150, 600].map(|bytes| (Way::There, bytes));
    let back = [1, 200].map(|bytes| (Way::Back, bytes));
    cut_in_the_middle(&Bench::mqtt().with_certificate(), &[&there[..], &back].concat());
}

#[test]
fn over_https_a_link_that_breaks_off_anywhere_costs_no_instruction_and_does_none_twice() {
    let there = [1, 700].map(|bytes| (Way::There, bytes));
    let back = [1, 300].map(|bytes| (Way::Back, bytes));
    cut_in_the_middle(&Bench::bulk().with_certificate(), &[&there[..], &back].concat());
}

/// Killed at random moments, with links and servers that come and go, and instructions all the time.
fn killed_at_random(bench: &Bench) {
    let seed = std::env::var("KILL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("KILL_SEED={seed} kills at the same moments again");
    let mut random = fastrand::Rng::with_seed(seed);
    let (sim, wire) = (&bench.network.sim, bench.wire());
    let (mut known, mut orders) = (BTreeMap::new(), Vec::new());
    bench.site.set_fault(RELAY, Some(Fault::Slow(60)));
    for value in 100..106 {
        let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
        orders.push((bench.set(value), value));
        match random.u8(..6) {
            0 => wire.cut_after(Way::Back, random.u64(..4000)),
            1 => wire.cut_after(Way::There, random.u64(..4000)),
            2 => wire.delay(Duration::from_millis(random.u64(..100))),
            3 => bench.to_solarin.refuse(true),
            4 => sim.misbehave(Misbehaviour::new(BULK, Act::CutAfter).times(2)),
            _ => sim.misbehave(Misbehaviour::new(BULK, Act::DuplicateInstruction).times(5)),
        }
        // Random moments are what is being tested, not guesses at how long something takes.
        std::thread::sleep(Duration::from_millis(random.u64(100..2000)));
        daemon.kill();
        wire.delay(Duration::ZERO);
        bench.to_solarin.refuse(false);
        sim.behave();
        if bench.agent.state_dir().join("queue").exists() {
            known.extend(committed(&bench.agent));
        }
    }
    bench.site.set_fault(RELAY, None);
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    for (id, value) in &orders {
        let (state, writes) = (bench.ended(*id), bench.writes(*value));
        assert!(writes <= 1, "{value} was written {writes} times");
        assert!(state == State::Declined || writes == 1, "{value} was not written");
    }
    let outcomes = bench.everything_arrived();
    known.extend(committed(&bench.agent));
    Ledger::of(sim).assert_has_all(known.values());
    for (id, value) in &orders {
        let outcome = &outcomes[&id.to_string()];
        assert_eq!(outcome["outcome"], bench.get(*id).state.name(), "{value}: {outcome}");
    }
    assert!(daemon.stop().success());
}

#[test]
fn killed_at_random_over_mqtt_no_datum_and_no_instruction_is_lost_or_done_twice() {
    killed_at_random(&Bench::mqtt().with_certificate());
}

#[test]
fn killed_at_random_over_https_no_datum_and_no_instruction_is_lost_or_done_twice() {
    killed_at_random(&Bench::bulk().with_certificate());
}

/// Before the value is read, while it is written, while it is read back: the server says Executing at each.
#[test]
fn killed_between_executing_and_the_end_it_is_not_done_again_by_any_way() {
    for (bench, requests) in
        [(Bench::mqtt().with_certificate(), 1..=3), (Bench::bulk().with_certificate(), 2..=2)]
    {
        for request in requests {
            let value = 100 + u16::try_from(request).expect("few");
            let daemon = bench.agent.start();
            bench.site.set_fault(RELAY, Some(Fault::Slow(1500)));
            let before = bench.site.requests(RELAY);
            let id = bench.set(value);
            eventually("it is begun", || bench.site.requests(RELAY) >= before + request - 1);
            // Time enough to be killed in.
            bench.site.set_fault(RELAY, Some(Fault::Slow(20_000)));
            eventually("it is under way", || bench.site.requests(RELAY) >= before + request);
            daemon.kill();
            bench.site.set_fault(RELAY, None);
            let writes = bench.writes(value);
            assert_eq!(writes, usize::from(request > 1));
            // Told before it was begun; over MQTT the server takes it a moment later.
            eventually("it was told", || bench.get(id).state == State::Executing);

            bench.network.sim.set_instruction_state(id, State::Queued);
            let daemon = bench.agent.start();
            if bench.to_broker.is_some() {
                bench
                    .agent
                    .status_when("it listens", |status| status["mqtt"]["state"] == "connected");
                assert!(bench.network.broker().push(id));
            }
            assert_eq!(bench.ended(id), State::Declined);
            let results = Value::Object(bench.get(id).results.expect("results"));
            assert_eq!(results["code"], "may_have_happened", "{results}");
            assert_eq!(bench.writes(value), writes, "it is not done again");
            assert_eq!(daemon.events("instruction.uncertain").len(), 1);
            assert!(daemon.stop().success());
        }
    }
}

/// A message as the server would push it, of this content.
fn message(elements: &[Value]) -> Vec<u8> {
    json!({ "instructions": elements }).to_string().into_bytes()
}

#[test]
fn pushed_as_json_twice_or_too_large_each_is_carried_out_or_declined_once() {
    let bench = Bench::mqtt().with_certificate();
    let (sim, broker) = (&bench.network.sim, bench.network.broker());
    let topic = format!("node/{NODE}/instr");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();

    // As JSON, twice in one message, and once more as CBOR while it is being offered.
    sim.set_instruction_queuing(TimeDelta::seconds(60));
    broker.hold_pushes(true);
    let id = bench.set(21);
    let element = bench.get(id).to_json();
    assert!(broker.publish(&topic, &message(&[element.clone(), element.clone()])));
    bench.is_carried_out(id, 21);
    let way = bench.agent.ask_json(&["instruction", "show", &id.to_string(), "--json"]);
    assert_eq!(way["way"], "mqtt");
    assert!(broker.push(id) && broker.publish(&topic, &message(&[element])));
    sim.set_instruction_state(id, State::Queued);
    eventually("it is answered again", || bench.get(id).state.is_final());

    // A part that cannot be read, twice.
    let dateless = bench.add("SetControlParameter", SETPOINT, "23");
    let mut element = bench.get(dateless).to_json();
    element["instructionDate"] = json!("yesterday");
    assert!(broker.publish(&topic, &message(&[element.clone(), element])));
    bench.is_declined_once(&daemon, dateless);
    assert_eq!(bench.writes(23), 0);

    // Parameters of more than 64 KiB, as CBOR and as JSON, and what no packet may hold.
    broker.hold_pushes(false);
    let large = bench.add("SetControlParameter", SETPOINT, &"9".repeat(70_000));
    bench.is_declined_once(&daemon, large);
    assert!(broker.publish(&topic, &message(&[bench.get(large).to_json()])));
    broker.publish(&topic, &message(&[json!({ "id": 1, "topic": "x".repeat(2 << 20) })]));
    broker.publish(&topic, b"[{\"id\": 22, ");
    let id = bench.set(22);
    bench.is_carried_out(id, 22);
    bench.is_declined_once(&daemon, large);
    assert_eq!(daemon.events("mqtt.message_garbled").len(), 1);
    assert_eq!(daemon.events("mqtt.disconnected"), [""; 0]);
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn offered_twice_over_again_or_too_large_over_https_each_is_carried_out_or_declined_once() {
    let bench = Bench::bulk().with_certificate();
    let sim = &bench.network.sim;
    let daemon = bench.agent.start();
    sim.misbehave(Misbehaviour::new(BULK, Act::DuplicateInstruction));
    let large = bench.add("SetControlParameter", SETPOINT, &"9".repeat(70_000));
    let id = bench.set(21);
    bench.is_carried_out(id, 21);
    sim.behave();
    sim.misbehave(Misbehaviour::new(BULK, Act::ReplayInstruction).times(5));
    let id = bench.set(22);
    bench.is_carried_out(id, 22);
    bench.fresh_readings_arrive();
    assert_eq!((bench.writes(21), bench.writes(22)), (1, 1));
    bench.is_declined_once(&daemon, large);
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

/// What a server may show that it must not be trusted with.
fn wrong_certificates() -> [(&'static str, Option<Authority>, Certificate); 4] {
    let (now, day) = (Utc::now(), TimeDelta::days(1));
    let good = Certificate::around(now);
    let stranger = Authority::new().expect("an authority");
    [
        ("has expired", None, Certificate::between(now - day * 9, now - day)),
        ("not valid yet", None, Certificate::between(now + day, now + day * 9)),
        ("another authority", Some(stranger), good.clone()),
        ("another name", None, good.named("elsewhere.example")),
    ]
}

#[test]
fn over_https_a_server_that_is_not_trusted_gets_nothing_until_it_is() {
    let bench = Bench::bulk().with_certificate();
    let network = &bench.network;
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    let show = |authority: &Authority, wanted: &Certificate| {
        network.solarin.show(authority, wanted).expect("a certificate");
        bench.to_solarin.cut();
    };
    for (what, authority, wanted) in wrong_certificates() {
        show(authority.as_ref().unwrap_or(&network.authority), &wanted);
        let status = bench.agent.status_when(what, |status| {
            let error = status["upload"]["last_error"].as_str().unwrap_or_default();
            status["upload"]["state"] != "ok" && error.contains("certificate")
        });
        let posted = network.sim.count_requests("POST", BULK);
        let read = bench.site.readings(METER);
        eventually("readings are kept", || bench.site.readings(METER) >= read + 4);
        assert_eq!(network.sim.count_requests("POST", BULK), posted, "{what}: {status}");
        show(&network.authority, &Certificate::around(Utc::now()));
        bench.fresh_readings_arrive();
    }
    bench.everything_arrived();
    let read = bench.site.readings(METER);
    assert_eq!(Ledger::of(&network.sim).readings(SOURCE), (1..=read).collect());
    assert!(daemon.stop().success());
}

#[test]
fn a_broker_whose_certificate_begins_later_gets_nothing_until_it_has_another() {
    let bench = Bench::mqtt().with_certificate();
    let (now, day) = (Utc::now(), TimeDelta::days(1));
    let show = |from| {
        let broker = bench.network.broker();
        broker.stop();
        let wanted = Certificate::between(from, now + day * 9);
        broker.show(&bench.network.authority, &wanted).expect("a certificate");
        broker.start_again().expect("a broker");
    };
    show(now + day);
    let daemon = bench.agent.start();
    let status = bench.agent.status_when("it is not accepted", |status| {
        status["mqtt"]["last_error"].as_str().is_some_and(|error| error.contains("not valid now"))
    });
    assert_eq!(bench.network.broker().sessions(), [], "{status}");
    eventually("readings go over HTTPS meanwhile", || bench.arrived() > 0);
    show(now - day);
    bench.agent.status_when("it is accepted", |status| status["mqtt"]["state"] == "connected");
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn over_https_a_certificate_that_solarin_does_not_accept_stops_all_until_another_is_imported() {
    let bench = Bench::bulk().with_certificate();
    let (now, day) = (Utc::now(), TimeDelta::days(1));
    let early = NodeCertificate::between(NODE, now + day, now + day * 9);
    let expired = NodeCertificate::between(NODE, now - day * 9, now - day);
    let stranger = Authority::new().expect("an authority");
    let of_a_stranger = stranger.issue_node(&NodeCertificate::around(NODE, now)).expect("issued");
    let wrong = [bench.network.issue(&early), bench.network.issue(&expired), of_a_stranger];
    for (at_handshake, node) in [(false, 0), (true, 1), (false, 2), (true, 2)] {
        bench.network.solarin.refuse_at_handshake(at_handshake);
        bench.network.smuggle(&bench.agent, &wrong[node]);
        let daemon = bench.agent.start();
        let status = bench
            .agent
            .status_when("uploads stop", |status| status["upload"]["state"] == "stopped");
        let text = status["upload"]["waits_for"].as_str().expect("text");
        assert!(text.contains("identity check"), "{text}");
        assert!(daemon.stop().success());
    }
    assert_eq!(bench.arrived(), 0);
    let daemon = bench.agent.start();
    bench.network.give_certificate(&bench.agent);
    bench.fresh_readings_arrive();
    let read = bench.site.readings(METER);
    eventually("those of before come as well", || bench.arrived() >= read as usize);
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn a_live_feed_whose_link_falls_silent_holds_up_nothing() {
    let network = Network::with_broker();
    let flux = Broker::start_flux(&network.sim, &network.authority).expect("a broker");
    let wire = Wire::to(flux.address());
    let feed = format!("\n[flux]\nurl = \"mqtts://{}\"\n", wire.address());
    let bench = Bench::new(network, "mqtt", &feed).with_certificate();
    let daemon = bench.agent.start();
    eventually("readings are shown", || flux.flux().len() >= 3);
    wire.hush(true);
    for value in [21, 22] {
        let id = bench.set(value);
        bench.is_carried_out(id, value);
        bench.fresh_readings_arrive();
    }
    wire.cut();
    wire.hush(false);
    let shown = flux.flux().len();
    eventually("readings are shown again", || flux.flux().len() > shown);
    bench.everything_arrived();
    assert_eq!(daemon.events("upload.fallback"), [""; 0]);
    assert!(daemon.stop().success());
}

#[test]
fn a_restart_that_is_pushed_is_told_to_the_broker_first_and_not_done_again() {
    let bench = Bench::mqtt().with_certificate();
    let mut daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    bench.network.sim.set_instruction_queuing(TimeDelta::seconds(60));
    let id = bench.network.sim.add_instruction(order("SystemRestart", &[]));
    assert_eq!(daemon.wait().code(), Some(75));
    // It is gone: what still arrives from the broker was said before.
    assert_eq!(bench.ended(id), State::Completed);
    let daemon = bench.agent.start();
    bench.agent.status_when("it listens", |status| status["mqtt"]["state"] == "connected");
    let history = bench.get(id).history.len();
    assert!(bench.network.broker().push(id));
    eventually("it is answered again", || bench.get(id).history.len() > history);
    assert_eq!(bench.get(id).state, State::Completed);
    bench.fresh_readings_arrive();
    assert!(daemon.stop().success());
}
