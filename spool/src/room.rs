//! Room for the next segment: spares, recycling, carrying forward, dropping the oldest.
//!
//! In this order, when the current segment is full:
//!
//! 1. While the segments in use leave room under the limit: a spare, or a newly written one.
//! 2. Otherwise neighbours with so few records left that they fit into one segment are carried
//!    forward into one, which frees the others. They are written to a spare first, so with a limit
//!    of four segments or more, one is kept back for that.
//! 3. Otherwise the oldest segments are dropped: first the loss record, synced, then their files
//!    are used again.
//!
//! Carrying forward also keeps the acknowledged ranges few: a carried segment contains no
//! acknowledged records, so the ranges within it need not be remembered.

use crate::{
    disk::{Disk, DiskFile},
    engine::Engine,
    error::{Error, io_error},
    format::{HEADER_BYTES, HEADER_SLOTS, Header, Layout, MAX_OFFSET, Name, Seal, Seed, Seq},
    record::{Kind, Loss, Reason, push_record},
    segment::{Basket, Entry, Segment, Wanted, fill, live},
};

impl<D: Disk> Engine<D> {
    /// Sees to it that the next segment can be started; returns what has to be dropped for it.
    pub(crate) fn make_room(&mut self) -> Result<Option<Loss>, Error> {
        if self.state.acknowledged.len() > HEADER_SLOTS {
            // Best effort: what does not fit into a header follows it.
            self.carry_most_scattered()?;
        }
        while self.in_use() + self.segment_bytes() > self.data_limit() {
            if self.carry_sparse()? {
                continue;
            }
            if self.current().end > self.layout_of_current().ack_end() {
                // Its room for a loss record was used before a crash; the limit waits for one
                // segment.
                break;
            }
            match self.oldest_beyond_limit() {
                Some(loss) if loss.count > 0 => return Ok(Some(loss)),
                Some(_) => self.recycle_acknowledged()?,
                None => break,
            }
        }
        if self.spares.is_empty() {
            self.add_spare()?;
        }
        Ok(None)
    }

    /// Prepares one more spare if the limit allows.
    pub(crate) fn prepare(&mut self) -> Result<bool, Error> {
        self.usable()?;
        if self.on_disk() + self.segment_bytes() > self.state.limit {
            return Ok(false);
        }
        self.add_spare()?;
        Ok(true)
    }

    fn add_spare(&mut self) -> Result<(), Error> {
        let number = self.take_number();
        let unfinished = Name::Unfinished { number }.to_string();
        prewrite(&self.disk, &unfinished, self.layout, &[])?;
        let spare = Name::Spare { number }.to_string();
        self.disk.rename(&unfinished, &spare).map_err(io_error("name a spare segment"))?;
        self.spares.push(number);
        let synced = self.disk.sync_names();
        self.synced("sync the folder", synced)
    }

    /// A spare's number and file; its name as a spare is durable, so it may be overwritten.
    pub(crate) fn take_spare(&mut self) -> Result<(u64, D::File), Error> {
        if self.names_dirty {
            let synced = self.disk.sync_names();
            self.synced("sync the folder", synced)?;
            self.names_dirty = false;
        }
        if self.spares.is_empty() {
            self.add_spare()?;
        }
        // Never empty here; a full disk was reported by the line above.
        let number = self.spares.pop().ok_or(Error::Full)?;
        let file = self.disk.open(&Name::Spare { number }.to_string());
        Ok((number, file.map_err(io_error("open a spare segment"))?))
    }

    /// Makes spares of the segments without a record left.
    pub(crate) fn recycle_acknowledged(&mut self) -> Result<(), Error> {
        while let Some(at) = self.sealed().find(|at| self.segments[*at].live == 0) {
            let (name, bytes) = (self.segments[at].name, self.segments[at].bytes);
            self.make_spare(name, bytes, self.on_disk() <= self.state.limit)?;
            let segment = self.segments.remove(at);
            self.indexes.retain(|index| index.number != segment.number);
            // Whatever lies before the first segment is gone.
            let first = self.segments[0].base;
            self.state.acknowledged.insert(0, first.saturating_sub(1));
        }
        Ok(())
    }

    /// Keeps a segment's file as a spare, or removes it if it has another length or is one too
    /// many.
    fn make_spare(&mut self, name: Name, bytes: u64, within_limit: bool) -> Result<(), Error> {
        self.names_dirty = true;
        let number = name.number();
        if bytes != self.segment_bytes() || !within_limit {
            let removed = self.disk.remove(&name.to_string());
            return removed.map_err(io_error("remove a segment"));
        }
        let spare = Name::Spare { number }.to_string();
        self.disk.rename(&name.to_string(), &spare).map_err(io_error("recycle a segment"))?;
        self.spares.push(number);
        Ok(())
    }

    /// What an open finds beside the segments: keeps usable spares within the limit.
    pub(crate) fn sort_out_spares(
        &mut self,
        spares: Vec<u64>,
        leftovers: &[Name],
        replaced: &[Name],
    ) -> Result<(), Error> {
        let tidy = io_error("remove leftovers");
        for name in leftovers {
            self.disk.remove(&name.to_string()).map_err(&tidy)?;
        }
        let names = spares.into_iter().map(|number| Name::Spare { number });
        for name in names.chain(replaced.iter().copied()) {
            let file = self.disk.open(&name.to_string()).map_err(&tidy)?;
            let bytes = file.bytes().map_err(&tidy)?;
            self.make_spare(name, bytes, self.on_disk() + bytes <= self.state.limit)?;
        }
        Ok(())
    }

    /// Carries the first neighbours forward that fit into one segment together.
    fn carry_sparse(&mut self) -> Result<bool, Error> {
        let room = self.layout.data_end() - HEADER_BYTES;
        let sealed = self.sealed().end;
        for from in 0..sealed.saturating_sub(1) {
            let mut bytes = 0;
            let run = self.segments[from..sealed].iter().take(HEADER_SLOTS).take_while(|segment| {
                bytes += segment.live_bytes();
                bytes <= room && segment.last - self.segments[from].base <= MAX_OFFSET
            });
            let to = from + run.count();
            if to - from >= 2 {
                return self.carry(from, to, 2);
            }
        }
        Ok(false)
    }

    /// Writes the segment again that most of the acknowledged ranges lie in.
    pub(crate) fn carry_most_scattered(&mut self) -> Result<bool, Error> {
        let within =
            |segment: &Segment| self.state.acknowledged.ranges_within(segment.first, segment.last);
        let most = self.sealed().max_by_key(|at| within(&self.segments[*at]));
        match most {
            Some(at) if within(&self.segments[at]) > 1 => self.carry(at, at + 1, 1),
            _ => Ok(false),
        }
    }

    /// Writes the records left in segments `from..to` to one new segment in their place, if at
    /// least `least` of the segments find room in it and there is a file for it.
    fn carry(&mut self, from: usize, to: usize, least: usize) -> Result<bool, Error> {
        if self.spares.is_empty() {
            let allowed = self.on_disk() + self.segment_bytes() <= self.state.limit;
            match if allowed { self.add_spare() } else { Err(Error::Full) } {
                Ok(()) => {}
                Err(Error::Full) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let number = self.take_number();
        let base = self.segments[from].base;
        let seed = Seed::new(number, base);
        let mut bytes = vec![0; HEADER_BYTES];
        let mut entries: Vec<Entry> = Vec::new();
        let mut taken = from;
        while taken < to {
            let (more_bytes, more_entries) =
                self.carried_records(taken, seed, base, bytes.len())?;
            if bytes.len() + more_bytes.len() > self.layout.data_end() {
                break;
            }
            bytes.extend_from_slice(&more_bytes);
            entries.extend_from_slice(&more_entries);
            taken += 1;
        }
        if taken - from < least {
            return Ok(false);
        }

        let replaces = self.segments[from..taken].iter().map(|segment| segment.number).collect();
        let header =
            Header { ranges: Vec::new(), replaces, ..self.header(number, base, self.layout, 0) };
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        let mut segment = Segment::empty(number, base, self.layout, bytes.len());
        segment.name = Name::Carried { number, base };
        segment.learn(&entries, &self.state.acknowledged);
        let seal = Seal {
            number,
            first: segment.first,
            last: segment.last,
            count: segment.count,
            end: bytes.len() as u32,
        };
        bytes.resize(self.layout.seal_at(), 0);
        bytes.extend_from_slice(&seal.encode());
        self.start_segment(segment.name, &bytes)?;

        let span_end = self.segments[taken].base.saturating_sub(1);
        let replaced: Vec<Segment> = self.segments.splice(from..taken, [segment]).collect();
        for old in replaced {
            self.indexes.retain(|index| index.number != old.number);
            self.make_spare(old.name, old.bytes, self.on_disk() + old.bytes <= self.state.limit)?;
        }
        self.state.acknowledged.forget_within(base.max(1), span_end);
        self.unsaved.forget_within(base.max(1), span_end);
        self.recycle_acknowledged()?;
        Ok(true)
    }

    /// The records left in a segment, encoded for another one, to be placed from `at` on.
    fn carried_records(
        &mut self,
        segment: usize,
        seed: Seed,
        base: Seq,
        at: usize,
    ) -> Result<(Vec<u8>, Vec<Entry>), Error> {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        let index = self.index(segment)?;
        let segment = &self.segments[segment];
        let index = &self.indexes[index];
        let wanted = Wanted { from: 0, records: usize::MAX, bytes: usize::MAX };
        let mut basket = Basket::new(wanted);
        let acknowledged = &self.state.acknowledged;
        let filled = fill(&mut basket, segment, &index.file, &index.entries, acknowledged);
        self.corrupt += filled.map_err(io_error("read a segment"))?.lost.len() as u64;
        for record in basket.records {
            let offset = (record.seq - base) as u32;
            entries.push(Entry { offset, at: (at + bytes.len()) as u32 });
            push_record(&mut bytes, seed, Kind::Data, false, offset, &record.payload);
        }
        Ok((bytes, entries))
    }

    /// The loss of as many of the oldest segments as the limit demands.
    ///
    /// `None`: there is only the current segment. Count 0: there was nothing in them to lose.
    fn oldest_beyond_limit(&mut self) -> Option<Loss> {
        let limit = self.data_limit();
        let mut loss = Loss { first: 0, last: 0, count: 0, reason: Reason::Limit, note: self.note };
        let mut in_use = self.in_use() + self.segment_bytes();
        for at in self.sealed() {
            if in_use <= limit {
                break;
            }
            in_use -= self.segments[at].bytes;
            // The index makes the count exact; a segment that cannot be read counts as it was
            // known.
            let (mut first, mut last) = (self.segments[at].first, self.segments[at].last);
            if let Ok(index) = self.index(at) {
                let base = self.segments[at].base;
                let seqs = || {
                    live(&self.indexes[index].entries, base, &self.state.acknowledged)
                        .map(|entry| base + u64::from(entry.offset))
                };
                first = seqs().next().unwrap_or(first);
                last = seqs().last().unwrap_or(last);
            }
            if self.segments[at].live > 0 {
                loss.first = if loss.count == 0 { first } else { loss.first };
                loss.last = last;
                loss.count += u64::from(self.segments[at].live);
            }
        }
        (!self.sealed().is_empty()).then_some(loss)
    }

    fn segment_bytes(&self) -> u64 {
        self.layout.bytes() as u64
    }

    /// What the segments may take: one is kept back for carrying where there are enough.
    fn data_limit(&self) -> u64 {
        match self.state.limit / self.segment_bytes() {
            0..4 => self.state.limit,
            _ => self.state.limit - self.segment_bytes(),
        }
    }

    fn in_use(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Segments and spares.
    pub(crate) fn on_disk(&self) -> u64 {
        self.in_use() + self.spares.len() as u64 * self.segment_bytes()
    }
}

/// Makes a file of a segment's length that begins with `start`; nothing is left of it on failure.
pub(crate) fn prewrite<D: Disk>(
    disk: &D,
    name: &str,
    layout: Layout,
    start: &[u8],
) -> Result<D::File, Error> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
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
