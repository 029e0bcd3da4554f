//! A set of sequence numbers as ascending ranges.
//!
//! Ranges never touch: `1..=3` and `4..=6` are kept as `1..=6`, so the set has one form, and the
//! number of ranges says how scattered it is. Nothing is ever added that was not inserted.

use crate::format::Seq;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    ranges: Vec<(Seq, Seq)>,
}

impl RangeSet {
    /// Adds `first..=last` and returns the range that it is part of now.
    pub(crate) fn insert(&mut self, first: Seq, last: Seq) -> (Seq, Seq) {
        if first > last {
            return (first, last);
        }
        // All ranges from `from` to before `to` touch or overlap the new one.
        let from = self.ranges.partition_point(|r| r.1 < first.saturating_sub(1));
        let to = self.ranges.partition_point(|r| r.0 <= last.saturating_add(1));
        let merged = match self.ranges.get(from..to) {
            Some([head, .., tail]) => (head.0.min(first), tail.1.max(last)),
            Some([one]) => (one.0.min(first), one.1.max(last)),
            _ => (first, last),
        };
        self.ranges.splice(from..to.max(from), [merged]);
        merged
    }

    /// How many ranges there would be after an insertion.
    pub(crate) fn len_with(&self, first: Seq, last: Seq) -> usize {
        let from = self.ranges.partition_point(|r| r.1 < first.saturating_sub(1));
        let to = self.ranges.partition_point(|r| r.0 <= last.saturating_add(1));
        self.ranges.len() + 1 - to.saturating_sub(from)
    }

    pub(crate) fn contains(&self, seq: Seq) -> bool {
        self.covers(seq, seq)
    }

    /// Whether every number from `first` to `last` is in the set.
    pub(crate) fn covers(&self, first: Seq, last: Seq) -> bool {
        let at = self.ranges.partition_point(|r| r.1 < last);
        self.ranges.get(at).is_some_and(|r| r.0 <= first)
    }

    /// How many of the numbers from `first` to `last` are in the set.
    pub(crate) fn count_within(&self, first: Seq, last: Seq) -> u64 {
        let from = self.ranges.partition_point(|r| r.1 < first);
        self.ranges[from..]
            .iter()
            .take_while(|r| r.0 <= last)
            .map(|r| r.1.min(last) - r.0.max(first) + 1)
            .sum()
    }

    /// How many ranges lie wholly within `first..=last`.
    pub(crate) fn ranges_within(&self, first: Seq, last: Seq) -> usize {
        let (from, to) = self.within(first, last);
        to - from
    }

    /// Removes the ranges that lie wholly within `first..=last`.
    pub(crate) fn forget_within(&mut self, first: Seq, last: Seq) {
        let (from, to) = self.within(first, last);
        self.ranges.drain(from..to);
    }

    fn within(&self, first: Seq, last: Seq) -> (usize, usize) {
        let from = self.ranges.partition_point(|r| r.0 < first);
        let to = self.ranges.partition_point(|r| r.1 <= last);
        (from, to.max(from))
    }

    /// The smallest number from 0 on that is not in the set.
    pub(crate) fn first_missing(&self) -> Seq {
        match self.ranges.first() {
            Some((0, last)) => last.saturating_add(1),
            _ => 0,
        }
    }

    pub(crate) fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.ranges
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(
            steps in prop::collection::vec((0u64..60, 0u64..12, any::<bool>()), 1..40),
        ) {
            let (mut set, mut plain) = (RangeSet::default(), BTreeSet::new());
            for (first, more, forget) in steps {
                let last = first + more;
                if forget {
                    let gone: Vec<_> = set.as_slice().iter().copied()
                        .filter(|r| r.0 >= first && r.1 <= last).collect();
                    prop_assert_eq!(set.ranges_within(first, last), gone.len());
                    set.forget_within(first, last);
                    plain.retain(|n| !gone.iter().any(|r| (r.0..=r.1).contains(n)));
                } else {
                    let expected = set.len_with(first, last);
                    let merged = set.insert(first, last);
                    plain.extend(first..=last);
                    prop_assert_eq!(set.len(), expected);
                    prop_assert!(set.as_slice().contains(&merged));
                }
                prop_assert!(set.as_slice().windows(2).all(|w| w[0].1 + 1 < w[1].0));
                prop_assert!((0..80).all(|n| set.contains(n) == plain.contains(&n)));
                let within = plain.range(first..=last).count() as u64;
                prop_assert_eq!(set.count_within(first, last), within);
                prop_assert_eq!(set.covers(first, last), within == last - first + 1);
                prop_assert_eq!(set.first_missing(), (0..).find(|n| !plain.contains(n)).unwrap());
            }
        }
    }

    #[test]
    fn the_largest_number_does_not_overflow() {
        let mut set = RangeSet::default();
        set.insert(u64::MAX, u64::MAX);
        set.insert(0, u64::MAX - 1);
        assert_eq!(set.as_slice(), [(0, u64::MAX)]);
        assert_eq!(set.first_missing(), u64::MAX);
    }
}
