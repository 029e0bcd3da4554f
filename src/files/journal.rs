//! The ledger on disk: `files.jsonl` of the daemon, `files-put.jsonl` of the command, one JSON line a fact.
//!
//! Facts are appended, so a file costs the card two small synced writes and not the whole ledger. A line
//! that was torn by a power cut is dropped when the journal is opened; it was not synced, so nothing relied on
//! it. When most lines are out of date the journal is replaced by the fewest lines that say the same.
//!
//! One process holds a journal at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::ledger::{Ledger, Line, MAX_CONTENTS};
use crate::{file, runtime::off_thread};

/// Lines out of date that are worth a new file.
const STALE: usize = 1000;

/// A ledger and the file it is kept in. Its methods wait for the disk.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// What is known.
    pub ledger: Ledger,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process uses it.
    #[error("another process holds {}", path.display())]
    Held {
        /// The file.
        path: PathBuf,
    },
    /// The disk or file system.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { doing, path, source }
}

/// The daemon's journal below the state folder.
#[must_use]
pub fn of_daemon(state_dir: &Path) -> PathBuf {
    state_dir.join("files.jsonl")
}

/// The journal of `files put` below the state folder.
#[must_use]
pub fn of_put(state_dir: &Path) -> PathBuf {
    state_dir.join("files-put.jsonl")
}

/// The facts in a file, without holding it; see [`parse`].
///
/// # Errors
///
/// If it is there and cannot be read.
pub fn read(path: &Path) -> io::Result<(Ledger, usize, usize)> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(parse(&bytes))
}

/// The facts in a file's contents, how many they are, and how many lines are none.
#[must_use]
pub fn parse(bytes: &[u8]) -> (Ledger, usize, usize) {
    let (mut lines, mut damaged) = (Vec::new(), 0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) => lines.push(line),
            Err(_) => damaged += 1,
        }
    }
    let count = lines.len();
    (Ledger::from_lines(lines), count, damaged)
}

impl Journal {
    /// Opens or makes the file and holds it. Returns how many lines were damaged, besides.
    ///
    /// # Errors
    ///
    /// If another process holds it, or the disk fails.
    pub fn open(path: PathBuf) -> Result<(Self, usize), JournalError> {
        if let Some(folder) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
            made.map_err(failed("make the folder of", &path))?;
        }
        let file = open(&path).map_err(failed("open", &path))?;
        hold(&file, &path)?;
        let (ledger, lines, damaged) = read(&path).map_err(failed("read", &path))?;
        let mut journal = Self { path, file, lines, ledger };
        if damaged > 0 || journal.is_stale() {
            journal.renew()?;
        }
        Ok((journal, damaged))
    }

    /// Takes a fact. With `durable` it survives a power cut when this returns.
    ///
    /// # Errors
    ///
    /// If the disk fails; the fact is then not taken.
    pub fn add(&mut self, line: Line, durable: bool) -> Result<(), JournalError> {
        let mut bytes = serde_json::to_vec(&line).expect("text and numbers make JSON");
        bytes.push(b'\n');
        let length = self.file.metadata().map_err(failed("read", &self.path))?.len();
        let written = self.file.write_all(&bytes).and_then(|()| match durable {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        if let Err(error) = written {
            // A part of a line would spoil the next one. Where even this fails, opening drops it.
            drop(self.file.set_len(length));
            return Err(failed("write", &self.path)(error));
        }
        self.ledger.take(line);
        self.lines += 1;
        if self.is_stale() {
            self.renew()?;
        }
        Ok(())
    }

    fn is_stale(&self) -> bool {
        self.lines > self.ledger.most_lines() + STALE
    }

    /// Writes the fewest lines that say the same.
    fn renew(&mut self) -> Result<(), JournalError> {
        self.ledger.forget_beyond(MAX_CONTENTS);
        let lines = self.ledger.lines();
        let mut bytes = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut bytes, line).expect("text and numbers make JSON");
            bytes.push(b'\n');
        }
        file::replace(&self.path, &bytes, 0o640).map_err(failed("write", &self.path))?;
        self.file = open(&self.path).map_err(failed("open", &self.path))?;
        hold(&self.file, &self.path)?;
        self.lines = lines.len();
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

fn hold(file: &File, path: &Path) -> Result<(), JournalError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(JournalError::Held { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
    }
}

/// The daemon's journal, used from threads that may wait for the disk.
pub(super) type Shared = Arc<Mutex<Journal>>;

/// Adds a fact, on a thread that may wait for the disk.
pub(super) async fn note(journal: &Shared, line: Line, durable: bool) -> Result<(), JournalError> {
    let journal = journal.clone();
    off_thread(move || lock(&journal).add(line, durable)).await
}

pub(super) fn lock(journal: &Shared) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::ledger::Sending;

    fn sending(sha256: &str) -> Line {
        Line::Sending(Sending { sha256: sha256.into(), url: "u".into(), name: "n".into() })
    }

    #[test]
    fn facts_survive_and_a_torn_line_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = of_daemon(dir.path());
        let (mut journal, damaged) = Journal::open(path.clone()).expect("made");
        assert_eq!(damaged, 0);
        journal.add(sending("a"), true).expect("added");
        assert!(matches!(Journal::open(path.clone()), Err(JournalError::Held { .. })));
        drop(journal);
        let mut torn = fs::read(&path).expect("read");
        torn.extend(b"{\"sending\":{\"sha");
        fs::write(&path, torn).expect("written");

        let (mut journal, damaged) = Journal::open(path.clone()).expect("opened");
        assert_eq!(damaged, 1);
        journal.add(sending("b"), false).expect("added");
        drop(journal);
        let (journal, damaged) = Journal::open(path).expect("opened");
        assert_eq!(damaged, 0, "the torn line is gone");
        assert!(journal.ledger.in_doubt("a", "u").is_some());
        assert!(journal.ledger.in_doubt("b", "u").is_some());
    }

    #[test]
    fn the_same_facts_again_do_not_make_it_grow() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = of_daemon(dir.path());
        let (mut journal, _) = Journal::open(path.clone()).expect("made");
        for _ in 0..3 * STALE {
            journal.add(sending("a"), false).expect("added");
        }
        let lines = fs::read_to_string(&path).expect("read").lines().count();
        assert!(lines <= STALE + 3, "{lines}");
    }
}
