//! Finding the datum that the server does not want, without losing one that it does.
//!
//! A refused batch may hold one bad datum, or nothing wrong at all while the account, the token or
//! the server is. What tells the two apart is whether anything else is accepted meanwhile:
//!
//! ```text
//!  refused batch ──by source──▶ parts ──refused──▶ halves ─ … ─▶ one datum alone ──▶ suspect
//!                                 │ accepted                                            │
//!                                 ▼                                    refused again and again, others
//!                               proved                                 accepted between any two times
//!                                                                                       ▼
//!                                                                                    given up
//! ```
//!
//! * A datum is given up only after it was refused alone [`ALONE`] times, with 1, 2, 4, 8 others accepted between
//!   one time and the next. It then costs at most so many requests, ever more rarely, and holds up nothing.
//! * A server may also refuse at random what it would take another time. That shows as soon as it takes a datum
//!   that it had refused alone, a *whim*: with each of them the count begins anew for all the others. So what is
//!   refused by chance is kept until it is taken. (How likely another end is: `docs/spec/upload.md`.)
//! * The largest part is tried first: where anything is good, that is found within few requests.
//! * [`BUDGET`] refusals in a row without an acceptance mean that it is not about single datum: the
//!   quarrel rests, and every look afterwards tries [`PER_LOOK`] more. A person is told, unless others were
//!   accepted since each of those that are left was refused ([`Quarrel::others_pass`]).
//!
//! The quarrel is in memory only. After a restart the refused rows are claimed afresh and it begins
//! again with what is left of them.

use std::collections::BTreeMap;

use crate::queue::{Ranges, Row};

/// Refusals in a row after which it is a person's business: enough to find the good part of a batch
/// with several bad datum, few enough for a server that refuses everything.
pub const BUDGET: u32 = 24;

/// Refusals that each look afterwards may cost.
pub const PER_LOOK: u32 = 8;

/// No fresh batches are opened beside a quarrel over more rows than these.
pub const MAX_ROWS: u64 = 20_000;

/// Rows that are tried together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub seqs: Ranges,
    /// Whether they are all of one source.
    pub one_source: bool,
    /// How many batches had been accepted when these rows were first in one that was refused.
    accepted_then: Option<u64>,
    suspect: Option<Suspect>,
}

/// What is held against a datum that was refused alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suspect {
    /// How often.
    alone: u32,
    /// The look in which it was refused last.
    look: u64,
    /// How many batches had been accepted when a refusal counted last.
    accepted: u64,
    /// How many whims had been seen then.
    whims: u64,
}

impl Part {
    /// Rows that were not refused yet.
    #[must_use]
    pub fn new(seqs: Ranges, one_source: bool) -> Self {
        Self { seqs, one_source, accepted_then: None, suspect: None }
    }

    /// Some of these rows, with the same past.
    #[must_use]
    pub fn of(&self, seqs: Ranges, one_source: bool) -> Self {
        Self { seqs, one_source, ..self.clone() }
    }
}

/// What follows from a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on with smaller parts, or later.
    GoesOn,
    /// Several sources: the owner says which rows belong to which, see [`Part::of`].
    SplitBySource(Part),
    /// This datum is given up.
    GiveUp(u64),
}

/// Refusals alone after which a datum is given up.
const ALONE: u32 = 5;

/// All that is being quarrelled about.
#[derive(Debug, Clone, Default)]
pub struct Quarrel {
    parts: Vec<Part>,
    fruitless: u32,
    look: u64,
    /// How often a datum was accepted that had been refused alone.
    whims: u64,
}

impl Quarrel {
    /// Whether there is nothing to quarrel about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many rows wait in it.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.seqs.count()).sum()
    }

    /// Whether it rests because nothing at all was accepted for too long, and nobody knows what is wrong.
    #[must_use]
    pub fn is_exhausted(&self, accepted: u64) -> bool {
        self.fruitless >= BUDGET && !self.others_pass(accepted)
    }

    /// Whether something was accepted since each of these rows was first refused: it is about them, then, and not about
    /// the account or the server.
    #[must_use]
    pub fn others_pass(&self, accepted: u64) -> bool {
        self.parts.iter().all(|part| part.accepted_then.is_some_and(|then| accepted > then))
    }

    /// Whether it has parts that were not tried.
    #[must_use]
    pub fn has_untried(&self) -> bool {
        self.parts.iter().any(|part| part.suspect.is_none())
    }

    /// Begins another look: some more refusals may be spent, every suspect may be tried again.
    pub fn look_again(&mut self) {
        self.fruitless = self.fruitless.min(BUDGET - PER_LOOK);
        self.look += 1;
    }

    /// Adds parts to be tried.
    pub fn add(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.parts.extend(parts.into_iter().filter(|part| !part.seqs.is_empty()));
    }

    /// Takes out what is to be tried next, if anything is: the largest part, else a suspect that
    /// either may be given up now or was not tried in this look.
    pub fn pick(&mut self, accepted: u64) -> Option<Part> {
        if self.fruitless >= BUDGET {
            return None;
        }
        let look = self.look;
        let untried = (self.parts.iter().enumerate())
            .filter(|(_, part)| part.suspect.is_none())
            // Of equals the first: old rows before young ones.
            .max_by_key(|(at, part)| (part.seqs.count(), std::cmp::Reverse(*at)));
        let at = untried.map(|(at, _)| at).or_else(|| {
            let ready = |suspect: Suspect| {
                let alone = self.times_alone(suspect).unwrap_or(1);
                accepted >= suspect.accepted + others(alone) || suspect.look < look
            };
            self.parts.iter().position(|part| part.suspect.is_some_and(ready))
        })?;
        Some(self.parts.remove(at))
    }

    /// How often it was refused alone since the last whim, if that still counts.
    fn times_alone(&self, suspect: Suspect) -> Option<u32> {
        (suspect.whims == self.whims).then_some(suspect.alone)
    }

    /// Something was accepted: a part of the quarrel, or another batch.
    pub fn note_accepted(&mut self, part: Option<&Part>) {
        self.fruitless = 0;
        self.whims += u64::from(part.is_some_and(|part| part.suspect.is_some()));
    }

    /// A part, or a whole batch, was refused for its content.
    pub fn refused(&mut self, mut part: Part, accepted: u64) -> Verdict {
        if part.suspect.is_none() && self.others_pass(accepted) {
            // What was refused before is known to be about those rows.
            self.fruitless = 0;
        }
        self.fruitless = self.fruitless.saturating_add(1);
        part.accepted_then.get_or_insert(accepted);
        let count = part.seqs.count();
        if count > 1 && !part.one_source {
            return Verdict::SplitBySource(part);
        }
        if count > 1 {
            self.add(halves(&part.seqs, count).map(|half| part.of(half, true)));
            return Verdict::GoesOn;
        }
        let (look, whims) = (self.look, self.whims);
        let before = part.suspect.and_then(|before| Some((before, self.times_alone(before)?)));
        let suspect = match before {
            // Where too few were accepted between two refusals, the latter says nothing new.
            Some((before, alone)) if accepted < before.accepted + others(alone) => {
                Suspect { look, ..before }
            }
            Some((_, alone)) => Suspect { alone: alone + 1, look, accepted, whims },
            None => Suspect { alone: 1, look, accepted, whims },
        };
        match part.seqs.first() {
            Some(seq) if suspect.alone >= ALONE => Verdict::GiveUp(seq),
            _ => {
                part.suspect = Some(suspect);
                self.add([part]);
                Verdict::GoesOn
            }
        }
    }

    /// Ends the quarrel and hands out all that was in it.
    pub fn end(&mut self) -> Ranges {
        self.fruitless = 0;
        let mut all = Ranges::default();
        self.parts.drain(..).for_each(|part| all.extend(&part.seqs));
        all
    }
}

/// The rows of each source.
pub(super) fn by_source(rows: &[Row]) -> Vec<Ranges> {
    let mut by_source = BTreeMap::<_, Ranges>::new();
    for row in rows {
        if let Ok(datum) = row.datum() {
            by_source.entry(datum.source).or_default().insert(row.seq..=row.seq);
        }
    }
    by_source.into_values().collect()
}

/// How many others have to be accepted after a datum was refused alone so often, before one more refusal counts.
fn others(alone: u32) -> u64 {
    1 << (alone.clamp(1, ALONE) - 1)
}

/// The older and the younger half.
fn halves(seqs: &Ranges, count: u64) -> [Ranges; 2] {
    let old = seqs.first_of(count / 2);
    let mut young = seqs.clone();
    young.subtract(&old);
    [old, young]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(seqs: impl IntoIterator<Item = u64>) -> Part {
        Part::new(seqs.into_iter().collect(), true)
    }

    /// Lets others be accepted until the suspect is tried again, and has it refused.
    fn refused_again(quarrel: &mut Quarrel, accepted: &mut u64, others: u64) -> Verdict {
        for _ in 1..others {
            *accepted += 1;
            quarrel.note_accepted(None);
            assert_eq!(quarrel.pick(*accepted), None, "too few were accepted since");
        }
        *accepted += 1;
        let suspect = quarrel.pick(*accepted).expect("enough were accepted since");
        quarrel.refused(suspect, *accepted)
    }

    #[test]
    fn a_lone_datum_is_given_up_after_five_refusals_with_ever_more_others_accepted_between() {
        let (mut quarrel, mut accepted) = (Quarrel::default(), 3);
        assert_eq!(quarrel.refused(part([7]), accepted), Verdict::GoesOn);
        assert_eq!(quarrel.pick(accepted), None, "nothing was accepted since");
        for (others, verdict) in [
            (1, Verdict::GoesOn),
            (2, Verdict::GoesOn),
            (4, Verdict::GoesOn),
            (8, Verdict::GiveUp(7)),
        ] {
            assert_eq!(refused_again(&mut quarrel, &mut accepted, others), verdict);
        }
        assert!(quarrel.is_empty());
    }

    #[test]
    fn where_a_datum_is_taken_that_was_refused_alone_it_begins_anew_for_the_others() {
        let (mut quarrel, mut accepted) = (Quarrel::default(), 0);
        quarrel.refused(part([7]), accepted);
        for others in [1, 2, 4] {
            assert_eq!(refused_again(&mut quarrel, &mut accepted, others), Verdict::GoesOn);
        }
        assert_eq!(quarrel.refused(part([8]), accepted), Verdict::GoesOn);
        quarrel.look_again();
        let [seven, eight] =
            [(); 2].map(|()| quarrel.pick(accepted).expect("every look tries all"));
        accepted += 1;
        quarrel.note_accepted(Some(&eight));
        assert_eq!(quarrel.refused(seven, accepted), Verdict::GoesOn);
        for others in [1, 2, 4] {
            assert_eq!(refused_again(&mut quarrel, &mut accepted, others), Verdict::GoesOn);
        }
        assert_eq!(refused_again(&mut quarrel, &mut accepted, 8), Verdict::GiveUp(7));
    }

    #[test]
    fn a_suspect_tried_in_a_later_look_is_kept_while_nothing_is_accepted() {
        let mut quarrel = Quarrel::default();
        quarrel.refused(part([7]), 0);
        for _ in 0..50 {
            quarrel.look_again();
            let suspect = quarrel.pick(0).expect("every look may try it");
            assert_eq!(quarrel.refused(suspect, 0), Verdict::GoesOn);
            assert_eq!(quarrel.pick(0), None, "once a look");
        }
        assert_eq!(quarrel.rows(), 1);
        let suspect = quarrel.pick(1).expect("something was accepted since");
        assert_eq!(quarrel.refused(suspect, 1), Verdict::GoesOn, "that counts as the second");
    }

    #[test]
    fn halves_are_disjoint_and_cover_everything() {
        let seqs: Ranges = [1, 2, 5, 6, 7, 9, 20].into_iter().collect();
        let [old, young] = halves(&seqs, 7);
        assert_eq!(old, [1, 2, 5].into_iter().collect());
        assert_eq!(young, [6, 7, 9, 20].into_iter().collect());
    }

    #[test]
    fn the_largest_part_is_tried_first_and_several_sources_are_split_first() {
        let mut quarrel = Quarrel::default();
        let mixed = Part::new((1..=9).collect(), false);
        let Verdict::SplitBySource(mixed) = quarrel.refused(mixed, 0) else { panic!("a split") };
        assert_eq!(mixed.seqs, (1..=9).collect());
        quarrel.add([part([1]), part(2..=6), part(7..=9)]);
        assert_eq!(quarrel.pick(0), Some(part(2..=6)));
        assert_eq!(quarrel.pick(0), Some(part(7..=9)));
    }

    #[test]
    fn refusals_without_end_exhaust_it_and_every_look_spends_a_few_more() {
        let mut quarrel = Quarrel::default();
        quarrel.add([part(0..4096)]);
        let spend = |quarrel: &mut Quarrel| {
            let mut spent = 0;
            while let Some(part) = quarrel.pick(0) {
                quarrel.refused(part, 0);
                spent += 1;
            }
            spent
        };
        assert_eq!(spend(&mut quarrel), BUDGET);
        assert!(quarrel.is_exhausted(0));
        quarrel.look_again();
        assert_eq!(spend(&mut quarrel), PER_LOOK);
        assert_eq!(quarrel.rows(), 4096, "nothing is lost on the way");
        assert_eq!(quarrel.end().count(), 4096);
    }

    #[test]
    fn many_bad_datum_among_good_ones_are_no_reason_to_stop() {
        let mut quarrel = Quarrel::default();
        quarrel.add((0..100).map(|seq| part([seq])));
        for accepted in 0..6 {
            while let Some(bad) = quarrel.pick(accepted) {
                assert_eq!(quarrel.refused(bad, accepted), Verdict::GoesOn);
            }
            quarrel.note_accepted(None);
        }
        let accepted = 6;
        while let Some(bad) = quarrel.pick(accepted) {
            quarrel.refused(bad, accepted);
        }
        assert!(quarrel.others_pass(accepted) && !quarrel.is_exhausted(accepted));
        for seq in 1000..1000 + u64::from(BUDGET) {
            assert!(!quarrel.is_exhausted(accepted));
            quarrel.refused(part([seq]), accepted);
        }
        assert!(quarrel.is_exhausted(accepted), "since these nothing was accepted");
    }
}
