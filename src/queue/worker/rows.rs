//! Rows on their way out: claimed, read again, acknowledged, released, rejected.
//!
//! A row is found by looking through the spool from where the last look ended. One that cannot be
//! decoded is set aside and counted; one without a place in time is remembered by its boot, and looked
//! at again when that boot's time becomes known.

use tokio::time::Instant;
use tracing::warn;

use super::{ACKNOWLEDGED_WITHIN, CHUNK_BYTES, CHUNK_ROWS, Worker};
use crate::{
    domain::{BootId, Stamp},
    queue::{Claimed, Ranges, Row, record, show},
};

/// Records that a claim passes over before it is cut: a fraction of a second on a small board.
const PASSED_AT_ONCE: usize = 32 * CHUNK_ROWS;

impl Worker {
    /// Claims the oldest rows that are free and have a place in time. A long row of others is not passed over at
    /// once: readings want to be committed meanwhile.
    pub(super) fn claim(&mut self, rows: usize, bytes: usize) -> Claimed {
        self.place_again();
        let (mut claimed, mut size, mut passed) = (Vec::new(), 0, 0);
        'spool: while let Some(chunk) =
            self.peek(self.scanned_to, CHUNK_ROWS).filter(|chunk| !chunk.is_empty())
        {
            for record in chunk {
                let free = !self.claimed.contains(record.seq);
                if free && let Some(row) = self.row(record.seq, record.payload, true) {
                    size += row.payload.len();
                    if claimed.len() >= rows || (size > bytes && !claimed.is_empty()) {
                        break 'spool;
                    }
                    self.claimed.insert(row.seq..=row.seq);
                    claimed.push(row);
                } else {
                    passed += 1;
                }
                self.scanned_to = record.seq + 1;
            }
            if passed >= PASSED_AT_ONCE {
                return Claimed { rows: claimed, cut: true };
            }
        }
        Claimed { rows: claimed, cut: false }
    }

    /// The rows among `seqs` that still wait; `None` while nobody can tell, as the disk has failed.
    pub(super) fn rows(&mut self, seqs: &Ranges) -> Option<Vec<Row>> {
        let mut rows = Vec::new();
        for range in seqs.iter() {
            let mut from = *range.start();
            while from <= *range.end() {
                let left =
                    usize::try_from(range.end() - from).unwrap_or(usize::MAX).saturating_add(1);
                let chunk = self.peek(from, CHUNK_ROWS.min(left))?;
                let Some(last) = chunk.last().map(|record| record.seq) else { break };
                let within = chunk.into_iter().take_while(|record| record.seq <= *range.end());
                rows.extend(within.filter_map(|r| self.row(r.seq, r.payload, false)));
                from = last.saturating_add(1);
            }
        }
        Some(rows)
    }

    pub(super) fn peek(&mut self, from: u64, rows: usize) -> Option<Vec<spool::Record>> {
        let spool = self.spool.as_mut()?;
        match spool.peek(from, rows, CHUNK_BYTES) {
            Ok(chunk) => Some(chunk),
            Err(error) => {
                let error = self.failed(error);
                warn!(event = "queue.unreadable", %error, "queue could not be read");
                None
            }
        }
    }

    /// A record as a row, if it can be sent. What is found instead is noted where `note` says so.
    fn row(&mut self, seq: u64, payload: Vec<u8>, note: bool) -> Option<Row> {
        match record::check(&payload) {
            Ok(stamp) => match (self.clock.place(stamp), stamp) {
                (Some(unix_ms), _) => Some(Row { seq, unix_ms, payload }),
                (None, Stamp::Boot { boot, .. }) => {
                    if note {
                        self.unplaced.entry(boot).or_default().insert(seq..=seq);
                    }
                    None
                }
                // Wall time always has its place.
                (None, Stamp::Wall { .. }) => None,
            },
            Err(error) => {
                self.undecodable += 1;
                warn!(event = "queue.corrupt", seq, %error, "record skipped");
                self.set_aside(
                    serde_json::json!({
                    "seq": seq, "record": hex::encode(&payload) }),
                    &error.to_string(),
                );
                self.acknowledge(&Ranges::from_iter([seq]));
                None
            }
        }
    }

    /// Boots that learnt the time since their datum were looked at.
    pub(super) fn place_again(&mut self) {
        let clock = &self.clock;
        let knows =
            |boot: &BootId| clock.place(Stamp::Boot { boot: *boot, since_boot_ms: 0 }).is_some();
        for (_, seqs) in self.unplaced.extract_if(.., |boot, _| knows(boot)) {
            self.scanned_to = seqs.first().map_or(self.scanned_to, |seq| seq.min(self.scanned_to));
        }
    }

    pub(super) fn acknowledge(&mut self, seqs: &Ranges) {
        self.claimed.subtract(seqs);
        for unplaced in self.unplaced.values_mut() {
            unplaced.subtract(seqs);
        }
        self.unplaced.retain(|_, seqs| !seqs.is_empty());
        self.forget(|seq| seqs.contains(seq));
        if self.uncommitted.is_empty() {
            // What arrives next has all its time: a reading that is proved before then costs no write.
            self.commit_due = None;
        }
        let Some(spool) = &mut self.spool else { return };
        // What was proved may have made room.
        self.retry_due = self.retry_due.map(|_| Instant::now());
        for range in seqs.iter() {
            if let Err(error) = spool.acknowledge(range) {
                // Repeats are harmless: what is not acknowledged is sent again.
                warn!(event = "queue.not_acknowledged", %error, "acknowledgement not kept");
                self.scanned_to = seqs.first().map_or(0, |seq| seq.min(self.scanned_to));
                break;
            }
        }
        self.acknowledged_due.get_or_insert(Instant::now() + ACKNOWLEDGED_WITHIN);
    }

    pub(super) fn release(&mut self, seqs: &Ranges) {
        self.claimed.subtract(seqs);
        self.scanned_to = seqs.first().map_or(self.scanned_to, |seq| seq.min(self.scanned_to));
    }

    pub(super) fn reject(&mut self, seq: u64, reason: &str) {
        let only = Ranges::from_iter([seq]);
        // What could not be written down stays claimed, and is tried again after the next restart. So does what
        // cannot be read while the disk has failed.
        let Some(mut rows) = self.rows(&only) else { return };
        let datum = rows.pop().and_then(|row| row.datum().ok().map(|datum| (row, datum)));
        if datum.is_none_or(|(row, datum)| {
            self.set_aside(show::json(seq, &datum, Some(row.unix_ms)), reason)
        }) {
            self.acknowledge(&only);
        }
    }

    /// Whether it is written down.
    fn set_aside(&mut self, shown: serde_json::Value, reason: &str) -> bool {
        let added = self.rejected.add(shown, reason);
        if let Err(error) = &added {
            warn!(event = "queue.rejected_not_kept", %error, "rejected datum not written down");
        }
        added.is_ok()
    }
}
