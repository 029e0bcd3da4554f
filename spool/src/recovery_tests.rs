//! Recovery from truncation and damage anywhere, and the reader's view of the same folders.

use std::collections::BTreeMap;

use crate::{
    disk::Disk,
    engine::Engine,
    error::Error,
    format::{HEADER_BYTES, Name, Seq},
    load::load,
    memory_disk::MemoryDisk,
    segment::Wanted,
    spool::Options,
};

const EVERYTHING: Wanted = Wanted { from: 0, records: usize::MAX, bytes: usize::MAX };

fn options(segments: u64) -> Options {
    Options::new(segments * 16 * 1024).with_segment_bytes(16 * 1024)
}

fn payload(n: u64) -> Vec<u8> {
    (0..100 + n % 57).map(|i| (n * 13 + i) as u8).collect()
}

fn open(disk: &MemoryDisk, segments: u64) -> Engine<MemoryDisk> {
    Engine::open(disk.clone(), options(segments)).expect("opens").0
}

/// Appends `count` records, commits every `every` of them, and returns what is there.
fn fill(engine: &mut Engine<MemoryDisk>, count: u64, every: u64) -> BTreeMap<Seq, Vec<u8>> {
    for n in 1..=count {
        engine.append(&payload(n)).expect("taken");
        if n % every == 0 {
            engine.commit(false).expect("written");
        }
    }
    engine.commit(false).expect("written");
    contents(engine)
}

fn contents(engine: &mut Engine<MemoryDisk>) -> BTreeMap<Seq, Vec<u8>> {
    engine.peek(EVERYTHING).expect("readable").into_iter().map(|r| (r.seq, r.payload)).collect()
}

fn current(disk: &MemoryDisk) -> String {
    let loaded = load(disk).expect("readable");
    loaded.current.expect("there is one").segment.name.to_string()
}

#[test]
fn truncation_at_any_byte_costs_only_what_was_cut() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 8);
    let all = fill(&mut engine, 12, 3);
    drop(engine);
    let end = load(&disk).expect("readable").current.expect("there is one").segment.end;
    let name = current(&disk);
    let mut before = all.len();
    for cut in (HEADER_BYTES - 5..=end).rev() {
        let copy = disk.duplicate();
        copy.tamper(&name, |bytes| bytes.truncate(cut));
        let mut engine = open(&copy, 8);
        let left = contents(&mut engine);
        assert!(left.iter().all(|(seq, payload)| all.get(seq) == Some(payload)), "cut at {cut}");
        assert!(left.keys().eq(all.keys().take(left.len())), "cut at {cut}: not a prefix");
        assert!(left.len() == before || left.len() + 1 == before, "cut at {cut}: jumps");
        before = left.len();
        let next = engine.append(b"goes on").expect("taken");
        assert!(next > *all.keys().last().expect("not empty"));
        engine.commit(false).expect("written");
        drop(engine);
        assert_eq!(
            contents(&mut open(&copy, 8)).get(&next).map(Vec::as_slice),
            Some(&b"goes on"[..])
        );
    }
    assert_eq!(before, 0);
}

#[test]
fn a_flip_anywhere_costs_at_most_one_record_and_is_counted() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 8);
    let all = fill(&mut engine, 250, 10);
    engine.acknowledge(3..=5).expect("known");
    engine.commit(true).expect("written");
    assert!(engine.stat().segments >= 3);
    drop(engine);
    let mut random = 99u64;
    for name in disk.names().into_iter().filter(|name| name.ends_with(".seg")) {
        for _ in 0..60 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (random >> 33) as usize % (16 * 1024);
            let copy = disk.duplicate();
            copy.tamper(&name, |bytes| bytes[at] ^= 0x10);
            let mut engine = open(&copy, 8);
            let left = contents(&mut engine);
            assert!(left.iter().all(|(seq, payload)| all.get(seq) == Some(payload)));
            let missing =
                all.keys().filter(|s| !(3..=5).contains(*s) && !left.contains_key(s)).count();
            assert!(missing <= 1, "{name}: byte {at} cost {missing} records");
            let stat = engine.stat();
            assert_eq!(stat.records, left.len() as u64);
            assert!(stat.corrupt >= missing as u64, "{name}: byte {at}: not counted");
        }
    }
}

#[test]
fn zeros_and_garbage_after_the_tail_are_no_records() {
    for garbage in [|_| 0u8, |i: usize| (i * 167 + i / 7) as u8, |_| b'D'] {
        let disk = MemoryDisk::default();
        let mut engine = open(&disk, 4);
        let all = fill(&mut engine, 5, 1);
        let end = engine.current().end;
        drop(engine);
        disk.tamper(&current(&disk), |bytes| {
            bytes[end..].iter_mut().enumerate().for_each(|(i, byte)| *byte = garbage(i));
        });
        let (mut engine, recovery) = Engine::open(disk.clone(), options(4)).expect("opens");
        assert_eq!(contents(&mut engine), all);
        assert_eq!((recovery.corrupt, recovery.torn_bytes), (0, 0));
    }
}

#[test]
fn a_bad_spot_on_the_medium_costs_only_the_records_on_its_page() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 8);
    let all = fill(&mut engine, 250, 10);
    drop(engine);
    for name in disk.names().into_iter().filter(|name| name.ends_with(".seg")) {
        for sector in 0..32 {
            let copy = disk.duplicate();
            copy.spoil(&name, sector);
            let mut engine = open(&copy, 8);
            let left = contents(&mut engine);
            assert!(left.iter().all(|(seq, payload)| all.get(seq) == Some(payload)));
            let missing = all.len() - left.len();
            assert!(missing * 110 <= 4096 + 2 * 170, "{name}, sector {sector}: {missing} gone");
            assert_eq!(engine.stat().records, left.len() as u64);
            engine.append(b"goes on").expect("taken");
            engine.commit(false).expect("written");
        }
    }
}

#[test]
fn a_broken_header_costs_no_record() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 8);
    let all = fill(&mut engine, 250, 10);
    drop(engine);
    for name in disk.names().into_iter().filter(|name| name.ends_with(".seg")) {
        let copy = disk.duplicate();
        copy.tamper(&name, |bytes| bytes[..64].fill(0xEE));
        let (mut engine, recovery) = Engine::open(copy.clone(), options(8)).expect("opens");
        assert_eq!(recovery.broken_headers, 1);
        assert_eq!(contents(&mut engine), all);
        assert!(engine.append(b"more").expect("taken") > *all.keys().last().expect("not empty"));
    }
}

#[test]
fn a_record_acknowledged_before_its_commit_is_never_written() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 4);
    for _ in 0..1000 {
        let seq = engine.append(b"gone before it is due").expect("taken");
        engine.acknowledge(seq..=seq).expect("known");
        let commit = engine.commit(false).expect("nothing to do");
        assert_eq!((commit.written, commit.durable), (0, seq));
    }
    let seq = engine.append(b"stays").expect("taken");
    assert_eq!(seq, 1001);
    engine.commit(false).expect("written");
    drop(engine);
    assert!(contents(&mut open(&disk, 4)).keys().eq([&1001]));
}

#[test]
fn numbers_go_on_without_a_gap_after_a_clean_end_and_with_one_after_a_crash() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 4);
    assert_eq!(engine.append(b"one").expect("taken"), 1);
    engine.close().expect("written");
    let mut engine = open(&disk, 4);
    assert_eq!(engine.append(b"two").expect("taken"), 2);
    // Handed out, perhaps delivered, but never written.
    drop(engine);
    disk.crash(&mut |_| 0);
    assert!(open(&disk, 4).append(b"three").expect("taken") > 2);
}

#[test]
fn the_limit_drops_the_oldest_and_says_what() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 4);
    engine.note = 1_700_000_000_000;
    let left = fill(&mut engine, 1000, 7);
    let stat = engine.stat();
    let first = *left.keys().next().expect("not empty");
    assert_eq!(stat.dropped, first - 1);
    assert_eq!(left.len() as u64, 1000 - stat.dropped);
    assert_eq!(engine.losses().iter().map(|loss| loss.count).sum::<u64>(), stat.dropped);
    assert!(engine.losses().iter().all(|loss| loss.note == 1_700_000_000_000));
    assert!(engine.on_disk() <= 4 * 16 * 1024);
    let losses = engine.losses().to_vec();
    drop(engine);
    let engine = open(&disk, 4);
    assert_eq!(engine.losses(), losses);
    assert_eq!(engine.stat().dropped, stat.dropped);
}

#[test]
fn a_lower_limit_is_kept_after_the_next_segment() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 12);
    fill(&mut engine, 700, 7);
    drop(engine);
    let mut engine = open(&disk, 4);
    let left = fill(&mut engine, 200, 7);
    assert!(engine.on_disk() <= 4 * 16 * 1024);
    assert_eq!(left.len() as u64 + engine.stat().dropped, 900);
}

#[test]
fn few_records_left_in_many_segments_are_carried_forward_not_dropped() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 8);
    let mut kept = Vec::new();
    for n in 1..=3000 {
        let seq = engine.append(&payload(n)).expect("taken");
        if n % 100 == 0 {
            engine.commit(false).expect("written");
            kept.push(seq);
            engine.acknowledge(seq - 99..=seq - 1).expect("known");
        }
    }
    assert!(contents(&mut engine).keys().eq(kept.iter()));
    assert_eq!(engine.stat().dropped, 0);
    drop(engine);
    let mut engine = open(&disk, 8);
    let found = contents(&mut engine);
    assert!(kept.iter().all(|seq| found.contains_key(seq)));
    engine.acknowledge(1..=*kept.last().expect("not empty")).expect("known");
    assert_eq!(engine.stat().records, 0);
}

#[test]
fn every_second_record_can_be_acknowledged() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 32);
    let all = fill(&mut engine, 2000, 20);
    let odd: Vec<Seq> = all.keys().copied().filter(|seq| seq % 2 == 1).collect();
    for seq in &odd[..odd.len() - 100] {
        engine.acknowledge(*seq..=*seq).expect("segments are carried forward instead");
        assert!(engine.stat().ranges <= engine.layout.max_ranges());
    }
    assert_eq!(engine.stat().records, 1100);
    engine.commit(true).expect("written");
    drop(engine);
    assert_eq!(open(&disk, 32).stat().records, 1100);
}

#[test]
fn ranges_too_scattered_to_be_kept_are_refused_and_nothing_changes() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 4);
    for _ in 0..1000 {
        engine.append(b"").expect("taken");
    }
    let refused = (1..=1000).step_by(2).find_map(|seq| engine.acknowledge(seq..=seq).err());
    assert!(matches!(refused, Some(Error::Scattered { .. })));
    let left = contents(&mut engine).len() as u64;
    assert_eq!(engine.stat().records, left);
    engine.acknowledge(1..=1000).expect("one range");
    assert_eq!(engine.stat().records, 0);
}

#[test]
fn a_full_disk_refuses_drains_and_goes_on() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 100);
    disk.faults().files_left.set(Some(3));
    let mut taken = 0;
    loop {
        match engine.append(&payload(taken)) {
            Ok(_) => taken += 1,
            Err(Error::Full) => break,
            Err(error) => panic!("{error}"),
        }
        if taken % 10 == 0 && !matches!(engine.commit(false), Ok(_) | Err(Error::Full)) {
            panic!("neither written nor full");
        }
    }
    assert_eq!(engine.stat().records, taken, "what was taken is kept");
    assert!(matches!(engine.prepare(), Err(Error::Full)));
    // Drain half in small steps; the disk stays full.
    for _ in 0..taken / 20 {
        let batch =
            engine.peek(Wanted { from: 1, records: 10, bytes: usize::MAX }).expect("readable");
        engine.acknowledge(batch[0].seq..=batch[9].seq).expect("known");
        assert!(matches!(engine.commit(true), Ok(_) | Err(Error::Full)));
    }
    engine.commit(true).expect("there is room again");
    engine.append(b"goes on").expect("taken");
    let commit = engine.commit(false).expect("written");
    let records = engine.stat().records;
    drop(engine);
    disk.crash(&mut |_| 0);
    let mut engine = open(&disk, 100);
    assert_eq!(engine.stat().records, records);
    assert!(contents(&mut engine).contains_key(&commit.durable));
}

#[test]
fn a_failed_sync_ends_the_handle_and_the_next_one_has_what_was_durable() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 4);
    engine.append(b"durable").expect("taken");
    engine.commit(false).expect("written");
    engine.append(b"in doubt").expect("taken");
    disk.faults().sync_fails_in.set(Some(0));
    assert!(matches!(engine.commit(false), Err(Error::Io { .. })));
    assert!(matches!(engine.append(b"no"), Err(Error::Poisoned)));
    assert!(matches!(engine.commit(false), Err(Error::Poisoned)));
    assert!(matches!(engine.peek(EVERYTHING), Err(Error::Poisoned)));
    drop(engine);
    // What the failed sync left in memory counts only once it was written again.
    let mut engine = open(&disk, 4);
    let seen = contents(&mut engine);
    drop(engine);
    disk.crash(&mut |_| 0);
    assert_eq!(contents(&mut open(&disk, 4)), seen);
}

#[test]
fn a_second_writer_and_what_does_not_fit_are_refused() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 4);
    assert!(matches!(Engine::open(disk.clone(), options(4)), Err(Error::Locked { .. })));
    let max = options(4).max_payload();
    let refused = engine.append(&vec![0; max + 1]).expect_err("too large").to_string();
    assert!(refused.contains(&(max + 1).to_string()) && refused.contains(&max.to_string()));
    assert!(matches!(engine.acknowledge(1..=1), Err(Error::Unknown { last: 1, next: 1 })));
    engine.append(&vec![7; max]).expect("just fits");
    engine.commit(false).expect("written");
    assert_eq!(contents(&mut engine)[&1].len(), max);
}

#[test]
fn opening_reads_only_headers_seals_and_the_current_segment() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 40);
    let all = fill(&mut engine, 2500, 50);
    let segments = engine.stat().segments;
    drop(engine);
    disk.take_bytes_read();
    let engine = open(&disk, 40);
    assert_eq!(engine.stat().records, all.len() as u64);
    let read = disk.take_bytes_read();
    assert!(read <= segments * (4096 + 64) + 2 * 16 * 1024, "read {read} of {segments} segments");
}

#[test]
fn prepared_spares_fill_the_limit_and_no_more() {
    let disk = MemoryDisk::default();
    let mut engine = open(&disk, 6);
    while engine.prepare().expect("room") {}
    assert_eq!(engine.stat().spares + engine.stat().segments, 6);
    // Somebody else fills the disk: the queue does not notice before its limit.
    disk.faults().files_left.set(Some(0));
    fill(&mut engine, 2000, 10);
    assert!(engine.stat().dropped > 0);
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let disk = MemoryDisk::default();
    drop(open(&disk, 4));
    let name = current(&disk);
    let mut before = Vec::new();
    disk.tamper(&name, |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        before = bytes.clone();
    });
    let Err(Error::Io { source, .. }) = Engine::open(disk.clone(), options(4)) else {
        panic!("opened");
    };
    assert!(source.to_string().contains("format 2"), "{source}");
    disk.tamper(&name, |bytes| assert_eq!(*bytes, before));
}

#[test]
fn names_that_are_not_ours_are_left_alone() {
    let disk = MemoryDisk::default();
    let names = ["notes.txt", "0.seg", "zzzzzzzzzzzzzzzz-0000000000000001.seg", "lock"];
    for name in names {
        disk.create(name).expect("made");
    }
    drop(open(&disk, 4));
    assert!(names.iter().all(|name| disk.names().iter().any(|known| known == name)));
    assert_eq!(Name::parse("ffffffffffffffff-0000000000000001.seg"), None);
}
