//! What can go wrong, by what the owner can do about it.

use std::{io, path::PathBuf};

use crate::format::Seq;

/// Why the queue refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the queue open for writing.
    #[error("the queue is in use: {} is locked{}", path.display(), by(*pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that wrote its ID into the lock file last.
        pid: Option<u32>,
    },
    /// The disk has no room for what must be written. Nothing is lost: what was committed is, what
    /// was not committed stays in memory, and the same call succeeds once there is room.
    #[error("no space left on the disk of the queue")]
    Full,
    /// A payload that fits into no segment.
    #[error("a record of {size} bytes is too large: the queue's segments take up to {max} bytes")]
    TooLarge {
        /// The payload's length in bytes.
        size: usize,
        /// The longest that is accepted.
        max: usize,
    },
    /// Too many records wait for a commit.
    #[error("{records} records wait for a commit: commit before appending more")]
    Uncommitted {
        /// How many there are.
        records: usize,
    },
    /// The acknowledged ranges are too scattered to be kept.
    #[error(
        "{ranges} separate ranges are acknowledged already: acknowledge what lies between first"
    )]
    Scattered {
        /// How many ranges there are.
        ranges: usize,
    },
    /// An acknowledgement of records that do not exist yet.
    #[error("cannot acknowledge up to record {last}: the next one to be appended is {next}")]
    Unknown {
        /// The last record of the refused range.
        last: Seq,
        /// The next sequence number.
        next: Seq,
    },
    /// An earlier write or sync failed, so what is on disk is not known: open the queue again.
    #[error("an earlier write of the queue failed; it has to be opened again")]
    Poisoned,
    /// The file system refused.
    #[error("cannot {action} of the queue")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// Turns what the file system says into an [`Error`], and sets apart a full disk.
pub(crate) fn io_error(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full,
        _ => Error::Io { action, source },
    }
}
