//! Instructions with the node's certificate: offered by SolarIn, pushed by a real broker, and both, with the
//! real program killed in between.

use std::time::Duration;

use serde_json::Value;
use solarnet_sim::{Instruction, InstructionState as State, Site, Table, Unit};

use crate::support::{
    agent::{Agent, Daemon, NODE, link},
    network::Network,
    orders::{self, order},
};

const RELAY: u8 = 3;
const SETPOINT: &str = "/site/setpoint";

struct Bench {
    network: Network,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new(network: Network, via: &str) -> Self {
        let relay = Unit::relay(RELAY, 8).with(Table::Holding, 10, &[200]);
        let site = Site::start(vec![relay]).expect("a site");
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
        let config = network
            .config(via)
            .replace("[instructions]", "[instructions]\nallow = [\"SystemConfiguration\"]");
        let agent = Agent::new(&(config + &link(&site) + &setpoint));
        network.give_certificate(&agent);
        Self { network, site, agent }
    }

    /// Over the broker, where no poll comes in the way.
    fn pushed() -> (Self, Daemon) {
        let bench = Self::new(Network::with_broker(), "mqtt");
        let daemon = bench.agent.start();
        // An empty map: what arrives shows that it listens.
        let topic = format!("node/{NODE}/instr");
        bench.agent.status_when("it listens", |status| {
            bench.network.broker().publish(&topic, &[0xa0]);
            status["mqtt"]["received"].as_u64() > Some(0)
        });
        (bench, daemon)
    }

    fn add(&self, topic: &str, parameters: &[(&str, &str)]) -> i64 {
        self.network.sim.add_instruction(order(topic, parameters))
    }

    fn set(&self, value: u16) -> i64 {
        self.add("SetControlParameter", &[(SETPOINT, &value.to_string())])
    }

    fn get(&self, id: i64) -> Instruction {
        self.network.sim.instruction(id).expect("an instruction")
    }

    fn ended(&self, id: i64) -> State {
        orders::ended(&self.network.sim, id).state
    }

    fn results(&self, id: i64) -> Value {
        self.get(id).results.map(Value::Object).unwrap_or_default()
    }

    fn way(&self, id: i64) -> Value {
        let id = id.to_string();
        self.agent.ask_json(&["instruction", "show", &id, "--json"])["way"].clone()
    }

    /// How often this value was written to the device.
    fn writes(&self, value: u16) -> usize {
        self.site.writes(RELAY).iter().filter(|write| write.values == [value]).count()
    }
}

#[test]
fn one_that_solarin_offers_is_carried_out_and_answered_with_its_results() {
    let bench = Bench::new(Network::new(), "bulk");
    let daemon = bench.agent.start();
    let id = bench.set(21);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.writes(21), 1);
    let results = bench.results(id);
    assert_eq!((&results["before"], &results["after"]), (&200.into(), &21.into()), "{results}");
    assert_eq!(bench.way(id), "https");
    let states: Vec<_> = bench.get(id).history.iter().map(|(_, state)| *state).collect();
    assert_eq!(states[states.len() - 2..], [State::Executing, State::Completed]);

    let service = [("service", "net.solarnetwork.node.controls")];
    let id = bench.add("SystemConfiguration", &service);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.results(id)["result"], serde_json::json!([SETPOINT]));
    let id = bench.add("ShedLoad", &[(SETPOINT, "1")]);
    assert_eq!(bench.ended(id), State::Declined);
    assert_eq!(bench.results(id)["code"], "unknown_topic");
    // Offered again, it is answered again and not done again.
    bench.network.sim.set_instruction_state(id, State::Queued);
    assert_eq!(bench.ended(id), State::Declined);
    assert!(daemon.stop().success());
}

#[test]
fn one_that_is_pushed_is_carried_out_at_once_and_by_no_way_twice() {
    let (bench, daemon) = Bench::pushed();
    let id = bench.set(21);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.way(id), "mqtt");
    assert_eq!(bench.results(id)["after"], 21);
    assert!(bench.get(id).history.len() <= 4, "{:?}", bench.get(id).history);
    // Pushed again, and offered over HTTPS as well.
    for _ in 0..3 {
        assert!(bench.network.broker().push(id));
    }
    bench.network.sim.set_instruction_state(id, State::Queued);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.results(id)["after"], 21);
    assert_eq!(bench.writes(21), 1);
    assert!(daemon.stop().success());
}

#[test]
fn messages_that_are_none_of_ours_harm_nothing() {
    let (bench, daemon) = Bench::pushed();
    let broker = bench.network.broker();
    let topic = format!("node/{NODE}/instr");
    let huge = vec![0x9f; 300_000];
    for payload in [&b"garbage"[..], b"", b"{}", &[0xff; 64], &huge] {
        broker.publish(&topic, payload);
    }
    // Where the connection was cut for one of these, it comes again, or SolarIn offers it.
    bench.network.sim.set_instruction_queuing(chrono::TimeDelta::seconds(2));
    let id = bench.set(21);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.writes(21), 1);
    assert!(daemon.stop().success());
}

#[test]
fn killed_at_any_moment_each_is_carried_out_at_most_once_and_ends() {
    let (bench, mut daemon) = Bench::pushed();
    bench.network.sim.set_instruction_queuing(chrono::TimeDelta::seconds(1));
    let mut ids = Vec::new();
    for round in 0..6_u16 {
        let value = 100 + round;
        ids.push((bench.set(value), value));
        // Between the push and long after the end: the moments of an instruction's life.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 23));
        daemon.kill();
        daemon = bench.agent.start();
        bench.network.broker().push(ids[usize::from(round)].0);
    }
    for (id, value) in ids {
        let state = bench.ended(id);
        let writes = bench.writes(value);
        assert!(writes <= 1, "{value} was written {writes} times");
        assert!(state == State::Declined || writes == 1, "{value} was not written");
        let results = bench.results(id);
        assert!(results["message"].is_string(), "{results}");
        if state == State::Declined {
            assert_eq!(results["code"], "may_have_happened");
        }
    }
    assert!(daemon.stop().success());
}

#[test]
fn with_the_broker_away_everything_goes_over_https_and_back() {
    let (bench, daemon) = Bench::pushed();
    bench.network.sim.set_instruction_queuing(chrono::TimeDelta::seconds(1));
    bench.network.broker().kill();
    let id = bench.set(21);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.results(id)["after"], 21);
    bench.network.broker().start_again().expect("the same port");
    bench.agent.status_when("it is connected", |status| status["mqtt"]["state"] == "connected");
    let id = bench.set(22);
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!((bench.writes(21), bench.writes(22)), (1, 1));
    assert!(daemon.stop().success());
}
