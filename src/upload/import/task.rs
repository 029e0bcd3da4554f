//! The uploader: does what [`super::machine`] says.
//!
//! It stops at once when asked, in the middle of a call if need be: the open batches are on disk, and
//! the next run looks for them in the list of jobs. Only a write of that file is finished first, as it
//! would overtake one of the next run.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    super::{
        UploadStatus,
        proof::{self, Proof},
        retry::Pause,
    },
    batch, http,
    machine::Machine,
    store,
    terms::{Batch, Effect, Failed, Limits, Note, Step, Waiting},
};
use crate::{
    audit::{Ledger, days},
    clock::Clock,
    config::settings,
    domain::NodeId,
    pulse::{Bound, Pulse},
    queue::{Claimed, Queue, QueueStat, Ranges, Row},
    solarnet::{Answer, Call, CallError, Caller, Next},
};

/// Payload claimed at a time: what fits into a job of [`batch::MAX_BYTES`] in any case, as the text of
/// a datum is larger than its record and compresses well.
const CLAIM_BYTES: usize = batch::MAX_BYTES;

/// What uploads wait for on a machine that nobody has told the time.
const NO_TIME: &str = "the time is not known yet: no server was reached since the machine started";

/// Why the uploader could not begin.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The list of open batches is there and cannot be read.
    #[error("could not read {}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
}

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
        let saving = run.saving.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = run.work() => {}
        }
        drop(saving.lock().await);
        if run.counted {
            run.save().await;
        }
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
    unsaved_told: bool,
    /// What was proved.
    ledger: Ledger,
    /// Whether something was counted that is not on disk.
    counted: bool,
    /// Held while the list of open batches is written.
    saving: Arc<Mutex<()>>,
    status: UploadStatus,
}

impl<C: Caller, K> Run<C, K> {
    async fn begin(parts: Uploader<C, K>) -> Result<Self, UploadError> {
        let path = store::path(&parts.state_dir);
        let unreadable = |source| UploadError::State { path: path.clone(), source };
        let (contents, first) = match store::load(&path) {
            Ok(contents) => {
                let first = contents.is_none();
                (contents.unwrap_or_default(), first)
            }
            Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(unreadable(source));
            }
            Err(error) => {
                warn!(event = "upload.state_unreadable", path = %path.display(), %error, "open batches forgotten, they are sent again");
                (store::Contents::default(), false)
            }
        };
        let (node, now) = (parts.node.number(), parts.clock.signing_now().timestamp());
        let ledger = days::resume(&parts.state_dir, node, contents.ledger, first);
        let mut ledger = ledger.map_err(unreadable)?;
        ledger.forget_rows_after(parts.queue.stat().borrow().durable_up_to);
        let mut accepted = ledger.counted().clone();
        contents.open.iter().for_each(|batch| accepted.subtract(&batch.seqs));
        parts.proof.begin(accepted).await;
        let mut claimed = Vec::new();
        for mut batch in contents.open {
            let rows = batch.seqs.count();
            batch.seqs = parts.queue.claim_exactly(batch.seqs).await;
            if batch.seqs.count() < rows {
                ledger.left_the_queue(&batch.id, batch.seqs.is_empty(), now);
            }
            if !batch.seqs.is_empty() {
                claimed.push(batch);
            }
        }
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
            unsaved_told: false,
            ledger,
            counted: false,
            saving: Arc::default(),
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
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => Some(()),
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
        let mut left: Ranges = rows.iter().map(|row| row.seq).collect();
        let Some(built) = self.compress(rows).await else { return (None, left) };
        left.subtract(&built.seqs);
        for (seq, _) in &built.unsendable {
            left.remove(*seq..=*seq);
        }
        if built.rows == 0 {
            return (None, left);
        }
        (Some(self.batch_of(built)), left)
    }

    /// Gives what was built a name, and keeps its body until it is sent.
    fn batch_of(&mut self, built: batch::Built) -> Batch {
        let id = format!("{:016x}", fastrand::u64(..));
        self.built = Some((id.clone(), built.csv_gz));
        self.ledger.opened(&id, built.seqs.clone(), built.tallies, built.twin);
        Batch::new(id, built.seqs, built.twin)
    }

    /// Compresses beside the runtime: a full batch takes a small processor a good part of a second.
    async fn compress(&mut self, rows: Vec<Row>) -> Option<batch::Built> {
        let node = self.parts.node;
        let work = move || batch::build(node, &rows, batch::MAX_ROWS, batch::MAX_BYTES);
        // It fails only if the runtime is being shut down.
        let built = spawn_blocking(work).await.ok()?;
        for (seq, reason) in &built.unsendable {
            self.give_up(*seq, reason.clone()).await;
        }
        Some(built)
    }

    async fn split(&mut self, seqs: Ranges) -> Vec<Effect> {
        let mut by_source = std::collections::BTreeMap::<_, Ranges>::new();
        for row in self.parts.queue.read(seqs).await {
            if let Ok(datum) = row.datum() {
                by_source.entry(datum.source).or_default().insert(row.seq..=row.seq);
            }
        }
        self.machine.split(by_source.into_values().collect());
        Vec::new()
    }

    async fn send(&mut self, batch: Batch) -> Vec<Effect> {
        let built = self.built.take().filter(|(id, _)| *id == batch.id).map(|(_, csv)| csv);
        let csv_gz = match built {
            Some(csv_gz) => csv_gz,
            None => {
                let rows = self.parts.queue.read(batch.seqs.clone()).await;
                let Some(built) = self.compress(rows).await else { return Vec::new() };
                if built.rows != batch.rows {
                    let left = (built.rows > 0).then(|| self.batch_of(built));
                    return self.machine.replaced(&batch.id, left);
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
        let not_before = match next {
            Next::Retry { not_before: Some(at) } => {
                let ahead = (at - self.parts.clock.signing_now()).to_std().unwrap_or_default();
                Some(self.began.elapsed() + ahead)
            }
            _ => None,
        };
        Failed { cause: error.cause, next, not_before, text: error.to_string() }
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        // First, and at once: where the rest is cut off by a stop, rows that were counted and not
        // acknowledged are known by their numbers and not counted again.
        for effect in &effects {
            if let Effect::Note(Note::Proved { batch, .. }) = effect {
                self.ledger.proved(batch, self.parts.clock.signing_now().timestamp());
                self.counted = true;
            }
        }
        for effect in effects {
            match effect {
                Effect::Save => self.save().await,
                Effect::Acknowledge(seqs) => self.parts.proof.handed_over(seqs).await,
                Effect::Release(seqs) => self.parts.queue.release(seqs).await,
                Effect::GiveUp { seq, reason } => self.give_up(seq, reason).await,
                Effect::Note(note) => self.note(note),
            }
        }
    }

    async fn give_up(&mut self, seq: u64, reason: String) {
        error!(event = "upload.given_up", seq, reason, "datum given up, see rejected.jsonl");
        self.status.given_up += 1;
        self.parts.queue.reject(seq, reason).await;
    }

    /// Without this file a restart sends a batch twice, so a disk that does not take it must not keep
    /// the queue from draining.
    async fn save(&mut self) {
        let open: Vec<Batch> = self.machine.open_batches().cloned().collect();
        self.ledger.keep_open(|id| open.iter().any(|batch| batch.id == id));
        let now = self.parts.clock.signing_now().timestamp();
        if self.ledger.fold_is_due(now) {
            self.fold(now).await;
        }
        let path = store::path(&self.parts.state_dir);
        let contents = store::Contents { open, ledger: Some(self.ledger.clone()) };
        let saved = self.write(move || store::save(&path, &contents)).await;
        match saved {
            Ok(()) => (self.unsaved_told, self.counted) = (false, false),
            Err(error) => self.tell_unsaved(&error),
        }
    }

    /// Moves what the ledger counted into the files of its days.
    async fn fold(&mut self, now: i64) {
        let (state_dir, ledger) = (self.parts.state_dir.clone(), self.ledger.clone());
        let folded = self.write(move || Ok(days::fold(&state_dir, &ledger, now))).await;
        let (left, result) =
            folded.unwrap_or_else(|error| (self.ledger.recent().clone(), Err(error)));
        self.ledger.folded(left);
        if let Err(error) = result {
            self.tell_unsaved(&error);
        }
    }

    /// Writes beside the runtime. One write is finished before another begins, also where the task is
    /// stopped meanwhile.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let writing = self.saving.clone().lock_owned().await;
        let written = spawn_blocking(move || {
            let _writing = writing;
            work()
        });
        written.await.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()))
    }

    fn tell_unsaved(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.unsaved_told, true) {
            warn!(event = "upload.state_not_saved", %error, "open batches not written down");
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Proved { batch, rows } => {
                self.status.uploaded += rows;
                self.status.last_success = Some(self.parts.clock.signing_now());
                debug!(
                    event = "upload.proved",
                    batch_id = batch,
                    datum_count = rows,
                    "batch proved"
                );
            }
            Note::Odd { batch, what } => {
                warn!(
                    event = "upload.repeated",
                    batch_id = batch,
                    reason = what,
                    "batch is sent again"
                );
            }
            Note::Refused { batch, reason } => {
                warn!(
                    event = "upload.refused",
                    batch_id = batch,
                    reason,
                    "batch refused, looking for what is wrong in it"
                );
                self.status.last_error = Some(reason);
            }
            Note::Stopped { pause: Pause::Trouble, kind, text } => {
                warn!(event = "upload.waiting", error_kind = kind, error = text, "uploads wait");
            }
            Note::Stopped { pause: Pause::Key | Pause::Person, kind, text } => {
                error!(
                    event = "upload.stopped",
                    error_kind = kind,
                    error = text,
                    "uploads stopped"
                );
                self.status.last_error = Some(text);
            }
            Note::Resumed { down } => {
                info!(event = "upload.resumed", down_secs = down.as_secs(), "uploads go on");
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
        self.status.waits_for = waits_for.map(str::to_owned);
        self.status.state = match (self.machine.needs_a_person(), &self.status.waits_for) {
            (true, _) => "stopped",
            (false, Some(_)) => "waiting",
            (false, None) => "ok",
        };
        self.parts.status.send_if_modified(|status| {
            let changed = *status != self.status;
            status.clone_from(&self.status);
            changed
        });
    }
}

#[cfg(test)]
#[path = "outage_tests.rs"]
mod outage_tests;
#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
