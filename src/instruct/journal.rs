//! The instructions this node has seen, on disk: the memory behind "at most once".
//!
//! ```text
//!  <state_dir>/instructions/
//!    12345.json           one instruction, replaced whole with every step of its life
//!    12346.json.damaged   a file that could not be read, kept for a look; 12346.json stands in
//! ```
//!
//! What it guarantees:
//!
//! * [`Journal::put`] returns once the record is on disk; until then the old one stands, also in
//!   memory. After a power cut a file holds the old record or the new one.
//! * A file that cannot be read keeps its ID, which is in its name: it counts as begun, so it ends as
//!   "may have happened" and is never carried out again. A file that vanished altogether is
//!   covered from the other side: the server was told `Executing` before anything was done, and
//!   says so (see [`super::decide`], step 4).
//! * IDs are remembered for [`REMEMBERED`], which is as long as the server keeps any instruction.
//! * At most [`MOST`] records are kept. To make room, the oldest settled ones are forgotten whose
//!   last moment (`not_after`) has passed: should the server hand one out again, it is declined as
//!   expired all the same. The last write to each control is never forgotten this way, since
//!   `allow.every` counts from it. If that makes no room, there is none: a new instruction is
//!   left with the server.
//!
//! What it does not do: decide anything, or keep instructions that were never acted on nor answered.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::warn;

use super::{decide::KEPT, record::Record, state::State};
use crate::{
    domain::{InstructionId, SourceId},
    file,
    runtime::off_thread,
};

/// How long the ID of an instruction that ended is remembered.
pub const REMEMBERED: TimeDelta = KEPT;

/// Most records kept; about 8 MiB of blocks on disk and 1 MiB of memory.
pub const MOST: usize = 2048;

/// Records hold no secrets; the group may read them with `instruction list`.
const FILE_MODE: u32 = 0o640;

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing} {}", path.display())]
pub struct JournalError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl JournalError {
    fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { doing, path, source }
    }

    /// What the file system said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// What a journal folder holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Every record that could be read, by ID.
    pub records: BTreeMap<InstructionId, Record>,
    /// The files that could not, and why.
    pub damaged: Vec<(InstructionId, serde_json::Error)>,
}

/// The folder of the journal below the state folder.
#[must_use]
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("instructions")
}

/// Reads a journal and changes nothing; also while the daemon runs.
///
/// # Errors
///
/// If the folder or a file in it cannot be read. A folder that is not there is an empty journal.
pub fn read(folder: &Path) -> Result<Contents, JournalError> {
    let mut contents = Contents::default();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(contents),
        entries => entries.map_err(JournalError::new("read the folder", folder))?,
    };
    for entry in entries {
        let path = entry.map_err(JournalError::new("read the folder", folder))?.path();
        let Some(id) = id_of(&path) else { continue };
        let bytes = match fs::read(&path) {
            // Forgotten by the daemon since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(JournalError::new("read", &path))?,
        };
        match Record::from_json(&bytes) {
            // A file under another's name would hide that other one.
            Ok(record) if record.id == id && record.state != State::New => {
                contents.records.insert(id, record);
            }
            Ok(_) => {
                let error = serde::de::Error::custom("the record is not what its name says");
                contents.damaged.push((id, error));
            }
            Err(error) => contents.damaged.push((id, error)),
        }
    }
    Ok(contents)
}

/// Only the very name that [`path_of`] gives: `007.json` is nobody's.
fn id_of(path: &Path) -> Option<InstructionId> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".json")?;
    stem.parse().ok().filter(|id: &i64| id.to_string() == stem).map(InstructionId)
}

fn path_of(folder: &Path, id: InstructionId) -> PathBuf {
    folder.join(format!("{id}.json"))
}

/// The journal, held by the one task that writes it.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    records: BTreeMap<InstructionId, Record>,
    most: usize,
}

impl Journal {
    /// Reads the journal below `state_dir`. Blocks: call it off the runtime's thread.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or read, or a damaged file cannot be replaced. Without its
    /// memory the node must not act.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let folder = folder(state_dir);
        fs::create_dir_all(&folder).map_err(JournalError::new("make the folder", &folder))?;
        file::sync_folder(state_dir).map_err(JournalError::new("sync", state_dir))?;
        let Contents { mut records, damaged } = read(&folder)?;
        for (id, error) in damaged {
            let path = path_of(&folder, id);
            warn!(
                event = "instruction.journal_damaged", instruction_id = id.0,
                path = %path.display(), %error,
                "instruction journal entry set aside"
            );
            // A copy, not a rename: at no moment may the ID be unknown.
            let aside = folder.join(format!("{id}.json.damaged"));
            fs::copy(&path, &aside).map_err(JournalError::new("set aside", &path))?;
            let record = Record::damaged(id);
            file::replace(&path, &record.to_json(), FILE_MODE)
                .map_err(JournalError::new("replace", &path))?;
            records.insert(id, record);
        }
        Ok(Self { folder, records, most: MOST })
    }

    /// As [`Journal::open`], on a thread that may block.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`].
    pub async fn open_off_thread(state_dir: PathBuf) -> Result<Self, JournalError> {
        off_thread(move || Self::open(&state_dir)).await
    }

    /// The record of an instruction, if it is known.
    #[must_use]
    pub fn get(&self, id: InstructionId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// Every record, by ID.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// When each control was, or may have been, written last.
    #[must_use]
    pub fn last_writes(&self) -> BTreeMap<SourceId, DateTime<Utc>> {
        let mut last: BTreeMap<SourceId, DateTime<Utc>> = BTreeMap::new();
        for record in self.records() {
            if let (Some(control), Some(at)) = (&record.control, record.written) {
                last.entry(control.clone()).and_modify(|l| *l = at.max(*l)).or_insert(at);
            }
        }
        last
    }

    /// Puts a record on disk in place of the one with its ID. The runtime is not blocked meanwhile.
    ///
    /// # Errors
    ///
    /// If it is not on disk for sure; the journal in memory is then unchanged.
    pub async fn put(&mut self, record: Record) -> Result<(), JournalError> {
        let path = path_of(&self.folder, record.id);
        let bytes = record.to_json();
        on_file("replace", path, move |path| file::replace(path, &bytes, FILE_MODE)).await?;
        self.records.insert(record.id, record);
        Ok(())
    }

    /// Forgets what is older than [`REMEMBERED`], and more if there is no room for one more.
    ///
    /// Returns whether there is room.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub async fn make_room(&mut self, now: DateTime<Utc>) -> Result<bool, JournalError> {
        let ended_before = |record: &Record, at| record.ended.is_some_and(|ended| ended < at);
        let mut forgotten: Vec<InstructionId> =
            self.records().filter(|r| ended_before(r, now - REMEMBERED)).map(|r| r.id).collect();
        let left = self.records.len() - forgotten.len();
        if left >= self.most {
            forgotten.extend(self.harmless(now).into_iter().take(left + 1 - self.most));
        }
        for id in forgotten {
            let path = path_of(&self.folder, id);
            on_file("remove", path, |path| match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            })
            .await?;
            self.records.remove(&id);
        }
        Ok(self.records.len() < self.most)
    }

    /// What can be forgotten early, oldest first: see the module's header.
    fn harmless(&self, now: DateTime<Utc>) -> Vec<InstructionId> {
        let last_writes = self.last_writes();
        let is_last_write = |record: &Record| {
            let last = record.control.as_ref().and_then(|control| last_writes.get(control));
            record.written.is_some() && record.written.as_ref() == last
        };
        let mut harmless: Vec<_> = self
            .records()
            .filter(|r| r.is_settled() && r.not_after.is_some_and(|at| at < now))
            .filter(|r| r.ended.is_some_and(|ended| ended >= now - REMEMBERED))
            .filter(|r| !is_last_write(r))
            .map(|r| (r.ended, r.id))
            .collect();
        harmless.sort_unstable();
        harmless.into_iter().map(|(_, id)| id).collect()
    }
}

/// Runs file work on a thread that may block.
async fn on_file(
    doing: &'static str,
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<(), JournalError> {
    let at = path.clone();
    off_thread(move || work(&at)).await.map_err(JournalError::new(doing, &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruct::state::Event;

    fn date(text: &str) -> DateTime<Utc> {
        text.parse().expect("a date")
    }

    fn now() -> DateTime<Utc> {
        date("2026-11-22T10:00:00Z")
    }

    fn ended(id: i64, at: DateTime<Utc>) -> Record {
        let mut record = Record::new(InstructionId(id), "SetControlParameter");
        record.on(Event::Refuse).expect("a new one can be refused");
        Record {
            ended: Some(at),
            not_after: Some(at),
            reported: true,
            acknowledged: true,
            ..record
        }
    }

    #[tokio::test]
    async fn a_record_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path()).expect("open");
        let record = Record {
            control: Some("/site/relay".parse().expect("a source")),
            wanted: Some("1.50".parse().expect("a decimal")),
            written: Some(now()),
            message: Some("before 0, wanted 1.5, after 1.5".to_owned()),
            ..ended(7, now())
        };
        journal.put(record.clone()).await.expect("put");
        let again = Journal::open(dir.path()).expect("open");
        assert_eq!(again.get(InstructionId(7)), Some(&record));
        assert_eq!(again.last_writes().values().collect::<Vec<_>>(), [&now()]);
    }

    #[tokio::test]
    async fn a_damaged_file_counts_as_begun_and_is_kept_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path()).expect("open");
        journal.put(ended(7, now())).await.expect("put");
        let path = path_of(&folder(dir.path()), InstructionId(7));
        let whole = fs::read(&path).expect("read");
        let other = String::from_utf8(whole.clone()).expect("text").replace(": 7,", ": 8,");
        for bytes in [b"".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0; 600], other.into()] {
            fs::write(&path, &bytes).expect("write");
            for _ in 0..2 {
                let journal = Journal::open(dir.path()).expect("open");
                assert_eq!(journal.records().count(), 1);
                let state = journal.get(InstructionId(7)).map(|record| record.state);
                assert_eq!(state, Some(State::Executing));
            }
            let aside = fs::read(path.with_extension("json.damaged")).expect("set aside");
            assert_eq!(aside, bytes);
        }
    }

    #[tokio::test]
    async fn foreign_files_and_leftovers_are_nobodys() {
        let dir = tempfile::tempdir().expect("a folder");
        Journal::open(dir.path()).expect("open");
        for name in ["7.json.new", "007.json", "x.json", "8.json.damaged", ".json"] {
            fs::write(folder(dir.path()).join(name), "half").expect("write");
        }
        assert_eq!(Journal::open(dir.path()).expect("open").records().count(), 0);
    }

    #[tokio::test]
    async fn ids_are_remembered_for_120_days() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path()).expect("open");
        journal.put(ended(1, now() - TimeDelta::days(121))).await.expect("put");
        journal.put(ended(2, now() - TimeDelta::days(119))).await.expect("put");
        assert!(journal.make_room(now()).await.expect("room"));
        let again = Journal::open(dir.path()).expect("open");
        assert_eq!(again.records().map(|r| r.id.0).collect::<Vec<_>>(), [2]);
    }

    #[tokio::test]
    async fn only_what_can_do_no_harm_is_forgotten_early() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path()).expect("open");
        journal.most = 4;
        let day = |n| now() - TimeDelta::days(n);
        let valid = Record { not_after: Some(now() + TimeDelta::days(1)), ..ended(1, day(9)) };
        let undelivered = Record { acknowledged: false, ..ended(2, day(8)) };
        let last_write = Record {
            control: Some("/relay".parse().expect("a source")),
            written: Some(day(7)),
            ..ended(3, day(7))
        };
        for record in [valid, undelivered, last_write, ended(4, day(6))] {
            journal.put(record).await.expect("put");
        }
        assert!(journal.make_room(now()).await.expect("room"));
        assert_eq!(journal.records().map(|r| r.id.0).collect::<Vec<_>>(), [1, 2, 3]);
        let another = Record { acknowledged: false, ..ended(5, day(5)) };
        journal.put(another).await.expect("put");
        assert!(!journal.make_room(now()).await.expect("room"));
        assert_eq!(journal.records().count(), 4);
    }
}
