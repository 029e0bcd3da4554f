//! Uploads over MQTT and the live feed: the real daemon against a real mosquitto with TLS, client certificates and
//! rules for each node, and the server's collector behind it.

use std::{fs, path::Path, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{Authority, Broker, Certificate, NodeCertificate, Site, Unit, Versions};
use solarnode_agent::{
    clock::Clock,
    config::settings,
    domain::{Datum, Samples, SourceId, Stamp},
    queue::Queue,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{
    agent::{Agent, Daemon, NODE, eventually, link, patient_meter},
    ledger::{Ledger, committed},
    network::Network,
    orders::{self, order},
    wire::{Way, Wire},
};

pub(crate) const SOURCE: &str = "/site/meter";

/// A node with its server, its broker, and a link to the broker that can be cut.
pub(crate) struct Bench {
    pub(crate) network: Network,
    pub(crate) site: Site,
    wire: Wire,
    pub(crate) agent: Agent,
    pub(crate) config: String,
}

impl Bench {
    /// With more configuration. The meter is read five times a second.
    fn new(more: &str) -> Self {
        let network = Network::with_broker();
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let wire = Wire::to(network.broker().address());
        let upload = "[upload]\nfallback_after = \"never\"";
        let mqtt = format!("\n[mqtt]\nurl = \"mqtts://{}\"\nkeep_alive = \"5s\"\n", wire.address());
        let config = network.config("mqtt").replace("[upload]", upload) + &mqtt;
        let config = config + &link(&site) + &patient_meter(1, SOURCE, "200ms");
        let agent = Agent::new(&(config.clone() + more));
        Self { network, site, wire, agent, config }
    }

    /// The same with the node's certificate stored.
    pub(crate) fn with_certificate(more: &str) -> Self {
        let bench = Self::new(more);
        bench.network.give_certificate(&bench.agent);
        bench
    }

    fn arrived(&self) -> usize {
        Ledger::of(&self.network.sim).readings(SOURCE).len()
    }

    pub(crate) fn fresh_readings_arrive(&self) {
        let read = self.site.readings(1);
        eventually("a fresh reading arrives", || {
            Ledger::of(&self.network.sim).readings(SOURCE).iter().any(|number| *number > read + 1)
        });
    }

    /// By which way the newest reading came.
    fn newest_came_by(&self) -> Option<String> {
        let rows = self.network.sim.ledger();
        let newest =
            rows.iter().filter(|(key, _)| key.source == SOURCE).max_by_key(|(key, _)| key.ms);
        newest.map(|(_, entry)| entry.last_job.clone())
    }

    /// Without a meter, until nothing waits.
    pub(crate) fn drain(&self, daemon: Daemon) {
        assert!(daemon.stop().success());
        let config = fs::read_to_string(self.agent.config()).expect("a configuration");
        let (without, _) = config.split_once("[[modbus]]").expect("a meter");
        fs::write(self.agent.config(), without).expect("written");
        let daemon = self.agent.start();
        self.agent.until_nothing_waits();
        assert!(daemon.stop().success());
        assert!(self.network.broker().until_taken());
    }

    /// The ledger's questions.
    pub(crate) fn everything_arrived(&self, daemon: Daemon) {
        self.drain(daemon);
        let read = self.site.readings(1);
        let ledger = Ledger::of(&self.network.sim);
        ledger.assert_has_all(committed(&self.agent).values());
        ledger.assert_only_readings(SOURCE, self.site.readings(1));
        ledger.assert_unchanged();
        let arrived = ledger.readings(SOURCE);
        let missing: Vec<u32> = (1..=read).filter(|number| !arrived.contains(number)).collect();
        assert!(missing.is_empty(), "{missing:?} of {read}");
        assert_eq!(self.network.sim.dropped(), []);
    }
}

fn error_of(status: &Value) -> &str {
    status["mqtt"]["last_error"].as_str().unwrap_or_default()
}

#[test]
fn readings_leave_as_they_are_stored_and_come_as_they_were_read() {
    let bench = Bench::with_certificate("");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    assert_eq!(bench.newest_came_by().as_deref(), Some("mqtt"));
    let status = bench.agent.status_when("its acknowledgement arrived, too", |status| {
        status["mqtt"]["published"].as_u64() >= Some(1)
    });
    let states = [&status["mqtt"]["state"], &status["upload"]["state"]];
    assert_eq!(states, ["connected", "ok"]);
    let sessions = bench.network.broker().sessions();
    let [session] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!((session.client.as_str(), session.version), ("123", 5));
    assert!(session.clean && session.keep_alive == 5, "{session:?}");
    assert!(session.user.contains("UID"), "{session:?}");
    assert_eq!(daemon.events("mqtt.connected").len(), 1);
    bench.everything_arrived(daemon);
}

#[test]
fn a_broker_that_was_away_gets_everything_that_was_read_meanwhile() {
    let bench = Bench::with_certificate("");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    bench.network.broker().stop();
    let status = bench.agent.status_when("it waits", |s| s["upload"]["state"] == "waiting");
    assert_eq!(status["upload"]["waits_for"], "there is no connection to the broker");
    let read = bench.site.readings(1);
    eventually("readings go on", || bench.site.readings(1) > read + 10);
    bench.network.broker().start_again().expect("a broker");
    bench.fresh_readings_arrive();
    // Killed, it may lose what it had acknowledged, which is why that is not called stored.
    bench.network.broker().kill();
    bench.agent.status_when("it waits again", |s| s["upload"]["state"] == "waiting");
    bench.network.broker().start_again().expect("a broker");
    bench.fresh_readings_arrive();
    assert_eq!(daemon.events("mqtt.disconnected").len(), 1, "told once, as it comes and goes");
    assert_eq!(daemon.events("mqtt.connected").len(), 2);
    bench.drain(daemon);
    Ledger::of(&bench.network.sim).assert_only_readings(SOURCE, bench.site.readings(1));
}

/// In the middle of the TCP connection, of the TLS handshake, of CONNECT, of SUBSCRIBE, and between a message
/// and its PUBACK: wherever so many bytes fall.
#[test]
fn a_connection_cut_in_any_phase_costs_no_reading() {
    let there = [0, 100, 700, 1300, 1500, 1700].map(|bytes| (Way::There, bytes));
    let back = [1, 600, 1400, 1800, 2100, 2300, 2400].map(|bytes| (Way::Back, bytes));
    let cuts: Vec<_> = there.into_iter().chain(back).collect();
    // After each one it waits a second at least, and longer where there were some in a row.
    std::thread::scope(|scope| {
        for cuts in cuts.chunks(4) {
            scope.spawn(|| cuts_cost_no_reading(cuts));
        }
    });
}

fn cuts_cost_no_reading(cuts: &[(Way, u64)]) {
    let bench = Bench::with_certificate("");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    for (way, bytes) in cuts {
        let connections = bench.wire.connections();
        bench.wire.cut_after(*way, *bytes);
        bench.wire.cut();
        eventually("it connects again", || bench.wire.connections() > connections);
        bench.fresh_readings_arrive();
    }
    bench.everything_arrived(daemon);
}

#[test]
fn a_broker_that_says_nothing_any_more_is_left_and_what_it_did_not_acknowledge_is_sent_again() {
    let bench = Bench::with_certificate("");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    bench.wire.hush(true);
    eventually("the silence is noticed", || {
        !daemon.lines_with(&["event=\"mqtt.disconnected\"", "error_kind=\"silent\""]).is_empty()
    });
    bench.wire.cut();
    bench.wire.hush(false);
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn a_slow_link_that_breaks_now_and_then_carries_everything() {
    let bench = Bench::with_certificate("");
    bench.wire.delay(Duration::from_millis(150));
    bench.wire.throttle(Some(8_000));
    let daemon = bench.agent.start();
    for _ in 0..3 {
        bench.fresh_readings_arrive();
        bench.wire.cut_after(Way::There, 900);
    }
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn a_certificate_that_the_broker_refuses_is_named_and_the_next_one_taken_up_at_once() {
    let bench = Bench::new("");
    let now = Utc::now();
    let expired =
        NodeCertificate::between(NODE, now - TimeDelta::days(9), now - TimeDelta::days(1));
    let early = NodeCertificate::between(NODE, now + TimeDelta::days(1), now + TimeDelta::days(9));
    let stranger = Authority::new().expect("an authority");
    let of_a_stranger = stranger.issue_node(&NodeCertificate::around(NODE, now)).expect("one");
    for node in [bench.network.issue(&expired), bench.network.issue(&early), of_a_stranger] {
        bench.network.smuggle(&bench.agent, &node);
        let daemon = bench.agent.start();
        let status = bench.agent.status_when("it is refused", |s| !error_of(s).is_empty());
        let error = error_of(&status);
        assert!(error.contains("certificate"), "{error}");
        assert!(daemon.stop().success());
    }
    fs::remove_file(bench.agent.state_dir().join("credentials/node.pem")).expect("removed");
    let daemon = bench.agent.start();
    bench.agent.status_when("there is none", |s| !error_of(s).is_empty());
    assert_eq!(bench.arrived(), 0);
    bench.network.give_certificate(&bench.agent);
    bench.fresh_readings_arrive();
    let connections = bench.wire.connections();
    bench
        .network
        .import(&bench.agent, &bench.network.issue(&NodeCertificate::around(NODE, now).rsa()));
    eventually("it connects with the other one", || bench.wire.connections() > connections);
    eventually("and says so", || !daemon.events("mqtt.certificate_changed").is_empty());
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn a_forgotten_certificate_ends_the_session_and_status_says_since_when() {
    let bench = Bench::with_certificate("");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    let since = |status: &Value| -> DateTime<Utc> {
        let since = status["mqtt"]["since"].as_str().expect("a time");
        since.parse().expect("a time")
    };
    // What it waits for may be heard of before the time is.
    let in_state = |state: &str| {
        bench.agent.status_when(state, |status| {
            status["mqtt"]["state"] == state && status["mqtt"]["since"].is_string()
        })
    };
    let connected = in_state("connected");
    bench.agent.ask(&["identity", "forget"]);
    let status = in_state("no_certificate");
    assert!(since(&status) > since(&connected), "{status}");
    assert_eq!(daemon.events("mqtt.no_certificate").len(), 1);
    assert_eq!(daemon.events("mqtt.certificate_changed"), [""; 0], "there is no other one");
    bench.network.give_certificate(&bench.agent);
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

impl Bench {
    fn is_not_trusted(&self, edit: impl Fn(&str) -> String) {
        self.agent.configure(&edit(&self.config));
        let daemon = self.agent.start();
        let status =
            self.agent.status_when("it is not trusted", |s| s["mqtt"]["state"] == "stopped");
        assert!(error_of(&status).contains("the broker is not trusted"), "{}", error_of(&status));
        assert_eq!(daemon.lines_with(&["event=\"mqtt.stopped\"", "untrusted"]).len(), 1);
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_broker_of_another_authority_or_name_is_not_trusted_and_gets_nothing() {
    let bench = Bench::with_certificate("");
    let stranger = Authority::new().expect("an authority");
    fs::write(bench.agent.path("other.pem"), stranger.pem()).expect("written");
    let with = |line: &str| {
        let line = format!("[mqtt]\n{line}");
        move |config: &str| config.replace("[mqtt]", &line)
    };
    bench.is_not_trusted(with("ca_file = \"other.pem\""));
    bench.is_not_trusted(with("server_name = \"queue.example\""));
    assert_eq!(bench.network.broker().sessions(), []);
    let named = with("server_name = \"localhost\"");
    bench.agent.configure(&named(&bench.config));
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn either_version_of_tls_alone_carries_everything_and_lets_no_one_else_in() {
    for (versions, name) in [(Versions::Tls12, "TLSv1_2"), (Versions::Tls13, "TLSv1_3")] {
        let bench = Bench::with_certificate("");
        bench.network.broker().speak(versions).expect("written");
        bench.network.broker().stop();
        bench.network.broker().start_again().expect("a broker");
        bench.is_not_trusted(|config| {
            config.replace("[mqtt]", "[mqtt]\nserver_name = \"queue.example\"")
        });
        bench.agent.configure(&bench.config);
        let stranger = Authority::new().expect("an authority");
        let stranger = stranger.issue_node(&NodeCertificate::around(NODE, Utc::now()));
        bench.network.smuggle(&bench.agent, &stranger.expect("a certificate"));
        let daemon = bench.agent.start();
        let status = bench.agent.status_when("it is refused", |s| !error_of(s).is_empty());
        assert!(error_of(&status).contains("certificate"), "{}", error_of(&status));
        assert!(daemon.stop().success());
        assert_eq!(bench.network.broker().sessions(), []);
        bench.network.smuggle(&bench.agent, &bench.network.certificate());
        let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
        bench.fresh_readings_arrive();
        let agreed = daemon.lines_with(&["TLS agreed on"]);
        assert!(agreed.iter().all(|line| line.contains(name)) && agreed.len() == 1, "{agreed:?}");
        bench.everything_arrived(daemon);
    }
}

#[test]
fn an_expired_certificate_of_the_broker_is_named_and_a_renewed_one_is_found() {
    let bench = Bench::with_certificate("");
    let now = Utc::now();
    let show = |until| {
        bench.network.broker().stop();
        let wanted = Certificate::between(now - TimeDelta::days(9), until);
        bench.network.broker().show(&bench.network.authority, &wanted).expect("a certificate");
        bench.network.broker().start_again().expect("a broker");
    };
    show(now - TimeDelta::days(1));
    let daemon = bench.agent.start();
    let status = bench.agent.status_when("it is not accepted", |s| !error_of(s).is_empty());
    let error = error_of(&status);
    assert!(error.contains("the broker's certificate is not valid now"), "{error}");
    assert!(error.contains("check the clock of this machine"), "{error}");
    let told = ["event=\"mqtt.disconnected\"", "error_kind=\"certificate_dates\""];
    assert_eq!(daemon.lines_with(&told).len(), 1);
    assert_eq!(bench.network.broker().sessions(), []);
    show(now + TimeDelta::days(9));
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn a_node_without_rights_at_the_broker_stops_and_keeps_everything() {
    let bench = Bench::new("");
    // The broker has rules for the nodes that the server knows.
    let config = bench.config.replace("id = 123", "id = 124");
    bench.agent.configure(&config);
    bench
        .network
        .import(&bench.agent, &bench.network.issue(&NodeCertificate::around(124, Utc::now())));
    let daemon = bench.agent.start();
    let status = bench.agent.status_when("it stops", |s| s["upload"]["state"] == "stopped");
    let error = status["upload"]["last_error"].as_str().expect("an error");
    assert!(error.contains("not authorized") && error.contains("node/124/datum"), "{error}");
    let read = bench.site.readings(1);
    eventually("readings go on", || bench.site.readings(1) > read + 5);
    assert_eq!(daemon.events("upload.stopped").len(), 1);
    assert_eq!(daemon.events("upload.given_up"), [""; 0]);
    assert!(daemon.stop().success());
    let kept = committed(&bench.agent).len();
    assert!(kept + 1 >= bench.site.readings(1) as usize, "{kept}");
    assert_eq!(bench.network.sim.ledger_count().datum, 0);
}

/// The live feed's broker, where nobody reads what is meant for SolarNetwork's queue.
#[test]
fn at_a_broker_that_the_server_does_not_read_uploads_wait_and_say_so() {
    let bench = Bench::with_certificate("");
    let other = Broker::start_flux(&bench.network.sim, &bench.network.authority).expect("a broker");
    let url = format!("mqtts://{}", bench.wire.address());
    bench.agent.configure(&bench.config.replace(&url, &other.plain_url()));
    let daemon = bench.agent.start();
    let status = bench.agent.status_when("it waits", |s| {
        s["upload"]["waits_for"].as_str().is_some_and(|why| why.contains("nobody listens"))
    });
    assert_eq!(status["upload"]["state"], "waiting");
    let told = daemon.lines_with(&["event=\"upload.waiting\"", "error_kind=\"unheard\""]);
    assert_eq!(told.len(), 1);
    assert_eq!(daemon.events("upload.stopped"), [""; 0]);
    assert_eq!(bench.arrived(), 0);
    bench.agent.configure(&bench.config);
    daemon.reload();
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn what_is_no_instruction_is_told_once_and_ends_nothing() {
    let bench = Bench::with_certificate("");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    for garbage in [&b"garbage"[..], b"", &[0x9f; 300_000], &[0xff; 40]] {
        assert!(bench.network.broker().publish("node/123/instr", garbage));
    }
    eventually("it is told", || !daemon.events("mqtt.message_garbled").is_empty());
    // The other way is not taken before that.
    bench.network.sim.set_instruction_queuing(TimeDelta::seconds(20));
    // Longer than we said that we take.
    assert!(bench.network.broker().publish("node/123/instr", &vec![0; 2 << 20]));
    bench.fresh_readings_arrive();
    // An instruction still comes.
    let id = bench.network.sim.add_instruction(order("NoSuchTopic", &[]));
    orders::ended(&bench.network.sim, id);
    assert_eq!(daemon.events("mqtt.message_garbled").len(), 1);
    assert_eq!(daemon.events("mqtt.disconnected"), [""; 0]);
    bench.everything_arrived(daemon);
}

#[test]
fn two_programs_with_one_certificate_are_told_of_each_other() {
    let bench = Bench::new("");
    let node = bench.network.certificate();
    bench.network.import(&bench.agent, &node);
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    let other = Agent::new(&bench.config);
    bench.network.import(&other, &node);
    let _second = other.start();
    eventually("it is told", || {
        // This broker does not say why; others do.
        !daemon.lines_with(&["event=\"mqtt.disconnected\"", "error_kind=\"rival\""]).is_empty()
    });
    let told = daemon.lines_with(&["error_kind=\"rival\""]);
    assert!(told.iter().all(|line| line.contains("stop one of them")), "{told:?}");
}

#[test]
fn a_silent_broker_is_gone_round_and_come_back_to_without_loss() {
    let bench = Bench::with_certificate("");
    let config = bench.config.replace("\"never\"", "\"2s\"");
    bench.agent.configure(&config);
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    assert_eq!(bench.newest_came_by().as_deref(), Some("mqtt"));
    bench.network.broker().stop();
    eventually("readings come another way", || bench.newest_came_by().as_deref() == Some("bulk"));
    assert_eq!(daemon.events("upload.fallback").len(), 1);
    bench.network.broker().start_again().expect("a broker");
    eventually("they come over the broker again", || {
        bench.newest_came_by().as_deref() == Some("mqtt")
    });
    eventually("and it is told", || daemon.events("upload.fallback_over").len() == 1);
    bench.fresh_readings_arrive();
    assert_eq!(daemon.events("upload.fallback").len(), 1);
    bench.everything_arrived(daemon);
}

#[test]
fn the_broker_is_found_through_the_network_identity_document() {
    let bench = Bench::with_certificate("");
    let url = format!("url = \"mqtts://{}\"\n", bench.wire.address());
    bench.agent.configure(&bench.config.replace(&url, ""));
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    assert_eq!(bench.wire.connections(), 0, "the document does not know the link");
    bench.everything_arrived(daemon);
}

#[test]
fn a_live_feed_with_the_broker_of_readings_leaves_it_to_them_and_says_so() {
    let bench = Bench::with_certificate("");
    let url = format!("url = \"mqtts://{}\"\n", bench.wire.address());
    let flux = format!("\n[flux]\nurl = \"{}\"\n", bench.network.broker().url());
    bench.agent.configure(&(bench.config.replace(&url, "") + &flux));
    let daemon = bench.agent.start();
    eventually("it is told", || {
        let told = daemon.lines_with(&["event=\"mqtt.address_unknown\"", "link=\"flux\""]);
        told.iter().any(|line| line.contains("is the broker of [mqtt]"))
    });
    bench.agent.status_when("readings have it", |s| s["mqtt"]["state"] == "connected");
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

#[test]
fn a_broker_without_tls_needs_no_certificate() {
    let bench = Bench::new("");
    let url = format!("mqtts://{}", bench.wire.address());
    bench.agent.configure(&bench.config.replace(&url, &bench.network.broker().plain_url()));
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    bench.everything_arrived(daemon);
}

/// Puts readings into the queue of an agent that does not run.
pub(crate) fn fill(state_dir: &Path, readings: impl IntoIterator<Item = Datum>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        fs::create_dir_all(state_dir).expect("a folder");
        let clock = Clock::open(state_dir).expect("a clock");
        let limits = settings::Queue { limit_bytes: 256 << 20, at_risk: Duration::from_secs(1) };
        let (_readers, read) = mpsc::channel(1);
        let (queue, worker) = Queue::open(state_dir, &limits, clock, read).expect("a queue");
        let stop = CancellationToken::new();
        let ended = worker.spawn(stop.clone()).expect("a thread");
        for reading in readings {
            queue.store(reading).await;
        }
        stop.cancel();
        ended.await.expect("an end").expect("committed");
    });
}

/// One reading each of the last milliseconds.
pub(crate) fn backlog_of(source: &str, count: i64) -> impl Iterator<Item = Datum> {
    let source: SourceId = source.parse().expect("a source");
    let first = Utc::now().timestamp_millis() - count;
    (0..count).map(move |number| Datum {
        source: source.clone(),
        stamp: Stamp::Wall { unix_ms: first + number },
        samples: Samples {
            instantaneous: vec![("watts".into(), 230.into()), ("number".into(), number.into())],
            accumulating: vec![("wattHours".into(), 41_899_999.into())],
            ..Samples::default()
        },
    })
}

/// Readings of a long backlog: a week at one in six seconds.
const BACKLOG: i64 = 100_000;

#[test]
fn a_long_backlog_drains_through_the_window_in_bounded_memory() {
    let bench = Bench::with_certificate("");
    let without_meter = bench.config.split("[[modbus]]").next().expect("a part");
    let wider = without_meter.replace("fallback_after", "in_flight = 200\nfallback_after");
    // The link would cost as much as the agent.
    let (link, broker) =
        (bench.wire.address().to_string(), bench.network.broker().address().to_string());
    bench.agent.configure(&wider.replace(&link, &broker));
    fill(&bench.agent.state_dir(), backlog_of(SOURCE, BACKLOG));
    let daemon = bench.agent.start();
    let idle = daemon.resident_kib();
    let (mut most, mut took) = (0, Duration::ZERO);
    // In parts: how long all of it takes is the machine's affair.
    for part in 1..=10 {
        took += eventually("the backlog is drained", || {
            most = most.max(daemon.resident_kib());
            let drained = i64::try_from(bench.network.sim.ledger_count().datum).expect("a count");
            drained >= BACKLOG / 10 * part
        });
    }
    println!("{BACKLOG} in {took:?}, {idle} KiB at first, {most} at most");
    // The queue maps nothing and the window is small: what grows is the allocator's slack.
    assert!(most < idle + 16 * 1024, "{idle} KiB became {most}");
    bench.agent.until_nothing_waits();
    assert!(daemon.stop().success());
    assert_eq!(bench.network.sim.dropped(), []);
}

/// A proxy ends each connection on which a certain word is said.
#[test]
fn readings_over_which_the_connection_is_lost_hold_up_no_others_and_go_another_way() {
    const LOADED: &str = "/site/loaded";
    let bench = Bench::with_certificate("");
    let plain = bench.network.broker().plain_url();
    let proxy = Wire::to(plain["mqtt://".len()..].parse().expect("an address"));
    proxy.censor(Some("DROP TABLE"));
    let tls = format!("mqtts://{}", bench.wire.address());
    let config = bench.config.replace(&tls, &format!("mqtt://{}", proxy.address()));
    bench.agent.configure(&config);
    let say = |mut reading: Datum| {
        reading.samples.status.push(("note".into(), "DROP TABLE".into()));
        reading
    };
    let one = backlog_of("/site/one", 60).enumerate();
    let one = one.map(|(at, reading)| if at == 10 { say(reading) } else { reading });
    fill(&bench.agent.state_dir(), one.chain(backlog_of(LOADED, 40).map(say)));
    let daemon = bench.agent.start();
    let arrived = |source: &str| {
        let rows = bench.network.sim.ledger();
        rows.iter().filter(|(key, _)| key.source == source).count()
    };
    eventually("the others of that source arrive", || arrived("/site/one") == 59);
    bench.fresh_readings_arrive();
    let told = || daemon.lines_with(&["event=\"upload.aside\"", "error_kind=\"cut_off\""]);
    eventually("it is told", || told().len() == 1);
    eventually("a source of which no reading passes is left alone", || {
        let connections = proxy.connections();
        bench.fresh_readings_arrive();
        proxy.connections() == connections
            && bench.agent.status().is_some_and(|status| status["queue"]["records"] == 41)
    });
    println!("{} connections", proxy.connections());
    assert_eq!((arrived("/site/one"), arrived(LOADED)), (59, 0));
    assert_eq!(told().len(), 1, "once");
    assert!(daemon.stop().success());
    bench.agent.configure(&config.replace("\"never\"", "\"2s\""));
    let daemon = bench.agent.start();
    eventually("they come over HTTPS", || arrived(LOADED) == 40);
    bench.everything_arrived(daemon);
}

/// Ten readings a second, three seconds at risk, and a broker that answers within milliseconds.
#[test]
fn what_the_broker_takes_before_it_would_be_committed_is_not_written_to_disk() {
    const READINGS: u32 = 80;
    let bench = Bench::with_certificate("");
    let often = bench.config.replace("every = \"200ms\"", "every = \"100ms\"");
    bench.agent.configure(&often.replace("at_risk = \"50ms\"", "at_risk = \"3s\""));
    let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
    bench.fresh_readings_arrive();
    let (before, read) = (bench.agent.on_disk(), bench.site.readings(1));
    eventually("they are read", || bench.site.readings(1) >= read + READINGS);
    let written = bench.agent.on_disk() - before;
    println!("{written} of {READINGS} readings were written");
    // It would be most of them.
    assert!(written <= u64::from(READINGS / 4), "{written}");
    bench.everything_arrived(daemon);
}

#[test]
fn killed_at_random_over_mqtt_nothing_committed_is_lost() {
    let seed = std::env::var("KILL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("KILL_SEED={seed} kills at the same moments again");
    std::thread::scope(|scope| {
        for bench in 0..2 {
            scope.spawn(move || kills_lose_nothing(seed.wrapping_add(bench)));
        }
    });
}

fn kills_lose_nothing(seed: u64) {
    let bench = Bench::with_certificate("");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kept = std::collections::BTreeMap::new();
    for _ in 0..5 {
        let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
        match random.u8(..4) {
            0 => bench.wire.cut_after(Way::Back, random.u64(..4000)),
            1 => bench.wire.cut_after(Way::There, random.u64(..4000)),
            2 => bench.wire.delay(Duration::from_millis(random.u64(..100))),
            _ => bench.wire.delay(Duration::ZERO),
        }
        // Random moments are what is being tested, not guesses at how long something takes.
        std::thread::sleep(Duration::from_millis(random.u64(100..2500)));
        daemon.kill();
        if bench.agent.state_dir().join("queue").exists() {
            kept.extend(committed(&bench.agent));
        }
    }
    bench.wire.delay(Duration::ZERO);
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    bench.drain(daemon);
    kept.extend(committed(&bench.agent));
    let ledger = Ledger::of(&bench.network.sim);
    ledger.assert_has_all(kept.values());
    ledger.assert_only_readings(SOURCE, bench.site.readings(1));
    ledger.assert_unchanged();
    assert_eq!(bench.network.sim.dropped(), []);
}

#[test]
fn the_live_feed_shows_each_reading_and_costs_the_main_path_nothing() {
    let bench = Bench::with_certificate("");
    let flux = Broker::start_flux(&bench.network.sim, &bench.network.authority).expect("a broker");
    bench.agent.configure(&(bench.config.clone() + "\n[flux]\nretain = true\n"));
    let daemon = bench.agent.start();
    eventually("readings are shown", || flux.flux().len() >= 3);
    let shown = flux.flux();
    let message = shown.last().expect("a message");
    assert_eq!(message.topic, "node/123/datum/0/site/meter");
    let created = message.content["created"].as_i64().expect("a number");
    assert_eq!(message.content["sourceId"], SOURCE);
    assert_eq!(message.content["_v"], 2);
    let stored = || bench.network.sim.entry(NODE, SOURCE, created);
    eventually("it is stored as well", || stored().is_some());
    let stored = stored().expect("just seen").datum.to_json();
    assert_eq!(stored["i"]["watts"].to_string(), message.content["watts"].to_string());
    assert_eq!(stored["s"]["opState"], message.content["opState"]);
    assert_eq!(flux.retained("node/123/#").expect("a broker").len(), 1);
    flux.stop();
    let status = bench
        .agent
        .status_when("some are left out", |status| status["flux"]["left_out"].as_u64() >= Some(3));
    assert_eq!(status["upload"]["state"], "ok");
    bench.fresh_readings_arrive();
    let before = flux.flux().len();
    flux.start_again().expect("a broker");
    eventually("readings are shown again", || flux.flux().len() > before);
    // A reload takes it away and leaves the rest alone.
    bench.agent.configure(&bench.config);
    assert!(daemon.reload().contains("config.reloaded"));
    assert_eq!(bench.agent.status().expect("a status")["flux"], Value::Null);
    bench.everything_arrived(daemon);
}
