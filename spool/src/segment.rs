//! One segment as the queue knows it in memory, and the index of one that is being read.
//!
//! A [`Segment`] is a few dozen bytes however many records it holds; an [`Index`] is made by
//! reading the segment whole, costs 8 bytes a record, and is kept for the segments in use only.

use std::io;

use crate::{
    disk::{Disk, DiskFile, read_all, read_around},
    format::{HEADER_BYTES, Layout, Name, Seed, Seq},
    ranges::RangeSet,
    record::{Found, Item, Kind, Scan, record_at},
};

/// A record that the queue hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub seq: Seq,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// A segment on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) name: Name,
    pub(crate) number: u64,
    pub(crate) base: Seq,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Where its last record ends.
    pub(crate) end: usize,
    /// The first and the last data record, where `count` is not 0.
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    /// How many data records there are.
    pub(crate) count: u32,
    /// How many of them are not acknowledged.
    pub(crate) live: u32,
    /// How much of its damage has been counted: places, and records that went bad one by one.
    pub(crate) damage_counted: u64,
}

impl Segment {
    /// A segment without records that ends at `end`.
    pub(crate) fn empty(number: u64, base: Seq, layout: Layout, end: usize) -> Self {
        Self {
            name: Name::Segment { number, base },
            number,
            base,
            bytes: layout.bytes() as u64,
            end,
            first: base,
            last: base,
            count: 0,
            live: 0,
            damage_counted: 0,
        }
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::new(self.number, self.base)
    }

    /// Whether every sequence number from the first to the last is there, so that records can be
    /// counted without reading.
    pub(crate) fn is_dense(&self) -> bool {
        self.count > 0 && self.last - self.first + 1 == u64::from(self.count)
    }

    /// Counts the records not acknowledged if that needs no index.
    pub(crate) fn count_cheaply(&self, acknowledged: &RangeSet) -> Option<u32> {
        if self.count == 0 || acknowledged.covers(self.first, self.last) {
            return Some(0);
        }
        let hit = acknowledged.count_within(self.first, self.last);
        match hit {
            0 => Some(self.count),
            _ if self.is_dense() => Some(self.count - hit as u32),
            _ => None,
        }
    }

    /// Takes over what a scan found.
    pub(crate) fn learn(&mut self, entries: &[Entry], acknowledged: &RangeSet) {
        self.count = entries.len() as u32;
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.first = self.base + u64::from(first.offset);
            self.last = self.base + u64::from(last.offset);
        }
        self.live = live(entries, self.base, acknowledged).count() as u32;
    }

    /// How many of the damaged places that a look into it met have not been counted before.
    pub(crate) fn count_damage(&mut self, places: &[(usize, usize)]) -> u64 {
        let more = (places.len() as u64).saturating_sub(self.damage_counted);
        self.damage_counted += more;
        more
    }

    /// About how many bytes the records not acknowledged take.
    pub(crate) fn live_bytes(&self) -> usize {
        let used = self.end.saturating_sub(HEADER_BYTES);
        match self.count {
            0 => 0,
            count => used * self.live as usize / count as usize,
        }
    }
}

/// The entries whose records are not acknowledged.
pub(crate) fn live<'a>(
    entries: &'a [Entry],
    base: Seq,
    acknowledged: &'a RangeSet,
) -> impl Iterator<Item = &'a Entry> {
    entries.iter().filter(move |entry| !acknowledged.contains(base + u64::from(entry.offset)))
}

/// Where a data record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its sequence number less the segment's base.
    pub(crate) offset: u32,
    pub(crate) at: u32,
}

/// All that a scan of a segment's bytes tells.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) entries: Vec<Entry>,
    /// Where the last good record ends.
    pub(crate) end: usize,
    /// Where the last commit starts, if a first record of one was found.
    pub(crate) last_commit: Option<usize>,
    pub(crate) damage: Vec<(usize, usize)>,
}

/// Scans the bytes of a segment up to `until`; records other than data go to `other`.
pub(crate) fn scan_bytes(
    bytes: &[u8],
    seed: Seed,
    until: usize,
    mut other: impl FnMut(&Found<'_>),
) -> Scanned {
    let mut scanned = Scanned::default();
    let mut scan = Scan::new(bytes, seed, until);
    for item in scan.by_ref() {
        match item {
            Item::Damage(from, to) => scanned.damage.push((from, to)),
            Item::Record(found) => {
                if found.starts_commit {
                    scanned.last_commit = Some(found.at);
                }
                match found.kind {
                    Kind::Data => {
                        scanned.entries.push(Entry { offset: found.offset, at: found.at as u32 })
                    }
                    _ => other(&found),
                }
            }
        }
    }
    scanned.end = scan.end();
    scanned
}

/// A segment that was read whole.
#[derive(Debug)]
pub(crate) struct Index<F> {
    pub(crate) number: u64,
    pub(crate) file: F,
    pub(crate) entries: Vec<Entry>,
    pub(crate) damage: Vec<(usize, usize)>,
}

impl<F: DiskFile> Index<F> {
    /// Reads a segment that is not the current one.
    pub(crate) fn read(disk: &impl Disk<File = F>, segment: &Segment) -> io::Result<Self> {
        let file = disk.open(&segment.name.to_string())?;
        let bytes = read_all(&file)?;
        let scanned = scan_bytes(&bytes, segment.seed(), segment.end, |_| {});
        let mut damage = scanned.damage;
        if scanned.end < segment.end {
            damage.push((scanned.end, segment.end));
        }
        Ok(Self { number: segment.number, file, entries: scanned.entries, damage })
    }
}

/// How much to read and what is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) from: Seq,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// Collects records until enough are there; the first is taken whatever its size.
#[derive(Debug)]
pub(crate) struct Basket {
    wanted: Wanted,
    bytes: usize,
    pub(crate) records: Vec<Record>,
}

impl Basket {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { wanted, bytes: 0, records: Vec::new() }
    }

    pub(crate) fn from(&self) -> Seq {
        self.wanted.from
    }

    /// Whether the record found room.
    pub(crate) fn push(&mut self, seq: Seq, payload: &[u8]) -> bool {
        let fits = self.records.len() < self.wanted.records
            && (self.records.is_empty() || self.bytes + payload.len() <= self.wanted.bytes);
        if fits {
            self.bytes += payload.len();
            self.records.push(Record { seq, payload: payload.to_vec() });
        }
        fits
    }
}

/// What came of filling a [`Basket`] from one segment.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// The basket is full.
    pub(crate) enough: bool,
    /// Records that were there at the scan and do not check out any more.
    pub(crate) lost: Vec<Seq>,
}

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// Takes the records not acknowledged of one segment, in order; each CRC is checked again.
pub(crate) fn fill(
    basket: &mut Basket,
    segment: &Segment,
    file: &impl DiskFile,
    entries: &[Entry],
    acknowledged: &RangeSet,
) -> io::Result<Filled> {
    let mut filled = Filled::default();
    let seed = segment.seed();
    let from =
        entries.partition_point(|entry| segment.base + u64::from(entry.offset) < basket.from());
    let (mut chunk, mut chunk_at) = (Vec::new(), 0);
    for entry in live(&entries[from..], segment.base, acknowledged) {
        let (seq, at) = (segment.base + u64::from(entry.offset), entry.at as usize);
        let mut found = at
            .checked_sub(chunk_at)
            .and_then(|within| record_at(&chunk, seed, within, chunk.len()));
        if found.is_none() {
            // Not in the chunk, or cut by its end: read on from here. No record is longer than
            // this.
            chunk.resize(
                CHUNK.max(usize::from(u16::MAX) + 16).min(segment.end.saturating_sub(at)),
                0,
            );
            let read = read_around(file, &mut chunk, at as u64)?;
            chunk.truncate(read);
            chunk_at = at;
            found = record_at(&chunk, seed, 0, chunk.len());
        }
        match found {
            Some(found) if found.kind == Kind::Data && found.offset == entry.offset => {
                if !basket.push(seq, found.payload) {
                    filled.enough = true;
                    break;
                }
            }
            _ => filled.lost.push(seq),
        }
    }
    Ok(filled)
}
