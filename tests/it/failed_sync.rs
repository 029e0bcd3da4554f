//! Syncs that fail below the running daemon: strace answers some of its `fdatasync` with an error.

use std::{collections::BTreeSet, process::Command};

use solarnet_sim::{Sim, Site, Unit};

use crate::support::{
    agent::{Agent, Daemon, eventually, link, meter, seed, solarnet},
    ledger::{Ledger, committed},
};

/// The daemon with every ninth sync of content failing, from the sixth on.
fn start(agent: &Agent) -> Daemon {
    let mut command = Command::new("strace");
    // -D: the daemon is our own child, so that killing it kills it.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
    command.args(["-e", "inject=fdatasync:error=EIO:when=6+9"]);
    let daemon = agent.command(&["run", "--log", "debug"]);
    command.env_clear().arg(daemon.get_program()).args(daemon.get_args());
    assert!(
        Command::new("strace").arg("-V").output().is_ok(),
        "strace cannot be started: run tests/setup.sh"
    );
    Daemon::spawn(command)
}

#[test]
fn after_failed_syncs_the_queue_is_opened_again_and_no_reading_is_lost() {
    const METER: &str = "/site/meter";
    let sim = Sim::start(seed()).expect("a simulator");
    let site = Site::start(vec![Unit::meter(1)]).expect("a site");
    let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &meter(1, METER, "100ms")));
    agent.import_token();
    // Nothing leaves the queue meanwhile.
    sim.go_down();

    let daemon = start(&agent);
    eventually("the queue was opened again three times", || {
        daemon.events("queue.reopened").len() >= 3
    });
    assert!(!daemon.events("queue.room").is_empty(), "it stores again");
    daemon.kill();
    let kept = committed(&agent);
    let reading = |samples: Option<u32>| samples.expect("a meter's reading");
    let numbers: BTreeSet<u32> = kept.values().map(|row| reading(row.samples.reading())).collect();
    let last = *numbers.last().expect("some");
    assert!(numbers.iter().copied().eq(1..=last), "readings lost between failures: {numbers:?}");

    sim.come_back().expect("the port is still free");
    let daemon = agent.start();
    eventually("all arrived", || Ledger::of(&sim).readings(METER).is_superset(&numbers));
    assert!(daemon.stop().success());
    let ledger = Ledger::of(&sim);
    ledger.assert_has_all(kept.values());
    ledger.assert_unchanged();
}
