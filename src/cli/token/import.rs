//! `token import`: a secret or a key into the store, proved first.
//!
//! The proof is the refresh call ([`crate::refresh::prove`]): it works under every policy that lets
//! the daemon keep the key alive. What follows from its answer:
//!
//! | Answer | Stored | Exit |
//! | --- | --- | --- |
//! | the same key | yes | 0 |
//! | another key: not of the day given | no | 64 |
//! | wrong credentials, or an expired token | no | 77 |
//! | accepted, but the policy forbids to renew | yes, with the date on which it ends | 0 |
//! | none, or none that says anything about the key | yes, with a warning | 0 |
//!
//! An installer on a site without a network must be able to finish: the daemon proves the key with
//! its first renewal.
//!
//! Another token of the name stays unless `--replace` is given: with its key goes what cannot be had
//! again without its secret.

use std::path::PathBuf;

use chrono::NaiveDate;
use clap::Args;

use super::{
    Exit, Failure, OrExit, OrStoreExit, Streams, TokenContext, block_on, create::Kind,
    parse_key_date, parse_token_id, read_key_file, read_secret, read_secret_file, readable, taken,
};
use crate::{
    clock::build_date,
    credential::{Credential, SigningKey, TokenSecret},
    domain::{TokenId, TokenKind, TokenName},
    refresh::{RefreshCalls, Unproved, calls::POLICY_PATH, prove},
    solarnet::{CallAs, Cause},
    tokens::calls,
};

/// Put a token into the store: its signing key, made from the secret on standard input
#[derive(Debug, Args)]
#[command(after_help = "\
Only the signing key is stored, which the daemon renews every day; the secret is forgotten.

Example:
  solarnode-agent token import site --token-id abcdefghij0123456789 < secret.txt")]
pub(super) struct Import {
    /// The name to keep it under, as in `solarnet.token`
    name: TokenName,
    /// The token's ID as SolarNetwork issued it
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    token_id: TokenId,
    /// Read the token's secret from this file [default: standard input]
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    secret_file: Option<PathBuf>,
    /// Take a signing key from this file, 64 hexadecimal digits: the secret never reaches this device
    #[arg(long, value_name = "FILE", requires = "key_date")]
    key_file: Option<PathBuf>,
    /// The UTC day that the key is of
    #[arg(long, value_name = "YYYYMMDD", requires = "key_file", value_parser = parse_key_date)]
    key_date: Option<NaiveDate>,
    /// Store the secret too, so that keys are made here and no policy can keep them from being
    /// renewed
    #[arg(long, conflicts_with = "key_file")]
    keep_secret: bool,
    /// Take the place of another token of this name
    #[arg(long)]
    replace: bool,
    /// Do not ask SolarNetwork whether the token works
    #[arg(long)]
    offline: bool,
}

/// What the key is made of.
enum Material {
    Secret(TokenSecret),
    Key(SigningKey, NaiveDate),
}

impl Import {
    pub(super) fn run<C: RefreshCalls + CallAs>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        // One that cannot be read is of no use, and its message says to import it again.
        let stored = context.store().load_stored(&self.name).ok().flatten();
        if let Some(other) = stored.filter(|stored| stored.token_id != self.token_id)
            && !self.replace
        {
            return Err(taken(&self.name, &other));
        }
        let material = self.material(streams)?;
        let calls = connect(context)?;
        let mut credential = self.credential(&material, &calls);
        let mut renewed = self.name == context.solarnet.token;
        if self.offline {
            self.refuse_wrong_day(&material, &calls)?;
        } else {
            let mut proof = block_on(prove(&calls, &credential))?;
            // The answer taught the time: on a box without a clock the key is of the wrong day.
            let again = self.credential(&material, &calls);
            if proof.is_err() && again != credential {
                credential = again;
                proof = block_on(prove(&calls, &credential))?;
            }
            if let Err(unproved) = proof {
                self.judge(unproved, &material, &credential, &calls, streams)?;
                renewed = false;
            }
            if self.name == context.solarnet.token {
                block_on(warn_of_kind(streams, &calls, &credential))??;
            }
        }

        context.store().save(&self.name, &credential).or_store_exit()?;
        let Self { name, token_id, .. } = &self;
        let ends = readable(credential.ends());
        match credential.secret {
            Some(_) => writeln!(
                streams.out,
                "token `{name}` ({token_id}) imported with its secret: keys are made on this device"
            )?,
            None => writeln!(
                streams.out,
                "token `{name}` ({token_id}) imported: its key of {} signs until {ends}{}",
                credential.key_date,
                if renewed { ", and is renewed by the daemon" } else { "" }
            )?,
        }
        context.note_other_token(streams, name, Kind::User)?;
        context.tell_daemon(streams, name, "the running daemon uses it from now on")?;
        Ok(Exit::Ok)
    }

    fn material(&self, streams: &mut Streams<'_>) -> Result<Material, Failure> {
        Ok(match (&self.key_file, self.key_date, &self.secret_file) {
            (Some(path), Some(day), _) => Material::Key(read_key_file(path)?, day),
            (_, _, Some(path)) => Material::Secret(read_secret_file(path)?),
            (_, _, None) => Material::Secret(read_secret(&mut *streams.input, "standard input")?),
        })
    }

    fn credential(&self, material: &Material, calls: &impl RefreshCalls) -> Credential {
        let token_id = self.token_id.clone();
        match material {
            Material::Secret(secret) => {
                let today = calls.now().date_naive();
                Credential::derive(token_id, secret.clone(), today, self.keep_secret)
            }
            Material::Key(key, day) => {
                Credential { token_id, key: key.clone(), key_date: *day, secret: None }
            }
        }
    }

    /// A key for the wrong day would be of no use, and the secret it was made from is gone by then.
    fn refuse_wrong_day(
        &self,
        material: &Material,
        calls: &impl RefreshCalls,
    ) -> Result<(), Failure> {
        let now = calls.now();
        if matches!(material, Material::Key(..)) || self.keep_secret || now >= build_date() {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Unavailable,
            format!(
                "this device's clock says {} and no server told the time, so no key can be made; \
                 nothing was stored. Set the clock, or import with --keep-secret",
                readable(now)
            ),
        ))
    }

    /// Whether a credential without a proof is stored all the same, and what to say about it.
    fn judge(
        &self,
        unproved: Unproved,
        material: &Material,
        credential: &Credential,
        calls: &impl RefreshCalls,
        streams: &mut Streams<'_>,
    ) -> Result<(), Failure> {
        let cause = match &unproved {
            Unproved::OtherKey { .. } => return Err(unproved).or_exit(Exit::Usage),
            Unproved::Refused(error) => error.cause,
        };
        let ends = readable(credential.ends());
        match cause {
            Cause::BadCredentials if !credential.usable_at(calls.now()) => Err(Failure::new(
                Exit::NoPermission,
                format!(
                    "nothing was stored: a key of {} signs until {ends}, \
                     and the server's time is {}",
                    credential.key_date,
                    readable(calls.now())
                ),
            )),
            Cause::BadCredentials | Cause::TokenExpired => {
                Err(unproved).or_exit(Exit::NoPermission)
            }
            Cause::AccessDenied | Cause::PathDenied if credential.secret.is_some() => Ok(()),
            Cause::AccessDenied => {
                writeln!(
                    streams.err,
                    "warning: the token's policy forbids to renew its key (refreshAllowed): \
                     uploads end on {ends} unless the token is imported again; \
                     --keep-secret avoids that"
                )?;
                Ok(())
            }
            Cause::PathDenied => {
                writeln!(
                    streams.err,
                    "warning: the token's policy does not list the call that renews its key \
                     (apiPaths, {POLICY_PATH}): the key is not proved, and uploads end on {ends} \
                     unless the token is imported again; --keep-secret avoids that"
                )?;
                Ok(())
            }
            _ => {
                self.refuse_wrong_day(material, calls)?;
                let error = anyhow::Error::from(unproved);
                writeln!(
                    streams.err,
                    "warning: {error:#}; it is stored unproved, \
                     and the daemon will say if the server refuses it"
                )?;
                Ok(())
            }
        }
    }
}

/// Says that a token cannot upload, where its policy lets it ask what it is.
async fn warn_of_kind(
    streams: &mut Streams<'_>,
    calls: &impl CallAs,
    credential: &Credential,
) -> Result<(), Failure> {
    let answer = calls.call_as(credential, calls::who_am_i()).await;
    let kind = answer.ok().and_then(|answer| answer.data["tokenType"].as_str().map(str::to_owned));
    if kind.as_deref() == Some(TokenKind::Data.name()) {
        writeln!(
            streams.err,
            "warning: this is a {}: it reads datum and cannot upload any, so the daemon needs a {}",
            TokenKind::Data,
            TokenKind::User
        )?;
    }
    Ok(())
}
