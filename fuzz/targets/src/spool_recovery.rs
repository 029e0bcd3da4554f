//! Recovery from whatever a folder may contain.
//!
//! Bytes alone would hardly pass a checksum, so the input describes files in the terms of the format
//! (`spool/src/format.rs`), encoded here a second time, with right checksums unless the input breaks
//! them: numbers that contradict each other, ranges that overlap, segments that replace each other,
//! ends that were cut off.

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use spool::{Error, Options, Reader, Spool};

const HEADER: usize = 4096;
const FILE: usize = 16 * 1024;
/// No queue ever counts so far; behind 2^62 names and numbers are taken for somebody else's.
const FAR: u64 = 1 << 61;

#[derive(Debug, Arbitrary)]
struct Input {
    files: Vec<SegmentFile>,
    acknowledge: (u16, u8),
}

#[derive(Debug, Arbitrary)]
struct SegmentFile {
    kind: Kind,
    number: Number,
    base: Number,
    header: Option<Header>,
    records: Vec<Record>,
    seal: Option<Seal>,
    breaks: Vec<(u16, u8)>,
    cut_to: Option<u16>,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Segment,
    Carried,
    Spare,
    New,
}

/// Mostly small, so that they meet each other; sometimes at the edges.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Number {
    Small(u8),
    Medium(u32),
    /// Below 2^62, the largest number that is ever issued.
    Last(u8),
    Any(u64),
}

impl Number {
    fn value(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Medium(n) => n.into(),
            Self::Last(n) => (1 << 62) - u64::from(n),
            Self::Any(n) => n,
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Header {
    /// Short, because a file is lengthened to what its header says.
    bytes: Option<u16>,
    reserved: Number,
    dropped: Number,
    ranges: Vec<(Number, Number)>,
    replaces: Vec<Number>,
    limit: u64,
}

#[derive(Debug, Arbitrary)]
struct Record {
    body: Body,
    starts_commit: bool,
    gap: u8,
    wrong_crc: bool,
}

#[derive(Debug, Arbitrary)]
enum Body {
    Data { offset: u8, length: u8 },
    FarData { offset: u32 },
    Acknowledgement(Vec<(Number, Number)>),
    Loss { first: Number, last: Number, count: Number, total: Number },
    Reservation(Number),
    Other { kind: u8, payload: Vec<u8> },
}

#[derive(Debug, Arbitrary)]
struct Seal {
    first: Number,
    last: Number,
    count: u32,
    end: u32,
    honest: bool,
}

fn crc(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

impl SegmentFile {
    fn name(&self) -> String {
        // A name that says more than a number can be is not ours.
        let (number, base) = (self.number.value(), self.base.value());
        match self.kind {
            Kind::Segment => format!("{number:016x}-{base:016x}.seg"),
            Kind::Carried => format!("{number:016x}-{base:016x}.carried"),
            Kind::Spare => format!("{number:016x}.spare"),
            Kind::New => format!("{number:016x}.new"),
        }
    }

    fn last_offset(&self) -> u32 {
        let mut last = 0;
        for record in &self.records {
            if let (b'D', offset, _) = record.parts(last) {
                last = last.max(offset);
            }
        }
        last
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; FILE];
        let (number, base) = (self.number.value(), self.base.value());
        if let Some(header) = &self.header {
            put(&mut bytes, 0, b"SPOOLSEG");
            put(&mut bytes, 8, &1u32.to_le_bytes());
            put(&mut bytes, 12, &header.bytes.map_or(FILE as u32, u32::from).to_le_bytes());
            let fields = [number, base, header.reserved.value(), header.dropped.value()];
            fields
                .iter()
                .enumerate()
                .for_each(|(i, n)| put(&mut bytes, 16 + i * 8, &n.to_le_bytes()));
            let (ranges, replaces) = (header.ranges.len().min(64), header.replaces.len().min(64));
            put(&mut bytes, 48, &(ranges as u32).to_le_bytes());
            put(&mut bytes, 52, &(replaces as u32).to_le_bytes());
            put(&mut bytes, 56, &header.limit.to_le_bytes());
            for (i, (first, last)) in header.ranges.iter().take(64).enumerate() {
                put(&mut bytes, 64 + i * 16, &first.value().to_le_bytes());
                put(&mut bytes, 72 + i * 16, &last.value().to_le_bytes());
            }
            for (i, number) in header.replaces.iter().take(64).enumerate() {
                put(&mut bytes, 1088 + i * 8, &number.value().to_le_bytes());
            }
            let sum = crc(&[&bytes[..HEADER - 4]]);
            put(&mut bytes, HEADER - 4, &sum.to_le_bytes());
        }
        let mut at = HEADER;
        let (mut first, mut last, mut count) = (None, 0, 0u32);
        for record in &self.records {
            let (kind, offset, payload) = record.parts(last);
            let end = at + usize::from(record.gap) + 10 + payload.len() + 1;
            if end + 64 > FILE {
                break;
            }
            at += usize::from(record.gap) & !1;
            let flag = if record.starts_commit { 0x80 } else { 0 };
            let mut head = vec![kind | flag];
            head.extend_from_slice(&offset.to_le_bytes()[..3]);
            head.extend_from_slice(&(payload.len() as u16).to_le_bytes());
            let sum = crc(&[&number.to_le_bytes(), &base.to_le_bytes(), &head, &payload]);
            put(&mut bytes, at, &(sum ^ u32::from(record.wrong_crc)).to_le_bytes());
            put(&mut bytes, at + 4, &head);
            put(&mut bytes, at + 10, &payload);
            at = (at + 10 + payload.len()).next_multiple_of(2);
            if kind == b'D' {
                first = first.or(Some(offset));
                last = offset;
                count += 1;
            }
        }
        if let Some(seal) = &self.seal {
            let mut tail = [0; 64];
            put(&mut tail, 0, b"SPOOLEND");
            let told = match seal.honest {
                true => [
                    number,
                    base.saturating_add(first.unwrap_or(0).into()),
                    base.saturating_add(last.into()),
                ],
                false => [number, seal.first.value(), seal.last.value()],
            };
            told.iter().enumerate().for_each(|(i, n)| put(&mut tail, 8 + i * 8, &n.to_le_bytes()));
            let (count, end) =
                if seal.honest { (count, at as u32) } else { (seal.count, seal.end) };
            put(&mut tail, 32, &count.to_le_bytes());
            put(&mut tail, 36, &end.to_le_bytes());
            let sum = crc(&[&tail[..60]]);
            put(&mut tail, 60, &sum.to_le_bytes());
            put(&mut bytes, FILE - 64, &tail);
        }
        for (at, value) in &self.breaks {
            bytes[usize::from(*at) % FILE] ^= value;
        }
        if let Some(length) = self.cut_to {
            bytes.truncate(usize::from(length));
        }
        bytes
    }
}

impl Record {
    fn parts(&self, last: u32) -> (u8, u32, Vec<u8>) {
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        match &self.body {
            Body::Data { offset, length } => {
                (b'D', last.saturating_add((*offset).into()) & 0xFF_FFFF, vec![7; (*length).into()])
            }
            Body::FarData { offset } => (b'D', offset & 0xFF_FFFF, vec![9; 3]),
            Body::Acknowledgement(ranges) => {
                let pairs = ranges.iter().flat_map(|(first, last)| [first.value(), last.value()]);
                (b'A', 0, numbers(&pairs.collect::<Vec<_>>()))
            }
            Body::Loss { first, last, count, total } => {
                let fields = [first, last, count, total].map(|number| number.value());
                let mut payload: Vec<u8> = numbers(&fields);
                payload.extend_from_slice(&[0; 8]);
                payload.push(1);
                (b'L', 0, payload)
            }
            Body::Reservation(number) => (b'R', 0, numbers(&[number.value()])),
            Body::Other { kind, payload } => (kind & 0x7F, 0, payload.clone()),
        }
    }
}

/// Whether names and sequence numbers are such as the queue gives them. No damage changes that: names
/// are the file system's, and a record's checksum contains its segment's number and base. Where they
/// contradict each other, nothing may fail, but what comes out is anybody's guess.
fn could_be(files: &[SegmentFile]) -> bool {
    let mut segments: Vec<_> =
        files.iter().filter(|file| matches!(file.kind, Kind::Segment | Kind::Carried)).collect();
    segments.sort_by_key(|file| file.base.value());
    let mut numbers: Vec<_> = files.iter().map(|file| file.number.value()).collect();
    numbers.sort_unstable();
    let follows = |pair: &[&SegmentFile]| {
        let (one, other) = (pair[0], pair[1]);
        let (base, number) = (one.base.value(), one.number.value());
        let in_order = matches!(one.kind, Kind::Carried) || number < other.number.value();
        in_order && base.saturating_add(one.last_offset().into()) < other.base.value()
    };
    numbers.windows(2).all(|pair| pair[0] < pair[1])
        && numbers.last().is_none_or(|last| *last < FAR)
        && segments.windows(2).all(follows)
        && segments.last().is_none_or(|file| matches!(file.kind, Kind::Segment))
}

/// What waits, in order and as often as the figures say.
fn look(spool: &mut Spool, sound: bool) -> Vec<spool::Record> {
    let found = spool.peek(0, usize::MAX, usize::MAX).expect("readable");
    if !sound {
        return found;
    }
    assert!(found.windows(2).all(|pair| pair[0].seq < pair[1].seq), "out of order");
    let stat = spool.stat();
    assert_eq!(stat.records, found.len() as u64, "{stat:?}");
    assert!(found.last().is_none_or(|record| record.seq < stat.next));
    assert!(found.first().is_none_or(|record| record.seq >= stat.first));
    found
}

fn open(folder: &Path) -> Spool {
    let options = Options::new(8 * FILE as u64).with_segment_bytes(FILE as u32);
    Spool::open(folder, options).expect("nothing in a folder hinders").0
}

pub(crate) fn check(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let folder = crate::folder();
    let files = &input.files[..input.files.len().min(8)];
    for file in files {
        std::fs::write(folder.path().join(file.name()), file.bytes()).expect("written");
    }
    let reader = Reader::open(folder.path()).expect("there");
    reader.verify().expect("readable");
    reader.stat().expect("readable");

    let mut spool = open(folder.path());
    let sound = could_be(files) && spool.stat().next < FAR;
    let found = look(&mut spool, sound);
    drop(spool);
    // Nothing was done: an interrupted recovery is done again.
    let mut spool = open(folder.path());
    let again = look(&mut spool, sound);
    let seen = reader.peek(0, usize::MAX, usize::MAX).expect("readable");
    if sound {
        assert_eq!(again, found, "opening again finds something else");
        assert_eq!(seen, found, "a reader sees something else");
    }

    let (from, count) = input.acknowledge;
    if let Some(first) = found.get(usize::from(from) % found.len().max(1)) {
        let last = (first.seq + u64::from(count)).min(spool.stat().next - 1);
        match spool.acknowledge(first.seq..=last) {
            Ok(()) | Err(Error::Scattered { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for _ in 0..300 {
        spool.append(&[1; 100]).expect("taken");
    }
    match spool.commit() {
        Ok(_) | Err(Error::Scattered { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let kept = look(&mut spool, sound);
    let durable = spool.stat().durable;
    drop(spool);
    let mut spool = open(folder.path());
    let again = look(&mut spool, sound);
    // What is not acknowledged is there; what is may be again.
    let there = |record: &spool::Record| again.iter().any(|found| found == record);
    assert!(!sound || kept.iter().filter(|record| record.seq <= durable).all(there), "lost");
    spool.close().expect("written");
}
