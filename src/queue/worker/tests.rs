//! The thread's work, step by step, without its thread.

use super::{disk::MAX_PENDING, *};
use crate::domain::{Samples, Stamp};

fn worker(dir: &Path, readings: mpsc::Receiver<Datum>) -> Worker {
    let settings = settings::Queue { limit_bytes: 1 << 20, at_risk: Duration::from_secs(1) };
    let (_, asks) = mpsc::channel(1);
    let (publish, _) = watch::channel(QueueStat::default());
    let (clock, proved) = (Clock::system(), Proved::default());
    Worker::open(dir, &settings, clock, asks, readings, proved, publish).expect("a queue")
}

fn datum(unix_ms: i64) -> Datum {
    let watts = ("watts".to_owned(), 5.into());
    Datum {
        source: "/m".parse().expect("a source"),
        stamp: Stamp::Wall { unix_ms },
        samples: Samples { instantaneous: vec![watts], ..Samples::default() },
    }
}

#[tokio::test]
async fn a_full_channel_is_committed_before_the_end() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (send, readings) = mpsc::channel(super::super::READINGS);
    for at in 0..super::super::READINGS as i64 {
        send.try_send(datum(at)).expect("room");
    }
    let stop = CancellationToken::new();
    stop.cancel();
    worker(dir.path(), readings).run(stop).await.expect("a clean end");
    let (spool, _) = Spool::open(&folder(dir.path()), Options::new(1 << 20)).expect("a queue");
    assert_eq!(spool.stat().records, super::super::READINGS as u64);
}

#[tokio::test]
async fn at_the_limit_datum_without_a_time_go_before_older_ones_that_have_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    let boot = BootId([9; 16]);
    for since_boot_ms in 0..=40_000 {
        worker.take(Datum { stamp: Stamp::Boot { boot, since_boot_ms }, ..datum(0) }, None);
        if since_boot_ms % 40 == 0 {
            worker.commit(false);
            worker.claim(10, 1 << 20);
            worker.tick(Instant::now());
        }
    }
    let stat = *worker.publish.borrow();
    assert_eq!(stat.records + stat.dropped, 40_002, "{stat:?}");
    assert_eq!(stat.dropped, worker.unplaced_dropped, "{stat:?}");
    assert!(stat.bytes > stat.limit / 2, "no more than needed: {stat:?}");
    let first = worker.rows(&Ranges::from_iter([1])).expect("a disk that is well");
    assert_eq!(first.len(), 1, "the oldest, which has its time, is still there");
    let next = worker.unplaced[&boot].first().expect("some are left");
    assert_eq!(next, 2 + stat.dropped, "the oldest without one went first");
}

#[tokio::test]
async fn a_claim_passes_over_a_backlog_without_a_time_in_pieces() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    let boot = BootId([9; 16]);
    for since_boot_ms in 0..10_000 {
        worker.take(Datum { stamp: Stamp::Boot { boot, since_boot_ms }, ..datum(0) }, None);
        worker.tick(Instant::now());
    }
    worker.take(datum(7), None);
    worker.tick(Instant::now());
    let first = worker.claim(10, 1 << 20);
    assert!(first.cut && first.rows.is_empty(), "{first:?}");
    assert!(worker.scanned_to < 10_000, "looked at {}", worker.scanned_to);
    let second = worker.claim(10, 1 << 20);
    assert!(!second.cut);
    assert_eq!(second.rows.iter().map(|row| row.unix_ms).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn datum_can_be_claimed_once_the_time_is_known_though_no_other_comes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clock = Clock::untold();
    let mut worker = Worker { clock: clock.clone(), ..worker(dir.path(), mpsc::channel(1).1) };
    worker.take(Datum { stamp: clock.stamp(), ..datum(0) }, None);
    assert_eq!(worker.claim(10, 1 << 20).rows, []);
    worker.tick(Instant::now());
    assert_eq!((worker.publish.borrow().waiting, worker.publish.borrow().unplaced), (0, 1));

    clock.learn_server(chrono::Utc::now());
    worker.tick(Instant::now());
    assert_eq!((worker.publish.borrow().waiting, worker.publish.borrow().unplaced), (1, 0));
}

#[tokio::test]
async fn rows_whose_acknowledgement_a_failed_disk_lost_are_handed_out_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    worker.commit(false);
    let row = worker.claim(10, 1 << 20).rows.pop().expect("a row");
    drop(worker.failed(spool::Error::Poisoned));
    worker.acknowledge(&Ranges::from_iter([row.seq]));
    worker.reopen(Reopen::Failed);
    assert_eq!(worker.claim(10, 1 << 20).rows, [row]);
}

#[tokio::test]
async fn what_is_given_up_and_cannot_be_written_down_stays_and_is_handed_out_to_nobody_else() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    let rows = worker.claim(10, 1 << 20).rows;
    let seqs: Ranges = rows.iter().map(|row| row.seq).collect();
    let in_the_way = dir.path().join("rejected.jsonl");
    std::fs::create_dir(&in_the_way).expect("a folder");
    worker.reject(rows[0].seq, "the server said so");
    assert_eq!(worker.claim(10, 1 << 20).rows, []);
    assert_eq!((worker.rejected.count(), worker.rows(&seqs)), (0, Some(rows.clone())));

    std::fs::remove_dir(&in_the_way).expect("a folder");
    worker.ask(Ask::ReleaseAll);
    assert_eq!(worker.claim(10, 1 << 20).rows, rows, "tried again after a restart");
    worker.reject(rows[0].seq, "the server said so");
    assert_eq!((worker.rejected.count(), worker.rows(&seqs)), (1, Some(Vec::new())));
}

#[tokio::test]
async fn what_is_given_up_while_the_disk_has_failed_is_still_there_afterwards() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    worker.commit(false);
    worker.take(datum(2), None);
    let rows = worker.claim(10, 1 << 20).rows;
    drop(worker.failed(spool::Error::Poisoned));
    for row in &rows {
        worker.reject(row.seq, "the server said so");
    }
    worker.reopen(Reopen::Failed);
    worker.ask(Ask::ReleaseAll);
    let left: Vec<_> = worker.claim(10, 1 << 20).rows.iter().map(|row| row.unix_ms).collect();
    assert_eq!((left, worker.rejected.count()), (vec![1, 2], 0));
}

#[tokio::test]
async fn a_claim_of_a_row_that_got_another_number_hides_no_row_that_waits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    let claimed: Ranges = worker.claim(10, 1 << 20).rows.iter().map(|row| row.seq).collect();
    // What was not committed is appended once more.
    drop(worker.failed(spool::Error::Poisoned));
    worker.reopen(Reopen::Failed);
    let (reply, answer) = oneshot::channel();
    worker.ask(Ask::Read { seqs: claimed, reply });
    assert_eq!(answer.await.expect("an answer"), Some(Vec::new()), "it is not there any more");
    worker.tick(Instant::now());
    assert_eq!(worker.publish.borrow().waiting, 1);
}

#[tokio::test(start_paused = true)]
async fn claimed_rows_that_are_read_while_the_disk_has_failed_are_waited_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    let (asks, mut asked) = mpsc::channel(1);
    let (stat, proved) = (worker.publish.subscribe(), Proved::default());
    let queue = super::super::Queue { asks, proved, stat, pulse: Pulse::unheard() };
    worker.take(datum(1), None);
    worker.commit(false);
    let claimed = worker.claim(10, 1 << 20).rows;
    drop(worker.failed(spool::Error::Poisoned));
    let serve = async {
        for attempt in 0..3 {
            if attempt == 2 {
                worker.reopen(Reopen::Failed);
            }
            worker.ask(asked.recv().await.expect("a reader that goes on"));
        }
    };
    let (rows, ()) = tokio::join!(queue.read(Ranges::from_iter([1])), serve);
    assert_eq!(rows, claimed, "not in the queue no more");
    assert_eq!(worker.claim(10, 1 << 20).rows, [], "nobody else gets it");
}

#[tokio::test(start_paused = true)]
async fn what_is_proved_before_its_commit_does_not_bring_forward_that_of_the_next() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    let began = Instant::now();
    for at in 0..20 {
        worker.take(datum(at), None);
        let row = worker.claim(10, 1 << 20).rows.pop().expect("a row");
        worker.tick(Instant::now());
        tokio::time::advance(Duration::from_millis(100)).await;
        let open = worker.commit_due.expect("it is not proved") - Instant::now();
        let left = worker.at_risk - worker.gather() - Duration::from_millis(100);
        assert_eq!(open, left, "after {:?}", began.elapsed());
        worker.acknowledge(&Ranges::from_iter([row.seq]));
    }
    worker.take(datum(20), None);
    worker.take(datum(21), None);
    worker.acknowledge(&Ranges::from_iter([21]));
    assert!(worker.commit_due.is_some(), "one is not proved");
}

/// The worker at work, and its handle.
async fn at_work(test: impl AsyncFnOnce(super::super::Queue, mpsc::Sender<Datum>)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let settings = settings::Queue { limit_bytes: 1 << 20, at_risk: Duration::from_secs(1) };
    let (send, readings) = mpsc::channel(super::super::READINGS);
    let opened = super::super::Queue::open(dir.path(), &settings, Clock::system(), readings);
    let (queue, worker) = opened.expect("a queue");
    let stop = CancellationToken::new();
    let work = worker.run(stop.clone());
    let (result, ()) = tokio::join!(work, async {
        test(queue, send).await;
        stop.cancel();
    });
    result.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn readings_gather_also_while_the_queue_is_asked_for_others() {
    at_work(async |queue, readings| {
        let times = async || {
            let rows = queue.claim(1000, 1 << 20).await.rows;
            rows.iter().map(|row| row.unix_ms).collect::<Vec<_>>()
        };
        readings.try_send(datum(1)).expect("room");
        queue.stat().wait_for(|stat| stat.waiting == 1).await.expect("the worker");
        readings.try_send(datum(2)).expect("room");
        readings.try_send(datum(3)).expect("room");
        assert_eq!(times().await, [1]);
        let begun = Instant::now();
        queue.stat().wait_for(|stat| stat.waiting > 0).await.expect("the worker");
        assert!(begun.elapsed() > GATHER / 2, "{:?}", begun.elapsed());
        assert!(begun.elapsed() <= GATHER, "{:?}", begun.elapsed());
        assert_eq!(times().await, [2, 3]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_readings_are_taken_at_once_though_nothing_is_asked() {
    at_work(async |queue, readings| {
        let begun = Instant::now();
        for at in 0..super::super::READINGS as i64 {
            readings.try_send(datum(at)).expect("room");
        }
        let all = super::super::READINGS as u64;
        queue.stat().wait_for(|stat| stat.records == all).await.expect("the worker");
        assert!(begun.elapsed() <= GATHER, "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn what_arrives_while_the_disk_has_failed_is_kept_in_memory_and_stored_later() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    drop(worker.failed(spool::Error::Poisoned));
    worker.take(datum(2), None);
    let (reply, mut durably) = oneshot::channel();
    worker.take(datum(3), Some(reply));
    // Somebody else has it: opening fails, and who waits is told.
    let lock = Spool::open(&folder(dir.path()), worker.options).expect("free");
    worker.reopen(Reopen::Failed);
    assert!(matches!(durably.try_recv(), Ok(Err(StoreError::Failed { .. }))));
    drop(lock);
    worker.reopen(Reopen::Failed);
    let rows = worker.claim(10, 1 << 20).rows;
    assert_eq!(rows.iter().map(|row| row.unix_ms).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((worker.refused, worker.uncommitted.len()), (0, 0));
}

#[tokio::test]
async fn the_datum_on_which_the_disk_fails_is_kept_with_those_before_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    let (queue, away) = (folder(dir.path()), dir.path().join("away"));
    // Without its folder the spool cannot go on for long.
    std::fs::rename(&queue, &away).expect("moved");
    let mut taken = 0;
    while worker.spool.is_some() {
        worker.take(datum(taken), None);
        taken += 1;
        assert!(taken < 100_000, "the disk never fails");
    }
    std::fs::rename(&away, &queue).expect("moved back");
    worker.reopen(Reopen::Failed);
    let mut times = Vec::new();
    loop {
        let rows = worker.claim(1000, 1 << 20).rows;
        times.extend(rows.iter().map(|row| row.unix_ms));
        if rows.is_empty() {
            break;
        }
    }
    // The oldest may have been dropped at the limit.
    assert_eq!((&times, worker.refused), (&(times[0]..taken).collect(), 0));
}

#[tokio::test]
async fn what_is_kept_while_the_disk_has_failed_is_bounded_and_the_rest_counted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    drop(worker.failed(spool::Error::Poisoned));
    for at in 0..MAX_PENDING as i64 + 10 {
        worker.take(datum(at), None);
    }
    assert_eq!((worker.uncommitted.len(), worker.refused), (MAX_PENDING, 10));
    worker.reopen(Reopen::Failed);
    assert_eq!(worker.spool.as_ref().map(|spool| spool.stat().records), Some(4096));
    assert!(worker.uncommitted.is_empty(), "all durable");
}

#[tokio::test(start_paused = true)]
async fn attempts_on_a_full_disk_come_less_and_less_often_and_at_once_after_a_proof() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut worker = worker(dir.path(), mpsc::channel(1).1);
    worker.take(datum(1), None);
    worker.commit(false);
    let fail = |worker: &mut Worker| {
        worker.retry_due = None;
        drop(worker.failed(spool::Error::Full));
        worker.retry_due.expect("another attempt").duration_since(Instant::now()).as_secs()
    };
    assert_eq!([(); 6].map(|()| fail(&mut worker)), [1, 2, 4, 8, 16, 16]);
    let row = worker.claim(10, 1 << 20).rows.pop().expect("a row");
    worker.acknowledge(&Ranges::from_iter([row.seq]));
    assert_eq!(worker.retry_due, Some(Instant::now()));
    worker.tick(Instant::now());
    assert_eq!(worker.retry_due, None);
    assert_eq!(fail(&mut worker), 1, "what works begins anew");
}
