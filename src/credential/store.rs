//! The credentials on this device: one file a token, `STATE_DIR/credentials/NAME.json`.
//!
//! ```json
//! {"token_id":"abcdefghij0123456789","key":"ac7d…2577","key_date":"20260226"}
//! ```
//!
//! `key_date` is the UTC day the key was made for. `secret` stands beside them only where the
//! operator asked for it with `--keep-secret`.
//!
//! * The folder has mode 0700 and the files 0600. Wider ones are refused with the command that
//!   repairs them, because whoever could read them may have the key.
//! * A file is replaced whole or not at all ([`file::replace_for`]), so a power cut at any moment
//!   leaves the old credential or the new one. One that cannot be understood is named and left
//!   alone.
//! * Folder and files belong to the owner of the folder they are in, whoever runs the command: what
//!   root imports, the daemon can read and renew.
//! * Changes hold a lock on the folder. A renewed key is written only over an older one of the same
//!   token, so a refresh under way never undoes an import.
//!
//! systemd can pass a credential instead (`LoadCredential=NAME:…`): a file NAME in
//! `$CREDENTIALS_DIRECTORY`, in the form above, where `key` and `key_date` may be missing if there
//! is a `secret`, or as two lines of text, token ID and secret. It is read where the store has no
//! NAME. A secret from there is used from memory and never written to the store.
//!
//! Beside a credential may stand notes about it ([`Note`]), and beside them all the node's certificate ([`identity`])
//! and tokens of a File Repository ([`repository`]).
//!
//! It does not encrypt: whoever can read the daemon's files as the daemon can sign as the daemon.

mod form;
pub mod identity;
mod notes;
pub mod repository;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chrono::NaiveDate;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use self::form::{parse, parse_passed, render};
pub use self::notes::Note;
use super::{Credential, Remembered};
use crate::{domain::TokenName, file};

/// Longest file read: ours have 200 bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// How long a change waits for another one to finish. Each takes a few writes to the disk.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Where credentials are kept.
#[derive(Debug, Clone)]
pub struct Store {
    state_dir: PathBuf,
    folder: PathBuf,
    passed: Option<PathBuf>,
}

/// Where a credential was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In the store.
    Store,
    /// In `$CREDENTIALS_DIRECTORY`, passed by systemd.
    Passed,
}

/// What became of a renewed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// It is on disk.
    Written,
    /// It need not be: its secret was passed from outside and is passed again at the next start.
    NotNeeded,
    /// Another credential was put in meanwhile; this is it.
    Superseded(Box<Credential>),
    /// The token was removed from the store meanwhile.
    Forgotten,
}

/// Why the store could not be used. No message holds a secret or key.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Others may have read it.
    #[error(
        "{} is open to other users (mode {mode:04o}) and holds secrets: \
         run `chmod {wanted:o} {}`, and replace what is in it if others may have read it", path.display(), path.display()
    )]
    TooWide {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they have to be.
        wanted: u32,
    },
    /// It is another user's.
    #[error("{} belongs to another user; run this as root or as that user", path.display())]
    NotAllowed {
        /// The file or folder.
        path: PathBuf,
    },
    /// The file cannot be understood.
    #[error(
        "{} is not a credential file: {reason}; it was left as it is. \
         Import the token again with `solarnode-agent token import`", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words of ours.
        reason: String,
    },
    /// The file of a File Repository token cannot be understood.
    #[error(
        "{} is not a File Repository token: {reason}; it was left as it is. \
         Import the token again with `solarnode-agent files token import`", path.display()
    )]
    CorruptRepositoryToken {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words of ours.
        reason: String,
    },
    /// Another change does not end.
    #[error("another command has held the credential store {} for 10 s", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The disk or file system.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// The store below `state_dir`, and what systemd passed (`$CREDENTIALS_DIRECTORY`). Touches
    /// nothing.
    #[must_use]
    pub fn new(state_dir: &Path, passed: Option<PathBuf>) -> Self {
        let folder = Self::folder_below(state_dir);
        Self { state_dir: state_dir.to_owned(), folder, passed }
    }

    /// The folder of the store below `state_dir`.
    #[must_use]
    pub fn folder_below(state_dir: &Path) -> PathBuf {
        state_dir.join("credentials")
    }

    /// The file of a token.
    #[must_use]
    pub fn path(&self, name: &TokenName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// The names of the tokens in the store, sorted.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read or is open to others.
    pub fn names(&self) -> Result<Vec<TokenName>, StoreError> {
        let Some(folder) = self.open_folder()? else { return Ok(Vec::new()) };
        drop(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("read", &self.folder))? {
            let entry = entry.map_err(failed("read", &self.folder))?;
            let name = entry.file_name();
            // A leftover `NAME.json.new` of a crash is no credential.
            let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
            names.extend(name.and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Reads the credential of that name: from the store, else from what systemd passed.
    ///
    /// `today` is the UTC day to make a key for, where only a secret was passed.
    ///
    /// # Errors
    ///
    /// If there is one that cannot be read, understood, or trusted to be ours alone.
    pub fn load(
        &self,
        name: &TokenName,
        today: NaiveDate,
    ) -> Result<Option<(Credential, Origin)>, StoreError> {
        if let Some(credential) = self.load_stored(name)? {
            return Ok(Some((credential, Origin::Store)));
        }
        let Some(path) = self.passed.as_ref().map(|folder| folder.join(name.as_str())) else {
            return Ok(None);
        };
        // systemd's folder is the service's alone; its modes are systemd's business.
        let Some(bytes) = read(&path, MAX_FILE_BYTES, |_| Ok(()))? else { return Ok(None) };
        let credential =
            parse_passed(&bytes, today).map_err(|reason| StoreError::Corrupt { path, reason })?;
        Ok(Some((credential, Origin::Passed)))
    }

    /// Reads the credential of that name from the store alone.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub fn load_stored(&self, name: &TokenName) -> Result<Option<Credential>, StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(None);
        }
        let path = self.path(name);
        let check = |file: &File| refuse_wide(&path, file, 0o600);
        let Some(bytes) = read(&path, MAX_FILE_BYTES, check)? else {
            return Ok(None);
        };
        parse(&bytes).map(Some).map_err(|reason| StoreError::Corrupt { path, reason })
    }

    /// Puts in a credential in place of whatever has that name.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or written; what was there is then still there.
    pub fn save(&self, name: &TokenName, credential: &Credential) -> Result<(), StoreError> {
        let folder = self.lock()?;
        self.write(&folder, name, credential)
    }

    /// Puts in a renewed key of a token, unless the store has moved on: to another token, to a key
    /// as new (where keys cannot be made anew from a secret), or to none.
    ///
    /// The secret is written only where it already stands. A credential that was passed by systemd
    /// moves to the store with its first renewed key, unless its secret was passed.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or written; what was there is then still there.
    pub fn save_renewed(
        &self,
        name: &TokenName,
        renewed: &Credential,
        origin: Origin,
    ) -> Result<Saved, StoreError> {
        if origin == Origin::Passed && renewed.secret.is_some() {
            return Ok(Saved::NotNeeded);
        }
        let folder = self.lock()?;
        match self.load_stored(name)? {
            Some(stored) => {
                let as_new = stored.secret.is_none() && stored.key_date >= renewed.key_date;
                if as_new || stored.token_id != renewed.token_id {
                    return Ok(Saved::Superseded(Box::new(stored)));
                }
                let renewed = stored.with_key(renewed.key.clone(), renewed.key_date);
                self.write(&folder, name, &renewed)?;
            }
            None if origin == Origin::Store => return Ok(Saved::Forgotten),
            None => self.write(&folder, name, renewed)?,
        }
        Ok(Saved::Written)
    }

    /// Removes a credential. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn forget(&self, name: &TokenName) -> Result<bool, StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(false);
        }
        let folder = self.lock()?;
        let path = self.path(name);
        remove(&self.note_path(name, Note::Policy))?;
        // What a crash left of a replacement holds a key as well.
        remove(&file::temporary(&path))?;
        let was_there = remove(&path)?;
        folder.sync_all().map_err(failed("write", &self.folder))?;
        Ok(was_there)
    }

    fn write(
        &self,
        folder: &File,
        name: &TokenName,
        credential: &Credential,
    ) -> Result<(), StoreError> {
        self.write_file(folder, &self.path(name), &render(credential))
    }

    fn write_file(&self, folder: &File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let owner = self.owner(folder)?;
        file::replace_for(path, bytes, 0o600, owner).map_err(failed("write", path))
    }

    /// To whom root hands over what it puts into the folder.
    fn owner(&self, folder: &File) -> Result<Option<(u32, u32)>, StoreError> {
        let meta = folder.metadata().map_err(failed("read", &self.folder))?;
        Ok(as_root().then_some((meta.uid(), meta.gid())))
    }

    /// The folder, if it is there and ours alone.
    fn open_folder(&self) -> Result<Option<File>, StoreError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(bits(flags)).open(&self.folder);
        let folder = match opened {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &self.folder)(error)),
        };
        refuse_wide(&self.folder, &folder, 0o700)?;
        Ok(Some(folder))
    }

    /// The folder, made if need be, with the lock that goes when the handle is dropped.
    fn lock(&self) -> Result<File, StoreError> {
        let folder = match self.open_folder()? {
            Some(folder) => folder,
            None => self.make_folder()?,
        };
        let begun = Instant::now();
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(folder),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked { path: self.folder.clone() });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &self.folder)(error)),
            }
        }
    }

    fn make_folder(&self) -> Result<File, StoreError> {
        let mut state_dir = DirBuilder::new();
        state_dir.recursive(true).mode(0o750);
        state_dir.create(&self.state_dir).map_err(failed("make", &self.state_dir))?;
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make", &self.folder)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let folder = self.open_folder()?;
        let folder =
            folder.ok_or_else(|| failed("open", &self.folder)(io::ErrorKind::NotFound.into()))?;
        if as_root() {
            let meta = fs::metadata(&self.state_dir).map_err(failed("read", &self.state_dir))?;
            fchown(&folder, Some(meta.uid()), Some(meta.gid()))
                .map_err(failed("change the owner of", &self.folder))?;
        }
        file::sync_folder(&self.state_dir).map_err(failed("write", &self.state_dir))?;
        Ok(folder)
    }
}

/// Removes a file. Returns whether it was there.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The flags as the standard library takes them.
fn bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("open flags are small numbers")
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => StoreError::NotAllowed { path },
        _ => StoreError::Io { doing, path, source },
    }
}

fn refuse_wide(path: &Path, file: &File, wanted: u32) -> Result<(), StoreError> {
    let mode = file.metadata().map_err(failed("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::TooWide { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

/// The whole of a small file, or `None` if it is not there.
fn read(
    path: &Path,
    max_bytes: u64,
    check: impl FnOnce(&File) -> Result<(), StoreError>,
) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    // NONBLOCK: a pipe in its place must not stop the daemon.
    let flags = bits(OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    check(&file)?;
    // Room from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    file.take(max_bytes).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
