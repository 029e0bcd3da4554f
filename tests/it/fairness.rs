//! Fairness on one bus of the real program: eight units, one silent, one slow, one that answers with garbage.

use std::time::Duration;

use serde_json::Value;
use solarnet_sim::{Fault, Sim, Site, Unit};

use crate::support::agent::{Agent, at_one_try, eventually, live_through, meter, seed, solarnet};

const UNITS: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const BAD: [(u8, Fault); 3] = [(1, Fault::Silent), (2, Fault::Slow(400)), (3, Fault::Garbage)];
/// When the guarantee begins after a unit fell silent, and how long it is looked at.
const GRACE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(20);

/// `link` is the bus's line in the configuration.
fn neighbours_keep_their_schedule(agent: &Agent, sim: &Sim, site: &Site, link: &str) {
    let meters: String = UNITS.map(|unit| meter(unit, &format!("/unit/{unit}"), "1s")).concat();
    let meters = meters.replace("timeout = \"2s\"", "timeout = \"500ms\"\nretries = 2");
    let bus = format!("\n[[modbus]]\nname = \"cabinet\"\n{link}\n{meters}");
    agent.configure(&(solarnet(sim) + &bus));
    agent.import_token();
    let report = agent.ask_json(&["check", "--json"]);
    assert_eq!(report["buses"][0]["fits"], true, "{report}");

    let daemon = agent.start();
    let sources = || agent.status().expect("a running daemon")["sources"].clone();
    let of = |sources: &Value, unit: u8, key: &str| sources[usize::from(unit) - 1][key].clone();
    let all_are = |wanted: &[(u8, &str)]| {
        let sources = sources();
        wanted.iter().all(|(unit, state)| of(&sources, *unit, "state") == **state)
    };
    eventually("all are read", || all_are(&UNITS.map(|unit| (unit, "up"))));
    for (unit, fault) in BAD {
        site.set_fault(unit, Some(fault));
    }
    live_through(GRACE);
    at_one_try(|| {
        let (before, took, after) = (sources(), live_through(WINDOW), sources());
        let due = took.as_secs_f64();
        for unit in UNITS.into_iter().filter(|unit| BAD.iter().all(|(bad, _)| bad != unit)) {
            let reads = |sources: &Value| of(sources, unit, "reads").as_f64().expect("a count");
            let read = reads(&after) - reads(&before);
            // One turn may lie on either edge of the window.
            if read < 0.95 * due - 1.0 {
                return Err(format!("unit {unit}: {read} of {due:.1}"));
            }
        }
        Ok(())
    });
    eventually("the bad ones are told", || all_are(&[(1, "down"), (2, "up"), (3, "down")]));
    for (unit, _) in BAD {
        site.set_fault(unit, None);
    }
    eventually("all are back", || all_are(&UNITS.map(|unit| (unit, "up"))));
    assert!(daemon.stop().success());
}

#[test]
fn on_modbus_tcp_neighbours_of_bad_units_keep_their_schedule() {
    let sim = Sim::start(seed()).expect("a simulator");
    let site = Site::start(UNITS.map(Unit::meter).into()).expect("a site");
    let link = format!("tcp = \"{}\"", site.address());
    neighbours_keep_their_schedule(&Agent::new(""), &sim, &site, &link);
}

#[test]
fn on_a_serial_line_neighbours_of_bad_units_keep_their_schedule() {
    let sim = Sim::start(seed()).expect("a simulator");
    let site = Site::start(UNITS.map(Unit::meter).into()).expect("a site");
    let agent = Agent::new("");
    let line = site.serial_line(&agent.path("line"), 38_400).expect("a line");
    let link = format!("serial = {{ port = \"{}\", baud = 38400 }}", line.path().display());
    neighbours_keep_their_schedule(&agent, &sim, &site, &link);
    assert_eq!(line.report().early, 0);
}
