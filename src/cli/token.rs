//! `token`: the credentials on this device, tokens at SolarNetwork, and signing by hand.
//!
//! Secrets come from standard input or a file, never from the arguments, which everyone on the
//! machine can read. Nothing here prints a secret or a key, with one exception: `token create` shows
//! the secret of a token that it does not install, once. What needs SolarNetwork asks it through
//! [`RefreshCalls`] and [`CallAs`]; after a change of the store a running daemon is told.

mod change;
mod check;
mod create;
mod import;
mod list;
mod manager;

mod options;
mod policy;
pub(super) mod refresh;
mod rotate;
mod show;
mod sign;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{Exit, Failure, OrExit, daemon::token_in_use};
use crate::{
    clock::Clock,
    config::settings::SolarNet,
    credential::{
        Credential, Remembered, Signer, SigningKey, Store, TokenSecret, date::parse_signing_day,
        store::StoreError,
    },
    domain::{InvalidId, TokenId, TokenName},
    needs::Needs,
    net::Net,
    observe::control::tell_credential_changed,
    refresh::RefreshCalls,
    solarnet::{Api, CallAs},
    tokens,
};

/// Longest secret or key file read.
const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// Look after the tokens on this device, manage those at SolarNetwork, and sign requests by hand
///
/// import, show, check, refresh and forget are about this device; create, list, update, policy, enable,
/// disable and delete about SolarNetwork, and rotate about both. Those act as a manager (--as) whose
/// secret is read for that one command and stored nowhere.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent token check")]
pub struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Create(Box<create::Create>),
    Import(import::Import),
    Show(show::Show),
    Check(check::Check),
    Refresh(refresh::Refresh),
    Forget(show::Forget),
    List(list::List),
    Policy(Box<policy::PolicyCommand>),
    Rotate(rotate::Rotate),
    Update(change::Update),
    Enable(change::Enable),
    Disable(change::Disable),
    Delete(change::Delete),
    Sign(Box<sign::Sign>),
}

/// What these commands need of the configuration.
#[derive(Debug, Clone)]
pub struct TokenContext {
    /// Where everything that must survive lives; the store is in it.
    pub state_dir: PathBuf,
    /// Where a running daemon listens.
    pub control_socket: PathBuf,
    /// How SolarNetwork is reached, and which token is in use.
    pub solarnet: SolarNet,
    /// What the whole configuration needs of its token, if it is right.
    pub needs: Option<Needs>,
}

/// The client for one command: it knows the time only from what the server answers.
///
/// # Errors
///
/// If the configured authorities cannot be read.
pub fn connect(context: &TokenContext) -> Result<Api, Failure> {
    let (solarnet, clock) = (&context.solarnet, Clock::untold());
    let net = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone());
    Ok(Api::new(solarnet, net.or_exit(Exit::Config)?, clock, Signer::new(None)))
}

/// Where secrets come from.
pub trait Secrets: Read {
    /// Names what is read next, for the person who is to type it.
    fn ask_for(&mut self, what: &str);
}

/// Where a command reads and writes.
pub struct Streams<'a> {
    /// Standard input: the secret.
    pub input: &'a mut dyn Secrets,
    /// Standard output: data.
    pub out: &'a mut dyn Write,
    /// Standard error: everything else.
    pub err: &'a mut dyn Write,
    /// Asks a person a question; `None` where nobody is there.
    pub confirm: &'a mut dyn FnMut(&str) -> io::Result<Option<bool>>,
}

impl Token {
    /// Does what was asked.
    ///
    /// `context` reads the configuration and `connect` makes the client; both are called only by
    /// commands that need them, so `token sign` works without either.
    ///
    /// # Errors
    ///
    /// With the exit code to end with and the reason to print.
    pub fn run<C: RefreshCalls + CallAs>(
        self,
        streams: &mut Streams<'_>,
        context: impl FnOnce() -> Result<TokenContext, Failure>,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        match self.command {
            TokenCommand::Create(create) => create.run(streams, &context()?, connect),
            TokenCommand::List(list) => list.run(streams, &connect(&context()?)?),
            TokenCommand::Policy(policy) => policy.run(streams, &context()?, connect),
            TokenCommand::Rotate(rotate) => rotate.run(streams, &context()?, connect),
            TokenCommand::Update(update) => update.run(streams, &context()?, connect),
            TokenCommand::Enable(enable) => enable.run(streams, &connect(&context()?)?),
            TokenCommand::Disable(disable) => disable.run(streams, &connect(&context()?)?),
            TokenCommand::Delete(delete) => {
                let context = context()?;
                delete.run(streams, &context, &connect(&context)?)
            }
            TokenCommand::Import(import) => import.run(streams, &context()?, connect),
            TokenCommand::Show(show) => show.run(streams, &context()?),
            TokenCommand::Check(check) => check.run(streams, &context()?, connect),
            TokenCommand::Refresh(refresh) => refresh.run(streams, &context()?, connect),
            TokenCommand::Forget(forget) => forget.run(streams, &context()?),
            TokenCommand::Sign(sign) => sign.run(streams, context),
        }
    }
}

impl TokenContext {
    fn store(&self) -> Store {
        // What systemd passes is for the daemon; commands see the store alone.
        Store::new(&self.state_dir, None)
    }

    /// The stored credential of that name; it is an error if there is none.
    fn stored(&self, name: &TokenName) -> Result<Credential, Failure> {
        self.store().load_stored(name).or_store_exit()?.ok_or_else(|| {
            match token_in_use(&self.control_socket, name) {
                Some(token) => Failure::new(
                    Exit::Config,
                    format!(
                        "the token `{name}` ({}) is not in the store: systemd passed it to the running daemon alone \
                         (LoadCredential=); `solarnode-agent status` says how it is",
                        token["token_id"].as_str().unwrap_or_default()
                    ),
                ),
                None => missing(name),
            }
        })
    }

    /// Under which names a token is in the store. A store that cannot be read only leaves a remark
    /// out.
    fn names_of(&self, id: &TokenId) -> Vec<TokenName> {
        let store = self.store();
        let mut names = store.names().unwrap_or_default();
        names.retain(|name| {
            let stored = store.load_stored(name).ok().flatten();
            stored.is_some_and(|stored| stored.token_id == *id)
        });
        names
    }

    /// Remembers the policy of a token, if it is on this device.
    fn remember(&self, token: &tokens::Token, seen: DateTime<Utc>) -> Result<(), Failure> {
        let seen = Remembered::new(&token.id, &token.kind, &token.policy, seen);
        let mut names = self.names_of(&token.id).into_iter();
        names.try_for_each(|name| self.store().remember(&name, &seen)).or_store_exit()?;
        // A daemon that does not hear of it reads it when it next reads the store.
        drop(tell_credential_changed(&self.control_socket));
        Ok(())
    }

    /// What the configuration needs; it is an error if it is not right.
    fn needs(&self) -> Result<&Needs, Failure> {
        self.needs.as_ref().ok_or_else(|| {
            Failure::new(
                Exit::Config,
                "the configuration is not right yet, so it is not known what it needs: \
                 `solarnode-agent check` says what is wrong",
            )
        })
    }

    /// These needs, and the sources of the datum that wait in the queue: those of one that was taken out of the
    /// configuration have to be sent, or seen, all the same.
    fn with_waiting(&self, mut needs: Needs, err: &mut dyn Write) -> Result<Needs, Failure> {
        match super::queue::sources(&self.state_dir) {
            Ok(sources) => needs.sources.extend(sources),
            Err(failure) => writeln!(
                err,
                "note: datum of sources that the configuration has no more may wait; if so, these sources are \
                 left out here: {:#}",
                failure.error
            )?,
        }
        Ok(needs)
    }

    /// What the configuration needs of the token of that name, if it is one of its own.
    fn needs_of(&self, name: &TokenName) -> Option<Needs> {
        let needs = self.needs.as_ref()?;
        if *name == self.solarnet.token {
            Some(needs.clone())
        } else {
            (needs.audit_token.as_ref() == Some(name)).then(|| needs.of_audit())
        }
    }

    /// What to say of the token of [solarnet] where it has nothing to do.
    fn idle_token(&self) -> Result<String, Failure> {
        let idle = "with the node's certificate, nothing in this configuration needs that token";
        Ok(match &self.needs()?.audit_token {
            Some(audit) => format!("{idle}; `{audit}` audits, see `--type data`"),
            None => idle.to_owned(),
        })
    }

    /// Tells the user where the daemon will not use the token of that name.
    fn note_other_token(
        &self,
        streams: &mut Streams<'_>,
        name: &TokenName,
        kind: create::Kind,
    ) -> io::Result<()> {
        let used = &self.solarnet.token;
        if name == used || self.needs_of(name).is_some() {
            return Ok(());
        }
        if let (create::Kind::Data, Some(needs)) = (kind, &self.needs) {
            return match &needs.audit_token {
                Some(used) => writeln!(
                    streams.err,
                    "note: the configuration audits with another token, `audit.token = \"{used}\"`"
                ),
                None => writeln!(
                    streams.err,
                    "note: the configuration does not use it yet: `[audit] token = \"{name}\"`"
                ),
            };
        }
        writeln!(
            streams.err,
            "note: the configuration uses another token, `solarnet.token = \"{used}\"`"
        )
    }

    /// Tells a running daemon that the credential `name` changed, and the user `what` that means where
    /// it is the one in use. None running is fine.
    fn tell_daemon(
        &self,
        streams: &mut Streams<'_>,
        name: &TokenName,
        what: &str,
    ) -> io::Result<()> {
        match tell_credential_changed(&self.control_socket) {
            Ok(true) if *name == self.solarnet.token => writeln!(streams.err, "{what}"),
            Ok(true) => Ok(()),
            Ok(false) => Ok(()),
            Err(error) => {
                writeln!(streams.err, "warning: {error}; restart it to use the change")
            }
        }
    }
}

fn missing(name: &TokenName) -> Failure {
    Failure::new(
        Exit::Config,
        format!(
            "no token `{name}` on this device: issue one with \
             `solarnode-agent token create --for-config --as MANAGER`, or import one with \
             `solarnode-agent token import {name} --token-id ID`"
        ),
    )
}

/// Why another token is not overwritten.
fn taken(name: &TokenName, stored: &Credential) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "token `{name}` ({}) is on this device already; --replace takes its place",
            stored.token_id
        ),
    )
}

/// The exit code of what can be wrong with the store.
pub(super) trait OrStoreExit<T> {
    fn or_store_exit(self) -> Result<T, Failure>;
}

impl<T> OrStoreExit<T> for Result<T, StoreError> {
    fn or_store_exit(self) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit: store_exit(&error), error: error.into() })
    }
}

pub(super) fn store_exit(error: &StoreError) -> Exit {
    match error {
        StoreError::TooWide { .. } | StoreError::NotAllowed { .. } => Exit::NoPermission,
        StoreError::Corrupt { .. } | StoreError::CorruptRepositoryToken { .. } => Exit::Data,
        StoreError::Locked { .. } => Exit::Unavailable,
        StoreError::Io { .. } => Exit::Io,
    }
}

/// Runs one command's calls.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("the runtime did not start").or_exit(Exit::Software)?.block_on(work))
}

/// Reads a secret or key: all of it, less one line end.
pub(super) fn read_word(input: impl Read, from: &str) -> Result<Zeroizing<String>, Failure> {
    // Room from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET_FILE_BYTES as usize + 1));
    let read = input.take(MAX_SECRET_FILE_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| format!("could not read {from}")).or_exit(Exit::Usage)?;
    if text.len() as u64 > MAX_SECRET_FILE_BYTES {
        let message = format!("{from} is longer than any secret or key");
        return Err(Failure::new(Exit::Usage, message));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

pub(super) fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Usage,
        };
        let error = anyhow::Error::from(error);
        Failure { exit, error: error.context(format!("could not open {}", path.display())) }
    })
}

fn read_secret(input: impl Read, from: &str) -> Result<TokenSecret, Failure> {
    let text = read_word(input, from)?;
    TokenSecret::new(text).with_context(|| format!("no secret in {from}")).or_exit(Exit::Usage)
}

fn read_secret_file(path: &Path) -> Result<TokenSecret, Failure> {
    read_secret(open(path)?, &path.display().to_string())
}

fn read_key_file(path: &Path) -> Result<SigningKey, Failure> {
    let from = path.display().to_string();
    let text = read_word(open(path)?, &from)?;
    text.parse::<SigningKey>().with_context(|| format!("no key in {from}")).or_exit(Exit::Usage)
}

/// A token ID. Issued ones may begin with a dash; all of them have 20 characters, which keeps apart an
/// option that is spelt wrong.
fn parse_token_id(text: &str) -> Result<TokenId, String> {
    if text.starts_with('-') && text.len() != 20 {
        return Err("there is no such option, and a token ID that begins with a dash has \
                    20 characters"
            .to_owned());
    }
    text.parse().map_err(|error: InvalidId| error.to_string())
}

/// `--key-date`.
fn parse_key_date(text: &str) -> Result<NaiveDate, &'static str> {
    parse_signing_day(text).ok_or("a day is written YYYYMMDD, as in 20260226")
}

/// An instant that a person reads: to the minute, always UTC.
pub(super) fn readable(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests;
