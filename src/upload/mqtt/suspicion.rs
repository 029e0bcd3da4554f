//! Over which row the connection is lost again and again. Pure.
//!
//! A broker, or what stands before it, may end the connection over one message without a word of which one it
//! was. Sent first again after each loss, that row would hold up all others for ever.
//!
//! ```text
//!  lost ──twice──▶ one row at a time ──lost alone──▶ waits until another one was taken
//!                      │       ▲                         │            │ for the third time
//!                    taken     └─────────────────────────┘            ▼
//!                      ▼                                   kept, the others go on
//!                   trusted ◀────────── an hour to a day later ───────┘
//! ```
//!
//! * While rows go one at a time, those of sources of which nothing was lost lately go first: where one source
//!   is to blame, however many of its rows stand before the others, that comes out within few losses.
//! * A row is kept only after three losses while it alone was on its way, with another one taken between any
//!   two of them. Where nothing is taken it is not about single rows: they are tried by turns.
//! * Two rows of one source that are kept, and none of it that was taken between, mean that it is the source:
//!   what a proxy finds too long is so with each reading. Its other rows are kept as well, without a trial.
//! * What is kept is tried again as if nothing were known, ever more rarely if in vain.

use std::{collections::BTreeMap, time::Duration};

use crate::{domain::SourceId, queue::Ranges};

/// Losses after which a row is suspected.
const SUSPECT: u32 = 2;

/// Losses alone after which it is kept.
const ALONE: u32 = 3;

/// Rows of one source that are kept after which all of them are.
const SOURCE: u32 = 2;

/// Until what is kept is tried again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));

/// Rows that were lost and are remembered, at most.
const REMEMBERED: usize = 10_000;

/// The turn of a row that need not wait for others, see [`Suspicion::turn`].
pub const FREE: (u64, u64) = (0, 0);

/// See the module.
#[derive(Debug, Default)]
pub struct Suspicion {
    /// Rows that were lost and not taken since.
    lost: BTreeMap<u64, Lost>,
    kept: Ranges,
    /// Sources of which a row was lost and none was taken since.
    sources: BTreeMap<SourceId, Source>,
    /// Counts what happens.
    moment: u64,
    /// When a row was taken last.
    taken: u64,
    /// When everything is forgotten, while anything is kept.
    forgets_at: Option<Duration>,
    /// When that was so last, and how long it had taken.
    forgot: Option<(Duration, Duration)>,
}

#[derive(Debug, Default)]
struct Lost {
    times: u32,
    alone: u32,
    last: u64,
}

#[derive(Debug, Default)]
struct Source {
    last: u64,
    kept: u32,
}

impl Suspicion {
    /// A row was taken.
    pub fn taken(&mut self, seq: u64, source: &SourceId) {
        self.moment += 1;
        self.taken = self.moment;
        self.lost.remove(&seq);
        self.sources.remove(source);
    }

    /// The connection was lost before a row was answered. Says whether that row is kept from now on.
    pub fn lost(&mut self, now: Duration, seq: u64, source: &SourceId, alone: bool) -> bool {
        self.moment += 1;
        let row = self.lost.entry(seq).or_default();
        row.times = row.times.saturating_add(1);
        // Where nothing was taken between two losses, the latter says nothing new.
        if alone && (row.alone == 0 || self.taken > row.last) {
            row.alone += 1;
        }
        row.last = self.moment;
        let kept = row.alone >= ALONE;
        // Those that went another way, or were dropped at the queue's limit, are never taken here.
        if self.lost.len() > REMEMBERED {
            self.lost.pop_first();
        }
        let of_source = self.sources.entry(source.clone()).or_default();
        of_source.last = self.moment;
        if !kept {
            return false;
        }
        of_source.kept += 1;
        self.lost.remove(&seq);
        self.kept.insert(seq..=seq);
        if self.forgets_at.is_none() {
            let (least, most) = AGAIN;
            let in_vain = self.forgot.filter(|(at, wait)| now.saturating_sub(*at) < *wait);
            let wait = in_vain.map_or(least, |(_, wait)| (wait * 2).min(most));
            self.forgets_at = Some(now + wait);
            self.forgot = Some((now + wait, wait));
        }
        true
    }

    /// Whether a row is kept.
    #[must_use]
    pub fn keeps(&self, seq: u64, source: &SourceId) -> bool {
        let of_source = self.sources.get(source);
        self.kept.contains(seq) || of_source.is_some_and(|source| source.kept >= SOURCE)
    }

    /// Whether a row was lost more often than a link breaks by itself. While such a one is to be sent, rows go one
    /// at a time, so that it comes out which one it is.
    #[must_use]
    pub fn suspects(&self, seq: u64) -> bool {
        self.lost.get(&seq).is_some_and(|row| row.times >= SUSPECT)
    }

    /// Whoever has the lowest goes first while rows go one at a time. Beyond [`FREE`], it or its source was lost and
    /// nothing was taken since: others are to be tried before, if there are any.
    #[must_use]
    pub fn turn(&self, seq: u64, source: &SourceId) -> (u64, u64) {
        let lately = |last: u64| if last > self.taken { last } else { 0 };
        let of_source = self.sources.get(source).map_or(0, |source| lately(source.last));
        (of_source, self.lost.get(&seq).map_or(0, |row| lately(row.last)))
    }

    /// When what is kept is tried again.
    #[must_use]
    pub fn forgets_at(&self) -> Option<Duration> {
        self.forgets_at
    }

    /// That moment has come.
    pub fn forget(&mut self) {
        self.lost.clear();
        self.kept = Ranges::default();
        self.sources.clear();
        self.forgets_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    fn source(name: &str) -> SourceId {
        name.parse().expect("a source")
    }

    /// Loses a row until it is kept; a row of another source is taken after each loss.
    fn condemn(suspicion: &mut Suspicion, now: Duration, seq: u64, of: &SourceId) {
        for _ in 1..ALONE {
            assert!(!suspicion.lost(now, seq, of, true));
            suspicion.taken(1_000_000, &source("other"));
        }
        assert!(suspicion.lost(now, seq, of, true));
    }

    #[test]
    fn a_row_is_kept_after_three_losses_alone_with_others_taken_between() {
        let (mut suspicion, a, b) = (Suspicion::default(), source("a"), source("b"));
        for seq in 1..=5 {
            assert!(!suspicion.lost(hours(0), seq, &a, false));
        }
        assert!(!suspicion.suspects(1), "a link may break");
        for seq in 1..=5 {
            assert!(!suspicion.lost(hours(0), seq, &a, false));
        }
        assert!(suspicion.suspects(1));
        for _ in 0..9 {
            assert!(!suspicion.lost(hours(0), 1, &a, true), "nothing was taken");
        }
        assert_eq!(suspicion.turn(6, &b), FREE);
        assert!(suspicion.turn(7, &a) < suspicion.turn(2, &a), "one that was not lost");
        assert!(suspicion.turn(2, &a) < suspicion.turn(1, &a), "one that was lost before");
        for _ in 0..2 {
            suspicion.taken(6, &b);
            assert_eq!((suspicion.turn(1, &a), suspicion.keeps(1, &a)), (FREE, false));
            suspicion.lost(hours(0), 1, &a, true);
        }
        assert!(suspicion.keeps(1, &a) && !suspicion.keeps(2, &a));
        assert!(suspicion.suspects(2), "it may be another one as well");
        suspicion.taken(2, &a);
        assert!(!suspicion.suspects(2));
    }

    #[test]
    fn a_row_that_is_taken_is_trusted_again() {
        let (mut suspicion, a) = (Suspicion::default(), source("a"));
        for _ in 0..10 {
            assert!(!suspicion.lost(hours(0), 1, &a, true));
            suspicion.taken(2, &a);
            assert!(!suspicion.lost(hours(0), 1, &a, true));
            suspicion.taken(1, &a);
            assert!(!suspicion.suspects(1));
        }
    }

    #[test]
    fn two_rows_of_a_source_mean_the_source_unless_one_was_taken_between() {
        let (mut suspicion, a) = (Suspicion::default(), source("a"));
        condemn(&mut suspicion, hours(0), 1, &a);
        suspicion.taken(2, &a);
        condemn(&mut suspicion, hours(0), 3, &a);
        assert!(!suspicion.keeps(4, &a));
        condemn(&mut suspicion, hours(0), 4, &a);
        assert!(suspicion.keeps(5, &a) && !suspicion.keeps(5, &source("b")));
    }

    #[test]
    fn what_is_kept_is_tried_again_ever_more_rarely_and_a_new_matter_after_an_hour() {
        let (mut suspicion, a) = (Suspicion::default(), source("a"));
        let mut now = hours(0);
        for wait in [1, 2, 4, 8, 16, 24, 24] {
            condemn(&mut suspicion, now, 1, &a);
            condemn(&mut suspicion, now + hours(1), 2, &source("b"));
            now += hours(wait);
            assert_eq!(suspicion.forgets_at(), Some(now));
            suspicion.forget();
            assert!(!suspicion.keeps(1, &a) && suspicion.forgets_at().is_none());
        }
        now += hours(24);
        condemn(&mut suspicion, now, 1, &a);
        assert_eq!(suspicion.forgets_at(), Some(now + hours(1)));
    }
}
