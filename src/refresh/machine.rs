//! When to ask for a key, what to do with it, and what the operator has to know. Pure.
//!
//! ```text
//!                       time unknown, or just put in
//!            ┌───────────────────────────────────────▶ Checking ──answer──┐
//!            │                                                            │
//!  put in ▶ Resting ──a new UTC day──▶ Fetching ──key──▶ Fetched ──same key──▶ Proved ──on disk──▶ Resting
//!  outside   ▲ │                          │      prove it  │                   ▲  │
//!            │ └─ secret kept: made here ─┼────────────────┼───────────────────┘  │
//!            └──── back-off, old key ◀────┴──── failed ────┴───── disk failed ────┘ new key in use
//! ```
//!
//! * A key signs for seven days and is renewed on each, so six days of outage cost nothing. The day
//!   is the server's; within its first hour each device has a moment of its own, and a key that is
//!   older when the daemon starts is renewed at once.
//! * The old key is used and kept until the new one has signed a real call.
//! * While nobody has told the time, the present key asks for its own day: any answer tells it.
//! * Failures are tried again after 15 s, doubling to an hour (to a minute while the time is not known: all
//!   else waits for that), each shortened by chance to as little as half; what only a person can
//!   change is looked at hourly.
//! * A key past its last day cannot be renewed by anyone. It goes on asking for its own day, at last
//!   hourly: the time that says so may be a server's mistake, and any answer tells the time.
//!
//! No state is kept over a restart but the credential itself. [`Condition`] sums up where things
//! stand; [`super::task`] logs its changes.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::Unproved;
use crate::{
    credential::{Credential, SigningKey, store::Saved},
    solarnet::{CallError, Cause, Next},
};

/// The part of a day over which the devices of a fleet are spread.
const SPREAD: Duration = Duration::from_secs(60 * 60);

/// First and longest pause after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(60 * 60));

/// Longest pause while the time is not known: readings, uploads and instructions wait for it.
const TIMELESS: Duration = Duration::from_secs(60);

/// The clock may be corrected at any time, so no wait is longer before the next look at it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// With less than this left and renewals failing, a person has to act.
const SOON: TimeDelta = TimeDelta::days(3);

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The server's time, if it is known.
    pub server: Option<DateTime<Utc>>,
    /// Time that never jumps, from any start.
    pub elapsed: Duration,
}

/// What is to be done now. Its outcome is the next [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// Ask for the key of `day`, signed with the credential.
    Fetch(Arc<Credential>, NaiveDate),
    /// Ask for this credential's own key, signed with it.
    Prove(Arc<Credential>),
    /// Write it to disk and sign with it.
    Save(Arc<Credential>),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Someone else put in another credential, or took it out.
    Replaced(Option<Arc<Credential>>),
    /// The outcome of [`Step::Fetch`].
    Fetched(Result<SigningKey, CallError>),
    /// The outcome of [`Step::Prove`].
    Proved(Result<(), Unproved>),
    /// The outcome of [`Step::Save`], or why the disk did not take it.
    Saved(Result<Saved, String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Resting,
    Checking,
    Fetching(NaiveDate),
    Fetched(Arc<Credential>),
    Proved(Arc<Credential>),
}

/// Why the key is not being renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The network, the server, or a limit: it may pass by itself.
    Passing(String),
    /// The token's policy says `refreshAllowed: false`.
    RefreshForbidden,
    /// The token's policy has `apiPaths` without the refresh call.
    PathForbidden,
    /// The token's policy has run out (`notAfter`).
    Expired,
    /// The token is disabled, unknown, or not this key's.
    Rejected,
    /// The server handed out a key and then another one for the same day.
    OtherKey,
    /// The server handed out a key and does not accept what it signs.
    UselessKey,
    /// The disk did not take the renewed key.
    Unsaved(String),
}

/// Where things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// No credential is on the device.
    Missing,
    /// The time is not known, so neither is whether the key is usable.
    TimeUnknown,
    /// The key is usable and nothing stands against renewing it.
    Well,
    /// Renewing fails, but days are left.
    Failing,
    /// The token's policy keeps the key from being renewed.
    NotRenewable,
    /// Renewing fails and less than three days are left.
    EndsSoon,
    /// The server refuses the token: nothing is accepted already.
    Refused,
    /// The key is past its last day.
    RunOut,
}

/// When to do what about one token's key.
#[derive(Debug)]
pub struct Machine {
    credential: Option<Arc<Credential>>,
    state: State,
    /// Whether the server was asked about this credential since it was put in.
    asked: bool,
    /// Whether somebody wants to know if the token works.
    doubted: bool,
    /// Whether the last question was asked with a date that is not known, or that may be wrong.
    blind: bool,
    /// In use but not on disk.
    unsaved: bool,
    /// How far into a day the next renewal lies.
    spread: Duration,
    failures: u32,
    retry_at: Option<Duration>,
    trouble: Option<Trouble>,
}

impl Machine {
    /// Begins with what is on the device. `random` is from 0 to 1.
    #[must_use]
    pub fn new(credential: Option<Arc<Credential>>, random: f64) -> Self {
        Self {
            credential,
            state: State::Resting,
            asked: false,
            doubted: false,
            blind: false,
            unsaved: false,
            spread: SPREAD.mul_f64(random),
            failures: 0,
            retry_at: None,
            trouble: None,
        }
    }

    /// What is to be done now. Asked again without an event, it says the same again.
    pub fn step(&mut self, at: Moment) -> Step {
        let Some(credential) = self.credential.clone() else { return Step::Wait(LONGEST_WAIT) };
        if self.state == State::Resting
            && let Err(wait) = self.decide(&credential, at)
        {
            return Step::Wait(wait.min(LONGEST_WAIT));
        }
        match &self.state {
            State::Resting => Step::Wait(LONGEST_WAIT),
            State::Checking => Step::Prove(credential),
            State::Fetching(day) => Step::Fetch(credential, *day),
            State::Fetched(new) => Step::Prove(new.clone()),
            State::Proved(new) => Step::Save(new.clone()),
        }
    }

    /// Somebody wants to know whether the token works: the server is asked next, whatever it said last.
    pub fn doubt(&mut self) {
        (self.doubted, self.retry_at) = (true, None);
    }

    /// Leaves `Resting`, or says how long to stay.
    fn decide(&mut self, credential: &Arc<Credential>, at: Moment) -> Result<(), Duration> {
        if self.blind && at.server.is_some_and(|now| signs_at(credential, now)) {
            // Whatever was in the way of asking the time, it is known now.
            (self.blind, self.failures, self.retry_at, self.trouble) = (false, 0, None, None);
        }
        if let Some(wait) = self.retry_at.and_then(|retry| retry.checked_sub(at.elapsed))
            && !wait.is_zero()
        {
            return Err(wait);
        }
        let Some(now) = at.server else {
            self.blind = true;
            self.state = State::Checking;
            return Ok(());
        };
        let (today, key_date) = (now.date_naive(), credential.key_date);
        let old = match credential.secret {
            Some(_) if key_date != today => {
                self.state = State::Proved(Arc::new(credential.derived(today)));
                return Ok(());
            }
            Some(_) => false,
            None if !credential.usable_at(now) => {
                self.blind = true;
                self.state = State::Checking;
                return Ok(());
            }
            None => key_date < today,
        };
        let due = self.due(credential);
        self.state = if old && (!self.asked || now >= due) {
            State::Fetching(today)
        } else if self.unsaved {
            State::Proved(credential.clone())
        } else if self.doubted || (!self.asked && credential.secret.is_none()) {
            State::Checking
        } else {
            return Err((due - now).to_std().unwrap_or(LONGEST_WAIT));
        };
        Ok(())
    }

    /// When a key that was not renewed at the start is renewed.
    fn due(&self, credential: &Credential) -> DateTime<Utc> {
        let next = credential.key_date.checked_add_days(Days::new(1)).unwrap_or(NaiveDate::MAX);
        let spread = if credential.secret.is_some() { Duration::ZERO } else { self.spread };
        next.and_time(NaiveTime::MIN).and_utc() + spread
    }

    /// Takes what happened. `random` is from 0 to 1.
    pub fn on(&mut self, event: Event, at: Moment, random: f64) {
        let state = std::mem::replace(&mut self.state, State::Resting);
        self.doubted &= !matches!(event, Event::Fetched(_) | Event::Proved(_));
        match (state, event) {
            (state, Event::Replaced(credential)) => {
                if credential == self.credential {
                    self.state = state;
                } else {
                    *self = Self::new(credential, random);
                }
            }
            (State::Checking, Event::Proved(result)) => self.checked(result, at, random),
            (State::Fetching(day), Event::Fetched(Ok(key))) => {
                // The answer may have taught another day: then that day's key is wanted.
                if let Some(credential) = &self.credential
                    && at.server.is_none_or(|now| now.date_naive() == day)
                {
                    self.state = State::Fetched(Arc::new(credential.with_key(key, day)));
                }
            }
            (State::Fetching(_), Event::Fetched(Err(error))) => self.refused(&error, at, random),
            (State::Fetched(new), Event::Proved(Ok(()))) => self.state = State::Proved(new),
            // It was the old key that asked for this one, so the token is well.
            (State::Fetched(_), Event::Proved(Err(Unproved::Refused(error))))
                if error.cause == Cause::BadCredentials =>
            {
                self.failed(Trouble::UselessKey, Duration::ZERO, at, random);
            }
            (State::Fetched(_), Event::Proved(Err(Unproved::Refused(error)))) => {
                self.refused(&error, at, random);
            }
            (State::Fetched(_), Event::Proved(Err(Unproved::OtherKey { .. }))) => {
                self.failed(Trouble::OtherKey, Duration::ZERO, at, random);
            }
            (State::Proved(new), Event::Saved(Ok(Saved::Written | Saved::NotNeeded))) => {
                *self = Self { asked: true, ..Self::new(Some(new), random) };
            }
            (State::Proved(new), Event::Saved(Ok(Saved::Superseded(stored)))) => {
                let asked = *stored == *new;
                *self = Self { asked, ..Self::new(Some(Arc::new(*stored)), random) };
            }
            (State::Proved(_), Event::Saved(Ok(Saved::Forgotten))) => {
                *self = Self::new(None, random);
            }
            (State::Proved(new), Event::Saved(Err(error))) => {
                self.credential = Some(new);
                (self.asked, self.unsaved) = (true, true);
                self.failed(Trouble::Unsaved(error), Duration::ZERO, at, random);
            }
            // The outcome of a step that a replacement has overtaken.
            (
                State::Resting
                | State::Checking
                | State::Fetching(_)
                | State::Fetched(_)
                | State::Proved(_),
                Event::Fetched(_) | Event::Proved(_) | Event::Saved(_),
            ) => {}
        }
    }

    /// The present key was asked for its own day, to learn the time or what the policy says.
    fn checked(&mut self, result: Result<(), Unproved>, at: Moment, random: f64) {
        let trouble = match result {
            Ok(()) => None,
            Err(Unproved::OtherKey { .. }) => Some(Trouble::OtherKey),
            Err(Unproved::Refused(error)) => Some(Trouble::from(&error)),
        };
        let signs =
            self.credential.as_ref().zip(at.server).is_some_and(|(c, now)| signs_at(c, now));
        match trouble {
            trouble if !signs => {
                let untold = || Trouble::Passing("the answer told no usable time".to_owned());
                self.failed(trouble.unwrap_or_else(untold), Duration::ZERO, at, random);
            }
            None => {
                (self.asked, self.failures, self.retry_at, self.trouble) = (true, 0, None, None);
            }
            // Asked with a wrong date: what it says about the key means nothing. Ask again.
            Some(_) if self.blind => {}
            // What no renewal needs where keys are made here.
            Some(Trouble::RefreshForbidden | Trouble::PathForbidden)
                if self.credential.as_ref().is_some_and(|c| c.secret.is_some()) =>
            {
                (self.asked, self.failures, self.retry_at, self.trouble) = (true, 0, None, None);
            }
            // Nothing has to be renewed today; what passes has passed by then.
            Some(Trouble::Passing(_)) if self.trouble.is_none() => self.asked = true,
            // Somebody may change the policy or enable the token again: looked at until they do.
            Some(Trouble::Passing(_)) => {
                if let Some(lasting) = self.trouble.take() {
                    self.failed(lasting, Duration::ZERO, at, random);
                }
            }
            Some(lasting) => self.failed(lasting, BACK_OFF.1, at, random),
        }
    }

    fn refused(&mut self, error: &CallError, at: Moment, random: f64) {
        let least = match error.next() {
            Next::Retry { not_before: Some(until) } => {
                at.server.and_then(|now| (until - now).to_std().ok()).unwrap_or(Duration::ZERO)
            }
            Next::Stop => BACK_OFF.1,
            _ => Duration::ZERO,
        };
        self.failed(Trouble::from(error), least, at, random);
    }

    fn failed(&mut self, trouble: Trouble, least: Duration, at: Moment, random: f64) {
        let longest = if at.server.is_none() { TIMELESS } else { BACK_OFF.1 };
        let doubled = BACK_OFF.0.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(at.elapsed + doubled.mul_f64(0.5 + random / 2.0).max(least));
        self.trouble = Some(trouble);
    }

    /// The credential in use.
    #[must_use]
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }

    /// Why the key is not being renewed, if it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// When the server is asked next, as far as that is known.
    #[must_use]
    pub fn next_attempt(&self, at: Moment) -> Option<DateTime<Utc>> {
        let (now, credential) = (at.server?, self.credential.as_ref()?);
        let retry = self.retry_at.and_then(|retry| retry.checked_sub(at.elapsed));
        let retry = retry.map_or(now, |wait| now + wait);
        match credential.secret {
            None if !credential.usable_at(now) => None,
            _ if self.failures > 0 => Some(retry),
            _ => Some(self.due(credential).max(now)),
        }
    }

    /// Where things stand.
    #[must_use]
    pub fn condition(&self, at: Moment) -> Condition {
        let Some(credential) = &self.credential else { return Condition::Missing };
        let Some(now) = at.server else { return Condition::TimeUnknown };
        let made_here = credential.secret.is_some();
        if !made_here && !credential.usable_at(now) {
            return Condition::RunOut;
        }
        let soon = !made_here && credential.ends() - now < SOON;
        match &self.trouble {
            None => Condition::Well,
            Some(Trouble::Expired | Trouble::Rejected) => Condition::Refused,
            // What no renewal needs.
            Some(Trouble::RefreshForbidden | Trouble::PathForbidden) if made_here => {
                Condition::Well
            }
            Some(_) if soon => Condition::EndsSoon,
            Some(Trouble::RefreshForbidden | Trouble::PathForbidden) => Condition::NotRenewable,
            Some(
                Trouble::Passing(_) | Trouble::OtherKey | Trouble::UselessKey | Trouble::Unsaved(_),
            ) => Condition::Failing,
        }
    }
}

/// Whether it can sign at that time: with the secret a key of any day is made here.
fn signs_at(credential: &Credential, now: DateTime<Utc>) -> bool {
    credential.secret.is_some() || credential.usable_at(now)
}

impl From<&CallError> for Trouble {
    fn from(error: &CallError) -> Self {
        match error.cause {
            Cause::AccessDenied => Self::RefreshForbidden,
            Cause::PathDenied => Self::PathForbidden,
            Cause::TokenExpired => Self::Expired,
            Cause::BadCredentials => Self::Rejected,
            Cause::NoKey
            | Cause::Unreachable
            | Cause::AnswerTooLong
            | Cause::Tls
            | Cause::NotSolarNetwork
            | Cause::RateLimited
            | Cause::ServerTrouble
            | Cause::DateSkew
            | Cause::RoleMissing
            | Cause::UnknownObject
            | Cause::TooLarge
            | Cause::BadContent
            | Cause::NoSuchCall => Self::Passing(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
