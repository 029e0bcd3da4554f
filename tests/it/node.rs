//! The ways in that a certificate opens, end to end: whatever the network does, every reading that was taken
//! arrives as it was read, and nothing is sent that the servers drop without a word.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;
use solarnet_sim::{Act, Fault, InstructionState, Misbehaviour, NewInstruction, Site, Unit};

use crate::support::{
    agent::{Agent, NODE, eventually, eventually_within, link, meter},
    ledger::Ledger,
    network::Network,
    wire::{Way, Wire},
};

const METER: u8 = 1;
const SOURCE: &str = "/site/meter";
const BULK: &str = "/solarin/bulkCollector.do";

/// A network, a meter, and an agent with a certificate that reads it five times a second.
struct Bench {
    network: Network,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new(network: Network, via: &str) -> Self {
        let config = network.config(via);
        Self::with(network, &config)
    }

    fn with(network: Network, config: &str) -> Self {
        let site = Site::start(vec![Unit::meter(METER)]).expect("a site");
        let units = link(&site) + &meter(METER, SOURCE, "200ms");
        let agent = Agent::new(&(config.to_owned() + &units));
        network.give_certificate(&agent);
        Self { network, site, agent }
    }

    fn arrived(&self, at_least: usize) {
        let arrived = || self.network.sim.ledger_count().datum >= at_least;
        eventually(&format!("{at_least} datum arrived"), arrived);
    }

    /// Lets the meter be read so often again.
    fn read_on(&self, times: u32) {
        let before = self.site.readings(METER);
        eventually("the meter is read", || self.site.readings(METER) >= before + times);
    }

    /// Waits until the queue has let go of everything, and compares the ledger with the meter.
    fn everything_arrived(&self) -> Value {
        self.site.set_fault(METER, Some(Fault::Silent));
        let readings = self.site.readings(METER);
        let settled = |status: &Value| {
            let count = self.network.sim.ledger_count().datum;
            status["queue"]["records"] == 0 && count >= readings as usize
        };
        let status = self.agent.status_when("everything arrived", settled);
        assert_eq!(status["queue"]["rejected"], 0);
        assert_eq!(status["queue"]["dropped"], 0);
        let ledger = Ledger::of(&self.network.sim);
        assert_eq!(ledger.readings(SOURCE), (1..=readings).collect());
        ledger.assert_only_readings(SOURCE, readings);
        ledger.assert_unchanged();
        status
    }

    /// The ways that the accepted datum came by.
    fn ways(&self) -> Vec<String> {
        let ledger = self.network.sim.ledger().into_iter();
        let mut ways: Vec<String> = ledger.map(|(_, entry)| entry.first_job).collect();
        ways.sort();
        ways.dedup();
        ways
    }
}

#[test]
fn over_https_readings_arrive_exact_and_leave_the_queue_by_their_answers() {
    let bench = Bench::new(Network::new(), "bulk");
    let daemon = bench.agent.start();
    bench.arrived(20);
    bench.everything_arrived();
    assert_eq!(bench.ways(), ["bulk"]);
    assert_eq!(bench.network.sim.dropped(), []);
    assert!(daemon.stop().success());
}

#[test]
fn no_answer_of_solarin_costs_a_reading() {
    let bench = Bench::new(Network::new(), "bulk");
    let _daemon = bench.agent.start();
    bench.arrived(2);
    let message = "Internal error".to_owned();
    for act in [
        Act::Status { status: 503 },
        Act::ProxyPage { status: 502 },
        Act::ProxyPage { status: 200 },
        Act::Garbage,
        Act::SuccessFalse { message },
        Act::SuccessWithoutData,
        Act::SuccessNonsense,
        Act::BatchTransient { groups: 0 },
        Act::BatchLosesEntries { entries: 1 },
        Act::CutBefore,
        Act::CutUpload { after: 10 },
        Act::CutAfter,
        Act::CutMidBody,
        Act::Slow { ms: 3_000 },
    ] {
        bench.network.sim.misbehave(Misbehaviour::new(BULK, act).method("POST").times(1));
    }
    let begun = bench.network.sim.ledger_count().datum;
    // One at a time, each after the agent has waited as long as it thinks fit.
    eventually_within(Duration::from_secs(90), "all of it has happened", || {
        bench.network.sim.ledger_count().datum > begun + 40
    });
    bench.everything_arrived();
}

#[test]
fn a_link_that_is_slow_and_breaks_off_anywhere_costs_no_reading() {
    let network = Network::new();
    let wire = Wire::to(network.solarin.address());
    let config = network.config_through(wire.address(), "bulk");
    let bench = Bench::with(network, &config);
    let _daemon = bench.agent.start();
    wire.delay(Duration::from_millis(100));
    wire.throttle(Some(20_000));
    bench.arrived(3);
    for (way, bytes) in [
        (Way::There, 0),
        (Way::There, 300),
        (Way::There, 2_000),
        (Way::Back, 100),
        (Way::Back, 1_500),
    ] {
        let connections = wire.connections();
        wire.cut_after(way, bytes);
        eventually("it was cut, and connected again", || wire.connections() > connections);
    }
    wire.hush(true);
    bench.read_on(15);
    wire.hush(false);
    bench.everything_arrived();
    assert_eq!(bench.network.sim.dropped(), []);
}

#[test]
fn over_mqtt_readings_arrive_exact() {
    let bench = Bench::new(Network::with_broker(), "mqtt");
    let daemon = bench.agent.start();
    bench.arrived(20);
    bench.everything_arrived();
    assert_eq!(bench.ways(), ["mqtt"]);
    assert_eq!(bench.network.sim.dropped(), []);
    let session = &bench.network.broker().sessions()[0];
    assert_eq!((session.client.as_str(), session.version, session.clean), ("123", 5, true));
    assert!(daemon.stop().success());
}

#[test]
fn a_broker_that_goes_away_and_comes_back_costs_no_reading() {
    let bench = Bench::new(Network::with_broker(), "mqtt");
    let _daemon = bench.agent.start();
    bench.arrived(5);
    bench.network.broker().stop();
    bench.read_on(10);
    bench.network.broker().start_again().expect("the broker");
    bench.everything_arrived();
    assert_eq!(bench.ways(), ["mqtt"]);
}

#[test]
fn while_the_broker_is_silent_readings_go_over_https_and_over_mqtt_when_it_is_back() {
    let network = Network::with_broker();
    let config = network.config("mqtt");
    let config = config.replace("via = \"mqtt\"", "via = \"mqtt\"\nfallback_after = \"1s\"");
    let bench = Bench::with(network, &config);
    let _daemon = bench.agent.start();
    bench.arrived(3);
    bench.network.broker().kill();
    eventually("readings go over HTTPS", || bench.ways() == ["bulk", "mqtt"]);
    bench.read_on(5);
    bench.network.broker().start_again().expect("the broker");
    let newest = || bench.network.sim.ledger().last().map(|(_, entry)| entry.first_job.clone());
    eventually("readings go over MQTT again", || newest().is_some_and(|way| way == "mqtt"));
    bench.everything_arrived();
}

/// It is pushed, lost, offered over HTTP, and pushed again when it is long done.
#[test]
fn an_instruction_is_obeyed_once_whichever_ways_it_comes() {
    let network = Network::with_broker();
    network.sim.set_instruction_queuing(TimeDelta::seconds(1));
    let bench = Bench::new(network, "mqtt");
    let _daemon = bench.agent.start();
    bench.arrived(2);
    let new = || NewInstruction {
        node: NODE,
        topic: "LoggingSetLevel".to_owned(),
        parameters: [("logger", "modbus"), ("level", "info")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..NewInstruction::default()
    };
    let sim = &bench.network.sim;
    let ended = |id: i64| {
        eventually("it is over", || sim.instruction(id).is_some_and(|one| one.state.is_final()));
    };
    let pushed = sim.add_instruction(new());
    ended(pushed);
    let history = sim.instruction(pushed).expect("known").history;
    assert!(history.iter().all(|(_, state)| *state != InstructionState::Queued), "{history:?}");

    bench.network.broker().hold_pushes(true);
    let lost = sim.add_instruction(new());
    ended(lost);
    bench.network.broker().hold_pushes(false);
    let before = sim.instruction(lost).expect("known").state;
    assert!(bench.network.broker().push(lost));
    bench.read_on(5);
    assert_eq!(sim.instruction(lost).expect("known").state, before);
    bench.everything_arrived();
    let failed = bench.network.sim.dropped();
    assert_eq!(failed, []);
}
