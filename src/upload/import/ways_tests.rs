//! Import and bulk by turns over one queue, with proof by query and without, against a server that loses what can
//! be lost, stopped or killed at any time: nothing leaves the queue that the server has not got.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, NaiveDateTime};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::{
    tests::{form, refused},
    *,
};
use crate::{
    domain::{Datum, Samples, Stamp},
    queue::{QueueError, READINGS},
    solarin::{self, Exchanged, InError, Item},
    solarnet::{Cause, Method},
    upload::{
        bulk::{self, task::Exchange},
        proof::{Limits as Patience, Prover},
    },
};

/// Source and time in milliseconds.
type Key = (String, i64);

/// What the server has, and how much goes wrong.
struct Server {
    stored: BTreeMap<Key, i64>,
    jobs: Vec<Value>,
    random: fastrand::Rng,
    trouble: f64,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Server>>);

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut self.0.lock().expect("no test panics with it"))
    }
}

impl Server {
    fn goes_wrong(&mut self) -> bool {
        self.random.f64() < self.trouble
    }

    fn take_job(&mut self, body: &[u8]) -> Value {
        let (config, csv) = form(body);
        let lost = usize::from(self.goes_wrong());
        let kept = csv.lines().count() - 1 - lost;
        for line in csv.lines().skip(1).take(kept) {
            let cells: Vec<&str> = line.split(',').collect();
            let at = NaiveDateTime::parse_from_str(cells[2], "%Y-%m-%d %H:%M:%S%.3f");
            let value: String = cells[3].chars().filter(char::is_ascii_digit).collect();
            let key = (cells[1].to_owned(), at.expect("a time").and_utc().timestamp_millis());
            self.stored.insert(key, value.parse().expect("a number"));
        }
        let id = format!("job-{}", self.jobs.len());
        self.jobs.push(json!({ "jobId": id, "jobState": "Completed", "configuration": config,
            "success": true, "loadedCount": kept }));
        json!({ "jobId": id })
    }

    fn show(&self, call: &Call) -> Value {
        let value = |name: &str| {
            let found = call.query.iter().find(|(member, _)| member == name);
            found.map(|(_, value)| value.as_str()).expect("asked for")
        };
        let minute = |name: &str| {
            let time = DateTime::parse_from_rfc3339(&format!("{}:00Z", value(name)));
            time.expect("a minute").timestamp_millis()
        };
        let within = minute("startDate")..minute("endDate");
        let sources: Vec<&str> = value("sourceIds").split(',').collect();
        let rows: Vec<Value> = (self.stored.iter())
            .filter(|((source, ms), _)| sources.contains(&&**source) && within.contains(ms))
            .map(|((source, ms), watts)| {
                json!({ "sourceId": source, "created": ms, "watts": watts })
            })
            .collect();
        json!({ "totalResults": rows.len(), "results": rows })
    }
}

impl Caller for Fake {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.with(|server| {
            if server.goes_wrong() {
                return Err(refused(&call, Cause::Unreachable));
            }
            let data = match (call.method, &call.body) {
                (Method::Post, Some(body)) => server.take_job(&body.bytes),
                _ if call.path.ends_with("/datum/list") => server.show(&call),
                _ if call.path.ends_with("/jobs") => Value::Array(server.jobs.clone()),
                _ => {
                    let id = call.path.rsplit('/').next().unwrap_or_default();
                    let job = server.jobs.iter().find(|job| job["jobId"] == id).cloned();
                    job.ok_or_else(|| refused(&call, Cause::UnknownObject))?
                }
            };
            // What was done is done, whether the answer arrives or not.
            if server.goes_wrong() {
                Err(refused(&call, Cause::Unreachable))
            } else {
                Ok(Answer { data })
            }
        })
    }
}

impl Exchange for Fake {
    async fn exchange(&self, items: &[Item<'_>]) -> Result<Exchanged, InError> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.with(|server| {
            let lost = || Err(InError::of(solarin::Cause::Unreachable, String::new()));
            if server.goes_wrong() {
                return lost();
            }
            let mut stored = HashSet::new();
            for item in items {
                let Item::Datum(datum, unix_ms) = item else { continue };
                // One that is left out alone as well would be given up, which is another matter.
                if items.len() > 1 && server.goes_wrong() {
                    continue;
                }
                server.stored.insert((datum.source.to_string(), *unix_ms), value(datum));
                stored.insert(solarin::client::key(datum, *unix_ms));
            }
            if server.goes_wrong() {
                return lost();
            }
            Ok(Exchanged { stored, ..Exchanged::default() })
        })
    }
}

fn value(datum: &Datum) -> i64 {
    datum.samples.instantaneous[0].1.to_string().parse().expect("a number")
}

/// How a run sends.
struct How {
    bulk: bool,
    query: bool,
    killed: bool,
    /// Until the queue is empty, where there is none.
    lasts: Option<Duration>,
}

/// What runs take part in.
struct Node {
    dir: tempfile::TempDir,
    server: Fake,
    clock: Clock,
    /// Every datum that was stored.
    written: Vec<(Key, i64)>,
    random: fastrand::Rng,
}

/// The queue, open.
struct Open {
    queue: Queue,
    worker: JoinHandle<Result<(), QueueError>>,
    stop: CancellationToken,
}

impl Open {
    fn new(dir: &Path, clock: &Clock) -> Self {
        let settings = settings::Queue { limit_bytes: 1 << 20, at_risk: Duration::from_secs(1) };
        let (_, readings) = mpsc::channel(READINGS);
        let (queue, worker) =
            Queue::open(dir, &settings, clock.clone(), readings).expect("a queue");
        let stop = CancellationToken::new();
        Self { queue, worker: tokio::spawn(worker.run(stop.clone())), stop }
    }

    /// In good order, or not.
    async fn end(self, killed: bool) {
        if killed {
            self.worker.abort();
        }
        self.stop.cancel();
        drop(self.worker.await);
    }
}

impl Node {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let random = fastrand::Rng::with_seed(seed);
        let server = Server {
            stored: BTreeMap::new(),
            jobs: Vec::new(),
            random: random.clone(),
            trouble: 0.2,
        };
        let clock = Clock::read_only(dir.path()).expect("no anchors yet");
        let server = Fake(Arc::new(Mutex::new(server)));
        Self { dir, server, clock, written: Vec::new(), random }
    }

    fn any_way(&mut self) -> How {
        let mut any = || self.random.bool();
        How { bulk: any(), query: any(), killed: any(), lasts: None }
    }

    /// Stores some.
    async fn store(&mut self, queue: &Queue) {
        let mut at = self.written.last().map_or(1, |((_, at), _)| *at);
        for _ in 0..self.random.usize(0..40) {
            at += self.random.choice([1, 500, 70_000]).expect("one of them");
            let source = self.random.choice(["/a", "/b"]).expect("one of them");
            let watts = self.written.len() as i64;
            let samples = Samples {
                instantaneous: vec![("watts".to_owned(), watts.into())],
                ..Samples::default()
            };
            let (name, stamp) = (source.parse().expect("a source"), Stamp::Wall { unix_ms: at });
            queue.store_durably(Datum { source: name, stamp, samples }).await.expect("room");
            self.written.push(((source.to_owned(), at), watts));
        }
    }

    /// Sends over one way for a while, or until the queue is empty.
    async fn send(&mut self, queue: &Queue, how: How) {
        let stop = CancellationToken::new();
        let (_key, key_changed) = watch::channel(0);
        let mut tasks = Vec::new();
        let node = NodeId::try_from(123).expect("a node");
        let proof = if how.query {
            let (proof, told) = Proof::by_query(queue.clone());
            let prover = Prover {
                node,
                limits: Patience { every: Duration::from_secs(2), settle: Duration::from_secs(1) },
                told,
                caller: self.server.clone(),
                queue: queue.clone(),
                clock: self.clock.clone(),
                key_changed,
                status: watch::channel(None).0,
                pulse: Pulse::unheard(),
                stop: stop.clone(),
            };
            tasks.push(tokio::spawn(prover.run()));
            proof
        } else {
            Proof::at_once(queue.clone())
        };
        let settings = settings::Upload {
            via: settings::Via::Import,
            every: Duration::from_secs(5),
            proof: settings::Proof::Answer,
            in_flight: 1,
            fallback_after: None,
        };
        let (state_dir, clock) = (self.dir.path().to_owned(), self.clock.clone());
        let (_changed, identity_changed) = watch::channel(0);
        let (_key, key_changed) = watch::channel(0);
        let status = watch::channel(UploadStatus::default()).0;
        let (queue_of, pulse, ended) = (queue.clone(), Pulse::unheard(), stop.clone());
        let server = self.server.clone();
        tasks.push(if how.bulk {
            let uploader = bulk::Uploader {
                node,
                settings,
                state_dir,
                solarin: server,
                queue: queue_of,
                proof,
                clock,
                identity_changed,
                status,
                pulse,
                stop: ended,
            };
            tokio::spawn(async move { uploader.run().await.expect("a clean end") })
        } else {
            let uploader = Uploader {
                node,
                settings,
                state_dir,
                caller: server,
                queue: queue_of,
                proof,
                clock,
                key_changed,
                status,
                pulse,
                stop: ended,
            };
            tokio::spawn(async move { uploader.run().await.expect("a clean end") })
        });
        match how.lasts {
            Some(lasts) => tokio::time::sleep(lasts).await,
            None => {
                let mut stat = queue.stat();
                let empty = stat.wait_for(|stat| stat.records == 0);
                timeout(Duration::from_secs(7200), empty).await.expect("in time").expect("running");
            }
        }
        stop.cancel();
        for task in tasks {
            if how.killed {
                task.abort();
            }
            drop(task.await);
        }
        // Writes that are under way end before time goes on.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// What is in the queue no more is at the server.
    async fn nothing_is_lost(&self, queue: &Queue, seed: u64) {
        let mut all = Ranges::default();
        all.insert(0..=u64::MAX);
        let left: BTreeSet<i64> = (queue.read(all).await.iter())
            .map(|row| value(&row.datum().expect("a datum")))
            .collect();
        self.server.with(|server| {
            for (key, value) in &self.written {
                let is_there = server.stored.get(key) == Some(value);
                assert!(left.contains(value) || is_there, "seed {seed}: {key:?} is lost");
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_way_is_taken_or_left_when_nothing_is_lost() {
    for seed in 0..12 {
        let mut node = Node::new(seed);
        for _ in 0..8 {
            let open = Open::new(node.dir.path(), &node.clock);
            node.store(&open.queue).await;
            for _ in 0..node.random.usize(1..4) {
                let lasts = Some(Duration::from_millis(node.random.u64(0..40_000)));
                let how = How { lasts, ..node.any_way() };
                node.send(&open.queue, how).await;
                node.nothing_is_lost(&open.queue, seed).await;
            }
            open.end(node.random.bool()).await;
        }
        node.server.with(|server| server.trouble = 0.0);
        let open = Open::new(node.dir.path(), &node.clock);
        let how = How { killed: false, ..node.any_way() };
        node.send(&open.queue, how).await;
        node.nothing_is_lost(&open.queue, seed).await;
        open.end(false).await;
        assert_eq!(crate::queue::rejected_count(node.dir.path()), 0, "seed {seed}");
    }
}
