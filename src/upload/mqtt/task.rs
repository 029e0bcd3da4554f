//! The uploader: does what [`super::machine`] and [`super::fallback`] say.
//!
//! Asked to stop, it sends nothing more and waits a moment for the answers to what is on its way: what is
//! answered then need not be sent again after the next start.

use std::{future::pending, path::PathBuf, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    account::Account,
    fallback::{self, Fallback, Seen, Way},
    machine::{self, Answer, Aside, Effects, Machine, Message, Step},
};
use crate::{
    clock::Clock,
    config::settings,
    domain::NodeId,
    mqtt::{Handle, PublishError},
    pulse::{Bound, Pulse},
    queue::{Claimed, Queue, QueueStat},
    solarin::cbor,
    upload::{
        UploadError, UploadStatus,
        book::Book,
        bulk::{self, task::Exchange},
        proof::{self, Proof},
        retry::Pause,
        terms::{self, NO_TIME},
    },
};

/// Rows claimed at a time, and their bytes: some windows' worth, so that the queue's thread is asked seldom
/// and little is in memory.
const CLAIM_ROWS: usize = 256;
const CLAIM_BYTES: usize = 128 * 1024;

/// How long the answers to what is on its way are waited for when stopping.
const LINGER: Duration = Duration::from_secs(3);

/// What uploads wait for where there is no connection.
const NO_BROKER: &str = "there is no connection to the broker";

/// The way that rows take while the broker is silent.
pub trait Spare: Send + Sync {
    /// Sends what is in the queue until it is stopped.
    ///
    /// # Errors
    ///
    /// If it cannot begin.
    fn run(&self, stop: CancellationToken) -> impl Future<Output = Result<(), UploadError>> + Send;
}

/// One that is made when it is needed.
impl<E: Exchange, F> Spare for F
where
    F: Fn(CancellationToken) -> bulk::Uploader<E> + Send + Sync,
{
    async fn run(&self, stop: CancellationToken) -> Result<(), UploadError> {
        self(stop).run().await
    }
}

/// There is none.
impl Spare for () {
    async fn run(&self, stop: CancellationToken) -> Result<(), UploadError> {
        stop.cancelled().await;
        Ok(())
    }
}

/// Sends what is in the queue to the broker.
pub struct Uploader<S> {
    /// Whose data this is.
    pub node: NodeId,
    /// Where the ledger lives.
    pub state_dir: PathBuf,
    /// How many at a time, and when another way is taken.
    pub settings: settings::Upload,
    /// The session with the broker.
    pub broker: Handle,
    /// The other way.
    pub spare: S,
    /// Where the datum are.
    pub queue: Queue,
    /// What becomes of those that the broker took.
    pub proof: Proof,
    /// Which time it is.
    pub clock: Clock,
    /// How it stands.
    pub status: watch::Sender<UploadStatus>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends it.
    pub stop: CancellationToken,
}

impl<S: Spare> Uploader<S> {
    /// Runs until it is stopped or the queue has ended.
    ///
    /// # Errors
    ///
    /// If the file of the ledger is not ours to read.
    pub async fn run(self) -> Result<(), UploadError> {
        let began = Instant::now();
        let mut fallback = Fallback::new(self.settings.fallback_after);
        let mut machine = Machine::new(self.settings.in_flight);
        while !self.stop.is_cancelled() {
            match fallback.way() {
                Way::Mqtt => {
                    let run = Run::begin(&self, began, &mut fallback, &mut machine).await?;
                    if run.work().await.is_none() {
                        return Ok(());
                    }
                }
                Way::Https => self.take_the_other_way(began, &mut fallback).await?,
            }
        }
        Ok(())
    }

    /// Until the broker is worth a try.
    async fn take_the_other_way(
        &self,
        began: Instant,
        fallback: &mut Fallback,
    ) -> Result<(), UploadError> {
        let end = self.stop.child_token();
        let mut connected = self.broker.connected();
        let worth_a_try = async {
            loop {
                let left = fallback.next().map(|at| at.saturating_sub(began.elapsed()));
                sleep(left.unwrap_or_default()).await;
                // The session ends after the uploader.
                if connected.wait_for(|connected| *connected).await.is_err() {
                    return pending().await;
                }
                if fallback.tries(began.elapsed()) {
                    return;
                }
            }
        };
        let mut other = std::pin::pin!(self.spare.run(end.clone()));
        tokio::select! {
            done = &mut other => done,
            () = worth_a_try => {
                end.cancel();
                other.await
            }
        }
    }
}

/// One stretch of time over the broker.
struct Run<'a, S> {
    parts: &'a Uploader<S>,
    began: Instant,
    fallback: &'a mut Fallback,
    machine: &'a mut Machine,
    book: Book,
    account: Account,
    answers: JoinSet<(u64, Result<(), PublishError>)>,
    connected: watch::Receiver<bool>,
    stat: watch::Receiver<QueueStat>,
    /// The last claim found nothing, and the queue has not changed since.
    dry: bool,
    status: UploadStatus,
}

impl<'a, S: Spare> Run<'a, S> {
    async fn begin(
        parts: &'a Uploader<S>,
        began: Instant,
        fallback: &'a mut Fallback,
        machine: &'a mut Machine,
    ) -> Result<Self, UploadError> {
        let Uploader { state_dir, node, queue, proof, clock, .. } = parts;
        let (mut book, left) = Book::open(state_dir, *node, queue, proof, clock).await?;
        // What another way had sent without hearing the answer goes this way.
        for batch in left {
            book.apart(&batch);
            queue.release(batch.seqs).await;
        }
        Ok(Self {
            began,
            fallback,
            machine,
            book,
            account: Account::new(began.elapsed(), parts.settings.every),
            answers: JoinSet::new(),
            connected: parts.broker.connected(),
            stat: parts.queue.stat(),
            dry: false,
            // What was counted is counted since the daemon started.
            status: UploadStatus { state: "ok", open_jobs: 0, ..parts.status.borrow().clone() },
            parts,
        })
    }

    /// Until rows take another way (`Some`), it is stopped, or the queue has ended.
    async fn work(mut self) -> Option<()> {
        let stop = self.parts.stop.clone();
        let over = loop {
            let seen = self.look();
            match self.machine.next(self.began.elapsed(), seen) {
                Step::Claim => self.claim().await,
                Step::Send(seq, payload) => {
                    let broker = self.parts.broker.clone();
                    self.answers.spawn(async move { (seq, broker.publish(payload).await) });
                }
                Step::Wait(until) => {
                    self.judge_silence(seen);
                    self.carry_out().await;
                    if self.fallback.way() == Way::Https {
                        break Some(());
                    }
                    self.publish(seen);
                    let waited = tokio::select! {
                        biased;
                        () = stop.cancelled() => None,
                        waited = self.wait(until) => waited,
                    };
                    if waited.is_none() {
                        break None;
                    }
                    self.carry_out().await;
                }
            }
        };
        self.end().await;
        over
    }

    fn look(&mut self) -> machine::Seen {
        if self.stat.has_changed().unwrap_or(false) {
            self.dry = false;
        }
        let waiting = self.stat.borrow_and_update().waiting > 0;
        machine::Seen {
            connected: *self.connected.borrow_and_update(),
            waiting: waiting && !self.dry && self.parts.proof.has_room(),
        }
    }

    async fn claim(&mut self) {
        let Claimed { rows, cut } = self.parts.queue.claim(CLAIM_ROWS, CLAIM_BYTES).await;
        self.dry = rows.is_empty() && !cut;
        let mut encoded = Vec::with_capacity(rows.len());
        for row in rows {
            match row.datum() {
                Ok(datum) => {
                    self.account.claimed(row.seq, &datum, row.unix_ms);
                    let payload = Bytes::from(cbor::datum(&datum, row.unix_ms));
                    encoded.push(Message { seq: row.seq, source: datum.source, payload });
                }
                Err(error) => {
                    self.status.give_up(&self.parts.queue, row.seq, error.to_string()).await;
                }
            }
        }
        if self.account.must_be_written() {
            self.save().await;
        }
        self.machine.claimed(self.began.elapsed(), encoded);
    }

    async fn save(&mut self) {
        let hours = self.account.write(self.began.elapsed(), self.unix_ms());
        self.book.save_hours(hours).await;
    }

    /// When the ledger has something to write.
    fn save_at(&self) -> Option<Duration> {
        self.account.write_at(self.began.elapsed(), self.unix_ms(), self.book.has_counted())
    }

    fn unix_ms(&self) -> i64 {
        self.parts.clock.signing_now().timestamp_millis()
    }

    /// Waits for whatever may lead to another step. `None`: the queue has ended.
    async fn wait(&mut self, until: Option<Duration>) -> Option<()> {
        let now = self.began.elapsed();
        let errand = self.machine.aside_since().zip(self.parts.settings.fallback_after);
        let errand = errand.map(|(since, after)| since + after);
        let next =
            [until, self.fallback.next(), self.save_at(), errand].into_iter().flatten().min();
        let left = next.map(|at| at.saturating_sub(now));
        let _waiting =
            self.parts.pulse.enter("waiting for datum or the broker", Bound::until(left));
        let elapsed = async {
            match left {
                Some(left) => sleep(left).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(answer) = self.answers.join_next() => self.answered(answer),
            changed = self.stat.changed() => {
                changed.ok()?;
                self.dry = false;
            }
            // The session ends after the uploader.
            Ok(()) = self.connected.changed() => {}
            () = elapsed => {}
        }
        Some(())
    }

    fn answered(
        &mut self,
        answer: Result<(u64, Result<(), PublishError>), tokio::task::JoinError>,
    ) {
        self.take(answer);
        // Those that came together are acknowledged together.
        while let Some(answer) = self.answers.try_join_next() {
            self.take(answer);
        }
    }

    fn take(&mut self, answer: Result<(u64, Result<(), PublishError>), tokio::task::JoinError>) {
        let (seq, result) = match answer {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and this task with it.
                Err(_) => return,
            },
        };
        let now = self.began.elapsed();
        // What is wrong with one row says nothing of the broker.
        let (answer, seen) = match result {
            Ok(()) => (Answer::Taken, Some(Seen::Taken)),
            Err(PublishError::NotConnected) => (Answer::Unsent, Some(Seen::Useless)),
            Err(PublishError::Lost) => (Answer::Lost, Some(Seen::Useless)),
            Err(error @ PublishError::TooLong { .. }) => (Answer::TooLong(error.to_string()), None),
            Err(error @ PublishError::Unheard { .. }) => {
                (Answer::Refused(error.to_string(), Pause::Trouble), Some(Seen::Useless))
            }
            Err(error @ PublishError::Refused { .. }) => {
                (Answer::Refused(error.to_string(), Pause::Person), Some(Seen::Useless))
            }
        };
        self.machine.answered(now, fastrand::f64(), seq, answer);
        let note = seen.and_then(|seen| self.fallback.saw(now, seen));
        self.tell_way(note);
    }

    /// Rows that wait for nothing but the broker make its silence count.
    fn judge_silence(&mut self, seen: machine::Seen) {
        let waits = self.stat.borrow().waiting > 0 && self.parts.proof.has_room();
        // Without a certificate the other way is none either.
        let owing = (self.machine.has_rows() || (waits && !self.dry))
            && !self.parts.broker.lacks_certificate();
        let now = self.began.elapsed();
        let note = match (owing, seen.connected) {
            (true, true) => self.fallback.saw(now, Seen::Owing),
            (true, false) => self.fallback.saw(now, Seen::Useless),
            (false, _) => self.fallback.saw(now, Seen::Idle),
        };
        self.tell_way(note);
        if let Some(since) = self.machine.aside_since() {
            self.fallback.errand(now, since);
        }
    }

    async fn carry_out(&mut self) {
        let Effects { handed_over, released, aside, notes } = self.machine.effects();
        if !handed_over.is_empty() {
            self.status.uploaded += handed_over.count();
            self.status.last_success = Some(self.parts.clock.signing_now());
            // Before anything else: rows that were counted and not acknowledged are known by their numbers.
            let (plain, twins) = self.account.taken(&handed_over, self.book.counted());
            for (counted, twin) in [(plain, false), (twins, true)] {
                if !counted.seqs.is_empty() {
                    self.book.proved_rows(counted.seqs, counted.tallies, twin);
                }
            }
            self.parts.proof.handed_over(handed_over).await;
        }
        self.account.released(&aside);
        if !released.is_empty() {
            self.account.released(&released);
            self.parts.queue.release(released).await;
        }
        for note in notes {
            match note {
                machine::Note::Stopped(pause, text) => {
                    let kind = if pause == Pause::Trouble { "unheard" } else { "refused" };
                    let now = self.parts.clock.signing_now();
                    terms::Note::Stopped { pause, kind, text }.tell(&mut self.status, now);
                }
                machine::Note::Aside(why, reason) => {
                    error!(
                        event = "upload.aside",
                        error_kind = match why {
                            Aside::TooLong => "too_long",
                            Aside::CutOff => "cut_off",
                        },
                        error = reason,
                        "datum that the broker does not take are kept"
                    );
                    self.status.last_error = Some(reason);
                }
                machine::Note::Resumed { down } => {
                    let now = self.parts.clock.signing_now();
                    terms::Note::Resumed { down }.tell(&mut self.status, now);
                }
            }
        }
        if self.save_at().is_some_and(|at| at <= self.began.elapsed()) {
            self.save().await;
        }
    }

    fn tell_way(&self, note: Option<fallback::Note>) {
        match note {
            None => {}
            Some(fallback::Note::Left) => {
                let silent = self.parts.settings.fallback_after.unwrap_or_default();
                warn!(
                    event = "upload.fallback",
                    silent_secs = silent.as_secs(),
                    "the broker is silent, datum go over HTTPS"
                );
            }
            Some(fallback::Note::Back { away }) => {
                info!(
                    event = "upload.fallback_over",
                    away_secs = away.as_secs(),
                    "datum go over the broker again"
                );
            }
        }
    }

    /// Waits a moment for what is on its way.
    async fn end(&mut self) {
        if *self.connected.borrow() {
            let _waiting =
                self.parts.pulse.enter("waiting for the last answers", Bound::Within(LINGER));
            let last = async {
                while let Some(answer) = self.answers.join_next().await {
                    self.take(answer);
                }
            };
            // What is not answered until then is sent again.
            drop(timeout(LINGER, last).await);
        }
        self.carry_out().await;
        self.machine.leave();
        self.book.close(Vec::new()).await;
        let connected = *self.connected.borrow();
        self.publish(machine::Seen { connected, waiting: false });
    }

    fn publish(&mut self, seen: machine::Seen) {
        let stat = *self.stat.borrow();
        let unplaced = stat.unplaced > 0 && self.parts.clock.trusted_now().is_none();
        let refused = self.machine.refused();
        let waits_for = if let Some((_, reason)) = refused {
            Some(reason)
        } else if !seen.connected {
            Some(NO_BROKER)
        } else if !self.parts.proof.has_room() {
            Some(proof::NO_ROOM)
        } else {
            unplaced.then_some(NO_TIME)
        };
        let needs_a_person = refused.is_some_and(|(pause, _)| pause != Pause::Trouble);
        self.status.publish(needs_a_person, waits_for, &self.parts.status);
    }
}
