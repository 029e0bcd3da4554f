//! Reloads of the real daemon: what changed is another one afterwards, everything else noticed nothing,
//! and nothing is lost or done twice on the way.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use solarnet_sim::{
    Act, Fault, ImportDelays, InstructionState, Misbehaviour, NewInstruction, Sim, Site, Table,
    Unit,
};

use crate::support::{
    agent::{Agent, Daemon, NODE, eventually, link, patient_meter, seed, solarnet},
    ledger::Ledger,
};

const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";
const CABINET: &str = "/site/cabinet";
const ROOF: &str = "/site/roof";
const RELAY: u8 = 3;

/// A server, two sites with a meter and a relay each, and an agent with a bus for each.
struct Bench {
    sim: Sim,
    cabinet: Site,
    roof: Site,
    agent: Agent,
}

/// What a test may change.
#[derive(Clone)]
struct Config {
    cabinet_every: &'static str,
    roof_every: &'static str,
    roof_pause: &'static str,
    with_roof: bool,
    roof_name: &'static str,
    /// Further keys of each section.
    upload: &'static str,
    queue_limit: &'static str,
    instructions: &'static str,
    request_rate: &'static str,
    largest: u16,
}

const CONFIG: Config = Config {
    cabinet_every: "200ms",
    roof_every: "200ms",
    roof_pause: "0s",
    with_roof: true,
    roof_name: "roof",
    upload: "1s",
    queue_limit: "64 MiB",
    instructions: "200ms",
    request_rate: "50/s",
    largest: 1000,
};

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let (queued_ms, claimed_ms, executing_ms) = (200, 100, 200);
        sim.set_import_delays(ImportDelays { queued_ms, claimed_ms, executing_ms, workers: 2 });
        let site = || {
            let relay = Unit::new(RELAY).with(Table::Holding, 0, &[0]);
            Site::start(vec![Unit::meter(1), relay]).expect("a site")
        };
        let (cabinet, roof) = (site(), site());
        let agent = Agent::new("");
        let bench = Self { sim, cabinet, roof, agent };
        bench.configure(&CONFIG);
        bench.agent.import_token();
        bench
    }

    fn running() -> (Self, Daemon) {
        let bench = Self::new();
        let daemon = bench.agent.start();
        bench.readings_go_on();
        (bench, daemon)
    }

    fn configure(&self, config: &Config) {
        self.agent.configure(&self.text(config));
    }

    fn text(&self, config: &Config) -> String {
        let mut text = solarnet(&self.sim)
            .replace("every = \"1s\"", &format!("every = \"{}\"", config.upload))
            .replace("[queue]", &format!("[queue]\nlimit = \"{}\"", config.queue_limit))
            .replace("= \"200ms\"", &format!("= \"{}\"", config.instructions))
            .replace("50/s", config.request_rate)
            + &link(&self.cabinet)
            + &patient_meter(1, CABINET, config.cabinet_every);
        if config.with_roof {
            let name = config.roof_name;
            text += &link(&self.roof).replace("cabinet", name);
            text += &format!("pause = \"{}\"\n", config.roof_pause);
            text += &patient_meter(1, ROOF, config.roof_every);
            text += &format!(
                r#"
[[control]]
id = "/site/relay"
timeout = "30s"
write = {{ modbus = "{name}", unit = {RELAY}, table = "holding", address = 0, type = "u16" }}
allow = {{ min = 0, max = {}, every = "0s" }}
"#,
                config.largest
            );
        }
        text
    }

    fn readings_go_on(&self) {
        for site in [&self.cabinet, &self.roof] {
            let before = site.readings(1);
            eventually("readings go on", || site.readings(1) >= before + 3);
        }
    }

    fn sources(&self) -> Vec<Value> {
        let status = self.agent.status().expect("a status");
        status["sources"].as_array().expect("sources").clone()
    }

    fn set(&self, value: u16) -> i64 {
        self.sim.add_instruction(NewInstruction {
            node: NODE,
            topic: "SetControlParameter".to_owned(),
            parameters: vec![("/site/relay".to_owned(), value.to_string())],
            ..NewInstruction::default()
        })
    }

    fn state(&self, instruction: i64) -> InstructionState {
        self.sim.instruction(instruction).expect("it was added").state
    }

    /// Stops the meters, waits for the last datum, and compares with what was read at the meters.
    fn nothing_was_lost(&self, daemon: Daemon) {
        for site in [&self.cabinet, &self.roof] {
            site.set_fault(1, Some(Fault::Silent));
        }
        eventually("every reading arrives", || {
            let ledger = Ledger::of(&self.sim);
            let has_all = |source: &str, site: &Site| {
                ledger.readings(source).len() >= site.readings(1) as usize
            };
            has_all(CABINET, &self.cabinet) && has_all(ROOF, &self.roof)
        });
        self.agent.until_nothing_waits();
        assert!(daemon.stop().success());
        let ledger = Ledger::of(&self.sim);
        ledger.assert_unchanged();
        for (source, site) in [(CABINET, &self.cabinet), (ROOF, &self.roof)] {
            ledger.assert_only_readings(source, site.readings(1));
            let all: BTreeSet<u32> = (1..=site.readings(1)).collect();
            assert_eq!(ledger.readings(source), all, "{source}");
        }
    }
}

fn last_reload(status: &Value) -> &Value {
    &status["config"]["last_reload"]
}

#[test]
fn a_changed_bus_restarts_and_the_other_keeps_its_connection_and_its_counts() {
    let (bench, daemon) = Bench::running();
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, 1));
    let reads = bench.sources()[0]["reads"].as_u64().expect("a count");

    let faster = Config { roof_every: "150ms", ..CONFIG };
    bench.configure(&faster);
    let said = daemon.reload();
    assert!(said.contains("bus roof restarted (unit /site/roof); instructor restarted"), "{said}");
    assert!(!said.contains("cabinet"), "{said}");
    bench.readings_go_on();
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, 2));
    assert!(bench.sources()[0]["reads"].as_u64().expect("a count") > reads);

    bench.configure(&Config { with_roof: false, ..faster.clone() });
    let said = daemon.reload();
    assert!(said.contains("bus roof stopped"), "{said}");
    assert_eq!(bench.sources().len(), 1);
    bench.roof.until_all_have_left().expect("the site is there");
    let connections = bench.roof.connections();
    let (requests, before) = (bench.roof.requests(1), bench.cabinet.readings(1));
    eventually("the other one is read", || bench.cabinet.readings(1) > before + 5);
    assert_eq!(bench.roof.requests(1), requests);

    bench.configure(&faster);
    assert!(daemon.reload().contains("bus roof started"));
    bench.readings_go_on();
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, connections + 1));
    bench.nothing_was_lost(daemon);
}

#[test]
fn a_file_that_check_complains_about_is_reported_word_for_word_and_changes_nothing() {
    let (bench, daemon) = Bench::running();
    let good = bench.text(&CONFIG);
    bench.agent.configure(&(good.replace("id = 3", "id = 4") + "\n[upload]\nevry = \"1s\"\n"));
    assert!(daemon.reload().contains("config.refused"));
    bench.agent.configure(
        &good
            .replace("\"150/s\"", "")
            .replace("u16", "u17")
            .replace("[node]\nid = 123", "[node]\nid = -1"),
    );
    let said = daemon.reload();
    assert!(said.contains("config.refused"), "{said}");

    let output = bench.agent.run(&["check"]);
    assert_eq!(output.status.code(), Some(78));
    let complaints = String::from_utf8(output.stdout).expect("text");
    assert!(complaints.lines().count() >= 2, "{complaints}");
    let status = bench.agent.status().expect("a status");
    assert_eq!(last_reload(&status)["result"], "refused");
    let problems = last_reload(&status)["problems"].as_array().expect("problems").clone();
    let problems: Vec<&str> = problems.iter().filter_map(Value::as_str).collect();
    assert_eq!(problems, complaints.lines().collect::<Vec<_>>());
    let logged = daemon.events("config.problem").join("\n");
    for problem in &problems {
        // The log escapes quotation marks.
        let plain = logged.replace("\\\"", "\"");
        assert!(plain.contains(problem), "{problem} is not in\n{logged}");
    }
    let shown = bench.agent.ask(&["status"]);
    assert!(shown.contains("reload refused") && shown.contains(problems[0]), "{shown}");

    bench.readings_go_on();
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, 1));
    bench.configure(&CONFIG);
    assert!(daemon.reload().contains("config.unchanged"));
    let status = bench.agent.status().expect("a status");
    assert_eq!(last_reload(&status)["result"], "unchanged");
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, 1));
    bench.nothing_was_lost(daemon);
}

#[test]
fn a_key_that_needs_a_restart_refuses_the_whole_reload() {
    let (bench, daemon) = Bench::running();
    let text = bench.text(&Config { roof_every: "300ms", ..CONFIG });
    bench.agent.configure(&text.replace("id = 123", "id = 124"));
    let output = bench.agent.run(&["check", "--diff"]);
    assert_eq!(output.status.code(), Some(78));
    let shown = String::from_utf8(output.stdout).expect("text");
    assert!(
        shown.contains("would be refused") && shown.contains("node.id needs a restart"),
        "{shown}"
    );
    assert!(daemon.reload().contains("config.refused"));
    assert_eq!(daemon.lines_with(&["config.problem", "node.id", "needs a restart"]).len(), 1);
    bench.readings_go_on();
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, 1));
    bench.configure(&CONFIG);
    bench.nothing_was_lost(daemon);
}

#[test]
fn check_diff_says_beforehand_what_a_reload_does() {
    let (bench, daemon) = Bench::running();
    assert!(bench.agent.ask(&["check", "--diff"]).contains("a reload would change nothing"));
    bench.configure(&Config { roof_name: "attic", upload: "2s", queue_limit: "32 MiB", ..CONFIG });
    let shown = bench.agent.ask(&["check", "--diff"]);
    let expected = "a reload would:
  start bus attic (modbus.attic)
  stop bus roof (modbus.roof)
  adjust queue (queue.limit)
  restart uploader (upload.every)
  restart instructor (modbus.attic, modbus.roof)
";
    assert!(shown.ends_with(expected), "{shown}");
    let diff = bench.agent.ask_json(&["check", "--diff", "--json"])["diff"].clone();
    assert_eq!(bench.roof.connections(), 1, "asking changes nothing");

    daemon.reload();
    let status = bench
        .agent
        .status_when("the limit is taken", |status| status["queue"]["limit"] == 32 << 20);
    assert_eq!(last_reload(&status)["changes"], diff["changes"]);
    bench.readings_go_on();
    bench.nothing_was_lost(daemon);

    // Nobody to ask, and somebody who reads another file.
    assert_eq!(bench.agent.run(&["check", "--diff"]).status.code(), Some(69));
    let daemon = bench.agent.start();
    let other = bench.agent.path("other.toml");
    std::fs::copy(bench.agent.config(), &other).expect("copied");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_solarnode-agent"));
    command.args(["check", "--diff", "--config"]).arg(&other).env_clear();
    let output = command.output().expect("the agent starts");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(daemon.stop().success());
}

#[test]
fn an_instruction_under_way_is_finished_on_the_bus_that_it_was_begun_on() {
    let (bench, daemon) = Bench::running();
    bench.roof.set_fault(RELAY, Some(Fault::Slow(700)));
    let requests = bench.roof.requests(RELAY);
    let instruction = bench.set(7);
    eventually("the relay is asked", || bench.roof.requests(RELAY) > requests);
    bench.configure(&Config { roof_every: "150ms", largest: 999, ..CONFIG });
    assert!(daemon.reload().contains("bus roof restarted (unit /site/roof, control /site/relay)"));
    eventually("the instruction ends", || bench.state(instruction).is_final());
    assert_eq!(bench.state(instruction), InstructionState::Completed);
    let writes: Vec<_> = bench.roof.writes(RELAY).into_iter().map(|write| write.values).collect();
    assert_eq!(writes, [[7]]);
    bench.roof.set_fault(RELAY, None);

    // The limits are the new ones now.
    let beyond = bench.set(1000);
    eventually("the instruction ends", || bench.state(beyond).is_final());
    assert_eq!(bench.state(beyond), InstructionState::Declined);
    bench.nothing_was_lost(daemon);
}

#[test]
fn another_token_is_used_after_a_reload_and_the_open_job_is_followed_to_its_end() {
    let (bench, daemon) = Bench::running();
    let file = bench.agent.private_file("secret", crate::support::agent::SECRET);
    let file = file.to_str().expect("text");
    let id = ["--token-id", crate::support::agent::TOKEN, "--secret-file", file];
    bench.agent.ask(&[&["token", "import", "second"], &id[..]].concat());
    let posts = bench.sim.count_requests("POST", JOBS);
    eventually("a batch is sent", || bench.sim.count_requests("POST", JOBS) > posts);
    let text = bench.text(&CONFIG).replace("[solarnet]", "[solarnet]\ntoken = \"second\"");
    bench.agent.configure(&text);
    assert!(daemon.reload().contains("refresher restarted (solarnet.token)"));
    bench.agent.status_when("the other token is in use", |status| {
        status["credentials"][0]["token"] == "second"
    });
    bench.nothing_was_lost(daemon);
    assert_eq!((bench.cabinet.connections(), bench.roof.connections()), (1, 1));
}

#[test]
fn twenty_reloads_at_random_lose_nothing_and_do_nothing_twice() {
    let seed = std::env::var("RELOAD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("RELOAD_SEED={seed} changes the same things again");
    let mut random = fastrand::Rng::with_seed(seed);
    let (bench, daemon) = Bench::running();
    let mut config = CONFIG;
    let mut instructions = Vec::new();
    for _ in 0..20 {
        for _ in 0..random.usize(1..3) {
            match random.u8(..10) {
                0 => config.cabinet_every = ["100ms", "150ms", "200ms"][random.usize(..3)],
                1 => config.roof_every = ["100ms", "150ms", "200ms"][random.usize(..3)],
                2 => config.roof_pause = ["0s", "5ms"][random.usize(..2)],
                3 => config.with_roof ^= true,
                4 => config.roof_name = ["roof", "attic"][random.usize(..2)],
                5 => config.upload = ["1s", "2s"][random.usize(..2)],
                6 => config.queue_limit = ["8 MiB", "64 MiB", "24 MiB"][random.usize(..3)],
                7 => config.instructions = ["300ms", "200ms"][random.usize(..2)],
                8 => config.request_rate = ["50/s", "40/s"][random.usize(..2)],
                _ => config.largest ^= 1024,
            }
        }
        bench.sim.behave();
        match random.u8(..4) {
            0 => bench.sim.misbehave(Misbehaviour::new(JOBS, Act::CutAfter).times(1)),
            1 => bench.sim.misbehave(Misbehaviour::new("/solar", Act::Slow { ms: 200 })),
            _ => {}
        }
        if random.bool() {
            let value = u16::try_from(instructions.len() + 1).expect("a few");
            instructions.push(bench.set(value));
        }
        // Random moments are what is being tested, not guesses at how long something takes.
        std::thread::sleep(Duration::from_millis(random.u64(0..600)));
        bench.configure(&config);
        assert!(!daemon.reload().contains("config.refused"), "RELOAD_SEED={seed}");
    }
    bench.sim.behave();
    bench.configure(&Config { with_roof: true, ..config });
    daemon.reload();
    eventually("every instruction ends", || {
        instructions.iter().all(|id| bench.state(*id).is_final())
    });
    let writes = bench.roof.writes(RELAY);
    for (id, value) in instructions.iter().zip(1u16..) {
        let written = writes.iter().filter(|write| write.values == [value]).count();
        assert!(written <= 1, "RELOAD_SEED={seed}: {id} was carried out {written} times");
        let completed = bench.state(*id) == InstructionState::Completed;
        assert_eq!(written == 1, completed, "RELOAD_SEED={seed}: {id} {:?}", bench.state(*id));
    }
    bench.nothing_was_lost(daemon);
}
