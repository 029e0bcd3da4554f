//! The file of the datum that were given up: `rejected.jsonl` beside the queue's folder.
//!
//! One line of JSON each: what `queue export` shows, the reason, and the running count. At
//! [`MAX_BYTES`] the file becomes `rejected.1.jsonl`, replacing the one before: what is kept is
//! bounded, the count goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::file;

/// The size at which the file is set aside; twice this is kept.
const MAX_BYTES: u64 = 512 * 1024;

/// The file and how many datum ever went into it.
#[derive(Debug)]
pub(super) struct Rejected {
    path: PathBuf,
    old: PathBuf,
    count: u64,
}

impl Rejected {
    /// Knows the count from the last line of an existing file.
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("rejected.jsonl");
        let old = state_dir.join("rejected.1.jsonl");
        let count = last_count(&path).or_else(|| last_count(&old)).unwrap_or(0);
        Self { path, old, count }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Counts the datum and writes it down, synced.
    ///
    /// # Errors
    ///
    /// If it could not be written down; it is not counted then.
    pub(super) fn add(&mut self, mut datum: Value, reason: &str) -> io::Result<()> {
        let count = self.count + 1;
        if let Some(members) = datum.as_object_mut() {
            members.insert("reason".to_owned(), reason.into());
            members.insert("count".to_owned(), count.into());
        }
        if fs::metadata(&self.path).is_ok_and(|file| file.len() >= MAX_BYTES) {
            fs::rename(&self.path, &self.old)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        // A line that a power cut left unfinished must not swallow this one.
        let ahead = if ends_a_line(&self.path)? { "" } else { "\n" };
        let is_new = file.metadata()?.len() == 0;
        file.write_all(format!("{ahead}{datum}\n").as_bytes())?;
        file.sync_all()?;
        self.count = count;
        match self.path.parent() {
            Some(folder) if is_new => file::sync_folder(folder),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether nothing stands in the file, or its last line is whole.
fn ends_a_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// How many were rejected since the queue exists, for commands beside the daemon.
#[must_use]
pub fn rejected_count(state_dir: &Path) -> u64 {
    Rejected::open(state_dir).count
}

/// The count in the last line that is whole.
fn last_count(path: &Path) -> Option<u64> {
    let text = fs::read(path).ok()?;
    text.split(|byte| *byte == b'\n')
        .rev()
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .find_map(|line| line["count"].as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_bounded_and_the_count_survives() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut rejected = Rejected::open(dir.path());
        let long = "x".repeat(1000);
        for _ in 0..1500 {
            rejected.add(serde_json::json!({ "seq": 1 }), &long).expect("room");
        }
        let size = |name: &str| fs::metadata(dir.path().join(name)).expect("a file").len();
        assert!(size("rejected.jsonl") + size("rejected.1.jsonl") <= 2 * (MAX_BYTES + 2000));
        assert_eq!(Rejected::open(dir.path()).count(), 1500);
        fs::write(dir.path().join("rejected.jsonl"), "{\"half\": \n").expect("write");
        assert!(Rejected::open(dir.path()).count() > 0, "the older file still knows");
    }

    #[test]
    fn a_line_that_a_power_cut_left_unfinished_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut rejected = Rejected::open(dir.path());
        rejected.add(serde_json::json!({ "seq": 1 }), "no").expect("room");
        let path = dir.path().join("rejected.jsonl");
        let whole = fs::read(&path).expect("read");
        fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).expect("write");
        let mut rejected = Rejected::open(dir.path());
        assert_eq!(rejected.count(), 1);
        rejected.add(serde_json::json!({ "seq": 2 }), "no").expect("room");
        assert_eq!(rejected.count(), 2);
        assert_eq!(Rejected::open(dir.path()).count(), 2);
    }
}
