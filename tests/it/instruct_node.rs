//! What instructions ask of the node itself: each topic with and without the configuration that allows it, by
//! the real program and a token.

use std::{fs, time::Duration};

use serde_json::Value;
use solarnet_sim::{Instruction, InstructionState as State, Sim, Site, Table, Unit};

use crate::support::{
    agent::{Agent, eventually, link, seed, solarnet},
    orders::{self, order},
};

const RELAY: u8 = 3;
const SWITCH: &str = "/site/relay";
const ALL: &str =
    r#"allow = ["LoggingSetLevel", "SystemRestart", "SystemReboot", "SystemConfiguration"]"#;
const RESTART: (&str, &[(&str, &str)]) = ("SystemRestart", &[]);
const REBOOT: (&str, &[(&str, &str)]) = ("SystemReboot", &[]);
const CONTROLS: (&str, &[(&str, &str)]) =
    ("SystemConfiguration", &[("service", "net.solarnetwork.node.controls")]);

struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    /// With this beside the other keys of `[instructions]`, and this in the control.
    fn new(instructions: &str, control: &str) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::relay(RELAY, 8)]).expect("a site");
        let config =
            solarnet(&sim).replace("[instructions]", &format!("[instructions]\n{instructions}"));
        let relay = format!(
            r#"
[[control]]
id = "{SWITCH}"
settle = "500ms"
timeout = "30s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "coil", address = 0 }}
allow = {{ min = 0, max = 1, every = "0s" }}
{control}
"#
        );
        let agent = Agent::new(&(config + &link(&site) + &relay));
        agent.import_token();
        Self { sim, site, agent }
    }

    fn add(&self, (topic, parameters): (&str, &[(&str, &str)])) -> i64 {
        self.sim.add_instruction(order(topic, parameters))
    }

    fn get(&self, id: i64) -> Instruction {
        self.sim.instruction(id).expect("an instruction")
    }

    fn ended(&self, id: i64) -> State {
        orders::ended(&self.sim, id).state
    }

    fn journal(&self, id: i64) -> Value {
        self.agent.ask_json(&["instruction", "show", &id.to_string(), "--json"])
    }

    fn is_declined(&self, order: (&str, &[(&str, &str)]), code: &str) {
        let id = self.add(order);
        assert_eq!(self.ended(id), State::Declined, "{order:?}");
        assert_eq!(self.journal(id)["code"], code, "{order:?}");
    }
}

#[test]
fn without_a_configuration_that_allows_it_nothing_is_asked_of_the_node() {
    let bench = Bench::new("", "");
    let daemon = bench.agent.start();
    for order in [RESTART, REBOOT, CONTROLS] {
        bench.is_declined(order, "not_allowed");
    }
    bench.is_declined(("LoggingSetLevel", &[("logger", "root"), ("level", "off")]), "not_allowed");
    bench.is_declined(("RenewCertificate", &[("Certificate", "x")]), "not_allowed");
    bench.is_declined(("SetOperatingState", &[(SWITCH, "Normal")]), "not_allowed");
    bench.is_declined(("Signal", &[(SWITCH, "open")]), "not_allowed");
    bench.is_declined(("SystemConfigure", &[("service", "/system/reboot")]), "unknown_topic");
    assert_eq!(bench.site.writes(RELAY), []);
    assert!(!bench.agent.state_dir().join("reboot").exists());
    assert!(daemon.stop().success());
}

#[test]
fn states_and_signals_write_the_values_that_the_control_gives_them() {
    let named = "states = { Normal = 1, Standby = 0 }\nsignals = { open = 1 }";
    let bench = Bench::new("", named);
    let daemon = bench.agent.start();
    for (topic, text, value) in
        [("SetOperatingState", "1", 1), ("SetOperatingState", "Standby", 0), ("Signal", "open", 1)]
    {
        let id = bench.add((topic, &[(SWITCH, text)]));
        assert_eq!(bench.ended(id), State::Completed, "{topic} {text}");
        assert_eq!(bench.site.value(RELAY, Table::Coil, 0), Some(value), "{topic} {text}");
    }
    bench.is_declined(("SetOperatingState", &[(SWITCH, "Fault")]), "value");
    bench.is_declined(("Signal", &[(SWITCH, "close")]), "value");
    assert_eq!(bench.site.writes(RELAY).len(), 3);
    assert!(daemon.stop().success());
}

#[test]
fn a_restart_is_told_before_the_daemon_ends_with_75_and_is_not_done_again() {
    let bench = Bench::new(ALL, "");
    let mut daemon = bench.agent.start();
    let id = bench.add(RESTART);
    assert_eq!(daemon.wait().code(), Some(75));
    assert_eq!(bench.get(id).state, State::Completed, "told before it ended");
    assert_eq!(daemon.events("agent.stopped").len(), 1);
    bench.sim.set_instruction_state(id, State::Queued);
    let daemon = bench.agent.start();
    assert_eq!(bench.ended(id), State::Completed);
    assert!(bench.agent.status().is_some(), "it runs on");
    assert!(daemon.stop().success());
}

#[test]
fn levels_of_the_log_change_while_it_runs_and_go_back() {
    let bench = Bench::new(ALL, "");
    let daemon = bench.agent.start();
    let set = |logger: &str, level: &str| {
        let id = bench.add(("LoggingSetLevel", &[("logger", logger), ("level", level)]));
        assert_eq!(bench.ended(id), State::Completed, "{logger} {level}");
        id
    };
    let done = |id: i64| {
        let id = format!("instruction_id={id} ");
        !daemon.lines_with(&["event=\"instruction.done\"", &id]).is_empty()
    };
    let quiet = set("instruct, queue", "error");
    let changed = &bench.agent.status().expect("a status")["log"]["changed"];
    assert_eq!(*changed, serde_json::json!({ "instruct": "error", "queue": "error" }));
    let still = bench.add(CONTROLS);
    assert_eq!(bench.ended(still), State::Completed);
    let back = set("instruct", "inherit");
    assert!(!done(quiet) && !done(still) && done(back));
    bench.is_declined(("LoggingSetLevel", &[("logger", "rustls"), ("level", "trace")]), "failed");

    set("queue", "inherit");
    let said = daemon.events("agent.log_level").len();
    set("root", "off");
    let last = |log: &[String]| log.last().is_some_and(|line| line.contains("modules=\"root\""));
    assert!(last(&daemon.log()), "its own line is the last one");
    set("root", "inherit");
    assert_eq!(daemon.events("agent.log_level").len(), said + 2, "gone and back");
    assert_eq!(bench.agent.status().expect("a status")["log"]["changed"], serde_json::json!({}));
    assert!(daemon.stop().success());
}

#[test]
fn the_controls_are_named_in_the_result() {
    let bench = Bench::new(ALL, "");
    let daemon = bench.agent.start();
    let id = bench.add(CONTROLS);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.journal(id)["result"], serde_json::json!([SWITCH]));
    eventually("the result is in the ledger", || {
        let said = |name: &str, value: &str, datum: &solarnet_sim::Datum| {
            datum.s.get(name).is_some_and(|text| text == value)
        };
        bench.sim.ledger().iter().any(|(_, entry)| {
            said("instruction", &id.to_string(), &entry.datum)
                && said("result", &format!("[\"{SWITCH}\"]"), &entry.datum)
        })
    });
    let other = [("service", "net.solarnetwork.node.settings")];
    bench.is_declined(("SystemConfiguration", &other), "unknown_service");
    assert!(daemon.stop().success());
}

/// The test plays systemd's part: it takes the file that asks for a reboot, or does not.
#[test]
fn a_reboot_that_nobody_takes_did_not_happen_and_one_that_was_taken_may_have() {
    let bench = Bench::new(ALL, "");
    let daemon = bench.agent.start();
    let request = bench.agent.state_dir().join("reboot");
    let id = bench.add(REBOOT);
    assert_eq!(bench.ended(id), State::Declined);
    assert_eq!(bench.journal(id)["code"], "failed");
    assert!(!request.exists(), "it cannot be taken later");

    let id = bench.add(REBOOT);
    eventually("the file asks for a reboot", || request.exists());
    assert_eq!(bench.get(id).state, State::Executing, "told first");
    fs::remove_file(&request).expect("taken");
    // The agent goes down with the machine. Here the machine does not, so nobody knows.
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.stop().success());
    assert_eq!(bench.get(id).state, State::Executing);
    let daemon = bench.agent.start();
    assert_eq!(bench.ended(id), State::Declined);
    assert_eq!(bench.journal(id)["code"], "may_have_happened");
    assert!(daemon.stop().success());

    // As if the machine had started again meanwhile.
    let daemon = bench.agent.start();
    let id = bench.add(REBOOT);
    eventually("the file asks for a reboot", || request.exists());
    fs::remove_file(&request).expect("taken");
    daemon.kill();
    let entry = bench.agent.state_dir().join(format!("instructions/{id}.json"));
    let mut record = bench.journal(id);
    record["life"] = "an earlier boot".into();
    fs::write(&entry, record.to_string()).expect("written");
    let daemon = bench.agent.start();
    assert_eq!(bench.ended(id), State::Completed);
    assert!(!request.exists(), "and not again");
    assert!(daemon.stop().success());
}
