//! The bytes on disk: what they look like, what always holds, and how they are recovered.
//!
//! This file encodes and decodes; it opens nothing. The text below is enough to write another
//! reader from. All integers are little-endian, all positions count from the start of the file.
//!
//! # The folder
//!
//! | Name | Is |
//! | --- | --- |
//! | `NUMBER-BASE.seg` | a segment: its number and its base, 16 lower-case hex digits each |
//! | `NUMBER-BASE.carried` | a segment written by carrying older ones forward |
//! | `NUMBER.spare` | a prewritten file without meaning, to become a segment |
//! | `NUMBER.new` | a spare that was not finished; removed on open |
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
//! for acknowledgements and reservations, so that a queue on a full disk can be drained, and the
//! last 64 before the seal for the loss record that must precede the loss.
//!
//! ## Header (one 4096-byte page)
//!
//! | At | Type | Field |
//! | --: | --- | --- |
//! | 0 | 8 bytes | `SPOOLSEG` |
//! | 8 | u32 | version, 1; any other is refused |
//! | 12 | u32 | length of the file in bytes, 16 KiB to 16 MiB |
//! | 16 | u64 | number |
//! | 24 | u64 | base: no record here has a smaller sequence number |
//! | 32 | u64 | reserved: sequence numbers below it may have been issued |
//! | 40 | u64 | records dropped since the queue exists |
//! | 48 | u32 | open ranges below, at most 64 |
//! | 52 | u32 | replaced segments below, at most 64 (only in `.carried`) |
//! | 56 | u64 | limit of the queue in bytes when the segment was started (for people) |
//! | 64 | 64 × (u64, u64) | acknowledged ranges, ascending; the first one starts at 0 |
//! | 1088 | 64 × u64 | numbers of the segments that this one replaces |
//! | 4092 | u32 | CRC32C of the bytes 0 to 4091 |
//!
//! With more than 64 open ranges, the others follow as acknowledgement records directly behind the
//! header, written and synced before the segment gets its name; so do the newest 16 loss records.
//! Acknowledging makes no more ranges than fit into an eighth of a segment (4096 with 1 MiB): the
//! segment in which most of them lie is carried forward before, or the acknowledgement refused. An
//! open may find some more: one for the numbers skipped after a crash, and those in segments that
//! were carried forward since. Ranges are never joined over a record that is not acknowledged.
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
//! | `F` filler | zeros; written over torn places, so that they are not taken for corrupt later |
//! | `T` thinning | reserved; readers skip it, as every unknown kind whose CRC is right |
//!
//! A reservation is written twice in a row: damage to the last record would not be noticed.
//!
//! Only data has something in the three bytes behind its kind: looking for the next good record in
//! garbage, few positions need their CRC computed.
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
//!    acknowledged, lost with a loss record, or damaged. So removing a segment acknowledges it, and
//!    a carried segment needs no ranges for what it left out.
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
//! 2. Where no record checks out, the next one is looked for at every even position behind; data
//!    must have a larger sequence number than the data before. Damage followed by the first record
//!    of a commit is *corrupt* (it had been synced), other damage in the current segment is a
//!    *torn* commit. Both are skipped.
//! 3. The next sequence number is the last reservation, or follows what any record or header names,
//!    if that is larger. Each damaged place behind the last reservation may hide one more and adds
//!    65,536.
//! 4. A broken header costs the acknowledgements in it, no records: name and CRCs identify them. If
//!    it is the current segment's, 2^24 is added to the next sequence number.
//! 5. Segments that a `.carried` one with a good header replaces are spares. A `.carried` one with
//!    a broken header is a spare if its range overlaps another segment's, which then still holds
//!    all.
//! 6. The writer writes everything from the last commit's first record on again, with fillers over
//!    the torn places, and syncs it, before it reports it durable: after a failed or interrupted
//!    sync it may have been in memory only.
//! 7. A reader beside the writer does the same without writing. Where it meets damage or a missing
//!    file and the folder or the current segment has changed since, it starts again.

use crate::record::pairs;

/// A record's sequence number: the first is 1, they rise strictly and are never used twice.
pub type Seq = u64;

pub(crate) const HEADER_BYTES: usize = 4096;
pub(crate) const SEAL_BYTES: usize = 64;
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

    /// The largest payload: a third of a segment, so that one always fits behind what the start of
    /// a segment repeats, and never more than its length field can say.
    pub(crate) fn max_payload(self) -> usize {
        ((self.bytes - HEADER_BYTES) / 3).min(usize::from(u16::MAX))
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

    pub(crate) fn crc(self) -> u32 {
        self.0
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
    pub(crate) limit: u64,
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
        put_u64(&mut page, 56, self.limit);
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

    /// The page and its version, if the page checks out.
    fn page(bytes: &[u8]) -> Option<(&[u8], u32)> {
        let page = bytes.get(..HEADER_BYTES)?;
        let crc = crc32c::crc32c(&page[..HEADER_BYTES - 4]);
        let valid = &page[..8] == MAGIC && u32_at(page, HEADER_BYTES - 4) == crc;
        valid.then(|| (page, u32_at(page, 8)))
    }

    /// The version of a header that checks out but is not of this one.
    ///
    /// Such a folder is refused: recovering it by this version's rules could destroy it.
    pub(crate) fn other_version(bytes: &[u8]) -> Option<u32> {
        Self::page(bytes).map(|(_, version)| version).filter(|version| *version != VERSION)
    }

    /// The header in the first page of a file, if it checks out.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (page, _) = Self::page(bytes).filter(|(_, version)| *version == VERSION)?;
        let (ranges, replaces) = (u32_at(page, 48) as usize, u32_at(page, 52) as usize);
        let possible = (Layout::MIN_BYTES..=Layout::MAX_BYTES).contains(&u32_at(page, 12));
        if ranges > HEADER_SLOTS || replaces > HEADER_SLOTS || !possible {
            return None;
        }
        Some(Self {
            bytes: u32_at(page, 12),
            number: u64_at(page, 16),
            base: u64_at(page, 24),
            reserved: u64_at(page, 32),
            dropped: u64_at(page, 40),
            limit: u64_at(page, 56),
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

/// The integers of the format; the caller knows that they are there.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
