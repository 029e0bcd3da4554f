//! What `check` and a reload try before anything is touched.

use std::path::Path;

use super::brokers;
use crate::{
    clock::Clock,
    config::{Problem, Settings, Severity, problem_at, settings::Via},
    domain::Chain,
    modbus::{self, Poller},
    net::{Net, NetError},
};

/// Makes all that the daemon makes before it touches anything, and says which keys of the configuration `file` keep it
/// from that. No file is written, no port opened.
#[must_use]
pub fn rehearse(file: &Path, settings: &Settings) -> Vec<Problem> {
    let (solarnet, clock) = (&settings.solarnet, Clock::untold());
    let problem = |key: &str, found: String, expected: &str| {
        problem_at(file, key, found, expected.to_owned(), Severity::Error)
    };
    let ca_file = |key: &str, error: &NetError| {
        problem(key, error.of_its_key(), "a PEM file of the authorities' certificates")
    };
    let mut failed = Vec::new();
    if let Err(error) = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone()) {
        failed.push(ca_file("solarnet.ca_file", &error));
    }
    let brokers = [
        ("mqtt", (settings.upload.via == Via::Mqtt).then_some(&settings.mqtt.broker)),
        ("flux", settings.flux.as_ref().map(|flux| &flux.broker)),
    ];
    for (table, broker) in brokers.into_iter().filter_map(|(table, b)| Some((table, b?))) {
        // The authorities that all share were tried.
        if broker.ca_file.is_some()
            && let Err(error) = brokers::tls(table, settings, broker, clock.clone(), None)
        {
            failed.push(ca_file(&format!("{table}.ca_file"), &error));
        }
    }
    for (index, bus) in settings.modbus.iter().enumerate() {
        let (channels, wire) = (modbus::Channels::unconnected(), modbus::Carrier::of(bus));
        if let Err(error) = Poller::new(bus, &settings.controls, wire, clock.clone(), channels) {
            let expected = "units that can be read as the protocol has it";
            failed.push(problem(&format!("modbus[{index}]"), Chain(&error).to_string(), expected));
        }
    }
    failed
}
