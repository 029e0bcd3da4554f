//! When a certificate is to be renewed, and what the operator has to know before it ends. Pure.
//!
//! ```text
//!  SolarNetwork's 3 months ─┐    lead     ┌── 14 days
//!  ─────────────────────────┴──┬──────────┴────────┬──▶
//!   Well                       │ Ends, or          │ EndsSoon      RunOut
//!                              │ Renewing: asked ──┼─▶ instruction ─▶ Proving ─▶ in use
//! ```
//!
//! * The lead is `identity.renew_before`, or the longest time that SolarNetwork was out of reach and a fortnight,
//!   whichever is longer, but no more than half of the certificate's life: a site that was offline for two months
//!   has to begin early enough to be offline for two months again.
//! * A renewal is asked for only where that is allowed, since the request holds the private key; once a day until the
//!   renewed certificate arrives, which is an instruction. Refused, it is asked for again after a day; not answered,
//!   after a minute, doubling to an hour.
//! * A renewed certificate is proved until the server has said yes or no.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::calls::Trouble;

/// How often the last contact is written to disk: outages are measured in days.
pub(super) const CONTACT_EVERY: TimeDelta = TimeDelta::hours(6);

/// What has to be left of a certificate's life after an outage as long as the longest one.
const MARGIN: TimeDelta = TimeDelta::days(14);

/// With less than this left a person has to act.
const SOON: TimeDelta = TimeDelta::days(14);

/// How long before its end the server renews a certificate at all: three months, of which the shortest have 89 days.
const EARLIEST: TimeDelta = TimeDelta::days(89);

/// How long a renewal may take to arrive, and how long a refusal is taken for final.
const DAY: Duration = Duration::from_secs(86_400);

/// First and longest pause after a call without an answer.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// First and longest pause between two proofs of one certificate.
const PROOFS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10 * 60));

/// The clock may be corrected at any time, so no wait is longer before the next look at it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait while the time is not known: what ends when is not known either.
const TIMELESS: Duration = Duration::from_secs(2);

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time, if it is known.
    pub now: Option<DateTime<Utc>>,
    /// Time that never jumps, from any start.
    pub elapsed: Duration,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its first second.
    pub begins: DateTime<Utc>,
    /// Its last one.
    pub ends: DateTime<Utc>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whether the private key may be sent.
    pub allowed: bool,
    /// How long before the end it begins.
    pub before: TimeDelta,
}

/// What is remembered over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// When SolarNetwork answered last.
    pub last_contact: Option<DateTime<Utc>>,
    /// The longest time between two answers.
    #[serde(default)]
    pub longest_outage_secs: i64,
    /// When a renewal was asked for last, written before the request.
    pub asked: Option<DateTime<Utc>>,
    /// Whether `last_contact` is exact: written when the agent stopped, and nothing was heard since. Otherwise answers
    /// less than [`CONTACT_EVERY`] younger may not have been written.
    #[serde(default)]
    pub exact: bool,
}

impl Memory {
    fn longest_outage(&self, now: Option<DateTime<Utc>>) -> TimeDelta {
        let seen = TimeDelta::try_seconds(self.longest_outage_secs).unwrap_or(TimeDelta::MAX);
        // One that is not over counts as well.
        let lasting = now.zip(self.last_contact).map(|(now, last)| now - last);
        seen.max(lasting.unwrap_or_default())
    }
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// Ask for a renewal.
    Ask,
    /// Prove the renewed certificate.
    Prove,
}

/// Where things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// No certificate is on the device.
    Missing,
    /// The time is not known, so neither is whether it is valid.
    TimeUnknown,
    /// It begins later.
    NotYet,
    /// There is time.
    Well,
    /// Its renewal is due or asked for, or the renewed one is being proved.
    Renewing,
    /// It ends within the lead, and is not being renewed.
    Ends,
    /// It ends within a fortnight.
    EndsSoon,
    /// It has ended.
    RunOut,
}

/// When to do what about one certificate.
#[derive(Debug)]
pub struct Machine {
    terms: Terms,
    life: Option<Life>,
    /// Whether there is a renewed one that waits for its proof.
    renewed: bool,
    memory: Memory,
    /// How much younger than remembered the last contact may be.
    unsure: TimeDelta,
    trouble: Option<Trouble>,
    failures: u32,
    /// Not before that.
    next: Duration,
}

impl Machine {
    /// Knows of no certificate yet.
    #[must_use]
    pub fn new(terms: Terms, memory: Memory) -> Self {
        let unsure = if memory.exact { TimeDelta::zero() } else { CONTACT_EVERY };
        Self {
            terms,
            life: None,
            renewed: false,
            memory,
            unsure,
            trouble: None,
            failures: 0,
            next: Duration::ZERO,
        }
    }

    /// What is remembered.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What went wrong last, if it is not over.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// SolarNetwork answered at that time. After a kill only what was surely an outage counts as one.
    pub fn heard(&mut self, at: DateTime<Utc>) {
        let memory = &mut self.memory;
        if memory.last_contact.is_some_and(|last| at <= last) {
            return;
        }
        if let Some(last) = memory.last_contact.replace(at) {
            let gap = (at - last - self.unsure).num_seconds();
            memory.longest_outage_secs = memory.longest_outage_secs.max(gap);
        }
        memory.exact = false;
        self.unsure = TimeDelta::zero();
    }

    /// The agent stops, and what is remembered is to be written.
    pub fn stopping(&mut self) {
        self.memory.exact = self.unsure.is_zero();
    }

    /// This is the certificate in use, and whether a renewed one waits.
    pub fn holds(&mut self, life: Option<Life>, renewed: bool) {
        // The first one after a start is the one that was asked for.
        if self.life.is_some() && self.life != life {
            self.memory.asked = None;
        }
        if self.life != life || self.renewed != renewed {
            (self.trouble, self.failures, self.next) = (None, 0, Duration::ZERO);
        }
        (self.life, self.renewed) = (life, renewed);
    }

    /// A renewal is about to be asked for. What is remembered has to be written before it is.
    pub fn asking(&mut self, now: DateTime<Utc>) {
        self.memory.asked = Some(now);
    }

    /// What came of [`Step::Ask`].
    pub fn asked(&mut self, outcome: Result<(), Trouble>, moment: Moment) {
        // The renewed one came before the answer: it is being proved, or in use already.
        if self.renewed || self.memory.asked.is_none() {
            return;
        }
        let pause = match &outcome {
            Ok(()) => DAY,
            Err(Trouble::Refused(_)) => DAY,
            Err(Trouble::Passing(_)) => {
                // It did not arrive, as far as is known.
                self.memory.asked = None;
                self.doubled(BACK_OFF)
            }
        };
        self.over(outcome, moment, pause);
    }

    /// What came of [`Step::Prove`]. A certificate that the server refused is given up.
    pub fn proved(&mut self, outcome: Result<(), Trouble>, moment: Moment) {
        let pause = match &outcome {
            Ok(()) => Duration::ZERO,
            Err(Trouble::Refused(_)) => DAY,
            Err(Trouble::Passing(_)) => self.doubled(PROOFS),
        };
        self.renewed &= matches!(outcome, Err(Trouble::Passing(_)));
        self.over(outcome, moment, pause);
    }

    fn over(&mut self, outcome: Result<(), Trouble>, moment: Moment, pause: Duration) {
        self.failures = if outcome.is_ok() { 0 } else { self.failures.saturating_add(1) };
        self.trouble = outcome.err();
        self.next = moment.elapsed + pause;
    }

    fn doubled(&self, (first, longest): (Duration, Duration)) -> Duration {
        (first * 2_u32.pow(self.failures.min(16))).min(longest)
    }

    /// What to do.
    #[must_use]
    pub fn step(&self, moment: Moment) -> Step {
        let longest = if moment.now.is_some() { LONGEST_WAIT } else { TIMELESS };
        let left = self.next.saturating_sub(moment.elapsed);
        if !left.is_zero() {
            return Step::Wait(left.min(longest));
        }
        if self.renewed {
            return Step::Prove;
        }
        match (self.asks_at(moment.now), moment.now) {
            (Some(at), Some(now)) if at <= now => Step::Ask,
            _ => Step::Wait(longest),
        }
    }

    /// When a renewal is asked for next; `None` if none is.
    #[must_use]
    pub fn asks_at(&self, now: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let life = self.life.filter(|_| self.terms.allowed)?;
        if now.is_some_and(|now| now > life.ends) {
            // SolarIn knows nobody by a certificate that has ended.
            return None;
        }
        let begins = life.ends - self.lead(now).min(EARLIEST);
        let again = self.memory.asked.map(|asked| asked + TimeDelta::days(1));
        let at = again.map_or(begins, |again| again.max(begins));
        (at <= life.ends).then_some(at)
    }

    /// What a person can do before the end.
    #[must_use]
    pub fn remedy(&self, now: Option<DateTime<Utc>>) -> &'static str {
        match self.asks_at(now) {
            _ if !self.terms.allowed => {
                "renew it at SolarNetwork and import it, or allow `identity.renew`"
            }
            Some(_) => {
                "renew it at SolarNetwork and import it, unless the renewal that the agent asks for comes first"
            }
            None => "renew it at SolarNetwork and import it",
        }
    }

    /// How long before the end warnings begin.
    #[must_use]
    pub fn lead(&self, now: Option<DateTime<Utc>>) -> TimeDelta {
        let outage = self.memory.longest_outage(now);
        let wanted = self.terms.before.max(outage.checked_add(&MARGIN).unwrap_or(TimeDelta::MAX));
        let life = self.life.map(|life| life.ends - life.begins);
        life.map_or(wanted, |life| wanted.min(life / 2))
    }

    /// Where things stand.
    #[must_use]
    pub fn condition(&self, moment: Moment) -> Condition {
        let Some(life) = self.life else { return Condition::Missing };
        let Some(now) = moment.now else { return Condition::TimeUnknown };
        let left = life.ends - now;
        if left < TimeDelta::zero() {
            Condition::RunOut
        } else if now < life.begins {
            Condition::NotYet
        } else if left < SOON.min((life.ends - life.begins) / 2) {
            Condition::EndsSoon
        } else if self.renewed {
            Condition::Renewing
        } else if left >= self.lead(moment.now) {
            Condition::Well
        } else if self.trouble.is_none()
            && (self.memory.asked.is_some() || self.asks_at(Some(now)).is_some_and(|at| at <= now))
        {
            Condition::Renewing
        } else {
            Condition::Ends
        }
    }
}

#[cfg(test)]
mod tests;
