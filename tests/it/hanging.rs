//! What hangs: an asker at the control socket, a device at the other end of a connection. It costs nobody else
//! anything.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::Value;
use solarnet_sim::{InstructionState, Sim, Site, Table, Unit};

use crate::support::{
    agent::{Agent, at_one_try, eventually, link, live_through, meter, seed, solarnet},
    orders::order,
};

/// More than are served at once.
const HANGING: usize = 40;
const RELAY: u8 = 3;

struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    /// A meter and a relay, and what else the configuration has.
    fn new(more: &str) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1), Unit::relay(RELAY, 8)]).expect("a site");
        let config = solarnet(&sim) + &link(&site) + &meter(1, "/site/meter", "200ms");
        let agent = Agent::new(&(config + &relay("cabinet", "/site/relay", "30s") + more));
        agent.import_token();
        Self { sim, site, agent }
    }

    fn switch(&self, control: &str) -> i64 {
        self.sim.add_instruction(order("SetControlParameter", &[(control, "1")]))
    }

    fn state(&self, id: i64) -> InstructionState {
        self.sim.instruction(id).expect("an instruction").state
    }
}

/// A control on a bus.
fn relay(bus: &str, id: &str, timeout: &str) -> String {
    format!(
        r#"
[[control]]
id = "{id}"
timeout = "{timeout}"
write = {{ modbus = "{bus}", unit = {RELAY}, table = "coil", address = 0 }}
allow = {{ min = 0, max = 1, every = "0s" }}
"#
    )
}

#[test]
fn askers_who_hang_keep_nobody_from_the_status() {
    let bench = Bench::new("");
    let daemon = bench.agent.start();
    let socket = bench.agent.state_dir().join("control.sock");
    let open = || fs::read_dir(format!("/proc/{}/fd", daemon.id())).expect("a process").count();
    let before = open();
    for sent in ["", "{\"ask\":", "{\"ask\":\"status\"}\n", "{\"ask\":\"frames\"}\n"] {
        at_one_try(|| {
            let hanging: Vec<UnixStream> = (0..HANGING)
                .map(|_| {
                    let mut stream = UnixStream::connect(&socket).expect("the socket listens");
                    // One that has to go is cut off while it still speaks.
                    drop(stream.write_all(sent.as_bytes()));
                    stream
                })
                .collect();
            let asked = Instant::now();
            assert!(bench.agent.status().is_some(), "asked while others said {sent:?}");
            let took = asked.elapsed();
            let readings = bench.site.readings(1);
            eventually("readings go on", || bench.site.readings(1) >= readings + 3);
            drop(hanging);
            // Who says nothing is cut off after five.
            let is_soon = took < Duration::from_secs(4);
            is_soon.then_some(()).ok_or_else(|| format!("{took:?} while others said {sent:?}"))
        });
    }
    eventually("no connection is left", || open() <= before + 2);
    assert!(daemon.stop().success());
}

#[test]
fn a_device_that_takes_connections_and_never_answers_delays_no_other() {
    // Takes connections, says nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = deaf.local_addr().expect("an address");
    let bus = format!("\n[[modbus]]\nname = \"deaf\"\ntcp = \"{address}\"\n");
    let bench = Bench::new(
        &(bus + &meter(1, "/deaf/meter", "200ms") + &relay("deaf", "/deaf/relay", "1s")),
    );
    let daemon = bench.agent.start();
    eventually("it is known to be silent", || !daemon.events("source.down").is_empty());

    at_one_try(|| {
        // One that cannot be carried out, and one after it.
        let (in_vain, other) = (bench.switch("/deaf/relay"), bench.switch("/site/relay"));
        let before = bench.site.readings(1);
        let is_done = || bench.state(other) == InstructionState::Completed;
        let took = eventually("the other one is done", is_done);
        assert_eq!(bench.site.value(RELAY, Table::Coil, 0), Some(1));
        let all = took + live_through(Duration::from_secs(4));
        let due = all.as_secs_f64() / 0.2;
        let read = f64::from(bench.site.readings(1) - before);
        eventually("the one in vain ends", || bench.state(in_vain) == InstructionState::Declined);
        let is_soon = took < Duration::from_secs(10) && read >= 0.9 * due - 1.0;
        is_soon.then_some(()).ok_or_else(|| format!("{took:?}, {read} readings of {due:.0}"))
    });

    let status = bench.agent.status().expect("a status");
    let state = |source: &str| -> Value {
        let all = status["sources"].as_array().expect("sources");
        all.iter().find(|one| one["source"] == source).expect("it is listed")["state"].clone()
    };
    assert_eq!((state("/site/meter"), state("/deaf/meter")), ("up".into(), "down".into()));
    assert_eq!(daemon.events("source.down").len(), 1, "told once");
    assert!(daemon.events("agent.task_stuck").is_empty());
    let asked = Instant::now();
    assert!(daemon.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}
