//! The process that is hurt, and the book kept of what it reported.
//!
//! It appends, commits, acknowledges in and out of order, and says each step on standard output:
//!
//! ```text
//! trying LAST NANOS            appended up to here, not yet committed
//! durable FIRST LAST NANOS     a commit has returned
//! acknowledging F L NANOS      from now on these may be gone
//! gone F L NANOS               their acknowledgement has been synced: they must be gone
//! ```
//!
//! A line is one write to a pipe, so it is there whole or not at all. The time is the monotonic
//! clock, which the parent shares: what is said after a power cut does not count.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
};

use rustix::time::{ClockId, clock_gettime};
use spool::{Error, Options, Seq, Spool};

use crate::Random;

const FOLDER: &str = "SPOOL_VICTIM_FOLDER";
const SEED: &str = "SPOOL_VICTIM_SEED";

/// Small segments: many begin, are recycled and carried forward in a short life.
pub(crate) fn options() -> Options {
    Options::new(40 * 16 * 1024).with_segment_bytes(16 * 1024)
}

pub(crate) fn payload(seq: Seq) -> Vec<u8> {
    let bytes = 20 + (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56);
    (0..bytes).map(|i| (seq * 31 + i * 7) as u8).collect()
}

pub(crate) fn nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Not a test of its own: what the campaigns start. Ends by itself only if the disk fails it.
#[test]
fn victim() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let mut random = Random(std::env::var(SEED).expect("set").parse().expect("a number"));
    match work(Path::new(&folder), &mut random) {
        // What a cut leads to: said as an error, never as success.
        Err(Error::Io { .. } | Error::Poisoned | Error::Full) => {}
        Err(error) => panic!("{error}"),
    }
}

fn work(folder: &Path, random: &mut Random) -> Result<std::convert::Infallible, Error> {
    let (mut spool, _) = Spool::open(folder, options())?;
    let mut from = 0;
    loop {
        let first = spool.stat().next;
        for _ in 0..random.of(&[1, 1, 5, 16, 64]) {
            spool.append(&payload(spool.stat().next))?;
        }
        println!("trying {} {}", spool.stat().next - 1, nanos());
        let durable = spool.commit()?.durable;
        println!("durable {first} {durable} {}", nanos());
        if random.below(4) == 0 {
            let batch = spool.peek(from, 60, usize::MAX)?;
            from = batch.last().map_or(0, |record| record.seq);
            // All of a batch, or a part of it: then it has holes, and segments are carried forward.
            let begin = random.of(&[0, 0, 0, batch.len() / 3]);
            if let (Some(first), Some(last)) = (batch.get(begin), batch.last()) {
                println!("acknowledging {} {} {}", first.seq, last.seq, nanos());
                spool.acknowledge(first.seq..=last.seq)?;
                if random.below(2) == 0 {
                    spool.sync()?;
                    println!("gone {} {} {}", first.seq, last.seq, nanos());
                }
            }
        }
        spool.prepare()?;
    }
}

/// A running victim.
pub(crate) struct Victim {
    child: Child,
    lines: mpsc::Receiver<String>,
    reading: JoinHandle<()>,
    said: Vec<String>,
}

impl Victim {
    pub(crate) fn start(folder: &Path, random: &mut Random) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "victim::victim", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(SEED, (random.below(usize::MAX) as u64 | 1).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = mpsc::channel();
        let reading = std::thread::spawn(move || {
            // The receiver lives until this ends.
            output.lines().map_while(Result::ok).for_each(|line| send.send(line).expect("heard"));
        });
        Self { child, lines, reading, said: Vec::new() }
    }

    /// Waits until it has reported some more steps, or has ended.
    pub(crate) fn wait_for(&mut self, steps: usize) {
        self.said.extend(self.lines.iter().take(steps));
    }

    /// Ends it and gives back all that it said.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("ended");
        self.reading.join().expect("no panic");
        self.said.extend(self.lines.try_iter());
        self.said
    }
}

/// What must be there, and what must not.
#[derive(Debug, Default)]
pub(crate) struct Book {
    durable: BTreeSet<Seq>,
    gone: BTreeSet<Seq>,
    tried: Seq,
    pub(crate) reported: u64,
    /// Acknowledged records handed out again, because their acknowledgement was not synced yet.
    pub(crate) repeated: u64,
}

impl Book {
    /// Takes down what was said before `until`.
    pub(crate) fn note(&mut self, said: &[String], until: u64) {
        let mut acknowledging = BTreeSet::new();
        for line in said {
            // The test harness writes the name of the test before the first one, on its line.
            let mut words = line.rsplit("... ").next().unwrap_or(line).split(' ');
            let step = words.next();
            let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
            let counts = numbers.last().is_some_and(|at| *at < until);
            match (step, numbers.as_slice()) {
                // What was tried may be there even if nothing was reported any more.
                (Some("trying"), [last, _]) => self.tried = self.tried.max(*last),
                (Some("acknowledging"), [first, last, _]) => {
                    self.durable.retain(|seq| !(first..=last).contains(&seq));
                    acknowledging.extend(*first..=*last);
                }
                (Some("durable"), [first, last, _]) if counts => {
                    self.reported += last + 1 - first;
                    self.durable.extend((*first..=*last).filter(|s| !acknowledging.contains(s)));
                }
                (Some("gone"), [first, last, _]) if counts => self.gone.extend(*first..=*last),
                _ => {}
            }
        }
    }

    /// Compares with what a newly opened queue holds, and goes on from there.
    pub(crate) fn check(&mut self, spool: &mut Spool, round: u32) {
        let found = spool.peek(0, usize::MAX, usize::MAX).expect("readable");
        let in_order = found.windows(2).all(|pair| pair[0].seq < pair[1].seq);
        assert!(in_order, "round {round}: out of order, or twice");
        for record in &found {
            assert_eq!(record.payload, payload(record.seq), "round {round}: record {}", record.seq);
            assert!(record.seq <= self.tried, "round {round}: {} was never appended", record.seq);
        }
        let found: BTreeSet<_> = found.into_iter().map(|record| record.seq).collect();
        let dropped_to = spool.losses().last().map_or(0, |loss| loss.last);
        let missing: Vec<_> =
            self.durable.difference(&found).filter(|seq| **seq > dropped_to).collect();
        assert!(missing.is_empty(), "round {round}: reported durable and gone: {missing:?}");
        let back: Vec<_> = self.gone.intersection(&found).collect();
        assert!(back.is_empty(), "round {round}: acknowledged durably and back: {back:?}");
        let stat = spool.stat();
        assert_eq!((stat.records, stat.corrupt), (found.len() as u64, 0), "round {round}");
        self.repeated += found.iter().filter(|seq| !self.durable.contains(seq)).count() as u64;
        self.durable = found;
    }
}
