//! The one writer.
//!
//! ```text
//! append ──▶ pending ──commit──▶ current segment ──full──▶ sealed segments ──all acknowledged──▶ spares
//!               │                      ▲                        │    ▲                            │
//!          acknowledge               peek                 limit │    │ carried forward            │
//!         (never written)                                       ▼    └────────┐                   │
//!                                                        dropped with         └── few left ◀──────┘
//!                                                        a loss record             becomes current
//! ```
//!
//! Guarantees, in the words of `format.rs`: what [`Engine::commit`] reports durable is found after a crash;
//! what is acknowledged is not handed out again by this handle (after a crash it may be, if the
//! acknowledgement was not committed); a record that is neither is only ever lost with a loss record.
//!
//! A failed sync, or a write that failed for another reason than a full disk, poisons the handle: what is on
//! disk is then not known, and only a new one, which reads and writes it again, can say. A full
//! disk poisons nothing.
//!
//! What this does not do: it has no clock, no thread and no policy. When to commit, and what to do when
//! the disk is full, is the owner's business. Making room for a segment is in `room.rs`.

use std::{
    collections::VecDeque,
    ops::{Range, RangeInclusive},
};

use crate::{
    disk::{Disk, DiskFile},
    error::{Error, io_error},
    format::{
        HEADER_BYTES, HEADER_SLOTS, Header, Kind, Layout, Loss, MAX_OFFSET, Name, RESERVATION,
        Seal, Seed, Seq, push_ranges, push_record, push_snapshot, ranges_bytes, record_bytes,
    },
    load::{Current, State, load},
    ranges::RangeSet,
    segment::{Basket, Entry, Index, Record, Segment, Wanted, fill, live},
    spool::{Commit, Options, Recovery, Stat},
};

/// Numbers skipped at each open, so that one whose name was lost in a power cut is not used again.
const NUMBERS_SKIPPED: u64 = 1024;
/// Indexes kept of segments that are not the current one: one to peek ahead, one to acknowledge behind.
const INDEXES: usize = 2;

pub(crate) struct Engine<D: Disk> {
    pub(crate) disk: D,
    _lock: D::Lock,
    pub(crate) layout: Layout,
    pub(crate) limit: u64,
    /// In the order of their records; the last one is the current.
    pub(crate) segments: Vec<Segment>,
    pub(crate) spares: Vec<u64>,
    pub(crate) next_number: u64,
    /// A file was renamed and the folder not synced since.
    pub(crate) names_dirty: bool,
    file: D::File,
    entries: Vec<Entry>,
    pub(crate) indexes: Vec<Index<D::File>>,
    pending: VecDeque<Record>,
    pub(crate) state: State,
    /// Acknowledged ranges that are not on disk as they are now.
    unsaved: RangeSet,
    next: Seq,
    pub(crate) corrupt: u64,
    /// The last commit found no room.
    full: bool,
    poisoned: bool,
    pub(crate) note: u64,
}

/// Records on their way into the current segment.
struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    with_acknowledgements: bool,
    reserved: Option<Seq>,
}

impl<D: Disk> Engine<D> {
    pub(crate) fn open(disk: D, options: Options) -> Result<(Self, Recovery), Error> {
        let lock = disk.lock()?;
        let loaded = load(&disk).map_err(io_error("read the segments"))?;
        // An earlier handle may have renamed without syncing.
        disk.sync_names().map_err(io_error("sync the folder"))?;
        let layout = Layout::new(options.segment_bytes);
        let mut next_number = loaded.last_number + NUMBERS_SKIPPED;
        let (first_start, current) = match loaded.current {
            Some(current) => (false, current),
            None => {
                let number = next_number;
                next_number += 1;
                let name = Name::Segment { number, base: loaded.next };
                (true, first_segment(&disk, layout, name, &loaded.state, loaded.next)?)
            }
        };
        let Current { segment, file, entries, tail, tail_at, length, header_is_good } = current;
        let recovery = Recovery {
            corrupt: loaded.corrupt,
            torn_bytes: loaded.torn,
            broken_headers: loaded.broken_headers,
        };
        let mut segments = loaded.sealed;
        segments.push(segment);
        let mut engine = Self {
            disk,
            _lock: lock,
            layout,
            limit: options.limit_bytes.max(2 * layout.bytes() as u64),
            segments,
            spares: Vec::new(),
            next_number,
            names_dirty: false,
            file,
            entries,
            indexes: Vec::new(),
            pending: VecDeque::new(),
            state: loaded.state,
            unsaved: RangeSet::default(),
            next: loaded.next,
            corrupt: loaded.corrupt,
            full: false,
            poisoned: false,
            note: 0,
        };
        engine.state.reserved = engine.next;
        if first_start {
            engine.state.reserved += RESERVATION;
        } else {
            let layout = Layout::new(u32::try_from(length).unwrap_or(u32::MAX));
            engine.rewrite_tail(tail, tail_at, layout, header_is_good)?;
        }
        engine.sort_out_spares(loaded.spares, &loaded.leftovers, &loaded.replaced)?;
        engine.recycle_acknowledged()?;
        if engine.spares.is_empty() && engine.segments.len() < 2 {
            match engine.prepare() {
                // Usable with one; a second is asked for again when it is needed.
                Ok(_) | Err(Error::Full) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((engine, recovery))
    }

    /// Writes the last commit once more, with a new reservation, before any of it counts as durable.
    fn rewrite_tail(
        &mut self,
        mut tail: Vec<u8>,
        tail_at: usize,
        layout: Layout,
        header_is_good: bool,
    ) -> Result<(), Error> {
        let current = self.current();
        let sync = io_error("write the last commit again");
        if current.bytes < layout.bytes() as u64 {
            // Truncated by somebody: the length is what commits without metadata rely on.
            let zeros = vec![0; layout.bytes() - current.bytes as usize];
            self.file.write_at(&zeros, current.bytes).map_err(&sync)?;
        }
        if !header_is_good {
            let page = self.header(current.number, current.base, layout, self.next).encode();
            self.file.write_at(&page, 0).map_err(&sync)?;
        }
        // Without room the reservation stays what it is, and the next commit starts a new segment.
        let reserved = self.next + RESERVATION;
        let fits = current.end + record_bytes(8) <= layout.ack_end();
        if fits {
            let payload = reserved.to_le_bytes();
            push_record(&mut tail, current.seed(), Kind::Reservation, false, 0, &payload);
        }
        self.file.write_at(&tail, tail_at as u64).map_err(&sync)?;
        self.file.sync().map_err(&sync)?;
        let current = self.current_mut();
        current.end = tail_at + tail.len();
        current.bytes = current.bytes.max(layout.bytes() as u64);
        if fits {
            self.state.reserved = reserved;
        }
        Ok(())
    }

    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<Seq, Error> {
        self.usable()?;
        let max = self.layout.max_payload();
        if payload.len() > max {
            return Err(Error::TooLarge { size: payload.len(), max });
        }
        if self.full {
            return Err(Error::Full);
        }
        if self.next >= self.state.reserved {
            return Err(Error::Uncommitted { records: self.pending.len() });
        }
        let seq = self.next;
        self.next += 1;
        self.pending.push_back(Record { seq, payload: payload.to_vec() });
        Ok(seq)
    }

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
                if self.end_with(&batch, record_bytes(8)) > self.layout_of_current().ack_end() {
                    batch = self.next_segment(batch, &mut written)?;
                } else {
                    let first = batch.bytes.is_empty();
                    let payload = reserved.to_le_bytes();
                    push_record(&mut batch.bytes, seed, Kind::Reservation, first, 0, &payload);
                    batch.reserved = Some(reserved);
                }
            }
            while let Some(record) = self.pending.get(batch.entries.len()) {
                let base = self.current().base;
                let fits = record.seq - base <= MAX_OFFSET
                    && self.end_with(&batch, record_bytes(record.payload.len()))
                        <= self.layout_of_current().data_end();
                if fits {
                    let at = self.end_with(&batch, 0) as u32;
                    let entry = Entry { offset: (record.seq - base) as u32, at };
                    let (seed, first) = (self.current().seed(), batch.bytes.is_empty());
                    push_record(
                        &mut batch.bytes,
                        seed,
                        Kind::Data,
                        first,
                        entry.offset,
                        &record.payload,
                    );
                    batch.entries.push(entry);
                } else {
                    batch = self.next_segment(batch, &mut written)?;
                }
            }
            written += self.flush(batch, None)?;
        }
        self.full = false;
        let dropped = self.state.dropped - dropped_before;
        Ok(Commit { durable: self.durable(), written, dropped })
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
                *written += self.flush(batch, None)?;
                return Err(error);
            }
        }
        Ok(self.new_batch())
    }

    /// Writes and syncs a batch, and the seal if the segment ends with it.
    fn flush(&mut self, batch: Batch, seal: Option<()>) -> Result<u64, Error> {
        if batch.bytes.is_empty() && seal.is_none() {
            return Ok(0);
        }
        let current = self.current();
        let (at, end) = (current.end, current.end + batch.bytes.len());
        let written = self.file.write_at(&batch.bytes, at as u64);
        self.checked("write records", written)?;
        let mut bytes = batch.bytes.len();
        if seal.is_some() {
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
            bytes += crate::format::SEAL_BYTES;
        }
        let synced = self.file.sync();
        self.synced("sync a segment", synced)?;

        self.pending.drain(..batch.entries.len());
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

    /// Seals the current segment, after a loss record if room is made by dropping, and starts the next.
    fn roll(&mut self, mut batch: Batch, loss: Option<Loss>) -> Result<u64, Error> {
        if let Some(loss) = &loss {
            let first = batch.bytes.is_empty();
            let payload = loss.encode(self.state.dropped + loss.count);
            push_record(&mut batch.bytes, self.current().seed(), Kind::Loss, first, 0, &payload);
        }
        let mut written = self.flush(batch, Some(()))?;
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
        self.segments.push(new_segment(number, base, self.layout, start.len()));
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
        self.pending.drain(from..to);
        if self.pending.is_empty() {
            self.full = false;
        }
        self.count_live(first, last)?;
        self.recycle_acknowledged()
    }

    /// Counts the records left in each segment that an acknowledgement touches.
    fn count_live(&mut self, first: Seq, last: Seq) -> Result<(), Error> {
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
        if !segment.scanned {
            self.corrupt += index.damage.len() as u64;
            segment.scanned = true;
        }
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
            limit: self.limit,
            first: self.first_waiting(),
            next: self.next,
            durable: self.durable(),
            dropped: self.state.dropped,
            corrupt: self.corrupt,
            segments: self.segments.len(),
            spares: self.spares.len(),
            ranges: self.state.acknowledged.len(),
        }
    }

    fn first_waiting(&self) -> Seq {
        let held =
            self.segments.iter().find(|segment| segment.live > 0).map(|segment| segment.first);
        let first = held.or(self.pending.front().map(|record| record.seq)).unwrap_or(self.next);
        first.max(self.state.acknowledged.first_missing())
    }

    /// All up to here that is not acknowledged is on disk.
    fn durable(&self) -> Seq {
        self.pending.front().map_or(self.next, |record| record.seq) - 1
    }

    pub(crate) fn losses(&self) -> &[Loss] {
        &self.state.losses
    }

    /// Writes everything, and gives back the sequence numbers reserved.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        self.commit(true)?;
        let payload = self.next.to_le_bytes();
        let mut batch = self.new_batch();
        if self.end_with(&batch, record_bytes(8)) <= self.layout_of_current().ack_end() {
            let (seed, first) = (self.current().seed(), batch.bytes.is_empty());
            push_record(&mut batch.bytes, seed, Kind::Reservation, first, 0, &payload);
            self.flush(batch, None)?;
        }
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
            ranges: ranges[..ranges.len().min(HEADER_SLOTS)].to_vec(),
            replaces: Vec::new(),
        }
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

    fn write_error(&mut self, action: &'static str, error: std::io::Error) -> Error {
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

    fn current_mut(&mut self) -> &mut Segment {
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

pub(crate) fn new_segment(number: u64, base: Seq, layout: Layout, end: usize) -> Segment {
    Segment {
        name: Name::Segment { number, base },
        number,
        base,
        bytes: layout.bytes() as u64,
        end,
        first: base,
        last: base,
        count: 0,
        live: 0,
        scanned: true,
    }
}

/// Makes the segment of an empty queue.
fn first_segment<D: Disk>(
    disk: &D,
    layout: Layout,
    name: Name,
    state: &State,
    next: Seq,
) -> Result<Current<D::File>, Error> {
    let number = name.number();
    let ranges = state.acknowledged.as_slice();
    let header = Header {
        bytes: layout.bytes() as u32,
        number,
        base: next,
        reserved: next + RESERVATION,
        dropped: state.dropped,
        ranges: ranges[..ranges.len().min(HEADER_SLOTS)].to_vec(),
        replaces: Vec::new(),
    };
    let unfinished = Name::Unfinished { number }.to_string();
    let file = prewrite(disk, &unfinished, layout, &header.encode())?;
    let named = disk.rename(&unfinished, &name.to_string()).and_then(|()| disk.sync_names());
    named.map_err(io_error("name the first segment"))?;
    let segment = new_segment(number, next, layout, HEADER_BYTES);
    Ok(Current {
        segment,
        file,
        entries: Vec::new(),
        tail: Vec::new(),
        tail_at: HEADER_BYTES,
        length: layout.bytes(),
        header_is_good: true,
    })
}

/// Makes a file of a segment's length that begins with `start`; nothing is left of it on failure.
pub(crate) fn prewrite<D: Disk>(
    disk: &D,
    name: &str,
    layout: Layout,
    start: &[u8],
) -> Result<D::File, Error> {
    const ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let write = || {
        let file = disk.create(name)?;
        let mut at = 0;
        while at < layout.bytes() {
            let more = ZEROS.len().min(layout.bytes() - at);
            file.write_at(&ZEROS[..more], at as u64)?;
            at += more;
        }
        file.write_at(start, 0)?;
        file.sync()?;
        Ok(file)
    };
    write().map_err(|error| {
        // What cannot be removed now is removed at the next open.
        disk.remove(name).ok();
        io_error("prepare a segment")(error)
    })
}
