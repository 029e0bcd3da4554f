//! How often a line may be logged: often enough to tell the story, never enough to fill a card. Pure.
//!
//! Tasks log changes and not conditions. A condition that changes all the time (a meter with a loose
//! contact, a disk just at its end, a server that answers every other request) would fill the journal all
//! the same. So each event has a ration, apart for each source, token and instruction:
//!
//! ```text
//! 12 lines at once, then one each hour       at most 36 on the first day, 24 on each one after it
//! ```
//!
//! A line after some that were left out says how many. What a person asked for is not rationed: debug and
//! trace lines, and those about starts, stops and the configuration (`agent.*`, `config.*`).

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

/// The field that says how many lines were left out before this one.
pub(super) const LEFT_OUT: &str = "left_out";

/// Lines at once.
const BURST: u32 = 12;

/// How long until there may be one more.
const EVERY: Duration = Duration::from_hours(1);

/// Rations remembered; a site has a few hundred sources.
const MOST: usize = 2048;

/// Fields that tell apart what an event is about.
const SUBJECTS: [&str; 5] = ["source_id", "token", "instruction_id", "bus", "folder"];

/// What is left of every event's ration.
#[derive(Debug)]
pub(super) struct Ration {
    started: Instant,
    left: Mutex<HashMap<u64, Left>>,
}

/// What is left of one ration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    lines: u32,
    /// Up to when it was refilled.
    at: Duration,
    left_out: u64,
}

impl Left {
    fn full(now: Duration) -> Self {
        Self { lines: BURST, at: now, left_out: 0 }
    }

    fn refill(&mut self, now: Duration) {
        while self.lines < BURST && now.saturating_sub(self.at) >= EVERY {
            self.lines += 1;
            self.at += EVERY;
        }
        if self.lines == BURST {
            self.at = now;
        }
    }

    /// Whether a line may be logged now: then how many were left out before it.
    fn take(&mut self, now: Duration) -> Option<u64> {
        self.refill(now);
        match self.lines.checked_sub(1) {
            Some(lines) => {
                self.lines = lines;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

impl Ration {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), left: Mutex::default() }
    }

    /// Whether this line may be logged: then how many like it were left out before.
    pub(super) fn admit(&self, event: &Event<'_>) -> Option<u64> {
        if *event.metadata().level() > Level::INFO {
            return Some(0);
        }
        let mut about = About { hasher: DefaultHasher::new(), asked_for: false };
        event.metadata().name().hash(&mut about.hasher);
        event.record(&mut about);
        if about.asked_for {
            return Some(0);
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut left, about.hasher.finish(), self.started.elapsed())
    }
}

fn take(left: &mut HashMap<u64, Left>, key: u64, now: Duration) -> Option<u64> {
    if left.len() >= MOST && !left.contains_key(&key) {
        // A full ration is as good as a new one.
        left.retain(|_, left| {
            left.refill(now);
            left.lines < BURST || left.left_out > 0
        });
        if left.len() >= MOST {
            return None;
        }
    }
    left.entry(key).or_insert_with(|| Left::full(now)).take(now)
}

/// What an event is about, as a number.
struct About {
    hasher: DefaultHasher,
    asked_for: bool,
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.asked_for = value.starts_with("agent.") || value.starts_with("config.");
            value.hash(&mut self.hasher);
        } else if SUBJECTS.contains(&field.name()) {
            value.hash(&mut self.hasher);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if SUBJECTS.contains(&field.name()) {
            format!("{value:?}").hash(&mut self.hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_after_others_that_were_left_out_says_how_many() {
        let mut left = Left::full(Duration::ZERO);
        for _ in 0..BURST {
            assert_eq!(left.take(Duration::ZERO), Some(0));
        }
        for second in 0..100 {
            assert_eq!(left.take(Duration::from_secs(second)), None);
        }
        assert_eq!(left.take(EVERY), Some(100));
        assert_eq!(left.take(EVERY), None);
    }

    #[test]
    fn more_subjects_than_are_remembered_do_not_cost_memory() {
        let mut left = HashMap::new();
        for key in 0..3 * MOST as u64 {
            take(&mut left, key, Duration::ZERO);
        }
        assert_eq!(left.len(), MOST);
        let later = EVERY * 2;
        assert_eq!(take(&mut left, u64::MAX, later), Some(0), "the old ones are full again");
        assert_eq!(left.len(), 1);
    }

    proptest! {
        /// However the lines come, no day has more than the ration.
        #[test]
        fn no_day_has_more_lines_than_its_ration(gaps in prop::collection::vec(0u64..4000, 1..2000)) {
            let day = Duration::from_hours(24);
            let (mut left, mut now) = (Left::full(Duration::ZERO), Duration::ZERO);
            let mut logged: Vec<Duration> = Vec::new();
            for gap in gaps {
                now += Duration::from_secs(gap);
                if left.take(now).is_some() {
                    logged.push(now);
                }
            }
            for (index, first) in logged.iter().enumerate() {
                let within = logged[index..].iter().take_while(|at| **at < *first + day).count();
                prop_assert!(within <= 36);
            }
        }
    }
}
