//! A device that takes writes and cannot keep them: a sync fails, and the file system's memory then
//! shows what the disk does not have.
//!
//! The device is thinly provisioned: its file lies in a small file system, the blocks of zeros that
//! the queue had prewritten are given back, and somebody else takes the room. The writes of a
//! commit go into the page cache, its sync is told that they cannot be kept, and from then on the
//! kernel takes the pages for clean: a second sync would succeed, and reading shows the records.

use std::{fs, path::Path};

use spool::{Error, Options, Spool};

use crate::{
    Random,
    device::{Mounted, in_memory, tool},
    rounds,
    victim::payload,
};

fn options() -> Options {
    Options::new(16 * 64 * 1024).with_segment_bytes(64 * 1024)
}

/// Files of which the kernel may have such news.
const TOLD_LATER: usize = 16;

fn append(spool: &mut Spool, count: usize) {
    for _ in 0..count {
        spool.append(&payload(spool.stat().next)).expect("taken");
    }
}

#[test]
#[ignore = "needs root"]
fn after_a_failed_sync_nothing_is_durable_that_the_disk_does_not_have() {
    let files = in_memory();
    let mut random = Random::new();
    let mut kept_a_part = 0;
    let rounds = rounds("SPOOL_FAILED_SYNCS", 20);
    for round in 1..=rounds {
        let name = |name: &str| files.path().join(format!("{name}-{round}"));
        let room = Mounted::make(&name("room.img"), 16 << 10, name("room"));
        let image = room.path().join("thin.img");
        // Without a journal, which would be the first thing to fail.
        let disk = Mounted::make_with(&image, 8 << 10, name("thin"), &["-O^has_journal"]);
        let folder = disk.path().join("queue");
        let (mut spool, _) = Spool::open(&folder, options()).expect("opens");
        append(&mut spool, 1 + random.below(300));
        let durable = spool.commit().expect("written").durable;

        tool("sync", "coreutils", &[Path::new("-f"), disk.path()]);
        tool("sync", "coreutils", &[Path::new("-f"), room.path()]);
        tool("fallocate", "util-linux", &[Path::new("--dig-holes"), &image]);
        tool("sync", "coreutils", &[Path::new("-f"), room.path()]);
        let ballast = room.path().join("ballast");
        crate::full::ballast(&ballast);
        append(&mut spool, 60 + random.below(60));
        let Err(failed) = spool.commit() else {
            // The ballast left a little room. Linux' loop device takes a write that it could keep a
            // part of for done: a device that lies, against which nothing helps.
            kept_a_part += 1;
            continue;
        };
        assert!(matches!(failed, Error::Io { action: "sync a segment", .. }), "{failed:?}");
        assert_eq!(spool.stat().durable, durable, "round {round}: in doubt is not durable");
        assert!(matches!(spool.append(b""), Err(Error::Poisoned)));
        assert!(matches!(spool.commit(), Err(Error::Poisoned)));
        drop(spool);

        // Opening writes again what it found in memory; while the device cannot keep it, it fails.
        if Spool::open(&folder, options()).is_ok() {
            // What it writes now is shorter, and the device kept a part of it, as above.
            kept_a_part += 1;
            continue;
        }
        fs::remove_file(ballast).expect("removed");
        tool("sync", "coreutils", &[Path::new("-f"), room.path()]);
        // What the kernel wrote by itself, and could not keep, it tells the next one who syncs that file.
        let mut opened = Spool::open(&folder, options());
        for _ in 0..TOLD_LATER {
            if matches!(opened, Err(Error::Full | Error::Io { .. })) {
                opened = Spool::open(&folder, options());
            }
        }
        let (mut spool, _) = opened.expect("opens");
        let told = spool.peek(0, usize::MAX, usize::MAX).expect("readable");
        assert!(told.iter().take(durable as usize).map(|record| record.seq).eq(1..=durable));
        drop(spool);

        // What the disk has, without the kernel's memory of it.
        drop(disk);
        let disk = Mounted::mount(&image, name("thin"));
        let (mut spool, recovery) = Spool::open(&folder, options()).expect("opens");
        assert_eq!(recovery.corrupt, 0, "round {round}");
        let kept = spool.peek(0, usize::MAX, usize::MAX).expect("readable");
        assert_eq!(kept, told, "round {round}: shown after the failure, but not on the disk");
        drop((spool, disk));
    }
    println!("{} failed syncs", rounds - kept_a_part);
    assert!(kept_a_part <= rounds / 2, "{kept_a_part} of {rounds} did not fail");
}
