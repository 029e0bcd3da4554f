//! The queue on a real file system, and readers beside a writer. Killed writers: `campaigns/`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use spool::{Error, Options, Reader, Seq, Spool};

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
