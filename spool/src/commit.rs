//! Writing: from pending records to durable ones, and from a full segment to the next.
//!
//! ```text
//! commit: [acknowledgements][reservation] record record ... ──▶ one write, one sync
//! full:   ... record [loss] + seal ──▶ sync ──▶ header and snapshot into a spare ──▶ sync
//!         ──▶ rename ──▶ sync of the folder ──▶ the rest of the commit
//! ```
//!
//! Nothing in memory changes before the sync that makes it true.

use crate::{
    disk::{Disk, DiskFile},
    engine::Engine,
    error::Error,
    format::{
        HEADER_SLOTS, Header, Layout, MAX_OFFSET, Name, RESERVATION, SEAL_BYTES, Seal, Seed, Seq,
    },
    load::State,
    record::{
        Kind, Loss, RESERVATION_BYTES, push_ranges, push_record, push_reservation, push_snapshot,
        ranges_bytes, record_bytes,
    },
    segment::{Entry, Segment},
    spool::Commit,
};

/// Records on their way into the current segment.
struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    with_acknowledgements: bool,
    reserved: Option<Seq>,
}

impl<D: Disk> Engine<D> {
    /// Writes what is pending; acknowledgements alone only if `always`.
    pub(crate) fn commit(&mut self, always: bool) -> Result<Commit, Error> {
        self.usable()?;
        let mut written = 0;
        let dropped_before = self.state.dropped;
        let low = self.state.reserved.saturating_sub(self.next) < RESERVATION / 2;
        if !self.pending.is_empty() || low || always && !self.unsaved.is_empty() {
            let mut batch = self.new_batch();
            if low {
                let seed = self.current().seed();
                let reserved = self.next + RESERVATION;
                if self.end_with(&batch, RESERVATION_BYTES) > self.layout_of_current().ack_end() {
                    batch = self.next_segment(batch, &mut written)?;
                } else {
                    let first = batch.bytes.is_empty();
                    push_reservation(&mut batch.bytes, seed, first, reserved);
                    batch.reserved = Some(reserved);
                }
            }
            if always && !batch.with_acknowledgements {
                batch = self.next_segment(batch, &mut written)?;
            }
            while batch.entries.len() < self.pending.len() {
                if self.add_next(&mut batch) {
                    continue;
                }
                batch = self.next_segment(batch, &mut written)?;
                if !self.add_next(&mut batch) {
                    // What the new segment repeats leaves no room for the record.
                    self.flush(batch, false)?;
                    return Err(Error::Scattered { ranges: self.state.acknowledged.len() });
                }
            }
            written += self.flush(batch, false)?;
        }
        self.full = false;
        let dropped = self.state.dropped - dropped_before;
        Ok(Commit { durable: self.durable(), written, dropped })
    }

    /// Adds the next pending record if the current segment has room for it.
    fn add_next(&self, batch: &mut Batch) -> bool {
        let (base, seed) = (self.current().base, self.current().seed());
        let Some(record) = self.pending.get(batch.entries.len()) else { return false };
        let end = self.end_with(batch, record_bytes(record.payload.len()));
        if record.seq - base > MAX_OFFSET || end > self.layout_of_current().data_end() {
            return false;
        }
        let at = self.end_with(batch, 0) as u32;
        let entry = Entry { offset: (record.seq - base) as u32, at };
        let first = batch.bytes.is_empty();
        push_record(&mut batch.bytes, seed, Kind::Data, first, entry.offset, &record.payload);
        batch.entries.push(entry);
        true
    }

    /// A batch that starts with the acknowledgements, if they find room.
    fn new_batch(&self) -> Batch {
        let mut bytes = Vec::new();
        let ranges = self.unsaved.as_slice();
        let fits =
            self.current().end + ranges_bytes(ranges.len()) <= self.layout_of_current().ack_end();
        if fits {
            push_ranges(&mut bytes, self.current().seed(), true, ranges);
        }
        Batch { bytes, entries: Vec::new(), with_acknowledgements: fits, reserved: None }
    }

    /// Where the current segment would end with the batch and `more` bytes.
    fn end_with(&self, batch: &Batch, more: usize) -> usize {
        self.current().end + batch.bytes.len() + more
    }

    /// Ends the current segment with the batch and goes on in a new one.
    fn next_segment(&mut self, batch: Batch, written: &mut u64) -> Result<Batch, Error> {
        match self.make_room() {
            Ok(loss) => *written += self.roll(batch, loss)?,
            Err(error) => {
                self.full = matches!(error, Error::Full);
                *written += self.flush(batch, false)?;
                return Err(error);
            }
        }
        Ok(self.new_batch())
    }

    /// Writes and syncs a batch, and the seal if the segment ends with it.
    fn flush(&mut self, mut batch: Batch, seal: bool) -> Result<u64, Error> {
        if batch.bytes.is_empty() && !seal {
            return Ok(0);
        }
        let current = self.current();
        let (at, end) = (current.end, current.end + batch.bytes.len());
        // What a flush that found the disk full left behind must not be taken for records.
        let left_over = self.left_over_until.saturating_sub(end);
        batch.bytes.resize(batch.bytes.len() + left_over, 0);
        self.left_over_until = at + batch.bytes.len();
        let written = self.file.write_at(&batch.bytes, at as u64);
        self.checked("write records", written)?;
        let mut bytes = batch.bytes.len();
        if seal {
            let current = self.current();
            let seq = |entry: &Entry| current.base + u64::from(entry.offset);
            let first = self.entries.first().or(batch.entries.first());
            let last = batch.entries.last().or(self.entries.last());
            let seal = Seal {
                number: current.number,
                first: first.map_or(current.base, seq),
                last: last.map_or(current.base, seq),
                count: (self.entries.len() + batch.entries.len()) as u32,
                end: end as u32,
            };
            let written =
                self.file.write_at(&seal.encode(), self.layout_of_current().seal_at() as u64);
            self.checked("write a seal", written)?;
            bytes += SEAL_BYTES;
        }
        let synced = self.file.sync();
        self.synced("sync a segment", synced)?;
        self.left_over_until = 0;

        self.forget_pending(0..batch.entries.len());
        self.entries.extend_from_slice(&batch.entries);
        if batch.with_acknowledgements {
            self.unsaved.clear();
        }
        self.state.reserved = batch.reserved.unwrap_or(self.state.reserved);
        let added = batch.entries.len() as u32;
        let (first, last) = (self.entries.first().copied(), self.entries.last().copied());
        let current = self.current_mut();
        current.end = end;
        current.count += added;
        current.live += added;
        current.first = current.base + first.map_or(0, |entry| u64::from(entry.offset));
        current.last = current.base + last.map_or(0, |entry| u64::from(entry.offset));
        Ok(bytes as u64)
    }

    /// Seals the current segment, after a loss record if room is made by dropping, and starts the
    /// next.
    fn roll(&mut self, mut batch: Batch, loss: Option<Loss>) -> Result<u64, Error> {
        if let Some(loss) = &loss {
            let first = batch.bytes.is_empty();
            let payload = loss.encode(self.state.dropped + loss.count);
            push_record(&mut batch.bytes, self.current().seed(), Kind::Loss, first, 0, &payload);
        }
        let mut written = self.flush(batch, true)?;
        if let Some(loss) = loss {
            self.state.dropped += loss.count;
            self.state.lose(loss);
            self.count_live(0, loss.last)?;
            self.recycle_acknowledged()?;
        }
        let number = self.take_number();
        let base = self.pending.front().map_or(self.next, |record| record.seq);
        let reserved = self.state.reserved.max(self.next + RESERVATION);
        let header = self.header(number, base, self.layout, reserved);
        let mut start = header.encode();
        let seed = Seed::new(number, base);
        let State { acknowledged, losses, dropped, .. } = &self.state;
        push_snapshot(&mut start, seed, acknowledged, losses, *dropped);
        let file = self.start_segment(Name::Segment { number, base }, &start)?;
        written += start.len() as u64;

        self.state.reserved = reserved;
        self.unsaved.clear();
        self.file = file;
        self.entries.clear();
        self.segments.push(Segment::empty(number, base, self.layout, start.len()));
        self.recycle_acknowledged()?;
        Ok(written)
    }

    /// Turns a spare into a segment that starts with these bytes.
    pub(crate) fn start_segment(&mut self, name: Name, start: &[u8]) -> Result<D::File, Error> {
        let (spare, file) = self.take_spare()?;
        let from = Name::Spare { number: spare }.to_string();
        if let Err(error) = file.write_at(start, 0) {
            self.spares.push(spare);
            return Err(self.write_error("start a segment", error));
        }
        let synced = file.sync();
        self.synced("sync a new segment", synced)?;
        let named = self.disk.rename(&from, &name.to_string());
        self.synced("name a new segment", named)?;
        let synced = self.disk.sync_names();
        self.synced("sync the folder", synced)?;
        Ok(file)
    }

    /// Writes everything, and gives back the sequence numbers reserved.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        self.commit(true)?;
        let mut batch = self.new_batch();
        if self.end_with(&batch, RESERVATION_BYTES) > self.layout_of_current().ack_end() {
            batch = self.next_segment(batch, &mut 0)?;
        }
        let (seed, first) = (self.current().seed(), batch.bytes.is_empty());
        push_reservation(&mut batch.bytes, seed, first, self.next);
        self.flush(batch, false)?;
        Ok(())
    }

    pub(crate) fn header(&self, number: u64, base: Seq, layout: Layout, reserved: Seq) -> Header {
        let ranges = self.state.acknowledged.as_slice();
        Header {
            bytes: layout.bytes() as u32,
            number,
            base,
            reserved,
            dropped: self.state.dropped,
            limit: self.state.limit,
            ranges: ranges[..ranges.len().min(HEADER_SLOTS)].to_vec(),
            replaces: Vec::new(),
        }
    }
}
