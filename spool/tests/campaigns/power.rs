//! Power cuts: the device below the file system forgets whatever was not flushed to it.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    time::Duration,
};

use rustix::fs::OFlags;
use spool::Spool;

use crate::{
    Random,
    device::Device,
    rounds,
    victim::{Book, Victim, options},
};

#[test]
#[ignore = "needs root"]
fn what_was_durable_survives_power_cuts() {
    let mut device = Device::new();
    let mut random = Random::new();
    let mut book = Book::default();
    let cuts = rounds("SPOOL_POWER_CUTS", 100);
    for round in 1..=cuts {
        let folder = device.path().join("queue");
        let mut victim = Victim::start(&folder, &mut random);
        victim.wait_for(4 + random.below(200));
        std::thread::sleep(Duration::from_micros(random.below(2000) as u64));
        let cut_at = device.cut();
        book.note(&victim.kill(), cut_at);
        device.restart();
        let (mut spool, recovery) = Spool::open(&folder, options()).expect("opens by itself");
        assert_eq!((recovery.corrupt, recovery.broken_headers), (0, 0), "round {round}");
        book.check(&mut spool, round);
    }
    let Book { reported, repeated, .. } = book;
    println!("{cuts} cuts, {reported} records reported durable, none lost, {repeated} repeated");
}

/// The campaign proves nothing if the cut does not lose what a power cut loses.
#[test]
#[ignore = "needs root"]
fn a_cut_loses_what_was_not_flushed_and_keeps_what_was() {
    const BLOCK: usize = 4096;
    let mut device = Device::new();
    let path = |name: &str| device.path().join(name);
    let names = ["synced", "written", "direct"];
    for name in names {
        fs::write(path(name), [b'0'; BLOCK]).expect("written");
        File::open(path(name)).and_then(|file| file.sync_all()).expect("synced");
    }
    File::open(device.path()).and_then(|folder| folder.sync_all()).expect("synced");

    let open = |name: &str| OpenOptions::new().write(true).open(path(name)).expect("there");
    let synced = open("synced");
    synced.write_all_at(&[b'1'; BLOCK], 0).expect("written");
    synced.sync_data().expect("synced");
    open("written").write_all_at(&[b'1'; BLOCK], 0).expect("written");
    // This one reaches the device, but no flush follows: it is in the device's memory only.
    let mut past_the_cache = OpenOptions::new();
    past_the_cache.write(true).custom_flags(OFlags::DIRECT.bits() as i32);
    let direct = past_the_cache.open(path("direct")).expect("there");
    let ones = vec![b'1'; 2 * BLOCK];
    let aligned = ones.as_ptr().align_offset(BLOCK);
    direct.write_all_at(&ones[aligned..aligned + BLOCK], 0).expect("written");
    drop((synced, direct));

    device.cut();
    device.restart();
    let found = names.map(|name| fs::read(device.path().join(name)).expect("there")[0]);
    assert_eq!(found, *b"100");
}
