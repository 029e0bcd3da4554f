//! `files token show` and `files token revoke`: what the repository knows of a token, and its end.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Context, Described, Exit, Failure, Manager, OrStoreExit, Server, Streams, block_on, failed,
    print_json, read_token_file,
};
use crate::{
    credential::RepositoryToken,
    domain::TokenName,
    files::{CallError, Repository, answer::Cause},
};

/// Look a token up: its rights, its limits, when it ends
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  solarnode-agent files token show camera --manager-file manager.txt"
)]
pub(super) struct Show {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    caller: Caller,
    /// Print JSON: {expires, ends, expired, roles, tags, mime_types, max_file_size, user_agents, ip_addresses,
    /// profile}
    #[arg(long)]
    json: bool,
}

/// Revoke a token: it is gone for good, here too
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  solarnode-agent files token revoke camera --yes --manager-file manager.txt"
)]
pub(super) struct Revoke {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    caller: Caller,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// The token in question.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Its name on this device
    name: Option<TokenName>,
    /// Read it from this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Who asks.
#[derive(Debug, Args)]
struct Caller {
    #[command(flatten)]
    manager: Manager,
    /// Ask with the token itself, which needs the right for that
    #[arg(long, conflicts_with = "manager_file")]
    with_itself: bool,
}

impl Which {
    /// The token and the user agent it has to be sent with.
    fn token(&self, context: &Context) -> Result<(RepositoryToken, Option<String>), Failure> {
        match (&self.name, &self.token_file) {
            (Some(name), _) => {
                let stored = context.stored(name)?;
                Ok((stored.token, stored.user_agent))
            }
            (None, Some(path)) => Ok((read_token_file(path)?, None)),
            (None, None) => {
                Err(Failure::new(Exit::Usage, "which token? Say its name, or --token-file FILE"))
            }
        }
    }
}

impl Caller {
    fn connect(
        &self,
        (token, user_agent): &(RepositoryToken, Option<String>),
        server: &Server,
        streams: &mut Streams<'_>,
        context: &Context,
    ) -> Result<Repository, Failure> {
        if self.with_itself {
            return context.connect(server, token.clone(), user_agent.clone());
        }
        context.connect(server, self.manager.token(streams)?, None)
    }
}

impl Show {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        let token = self.which.token(context)?;
        let repository = self.caller.connect(&token, &self.server, streams, context)?;
        let granted = block_on(repository.look_up(&token.0))?.map_err(failed)?;
        let described = Described::granted(&granted);
        if self.json {
            let mut json = described.json();
            json["expired"] = json!(granted.expired);
            json["profile"] = Value::String(granted.profiles.to_string());
            print_json(streams.out, &json)?;
        } else {
            if granted.expired == Some(true) {
                writeln!(streams.err, "warning: the token has expired")?;
            }
            described.print(streams.out)?;
        }
        Ok(Exit::Ok)
    }
}

impl Revoke {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        let token = self.which.token(context)?;
        self.ask(streams)?;
        let repository = self.caller.connect(&token, &self.server, streams, context)?;
        let gone = match block_on(repository.revoke(&token.0))? {
            Ok(()) => "revoked",
            // As after an attempt that was interrupted.
            Err(CallError::Refused(refusal))
                if refusal.cause == Cause::NotFound && self.which.name.is_some() =>
            {
                "unknown to the repository already"
            }
            Err(error) => return Err(failed(error)),
        };
        match &self.which.name {
            Some(name) => {
                context.store().forget_repository(name).or_store_exit()?;
                writeln!(streams.out, "token `{name}` {gone}, and removed from this device")?;
            }
            None => writeln!(streams.out, "token {gone}")?,
        }
        Ok(Exit::Ok)
    }

    fn ask(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let agreed = self.yes || {
            let answer = (streams.confirm)("A revoked token is gone for good. Revoke it?")?;
            answer.ok_or_else(|| Failure::new(Exit::Usage, "nobody is there to ask; say --yes"))?
        };
        if agreed { Ok(()) } else { Err(Failure::new(Exit::Usage, "nothing was done")) }
    }
}
