//! `token check`: whether a token on this device works, what its policy lacks or has to spare, and what
//! stops when.
//!
//! What it finds out, in this order: the refresh call proves the key; harmless calls of those that the
//! daemon makes are tried on the configured node; then the policy, from the first of
//!
//! 1. the manager, if one is given (`--as`): always complete;
//! 2. SolarNetwork, asked with the token itself: only where its policy lets it ask;
//! 3. what was remembered when the token was issued or last checked: may be outdated, and is dated.
//!
//! What stays unknown is said. Nothing that changes anything is tried, so whether a source may be written
//! is known from the policy alone.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Exit, Failure, OrExit, OrStoreExit, Streams, TokenContext, block_on,
    list::print_json,
    manager::{MaybeAs, OrTokensExit},
    readable,
    refresh::refused,
};
use crate::{
    audit,
    credential::Credential,
    domain::TokenName,
    instruct,
    needs::{Needs, Stop, stops},
    policy::{Member, Policy},
    refresh::{RefreshCalls, Unproved, calls::POLICY_PATH, prove},
    solarnet::{Application, Call, CallAs, CallError, Cause, Method, Next, Priority},
    tokens::{Manager, Token, calls},
    upload,
};

/// Ask SolarNetwork whether a token on this device works, for this configuration, and until when
#[derive(Debug, Args)]
#[command(after_help = "\
With a manager's credential the token's policy is known for certain; without, as far as SolarNetwork \
tells it to the token itself, or as it was last seen.

Example:
  solarnode-agent token check
  solarnode-agent token check --as MANAGER < secret.txt")]
pub(super) struct Check {
    /// The token's name [default: the configured one, or where it has nothing to do that of [audit]]
    name: Option<TokenName>,
    /// Print JSON: {token, token_id, key_date, key_ends, renewable, tried, policy, policy_from,
    /// policy_seen, missing, excess, stops}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: MaybeAs,
}

/// What was found out.
struct Report<'a> {
    name: &'a TokenName,
    credential: Credential,
    /// Why the key cannot be renewed, if it cannot.
    renewal: Option<CallError>,
    tried: Vec<Tried>,
    known: Option<Known>,
    missing: Vec<String>,
    excess: Vec<String>,
    stops: Vec<Stop>,
}

/// A call that was tried.
#[derive(Debug, Serialize)]
struct Tried {
    call: String,
    answered: bool,
    because: Option<String>,
}

/// A policy, and how it is known.
struct Known {
    kind: String,
    policy: Policy,
    from: Origin,
    seen: DateTime<Utc>,
}

/// Who told the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    Manager,
    Server,
    Remembered,
}

impl Check {
    pub(super) fn run<C: RefreshCalls + CallAs>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        let own = &context.solarnet.token;
        let name = match (&self.name, &context.needs) {
            (Some(name), _) => name,
            // Where the node's certificate does the work, the one that audits is all there is to check.
            (None, Some(needs))
                if !needs.is_any()
                    && context.store().load_stored(own).or_store_exit()?.is_none() =>
            {
                let Some(audit) = &needs.audit_token else {
                    writeln!(streams.err, "{}", context.idle_token()?)?;
                    return Ok(Exit::Ok);
                };
                audit
            }
            (None, _) => own,
        };
        let stored = context.stored(name)?;
        let calls = connect(context)?;
        let manager = match self.manager.given() {
            Some(acting) => Some(acting.manager(streams, &calls)?),
            None => None,
        };
        let needs = match context.needs_of(name) {
            Some(needs) => Some(context.with_waiting(needs, streams.err)?),
            None => None,
        };
        let needs = needs.as_ref();
        let report = block_on(find_out(name, &stored, context, needs, &calls, manager))??;
        if self.json {
            print_json(streams, &report.as_json())?;
        } else {
            report.print(streams, needs.is_some())?;
        }
        Ok(report.exit())
    }
}

async fn find_out<'a, C: RefreshCalls + CallAs>(
    name: &'a TokenName,
    stored: &Credential,
    context: &TokenContext,
    needs: Option<&Needs>,
    calls: &C,
    manager: Option<Manager<'_, C>>,
) -> Result<Report<'a>, Failure> {
    // Where the secret is here, the key on disk may be of any day.
    let credential = stored.derived(calls.server_time().date_naive());
    let renewal = match prove(calls, &credential).await {
        Ok(()) => None,
        Err(Unproved::Refused(error))
            if matches!(error.cause, Cause::AccessDenied | Cause::PathDenied) =>
        {
            Some(error)
        }
        Err(Unproved::Refused(error)) if error.cause == Cause::BadCredentials => {
            let failure = refused(error);
            let why = match manager {
                Some(manager) => Some(why_refused(&manager, &credential).await?),
                None => None,
            };
            return Err(match why {
                Some(why) => Failure { error: failure.error.context(why), ..failure },
                None => failure,
            });
        }
        Err(Unproved::Refused(error)) => return Err(refused(error)),
        Err(other) => return Err(other).or_exit(Exit::NoPermission),
    };
    let mut tried = Vec::new();
    for (what, call) in needs.map(harmless_calls).unwrap_or_default() {
        tried.push(attempt(calls, &credential, what, call).await?);
    }
    let known = match manager {
        Some(manager) => {
            let listing = manager.list().await.or_tokens_exit()?;
            let token = listing.token(&credential.token_id).or_tokens_exit()?;
            Some((token.clone(), Origin::Manager))
        }
        None => own_policy(calls, &credential).await.map(|token| (token, Origin::Server)),
    };
    let known = match known {
        Some((token, from)) => {
            let seen = calls.server_time();
            context.remember(&token, seen)?;
            Some(Known { kind: token.kind, policy: token.policy, from, seen })
        }
        None => remembered(context, name, &credential)?,
    };
    let mut report = Report {
        name,
        renewal,
        tried,
        missing: Vec::new(),
        excess: Vec::new(),
        stops: stops(&credential, known.as_ref().map(|known| &known.policy), needs),
        credential,
        known,
    };
    report.compare(needs);
    Ok(report)
}

/// What the manager knows of a token whose key is refused.
async fn why_refused<C: CallAs>(
    manager: &Manager<'_, C>,
    credential: &Credential,
) -> Result<String, Failure> {
    let (id, listing) = (&credential.token_id, manager.list().await.or_tokens_exit()?);
    let active = listing.token(id).or_tokens_exit()?.active;
    Ok(match active {
        false => format!("{id} is disabled; `solarnode-agent token enable {id} --as ID` ends that"),
        true => format!("{id} is active, but the key on this device is not its key"),
    })
}

/// Those of the configuration's calls that change nothing.
pub(super) fn harmless_calls(needs: &Needs) -> Vec<(String, Call)> {
    let pending = instruct::API_PATHS[0];
    let mut calls = Vec::new();
    let jobs = upload::import::http::API_PATHS[0];
    if needs.api_paths.contains(&jobs) {
        let call = Call { priority: Priority::Urgent, ..upload::import::http::list() };
        calls.push((format!("GET {jobs}"), call));
    }
    let list = audit::query::API_PATHS[0];
    if needs.api_paths.contains(&list) {
        let call = audit::query::one(needs.node);
        calls.push((format!("GET {list} of node {}", needs.node), call));
    }
    if needs.api_paths.contains(&pending) {
        calls.push((
            format!("GET {pending} of node {}", needs.node),
            Call {
                application: Application::User,
                priority: Priority::Urgent,
                method: Method::Get,
                path: format!("/api/v1/sec{pending}"),
                query: vec![("nodeId".to_owned(), needs.node.to_string())],
                body: None,
            },
        ));
    }
    calls
}

async fn attempt<C: CallAs>(
    calls: &C,
    credential: &Credential,
    what: String,
    call: Call,
) -> Result<Tried, Failure> {
    match calls.call_as(credential, call).await {
        Ok(_) => Ok(Tried { call: what, answered: true, because: None }),
        Err(error) if matches!(error.next(), Next::Retry { .. }) => Err(refused_call(error)),
        Err(error) => Ok(Tried { call: what, answered: false, because: Some(error.to_string()) }),
    }
}

fn refused_call(error: CallError) -> Failure {
    Failure { exit: Exit::Unavailable, error: error.into() }
}

/// The policy as SolarNetwork tells it to the token itself, where it does.
async fn own_policy<C: CallAs>(calls: &C, credential: &Credential) -> Option<Token> {
    // A refusal is the ordinary answer: least privilege does not have this call.
    let answer = calls.call_as(credential, calls::list()).await.ok()?;
    let tokens = calls::tokens(&answer.data)?;
    tokens.into_iter().find(|token| token.id == credential.token_id)
}

fn remembered(
    context: &TokenContext,
    name: &TokenName,
    credential: &Credential,
) -> Result<Option<Known>, Failure> {
    let read = context.store().remembered(name, &credential.token_id).or_store_exit()?;
    Ok(read.map(|remembered| Known {
        policy: remembered.policy(),
        kind: remembered.kind,
        from: Origin::Remembered,
        seen: remembered.seen,
    }))
}

impl Report<'_> {
    /// Holds the policy against the needs.
    fn compare(&mut self, needs: Option<&Needs>) {
        let (Some(needs), Some(known)) = (needs, &self.known) else { return };
        if !needs.fits(&known.kind) {
            self.missing.push(format!("a User token: this is a {} token", known.kind));
        }
        let keeps_secret = self.credential.secret.is_some();
        for refused in needs.missing(&known.policy) {
            let about_renewal = refused.member == Member::RefreshAllowed
                || (refused.member == Member::ApiPaths && refused.wanted == POLICY_PATH);
            // Without renewal it works on until the key ends, which is among the stops; with the
            // secret here nobody is asked.
            if refused.member != Member::RefreshAllowed && !(keeps_secret && about_renewal) {
                self.missing.push(format!("{}: {}", refused.member.name(), refused.wanted));
            }
        }
        let excess = needs.excess(&known.policy).into_iter();
        self.excess.extend(excess.map(|e| format!("{}: {}", e.member.name(), e.what)));
    }

    fn exit(&self) -> Exit {
        let path_denied = self.renewal.as_ref().is_some_and(|e| e.cause == Cause::PathDenied)
            && self.credential.secret.is_none();
        let refused = self.tried.iter().any(|tried| !tried.answered);
        match path_denied || refused || !self.missing.is_empty() {
            true => Exit::NoPermission,
            false => Exit::Ok,
        }
    }

    fn print(&self, streams: &mut Streams<'_>, compared: bool) -> Result<(), Failure> {
        let Self { name, credential, .. } = self;
        let until = readable(credential.ends());
        let renewed = if self.renewal.is_none() { " and can be renewed" } else { "" };
        writeln!(
            streams.out,
            "token `{name}` ({}) works: its key of {} signs until {until}{renewed}",
            credential.token_id, credential.key_date
        )?;
        self.warn_of_renewal(streams, &until)?;
        for tried in &self.tried {
            match &tried.because {
                None => writeln!(streams.out, "{} is answered", tried.call)?,
                Some(because) => writeln!(streams.out, "{} is refused: {because}", tried.call)?,
            }
        }
        match &self.known {
            Some(known) => writeln!(streams.out, "its policy {}", known.shown())?,
            None => writeln!(
                streams.out,
                "its policy is not known: SolarNetwork does not tell it to this token, and it was \
                 not issued here; --as ID asks with a manager's credential"
            )?,
        }
        for missing in &self.missing {
            writeln!(streams.out, "  missing   {missing}")?;
        }
        for excess in &self.excess {
            writeln!(streams.out, "  too much  {excess}")?;
        }
        if compared && self.known.is_some() && self.missing.is_empty() && self.excess.is_empty() {
            writeln!(streams.out, "  it is exactly what the configuration needs")?;
        }
        if !compared {
            writeln!(
                streams.err,
                "note: not compared with the configuration, which uses another token or is not right"
            )?;
        }
        for stop in &self.stops {
            writeln!(streams.out, "{}: {}", readable(stop.at), stop.because)?;
        }
        Ok(())
    }

    fn warn_of_renewal(&self, streams: &mut Streams<'_>, until: &str) -> Result<(), Failure> {
        let Some(error) = &self.renewal else { return Ok(()) };
        let why = match error.cause {
            Cause::PathDenied => {
                format!("does not list the call that renews its key ({POLICY_PATH})")
            }
            _ => "forbids to renew its key (refreshAllowed)".to_owned(),
        };
        let ends = match self.credential.secret {
            Some(_) => "it is made anew from the secret on this device".to_owned(),
            None => format!("uploads end on {until} unless the token is imported again"),
        };
        writeln!(streams.err, "warning: the token's policy {why}: {ends}")?;
        Ok(())
    }

    fn as_json(&self) -> Value {
        let known = self.known.as_ref();
        json!({
            "token": self.name.as_str(),
            "token_id": self.credential.token_id.as_str(),
            "key_date": self.credential.key_date,
            "key_ends": self.credential.ends(),
            "renewable": self.renewal.is_none() || self.credential.secret.is_some(),
            "tried": self.tried,
            "policy": known.map(|known| known.policy.to_json()),
            "policy_from": known.map(|known| known.from),
            "policy_seen": known.map(|known| known.seen),
            "missing": self.missing,
            "excess": self.excess,
            "stops": self.stops,
        })
    }
}

impl Known {
    fn shown(&self) -> String {
        match self.from {
            Origin::Manager => "is known from the manager".to_owned(),
            Origin::Server => "is known from SolarNetwork".to_owned(),
            Origin::Remembered => format!(
                "is known as of {}, and may have been changed since (--as ID asks a manager)",
                readable(self.seen)
            ),
        }
    }
}
