//! `token rotate`: a token on this device is replaced by a successor with the same rights.
//!
//! Which step is next is [`crate::tokens::rotation`]'s to say, from what is on disk and at the server;
//! here each is carried out, and told on standard error. An error ends the run between two steps, as a
//! kill does, and the next run goes on.
//!
//! * [`jobs`]: the import jobs that may have been begun with the old token.
//! * [`proof`]: the calls that show that a token works.
//! * [`daemon`]: what the running daemon says of the token it uses.
//!
//! Where the device keeps only a signing key, that stays so: the successor's secret lives in this process
//! until its key is made. Where it keeps the secret, it keeps the successor's.

mod daemon;
mod jobs;
mod proof;

use std::time::Duration;

use clap::Args;
use serde_json::json;

use self::daemon::{Daemon, Sight};
use super::{
    Exit, Failure, OrStoreExit, Streams, TokenContext, block_on,
    create::{delete_orphans, issue_exactly},
    list::{as_json, print_json, printable},
    manager::{As, OrTokensExit, ask},
    readable,
};
use crate::{
    credential::{Credential, store::Note},
    domain::{TokenId, TokenKind, TokenName},
    refresh::RefreshCalls,
    solarnet::CallAs,
    tokens::{
        Issue, Manager, Rotation, Token,
        rotation::{Done, Seen, Step},
    },
};

/// How often the daemon and the import jobs are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Replace a token on this device by a new one with the same rights, and delete the old one
#[derive(Debug, Args)]
#[command(after_help = "\
The new token gets the old one's type, policy, name and description. It is proved before it is
used; a running daemon goes over to it without a restart; import jobs begun with the old one are
waited for; then the old one is disabled, the daemon is asked again, and only then is the old one
deleted. Interrupted at any moment, the same command goes on: the device has a token that works at
every moment.

Example:
  solarnode-agent token rotate --yes --as K7.mP-x_29QwErTyUiOp < manager.txt")]
pub(super) struct Rotate {
    /// The token's name on this device [default: the configured one]
    name: Option<TokenName>,
    /// How long the daemon may take to use the new token, and import jobs to end
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    wait: u64,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON: {token, replaced, daemon, id, name, description, type, status, created, expired,
    /// policy}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: As,
}

/// One run.
struct Run<'a, 's, C> {
    options: &'a Rotate,
    name: &'a TokenName,
    context: &'a TokenContext,
    streams: &'a mut Streams<'s>,
    calls: &'a C,
    manager: Manager<'a, C>,
    daemon: Daemon<'a>,
    seen: Seen,
    /// The successor, until it is in the store.
    successor: Option<Credential>,
}

impl Rotate {
    pub(super) fn run<C: CallAs + RefreshCalls>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        let name = self.name.as_ref().unwrap_or(&context.solarnet.token);
        context.stored(name)?;
        let daemon = Daemon { socket: &context.control_socket, name };
        // A daemon that cannot be asked is found out before anything is done.
        daemon.look()?;
        let alone = context.store().begin_rotation(name).or_store_exit()?;
        if alone.is_none() {
            let message = format!("token `{name}` is being rotated by another command");
            return Err(Failure::new(Exit::Unavailable, message));
        }
        let calls = connect(context)?;
        let manager = self.manager.manager(streams, &calls)?;
        block_on(async {
            let listing = manager.list().await.or_tokens_exit()?;
            listing.may_manage().or_tokens_exit()?;
            let record = context.store().note(name, Note::Rotation).or_store_exit()?;
            let seen = Seen {
                record: record.as_deref().and_then(Rotation::from_bytes),
                // Read when nobody else rotates any more.
                stored: context.stored(name)?.token_id,
                tokens: listing.tokens,
                done: Done::default(),
            };
            let options = &self;
            let run = Run {
                options,
                name,
                context,
                streams,
                calls: &calls,
                manager,
                daemon,
                seen,
                successor: None,
            };
            run.go().await
        })?
    }
}

impl<C: CallAs + RefreshCalls> Run<'_, '_, C> {
    async fn go(mut self) -> Result<Exit, Failure> {
        self.begin()?;
        loop {
            let step = self.seen.next();
            if let Err(failure) = self.carry_out(&step).await {
                if self.seen.record.is_some() {
                    writeln!(
                        self.streams.err,
                        "The rotation is not finished. This device has {}, which is not taken away; the \
                         same command again goes on from here.",
                        self.seen.stored
                    )?;
                }
                return Err(failure);
            }
            if step == Step::Forget {
                return self.finish();
            }
        }
    }

    /// What has to be so before anything is done, and whether somebody wants it.
    fn begin(&mut self) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::new(Exit::Usage, message));
        let (name, manager) = (self.name, self.manager.id().clone());
        let goes = self.seen.record.as_ref().map(|record| record.old().to_owned());
        let goes = goes.unwrap_or_else(|| self.seen.stored.to_string());
        if matches!(self.seen.next(), Step::Abandon | Step::Lost(_)) {
            // Nothing is to be done but to say so.
            return Ok(());
        }
        if goes == manager.as_str() {
            return usage(format!(
                "{manager} is the token to be replaced: give the credential of another manager (--as), \
                 since a token that disables itself can do no more"
            ));
        }
        if goes != self.seen.stored.as_str() {
            let stored = &self.seen.stored;
            writeln!(
                self.streams.err,
                "An earlier run put {stored} in the place of {goes}; only the rest is done."
            )?;
            return ask(
                self.streams,
                self.options.yes,
                &format!("Go on and delete {goes} for good?"),
            );
        }
        let Some(old) = self.seen.old() else {
            return Err(Failure::new(
                Exit::NoPermission,
                format!(
                    "SolarNetwork has no token {goes} in the manager's account, so its rights are not \
                     known; `solarnode-agent token create {name} --replace` issues another"
                ),
            ));
        };
        if old.expired {
            return Err(Failure::new(
                Exit::NoPermission,
                format!(
                    "the policy of {goes} has run out, and so would its successor's: \
                     `solarnode-agent token policy {goes} --set --expires 365d` first"
                ),
            ));
        }
        if !old.strange.is_empty() {
            return usage(format!(
                "the policy of {goes} has members that this program does not know, which a successor \
                 would be without: {}",
                old.strange.join(", ")
            ));
        }
        kind(old)?;
        let members: Vec<&str> = old.policy.members().map(|member| member.name()).collect();
        let policy = match members.is_empty() {
            true => "without a policy".to_owned(),
            false => format!("with {}", members.join(", ")),
        };
        let about = format!("token `{name}` is {goes}, a {} token {policy}", printable(&old.kind));
        writeln!(self.streams.err, "{about}")?;
        let question =
            format!("Replace {goes} by a new token with the same rights, and delete it?");
        ask(self.streams, self.options.yes, &question)
    }

    async fn carry_out(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Record => self.record(),
            Step::Issue => self.issue().await,
            Step::Discard(left) => {
                let (streams, yes) = (&mut *self.streams, self.options.yes);
                delete_orphans(streams, &self.manager, self.name, yes, left).await?;
                self.seen.tokens.retain(|token| left.iter().all(|left| left.id != token.id));
                Ok(())
            }
            Step::Prove => self.prove_successor().await,
            Step::Promise(new) => {
                let record = self.seen.record.as_ref().map(|record| record.promising(new));
                record.map_or(Ok(()), |record| self.write(record))
            }
            Step::Install => self.install(),
            Step::Switch => self.switch().await,
            Step::Describe => self.describe().await,
            Step::Drain => self.drain().await,
            Step::Disable => {
                let old = self.old()?.id.clone();
                self.manager.set_active(&old, false).await.or_tokens_exit()?;
                self.change(&old, |old| old.active = false);
                self.say(&format!("{old} is disabled"))
            }
            Step::Confirm => self.confirm().await,
            Step::Delete => {
                let old = self.old()?.id.clone();
                self.manager.delete(&old).await.or_tokens_exit()?;
                self.say(&format!("{old} is deleted"))?;
                // What a killed run asked for last may have come late.
                self.seen.tokens = self.manager.list().await.or_tokens_exit()?.tokens;
                Ok(())
            }
            Step::Forget => {
                self.context.store().remove_note(self.name, Note::Rotation).or_store_exit()
            }
            Step::Abandon => Err(self.abandon("put in by hand")?),
            Step::Lost(_) => Err(self.abandon("which somebody has deleted at SolarNetwork")?),
        }
    }

    fn record(&mut self) -> Result<(), Failure> {
        let old = self.old()?;
        let issue = Issue::new(kind(old)?, &old.policy, &self.seen.tokens);
        let record = Rotation::new(&old.id, issue);
        self.write(record)?;
        self.seen.done.recorded = true;
        Ok(())
    }

    fn write(&mut self, record: Rotation) -> Result<(), Failure> {
        let store = self.context.store();
        store.put_note(self.name, Note::Rotation, &record.to_bytes()).or_store_exit()?;
        self.seen.record = Some(record);
        Ok(())
    }

    async fn issue(&mut self) -> Result<(), Failure> {
        let old = self.old()?;
        let (old, kind, policy) = (old.id.clone(), kind(old)?, old.policy.clone());
        let (store, name) = (self.context.store(), self.name);
        let mut nothing_left = false;
        let forget = || {
            nothing_left = true;
            store.remove_note(name, Note::Rotation).or_store_exit()
        };
        let issued = issue_exactly(&self.manager, kind, &policy, forget).await;
        if nothing_left {
            self.seen.record = None;
        }
        let (token, secret) = issued?;
        let keep_secret = self.context.stored(name)?.secret.is_some();
        let today = self.manager.now().date_naive();
        let id = token.id.clone();
        self.successor = Some(Credential::derive(id.clone(), secret, today, keep_secret));
        self.seen.done.issued = Some(id.clone());
        self.seen.tokens.push(token);
        self.say(&format!("{id} is issued, with the policy of {old}"))
    }

    async fn prove_successor(&mut self) -> Result<(), Failure> {
        let Some(successor) = self.successor.clone() else {
            return Err(Failure::new(Exit::Software, "there is no successor to prove"));
        };
        let failure = match self.prove(&successor).await {
            Ok(()) => {
                self.seen.done.proved = true;
                return Ok(());
            }
            Err(failure) => failure,
        };
        if failure.exit != Exit::Unavailable {
            // Refused, for good: nobody needs it.
            self.manager.delete(&successor.token_id).await.or_tokens_exit()?;
            let store = self.context.store();
            store.remove_note(self.name, Note::Rotation).or_store_exit()?;
            self.seen.record = None;
            self.say(&format!("{} is deleted again: it does not work", successor.token_id))?;
        }
        Err(failure)
    }

    /// Calls the server with a credential, and tells what was answered.
    async fn prove(&mut self, credential: &Credential) -> Result<(), Failure> {
        // Needs are those of the configured token; another one may be for anything.
        let configured = *self.name == self.context.solarnet.token;
        let needs = self.context.needs.as_ref().filter(|_| configured);
        let proof = proof::prove(self.calls, credential, needs).await?;
        for refused in &proof.refused {
            writeln!(self.streams.err, "note: {refused}, as its policy was before")?;
        }
        self.say(&format!("{} is proved by {}", credential.token_id, proof.answered.join(", ")))
    }

    fn install(&mut self) -> Result<(), Failure> {
        let store = self.context.store();
        let stored = self.context.stored(self.name)?.token_id;
        let Some(successor) = self.successor.take().filter(|_| stored == self.seen.stored) else {
            let message = format!("token `{}` was replaced meanwhile by {stored}", self.name);
            return Err(Failure::new(Exit::Unavailable, message));
        };
        store.save(self.name, &successor).or_store_exit()?;
        self.seen.stored = successor.token_id.clone();
        self.say(&format!("{} is in this device's store", successor.token_id))
    }

    async fn switch(&mut self) -> Result<(), Failure> {
        let new = self.seen.stored.clone();
        if let Some(token) = self.seen.in_use() {
            self.context.remember(token, self.manager.now())?;
        }
        match self.daemon.until(&new, None, self.patience()).await? {
            Sight::Uses(_) => {
                self.say(&format!("the running daemon uses {new}, and SolarNetwork accepts it"))?;
            }
            Sight::NotRunning => {
                self.say(&format!("no daemon is running; its start will use {new}"))?
            }
            Sight::UsesOther => self.say("the running daemon uses another token")?,
        }
        self.seen.done.switched = true;
        Ok(())
    }

    async fn describe(&mut self) -> Result<(), Failure> {
        let (old, new) = (self.old()?.clone(), self.seen.stored.clone());
        let (name, description) = (old.name.as_deref(), old.description.as_deref());
        self.manager.describe(&new, name, description).await.or_tokens_exit()?;
        self.change(&new, |new| {
            (new.name, new.description) = (old.name.clone(), old.description.clone());
        });
        self.say(&format!("{new} has the name and the description of {}", old.id))
    }

    async fn confirm(&mut self) -> Result<(), Failure> {
        let (old, new) = (self.old()?.id.clone(), self.seen.stored.clone());
        let failure = match self.works_on(&new).await {
            Ok(said) => {
                self.seen.done.confirmed = true;
                return self.say(&said);
            }
            Err(failure) => failure,
        };
        self.manager.set_active(&old, true).await.or_tokens_exit()?;
        self.change(&old, |old| old.active = true);
        self.say(&format!("{old} is enabled again"))?;
        Err(failure)
    }

    /// Whether all goes on without the old token; by whom that was seen.
    async fn works_on(&mut self, new: &TokenId) -> Result<String, Failure> {
        let before = match self.daemon.look()? {
            Sight::Uses(using) => using.accepted,
            Sight::NotRunning | Sight::UsesOther => None,
        };
        let patience = self.patience();
        match self.daemon.until(new, before, patience).await? {
            Sight::Uses(_) => Ok("the daemon works without it".to_owned()),
            Sight::NotRunning | Sight::UsesOther => {
                let credential = self.stored_now()?;
                self.prove(&credential).await?;
                Ok(format!("{new} works without it"))
            }
        }
    }

    /// What an earlier run began is over, by the hand of somebody else.
    fn abandon(&mut self, why: &str) -> Result<Failure, Failure> {
        let old = self.seen.record.take().map(|record| record.old().to_owned()).unwrap_or_default();
        self.context.store().remove_note(self.name, Note::Rotation).or_store_exit()?;
        Ok(Failure::new(
            Exit::Usage,
            format!(
                "a rotation of {old} was interrupted, and now token `{}` is {}, {why}: it is given up, and \
                 nothing else was done. `solarnode-agent token list` shows whether {old} is still there",
                self.name, self.seen.stored
            ),
        ))
    }

    fn finish(mut self) -> Result<Exit, Failure> {
        let credential = self.stored_now()?;
        let daemon = match self.daemon.look()? {
            Sight::Uses(_) => "switched",
            Sight::NotRunning => "not running",
            Sight::UsesOther => "uses another",
        };
        let old = self.seen.record.as_ref().map(|record| record.old().to_owned());
        if self.options.json {
            let mut shown = self.seen.in_use().map(as_json).unwrap_or_default();
            shown["token"] = json!(self.name.as_str());
            shown["replaced"] = json!(old);
            shown["daemon"] = json!(daemon);
            return print_json(self.streams, &shown);
        }
        writeln!(
            self.streams.out,
            "token `{}`: {} has taken the place of {}; its key of {} signs until {}",
            self.name,
            credential.token_id,
            old.unwrap_or_default(),
            credential.key_date,
            readable(credential.ends())
        )?;
        Ok(Exit::Ok)
    }

    fn old(&self) -> Result<&Token, Failure> {
        self.seen.old().ok_or_else(|| Failure::new(Exit::Software, "the old token is not listed"))
    }

    fn change(&mut self, id: &TokenId, change: impl FnOnce(&mut Token)) {
        if let Some(token) = self.seen.tokens.iter_mut().find(|token| token.id == *id) {
            change(token);
        }
    }

    /// What is in the store, with a key of today where it is made here.
    fn stored_now(&mut self) -> Result<Credential, Failure> {
        Ok(self.context.stored(self.name)?.derived(self.manager.now().date_naive()))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.options.wait)
    }

    fn say(&mut self, words: &str) -> Result<(), Failure> {
        Ok(writeln!(self.streams.err, "{words}")?)
    }
}

fn kind(token: &Token) -> Result<TokenKind, Failure> {
    TokenKind::named(&token.kind).ok_or_else(|| {
        let kind = printable(&token.kind);
        Failure::new(Exit::Usage, format!("{} is of a kind unknown here: {kind}", token.id))
    })
}
