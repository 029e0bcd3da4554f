//! What the queue costs: bytes and flushes that reach the block device, time, memory.
//!
//! ```console
//! $ cargo run --release -p spool --example weigh -- steady 50 in-order /mnt/queue loop0
//! ```
//!
//! `cargo xtask footprint queue` runs it on a loop device beside the same work in SQLite
//! (`weigh_sqlite.py`). A datum here has 152 to 344 bytes, 248 on average.
//!
//! | Work | Does |
//! | --- | --- |
//! | `grow N` | appends 20,000 (with N = 1, 5,000) and commits each N: an outage |
//! | `steady N in-order` | 100 in, 100 out, over and over: the connected life |
//! | `steady N out-of-order` | the same, delivered in pieces of 10 in random order within 200 |
//! | `steady N proved` | each N delivered before their commit is due |
//! | `fill` | queues a million and ends without closing |
//! | `reopen` | opens, reads the first hundred, ends |
//! | `drain` | reads, acknowledges and commits by the thousand until nothing is left |
//!
//! It prints one line of `name=value`; the device's counters are read after a warm-up, and after
//! closing and bringing everything to the device.

use std::{
    error::Error,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use spool::{Options, Seq, Spool};

type Outcome<T> = Result<T, Box<dyn Error>>;

const LIMIT: u64 = 512 << 20;
const MILLION: u64 = 1_000_000;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["grow", every, folder, device] => grow(every.parse()?, &Weighing::new(folder, device)),
        ["steady", every, order, folder, device] => {
            steady(every.parse()?, order, &Weighing::new(folder, device))
        }
        ["fill", folder, device] => fill(&Weighing::new(folder, device)),
        ["reopen", folder, device] => reopen(&Weighing::new(folder, device)),
        ["drain", folder, device] => drain(&Weighing::new(folder, device)),
        _ => Err("usage: weigh grow N|steady N ORDER|fill|reopen|drain FOLDER DEVICE".into()),
    }
}

fn mixed(seq: Seq) -> u64 {
    let mixed = (seq ^ seq >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 16
}

/// What a datum looks like to the queue: bytes of which no two are alike.
fn payload(seq: Seq, into: &mut Vec<u8>) {
    into.clear();
    let words = 19 + mixed(seq) % 13 * 2;
    for word in 0..words {
        into.extend_from_slice(&(mixed(seq * 64 + word)).to_le_bytes());
    }
}

/// The queue's folder, and the device that it lies on.
struct Weighing {
    folder: PathBuf,
    device: String,
}

/// Bytes written to the device and flushes of it, so far.
type Counters = (u64, u64);

impl Weighing {
    fn new(folder: &str, device: &str) -> Self {
        Self { folder: folder.into(), device: device.to_owned() }
    }

    fn open(&self) -> Outcome<Spool> {
        Ok(Spool::open(&self.folder, Options::new(LIMIT))?.0)
    }

    /// Brings everything to the device and reads its counters.
    fn counters(&self) -> Outcome<Counters> {
        let parent = self.folder.parent().unwrap_or(Path::new("/"));
        rustix::fs::syncfs(File::open(parent)?)?;
        let stat = fs::read_to_string(format!("/sys/block/{}/stat", self.device))?;
        // Documentation/block/stat.rst: the 7th is sectors written, the 16th flush requests.
        let fields: Vec<u64> = stat.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok((fields.get(6).ok_or("no counters")? * 512, *fields.get(15).unwrap_or(&0)))
    }

    /// Closes the queue and says what `count` datum cost since `before`.
    fn done(&self, spool: Spool, before: Counters, begun: Instant, count: u64) -> Outcome<()> {
        spool.close()?;
        let seconds = begun.elapsed().as_secs_f64();
        let after = self.counters()?;
        println!(
            "datum={count} seconds={seconds:.4} bytes={} flushes={} peak_kib={}",
            after.0 - before.0,
            after.1 - before.1,
            memory("VmHWM:")?
        );
        Ok(())
    }
}

fn memory(field: &str) -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(line.and_then(|line| line.split_whitespace().next()).ok_or("no memory figures")?.parse()?)
}

fn append(spool: &mut Spool, buffer: &mut Vec<u8>) -> Outcome<()> {
    payload(spool.stat().next, buffer);
    spool.append(buffer)?;
    Ok(())
}

fn grow(every: u64, weighing: &Weighing) -> Outcome<()> {
    let mut spool = weighing.open()?;
    let mut buffer = Vec::new();
    let count = if every == 1 { 5000 } else { 20_000 };
    let (before, begun) = (weighing.counters()?, Instant::now());
    for n in 1..=count {
        append(&mut spool, &mut buffer)?;
        if n % every == 0 {
            spool.commit()?;
        }
    }
    weighing.done(spool, before, begun, count)
}

fn steady(every: u64, order: &str, weighing: &Weighing) -> Outcome<()> {
    let mut spool = weighing.open()?;
    let mut life = Life { every, buffer: Vec::new(), window: Vec::new() };
    // Long enough that every segment in use is one that was used before.
    let cycles = if every == 1 { 60 } else { 300 };
    for cycle in 0..cycles * 2 {
        life.cycle(&mut spool, order, cycle)?;
    }
    let (before, begun) = (weighing.counters()?, Instant::now());
    for cycle in 0..cycles {
        life.cycle(&mut spool, order, cycle)?;
    }
    weighing.done(spool, before, begun, cycles * 100)
}

struct Life {
    every: u64,
    buffer: Vec<u8>,
    /// Pieces that wait to be delivered out of order.
    window: Vec<(Seq, Seq)>,
}

impl Life {
    /// 100 in, 100 out.
    fn cycle(&mut self, spool: &mut Spool, order: &str, cycle: u64) -> Outcome<()> {
        let first = spool.stat().next;
        for n in 1..=100 {
            append(spool, &mut self.buffer)?;
            if n % self.every == 0 {
                if order == "proved" {
                    let next = spool.stat().next;
                    spool.acknowledge(next - self.every..=next - 1)?;
                }
                spool.commit()?;
            }
        }
        match order {
            "in-order" => {
                let batch = spool.peek(first, 100, usize::MAX)?;
                let last = batch.last().ok_or("nothing to read")?.seq;
                spool.acknowledge(first..=last)?;
            }
            "out-of-order" => {
                self.window.extend((0..10).map(|i| (first + i * 10, first + i * 10 + 9)));
                while self.window.len() > 10 {
                    let at = mixed(cycle * 100 + self.window.len() as u64) as usize;
                    let (first, last) = self.window.swap_remove(at % self.window.len());
                    spool.peek(first, 10, usize::MAX)?;
                    spool.acknowledge(first..=last)?;
                }
            }
            "proved" => {}
            other => return Err(format!("{other}: in-order, out-of-order or proved").into()),
        }
        Ok(())
    }
}

fn fill(weighing: &Weighing) -> Outcome<()> {
    let mut spool = weighing.open()?;
    let (mut buffer, mut bytes) = (Vec::new(), 0);
    let begun = Instant::now();
    for n in 1..=MILLION {
        append(&mut spool, &mut buffer)?;
        bytes += buffer.len();
        if n % 64 == 0 || n == MILLION {
            spool.commit()?;
        }
    }
    let on_disk = spool.stat().bytes;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = memory("VmHWM:")?;
    println!("datum={MILLION} payload={bytes} disk={on_disk} seconds={seconds:.4} peak_kib={peak}");
    Ok(())
}

fn reopen(weighing: &Weighing) -> Outcome<()> {
    let begun = Instant::now();
    let mut spool = weighing.open()?;
    let opened = begun.elapsed().as_secs_f64() * 1000.0;
    let records = spool.stat().records;
    let read = spool.peek(0, 100, usize::MAX)?.len();
    let first = begun.elapsed().as_secs_f64() * 1000.0;
    let (rss, peak) = (memory("VmRSS:")?, memory("VmHWM:")?);
    println!(
        "datum={records} read={read} open_ms={opened:.2} first_ms={first:.2} rss_kib={rss} peak_kib={peak}"
    );
    Ok(())
}

fn drain(weighing: &Weighing) -> Outcome<()> {
    let mut spool = weighing.open()?;
    let (before, begun) = (weighing.counters()?, Instant::now());
    let mut count = 0;
    loop {
        let batch = spool.peek(0, 1000, usize::MAX)?;
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { break };
        count += batch.len() as u64;
        spool.acknowledge(first.seq..=last.seq)?;
    }
    weighing.done(spool, before, begun, count)
}
