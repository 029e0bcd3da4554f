//! `token show` and `token forget`: the store without the network.

use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use serde::Serialize;

use super::{Exit, Failure, OrStoreExit, Streams, TokenContext, missing, readable};
use crate::{credential::Credential, domain::TokenName};

/// Show the tokens on this device, without their secrets
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent token show")]
pub(super) struct Show {
    /// The token's name [default: all]
    name: Option<TokenName>,
    /// Print JSON: {"tokens": [{name, token_id, key_date, ends, token_ends, secret_kept, configured}]}
    #[arg(long)]
    json: bool,
}

/// Remove a token from this device; SolarNetwork still knows it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent token forget site")]
pub(super) struct Forget {
    /// The token's name
    name: TokenName,
}

/// One member of `tokens`. `token_ends` is the policy's `notAfter` as it was last seen.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    token_id: String,
    key_date: NaiveDate,
    ends: DateTime<Utc>,
    token_ends: Option<DateTime<Utc>>,
    secret_kept: bool,
    configured: bool,
}

impl Show {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
    ) -> Result<Exit, Failure> {
        let names = match self.name {
            Some(name) => vec![name],
            None => context.store().names().or_store_exit()?,
        };
        let mut tokens = Vec::new();
        let mut failed = None;
        for name in names {
            // One bad file does not hide the others.
            match context.stored(&name) {
                Ok(credential) => tokens.push(shown(&name, &credential, context)),
                Err(failure) => {
                    if let Some(earlier) = failed.replace(failure) {
                        let Failure { error, .. } = earlier;
                        writeln!(streams.err, "{error:#}")?;
                    }
                }
            }
        }
        if self.json {
            serde_json::to_writer_pretty(
                &mut *streams.out,
                &serde_json::json!({ "tokens": tokens }),
            )
            .map_err(std::io::Error::from)?;
            writeln!(streams.out)?;
        } else {
            for token in &tokens {
                token.print(streams)?;
            }
            if tokens.is_empty() && failed.is_none() {
                writeln!(streams.err, "no tokens on this device")?;
            }
        }
        failed.map_or(Ok(Exit::Ok), Err)
    }
}

fn shown(name: &TokenName, credential: &Credential, context: &TokenContext) -> Shown {
    Shown {
        name: name.to_string(),
        token_id: credential.token_id.to_string(),
        key_date: credential.key_date,
        ends: credential.ends(),
        token_ends: token_ends(name, credential, context),
        secret_kept: credential.secret.is_some(),
        configured: *name == context.solarnet.token,
    }
}

/// A note that cannot be read only leaves this out.
fn token_ends(
    name: &TokenName,
    credential: &Credential,
    context: &TokenContext,
) -> Option<DateTime<Utc>> {
    let seen = context.store().remembered(name, &credential.token_id).ok().flatten()?;
    DateTime::from_timestamp_millis(seen.policy().not_after?)
}

impl Shown {
    fn print(&self, streams: &mut Streams<'_>) -> std::io::Result<()> {
        let Self { name, token_id, key_date, .. } = self;
        let used = if self.configured { "" } else { ", not the configured one" };
        let kept = if self.secret_kept { "; the secret is kept here" } else { "" };
        let over = self.token_ends.map(|at| format!("; the token ends on {}", readable(at)));
        let over = over.unwrap_or_default();
        writeln!(
            streams.out,
            "{name}: token {token_id}, key of {key_date} signs until {}{over}{kept}{used}",
            readable(self.ends)
        )
    }
}

impl Forget {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
    ) -> Result<Exit, Failure> {
        if !context.store().forget(&self.name).or_store_exit()? {
            return Err(missing(&self.name));
        }
        writeln!(streams.out, "token `{}` removed from this device", self.name)?;
        context.tell_daemon(
            streams,
            &self.name,
            "the running daemon has no token any more: it reads and stores, and uploads wait",
        )?;
        Ok(Exit::Ok)
    }
}
