//! The one writer.
//!
//! ```text
//! append ──▶ pending ──commit──▶ current segment ──full──▶ sealed segments
//!               │                       ▲                   │    │    │
//!          acknowledge                  │  all acknowledged │    │    │ over the limit:
//!         (never written)               │                   ▼    │    │ dropped, after
//!                                     spare ◀───────────────┘    │    │ a loss record
//!                                       ▲                        │    │
//!                                       ├── few records left: ◀──┘    │
//!                                       │   carried into one of them  │
//!                                       └─────────────────────────────┘
//! ```
//!
//! Guarantees, in the words of `format.rs`: what [`Engine::commit`] reports durable is found after
//! a crash; what is acknowledged is not handed out again by this handle (after a crash it may be,
//! if the acknowledgement was not committed); a record that is neither is only ever lost with a
//! loss record.
//!
//! A failed sync, or a write that failed for another reason than a full disk, poisons the handle:
//! what is on disk is then not known, and only a new one, which reads and writes it again, can say.
//! A full disk poisons nothing.
//!
//! What this does not do: it has no clock, no thread and no policy. When to commit, and what to do
//! when the disk is full, is the owner's business. Making room for a segment is in `room.rs`.

use std::{
    collections::VecDeque,
    ops::{Range, RangeInclusive},
};

use crate::{
    disk::Disk,
    error::{Error, io_error},
    format::{Layout, Seq},
    load::State,
    ranges::RangeSet,
    record::Loss,
    segment::{Basket, Entry, Index, Record, Segment, Wanted, fill, live},
    spool::Stat,
};

/// Indexes kept of segments that are not the current one: one to peek ahead, one to acknowledge
/// behind.
const INDEXES: usize = 2;
/// Payload that may wait in memory for a commit.
const MAX_PENDING_BYTES: usize = 16 * 1024 * 1024;

pub(crate) struct Engine<D: Disk> {
    pub(crate) disk: D,
    pub(crate) _lock: D::Lock,
    pub(crate) layout: Layout,
    /// In the order of their records; the last one is the current.
    pub(crate) segments: Vec<Segment>,
    pub(crate) spares: Vec<u64>,
    pub(crate) next_number: u64,
    /// A file was renamed and the folder not synced since.
    pub(crate) names_dirty: bool,
    pub(crate) file: D::File,
    pub(crate) entries: Vec<Entry>,
    pub(crate) indexes: Vec<Index<D::File>>,
    pub(crate) pending: VecDeque<Record>,
    pub(crate) pending_bytes: usize,
    pub(crate) state: State,
    /// Acknowledged ranges that are not on disk as they are now.
    pub(crate) unsaved: RangeSet,
    pub(crate) next: Seq,
    pub(crate) corrupt: u64,
    /// Up to where a failed flush may have left records in the current segment.
    pub(crate) left_over_until: usize,
    /// The last commit found no room.
    pub(crate) full: bool,
    pub(crate) poisoned: bool,
    pub(crate) note: u64,
}

impl<D: Disk> Engine<D> {
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<Seq, Error> {
        self.usable()?;
        let max = self.layout.max_payload();
        if payload.len() > max {
            return Err(Error::TooLarge { size: payload.len(), max });
        }
        if self.full {
            return Err(Error::Full);
        }
        if self.next >= self.state.reserved || self.pending_bytes >= MAX_PENDING_BYTES {
            return Err(Error::Uncommitted { records: self.pending.len() });
        }
        let seq = self.next;
        self.next += 1;
        self.pending.push_back(Record { seq, payload: payload.to_vec() });
        self.pending_bytes += payload.len();
        Ok(seq)
    }

    /// Forgets pending records that were written, or need not be.
    pub(crate) fn forget_pending(&mut self, at: Range<usize>) {
        let gone: usize = self.pending.drain(at).map(|record| record.payload.len()).sum();
        self.pending_bytes -= gone;
    }

    pub(crate) fn acknowledge(&mut self, range: RangeInclusive<Seq>) -> Result<(), Error> {
        self.usable()?;
        let (first, last) = (*range.start(), *range.end());
        if first > last {
            return Ok(());
        }
        if last >= self.next {
            return Err(Error::Unknown { last, next: self.next });
        }
        while self.state.acknowledged.len_with(first, last) > self.layout.max_ranges() {
            if !self.carry_most_scattered()? {
                return Err(Error::Scattered { ranges: self.state.acknowledged.len() });
            }
        }
        // Read what is needed to count before anything changes.
        for at in self.sealed() {
            let segment = &self.segments[at];
            let cut = segment.live > 0
                && segment.first <= last
                && first <= segment.last
                && !(first <= segment.first && segment.last <= last);
            if cut && !segment.is_dense() {
                self.index(at)?;
            }
        }
        let merged = self.state.acknowledged.insert(first, last);
        self.unsaved.insert(merged.0, merged.1);
        let from = self.pending.partition_point(|record| record.seq < first);
        let to = self.pending.partition_point(|record| record.seq <= last);
        self.forget_pending(from..to);
        if self.pending.is_empty() {
            self.full = false;
        }
        self.count_live(first, last)?;
        self.recycle_acknowledged()
    }

    /// Counts the records left in each segment that an acknowledgement touches.
    pub(crate) fn count_live(&mut self, first: Seq, last: Seq) -> Result<(), Error> {
        let from = self.segments.partition_point(|segment| segment.last < first);
        for at in from..self.segments.len() {
            let segment = &self.segments[at];
            if segment.base > last {
                break;
            }
            if segment.live == 0 {
                continue;
            }
            let left = match segment.count_cheaply(&self.state.acknowledged) {
                Some(left) => left,
                None if at + 1 == self.segments.len() => {
                    live(&self.entries, segment.base, &self.state.acknowledged).count() as u32
                }
                None => {
                    let base = segment.base;
                    let index = self.index(at)?;
                    let index = &self.indexes[index];
                    live(&index.entries, base, &self.state.acknowledged).count() as u32
                }
            };
            self.segments[at].live = left;
        }
        Ok(())
    }

    /// The position among the indexes of that of a segment which is not the current one.
    pub(crate) fn index(&mut self, at: usize) -> Result<usize, Error> {
        let number = self.segments[at].number;
        if let Some(known) = self.indexes.iter().position(|index| index.number == number) {
            return Ok(known);
        }
        let index =
            Index::read(&self.disk, &self.segments[at]).map_err(io_error("read a segment"))?;
        let segment = &mut self.segments[at];
        self.corrupt += segment.count_damage(&index.damage);
        segment.learn(&index.entries, &self.state.acknowledged);
        if self.indexes.len() >= INDEXES {
            self.indexes.remove(0);
        }
        self.indexes.push(index);
        Ok(self.indexes.len() - 1)
    }

    pub(crate) fn peek(&mut self, wanted: Wanted) -> Result<Vec<Record>, Error> {
        self.usable()?;
        let mut basket = Basket::new(wanted);
        for at in 0..self.segments.len() {
            if self.segments[at].live == 0 || self.segments[at].last < wanted.from {
                continue;
            }
            let current = at + 1 == self.segments.len();
            let index = if current { 0 } else { self.index(at)? };
            let (file, entries) = match self.indexes.get(index) {
                Some(index) if !current => (&index.file, &index.entries),
                _ => (&self.file, &self.entries),
            };
            let acknowledged = &self.state.acknowledged;
            let filled = fill(&mut basket, &self.segments[at], file, entries, acknowledged);
            let filled = filled.map_err(io_error("read records"))?;
            self.forget_lost(at, &filled.lost);
            if filled.enough {
                return Ok(basket.records);
            }
        }
        let from = self.pending.partition_point(|record| record.seq < wanted.from);
        for record in self.pending.range(from..) {
            if !basket.push(record.seq, &record.payload) {
                break;
            }
        }
        Ok(basket.records)
    }

    /// Takes records out of the index that went bad after it was made.
    fn forget_lost(&mut self, at: usize, lost: &[Seq]) {
        if lost.is_empty() {
            return;
        }
        self.corrupt += lost.len() as u64;
        let current = at + 1 == self.segments.len();
        let segment = &mut self.segments[at];
        segment.damage_counted += lost.len() as u64;
        let entries = match self.indexes.iter_mut().find(|i| i.number == segment.number) {
            Some(index) if !current => &mut index.entries,
            _ => &mut self.entries,
        };
        entries.retain(|e| lost.binary_search(&(segment.base + u64::from(e.offset))).is_err());
        segment.learn(entries, &self.state.acknowledged);
    }

    pub(crate) fn stat(&self) -> Stat {
        let file_bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let held = self.segments.iter().map(|segment| u64::from(segment.live)).sum::<u64>();
        Stat {
            records: held + self.pending.len() as u64,
            pending: self.pending.len() as u64,
            bytes: file_bytes,
            limit: self.state.limit,
            first: first_waiting(
                &self.segments,
                &self.state.acknowledged,
                self.pending.front().map_or(self.next, |record| record.seq),
            ),
            next: self.next,
            durable: self.durable(),
            dropped: self.state.dropped,
            corrupt: self.corrupt,
            segments: self.segments.len(),
            spares: self.spares.len(),
            ranges: self.state.acknowledged.len(),
        }
    }

    /// All up to here that is not acknowledged is on disk.
    pub(crate) fn durable(&self) -> Seq {
        self.pending.front().map_or(self.next, |record| record.seq) - 1
    }

    pub(crate) fn losses(&self) -> &[Loss] {
        &self.state.losses
    }

    pub(crate) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    pub(crate) fn usable(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// A write: a full disk leaves the handle usable, anything else does not.
    pub(crate) fn checked(
        &mut self,
        action: &'static str,
        result: std::io::Result<()>,
    ) -> Result<(), Error> {
        result.map_err(|error| self.write_error(action, error))
    }

    pub(crate) fn write_error(&mut self, action: &'static str, error: std::io::Error) -> Error {
        let error = io_error(action)(error);
        match error {
            Error::Full => self.full = true,
            _ => self.poisoned = true,
        }
        error
    }

    /// A sync or what must be durable with it: any failure ends the handle.
    pub(crate) fn synced(
        &mut self,
        action: &'static str,
        result: std::io::Result<()>,
    ) -> Result<(), Error> {
        result.map_err(|source| {
            self.poisoned = true;
            Error::Io { action, source }
        })
    }

    pub(crate) fn current(&self) -> &Segment {
        &self.segments[self.segments.len() - 1]
    }

    pub(crate) fn current_mut(&mut self) -> &mut Segment {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// The current segment may have been made with another length than new ones.
    pub(crate) fn layout_of_current(&self) -> Layout {
        Layout::new(u32::try_from(self.current().bytes).unwrap_or(u32::MAX))
    }

    /// The segments before the current one.
    pub(crate) fn sealed(&self) -> Range<usize> {
        0..self.segments.len() - 1
    }
}

/// A number before which no record waits; `after` is the first that is in no segment.
pub(crate) fn first_waiting(segments: &[Segment], acknowledged: &RangeSet, after: Seq) -> Seq {
    let held = segments.iter().find(|segment| segment.live > 0).map(|segment| segment.first);
    held.unwrap_or(after).max(acknowledged.first_missing())
}
