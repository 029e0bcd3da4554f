//! The daemon as its service manager and its operator see it.

use solarnet_sim::{Sim, Site, Unit};

use crate::support::agent::{Agent, eventually, link, meter, seed, solarnet};

#[test]
fn readings_arrive_and_the_daemon_stops_when_asked() {
    let sim = Sim::start(seed()).expect("a simulator");
    let site = Site::start(vec![Unit::meter(1)]).expect("a site");
    let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &meter(1, "/site/meter", "200ms")));
    agent.import_token();
    let daemon = agent.start();
    eventually("readings arrive", || sim.ledger_count().datum >= 3);
    assert!(daemon.stop().success());
}
