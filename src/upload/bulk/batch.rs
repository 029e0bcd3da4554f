//! From claimed rows to the datum of one request. Pure.
//!
//! A batch is the longest beginning of the rows offered that keeps to two bounds: [`MAX_ROWS`] and [`MAX_BYTES`]
//! of records, which their JSON resembles in size. Two rows with the same source and time never go together:
//! the answer names keys, and the later row has to win.

use std::collections::HashSet;

use crate::{
    audit::tally::{self, Content, Tallies},
    domain::Datum,
    queue::{Ranges, Row},
    solarin::{Item, Key, client::key},
};

/// Most rows of one request: as many as SolarNetwork's own node sends by its shipped configuration.
pub const MAX_ROWS: usize = 240;

/// Most bytes of records in one request. The same node's requests have about 100 KB before compression.
pub const MAX_BYTES: usize = 96 * 1024;

/// A row on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    seq: u64,
    unix_ms: i64,
    datum: Datum,
}

/// The datum of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    rows: Vec<Placed>,
    /// Whether it ends before a row with the same key as one in it.
    pub twin: bool,
    /// Records that are no datum, and why.
    pub unsendable: Vec<(u64, String)>,
}

impl Batch {
    /// Takes the longest beginning of `rows`, which are in order.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let mut batch = Self::default();
        let (mut keys, mut bytes) = (HashSet::new(), 0);
        for row in rows {
            bytes += row.payload.len();
            if batch.rows.len() >= MAX_ROWS || (bytes > MAX_BYTES && !batch.rows.is_empty()) {
                break;
            }
            let datum = match row.datum() {
                Ok(datum) => datum,
                Err(error) => {
                    batch.unsendable.push((row.seq, error.to_string()));
                    continue;
                }
            };
            if !keys.insert(key(&datum, row.unix_ms)) {
                batch.twin = true;
                break;
            }
            batch.rows.push(Placed { seq: row.seq, unix_ms: row.unix_ms, datum });
        }
        batch
    }

    /// Which rows go.
    #[must_use]
    pub fn seqs(&self) -> Ranges {
        self.rows.iter().map(|row| row.seq).collect()
    }

    /// What is said.
    #[must_use]
    pub fn items(&self) -> Vec<Item<'_>> {
        self.rows.iter().map(|row| Item::Datum(&row.datum, row.unix_ms)).collect()
    }

    /// The rows whose keys were named, and what is in them, for the ledger.
    #[must_use]
    pub fn named(&self, stored: &HashSet<Key>) -> (Ranges, Tallies) {
        let (mut seqs, mut tallies) = (Ranges::default(), Tallies::new());
        for row in &self.rows {
            if stored.contains(&key(&row.datum, row.unix_ms)) {
                seqs.insert(row.seq..=row.seq);
                add(&mut tallies, &row.datum, row.unix_ms);
            }
        }
        (seqs, tallies)
    }
}

/// What is in rows that are about to be sent for the first time.
#[must_use]
pub fn tallies(rows: &[Row]) -> Tallies {
    let mut tallies = Tallies::new();
    for row in rows {
        if let Ok(datum) = row.datum() {
            add(&mut tallies, &datum, row.unix_ms);
        }
    }
    tallies
}

fn add(tallies: &mut Tallies, datum: &Datum, unix_ms: i64) {
    tally::add(tallies, datum.source.as_str(), unix_ms, &Content::sent(&datum.samples));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Samples, Stamp},
        queue::record,
    };

    fn row(seq: u64, source: &str, unix_ms: i64, text: &str) -> Row {
        let datum = Datum {
            source: source.parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms },
            samples: Samples { status: vec![("s".into(), text.into())], ..Samples::default() },
        };
        Row { seq, unix_ms, payload: record::encode(&datum) }
    }

    #[test]
    fn a_second_row_with_the_same_key_waits_for_the_next_request() {
        let rows = [row(1, "a", 5, "old"), row(2, "b", 5, "x"), row(4, "a", 5, "new")];
        let batch = Batch::of(&rows);
        assert_eq!((batch.seqs(), batch.twin), (Ranges::from_iter([1, 2]), true));
        assert!(!Batch::of(&rows[1..]).twin);
    }

    #[test]
    fn rows_and_bytes_are_bounded_and_one_row_always_fits() {
        let many: Vec<Row> = (0..500).map(|seq| row(seq, "a", seq as i64, "")).collect();
        assert_eq!(Batch::of(&many).seqs().count(), MAX_ROWS as u64);
        let text = "x".repeat(MAX_BYTES / 3);
        let large: Vec<Row> = (0..9).map(|seq| row(seq, "a", seq as i64, &text)).collect();
        assert_eq!(Batch::of(&large).seqs().count(), 2);
        let alone = row(1, "a", 1, &"x".repeat(MAX_BYTES));
        assert_eq!(Batch::of(&[alone]).seqs().count(), 1);
    }

    #[test]
    fn rows_are_named_by_source_and_time_and_counted_so() {
        let batch = Batch::of(&[row(1, "a", 5, ""), row(2, "a", 6, ""), row(3, "b", 5, "")]);
        let stored = HashSet::from(
            [("a", 6), ("b", 5), ("b", 6)]
                .map(|(source, unix_ms)| Key { source: source.into(), unix_ms }),
        );
        let (seqs, tallies) = batch.named(&stored);
        assert_eq!(seqs, Ranges::from_iter([2, 3]));
        assert_eq!(tallies.values().flatten().map(|(_, tally)| tally.count).sum::<u64>(), 2);
    }

    #[test]
    fn a_record_that_is_no_datum_is_named_and_skipped() {
        let broken = Row { seq: 7, unix_ms: 5, payload: vec![255; 3] };
        let batch = Batch::of(&[broken, row(8, "a", 5, "")]);
        assert_eq!((batch.unsendable[0].0, batch.seqs()), (7, Ranges::from_iter([8])));
    }
}
