//! The daemon as its service manager and its operator see it: how it starts, stops and refuses to start,
//! what it says of itself, and what one bad meter or one bad key costs.

use std::{
    fs,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{Fault, Sim, Site, Unit};

use crate::support::agent::{
    Agent, Daemon, SECRET, TOKEN, at_one_try, eventually, link, meter, patient_meter, seed,
    solarnet,
};

const SOURCE: &str = "/site/meter";

/// A server, a site with one meter, and an agent for them without a token.
struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let meter = patient_meter(1, SOURCE, "200ms");
        let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &meter));
        Self { sim, site, agent }
    }

    /// Waits until the ledger has every reading that the meter gave.
    fn everything_arrived(&self) {
        self.site.set_fault(1, Some(Fault::Silent));
        let readings = self.site.readings(1) as usize;
        eventually("everything arrives", || self.sim.ledger_count().datum == readings);
        assert_eq!(self.sim.ledger_count().changed, 0);
    }

    fn readings_go_on(&self) {
        let before = self.site.readings(1);
        eventually("readings go on", || self.site.readings(1) >= before + 5);
    }
}

/// Ends a command that should not have become a daemon.
fn refused(mut daemon: Daemon) -> (Option<i32>, String) {
    let status = daemon.wait();
    (status.code(), daemon.log().join("\n"))
}

#[test]
fn systemd_is_told_when_it_is_ready_how_it_is_and_that_it_stops() {
    let bench = Bench::new();
    bench.agent.import_token();
    let path = bench.agent.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_nonblocking(true).expect("a flag");
    let receive = || {
        let (mut buffer, mut length) = ([0; 4096], 0);
        eventually("there is a message", || {
            socket.recv(&mut buffer).is_ok_and(|received| {
                length = received;
                true
            })
        });
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    };
    let mut command = bench.agent.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::spawn(command);
    assert_eq!(receive().trim(), "READY=1");
    assert!(bench.agent.status().is_some(), "whoever waited for it can ask it");
    let mut line = receive();
    // It is renewed while it runs.
    while !line.starts_with("STATUS=1 of 1 sources answer, ") {
        assert!(line.starts_with("STATUS=0 of 1 sources answer, "), "{line}");
        line = receive();
    }
    daemon.terminate();
    let mut message = receive();
    while message.starts_with("STATUS=") {
        message = receive();
    }
    assert_eq!(message.trim(), "STOPPING=1");
    assert!(daemon.stop().success());
}

#[test]
fn it_stops_soon_though_neither_the_meter_nor_the_server_answers() {
    // Takes connections, says nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let bench = Bench::new();
    bench.agent.import_token();
    let url = format!("http://{}", deaf.local_addr().expect("an address"));
    let config = solarnet(&bench.sim)
        .replace(&bench.sim.url(), &url)
        .replace("timeout = \"2s\"", "timeout = \"5m\"");
    let slow_meter = meter(1, SOURCE, "200ms").replace("timeout = \"2s\"", "timeout = \"1m\"");
    bench.agent.configure(&(config + &link(&bench.site) + &slow_meter));
    let daemon = bench.agent.start();
    eventually("a reading is stored", || bench.agent.on_disk() >= 1);
    bench.site.set_fault(1, Some(Fault::Silent));
    let requests = bench.site.requests(1);
    eventually("the meter is asked in vain", || bench.site.requests(1) > requests);
    let readings = u64::from(bench.site.readings(1));
    eventually("all of them are on disk", || bench.agent.on_disk() == readings);
    let asked = Instant::now();
    assert!(daemon.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(bench.agent.on_disk(), readings);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_and_harms_nothing() {
    let bench = Bench::new();
    bench.agent.import_token();
    let daemon = bench.agent.start();
    let (code, log) = refused(Daemon::spawn(bench.agent.command(&["run"])));
    assert_eq!(code, Some(77), "{log}");
    assert!(log.contains("another daemon is running"), "{log}");
    // Another control socket does not make it another daemon.
    let other = bench.agent.path("other.sock");
    let text = std::fs::read_to_string(bench.agent.config()).expect("the configuration");
    let text = format!("control_socket = \"{}\"\n{text}", other.display());
    let config = bench.agent.private_file("other.toml", &text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_solarnode-agent"));
    command.args(["run", "--config"]).arg(&config).env_clear();
    let (code, log) = refused(Daemon::spawn(command));
    assert_eq!(code, Some(77), "{log}");
    assert!(log.contains("the queue is in use"), "{log}");
    bench.readings_go_on();
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn a_daemon_is_found_at_the_default_place_although_its_file_was_broken_or_names_another() {
    let bench = Bench::new();
    let (state, file) = (bench.agent.path("service"), bench.agent.config());
    // What systemd says of a service decides where the default place is.
    let command = |arguments: &[&str], file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solarnode-agent"));
        command.args(arguments).arg("--config").arg(file).env_clear();
        command.env("STATE_DIRECTORY", &state);
        command
    };
    let ask = |arguments: &[&str], file: &Path| {
        let output = command(arguments, file).output().expect("the agent starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let config = solarnet(&bench.sim);
    std::fs::write(&file, &config).expect("written");
    let daemon = Daemon::spawn(command(&["run"], &file));
    eventually("the daemon answers", || ask(&["status"], &file).0 == Some(0));
    let elsewhere = format!("control_socket = \"{}\"\n", bench.agent.path("no.sock").display());
    for text in ["[node", &(elsewhere + &config)] {
        std::fs::write(&file, text).expect("written");
        let (code, error) = ask(&["status"], &file);
        assert_eq!(code, Some(0), "{error}");
    }
    // One that runs on another file is not taken for ours, unless it is named.
    let other = bench.agent.path("other.toml");
    std::fs::copy(&file, &other).expect("copied");
    let (code, error) = ask(&["status"], &other);
    assert_eq!(code, Some(69), "{error}");
    assert!(error.contains("runs on") && error.contains("--socket"), "{error}");
    let socket = state.join("control.sock");
    let named = ["status", "--socket", socket.to_str().expect("text")];
    assert_eq!(ask(&named, &other).0, Some(0));
    assert!(daemon.stop().success());
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place_and_nothing_is_touched() {
    let bench = Bench::new();
    let text = solarnet(&bench.sim) + &link(&bench.site) + &meter(1, SOURCE, "often");
    bench.agent.configure(&text);
    let (code, log) = refused(Daemon::spawn(bench.agent.command(&["run"])));
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("agent.toml:") && log.contains("modbus[0].unit[0].every"), "{log}");
    assert!(!bench.agent.state_dir().exists());

    // What only the start finds out.
    fs::write(bench.agent.path("ca.pem"), "no certificate").expect("written");
    let reach = "[solarnet]\nca_file = \"ca.pem\"";
    bench.agent.configure(&solarnet(&bench.sim).replace("[solarnet]", reach));
    let (code, log) = refused(Daemon::spawn(bench.agent.command(&["run"])));
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("agent.toml:7: solarnet.ca_file: found /"), "{log}");
}

#[test]
fn status_says_how_everything_is_and_without_a_daemon_that_there_is_none() {
    let bench = Bench::new();
    bench.agent.import_token();
    let output = bench.agent.run(&["status", "--json"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains("no daemon is running"), "{error}");

    let daemon = bench.agent.start();
    let status = bench.agent.status_when("a batch is proved", |s| {
        s["upload"]["uploaded"].as_u64() > Some(0) && s["instructions"]["last_poll"].is_string()
    });
    let source = &status["sources"][0];
    assert_eq!((&source["source"], &source["bus"]), (&SOURCE.into(), &"cabinet".into()));
    assert_eq!(source["state"], "up");
    for member in ["records", "bytes", "limit", "rejected", "dropped", "corrupt", "unplaced"] {
        assert!(status["queue"][member].is_u64(), "{member}: {status}");
    }
    assert_eq!(status["upload"]["state"], "ok");
    assert!(status["upload"]["last_success"].is_string());
    assert!(status["clock"]["now"].is_string());
    let credential = &status["credentials"][0];
    assert_eq!((&credential["token"], &credential["token_id"]), (&"site".into(), &TOKEN.into()));
    assert!(credential["ends"].is_string() && credential["because"].is_string());
    assert!(!status.to_string().contains(SECRET));
    let people = bench.agent.ask(&["status"]);
    assert!(people.contains(SOURCE) && people.contains(TOKEN), "{people}");
    assert!(daemon.stop().success());
    assert_eq!(bench.agent.run(&["status"]).status.code(), Some(69));
}

#[test]
fn without_a_token_it_reads_and_keeps_and_sends_once_there_is_one() {
    let bench = Bench::new();
    let daemon = bench.agent.start();
    bench.readings_go_on();
    let status = bench
        .agent
        .status_when("they are kept", |status| status["queue"]["records"].as_u64() >= Some(5));
    assert_eq!(status["credentials"][0]["token_id"], Value::Null);
    let told = daemon.events("credential.missing");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("solarnode-agent token import site"), "{told:?}");
    bench.agent.import_token();
    eventually("uploads begin", || bench.sim.ledger_count().datum >= 5);
    bench.everything_arrived();
    assert_eq!(daemon.events("credential.well").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_key_that_ran_out_stops_uploads_only_and_another_one_repairs_it_without_a_restart() {
    let bench = Bench::new();
    let day = (Utc::now() - TimeDelta::days(8)).date_naive();
    let key = bench.agent.private_file("key", &solarnet_sim::signing_key_hex(SECRET, day));
    bench.agent.ask(&[
        "token",
        "import",
        "site",
        "--offline",
        "--token-id",
        TOKEN,
        "--key-file",
        key.to_str().expect("text"),
        "--key-date",
        &day.format("%Y%m%d").to_string(),
    ]);
    let daemon = bench.agent.start();
    eventually("it says so", || !daemon.events("credential.ran_out").is_empty());
    bench.readings_go_on();
    let told = daemon.events("credential.ran_out");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("solarnode-agent token import site"), "{told:?}");
    assert_eq!(bench.sim.ledger_count().datum, 0);
    bench.agent.import_token();
    eventually("uploads begin", || bench.sim.ledger_count().datum >= 5);
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn a_key_that_ran_out_by_a_servers_wrong_clock_signs_again_when_the_clock_is_right() {
    let bench = Bench::new();
    bench.agent.import_token();
    bench.sim.set_clock_offset(TimeDelta::days(30));
    let daemon = bench.agent.start();
    eventually("it believes the server", || !daemon.events("credential.ran_out").is_empty());
    bench.sim.set_clock_offset(TimeDelta::zero());
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn a_bad_meter_is_told_once_when_it_goes_and_once_when_it_is_back_and_costs_no_other() {
    let faults = [
        Fault::Silent,
        Fault::LosesAnswer,
        Fault::Slow(1000),
        Fault::Exception(4),
        Fault::WrongUnit,
        Fault::ShortFrame,
        Fault::Garbage,
        Fault::Closes,
    ];
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || one_bad_meter(fault));
        }
    });
}

fn one_bad_meter(fault: Fault) {
    let sim = Sim::start(seed()).expect("a simulator");
    let site = Site::start((1..=3).map(Unit::meter).collect()).expect("a site");
    // The good ones have time, so that a busy machine does not make them late.
    let units = [(1, "30s"), (2, "300ms"), (3, "30s")].map(|(unit, timeout)| {
        let unit = meter(unit, &format!("/site/{unit}"), "500ms");
        unit.replace("timeout = \"2s\"", &format!("timeout = \"{timeout}\""))
    });
    let units = units.concat();
    let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &units));
    agent.import_token();
    let daemon = agent.start();
    let reads = || [1, 2, 3].map(|unit| site.readings(unit));
    eventually("all are read", || reads().iter().all(|reads| *reads >= 3));

    site.set_fault(2, Some(fault));
    eventually("it is told", || !daemon.events("source.down").is_empty());
    at_one_try(|| {
        let before = reads();
        let took = eventually("the others are read on", || {
            let now = reads();
            now[0] >= before[0] + 10 && now[2] >= before[2] + 10
        });
        let is_soon = took < Duration::from_secs(15);
        is_soon.then_some(()).ok_or_else(|| format!("{fault:?}: ten readings in {took:?}"))
    });
    site.set_fault(2, None);
    let before = site.readings(2);
    eventually("it is read again", || site.readings(2) >= before + 3);
    eventually("it is told", || !daemon.events("source.up").is_empty());
    for event in ["source.down", "source.up"] {
        let told = daemon.events(event);
        assert!(told.len() == 1 && told[0].contains("/site/2"), "{fault:?}: {told:?}");
    }
    assert!(daemon.stop().success());
}
