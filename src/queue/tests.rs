//! The handle and the thread over a real spool.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::{BootId, Samples, Stamp};

struct Node {
    dir: tempfile::TempDir,
}

struct Running {
    queue: Queue,
    readings: mpsc::Sender<Datum>,
    stop: CancellationToken,
    end: oneshot::Receiver<Result<(), QueueError>>,
}

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    fn start(&self, at_risk: Duration) -> Running {
        let settings = settings::Queue { limit_bytes: 1 << 20, at_risk };
        let clock = Clock::read_only(self.dir.path()).expect("no anchors yet");
        let (readings, received) = mpsc::channel(READINGS);
        let (queue, worker) =
            Queue::open(self.dir.path(), &settings, clock, received).expect("a queue");
        let stop = CancellationToken::new();
        let end = worker.spawn(stop.clone()).expect("a thread");
        Running { queue, readings, stop, end }
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.end.await.expect("the thread tells").expect("a clean end");
    }

    async fn until(&self, what: &str, test: impl FnMut(&QueueStat) -> bool) -> QueueStat {
        let mut stat = self.queue.stat();
        if let Ok(found) = timeout(Duration::from_secs(120), stat.wait_for(test)).await {
            return *found.expect("the queue runs");
        }
        panic!("{what} within two minutes, not {:?}", self.queue.stat().borrow())
    }
}

fn datum(unix_ms: i64) -> Datum {
    let watts = ("watts".to_owned(), 5.into());
    Datum {
        source: "/m".parse().expect("a source"),
        stamp: Stamp::Wall { unix_ms },
        samples: Samples { instantaneous: vec![watts], ..Samples::default() },
    }
}

fn times(rows: &[Row]) -> Vec<i64> {
    rows.iter().map(|row| row.unix_ms).collect()
}

#[tokio::test]
async fn what_was_stored_durably_or_read_survives_a_restart_in_order() {
    let node = Node::new();
    let running = node.start(Duration::from_millis(5));
    running.queue.store_durably(datum(1)).await.expect("room");
    running.readings.send(datum(2)).await.expect("the queue runs");
    running.until("the reading committed", |stat| stat.durable_up_to == 2).await;
    running.stop().await;

    let running = node.start(Duration::ZERO);
    assert_eq!(times(&running.queue.claim(10, 1 << 20).await.rows), [1, 2]);
    running.stop().await;
}

#[tokio::test]
async fn a_row_is_claimed_once_until_it_is_released_and_never_after_its_acknowledgement() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    for at in 1..=5 {
        running.queue.store_durably(datum(at)).await.expect("room");
    }
    let first = running.queue.claim(3, 1 << 20).await.rows;
    assert_eq!(times(&first), [1, 2, 3]);
    assert_eq!(times(&running.queue.claim(10, 1 << 20).await.rows), [4, 5]);
    assert_eq!(running.queue.stat().borrow().waiting, 0, "known at once");
    assert!(running.queue.claim(10, 1 << 20).await.rows.is_empty());
    let seqs: Vec<u64> = first.iter().map(|row| row.seq).collect();
    running.queue.release(Ranges::from_iter([seqs[0], seqs[2]])).await;
    running.queue.acknowledge(&Ranges::from_iter([seqs[0]]));
    assert_eq!(times(&running.queue.claim(10, 1 << 20).await.rows), [3]);
    let stat = running.until("four left", |stat| stat.records == 4).await;
    assert_eq!(stat.waiting, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_claim_keeps_its_bounds_and_takes_at_least_one() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    for at in 1..=5 {
        running.queue.store_durably(datum(at)).await.expect("room");
    }
    assert_eq!(running.queue.claim(10, 1).await.rows.len(), 1);
    let size = running.queue.claim(1, 1 << 20).await.rows[0].payload.len();
    assert_eq!(running.queue.claim(10, 2 * size).await.rows.len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_datum_without_samples_is_not_queued() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    let empty = Datum { samples: Samples::default(), ..datum(1) };
    running.queue.store(empty.clone()).await;
    assert_eq!(running.queue.store_durably(empty).await, Err(StoreError::NoSamples));
    let mut large = datum(1);
    large.samples.status.push(("text".into(), "x".repeat(70_000)));
    let refusal = running.queue.store_durably(large).await;
    assert!(matches!(refusal, Err(StoreError::TooLarge { .. })), "{refusal:?}");
    assert_eq!(running.queue.stat().borrow().records, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_rejected_row_is_kept_in_the_file_and_counted_over_restarts() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    running.queue.store_durably(datum(7)).await.expect("room");
    let row = running.queue.claim(1, 1 << 20).await.rows.pop().expect("a row");
    running.queue.reject(row.seq, "the server said so".into()).await;
    running.until("it is gone", |stat| stat.records == 0 && stat.rejected == 1).await;
    running.stop().await;
    let file = std::fs::read_to_string(node.dir.path().join("rejected.jsonl")).expect("a file");
    assert!(file.contains("the server said so") && file.contains("watts"), "{file}");
    assert_eq!(rejected_count(node.dir.path()), 1);
}

#[tokio::test]
async fn a_datum_without_a_known_time_is_kept_and_sent_once_its_boot_is_known() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    let boot = BootId([0xAB; 16]);
    let unplaced = Datum { stamp: Stamp::Boot { boot, since_boot_ms: 250 }, ..datum(0) };
    running.queue.store_durably(unplaced).await.expect("room");
    running.queue.store_durably(datum(5)).await.expect("room");
    assert_eq!(times(&running.queue.claim(10, 1 << 20).await.rows), [5]);
    let stat = running.until("it is counted", |stat| stat.unplaced == 1).await;
    assert_eq!((stat.records, stat.waiting), (2, 0));
    running.stop().await;

    let anchor = format!(
        r#"{{"anchors":[{{"boot":"{}","started":"1970-01-01T00:00:10Z"}}]}}"#,
        hex::encode(boot.0)
    );
    std::fs::write(node.dir.path().join("clock.json"), anchor).expect("write");
    let running = node.start(Duration::ZERO);
    assert_eq!(times(&running.queue.claim(10, 1 << 20).await.rows), [10_250, 5]);
    running.stop().await;
}

#[tokio::test]
async fn rows_of_an_open_batch_are_claimed_again_by_their_numbers() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    for at in 1..=4 {
        running.queue.store_durably(datum(at)).await.expect("room");
    }
    let rows = running.queue.claim(3, 1 << 20).await.rows;
    let seqs: Ranges = rows.iter().map(|row| row.seq).collect();
    running.queue.acknowledge(&Ranges::from_iter([rows[1].seq]));
    running.stop().await;

    let running = node.start(Duration::ZERO);
    let found = running.queue.claim_exactly(seqs).await;
    assert_eq!(found, Ranges::from_iter([rows[0].seq, rows[2].seq]));
    assert_eq!(times(&running.queue.read(found).await), [1, 3]);
    assert_eq!(times(&running.queue.claim(10, 1 << 20).await.rows), [4]);
    running.stop().await;
}

#[tokio::test]
async fn at_its_limit_the_queue_drops_the_oldest_and_says_so() {
    let node = Node::new();
    let running = node.start(Duration::from_millis(1));
    for at in 0..10_000 {
        let mut long = datum(at);
        long.samples.tags.push("x".repeat(100));
        running.readings.send(long).await.expect("the queue runs");
    }
    let stat = running.until("something dropped", |stat| stat.dropped > 0).await;
    assert!(stat.bytes <= stat.limit, "{stat:?}");
    let all = |stat: &QueueStat| stat.records + stat.dropped + stat.refused == 10_000;
    running.until("every datum is accounted for", all).await;
    running.stop().await;
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let node = Node::new();
    let running = node.start(Duration::ZERO);
    let settings = settings::Queue { limit_bytes: 1 << 20, at_risk: Duration::ZERO };
    let (_readings, received) = mpsc::channel(1);
    let second = Queue::open(node.dir.path(), &settings, Clock::system(), received);
    assert!(matches!(second, Err(QueueError::Open { source: spool::Error::Locked { .. }, .. })));
    running.stop().await;
}
