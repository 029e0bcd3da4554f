//! A month without a server, in a minute: what the daemon costs meanwhile, what it says, and how it comes back.
//!
//! Time passes for the agent alone ([`QuickTime`]), a hundred thousand times as fast while there is nobody to
//! talk to and a thousand times while there is; the server's clock is taken along.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{Fault, Sim, Site, Unit};

use crate::support::{
    agent::{Agent, Daemon, SECRET, TOKEN, eventually, link, meter, seed, solarnet},
    faketime::QuickTime,
    ledger::{Ledger, committed},
};

const SOURCE: &str = "/site/meter";
/// While there is a server.
const BRISK: f64 = 1_000.0;
/// While there is none.
const FAST: f64 = 100_000.0;

struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let agent = Agent::new("");
        let config = solarnet(&sim)
            .replace("timeout = \"2s\"", "timeout = \"5m\"")
            .replace("every = \"1s\"", "every = \"1h\"")
            .replace("at_risk = \"50ms\"", "at_risk = \"1m\"")
            .replace("\"200ms\"", "\"1h\"");
        let meter = meter(1, SOURCE, "30m").replace("timeout = \"2s\"", "timeout = \"1m\"");
        agent.configure(&(config + &link(&site) + &meter));
        agent.import_token();
        Self { sim, site, agent }
    }

    /// Waits until it is so, while the server's clock follows the agent's.
    fn together(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        eventually(what, || {
            let Some(status) = self.agent.status() else { return false };
            if let Some(now) = status["clock"]["now"].as_str() {
                let now: DateTime<Utc> = now.parse().expect("a date");
                self.sim.set_clock_offset(now - Utc::now());
            }
            last = status;
            is_so(&last)
        });
        last
    }

    /// The server is away for so long.
    fn outage(&self, time: &mut QuickTime, length: TimeDelta) {
        self.sim.go_down();
        time.set_speed(FAST);
        let until = time.passed() + length;
        eventually("time has passed", || time.passed() >= until);
        time.set_speed(BRISK);
        // The server has lived through it, too.
        eventually("the agent tells the time", || {
            // Its patience with whoever asks it is short at this speed.
            let Some(status) = self.agent.status() else { return false };
            let now: Option<DateTime<Utc>> =
                status["clock"]["now"].as_str().map(|now| now.parse().expect("a date"));
            now.inspect(|now| self.sim.set_clock_offset(*now - Utc::now())).is_some()
        });
        self.sim.come_back().expect("the same port");
    }
}

fn key_date(status: &Value) -> DateTime<Utc> {
    let day = status["credentials"][0]["key_date"].as_str().expect("a day");
    let day: chrono::NaiveDate = day.parse().expect("a day");
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

/// Lines logged, but for those on the meter: a minute's timeout is less than a millisecond of ours.
fn lines(daemon: &Daemon) -> usize {
    daemon.log().iter().filter(|line| !line.contains("event=\"source.")).count()
}

#[test]
fn a_month_without_a_server_costs_neither_memory_nor_peace_and_ends_with_everything_sent() {
    let bench = Bench::new();
    let mut time = QuickTime::at_speed(BRISK);
    let daemon = Daemon::spawn(time.shown_to(bench.agent.command(&["run"])));
    let first = bench.together("the first readings are sent", |status| {
        status["upload"]["uploaded"].as_u64() >= Some(1)
    });

    // A key signs for a week: after five days it is renewed as if nothing had been.
    bench.outage(&mut time, TimeDelta::days(5));
    let at_least = key_date(&first) + TimeDelta::days(5);
    bench.together("the key is renewed", |status| key_date(status) >= at_least);
    bench.together("all is sent", |status| {
        status["queue"]["records"].as_u64() <= Some(3) && status["upload"]["state"] == "ok"
    });
    let (memory, lines) = (daemon.resident_kib(), lines(&daemon));

    // After thirty it has ended, and somebody has to put in another one.
    bench.outage(&mut time, TimeDelta::days(30));
    let grown = daemon.resident_kib().saturating_sub(memory);
    assert!(grown <= 2048, "{grown} KiB more than before");
    assert_eq!(daemon.events("credential.ran_out").len(), 1);
    let said = self::lines(&daemon) - lines;
    assert!(said <= 40, "{said} lines in thirty days");
    // How many answers come in time at this speed is the machine's affair; that none of them is lost is what counts, below.
    bench
        .agent
        .status_when("some are kept", |status| status["queue"]["records"].as_u64() >= Some(30));

    bench.agent.import(TOKEN, SECRET, &[]);
    bench.site.set_fault(1, Some(Fault::Silent));
    let kept = committed(&bench.agent);
    bench.together("all is sent", |status| status["queue"]["records"] == 0);
    let ledger = Ledger::of(&bench.sim);
    ledger.assert_has_all(kept.values());
    ledger.assert_unchanged();
    ledger.assert_only_readings(SOURCE, bench.site.readings(1));
    assert_eq!(daemon.events("queue.dropped"), Vec::<String>::new());
    drop(daemon);
}
