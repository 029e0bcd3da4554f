//! Reading a folder: what is in it, without changing it. Writer and reader start from this.
//!
//! The rules are those under "Recovery" in `format.rs`. Of most segments only the header and the
//! seal are read.

use std::{collections::BTreeSet, io};

use crate::{
    disk::{Disk, DiskFile, read_all, read_around},
    format::{
        HEADER_BYTES, Header, MAX_LOSSES, MAX_OFFSET, MAX_SEQ, Name, RESERVATION, SEAL_BYTES, Seal,
        Seq,
    },
    ranges::RangeSet,
    record::{Kind, Loss, fill_gap, pairs, reservation},
    segment::{Entry, Index, Segment, live, scan_bytes},
};

/// What a folder contains.
#[derive(Debug)]
pub(crate) struct Loaded<F> {
    /// In the order of their records; without the current one.
    pub(crate) sealed: Vec<Segment>,
    pub(crate) current: Option<Current<F>>,
    pub(crate) state: State,
    /// The next sequence number that was certainly never issued.
    pub(crate) next: Seq,
    pub(crate) spares: Vec<u64>,
    /// Unfinished spares.
    pub(crate) leftovers: Vec<Name>,
    /// Segments whose records are all elsewhere.
    pub(crate) replaced: Vec<Name>,
    pub(crate) last_number: u64,
    /// Damaged places that had been synced.
    pub(crate) corrupt: u64,
    /// Bytes skipped in a commit that was under way.
    pub(crate) torn: u64,
    pub(crate) broken_headers: u64,
    /// Damaged places in which a later reservation than the last one found may have been.
    hidden_reservations: u64,
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Current<F> {
    pub(crate) segment: Segment,
    pub(crate) file: F,
    pub(crate) entries: Vec<Entry>,
    /// Damaged places that had been synced.
    pub(crate) corrupt: Vec<(usize, usize)>,
    /// The bytes from the last commit's start to the end, and where they begin.
    pub(crate) tail: Vec<u8>,
    pub(crate) tail_at: usize,
    /// The length that the file should have.
    pub(crate) length: usize,
    pub(crate) header_is_good: bool,
}

/// What the headers and the records other than data say.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) acknowledged: RangeSet,
    pub(crate) losses: Vec<Loss>,
    pub(crate) dropped: u64,
    pub(crate) reserved: Seq,
    pub(crate) limit: u64,
    /// The largest sequence number that any record names.
    seen: Seq,
}

impl State {
    fn from_header(header: &Header) -> Self {
        let Header { reserved, dropped, limit, .. } = *header;
        let mut state = Self { reserved, dropped, limit, ..Self::default() };
        header.ranges.iter().for_each(|range| state.acknowledge(*range));
        state
    }

    fn acknowledge(&mut self, (first, last): (Seq, Seq)) {
        if last <= MAX_SEQ {
            self.acknowledged.insert(first, last);
            self.seen = self.seen.max(last);
        }
    }

    fn apply(&mut self, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Acknowledgement => pairs(payload).for_each(|range| self.acknowledge(range)),
            Kind::Reservation => self.reserved = reservation(payload).unwrap_or(self.reserved),
            Kind::Loss => {
                if let Some((loss, total)) = Loss::decode(payload) {
                    self.dropped = self.dropped.max(total);
                    self.lose(loss);
                }
            }
            Kind::Data | Kind::Filler | Kind::Unknown(_) => {}
        }
    }

    /// Takes note of a loss, unless it is known already, and keeps the list bounded.
    pub(crate) fn lose(&mut self, loss: Loss) {
        self.acknowledge((0, loss.last));
        if self.losses.iter().any(|known| known.last >= loss.last) {
            return;
        }
        self.losses.push(loss);
        if self.losses.len() > MAX_LOSSES {
            let oldest = self.losses.remove(0);
            let next = &mut self.losses[0];
            next.first = oldest.first;
            next.count += oldest.count;
        }
    }
}

/// A file with a segment's name.
struct Candidate<F> {
    segment: Segment,
    /// The length that the file should have.
    length: usize,
    carried: bool,
    header: Option<Header>,
    file: F,
    sealed: bool,
}

/// Reads the folder.
pub(crate) fn load<D: Disk>(disk: &D) -> io::Result<Loaded<D::File>> {
    let mut loaded = Loaded {
        sealed: Vec::new(),
        current: None,
        state: State::default(),
        next: 1,
        spares: Vec::new(),
        leftovers: Vec::new(),
        replaced: Vec::new(),
        last_number: 0,
        corrupt: 0,
        torn: 0,
        broken_headers: 0,
        hidden_reservations: 0,
    };
    let mut candidates = Vec::new();
    for name in disk.list()?.iter().filter_map(|name| Name::parse(name)) {
        loaded.last_number = loaded.last_number.max(name.number());
        match name {
            Name::Spare { number } => loaded.spares.push(number),
            Name::Unfinished { .. } => loaded.leftovers.push(name),
            Name::Segment { number, base } => {
                candidates.push(look_at(disk, name, (number, base), false)?);
            }
            Name::Carried { number, base } => {
                candidates.push(look_at(disk, name, (number, base), true)?);
            }
        }
    }
    loaded.broken_headers = candidates.iter().filter(|c| c.header.is_none()).count() as u64;
    loaded.spares.sort_unstable();
    candidates.sort_by_key(|c| (c.segment.base, c.segment.number));
    let candidates = without_replaced(candidates, &mut loaded.replaced);

    let newest = candidates.iter().filter(|c| !c.carried).map(|c| c.segment.number).max();
    // The newest ordinary segment with a good header has the state; what came after adds to it.
    let told = candidates.iter().filter(|c| !c.carried && c.header.is_some());
    let told = told.max_by_key(|c| c.segment.number);
    if let Some(header) = told.and_then(|c| c.header.as_ref()) {
        loaded.state = State::from_header(header);
    }
    let told = told.map_or(0, |c| c.segment.number);

    for candidate in candidates {
        let number = candidate.segment.number;
        loaded.next = loaded.next.max(candidate.segment.base);
        let current = Some(number) == newest;
        let tells = !candidate.carried && number >= told;
        if current || tells || !candidate.sealed {
            scan_whole(&mut loaded, candidate, current, tells)?;
        } else {
            loaded.next = loaded.next.max(candidate.segment.last + 1);
            loaded.sealed.push(candidate.segment);
        }
    }
    finish(disk, &mut loaded)?;
    Ok(loaded)
}

/// Reads what a segment's header and seal say.
fn look_at<D: Disk>(
    disk: &D,
    name: Name,
    (number, base): (u64, Seq),
    carried: bool,
) -> io::Result<Candidate<D::File>> {
    let file = disk.open(&name.to_string())?;
    let bytes = file.bytes()?;
    let mut page = vec![0; HEADER_BYTES];
    let read = read_around(&file, &mut page, 0)?;
    if let Some(version) = Header::other_version(&page[..read]) {
        let what = format!("{name} has format {version}, which this program does not know");
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let header = Header::decode(&page[..read]).filter(|h| h.number == number && h.base == base);
    let length = header.as_ref().map_or(bytes, |h| u64::from(h.bytes));
    let mut seal = [0; SEAL_BYTES];
    let read = read_around(&file, &mut seal, length.saturating_sub(SEAL_BYTES as u64))?;
    let seal = Seal::decode(&seal[..read], number).filter(|seal| {
        let in_order = base <= seal.first && seal.first <= seal.last;
        u64::from(seal.end) <= length
            && (seal.count == 0 || in_order && seal.last - base <= MAX_OFFSET)
    });
    let segment = Segment {
        name,
        number,
        base,
        bytes,
        end: seal.map_or(length, |s| u64::from(s.end)) as usize,
        first: seal.map_or(base, |s| s.first.max(base)),
        last: seal.map_or(base, |s| s.last.max(base)),
        count: seal.map_or(0, |s| s.count),
        live: 0,
        damage_counted: 0,
    };
    let length = length as usize;
    Ok(Candidate { segment, length, carried, header, file, sealed: seal.is_some() })
}

/// Leaves out what carried segments replace, and carried segments that cannot say what they replace
/// while the originals are still there.
fn without_replaced<F>(candidates: Vec<Candidate<F>>, gone: &mut Vec<Name>) -> Vec<Candidate<F>> {
    let replaced: BTreeSet<u64> = candidates
        .iter()
        .filter(|c| c.carried)
        .filter_map(|c| c.header.as_ref())
        .flat_map(|header| header.replaces.iter().copied())
        .collect();
    let (kept, out): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|c| !replaced.contains(&c.segment.number));
    gone.extend(out.iter().map(|c| c.segment.name));
    let spans: Vec<_> =
        kept.iter().map(|c| (c.segment.number, c.segment.base, c.segment.last)).collect();
    let (kept, out): (Vec<_>, Vec<_>) = kept.into_iter().partition(|c| {
        let own = &c.segment;
        let overlaps = |(number, base, last): &(u64, Seq, Seq)| {
            *number != own.number && *base <= own.last && own.base <= *last
        };
        !(c.carried && c.header.is_none() && spans.iter().any(overlaps))
    });
    gone.extend(out.iter().map(|c| c.segment.name));
    kept
}

/// Reads a segment whole: the current one, one without a seal, or one whose records matter because
/// a header after it is broken.
fn scan_whole<F: DiskFile>(
    loaded: &mut Loaded<F>,
    candidate: Candidate<F>,
    current: bool,
    tells: bool,
) -> io::Result<()> {
    let Candidate { mut segment, length, header, file, sealed, .. } = candidate;
    let bytes = read_all(&file)?;
    let until = match sealed && !current {
        true => segment.end,
        false => length.saturating_sub(SEAL_BYTES),
    };
    let state = &mut loaded.state;
    let mut last_reservation = 0;
    let mut scanned = scan_bytes(&bytes, segment.seed(), until, |found| {
        if tells {
            state.apply(found.kind, found.payload);
            if found.kind == Kind::Reservation {
                last_reservation = found.at;
            }
        }
    });
    segment.learn(&scanned.entries, &RangeSet::default());
    // What is torn is written over, and short gaps that no filler fits into are not met as new.
    segment.damage_counted = scanned.damage.len() as u64;
    segment.end = scanned.end;
    if !current && (!sealed || scanned.end < until) {
        // All but the current one were sealed behind their last record.
        segment.end = until.max(scanned.end);
        scanned.damage.push((scanned.end, segment.end));
    }
    if segment.count > 0 {
        loaded.next = loaded.next.max(segment.last + 1);
    }
    let synced = if current { scanned.last_commit.unwrap_or(0) } else { usize::MAX };
    for (from, to) in &scanned.damage {
        if *to <= synced {
            loaded.corrupt += 1;
        } else {
            loaded.torn += (to - from) as u64;
        }
        if tells && *from > last_reservation {
            loaded.hidden_reservations += 1;
        }
    }
    if current {
        // A file has its full length before it has its name: a shorter one was cut off, and what is
        // missing had been synced, as far as there was anything.
        let cut_off = bytes.len() < length;
        loaded.corrupt += u64::from(cut_off);
        let tail_at = scanned.last_commit.unwrap_or(HEADER_BYTES).min(scanned.end);
        let mut tail = bytes.get(tail_at..).unwrap_or_default().to_vec();
        // The last record's padding may be missing from a truncated file.
        tail.resize(scanned.end - tail_at, 0);
        for (from, to) in scanned.damage.iter().filter(|(_, to)| *to > synced) {
            fill_gap(&mut tail[from - tail_at..to - tail_at], segment.seed());
        }
        loaded.current = Some(Current {
            tail,
            tail_at,
            segment,
            file,
            entries: scanned.entries,
            corrupt: scanned
                .damage
                .into_iter()
                .filter(|(_, to)| *to <= synced)
                .chain(cut_off.then_some((bytes.len(), length)))
                .collect(),
            length,
            header_is_good: header.is_some(),
        });
    } else {
        loaded.sealed.push(segment);
    }
    Ok(())
}

/// Computes what follows from all segments together.
fn finish<D: Disk>(disk: &D, loaded: &mut Loaded<D::File>) -> io::Result<()> {
    let State { seen, reserved, .. } = loaded.state;
    loaded.next = loaded.next.max(reserved.min(MAX_SEQ)).max(seen + 1);
    loaded.next += loaded.hidden_reservations * RESERVATION;
    if loaded.current.as_ref().is_some_and(|current| !current.header_is_good) {
        // Its reservation is not known; its base is, and no number is further from it than this.
        loaded.next += MAX_OFFSET + RESERVATION;
    }
    let oldest = loaded.sealed.first().or(loaded.current.as_ref().map(|c| &c.segment));
    let oldest = oldest.map_or(1, |segment| segment.base);
    let acknowledged = &mut loaded.state.acknowledged;
    acknowledged.insert(0, oldest.saturating_sub(1));
    // What was issued after the last record on disk never became durable.
    match &loaded.current {
        Some(Current { segment, .. }) if segment.count == 0 => {
            acknowledged.insert(segment.base, loaded.next - 1);
        }
        Some(Current { segment, .. }) => {
            acknowledged.insert(segment.last + 1, loaded.next - 1);
        }
        None => {
            let after = loaded.sealed.last().map_or(1, |segment| segment.last + 1);
            acknowledged.insert(after, loaded.next - 1);
        }
    }
    if let Some(current) = &mut loaded.current {
        let segment = &mut current.segment;
        segment.live = live(&current.entries, segment.base, acknowledged).count() as u32;
    }
    for segment in &mut loaded.sealed {
        segment.live = match segment.count_cheaply(acknowledged) {
            Some(live) => live,
            None => {
                let index = Index::read(disk, segment)?;
                loaded.corrupt += segment.count_damage(&index.damage);
                segment.learn(&index.entries, acknowledged);
                segment.live
            }
        };
    }
    Ok(())
}
