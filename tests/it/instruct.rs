//! Instructions, from the server's list to a simulated relay and back: each is carried out at most once,
//! within its limits and its time, and what is reported is what the device shows.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{
    Act, Datum, Fault, Instruction, InstructionState as State, Misbehaviour, NewInstruction, Sim,
    Site, Table, Unit, Write,
};

use crate::support::{
    agent::{Agent, Daemon, eventually, link, seed, solarnet},
    orders::{self, order},
};

const RELAY: u8 = 3;
const LIST: &str = "/solaruser/api/v1/sec/instr/viewPending";
const STATES: &str = "/solaruser/api/v1/sec/instr/updateState";
const RESULTS: &str = "/site/instructions";
const SWITCH: &str = "/site/relay";
const SETPOINT: &str = "/site/setpoint";

/// A server, a site with a relay and a set-point, and an agent that may write to both.
struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let relay = Unit::relay(RELAY, 8).with(Table::Holding, 10, &[200]);
        let site = Site::start(vec![relay]).expect("a site");
        let controls = format!(
            r#"
[[control]]
id = "{SWITCH}"
settle = "500ms"
timeout = "4s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "coil", address = 0 }}
allow = {{ min = 0, max = 1, every = "0s" }}

[[control]]
id = "{SETPOINT}"
settle = "500ms"
timeout = "30s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "holding", address = 10, type = "i16", multiply = 0.1, offset = -5 }}
allow = {{ min = 10, max = 30.5, every = "1h" }}
"#
        );
        let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &controls));
        agent.import_token();
        Self { sim, site, agent }
    }

    fn running() -> (Self, Daemon) {
        let bench = Self::new();
        let daemon = bench.agent.start();
        (bench, daemon)
    }

    fn add(&self, topic: &str, parameters: &[(&str, &str)]) -> i64 {
        self.sim.add_instruction(order(topic, parameters))
    }

    fn set(&self, control: &str, value: &str) -> i64 {
        self.add("SetControlParameter", &[(control, value)])
    }

    fn get(&self, id: i64) -> Instruction {
        self.sim.instruction(id).expect("an instruction")
    }

    fn writes(&self) -> Vec<Write> {
        self.site.writes(RELAY)
    }

    fn coil(&self) -> u16 {
        self.site.value(RELAY, Table::Coil, 0).expect("a coil")
    }

    /// What the agent itself keeps of it.
    fn journal(&self, id: i64) -> Value {
        self.agent.ask_json(&["instruction", "show", &id.to_string(), "--json"])
    }

    /// Waits until the server has its final state; gives that.
    fn ended(&self, id: i64) -> State {
        orders::ended(&self.sim, id).state
    }

    /// Waits for the datum that says how it ended.
    fn result(&self, id: i64) -> (String, Datum) {
        let mut found = None;
        eventually("the result is in the ledger", || {
            let own = |datum: &Datum| datum.s.get("instruction") == Some(&id.to_string());
            let mut all = self.sim.ledger().into_iter();
            found = all.find(|(_, entry)| own(&entry.datum));
            found.is_some()
        });
        let (key, entry) = found.expect("found");
        (key.source, entry.datum)
    }

    /// The instruction is declined with this code, and its datum says so.
    fn is_declined(&self, id: i64, code: &str) -> (String, Datum) {
        assert_eq!(self.ended(id), State::Declined, "{code}");
        let (source, datum) = self.result(id);
        let text = |name: &str| datum.s.get(name).map(String::as_str);
        assert_eq!((text("outcome"), text("code")), (Some("Declined"), Some(code)), "{datum:?}");
        assert!(text("message").is_some_and(|message| !message.is_empty()), "{code}: no message");
        (source, datum)
    }
}

fn states(instruction: &Instruction) -> Vec<State> {
    instruction.history.iter().map(|(_, state)| *state).collect()
}

fn said(datum: &Datum, names: [&str; 3]) -> [String; 3] {
    names.map(|name| datum.s.get(name).cloned().unwrap_or_default())
}

fn sleep_past(moment: DateTime<Utc>) {
    std::thread::sleep((moment - Utc::now()).to_std().unwrap_or_default());
}

#[test]
fn a_relay_and_a_register_are_set_once_and_the_result_is_what_they_show() {
    let (bench, daemon) = Bench::running();
    let switch = bench.set(SWITCH, "1");
    assert_eq!(bench.ended(switch), State::Completed);
    assert_eq!(bench.coil(), 1);
    let setpoint = bench.set(SETPOINT, "21.5");
    assert_eq!(bench.ended(setpoint), State::Completed);
    // (21.5 + 5) / 0.1
    assert_eq!(bench.site.value(RELAY, Table::Holding, 10), Some(265));

    let writes = bench.writes();
    assert_eq!(writes.len(), 2, "{writes:?}");
    for (id, control, values, v) in [
        (switch, SWITCH, ["0", "1", "1"], "1"),
        (setpoint, SETPOINT, ["15", "21.5", "21.5"], "21.5"),
    ] {
        let (source, datum) = bench.result(id);
        assert_eq!(source, control);
        assert_eq!(said(&datum, ["before", "wanted", "val"]), values);
        assert_eq!(datum.decimal("v"), v.parse().ok());
        assert_eq!(datum.s.get("outcome").map(String::as_str), Some("Completed"));
        assert_eq!(datum.s.get("code"), None);
    }
    // Told, done, ended: in this order, and none of it twice.
    for (id, write) in [(switch, &writes[0]), (setpoint, &writes[1])] {
        let history = bench.get(id).history;
        let told = |state: State| history.iter().find(|(_, s)| *s == state).expect("told").0;
        assert_eq!(history.len(), 3, "{history:?}");
        assert!(told(State::Executing) <= write.time && write.time <= told(State::Completed));
    }
    assert!(daemon.stop().success());
}

#[test]
fn what_is_not_allowed_is_declined_and_nothing_is_written() {
    let (bench, daemon) = Bench::running();
    let cases = [
        (bench.set(SETPOINT, "30.6"), "limit", SETPOINT),
        (bench.set(SETPOINT, "9.99"), "limit", SETPOINT),
        (bench.set(SETPOINT, "20.05"), "not_representable", SETPOINT),
        (bench.set(SETPOINT, "warm"), "value", SETPOINT),
        (bench.set(SWITCH, "2"), "limit", SWITCH),
        (bench.set("/site/other", "1"), "unknown_control", RESULTS),
        (
            bench.add("SetControlParameter", &[(SWITCH, "1"), (SETPOINT, "20")]),
            "parameters",
            RESULTS,
        ),
        (bench.add("SetControlParameter", &[(SWITCH, "1"), (SWITCH, "1")]), "parameters", SWITCH),
        (bench.add("SetControlParameter", &[]), "parameters", RESULTS),
        (bench.add("Reboot", &[("now", "1")]), "unknown_topic", RESULTS),
    ];
    for (id, code, source) in cases {
        let (told, datum) = bench.is_declined(id, code);
        assert!(told == source || told == RESULTS, "{code}: {told}: {datum:?}");
        let states = states(&bench.get(id));
        assert!(code == "not_representable" || !states.contains(&State::Executing), "{code}");
    }
    assert_eq!(bench.writes(), []);
    assert!(daemon.stop().success());
}

#[test]
fn a_second_write_too_soon_is_declined_also_after_a_restart() {
    let (bench, daemon) = Bench::running();
    assert_eq!(bench.ended(bench.set(SETPOINT, "20")), State::Completed);
    bench.is_declined(bench.set(SETPOINT, "21"), "too_soon");
    assert!(daemon.stop().success());
    let daemon = bench.agent.start();
    bench.is_declined(bench.set(SETPOINT, "22"), "too_soon");
    assert_eq!(bench.writes().len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn an_old_or_expired_instruction_is_never_carried_out() {
    let (bench, daemon) = Bench::running();
    let past = Utc::now() - TimeDelta::hours(1);
    let old = bench.sim.add_instruction(NewInstruction {
        instruction_date: Some(past),
        ..order("SetControlParameter", &[(SWITCH, "1")])
    });
    // Handed out before its end and not carried out before it.
    bench.site.set_fault(RELAY, Some(Fault::Silent));
    let ends = Utc::now() + TimeDelta::seconds(12);
    let later = (Utc::now() + TimeDelta::seconds(60)).to_rfc3339();
    let expiring = bench.sim.add_instruction(NewInstruction {
        expires: Some(ends),
        ..order("SetControlParameter", &[(SWITCH, "1"), ("executionDate", &later)])
    });
    bench.is_declined(old, "too_old");
    bench.is_declined(expiring, "expired");
    // One that expires while the server is away.
    bench.site.set_fault(RELAY, None);
    let ends = Utc::now() + TimeDelta::seconds(12);
    let due = (ends - TimeDelta::seconds(1)).to_rfc3339();
    let waiting = bench.sim.add_instruction(NewInstruction {
        expires: Some(ends),
        ..order("SetControlParameter", &[(SWITCH, "1"), ("executionDate", &due)])
    });
    eventually("it is kept", || bench.get(waiting).state == State::Received);
    bench.sim.go_down();
    sleep_past(ends);
    bench.sim.come_back().expect("the same port");
    assert_eq!(bench.ended(waiting), State::Declined);
    eventually("the journal knows", || bench.journal(waiting)["state"] == "declined");
    assert_eq!(bench.writes(), []);
    assert!(daemon.stop().success());
}

#[test]
fn a_later_instruction_waits_over_a_restart_and_can_be_cancelled() {
    let (bench, daemon) = Bench::running();
    let due = Utc::now() + TimeDelta::seconds(10);
    let later = |value: &str, due: DateTime<Utc>| {
        bench.add("SetControlParameter", &[(SWITCH, value), ("executionDate", &due.to_rfc3339())])
    };
    let on_time = later("1", due);
    // However long the restart takes, it is not due before it is cancelled.
    let cancelled = later("0", due + TimeDelta::hours(1));
    for id in [on_time, cancelled] {
        eventually("it is kept", || bench.get(id).state == State::Received);
    }
    daemon.kill();
    let daemon = bench.agent.start();
    let cancel = bench.add("CancelInstruction", &[("id", &cancelled.to_string())]);
    assert_eq!(bench.ended(cancel), State::Completed);
    bench.is_declined(cancelled, "cancelled");
    assert_eq!(bench.ended(on_time), State::Completed);
    let writes = bench.writes();
    assert_eq!(writes.len(), 1);
    assert!(writes[0].time >= due, "not before its time: {writes:?} {due}");
    // What has ended cannot be cancelled any more.
    let late = bench.add("CancelInstruction", &[("id", &on_time.to_string())]);
    bench.is_declined(late, "not_cancellable");
    assert!(daemon.stop().success());
}

#[test]
fn a_write_that_the_device_did_not_take_or_did_not_answer_is_no_success() {
    let (bench, daemon) = Bench::running();
    bench.site.set_fault(RELAY, Some(Fault::IgnoresWrites));
    let ignored = bench.set(SWITCH, "1");
    let (_, datum) = bench.is_declined(ignored, "not_taken");
    assert_eq!(said(&datum, ["before", "wanted", "val"]), ["0", "1", "0"]);
    assert_eq!(bench.writes().len(), 1, "it is not repeated");

    bench.site.set_fault(RELAY, Some(Fault::Silent));
    bench.is_declined(bench.set(SWITCH, "1"), "no_answer");
    assert_eq!(bench.writes().len(), 1);

    bench.site.set_fault(RELAY, Some(Fault::LosesAnswer));
    // It cannot be read before, so nothing is written.
    bench.is_declined(bench.set(SWITCH, "1"), "no_answer");
    assert_eq!(bench.writes().len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_write_whose_answer_is_lost_may_have_happened_and_is_not_repeated() {
    let (bench, daemon) = Bench::running();
    bench.site.set_fault(RELAY, Some(Fault::Slow(2000)));
    let requests = bench.site.requests(RELAY);
    let id = bench.set(SWITCH, "1");
    // The first request reads the value before; the second one is the write.
    eventually("it is being carried out", || bench.site.requests(RELAY) > requests);
    bench.site.set_fault(RELAY, Some(Fault::LosesAnswer));
    let (_, datum) = bench.is_declined(id, "may_have_happened");
    assert!(datum.s["message"].contains("may have happened"), "{datum:?}");
    bench.site.set_fault(RELAY, None);
    let next = bench.set(SWITCH, "0");
    assert_eq!(bench.ended(next), State::Completed);
    let values: Vec<u16> = bench.writes().iter().map(|write| write.values[0]).collect();
    assert_eq!(values, [1, 0]);
    assert!(daemon.stop().success());
}

#[test]
fn duplicates_replays_and_states_set_back_never_cause_a_second_write() {
    let (bench, daemon) = Bench::running();
    bench.sim.misbehave(Misbehaviour::new(LIST, Act::DuplicateInstruction));
    let id = bench.set(SWITCH, "1");
    assert_eq!(bench.ended(id), State::Completed);
    bench.sim.behave();
    bench.sim.misbehave(Misbehaviour::new(LIST, Act::ReplayInstruction));
    let polls = bench.sim.count_requests("GET", LIST);
    eventually("it was handed out again", || bench.sim.count_requests("GET", LIST) > polls + 5);
    bench.sim.behave();
    for state in [State::Queued, State::Received, State::Executing] {
        bench.sim.set_instruction_state(id, state);
        assert_eq!(bench.ended(id), State::Completed, "it is told its end again");
    }
    assert!(daemon.stop().success());
    bench.sim.set_instruction_state(id, State::Queued);
    let daemon = bench.agent.start();
    assert_eq!(bench.ended(id), State::Completed);
    assert_eq!(bench.writes().len(), 1);
    assert_eq!(bench.sim.ledger_count().changed, 0);
    assert!(daemon.stop().success());
}

#[test]
fn the_result_is_stored_before_the_server_hears_of_the_end() {
    let (bench, daemon) = Bench::running();
    // Imports work, states cannot be told; then it is killed: the result is all that is left.
    bench
        .sim
        .misbehave(Misbehaviour::new(STATES, Act::Status { status: 503 }).method("POST").skip(1));
    let id = bench.set(SWITCH, "1");
    let (_, datum) = bench.result(id);
    assert_eq!(datum.s["outcome"], "Completed");
    assert!(!bench.get(id).state.is_final(), "{:?}", bench.get(id).history);
    daemon.kill();
    bench.sim.behave();
    let daemon = bench.agent.start();
    assert_eq!(bench.ended(id), State::Completed, "the end is told after the restart");
    assert_eq!(bench.writes().len(), 1);
    assert_eq!(bench.sim.ledger_count().changed, 0, "and the result is the same datum");
    assert!(daemon.stop().success());
}

#[test]
fn killed_while_acting_it_says_that_it_may_have_happened_and_does_not_repeat_it() {
    // Killed while the value before is read, while it is written, while it is read back.
    for request in 1..=3 {
        let (bench, daemon) = Bench::running();
        bench.site.set_fault(RELAY, Some(Fault::Slow(1500)));
        let id = bench.set(SWITCH, "1");
        eventually("it is begun", || bench.site.requests(RELAY) >= request - 1);
        // Time enough to be killed in, and within the control's own.
        bench.site.set_fault(RELAY, Some(Fault::Slow(3500)));
        eventually("it is being carried out", || bench.site.requests(RELAY) >= request);
        daemon.kill();
        bench.site.set_fault(RELAY, None);
        let writes = bench.writes();
        assert_eq!(writes.len(), usize::from(request > 1), "{writes:?}");

        let daemon = bench.agent.start();
        let (source, datum) = bench.is_declined(id, "may_have_happened");
        assert_eq!(source, SWITCH);
        assert!(datum.s["message"].contains("may have happened"), "{datum:?}");
        assert_eq!(daemon.events("instruction.uncertain").len(), 1);
        assert_eq!(bench.writes(), writes, "it is not done again");
        assert!(daemon.stop().success());
    }
}

#[test]
fn with_the_server_away_the_end_is_told_later_and_nothing_is_done_twice() {
    let (bench, daemon) = Bench::running();
    bench.site.set_fault(RELAY, Some(Fault::Slow(500)));
    let requests = bench.site.requests(RELAY);
    let id = bench.set(SWITCH, "1");
    eventually("it is being carried out", || bench.site.requests(RELAY) > requests);
    bench.sim.go_down();
    eventually("the relay is on", || bench.coil() == 1);
    eventually("it has ended here", || bench.journal(id)["state"] == "completed");
    assert_eq!(bench.get(id).state, State::Executing);
    bench.sim.come_back().expect("the same port");
    assert_eq!(bench.ended(id), State::Completed);
    let (_, datum) = bench.result(id);
    assert_eq!(said(&datum, ["before", "wanted", "val"]), ["0", "1", "1"]);
    assert_eq!(bench.writes().len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn an_instruction_that_its_owner_withdrew_is_left_alone() {
    let (bench, daemon) = Bench::running();
    let due = Utc::now() + TimeDelta::seconds(10);
    let parameters = [(SWITCH, "1"), ("executionDate", &*due.to_rfc3339())];
    let withdrawn = bench.add("SetControlParameter", &parameters);
    eventually("it is kept", || bench.get(withdrawn).state == State::Received);
    bench.sim.set_instruction_state(withdrawn, State::Declined);
    let before = states(&bench.get(withdrawn));
    eventually("the journal knows", || bench.journal(withdrawn)["state"] == "declined");
    sleep_past(due);
    let polls = bench.sim.count_requests("GET", LIST);
    eventually("it polls on", || bench.sim.count_requests("GET", LIST) > polls + 2);
    assert_eq!(states(&bench.get(withdrawn)), before, "no state was written onto the final one");
    assert_eq!(bench.writes(), []);
    assert!(daemon.stop().success());
}
