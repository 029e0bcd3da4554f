//! The configuration: as written, as merged, as checked.
//!
//! ```text
//! agent.toml      ──written──┐
//! agent.d/*.toml  ──written──┴─merged──▶ one tree ──checked──▶ Settings
//!                                        (each value with          or
//!                                         its file and line)    Problems
//! ```
//!
//! Guarantees: whoever holds [`Settings`] need not check a value again; every complaint names file,
//! line, key, what stands there and what would be right; one run names all of them (a file that is
//! not TOML is complained about before its values are looked at). No byte in a file makes this
//! module panic, and what may be a secret is not shown.
//!
//! It opens no device and asks no server. Of a file named in the configuration it knows only
//! whether it is there.

mod checked;
mod environment;
mod form;
mod merged;
mod problem;
mod redacted;
mod reference;
mod schema;
pub mod settings;
#[cfg(test)]
mod tests;
mod written;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use environment::Environment;
use problem::Problems;
pub use problem::{Problem, Severity};
pub use redacted::{Redacted, effective, redacted};
pub use reference::reference;
pub use settings::Settings;
use settings::{Bus, Queue, RepositorySettings, SolarNet};

use crate::domain::NodeId;

/// The configuration file to read: the one named on the command line, or in `$SOLARNODE_CONFIG`, or the
/// default of this user.
#[must_use]
pub fn locate(named: Option<PathBuf>) -> PathBuf {
    named.or_else(environment::named_file).unwrap_or_else(|| Environment::read().file)
}

/// The control socket of a daemon on the configuration `file`, where that says nothing of it.
#[must_use]
pub fn default_socket(file: &Path) -> PathBuf {
    environment::control_socket(&Environment::read().state_dir(file))
}

/// Reads a duration as the configuration spells it, such as `24h`.
#[must_use]
pub fn duration(text: &str) -> Option<std::time::Duration> {
    form::span(text)
}

/// What systemd tells a service beside its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The folder of credentials that were passed (`LoadCredential=`).
    pub credentials: Option<PathBuf>,
    /// Whether standard error is the journal.
    pub logs_to_journal: bool,
}

impl Service {
    /// Of this process.
    #[must_use]
    pub fn read() -> Self {
        Self {
            credentials: environment::passed_credentials(),
            logs_to_journal: environment::logs_to_journal(),
        }
    }
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What the daemon runs on.
    pub settings: Settings,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
}

/// Reads and checks the file `path` and its drop-ins.
///
/// # Errors
///
/// If a file cannot be read, or with all that is wrong in them.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    load_in(path, &Environment::read())
}

fn load_in(path: &Path, environment: &Environment) -> Result<Loaded, ConfigError> {
    let table = merged::read(path)?;
    let problems = Problems::default();
    let settings = checked::settings(&table, environment, path, &problems);
    let (settings, warnings) = problems.judge(settings).map_err(ConfigError::Invalid)?;
    Ok(Loaded { settings, warnings })
}

/// What commands need that work on this device without being the daemon.
///
/// A slip in the section of a meter does not keep anybody from repairing a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// Where everything that must survive lives.
    pub state_dir: PathBuf,
    /// The Unix socket of the running daemon.
    pub control_socket: PathBuf,
    /// The node, if the file names one.
    pub node: Option<NodeId>,
    /// How datum wait, if that section is right.
    pub queue: Option<Queue>,
    solarnet: Result<SolarNet, Vec<Problem>>,
    repository: Result<Option<RepositorySettings>, Vec<Problem>>,
}

impl Local {
    /// How SolarNetwork is reached.
    ///
    /// # Errors
    ///
    /// With what is wrong in that section.
    pub fn solarnet(&self) -> Result<&SolarNet, ConfigError> {
        self.solarnet.as_ref().map_err(|problems| ConfigError::Invalid(problems.clone()))
    }

    /// The File Repository, where there is one.
    ///
    /// # Errors
    ///
    /// With what is wrong in that section.
    pub fn repository(&self) -> Result<Option<&RepositorySettings>, ConfigError> {
        let repository = self.repository.as_ref();
        repository.map(Option::as_ref).map_err(|problems| ConfigError::Invalid(problems.clone()))
    }
}

/// Reads what [`Local`] shows of the file `path` and its drop-ins. Where the default file is not
/// there, its defaults hold.
///
/// # Errors
///
/// If a file cannot be read or is not TOML, or with what is wrong in the paths.
pub fn load_local(path: &Path) -> Result<Local, ConfigError> {
    load_local_in(path, &Environment::read())
}

fn load_local_in(path: &Path, environment: &Environment) -> Result<Local, ConfigError> {
    let table = match merged::read(path) {
        Err(ConfigError::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound && path == environment.file =>
        {
            merged::nothing(path)
        }
        other => other?,
    };
    let parts = checked::parts(&table, environment, path);
    let (state_dir, control_socket) = parts.paths.map_err(ConfigError::Invalid)?;
    let (node, queue, solarnet) = (parts.node, parts.queue, parts.solarnet);
    let repository = parts.repository;
    Ok(Local { state_dir, control_socket, node, queue, solarnet, repository })
}

/// What is wrong with the value of `key` though it passed the check, said of the place where it stands. An index in
/// the key counts over all files.
#[must_use]
pub fn problem_at(
    path: &Path,
    key: &str,
    found: String,
    expected: String,
    severity: Severity,
) -> Problem {
    let table = merged::read(path).ok();
    let node = table.as_ref().and_then(|table| merged::find(table, key));
    // A default stands nowhere.
    let (file, line) = match node {
        Some(node) => (node.file.to_string(), Some(node.line)),
        None => (path.display().to_string(), None),
    };
    let key = key.to_owned();
    Problem { file, line, key, found, expected, severity }
}

/// Reads the buses of the file `path` and its drop-ins, whatever else is wrong in them.
///
/// # Errors
///
/// If a file cannot be read or is not TOML, or with what is wrong with the buses.
pub fn load_buses(path: &Path) -> Result<Vec<Bus>, ConfigError> {
    checked::only_buses(&merged::read(path)?).map_err(ConfigError::Invalid)
}

/// The buses of files in memory, each with its name; a later one is laid over the earlier ones.
///
/// # Errors
///
/// If one is not TOML, or with what is wrong with the buses.
pub fn buses_of(files: &[(String, Vec<u8>)]) -> Result<Vec<Bus>, ConfigError> {
    checked::only_buses(&merged::of(files)?).map_err(ConfigError::Invalid)
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder cannot be read.
    #[error("the configuration {} cannot be read (--config names another one)", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something in it is wrong. Warnings are among the problems.
    #[error("the configuration cannot be used:{}", Listed(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Whether the file is there and not ours to read.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Invalid(_) => false,
        }
    }
}

/// The errors among the problems, each on a line of its own: what has to be put right.
struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.0.iter().filter(|problem| problem.severity == Severity::Error);
        errors.try_for_each(|problem| write!(f, "\n{problem}"))
    }
}
