//! What things cost, measured beside others in the same run; prints what docs/footprint.md quotes.
//!
//! The queue is weighed on an ext4 on a loop device over a file in memory: the device's counters hold
//! all that is written to it, data, names and journal, whoever wrote it. SQLite does the same work on
//! the same device in turns. Needs root.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::{cargo, root, run, target};

/// Rounds of which the medians are shown.
const ROUNDS: usize = 3;
const DEVICE_MIB: u64 = 1200;
/// Bytes around a payload in the queue's files (`spool/src/format.rs`), and a block of the device.
const FRAMING: f64 = 10.0;
const BLOCK: f64 = 4096.0;
const PAYLOAD: f64 = 248.0;

/// The peers, by the order of the columns.
const PEERS: [&str; 2] = ["queue", "SQLite FULL"];

type Figures = BTreeMap<String, f64>;

/// Weighs the queue and SQLite.
pub(crate) fn queue() -> Result<(), String> {
    run(&cargo(), &["build", "--release", "--package", "spool", "--example", "weigh"])?;
    let bench = Bench::new()?;
    println!(
        "Bytes written to the device, and flushes of it, per datum ({ROUNDS} rounds, medians):\n"
    );
    println!("| Work | floor | queue | flushes | SQLite FULL | flushes | ratio |");
    println!("| --- | --: | --: | --: | --: | --: | --: |");
    let orders = [
        ("steady", "in-order", "in order"),
        ("steady", "out-of-order", "out of order"),
        ("steady", "proved", "proved before the commit is due"),
        ("grow", "", "nothing delivered"),
    ];
    for (work, order, shown) in orders {
        for every in ["1", "10", "50"] {
            let words: Vec<&str> =
                [work, every, order].into_iter().filter(|word| !word.is_empty()).collect();
            bench.compare(&words, &format!("{shown}, commits of {every}"), every)?;
        }
    }
    bench.million()
}

/// A mounted device.
struct Bench {
    folder: PathBuf,
    device: String,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = folder.join(format!("footprint-{}", std::process::id()));
        let failed = |error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(folder.join("mounted")).map_err(failed)?;
        let image = folder.join("device.img");
        let file = std::fs::File::create(&image).map_err(failed)?;
        file.set_len(DEVICE_MIB << 20).map_err(failed)?;
        let text = image.to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-m0", &text])?;
        run("mount", &["-oloop", &text, &folder.join("mounted").to_string_lossy()])?;
        let mut bench = Self { folder, device: String::new() };
        let device = said("losetup", &["-nOname", "-j", &text])?;
        bench.device = device.trim().trim_start_matches("/dev/").to_owned();
        Ok(bench)
    }

    fn mounted(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    /// Runs one piece of work by one peer and reads what it says.
    fn weigh(&self, peer: usize, words: &[&str], anew: bool) -> Result<Figures, String> {
        let queue = self.mounted().join("queue");
        if anew && queue.exists() {
            std::fs::remove_dir_all(&queue).map_err(|error| error.to_string())?;
        }
        let queue = queue.to_string_lossy();
        let weigh = target().join("release/examples/weigh").to_string_lossy().into_owned();
        let script = root().join("spool/examples/weigh_sqlite.py").to_string_lossy().into_owned();
        let place = [&*queue, &self.device];
        let text = match peer {
            0 => said(&weigh, &[words, &place].concat())?,
            _ => said("python3", &[&[&*script], words, &place].concat())?,
        };
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    fn compare(&self, words: &[&str], shown: &str, every: &str) -> Result<(), String> {
        let mut found: [Vec<Figures>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (peer, found) in found.iter_mut().enumerate() {
                found.push(self.weigh(peer, words, true)?);
            }
        }
        let each = |peer: usize, name: &str| {
            median(
                found[peer].iter().map(|figures| figure(figures, name) / figure(figures, "datum")),
            )
        };
        let every: f64 = every.parse().map_err(|_| "commits of how many?")?;
        let floor = PAYLOAD + FRAMING + BLOCK / every;
        let (ours, theirs) = (each(0, "bytes"), each(1, "bytes"));
        println!(
            "| {shown} | {floor:.0} | {ours:.0} | {:.4} | {theirs:.0} | {:.4} | {:.2} |",
            each(0, "flushes"),
            each(1, "flushes"),
            ours / theirs
        );
        Ok(())
    }

    /// A million queued: how large, how soon open again, how fast drained.
    fn million(&self) -> Result<(), String> {
        println!("\nA million queued:\n");
        println!("| | {} | {} |", PEERS[0], PEERS[1]);
        println!("| --- | --: | --: |");
        let mut rows: BTreeMap<usize, (&str, [String; 2])> = BTreeMap::new();
        let mut tell = |at, name, peer: usize, value: String| {
            rows.entry(at).or_insert((name, Default::default())).1[peer] = value;
        };
        for peer in 0..PEERS.len() {
            let empty = self.weigh(peer, &["reopen"], true)?;
            let fill = self.weigh(peer, &["fill"], true)?;
            let size = figure(&fill, "disk") / figure(&fill, "payload");
            tell(0, "bytes on disk / payload", peer, format!("{size:.3}"));
            let mut opened = Vec::new();
            for cold in [true, true, true, false, false, false] {
                run("sync", &[])?;
                if cold {
                    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| e.to_string())?;
                }
                opened.push(self.weigh(peer, &["reopen"], false)?);
            }
            let ms =
                |from: usize| median(opened[from..from + 3].iter().map(|f| figure(f, "open_ms")));
            tell(1, "open, cold / warm, ms", peer, format!("{:.1} / {:.1}", ms(0), ms(3)));
            let grown = figure(&opened[5], "rss_kib") - figure(&empty, "rss_kib");
            tell(2, "memory open, above an empty one, KiB", peer, format!("{grown:.0}"));
            let grown = figure(&opened[5], "peak_kib") - figure(&empty, "peak_kib");
            tell(3, "its peak while opening, above an empty one, KiB", peer, format!("{grown:.0}"));
            let drain = self.weigh(peer, &["drain"], false)?;
            let rate = figure(&drain, "datum") / figure(&drain, "seconds");
            tell(
                4,
                "drained a second, read and acknowledged by the thousand",
                peer,
                format!("{rate:.0}"),
            );
            let bytes = figure(&drain, "bytes") / figure(&drain, "datum");
            tell(5, "bytes written per datum drained", peer, format!("{bytes:.1}"));
            tell(
                6,
                "peak memory while draining, KiB",
                peer,
                format!("{:.0}", figure(&drain, "peak_kib")),
            );
        }
        for (name, [ours, theirs]) in rows.into_values() {
            println!("| {name} | {ours} | {theirs} |");
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mounted = self.mounted();
        if let Err(problem) = run("umount", &[&mounted.to_string_lossy()]) {
            eprintln!("xtask: {problem}");
            return;
        }
        if let Err(problem) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: {}: {problem}", self.folder.display());
        }
    }
}

fn figure(figures: &Figures, name: &str) -> f64 {
    figures.get(name).copied().unwrap_or(f64::NAN)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs a program and gives back what it wrote to its output.
fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}
