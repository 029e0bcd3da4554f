//! `token create`: a token of the account, and where its secret goes.
//!
//! The steps, and what a kill between them leaves, are [`crate::tokens::issue`]'s. Whatever was left
//! by an earlier run is dealt with first.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    Exit, Failure, OrStoreExit, Streams, TokenContext, block_on,
    change::check_text,
    list::{as_json, print_json, print_token},
    manager::{As, OrTokensExit, ask, failure},
    options::PolicyOptions,
    readable,
};
use crate::{
    credential::{Credential, TokenSecret, store::Note},
    domain::{TokenKind, TokenName},
    needs::renewal_refused,
    policy::Policy,
    refresh::{RefreshCalls, prove},
    solarnet::CallAs,
    tokens::{
        Issue, Listing, Manager, Token, TokensError,
        calls::MAX_DESCRIPTION_CHARS,
        issue::{Left, may_have_happened},
        manager::same_policy,
    },
};

/// Issue a token at SolarNetwork, and show its secret once or put its key into this device's store
#[derive(Debug, Args)]
#[command(after_help = "\
The usual way to set up a device: a token that may do what the configuration needs and nothing else, \
with its signing key stored here and its secret nowhere.

Example:
  solarnode-agent token create --for-config --as MANAGER < secret.txt
  solarnode-agent token create reports --type data --node 123 --as MANAGER < secret.txt")]
pub(super) struct Create {
    /// Its name at SolarNetwork, and in this device's store if it is installed [default with
    /// --for-config: the configured one, that of [audit] with --type data]
    #[arg(required_unless_present = "for_config")]
    name: Option<TokenName>,
    /// User tokens act as the account; data tokens only read datum
    #[arg(long = "type", value_name = "TYPE", default_value = "user")]
    kind: Kind,
    /// Its description at SolarNetwork
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Give it the smallest policy that lets this configuration work, and install it; with --type data,
    /// that lets `audit` work
    #[arg(long)]
    for_config: bool,
    /// Put its signing key into this device's store, and show its secret to nobody
    #[arg(long)]
    install: bool,
    /// Store the secret too, so that keys are made here and no policy can keep them from being renewed
    #[arg(long)]
    keep_secret: bool,
    /// Take the place of a token of this name in the store; the old one stays at SolarNetwork
    #[arg(long)]
    replace: bool,
    /// Give it no policy: it may do all that its account may
    #[arg(long, conflicts_with = "for_config")]
    unrestricted: bool,
    /// Do not ask before what an interrupted run left behind is deleted
    #[arg(long)]
    yes: bool,
    /// Print JSON: {id, name, description, type, status, created, expired, policy, installed}, and
    /// secret where it is not installed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    manager: As,
}

/// The kinds of token, as a command is told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    User,
    Data,
}

/// What is wanted, with every default filled in.
struct Wanted {
    name: TokenName,
    kind: TokenKind,
    description: Option<String>,
    base: Policy,
    install: bool,
}

impl Create {
    pub(super) fn run<C: CallAs + RefreshCalls>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        let wanted = self.wanted(streams, context)?;
        let stored = context.store().load_stored(&wanted.name).or_store_exit()?;
        let begun = context.store().note(&wanted.name, Note::Issue).or_store_exit()?;
        let begun = begun.as_deref().and_then(Issue::from_bytes);
        let taken = stored.as_ref().filter(|_| wanted.install && !self.replace);
        let refuse_taken = || match taken {
            Some(stored) => Err(super::taken(&wanted.name, stored)),
            None => Ok(()),
        };
        if begun.is_none() {
            refuse_taken()?;
        }
        let calls = connect(context)?;
        let manager = self.manager.manager(streams, &calls)?;
        block_on(async {
            let mut listing = manager.list().await.or_tokens_exit()?;
            listing.may_manage().or_tokens_exit()?;
            let policy = self.policy.over(&wanted.base, manager.now())?;
            self.warn(streams, &wanted, &policy)?;
            if let Some(begun) = begun {
                let installed = stored.as_ref().map(|stored| &stored.token_id);
                match begun.left(&listing, &wanted.name, installed) {
                    Left::Nothing => refuse_taken()?,
                    Left::Installed(token) => {
                        writeln!(
                            streams.err,
                            "An earlier run had issued it; only the rest is done."
                        )?;
                        return self
                            .finish(streams, context, &manager, &wanted, *token, None)
                            .await;
                    }
                    Left::Orphans(orphans) => {
                        refuse_taken()?;
                        delete_orphans(streams, &manager, &wanted.name, self.yes, &orphans).await?;
                        listing = manager.list().await.or_tokens_exit()?;
                    }
                }
            }
            let (token, secret) = issue(context, &manager, &wanted, &policy, &listing).await?;
            if !wanted.install {
                return self.finish(streams, context, &manager, &wanted, token, Some(secret)).await;
            }
            let today = manager.now().date_naive();
            let credential = Credential::derive(token.id.clone(), secret, today, self.keep_secret);
            context.store().save(&wanted.name, &credential).or_store_exit()?;
            let done = self.finish(streams, context, &manager, &wanted, token, None).await?;
            if let Some(old) = stored.as_ref().filter(|old| listing.token(&old.token_id).is_ok()) {
                writeln!(
                    streams.err,
                    "note: {old} is not used here any more and is still valid at SolarNetwork; \
                     `solarnode-agent token delete {old} --as {}` deletes it",
                    manager.id(),
                    old = old.token_id
                )?;
            }
            self.prove(streams, &calls, &credential, &policy).await?;
            Ok(done)
        })?
    }

    fn wanted(&self, streams: &mut Streams<'_>, context: &TokenContext) -> Result<Wanted, Failure> {
        let usage = |message: &'static str| Err(Failure::new(Exit::Usage, message));
        let kind = match self.kind {
            Kind::User => TokenKind::User,
            Kind::Data => TokenKind::Data,
        };
        let install = self.install || self.for_config;
        if self.keep_secret && !install {
            return usage("--keep-secret is for --install: otherwise the secret is shown");
        }
        if self.unrestricted && !self.policy.is_empty() {
            return usage(
                "--unrestricted gives no policy: leave it out, or the options under Policy",
            );
        }
        if !self.for_config && self.policy.is_empty() != self.unrestricted {
            return usage(
                "say what the token may do (--for-config, or the options under Policy), or else \
                 --unrestricted",
            );
        }
        check_text("--description", self.description.as_deref(), MAX_DESCRIPTION_CHARS)?;
        let mut description = self.description.clone().filter(|text| !text.is_empty());
        let mut base = Policy::default();
        if self.for_config {
            let needs = context.with_waiting(context.needs()?.clone(), streams.err)?;
            let (needs, what) = match kind {
                TokenKind::User => (needs, "solarnode-agent"),
                TokenKind::Data => (needs.of_audit(), "audit of solarnode-agent"),
            };
            base = needs.policy();
            description = description.or(Some(format!("{what} on node {}", needs.node)));
        }
        let own_name = match kind {
            TokenKind::User => Some(&context.solarnet.token),
            TokenKind::Data => context.needs.as_ref().and_then(|needs| needs.audit_token.as_ref()),
        };
        let Some(name) = self.name.as_ref().or(own_name).cloned() else {
            return usage(
                "a Data token only audits: give it a name here, and the same in the configuration, \
                 `[audit] token = \"NAME\"`",
            );
        };
        Ok(Wanted { name, kind, description, base, install })
    }

    /// What is allowed and rarely meant.
    fn warn(
        &self,
        streams: &mut Streams<'_>,
        wanted: &Wanted,
        policy: &Policy,
    ) -> Result<(), Failure> {
        let renewed_here = self.keep_secret || !wanted.install;
        if let (false, Some(refused)) = (renewed_here, renewal_refused(policy)) {
            writeln!(
                streams.err,
                "warning: the key on this device will end after a week, because {refused}; \
                 --keep-secret avoids that"
            )?;
        }
        Ok(())
    }

    /// Names the token, shows what there is to show, and removes the record. It may be killed at any
    /// point and run again.
    async fn finish<C: CallAs>(
        &self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        manager: &Manager<'_, C>,
        wanted: &Wanted,
        mut token: Token,
        secret: Option<TokenSecret>,
    ) -> Result<Exit, Failure> {
        let store = context.store();
        if wanted.install {
            context.remember(&token, manager.now())?;
        }
        let (name, description) = (wanted.name.as_str(), wanted.description.as_deref());
        match manager.describe(&token.id, Some(name), description).await {
            Ok(()) => {
                token.name = Some(name.to_owned());
                token.description = wanted.description.clone();
            }
            Err(error) => writeln!(
                streams.err,
                "warning: the token has no name yet: {error}; \
                 `solarnode-agent token update {} --name {name}` gives it one",
                token.id
            )?,
        }
        self.show(streams, wanted, &token, secret.as_ref())?;
        streams.out.flush()?;
        store.remove_note(&wanted.name, Note::Issue).or_store_exit()?;
        if wanted.install {
            context.note_other_token(streams, &wanted.name, self.kind)?;
            context.tell_daemon(streams, &wanted.name, "the running daemon uses it from now on")?;
        }
        Ok(Exit::Ok)
    }

    fn show(
        &self,
        streams: &mut Streams<'_>,
        wanted: &Wanted,
        token: &Token,
        secret: Option<&TokenSecret>,
    ) -> Result<(), Failure> {
        if self.json {
            let mut shown = as_json(token);
            shown["installed"] = json!(wanted.install);
            if let Some(secret) = secret {
                shown["secret"] = json!(secret.expose());
            }
            print_json(streams, &shown)?;
        } else {
            print_token(streams, token)?;
        }
        match secret {
            Some(secret) if !self.json => {
                writeln!(streams.out, "  {:21} {}", "secret", secret.expose())?;
                writeln!(
                    streams.err,
                    "This is the only time that the secret is shown; SolarNetwork never tells it again."
                )?;
            }
            Some(_) => {}
            None => writeln!(
                streams.err,
                "token `{}` is in this device's store; its secret was shown to nobody",
                wanted.name
            )?,
        }
        Ok(())
    }

    /// The new key's first call.
    async fn prove<C: RefreshCalls>(
        &self,
        streams: &mut Streams<'_>,
        calls: &C,
        credential: &Credential,
        policy: &Policy,
    ) -> Result<(), Failure> {
        if renewal_refused(policy).is_some() {
            return Ok(());
        }
        match prove(calls, credential).await {
            Ok(()) => {
                let ends = policy.not_after.and_then(chrono::DateTime::from_timestamp_millis);
                let until = match ends.filter(|ends| *ends < credential.ends()) {
                    Some(ends) => format!("{}, when the token ends", readable(ends)),
                    None => format!("{}, and can be renewed", readable(credential.ends())),
                };
                let day = credential.key_date;
                writeln!(streams.err, "its key of {day} is proved and signs until {until}")?;
            }
            Err(error) => writeln!(
                streams.err,
                "warning: {:#}; the daemon will say if the server refuses it",
                anyhow::Error::from(error)
            )?,
        }
        Ok(())
    }
}

/// Deletes what an earlier run left at the server, after asking: nobody has its secret.
pub(super) async fn delete_orphans<C: CallAs>(
    streams: &mut Streams<'_>,
    manager: &Manager<'_, C>,
    name: &TokenName,
    yes: bool,
    orphans: &[Token],
) -> Result<(), Failure> {
    let ids: Vec<&str> = orphans.iter().map(|token| token.id.as_str()).collect();
    writeln!(
        streams.err,
        "An earlier run of this command was interrupted after SolarNetwork had issued {}; \
         nobody has the secret.",
        ids.join(", ")
    )?;
    let [orphan] = orphans else {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "several tokens fit what the interrupted run for `{name}` was to issue; delete those \
                 that nobody uses with `solarnode-agent token delete ID`, then run this again"
            ),
        ));
    };
    ask(streams, yes, &format!("Delete {} and issue another?", orphan.id))?;
    manager.delete(&orphan.id).await.or_tokens_exit()?;
    writeln!(streams.err, "{} is deleted", orphan.id)?;
    Ok(())
}

/// Writes the record and asks for the token.
async fn issue<C: CallAs>(
    context: &TokenContext,
    manager: &Manager<'_, C>,
    wanted: &Wanted,
    policy: &Policy,
    before: &Listing,
) -> Result<(Token, TokenSecret), Failure> {
    let store = context.store();
    let record = Issue::new(wanted.kind, policy, &before.tokens).to_bytes();
    store.put_note(&wanted.name, Note::Issue, &record).or_store_exit()?;
    let forget = || store.remove_note(&wanted.name, Note::Issue).or_store_exit();
    issue_exactly(manager, wanted.kind, policy, forget).await
}

/// Asks for a token. What comes back is compared with what was asked for; `forget` is called where it
/// is certain that nothing was left behind at the server.
pub(super) async fn issue_exactly<C: CallAs>(
    manager: &Manager<'_, C>,
    kind: TokenKind,
    policy: &Policy,
    forget: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Token, TokenSecret), Failure> {
    let (token, secret) = match manager.create(kind, policy).await {
        Ok(issued) => issued,
        Err(error) => {
            let unsure = match &error {
                TokensError::Call { error, .. } => may_have_happened(error),
                _ => true,
            };
            if !unsure {
                forget()?;
                return Err(failure(error));
            }
            let Failure { exit, error } = failure(error);
            let context = "it is not known whether SolarNetwork issued the token: run the same command \
                           again, it looks for it first";
            return Err(Failure { exit, error: error.context(context) });
        }
    };
    if let Err(other) = same_policy(&token, policy) {
        // It never gets further than this: nobody has its secret.
        manager.delete(&token.id).await.or_tokens_exit()?;
        forget()?;
        return Err(failure(other));
    }
    Ok((token, secret))
}
