//! A set of sequence numbers, kept as ascending ranges that do not touch.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// A set of sequence numbers. As JSON: `[[first, last], …]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges {
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// Adds all of `range`.
    pub fn insert(&mut self, range: RangeInclusive<u64>) {
        let (first, last) = range.into_inner();
        if first > last {
            return;
        }
        // All ranges in `from..to` touch or overlap the new one.
        let from = self.ranges.partition_point(|r| r.1.saturating_add(1) < first);
        let to = self.ranges.partition_point(|r| r.0 <= last.saturating_add(1));
        let merged = match self.ranges.get(from..to) {
            Some([one]) => (one.0.min(first), one.1.max(last)),
            Some([head, .., tail]) => (head.0.min(first), tail.1.max(last)),
            Some([]) | None => (first, last),
        };
        self.ranges.splice(from..to.max(from), [merged]);
    }

    /// Removes all of `range`.
    pub fn remove(&mut self, range: RangeInclusive<u64>) {
        let (first, last) = range.into_inner();
        if first > last {
            return;
        }
        let from = self.ranges.partition_point(|r| r.1 < first);
        let to = self.ranges.partition_point(|r| r.0 <= last).max(from);
        let mut left = Vec::with_capacity(2);
        if let Some(head) = self.ranges.get(from).filter(|r| from < to && r.0 < first) {
            left.push((head.0, first - 1));
        }
        if let Some(tail) = self.ranges[from..to].last().filter(|r| r.1 > last) {
            left.push((last + 1, tail.1));
        }
        self.ranges.splice(from..to, left);
    }

    /// Whether `seq` is in the set.
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        let at = self.ranges.partition_point(|r| r.1 < seq);
        self.ranges.get(at).is_some_and(|r| r.0 <= seq)
    }

    /// Whether any number is in both sets.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        other.ranges.iter().any(|(first, last)| {
            let at = self.ranges.partition_point(|r| r.1 < *first);
            self.ranges.get(at).is_some_and(|r| r.0 <= *last)
        })
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|r| (r.1 - r.0).saturating_add(1)).sum()
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The smallest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.ranges.first().map(|r| r.0)
    }

    /// The largest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|r| r.1)
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.ranges.iter().map(|r| r.0..=r.1)
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|range| self.insert(range));
    }

    /// Removes all of another set.
    pub fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|range| self.remove(range));
    }

    /// Removes the smallest numbers until there are at most so many ranges.
    pub fn keep_last(&mut self, ranges: usize) {
        self.ranges.drain(..self.ranges.len().saturating_sub(ranges));
    }

    /// The smallest numbers, at most `count`.
    #[must_use]
    pub fn first_of(&self, count: u64) -> Self {
        let mut left = count;
        let mut taken = Self::default();
        for (first, last) in &self.ranges {
            let Some(more) = left.checked_sub(1) else { break };
            let last = (*last).min(first.saturating_add(more));
            taken.ranges.push((*first, last));
            left = more - (last - first);
        }
        taken
    }

    /// Removes all below `seq`.
    pub fn forget_below(&mut self, seq: u64) {
        if let Some(last) = seq.checked_sub(1) {
            self.remove(0..=last);
        }
    }
}

/// Of any pairs: those that overlap are joined, those that end before they begin are nothing.
impl From<Vec<(u64, u64)>> for Ranges {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut ranges = Self::default();
        pairs.into_iter().for_each(|(first, last)| ranges.insert(first..=last));
        ranges
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.ranges
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(seqs: I) -> Self {
        let mut ranges = Self::default();
        seqs.into_iter().for_each(|seq| ranges.insert(seq..=seq));
        ranges
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
            steps in prop::collection::vec((0u64..60, 0u64..12, any::<bool>()), 1..40)
        ) {
            let (mut set, mut plain) = (Ranges::default(), BTreeSet::new());
            for (first, more, remove) in steps {
                let range = first..=first + more;
                if remove {
                    set.remove(range.clone());
                    plain.retain(|n| !range.contains(n));
                } else {
                    set.insert(range.clone());
                    plain.extend(range);
                }
                prop_assert!(set.ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0));
                prop_assert!((0..80).all(|n| set.contains(n) == plain.contains(&n)));
                prop_assert_eq!(set.count(), plain.len() as u64);
                prop_assert_eq!(set.first(), plain.first().copied());
                prop_assert_eq!(set.last(), plain.last().copied());
                let few: BTreeSet<u64> = plain.iter().copied().take(7).collect();
                let first_of: BTreeSet<u64> = set.first_of(7).iter().flatten().collect();
                prop_assert_eq!(&first_of, &few);
                let other = (20..30).collect::<Ranges>();
                prop_assert_eq!(set.intersects(&other), plain.range(20..30).next().is_some());
            }
        }
    }

    #[test]
    fn the_largest_number_does_not_overflow() {
        let mut set = Ranges::default();
        set.insert(0..=u64::MAX);
        set.remove(5..=u64::MAX);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0..=4]);
        set.insert(u64::MAX..=u64::MAX);
        assert_eq!(set.last(), Some(u64::MAX));
    }
}
