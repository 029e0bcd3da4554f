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
//! The line that uses a ration up says so, and a line after some that were left out says how many. The end of a
//! condition shares its ration ([`PAIRS`]), so after a line that does not say so the log has the next change too.
//! What a person asked for is not rationed: debug and trace lines, and those about starts, stops and the
//! configuration (`agent.*`, `config.*`).

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

/// The field that says that the next lines are left out.
pub(super) const RATIONED: &str = "rationed";

/// Lines at once.
const BURST: u32 = 12;

/// How long until there may be one more.
const EVERY: Duration = Duration::from_hours(1);

/// Rations remembered; a site has a few hundred sources.
const MOST: usize = 2048;

/// Fields that tell apart what an event is about.
const SUBJECTS: [&str; 5] = ["source_id", "token", "instruction_id", "bus", "folder"];

/// What passes, and its end. Those that a person has to end have a ration of their own: what passes must not
/// use it up.
const PAIRS: [[&str; 2]; 8] = [
    ["files.resumed", "files.waiting"],
    ["instruction.trouble_over", "instruction.trouble"],
    ["proof.complete", "proof.unseen"],
    ["proof.resumed", "proof.waiting"],
    ["queue.room", "queue.refused"],
    ["serial.up", "serial.down"],
    ["source.up", "source.down"],
    ["upload.resumed", "upload.waiting"],
];

/// What a line that may be logged has to say about others like it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Admitted {
    /// How many were left out before it.
    pub(super) left_out: u64,
    /// Whether the next one is left out if it comes soon.
    pub(super) rationed: bool,
}

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

    /// Whether a line may be logged now, and with what.
    fn take(&mut self, now: Duration) -> Option<Admitted> {
        self.refill(now);
        match self.lines.checked_sub(1) {
            Some(lines) => {
                self.lines = lines;
                let left_out = std::mem::take(&mut self.left_out);
                Some(Admitted { left_out, rationed: lines == 0 })
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

    /// Whether this line may be logged, and with what.
    pub(super) fn admit(&self, event: &Event<'_>) -> Option<Admitted> {
        if *event.metadata().level() > Level::INFO {
            return Some(Admitted::default());
        }
        let mut about = About { hasher: DefaultHasher::new(), has_name: false, asked_for: false };
        event.record(&mut about);
        if about.asked_for {
            return Some(Admitted::default());
        }
        if !about.has_name {
            event.metadata().name().hash(&mut about.hasher);
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut left, about.hasher.finish(), self.started.elapsed())
    }
}

fn take(left: &mut HashMap<u64, Left>, key: u64, now: Duration) -> Option<Admitted> {
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
    has_name: bool,
    asked_for: bool,
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.has_name = true;
            self.asked_for = value.starts_with("agent.") || value.starts_with("config.");
            let of_pair = PAIRS.iter().find(|[end, _]| *end == value).map(|[_, begin]| *begin);
            of_pair.unwrap_or(value).hash(&mut self.hasher);
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
        for lines in 1..=BURST {
            let rationed = lines == BURST;
            assert_eq!(left.take(Duration::ZERO), Some(Admitted { left_out: 0, rationed }));
        }
        for second in 0..100 {
            assert_eq!(left.take(Duration::from_secs(second)), None);
        }
        assert_eq!(left.take(EVERY), Some(Admitted { left_out: 100, rationed: true }));
        assert_eq!(left.take(EVERY), None);
    }

    /// What the log says last of each source, and whether it says that more was left out.
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<Mutex<Vec<Option<Admitted>>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
        fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            static RATION: std::sync::LazyLock<Ration> = std::sync::LazyLock::new(Ration::new);
            self.0.lock().expect("nobody panicked").push(RATION.admit(event));
        }
    }

    #[test]
    fn a_condition_and_its_end_share_a_ration_and_the_last_line_says_that_it_is_used_up() {
        use tracing_subscriber::layer::SubscriberExt;

        let log = Log::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log.clone()), || {
            for _ in 0..BURST {
                tracing::warn!(event = "source.down", source_id = "/a", "source down");
                tracing::info!(event = "source.up", source_id = "/a", "source up");
            }
            tracing::info!(event = "source.up", source_id = "/b", "source up");
            tracing::error!(event = "upload.stopped", "uploads stopped");
        });
        let lines = log.0.lock().expect("nobody panicked").clone();
        let (flapping, others) = lines.split_at(2 * BURST as usize);
        let told: Vec<bool> = flapping.iter().flatten().map(|line| line.rationed).collect();
        assert_eq!(told, [[false; BURST as usize - 1].as_slice(), &[true]].concat());
        assert_eq!(others, [Some(Admitted::default()); 2]);
    }

    #[test]
    fn more_subjects_than_are_remembered_do_not_cost_memory() {
        let mut left = HashMap::new();
        for key in 0..3 * MOST as u64 {
            take(&mut left, key, Duration::ZERO);
        }
        assert_eq!(left.len(), MOST);
        let later = EVERY * 2;
        assert!(take(&mut left, u64::MAX, later).is_some(), "the old ones are full again");
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
