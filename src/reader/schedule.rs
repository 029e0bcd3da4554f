//! When a source is due.
//!
//! Due times are a grid: `offset + n × every` on one of two time lines.
//!
//! | Phase | Time line | Offset |
//! | --- | --- | --- |
//! | spread | since the task started, so a step of the wall clock moves nothing | made from the source ID |
//! | aligned | UTC, so that reads lie at whole multiples of the period | 0 |
//!
//! A spread source is read once when the task starts and then on its grid, where its period is a second
//! or more up to a stride of the timer later ([`runtime::STRIDE`]): sources that are due about the same
//! time wake the processor once. An aligned one waits for its grid. Turns that were missed because the bus
//! was busy or the queue full are skipped, not made up for (tokio's `MissedTickBehavior::Skip`): a burst of
//! late readings would tell nothing about the time missed and would make the next turns late as well. No
//! two reads are nearer than half a period.

use std::time::Duration;

use crate::{config::settings::Phase, domain::SourceId, runtime};

/// The shortest period of which a stride of the timer is too small a part to matter.
const IN_STRIDES_FROM: Duration = Duration::from_secs(1);

/// The grid of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    every: Duration,
    phase: Phase,
    offset: Duration,
}

/// One moment on the time lines that grids lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since the task started, or the stride of the timer in which it did.
    pub running: Duration,
    /// UTC, in milliseconds since the epoch.
    pub unix_ms: i64,
}

impl Rhythm {
    /// The grid of a source. `every` is above zero.
    #[must_use]
    pub fn new(every: Duration, phase: Phase, source: &SourceId) -> Self {
        let every = every.max(Duration::from_millis(1));
        let offset = match phase {
            Phase::Aligned => Duration::ZERO,
            Phase::Spread => every.mul_f64(share(source)),
        };
        Self { every, phase, offset }
    }

    /// From one due time to the next.
    #[must_use]
    pub fn every(&self) -> Duration {
        self.every
    }

    /// How long after the task's start the first read is due.
    #[must_use]
    pub fn first(&self, now: Moment) -> Duration {
        match self.phase {
            Phase::Spread => Duration::ZERO,
            Phase::Aligned => self.until_grid(now),
        }
    }

    /// How long until the next read is due, if the last one was due `ago`.
    ///
    /// Always in the future: whatever was missed is skipped.
    #[must_use]
    pub fn next(&self, now: Moment, ago: Duration) -> Duration {
        let wait = self.until_grid(now);
        let wait = if ago + wait < self.every / 2 { wait + self.every } else { wait };
        if self.phase == Phase::Aligned || self.every < IN_STRIDES_FROM {
            return wait;
        }
        wait + until_stride(now.running + wait)
    }

    /// How many due times have passed since the one `ago`, itself not counted.
    #[must_use]
    pub fn missed(&self, ago: Duration) -> u64 {
        u64::try_from(ago.as_nanos() / self.every.as_nanos()).unwrap_or(u64::MAX)
    }

    /// To the next point of the grid: more than zero, at most one period.
    fn until_grid(&self, now: Moment) -> Duration {
        let line = match self.phase {
            Phase::Spread => now.running,
            Phase::Aligned => Duration::from_millis(u64::try_from(now.unix_ms).unwrap_or(0)),
        };
        let every = self.every.as_nanos();
        let into = (line.as_nanos() + every - self.offset.as_nanos() % every) % every;
        Duration::from_nanos(u64::try_from(every - into).unwrap_or(u64::MAX))
    }
}

/// From a point of the time line to the next whole stride; zero where it is one.
fn until_stride(at: Duration) -> Duration {
    let (at, stride) = (at.as_nanos(), runtime::STRIDE.as_nanos());
    Duration::from_nanos(u64::try_from(at.next_multiple_of(stride) - at).unwrap_or(0))
}

/// Where in its period a source lies, 0 to 1: the same in every run and on every machine.
fn share(source: &SourceId) -> f64 {
    // FNV-1a, 64 bits; then the top bits, which depend on every byte. The last step spreads IDs
    // that differ in their last character only.
    let hash = source.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mixed = (hash ^ hash >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    f64::from((mixed >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(text: &str) -> SourceId {
        text.parse().expect("a source ID")
    }

    fn at(running_ms: u64, unix_ms: i64) -> Moment {
        Moment { running: Duration::from_millis(running_ms), unix_ms }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn aligned_reads_lie_at_whole_multiples_in_utc() {
        let rhythm = Rhythm::new(Duration::from_secs(10), Phase::Aligned, &source("/m"));
        assert_eq!(rhythm.first(at(7, 1_700_000_003_500)), 6500 * MS);
        assert_eq!(rhythm.next(at(7, 1_700_000_010_120), 120 * MS), 9880 * MS);
        assert_eq!(
            rhythm.next(at(7, 1_700_000_009_999), Duration::ZERO),
            10_001 * MS,
            "woken a little early"
        );
    }

    #[test]
    fn spread_reads_begin_at_once_and_then_keep_their_place() {
        let rhythm = Rhythm::new(Duration::from_secs(10), Phase::Spread, &source("/m"));
        assert_eq!(rhythm.first(at(0, 0)), Duration::ZERO);
        let first = rhythm.next(at(0, 0), Duration::ZERO);
        assert!((5000 * MS..15_000 * MS).contains(&first), "{first:?}");
        let mut due = first;
        for turn in 1..=1000 {
            let running = Moment { running: due + 30 * MS, unix_ms: 0 };
            due = running.running + rhythm.next(running, 30 * MS);
            let place = first + 10_000 * turn * MS;
            assert!(due.abs_diff(place) < runtime::STRIDE, "turn {turn}: {due:?}, {place:?}");
        }
    }

    #[test]
    fn spread_reads_of_a_second_and_more_share_the_strides_of_the_timer() {
        let due = |every: Duration| {
            let rhythm = Rhythm::new(every, Phase::Spread, &source("/m"));
            let wait = rhythm.next(at(12_345, 0), Duration::ZERO);
            (12_345 * MS + wait).as_nanos() % runtime::STRIDE.as_nanos()
        };
        for every in [1000, 1500, 60_000] {
            assert_eq!(due(every * MS), 0, "{every}");
        }
        assert_ne!(due(999 * MS), 0, "a stride would be too much of it");
    }

    #[test]
    fn missed_turns_are_skipped_and_counted() {
        let rhythm = Rhythm::new(Duration::from_secs(1), Phase::Aligned, &source("/m"));
        assert_eq!(rhythm.next(at(0, 5_300), 3300 * MS), 700 * MS);
        assert_eq!(rhythm.missed(3300 * MS), 3);
        assert_eq!(rhythm.missed(300 * MS), 0);
    }

    #[test]
    fn sources_lie_apart() {
        let shares: Vec<f64> =
            (0..100).map(|i| share(&source(&format!("/site/meter/{i}")))).collect();
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let here = shares.iter().filter(|s| (low..low + 0.1).contains(*s)).count();
            assert!((3..=20).contains(&here), "{here} of 100 in the tenth at {low}");
        }
    }

    proptest! {
        /// The next due time is in the future, half to one and a half periods after the last.
        #[test]
        fn the_next_turn_is_ahead(every in 1u64..10_000_000, running in any::<u32>(), unix in 0i64..4_000_000_000_000,
                                  ago in 0u64..10_000_000, aligned in any::<bool>()) {
            let phase = if aligned { Phase::Aligned } else { Phase::Spread };
            let every = every as u32 * MS;
            let ago = ago as u32 * MS;
            let wait = Rhythm::new(every, phase, &source("/m")).next(at(running.into(), unix), ago);
            prop_assert!(wait > Duration::ZERO && wait < every * 3 / 2 + runtime::STRIDE);
            prop_assert!(ago + wait >= every / 2);
        }
    }
}
