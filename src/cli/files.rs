//! `files`: the File Repository's tokens, and uploads by hand.
//!
//! A File Repository token is ID and secret in one text. So no command takes one from its arguments: they
//! come from standard input or a file, or by the name they have in the store of this device. A manager's
//! token is given for one call and never stored.

mod generate;
mod keep;
mod progress;
mod put;
mod show;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Exit, Failure, OrExit,
    token::{OrStoreExit, Streams, block_on, open, read_word, readable},
};
use crate::{
    clock::Clock,
    config::settings::RepositorySettings,
    credential::{RepositoryCredential, RepositoryToken, Store},
    domain::TokenName,
    files::{
        CallError, Repository,
        answer::Cause,
        client::{Granted, shown_end},
        rules::Restrictions,
    },
    net::Net,
};

/// Issue, look up and revoke File Repository tokens, and upload files
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent files put picture.jpg --tag site-1")]
pub struct Files {
    #[command(subcommand)]
    command: FilesCommand,
}

#[derive(Debug, Subcommand)]
enum FilesCommand {
    Token(Token),
    Put(put::Put),
}

/// Issue, look up and revoke File Repository tokens, and keep them on this device
#[derive(Debug, Args)]
#[command(after_help = "\
A token is ID and secret in one text, so it is never an argument: it is read from a file or from standard input.

Example:
  solarnode-agent files token show camera --manager-file manager.txt")]
struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Generate(Box<generate::Generate>),
    Show(show::Show),
    Revoke(show::Revoke),
    Import(keep::Import),
    List(keep::List),
    Forget(keep::Forget),
}

/// What these commands need of the configuration.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where the store and the journals are.
    pub state_dir: PathBuf,
    /// The repository, where one is configured.
    pub repository: Option<RepositorySettings>,
    /// Authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
}

/// Which repository.
#[derive(Debug, Args)]
struct Server {
    /// Where the repository answers [default: `repository.url` of the configuration]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<String>,
}

/// Whose rights are used.
#[derive(Debug, Args)]
struct Manager {
    /// Read the manager's token from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    manager_file: Option<PathBuf>,
}

impl Files {
    /// Does what was asked.
    ///
    /// # Errors
    ///
    /// With the exit code to end with and the reason to print.
    pub fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        match self.command {
            FilesCommand::Put(put) => put.run(streams, context),
            FilesCommand::Token(Token { command }) => match command {
                TokenCommand::Generate(generate) => generate.run(streams, context),
                TokenCommand::Show(show) => show.run(streams, context),
                TokenCommand::Revoke(revoke) => revoke.run(streams, context),
                TokenCommand::Import(import) => import.run(streams, context),
                TokenCommand::List(list) => list.run(streams, context),
                TokenCommand::Forget(forget) => forget.run(streams, context),
            },
        }
    }
}

impl Context {
    fn store(&self) -> Store {
        // What systemd passes is for the daemon; commands see the store alone.
        Store::new(&self.state_dir, None)
    }

    /// The stored token of that name; it is an error if there is none.
    fn stored(&self, name: &TokenName) -> Result<RepositoryCredential, Failure> {
        self.store().load_repository(name).or_store_exit()?.ok_or_else(|| {
            let message = format!(
                "no File Repository token `{name}` on this device; \
                 import it: `solarnode-agent files token import {name}` \
                 (a token itself is no argument: `--token-file FILE`)"
            );
            Failure::new(Exit::Config, message)
        })
    }

    fn url<'a>(&'a self, server: &'a Server) -> Result<&'a str, Failure> {
        let configured = self.repository.as_ref().map(|repository| repository.url.as_str());
        server.url.as_deref().or(configured).ok_or_else(|| {
            let message = "no repository: say `--url URL`, or [repository] with its `url` in the configuration";
            Failure::new(Exit::Config, message)
        })
    }

    fn connect(
        &self,
        server: &Server,
        token: RepositoryToken,
        user_agent: Option<String>,
    ) -> Result<Repository, Failure> {
        let url = self.url(server)?;
        let net =
            Net::new(self.ca_file.as_ref(), self.timeout, Clock::untold()).or_exit(Exit::Config)?;
        Ok(Repository::new(net, url, token, user_agent))
    }
}

impl Manager {
    fn token(&self, streams: &mut Streams<'_>) -> Result<RepositoryToken, Failure> {
        match &self.manager_file {
            Some(path) => read_token_file(path),
            None => read_token(&mut *streams.input, "standard input"),
        }
    }
}

fn read_token(input: impl std::io::Read, from: &str) -> Result<RepositoryToken, Failure> {
    let text = read_word(input, from)?;
    text.trim_ascii().parse().with_context(|| format!("no token in {from}")).or_exit(Exit::Usage)
}

fn read_token_file(path: &Path) -> Result<RepositoryToken, Failure> {
    read_token(open(path)?, &path.display().to_string())
}

/// `--url`
fn parse_url(text: &str) -> Result<String, &'static str> {
    const WRONG: &str =
        "an address is written https://files.example.com, without user name and query";
    let rest =
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(WRONG)?;
    let odd = |c: char| matches!(c, '@' | '?' | '#') || c.is_whitespace() || c.is_control();
    if rest.is_empty() || rest.starts_with('/') || rest.contains(odd) {
        return Err(WRONG);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A failed call as the end of a command.
fn failed(error: CallError) -> Failure {
    let exit = exit_of(&error);
    Failure { exit, error: error.into() }
}

fn exit_of(error: &CallError) -> Exit {
    match error {
        CallError::NoAnswer { error: crate::net::SendError::Content(_), .. } => Exit::Io,
        CallError::NoAnswer { .. } => Exit::Unavailable,
        CallError::Refused(refusal) => match refusal.cause {
            Cause::Trouble | Cause::Foreign => Exit::Unavailable,
            Cause::TokenUnknown
            | Cause::Denied
            | Cause::Tag
            | Cause::Password
            | Cause::Mime
            | Cause::Size
            | Cause::Invalid
            | Cause::NotFound => Exit::NoPermission,
        },
    }
}

/// What a token is, for people and scripts.
struct Described<'a> {
    restrictions: &'a Restrictions,
    user_agents: Option<&'a [String]>,
    ip_addresses: Option<&'a [String]>,
}

impl<'a> Described<'a> {
    fn granted(granted: &'a Granted) -> Self {
        Self {
            restrictions: &granted.restrictions,
            user_agents: granted.user_agents.as_deref(),
            ip_addresses: granted.ip_addresses.as_deref(),
        }
    }

    fn json(&self) -> serde_json::Value {
        let known = self.restrictions;
        json!({
            "expires": known.expires.map(|digits| shown_end(Some(digits))),
            "ends": known.ends(),
            "roles": known.roles,
            "tags": known.tags,
            "mime_types": known.mime_types,
            "max_file_size": known.max_file_size,
            "user_agents": self.user_agents,
            "ip_addresses": self.ip_addresses,
        })
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let known = self.restrictions;
        let utc = known.ends().map(|ends| format!(" ({})", readable(ends))).unwrap_or_default();
        let size = match known.max_file_size {
            None => "any".to_owned(),
            Some(limit) if limit <= 0 => "none: the limit is not above zero".to_owned(),
            Some(limit) => format!("smaller than {limit} bytes"),
        };
        let listed = |values: &[String]| match values {
            [] => "any".to_owned(),
            values => values.join(", "),
        };
        let told = |values: Option<&[String]>| {
            values.map_or_else(|| "not told by this version of the server".to_owned(), listed)
        };
        writeln!(out, "ends         {} by the server's clock{utc}", shown_end(known.expires))?;
        writeln!(out, "roles        {}", known.roles.join(", "))?;
        writeln!(out, "tags         {}", listed(&known.tags))?;
        writeln!(out, "types        {}", listed(&known.mime_types))?;
        writeln!(out, "size         {size}")?;
        writeln!(out, "user agents  {}", told(self.user_agents))?;
        writeln!(out, "addresses    {}", told(self.ip_addresses))
    }
}

fn print_json(out: &mut dyn Write, value: &serde_json::Value) -> std::io::Result<()> {
    writeln!(out, "{value:#}")
}

fn now() -> DateTime<Utc> {
    Clock::untold().believed_now()
}
