//! Where things stand with the certificate, for `status` and the log.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::{error, info, warn};

use super::{
    super::{
        Certificate, NodeCertificate,
        calls::IdentityCalls,
        check::{Listed, judge},
        renewal::{Condition, Moment},
    },
    Work,
};
use crate::domain::utc;

/// Where things stand with the certificate: a member of `credentials` in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Always `node`; what tells it from a token.
    pub certificate: &'static str,
    /// Whether the configuration needs it.
    pub needed: bool,
    /// Whom it is about.
    pub subject: Option<String>,
    /// Its serial number, hexadecimal.
    pub serial: Option<String>,
    /// The first instant at which something stops if nothing changes.
    pub ends: Option<DateTime<Utc>>,
    /// Why then.
    pub because: String,
    /// When a renewal is asked for next.
    pub next_attempt: Option<DateTime<Utc>>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The longest time for which SolarNetwork was out of reach.
    pub longest_outage_secs: i64,
}

impl Status {
    /// Whether there is anything to be said: there is a certificate, or there should be.
    #[must_use]
    pub fn is_of_interest(&self) -> bool {
        self.needed || self.subject.is_some() || self.last_error.is_some()
    }
}

impl<C: IdentityCalls> Work<C> {
    /// Publishes where things stand, and logs it if that changed.
    pub(super) fn report(&mut self) {
        let moment = self.moment();
        let condition = self.machine.condition(moment);
        let status = self.status(condition, moment);
        let ends = matches!(condition, Condition::Ends | Condition::EndsSoon);
        let known = (condition, ends && status.last_error.is_some());
        if self.reported.as_ref() != Some(&known) {
            self.log(condition, &status);
            self.reported = Some(known);
        }
        self.parts.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    fn log(&self, condition: Condition, status: &Status) {
        let because = &status.because;
        let ends = status.ends.map(utc).unwrap_or_default();
        let error = status.last_error.as_deref();
        match condition {
            Condition::Missing if self.parts.needed => {
                error!(event = "identity.missing", because, "no certificate, uploads wait");
            }
            Condition::Missing | Condition::TimeUnknown => {}
            Condition::NotYet => {
                warn!(event = "identity.not_yet", because, "certificate not valid yet");
            }
            Condition::Well | Condition::Renewing => {
                info!(
                    event = "identity.well",
                    certificate_expires = ends,
                    because,
                    "certificate in use"
                );
            }
            Condition::Ends => {
                warn!(
                    event = "identity.ends",
                    certificate_expires = ends,
                    because,
                    error,
                    "certificate ends"
                );
            }
            Condition::EndsSoon => {
                error!(
                    event = "identity.ends_soon",
                    certificate_expires = ends,
                    because,
                    error,
                    "certificate ends soon"
                );
            }
            Condition::RunOut => {
                error!(
                    event = "identity.ran_out",
                    certificate_expires = ends,
                    because,
                    "certificate ran out"
                );
            }
        }
    }

    fn status(&self, condition: Condition, moment: Moment) -> Status {
        let current = self.parts.identity.current();
        let leaf = current.as_deref().map(NodeCertificate::leaf);
        let complaints = current.as_deref().map(|certificate| {
            let now = moment.now.unwrap_or_else(|| self.parts.clock.believed_now());
            let mut complaints = judge(certificate, self.parts.node, now);
            complaints.retain(|complaint| complaint.is_final() && moment.now.is_some());
            complaints
        });
        let complaints = complaints.filter(|complaints| !complaints.is_empty());
        let wrong = complaints.map(|complaints| Listed(&complaints).to_string());
        Status {
            certificate: "node",
            needed: self.parts.needed,
            subject: leaf.map(|leaf| leaf.subject().to_string()),
            serial: leaf.map(Certificate::serial),
            ends: current.as_deref().map(NodeCertificate::ends),
            because: wrong.unwrap_or_else(|| self.because(condition, moment.now)),
            next_attempt: self.machine.asks_at(moment.now),
            last_error: self
                .unreadable
                .clone()
                .or_else(|| self.machine.trouble().map(ToString::to_string)),
            longest_outage_secs: self.machine.memory().longest_outage_secs,
        }
    }

    fn because(&self, condition: Condition, now: Option<DateTime<Utc>>) -> String {
        let import = "`solarnode-agent identity import` installs one";
        match condition {
            Condition::Missing => match &self.unreadable {
                Some(error) => error.clone(),
                None => format!("there is no certificate on this device; {import}"),
            },
            Condition::TimeUnknown => "the time is not known yet".to_owned(),
            Condition::NotYet => {
                "the certificate is not valid yet: set the clock, or wait".to_owned()
            }
            Condition::Well => "the certificate ends then".to_owned(),
            Condition::Renewing => "a renewed certificate is on its way".to_owned(),
            Condition::Ends | Condition::EndsSoon => {
                format!("the certificate ends then: {}", self.machine.remedy(now))
            }
            Condition::RunOut => format!("the certificate has ended; {import}"),
        }
    }
}
