//! Datum on their way to disk: appended, committed, and kept in memory until then, as a handle of the spool that
//! fails takes with it what it had not committed.
//!
//! A full disk is tried again by committing, a failed one by opening the spool anew and appending once more; ever
//! more rarely. Other settings are a reason to open it anew, too.

use std::time::Duration;

use spool::{Options, Spool};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{AT_ITS_BEST, Worker};
use crate::{
    config::settings,
    domain::{Chain, Datum},
    queue::{StoreError, record},
};

/// Uncommitted records that force a commit before it is due: they are in memory twice.
pub(super) const MAX_PENDING: usize = 4096;
const MAX_PENDING_BYTES: usize = 512 * 1024;

/// In place of a sequence number for what arrived while there was no handle to give one.
const NO_NUMBER: u64 = u64::MAX;

/// Between two attempts on a full or failed disk: the first, and the longest. An attempt on a full one may write
/// what is left of it before it fails, which must not wear a card out.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));

/// Between two spare segments that are prepared in the background.
pub(super) const PREPARE_EVERY: Duration = Duration::from_secs(1);

/// Between two attempts to prepare where there is nothing to do or no room.
const PREPARE_REST: Duration = Duration::from_secs(60);

/// Why the spool is opened anew.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reopen {
    Failed,
    Adjusted,
}

impl Worker {
    pub(super) fn append(&mut self, datum: &Datum) -> Result<(), StoreError> {
        if datum.samples.is_empty() {
            return Err(StoreError::NoSamples);
        }
        let payload = record::encode(datum);
        let bytes = payload.len();
        if bytes > record::MAX_BYTES.min(self.options.max_payload()) {
            return Err(StoreError::TooLarge { bytes });
        }
        self.append_payload(payload)
    }

    fn append_payload(&mut self, payload: Vec<u8>) -> Result<(), StoreError> {
        let Some(spool) = &mut self.spool else {
            if self.memory_is_full() {
                return Err(StoreError::Failed { reason: "it is being opened again".to_owned() });
            }
            self.keep(NO_NUMBER, payload);
            return Ok(());
        };
        let mut appended = spool.append(&payload);
        if let Err(spool::Error::Uncommitted { .. }) = appended {
            self.commit(false);
            if let Some(spool) = &mut self.spool {
                appended = spool.append(&payload);
            }
        }
        match appended {
            Ok(seq) => {
                self.keep(seq, payload);
                let due = Instant::now() + self.at_risk - self.gather();
                self.commit_due.get_or_insert(due);
                Ok(())
            }
            Err(error) => {
                // Under a lower limit it may not fit any more; to keep it would fail every attempt.
                let fits = !matches!(error, spool::Error::TooLarge { .. });
                let error = self.failed(error);
                if self.spool.is_some() || !fits {
                    return Err(error);
                }
                self.keep(NO_NUMBER, payload);
                Ok(())
            }
        }
    }

    /// Keeps what a failed handle would lose.
    fn keep(&mut self, seq: u64, payload: Vec<u8>) {
        self.uncommitted_bytes += payload.len();
        self.uncommitted.push_back((seq, payload));
    }

    /// Whether no more may be kept uncommitted.
    pub(super) fn memory_is_full(&self) -> bool {
        self.uncommitted.len() >= MAX_PENDING || self.uncommitted_bytes >= MAX_PENDING_BYTES
    }

    /// Commits; `all` writes acknowledgements even where there is no record to write.
    pub(super) fn commit(&mut self, all: bool) {
        let note = self.clock.trusted_now().and_then(|now| now.timestamp_millis().try_into().ok());
        let _committing = self.pulse.enter("committing to the disk", AT_ITS_BEST);
        let Some(spool) = &mut self.spool else { return };
        spool.set_note(note.unwrap_or(0));
        let result = if all { spool.sync() } else { spool.commit() };
        let durable = spool.stat().durable;
        self.forget(|seq| seq <= durable);
        match result {
            Ok(commit) => {
                self.commit_due = None;
                self.retry_due = None;
                self.again = AGAIN.0;
                if commit.written > 0 {
                    debug!(
                        event = "queue.committed",
                        bytes = commit.written,
                        durable,
                        "datum committed"
                    );
                }
                // Without a record to ride along with, acknowledgements are written by a sync only.
                if all || commit.written > 0 {
                    self.acknowledged_due = None;
                }
                self.durably.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
                if std::mem::take(&mut self.refusing) {
                    info!(event = "queue.room", refused = self.refused, "queue stores again");
                }
            }
            Err(error) => {
                let error = self.failed(error);
                if !self.refusing {
                    self.refusing = true;
                    error!(event = "queue.refused", %error, "queue cannot store");
                }
                for reply in self.durably.drain(..) {
                    drop(reply.send(Err(error.clone())));
                }
            }
        }
    }

    /// Drops what a failed handle would not lose any more.
    pub(super) fn forget(&mut self, safe: impl Fn(u64) -> bool) {
        let bytes = &mut self.uncommitted_bytes;
        self.uncommitted.retain(|(seq, payload)| {
            let keep = !safe(*seq);
            if !keep {
                *bytes -= payload.len();
            }
            keep
        });
    }

    /// Draws the consequence of an error of the spool: it is tried again, or opened again.
    pub(super) fn failed(&mut self, error: spool::Error) -> StoreError {
        if self.retry_due.is_none() {
            self.retry_due = Some(Instant::now() + self.again);
            self.again = (self.again * 2).min(AGAIN.1);
        }
        match error {
            spool::Error::Full => StoreError::Full,
            error => {
                let reason = Chain(&error).to_string();
                // What is on disk is unknown now. The lock is given back with it.
                self.spool = None;
                StoreError::Failed { reason }
            }
        }
    }

    pub(super) fn refuse(&mut self, error: &StoreError) {
        self.refused += 1;
        if !std::mem::replace(&mut self.refusing, true) {
            error!(event = "queue.refused", %error, "queue cannot store");
        }
    }

    /// Other settings: the length of segments follows from the limit, so another limit means to open
    /// the spool anew.
    pub(super) fn adjust(&mut self, settings: &settings::Queue) {
        self.at_risk = settings.at_risk;
        let soonest = Instant::now() + self.at_risk;
        self.commit_due = self.commit_due.map(|due| due.min(soonest));
        let options = Options::new(settings.limit_bytes);
        if std::mem::replace(&mut self.options, options) == options {
            return;
        }
        self.commit(true);
        // Of one that failed meanwhile, the next attempt takes the new limit.
        if let Some(spool) = self.spool.take() {
            match spool.close() {
                Ok(()) => self.reopen(Reopen::Adjusted),
                Err(error) => drop(self.failed(error)),
            }
        }
    }

    /// Opens the spool anew and appends what was not committed once more.
    pub(super) fn reopen(&mut self, because: Reopen) {
        let _opening = self.pulse.enter("opening the queue's files", AT_ITS_BEST);
        match Spool::open(&self.folder, self.options) {
            Ok((spool, _)) => {
                let next = spool.stat().next;
                self.spool = Some(spool);
                // Acknowledgements that were not written are forgotten, and so are the numbers of
                // what was not committed: everything that nobody has claimed is looked at again.
                self.scanned_to = 0;
                self.unplaced.clear();
                self.prepare_due = Instant::now() + PREPARE_EVERY;
                let again = std::mem::take(&mut self.uncommitted);
                self.uncommitted_bytes = 0;
                match because {
                    Reopen::Failed => warn!(
                        event = "queue.reopened",
                        uncommitted = again.len(),
                        next,
                        "queue opened again after a failure"
                    ),
                    Reopen::Adjusted => debug!(next, "queue opened with other settings"),
                }
                for (_, payload) in again {
                    if let Err(error) = self.append_payload(payload) {
                        self.refuse(&error);
                    }
                }
                self.commit(false);
            }
            Err(error) => {
                let error = self.failed(error);
                self.durably.drain(..).for_each(|reply| drop(reply.send(Err(error.clone()))));
            }
        }
    }

    pub(super) fn prepare(&mut self, now: Instant) {
        self.prepare_due = now + PREPARE_REST;
        let _preparing = self.pulse.enter("preparing a segment on the disk", AT_ITS_BEST);
        let Some(spool) = &mut self.spool else { return };
        match spool.prepare() {
            Ok(true) => self.prepare_due = now + PREPARE_EVERY,
            Ok(false) | Err(spool::Error::Full) => {}
            Err(error) => drop(self.failed(error)),
        }
    }
}
