//! How the uploads of files are, for `status`.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Everything about files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Status {
    /// The token's name on this device.
    pub token: String,
    /// When the token ends, where that and the server's zone are known.
    pub ends: Option<DateTime<Utc>>,
    /// One for each `[[files]]`.
    pub folders: Vec<FolderStatus>,
}

/// One folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FolderStatus {
    /// Where it is.
    pub folder: String,
    /// `ok`, `waiting` (it passes by itself) or `stopped` (a person has to act).
    pub state: State,
    /// Why it is not `ok`.
    pub reason: Option<String>,
    /// Files that are to be uploaded, those still being written included.
    pub waiting: usize,
    /// Files uploaded since the start.
    pub uploaded: u64,
    /// Files since the start whose content the repository had already.
    pub known: u64,
    /// Files that cannot be accepted and stay where they are.
    pub aside: usize,
    /// The last of these, and why.
    pub last_aside: Option<Aside>,
    /// When the last file was uploaded.
    pub last_upload: Option<DateTime<Utc>>,
}

/// How a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is in the way.
    #[default]
    Ok,
    /// Trouble that may pass by itself.
    Waiting,
    /// A person has to act.
    Stopped,
}

/// A file that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aside {
    /// Its name.
    pub file: String,
    /// Why.
    pub reason: String,
}
