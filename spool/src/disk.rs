//! What the queue asks of a file system, and the real one.
//!
//! The trait exists so that the model test can put a disk below the queue that loses and tears what
//! was not synced, fails a sync, or is full (`memory_disk.rs`).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, io_error};

/// One folder of a file system.
pub(crate) trait Disk {
    type File: DiskFile;
    /// Held while the queue is open for writing.
    type Lock;

    fn lock(&self) -> Result<Self::Lock, Error>;
    fn list(&self) -> io::Result<Vec<String>>;
    fn open(&self, name: &str) -> io::Result<Self::File>;
    fn create(&self, name: &str) -> io::Result<Self::File>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// One file of a [`Disk`].
pub(crate) trait DiskFile {
    fn bytes(&self) -> io::Result<u64>;
    /// Reads until the buffer is full or the file ends; returns how much.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes content durable.
    fn sync(&self) -> io::Result<()>;
}

/// Reads a file whole.
pub(crate) fn read_all(file: &impl DiskFile) -> io::Result<Vec<u8>> {
    // More than any segment would be somebody else's file; its start decides.
    let bytes = file.bytes()?.min(u64::from(crate::format::Layout::MAX_BYTES));
    let mut content = vec![0; bytes as usize];
    let read = read_around(file, &mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// Reads like [`DiskFile::read_at`], with zeros for what a bad spot on the medium does not give
/// back.
///
/// No record checks out there, so it is skipped and counted as all damage is.
pub(crate) fn read_around(file: &impl DiskFile, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    const PAGE: usize = 4096;
    if let Ok(read) = file.read_at(buffer, at) {
        return Ok(read);
    }
    let rest = file.bytes()?.saturating_sub(at);
    let readable = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
    let buffer = &mut buffer[..readable];
    for (i, page) in buffer.chunks_mut(PAGE).enumerate() {
        if file.read_at(page, at + (i * PAGE) as u64).is_err() {
            page.fill(0);
        }
    }
    Ok(readable)
}

/// A folder of the real file system.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    writable: bool,
}

impl Folder {
    /// The folder for a writer; it is made if it is not there.
    pub(crate) fn for_writing(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { path: path.to_owned(), writable: true })
    }

    /// The folder for a reader, which may lack the right to write.
    pub(crate) fn for_reading(path: &Path) -> io::Result<Self> {
        fs::read_dir(path)?;
        Ok(Self { path: path.to_owned(), writable: false })
    }
}

/// The lock file, locked.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing alone would leave it locked for as long as a process that is being started has a
        // copy of the file. If this fails, that is what happens.
        flock(&self.0, FlockOperation::Unlock).ok();
    }
}

impl Disk for Folder {
    type File = File;
    type Lock = Locked;

    fn lock(&self) -> Result<Locked, Error> {
        let path = self.path.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(io_error("open the lock file"))?;
        if let Err(refused) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if refused != rustix::io::Errno::WOULDBLOCK {
                return Err(io_error("lock the lock file")(refused.into()));
            }
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(Error::Locked { path, pid });
        }
        // Only a courtesy to whoever meets the lock: on a full disk the queue opens without it.
        if file.set_len(0).is_ok() {
            writeln!(file, "{}", std::process::id()).ok();
        }
        Ok(Locked(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // Names that are not UTF-8 are not ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(self.writable).open(self.path.join(name))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let path = self.path.join(name);
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o640).open(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match FileExt::read_at(self, &mut buffer[read..], at + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
