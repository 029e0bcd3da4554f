//! `identity check`: all checks of an import again, what stops when, and what SolarIn says.

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde_json::json;

use super::{Exit, Failure, IdentityContext, Streams};
use crate::{
    cli::token::{block_on, readable},
    clock::Clock,
    identity::{
        NodeCertificate,
        calls::{IdentityCalls as _, Trouble},
        check::{Complaint, judge},
        keeper::remembered_in,
        renewal::{Life, Machine, Terms},
    },
};

/// Check the node's certificate: key, chain, node and dates, and whether SolarIn accepts it
///
/// Exits with 78 if it is wrong for this configuration, with 77 if SolarIn refuses it, and with 69 if SolarIn does not
/// answer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent identity check --offline")]
pub(super) struct Check {
    /// Do not ask SolarIn
    #[arg(long)]
    offline: bool,
    /// Print JSON: {problems, remarks, ends, because, warns_from, renews_from, solarin, reason}
    #[arg(long)]
    json: bool,
}

/// When what happens.
struct Dates {
    ends: DateTime<Utc>,
    because: String,
    warns_from: DateTime<Utc>,
    /// `None` where it is not allowed, or nothing can come of it any more.
    renews_from: Option<DateTime<Utc>>,
    allowed: bool,
    /// What a person can do.
    remedy: &'static str,
}

impl Check {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
    ) -> Result<Exit, Failure> {
        let (node, certificate, clock) = (context.node()?, context.stored()?, Clock::untold());
        let asked = if self.offline {
            None
        } else {
            let shared = std::sync::Arc::new(certificate.clone());
            Some(block_on(context.calls(clock.clone()).prove(&shared))?)
        };
        // The answer may have told the time.
        let now = clock.believed_now();
        let complaints = judge(&certificate, node, now);
        let (remarks, problems): (Vec<_>, Vec<_>) =
            complaints.iter().partition(|complaint| complaint.is_remark());
        let text =
            |list: &[&Complaint]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
        let (problems, mut remarks) = (text(&problems), text(&remarks));
        let dates = dates(&certificate, context, now);
        if (dates.warns_from..dates.ends).contains(&now) {
            remarks.push(dates.warning());
        }
        let (said, reason) = match &asked {
            None => (None, None),
            Some(Ok(())) => (Some("accepted"), None),
            Some(Err(Trouble::Refused(reason))) => (Some("refused"), Some(reason)),
            Some(Err(Trouble::Passing(reason))) => (Some("unreachable"), Some(reason)),
        };
        if self.json {
            let report = json!({
                "problems": problems,
                "remarks": remarks,
                "ends": dates.ends,
                "because": dates.because,
                "warns_from": dates.warns_from,
                "renews_from": dates.renews_from,
                "solarin": said,
                "reason": reason,
            });
            writeln!(streams.out, "{report:#}")?;
        } else {
            for problem in &problems {
                writeln!(streams.out, "problem: {problem}")?;
            }
            for remark in &remarks {
                writeln!(streams.out, "note: {remark}")?;
            }
            dates.print(streams, now)?;
            match (said, reason) {
                (Some(said), None) => {
                    writeln!(streams.out, "SolarIn: {said} ({})", context.solarnet.in_url)?;
                }
                (Some(said), Some(reason)) => {
                    writeln!(streams.out, "SolarIn: {said}: {reason}")?;
                }
                (None, _) => {}
            }
        }
        Ok(match asked {
            _ if !problems.is_empty() => Exit::Config,
            Some(Err(Trouble::Refused(_))) => Exit::NoPermission,
            Some(Err(Trouble::Passing(_))) => Exit::Unavailable,
            None | Some(Ok(())) => Exit::Ok,
        })
    }
}

fn dates(certificate: &NodeCertificate, context: &IdentityContext, now: DateTime<Utc>) -> Dates {
    let ends = certificate.ends();
    let first = certificate.chain().iter().find(|link| link.not_after() == ends);
    let subject = first.unwrap_or(certificate.leaf()).subject();
    let settings = context.identity.as_ref();
    let before = settings.and_then(|settings| TimeDelta::from_std(settings.renew_before).ok());
    let terms = Terms {
        allowed: settings.is_some_and(|settings| settings.renew),
        before: before.unwrap_or_default(),
    };
    let mut machine = Machine::new(terms, remembered_in(&context.state_dir));
    let life = Life { begins: certificate.leaf().not_before(), ends };
    machine.holds(Some(life), false);
    Dates {
        ends,
        because: format!("the certificate of {subject} ends, and SolarIn knows the node no longer"),
        warns_from: ends - machine.lead(Some(now)),
        renews_from: machine.asks_at(Some(now)),
        allowed: terms.allowed,
        remedy: machine.remedy(Some(now)),
    }
}

impl Dates {
    /// The end is near.
    fn warning(&self) -> String {
        format!("the certificate ends soon, on {}: {}", readable(self.ends), self.remedy)
    }

    fn print(&self, streams: &mut Streams<'_>, now: DateTime<Utc>) -> std::io::Result<()> {
        if self.ends < now {
            // What is to be done is a problem that was named.
            return writeln!(streams.out, "stopped on {}: {}", readable(self.ends), self.because);
        }
        writeln!(streams.out, "stops on {}: {}", readable(self.ends), self.because)?;
        writeln!(streams.out, "warnings begin on {}", readable(self.warns_from))?;
        match self.renews_from {
            Some(at) => writeln!(streams.out, "a renewal is asked for from {}", readable(at)),
            None if self.allowed => {
                writeln!(streams.out, "no renewal is asked for any more before that")
            }
            None => writeln!(
                streams.out,
                "no renewal is asked for: `identity.renew` allows it, and sends the private key to SolarNetwork"
            ),
        }
    }
}
