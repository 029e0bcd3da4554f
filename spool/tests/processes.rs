//! The queue on a real file system: killed writers, and readers beside a writer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use spool::{Error, Options, Reader, Seq, Spool};

/// Set for the process that is to be killed; names the folder.
const VICTIM: &str = "SPOOL_TEST_VICTIM";

fn options() -> Options {
    Options::new(64 * 64 * 1024).with_segment_bytes(64 * 1024)
}

fn payload(seq: Seq) -> Vec<u8> {
    (0..40 + seq % 400).map(|i| (seq * 31 + i) as u8).collect()
}

/// Both may be moved to the thread that does the blocking work.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Spool>();
    is_send::<Reader>();
};

/// Not a test of its own: what `durable_records_survive_sigkill` starts and kills.
#[test]
fn victim() {
    let Ok(folder) = std::env::var(VICTIM) else { return };
    let (mut spool, _) = Spool::open(Path::new(&folder), options()).expect("opens");
    let mut next = spool.stat().next;
    let mut acknowledged = 0;
    for round in 0u64.. {
        let first = next;
        for _ in 0..1 + round % 13 {
            assert_eq!(spool.append(&payload(next)).expect("taken"), next);
            next += 1;
        }
        let commit = spool.commit().expect("written");
        println!("durable {first} {}", commit.durable);
        if round % 5 == 0 {
            // What is acknowledged is said before, so that it is not expected any more.
            let batch = spool.peek(acknowledged + 1, 40, usize::MAX).expect("readable");
            let (first, last) = (batch[0].seq, batch[batch.len() / 2].seq);
            println!("acknowledge {first} {last}");
            spool.acknowledge(first..=last).expect("known");
            acknowledged = last;
        }
        spool.prepare().expect("room");
    }
}

#[test]
fn durable_records_survive_sigkill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut durable: BTreeSet<Seq> = BTreeSet::new();
    let mut random = 0x5DEECE66Du64;
    for _ in 0..20 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // The moment is counted in commits, not in time, and falls anywhere inside the next one.
        let mut left = 5 + (random >> 33) % 120;
        let mut reported = Vec::new();
        for line in lines {
            // The last line may be cut.
            let Ok(line) = line else { break };
            reported.push(line);
            left -= 1;
            if left == 0 {
                child.kill().expect("alive");
            }
            left = left.max(1);
        }
        assert!(!child.wait().expect("ended").success(), "killed, not ended: {reported:?}");

        for line in &reported {
            let words: Vec<_> = line.split(' ').collect();
            let number = |i: usize| words.get(i).and_then(|word| word.parse::<Seq>().ok());
            match (words.first(), number(1), number(2)) {
                (Some(&"durable"), Some(first), Some(last)) => durable.extend(first..=last),
                (Some(&"acknowledge"), Some(first), Some(last)) => {
                    durable.retain(|seq| !(first..=last).contains(seq));
                }
                _ => {}
            }
        }
        let (mut spool, _) = Spool::open(folder.path(), options()).expect("opens without help");
        let found = spool.peek(0, usize::MAX, usize::MAX).expect("readable");
        assert!(found.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        assert!(found.iter().all(|record| record.payload == payload(record.seq)));
        let found: BTreeSet<_> = found.into_iter().map(|record| record.seq).collect();
        let dropped_to = spool.losses().last().map_or(0, |loss| loss.last);
        let missing: Vec<_> = durable.difference(&found).filter(|seq| **seq > dropped_to).collect();
        assert!(missing.is_empty(), "reported durable and gone: {missing:?}");
        assert_eq!(spool.stat().records, found.len() as u64);
        durable = found;
    }
}

#[test]
fn readers_see_whole_records_in_order_while_a_writer_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options::new(6 * 16 * 1024).with_segment_bytes(16 * 1024);
    let (mut spool, _) = Spool::open(folder.path(), options).expect("opens");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let reader = Reader::open(folder.path()).expect("there");
                    let (mut looks, mut newest) = (0u64, 0);
                    while !over.load(Ordering::Relaxed) || looks == 0 {
                        let seen = reader.peek(0, usize::MAX, usize::MAX).expect("readable");
                        assert!(seen.windows(2).all(|pair| pair[0].seq < pair[1].seq));
                        assert!(seen.iter().all(|record| record.payload == payload(record.seq)));
                        let last = seen.last().map_or(newest, |record| record.seq);
                        assert!(last >= newest, "went back from {newest} to {last}");
                        newest = last;
                        let found = reader.verify().expect("readable");
                        assert_eq!(found.corrupt, 0, "{found:?}");
                        assert!(reader.stat().expect("readable").bytes <= 6 * 16 * 1024);
                        looks += 1;
                    }
                    looks
                })
            })
            .collect();
        let mut acknowledged = 0;
        for round in 0..1500u64 {
            for _ in 0..1 + round % 7 {
                let next = spool.stat().next;
                spool.append(&payload(next)).expect("taken");
            }
            spool.commit().expect("written");
            if round % 3 == 0 {
                let batch = spool.peek(acknowledged + 1, 9, usize::MAX).expect("readable");
                acknowledged = batch[batch.len() - 1].seq;
                spool.acknowledge(batch[0].seq..=acknowledged).expect("known");
            }
            thread::sleep(Duration::from_micros(200));
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("no panic") > 0);
        }
    });
}

#[test]
fn a_reader_agrees_with_the_writer_once_it_is_quiet() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, recovery) = Spool::open(folder.path(), options()).expect("opens");
    assert_eq!(recovery, spool::Recovery::default());
    let mut all = BTreeMap::new();
    for _ in 0..1000 {
        let next = spool.stat().next;
        all.insert(spool.append(&payload(next)).expect("taken"), payload(next));
    }
    spool.commit().expect("written");
    spool.acknowledge(1..=300).expect("known");
    spool.acknowledge(400..=410).expect("known");
    spool.sync().expect("written");
    all.retain(|seq, _| *seq > 300 && !(400..=410).contains(seq));
    let reader = Reader::open(folder.path()).expect("there");
    let seen = reader.peek(0, usize::MAX, usize::MAX).expect("readable");
    assert_eq!(seen, spool.peek(0, usize::MAX, usize::MAX).expect("readable"));
    assert!(seen.into_iter().map(|record| (record.seq, record.payload)).eq(all));
    let (theirs, ours) = (reader.stat().expect("readable"), spool.stat());
    assert_eq!((theirs.records, theirs.first, theirs.limit), (ours.records, 301, ours.limit));
    assert_eq!((theirs.bytes, theirs.durable, theirs.dropped), (ours.bytes, ours.durable, 0));
    let found = reader.verify().expect("readable");
    assert_eq!((found.records, found.corrupt, found.broken_headers), (ours.records, 0, 0));
    assert_eq!(reader.losses().expect("readable"), []);
}

#[test]
fn verify_names_the_damaged_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(folder.path(), options()).expect("opens");
    for seq in 1..=1000 {
        spool.append(&payload(seq)).expect("taken");
    }
    spool.commit().expect("written");
    spool.close().expect("written");
    let files = std::fs::read_dir(folder.path()).expect("readable").flatten();
    let mut files: Vec<_> =
        files.map(|entry| entry.path()).filter(|p| p.extension() == Some("seg".as_ref())).collect();
    files.sort();
    let mut bytes = std::fs::read(&files[0]).expect("readable");
    bytes[20_000] ^= 1;
    std::fs::write(&files[0], bytes).expect("writable");

    let reader = Reader::open(folder.path()).expect("there");
    let found = reader.verify().expect("readable");
    assert_eq!((found.corrupt, found.records), (1, 999));
    let place = &found.damage[0];
    assert!(files[0].ends_with(&place.file) && (place.from..place.to).contains(&20_000));
    let (mut spool, _) = Spool::open(folder.path(), options()).expect("opens");
    assert_eq!(spool.peek(0, usize::MAX, usize::MAX).expect("readable").len(), 999);
    assert_eq!((spool.stat().corrupt, spool.stat().records), (1, 999));
}

#[test]
fn a_locked_queue_names_the_process_that_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (spool, _) = Spool::open(folder.path(), options()).expect("opens");
    match Spool::open(folder.path(), options()) {
        Err(Error::Locked { path, pid }) => {
            assert_eq!(path, folder.path().join("lock"));
            assert_eq!(pid, Some(std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    drop(spool);
    Spool::open(folder.path(), options()).expect("free again");
}
