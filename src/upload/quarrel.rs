//! Finding the datum that the server does not want, without losing one that it does.
//!
//! A refused batch may hold one bad datum, or nothing wrong at all while the account, the token or
//! the server is. What tells the two apart is whether anything else is accepted meanwhile:
//!
//! ```text
//!  refused batch ──by source──▶ parts ──refused──▶ halves ─ … ─▶ one datum alone ──▶ suspect
//!                                 │ accepted                                            │
//!                                 ▼                                    something was accepted meanwhile,
//!                               proved                                 and it is refused again
//!                                                                                       ▼
//!                                                                                    given up
//! ```
//!
//! * A datum is given up only after it was refused alone twice, and another batch was accepted since it was
//!   first in one that was refused.
//! * The largest part is tried first: where anything is good, that is found within few requests.
//! * [`BUDGET`] refusals in a row without an acceptance mean that it is not about single datum: the
//!   quarrel rests, a person is told, and every look afterwards tries [`PER_LOOK`] more.
//!
//! A *patient* quarrel ([`Quarrel::patient`]) is for a server that leaves a datum out without a word, as it does
//! in passing trouble, too: it asks for more refusals alone, and something accepted between any two of them.
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
    /// How many batches had been accepted then.
    accepted: u64,
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
const ALONE: u32 = 2;

/// The same in a patient quarrel.
const ALONE_PATIENT: u32 = 4;

/// All that is being quarrelled about.
#[derive(Debug, Clone, Default)]
pub struct Quarrel {
    parts: Vec<Part>,
    fruitless: u32,
    look: u64,
    patient: bool,
}

impl Quarrel {
    /// For a server whose silence may be passing trouble.
    #[must_use]
    pub fn patient() -> Self {
        Self { patient: true, ..Self::default() }
    }

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

    /// Whether it rests because nothing at all was accepted for too long.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.fruitless >= BUDGET
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
        if self.is_exhausted() {
            return None;
        }
        let look = self.look;
        let untried = (self.parts.iter().enumerate())
            .filter(|(_, part)| part.suspect.is_none())
            // Of equals the first: old rows before young ones.
            .max_by_key(|(at, part)| (part.seqs.count(), std::cmp::Reverse(*at)));
        let at = untried.map(|(at, _)| at).or_else(|| {
            let ready = |part: &Part| self.since(part).is_some_and(|then| accepted > then);
            let due = |part: &Part| part.suspect.is_some_and(|suspect| suspect.look < look);
            self.parts.iter().position(|part| ready(part) || due(part))
        })?;
        Some(self.parts.remove(at))
    }

    /// How many batches had been accepted when what is held against these rows last happened.
    fn since(&self, part: &Part) -> Option<u64> {
        let last = part.suspect.filter(|_| self.patient).map(|suspect| suspect.accepted);
        last.or(part.accepted_then)
    }

    /// Something was accepted.
    pub fn note_accepted(&mut self) {
        self.fruitless = 0;
    }

    /// A part, or a whole batch, was refused for its content.
    pub fn refused(&mut self, mut part: Part, accepted: u64) -> Verdict {
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
        let alone = part.suspect.map_or(1, |suspect| suspect.alone.saturating_add(1));
        let meanwhile = self.since(&part).is_some_and(|then| accepted > then);
        // Where nothing was accepted between two refusals, the latter says nothing new.
        let alone = match part.suspect {
            Some(before) if self.patient && !meanwhile => before.alone,
            _ => alone,
        };
        let enough = if self.patient { ALONE_PATIENT } else { ALONE };
        match part.seqs.first() {
            Some(seq) if alone >= enough && meanwhile => Verdict::GiveUp(seq),
            _ => {
                part.suspect = Some(Suspect { alone, look: self.look, accepted });
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

    #[test]
    fn a_lone_datum_is_given_up_only_after_another_was_accepted_meanwhile() {
        let mut quarrel = Quarrel::default();
        assert_eq!(quarrel.refused(part([7]), 3), Verdict::GoesOn);
        assert_eq!(quarrel.pick(3), None, "nothing was accepted since");
        let suspect = quarrel.pick(4).expect("something was accepted since");
        assert_eq!(quarrel.refused(suspect, 4), Verdict::GiveUp(7));
        assert!(quarrel.is_empty());
    }

    #[test]
    fn a_datum_refused_in_company_is_given_up_after_two_refusals_alone() {
        let mut quarrel = Quarrel::default();
        quarrel.refused(part(1..=2), 3);
        assert_eq!(quarrel.pick(3).expect("a half").seqs, [1].into_iter().collect());
        // The first half was accepted, the second is the bad one.
        for verdict in [Verdict::GoesOn, Verdict::GiveUp(2)] {
            let bad = quarrel.pick(4).expect("the other half");
            assert_eq!(quarrel.refused(bad, 4), verdict);
        }
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
    }

    #[test]
    fn a_patient_quarrel_wants_something_accepted_between_any_two_refusals() {
        let mut quarrel = Quarrel::patient();
        assert_eq!(quarrel.refused(part([7]), 1), Verdict::GoesOn);
        for accepted in 2..=4 {
            let suspect = quarrel.pick(accepted).expect("something was accepted since");
            let verdict = quarrel.refused(suspect, accepted);
            let last = accepted == 4;
            assert_eq!(verdict, if last { Verdict::GiveUp(7) } else { Verdict::GoesOn });
            assert_eq!(quarrel.pick(accepted), None, "nothing was accepted since");
        }
        let mut alone = Quarrel::patient();
        alone.refused(part([7]), 1);
        for _ in 0..50 {
            alone.look_again();
            let suspect = alone.pick(1).expect("every look may try it");
            assert_eq!(alone.refused(suspect, 1), Verdict::GoesOn);
        }
        let suspect = alone.pick(2).expect("something was accepted since");
        assert_eq!(alone.refused(suspect, 2), Verdict::GoesOn, "that counts as the second");
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
        assert!(quarrel.is_exhausted());
        quarrel.look_again();
        assert_eq!(spend(&mut quarrel), PER_LOOK);
        assert_eq!(quarrel.rows(), 4096, "nothing is lost on the way");
        assert_eq!(quarrel.end().count(), 4096);
    }
}
