//! The uploader: does what [`super::machine`] says.
//!
//! It stops at once when asked, in the middle of a call if need be: the open batches are on disk, and
//! the next run looks for them in the list of jobs. Only a write of that file is finished first, as it
//! would overtake one of the next run.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    super::{
        UploadError, UploadStatus,
        book::Book,
        proof::{self, Proof},
        quarrel, retry,
        terms::NO_TIME,
    },
    batch, http,
    machine::Machine,
    terms::{Batch, Effect, Failed, Limits, Note, Step, Waiting},
};
use crate::{
    clock::Clock,
    config::settings,
    domain::NodeId,
    pulse::{Bound, Pulse},
    queue::{Claimed, Queue, QueueStat, Ranges, Row},
    runtime::{self, off_thread},
    solarnet::{Answer, Call, CallError, Caller},
};

/// Payload claimed at a time: what fits into a job of [`batch::MAX_BYTES`] in any case, as the text of
/// a datum is larger than its record and compresses well.
const CLAIM_BYTES: usize = batch::MAX_BYTES;

/// Sends what is in the queue. Owns its caller; nobody else sends datum.
pub struct Uploader<C, K> {
    /// Whose data this is.
    pub node: NodeId,
    /// How often.
    pub settings: settings::Upload,
    /// Where the list of open batches lives.
    pub state_dir: PathBuf,
    /// Who carries out the calls.
    pub caller: C,
    /// Where the datum are.
    pub queue: Queue,
    /// What becomes of them once their job ended well.
    pub proof: Proof,
    /// Which time it is.
    pub clock: Clock,
    /// Changes whenever another signing key is in use.
    pub key_changed: watch::Receiver<K>,
    /// How it stands.
    pub status: watch::Sender<UploadStatus>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends it.
    pub stop: CancellationToken,
}

impl<C: Caller, K> Uploader<C, K> {
    /// Runs until it is stopped or the queue has ended.
    ///
    /// # Errors
    ///
    /// If the file of open batches is not ours to read.
    pub async fn run(self) -> Result<(), UploadError> {
        let stop = self.stop.clone();
        let mut run = Run::begin(self).await?;
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = run.work() => {}
        }
        let open = run.machine.open_batches().cloned().collect();
        run.book.close(open).await;
        Ok(())
    }
}

struct Run<C, K> {
    parts: Uploader<C, K>,
    machine: Machine,
    began: Instant,
    stat: watch::Receiver<QueueStat>,
    /// Since when rows have been waiting.
    waiting_since: Option<Duration>,
    /// The body built last, as long as its batch was not sent.
    built: Option<(String, Vec<u8>)>,
    book: Book,
    status: UploadStatus,
}

impl<C: Caller, K> Run<C, K> {
    async fn begin(parts: Uploader<C, K>) -> Result<Self, UploadError> {
        let (book, claimed) =
            Book::open(&parts.state_dir, parts.node, &parts.queue, &parts.proof, &parts.clock)
                .await?;
        let enough = batch::MAX_ROWS as u64;
        let limits = Limits { every: parts.settings.every, enough };
        let stat = parts.queue.stat();
        let backlog = stat.borrow().waiting > 0;
        // What was counted is counted since the daemon started.
        let status = UploadStatus { state: "ok", ..parts.status.borrow().clone() };
        Ok(Self {
            stat,
            machine: Machine::new(limits, claimed, backlog),
            began: Instant::now(),
            waiting_since: None,
            built: None,
            book,
            status,
            parts,
        })
    }

    async fn work(&mut self) {
        loop {
            let now = self.began.elapsed();
            let waiting = self.waiting(now);
            let (effects, step) = self.machine.next(now, fastrand::f64(), waiting);
            self.apply(effects).await;
            let effects = match step {
                Step::Claim => self.claim().await,
                Step::Build(seqs) => self.build_part(seqs).await,
                Step::Split(seqs) => self.split(seqs).await,
                Step::Send(batch) => self.send(batch).await,
                Step::Look => {
                    let answer = self.call(http::list()).await;
                    let jobs = answer.map(|answer| http::jobs(&answer.data));
                    self.machine.looked(self.began.elapsed(), fastrand::f64(), jobs)
                }
                Step::Follow { batch, job } => {
                    let answer = self.call(http::status(&job)).await;
                    let now = self.began.elapsed();
                    match answer.map(|answer| http::job(&answer.data)) {
                        Ok(Some(job)) => {
                            self.machine.followed(&batch, now, fastrand::f64(), Ok(job))
                        }
                        Ok(None) => self.machine.garbled(&batch, now, fastrand::f64()),
                        Err(failed) => {
                            self.machine.followed(&batch, now, fastrand::f64(), Err(failed))
                        }
                    }
                }
                Step::Wait(until) => {
                    self.publish();
                    if self.wait(until).await.is_none() {
                        return;
                    }
                    Vec::new()
                }
            };
            self.apply(effects).await;
            self.publish();
        }
    }

    /// Waits for time, rows or a key. `None`: the queue has ended, so there is nothing left to do.
    async fn wait(&mut self, until: Option<Duration>) -> Option<()> {
        let left = until.map(|until| until.saturating_sub(self.began.elapsed()));
        let _waiting =
            self.parts.pulse.enter("waiting for datum, time or a key", Bound::until(left));
        let deadline = until.map(|until| self.began + until);
        let key_changed = &mut self.parts.key_changed;
        tokio::select! {
            () = runtime::until(deadline) => Some(()),
            changed = self.stat.changed() => changed.ok(),
            // Without a sender there will never be another key.
            Ok(()) = key_changed.changed() => {
                self.machine.key_changed(self.began.elapsed());
                Some(())
            }
        }
    }

    fn waiting(&mut self, now: Duration) -> Option<Waiting> {
        let count = self.stat.borrow_and_update().waiting;
        if count == 0 {
            self.waiting_since = None;
            return None;
        }
        let since = *self.waiting_since.get_or_insert(now);
        self.parts.proof.has_room().then_some(Waiting { count, since })
    }

    async fn claim(&mut self) -> Vec<Effect> {
        let Claimed { rows, cut } = self.parts.queue.claim(batch::MAX_ROWS, CLAIM_BYTES).await;
        self.waiting_since = None;
        let bytes: usize = rows.iter().map(|row| row.payload.len()).sum();
        let full = rows.len() >= batch::MAX_ROWS || bytes >= CLAIM_BYTES / 2;
        let (batch, left) = self.build(rows).await;
        let backlog = full || cut || !left.is_empty();
        self.parts.queue.release(left).await;
        self.machine.opened(self.began.elapsed(), batch, Ranges::default(), backlog)
    }

    async fn build_part(&mut self, seqs: Ranges) -> Vec<Effect> {
        let rows = self.parts.queue.read(seqs).await;
        let (batch, left) = self.build(rows).await;
        self.machine.opened(self.began.elapsed(), batch, left, false)
    }

    /// Makes a new batch of the rows, and says which had no room in it.
    async fn build(&mut self, rows: Vec<Row>) -> (Option<Batch>, Ranges) {
        let (built, left) = self.compress(rows).await;
        ((built.rows > 0).then(|| self.batch_of(built)), left)
    }

    /// Gives what was built a name, and keeps its body until it is sent.
    fn batch_of(&mut self, built: batch::Built) -> Batch {
        let id = format!("{:016x}", fastrand::u64(..));
        self.built = Some((id.clone(), built.csv_gz));
        let batch = Batch::new(id, built.seqs, built.twin);
        self.book.opened(&batch, built.tallies);
        batch
    }

    /// Compresses beside the runtime: a full batch takes a small processor a good part of a second. Says as well
    /// which rows had no room.
    async fn compress(&mut self, rows: Vec<Row>) -> (batch::Built, Ranges) {
        let node = self.parts.node;
        let mut left: Ranges = rows.iter().map(|row| row.seq).collect();
        let work = move || batch::build(node, &rows, batch::MAX_ROWS, batch::MAX_BYTES);
        let built = off_thread(work).await;
        left.subtract(&built.seqs);
        for (seq, reason) in &built.unsendable {
            left.remove(*seq..=*seq);
            self.status.give_up(&self.parts.queue, *seq, reason.clone()).await;
        }
        (built, left)
    }

    async fn split(&mut self, seqs: Ranges) -> Vec<Effect> {
        let rows = self.parts.queue.read(seqs).await;
        self.machine.split(quarrel::by_source(&rows));
        Vec::new()
    }

    async fn send(&mut self, batch: Batch) -> Vec<Effect> {
        let built = self.built.take().filter(|(id, _)| *id == batch.id).map(|(_, csv)| csv);
        let csv_gz = match built {
            Some(csv_gz) => csv_gz,
            None => {
                let rows = self.parts.queue.read(batch.seqs.clone()).await;
                let (built, left) = self.compress(rows).await;
                if built.rows != batch.rows {
                    // Of a batch that another way made, some rows may not go together.
                    self.parts.queue.release(left).await;
                    let rest = (built.rows > 0).then(|| self.batch_of(built));
                    return self.machine.replaced(&batch.id, rest);
                }
                built.csv_gz
            }
        };
        let group = batch::group(self.parts.node, self.machine.hung());
        let body = batch::body(&batch.id, &batch.name, &group, &csv_gz);
        debug!(
            event = "upload.sent",
            batch_id = batch.id,
            datum_count = batch.rows,
            bytes = body.bytes.len(),
            "batch sent"
        );
        let answer = self.call(http::submit(body)).await;
        let receipt = answer.map(|answer| http::receipt(&answer.data));
        self.machine.sent(&batch.id, self.began.elapsed(), fastrand::f64(), receipt)
    }

    async fn call(&mut self, call: Call) -> Result<Answer, Failed> {
        let result = self.parts.caller.call(call).await;
        result.map_err(|error| {
            let failed = self.failed(&error);
            self.status.last_error = Some(failed.text.clone());
            failed
        })
    }

    fn failed(&self, error: &CallError) -> Failed {
        let next = error.next();
        let now = self.parts.clock.signing_now();
        let not_before = retry::not_before(next, now, self.began.elapsed());
        Failed { cause: error.cause, next, not_before, text: error.to_string() }
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        // First, and at once: where the rest is cut off by a stop, rows that were counted and not
        // acknowledged are known by their numbers and not counted again.
        for effect in &effects {
            if let Effect::Note(Note::Proved { batch, .. }) = effect {
                self.book.proved(batch);
            }
        }
        for effect in effects {
            match effect {
                Effect::Save => {
                    self.book.save(self.machine.open_batches().cloned().collect()).await;
                }
                Effect::Acknowledge(seqs) => self.parts.proof.handed_over(seqs).await,
                Effect::Release(seqs) => self.parts.queue.release(seqs).await,
                Effect::GiveUp { seq, reason } => {
                    self.status.give_up(&self.parts.queue, seq, reason).await
                }
                Effect::Note(note) => {
                    note.tell(&mut self.status, self.parts.clock.signing_now());
                }
            }
        }
    }

    fn publish(&mut self) {
        self.status.open_jobs = self.machine.open_batches().count();
        // Readings without a time are not claimed, so no call fails that would say why they wait.
        let unplaced = self.stat.borrow().unplaced > 0;
        let timeless = || (unplaced && self.parts.clock.trusted_now().is_none()).then_some(NO_TIME);
        let no_room = || (!self.parts.proof.has_room()).then_some(proof::NO_ROOM);
        let waits_for = self.machine.waits_for().or_else(timeless).or_else(no_room);
        self.status.publish(self.machine.needs_a_person(), waits_for, &self.parts.status);
    }
}

#[cfg(test)]
#[path = "outage_tests.rs"]
mod outage_tests;
#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "ways_tests.rs"]
mod ways_tests;
