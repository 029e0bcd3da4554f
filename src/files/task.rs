//! The daemon's part: files that appear in the configured folders are uploaded, each content once.
//!
//! Files stay where they are until they are done with, so they are their own queue: nothing is copied, nothing
//! is lost by a restart, and the card is spared. What has to survive is in the journal, in this order:
//!
//! ```text
//!  Sending (synced) ─▶ the upload ─▶ Stored (synced) ─▶ datum committed ─▶ Told
//!                                                    └▶ file deleted, or noted as done
//! ```
//!
//! After a crash between the first two, it is not known whether the content arrived. A public file is looked up
//! by name and hash first, where the token may do that; otherwise it is sent again, which the second
//! generation of the server answers with the entry that is there.
//!
//! One file is under way at a time. A file that cannot be accepted stays where it is and is noted with the
//! reason; it is tried again when it changes, or when the token or the folder's settings do.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    answer::{Cause, Next},
    client::{CallError, Kept, Outbound, Repository, address},
    content::{self, Fingerprint, UntilStopped, Verified},
    journal::{Journal, JournalError, Shared, lock, note, of_daemon},
    ledger::{Fate, Line, Noted, Sending, Stored},
    name::request_name,
    rules::{Obstacle, Restrictions, mime_names},
    status::{State, Status},
    trouble::Trouble,
    watch::{Found, Scan, scan},
    watched::Watched,
};
use crate::{
    clock::Clock,
    config::settings::{After, FileFolder, RepositorySettings},
    credential::{RepositoryCredential, Store},
    domain::{Chain, Datum, Samples},
    net::{Net, SendError},
    pulse::{Bound, Pulse},
    runtime::off_thread,
};

/// How long a journal that cannot be opened is left alone.
const JOURNAL_AGAIN: Duration = Duration::from_secs(60);

/// Why a datum is not committed.
#[derive(Debug, thiserror::Error)]
#[error("the datum with a file's address could not be stored: {0}")]
pub struct NotTold(pub String);

/// Takes the datum that carry the addresses of files.
pub trait Reports: Send + Sync {
    /// Returns once the datum is committed. The same datum may come again after a crash.
    fn tell(&self, datum: Datum) -> impl Future<Output = Result<(), NotTold>> + Send;
}

/// The task and its parts.
pub struct FileUploader<R> {
    /// The repository.
    pub repository: RepositorySettings,
    /// What is watched.
    pub folders: Vec<FileFolder>,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// Where the token is.
    pub store: Store,
    /// The HTTPS client.
    pub net: Net,
    /// For stamps, and the token's end.
    pub clock: Clock,
    /// Where datum go.
    pub reports: R,
    /// Published.
    pub status: watch::Sender<Status>,
    /// What the task does, for the watchdog.
    pub pulse: Pulse,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// The token in use, ready to be used.
struct Ready {
    repository: Repository,
    known: Option<Restrictions>,
}

/// One file that is under way.
struct Job<'a> {
    settings: &'a FileFolder,
    file: &'a Found,
    ready: &'a Ready,
    journal: &'a Shared,
}

/// Why a file is not done with yet.
enum Stuck {
    /// It is being written; it has to settle again.
    Changing,
    /// It is left where it is.
    Aside(String),
    /// The server, the network or the disk is in trouble.
    Retry(String),
    /// A person has to act.
    Stop(String),
    /// The daemon stops.
    Ended,
}

impl From<JournalError> for Stuck {
    fn from(error: JournalError) -> Self {
        Self::Retry(Chain(&error).to_string())
    }
}

impl<R: Reports> FileUploader<R> {
    /// Runs until it is told to stop. An upload under way is abandoned then, and looked after at the
    /// next start.
    pub async fn run(self) {
        let begun = Instant::now();
        let mut folders: Vec<Watched> = self.folders.iter().cloned().map(Watched::new).collect();
        let Some(journal) = self.open(&mut folders, begun).await else { return };
        loop {
            self.tell_all(&journal).await;
            for folder in &mut folders {
                if folder.due <= begun.elapsed() && !self.stop.is_cancelled() {
                    self.visit(folder, &journal, begun).await;
                    folder.due = begun.elapsed() + folder.settings.every;
                }
            }
            self.publish(&folders);
            let next = folders.iter().map(|folder| folder.due).min().unwrap_or(Duration::MAX);
            let left = next.saturating_sub(begun.elapsed());
            let _waiting = self.pulse.enter("waiting for the next look", Bound::Within(left));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// The journal, as soon as it can be opened; `None` if the daemon stops before that.
    async fn open(&self, folders: &mut [Watched], begun: Instant) -> Option<Shared> {
        let path = of_daemon(&self.state_dir);
        loop {
            let path = path.clone();
            match off_thread(move || Journal::open(path)).await {
                Ok((journal, damaged)) => {
                    if damaged > 0 {
                        warn!(
                            event = "files.journal_damaged",
                            count = damaged,
                            "damaged lines of the journal of files dropped"
                        );
                    }
                    return Some(Arc::new(Mutex::new(journal)));
                }
                Err(error) => {
                    let reason = Chain(&error).to_string();
                    for folder in &mut *folders {
                        folder.fail(State::Stopped, reason.clone(), begun.elapsed());
                    }
                    self.publish(folders);
                }
            }
            let _waiting =
                self.pulse.enter("waiting for the journal", Bound::Within(JOURNAL_AGAIN));
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(JOURNAL_AGAIN) => {}
            }
        }
    }

    /// Publishes all folders.
    fn publish(&self, folders: &[Watched]) {
        self.status.send_modify(|status| {
            status.token = self.repository.token.to_string();
            status.folders = folders.iter().map(|folder| folder.status.clone()).collect();
        });
    }

    /// One look at a folder, and everything that can be done about it now.
    async fn visit(&self, folder: &mut Watched, journal: &Shared, begun: Instant) {
        let found = match self.look(&folder.settings).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let reason = format!("the folder cannot be read: {error}");
                return folder.fail_here(reason, begun.elapsed());
            }
            Err(_) => return,
        };
        folder.say_more(&found);
        let ready = self.ready();
        let rules = rules(&folder.settings, &self.repository.url, ready.as_ref().ok());
        if rules != folder.rules {
            // Another token, another try.
            folder.trouble.iter_mut().for_each(Trouble::try_now);
            folder.rules = rules;
        }
        let todo = folder.todo(&found, journal);
        let settled: Vec<Found> = folder
            .settling
            .look(begun.elapsed(), folder.settings.settle, &todo)
            .into_iter()
            .cloned()
            .collect();
        folder.status.waiting = todo.len();
        if todo.is_empty() {
            return folder.well(begun.elapsed());
        }
        if settled.is_empty() || folder.trouble.as_ref().is_some_and(|t| t.until > begun.elapsed())
        {
            return;
        }
        let ready = match ready {
            Ok(ready) => ready,
            Err(reason) => return folder.fail(State::Stopped, reason, begun.elapsed()),
        };
        for file in folder.by_failures(settled) {
            if self.stop.is_cancelled() {
                return;
            }
            // As large as it is, as slow as the disk and the link are: the client gives up by itself when
            // nothing moves.
            let busy = self.pulse.enter("hashing or uploading a file", Bound::Open);
            let handled = self.handle(folder, &file, &ready, journal).await;
            drop(busy);
            match handled {
                Ok(()) => {
                    folder.status.waiting = folder.status.waiting.saturating_sub(1);
                    folder.failures.remove(&file.path);
                }
                Err(Stuck::Changing) => folder.settling.again(&file.path),
                Err(Stuck::Ended) => return,
                Err(Stuck::Aside(reason)) => folder.set_aside(&file, reason, journal).await,
                Err(Stuck::Stop(reason)) => {
                    return folder.fail(State::Stopped, reason, begun.elapsed());
                }
                Err(Stuck::Retry(reason)) if folder.is_to_blame(&file) => {
                    let reason = format!("the server took other files, but not this one: {reason}");
                    folder.set_aside(&file, reason, journal).await;
                }
                Err(Stuck::Retry(reason)) => {
                    return folder.fail(State::Waiting, reason, begun.elapsed());
                }
            }
            // Long uploads, many files: others want to see how it goes.
            self.show(folder);
        }
        folder.well(begun.elapsed());
    }

    /// What stands in a folder now. As slow as its disk is; one on the network may hang.
    async fn look(&self, settings: &FileFolder) -> Result<io::Result<Scan>, Stuck> {
        let (path, patterns) = (settings.folder.clone(), settings.patterns.clone());
        let _looking = self.pulse.enter("looking into a folder", Bound::Open);
        self.off_thread(move || scan(&path, &patterns)).await
    }

    /// Publishes one folder.
    fn show(&self, folder: &Watched) {
        self.status.send_modify(|status| {
            let own = &folder.status.folder;
            if let Some(shown) = status.folders.iter_mut().find(|shown| shown.folder == *own) {
                *shown = folder.status.clone();
            }
        });
    }

    /// What `work` says, which may wait for a disk. At the stop it is left to itself, since a disk may
    /// hang for ever.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stuck::Ended),
            done = off_thread(work) => Ok(done),
        }
    }

    /// The token as it stands in the store now.
    fn ready(&self) -> Result<Ready, String> {
        let name = &self.repository.token;
        let stored = self.store.load_repository(name).map_err(|error| Chain(&error).to_string())?;
        let Some(RepositoryCredential { token, user_agent, known }) = stored else {
            return Err(format!(
                "no File Repository token `{name}` on this device; {}",
                self.another_token()
            ));
        };
        // Written by another version: the server decides then.
        let known = known.and_then(|known| serde_json::from_value::<Restrictions>(known).ok());
        let ends = known.as_ref().and_then(Restrictions::ends);
        self.status.send_if_modified(|status| std::mem::replace(&mut status.ends, ends) != ends);
        let repository = Repository::new(self.net.clone(), &self.repository.url, token, user_agent);
        Ok(Ready { repository, known })
    }

    /// How a token comes on this device.
    fn another_token(&self) -> String {
        let name = &self.repository.token;
        format!(
            "import one: `solarnode-agent files token import {name}`, \
             or issue one: `solarnode-agent files token generate --install {name}`"
        )
    }

    /// Does everything for one file that has settled.
    async fn handle(
        &self,
        folder: &mut Watched,
        file: &Found,
        ready: &Ready,
        journal: &Shared,
    ) -> Result<(), Stuck> {
        let settings = folder.settings.clone();
        let job = Job { settings: &settings, file, ready, journal };
        let tags = &settings.tags;
        if let Some(known) = &ready.known {
            known.check_upload(tags, self.clock.believed_now()).map_err(stuck_by)?;
            known.check_file(file.shape.size, None).map_err(stuck_by)?;
        }
        if file.shape.size > settings.max_bytes {
            let (size, most) = (file.shape.size, settings.max_bytes);
            return Err(Stuck::Aside(format!("it has {size} bytes, and `max_size` is {most}")));
        }
        let print = self.fingerprint(file).await?;
        let url = &self.repository.url;
        let known = lock(journal).ledger.stored(&print.sha256, url).cloned();
        if known.is_some() {
            folder.status.known += 1;
            debug!(event = "files.known", folder = %settings.folder.display(), file = file.name, "the repository has this content already");
            return self.finish(&job, print.sha256).await;
        }
        if let Some(known) = &ready.known {
            known.check_file(print.bytes, mime_names(&print.start)).map_err(stuck_by)?;
        }
        let name = request_name(&file.name);
        let kept = match self.look_for(folder, &print, ready, journal).await? {
            Some(kept) => kept,
            None => self.upload(&job, &name, &print).await?,
        };
        let stored = Stored {
            sha256: print.sha256.clone(),
            url: url.clone(),
            filename: kept.filename,
            id: kept.id,
            name: name.clone(),
            bytes: print.bytes,
            source: settings.source.as_ref().map(ToString::to_string),
            at: self.clock.stamp().into(),
        };
        note(journal, Line::Stored(stored), true).await?;
        folder.doubts.remove(&print.sha256);
        if kept.was_there {
            folder.status.known += 1;
        } else {
            folder.status.uploaded += 1;
        }
        folder.status.last_upload = self.clock.trusted_now();
        debug!(
            event = "files.uploaded",
            folder = %settings.folder.display(), file = file.name, bytes = print.bytes,
            was_there = kept.was_there,
            "file uploaded"
        );
        self.tell_all(journal).await;
        self.finish(&job, print.sha256).await
    }

    async fn fingerprint(&self, file: &Found) -> Result<Fingerprint, Stuck> {
        let (path, shape) = (file.path.clone(), file.shape);
        let stop = self.stop.clone();
        let read = self.off_thread(move || {
            let (file, before) = content::open(&path, false)?;
            let print = content::fingerprint(UntilStopped { inner: &file, stop })?;
            let after = content::shape(&file.metadata()?);
            Ok::<_, io::Error>((before == shape && after == shape).then_some(print))
        });
        match read.await? {
            Ok(Some(print)) => Ok(print),
            Ok(None) => Err(Stuck::Changing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Stuck::Changing),
            Err(error) => Err(Stuck::Aside(format!("it cannot be read: {error}"))),
        }
    }

    /// The entry of a content that was sent before a crash, where the repository tells.
    async fn look_for(
        &self,
        folder: &mut Watched,
        print: &Fingerprint,
        ready: &Ready,
        journal: &Shared,
    ) -> Result<Option<Kept>, Stuck> {
        let doubt = lock(journal).ledger.in_doubt(&print.sha256, &self.repository.url).cloned();
        let Some(Sending { name, .. }) = doubt else { return Ok(None) };
        let settings = &folder.settings;
        // The doubt lasts as long as the server's trouble.
        if folder.doubts.insert(print.sha256.clone()) {
            info!(event = "files.in_doubt", folder = %settings.folder.display(), name, "an earlier upload may have arrived");
        }
        if !settings.public {
            // The listing shows public files only.
            return Ok(None);
        }
        let found = tokio::select! {
            found = ready.repository.find(&name, &print.sha256) => found,
            () = self.stop.cancelled() => return Err(Stuck::Ended),
        };
        match found {
            Ok(found) => Ok(found),
            Err(CallError::Refused(refusal)) if refusal.cause.next() != Next::Retry => Ok(None),
            Err(error) => Err(Stuck::Retry(error.to_string())),
        }
    }

    async fn upload(&self, job: &Job<'_>, name: &str, print: &Fingerprint) -> Result<Kept, Stuck> {
        let Job { settings, file, ready, journal } = *job;
        let (sha256, url) = (print.sha256.clone(), self.repository.url.clone());
        let sending = Sending { sha256: sha256.clone(), url, name: name.to_owned() };
        note(journal, Line::Sending(sending), true).await?;
        let path = file.path.clone();
        let opened = self.off_thread(move || content::open(&path, false)).await?;
        let (opened, shape) = opened.map_err(|_| Stuck::Changing)?;
        if shape != file.shape {
            return Err(Stuck::Changing);
        }
        let reader = Box::new(Verified::new(opened, print.bytes, &print.sha256));
        let outbound =
            Outbound { name, tags: &settings.tags, public: settings.public, bytes: print.bytes };
        let sent = tokio::select! {
            sent = ready.repository.upload(&outbound, reader, Arc::new(AtomicU64::new(0))) => sent,
            () = self.stop.cancelled() => return Err(Stuck::Ended),
        };
        match sent {
            Ok(kept) => Ok(kept),
            Err(CallError::NoAnswer { error: SendError::Content(_), .. }) => Err(Stuck::Changing),
            Err(error) => {
                let reason = match &error {
                    CallError::Refused(refusal) if refusal.cause == Cause::TokenUnknown => {
                        format!("{error}; {}", self.another_token())
                    }
                    _ => error.to_string(),
                };
                match error.next() {
                    Next::Retry => Err(Stuck::Retry(reason)),
                    next => {
                        // A clear no: it is not there.
                        note(journal, Line::Refused { sha256 }, false).await?;
                        Err(if next == Next::Stop {
                            Stuck::Stop(reason)
                        } else {
                            Stuck::Aside(reason)
                        })
                    }
                }
            }
        }
    }

    /// Deletes a file that is done with, or notes that it is.
    async fn finish(&self, job: &Job<'_>, sha256: String) -> Result<(), Stuck> {
        let Job { settings, file, journal, .. } = *job;
        if settings.after == After::Delete {
            let (path, shape) = (file.path.clone(), file.shape);
            match self.off_thread(move || remove(&path, shape)).await? {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Stuck::Changing),
                Err(error) => {
                    warn!(
                        event = "files.not_removed",
                        folder = %settings.folder.display(), file = file.name, %error,
                        "uploaded file could not be deleted"
                    );
                }
            }
        }
        let noted =
            Noted { path: file.path.clone(), shape: file.shape, fate: Fate::Done { sha256 } };
        Ok(note(journal, Line::File(noted), false).await?)
    }

    /// Commits the datum of every content that is stored and not told yet.
    async fn tell_all(&self, journal: &Shared) {
        let untold = lock(journal).ledger.untold();
        for stored in untold {
            let (source, stamp) = (stored.source(), stored.at.stamp());
            if let (Some(source), Some(stamp)) = (source, stamp) {
                let samples = Samples {
                    instantaneous: vec![("bytes".to_owned(), stored.bytes.into())],
                    status: vec![
                        ("file".to_owned(), address(&stored.url, &stored.filename)),
                        ("name".to_owned(), stored.name.clone()),
                    ],
                    ..Samples::default()
                };
                if let Err(error) = self.reports.tell(Datum { source, stamp, samples }).await {
                    // The queue says what is wrong with the disk; this is tried again with the next look.
                    debug!(%error, "datum of a file not stored yet");
                    return;
                }
            }
            if let Err(error) = note(journal, Line::Told { sha256: stored.sha256 }, false).await {
                debug!(error = %Chain(&error), "not noted that a datum is stored");
                return;
            }
        }
    }
}

fn stuck_by(obstacle: Obstacle) -> Stuck {
    match obstacle {
        Obstacle::Token(reason) | Obstacle::Tags(reason) => Stuck::Stop(reason),
        Obstacle::File(reason) => Stuck::Aside(reason),
    }
}

/// A short name for everything that decides whether a file is set aside.
fn rules(settings: &FileFolder, url: &str, ready: Option<&Ready>) -> String {
    let known = ready.map(|ready| (&ready.known, ready.repository.token_mark()));
    let text =
        format!("{url} {:?} {} {} {known:?}", settings.tags, settings.public, settings.max_bytes);
    hex::encode(&Sha256::digest(text)[..8])
}

/// Deletes a file, if it is still the one that was uploaded.
fn remove(path: &Path, shape: super::ledger::Shape) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if content::shape(&meta) == shape => fs::remove_file(path).map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
