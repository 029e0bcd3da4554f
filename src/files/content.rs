//! The bytes of a file: hashed once, and checked again on their way out.
//!
//! A file may change between the two. [`Verified`] hands the last bytes out only if all of them together have
//! the hash that was announced, so what the repository stores is what the ledger says.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::ledger::Shape;

/// Bytes at the beginning that tell a file's type.
const START: usize = 16;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// As hexadecimal digits.
    pub sha256: String,
    /// Bytes read.
    pub bytes: u64,
    /// The first bytes.
    pub start: Vec<u8>,
}

/// Opens a file for reading; one that is a link, a pipe or a device is refused.
///
/// # Errors
///
/// If it is none of the file system's ordinary files, or cannot be opened.
pub fn open(path: &Path, follow: bool) -> io::Result<(File, Shape)> {
    let flags = if follow { OFlags::NONBLOCK } else { OFlags::NOFOLLOW | OFlags::NONBLOCK };
    let flags = i32::try_from(flags.bits()).expect("open flags are small numbers");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file"));
    }
    Ok((file, shape(&meta)))
}

/// What a folder shows of a file.
#[must_use]
pub fn shape(meta: &Metadata) -> Shape {
    let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Shape { size: meta.len(), mtime_ns, inode: meta.ino() }
}

/// Reads all of it.
///
/// # Errors
///
/// If it cannot be read.
pub fn fingerprint(mut reader: impl Read) -> io::Result<Fingerprint> {
    let (mut hash, mut bytes, mut start) = (Sha256::new(), 0, Vec::new());
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&chunk[..read]);
        bytes += read as u64;
        let missing = START.saturating_sub(start.len()).min(read);
        start.extend_from_slice(&chunk[..missing]);
    }
    Ok(Fingerprint { sha256: hex::encode(hash.finalize()), bytes, start })
}

/// A reader that fails once its task is to stop, so that nobody hashes a large file for nothing.
pub struct UntilStopped<R> {
    /// What is read.
    pub inner: R,
    /// The task's stop.
    pub stop: CancellationToken,
}

impl<R: Read> Read for UntilStopped<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the daemon stops"));
        }
        self.inner.read(into)
    }
}

/// A reader of exactly the bytes that were announced.
pub struct Verified<R> {
    inner: R,
    hash: Sha256,
    left: u64,
    sha256: String,
}

impl<R: Read> Verified<R> {
    /// Reads `inner`, which has to hold `bytes` bytes with this hash.
    pub fn new(inner: R, bytes: u64, sha256: &str) -> Self {
        Self { inner, hash: Sha256::new(), left: bytes, sha256: sha256.to_owned() }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let changed = || io::Error::other("the file was changed while it was sent");
        if self.left == 0 || into.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let read = self.inner.read(&mut into[..most])?;
        if read == 0 {
            return Err(changed());
        }
        self.hash.update(&into[..read]);
        self.left -= read as u64;
        if self.left == 0 && hex::encode(self.hash.clone().finalize()) != self.sha256 {
            return Err(changed());
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_never_leaves_whole() {
        let content = vec![7; 200_000];
        let print = fingerprint(&content[..]).expect("read");
        assert_eq!((print.bytes, print.start.len()), (200_000, START));
        let sent = |content: &[u8]| {
            let mut sent = Vec::new();
            let done = Verified::new(content, print.bytes, &print.sha256).read_to_end(&mut sent);
            (done.is_ok(), sent.len() as u64)
        };
        assert_eq!(sent(&content), (true, 200_000));
        let mut other = content.clone();
        other[3] = 8;
        let (whole, bytes) = sent(&other);
        assert!(!whole && bytes < 200_000);
        assert!(!sent(&content[..199_999]).0, "shorter");
        assert_eq!(
            sent(&[content.clone(), vec![1]].concat()),
            (true, 200_000),
            "what was added is not sent"
        );
    }

    #[test]
    fn hashing_ends_in_the_middle_of_a_file_when_the_daemon_stops() {
        let stop = CancellationToken::new();
        let endless = UntilStopped { inner: io::repeat(7), stop: stop.clone() };
        let hashing = std::thread::spawn(move || fingerprint(endless));
        stop.cancel();
        assert!(hashing.join().expect("no panic").is_err());
    }

    #[test]
    fn pipes_and_links_are_not_read() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).expect("linked");
        assert!(open(&link, false).is_err());
        assert!(open(dir.path(), true).is_err());
    }
}
