//! A system clock that is wrong, and can be set while a program runs: libfaketime.
//!
//! With [`WallClock`] only the wall clock lies. The monotonic clock and the time since boot, and with them every
//! timer, stay what they are, as on a real machine whose clock somebody sets. With [`QuickTime`] all of them run
//! faster, as if the program ran for weeks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

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
        set(self.folder.path(), &format!("{:+}", offset.num_seconds()));
    }

    /// The same command, looking at this clock.
    pub(crate) fn shown_to(&self, command: Command) -> Command {
        let mut command = shown_to(command, self.folder.path());
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}

/// Time that passes faster for the one program that is started with it.
pub(crate) struct QuickTime {
    folder: TempDir,
    /// When the program was started, how fast time passes for it, and by how much it was put forward.
    started: Instant,
    speed: f64,
    ahead: f64,
}

impl QuickTime {
    /// Passes so many times as fast from now on.
    pub(crate) fn at_speed(speed: f64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut time = Self { folder, started: Instant::now(), speed, ahead: 0.0 };
        time.set_speed(speed);
        time
    }

    /// Passes so many times as fast from now on. It skips some hours on that occasion, lest it go back: when
    /// exactly the program looked at its clock first is not known.
    pub(crate) fn set_speed(&mut self, speed: f64) {
        const SKIPPED: f64 = 2.0 * 60.0 * 60.0;
        let real = self.started.elapsed().as_secs_f64();
        if speed != self.speed {
            self.ahead += real * (self.speed - speed) + SKIPPED;
        }
        self.speed = speed;
        set(self.folder.path(), &format!("{:+.3} x{speed}", self.ahead));
    }

    /// How much has passed for the program, roughly.
    pub(crate) fn passed(&self) -> TimeDelta {
        let passed = self.ahead + self.started.elapsed().as_secs_f64() * self.speed;
        TimeDelta::seconds(passed as i64)
    }

    /// The same command, living in this time.
    pub(crate) fn shown_to(&self, command: Command) -> Command {
        shown_to(command, self.folder.path())
    }
}

fn set(folder: &Path, setting: &str) {
    let new = folder.join("new");
    fs::write(&new, format!("{setting}\n")).expect("written");
    // In one go: who reads half of it would see the real time.
    fs::rename(&new, folder.join("clock")).expect("renamed");
}

fn shown_to(mut command: Command, folder: &Path) -> Command {
    command
        .env("LD_PRELOAD", library())
        .env("FAKETIME_TIMESTAMP_FILE", folder.join("clock"))
        .env("FAKETIME_NO_CACHE", "1");
    command
}

/// libfaketime for programs with threads, below `/usr/lib/<machine>/faketime`.
fn library() -> PathBuf {
    let machines = fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(Result::ok);
    let library = machines.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let mut found = library.filter(|path| path.exists());
    found.next().expect("libfaketime is needed for this test, run tests/setup.sh")
}
