//! What is missing: each hour of the ledger against what SolarQuery shows of it. Pure.
//!
//! | SolarQuery shows | Then |
//! | --- | --- |
//! | what was counted, and the count is complete | whole |
//! | fewer | a gap, unless the last of them was proved so recently that they may not show yet |
//! | as many at other times, or other contents | a gap, with the same exception |
//! | more, or the count may be incomplete | not judged, with the reason: neither a gap nor a proof |
//!
//! Where the token's policy lets raw datum be seen only as aggregates, all that can be said of an hour is
//! whether there is anything of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    days::{Book, day_of},
    ledger::Entry,
    tally::{Tallies, Tally},
};

/// What SolarQuery shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its rows.
    pub tallies: Tallies,
    /// Sources that the token may not see.
    pub hidden: BTreeSet<String>,
    /// Whether the rows are aggregates, of an hour or less.
    pub aggregated: bool,
}

/// What is known beside the ledger's entries.
#[derive(Debug, Clone)]
pub struct Known {
    /// The hour since which the ledger is complete.
    pub complete_from: Option<i64>,
    /// The batches that are on their way: each is there as a whole, or not at all.
    pub on_its_way: Vec<Tallies>,
    /// The time of the judgement, in seconds since 1970.
    pub now_secs: i64,
    /// How long after its proof a datum may take to be shown, in seconds.
    pub settle_secs: i64,
}

/// What came of one hour of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The source.
    pub source: String,
    /// The hour, counted from 1970.
    pub hour: i64,
    /// How many datum were proved to be accepted.
    pub accepted: u64,
    /// How many are shown; `None` where they cannot be counted.
    pub found: Option<u64>,
    /// What that means.
    pub verdict: Verdict,
}

/// What the comparison of one hour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything is there.
    Whole,
    /// Something is there; more cannot be seen with this token.
    Present,
    /// Gap: some are missing.
    Missing,
    /// Gap: nothing of this source is shown at all, in no hour.
    SourceMissing,
    /// Gap: as many, but of other times.
    Replaced,
    /// Gap: at the same times, other contents.
    Changed,
    /// Not judged: proved too recently.
    Recent,
    /// Not judged: the token may not see the source.
    Hidden,
    /// Not judged: the agent was killed or took another way while they were on theirs, or two had one time.
    Uncertain,
    /// Not judged: from before the ledger was complete.
    BeforeLedger,
    /// Not judged: a file of the ledger was damaged.
    Damaged,
    /// Not judged: more are shown than were proved, and more are on their way.
    OnTheWay,
    /// Not judged: more are shown than this agent sent.
    More,
}

impl Verdict {
    /// Whether datum that were accepted are not there as they were sent.
    #[must_use]
    pub fn is_gap(self) -> bool {
        matches!(self, Self::Missing | Self::SourceMissing | Self::Replaced | Self::Changed)
    }

    /// Whether nothing is wrong as far as could be seen.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, Self::Whole | Self::Present)
    }

    /// The likely cause, for people.
    #[must_use]
    pub fn because(self) -> &'static str {
        match self {
            Self::Whole => "everything is there",
            Self::Present => "something is there; this token sees aggregates only",
            Self::Missing => {
                "accepted, and not there: the server dropped them although their import job reported \
                 success or its broker took them, or they were deleted since"
            }
            Self::SourceMissing => {
                "nothing of this source is shown at any time: it was deleted or renamed at the server, \
                 or the node was another one when it was sent"
            }
            Self::Replaced => {
                "as many as were accepted, but of other times: some are missing, and another writer \
                 uses this source, such as a second device with the same configuration"
            }
            Self::Changed => {
                "other contents at the same times: another writer replaced them, or they were edited \
                 at the server"
            }
            Self::Recent => "accepted so recently that they may not be shown yet: ask again later",
            Self::Hidden => "the token's policy (`sourceIds`) hides this source",
            Self::Uncertain => {
                "not everything was counted: the agent was killed or went over to another way in while \
                 datum were on their way, or two datum had the same time"
            }
            Self::BeforeLedger => "from before this ledger was complete",
            Self::Damaged => "the ledger's file of this day was damaged",
            Self::OnTheWay => {
                "more are on their way, and not all that is there fits them: ask again later"
            }
            Self::More => {
                "more are there than were proved: sent twice around a restart, or another writer uses \
                 this source"
            }
        }
    }
}

/// Judges every hour of the book, by source and time.
#[must_use]
pub fn compare(book: &Book, shown: &Shown, known: &Known) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (source, hours) in &book.hours {
        let of_source = shown.tallies.get(source);
        let begin = findings.len();
        for (hour, entry) in hours {
            let found = of_source.and_then(|hours| hours.get(hour)).copied().unwrap_or_default();
            let of_hour = |tallies: &Tallies| tallies.get(source)?.get(hour).copied();
            let on_its_way: Vec<Tally> = known.on_its_way.iter().filter_map(of_hour).collect();
            let verdict = if shown.hidden.contains(source) {
                Verdict::Hidden
            } else if shown.aggregated {
                present(entry, found, known)
            } else {
                let damaged = book.damaged.contains(&day_of(*hour));
                let doubt = doubt(entry, *hour, damaged, known);
                judge(entry, found, doubt, &on_its_way, known)
            };
            let countable = !shown.aggregated && verdict != Verdict::Hidden;
            findings.push(Finding {
                source: source.clone(),
                hour: *hour,
                accepted: entry.tally.count,
                found: countable.then_some(found.count),
                verdict,
            });
        }
        if of_source.is_none_or(BTreeMap::is_empty) {
            for finding in &mut findings[begin..] {
                if finding.verdict == Verdict::Missing {
                    finding.verdict = Verdict::SourceMissing;
                }
            }
        }
    }
    findings
}

/// Why the count of an hour may be incomplete, if it may.
fn doubt(entry: &Entry, hour: i64, damaged: bool, known: &Known) -> Option<Verdict> {
    if entry.uncertain {
        Some(Verdict::Uncertain)
    } else if known.complete_from.is_none_or(|from| hour < from) {
        Some(Verdict::BeforeLedger)
    } else {
        damaged.then_some(Verdict::Damaged)
    }
}

fn judge(
    entry: &Entry,
    found: Tally,
    doubt: Option<Verdict>,
    on_its_way: &[Tally],
    known: &Known,
) -> Verdict {
    let accepted = entry.tally;
    let gap = |gap| if is_recent(entry, known) { Verdict::Recent } else { gap };
    if found.count < accepted.count {
        return gap(Verdict::Missing);
    }
    if let Some(doubt) = doubt {
        return doubt;
    }
    if found.count > accepted.count {
        return match (on_its_way.is_empty(), is_sum(found, accepted, on_its_way)) {
            (_, true) => Verdict::Whole,
            (true, _) => Verdict::More,
            (false, _) => Verdict::OnTheWay,
        };
    }
    match (found.times == accepted.times, found.contents == accepted.contents) {
        (true, true) => Verdict::Whole,
        (true, false) => gap(Verdict::Changed),
        (false, _) => gap(Verdict::Replaced),
    }
}

/// Whether `found` is what was accepted and some of what is on its way.
fn is_sum(found: Tally, accepted: Tally, on_its_way: &[Tally]) -> bool {
    match on_its_way.split_first() {
        None => found == accepted,
        Some((first, rest)) => {
            let mut with_first = accepted;
            with_first.add(*first);
            is_sum(found, accepted, rest) || is_sum(found, with_first, rest)
        }
    }
}

fn present(entry: &Entry, found: Tally, known: &Known) -> Verdict {
    match (found.count, entry.tally.count) {
        (1.., _) => Verdict::Present,
        (0, 0) => Verdict::Uncertain,
        (0, _) if is_recent(entry, known) => Verdict::Recent,
        (0, _) => Verdict::Missing,
    }
}

/// One that was proved long after now was so while the clock was wrong.
fn is_recent(entry: &Entry, known: &Known) -> bool {
    entry.proved_at.abs_diff(known.now_secs) < known.settle_secs.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::tally::{Content, HOUR_MS, add};

    const NOW: i64 = 1_795_341_600;
    const HOUR: i64 = NOW / 3600 - 5;

    fn tallies(times: &[i64]) -> Tallies {
        let mut tallies = Tallies::new();
        for ms in times {
            add(&mut tallies, "/m", HOUR * HOUR_MS + ms, &Content::default());
        }
        tallies
    }

    fn book(times: &[i64]) -> Book {
        let mut book = Book::default();
        for (source, hours) in tallies(times) {
            for (hour, tally) in hours {
                let entry = Entry { tally, proved_at: NOW - 3600, uncertain: false };
                book.hours.entry(source.clone()).or_default().insert(hour, entry);
            }
        }
        book
    }

    fn known() -> Known {
        Known {
            complete_from: Some(i64::MIN),
            on_its_way: Vec::new(),
            now_secs: NOW,
            settle_secs: 300,
        }
    }

    fn shown(times: &[i64]) -> Shown {
        Shown { tallies: tallies(times), ..Shown::default() }
    }

    fn verdict(book: &Book, shown: &Shown, known: &Known) -> Verdict {
        compare(book, shown, known)[0].verdict
    }

    #[test]
    fn each_difference_has_its_name() {
        let whole = book(&[1, 2, 3]);
        let of = |times: &[i64]| verdict(&whole, &shown(times), &known());
        assert_eq!(of(&[3, 1, 2]), Verdict::Whole);
        assert_eq!(of(&[1, 3]), Verdict::Missing);
        assert_eq!(of(&[]), Verdict::SourceMissing);
        assert_eq!(of(&[1, 2, 4]), Verdict::Replaced);
        assert_eq!(of(&[1, 2, 3, 4]), Verdict::More);
        let mut other = shown(&[1, 2, 3]);
        let hours = other.tallies.get_mut("/m").expect("the source");
        hours.get_mut(&HOUR).expect("the hour").contents ^= 1;
        assert_eq!(verdict(&whole, &other, &known()), Verdict::Changed);
    }

    #[test]
    fn a_batch_on_its_way_may_be_there_or_not_but_only_as_a_whole() {
        let on_its_way = vec![tallies(&[4, 5]), tallies(&[6])];
        let waits = Known { on_its_way, ..known() };
        let of = |times: &[i64]| verdict(&book(&[1, 2, 3]), &shown(times), &waits);
        assert_eq!(of(&[1, 2, 3]), Verdict::Whole);
        assert_eq!(of(&[1, 2, 3, 4, 5]), Verdict::Whole);
        assert_eq!(of(&[1, 2, 3, 6]), Verdict::Whole);
        assert_eq!(of(&[1, 2, 3, 4, 5, 6]), Verdict::Whole);
        assert_eq!(of(&[1, 2, 3, 4]), Verdict::OnTheWay);
        assert_eq!(of(&[1, 2, 4, 5]), Verdict::OnTheWay);
        assert_eq!(of(&[1, 2]), Verdict::Missing);
    }

    #[test]
    fn what_was_proved_just_now_is_no_gap_yet() {
        let just_now = Known { settle_secs: 3601, ..known() };
        for times in [&[1, 3][..], &[], &[1, 2, 4]] {
            assert_eq!(verdict(&book(&[1, 2, 3]), &shown(times), &just_now), Verdict::Recent);
        }
        assert_eq!(verdict(&book(&[1]), &shown(&[1]), &just_now), Verdict::Whole);
        let ahead_then = Known { now_secs: NOW - 2 * 3600, ..known() };
        assert_eq!(verdict(&book(&[1, 2, 3]), &shown(&[1, 3]), &ahead_then), Verdict::Missing);
    }

    #[test]
    fn an_incomplete_count_is_neither_a_gap_nor_a_proof() {
        let mut uncertain = book(&[1, 2]);
        let hours = uncertain.hours.get_mut("/m").expect("the source");
        hours.get_mut(&HOUR).expect("the hour").uncertain = true;
        let mut damaged = book(&[1, 2]);
        damaged.damaged.insert(day_of(HOUR));
        let late = Known { complete_from: Some(HOUR + 1), ..known() };
        let never = Known { complete_from: None, ..known() };
        let cases = [
            (&uncertain, known(), Verdict::Uncertain),
            (&damaged, known(), Verdict::Damaged),
            (&book(&[1, 2]), late, Verdict::BeforeLedger),
            (&book(&[1, 2]), never, Verdict::BeforeLedger),
        ];
        for (book, known, why) in cases {
            assert_eq!(verdict(book, &shown(&[1, 2]), &known), why);
            assert_eq!(verdict(book, &shown(&[1, 2, 3]), &known), why);
            assert_eq!(verdict(book, &shown(&[1]), &known), Verdict::Missing);
        }
    }

    #[test]
    fn a_restricted_token_makes_no_gap() {
        let hidden = Shown { hidden: BTreeSet::from(["/m".to_owned()]), ..Shown::default() };
        assert_eq!(verdict(&book(&[1, 2]), &hidden, &known()), Verdict::Hidden);
        let aggregated = Shown { aggregated: true, ..shown(&[0]) };
        assert_eq!(verdict(&book(&[1, 2]), &aggregated, &known()), Verdict::Present);
        let nothing = Shown { aggregated: true, ..Shown::default() };
        assert!(verdict(&book(&[1, 2]), &nothing, &known()).is_gap());
    }

    proptest! {
        /// Whatever is missing of a complete hour is not taken for whole, and what is whole is no gap.
        #[test]
        fn all_is_well_only_where_all_is_there(
            accepted in prop::collection::btree_set(0i64..3_600_000, 1..30),
            lost in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            foreign in prop::collection::btree_set(3_600_000i64 - 50..3_600_000, 0..3),
        ) {
            let accepted: Vec<i64> = accepted.into_iter().collect();
            let lost: BTreeSet<i64> = lost.iter().map(|at| accepted[at.index(accepted.len())]).collect();
            let mut there: BTreeSet<i64> =
                accepted.iter().copied().filter(|ms| !lost.contains(ms)).collect();
            there.extend(foreign.iter().filter(|ms| !accepted.contains(ms)));
            let there: Vec<i64> = there.into_iter().collect();
            let verdict = verdict(&book(&accepted), &shown(&there), &known());
            prop_assert_eq!(verdict == Verdict::Whole, there == accepted);
            prop_assert!(!verdict.is_gap() || !lost.is_empty());
            prop_assert!(there.len() > accepted.len() || lost.is_empty() || verdict.is_gap());
        }
    }
}
