//! What an uploader has on disk: `upload.json`, with the rows that may be on their way and the ledger of what
//! was proved ([`crate::audit`]).
//!
//! It is written before rows are sent for the first time. After a crash the ledger then knows which rows may
//! have been accepted without being counted, and marks their hours; nothing is lost or sent again for want of it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Mutex;
use tracing::warn;

use super::{proof::Proof, store, terms::Batch};
use crate::{
    audit::{Ledger, days, tally::Tallies},
    clock::Clock,
    domain::NodeId,
    queue::{Queue, Ranges},
    runtime::off_thread,
};

/// Why an uploader could not begin.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The list of open batches is there and cannot be read.
    #[error("could not read {}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    state_dir: PathBuf,
    clock: Clock,
    ledger: Ledger,
    /// Whether something was counted that is not on disk.
    counted: bool,
    unsaved_told: bool,
    /// Held while the file is written.
    saving: Arc<Mutex<()>>,
}

impl Book {
    /// Reads what the last run left, and claims those rows of its open batches that still wait.
    ///
    /// # Errors
    ///
    /// If the file is not ours to read.
    pub(super) async fn open(
        state_dir: &Path,
        node: NodeId,
        queue: &Queue,
        proof: &Proof,
        clock: &Clock,
    ) -> Result<(Self, Vec<Batch>), UploadError> {
        let path = store::path(state_dir);
        let unreadable = |source| UploadError::State { path: path.clone(), source };
        // Beside the runtime, as it is read whenever another way is taken, also from a slow card.
        let reading = off_thread({
            let state_dir = state_dir.to_owned();
            move || read(&state_dir, node)
        });
        let (open, mut ledger) = reading.await.map_err(unreadable)?;
        let now = clock.signing_now().timestamp();
        ledger.forget_rows_after(queue.stat().borrow().durable_up_to);
        let mut accepted = ledger.counted().clone();
        open.iter().for_each(|batch| accepted.subtract(&batch.seqs));
        proof.begin(accepted).await;
        let mut claimed = Vec::new();
        for mut batch in open {
            // Without rows it stands for some that are not in it ([`Book::save_hours`]).
            let rows = batch.seqs.count().max(1);
            batch.seqs = queue.claim_exactly(batch.seqs).await;
            if batch.seqs.count() < rows {
                ledger.left_the_queue(&batch.id, batch.seqs.is_empty(), now);
            }
            if !batch.seqs.is_empty() {
                claimed.push(batch);
            }
        }
        let book = Self {
            state_dir: state_dir.to_owned(),
            clock: clock.clone(),
            ledger,
            counted: false,
            unsaved_told: false,
            saving: Arc::default(),
        };
        Ok((book, claimed))
    }

    /// A batch was made of these rows.
    pub(super) fn opened(&mut self, batch: &Batch, tallies: Tallies) {
        self.ledger.opened(&batch.id, batch.seqs.clone(), tallies, batch.twin);
    }

    /// A whole batch is proved.
    pub(super) fn proved(&mut self, id: &str) {
        self.ledger.proved(id, self.clock.signing_now().timestamp());
        self.counted = true;
    }

    /// These rows are proved, whichever batch they were of.
    pub(super) fn proved_rows(&mut self, seqs: Ranges, tallies: Tallies, twin: bool) {
        const NOW: &str = "";
        self.ledger.opened(NOW, seqs, tallies, twin);
        self.proved(NOW);
    }

    /// The numbers of the rows that were counted last.
    pub(super) fn counted(&self) -> &Ranges {
        self.ledger.counted()
    }

    /// Whether something was counted that is not on disk.
    pub(super) fn has_counted(&self) -> bool {
        self.counted
    }

    /// As [`Book::save`], where rows come and go one by one: any number of rows of these hours may be on
    /// their way until the next time. Whoever opens the book after a crash marks them.
    pub(super) async fn save_hours(&mut self, hours: Tallies) {
        const HOURS: &str = "hours";
        let mut open = Vec::new();
        if !hours.is_empty() {
            let batch = Batch::new(HOURS.to_owned(), Ranges::default(), true);
            self.opened(&batch, hours);
            open.push(batch);
        }
        self.save(open).await;
    }

    /// The rows of a batch that was open will be counted one by one. Where some are not in the queue any more, they
    /// were accepted in a former life, as far as anybody knows.
    pub(super) fn apart(&mut self, batch: &Batch) {
        if batch.seqs.count() < batch.rows {
            self.ledger.left_the_queue(&batch.id, true, self.clock.signing_now().timestamp());
        }
    }

    /// Without this file a restart sends rows twice, so a disk that does not take it must not keep
    /// the queue from draining.
    pub(super) async fn save(&mut self, open: Vec<Batch>) {
        self.ledger.keep_open(|id| open.iter().any(|batch| batch.id == id));
        let now = self.clock.signing_now().timestamp();
        if self.ledger.fold_is_due(now) {
            self.fold().await;
        }
        let path = store::path(&self.state_dir);
        let contents = store::Contents { open, ledger: Some(self.ledger.clone()) };
        let saved = self.write(move || store::save(&path, &contents)).await;
        match saved {
            Ok(()) => (self.unsaved_told, self.counted) = (false, false),
            Err(error) => self.tell_unsaved(&error),
        }
    }

    /// At the end of a run: waits for a write that is under way, and writes what was counted since, or that
    /// nothing is on its way any more.
    pub(super) async fn close(&mut self, open: Vec<Batch>) {
        drop(self.saving.clone().lock_owned().await);
        let ended = open.is_empty() && self.ledger.on_its_way().next().is_some();
        if self.counted || ended {
            self.save(open).await;
        }
    }

    /// Moves what the ledger counted into the files of its days.
    async fn fold(&mut self) {
        let (state_dir, ledger) = (self.state_dir.clone(), self.ledger.clone());
        let (left, result) = self.write(move || days::fold(&state_dir, &ledger)).await;
        self.ledger.folded(left);
        if let Err(error) = result {
            self.tell_unsaved(&error);
        }
    }

    /// Writes beside the runtime. One write is finished before another begins, also where the task is
    /// stopped meanwhile.
    async fn write<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let writing = self.saving.clone().lock_owned().await;
        off_thread(move || {
            let _writing = writing;
            work()
        })
        .await
    }

    fn tell_unsaved(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.unsaved_told, true) {
            warn!(event = "upload.state_not_saved", %error, "open batches not written down");
        }
    }
}

/// The open batches and the ledger. A file that is damaged is told and forgotten.
fn read(state_dir: &Path, node: NodeId) -> io::Result<(Vec<Batch>, Ledger)> {
    let path = store::path(state_dir);
    let (contents, first) = match store::load(&path) {
        Ok(contents) => {
            let first = contents.is_none();
            (contents.unwrap_or_default(), first)
        }
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => return Err(source),
        Err(error) => {
            warn!(event = "upload.state_unreadable", path = %path.display(), %error, "open batches forgotten, they are sent again");
            (store::Contents::default(), false)
        }
    };
    let ledger = days::resume(state_dir, node.number(), contents.ledger, first)?;
    Ok((contents.open, ledger))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        audit::tally::{self, Content},
        config::settings,
        domain::{Datum, Samples, Stamp},
    };

    const HOUR: i64 = 5;

    fn tallies(rows: i64) -> Tallies {
        let mut tallies = Tallies::new();
        let times = (0..rows).map(|row| HOUR * tally::HOUR_MS + row);
        times.for_each(|ms| tally::add(&mut tallies, "/m", ms, &Content::default()));
        tallies
    }

    #[tokio::test]
    async fn only_a_batch_that_lost_rows_makes_its_hour_uncertain_when_another_way_takes_it() {
        let (dir, clock) = (tempfile::tempdir().expect("a folder"), Clock::system());
        let settings = settings::Queue { limit_bytes: 1 << 20, at_risk: Duration::from_secs(1) };
        let (_, readings) = mpsc::channel(1);
        let (queue, worker) =
            Queue::open(dir.path(), &settings, clock.clone(), readings).expect("a queue");
        let stop = CancellationToken::new();
        let worker = tokio::spawn(worker.run(stop.clone()));
        for unix_ms in 1..=3 {
            let status = vec![("state".to_owned(), "on".to_owned())];
            let samples = Samples { status, ..Samples::default() };
            let (source, stamp) = ("/m".parse().expect("a source"), Stamp::Wall { unix_ms });
            queue.store_durably(Datum { source, stamp, samples }).await.expect("room");
        }
        let (node, proof) = (123.try_into().expect("a node"), Proof::at_once(queue.clone()));
        for (rows, uncertain) in [(3, false), (4, true)] {
            let batch = Batch::new("1f".to_owned(), (1..=rows).collect(), false);
            let mut ledger = Ledger::new(123, 1, true);
            ledger.opened(&batch.id, batch.seqs.clone(), tallies(rows as i64), false);
            let contents = store::Contents { open: vec![batch], ledger: Some(ledger) };
            store::save(&store::path(dir.path()), &contents).expect("written");

            let opened = Book::open(dir.path(), node, &queue, &proof, &clock).await;
            let (mut book, left) = opened.expect("a book");
            book.apart(&left[0]);
            book.proved_rows(left[0].seqs.clone(), tallies(3), false);
            let entry = book.ledger.recent()["/m"][&HOUR];
            assert_eq!((entry.tally.count, entry.uncertain), (3, uncertain), "of {rows}");
        }
        stop.cancel();
        worker.await.expect("no panic").expect("a clean end");
    }
}
