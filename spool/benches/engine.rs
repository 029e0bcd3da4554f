//! How fast the engine is by itself: `cargo bench -p spool`. What reaches the disk is weighed by
//! `cargo xtask footprint queue`.
//!
//! The folder lies in memory where there is `/dev/shm`: a sync costs nothing there, so what is
//! measured is the work of the queue.

use std::{hint::black_box, path::Path};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spool::{Options, Reader, Spool};
use tempfile::TempDir;

const PAYLOAD: [u8; 248] = [0x5A; 248];

fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

fn open(folder: &TempDir) -> Spool {
    Spool::open(folder.path(), Options::new(64 << 20)).expect("opens").0
}

fn filled(count: usize) -> (TempDir, Spool) {
    let folder = folder();
    let mut spool = open(&folder);
    for n in 1..=count {
        spool.append(&PAYLOAD).expect("taken");
        if n % 1000 == 0 {
            spool.commit().expect("written");
        }
    }
    spool.commit().expect("written");
    (folder, spool)
}

fn writing(c: &mut Criterion) {
    let mut group = c.benchmark_group("append, commit, read, acknowledge");
    for every in [1, 50] {
        group.throughput(Throughput::Elements(every));
        let folder = folder();
        let mut spool = open(&folder);
        group.bench_function(format!("{every} at a time"), |b| {
            b.iter(|| {
                for _ in 0..every {
                    spool.append(&PAYLOAD).expect("taken");
                }
                spool.commit().expect("written");
                let batch = spool.peek(0, every as usize, usize::MAX).expect("readable");
                spool.acknowledge(batch[0].seq..=batch[batch.len() - 1].seq).expect("known");
            });
        });
    }
    group.finish();
}

fn draining(c: &mut Criterion) {
    let mut group = c.benchmark_group("drain 100,000");
    group.throughput(Throughput::Elements(100_000)).sample_size(10);
    for at_once in [100, 1000] {
        group.bench_function(format!("{at_once} at a time"), |b| {
            let drain = |(folder, mut spool): (TempDir, Spool)| {
                loop {
                    let batch = spool.peek(0, at_once, usize::MAX).expect("readable");
                    let (Some(first), Some(last)) = (batch.first(), batch.last()) else { break };
                    spool.acknowledge(first.seq..=last.seq).expect("known");
                }
                (folder, spool)
            };
            b.iter_batched(|| filled(100_000), drain, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn opening(c: &mut Criterion) {
    let mut group = c.benchmark_group("100,000 queued");
    let (folder, spool) = filled(100_000);
    drop(spool);
    group.bench_function("open", |b| b.iter(|| black_box(open(&folder)).stat()));
    let reader = Reader::open(folder.path()).expect("there");
    group.bench_function("look beside the writer", |b| b.iter(|| reader.stat().expect("readable")));
    group.sample_size(10).throughput(Throughput::Bytes(100_000 * 258));
    group.bench_function("verify", |b| b.iter(|| reader.verify().expect("readable")));
    group.finish();
}

criterion_group!(benches, writing, draining, opening);
criterion_main!(benches);
