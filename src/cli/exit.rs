//! How a command ended, as an exit code that scripts and systemd act on.
//!
//! The codes are those of `sysexits.h`; the unit's `RestartPreventExitStatus=64 77 78` and
//! `RestartForceExitStatus=75` rely on them.

use std::fmt;

use crate::{config::ConfigError, observe::control::AskError};

/// The exit codes of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Stopped on request, or a check found nothing.
    Ok = 0,
    /// The daemon lost a task and gave up.
    Failed = 1,
    /// Wrong arguments.
    Usage = 64,
    /// Corrupt data was found.
    Data = 65,
    /// No answer from a device or server, or no daemon is running.
    Unavailable = 69,
    /// A bug that was noticed.
    Software = 70,
    /// A disk failed.
    Io = 74,
    /// An instruction asked for a restart: systemd starts it again.
    Restart = 75,
    /// A file or port is not ours to open, or the server refused.
    NoPermission = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// Why a command did not do its work: the code for scripts, the chain of causes for people.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure of our own words.
    pub fn new(
        exit: Exit,
        message: impl fmt::Display + fmt::Debug + Send + Sync + 'static,
    ) -> Self {
        Self { exit, error: anyhow::Error::msg(message) }
    }
}

impl Failure {
    /// Whether whoever reads our output has seen enough, as in `queue export | head`.
    #[must_use]
    pub fn reader_has_gone(&self) -> bool {
        let io = self.error.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl From<std::io::Error> for Failure {
    /// An output that cannot be written, or a file that cannot be read.
    fn from(error: std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Io,
        };
        Self { exit, error: error.into() }
    }
}

impl From<ConfigError> for Failure {
    /// A configuration that is not ours to read, or not usable.
    fn from(error: ConfigError) -> Self {
        let exit = if error.is_permission() { Exit::NoPermission } else { Exit::Config };
        Self { exit, error: error.into() }
    }
}

impl From<AskError> for Failure {
    /// A daemon that is not there, not ours to ask, or says nothing.
    fn from(error: AskError) -> Self {
        let exit = match error {
            AskError::NotAllowed(_) => Exit::NoPermission,
            AskError::NotRunning(_) | AskError::NoAnswer { .. } => Exit::Unavailable,
        };
        Self { exit, error: error.into() }
    }
}

/// Gives an error the code it ends the program with.
pub trait OrExit<T> {
    /// Ends with `exit` on an error.
    ///
    /// # Errors
    ///
    /// The error, with its code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into() })
    }
}
