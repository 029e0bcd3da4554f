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
//! the whole bus, as the guarantee `[bus]` demands: after probes that took `cost`, the next one is at
//! least `80 × cost` away where a neighbour is read so often that a probe makes it miss a turn,
//! otherwise `20 × cost`. Why that is enough: a neighbour read every `t` misses at most `cost/t + 1`
//! turns by one probe, and only if `cost > t`; of its `60/t` turns in a minute 5 % are `3/t`. At that
//! distance `n ≤ 1 + 60 s / (81 × cost)` probes fit into a minute, and a probe takes 1 s at most. So
//! `n × (cost + t) < n × 2 × cost ≤ 3 s`: for up to 0.75 s by the bound on `n`, and beyond because
//! `n` is 1. Where no neighbour answers, there is nobody to protect, and probes are at most 15 s apart.
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
const LONGEST_ALONE: Duration = Duration::from_secs(15);
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
    /// that answer, if there are any.
    pub fn spend(&mut self, now: Duration, cost: Duration, shortest: Option<Duration>) {
        let distance = match shortest {
            None => Duration::ZERO,
            Some(period) if period >= cost * 4 => cost * 20,
            Some(_) => cost * 80,
        };
        self.next = now + distance;
    }
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
        /// Over any minute, probes make a neighbour miss at most 5 % of its turns.
        #[test]
        fn probes_cost_a_neighbour_one_turn_in_twenty(cost_ms in 1u64..=1000, period_ms in 50u64..60_000) {
            let (cost, period) = (Duration::from_millis(cost_ms), Duration::from_millis(period_ms));
            let mut budget = Budget::default();
            budget.spend(Duration::ZERO, cost, Some(period));
            let distance = (budget.next() + cost).as_secs_f64();
            // A turn is missed if the probe and its own read, a tenth of the period, outlast the period.
            let missed_by_one = (cost.as_secs_f64() / period.as_secs_f64() + 0.1).floor();
            let probes = (60.0 / distance).floor() + 1.0;
            let turns = 60.0 / period.as_secs_f64();
            prop_assert!(probes * missed_by_one <= 0.05 * turns + 1e-9, "{probes} probes, {missed_by_one} each of {turns}");
        }
    }
}
