//! `token check` and `token refresh`: what the server says to the key on this device.

use clap::Args;

use super::{Exit, Failure, OrExit, OrStoreExit, Streams, TokenContext, block_on, readable};
use crate::{
    credential::{
        Credential,
        store::{Origin, Saved},
    },
    domain::TokenName,
    refresh::{RefreshCalls, Unproved, calls::POLICY_PATH, prove},
    solarnet::{CallError, Cause, Next},
};

/// Asks SolarNetwork whether a token on this device works, and until when
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent token check")]
pub(super) struct Check {
    /// The token's name [default: the configured one]
    name: Option<TokenName>,
}

/// Renews a token's signing key now, as the daemon does every day
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent token refresh")]
pub(super) struct Refresh {
    /// The token's name [default: the configured one]
    name: Option<TokenName>,
}

impl Check {
    pub(super) fn run<C: RefreshCalls>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        let name = self.name.as_ref().unwrap_or(&context.solarnet.token);
        let credential = context.stored(name)?;
        let calls = connect(context)?;
        let id = &credential.token_id;
        // A key past its days proves nothing about a token whose secret is here.
        let credential = match &credential.secret {
            Some(_) => of_today(&credential, &calls),
            None => credential.clone(),
        };
        let until = readable(credential.ends());
        match block_on(prove(&calls, &credential))? {
            Ok(()) => {
                writeln!(
                    streams.out,
                    "token `{name}` ({id}) works: its key of {} signs until {until} and can be renewed",
                    credential.key_date
                )?;
                Ok(Exit::Ok)
            }
            Err(Unproved::Refused(error)) if error.cause == Cause::AccessDenied => {
                writeln!(
                    streams.out,
                    "token `{name}` ({id}) works: its key of {} signs until {until}",
                    credential.key_date
                )?;
                let ends = if credential.secret.is_some() {
                    "it is made anew from the secret on this device".to_owned()
                } else {
                    format!("uploads end on {until} unless the token is imported again")
                };
                writeln!(
                    streams.err,
                    "warning: the token's policy forbids to renew its key (refreshAllowed): {ends}"
                )?;
                Ok(Exit::Ok)
            }
            Err(Unproved::Refused(error)) => Err(refused(error)),
            Err(other) => Err(other).or_exit(Exit::NoPermission),
        }
    }
}

impl Refresh {
    pub(super) fn run<C: RefreshCalls>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        let name = self.name.as_ref().unwrap_or(&context.solarnet.token);
        let old = context.stored(name)?;
        let calls = connect(context)?;
        let renewed = block_on(renew(&calls, &old))??;
        let saved =
            context.store().save_renewed(name, &renewed, Origin::Store).or_store_exit()?;
        let changed = match saved {
            Saved::Written | Saved::NotNeeded => old.key_date != renewed.key_date,
            // The daemon was quicker, or it was renewed today already.
            Saved::Superseded(stored) if stored.token_id == renewed.token_id => false,
            Saved::Superseded(_) | Saved::Forgotten => {
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!("token `{name}` was changed meanwhile; nothing was done"),
                ));
            }
        };
        let (day, ends) = (renewed.key_date, readable(renewed.ends()));
        writeln!(streams.out, "token `{name}`: the key of {day} is proved and signs until {ends}")?;
        if changed {
            context.tell_daemon(streams)?;
        }
        Ok(Exit::Ok)
    }
}

/// A proved key of the server's day.
async fn renew(calls: &impl RefreshCalls, old: &Credential) -> Result<Credential, Failure> {
    let mut renewed = today(calls, old).await.map_err(refused)?;
    if let Err(unproved) = prove(calls, &renewed).await {
        // The first answer may have taught another day; once more with it settles that.
        renewed = today(calls, old).await.map_err(refused)?;
        match prove(calls, &renewed).await {
            Ok(()) => {}
            Err(Unproved::Refused(error))
                if error.cause == Cause::AccessDenied && renewed.secret.is_some() => {}
            Err(Unproved::Refused(error)) => return Err(refused(error)),
            Err(Unproved::OtherKey { .. }) => return Err(unproved).or_exit(Exit::NoPermission),
        }
    }
    Ok(renewed)
}

async fn today(calls: &impl RefreshCalls, old: &Credential) -> Result<Credential, CallError> {
    if old.secret.is_some() {
        return Ok(of_today(old, calls));
    }
    let day = calls.now().date_naive();
    Ok(old.with_key(calls.fetch(old, day).await?, day))
}

fn of_today(credential: &Credential, calls: &impl RefreshCalls) -> Credential {
    credential.derived(calls.now().date_naive())
}

/// A refusal as the end of a command: who has to act decides the code.
fn refused(error: CallError) -> Failure {
    let exit = match error.next() {
        Next::Retry { .. } => Exit::Unavailable,
        Next::RefreshKey | Next::Content | Next::Gone | Next::Stop => Exit::NoPermission,
    };
    let named = match error.cause {
        Cause::AccessDenied => Some("the token's policy forbids to renew its key (refreshAllowed)".to_owned()),
        Cause::PathDenied => Some(format!(
            "the token's policy does not list the call that renews its key: add {POLICY_PATH} to its apiPaths"
        )),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    Failure { exit, error: match named {
        Some(named) => error.context(named),
        None => error,
    } }
}
