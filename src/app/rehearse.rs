//! What `check` and a reload try before anything is touched.

use super::{AppError, brokers};
use crate::{
    clock::Clock,
    config::{Settings, settings::Via},
    modbus::{self, Poller},
    net::Net,
};

/// Makes, for `check`, all that the daemon makes before it touches anything, and says for which key of the
/// configuration that fails. No file is written, no port opened.
#[must_use]
pub fn rehearse(settings: &Settings) -> Vec<(String, AppError)> {
    let (solarnet, clock) = (&settings.solarnet, Clock::untold());
    let mut failed = Vec::new();
    if let Err(error) = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone()) {
        failed.push(("solarnet.ca_file".to_owned(), error.into()));
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
            failed.push((format!("{table}.ca_file"), error.into()));
        }
    }
    for (index, bus) in settings.modbus.iter().enumerate() {
        let (channels, wire) = (modbus::Channels::unconnected(), modbus::wire(bus));
        if let Err(error) = Poller::new(bus, &settings.controls, wire, clock.clone(), channels) {
            failed.push((format!("modbus[{index}]"), error.into()));
        }
    }
    failed
}
