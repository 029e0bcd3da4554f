//! Bit rot: what was stored comes back wrong, at random places, before opening and while open.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use spool::{Options, Reader, Seq, Spool};

use crate::{Random, rounds, victim::payload};

const PAGE: usize = 4096;
/// What is appended after the damage.
const NEW: &[u8] = b"goes on";

fn options() -> Options {
    Options::new(64 * 16 * 1024).with_segment_bytes(16 * 1024)
}

/// What happens to one file; returns how many records that may cost.
fn hurt(file: &Path, random: &mut Random) -> usize {
    let mut bytes = fs::read(file).expect("readable");
    let at = random.below(bytes.len());
    // Records here take 30 to 286 bytes, so a page holds parts of at most 138.
    let may_cost = match random.below(4) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            1
        }
        2 => {
            let page = at / PAGE * PAGE;
            let what = random.of(&[0, 0xFF, b'D']);
            let end = bytes.len().min(page + PAGE);
            bytes[page..end].fill(what);
            PAGE / 30 + 2
        }
        _ => {
            bytes.truncate(at);
            bytes.len() / 30 + 16 * 1024 / 30
        }
    };
    fs::write(file, bytes).expect("writable");
    may_cost
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind != "spare")).collect();
    files.retain(|path| !path.ends_with("lock"));
    files.sort();
    files
}

fn contents(spool: &mut Spool) -> BTreeMap<Seq, Vec<u8>> {
    let found = spool.peek(0, usize::MAX, usize::MAX).expect("never fatal");
    found.into_iter().map(|record| (record.seq, record.payload)).collect()
}

/// A queue with a handful of segments, some with holes and one carried forward.
fn build(folder: &Path) -> BTreeMap<Seq, Vec<u8>> {
    let (mut spool, _) = Spool::open(folder, options()).expect("opens");
    for n in 1..=500 {
        spool.append(&payload(spool.stat().next)).expect("taken");
        if n % 9 == 0 {
            spool.commit().expect("written");
        }
    }
    spool.acknowledge(1..=30).expect("known");
    for seq in (40..100).step_by(2) {
        spool.acknowledge(seq..=seq).expect("known");
    }
    spool.sync().expect("written");
    contents(&mut spool)
}

fn check(spool: &mut Spool, torn: bool, all: &BTreeMap<Seq, Vec<u8>>, may_cost: usize, round: u32) {
    let before = spool.stat().next;
    let left = contents(spool);
    for (seq, payload) in &left {
        // A broken header may bring back what had been acknowledged, never something else.
        let right = *payload == crate::victim::payload(*seq) || payload == NEW;
        assert!(right, "round {round}: record {seq} is another one");
    }
    let missing: Vec<_> = all.keys().filter(|seq| !left.contains_key(seq)).collect();
    assert!(missing.len() <= may_cost, "round {round}: {missing:?} gone, not {may_cost}");
    let stat = spool.stat();
    // The very end of the newest segment without anything behind it looks as if never written.
    let at_the_end = all.keys().rev().take(missing.len()).eq(missing.iter().rev().copied());
    let counted = stat.corrupt > 0 || torn || at_the_end;
    assert!(counted, "round {round}: {missing:?} gone, not counted");
    assert_eq!(stat.records, left.len() as u64, "round {round}");
    let seq = spool.append(NEW).expect("taken");
    assert!(seq >= before && seq > *all.keys().last().expect("not empty"), "round {round}");
    spool.commit().expect("written");
}

#[test]
fn rot_is_counted_and_skipped_and_never_fatal() {
    let files = tempfile::tempdir().expect("a folder");
    let model = files.path().join("model");
    let all = build(&model);
    let mut random = Random::new();
    for round in 1..=rounds("SPOOL_ROT", 1000) {
        let folder = files.path().join("queue");
        fs::create_dir(&folder).expect("a folder");
        for entry in fs::read_dir(&model).expect("readable").flatten() {
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
        }
        // Before opening, or behind an open handle that has looked at some of it already.
        let mut open = match random.below(2) {
            0 => None,
            _ => {
                let (mut spool, _) = Spool::open(&folder, options()).expect("opens");
                let looked = random.below(600);
                spool.peek(1, looked, usize::MAX).expect("readable");
                Some(spool)
            }
        };
        let victims = segments(&folder);
        let may_cost = (0..1 + random.below(3))
            .map(|_| hurt(&victims[random.below(victims.len())], &mut random))
            .sum();
        if let Some(spool) = &mut open {
            check(spool, false, &all, may_cost, round);
        }
        drop(open);
        Reader::open(&folder).expect("there").verify().expect("never fatal");
        let (mut spool, recovery) = Spool::open(&folder, options()).expect("never fatal");
        check(&mut spool, recovery.torn_bytes > 0, &all, may_cost, round);
        drop(spool);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
