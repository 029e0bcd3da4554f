//! The queue against a plain model, on a disk that misbehaves.
//!
//! After every step the queue must hold exactly what the model says. After a crash it may hold more
//! (what was not committed, what was acknowledged but not yet durably), never less.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    engine::Engine,
    error::Error,
    format::Seq,
    memory_disk::MemoryDisk,
    reader,
    record::Loss,
    segment::{Record, Wanted},
    spool::Options,
};

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    /// How many, how long.
    AppendMany(usize, usize),
    Commit,
    Sync,
    /// Acknowledge a share of what waits: where it begins, how many.
    Acknowledge(usize, usize),
    AcknowledgeEverySecond(usize),
    Peek(usize, usize),
    Prepare,
    Reopen,
    Close,
    Crash(u64),
    DiskFull(usize),
    WriteFull(usize),
    SyncFails(usize),
    DiskFree,
    Flip(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (0usize..3000).prop_map(Step::Append),
        4 => (1usize..80, 0usize..150).prop_map(|(n, size)| Step::AppendMany(n, size)),
        8 => Just(Step::Commit),
        2 => Just(Step::Sync),
        10 => (0usize..1000, 1usize..60).prop_map(|(at, n)| Step::Acknowledge(at, n)),
        1 => (1usize..200).prop_map(Step::AcknowledgeEverySecond),
        6 => (0usize..1000, 1usize..20).prop_map(|(at, n)| Step::Peek(at, n)),
        2 => Just(Step::Prepare),
        1 => Just(Step::Reopen),
        1 => Just(Step::Close),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => (0usize..3).prop_map(Step::DiskFull),
        1 => (0usize..6).prop_map(Step::WriteFull),
        1 => (0usize..12).prop_map(Step::SyncFails),
        3 => Just(Step::DiskFree),
    ]
}

fn flip() -> impl Strategy<Value = Step> {
    (any::<usize>(), any::<usize>()).prop_map(|(file, bit)| Step::Flip(file, bit))
}

const EVERYTHING: Wanted = Wanted { from: 0, records: usize::MAX, bytes: usize::MAX };

struct Rig {
    disk: MemoryDisk,
    engine: Option<Engine<MemoryDisk>>,
    options: Options,
    /// What waits, by sequence number.
    waiting: BTreeMap<Seq, Vec<u8>>,
    /// What was ever appended.
    issued: BTreeMap<Seq, Vec<u8>>,
    durable: BTreeSet<Seq>,
    losses: Vec<Loss>,
    dropped: u64,
    /// Bits flipped since the last open: as many records may be missing.
    flips: usize,
    flipped: bool,
}

impl Rig {
    fn new(limit: u64) -> Self {
        let options = Options::new(limit).with_segment_bytes(16 * 1024);
        let disk = MemoryDisk::default();
        let (engine, _) = Engine::open(disk.clone(), options).expect("an empty disk opens");
        Self {
            disk,
            engine: Some(engine),
            options,
            waiting: BTreeMap::new(),
            issued: BTreeMap::new(),
            durable: BTreeSet::new(),
            losses: Vec::new(),
            dropped: 0,
            flips: 0,
            flipped: false,
        }
    }

    fn engine(&mut self) -> &mut Engine<MemoryDisk> {
        self.engine.as_mut().expect("open")
    }

    fn seq_at(&self, at: usize) -> Option<Seq> {
        let seqs: Vec<_> = self.waiting.keys().copied().collect();
        (!seqs.is_empty()).then(|| seqs[at % seqs.len()])
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Append(size) => self.append(size),
            Step::AppendMany(count, size) => (0..count).for_each(|_| self.append(size)),
            Step::Commit => self.commit(false),
            Step::Sync => self.commit(true),
            Step::Acknowledge(at, count) => {
                if let Some(first) = self.seq_at(at) {
                    let last = self.waiting.range(first..).take(count).last().map(|e| *e.0);
                    self.acknowledge(first, last.expect("the first is there"));
                }
            }
            Step::AcknowledgeEverySecond(count) => {
                let seqs: Vec<_> = self.waiting.keys().copied().step_by(2).take(count).collect();
                seqs.into_iter().for_each(|seq| self.acknowledge(seq, seq));
            }
            Step::Peek(at, count) => {
                let from = self.seq_at(at).unwrap_or(1);
                let wanted = Wanted { from, records: count, bytes: 4000 };
                let Ok(got) = self.engine().peek(wanted) else { return self.reopen() };
                let mut bytes = 0;
                let expected = self.waiting.range(from..).take(count).enumerate();
                let expected = expected.take_while(|(i, (_, payload))| {
                    bytes += payload.len();
                    *i == 0 || bytes <= 4000
                });
                let expected: Vec<_> = expected.map(|(_, (seq, p))| (*seq, p.clone())).collect();
                let got: Vec<_> = got.into_iter().map(|r| (r.seq, r.payload)).collect();
                if self.flips == 0 {
                    assert_eq!(got, expected);
                }
            }
            Step::Prepare => match self.engine().prepare() {
                Ok(_) | Err(Error::Full) => {}
                Err(error) => self.failed(&error),
            },
            Step::Reopen => self.reopen(),
            Step::Close => {
                let engine = self.engine.take().expect("open");
                let next = engine.stat().next;
                if engine.close().is_ok() {
                    self.durable.extend(self.waiting.keys());
                    let calm = self.disk.faults().sync_fails_in.get().is_none()
                        && self.disk.faults().write_full_in.get().is_none();
                    self.reopen();
                    if calm && !self.flipped {
                        assert_eq!(self.engine().stat().next, next, "no gap after a clean end");
                    }
                } else {
                    self.reopen();
                }
            }
            Step::Crash(seed) => {
                self.engine = None;
                let mut random = xorshift(seed);
                self.disk.crash(&mut random);
                self.reopen();
            }
            Step::DiskFull(files) => self.disk.faults().files_left.set(Some(files)),
            Step::WriteFull(n) => self.disk.faults().write_full_in.set(Some(n)),
            Step::SyncFails(n) => self.disk.faults().sync_fails_in.set(Some(n)),
            Step::DiskFree => self.disk.faults().files_left.set(None),
            Step::Flip(file, bit) => {
                let names = self.disk.names();
                let name = &names[file % names.len()];
                self.disk.tamper(name, |bytes| {
                    if !bytes.is_empty() {
                        let bit = bit % (bytes.len() * 8);
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                });
                self.flips += 1;
                self.flipped = true;
            }
        }
        self.compare();
    }

    fn append(&mut self, size: usize) {
        let payload = payload(self.issued.len(), size);
        match self.engine().append(&payload) {
            Ok(seq) => {
                let before = self.issued.keys().last();
                assert!(before.is_none_or(|before| *before < seq), "{seq} was used before");
                self.issued.insert(seq, payload.clone());
                self.waiting.insert(seq, payload);
            }
            Err(Error::Full) => {}
            Err(error) => self.failed(&error),
        }
    }

    fn commit(&mut self, always: bool) {
        let before = self.losses.clone();
        let result = self.engine().commit(always);
        self.note_losses(&before);
        match result {
            Ok(done) => {
                assert_eq!(done.durable, self.engine().stat().next - 1);
                assert_eq!(self.engine().stat().pending, 0);
                if always && !self.flipped {
                    self.compare_reader();
                }
            }
            Err(Error::Full) => {}
            Err(error) => return self.failed(&error),
        }
        let durable = self.engine().stat().durable;
        self.durable.extend(self.waiting.range(..=durable).map(|(seq, _)| *seq));
    }

    /// New loss records must name exactly what is gone.
    fn note_losses(&mut self, before: &[Loss]) {
        let now = self.engine().losses().to_vec();
        let last_known = before.last().map_or(0, |loss| loss.last);
        for loss in now.iter().filter(|loss| loss.last > last_known) {
            let lost: Vec<_> = self.waiting.range(..=loss.last).map(|(seq, _)| *seq).collect();
            if !self.flipped {
                assert_eq!(lost.len() as u64, loss.count);
                assert_eq!((lost.first(), lost.last()), (Some(&loss.first), Some(&loss.last)));
            }
            self.dropped += loss.count;
            lost.iter().for_each(|seq| drop(self.waiting.remove(seq)));
        }
        if !self.flipped {
            assert_eq!(self.engine().stat().dropped, self.dropped);
        }
        self.losses = now;
    }

    fn acknowledge(&mut self, first: Seq, last: Seq) {
        match self.engine().acknowledge(first..=last) {
            Ok(()) => self.waiting.retain(|seq, _| !(first..=last).contains(seq)),
            Err(Error::Scattered { .. } | Error::Full) => {}
            Err(error) => {
                // Whether it took effect is open: take both as possible, by opening again.
                self.durable.retain(|seq| !(first..=last).contains(seq));
                self.failed(&error);
            }
        }
    }

    fn failed(&mut self, error: &Error) {
        assert!(!matches!(error, Error::TooLarge { .. } | Error::Unknown { .. }), "{error}");
        self.reopen();
    }

    /// Opens again and takes what is there as the truth, after checking that it may be.
    fn reopen(&mut self) {
        self.engine = None;
        let next = self.issued.keys().last().map_or(1, |seq| seq + 1);
        let engine = (0..20).find_map(|_| match Engine::open(self.disk.clone(), self.options) {
            Ok((engine, _)) => Some(engine),
            Err(Error::Full | Error::Io { .. }) => None,
            Err(error) => panic!("{error}"),
        });
        self.engine = Some(engine.expect("opens once the faults are over"));
        let found = self.engine().peek(EVERYTHING).expect("readable");
        let found: BTreeMap<_, _> = found.into_iter().map(|r| (r.seq, r.payload)).collect();
        for (seq, payload) in &found {
            assert_eq!(self.issued.get(seq), Some(payload), "record {seq} was never appended");
        }
        let losses = self.engine().losses().to_vec();
        let lost_to = losses.last().map_or(0, |loss| loss.last);
        let missing = self.durable.iter().filter(|seq| {
            self.waiting.contains_key(seq) && !found.contains_key(seq) && **seq > lost_to
        });
        let missing: Vec<_> = missing.collect();
        assert!(missing.len() <= self.flips, "durable and gone: {missing:?}, flips {}", self.flips);
        if !self.flipped {
            assert!(losses.len() >= self.losses.len(), "a loss record was forgotten");
            assert!(self.engine().stat().dropped >= self.dropped);
        }
        assert!(self.engine().stat().next >= next, "{next} would be used again");
        self.flips = 0;
        self.durable = found.keys().copied().collect();
        self.waiting = found;
        self.losses = losses;
        self.dropped = self.engine().stat().dropped;
    }

    /// With everything on disk, a reader sees what the writer does.
    fn compare_reader(&mut self) {
        let found = reader::peek(&self.disk, EVERYTHING).expect("readable");
        assert!(found.iter().map(|r| (&r.seq, &r.payload)).eq(self.waiting.iter()));
        let (theirs, ours) = (reader::stat(&self.disk).expect("readable"), self.engine().stat());
        assert_eq!(theirs.records, ours.records);
        assert_eq!((theirs.bytes, theirs.limit), (ours.bytes, ours.limit));
        assert_eq!((theirs.dropped, theirs.spares), (ours.dropped, ours.spares));
        let found = reader::verify(&self.disk).expect("readable");
        assert_eq!((found.records, found.corrupt), (ours.records, 0));
    }

    fn compare(&mut self) {
        let flips = self.flips;
        if flips > 0 {
            return;
        }
        let Ok(found) = self.engine().peek(EVERYTHING) else { return self.reopen() };
        let found: Vec<Record> = found;
        assert!(found.iter().map(|r| r.seq).eq(self.waiting.keys().copied()));
        assert!(found.iter().map(|r| &r.payload).eq(self.waiting.values()));
        let limit = self.options.limit_bytes;
        let stat = self.engine().stat();
        assert_eq!(stat.records, self.waiting.len() as u64);
        assert!(self.waiting.keys().next().is_none_or(|first| stat.first <= *first));
        assert!(stat.ranges <= self.engine().layout.max_ranges());
        assert!(self.engine().on_disk() <= limit.max(2 * 16 * 1024), "over the limit");
    }
}

fn payload(n: usize, size: usize) -> Vec<u8> {
    (0..size).map(|i| (n * 31 + i * 7) as u8).collect()
}

fn xorshift(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below.max(1)
    }
}

fn run(limit: u64, steps: &[Step]) {
    let mut rig = Rig::new(limit);
    steps.iter().for_each(|step| rig.take(step));
    rig.engine = None;
    rig.disk.crash(&mut xorshift(7));
    rig.reopen();
}

/// More cases than these with `SPOOL_MODEL_CASES`.
fn config() -> ProptestConfig {
    let cases = std::env::var("SPOOL_MODEL_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(200),
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_durable_is_lost_and_nothing_is_invented(
        limit in prop_oneof![Just(2u64), Just(4), Just(8), Just(40)],
        steps in prop::collection::vec(step(), 1..250),
    ) {
        run(limit * 16 * 1024, &steps);
    }

    #[test]
    fn a_flipped_bit_costs_at_most_the_record_it_hits(
        steps in prop::collection::vec(prop_oneof![40 => step(), 1 => flip()], 1..250),
    ) {
        run(12 * 16 * 1024, &steps);
    }
}
