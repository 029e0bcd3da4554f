//! One folder that is watched: which of its files are to be done, what stands in their way, and since when.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::{debug, error, info, warn};

use super::{
    journal::{Shared, lock, note},
    ledger::{Fate, Line, Noted},
    status::{Aside, FolderStatus, State},
    trouble::Trouble,
    watch::{Found, Scan, Settling},
};
use crate::{config::settings::FileFolder, domain::Chain};

/// Failures of the server with one file, while it took others, before that file is set aside.
const MAX_FAILURES: u32 = 5;

/// One folder and how it is.
pub(super) struct Watched {
    pub(super) settings: FileFolder,
    pub(super) settling: Settling,
    /// Not before this is it looked at again.
    pub(super) due: Duration,
    pub(super) trouble: Option<Trouble>,
    /// The token and settings that hold; other ones end any trouble.
    pub(super) rules: String,
    /// How often the server failed with a file, and how many files were uploaded then.
    pub(super) failures: HashMap<PathBuf, (u32, u64)>,
    /// The contents of which it was said that they are in doubt.
    pub(super) doubts: HashSet<String>,
    /// Whether it was said that there are too many files.
    said_more: bool,
    pub(super) status: FolderStatus,
}

impl Watched {
    pub(super) fn new(settings: FileFolder) -> Self {
        let status = FolderStatus {
            folder: settings.folder.display().to_string(),
            ..FolderStatus::default()
        };
        Self {
            settings,
            settling: Settling::default(),
            due: Duration::ZERO,
            trouble: None,
            rules: String::new(),
            failures: HashMap::new(),
            doubts: HashSet::new(),
            said_more: false,
            status,
        }
    }

    /// The files whose fate is open. Those that are gone are forgotten.
    pub(super) fn todo(&mut self, found: &Scan, journal: &Shared) -> Vec<Found> {
        let mut journal = lock(journal);
        if !found.more {
            let there: BTreeSet<&Path> =
                found.files.iter().map(|file| file.path.as_path()).collect();
            journal.ledger.keep_files(&self.settings.folder, &there);
            self.failures.retain(|path, _| there.contains(path.as_path()));
        }
        let (mut todo, mut aside) = (Vec::new(), 0);
        for file in &found.files {
            match journal.ledger.fate(&file.path, file.shape, &self.rules) {
                Some(Fate::Aside { reason, .. }) => {
                    aside += 1;
                    if self.status.last_aside.is_none() {
                        let (file, reason) = (file.name.clone(), reason.clone());
                        self.status.last_aside = Some(Aside { file, reason });
                    }
                }
                Some(Fate::Done { .. }) => {}
                None => todo.push(file.clone()),
            }
        }
        if aside == 0 {
            self.status.last_aside = None;
        }
        self.status.aside = aside;
        todo
    }

    /// Those that failed least come first, so that one the server stumbles over does not hold up the others.
    pub(super) fn by_failures(&self, mut files: Vec<Found>) -> Vec<Found> {
        files.sort_by_key(|file| self.failures.get(&file.path).map_or(0, |(count, _)| *count));
        files
    }

    /// Counts a failure. Whether there were many, while other files were taken.
    pub(super) fn is_to_blame(&mut self, file: &Found) -> bool {
        let uploaded = self.status.uploaded;
        let (count, then) = self.failures.entry(file.path.clone()).or_insert((0, uploaded));
        *count += 1;
        *count >= MAX_FAILURES && uploaded > *then
    }

    pub(super) async fn set_aside(&mut self, file: &Found, reason: String, journal: &Shared) {
        warn!(
            event = "files.aside",
            folder = %self.settings.folder.display(), file = file.name, reason,
            "file cannot be accepted and stays where it is"
        );
        let fate = Fate::Aside { reason: reason.clone(), rules: self.rules.clone() };
        let noted = Noted { path: file.path.clone(), shape: file.shape, fate };
        if let Err(error) = note(journal, Line::File(noted), false).await {
            warn!(event = "files.not_noted", error = %Chain(&error), "what became of a file could not be written down");
        }
        self.failures.remove(&file.path);
        self.status.aside += 1;
        self.status.waiting = self.status.waiting.saturating_sub(1);
        self.status.last_aside = Some(Aside { file: file.name.clone(), reason });
    }

    pub(super) fn fail(&mut self, state: State, reason: String, now: Duration) {
        let before = self.tell(state, &reason);
        self.trouble = Some(Trouble::after(before, state, reason, now, fastrand::f64()));
    }

    /// As [`Watched::fail`], where nobody but this machine is asked.
    pub(super) fn fail_here(&mut self, reason: String, now: Duration) {
        let before = self.tell(State::Stopped, &reason);
        self.trouble = Some(Trouble::here(before, reason, now));
    }

    /// Says what is wrong, if that is news. Takes the trouble that was before.
    fn tell(&mut self, state: State, reason: &str) -> Option<Trouble> {
        let before = self.trouble.take();
        let news = before.as_ref().is_none_or(|before| before.is_other(state, reason));
        let folder = self.settings.folder.display();
        match state {
            State::Stopped if news => {
                error!(event = "files.stopped", %folder, reason, "uploads of files stopped")
            }
            State::Waiting if news => {
                warn!(event = "files.waiting", %folder, reason, "uploads of files wait")
            }
            State::Stopped | State::Waiting | State::Ok => debug!(%folder, reason, "still not"),
        }
        (self.status.state, self.status.reason) = (state, Some(reason.to_owned()));
        before
    }

    /// Everything that was ready is done with.
    pub(super) fn well(&mut self, now: Duration) {
        if let Some(trouble) = self.trouble.take() {
            let down_secs = now.saturating_sub(trouble.since).as_secs();
            let folder = self.settings.folder.display();
            info!(event = "files.resumed", %folder, down_secs, "uploads of files go on");
        }
        (self.status.state, self.status.reason) = (State::Ok, None);
    }

    pub(super) fn say_more(&mut self, found: &Scan) {
        if found.more && !self.said_more {
            let folder = self.settings.folder.display();
            warn!(event = "files.too_many", %folder, count = found.files.len(), "more files than are looked at");
        }
        self.said_more = found.more;
    }
}
