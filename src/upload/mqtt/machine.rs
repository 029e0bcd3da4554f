//! What is sent next, and what becomes of each row. Pure.
//!
//! ```text
//!  claimed ──▶ ready ──send──▶ on the way ──PUBACK──▶ handed over
//!                │ connection lost │ lost
//!                └────released─────┘         refused ──▶ all released, one row tried at a time
//!                                            too long, or always lost ─▶ aside: kept claimed, the others go on
//! ```
//!
//! What is aside is released with the connection: the next one may take longer messages. What is always lost
//! ([`super::suspicion`]) goes aside again as soon as it is claimed.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{
    super::retry::{self, Pause},
    suspicion::{FREE, Suspicion},
};
use crate::{domain::SourceId, queue::Ranges};

/// Claims, at most, to find a row that is not suspected.
const LOOKS: usize = 8;

/// A row to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub seq: u64,
    /// Whose it is.
    pub source: SourceId,
    /// What is sent.
    pub payload: Bytes,
}

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
    /// The connection was lost before it answered.
    Lost,
    /// It was not sent, as there is no connection.
    Unsent,
    /// It is too long for the broker, with the remedy. Others may not be.
    TooLong(String),
    /// The broker does not want it, with the reason and its remedy, and how long to wait.
    Refused(String, Pause),
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Nothing goes on for a while, or until a person acts. Told once for each reason.
    Stopped(Pause, String),
    /// Rows are kept that the broker does not take while it takes others. Told once for each reason.
    Aside(Aside, String),
    /// It does again.
    Resumed {
        /// After how long.
        down: Duration,
    },
}

/// Why rows are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// They are too long for the broker.
    TooLong,
    /// The connection is lost over them.
    CutOff,
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
    /// Rows that are claimed and not sent for a while.
    pub aside: Ranges,
    /// What is told.
    pub notes: Vec<Note>,
}

/// The window and what is in it.
#[derive(Debug)]
pub struct Machine {
    window: usize,
    ready: VecDeque<Message>,
    on_the_way: BTreeMap<u64, SourceId>,
    /// Rows that were sent since nothing was on its way.
    abreast: usize,
    /// Claims since a row was sent.
    looks: usize,
    aside: Ranges,
    /// Since when rows have been aside.
    aside_since: Option<Duration>,
    told: Vec<Aside>,
    suspicion: Suspicion,
    refused: Option<Refused>,
    effects: Effects,
}

#[derive(Debug)]
struct Refused {
    since: Duration,
    until: Duration,
    pause: Pause,
    reason: String,
}

impl Machine {
    /// With nothing claimed.
    #[must_use]
    pub fn new(window: u16) -> Self {
        Self {
            window: window.into(),
            ready: VecDeque::new(),
            on_the_way: BTreeMap::new(),
            abreast: 0,
            looks: 0,
            aside: Ranges::default(),
            aside_since: None,
            told: Vec::new(),
            suspicion: Suspicion::default(),
            refused: None,
            effects: Effects::default(),
        }
    }

    /// Rows go another way: nothing is claimed any more. What was learnt of them is remembered.
    pub fn leave(&mut self) {
        let told = std::mem::take(&mut self.told);
        let suspicion = std::mem::take(&mut self.suspicion);
        *self = Self { window: self.window, told, suspicion, ..Self::new(0) };
    }

    /// What to do next.
    pub fn next(&mut self, now: Duration, seen: Seen) -> Step {
        if !seen.connected {
            self.release_ready();
            self.release_aside();
            self.looks = 0;
            return Step::Wait(None);
        }
        if self.suspicion.forgets_at().is_some_and(|at| at <= now) {
            self.suspicion.forget();
            self.release_aside();
        }
        let window = match &self.refused {
            Some(refused) if now < refused.until => return Step::Wait(Some(refused.until)),
            // One is enough to see whether it is over.
            Some(_) => 1,
            None if self.is_careful() => 1,
            None => self.window,
        };
        if self.on_the_way.len() >= window {
            return Step::Wait(None);
        }
        // Where suspects wait for others to go first, these are looked for, but not in the whole queue.
        let looks_on = seen.waiting && self.looks < LOOKS;
        if let Some(Message { seq, source, payload }) = self.pick(looks_on) {
            self.looks = 0;
            self.abreast = if self.on_the_way.is_empty() { 1 } else { self.abreast + 1 };
            self.on_the_way.insert(seq, source);
            return Step::Send(seq, payload);
        }
        if seen.waiting {
            self.looks += 1;
            return Step::Claim;
        }
        Step::Wait(self.suspicion.forgets_at())
    }

    /// Whether any of the rows that are claimed is suspected.
    fn is_careful(&self) -> bool {
        let ready = self.ready.iter().map(|row| &row.seq);
        ready.chain(self.on_the_way.keys()).any(|seq| self.suspicion.suspects(*seq))
    }

    /// The oldest row. While one is suspected, the oldest over which nothing was lost lately; unless such a one is
    /// looked for, the one that has waited longest.
    fn pick(&mut self, looks_on: bool) -> Option<Message> {
        if !self.is_careful() {
            return self.ready.pop_front();
        }
        let turn = |row: &Message| self.suspicion.turn(row.seq, &row.source);
        let free = self.ready.iter().position(|row| turn(row) == FREE);
        let at = free.or_else(|| {
            let turns = self.ready.iter().map(turn).enumerate();
            turns.min_by_key(|(_, turn)| *turn).map(|(at, _)| at).filter(|_| !looks_on)
        })?;
        self.ready.remove(at)
    }

    /// Rows were claimed and encoded.
    pub fn claimed(&mut self, now: Duration, rows: impl IntoIterator<Item = Message>) {
        self.ready.extend(rows);
        self.keep_back(now);
    }

    /// A row was answered; `jitter` is a number from 0 to 1.
    pub fn answered(&mut self, now: Duration, jitter: f64, seq: u64, answer: Answer) {
        let Some(source) = self.on_the_way.remove(&seq) else { return };
        match answer {
            Answer::Taken => {
                self.effects.handed_over.insert(seq..=seq);
                self.suspicion.taken(seq, &source);
                if let Some(refused) = self.refused.take() {
                    let down = now.saturating_sub(refused.since);
                    self.effects.notes.push(Note::Resumed { down });
                }
            }
            Answer::Lost => {
                self.effects.released.insert(seq..=seq);
                if self.suspicion.lost(now, seq, &source, self.abreast == 1) {
                    self.tell_aside(Aside::CutOff, || cut_off(&source));
                    self.keep_back(now);
                }
            }
            Answer::Unsent => self.effects.released.insert(seq..=seq),
            Answer::TooLong(reason) => {
                self.put_aside(now, seq);
                self.tell_aside(Aside::TooLong, || reason);
            }
            Answer::Refused(reason, pause) => {
                self.effects.released.insert(seq..=seq);
                self.release_ready();
                let known = self.refused.take();
                if known.as_ref().is_none_or(|known| known.reason != reason) {
                    self.effects.notes.push(Note::Stopped(pause, reason.clone()));
                }
                let since = known.map_or(now, |known| known.since);
                let wait = retry::wait(pause, now.saturating_sub(since), jitter);
                self.refused = Some(Refused { since, until: now + wait, pause, reason });
            }
        }
    }

    /// What follows from what was said since it was asked last.
    pub fn effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Whether there is anything that the broker should take.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        !self.on_the_way.is_empty() || !self.ready.is_empty()
    }

    /// Since when rows have been kept that the broker does not take.
    #[must_use]
    pub fn aside_since(&self) -> Option<Duration> {
        self.aside_since.filter(|_| !self.aside.is_empty())
    }

    /// Why everything waits, and for what.
    #[must_use]
    pub fn refused(&self) -> Option<(Pause, &str)> {
        self.refused.as_ref().map(|refused| (refused.pause, refused.reason.as_str()))
    }

    fn release_ready(&mut self) {
        for row in self.ready.drain(..) {
            self.effects.released.insert(row.seq..=row.seq);
        }
    }

    fn release_aside(&mut self) {
        self.effects.released.extend(&std::mem::take(&mut self.aside));
    }

    fn put_aside(&mut self, now: Duration, seq: u64) {
        self.aside.insert(seq..=seq);
        self.effects.aside.insert(seq..=seq);
        self.aside_since.get_or_insert(now);
    }

    /// Puts aside what is kept for having been lost.
    fn keep_back(&mut self, now: Duration) {
        let (kept, ready) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition::<VecDeque<_>, _>(|row| self.suspicion.keeps(row.seq, &row.source));
        self.ready = ready;
        kept.into_iter().for_each(|row| self.put_aside(now, row.seq));
    }

    fn tell_aside(&mut self, why: Aside, reason: impl FnOnce() -> String) {
        if !self.told.contains(&why) {
            self.told.push(why);
            self.effects.notes.push(Note::Aside(why, reason()));
        }
    }
}

fn cut_off(source: &SourceId) -> String {
    format!(
        "the connection is lost whenever a datum of {source} is sent, and others are taken: the broker, or a proxy or firewall before it, ends it over what this datum says or how long it is; see what they log, or let it go over HTTPS with `upload.fallback_after`"
    )
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
