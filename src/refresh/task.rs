//! Carries out what [`super::machine`] decides, and tells the operator what changed.
//!
//! The task owns the credential in use: it alone reads the store in the daemon, puts what it finds
//! into the [`Signer`], and writes renewed keys. Told that the store changed ([`Refresher::reload`],
//! from the control socket), it reads it again and asks SolarNetwork whether the token works; while there
//! is no usable key it looks once a minute even if nobody tells it. So an import repairs a running daemon
//! without a restart.
//!
//! A call under way when the daemon stops is abandoned; nothing is lost by that.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    RefreshCalls,
    calls::POLICY_PATH,
    machine::{Condition, Event, Machine, Moment, Step, Trouble},
    prove,
};
use crate::{
    clock::Clock,
    credential::{
        Credential, Signer, Store,
        store::{Origin, Saved},
    },
    domain::{Chain, TokenId, TokenName, utc},
    pulse::{Bound, Pulse},
    runtime::off_thread,
};

/// Keeps the key of one token alive.
#[derive(Debug)]
pub struct Refresher<C> {
    /// The token's name in the store.
    pub name: TokenName,
    /// Whether it is missed where there is none.
    pub needed: bool,
    /// Where its credential is kept.
    pub store: Store,
    /// Where everyone takes it from.
    pub signer: Signer,
    /// The server's time.
    pub clock: Clock,
    /// How the server is asked.
    pub calls: C,
    /// Notified when the store was changed by someone else.
    pub reload: Arc<Notify>,
    /// Where things stand, for `status`.
    pub status: watch::Sender<Status>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// Where things stand with a token: a member of `credentials` in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The token's name in the store.
    pub token: String,
    /// Whether there is none although one is needed.
    #[serde(skip)]
    pub missed: bool,
    /// The token's public half.
    pub token_id: Option<String>,
    /// The UTC day of the key in use.
    pub key_date: Option<NaiveDate>,
    /// Whether keys are made on this device.
    pub secret_kept: bool,
    /// The first instant at which something stops if nothing changes; `null` where nothing does.
    pub ends: Option<DateTime<Utc>>,
    /// Why then.
    pub because: String,
    /// When the key is renewed next.
    pub next_attempt: Option<DateTime<Utc>>,
    /// Why it could not be renewed.
    pub last_error: Option<String>,
}

impl<C: RefreshCalls> Refresher<C> {
    /// Reads the store, then keeps the key alive until stopped.
    pub async fn run(self) {
        let mut keeper = Keeper {
            machine: Machine::new(None, fastrand::f64()),
            origin: Origin::Store,
            unreadable: None,
            token_ends: None,
            reported: None,
            begun: Instant::now(),
            parts: self,
        };
        keeper.reload().await;
        let stop = keeper.parts.stop.clone();
        // Dropping it in the middle is what a power cut does; the file is replaced whole.
        stop.run_until_cancelled(keeper.keep()).await;
    }
}

/// The running task: the parts it was given, and what it knows.
struct Keeper<C> {
    parts: Refresher<C>,
    machine: Machine,
    origin: Origin,
    /// Why the store cannot be read, if it cannot.
    unreadable: Option<String>,
    /// When the token itself ends, as its policy was last seen.
    token_ends: Option<DateTime<Utc>>,
    /// What the log says last, and since when that is so.
    reported: Option<(Condition, Option<DateTime<Utc>>)>,
    begun: Instant,
}

impl<C: RefreshCalls> Keeper<C> {
    async fn keep(&mut self) {
        let mut replaced = self.parts.signer.changed();
        loop {
            let moment = self.moment();
            let step = self.machine.step(moment);
            self.report();
            let event = match step {
                Step::Wait(wait) => {
                    let left = Bound::Within(wait);
                    let _waiting = self.parts.pulse.enter("waiting for the next renewal", left);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {
                            if self.without_key() {
                                self.reload().await;
                            }
                        }
                        () = self.parts.reload.notified() => {
                            self.reload().await;
                            self.machine.doubt();
                        }
                        // Cannot end: the signer is one of our own parts.
                        _ = replaced.changed() => {}
                    }
                    Event::Replaced(self.parts.signer.current())
                }
                Step::Fetch(credential, day) => {
                    Event::Fetched(self.parts.calls.fetch(&credential, day).await)
                }
                Step::Prove(credential) => {
                    Event::Proved(prove(&self.parts.calls, &credential).await)
                }
                Step::Save(credential) => Event::Saved(self.save(&credential).await),
            };
            let moment = self.moment();
            self.machine.on(event, moment, fastrand::f64());
        }
    }

    fn moment(&self) -> Moment {
        Moment { server: self.parts.clock.trusted_now(), elapsed: self.begun.elapsed() }
    }

    fn without_key(&self) -> bool {
        matches!(
            self.machine.condition(self.moment()),
            Condition::Missing | Condition::RunOut | Condition::Refused
        )
    }

    /// Takes what is in the store. One that cannot be read changes nothing.
    async fn reload(&mut self) {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let today = self.parts.clock.signing_now().date_naive();
        let loaded = off_thread(move || store.load(&name, today)).await;
        self.token_ends = match &loaded {
            Ok(Some((credential, _))) => self.token_ends(credential.token_id.clone()).await,
            Ok(None) | Err(_) => None,
        };
        let unreadable = match loaded {
            Ok(Some((credential, origin))) => {
                self.origin = origin;
                let before = self.parts.signer.current().map(|before| before.token_id.clone());
                if let Some(before) = before.filter(|before| *before != credential.token_id) {
                    info!(
                        event = "credential.replaced",
                        token = %self.parts.name, token_id = %credential.token_id, %before,
                        "another token in use"
                    );
                }
                self.parts.signer.replace(credential);
                None
            }
            Ok(None) => {
                self.parts.signer.clear();
                None
            }
            Err(error) => Some(Chain(&error).to_string()),
        };
        if self.unreadable != unreadable
            && let Some(error) = &unreadable
        {
            error!(
                event = "credential.unreadable",
                token = %self.parts.name, %error,
                "credential not read"
            );
        }
        self.unreadable = unreadable;
        let moment = self.moment();
        let event = Event::Replaced(self.parts.signer.current());
        self.machine.on(event, moment, fastrand::f64());
    }

    /// When the token ends by its policy. One that was never seen, or cannot be read, tells nothing.
    async fn token_ends(&self, id: TokenId) -> Option<DateTime<Utc>> {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let seen = off_thread(move || store.remembered(&name, &id)).await.ok().flatten()?;
        DateTime::from_timestamp_millis(seen.policy().not_after?)
    }

    /// Puts a renewed key on disk and into use: into use even if the disk fails.
    async fn save(&mut self, renewed: &Arc<Credential>) -> Result<Saved, String> {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let (credential, origin) = (renewed.clone(), self.origin);
        let saved = off_thread(move || store.save_renewed(&name, &credential, origin)).await;
        match &saved {
            Ok(Saved::Superseded(stored)) => self.parts.signer.replace((**stored).clone()),
            Ok(Saved::Forgotten) => self.parts.signer.clear(),
            Ok(Saved::Written) => {
                self.origin = Origin::Store;
                self.use_renewed(renewed);
            }
            Ok(Saved::NotNeeded) | Err(_) => self.use_renewed(renewed),
        }
        saved.map_err(|error| Chain(&error).to_string())
    }

    fn use_renewed(&self, renewed: &Arc<Credential>) {
        let before = self.parts.signer.current();
        if before.as_ref() != Some(renewed) {
            info!(
                event = "credential.renewed",
                token = %self.parts.name,
                token_id = %renewed.token_id,
                key_date = %renewed.key_date,
                key_expires = utc(renewed.ends()),
                "signing key renewed"
            );
            self.parts.signer.replace((**renewed).clone());
        }
    }

    /// Publishes where things stand, and logs it if that changed.
    fn report(&mut self) {
        let moment = self.moment();
        let condition = self.machine.condition(moment);
        let known = self.reported.filter(|(reported, _)| *reported == condition);
        let since = known.map_or(moment.server, |(_, since)| since);
        let status = self.status(condition, since, moment);
        if known.is_none() {
            self.log(condition, &status);
            self.reported = Some((condition, since));
        }
        self.parts.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    fn log(&self, condition: Condition, status: &Status) {
        let token = &self.parts.name;
        let because = &status.because;
        let ends = status.ends.map(utc).unwrap_or_default();
        let error = status.last_error.as_deref().unwrap_or_default();
        match condition {
            Condition::Missing if !self.is_missed() => {}
            Condition::Missing => {
                error!(
                    event = "credential.missing",
                    %token, because,
                    "no token, what it signs waits"
                );
            }
            Condition::TimeUnknown => {
                info!(
                    event = "credential.time_unknown",
                    %token,
                    "asking a server for the time"
                );
            }
            Condition::Well => {
                info!(
                    event = "credential.well",
                    %token, key_expires = ends, because,
                    "token in use"
                );
            }
            Condition::Failing => {
                warn!(
                    event = "credential.not_renewed",
                    %token, key_expires = ends, error,
                    "signing key not renewed"
                );
            }
            Condition::NotRenewable => {
                warn!(
                    event = "credential.not_renewable",
                    %token, key_expires = ends, because,
                    "signing key cannot be renewed"
                );
            }
            Condition::EndsSoon => {
                error!(
                    event = "credential.ends_soon",
                    %token, key_expires = ends, because, error,
                    "signing key ends soon"
                );
            }
            Condition::Refused => {
                error!(
                    event = "credential.refused",
                    %token, because, error,
                    "token refused, uploads wait"
                );
            }
            Condition::RunOut => {
                error!(
                    event = "credential.ran_out",
                    %token, key_expires = ends, because,
                    "signing key ran out, uploads wait"
                );
            }
        }
    }

    /// Whether nothing works as it should without a token.
    fn is_missed(&self) -> bool {
        self.parts.needed || self.unreadable.is_some()
    }

    fn status(&self, condition: Condition, since: Option<DateTime<Utc>>, moment: Moment) -> Status {
        let credential = self.machine.credential();
        let ends = credential.and_then(|credential| match (condition, &credential.secret) {
            (Condition::Refused, _) => since,
            (_, Some(_)) => None,
            (_, None) => Some(credential.ends()),
        });
        // What has happened already says more than what would have.
        let refused = condition == Condition::Refused;
        let token_ends = self.token_ends.filter(|_| credential.is_some() && !refused);
        let token_ends = token_ends.filter(|at| ends.is_none_or(|ends| *at < ends));
        Status {
            missed: credential.is_none() && self.is_missed(),
            token: self.parts.name.to_string(),
            token_id: credential.map(|credential| credential.token_id.to_string()),
            key_date: credential.map(|credential| credential.key_date),
            secret_kept: credential.is_some_and(|credential| credential.secret.is_some()),
            ends: token_ends.or(ends),
            because: match token_ends {
                Some(_) => {
                    "the token ends by its policy (notAfter): have another one issued".to_owned()
                }
                None => self.because(condition),
            },
            next_attempt: self.machine.next_attempt(moment),
            last_error: self.unreadable.clone().or_else(|| self.machine.trouble().map(explain)),
        }
    }

    fn because(&self, condition: Condition) -> String {
        let name = &self.parts.name;
        let import = format!("`solarnode-agent token import {name} --token-id ID` repairs it");
        let trouble = self.machine.trouble().map(explain).unwrap_or_default();
        let kept = self.machine.credential().is_some_and(|credential| credential.secret.is_some());
        match condition {
            Condition::Missing => match &self.unreadable {
                Some(error) => error.clone(),
                None if !self.parts.needed => "no token is needed here".to_owned(),
                None => format!("there is no token `{name}` on this device; {import}"),
            },
            Condition::TimeUnknown => "the time is not known yet".to_owned(),
            Condition::Well if kept => "keys are made on this device".to_owned(),
            Condition::Well => "the signing key is renewed every day".to_owned(),
            Condition::Failing => format!("the signing key could not be renewed: {trouble}"),
            Condition::NotRenewable | Condition::EndsSoon => {
                format!(
                    "the signing key is not being renewed: {trouble}; when it has ended, {import}"
                )
            }
            Condition::Refused => format!("{trouble}; {import}"),
            Condition::RunOut => format!("the signing key is past its last day; {import}"),
        }
    }
}

/// The reason and, where there is one, what can be changed.
fn explain(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Passing(error) => error.clone(),
        Trouble::RefreshForbidden => {
            "the token's policy forbids to renew its key (refreshAllowed)".to_owned()
        }
        Trouble::PathForbidden => format!(
            "the token's policy does not list the call that renews its key: \
             add {POLICY_PATH} to its apiPaths"
        ),
        Trouble::Expired => "the token's policy has run out (notAfter)".to_owned(),
        Trouble::Rejected => {
            "the server does not accept the token: it is disabled, deleted, or another one"
                .to_owned()
        }
        Trouble::OtherKey => "the server handed out two different keys for one day".to_owned(),
        Trouble::UselessKey => "the server handed out a key that it does not accept".to_owned(),
        Trouble::Unsaved(error) => format!("the renewed key is in use but not on disk: {error}"),
    }
}

#[cfg(test)]
mod tests;
