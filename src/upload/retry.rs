//! How long to wait before trying again.
//!
//! A wait is a share of how long the trouble has lasted, within bounds. Short outages are noticed to
//! be over soon after (a sixteenth: two seconds after one of half a minute), long ones cost little: a
//! month without a network takes one request every five minutes. Jitter keeps a fleet apart.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::solarnet::Next;

/// Which trouble is waited for to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The network or the server: it passes.
    Trouble,
    /// A key: whoever refreshes it wakes us earlier.
    Key,
    /// A person has to change something, here or in SolarNetwork.
    Person,
}

impl Pause {
    /// What is waited for where an exchange says that this comes next.
    #[must_use]
    pub fn before(next: Next) -> Self {
        match next {
            Next::Retry { .. } => Self::Trouble,
            Next::RefreshKey => Self::Key,
            Next::Stop | Next::Gone | Next::Content => Self::Person,
        }
    }
}

/// When the server wants the next exchange at the earliest, as time since `now - elapsed`.
#[must_use]
pub fn not_before(next: Next, now: DateTime<Utc>, elapsed: Duration) -> Option<Duration> {
    let Next::Retry { not_before: Some(at) } = next else { return None };
    Some(elapsed + (at - now).to_std().unwrap_or_default())
}

/// How long to wait after the trouble has lasted for `lasted`; `jitter` is a number from 0 to 1.
#[must_use]
pub fn wait(pause: Pause, lasted: Duration, jitter: f64) -> Duration {
    let (share, least, most) = match pause {
        Pause::Trouble => (16, 1, 300),
        Pause::Key => (16, 30, 900),
        Pause::Person => (4, 30, 900),
    };
    let wait = (lasted / share).clamp(Duration::from_secs(least), Duration::from_secs(most));
    wait.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// How long to wait before the next look at a job that was looked at `looks` times: 2, 4, 8, 16, then
/// 30 seconds.
#[must_use]
pub fn follow(looks: u32) -> Duration {
    Duration::from_secs(2u64.saturating_pow(looks.saturating_add(1)).min(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_the_trouble_and_stay_within_bounds() {
        let secs =
            |pause, lasted, jitter| wait(pause, Duration::from_secs(lasted), jitter).as_secs_f64();
        assert_eq!(secs(Pause::Trouble, 0, 0.5), 1.0);
        assert_eq!(secs(Pause::Trouble, 32, 0.5), 2.0);
        assert_eq!(secs(Pause::Trouble, 32, 0.0), 1.5);
        assert_eq!(secs(Pause::Trouble, 32, 1.0), 2.5);
        assert_eq!(secs(Pause::Trouble, 30 * 86_400, 0.5), 300.0);
        assert_eq!(secs(Pause::Key, 0, 0.5), 30.0);
        assert_eq!(secs(Pause::Person, 400, 0.5), 100.0);
        assert_eq!(secs(Pause::Person, 86_400, 0.5), 900.0);
    }

    #[test]
    fn jobs_are_followed_at_2_4_8_16_30_seconds() {
        let secs: Vec<_> = (0..6).map(|looks| follow(looks).as_secs()).collect();
        assert_eq!(secs, [2, 4, 8, 16, 30, 30]);
        assert_eq!(follow(u32::MAX).as_secs(), 30);
    }
}
