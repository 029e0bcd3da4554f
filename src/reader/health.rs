//! How seldom a silent device is asked.
//!
//! ```text
//!         ┌────────── answered ───────────┐
//!         ▼                               │
//!        up ──silent──▶ down ──probe──▶ asked once, no retry, at most 1 s
//!                        ▲                │
//!                        └── silent: next wait doubles: 5 s, 10 s … 5 min
//! ```
//!
//! A device that falls silent again within a minute of coming back goes on where its waits had got
//! to, and until then gets no retries.
//!
//! Asking a silent device takes time from its neighbours on the same bus. [`Budget`] bounds it for
//! the whole bus, as the guarantee `[bus]` demands: after probes that took `cost`, the next one is
//! [`distance`] away. Where the neighbours have the time to spare it is `20 × cost`: with a load of
//! `L` a neighbour read every `t` is late for no turn if `L + cost / t ≤ 1`. Otherwise it is `80 ×
//! cost`, so that at most `60 s / (81 × cost) + 1` probes fit into a minute, and each delays the
//! others until `cost / (1 - L)` later; whether the turns they miss are at most one in twenty, is
//! what [`bearable`] says, and `check` with it. Where no neighbour answers, there is nobody to
//! protect, and probes are at most 15 s apart.
//!
//! All times are durations since the task started.

use std::time::Duration;

/// The longest a probe waits for its answer.
pub const PROBE: Duration = Duration::from_secs(1);
/// The wait after falling silent.
const FIRST: Duration = Duration::from_secs(5);
/// The longest wait.
const LONGEST: Duration = Duration::from_mins(5);
/// The longest wait where no neighbour answers either.
pub const LONGEST_ALONE: Duration = Duration::from_secs(15);
/// How long a device has to stay up before its past is forgotten.
const PROBATION: Duration = Duration::from_mins(1);

/// Whether a device, or one block of its registers, answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers, as far as is known.
    Up {
        /// Since when, and how often it had been asked in vain before.
        after: Option<(Duration, u32)>,
    },
    /// It does not.
    Down {
        /// When it was last asked.
        asked: Duration,
        /// How often it was asked in vain.
        times: u32,
        /// Whether there is reason to ask it at once.
        expected: bool,
    },
}

impl Default for Health {
    fn default() -> Self {
        Self::Up { after: None }
    }
}

impl Health {
    /// Known from before the task started, and asked again after the longest wait.
    #[must_use]
    pub fn long_silent() -> Self {
        Self::Down { asked: Duration::ZERO, times: u32::from(u8::MAX), expected: false }
    }

    /// It did not answer.
    pub fn silent(&mut self, now: Duration) {
        let times = match *self {
            Self::Up { after: Some((since, times)) } if now < since + PROBATION => times + 1,
            Self::Up { .. } => 1,
            Self::Down { times, .. } => times.saturating_add(1),
        };
        *self = Self::Down { asked: now, times, expected: false };
    }

    /// It answered. Returns whether that is news.
    pub fn answered(&mut self, now: Duration) -> bool {
        match *self {
            Self::Down { times, .. } => {
                *self = Self::Up { after: Some((now, times)) };
                true
            }
            Self::Up { after: Some((since, _)) } if now >= since + PROBATION => {
                *self = Self::default();
                false
            }
            Self::Up { .. } => false,
        }
    }

    /// It could not be asked.
    pub fn postpone(&mut self, now: Duration) {
        if let Self::Down { asked, expected, .. } = self {
            (*asked, *expected) = (now, false);
        }
    }

    /// It may be asked at once, whatever came before.
    pub fn expect(&mut self) {
        if let Self::Down { expected, .. } = self {
            *expected = true;
        }
    }

    /// Whether it answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// Whether it came back a moment ago and has yet to show that it stays.
    #[must_use]
    pub fn on_probation(&self, now: Duration) -> bool {
        matches!(self, Self::Up { after: Some((since, _)) } if now < *since + PROBATION)
    }

    /// When a device that is down is asked next, by itself.
    #[must_use]
    pub fn next_probe(&self, alone: bool) -> Option<Duration> {
        let Self::Down { asked, times, expected } = self else { return None };
        if *expected {
            return Some(*asked);
        }
        let longest = if alone { LONGEST_ALONE } else { LONGEST };
        let doubled = FIRST.saturating_mul(1 << times.saturating_sub(1).min(10));
        Some(*asked + doubled.min(longest))
    }
}

/// How much of a bus's time goes to devices that are silent.
#[derive(Debug, Default)]
pub struct Budget {
    next: Duration,
}

impl Budget {
    /// When the next probe is allowed.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next
    }

    /// A probe took `cost` and ended now; `shortest` is the shortest period among the neighbours
    /// that answer, if there are any, and `load` the part of the bus's time that reading them takes.
    pub fn spend(&mut self, now: Duration, cost: Duration, shortest: Option<Duration>, load: f64) {
        self.next = now + distance(cost, shortest, load);
    }
}

/// How long nothing is to be asked in vain after something was that took `cost`.
#[must_use]
pub fn distance(cost: Duration, shortest: Option<Duration>, load: f64) -> Duration {
    match shortest {
        None => Duration::ZERO,
        Some(shortest) if spares(cost, shortest, load) => cost * 20,
        Some(_) => cost * 80,
    }
}

/// Whether a neighbour read every `period` is late for no turn because of something that takes `cost`.
#[must_use]
pub fn spares(cost: Duration, period: Duration, load: f64) -> bool {
    load + cost.div_duration_f64(period) <= 1.0
}

/// Whether probes that take `cost` make a neighbour read every `period` miss at most one turn in twenty
/// over a minute; `shortest` is the shortest period of all neighbours.
#[must_use]
pub fn bearable(cost: Duration, period: Duration, shortest: Duration, load: f64) -> bool {
    if spares(cost, period, load) {
        return true;
    }
    if load >= 1.0 {
        return false;
    }
    let apart = cost + distance(cost, Some(shortest), load);
    let probes = (60.0 / apart.as_secs_f64()).floor() + 1.0;
    let missed = (cost.div_duration_f64(period) / (1.0 - load)).floor() + 1.0;
    probes * missed <= 0.05 * 60.0 / period.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_their_limit() {
        let mut health = Health::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            health.silent(100 * S);
            waits.push(health.next_probe(false).map(|at| (at - 100 * S).as_secs()));
        }
        let want = [5, 10, 20, 40, 80, 160, 300, 300, 300].map(Some);
        assert_eq!(waits, want);
        assert_eq!(health.next_probe(true), Some(115 * S), "nobody to protect");
        health.expect();
        assert_eq!(health.next_probe(false), Some(100 * S), "at once");
    }

    #[test]
    fn a_device_that_keeps_falling_silent_goes_on_where_it_was() {
        let mut health = Health::default();
        for _ in 0..4 {
            health.silent(Duration::ZERO);
        }
        assert!(health.answered(100 * S), "news");
        assert!(!health.answered(101 * S), "no news");
        assert!(health.on_probation(159 * S));
        health.silent(159 * S);
        assert_eq!(health, Health::Down { asked: 159 * S, times: 5, expected: false });

        health.answered(200 * S);
        assert!(!health.on_probation(260 * S));
        health.answered(260 * S);
        health.silent(261 * S);
        assert_eq!(health, Health::Down { asked: 261 * S, times: 1, expected: false }, "forgotten");
    }

    proptest! {
        /// Where the neighbours have time to spare, probes take less than a twentieth; where they have
        /// not, fewer.
        #[test]
        fn probes_take_at_most_a_twentieth(cost_ms in 1u64..=1000, period_ms in 50u64..60_000, load in 0.0..1.2) {
            let (cost, period) = (Duration::from_millis(cost_ms), Duration::from_millis(period_ms));
            let mut budget = Budget::default();
            budget.spend(Duration::ZERO, cost, Some(period), load);
            let share = cost.div_duration_f64(budget.next() + cost);
            prop_assert!(share < 0.05);
            prop_assert!(share < 0.0125 || spares(cost, period, load));
        }
    }
}
