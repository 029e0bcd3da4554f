//! What is told of a session, in the log and in `status`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{link::LinkError, packet::Refusal};
use crate::{
    clock::Clock,
    domain::{BrokerUrl, Stamp},
};

/// The state of a session that has no certificate to show.
pub(super) const NO_CERTIFICATE: &str = "no_certificate";

/// How a session stands, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// `connected`, `connecting`, `waiting` (for the next attempt), `no_certificate` (waiting for one to be imported),
    /// or `stopped` (a person has to do something).
    pub state: &'static str,
    /// The broker, where it is known.
    pub broker: Option<String>,
    /// Since when it has been connected, or not. A connection may be made before the time is known.
    pub since: Option<DateTime<Utc>>,
    #[serde(skip)]
    began: Option<Stamp>,
    /// Connections that were made since the daemon started.
    pub connections: u64,
    /// Messages since the daemon started that the broker took, or that were sent and want no acknowledgement.
    pub published: u64,
    /// Messages that were received since the daemon started.
    pub received: u64,
    /// Why there is no connection, or what was refused on it.
    pub last_error: Option<String>,
}

impl Status {
    fn begin(&mut self, clock: &Clock) {
        self.began = Some(clock.stamp());
        self.since = None;
        self.place(clock);
    }

    fn place(&mut self, clock: &Clock) {
        if self.since.is_none() {
            let unix_ms = self.began.and_then(|began| clock.place(began));
            self.since = unix_ms.and_then(DateTime::from_timestamp_millis);
        }
    }
}

/// Tells it.
#[derive(Debug)]
pub(super) struct Report {
    /// The section of the configuration that the broker has.
    link: &'static str,
    clock: Clock,
    status: watch::Sender<Status>,
    garbled_told: bool,
    unsubscribed_told: bool,
}

impl Report {
    /// Of a session of which nothing is known.
    pub(super) fn new(link: &'static str, clock: Clock, status: watch::Sender<Status>) -> Self {
        Self { link, clock, status, garbled_told: false, unsubscribed_told: false }
    }

    /// There is no certificate for a broker that wants one.
    pub(super) fn no_certificate(&self, url: &BrokerUrl, tell: bool) {
        let link = self.link;
        let reason = "no certificate: `solarnode-agent identity import FILE` installs one";
        if tell {
            warn!(event = "mqtt.no_certificate", link, broker = %url, reason, "no connection to the broker without a certificate");
        }
        self.status.send_modify(|status| {
            status.state = NO_CERTIFICATE;
            status.broker = Some(url.to_string());
            status.last_error = Some(reason.to_owned());
        });
    }

    /// Nobody says where the broker is.
    pub(super) fn address_unknown(&self, reason: String, tell: bool) {
        let link = self.link;
        if tell {
            warn!(event = "mqtt.address_unknown", link, reason, "no broker to connect to");
        }
        self.status.send_modify(|status| {
            status.state = "waiting";
            status.broker = None;
            status.last_error = Some(reason);
        });
    }

    /// An attempt begins.
    pub(super) fn connecting(&self, url: &BrokerUrl) {
        self.status.send_modify(|status| {
            status.state = "connecting";
            status.broker = Some(url.to_string());
        });
    }

    /// There is a session; `down` is how long there was none, if that is worth a word.
    pub(super) fn connected(&self, url: &BrokerUrl, down: Option<Duration>) {
        let link = self.link;
        if let Some(down) = down {
            info!(event = "mqtt.connected", link, broker = %url, down_secs = down.as_secs(), "connected to the broker");
        } else {
            debug!(link, broker = %url, "connected to the broker again");
        }
        self.status.send_modify(|status| {
            status.state = "connected";
            status.begin(&self.clock);
            status.connections += 1;
            status.last_error = None;
        });
    }

    /// It ends for another certificate, if there is one.
    pub(super) fn certificate_changed(&self, there_is_one: bool) {
        let link = self.link;
        if there_is_one {
            info!(event = "mqtt.certificate_changed", link, "connecting with another certificate");
        }
        self.status.send_modify(|status| {
            status.state = "connecting";
            status.begin(&self.clock);
        });
    }

    /// There is no session, or none any more.
    pub(super) fn lost(&self, error: &LinkError, tell: bool) {
        let (link, kind) = (self.link, error.kind());
        let needs_a_person = error.needs_a_person();
        let error = error.in_section(link);
        let broker = self.status.borrow().broker.clone();
        if !tell {
            debug!(link, error_kind = kind, error, "no connection to the broker");
        } else if needs_a_person {
            error!(
                event = "mqtt.stopped",
                link,
                broker,
                error_kind = kind,
                error,
                "no connection to the broker until somebody acts"
            );
        } else {
            warn!(
                event = "mqtt.disconnected",
                link,
                broker,
                error_kind = kind,
                error,
                "no connection to the broker"
            );
        }
        self.status.send_modify(|status| {
            if status.state == "connected" || status.began.is_none() {
                status.begin(&self.clock);
            }
            status.place(&self.clock);
            status.state = if needs_a_person { "stopped" } else { "waiting" };
            status.last_error = Some(error);
        });
    }

    /// The broker answered the subscription. Publishing goes on without it.
    pub(super) fn subscribed(&mut self, topic: &str, refused: Option<Refusal>) {
        let link = self.link;
        let Some(refusal) = refused else {
            if std::mem::replace(&mut self.unsubscribed_told, false) {
                info!(event = "mqtt.subscribed", link, topic, "instructions come over the broker");
                self.status.send_modify(|status| status.last_error = None);
            }
            return;
        };
        let reason = format!(
            "the broker refused the subscription to {topic}: {refusal}; its rules must let this node read it"
        );
        if !std::mem::replace(&mut self.unsubscribed_told, true) {
            error!(
                event = "mqtt.subscription_refused",
                link, topic, reason, "instructions do not come over the broker"
            );
        }
        self.status.send_modify(|status| status.last_error = Some(reason));
    }

    /// A message came, and was understood or not.
    pub(super) fn received(&mut self, topic: &str, bytes: usize, understood: Result<(), String>) {
        self.status.send_modify(|status| {
            status.received += 1;
            status.place(&self.clock);
        });
        let Err(reason) = understood else {
            self.garbled_told = false;
            return;
        };
        if !std::mem::replace(&mut self.garbled_told, true) {
            let link = self.link;
            warn!(
                event = "mqtt.message_garbled",
                link, topic, bytes, reason, "message not understood"
            );
        }
    }

    /// The broker took a message, or it was sent and wants no acknowledgement.
    pub(super) fn published(&self) {
        self.status.send_modify(|status| {
            status.published += 1;
            status.place(&self.clock);
        });
    }

    /// There is none, and there will be none.
    pub(super) fn stopped(&self) {
        self.status.send_modify(|status| {
            status.state = "stopped";
            status.broker = None;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_it_is_connected_is_known_as_soon_as_the_time_is() {
        let (clock, (sender, status)) = (Clock::untold(), watch::channel(Status::default()));
        let report = Report::new("mqtt", clock.clone(), sender);
        report.connected(&"mqtt://localhost".parse().expect("an address"), None);
        report.published();
        assert_eq!(status.borrow().since, None);
        let began = Utc::now();
        clock.learn_server(began);
        report.published();
        let off = status.borrow().since.expect("a time") - began;
        assert!(off.num_seconds().abs() < 60, "{off}");
    }
}
