//! What stands beside a credential: its token's policy as it was last seen (`NAME.policy`), the record of a token that
//! is being issued (`NAME.issue`) or rotated (`NAME.rotation`), and a file that is locked while the token is being
//! rotated (`NAME.rotating`). Nothing of it is secret, and signing needs none of it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{OpenOptionsExt, fchown},
    path::PathBuf,
};

use rustix::fs::OFlags;

use super::{Remembered, Store, StoreError, bits, failed, read, remove};
use crate::domain::{TokenId, TokenName};

/// Longest note read: one may list every token of an account.
const MAX_NOTE_BYTES: u64 = 4 << 20;

/// What may stand beside a credential, under its name: nothing secret, and nothing that signing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The policy that SolarNetwork was last seen to keep for the token: `NAME.policy`.
    Policy,
    /// A token that is being issued: `NAME.issue`.
    Issue,
    /// A token that is being rotated: `NAME.rotation`.
    Rotation,
}

impl Note {
    fn ending(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Issue => "issue",
            Self::Rotation => "rotation",
        }
    }
}

impl Store {
    /// The policy of this token, as it was last seen.
    ///
    /// # Errors
    ///
    /// If there is a file that cannot be read.
    pub fn remembered(
        &self,
        name: &TokenName,
        id: &TokenId,
    ) -> Result<Option<Remembered>, StoreError> {
        let bytes = self.note(name, Note::Policy)?;
        Ok(bytes.and_then(|bytes| Remembered::from_bytes(&bytes, id)))
    }

    /// Remembers the policy of the token of that name.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written; what was there is then still there.
    pub fn remember(&self, name: &TokenName, seen: &Remembered) -> Result<(), StoreError> {
        self.put_note(name, Note::Policy, &seen.to_bytes())
    }

    /// What stands beside the credential of that name.
    ///
    /// # Errors
    ///
    /// If there is a file that cannot be read.
    pub fn note(&self, name: &TokenName, note: Note) -> Result<Option<Vec<u8>>, StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(None);
        }
        let read = read(&self.note_path(name, note), MAX_NOTE_BYTES, |_| Ok(()))?;
        Ok(read.map(|bytes| bytes.to_vec()))
    }

    /// Puts a note beside the credential of that name, in place of one that is there.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or written.
    pub fn put_note(&self, name: &TokenName, note: Note, bytes: &[u8]) -> Result<(), StoreError> {
        let folder = self.lock()?;
        self.write_file(&folder, &self.note_path(name, note), bytes)
    }

    /// Removes a note, if it is there.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn remove_note(&self, name: &TokenName, note: Note) -> Result<(), StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(());
        }
        let folder = self.lock()?;
        remove(&self.note_path(name, note))?;
        folder.sync_all().map_err(failed("write", &self.folder))
    }

    /// Keeps every other rotation of the token away until the handle is dropped; `None` if one is under
    /// way. The empty file stays.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn begin_rotation(&self, name: &TokenName) -> Result<Option<File>, StoreError> {
        let folder = self.lock()?;
        let path = self.folder.join(format!("{name}.rotating"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(bits(OFlags::NOFOLLOW));
        let file = options.open(&path).map_err(failed("open", &path))?;
        if let Some((user, group)) = self.owner(&folder)? {
            fchown(&file, Some(user), Some(group)).map_err(failed("change the owner of", &path))?;
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    pub(super) fn note_path(&self, name: &TokenName, note: Note) -> PathBuf {
        self.folder.join(format!("{name}.{}", note.ending()))
    }
}
