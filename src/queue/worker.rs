//! The thread that owns the spool. See [`super`] for what it guarantees.
//!
//! Here is its turn of work, and what goes at the limit; [`disk`] is how datum get to disk, [`rows`] how they leave.

mod disk;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::DateTime;
use spool::{Options, Spool};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::disk::{AGAIN, PREPARE_EVERY, Reopen};
use super::{
    Ask, Proved, QueueError, QueueStat, Ranges, StoreError, Tap, folder, record, rejected::Rejected,
};
use crate::{
    clock::Clock,
    config::settings,
    domain::{BootId, Datum},
    pulse::{Bound, Pulse},
    runtime,
};

/// Records that one look into the spool hands over.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 64 * 1024;

/// After readings were taken, the next ones are left in their channel for this part of `at_risk`, and
/// this long at most: then many cost the thread, and those who watch its status, one wake-up. The
/// commit is due earlier by as much.
const GATHER_PART: u32 = 2;
const GATHER: Duration = Duration::from_millis(250);

/// What is taken from the channels before the next commit is looked at.
const AT_ONCE: usize = 256;

/// How long an acknowledgement waits for a commit to ride along with. A power cut meanwhile costs a
/// look into the list of jobs, or rows sent twice.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks whether the time is known, while datum wait for it.
const PLACE_EVERY: Duration = Duration::from_secs(2);

/// Unplaced datum dropped at a time when the limit is reached.
const DROP_AT_ONCE: usize = 256;

/// How long a disk that is well takes: nothing worth the name. What a bad one may take is up to the
/// watchdog.
const AT_ITS_BEST: Bound = Bound::Within(Duration::ZERO);

/// The work of the queue's thread.
pub struct Worker {
    folder: PathBuf,
    options: Options,
    at_risk: Duration,
    clock: Clock,
    asks: mpsc::Receiver<Ask>,
    readings: mpsc::Receiver<Datum>,
    proved: Proved,
    publish: watch::Sender<QueueStat>,
    tap: Option<Tap>,
    pulse: Pulse,
    /// `None` after a failure, until it could be opened again.
    spool: Option<Spool>,
    /// What a failed handle would lose.
    uncommitted: VecDeque<(u64, Vec<u8>)>,
    uncommitted_bytes: usize,
    /// Those who wait for the next commit.
    durably: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Readings are looked at again from here on.
    gathered: Instant,
    commit_due: Option<Instant>,
    acknowledged_due: Option<Instant>,
    prepare_due: Instant,
    retry_due: Option<Instant>,
    /// How long the next attempt waits.
    again: Duration,
    claimed: Ranges,
    unplaced: BTreeMap<BootId, Ranges>,
    /// All below are acknowledged, claimed or unplaced.
    scanned_to: u64,
    rejected: Rejected,
    /// The first record that waits, and when it was read.
    oldest: Option<(u64, Option<i64>)>,
    undecodable: u64,
    unplaced_dropped: u64,
    /// No unplaced datum is dropped before this number is given out.
    drop_again: u64,
    refused: u64,
    refusing: bool,
    dropped_told: u64,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn open(
        state_dir: &Path,
        settings: &settings::Queue,
        clock: Clock,
        asks: mpsc::Receiver<Ask>,
        readings: mpsc::Receiver<Datum>,
        proved: Proved,
        publish: watch::Sender<QueueStat>,
    ) -> Result<Self, QueueError> {
        let folder = folder(state_dir);
        let options = Options::new(settings.limit_bytes);
        let open = Spool::open(&folder, options);
        let (spool, recovery) =
            open.map_err(|source| QueueError::Open { folder: folder.clone(), source })?;
        if recovery.corrupt > 0 || recovery.torn_bytes > 0 || recovery.broken_headers > 0 {
            warn!(
                event = "queue.recovered",
                corrupt = recovery.corrupt,
                torn_bytes = recovery.torn_bytes,
                broken_headers = recovery.broken_headers,
                "queue recovered after an unclean end"
            );
        }
        let dropped_told = spool.stat().dropped;
        let mut worker = Self {
            folder,
            options,
            at_risk: settings.at_risk,
            clock,
            asks,
            readings,
            proved,
            publish,
            tap: None,
            pulse: Pulse::unheard(),
            spool: Some(spool),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            durably: Vec::new(),
            gathered: Instant::now(),
            commit_due: None,
            acknowledged_due: None,
            prepare_due: Instant::now() + PREPARE_EVERY,
            retry_due: None,
            again: AGAIN.0,
            claimed: Ranges::default(),
            unplaced: BTreeMap::new(),
            scanned_to: 0,
            rejected: Rejected::open(state_dir),
            oldest: None,
            undecodable: 0,
            unplaced_dropped: 0,
            drop_again: 0,
            refused: 0,
            refusing: false,
            dropped_told,
        };
        worker.publish();
        Ok(worker)
    }

    /// The same with a pulse that shows what the thread does.
    #[must_use]
    pub fn for_task(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// Runs in a thread of its own until `stop` fires. Cancel it last: who stops before it can still
    /// store. The receiver tells how it ended.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn spawn(
        self,
        stop: CancellationToken,
    ) -> Result<oneshot::Receiver<Result<(), QueueError>>, QueueError> {
        let (ended, end) = oneshot::channel();
        let began = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(QueueError::Thread)?;
        let work = move || {
            runtime::timer_began(began);
            let result = runtime.block_on(self.run(stop));
            // Nobody waits any more: then nobody wants to know.
            drop(ended.send(result));
        };
        std::thread::Builder::new().name("queue".into()).spawn(work).map_err(QueueError::Thread)?;
        Ok(end)
    }

    /// Runs until `stop` fires, then takes what is in the channels, commits and closes.
    ///
    /// # Errors
    ///
    /// If the last commit failed.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), QueueError> {
        loop {
            let (wake, gathered) = (self.wake(), self.gathered);
            let arrived = async {
                sleep_until(gathered).await;
                tokio::select! {
                    Some(datum) = self.readings.recv() => Some(datum),
                    () = self.proved.told() => None,
                }
            };
            let left = Bound::Within(wake.saturating_duration_since(Instant::now()));
            let waiting = self.pulse.enter("waiting for datum", left);
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ask) = self.asks.recv() => {
                    self.ask(ask);
                    None
                }
                first = arrived => first,
                () = sleep_until(wake) => None,
            };
            drop(waiting);
            self.drain_asks();
            if first.is_some() || self.gathered <= Instant::now() {
                self.take_proved();
                self.drain_readings(first);
            }
            self.tick(Instant::now());
        }
        // Who could still send has stopped, so this comes to an end.
        while self.drain_asks() | self.drain_readings(None) {
            self.tick(Instant::now());
        }
        self.take_proved();
        if self.spool.is_none() {
            self.reopen(Reopen::Failed);
        }
        self.tick(Instant::now());
        match self.spool.take() {
            Some(spool) => spool.close().map_err(QueueError::Close),
            None if self.uncommitted.is_empty() => Ok(()),
            None => Err(QueueError::Close(spool::Error::Poisoned)),
        }
    }

    /// Does what is asked for, so that it shares a commit. Returns whether there was anything.
    fn drain_asks(&mut self) -> bool {
        let mut any = false;
        for _ in 0..AT_ONCE {
            let Ok(ask) = self.asks.try_recv() else { break };
            self.ask(ask);
            any = true;
        }
        any
    }

    /// Takes the readings that are there, and lets others gather. Returns whether there was any.
    fn drain_readings(&mut self, first: Option<Datum>) -> bool {
        let (mut next, mut taken) = (first, 0);
        while taken < AT_ONCE
            && let Some(datum) = next.take().or_else(|| self.readings.try_recv().ok())
        {
            self.take(datum, None);
            taken += 1;
        }
        // Where there may be more they are next.
        if (1..AT_ONCE).contains(&taken) {
            let now = Instant::now();
            let longest = now + self.gather();
            let gathered = runtime::stride_of(longest);
            self.gathered = if gathered > now { gathered } else { longest };
        }
        taken > 0
    }

    fn take_proved(&mut self) {
        let proved = self.proved.take();
        if !proved.is_empty() {
            self.acknowledge(&proved);
        }
    }

    fn gather(&self) -> Duration {
        (self.at_risk / GATHER_PART).min(GATHER)
    }

    fn wake(&self) -> Instant {
        // While the disk is full or failed, what is due waits for the next attempt.
        let due = match self.retry_due {
            Some(retry) => [Some(retry), None],
            None => [self.commit_due, self.acknowledged_due],
        };
        let due = due.into_iter().flatten().fold(self.prepare_due, Instant::min);
        // Nobody tells this thread that the time became known.
        if self.unplaced.is_empty() { due } else { due.min(Instant::now() + PLACE_EVERY) }
    }

    fn ask(&mut self, ask: Ask) {
        // Whoever asks counts on what was proved before.
        self.take_proved();
        // Whoever dropped the other end of an answer does not want it any more.
        match ask {
            Ask::Store(datum) => self.take(datum, None),
            Ask::StoreDurably(datum, reply) => self.take(datum, Some(reply)),
            Ask::Claim { rows, bytes, reply } => {
                let claimed = self.claim(rows, bytes);
                // First, else who claimed would still see them wait, and claim once more.
                self.publish();
                drop(reply.send(claimed));
            }
            Ask::ClaimExactly(seqs, reply) => {
                // Where nobody can tell they stay free, and are claimed again as any other.
                let rows = self.rows(&seqs).unwrap_or_default();
                let found: Ranges = rows.iter().map(|row| row.seq).collect();
                self.claimed.extend(&found);
                drop(reply.send(found));
            }
            Ask::Read { seqs: mut gone, reply } => {
                let rows = self.rows(&gone);
                // A claim of what is not there any more would hide a row that waits.
                if let Some(rows) = rows.as_ref().filter(|rows| rows.len() as u64 != gone.count()) {
                    rows.iter().for_each(|row| gone.remove(row.seq..=row.seq));
                    self.release(&gone);
                }
                drop(reply.send(rows));
            }
            Ask::Release(seqs) => self.release(&seqs),
            Ask::Reject { seq, reason } => self.reject(seq, &reason),
            Ask::ReleaseAll => {
                let all = std::mem::take(&mut self.claimed);
                self.release(&all);
            }
            Ask::Adjust(settings) => self.adjust(&settings),
            Ask::Tap(tap) => self.tap = tap,
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.retry_due.is_some_and(|due| due <= now) {
            self.retry_due = None;
            if self.spool.is_none() {
                self.reopen(Reopen::Failed);
            } else {
                self.commit(true);
            }
        }
        let full = self.memory_is_full();
        let due = self.commit_due.is_some_and(|due| due <= now);
        if self.retry_due.is_none() {
            if due || full || !self.durably.is_empty() {
                self.commit(false);
            } else if self.acknowledged_due.is_some_and(|due| due <= now) {
                self.commit(true);
            }
        }
        if self.prepare_due <= now {
            self.prepare(now);
        }
        self.tell_losses();
        self.place_again();
        self.drop_unplaced();
        self.publish();
    }

    /// Appends a datum; `durably` hears of it after the next commit.
    fn take(&mut self, datum: Datum, durably: Option<oneshot::Sender<Result<(), StoreError>>>) {
        let result = self.append(&datum);
        if let (Ok(()), Some(tap)) = (&result, &self.tap) {
            tap.give(datum);
        }
        match (result, durably) {
            (Ok(()), Some(reply)) => self.durably.push(reply),
            (Err(error), Some(reply)) => drop(reply.send(Err(error))),
            (Ok(()) | Err(StoreError::NoSamples), None) => {}
            (Err(error), None) => self.refuse(&error),
        }
    }

    /// Where the next segment would cost the oldest one, datum without a time go before those that can be
    /// sent, the oldest first: until a segment is free, or enough that the spool can carry the rest of two
    /// into one.
    fn drop_unplaced(&mut self) {
        let (mut dropped, mut most) = (0, u64::MAX);
        while let Some(stat) = self.spool.as_ref().map(Spool::stat) {
            let segments = u64::try_from(stat.segments).unwrap_or(u64::MAX).max(1);
            // One for the next, one that the spool keeps for itself.
            let full = stat.bytes + 2 * (stat.bytes / segments) > stat.limit;
            let in_one = stat.records / segments + 1;
            if dropped == 0 {
                most = 2 * in_one;
            }
            if !full || self.unplaced.is_empty() || stat.next < self.drop_again {
                break;
            }
            if dropped >= most {
                self.drop_again = stat.next + in_one;
                break;
            }
            let mut ranges: Vec<_> = self.unplaced.values().flat_map(Ranges::iter).collect();
            ranges.sort_by_key(|range| *range.start());
            let seqs: Ranges = ranges.into_iter().flatten().take(DROP_AT_ONCE).collect();
            dropped += seqs.count();
            self.acknowledge(&seqs);
        }
        if dropped > 0 {
            self.unplaced_dropped += dropped;
            error!(
                event = "queue.dropped",
                datum_count = dropped,
                reason = "unplaced",
                "datum without a known time dropped at the queue's limit"
            );
        }
    }

    fn tell_losses(&mut self) {
        let Some(spool) = &self.spool else { return };
        let dropped = spool.stat().dropped;
        if dropped <= self.dropped_told {
            return;
        }
        let last = spool.losses().last();
        error!(
            event = "queue.dropped",
            datum_count = dropped - self.dropped_told,
            first = last.map(|loss| loss.first),
            last = last.map(|loss| loss.last),
            reason = "limit",
            "oldest datum dropped at the queue's limit"
        );
        self.dropped_told = dropped;
        let first = spool.stat().first;
        self.claimed.forget_below(first);
        self.unplaced.values_mut().for_each(|seqs| seqs.forget_below(first));
        self.unplaced.retain(|_, seqs| !seqs.is_empty());
    }

    fn publish(&mut self) {
        let Some(stat) = self.spool.as_ref().map(Spool::stat) else { return };
        let unplaced = self.unplaced.values().map(Ranges::count).sum();
        let oldest = if stat.records == 0 { None } else { self.oldest(stat.first) };
        let next = QueueStat {
            records: stat.records,
            bytes: stat.bytes,
            limit: stat.limit,
            oldest: oldest.and_then(DateTime::from_timestamp_millis),
            rejected: self.rejected.count(),
            dropped: stat.dropped + self.unplaced_dropped,
            corrupt: stat.corrupt + self.undecodable,
            unplaced,
            refused: self.refused,
            waiting: stat.records.saturating_sub(self.claimed.count()).saturating_sub(unplaced),
            durable_up_to: stat.durable,
        };
        self.publish.send_if_modified(|stat| {
            let changed = *stat != next;
            *stat = next;
            changed
        });
    }

    /// When the first record that waits was read; looked up when another one became the first, and until its time is known.
    fn oldest(&mut self, first: u64) -> Option<i64> {
        // What had no time may have been given one since.
        let placed = !self.unplaced.values().any(|seqs| seqs.contains(first));
        if self.oldest.is_none_or(|(seq, time)| seq != first || (time.is_none() && placed)) {
            let record = self.peek(first, 1)?.into_iter().next()?;
            let stamp = record::decode_stamp(&record.payload).ok();
            self.oldest = Some((first, stamp.and_then(|stamp| self.clock.place(stamp))));
        }
        self.oldest.and_then(|(_, unix_ms)| unix_ms)
    }
}
