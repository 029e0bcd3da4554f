//! What the ledger is told of rows that come and go one by one. Pure.
//!
//! The other ways write a batch down before it is sent. Here a batch would be one row, and a write of the file
//! for each reading too much: written down beforehand are only the *hours* in which rows may be on their way. A row
//! of an hour that is on disk needs no write; what was counted is written now and then. An hour that is over is
//! taken out as soon as nothing is on its way in it, also where nothing else is to be written.
//!
//! After a crash those hours are uncertain, as is an hour in which two rows have the same time: the server keeps
//! one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    audit::tally::{self, Content, HOUR_MS, Tallies, hour_of},
    domain::Datum,
    queue::Ranges,
};

/// What is proved together, for the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// The rows.
    pub seqs: Ranges,
    /// What is in them.
    pub tallies: Tallies,
}

/// The account of one run.
#[derive(Debug)]
pub struct Account {
    every: Duration,
    rows: BTreeMap<u64, Claimed>,
    /// The newest claimed row of each source.
    newest: BTreeMap<String, (i64, u64)>,
    /// Hours that are on disk.
    noted: BTreeSet<(String, i64)>,
    /// Hours of rows that were claimed since they were written.
    touched: BTreeSet<(String, i64)>,
    written_at: Duration,
}

#[derive(Debug)]
struct Claimed {
    hour: (String, i64),
    tallies: Tallies,
    twin: bool,
}

impl Account {
    /// Of nothing; what was counted is to be written so often.
    #[must_use]
    pub fn new(now: Duration, every: Duration) -> Self {
        Self {
            every,
            rows: BTreeMap::new(),
            newest: BTreeMap::new(),
            noted: BTreeSet::new(),
            touched: BTreeSet::new(),
            written_at: now,
        }
    }

    /// A row was claimed, perhaps once more.
    pub fn claimed(&mut self, seq: u64, datum: &Datum, unix_ms: i64) {
        let source = datum.source.as_str();
        let hour = (source.to_owned(), hour_of(unix_ms));
        let mut tallies = Tallies::new();
        tally::add(&mut tallies, source, unix_ms, &Content::sent(&datum.samples));
        let before = self.newest.insert(source.to_owned(), (unix_ms, seq));
        let twin = before.is_some_and(|(ms, other)| ms == unix_ms && other != seq);
        self.touched.insert(hour.clone());
        self.rows.insert(seq, Claimed { hour, tallies, twin });
    }

    /// Whether the file has to be written before what was claimed is sent.
    #[must_use]
    pub fn must_be_written(&self) -> bool {
        !self.touched.is_subset(&self.noted)
    }

    /// When to write that something was `counted` since the last time, or that an hour is over; `unix_ms` is now.
    #[must_use]
    pub fn write_at(&self, now: Duration, unix_ms: i64, counted: bool) -> Option<Duration> {
        let wait = if counted { Duration::ZERO } else { self.closes_in(unix_ms)? };
        Some((now + wait).max(self.written_at + self.every))
    }

    /// How long until the first of the hours on disk is over in which nothing is on its way.
    fn closes_in(&self, unix_ms: i64) -> Option<Duration> {
        let in_use: BTreeSet<_> = self.rows.values().map(|row| &row.hour).collect();
        let idle = self.noted.iter().filter(|hour| !in_use.contains(hour));
        let first = idle.map(|(_, hour)| *hour).min()?;
        let left = first.saturating_add(1).saturating_mul(HOUR_MS).saturating_sub(unix_ms);
        Some(Duration::from_millis(left.try_into().unwrap_or(0)))
    }

    /// It is written now; gives the hours that belong in it, without counts.
    pub fn write(&mut self, now: Duration, unix_ms: i64) -> Tallies {
        self.written_at = now;
        self.noted.append(&mut self.touched);
        self.noted.retain(|(_, hour)| *hour >= hour_of(unix_ms));
        self.noted.extend(self.rows.values().map(|row| row.hour.clone()));
        let mut hours = Tallies::new();
        for (source, hour) in &self.noted {
            hours.entry(source.clone()).or_default().entry(*hour).or_default();
        }
        hours
    }

    /// Rows were taken: those that count, and those whose time another one has. Those that are `known` were counted
    /// before a restart, and must not cast doubt on the others.
    pub fn taken(&mut self, seqs: &Ranges, known: &Ranges) -> (Counted, Counted) {
        let (mut plain, mut twins) = (Counted::default(), Counted::default());
        for seq in seqs.iter().flatten() {
            let Some(row) = self.rows.remove(&seq).filter(|_| !known.contains(seq)) else {
                continue;
            };
            let counted = if row.twin { &mut twins } else { &mut plain };
            counted.seqs.insert(seq..=seq);
            for (source, hours) in row.tallies {
                let of_source = counted.tallies.entry(source).or_default();
                for (hour, tally) in hours {
                    of_source.entry(hour).or_default().add(tally);
                }
            }
        }
        (plain, twins)
    }

    /// Rows are on their way no more.
    pub fn released(&mut self, seqs: &Ranges) {
        for seq in seqs.iter().flatten() {
            self.rows.remove(&seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Samples, Stamp};

    const EVERY: Duration = Duration::from_secs(60);

    fn account() -> Account {
        Account::new(Duration::ZERO, EVERY)
    }

    fn claim(account: &mut Account, seq: u64, source: &str, unix_ms: i64) {
        let source = source.parse().expect("a source");
        let datum = Datum { source, stamp: Stamp::Wall { unix_ms }, samples: Samples::default() };
        account.claimed(seq, &datum, unix_ms);
    }

    fn count(tallies: &Tallies) -> u64 {
        tallies.values().flat_map(BTreeMap::values).map(|tally| tally.count).sum()
    }

    #[test]
    fn a_write_comes_before_the_first_row_of_an_hour_and_none_before_the_next() {
        let mut account = account();
        claim(&mut account, 1, "a", 5);
        assert!(account.must_be_written());
        let hours = account.write(Duration::ZERO, 0);
        assert_eq!((hours["a"].len(), count(&hours)), (1, 0));
        for seq in 2..9 {
            claim(&mut account, seq, "a", 5 + seq as i64);
            assert!(!account.must_be_written());
            account.taken(&Ranges::from_iter([seq]), &Ranges::default());
            if seq % 3 == 0 {
                assert!(!account.write(EVERY, 0).is_empty(), "an hour in use stays noted");
            }
        }
        for (source, unix_ms) in [("b", 5), ("a", HOUR_MS)] {
            claim(&mut account, 20, source, unix_ms);
            assert!(account.must_be_written(), "{source} {unix_ms}");
            account.write(EVERY, 0);
        }
    }

    #[test]
    fn sources_that_come_in_turns_cost_one_write_each_in_an_hour() {
        let mut account = account();
        let mut writes = 0;
        for seq in 0..100 {
            claim(&mut account, seq, ["a", "b", "c"][seq as usize % 3], seq as i64);
            if account.must_be_written() {
                account.write(Duration::ZERO, 0);
                writes += 1;
            }
            account.taken(&Ranges::from_iter([seq]), &Ranges::default());
        }
        assert_eq!(writes, 3);
    }

    #[test]
    fn the_hour_of_a_row_that_is_not_answered_stays_and_one_that_is_over_goes() {
        let mut account = account();
        claim(&mut account, 1, "a", 5);
        claim(&mut account, 2, "b", 5);
        account.write(EVERY, 0);
        account.taken(&Ranges::from_iter([1]), &Ranges::default());
        assert_eq!(account.write(EVERY, HOUR_MS).into_keys().collect::<Vec<_>>(), ["b"]);
        account.released(&Ranges::from_iter([2]));
        assert!(account.write(EVERY, HOUR_MS).is_empty());
        assert_eq!(account.write_at(EVERY, HOUR_MS, true), Some(EVERY * 2));
        assert_eq!(account.write_at(EVERY, HOUR_MS, false), None);
    }

    #[test]
    fn an_hour_that_is_over_is_closed_by_one_write_also_where_nothing_is_counted() {
        const BEFORE: i64 = HOUR_MS - 90_000;
        let mut account = account();
        claim(&mut account, 1, "a", BEFORE);
        account.write(Duration::ZERO, BEFORE);
        claim(&mut account, 2, "a", BEFORE + 1);
        assert_eq!(account.write_at(EVERY, BEFORE, false), None, "rows are on their way");
        account.taken(&Ranges::from_iter([1, 2]), &Ranges::default());
        assert_eq!(account.write(EVERY, BEFORE).len(), 1, "more may come in this hour");
        let over = account.write_at(EVERY, BEFORE, false).expect("a time");
        assert_eq!(over, EVERY + Duration::from_secs(90));
        claim(&mut account, 3, "a", BEFORE + 2);
        account.released(&Ranges::from_iter([3]));
        assert!(account.write_at(over, HOUR_MS, false) <= Some(over), "now");
        assert!(account.write(over, HOUR_MS).is_empty());
        assert_eq!(account.write_at(over, HOUR_MS, false), None, "once");
    }

    #[test]
    fn what_was_taken_counts_once_and_a_second_row_of_one_time_apart() {
        let mut account = account();
        claim(&mut account, 1, "a", 5);
        claim(&mut account, 2, "b", 5);
        account.released(&Ranges::from_iter([1]));
        // Claimed again it is no twin of itself.
        claim(&mut account, 1, "a", 5);
        claim(&mut account, 3, "a", 5);
        let (plain, twins) = account.taken(&Ranges::from_iter([1, 2, 3]), &Ranges::default());
        assert_eq!((plain.seqs, count(&plain.tallies)), (Ranges::from_iter([1, 2]), 2));
        assert_eq!((twins.seqs, count(&twins.tallies)), (Ranges::from_iter([3]), 1));
        let (again, _) = account.taken(&Ranges::from_iter([1]), &Ranges::default());
        assert_eq!(again, Counted::default());
        claim(&mut account, 2, "b", 5);
        claim(&mut account, 4, "b", 9);
        let (plain, _) = account.taken(&Ranges::from_iter([2, 4]), &Ranges::from_iter([1, 2]));
        assert_eq!((plain.seqs, count(&plain.tallies)), (Ranges::from_iter([4]), 1));
    }
}
