//! The simulator over the wire, as its users meet it.

mod client;
mod files;
mod import;
mod program;
mod queries;
mod servers;
mod site;
mod solarin;

use std::time::{Duration, Instant};

use client::Client;
use solarnet_sim::{Seed, Sim};

const NODE: i64 = 123;
const TOKEN: &str = "abcdefghij0123456789";
const SECRET: &str = "Zq3.v7X_k9-LmN2pRsT4uVwYz";

/// User 1 with the import role, node 123, an unrestricted User token.
fn simple() -> Sim {
    Sim::start(Seed::simple(1, NODE, TOKEN, SECRET)).unwrap()
}

fn client_of(sim: &Sim) -> Client {
    Client::new(sim.address(), TOKEN, SECRET)
}

/// Asks again until it is so, for longer than anything takes on a busy machine.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within two minutes: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
