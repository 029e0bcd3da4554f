//! File Repository tokens in the store: `STATE_DIR/credentials/NAME.files-token`.
//!
//! ```json
//! {"token":"0C5B…","user_agent":null,"known":{…}}
//! ```
//!
//! Such a token is one text that is sent as it is: ID and secret in one. It stands in the same folder as
//! the others, under the same rules of owner, mode, lock and replacement. `known` is what it was found to
//! be when it was issued or looked up; its meaning is no business of the store.
//!
//! systemd can pass one instead: a file NAME in `$CREDENTIALS_DIRECTORY` with the form above, or with the
//! token alone.

use std::{fmt, fs, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{MAX_FILE_BYTES, Store, StoreError, failed, read, refuse_wide, remove};
use crate::{domain::TokenName, file};

const ENDING: &str = ".files-token";

/// Longest text taken for a token; the server's column holds 36 characters.
const MAX_TOKEN_BYTES: usize = 64;

/// A File Repository token: whoever has the text has the token. Wiped on drop, shown by no `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RepositoryToken(String);

/// A text that is no File Repository token. Does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a File Repository token is one line of at most 64 printable ASCII characters without blanks"
)]
pub struct InvalidRepositoryToken;

impl RepositoryToken {
    /// The one way to the text. Call it inside the expression that consumes it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryToken {
    type Err = InvalidRepositoryToken;

    fn from_str(text: &str) -> Result<Self, InvalidRepositoryToken> {
        let fits = (1..=MAX_TOKEN_BYTES).contains(&text.len());
        if !fits || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidRepositoryToken);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for RepositoryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepositoryToken(<redacted>)")
    }
}

/// What this device holds of one File Repository token.
#[derive(Debug, Clone, PartialEq)]
pub struct RepositoryCredential {
    /// The token.
    pub token: RepositoryToken,
    /// The user agent it has to be sent with, where it is restricted to some.
    pub user_agent: Option<String>,
    /// What is known of its rights.
    pub known: Option<Value>,
}

/// The file, for serde. Its token is wiped on drop; no `Debug`.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Stored {
    token: String,
    #[serde(default)]
    user_agent: Option<String>,
    #[serde(default)]
    #[zeroize(skip)]
    known: Option<Value>,
}

impl Store {
    /// The names of the File Repository tokens in the store, sorted.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read or is open to others.
    pub fn repository_names(&self) -> Result<Vec<TokenName>, StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("read", &self.folder))? {
            let name = entry.map_err(failed("read", &self.folder))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(ENDING));
            names.extend(name.and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Reads the File Repository token of that name: from the store, else from what systemd passed.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub fn load_repository(
        &self,
        name: &TokenName,
    ) -> Result<Option<RepositoryCredential>, StoreError> {
        let path = self.repository_path(name);
        if self.open_folder()?.is_some()
            && let Some(bytes) =
                read(&path, MAX_FILE_BYTES, |file| refuse_wide(&path, file, 0o600))?
        {
            return parse(&bytes, false).map(Some).map_err(|reason| corrupt(&path, reason));
        }
        let Some(path) = self.passed.as_ref().map(|folder| folder.join(name.as_str())) else {
            return Ok(None);
        };
        let Some(bytes) = read(&path, MAX_FILE_BYTES, |_| Ok(()))? else { return Ok(None) };
        parse(&bytes, true).map(Some).map_err(|reason| corrupt(&path, reason))
    }

    /// Puts in a File Repository token in place of whatever has that name.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or written; what was there is then still there.
    pub fn save_repository(
        &self,
        name: &TokenName,
        credential: &RepositoryCredential,
    ) -> Result<(), StoreError> {
        let folder = self.lock()?;
        self.write_file(&folder, &self.repository_path(name), &render(credential))
    }

    /// Makes sure that a token could be saved, before one is issued that could not be kept.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, or is open to others.
    pub fn prepare(&self) -> Result<(), StoreError> {
        self.lock().map(drop)
    }

    /// Removes a File Repository token. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn forget_repository(&self, name: &TokenName) -> Result<bool, StoreError> {
        if self.open_folder()?.is_none() {
            return Ok(false);
        }
        let folder = self.lock()?;
        let path = self.repository_path(name);
        remove(&file::temporary(&path))?;
        let was_there = remove(&path)?;
        folder.sync_all().map_err(failed("write", &self.folder))?;
        Ok(was_there)
    }

    fn repository_path(&self, name: &TokenName) -> std::path::PathBuf {
        self.folder.join(format!("{name}{ENDING}"))
    }
}

fn corrupt(path: &std::path::Path, reason: String) -> StoreError {
    StoreError::CorruptRepositoryToken { path: path.to_owned(), reason }
}

/// The reason says where, never what: serde's own message would quote the token.
fn parse(bytes: &[u8], alone: bool) -> Result<RepositoryCredential, String> {
    let no_token = |error: InvalidRepositoryToken| error.to_string();
    if alone && !bytes.trim_ascii_start().starts_with(b"{") {
        let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| "it is not text")?;
        let token = text.parse().map_err(no_token)?;
        return Ok(RepositoryCredential { token, user_agent: None, known: None });
    }
    let stored: Stored = serde_json::from_slice(bytes)
        .map_err(|error| format!("line {}, column {}", error.line(), error.column()))?;
    let token = stored.token.parse().map_err(no_token)?;
    let (user_agent, known) = (stored.user_agent.clone(), stored.known.clone());
    Ok(RepositoryCredential { token, user_agent, known })
}

fn render(credential: &RepositoryCredential) -> Zeroizing<Vec<u8>> {
    let stored = Stored {
        token: credential.token.expose().to_owned(),
        user_agent: credential.user_agent.clone(),
        known: credential.known.clone(),
    };
    // Room for all that is usual: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    serde_json::to_writer(&mut *bytes, &stored).expect("text makes JSON, and memory takes it");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_token_survives_the_store_and_is_no_token_of_solarnetwork() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::new(dir.path(), None);
        let name: TokenName = "files".parse().expect("a name");
        assert_eq!(store.load_repository(&name).expect("an empty store"), None);
        let credential = RepositoryCredential {
            token: "0C5B0E1A-hunter2".parse().expect("a token"),
            user_agent: Some("Edge/1".to_owned()),
            known: Some(serde_json::json!({ "roles": ["upload.all"] })),
        };
        store.save_repository(&name, &credential).expect("saved");
        assert_eq!(store.load_repository(&name).expect("loaded"), Some(credential.clone()));
        assert_eq!(store.repository_names().expect("listed"), std::slice::from_ref(&name));
        assert_eq!(store.names().expect("listed"), []);
        assert!(!format!("{credential:?}").contains("hunter2"));
        assert!(store.forget_repository(&name).expect("forgotten"));
        assert!(!store.forget_repository(&name).expect("forgotten"));
    }

    #[test]
    fn systemd_passes_a_token_alone_or_with_what_is_known() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let passed = dir.path().join("passed");
        fs::create_dir(&passed).expect("made");
        let store = Store::new(dir.path(), Some(passed.clone()));
        let name: TokenName = "files".parse().expect("a name");
        for text in ["abc-def\n", r#"{"token":"abc-def"}"#] {
            fs::write(passed.join("files"), text).expect("written");
            let found = store.load_repository(&name).expect("loaded").expect("there");
            assert_eq!(found.token.expose(), "abc-def");
        }
        fs::write(passed.join("files"), "two hunter2").expect("written");
        let error = store.load_repository(&name).expect_err("two words").to_string();
        assert!(error.contains("one line") && !error.contains("hunter2"), "{error}");
    }
}
