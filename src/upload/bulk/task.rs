//! The uploader: does what [`super::machine`] says.
//!
//! It stops at once when asked, in the middle of a request if need be: what it sent without hearing the
//! answer is still in the queue. Only a write of the ledger is finished first.

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
        terms::{Batch as Lot, Limits, NO_TIME, Waiting},
    },
    batch::{self, Batch, MAX_BYTES, MAX_ROWS},
    machine::{Effect, Failed, Machine, Sent, Step},
};
use crate::{
    audit::tally::Tallies,
    clock::Clock,
    config::settings,
    domain::NodeId,
    pulse::{Bound, Pulse},
    queue::{Claimed, Queue, QueueStat, Ranges},
    runtime,
    solarin::{Exchanged, InError, Item, SolarIn},
};

/// Rows claimed at a time, with one write of the ledger: ten requests' worth.
const CLAIM_ROWS: usize = 10 * MAX_ROWS;

/// Payload claimed at a time.
const CLAIM_BYTES: usize = 10 * MAX_BYTES;

/// Whoever carries out exchanges: [`SolarIn`] in the daemon, a fake with behaviour in tests.
pub trait Exchange: Send + Sync {
    /// Says all of it and hears what the server has to say.
    fn exchange(
        &self,
        items: &[Item<'_>],
    ) -> impl Future<Output = Result<Exchanged, InError>> + Send;
}

impl Exchange for SolarIn {
    async fn exchange(&self, items: &[Item<'_>]) -> Result<Exchanged, InError> {
        Self::exchange(self, items).await
    }
}

/// Sends what is in the queue; nobody else does at the same time.
pub struct Uploader<E> {
    /// Whose data this is.
    pub node: NodeId,
    /// How often.
    pub settings: settings::Upload,
    /// Where the ledger lives.
    pub state_dir: PathBuf,
    /// Who carries out the exchanges.
    pub solarin: E,
    /// Where the datum are.
    pub queue: Queue,
    /// What becomes of rows that the server took.
    pub proof: Proof,
    /// Which time it is.
    pub clock: Clock,
    /// Changes whenever another certificate is in use.
    pub identity_changed: watch::Receiver<u64>,
    /// How it stands.
    pub status: watch::Sender<UploadStatus>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends it.
    pub stop: CancellationToken,
}

impl<E: Exchange> Uploader<E> {
    /// Runs until it is stopped or the queue has ended.
    ///
    /// # Errors
    ///
    /// If the file of the ledger is not ours to read.
    pub async fn run(self) -> Result<(), UploadError> {
        let stop = self.stop.clone();
        let mut run = Run::begin(self).await?;
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = run.work() => {}
        }
        run.book.close(run.lots).await;
        Ok(())
    }
}

struct Run<E> {
    parts: Uploader<E>,
    machine: Machine,
    began: Instant,
    stat: watch::Receiver<QueueStat>,
    /// Since when rows have been waiting.
    waiting_since: Option<Duration>,
    book: Book,
    /// What was claimed and is not settled, for the ledger.
    lots: Vec<Lot>,
    status: UploadStatus,
}

impl<E: Exchange> Run<E> {
    async fn begin(parts: Uploader<E>) -> Result<Self, UploadError> {
        let (mut book, lots) =
            Book::open(&parts.state_dir, parts.node, &parts.queue, &parts.proof, &parts.clock)
                .await?;
        let mut claimed = Ranges::default();
        for lot in &lots {
            claimed.extend(&lot.seqs);
            book.apart(lot);
        }
        let limits = Limits { every: parts.settings.every, enough: MAX_ROWS as u64 };
        let stat = parts.queue.stat();
        let backlog = stat.borrow().waiting > 0;
        // What was counted is counted since the daemon started.
        let status = UploadStatus { state: "ok", open_jobs: 0, ..parts.status.borrow().clone() };
        Ok(Self {
            stat,
            machine: Machine::new(limits, claimed, backlog),
            began: Instant::now(),
            waiting_since: None,
            book,
            lots,
            status,
            parts,
        })
    }

    async fn work(&mut self) {
        loop {
            let now = self.began.elapsed();
            let waiting = self.waiting(now);
            self.machine.set_timeless(self.is_timeless());
            let (effects, step) = self.machine.next(now, fastrand::f64(), waiting);
            self.apply(effects).await;
            match step {
                Step::Claim => self.claim().await,
                Step::Split(seqs) => self.split(seqs).await,
                Step::Send(seqs) => self.send(seqs).await,
                Step::Ask => self.ask().await,
                Step::Wait(until) => {
                    self.publish();
                    if self.wait(until).await.is_none() {
                        return;
                    }
                }
            }
            self.publish();
        }
    }

    /// Waits for time, rows or a certificate. `None`: the queue has ended, so there is nothing left to do.
    async fn wait(&mut self, until: Option<Duration>) -> Option<()> {
        let left = until.map(|until| until.saturating_sub(self.began.elapsed()));
        let bound = Bound::until(left);
        let _waiting = self.parts.pulse.enter("waiting for datum, time or a certificate", bound);
        let deadline = until.map(|until| self.began + until);
        tokio::select! {
            () = runtime::until(deadline) => Some(()),
            changed = self.stat.changed() => changed.ok(),
            // Without a sender there will never be another certificate.
            Ok(()) = self.parts.identity_changed.changed() => {
                self.machine.identity_changed(self.began.elapsed());
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

    async fn claim(&mut self) {
        let Claimed { rows, cut } = self.parts.queue.claim(CLAIM_ROWS, CLAIM_BYTES).await;
        self.waiting_since = None;
        let seqs: Ranges = rows.iter().map(|row| row.seq).collect();
        let bytes: usize = rows.iter().map(|row| row.payload.len()).sum();
        let backlog = cut || rows.len() >= CLAIM_ROWS || bytes >= CLAIM_BYTES / 2;
        if !rows.is_empty() {
            let id = format!("{:016x}", fastrand::u64(..));
            // Twins are noted with the rows that turn out to have one.
            let lot = Lot::new(id, seqs.clone(), false);
            self.book.opened(&lot, batch::tallies(&rows));
            self.lots.push(lot);
            self.book.save(self.lots.clone()).await;
        }
        self.machine.claimed(self.began.elapsed(), &seqs, backlog);
    }

    async fn split(&mut self, seqs: Ranges) {
        let rows = self.parts.queue.read(seqs).await;
        self.machine.split(quarrel::by_source(&rows));
    }

    async fn send(&mut self, seqs: Ranges) {
        let rows = self.parts.queue.read(seqs.clone()).await;
        let batch = Batch::of(&rows);
        let mut gone = seqs;
        rows.iter().for_each(|row| gone.remove(row.seq..=row.seq));
        for (seq, reason) in &batch.unsendable {
            gone.insert(*seq..=*seq);
            self.status.give_up(&self.parts.queue, *seq, reason.clone()).await;
        }
        self.settle(&gone);
        let sent = Sent { seqs: batch.seqs(), gone, twin: batch.twin };
        let (result, tallies) = if sent.seqs.is_empty() {
            (Ok(Ranges::default()), Tallies::new())
        } else {
            let datum_count = sent.seqs.count();
            debug!(event = "upload.sent", datum_count, "batch sent");
            match self.parts.solarin.exchange(&batch.items()).await {
                Ok(exchanged) => {
                    let (named, tallies) = batch.named(&exchanged.stored);
                    (Ok(named), tallies)
                }
                Err(error) => (Err(self.failed(&error)), Tallies::new()),
            }
        };
        if let Ok(named) = &result
            && !named.is_empty()
        {
            // Before anything else: where a stop cuts off the rest, rows that were counted and not
            // acknowledged are known by their numbers and not counted again.
            self.book.proved_rows(named.clone(), tallies, sent.twin);
        }
        let now = self.began.elapsed();
        let effects = self.machine.sent(now, fastrand::f64(), sent, result);
        self.apply(effects).await;
    }

    /// Nothing is said; every answer teaches the clock.
    async fn ask(&mut self) {
        let result = match self.parts.solarin.exchange(&[]).await {
            Ok(_) => Ok(!self.is_timeless()),
            Err(error) => Err(self.failed(&error)),
        };
        let effects = self.machine.asked(self.began.elapsed(), fastrand::f64(), result);
        self.apply(effects).await;
    }

    /// Whether readings wait that have no time, and get none before a server was heard. They are not claimed.
    fn is_timeless(&self) -> bool {
        self.stat.borrow().unplaced > 0 && self.parts.clock.trusted_now().is_none()
    }

    fn failed(&mut self, error: &InError) -> Failed {
        let next = error.next();
        let now = self.parts.clock.signing_now();
        let not_before = retry::not_before(next, now, self.began.elapsed());
        let text = error.to_string();
        self.status.last_error = Some(text.clone());
        Failed { kind: error.cause.name(), next, not_before, text }
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Acknowledge(seqs) => {
                    self.settle(&seqs);
                    self.parts.proof.handed_over(seqs).await;
                }
                Effect::GiveUp { seq, reason } => {
                    self.settle(&Ranges::from_iter([seq]));
                    self.status.give_up(&self.parts.queue, seq, reason).await;
                }
                Effect::Note(note) => {
                    note.tell(&mut self.status, self.parts.clock.signing_now());
                }
            }
        }
    }

    /// These rows are on their way no more.
    fn settle(&mut self, seqs: &Ranges) {
        for lot in &mut self.lots {
            lot.seqs.subtract(seqs);
            lot.rows = lot.seqs.count();
        }
        self.lots.retain(|lot| !lot.seqs.is_empty());
    }

    fn publish(&mut self) {
        let timeless = || self.is_timeless().then_some(NO_TIME);
        let no_room = || (!self.parts.proof.has_room()).then_some(proof::NO_ROOM);
        let waits_for = self.machine.waits_for().or_else(timeless).or_else(no_room);
        self.status.publish(self.machine.needs_a_person(), waits_for, &self.parts.status);
    }
}
