//! `files token import`, `list` and `forget`: the tokens on this device.
//!
//! With an import the token is looked up, so that uploads can be checked before they are sent. It may look
//! itself up only if it has the right; a manager's token can do it instead.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{
    Context, Described, Exit, Failure, OrExit, OrStoreExit, Server, Streams, block_on, failed,
    print_json, read_token, read_token_file, shown_end,
};
use crate::{
    credential::RepositoryCredential,
    domain::TokenName,
    files::{
        CallError,
        answer::{Cause, Next},
        rules::Restrictions,
    },
};

/// Put a token into the store of this device
#[derive(Debug, Args)]
#[command(after_help = "\
The token is read from standard input, or from --token-file.

Example:
  solarnode-agent files token import camera --manager-file manager.txt < token.txt")]
pub(super) struct Import {
    /// The name to keep it under, as in `repository.token`
    name: TokenName,
    #[command(flatten)]
    server: Server,
    /// Read the token from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send it with this user agent, where it is restricted to some
    #[arg(long, value_name = "TEXT")]
    user_agent: Option<String>,
    /// Look its rights up with the manager's token in this file [default: with itself]
    #[arg(long, value_name = "FILE")]
    manager_file: Option<PathBuf>,
    /// Do not ask the repository
    #[arg(long)]
    offline: bool,
}

/// List the File Repository tokens on this device
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent files token list --json")]
pub(super) struct List {
    /// Print JSON: {"tokens": [{name, known, expires, ends, roles, tags, mime_types, max_file_size}]}
    #[arg(long)]
    json: bool,
}

/// Remove a token from this device; the repository still knows it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent files token forget camera")]
pub(super) struct Forget {
    /// The token's name
    name: TokenName,
}

impl Import {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        let token = match &self.token_file {
            Some(path) => read_token_file(path)?,
            None => read_token(&mut *streams.input, "standard input")?,
        };
        let known = if self.offline {
            None
        } else {
            let (asker, user_agent) = match &self.manager_file {
                Some(path) => (read_token_file(path)?, None),
                None => (token.clone(), self.user_agent.clone()),
            };
            let repository = context.connect(&self.server, asker, user_agent)?;
            let answer = block_on(repository.look_up(&token))?;
            self.judge(answer, streams)?
        };
        let credential = RepositoryCredential {
            token,
            user_agent: self.user_agent.clone(),
            known: known.as_ref().map(serde_json::to_value).transpose().or_exit(Exit::Software)?,
        };
        context.store().save_repository(&self.name, &credential).or_store_exit()?;
        writeln!(streams.out, "token `{}` imported", self.name)?;
        if let Some(known) = &known {
            Described { restrictions: known, user_agents: None, ip_addresses: None }
                .print(streams.out)?;
        }
        Ok(Exit::Ok)
    }

    /// What is known of the token after the look-up, or why it is not stored.
    fn judge(
        &self,
        answer: Result<crate::files::client::Granted, CallError>,
        streams: &mut Streams<'_>,
    ) -> Result<Option<Restrictions>, Failure> {
        let error = match answer {
            Ok(granted) => {
                if granted.expired == Some(true) {
                    writeln!(streams.err, "warning: the token has expired")?;
                }
                return Ok(Some(granted.restrictions));
            }
            Err(error) => error,
        };
        match &error {
            // It is known there, and most tokens may not look themselves up.
            CallError::Refused(refusal)
                if refusal.cause == Cause::Denied && self.manager_file.is_none() =>
            {
                writeln!(
                    streams.err,
                    "note: the token may not look itself up, so its limits are not known here and the \
                     repository alone decides about uploads; --manager-file has it looked up"
                )?;
                Ok(None)
            }
            _ if error.next() == Next::Retry => {
                writeln!(streams.err, "warning: {error}; the token is stored unproved")?;
                Ok(None)
            }
            _ => Err(failed(error)),
        }
    }
}

impl List {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        let mut tokens = Vec::new();
        for name in context.store().repository_names().or_store_exit()? {
            let known = context.stored(&name)?.known;
            let known = known.and_then(|known| serde_json::from_value::<Restrictions>(known).ok());
            tokens.push((name, known));
        }
        if self.json {
            let tokens = tokens.iter().map(|(name, known)| {
                let mut json = known.as_ref().map_or_else(
                    || json!({}),
                    |known| {
                        Described { restrictions: known, user_agents: None, ip_addresses: None }
                            .json()
                    },
                );
                json["name"] = json!(name.to_string());
                json["known"] = json!(known.is_some());
                json
            });
            let tokens: Vec<_> = tokens.collect();
            print_json(streams.out, &json!({ "tokens": tokens }))?;
            return Ok(Exit::Ok);
        }
        if tokens.is_empty() {
            writeln!(streams.err, "no File Repository tokens on this device")?;
        }
        for (name, known) in tokens {
            match known {
                Some(known) => writeln!(
                    streams.out,
                    "{name}: ends {} by the server's clock; {}",
                    shown_end(known.expires),
                    known.roles.join(", ")
                )?,
                None => writeln!(streams.out, "{name}: its rights are not known here")?,
            }
        }
        Ok(Exit::Ok)
    }
}

impl Forget {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        // The same words as for any other name that is not there.
        context.stored(&self.name)?;
        context.store().forget_repository(&self.name).or_store_exit()?;
        writeln!(streams.out, "token `{}` removed from this device", self.name)?;
        Ok(Exit::Ok)
    }
}
