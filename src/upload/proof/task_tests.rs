use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::{
    config::settings,
    domain::{Datum, Samples, Stamp},
    queue::READINGS,
    solarnet::{Answer, Call},
    upload::proof::{Limits, MOST, Proof},
};

/// SolarQuery, which shows the times that it has.
#[derive(Debug, Clone, Default)]
struct Server(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    times: BTreeSet<i64>,
    calls: usize,
    refuses: Option<Cause>,
}

impl Caller for Server {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let mut shown = self.0.lock().expect("no panic");
        shown.calls += 1;
        if let Some(cause) = shown.refuses {
            let (path, refusal, detail) = (call.path, None, None);
            return Err(CallError { method: "GET", path, cause, refusal, detail });
        }
        let rows = shown.times.iter();
        let rows: Vec<Value> =
            rows.map(|ms| json!({ "sourceId": "/m", "created": ms, "watts": ms })).collect();
        Ok(Answer { data: json!({ "totalResults": rows.len(), "results": rows }) })
    }
}

/// A queue, its prover and the uploader's end of it.
struct Bench {
    _dir: tempfile::TempDir,
    queue: Queue,
    proof: Proof,
    server: Server,
    status: watch::Receiver<Option<Status>>,
    _key: watch::Sender<u8>,
    stop: CancellationToken,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let settings = settings::Queue { limit_bytes: 1 << 23, at_risk: Duration::from_millis(10) };
        let clock = Clock::read_only(dir.path()).expect("no anchors yet");
        let (_, readings) = mpsc::channel(READINGS);
        let (queue, worker) =
            Queue::open(dir.path(), &settings, clock.clone(), readings).expect("a queue");
        let stop = CancellationToken::new();
        tokio::spawn(worker.run(stop.child_token()));
        let (proof, told) = Proof::by_query(queue.clone());
        let (status, status_seen) = watch::channel(None);
        let (key, key_changed) = watch::channel(0);
        let server = Server::default();
        let prover = Prover {
            node: NodeId::try_from(123).expect("a node"),
            limits: Limits { every: Duration::from_secs(60), settle: Duration::from_secs(15) },
            told,
            caller: server.clone(),
            queue: queue.clone(),
            clock,
            key_changed,
            status,
            pulse: Pulse::unheard(),
            stop: stop.clone(),
        };
        tokio::spawn(prover.run());
        proof.begin(Ranges::default()).await;
        Self { _dir: dir, queue, proof, server, status: status_seen, _key: key, stop }
    }

    async fn store(&self, times: std::ops::Range<i64>) {
        for unix_ms in times {
            let samples = Samples {
                instantaneous: vec![("watts".into(), unix_ms.into())],
                ..Samples::default()
            };
            let source = "/m".parse().expect("a source");
            let stamp = Stamp::Wall { unix_ms };
            self.queue.store(Datum { source, stamp, samples }).await;
        }
    }

    /// What an uploader does with a server that takes everything.
    async fn upload(&self) -> Ranges {
        let rows = self.queue.claim(100_000, usize::MAX).await.rows;
        let seqs: Ranges = rows.iter().map(|row| row.seq).collect();
        self.proof.handed_over(seqs.clone()).await;
        seqs
    }

    fn shows(&self, times: std::ops::Range<i64>) {
        self.server.0.lock().expect("no panic").times.extend(times);
    }

    fn calls(&self) -> usize {
        self.server.0.lock().expect("no panic").calls
    }

    async fn until_held(&self, records: u64) {
        let mut stat = self.queue.stat();
        let held = stat.wait_for(|stat| stat.records == records);
        timeout(Duration::from_secs(7200), held).await.expect("in time").expect("running");
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.status.clone();
        let found = status.wait_for(|status| status.as_ref().is_some_and(&is_so));
        let found = timeout(Duration::from_secs(36_000), found).await;
        found.unwrap_or_else(|_| panic!("{what}")).expect("running").clone().expect("so")
    }
}

#[tokio::test(start_paused = true)]
async fn rows_stay_until_they_are_shown_and_those_that_are_not_come_back() {
    let bench = Bench::new().await;
    bench.store(0..10).await;
    bench.shows(0..7);
    assert_eq!(bench.upload().await.count(), 10);
    bench.until_held(3).await;
    let status = bench.until("given back", |status| status.sent_again == 3).await;
    assert_eq!((status.shown, status.waiting, status.unseen, status.state), (7, 0, 3, "ok"));
    assert_eq!(bench.calls(), 3);
    bench.shows(7..10);
    assert_eq!(bench.upload().await.count(), 3);
    bench.until_held(0).await;
    assert_eq!(bench.until("all is there", |status| status.unseen == 0).await.shown, 10);
    bench.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_uploader_that_begins_finds_what_was_claimed_and_not_what_waits_for_its_proof() {
    let bench = Bench::new().await;
    bench.store(0..5).await;
    bench.upload().await;
    bench.store(5..8).await;
    assert_eq!(bench.queue.claim(2, usize::MAX).await.rows.len(), 2);
    bench.proof.begin(Ranges::default()).await;
    let rows = bench.queue.claim(100, usize::MAX).await.rows;
    assert_eq!(rows.iter().map(|row| row.unix_ms).collect::<Vec<_>>(), [5, 6, 7]);
    bench.shows(0..5);
    bench.until_held(3).await;
    // What an uploader knows to have been taken in a former run is looked for before it is sent again.
    let known = rows.iter().map(|row| row.seq).take(2).collect();
    bench.proof.begin(known).await;
    bench.shows(5..7);
    bench.until_held(1).await;
    assert_eq!(bench.queue.claim(100, usize::MAX).await.rows.len(), 1);
    bench.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn there_is_no_room_beyond_the_bound_and_there_is_again_when_rows_were_shown() {
    let bench = Bench::new().await;
    bench.server.0.lock().expect("no panic").refuses = Some(Cause::PathDenied);
    bench.store(0..MOST as i64).await;
    assert!(bench.proof.has_room());
    assert_eq!(bench.upload().await.count(), MOST);
    let status = bench.until("stopped", |status| status.state == "stopped").await;
    assert!(status.waits_for.expect("a reason").contains("/datum/list in its apiPaths"));
    assert!(!bench.proof.has_room());
    bench.server.0.lock().expect("no panic").refuses = None;
    bench.shows(0..1000);
    let mut stat = bench.queue.stat();
    while !bench.proof.has_room() {
        // An uploader that waits for room is woken by this.
        stat.changed().await.expect("running");
    }
    bench.until("some are left", |status| status.waiting == MOST - 1000).await;
    bench.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn without_a_query_what_was_taken_is_acknowledged_at_once() {
    let bench = Bench::new().await;
    let proof = Proof::at_once(bench.queue.clone());
    bench.store(0..5).await;
    let rows = bench.queue.claim(100, usize::MAX).await.rows;
    assert!(proof.has_room());
    proof.handed_over(rows.iter().take(2).map(|row| row.seq).collect()).await;
    bench.until_held(3).await;
    proof.begin(Ranges::default()).await;
    assert_eq!(bench.queue.claim(100, usize::MAX).await.rows.len(), 3);
    assert_eq!(bench.calls(), 0);
    bench.stop.cancel();
}
