//! The request rate limit: a token bucket for each (token, application).

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

/// How many requests, how fast. The defaults are those that SolarNetwork ships.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests that a full bucket allows.
    #[serde(default = "two")]
    pub capacity: u32,
    /// Requests that come back each second.
    #[serde(default = "one")]
    pub refill_per_s: f64,
}

fn two() -> u32 {
    2
}

fn one() -> f64 {
    1.0
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { capacity: two(), refill_per_s: one() }
    }
}

/// A request's fate at the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed { remaining: u32 },
    Refused { retry_at: DateTime<Utc> },
}

/// All buckets.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    levels: HashMap<String, (f64, DateTime<Utc>)>,
}

impl Buckets {
    pub(crate) fn take(&mut self, limit: RateLimit, key: &str, now: DateTime<Utc>) -> Verdict {
        let capacity = f64::from(limit.capacity);
        let (level, since) = self.levels.get(key).copied().unwrap_or((capacity, now));
        // The clock may be set back; then nothing comes back until it has caught up.
        let elapsed = (now - since).num_milliseconds().max(0) as f64 / 1000.0;
        let level = (level + elapsed * limit.refill_per_s).min(capacity);
        if level >= 1.0 {
            self.levels.insert(key.to_owned(), (level - 1.0, now));
            return Verdict::Allowed { remaining: (level - 1.0) as u32 };
        }
        self.levels.insert(key.to_owned(), (level, now));
        let wait_ms = ((1.0 - level) / limit.refill_per_s.max(1e-6) * 1000.0).ceil() as i64;
        Verdict::Refused { retry_at: now + TimeDelta::milliseconds(wait_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let (mut buckets, limit) = (Buckets::default(), RateLimit::default());
        let start = DateTime::from_timestamp_millis(1_750_000_000_000).unwrap();
        let at = |ms| start + TimeDelta::milliseconds(ms);
        assert_eq!(buckets.take(limit, "a", at(0)), Verdict::Allowed { remaining: 1 });
        assert_eq!(buckets.take(limit, "a", at(0)), Verdict::Allowed { remaining: 0 });
        assert_eq!(buckets.take(limit, "a", at(500)), Verdict::Refused { retry_at: at(1000) });
        assert_eq!(buckets.take(limit, "b", at(500)), Verdict::Allowed { remaining: 1 });
        assert_eq!(buckets.take(limit, "a", at(1000)), Verdict::Allowed { remaining: 0 });
    }
}
