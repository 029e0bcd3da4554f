//! A file system that is full while the queue is open.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use spool::{Error, Options, Seq, Spool};

use crate::{
    device::{Mounted, in_memory, tool},
    victim::payload,
};

const SEGMENT: u32 = 64 * 1024;

/// Far more than the file system holds.
fn options() -> Options {
    Options::new(64 << 20).with_segment_bytes(SEGMENT)
}

/// Appends and commits until the disk is full; returns how many it took.
fn fill(spool: &mut Spool) -> u64 {
    let before = spool.stat().records;
    loop {
        match spool.append(&payload(spool.stat().next)) {
            Ok(_) => {}
            Err(Error::Full) => return spool.stat().records - before,
            Err(error) => panic!("{error}"),
        }
        if spool.stat().pending >= 20
            && let Err(error) = spool.commit()
        {
            assert!(matches!(error, Error::Full), "{error}");
        }
    }
}

/// Acknowledges the oldest in steps of 50 and returns the last.
fn drain(spool: &mut Spool, count: u64) -> Seq {
    let mut last = 0;
    for _ in 0..count / 50 {
        let batch = spool.peek(0, 50, usize::MAX).expect("readable");
        last = batch.last().expect("not empty").seq;
        spool.acknowledge(batch[0].seq..=last).expect("known");
        match spool.sync() {
            Ok(_) | Err(Error::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }
    last
}

fn check(spool: &mut Spool, first: Seq, next: Seq) {
    let found = spool.peek(0, usize::MAX, usize::MAX).expect("readable");
    assert!(found.iter().map(|record| record.seq).eq(first..next), "not {first} to {next}");
    assert!(found.iter().all(|record| record.payload == payload(record.seq)));
}

/// Somebody else's file that takes all the room there is.
pub(crate) fn ballast(at: &Path) {
    let mut file = File::create(at).expect("a name");
    let mut before = None;
    // What a file system had set aside for its own use comes free with a sync.
    while before != Some(file.metadata().expect("open").len()) {
        before = Some(file.metadata().expect("open").len());
        for piece in [&[0; 65536][..], &[0; 1024], &[0]] {
            while file.write_all(piece).is_ok() {}
        }
        // That a full disk does not take all of it is the point.
        file.sync_all().ok();
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_file_system_refuses_drains_and_goes_on() {
    let files = in_memory();
    let disk = Mounted::make(&files.path().join("small.img"), 4 << 10, files.path().join("small"));
    let folder = disk.path().join("queue");
    let (mut spool, _) = Spool::open(&folder, options()).expect("opens");
    let taken = fill(&mut spool);
    assert!(taken > 10_000, "{taken}");
    assert!(matches!(spool.prepare(), Err(Error::Full)));
    check(&mut spool, 1, taken + 1);

    // The same handle drains, while the disk stays full, and goes on with what became free.
    let drained = drain(&mut spool, taken / 2);
    let more = fill(&mut spool);
    assert!(more > taken / 3, "{more} after {drained} of {taken}");
    check(&mut spool, drained + 1, taken + more + 1);
    let durable = spool.stat().durable;
    drop(spool);

    // A restart with the disk full.
    let (mut spool, _) = Spool::open(&folder, options()).expect("opens on a full disk");
    check(&mut spool, drained + 1, durable + 1);
    let left = spool.stat().records;
    drain(&mut spool, left);
    fill(&mut spool);
    spool
        .close()
        .or_else(|error| matches!(error, Error::Full).then_some(()).ok_or(error))
        .expect("full at most");
    drop(disk);
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_others_filled_stops_nothing_once_they_make_room() {
    let files = in_memory();
    let disk = Mounted::make(&files.path().join("small.img"), 8 << 10, files.path().join("small"));
    let (mut spool, _) = Spool::open(&disk.path().join("queue"), options()).expect("opens");
    for _ in 0..100 {
        spool.append(&payload(spool.stat().next)).expect("taken");
    }
    spool.commit().expect("written");
    let logs = disk.path().join("logs");
    ballast(&logs);
    let taken = 100 + fill(&mut spool);
    // Two segments at most, the second of which was prepared before.
    assert!(taken < 2 * u64::from(SEGMENT) / 30, "{taken}");
    fs::remove_file(logs).expect("removed");
    // What was removed is room once the file system's journal says so.
    tool("sync", "coreutils", &[Path::new("-f"), disk.path()]);
    // No new handle, no call but what is done anyway: the commit that failed is tried again.
    let commit = spool.commit().expect("there is room");
    assert_eq!(commit.durable, taken);
    let more = fill(&mut spool);
    assert!(more > 10_000, "{more}");
    check(&mut spool, 1, taken + more + 1);
    drop(spool);
}
