//! Uploads over HTTPS with the node's certificate: whatever the server does, every reading that was taken
//! arrives as it was read, and nothing leaves the queue before an answer has named it.

use std::{collections::BTreeMap, ops::Deref, time::Duration};

use chrono::{TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{
    Act, Fault, InstructionState as State, Misbehaviour, NewInstruction, NodeCertificate,
    NodeIdentity, Site, Table, Unit,
};

use crate::{
    mqtt,
    support::{
        agent::{Agent, Daemon, NODE, eventually, link, patient_meter},
        ledger::{Committed, Ledger, committed},
        network::Network,
        orders::order,
    },
};

const BULK: &str = "/solarin/bulkCollector.do";
const METERS: [u8; 4] = [1, 2, 3, 4];
/// A source whose readings were all taken before.
const EARLIER: &str = "/site/earlier";
const RELAY: u8 = 9;

fn source(unit: u8) -> String {
    format!("/site/meter/{unit}")
}

/// SolarIn, a site and an agent that has no token.
struct Bench {
    network: Network,
    site: Site,
    agent: Agent,
}

impl Deref for Bench {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl Bench {
    /// Every meter is read so often.
    fn new(every: &str) -> Self {
        let bench = Self::without_certificate(every);
        bench.import(&NodeCertificate::around(NODE, Utc::now()));
        bench
    }

    fn without_certificate(every: &str) -> Self {
        let network = Network::new();
        let relay = Unit::new(RELAY).with(Table::Holding, 0, &[0]);
        let units = METERS.map(Unit::meter).into_iter().chain([relay]);
        let site = Site::start(units.collect()).expect("a site");
        let agent = Agent::new(&config(&network, &site, every));
        Self { network, site, agent }
    }

    fn import(&self, wanted: &NodeCertificate) {
        self.import_material(&self.issue(wanted));
    }

    fn import_material(&self, identity: &NodeIdentity) {
        self.network.import(&self.agent, identity);
    }

    /// Lets these happen to the next batches, one after the other.
    fn misbehave(&self, acts: impl IntoIterator<Item = Act>) {
        for act in acts {
            self.sim.misbehave(Misbehaviour::new(BULK, act).times(1));
        }
    }

    /// Keeps the meters from being read again; gives how many readings each gave.
    fn silence(&self) -> [u32; METERS.len()] {
        METERS.map(|unit| {
            self.site.set_fault(unit, Some(Fault::Silent));
            self.site.readings(unit)
        })
    }

    /// Waits until the queue has let go of everything, and compares the ledger with the meters.
    fn everything_arrived_but(&self, given_up: u64) -> Value {
        let readings = self.silence();
        let all: u32 = readings.iter().sum();
        let settled = |status: &Value| {
            let arrived = self.sim.ledger_count().datum as u64 + given_up;
            status["queue"]["records"] == 0 && arrived >= u64::from(all)
        };
        let status = self.agent.status_when("everything arrived", settled);
        assert_eq!(status["queue"]["rejected"], given_up, "{status}");
        assert_eq!(status["queue"]["dropped"], 0, "{status}");
        assert_eq!(self.sim.ledger_count().datum as u64 + given_up, u64::from(all));
        let ledger = Ledger::of(&self.sim);
        for (unit, taken) in METERS.into_iter().zip(readings) {
            ledger.assert_only_readings(&source(unit), taken);
        }
        ledger.assert_unchanged();
        status
    }

    fn arrived(&self) -> usize {
        self.sim.ledger_count().datum
    }

    fn batches(&self) -> usize {
        self.sim.count_requests("POST", BULK)
    }
}

fn config(network: &Network, site: &Site, every: &str) -> String {
    let meters: String = METERS.map(|unit| patient_meter(unit, &source(unit), every)).concat();
    let control = format!(
        r#"
[[control]]
id = "/site/relay"
timeout = "30s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "holding", address = 0, type = "u16" }}
allow = {{ min = 0, max = 1000, every = "0s" }}
"#
    );
    let rarely = "poll_fastest = \"1h\"\npoll_slowest = \"1h\"";
    // What goes wrong is to meet uploads, and not polls.
    let solarnet = network
        .config("bulk")
        .replace("poll_fastest = \"200ms\"\npoll_slowest = \"200ms\"", rarely);
    solarnet + &link(site) + &meters + &control
}

#[test]
fn every_reading_arrives_without_a_token_and_without_a_complaint() {
    let bench = Bench::new("200ms");
    let daemon = bench.agent.start();
    eventually("some arrive", || bench.arrived() >= 40);
    let status = bench.everything_arrived_but(0);
    assert_eq!(status["upload"]["state"], "ok");
    assert!(status["upload"]["last_success"].is_string());
    assert_eq!(bench.sim.dropped(), [], "the server took every element");
    assert!(bench.sim.ledger().iter().all(|(_, entry)| entry.last_job == "bulk"));
    assert_eq!(bench.sim.count_requests("GET", "/solaruser"), 0, "no call with a token");
    assert_eq!(daemon.lines_with(&[" ERROR "]), [] as [String; 0]);
    assert!(daemon.stop().success());
}

#[test]
fn whatever_happens_to_batches_no_reading_is_lost_or_changed() {
    let bench = Bench::new("100ms");
    let daemon = bench.agent.start();
    let texts = || Act::SuccessFalse { message: "Internal error".into() };
    let acts = [
        Act::CutAfter,
        Act::BatchLosesEntries { entries: 1 },
        Act::BatchTransient { groups: 0 },
        texts(),
        Act::CutMidBody,
        Act::SuccessWithoutData,
        Act::SuccessNonsense,
        Act::Garbage,
        Act::ProxyPage { status: 200 },
        Act::Status { status: 500 },
        Act::TooMany { retry_after_ms: 300 },
        Act::BatchLosesEntries { entries: 7 },
        Act::Transient,
        Act::CutBefore,
    ];
    let happens = |act: Act| {
        let before = bench.batches();
        bench.misbehave([act]);
        eventually("it happened, and uploads go on", || bench.batches() >= before + 3);
    };
    acts.into_iter().for_each(&happens);
    // On a busy machine batches may be as small as what they lost, which is another matter.
    for _ in 0..20 {
        if daemon.events("upload.repeated").is_empty() {
            happens(Act::BatchLosesEntries { entries: 1 });
        }
    }
    let status = bench.everything_arrived_but(0);
    assert_eq!(status["upload"]["state"], "ok", "{status}");
    assert!(!daemon.events("upload.repeated").is_empty(), "an answer that names too few is told");
    let cut = daemon.lines_with(&["the connection was closed before the answer was complete"]);
    assert!(!cut.is_empty(), "in words for whoever runs the site");
    assert!(daemon.stop().success());
}

#[test]
fn a_backlog_drains_back_to_back() {
    const BACKLOG: usize = 2000;
    let bench = Bench::new("1s");
    bench.silence();
    mqtt::fill(&bench.agent.state_dir(), mqtt::backlog_of(EARLIER, BACKLOG as i64));
    let daemon = bench.agent.start();
    bench.agent.until_nothing_waits();
    assert_eq!(bench.arrived(), BACKLOG);
    let batches = bench.batches();
    assert!(batches <= 40, "{batches} requests for {BACKLOG} datum");
    assert!(daemon.stop().success());
}

#[test]
fn a_datum_that_fails_its_batch_is_found_among_many_and_only_it_is_given_up() {
    const BACKLOG: usize = 500;
    let bench = Bench::new("200ms");
    let texts = vec![format!("\"sourceId\":\"{EARLIER}\""), "\"number\":140".into()];
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::BatchFailsOver { texts }));
    mqtt::fill(&bench.agent.state_dir(), mqtt::backlog_of(EARLIER, BACKLOG as i64));
    let daemon = bench.agent.start();
    eventually("it is given up", || daemon.events("upload.given_up").len() == 1);
    bench.silence();
    let status = bench.agent.until_nothing_waits();
    assert_eq!(status["queue"]["rejected"], 1, "{status}");
    let ledger = bench.sim.ledger();
    let earlier = ledger.iter().filter(|(key, _)| key.source == EARLIER);
    let numbers: Vec<_> = earlier.filter_map(|(_, entry)| entry.datum.decimal("number")).collect();
    assert_eq!(numbers.len(), BACKLOG - 1);
    assert!(!numbers.contains(&140.into()), "it is the one that was given up");
    assert!(daemon.stop().success());
}

#[test]
fn a_datum_that_is_left_out_without_a_word_is_given_up_after_others_went_through_again_and_again() {
    let bench = Bench::new("100ms");
    let texts = vec!["\"sourceId\":\"/site/meter/2\"".into(), "\"reading\":5,".into()];
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::BatchSkips { texts }));
    let daemon = bench.agent.start();
    eventually("it is given up", || daemon.events("upload.given_up").len() == 1);
    bench.everything_arrived_but(1);
    assert!(!Ledger::of(&bench.sim).readings("/site/meter/2").contains(&5));
    assert!(daemon.stop().success());
}

#[test]
fn while_every_batch_is_refused_nothing_is_given_up_and_a_person_is_told() {
    let bench = Bench::new("100ms");
    let message = "Internal error".to_owned();
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::SuccessFalse { message }));
    let daemon = bench.agent.start();
    let stopped = |status: &Value| status["upload"]["state"] == "stopped";
    let status = bench.agent.status_when("uploads stop", stopped);
    assert!(status["upload"]["waits_for"].as_str().expect("text").contains("refuses"), "{status}");
    bench.sim.behave();
    // The next look comes half a minute later; a daemon that starts again looks at once.
    assert!(daemon.stop().success());
    let daemon = bench.agent.start();
    bench.everything_arrived_but(0);
    assert!(daemon.stop().success());
}

#[test]
fn a_certificate_that_has_run_out_stops_uploads_until_another_is_imported() {
    for at_handshake in [false, true] {
        let bench = Bench::without_certificate("200ms");
        bench.solarin.refuse_at_handshake(at_handshake);
        let now = Utc::now();
        // Good for as long as it takes to import it, and for the server over already.
        bench.import(&NodeCertificate::between(
            NODE,
            now - TimeDelta::days(9),
            now + TimeDelta::days(9),
        ));
        bench.sim.set_clock_offset(TimeDelta::days(10));
        let daemon = bench.agent.start();
        let stopped = |status: &Value| status["upload"]["state"] == "stopped";
        let status = bench.agent.status_when("uploads stop", stopped);
        let text = status["upload"]["waits_for"].as_str().expect("text");
        assert!(text.contains("identity check"), "{text}");
        assert_eq!(bench.arrived(), 0);
        bench.sim.set_clock_offset(TimeDelta::zero());
        bench.import(&NodeCertificate::around(NODE, now));
        eventually("it goes on with the other certificate", || bench.arrived() > 0);
        bench.everything_arrived_but(0);
        assert_eq!(daemon.events("upload.stopped").len(), 1, "told once");
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_node_without_a_certificate_asks_nobody_and_begins_once_it_has_one() {
    let bench = Bench::without_certificate("200ms");
    let daemon = bench.agent.start();
    let stopped = |status: &Value| status["upload"]["state"] == "stopped";
    let status = bench.agent.status_when("uploads stop", stopped);
    let text = status["upload"]["waits_for"].as_str().expect("text");
    assert!(text.contains("there is no certificate"), "{text}");
    assert_eq!(bench.batches(), 0);
    bench.import(&NodeCertificate::around(NODE, Utc::now()));
    eventually("it begins", || bench.arrived() > 0);
    bench.everything_arrived_but(0);
    assert!(daemon.stop().success());
}

#[test]
fn an_acknowledgement_that_fails_its_batch_holds_up_no_datum() {
    let bench = Bench::new("100ms");
    let often = config(&bench.network, &bench.site, "100ms").replace("\"1h\"", "\"200ms\"");
    bench.agent.configure(&often);
    bench.sim.set_instruction_queuing(TimeDelta::zero());
    let texts = vec!["\"instructionId\"".to_owned()];
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::BatchFailsOver { texts }));
    let daemon = bench.agent.start();
    let id = bench.sim.add_instruction(switch(7));
    eventually("an acknowledgement fails a batch", || !bench.sim.dropped().is_empty());
    let before = bench.arrived();
    eventually("datum go on", || bench.arrived() >= before + 40);
    bench.sim.behave();
    eventually("and its end is heard", || {
        bench.sim.instruction(id).is_some_and(|instruction| instruction.state == State::Completed)
    });
    bench.silence();
    bench.agent.until_nothing_waits();
    assert_eq!(daemon.events("upload.given_up"), [] as [String; 0]);
    assert!(daemon.stop().success());
}

#[test]
fn a_reload_changes_the_way_in_and_back() {
    let bench = Bench::new("200ms");
    let daemon = bench.agent.start();
    eventually("some arrive with the certificate", || bench.arrived() >= 10);
    bench.agent.import_token();
    let bulk = config(&bench.network, &bench.site, "200ms");
    bench.agent.configure(&bulk.replace("via = \"bulk\"", "via = \"import\""));
    let line = daemon.reload();
    assert!(line.contains("uploader"), "{line}");
    eventually("some arrive with the token", || {
        bench.sim.ledger().iter().any(|(_, entry)| entry.last_job != "bulk")
    });
    bench.agent.configure(&bulk);
    daemon.reload();
    let before = bench.batches();
    eventually("and with the certificate again", || bench.batches() > before);
    bench.everything_arrived_but(0);
    assert!(daemon.stop().success());
}

/// Killed at random moments, with a server that is away or misbehaves as often as not.
#[test]
fn killed_at_any_moment_it_loses_and_invents_nothing() {
    let seed = std::env::var("KILL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("KILL_SEED={seed} kills at the same moments again");
    let mut random = fastrand::Rng::with_seed(seed);
    let bench = Bench::new("100ms");
    let mut known: BTreeMap<u64, Committed> = BTreeMap::new();
    for _ in 0..15 {
        let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
        bench.sim.behave();
        bench.solarin.come_back().expect("the port is still free");
        let any = |act| Misbehaviour::new(BULK, act);
        match random.u8(..9) {
            0 => bench.solarin.go_down(),
            1 => bench.sim.misbehave(any(Act::CutAfter).times(2)),
            2 => bench.sim.misbehave(any(Act::BatchLosesEntries { entries: 2 }).times(3)),
            3 => bench.sim.misbehave(any(Act::BatchTransient { groups: 0 }).times(2)),
            4 => bench.sim.misbehave(any(Act::Slow { ms: 300 })),
            5 => bench
                .sim
                .misbehave(any(Act::SuccessFalse { message: "Internal error".into() }).times(3)),
            _ => {}
        }
        // Random moments are what is being tested, not guesses at how long something takes.
        std::thread::sleep(Duration::from_millis(random.u64(50..2500)));
        daemon.kill();
        if bench.agent.state_dir().join("queue").exists() {
            known.extend(committed(&bench.agent));
        }
    }
    bench.sim.behave();
    bench.solarin.come_back().expect("the port is still free");
    let before = METERS.map(|unit| bench.site.readings(unit));
    let daemon = bench.agent.start();
    for (unit, before) in METERS.into_iter().zip(before) {
        eventually("a fresh reading arrives", || {
            Ledger::of(&bench.sim).readings(&source(unit)).iter().any(|number| *number > before)
        });
    }
    let readings = bench.silence();
    bench.agent.until_nothing_waits();
    assert!(daemon.stop().success());
    let ledger = Ledger::of(&bench.sim);
    ledger.assert_has_all(known.values());
    for (unit, taken) in METERS.into_iter().zip(readings) {
        ledger.assert_only_readings(&source(unit), taken);
    }
    ledger.assert_unchanged();
}

fn switch(value: u16) -> NewInstruction {
    order("SetControlParameter", &[("/site/relay", &value.to_string())])
}
