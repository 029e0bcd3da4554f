//! Whose turn it is: a token bucket per application, urgent calls first.
//!
//! The server counts requests per token and application, and the shipped configuration of the
//! public service allows bursts of two. A bucket that never asks for more than that, refilled slower
//! than the server's, is refused only when somebody else uses the same token.
//!
//! [`Bucket`] is pure: it is told the time. [`Pace`] waits.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::Priority;
use crate::pulse::{Bound, Pulse};

/// Requests that may follow each other at once. (solarnetwork-central, rate-limit profile of
/// SolarUser and SolarQuery: capacity 2.)
const CAPACITY: f64 = 2.0;

/// How many calls may still be made, and when the next one may.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: f64,
    filled: f64,
    /// Time at which `filled` was right.
    at: Duration,
    blocked_until: Duration,
    /// Urgent calls that were told to wait.
    urgent: usize,
}

impl Bucket {
    /// A full bucket, refilled at `per_second` requests a second.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        Self {
            per_second,
            filled: CAPACITY,
            at: Duration::ZERO,
            blocked_until: Duration::ZERO,
            urgent: 0,
        }
    }

    /// Takes a turn at `now`, or says how long to wait before asking again.
    ///
    /// # Errors
    ///
    /// The time to wait: the bucket is empty, blocked, or an urgent call waits before a bulk one.
    pub fn take(&mut self, now: Duration, priority: Priority) -> Result<(), Duration> {
        let passed = now.saturating_sub(self.at);
        self.filled = (self.filled + passed.as_secs_f64() * self.per_second).min(CAPACITY);
        self.at = self.at.max(now);
        if now < self.blocked_until {
            return Err(self.blocked_until - now);
        }
        let behind = match priority {
            Priority::Urgent => 0.0,
            Priority::Bulk => self.urgent as f64,
        };
        let missing = 1.0 + behind - self.filled;
        if missing <= 1e-9 {
            self.filled -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((missing / self.per_second).clamp(0.001, 3600.0)))
    }

    /// Takes no turn before `until`.
    pub fn block(&mut self, until: Duration) {
        self.blocked_until = self.blocked_until.max(until);
    }
}

/// A bucket that callers wait on.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    bucket: Mutex<Bucket>,
}

impl Pace {
    /// Sustains `per_second` requests a second.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        Self { start: Instant::now(), bucket: Mutex::new(Bucket::new(per_second)) }
    }

    /// Waits for a turn. Urgent callers go before bulk ones; among equals, order is not promised.
    pub async fn turn(&self, priority: Priority, pulse: &Pulse) {
        let _waiting = (priority == Priority::Urgent).then(|| Waiting::new(self));
        loop {
            let taken = self.with(|bucket, now| bucket.take(now, priority));
            match taken {
                Ok(()) => return,
                Err(wait) => {
                    let _waiting = pulse.enter("waiting for its turn", Bound::Within(wait));
                    sleep(wait).await;
                }
            }
        }
    }

    /// Makes nobody's turn come before `wait` is over: the server asked for it.
    pub fn block(&self, wait: Duration) {
        self.with(|bucket, now| bucket.block(now + wait));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Bucket, Duration) -> T) -> T {
        let now = self.start.elapsed();
        f(&mut self.bucket.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

/// Counts an urgent caller for as long as it waits, also when its call is given up.
struct Waiting<'a>(&'a Pace);

impl<'a> Waiting<'a> {
    fn new(pace: &'a Pace) -> Self {
        pace.with(|bucket, _| bucket.urgent += 1);
        Self(pace)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.with(|bucket, _| bucket.urgent -= 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn two_at_once_and_then_one_every_two_seconds() {
        let mut bucket = Bucket::new(0.5);
        assert_eq!(bucket.take(SECOND, Priority::Bulk), Ok(()));
        assert_eq!(bucket.take(SECOND, Priority::Bulk), Ok(()));
        assert_eq!(bucket.take(SECOND, Priority::Bulk), Err(2 * SECOND));
        assert_eq!(bucket.take(3 * SECOND, Priority::Bulk), Ok(()));
    }

    #[test]
    fn a_waiting_urgent_call_goes_before_bulk() {
        let mut bucket = Bucket::new(1.0);
        bucket.filled = 1.0;
        bucket.urgent = 1;
        assert!(bucket.take(Duration::ZERO, Priority::Bulk).is_err());
        assert_eq!(bucket.take(Duration::ZERO, Priority::Urgent), Ok(()));
    }

    #[test]
    fn the_servers_word_holds_everybody() {
        let mut bucket = Bucket::new(10.0);
        bucket.block(5 * SECOND);
        assert_eq!(bucket.take(SECOND, Priority::Urgent), Err(4 * SECOND));
        assert_eq!(bucket.take(5 * SECOND, Priority::Urgent), Ok(()));
    }

    proptest! {
        /// Over any time, no more calls are let through than the burst and the rate allow.
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 0.1f64..20.0,
            steps in prop::collection::vec(0u64..3000, 1..200),
        ) {
            let mut bucket = Bucket::new(per_second);
            let (mut now, mut taken) = (Duration::ZERO, 0u32);
            for step in steps {
                now += Duration::from_millis(step);
                taken += u32::from(bucket.take(now, Priority::Bulk).is_ok());
                let allowed = CAPACITY + now.as_secs_f64() * per_second + 1e-6;
                prop_assert!(f64::from(taken) <= allowed);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_wait_for_their_turn() {
        let pace = Pace::new(0.5);
        let start = Instant::now();
        for _ in 0..4 {
            pace.turn(Priority::Bulk, &Pulse::unheard()).await;
        }
        assert_eq!(start.elapsed().as_secs(), 4);
    }
}
