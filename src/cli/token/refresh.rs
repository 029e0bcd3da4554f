//! `token refresh`, and what refusals of the key on this device mean.

use chrono::NaiveDate;
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

/// Renew a token's signing key now, as the daemon does every day
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent token refresh")]
pub(super) struct Refresh {
    /// The token's name [default: the configured one]
    name: Option<TokenName>,
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
        let saved = context.store().save_renewed(name, &renewed, Origin::Store).or_store_exit()?;
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
            context.tell_daemon(streams, name, "the running daemon uses it from now on")?;
        }
        Ok(Exit::Ok)
    }
}

/// A proved key of the server's day.
pub(in crate::cli) async fn renew(
    calls: &impl RefreshCalls,
    old: &Credential,
) -> Result<Credential, Failure> {
    let mut day = calls.now().date_naive();
    let mut attempt = attempt(calls, old, day).await;
    // The answers taught the time: on a box without a clock that was the key of another day.
    let today = calls.now().date_naive();
    if today != day {
        day = today;
        attempt = self::attempt(calls, old, day).await;
    }
    match attempt {
        Ok(renewed) => Ok(renewed),
        Err(Unproved::Refused(error))
            if error.cause == Cause::AccessDenied && old.secret.is_some() =>
        {
            Ok(old.derived(day))
        }
        Err(Unproved::Refused(error)) => Err(refused(error)),
        Err(other) => Err(other).or_exit(Exit::NoPermission),
    }
}

async fn attempt(
    calls: &impl RefreshCalls,
    old: &Credential,
    day: NaiveDate,
) -> Result<Credential, Unproved> {
    let renewed = match &old.secret {
        Some(_) => old.derived(day),
        None => old.with_key(calls.fetch(old, day).await?, day),
    };
    prove(calls, &renewed).await?;
    Ok(renewed)
}

/// A refusal as the end of a command: who has to act decides the code.
pub(in crate::cli) fn refused(error: CallError) -> Failure {
    let exit = match error.next() {
        Next::Retry { .. } => Exit::Unavailable,
        Next::RefreshKey | Next::Content | Next::Gone | Next::Stop => Exit::NoPermission,
    };
    let named = match error.cause {
        Cause::AccessDenied => {
            Some("the token's policy forbids to renew its key (refreshAllowed)".to_owned())
        }
        Cause::PathDenied => Some(format!(
            "the token's policy does not list the call that renews its key: \
             add {POLICY_PATH} to its apiPaths"
        )),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    Failure {
        exit,
        error: match named {
            Some(named) => error.context(named),
            None => error,
        },
    }
}
