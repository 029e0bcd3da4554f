//! The watchdog: systemd is told that all is well only while every task makes progress, and the log
//! names the one that does not.
//!
//! ```text
//!  every task ──pulse──▶ samples ──▶ Judge (pure) ──▶ nobody is stuck: WATCHDOG=1
//!                        four times a period      └─▶ somebody is: `agent.task_stuck`, and silence, until
//!                                                     systemd kills and starts the daemon again
//! ```
//!
//! A task is stuck when what it does lasts longer than its own bound and *patience* on top, or when it
//! does not give the thread back for so long. Tasks that share a thread with one that keeps it are its
//! victims and are not named.
//!
//! Patience is the unit's `WatchdogSec=`; where nothing is to be told, a minute. So a hang is found after
//! one period and ended by systemd after at most another one. Without systemd the log says the same.
//!
//! The thread is its own, since the one that the tasks share may be what hangs. It waits for nothing but
//! time; a log that takes no lines any more stops it, and then systemd hears nothing either, which is
//! what it is for.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tracing::{error, info};

use super::systemd;
use crate::pulse::{Bound, Pulses, Sample};

/// Patience where systemd asks for nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks within one period. systemd recommends two; a look that comes a little late then does no harm.
const LOOKS: u32 = 4;

/// A task that makes no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The task.
    pub task: String,
    /// What it is doing.
    pub doing: &'static str,
    /// For how long.
    pub lasts: Duration,
    /// Whether it has the thread meanwhile, and the others wait for it.
    pub keeps_thread: bool,
}

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Those that were not stuck at the last look.
    pub newly: Vec<Stuck>,
    /// Those that go on, and how long they were known to be stuck.
    pub again: Vec<(String, Duration)>,
    /// Whether nobody is stuck.
    pub well: bool,
}

/// Decides who is stuck. Pure: it is told the time.
#[derive(Debug)]
pub struct Judge {
    patience: Duration,
    /// The turn in which each pulse was first seen, and when.
    turns: BTreeMap<u64, (u64, Duration)>,
    /// Whose task is stuck, and since when that is known.
    stuck: BTreeMap<u64, (String, Duration)>,
}

impl Judge {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { patience, turns: BTreeMap::new(), stuck: BTreeMap::new() }
    }

    /// Looks at every task at `now`.
    pub fn judge(&mut self, now: Duration, samples: &[Sample]) -> Verdict {
        let mut found: BTreeMap<u64, Stuck> =
            samples.iter().filter_map(|s| Some((s.id, self.keeper(now, s)?))).collect();
        let kept = !found.is_empty();
        let is_victim = |sample: &Sample| kept && sample.turns > 0;
        for sample in samples.iter().filter(|s| !is_victim(s) && self.is_late(s)) {
            let Sample { task, doing, lasts, .. } = sample.clone();
            found.insert(sample.id, Stuck { task, doing, lasts, keeps_thread: false });
        }
        self.turns.retain(|id, _| samples.iter().any(|s| s.id == *id));
        let over = self.stuck.extract_if(.., |id, _| !found.contains_key(id));
        let again = over.map(|(_, (task, since))| (task, now.saturating_sub(since))).collect();
        let well = found.is_empty();
        let mut newly = Vec::new();
        for (id, stuck) in found {
            self.stuck.entry(id).or_insert_with(|| {
                newly.push(stuck.clone());
                (stuck.task, now)
            });
        }
        Verdict { newly, again, well }
    }

    /// A task that has had the thread since an earlier look.
    fn keeper(&mut self, now: Duration, sample: &Sample) -> Option<Stuck> {
        let turn = self.turns.entry(sample.id).or_insert((sample.turns, now));
        if turn.0 != sample.turns {
            *turn = (sample.turns, now);
        }
        let lasts = now.saturating_sub(turn.1);
        let has_thread = sample.turns % 2 == 1;
        (has_thread && lasts > self.patience).then(|| Stuck {
            task: sample.task.clone(),
            doing: sample.doing,
            lasts,
            keeps_thread: true,
        })
    }

    fn is_late(&self, sample: &Sample) -> bool {
        match sample.bound {
            Bound::Within(bound) => sample.lasts > bound.saturating_add(self.patience),
            Bound::Open => false,
        }
    }
}

/// The watchdog at work, until dropped.
#[derive(Debug)]
pub struct Watchdog {
    _running: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches every pulse from now on, and tells systemd if it wants to be told.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn start(pulses: Pulses) -> io::Result<Self> {
        let patience = systemd::watchdog().unwrap_or(PATIENCE);
        let (running, ended) = mpsc::channel();
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            let (begun, mut judge) = (Instant::now(), Judge::new(patience));
            while ended.recv_timeout(patience / LOOKS) == Err(RecvTimeoutError::Timeout) {
                look(&mut judge, begun.elapsed(), &pulses);
            }
        })?;
        Ok(Self { _running: running })
    }
}

fn look(judge: &mut Judge, now: Duration, pulses: &Pulses) {
    let verdict = judge.judge(now, &pulses.samples());
    if verdict.well {
        systemd::alive();
    }
    for Stuck { task, doing, lasts, keeps_thread } in &verdict.newly {
        error!(
            event = "agent.task_stuck",
            task,
            doing,
            stuck_secs = lasts.as_secs(),
            keeps_thread,
            "task makes no progress"
        );
    }
    for (task, stuck) in &verdict.again {
        let stuck_secs = stuck.as_secs();
        info!(event = "agent.task_moves", task, stuck_secs, "task makes progress again");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn sample(task: &str, lasts: u64, bound: Bound, turns: u64) -> Sample {
        let id = task.bytes().map(u64::from).sum();
        Sample { id, task: task.to_owned(), doing: "x", lasts: secs(lasts), bound, turns }
    }

    fn names(verdict: &Verdict) -> Vec<&str> {
        verdict.newly.iter().map(|stuck| stuck.task.as_str()).collect()
    }

    #[test]
    fn a_task_is_stuck_after_its_own_bound_and_patience_and_told_once() {
        let mut judge = Judge::new(secs(60));
        let bus = |lasts| [sample("bus", lasts, Bound::Within(secs(5)), 0)];
        assert!(judge.judge(secs(65), &bus(65)).well);
        let verdict = judge.judge(secs(66), &bus(66));
        assert_eq!((names(&verdict), verdict.well), (vec!["bus"], false));
        let verdict = judge.judge(secs(81), &bus(81));
        assert_eq!((names(&verdict), verdict.well), (vec![], false));
        let verdict = judge.judge(secs(96), &bus(3));
        assert_eq!(verdict.again, [("bus".to_owned(), secs(30))]);
        assert!(verdict.well);
    }

    #[test]
    fn who_waits_for_others_may_wait_for_ever() {
        let mut judge = Judge::new(secs(60));
        assert!(judge.judge(secs(9), &[sample("control", 1 << 40, Bound::Open, 2)]).well);
    }

    #[test]
    fn who_keeps_the_thread_is_named_and_not_those_who_wait_for_it() {
        let mut judge = Judge::new(secs(60));
        let late = Bound::Within(secs(0));
        let look = |lasts| {
            [
                sample("bus", lasts, late, 8),
                sample("uploader", lasts, Bound::Open, 3),
                sample("queue", lasts, late, 0),
            ]
        };
        assert!(judge.judge(secs(0), &look(0)).well);
        assert!(judge.judge(secs(60), &look(60)).well);
        let verdict = judge.judge(secs(61), &look(61));
        assert_eq!(names(&verdict), ["queue", "uploader"]);
        assert!(!verdict.newly[0].keeps_thread && verdict.newly[1].keeps_thread);
    }

    #[test]
    fn a_task_that_ended_is_not_stuck() {
        let mut judge = Judge::new(secs(60));
        assert!(!judge.judge(secs(61), &[sample("bus", 61, Bound::Within(secs(0)), 0)]).well);
        let verdict = judge.judge(secs(76), &[]);
        assert!(verdict.well);
        assert_eq!(verdict.again.len(), 1);
    }

    proptest! {
        /// Looked at every quarter of the patience, a task that stopped is found within two of them
        /// after it became late.
        #[test]
        fn whoever_stops_is_found(stops_at in 0u64..500, bound in 0u64..300) {
            let mut judge = Judge::new(secs(60));
            let late_at = stops_at + bound + 60;
            let mut found = None;
            for now in (0..).step_by(15).take_while(|now| *now <= late_at + 30) {
                let lasts = u64::saturating_sub(now, stops_at);
                let verdict = judge.judge(secs(now), &[sample("t", lasts, Bound::Within(secs(bound)), 0)]);
                found = found.or((!verdict.well).then_some(now));
            }
            let found = found.expect("found");
            prop_assert!(found > late_at && found <= late_at + 15, "{} {}", found, late_at);
        }
    }
}
