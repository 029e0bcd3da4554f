//! Who acts in the commands that manage tokens: a credential given for this one command, stored
//! nowhere.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Streams, parse_token_id, read_secret, read_secret_file};
use crate::{
    domain::TokenId,
    solarnet::{CallAs, Next},
    tokens::{Manager, TokensError},
};

/// The manager's credential.
#[derive(Debug, Args)]
#[command(next_help_heading = "Acting as")]
pub(super) struct As {
    /// Act as this User token, one whose policy restricts nothing but its own life
    #[arg(long = "as", value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    manager: TokenId,
    /// Read its secret from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// The manager's credential, where a command can do without.
#[derive(Debug, Args)]
#[command(next_help_heading = "Acting as")]
pub(super) struct MaybeAs {
    /// Act as this User token, one whose policy restricts nothing but its own life
    #[arg(long = "as", id = "as", value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    manager: Option<TokenId>,
    /// Read its secret from this file [default: standard input]
    #[arg(long, value_name = "FILE", requires = "as")]
    secret_file: Option<PathBuf>,
}

impl MaybeAs {
    /// The credential, if one was given.
    pub(super) fn given(&self) -> Option<As> {
        let manager = self.manager.clone()?;
        Some(As { manager, secret_file: self.secret_file.clone() })
    }
}

impl As {
    /// The manager, with the secret read. Nothing is asked of the server yet.
    pub(super) fn manager<'a, C: CallAs>(
        &self,
        streams: &mut Streams<'_>,
        calls: &'a C,
    ) -> Result<Manager<'a, C>, Failure> {
        let secret = match &self.secret_file {
            Some(path) => read_secret_file(path)?,
            None => read_secret(&mut *streams.input, "standard input")?,
        };
        Ok(Manager::new(calls, self.manager.clone(), secret))
    }
}

/// The exit code of what can go wrong with managing: who has to act decides it.
pub(super) trait OrTokensExit<T> {
    fn or_tokens_exit(self) -> Result<T, Failure>;
}

impl<T> OrTokensExit<T> for Result<T, TokensError> {
    fn or_tokens_exit(self) -> Result<T, Failure> {
        self.map_err(failure)
    }
}

/// The error as the end of a command.
pub(super) fn failure(error: TokensError) -> Failure {
    Failure { exit: exit_of(&error), error: error.into() }
}

fn exit_of(error: &TokensError) -> Exit {
    match error {
        TokensError::Call { error, .. } => match error.next() {
            Next::Retry { .. } => Exit::Unavailable,
            Next::RefreshKey | Next::Content | Next::Gone | Next::Stop => Exit::NoPermission,
        },
        TokensError::Unreadable { .. } => Exit::Unavailable,
        TokensError::Restricted { .. }
        | TokensError::NoSuchToken(_)
        | TokensError::OtherPolicy { .. } => Exit::NoPermission,
    }
}

/// Goes on only if somebody said yes: `--yes` before, or a person now.
pub(super) fn ask(streams: &mut Streams<'_>, yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    match (streams.confirm)(question)? {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new(Exit::Usage, "nothing was done")),
        None => Err(Failure::new(
            Exit::Usage,
            "nothing was done: nobody is there to ask; --yes does it without asking",
        )),
    }
}
