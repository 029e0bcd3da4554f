//! What is sent next, and what becomes of each row. Pure.
//!
//! ```text
//!  claimed ──▶ ready ──send──▶ on the way ──PUBACK──▶ handed over
//!                │ connection lost │ lost
//!                └────released─────┘         refused ──▶ all released, one row tried at a time
//!                                            too long ─▶ aside: kept claimed while the others go on
//! ```
//!
//! What is aside is released with the connection: the next one may take longer messages.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::super::retry::{self, Pause};
use crate::queue::Ranges;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Claim rows; [`Machine::claimed`] takes them.
    Claim,
    /// Publish this row; [`Machine::answered`] takes what came of it.
    Send(u64, Bytes),
    /// Wait for an answer, rows, a connection, or this instant.
    Wait(Option<Duration>),
}

/// What came of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The broker took it.
    Taken,
    /// The connection was lost, or not there.
    Lost,
    /// It is too long for the broker, with the remedy. Others may not be.
    TooLong(String),
    /// The broker does not want it, with the reason and its remedy, and how long to wait.
    Refused(String, Pause),
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Nothing goes on until a person acts.
    Stopped(String),
    /// Rows that are too long for the broker are kept.
    Aside(String),
    /// It does again.
    Resumed {
        /// After how long.
        down: Duration,
    },
}

/// What is outside the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether there is a connection.
    pub connected: bool,
    /// Whether rows could be claimed.
    pub waiting: bool,
}

/// What to do with rows, and what to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Rows that the broker took.
    pub handed_over: Ranges,
    /// Rows that may be claimed again.
    pub released: Ranges,
    /// What is told.
    pub notes: Vec<Note>,
}

/// The window and what is in it.
#[derive(Debug)]
pub struct Machine {
    window: usize,
    ready: VecDeque<(u64, Bytes)>,
    on_the_way: usize,
    aside: Ranges,
    /// Since when rows have been aside.
    aside_since: Option<Duration>,
    refused: Option<Refused>,
    effects: Effects,
}

#[derive(Debug)]
struct Refused {
    since: Duration,
    until: Duration,
    reason: String,
}

impl Machine {
    /// With nothing claimed.
    #[must_use]
    pub fn new(window: u16) -> Self {
        Self {
            window: window.into(),
            ready: VecDeque::new(),
            on_the_way: 0,
            aside: Ranges::default(),
            aside_since: None,
            refused: None,
            effects: Effects::default(),
        }
    }

    /// What to do next.
    pub fn next(&mut self, now: Duration, seen: Seen) -> Step {
        if !seen.connected {
            self.release_ready();
            self.effects.released.extend(&std::mem::take(&mut self.aside));
            return Step::Wait(None);
        }
        let window = match &self.refused {
            Some(refused) if now < refused.until => return Step::Wait(Some(refused.until)),
            // One is enough to see whether it is over.
            Some(_) => 1,
            None => self.window,
        };
        if self.on_the_way >= window {
            return Step::Wait(None);
        }
        if let Some((seq, payload)) = self.ready.pop_front() {
            self.on_the_way += 1;
            return Step::Send(seq, payload);
        }
        if seen.waiting { Step::Claim } else { Step::Wait(None) }
    }

    /// Rows were claimed and encoded.
    pub fn claimed(&mut self, rows: impl IntoIterator<Item = (u64, Bytes)>) {
        self.ready.extend(rows);
    }

    /// A row was answered; `jitter` is a number from 0 to 1.
    pub fn answered(&mut self, now: Duration, jitter: f64, seq: u64, answer: Answer) {
        self.on_the_way -= 1;
        match answer {
            Answer::Taken => {
                self.effects.handed_over.insert(seq..=seq);
                if let Some(refused) = self.refused.take() {
                    let down = now.saturating_sub(refused.since);
                    self.effects.notes.push(Note::Resumed { down });
                }
            }
            Answer::Lost => self.effects.released.insert(seq..=seq),
            Answer::TooLong(reason) => {
                self.aside.insert(seq..=seq);
                if self.aside_since.is_none() {
                    self.effects.notes.push(Note::Aside(reason));
                }
                self.aside_since.get_or_insert(now);
            }
            Answer::Refused(reason, pause) => {
                self.effects.released.insert(seq..=seq);
                self.release_ready();
                let known = self.refused.take();
                if known.as_ref().is_none_or(|known| known.reason != reason) {
                    self.effects.notes.push(Note::Stopped(reason.clone()));
                }
                let since = known.map_or(now, |known| known.since);
                let wait = retry::wait(pause, now.saturating_sub(since), jitter);
                self.refused = Some(Refused { since, until: now + wait, reason });
            }
        }
    }

    /// What follows from what was said since it was asked last.
    pub fn effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Whether messages are on their way.
    #[must_use]
    pub fn is_waiting_for_answers(&self) -> bool {
        self.on_the_way > 0
    }

    /// Whether there is anything that the broker should take.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.on_the_way > 0 || !self.ready.is_empty()
    }

    /// Since when rows have been kept that are too long for the broker.
    #[must_use]
    pub fn aside_since(&self) -> Option<Duration> {
        self.aside_since.filter(|_| !self.aside.is_empty())
    }

    /// What keeps everything until a person acts.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.reason.as_str())
    }

    fn release_ready(&mut self) {
        for (seq, _) in self.ready.drain(..) {
            self.effects.released.insert(seq..=seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CONNECTED: Seen = Seen { connected: true, waiting: true };

    fn rows(seqs: std::ops::RangeInclusive<u64>) -> Vec<(u64, Bytes)> {
        seqs.map(|seq| (seq, Bytes::new())).collect()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn sent(machine: &mut Machine, now: Duration) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Step::Send(seq, _) = machine.next(now, CONNECTED) {
            sent.push(seq);
        }
        sent
    }

    fn refusal() -> Answer {
        Answer::Refused("not authorized".to_owned(), Pause::Person)
    }

    #[test]
    fn a_backlog_goes_through_the_window_and_a_row_is_handed_over_on_its_answer() {
        let mut machine = Machine::new(2);
        assert_eq!(machine.next(secs(0), CONNECTED), Step::Claim);
        machine.claimed(rows(1..=3));
        assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
        assert_eq!(machine.next(secs(0), CONNECTED), Step::Wait(None));
        machine.answered(secs(0), 0.5, 2, Answer::Taken);
        assert_eq!(machine.effects().handed_over, [2].into_iter().collect());
        assert_eq!(sent(&mut machine, secs(0)), [3]);
    }

    #[test]
    fn a_lost_connection_gives_back_what_was_not_answered() {
        let mut machine = Machine::new(2);
        machine.claimed(rows(1..=3));
        assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
        machine.answered(secs(0), 0.5, 1, Answer::Lost);
        assert_eq!(machine.next(secs(0), Seen { connected: false, ..CONNECTED }), Step::Wait(None));
        machine.answered(secs(0), 0.5, 2, Answer::Taken);
        let effects = machine.effects();
        assert_eq!(effects.released, [1, 3].into_iter().collect());
        assert_eq!(effects.handed_over, [2].into_iter().collect(), "its answer came in time");
        assert!(!machine.has_rows());
    }

    #[test]
    fn a_refusal_stops_all_is_told_once_and_one_row_finds_out_that_it_is_over() {
        let mut machine = Machine::new(3);
        machine.claimed(rows(1..=4));
        assert_eq!(sent(&mut machine, secs(0)), [1, 2, 3]);
        machine.answered(secs(0), 0.5, 1, refusal());
        machine.answered(secs(0), 0.5, 2, refusal());
        let effects = machine.effects();
        assert_eq!(effects.notes, [Note::Stopped("not authorized".to_owned())]);
        assert_eq!(effects.released, [1, 2, 4].into_iter().collect());
        machine.answered(secs(0), 0.5, 3, Answer::Lost);
        let Step::Wait(Some(until)) = machine.next(secs(0), CONNECTED) else { panic!("a wait") };
        assert_eq!(until, secs(30));
        assert_eq!(machine.next(until, CONNECTED), Step::Claim);
        machine.claimed(rows(1..=4));
        assert_eq!(sent(&mut machine, until), [1], "one is enough");
        machine.answered(until, 0.5, 1, refusal());
        assert_eq!(machine.effects().notes, [], "it was told");
        let later = secs(90);
        assert_eq!(machine.next(later, CONNECTED), Step::Claim);
        machine.claimed(rows(1..=4));
        assert_eq!(sent(&mut machine, later), [1]);
        machine.answered(later, 0.5, 1, Answer::Taken);
        assert_eq!(machine.effects().notes, [Note::Resumed { down: later }]);
        assert_eq!(sent(&mut machine, later), [2, 3, 4]);
    }

    #[test]
    fn a_row_that_is_too_long_is_kept_aside_and_told_once_while_the_others_go_on() {
        let mut machine = Machine::new(2);
        machine.claimed(rows(1..=4));
        assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
        let too_long = || Answer::TooLong("raise its limit".to_owned());
        machine.answered(secs(5), 0.5, 1, too_long());
        machine.answered(secs(5), 0.5, 2, Answer::Taken);
        assert_eq!(sent(&mut machine, secs(5)), [3, 4], "nothing stops");
        machine.answered(secs(6), 0.5, 3, too_long());
        let effects = machine.effects();
        assert_eq!(effects.notes, [Note::Aside("raise its limit".to_owned())], "once");
        assert!(effects.released.is_empty(), "or they would be claimed first again");
        assert_eq!((machine.aside_since(), machine.refused()), (Some(secs(5)), None));
        machine.next(secs(7), Seen { connected: false, ..CONNECTED });
        assert_eq!(machine.effects().released, [1, 3].into_iter().collect());
    }

    #[test]
    fn a_row_that_nobody_listens_to_is_kept_and_tried_again_soon() {
        let mut machine = Machine::new(3);
        machine.claimed(rows(1..=2));
        assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
        let unheard = || Answer::Refused("nobody listens".to_owned(), Pause::Trouble);
        machine.answered(secs(0), 0.5, 1, unheard());
        machine.answered(secs(0), 0.5, 2, unheard());
        let effects = machine.effects();
        assert_eq!(effects.released, [1, 2].into_iter().collect());
        assert!(effects.handed_over.is_empty());
        assert_eq!(machine.next(secs(0), CONNECTED), Step::Wait(Some(secs(1))));
    }

    proptest! {
        /// Whatever a broker does, a row is handed over once, on its own answer and no other.
        #[test]
        fn no_row_is_lost_or_handed_over_without_its_answer(
            events in proptest::collection::vec((0u8..7, any::<prop::sample::Index>()), 1..400),
        ) {
            let mut machine = Machine::new(4);
            let mut queue: BTreeSet<u64> = (0..40).collect();
            let (mut claimed, mut on_the_way, mut taken) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
            let mut connected = true;
            for (now, (event, index)) in (0u64..).zip(events) {
                let now = secs(now * 20);
                let seen = Seen { connected, waiting: queue.len() > claimed.len() };
                match event {
                    0 | 1 => match machine.next(now, seen) {
                        Step::Claim => {
                            let free: Vec<u64> = queue.difference(&claimed).copied().take(7).collect();
                            claimed.extend(&free);
                            machine.claimed(free.into_iter().map(|seq| (seq, Bytes::new())));
                        }
                        Step::Send(seq, _) => on_the_way.push(seq),
                        Step::Wait(_) => {}
                    },
                    2 => connected = !connected,
                    event if !on_the_way.is_empty() => {
                        let seq = on_the_way.remove(index.index(on_the_way.len()));
                        let answer = match event {
                            3 => Answer::Taken,
                            4 => Answer::Lost,
                            5 => Answer::TooLong(String::new()),
                            _ => refusal(),
                        };
                        if answer == Answer::Taken {
                            taken.insert(seq);
                        }
                        machine.answered(now, 0.5, seq, answer);
                    }
                    _ => {}
                }
                prop_assert!(on_the_way.len() <= 4);
                let effects = machine.effects();
                for seq in effects.handed_over.iter().flatten() {
                    prop_assert!(taken.contains(&seq) && queue.remove(&seq) && claimed.remove(&seq));
                }
                for seq in effects.released.iter().flatten() {
                    prop_assert!(claimed.remove(&seq), "{} was not claimed", seq);
                }
            }
            prop_assert_eq!(queue.len() + taken.len(), 40);
        }
    }
}
