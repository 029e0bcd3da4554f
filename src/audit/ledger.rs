//! What was proved to be accepted: a count and hashes for each source and hour. Pure.
//!
//! ```text
//!  opened(batch) ─▶ open ──proved──▶ recent ──fold, at most once an hour──▶ one file a day ([`super::days`])
//!                    └──────┬──────────┘
//!              in `upload.json`, which is replaced before each POST anyway
//! ```
//!
//! So the ledger costs no write of its own but the fold. What always holds:
//!
//! * A row is counted at most once: the numbers of counted rows ([`Ledger::counted`]) are replaced with
//!   the counts, whole or not at all, and rows that are among them are not counted again.
//! * Where rows may have been accepted without being counted (a crash between a proof and the next write
//!   of `upload.json`, rows with a twin of the same time, a file that was lost), the hours they lie in are
//!   marked *uncertain*: too few are then still a gap, but as many as were counted are no proof.
//! * Before [`Ledger::complete_from`] nothing is known to be complete.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tally::{Hours, Tallies, Tally, hour_of};
use crate::queue::Ranges;

/// Ranges of counted rows that are remembered. Rows that are older than so many gaps in the numbers have
/// long been acknowledged on disk, and never come again.
const MAX_RANGES: usize = 64;

/// Entries that are written with every batch; more are folded into the files of their days at once.
const MAX_RECENT: usize = 512;

/// Entries that are kept where the files cannot be written.
const MAX_UNFOLDED: usize = 16 * MAX_RECENT;

/// How long entries are kept before they are folded, in seconds.
const FOLD_AFTER_SECS: i64 = 3600;

/// What was accepted of one source in one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// What was counted.
    #[serde(rename = "t")]
    pub tally: Tally,
    /// When the last of it was proved, in seconds since 1970.
    #[serde(rename = "p")]
    pub proved_at: i64,
    /// Whether more may have been accepted than was counted.
    #[serde(rename = "u", default, skip_serializing_if = "std::ops::Not::not")]
    pub uncertain: bool,
}

impl Entry {
    /// Adds what another one says.
    pub fn add(&mut self, other: &Self) {
        self.tally.add(other.tally);
        self.proved_at = self.proved_at.max(other.proved_at);
        self.uncertain |= other.uncertain;
    }
}

/// A batch that may be on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    seqs: Ranges,
    tallies: Tallies,
    uncertain: bool,
}

/// The ledger, less what is in the files of the days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Whose datum these are.
    node: u64,
    /// Which fold the recent entries will be part of. A file of a day that has this number has them.
    generation: u64,
    /// The hour since which everything that was proved is counted, or marked as uncertain. `None`: the
    /// next proof decides.
    complete_from: Option<i64>,
    counted: Ranges,
    /// When the oldest recent entry was made, in seconds since 1970.
    began: Option<i64>,
    recent: Hours<Entry>,
    open: BTreeMap<String, Open>,
}

impl Ledger {
    /// An empty ledger, to be folded as `generation`. Only on a device that has sent nothing before is it
    /// complete (`first`); otherwise it is from the hour after the next proof on.
    #[must_use]
    pub fn new(node: u64, generation: u64, first: bool) -> Self {
        Self {
            node,
            generation,
            complete_from: first.then_some(i64::MIN),
            counted: Ranges::default(),
            began: None,
            recent: Hours::new(),
            open: BTreeMap::new(),
        }
    }

    /// Whose datum these are.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.node
    }

    /// See [`Ledger`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The hour since which nothing that was accepted is unknown here.
    #[must_use]
    pub fn complete_from(&self) -> Option<i64> {
        self.complete_from
    }

    /// The numbers of the rows that were counted last.
    #[must_use]
    pub fn counted(&self) -> &Ranges {
        &self.counted
    }

    /// What is not in the files of the days yet.
    #[must_use]
    pub fn recent(&self) -> &Hours<Entry> {
        &self.recent
    }

    /// What is on its way, or was when this was written.
    pub fn on_its_way(&self) -> impl Iterator<Item = &Tallies> {
        self.open.values().map(|open| &open.tallies)
    }

    /// A batch was made of these rows. With a `twin` the next row replaces one of them at the server.
    pub fn opened(&mut self, id: &str, seqs: Ranges, tallies: Tallies, twin: bool) {
        self.open.insert(id.to_owned(), Open { seqs, tallies, uncertain: twin });
    }

    /// A batch is proved.
    pub fn proved(&mut self, id: &str, now_secs: i64) {
        let next_hour = hour_of(now_secs.saturating_mul(1000)).saturating_add(1);
        let Some(open) = self.open.remove(id) else {
            // Rows were accepted of which nothing is known here.
            self.complete_from = Some(next_hour);
            return;
        };
        self.complete_from.get_or_insert(next_hour);
        let mut fresh = open.seqs.clone();
        fresh.subtract(&self.counted);
        if fresh.is_empty() {
            return;
        }
        let whole = fresh == open.seqs && !open.uncertain;
        self.counted.extend(&open.seqs);
        self.counted.keep_last(MAX_RANGES);
        self.put(&open.tallies, now_secs, whole);
    }

    /// Rows of a batch that was on its way when the agent ended are no longer in the queue: proved and
    /// acknowledged since this was written, or dropped at the limit.
    pub fn left_the_queue(&mut self, id: &str, all: bool, now_secs: i64) {
        if all {
            if let Some(open) = self.open.remove(id) {
                self.put(&open.tallies, now_secs, false);
            }
        } else if let Some(open) = self.open.get_mut(id) {
            open.uncertain = true;
        }
    }

    /// Rows beyond this one never reached the disk; their numbers are given to others.
    pub fn forget_rows_after(&mut self, seq: u64) {
        self.counted.remove(seq.saturating_add(1)..=u64::MAX);
    }

    /// Forgets the batches that are not on their way any more.
    pub fn keep_open(&mut self, is_open: impl Fn(&str) -> bool) {
        self.open.retain(|id, _| is_open(id));
    }

    fn put(&mut self, tallies: &Tallies, now_secs: i64, whole: bool) {
        for (source, hours) in tallies {
            for (hour, tally) in hours {
                let tally = if whole { *tally } else { Tally::default() };
                let entry = Entry { tally, proved_at: now_secs, uncertain: !whole };
                let of_source = self.recent.entry(source.clone()).or_default();
                of_source.entry(*hour).or_default().add(&entry);
            }
        }
        self.began.get_or_insert(now_secs);
    }

    /// Whether the recent entries are to be folded into the files of their days.
    #[must_use]
    pub fn fold_is_due(&self, now_secs: i64) -> bool {
        let old =
            self.began.is_some_and(|began| now_secs.abs_diff(began) >= FOLD_AFTER_SECS as u64);
        old || self.recent_len() > MAX_RECENT
    }

    /// After a fold: these entries could not be folded, all others are in files.
    pub fn folded(&mut self, left: Hours<Entry>) {
        self.generation = self.generation.saturating_add(1);
        self.recent = left;
        if self.recent_len() > MAX_UNFOLDED {
            self.recent.clear();
            self.complete_from = None;
        }
        if self.recent.is_empty() {
            self.began = None;
        }
    }

    fn recent_len(&self) -> usize {
        self.recent.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::tally::{Content, add};

    const NOW: i64 = 1_795_341_600;

    fn tallies(source: &str, times: &[i64]) -> Tallies {
        let mut tallies = Tallies::new();
        times.iter().for_each(|ms| add(&mut tallies, source, *ms, &Content::default()));
        tallies
    }

    fn count(ledger: &Ledger) -> u64 {
        ledger.recent.values().flat_map(BTreeMap::values).map(|entry| entry.tally.count).sum()
    }

    fn uncertain(ledger: &Ledger) -> bool {
        ledger.recent.values().flat_map(BTreeMap::values).any(|entry| entry.uncertain)
    }

    fn reread(ledger: &Ledger) -> Ledger {
        let text = serde_json::to_vec(ledger).expect("JSON");
        serde_json::from_slice(&text).expect("the same")
    }

    #[test]
    fn a_batch_counts_once_it_is_proved_and_once_only() {
        let mut ledger = Ledger::new(123, 1, true);
        ledger.opened("a", Ranges::from_iter([1, 2]), tallies("/m", &[5, 6]), false);
        assert_eq!(count(&ledger), 0);
        ledger.proved("a", NOW);
        // Its acknowledgement was lost in a power cut: the same rows in another batch.
        ledger.opened("b", Ranges::from_iter([1, 2]), tallies("/m", &[5, 6]), false);
        let mut ledger = reread(&ledger);
        ledger.proved("b", NOW);
        assert_eq!((count(&ledger), uncertain(&ledger)), (2, false));
        assert_eq!(ledger.complete_from(), Some(i64::MIN));
    }

    #[test]
    fn what_may_be_more_than_was_counted_is_uncertain() {
        let whole = || Ranges::from_iter([1, 2, 3]);
        let fresh = || {
            let mut ledger = Ledger::new(123, 1, true);
            ledger.opened("a", whole(), tallies("/m", &[5, 6, 7]), false);
            ledger
        };
        let mut gone = fresh();
        gone.left_the_queue("a", true, NOW);
        assert_eq!((count(&gone), uncertain(&gone)), (0, true));
        let mut in_part = fresh();
        in_part.left_the_queue("a", false, NOW);
        in_part.proved("a", NOW);
        assert_eq!((count(&in_part), uncertain(&in_part)), (0, true));
        let mut overlapping = fresh();
        overlapping.proved("a", NOW);
        overlapping.opened("b", Ranges::from_iter([3, 4]), tallies("/m", &[7, 8]), false);
        overlapping.proved("b", NOW);
        assert_eq!((count(&overlapping), uncertain(&overlapping)), (3, true));
        let mut twin = Ledger::new(123, 1, true);
        twin.opened("a", whole(), tallies("/m", &[5, 6, 7]), true);
        twin.proved("a", NOW);
        assert!(uncertain(&twin));
    }

    #[test]
    fn a_ledger_that_began_late_or_missed_a_batch_says_since_when_it_is_complete() {
        let mut late = Ledger::new(123, 1, false);
        assert_eq!(late.complete_from(), None);
        late.opened("a", Ranges::from_iter([1]), tallies("/m", &[5]), false);
        late.proved("a", NOW);
        assert_eq!(late.complete_from(), Some(NOW / 3600 + 1));
        let mut missed = Ledger::new(123, 1, true);
        missed.proved("unknown", NOW);
        assert_eq!(missed.complete_from(), Some(NOW / 3600 + 1));
    }

    #[test]
    fn rows_that_never_reached_the_disk_are_forgotten_so_that_their_numbers_count_again() {
        let mut ledger = Ledger::new(123, 1, true);
        ledger.opened("a", Ranges::from_iter([1, 2]), tallies("/m", &[5, 6]), false);
        ledger.proved("a", NOW);
        ledger.forget_rows_after(1);
        ledger.opened("b", Ranges::from_iter([2]), tallies("/m", &[9]), false);
        ledger.proved("b", NOW);
        assert_eq!((count(&ledger), uncertain(&ledger)), (3, false));
    }

    #[test]
    fn it_is_folded_after_an_hour_or_when_it_is_long() {
        let mut ledger = Ledger::new(123, 1, true);
        assert!(!ledger.fold_is_due(NOW));
        ledger.opened("a", Ranges::from_iter([1]), tallies("/m", &[5]), false);
        ledger.proved("a", NOW);
        assert!(!ledger.fold_is_due(NOW + 3599));
        assert!(ledger.fold_is_due(NOW + 3600));
        ledger.folded(Hours::new());
        assert!(!ledger.fold_is_due(NOW + 9999));
        let many: Vec<i64> = (0..=MAX_RECENT as i64).map(|hour| hour * 3_600_000).collect();
        ledger.opened("b", Ranges::from_iter([2]), tallies("/m", &many), false);
        ledger.proved("b", NOW);
        assert!(ledger.fold_is_due(NOW));
    }

    proptest! {
        /// However far apart the rows of batches lie, the ledger stays small.
        #[test]
        fn the_numbers_of_counted_rows_are_bounded(steps in prop::collection::vec(1u64..9, 1..300)) {
            let mut ledger = Ledger::new(123, 1, true);
            let mut seq = 0;
            for step in steps {
                seq += step + 1;
                ledger.opened("a", Ranges::from_iter([seq]), tallies("/m", &[5]), false);
                ledger.proved("a", NOW);
                prop_assert!(ledger.counted.contains(seq));
                prop_assert!(ledger.counted.iter().count() <= MAX_RANGES);
            }
            prop_assert_eq!(reread(&ledger), ledger);
        }
    }
}
