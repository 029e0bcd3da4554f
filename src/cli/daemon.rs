//! The running daemon that a command asks.
//!
//! It listens where its configuration said when it started. The file may have been changed since, or
//! broken: then it is looked for at the default place, and taken if it runs on that very file.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::{Exit, Failure};
use crate::{
    config,
    domain::TokenName,
    observe::control::{self, Ask, AskError},
};

/// Where the daemon listens, for a command that asks it.
#[derive(Debug, Default, Args)]
pub(super) struct Daemon {
    /// Ask the daemon at this control socket [default: the configured one]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

impl Daemon {
    /// Asks the daemon that runs on the file `config`.
    pub(super) fn ask(&self, config: &Path, ask: Ask) -> Result<Value, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(control::ask(socket, ask)?);
        }
        let default = config::default_socket(config);
        let failure: Failure = match config::load_local(config) {
            Ok(local) => match control::ask(&local.control_socket, ask) {
                Err(error @ AskError::NotRunning(_)) if local.control_socket != default => {
                    error.into()
                }
                answer => return Ok(answer?),
            },
            Err(error) => error.into(),
        };
        let also = match control::ask(&default, Ask::Status) {
            Ok(status) => {
                let its = Path::new(status["config"]["file"].as_str().unwrap_or_default());
                if same_file(its, config) {
                    return Ok(control::ask(&default, ask)?);
                }
                format!("the daemon at {} runs on {}", default.display(), its.display())
            }
            Err(error) => error.to_string(),
        };
        let message = format!("{:#}\n{also}; --socket names another place", failure.error);
        Err(Failure::new(failure.exit, message))
    }

    /// What the daemon that runs on the file `config` would do if it read that again.
    pub(super) fn changes(&self, config: &Path) -> Result<Value, Failure> {
        let diff = self.ask(config, Ask::Changes)?;
        let its = Path::new(diff["file"].as_str().unwrap_or_default());
        if same_file(its, config) {
            return Ok(diff);
        }
        let (its, config) = (its.display(), config.display());
        let message = format!("the running daemon reads {its}: a reload does not look at {config}");
        Err(Failure::new(Exit::Usage, message))
    }
}

/// The member of `credentials` in the status of the daemon at this socket that `is` asks for, where that daemon has it in
/// use. If it is not in the store, systemd passed it: commands do not see what a service is passed.
fn in_use(socket: &Path, is: impl Fn(&Value) -> bool) -> Option<Value> {
    let status = control::ask(socket, Ask::Status).ok()?;
    status["credentials"].as_array()?.iter().find(|credential| is(credential)).cloned()
}

/// The token of that name, as [`in_use`].
pub(super) fn token_in_use(socket: &Path, name: &TokenName) -> Option<Value> {
    in_use(socket, |it| it["token"] == name.as_str() && it["token_id"].is_string())
}

/// The node's certificate, as [`in_use`].
pub(super) fn certificate_in_use(socket: &Path) -> Option<Value> {
    in_use(socket, |it| it["certificate"].is_string() && it["subject"].is_string())
}

fn same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}
