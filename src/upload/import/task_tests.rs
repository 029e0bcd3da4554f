//! The uploader over a real queue, against a server that is played here.

#![allow(clippy::result_large_err, reason = "the error is the trait's own")]

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{super::super::store, *};
use crate::{
    domain::{Datum, Samples, Stamp},
    queue::READINGS,
    solarnet::{Cause, Method},
};

/// What the server holds, and how it behaves.
#[derive(Default)]
struct Server {
    /// Line by key: (source, created).
    ledger: BTreeMap<(String, String), String>,
    /// Jobs as they are listed, newest last.
    jobs: Vec<Value>,
    posts: usize,
    lists: usize,
    /// The next calls fail for these reasons.
    failures: Vec<Cause>,
    /// Every job with this text in its data fails with this message.
    dislikes: Option<(String, String)>,
    /// The receipt of the next jobs never arrives.
    loses_receipts: usize,
    /// Proofs claim one row more.
    lies: usize,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Server>>);

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut self.0.lock().expect("no test panics with it"))
    }
}

pub(super) fn refused(call: &Call, cause: Cause) -> CallError {
    let (method, path) = (call.method.name(), call.path.clone());
    CallError { method, path, cause, refusal: None, detail: None }
}

/// The parts of the form: the configuration and the unpacked CSV.
pub(super) fn form(body: &[u8]) -> (Value, String) {
    let find = |text: &[u8]| body.windows(text.len()).position(|w| w == text).expect("a part");
    let config = &body[find(b"application/json\r\n\r\n") + 20..];
    let config = serde_json::Deserializer::from_slice(config).into_iter::<Value>().next();
    let data = &body[find(b"text/csv\r\n\r\n") + 12..];
    let mut csv = String::new();
    flate2::read::GzDecoder::new(data).read_to_string(&mut csv).expect("gzip");
    (config.expect("a configuration").expect("JSON"), csv)
}

impl Caller for Fake {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.with(|server| {
            if let Some(cause) = server.failures.pop() {
                return Err(refused(&call, cause));
            }
            let data = match (call.method, &call.body) {
                (Method::Post, Some(body)) => {
                    server.posts += 1;
                    let (config, csv) = form(&body.bytes);
                    let lines: Vec<&str> = csv.lines().skip(1).collect();
                    let id = format!("job-{}", server.posts);
                    let bad = server.dislikes.as_ref().filter(|(text, _)| csv.contains(text));
                    let mut job = json!({ "jobId": id, "jobState": "Completed",
                        "configuration": config, "success": bad.is_none(), "loadedCount": 0 });
                    match bad {
                        Some((_, message)) => job["message"] = message.as_str().into(),
                        None => {
                            let lie = server.lies.min(1);
                            server.lies -= lie;
                            job["loadedCount"] = (lines.len() + lie).into();
                            for line in lines {
                                let mut cells = line.split(',').skip(1).map(str::to_owned);
                                let key = (
                                    cells.next().expect("a source"),
                                    cells.next().expect("a time"),
                                );
                                server.ledger.insert(key, line.to_owned());
                            }
                        }
                    }
                    server.jobs.push(job);
                    if server.loses_receipts > 0 {
                        server.loses_receipts -= 1;
                        return Err(refused(&call, Cause::Unreachable));
                    }
                    json!({ "jobId": id, "jobState": "Queued" })
                }
                _ if call.path.ends_with("/jobs") => {
                    server.lists += 1;
                    Value::Array(server.jobs.clone())
                }
                _ => {
                    let id = call.path.rsplit('/').next().unwrap_or_default();
                    let job = server.jobs.iter().find(|job| job["jobId"] == id).cloned();
                    job.ok_or_else(|| refused(&call, Cause::UnknownObject))?
                }
            };
            Ok(Answer { data })
        })
    }
}

struct Node {
    dir: tempfile::TempDir,
    server: Fake,
}

struct Running {
    queue: Queue,
    status: watch::Receiver<UploadStatus>,
    key: watch::Sender<u64>,
    stop: CancellationToken,
    uploader: tokio::task::JoinHandle<Result<(), UploadError>>,
    worker: tokio::task::JoinHandle<Result<(), crate::queue::QueueError>>,
}

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder"), server: Fake::default() }
    }

    /// The queue and the uploader as tasks of the test, so that both live in its time.
    async fn start(&self) -> Running {
        let settings = settings::Queue { limit_bytes: 1 << 20, at_risk: Duration::from_secs(1) };
        let clock = Clock::read_only(self.dir.path()).expect("no anchors yet");
        let (_, readings) = mpsc::channel(READINGS);
        let (queue, worker) =
            Queue::open(self.dir.path(), &settings, clock.clone(), readings).expect("a queue");
        let stop = CancellationToken::new();
        let (status, status_seen) = watch::channel(UploadStatus::default());
        let (key, key_changed) = watch::channel(0);
        let uploader = Uploader {
            pulse: Pulse::unheard(),
            node: NodeId::try_from(123).expect("a node"),
            settings: settings::Upload {
                via: settings::Via::Import,
                every: Duration::from_secs(60),
                proof: settings::Proof::Answer,
                in_flight: 1,
                fallback_after: None,
            },
            state_dir: self.dir.path().to_owned(),
            caller: self.server.clone(),
            queue: queue.clone(),
            proof: Proof::at_once(queue.clone()),
            clock,
            key_changed,
            status,
            stop: stop.clone(),
        };
        let worker = tokio::spawn(worker.run(stop.child_token()));
        let uploader = tokio::spawn(uploader.run());
        // The uploader has looked at the queue before the test stores anything.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Running { queue, status: status_seen, key, stop, uploader, worker }
    }
}

impl Running {
    async fn store(&self, times: std::ops::Range<i64>) {
        for at in times {
            self.queue.store_durably(datum("/m", at)).await.expect("room");
        }
    }

    async fn until_empty(&self) {
        let mut stat = self.queue.stat();
        let empty = stat.wait_for(|stat| stat.records == 0);
        timeout(Duration::from_secs(7200), empty).await.expect("in time").expect("running");
    }

    async fn until(&self, what: &str, test: impl FnMut(&UploadStatus) -> bool) -> UploadStatus {
        let mut status = self.status.clone();
        let found = timeout(Duration::from_secs(7200), status.wait_for(test)).await;
        found.unwrap_or_else(|_| panic!("{what}")).expect("running").clone()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.uploader.await.expect("no panic").expect("a clean end");
        self.worker.await.expect("no panic").expect("a clean end");
    }
}

fn datum(source: &str, unix_ms: i64) -> Datum {
    Datum {
        source: source.parse().expect("a source"),
        stamp: Stamp::Wall { unix_ms },
        samples: Samples {
            instantaneous: vec![("watts".into(), unix_ms.into())],
            ..Samples::default()
        },
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_arrives_and_leaves_the_queue() {
    let node = Node::new();
    let running = node.start().await;
    running.store(0..250).await;
    running.until_empty().await;
    let status = running.until("proved", |status| status.uploaded == 250).await;
    assert_eq!((status.state, status.open_jobs), ("ok", 0));
    running.stop().await;
    node.server.with(|server| {
        assert_eq!(server.ledger.len(), 250);
        let key = ("/m".to_owned(), "1970-01-01 00:00:00.249".to_owned());
        assert!(server.ledger[&key].contains(r#""{""watts"":249}""#), "{:?}", server.ledger[&key]);
    });
}

#[tokio::test(start_paused = true)]
async fn a_lost_receipt_is_found_in_the_list_and_nothing_is_sent_twice() {
    let node = Node::new();
    node.server.with(|server| server.loses_receipts = 1);
    let running = node.start().await;
    running.store(0..1).await;
    running.until_empty().await;
    running.stop().await;
    node.server.with(|server| assert_eq!((server.posts, server.lists), (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_job_is_found_and_nothing_is_sent_twice() {
    let node = Node::new();
    let running = node.start().await;
    running.store(0..10).await;
    let mut status = running.status.clone();
    status.wait_for(|status| status.open_jobs == 1).await.expect("running");
    while node.server.with(|server| server.posts) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;

    let running = node.start().await;
    running.until_empty().await;
    running.stop().await;
    node.server.with(|server| {
        assert_eq!((server.posts, server.lists), (1, 1));
        assert_eq!(server.ledger.len(), 10);
    });
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_another_way_left_and_that_is_no_job_as_it_is_arrives_whole() {
    let node = Node::new();
    let running = node.start().await;
    // The second one replaces the first, so both cannot be in one job.
    for at in [5, 5, 6] {
        running.queue.store_durably(datum("/m", at)).await.expect("room");
    }
    running.stop().await;
    let open = vec![Batch::new("1f".into(), Ranges::from_iter([1, 2, 3]), false)];
    let left = store::Contents { open, ledger: None };
    store::save(&store::path(node.dir.path()), &left).expect("written");

    let running = node.start().await;
    running.until_empty().await;
    running.stop().await;
    node.server.with(|server| assert_eq!((server.posts, server.ledger.len()), (2, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_lie_about_the_count_is_no_proof() {
    let node = Node::new();
    node.server.with(|server| server.lies = 2);
    let running = node.start().await;
    running.store(0..5).await;
    running.until_empty().await;
    running.stop().await;
    node.server.with(|server| assert_eq!(server.posts, 3));
}

#[tokio::test(start_paused = true)]
async fn one_bad_datum_is_set_aside_and_every_other_arrives() {
    let node = Node::new();
    node.server.with(|server| server.dislikes = Some(("/bad".into(), "bad line 3".into())));
    let running = node.start().await;
    running.store(0..40).await;
    running.queue.store_durably(datum("/bad", 5)).await.expect("room");
    running.store(40..60).await;
    // Others have to be accepted again and again meanwhile.
    let mut next = 60;
    while running.status.borrow().given_up == 0 {
        running.store(next..next + 1).await;
        next += 1;
        assert!(next < 100, "others pass and it is kept");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    running.until_empty().await;
    let status = running.until("all arrived", |status| status.uploaded == next as u64).await;
    assert_eq!((status.given_up, status.state), (1, "ok"));
    running.stop().await;
    let rejected = std::fs::read_to_string(node.dir.path().join("rejected.jsonl")).expect("a file");
    assert!(rejected.contains("bad line 3") && rejected.contains("/bad"), "{rejected}");
    node.server.with(|server| assert_eq!(server.ledger.len(), next as usize));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ours_stops_with_a_remedy_and_goes_on_when_repaired() {
    let node = Node::new();
    let message = "Not authorized to load data for node 123.".to_owned();
    node.server.with(|server| server.dislikes = Some(("123,".into(), message)));
    let running = node.start().await;
    running.store(0..3).await;
    let status = running.until("stopped", |status| status.state == "stopped").await;
    let reason = status.waits_for.expect("a reason");
    assert!(reason.contains("Not authorized") && reason.contains("policy"), "{reason}");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(running.queue.stat().borrow().records, 3);
    node.server.with(|server| {
        assert!(server.posts < 40, "{} jobs in an hour", server.posts);
        server.dislikes = None;
    });
    running.until_empty().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_waited_for_and_the_next_one_used_at_once() {
    let node = Node::new();
    node.server.with(|server| server.failures = vec![Cause::NoKey]);
    let running = node.start().await;
    running.store(0..3).await;
    let status = running.until("stopped", |status| status.state == "stopped").await;
    assert!(status.waits_for.expect("a reason").contains("token import"));
    let before = Instant::now();
    running.key.send(1).expect("it listens");
    running.until_empty().await;
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn half_a_minute_of_outage_is_over_within_seconds() {
    let node = Node::new();
    node.server.with(|server| server.failures = vec![Cause::Unreachable; 10_000]);
    let running = node.start().await;
    running.store(0..3).await;
    running.until("waiting", |status| status.state == "waiting").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    node.server.with(|server| server.failures.clear());
    let before = Instant::now();
    running.until_empty().await;
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    running.stop().await;
}
