//! One walk through a plan, and what a unit's refusals teach. Pure.
//!
//! A unit may refuse a block ("illegal data address"): not everything its manual declares exists, and
//! not every gap may be crossed. The block is then split and its pieces are asked for in the same
//! round: first cut at its gaps, then in halves between values, down to single ones. So a refused
//! register costs only the values that need it.
//!
//! The pieces replace the block in the [`Plan`] (and `learnt` keeps them over restarts), unless not one of them was
//! answered: then the refusal says nothing about addresses, the block stays whole, and splitting it
//! is tried again only [`REST`] reads later.

use super::plan::{Block, Plan};

/// Reads before a block that was refused down to its last value is split again.
const REST: u8 = 10;

/// One walk through a plan: which block is next, and what refusals teach.
#[derive(Debug, Default)]
pub struct Round {
    /// Index of the plan's block that is under way.
    next: usize,
    /// The pieces of that block still to be asked for, the next one last.
    waiting: Vec<Block>,
    /// Its pieces that are settled, in order.
    settled: Vec<Block>,
    /// Whether any of its pieces was answered.
    answered: bool,
}

impl Round {
    /// The block to ask for; `None` once all were.
    #[must_use]
    pub fn block<'a>(&'a self, plan: &'a Plan) -> Option<&'a Block> {
        self.waiting.last().or_else(|| plan.blocks.get(self.next))
    }

    /// The same block, to note on it what came of asking.
    pub fn block_mut<'a>(&'a mut self, plan: &'a mut Plan) -> Option<&'a mut Block> {
        self.waiting.last_mut().or_else(|| plan.blocks.get_mut(self.next))
    }

    /// The block was answered.
    pub fn answered(&mut self, plan: &mut Plan) {
        self.answered = true;
        self.settle(plan);
    }

    /// The block brought nothing, and a smaller one would not either.
    pub fn failed(&mut self, plan: &mut Plan) {
        self.settle(plan);
    }

    /// The unit refused the block's range: splits it, if smaller ones may fare better. Returns
    /// whether it did; otherwise the block is still the one under way, and has failed.
    pub fn split(&mut self, plan: &mut Plan) -> bool {
        let Some(block) = self.block(plan) else { return false };
        let mut pieces = if block.rest > 0 { Vec::new() } else { plan.split(block) };
        if pieces.is_empty() {
            return false;
        }
        // The first piece takes the refused block's place.
        self.waiting.pop();
        pieces.reverse();
        self.waiting.append(&mut pieces);
        true
    }

    fn settle(&mut self, plan: &mut Plan) {
        let Some(piece) = self.waiting.pop() else {
            // The block was never split.
            if let Some(block) = plan.blocks.get_mut(self.next) {
                block.rest = block.rest.saturating_sub(1);
            }
            self.next += 1;
            self.answered = false;
            return;
        };
        self.settled.push(piece);
        if !self.waiting.is_empty() {
            return;
        }
        let at = self.next;
        if self.answered {
            self.next += self.settled.len();
            plan.blocks.splice(at..=at, self.settled.drain(..));
        } else {
            self.settled.clear();
            self.next += 1;
            plan.blocks[at].rest = REST;
        }
        self.answered = false;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::modbus::plan::{
        Span,
        tests::{H, ranges, unit, units, whole_and_once},
    };

    /// Plays a unit that refuses any request touching one of `missing`; returns the properties read
    /// and the number of requests.
    fn play(plan: &mut Plan, missing: &BTreeSet<u16>) -> (Vec<usize>, usize) {
        let (mut read, mut requests) = (Vec::new(), 0);
        let mut round = Round::default();
        while let Some(block) = round.block(plan) {
            requests += 1;
            assert!(requests < 10_000, "a round ends");
            let end = block.end();
            if (u32::from(block.address)..end).any(|a| missing.contains(&(a as u16))) {
                if !round.split(plan) {
                    round.failed(plan);
                }
            } else {
                read.extend_from_slice(&block.properties);
                round.answered(plan);
            }
        }
        read.sort_unstable();
        (read, requests)
    }

    #[test]
    fn a_refused_gap_is_not_crossed_again() {
        let mut unit = unit(&[(H, 0, 2), (H, 3, 1), (H, 5, 1)]);
        unit.max_gap = 1;
        let mut plan = Plan::new(&unit).expect("a plan");
        assert_eq!(play(&mut plan, &[2].into()), (vec![0, 1, 2], 4));
        assert_eq!(play(&mut plan, &[2].into()), (vec![0, 1, 2], 3), "learnt");
    }

    #[test]
    fn a_unit_that_refuses_everything_teaches_nothing() {
        let unit = unit(&[(H, 0, 1), (H, 1, 1), (H, 2, 1), (H, 3, 1)]);
        let mut plan = Plan::new(&unit).expect("a plan");
        let all = (0..4).collect();
        assert_eq!(play(&mut plan, &all), (vec![], 7));
        for _ in 0..REST {
            assert_eq!(play(&mut plan, &all), (vec![], 1), "not split again at once");
        }
        assert_eq!(ranges(&plan), [(H, 0, 4)]);
        assert_eq!(play(&mut plan, &[3].into()).0, [0, 1, 2], "but later");
    }

    proptest! {
        /// Whatever registers are missing, every value that does not need one is read, at once and
        /// by the plan that was learnt.
        #[test]
        fn a_missing_register_costs_only_its_own_values(
            unit in units(), missing in prop::collection::btree_set(0u16..420, 0..6),
        ) {
            let there: Vec<usize> = unit.properties.iter().enumerate()
                .filter(|(_, p)| {
                    let span = Span::of(&p.register);
                    !(span.start..span.end).any(|a| missing.contains(&(a as u16)))
                })
                .map(|(i, _)| i)
                .collect();
            let mut plan = Plan::new(&unit).expect("a plan");
            let first = play(&mut plan, &missing);
            prop_assert_eq!(&first.0, &there);
            whole_and_once(&unit, &plan.blocks)?;
            let again = play(&mut plan, &missing);
            prop_assert!(again.1 <= first.1);
            // A block that was refused down to its last value rests before it is split again.
            prop_assert_eq!(&again.0, &there);
        }
    }
}
