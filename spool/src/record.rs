//! Records: encoding, decoding, and finding the next good one behind damage.
//!
//! The layout is described in `format.rs`.

use crate::{
    format::{HEADER_BYTES, HEADER_SLOTS, MAX_OFFSET, Seed, Seq, put_u64, u16_at, u32_at, u64_at},
    ranges::RangeSet,
};

pub(crate) const RECORD_HEAD: usize = 10;
/// The payload of a loss record.
pub(crate) const LOSS_BYTES: usize = 41;
/// Kind byte, bit 7: everything before this record was synced when it was written.
const STARTS_COMMIT: u8 = 0x80;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Acknowledgement,
    Loss,
    Reservation,
    /// Stands where a torn commit was.
    Filler,
    /// Written by a later version; skipped. `T`, thinning, is set aside for one.
    Unknown(u8),
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Data => b'D',
            Self::Acknowledgement => b'A',
            Self::Loss => b'L',
            Self::Reservation => b'R',
            Self::Filler => b'F',
            Self::Unknown(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            b'D' => Self::Data,
            b'A' => Self::Acknowledgement,
            b'L' => Self::Loss,
            b'R' => Self::Reservation,
            b'F' => Self::Filler,
            other => Self::Unknown(other),
        }
    }
}

/// Why records were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The queue had reached its limit.
    Limit,
    /// A reason that a later version knows.
    Unknown(u8),
}

/// Records that were dropped without having been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The first record lost.
    pub first: Seq,
    /// The last record lost; records between the two that had been acknowledged are not lost.
    pub last: Seq,
    /// How many were lost.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// What the owner had last set with [`Spool::set_note`](crate::Spool::set_note).
    pub note: u64,
}

impl Loss {
    /// The payload of a loss record; `total` counts all that was ever dropped, this included.
    pub(crate) fn encode(&self, total: u64) -> Vec<u8> {
        let mut payload = vec![0; LOSS_BYTES];
        put_u64(&mut payload, 0, self.first);
        put_u64(&mut payload, 8, self.last);
        put_u64(&mut payload, 16, self.count);
        put_u64(&mut payload, 24, total);
        put_u64(&mut payload, 32, self.note);
        payload[40] = match self.reason {
            Reason::Limit => 1,
            Reason::Unknown(byte) => byte,
        };
        payload
    }

    /// The loss and the total.
    pub(crate) fn decode(payload: &[u8]) -> Option<(Self, u64)> {
        if payload.len() < LOSS_BYTES {
            return None;
        }
        let reason = match payload[40] {
            1 => Reason::Limit,
            other => Reason::Unknown(other),
        };
        let loss = Self {
            first: u64_at(payload, 0),
            last: u64_at(payload, 8),
            count: u64_at(payload, 16),
            note: u64_at(payload, 32),
            reason,
        };
        Some((loss, u64_at(payload, 24)))
    }
}

/// One record as it stands in a segment's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) at: usize,
    /// Where the next record starts.
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    pub(crate) starts_commit: bool,
    pub(crate) offset: u32,
    pub(crate) payload: &'a [u8],
}

/// The bytes that a record with this payload takes.
pub(crate) fn record_bytes(payload: usize) -> usize {
    (RECORD_HEAD + payload).next_multiple_of(2)
}

/// Appends one record. The caller keeps `offset` and `payload` within the limits of the segment.
pub(crate) fn push_record(
    out: &mut Vec<u8>,
    seed: Seed,
    kind: Kind,
    starts_commit: bool,
    offset: u32,
    payload: &[u8],
) {
    debug_assert!(u64::from(offset) <= MAX_OFFSET && payload.len() <= usize::from(u16::MAX));
    let flag = if starts_commit { STARTS_COMMIT } else { 0 };
    let [o0, o1, o2, _] = offset.to_le_bytes();
    let [l0, l1] = (payload.len() as u16).to_le_bytes();
    let head = [kind.byte() | flag, o0, o1, o2, l0, l1];
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed.crc(), &head), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    if payload.len() % 2 == 1 {
        out.push(0);
    }
}

/// Appends acknowledgement records for all ranges.
pub(crate) fn push_ranges(
    out: &mut Vec<u8>,
    seed: Seed,
    mut starts_commit: bool,
    ranges: &[(Seq, Seq)],
) {
    for chunk in ranges.chunks(RANGES_A_RECORD) {
        let payload: Vec<u8> = chunk
            .iter()
            .flat_map(|(first, last)| [*first, *last])
            .flat_map(u64::to_le_bytes)
            .collect();
        push_record(out, seed, Kind::Acknowledgement, starts_commit, 0, &payload);
        starts_commit = false;
    }
}

const RANGES_A_RECORD: usize = 4095;

/// The bytes that [`push_ranges`] takes.
pub(crate) fn ranges_bytes(ranges: usize) -> usize {
    ranges.div_ceil(RANGES_A_RECORD) * RECORD_HEAD + ranges * 16
}

/// The record at `at`, if one checks out there and ends by `end`.
pub(crate) fn record_at(bytes: &[u8], seed: Seed, at: usize, end: usize) -> Option<Found<'_>> {
    let bytes = bytes.get(..end.min(bytes.len()))?;
    let head = bytes.get(at..at + RECORD_HEAD)?;
    let payload = bytes.get(at + RECORD_HEAD..at + RECORD_HEAD + usize::from(u16_at(head, 8)))?;
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed.crc(), &head[4..]), payload);
    (crc == u32_at(head, 0)).then(|| Found {
        at,
        end: at + record_bytes(payload.len()),
        kind: Kind::from_byte(head[4] & !STARTS_COMMIT),
        starts_commit: head[4] & STARTS_COMMIT != 0,
        offset: u32::from_le_bytes([head[5], head[6], head[7], 0]),
        payload,
    })
}

/// What [`Scan`] meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Record(Found<'a>),
    /// No record checks out from the first position on; one does at the second.
    Damage(usize, usize),
}

/// Walks over the records of a segment and skips what does not check out.
///
/// It ends where no further record is found; [`Scan::end`] is then the end of the last good one.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    seed: Seed,
    at: usize,
    until: usize,
    last_offset: Option<u32>,
}

impl<'a> Scan<'a> {
    /// Scans the records of a whole segment file up to position `until`.
    pub(crate) fn new(bytes: &'a [u8], seed: Seed, until: usize) -> Self {
        Self { bytes, seed, at: HEADER_BYTES, until: until.min(bytes.len()), last_offset: None }
    }

    pub(crate) fn end(&self) -> usize {
        self.at
    }

    fn good(&self, at: usize) -> Option<Found<'a>> {
        let found = record_at(self.bytes, self.seed, at, self.until)?;
        let in_order = found.kind != Kind::Data || Some(found.offset) > self.last_offset;
        in_order.then_some(found)
    }

    /// Whether the bytes at `at` are worth a CRC: data has one kind byte, all others no offset.
    fn plausible(&self, at: usize) -> bool {
        match self.bytes.get(at + 4..at + 8) {
            Some(&[kind, o0, o1, o2]) => {
                let kind = kind & !STARTS_COMMIT;
                kind == b'D' || (kind != 0 && [o0, o1, o2] == [0, 0, 0])
            }
            _ => false,
        }
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if let Some(found) = self.good(self.at) {
            self.at = found.end;
            if found.kind == Kind::Data {
                self.last_offset = Some(found.offset);
            }
            return Some(Item::Record(found));
        }
        let from = self.at;
        let next = (from + 2..self.until)
            .step_by(2)
            .find(|at| self.plausible(*at) && self.good(*at).is_some())?;
        self.at = next;
        Some(Item::Damage(from, next))
    }
}

/// The ranges in an acknowledgement's payload.
pub(crate) fn pairs(payload: &[u8]) -> impl Iterator<Item = (Seq, Seq)> + '_ {
    payload.chunks_exact(16).map(|pair| (u64_at(pair, 0), u64_at(pair, 8)))
}

/// Writes fillers over a damaged place. One too short for a record stays as it is.
pub(crate) fn fill_gap(mut gap: &mut [u8], seed: Seed) {
    const LONGEST: usize = 32 * 1024;
    while gap.len() >= RECORD_HEAD {
        // What would be left over is too short for a filler of its own.
        let bytes = match gap.len() {
            all @ ..=LONGEST => all,
            _ => LONGEST - RECORD_HEAD,
        };
        let mut filler = Vec::with_capacity(bytes);
        push_record(&mut filler, seed, Kind::Filler, false, 0, &vec![0; bytes - RECORD_HEAD]);
        let (place, rest) = gap.split_at_mut(bytes);
        place.copy_from_slice(&filler);
        gap = rest;
    }
}

/// The bytes that [`push_reservation`] takes.
pub(crate) const RESERVATION_BYTES: usize = 2 * (RECORD_HEAD + 8);

/// Appends a reservation, twice: as the last records, one of them damaged would not be missed.
pub(crate) fn push_reservation(out: &mut Vec<u8>, seed: Seed, starts_commit: bool, reserved: Seq) {
    let payload = reserved.to_le_bytes();
    push_record(out, seed, Kind::Reservation, starts_commit, 0, &payload);
    push_record(out, seed, Kind::Reservation, false, 0, &payload);
}

/// The number in a reservation's payload.
pub(crate) fn reservation(payload: &[u8]) -> Option<Seq> {
    (payload.len() >= 8).then(|| u64_at(payload, 0))
}

/// What the start of a new segment repeats behind its header: ranges beyond the header's, losses.
pub(crate) fn push_snapshot(
    out: &mut Vec<u8>,
    seed: Seed,
    acknowledged: &RangeSet,
    losses: &[Loss],
    dropped: u64,
) {
    let ranges = acknowledged.as_slice();
    if ranges.len() > HEADER_SLOTS {
        push_ranges(out, seed, false, &ranges[HEADER_SLOTS..]);
    }
    for loss in losses {
        push_record(out, seed, Kind::Loss, false, 0, &loss.encode(dropped));
    }
}
