//! A system clock that is wrong, and can be set while a program runs: libfaketime.
//!
//! Only the wall clock lies. The monotonic clock and the time since boot, and with them every timer, stay
//! what they are, as on a real machine whose clock somebody sets.

use std::{fs, path::PathBuf, process::Command};

use chrono::{DateTime, TimeDelta, Utc};
use tempfile::TempDir;

/// A wall clock of its own for the programs that are started with it.
pub(crate) struct WallClock {
    folder: TempDir,
}

impl WallClock {
    /// One that is off by so much.
    pub(crate) fn off_by(offset: TimeDelta) -> Self {
        let clock = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        clock.set_off_by(offset);
        clock
    }

    /// One that shows this now.
    pub(crate) fn at(shown: DateTime<Utc>) -> Self {
        Self::off_by(shown - Utc::now())
    }

    /// Steps it.
    pub(crate) fn set_off_by(&self, offset: TimeDelta) {
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{:+}\n", offset.num_seconds())).expect("written");
        // In one go: who reads half of it would see the real time.
        fs::rename(&new, self.file()).expect("renamed");
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The same command, looking at this clock.
    pub(crate) fn shown_to(&self, mut command: Command) -> Command {
        command
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}

/// libfaketime for programs with threads, below `/usr/lib/<machine>/faketime`.
fn library() -> PathBuf {
    let machines = fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(Result::ok);
    let library = machines.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let mut found = library.filter(|path| path.exists());
    found.next().expect("libfaketime is needed for this test, run tests/setup.sh")
}
