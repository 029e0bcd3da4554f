//! A node with a certificate, over all that it may live through: from its invitation to its renewed certificate, by
//! either way in, and over a bad link. Every reading that was taken arrives as it was read, and nothing is sent
//! that the servers drop without a word.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{
    Fault, Instruction, InstructionState, NewInstruction, NodeCertificate, Site, Unit,
};

use crate::support::{
    agent::{Agent, NODE, eventually, link, patient_meter},
    ledger::Ledger,
    network::Network,
    orders::{self, order},
    wire::{Way, Wire},
};

const METER: u8 = 1;
const SOURCE: &str = "/site/meter";

/// A network, a meter, and an agent that reads it five times a second and has no certificate yet.
struct Bench {
    network: Network,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn with(network: Network, config: &str) -> Self {
        let site = Site::start(vec![Unit::meter(METER)]).expect("a site");
        let units = link(&site) + &patient_meter(METER, SOURCE, "200ms");
        let agent = Agent::new(&(config.to_owned() + &units));
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
            let arrived = Ledger::of(&self.network.sim).readings(SOURCE).len();
            status["queue"]["records"] == 0 && arrived >= readings as usize
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

    /// Did the newest datum come by this way?
    fn newest_came_by(&self, way: &str) -> bool {
        let ledger = self.network.sim.ledger();
        let readings = ledger.iter().filter(|(key, _)| key.source == SOURCE);
        readings.max_by_key(|(key, _)| key.ms).is_some_and(|(_, entry)| entry.first_job == way)
    }

    /// An instruction when it is Completed.
    fn done(&self, id: i64) -> Instruction {
        let instruction = orders::ended(&self.network.sim, id);
        assert_eq!(instruction.state, InstructionState::Completed);
        instruction
    }
}

/// Something that changes nothing at the site.
fn restful() -> NewInstruction {
    order("LoggingSetLevel", &[("logger", "modbus"), ("level", "info")])
}

/// Association, MQTT, HTTPS while the broker is gone, a pushed instruction and one over HTTPS, and a renewal that is
/// pushed through the broker; the daemon runs all the time.
#[test]
fn a_node_lives_from_its_invitation_to_its_renewed_certificate_without_a_restart() {
    let network = Network::with_broker();
    network.sim.set_instruction_queuing(TimeDelta::seconds(60));
    let config = network.config("mqtt");
    let config = config.replace("via = \"mqtt\"", "via = \"mqtt\"\nfallback_after = \"1s\"");
    let config = config.replace("[instructions]", "[instructions]\nallow = [\"LoggingSetLevel\"]");
    let bench = Bench::with(network, &(config + "\n[identity]\nrenew = true\n"));
    let (sim, broker) = (&bench.network.sim, bench.network.broker());
    let daemon = bench.agent.start();
    bench.read_on(3);
    assert_eq!(sim.ledger_count().datum, 0, "it is no node yet");

    let invitation = sim.invite(NODE, "user@example.com").expect("an invitation");
    let file = bench.agent.private_file("invitation", &invitation.text);
    let file = file.to_str().expect("text");
    bench.agent.ask(&["identity", "associate", "--yes", "--invitation-file", file]);
    bench.arrived(5);
    let session = &broker.sessions()[0];
    assert_eq!((session.client.as_str(), session.version, session.clean), ("123", 5, true));
    let pushed = bench.done(sim.add_instruction(restful()));
    assert!(pushed.history.iter().all(|(_, state)| *state != InstructionState::Queued));

    sim.set_instruction_queuing(TimeDelta::seconds(2));
    broker.kill();
    eventually("readings go over HTTPS", || bench.newest_came_by("bulk"));
    let fetched = bench.done(sim.add_instruction(restful()));
    assert!(fetched.history.iter().any(|(_, state)| *state == InstructionState::Queued));
    broker.start_again().expect("the broker");
    eventually("readings go over MQTT again", || bench.newest_came_by("mqtt"));

    let now = Utc::now();
    let day = TimeDelta::days(1);
    let wanted = NodeCertificate::between(NODE, now - day * 700, now + day * 30);
    let ending = bench.network.authority.issue_node(&wanted).expect("a certificate");
    let sessions = broker.sessions().len();
    bench.network.import(&bench.agent, &ending);
    eventually("it is renewed", || !daemon.events("identity.renewed").is_empty());
    // The one that was imported, and the renewed one on the connection that brought it.
    eventually("the broker sees both", || broker.sessions().len() >= sessions + 2);
    assert_eq!(daemon.events("mqtt.certificate_changed").len(), 2);
    let renewal = (1..).map_while(|id| sim.instruction(id));
    let renewal = renewal.filter(|one| one.topic == "RenewCertificate").last();
    bench.done(renewal.expect("the instruction that brings it").id);
    bench.read_on(5);
    bench.everything_arrived();
    assert_eq!(sim.dropped(), []);
    assert!(daemon.stop().success());
}

#[test]
fn over_https_a_link_that_is_slow_and_breaks_off_anywhere_costs_no_reading() {
    let network = Network::new();
    let wire = Wire::to(network.solarin.address());
    let config = network.config_through(wire.address(), "bulk");
    let bench = Bench::with(network, &config);
    bench.network.give_certificate(&bench.agent);
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
