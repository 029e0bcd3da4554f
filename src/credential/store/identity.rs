//! The node's certificate in the store: `STATE_DIR/credentials/node.pem`, its chain and private key.
//!
//! PEM, so that other programs can read it. It stands in the same folder as the tokens, under the same rules of owner,
//! mode, lock and replacement. Beside it may stand `node.next.pem`, a renewed one that is not proved yet; a power
//! cut at any moment leaves the old one in use and the renewed one to be proved again. `node.association` holds what is
//! needed to fetch the certificate of a node whose association was interrupted.
//!
//! systemd can pass one instead: a file `node-certificate` in `$CREDENTIALS_DIRECTORY`, in PEM. It is read where
//! the store has none.
//!
//! What is in them is no business of the store.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Origin, Store, StoreError, failed, read, refuse_wide, remove};
use crate::file;

/// The longest file: a key and a chain of eight certificates have half of it.
const MAX_BYTES: u64 = 64 * 1024;

/// The name under which systemd passes it.
const PASSED: &str = "node-certificate";

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The one in use.
    Current,
    /// A renewed one that is not proved yet.
    Next,
    /// No certificate: the password under which the server keeps the one of a node that is being associated.
    Association,
}

/// A file that was there.
pub struct Found {
    /// What is in it. Wiped on drop.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Who put it there.
    pub origin: Origin,
    /// Where.
    pub path: PathBuf,
}

impl Store {
    /// The file of the node's certificate.
    #[must_use]
    pub fn identity_path(&self, slot: Slot) -> PathBuf {
        self.folder.join(match slot {
            Slot::Current => "node.pem",
            Slot::Next => "node.next.pem",
            Slot::Association => "node.association",
        })
    }

    /// Reads the node's certificate: from the store, else, for [`Slot::Current`], from what systemd passed.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub fn load_identity(&self, slot: Slot) -> Result<Option<Found>, StoreError> {
        let path = self.identity_path(slot);
        if self.open_folder()?.is_some()
            && let Some(bytes) = read(&path, MAX_BYTES, |file| refuse_wide(&path, file, 0o600))?
        {
            return Ok(Some(Found { bytes, origin: Origin::Store, path }));
        }
        let passed = self.passed.as_ref().filter(|_| slot == Slot::Current);
        let Some(path) = passed.map(|folder| folder.join(PASSED)) else { return Ok(None) };
        let bytes = read(&path, MAX_BYTES, |_| Ok(()))?;
        Ok(bytes.map(|bytes| Found { bytes, origin: Origin::Passed, path }))
    }

    /// Puts in a certificate in place of the one in that slot.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or written; what was there is then still there.
    pub fn save_identity(&self, slot: Slot, pem: &[u8]) -> Result<(), StoreError> {
        let folder = self.lock()?;
        self.write_file(&folder, &self.identity_path(slot), pem)
    }

    /// Puts in a certificate in place of the one in that slot, unless the store has moved on: `holds` is asked under
    /// the lock. Returns whether it did.
    ///
    /// # Errors
    ///
    /// As [`Store::save_identity`].
    pub fn save_identity_if(
        &self,
        slot: Slot,
        pem: &[u8],
        holds: impl FnOnce() -> bool,
    ) -> Result<bool, StoreError> {
        let folder = self.lock()?;
        let still = holds();
        if still {
            self.write_file(&folder, &self.identity_path(slot), pem)?;
        }
        Ok(still)
    }

    /// Removes a certificate. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn forget_identity(&self, slot: Slot) -> Result<bool, StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(false);
        }
        let folder = self.lock()?;
        let path = self.identity_path(slot);
        // What a crash left of a replacement holds the key as well.
        remove(&file::temporary(&path))?;
        let was_there = remove(&path)?;
        folder.sync_all().map_err(failed("write", &self.folder))?;
        Ok(was_there)
    }
}
