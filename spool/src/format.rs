//! The bytes on disk: what they look like, what always holds, and how they are recovered.
//!
//! This file encodes and decodes; it opens nothing. The text below is enough to write another
//! reader from. All integers are little-endian, all positions count from the start of the file.
//!
//! # The folder
//!
//! | Name | Is |
//! | --- | --- |
//! | `NNNNNNNNNNNNNNNN-BBBBBBBBBBBBBBBB.seg` | a segment: its number and its base, 16 hex digits each |
//! | `NNNNNNNNNNNNNNNN-BBBBBBBBBBBBBBBB.carried` | a segment written by carrying older ones forward |
//! | `NNNNNNNNNNNNNNNN.spare` | a prewritten file without meaning, to become a segment |
//! | `NNNNNNNNNNNNNNNN.new` | a spare that was not finished; removed on open |
//! | `lock` | held with `flock` by the one writer, contains its process ID |
//!
//! Numbers only grow (by at least 1024 at each open), so no number names two contents. The `.seg`
//! with the highest number is the *current* segment, the only one that is appended to.
//!
//! # A segment
//!
//! ```text
//! 0            4096                              bytes-2112   bytes-128  bytes-64      bytes
//! | header page | records ... | end | rest        | acks go on | losses   | seal        |
//! ```
//!
//! The file has its full length from the start. What follows the last record is zeros or what the
//! file held in an earlier life. Data records end at `bytes - 2112`; the next 1984 bytes are kept
//! for acknowledgements and reservations, so that a queue on a full disk can be drained, and the last
//! 64 before the seal for the loss record that must precede the loss.
//!
//! ## Header (one 4096-byte page)
//!
//! | At | Type | Field |
//! | --: | --- | --- |
//! | 0 | 8 bytes | `SPOOLSEG` |
//! | 8 | u32 | version, 1 |
//! | 12 | u32 | length of the file in bytes |
//! | 16 | u64 | number |
//! | 24 | u64 | base: no record here has a smaller sequence number |
//! | 32 | u64 | reserved: sequence numbers below it may have been issued |
//! | 40 | u64 | records dropped since the queue exists |
//! | 48 | u32 | open ranges below, at most 64 |
//! | 52 | u32 | replaced segments below, at most 64 (only in `.carried`) |
//! | 64 | 64 × (u64, u64) | acknowledged ranges: first and last, ascending; the first one starts at 0 |
//! | 1088 | 64 × u64 | numbers of the segments that this one replaces |
//! | 4092 | u32 | CRC32C of the bytes 0 to 4091 |
//!
//! With more than 64 open ranges, the others follow as acknowledgement records directly behind the
//! header, written and synced before the segment gets its name; so do the newest loss records.
//!
//! ## Record (aligned to 2 bytes)
//!
//! | At | Type | Field |
//! | --: | --- | --- |
//! | 0 | u32 | CRC32C over segment number, base, the 6 bytes that follow, payload |
//! | 4 | u8 | kind; bit 7: first of its commit, all before it was synced |
//! | 5 | u24 | sequence number less the segment's base; 0 unless data |
//! | 8 | u16 | length of the payload |
//! | 10 | bytes | payload, then one zero byte if its length is odd |
//!
//! | Kind | Payload |
//! | --- | --- |
//! | `D` data | the caller's bytes; sequence numbers rise strictly within a segment |
//! | `A` acknowledgement | pairs of u64: first and last of ranges acknowledged |
//! | `L` loss | u64 first, last, count, total dropped so far, note; u8 reason (1: the limit) |
//! | `R` reservation | u64: sequence numbers below it may have been issued; the last one counts |
//! | `T` thinning | reserved; readers skip it, as every unknown kind whose CRC is right |
//!
//! A data record's kind byte is the only one of 256 that may carry a sequence number: this keeps the
//! search for the next good record in garbage cheap.
//!
//! ## Seal (the last 64 bytes; written when the segment is full, absent before)
//!
//! `SPOOLEND`, u64 number, u64 first and u64 last sequence number of its data, u32 count of data,
//! u32 end of the last record, zeros, u32 CRC32C of the 60 bytes before. It spares opening a queue
//! the reading of every segment.
//!
//! # What always holds
//!
//! 1. A sequence number is issued once. Numbers are issued only below a reservation that is on
//!    disk; an open after a crash starts at the reservation.
//! 2. Segments in the order of their bases hold ascending sequence numbers. A record keeps its
//!    number when it is carried forward.
//! 3. A sequence number below the current segment's base that is in no segment is gone: it was
//!    acknowledged, lost with a loss record, or damaged. So removing a segment acknowledges it, and a
//!    carried segment needs no ranges for what it left out.
//! 4. A segment gets its name after its header is synced, and the folder is synced before its first
//!    commit. A file becomes a spare by name, synced, before it is written again: what is called
//!    `.seg` has the content that its name says.
//! 5. A loss record is synced before what it names is touched, and acknowledges all up to its last.
//! 6. The acknowledged ranges are those of the current segment's header and of its records. (When
//!    that header is broken: of the newest ordinary segment with a good one, and all after it.)
//!
//! # Recovery
//!
//! 1. Only the current segment is read whole, and those without a valid seal; of the others header
//!    and seal.
//! 2. Where no record checks out, the next one is looked for at every even position behind; data must
//!    have a larger sequence number than the data before. Damage followed by the first record of a commit
//!    is *corrupt* (it had been synced), other damage in the current segment is a *torn* commit. Both
//!    are skipped.
//! 3. Damage may hide a reservation, so each adds one whole reservation to the next sequence number.
//! 4. A broken header costs the acknowledgements in it, no records: name and CRCs identify them.
//! 5. Segments that a `.carried` one with a good header replaces are spares. A `.carried` one with a
//!    broken header is a spare if its range overlaps another segment's, which then still holds all.
//! 6. The writer writes everything from the last commit's first record on again and syncs it, before it
//!    reports it durable: after a failed or interrupted sync it may have been in memory only.
//! 7. A reader beside the writer does the same without writing. Where it meets damage or a missing file
//!    and the folder or the current segment has changed since, it starts again.

use crate::ranges::RangeSet;

/// A record's sequence number: the first is 1, they rise strictly and are never used twice.
pub type Seq = u64;

pub(crate) const HEADER_BYTES: usize = 4096;
pub(crate) const SEAL_BYTES: usize = 64;
pub(crate) const RECORD_HEAD: usize = 10;
/// The largest distance of a sequence number from its segment's base: three bytes hold it.
pub(crate) const MAX_OFFSET: u64 = 0xFF_FFFF;
/// Far beyond what is ever issued: larger numbers are somebody else's, and sums cannot overflow.
pub(crate) const MAX_SEQ: Seq = 1 << 62;
/// Ranges and replaced numbers that fit into a header.
pub(crate) const HEADER_SLOTS: usize = 64;
/// Loss records that are kept; older ones are merged.
pub(crate) const MAX_LOSSES: usize = 16;
/// Sequence numbers reserved at a time.
pub(crate) const RESERVATION: u64 = 65_536;

const MAGIC: &[u8; 8] = b"SPOOLSEG";
const SEAL_MAGIC: &[u8; 8] = b"SPOOLEND";
const VERSION: u32 = 1;
const RANGES_AT: usize = 64;
const REPLACES_AT: usize = RANGES_AT + HEADER_SLOTS * 16;
const LOSS_ROOM: usize = 64;
const ACK_ROOM: usize = 2048;
const LOSS_PAYLOAD: usize = 41;
/// Kind byte, bit 7: everything before this record was synced when it was written.
const STARTS_COMMIT: u8 = 0x80;

/// Where things are in a segment of a given length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    bytes: usize,
}

impl Layout {
    pub(crate) const MIN_BYTES: u32 = 16 * 1024;
    pub(crate) const MAX_BYTES: u32 = 16 * 1024 * 1024;

    pub(crate) fn new(bytes: u32) -> Self {
        Self { bytes: bytes.clamp(Self::MIN_BYTES, Self::MAX_BYTES) as usize }
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    pub(crate) fn seal_at(self) -> usize {
        self.bytes - SEAL_BYTES
    }

    /// Where acknowledgements must end.
    pub(crate) fn ack_end(self) -> usize {
        self.seal_at() - LOSS_ROOM
    }

    /// Where data must end.
    pub(crate) fn data_end(self) -> usize {
        self.seal_at() - ACK_ROOM
    }

    /// The largest payload: half of a segment, so that one always fits behind what the start of a
    /// segment repeats, and never more than its length field can say.
    pub(crate) fn max_payload(self) -> usize {
        ((self.bytes - HEADER_BYTES) / 2).min(usize::from(u16::MAX))
    }

    /// How many acknowledged ranges may be open: what repeats them takes an eighth of a segment.
    pub(crate) fn max_ranges(self) -> usize {
        ((self.bytes - HEADER_BYTES) / 8 / 16).min(4096)
    }
}

/// What a segment's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Segment { number: u64, base: Seq },
    Carried { number: u64, base: Seq },
    Spare { number: u64 },
    Unfinished { number: u64 },
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (stem, extension) = text.split_once('.')?;
        let hex = |digits: &str| {
            let plain = digits.len() == 16
                && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let value = plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
            value.filter(|value| *value <= MAX_SEQ)
        };
        match extension {
            "spare" => Some(Self::Spare { number: hex(stem)? }),
            "new" => Some(Self::Unfinished { number: hex(stem)? }),
            "seg" | "carried" => {
                let (number, base) = stem.split_once('-')?;
                let (number, base) = (hex(number)?, hex(base)?);
                Some(match extension {
                    "seg" => Self::Segment { number, base },
                    _ => Self::Carried { number, base },
                })
            }
            _ => None,
        }
    }

    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Segment { number, .. }
            | Self::Carried { number, .. }
            | Self::Spare { number }
            | Self::Unfinished { number } => number,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Segment { number, base } => write!(f, "{number:016x}-{base:016x}.seg"),
            Self::Carried { number, base } => write!(f, "{number:016x}-{base:016x}.carried"),
            Self::Spare { number } => write!(f, "{number:016x}.spare"),
            Self::Unfinished { number } => write!(f, "{number:016x}.new"),
        }
    }
}

/// The CRC's start for the records of one segment: binds them to its number and base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(number: u64, base: Seq) -> Self {
        let crc = crc32c::crc32c(&number.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &base.to_le_bytes()))
    }
}

/// The state repeated at the start of each segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) bytes: u32,
    pub(crate) number: u64,
    pub(crate) base: Seq,
    pub(crate) reserved: Seq,
    pub(crate) dropped: u64,
    /// At most [`HEADER_SLOTS`] of them are encoded.
    pub(crate) ranges: Vec<(Seq, Seq)>,
    /// At most [`HEADER_SLOTS`] of them are encoded.
    pub(crate) replaces: Vec<u64>,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; HEADER_BYTES];
        let ranges = &self.ranges[..self.ranges.len().min(HEADER_SLOTS)];
        let replaces = &self.replaces[..self.replaces.len().min(HEADER_SLOTS)];
        page[..8].copy_from_slice(MAGIC);
        put_u32(&mut page, 8, VERSION);
        put_u32(&mut page, 12, self.bytes);
        put_u64(&mut page, 16, self.number);
        put_u64(&mut page, 24, self.base);
        put_u64(&mut page, 32, self.reserved);
        put_u64(&mut page, 40, self.dropped);
        put_u32(&mut page, 48, ranges.len() as u32);
        put_u32(&mut page, 52, replaces.len() as u32);
        for (i, (first, last)) in ranges.iter().enumerate() {
            put_u64(&mut page, RANGES_AT + i * 16, *first);
            put_u64(&mut page, RANGES_AT + i * 16 + 8, *last);
        }
        for (i, number) in replaces.iter().enumerate() {
            put_u64(&mut page, REPLACES_AT + i * 8, *number);
        }
        let crc = crc32c::crc32c(&page[..HEADER_BYTES - 4]);
        put_u32(&mut page, HEADER_BYTES - 4, crc);
        page
    }

    /// The header in the first page of a file, if it checks out.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let page = bytes.get(..HEADER_BYTES)?;
        if &page[..8] != MAGIC
            || u32_at(page, 8) != VERSION
            || u32_at(page, HEADER_BYTES - 4) != crc32c::crc32c(&page[..HEADER_BYTES - 4])
        {
            return None;
        }
        let (ranges, replaces) = (u32_at(page, 48) as usize, u32_at(page, 52) as usize);
        if ranges > HEADER_SLOTS || replaces > HEADER_SLOTS {
            return None;
        }
        Some(Self {
            bytes: u32_at(page, 12),
            number: u64_at(page, 16),
            base: u64_at(page, 24),
            reserved: u64_at(page, 32),
            dropped: u64_at(page, 40),
            ranges: pairs(&page[RANGES_AT..RANGES_AT + ranges * 16]).collect(),
            replaces: (0..replaces).map(|i| u64_at(page, REPLACES_AT + i * 8)).collect(),
        })
    }
}

/// What a full segment says about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) number: u64,
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) count: u32,
    pub(crate) end: u32,
}

impl Seal {
    pub(crate) fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..8].copy_from_slice(SEAL_MAGIC);
        put_u64(&mut bytes, 8, self.number);
        put_u64(&mut bytes, 16, self.first);
        put_u64(&mut bytes, 24, self.last);
        put_u32(&mut bytes, 32, self.count);
        put_u32(&mut bytes, 36, self.end);
        let crc = crc32c::crc32c(&bytes[..SEAL_BYTES - 4]);
        put_u32(&mut bytes, SEAL_BYTES - 4, crc);
        bytes
    }

    /// The seal of segment `number` in the last bytes of its file, if it checks out.
    pub(crate) fn decode(bytes: &[u8], number: u64) -> Option<Self> {
        let valid = bytes.len() == SEAL_BYTES
            && &bytes[..8] == SEAL_MAGIC
            && u32_at(bytes, SEAL_BYTES - 4) == crc32c::crc32c(&bytes[..SEAL_BYTES - 4])
            && u64_at(bytes, 8) == number;
        valid.then(|| Self {
            number,
            first: u64_at(bytes, 16),
            last: u64_at(bytes, 24),
            count: u32_at(bytes, 32),
            end: u32_at(bytes, 36),
        })
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Acknowledgement,
    Loss,
    Reservation,
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
            Self::Unknown(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            b'D' => Self::Data,
            b'A' => Self::Acknowledgement,
            b'L' => Self::Loss,
            b'R' => Self::Reservation,
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
        let mut payload = vec![0; LOSS_PAYLOAD];
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
        if payload.len() < LOSS_PAYLOAD {
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

/// Appends one record. The caller keeps `offset` and `payload` within the limits of [`Layout`].
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
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed.0, &head), payload);
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
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed.0, &head[4..]), payload);
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

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
