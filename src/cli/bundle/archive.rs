//! The archive itself: entries go through [`Scrub`] on their way in, and a list is kept of what is in it
//! and what is not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use super::{
    super::{Exit, Failure},
    machine,
    program::{self, Program},
    scrub::Scrub,
};
use crate::domain::utc;

/// The folder in the archive.
pub(in crate::cli) const FOLDER: &str = "solarnode-agent-bundle";

/// An archive being written. If it is dropped before its end, its file is removed.
pub(super) struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    path: PathBuf,
    finished: bool,
    scrub: Scrub,
    manifest: Manifest,
    now: DateTime<Utc>,
}

/// `manifest.json`.
#[derive(Serialize)]
struct Manifest {
    /// Of this archive's layout.
    format: u32,
    made: String,
    agent: &'static str,
    system: String,
    contents: Vec<Entry>,
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    bytes: usize,
}

#[derive(Serialize)]
struct LeftOut {
    what: String,
    because: String,
}

impl Archive {
    /// Makes the file, which must not be there.
    pub(super) fn create(path: &Path, now: DateTime<Utc>, scrub: Scrub) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let text = format!("{} is already there; --output names another", path.display());
                Failure::new(Exit::Usage, text)
            }
            _ => {
                let failure = Failure::from(error);
                let context = format!("could not make {} (--output names another)", path.display());
                Failure { error: failure.error.context(context), ..failure }
            }
        })?;
        Ok(Self {
            tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            path: path.to_owned(),
            finished: false,
            scrub,
            manifest: Manifest {
                format: 1,
                made: utc(now),
                agent: env!("CARGO_PKG_VERSION"),
                system: machine::system(),
                contents: Vec::new(),
                left_out: Vec::new(),
            },
            now,
        })
    }

    /// Puts in a file.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let (bytes, removed) = self.scrub.clean(bytes);
        self.manifest.contents.push(Entry { name: name.to_owned(), bytes: bytes.len() });
        append(&mut self.tar, self.now, name, &bytes)?;
        if removed > 0 {
            self.left_out(
                &format!("{removed} texts of {name}"),
                "they were secrets of this device",
            );
        }
        Ok(())
    }

    /// Puts in what a program says. Where that is nothing, its complaint is the reason.
    pub(super) fn add_output(&mut self, name: &str, program: Program) -> Result<(), Failure> {
        match program.run() {
            Ok(output) if output.stdout.is_empty() => {
                self.left_out(name, &program::first_line(&output.stderr));
                Ok(())
            }
            Ok(output) => self.add(name, &output.stdout),
            Err(error) => {
                self.left_out(name, &error.to_string());
                Ok(())
            }
        }
    }

    /// Notes that something is not in it.
    pub(super) fn left_out(&mut self, what: &str, because: &str) {
        let clean =
            |text: &str| String::from_utf8_lossy(&self.scrub.clean(text.as_bytes()).0).into_owned();
        let (what, because) = (clean(what), clean(because));
        self.manifest.left_out.push(LeftOut { what, because });
    }

    /// Ends the archive with its manifest and says what is in it.
    pub(super) fn finish(mut self, out: &mut impl Write) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.manifest).map_err(io::Error::from)?;
        append(&mut self.tar, self.now, "manifest.json", text.as_bytes())?;
        self.tar.finish()?;
        let gzip = self.tar.get_mut();
        gzip.try_finish()?;
        gzip.get_mut().sync_all()?;
        self.finished = true;
        for Entry { name, bytes } in &self.manifest.contents {
            writeln!(out, "  {name:<24} {bytes:>9} bytes")?;
        }
        if !self.manifest.left_out.is_empty() {
            writeln!(out, "left out:")?;
        }
        for LeftOut { what, because } in &self.manifest.left_out {
            writeln!(out, "  {what}: {because}")?;
        }
        Ok(())
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.finished {
            // Half an archive helps nobody; that it stays is no harm.
            fs::remove_file(&self.path).ok();
        }
    }
}

fn append(
    tar: &mut tar::Builder<GzEncoder<File>>,
    now: DateTime<Utc>,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(now.timestamp()).unwrap_or(0));
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, Path::new(FOLDER).join(name), bytes)
}
