//! A month without a server, in accelerated time: the real queue, the real uploader, a server that is
//! played here.
//!
//! The test starts itself as a process of its own, so that the memory it looks at is nobody else's.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::sync::mpsc;

use super::{
    tests::{form, refused},
    *,
};
use crate::{
    domain::{Datum, Samples, Stamp},
    queue::{self, READINGS},
    solarnet::{Cause, Method},
};

/// Set for the process in which it happens.
const INSIDE: &str = "SOLARNODE_TEST_OUTAGE";

const SOURCES: i64 = 2;
const EVERY_MS: i64 = 10_000;
const DAYS: i64 = 30;
const LIMIT: u64 = 64 << 20;
/// What this server is able to take: a job of 5,000 rows in 20 s, one after the other.
const A_JOB: Duration = Duration::from_secs(20);
/// Requests that it allows: one each 2 s.
const BETWEEN_CALLS: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Server {
    up: bool,
    /// Job by number: rows, and when it is finished.
    jobs: Vec<(usize, Instant)>,
    busy_until: Option<Instant>,
    next_call: Option<Instant>,
    /// Times at which each source was read, as far as they arrived; a time of one source after the
    /// other, so a bit each.
    arrived: Vec<bool>,
    rows: usize,
    most_open: usize,
    largest: usize,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Server>>);

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut self.0.lock().expect("no test panics with it"))
    }
}

impl Server {
    fn take(&mut self, body: &[u8]) -> usize {
        let (_, csv) = form(body);
        let rows = csv.lines().skip(1).count();
        for line in csv.lines().skip(1) {
            let mut cells = line.split(',').skip(1);
            let source = cells.next().and_then(|source| source.strip_prefix("/m/"));
            let source: i64 = source.and_then(|n| n.parse().ok()).expect("a source");
            let at = chrono::NaiveDateTime::parse_from_str(
                cells.next().expect("a time"),
                "%Y-%m-%d %H:%M:%S%.3f",
            );
            let at = at.expect("a time").and_utc().timestamp_millis();
            self.arrived[(at / EVERY_MS * SOURCES + source) as usize] = true;
        }
        let now = Instant::now();
        let open = self.jobs.iter().filter(|(_, end)| *end > now).count() + 1;
        self.most_open = self.most_open.max(open);
        self.largest = self.largest.max(body.len());
        self.rows += rows;
        let begins = self.busy_until.map_or(now, |until| until.max(now));
        let takes = A_JOB * u32::try_from(rows).expect("few") / 5000;
        self.busy_until = Some(begins + takes);
        self.jobs.push((rows, begins + takes));
        self.jobs.len() - 1
    }

    fn job(&self, number: usize) -> serde_json::Value {
        let (rows, end) = self.jobs[number];
        let done = end <= Instant::now();
        json!({ "jobId": number.to_string(), "jobState": if done { "Completed" } else { "Executing" },
            "success": done, "loadedCount": if done { rows } else { 0 } })
    }
}

impl Caller for Fake {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        // The caller keeps to the rate that the server allows.
        let due = self.with(|server| {
            let due = server.next_call.map_or(Instant::now(), |next| next.max(Instant::now()));
            server.next_call = Some(due + BETWEEN_CALLS);
            due
        });
        tokio::time::sleep_until(due).await;
        self.with(|server| {
            let data = match (call.method, &call.body) {
                _ if !server.up => return Err(refused(&call, Cause::Unreachable)),
                (Method::Post, Some(body)) => {
                    let number = server.take(&body.bytes);
                    json!({ "jobId": number.to_string(), "jobState": "Queued" })
                }
                _ if call.path.ends_with("/jobs") => json!([]),
                _ => {
                    let id = call.path.rsplit('/').next().and_then(|id| id.parse().ok());
                    server.job(id.expect("a job of ours"))
                }
            };
            Ok(Answer { data })
        })
    }
}

fn datum(source: i64, unix_ms: i64) -> Datum {
    let value = |n: i64| (unix_ms / EVERY_MS * 7919 * n % 1_000_003).into();
    let names = ["watts", "voltage", "current", "frequency", "powerFactor", "reactivePower"];
    let instantaneous = names.iter().zip(1..).map(|(name, n)| ((*name).to_owned(), value(n)));
    Datum {
        source: format!("/m/{source}").parse().expect("a source"),
        stamp: Stamp::Wall { unix_ms },
        samples: Samples {
            instantaneous: instantaneous.collect(),
            accumulating: vec![("wattHours".into(), (unix_ms / 1000).into())],
            // So long that two sources fill the queue within two weeks.
            status: vec![("note".into(), "as every meter has it ".repeat(12))],
            ..Samples::default()
        },
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok()).expect("kB")
}

#[test]
fn a_month_offline_keeps_to_its_limit_loses_by_the_book_and_drains_as_the_server_can() {
    let mut child = Command::new(std::env::current_exe().expect("this test"));
    let name = "upload::task::outage_tests::month";
    let child = child.args(["--exact", name, "--nocapture"]).env(INSIDE, "yes");
    let output = child.output().expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    print!("{said}");
}

/// Not a test of its own: the process that the one above starts.
#[tokio::test(start_paused = true)]
async fn month() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a temporary folder");
    let server = Fake::default();
    let ticks = DAYS * 86_400_000 / EVERY_MS;
    server.with(|server| server.arrived = vec![false; (ticks * SOURCES) as usize]);

    let settings = settings::Queue { limit_bytes: LIMIT, at_risk: Duration::from_secs(60) };
    let clock = Clock::read_only(dir.path()).expect("no anchors yet");
    let (readings, received) = mpsc::channel(READINGS);
    let (queue, worker) =
        Queue::open(dir.path(), &settings, clock.clone(), received).expect("a queue");
    let stop = CancellationToken::new();
    let (status, _status) = watch::channel(UploadStatus::default());
    let (_key, key_changed) = watch::channel(0);
    let uploader = Uploader {
        node: NodeId::try_from(123).expect("a node"),
        settings: settings::Upload {
            via: settings::Via::Import,
            every: Duration::from_secs(60),
            proof: settings::Proof::Answer,
            in_flight: 1,
            fallback_after: None,
        },
        state_dir: dir.path().to_owned(),
        caller: server.clone(),
        queue: queue.clone(),
        proof: Proof::at_once(queue.clone()),
        clock,
        key_changed,
        status,
        stop: stop.clone(),
        pulse: Pulse::unheard(),
    };
    let worker = tokio::spawn(worker.run(stop.child_token()));
    let uploader = tokio::spawn(uploader.run());

    let mut stat = queue.stat();
    let mut once_full = 0;
    let mut most_disk = 0;
    for tick in 0..ticks {
        for source in 0..SOURCES {
            readings.send(datum(source, tick * EVERY_MS)).await.expect("the queue runs");
        }
        // Readings come by the minute: fewer moments to wake up for.
        if tick % 6 == 5 {
            tokio::time::sleep(Duration::from_millis(EVERY_MS.unsigned_abs() * 6)).await;
        }
        if tick == ticks / 2 {
            once_full = resident_kib();
            assert!(stat.borrow().dropped > 0, "full by now");
        }
        if tick % 8640 == 0 {
            let folder = std::fs::read_dir(queue::folder(dir.path())).expect("there").flatten();
            let disk = folder.map(|file| file.metadata().map_or(0, |data| data.len())).sum::<u64>();
            most_disk = most_disk.max(disk);
        }
    }
    let taken = (ticks * SOURCES) as u64;
    let all_in = stat.wait_for(|stat| stat.records + stat.dropped == taken);
    let end = *all_in.await.expect("running");
    let grown = resident_kib().saturating_sub(once_full);
    println!(
        "{taken} taken, {} dropped, {once_full} KiB of memory once full, {grown} more at the end",
        end.dropped
    );
    assert!(grown < 512, "{grown} KiB more than the {once_full} KiB once the queue was full");
    assert!(most_disk <= LIMIT + 64, "{most_disk} bytes on disk");
    assert!(end.dropped > taken / 4, "{end:?}");

    // The book of losses: everything before the first that waits, once, without a gap.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let reader = spool::Reader::open(&queue::folder(dir.path())).expect("there");
    let losses = reader.losses().expect("readable");
    assert_eq!(losses.iter().map(|loss| loss.count).sum::<u64>(), end.dropped);
    let mut next = 1;
    for loss in &losses {
        assert_eq!((loss.first, loss.last), (next, next + loss.count - 1));
        next = loss.last + 1;
    }
    assert_eq!(next, end.dropped + 1);

    // The server is back: it gets what is left, as fast as it takes it.
    server.with(|server| server.up = true);
    let begun = Instant::now();
    stat.wait_for(|stat| stat.records == 0).await.expect("running");
    let took = begun.elapsed();
    stop.cancel();
    uploader.await.expect("no panic").expect("a clean end");
    worker.await.expect("no panic").expect("a clean end");
    server.with(|server| {
        let kept = taken - end.dropped;
        let missing: BTreeSet<usize> =
            (end.dropped as usize..server.arrived.len()).filter(|n| !server.arrived[*n]).collect();
        assert!(missing.is_empty(), "neither dropped nor arrived: {missing:?}");
        assert!(!server.arrived[..end.dropped as usize].contains(&true), "dropped and arrived");
        assert_eq!(server.rows as u64, kept, "sent twice");
        assert!(server.most_open <= 2 && server.largest <= (1 << 20) + 4096);
        let share = A_JOB.as_secs_f64() * kept as f64 / 5000.0 / took.as_secs_f64();
        println!("{kept} drained in {took:?}, {share:.3} of what the server takes");
        // What is missing is the time until the next look at a job: after 2, 4, 8, 16, 30 s.
        assert!(share >= 0.6, "{share:.3} of what the server takes");
    });
}
