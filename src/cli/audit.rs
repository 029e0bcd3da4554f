//! `audit`: whether what was accepted is still there, hour by hour.
//!
//! The steps: the ledger of accepted datum is read beside the daemon; the token's key is renewed, which
//! proves it, keeps it alive and tells the server's time; what the policy of the token is known to forbid
//! is refused before anything is asked; then SolarQuery is asked, and what it shows compared.

use std::{collections::BTreeMap, io::Write, time::Duration};

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::{
    Exit, Failure, OrExit, queue,
    token::{block_on, refresh},
};
use crate::{
    audit::{
        Ledger,
        compare::{self, Finding, Known, Shown, Verdict},
        days::{self, Book, KEPT_DAYS, day_of},
        query::{self, QueryError, Wanted},
        tally::{HOUR_MS, hour_of},
    },
    clock::Clock,
    config::{self, Settings},
    credential::{Credential, Signer, Store, store::Origin},
    domain::{TokenName, utc},
    net::Net,
    policy::{Aggregation, Policy, Request},
    solarnet::{Api, CallError, Cause, Next},
    upload::store as sent,
};

/// Compare what SolarNetwork accepted with what it shows now, and list every gap
#[derive(Debug, Args)]
#[command(after_help = "\
Best with a Data token of its own, which `[audit] token` names: `token create --for-config --type data`.
Run it at least once a week: each run renews the token's key.

Ends with 0 where nothing is missing, 65 where something is, 69 without an answer, 77 where the server or
the token's policy refuses.

Example:
  solarnode-agent audit
  solarnode-agent audit --since 7d --json | jq .gaps")]
pub struct Audit {
    /// How far back to look, at most 35d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    since: Duration,
    /// How long after its proof a datum may take to be shown; what is missing before is no gap
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    settle: Duration,
    /// The token that asks, by its name on this device [default: that of [audit], or else that of
    /// [solarnet]]
    #[arg(long, value_name = "NAME")]
    token: Option<TokenName>,
    /// Print JSON: {node, token, from, to, accepted, shown, hours, gaps, not_judged}
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(KEPT_DAYS as u64 * 86_400);
    config::duration(text)
        .filter(|given| *given <= longest)
        .ok_or_else(|| format!("a duration such as 24h or 7d, at most {KEPT_DAYS}d"))
}

/// What was found.
struct Report {
    node: u64,
    token: TokenName,
    /// The first hour and the one after the last.
    hours: (i64, i64),
    level: Option<Aggregation>,
    findings: Vec<Finding>,
    waiting: u64,
}

impl Audit {
    /// Compares, and prints what came of it.
    ///
    /// # Errors
    ///
    /// With 69 or 77 if nothing can be compared.
    pub fn run(
        self,
        settings: &Settings,
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> Result<Exit, Failure> {
        let token = self.token.as_ref().or(settings.audit.token.as_ref());
        let token = token.unwrap_or(&settings.solarnet.token).clone();
        let store = Store::new(&settings.state_dir, None);
        let stored = store.load_stored(&token).or_exit(Exit::NoPermission)?;
        let Some(stored) = stored else { return Err(no_token(&token, settings)) };
        let ledger = ledger(settings)?;
        let known = store.remembered(&token, &stored.token_id).or_exit(Exit::NoPermission)?;
        let policy = known.map(|known| known.policy()).unwrap_or_default();
        let (api, clock) = client(settings)?;
        let credential = block_on(renewed(&api, stored))??;
        store.save_renewed(&token, &credential, Origin::Store).or_exit(Exit::Io)?;

        let now = clock.signing_now();
        refuse(&policy, settings, now)?;
        let level = level(&policy)?;
        let since = i64::try_from(self.since.as_millis()).unwrap_or(i64::MAX);
        let first = hour_of(now.timestamp_millis().saturating_sub(since));
        let end = hour_of(now.timestamp_millis()).saturating_add(1);
        let book = days::read(&settings.state_dir, &ledger, day_of(first), day_of(end))?;
        let book = within(book, first, end);
        let mut asked = book.clone();
        let hidden = |source: &str| policy.refuses(Request::Source(source)).is_some();
        asked.hours.retain(|source, _| !hidden(source));
        let wanted = Wanted { node: settings.node, book: &asked, level };
        self.announce(settings, &wanted, err)?;
        let shown = block_on(wanted.ask(&api, &credential, level.is_some()))?;
        let mut shown: Shown = shown.map_err(failure)?;
        shown.hidden.extend(book.hours.keys().filter(|source| hidden(source)).cloned());
        let known = Known {
            complete_from: ledger.complete_from(),
            on_its_way: ledger.on_its_way().cloned().collect(),
            now_secs: clock.signing_now().timestamp(),
            settle_secs: i64::try_from(self.settle.as_secs()).unwrap_or(i64::MAX),
        };
        let report = Report {
            node: settings.node.number(),
            token,
            hours: (first, end),
            level,
            findings: compare::compare(&book, &shown, &known),
            waiting: queue::waiting(&settings.state_dir)?,
        };
        if self.json {
            writeln!(out, "{:#}", report.as_json())?;
        } else {
            report.print(out)?;
        }
        Ok(report.exit())
    }

    /// Says how long it takes, where a person would wonder.
    fn announce(
        &self,
        settings: &Settings,
        wanted: &Wanted<'_>,
        err: &mut impl Write,
    ) -> std::io::Result<()> {
        let calls = wanted.calls();
        let seconds = (calls as f64 / settings.solarnet.requests_per_second).ceil();
        if seconds > 10.0 {
            writeln!(
                err,
                "asking SolarQuery {calls} times, about {seconds} s (`request_rate`) ..."
            )?;
        }
        Ok(())
    }
}

fn no_token(name: &TokenName, settings: &Settings) -> Failure {
    let own = "`[audit] token` in the configuration then names it";
    let named = if settings.audit.token.as_ref() == Some(name) { "" } else { own };
    let sign = if named.is_empty() { "" } else { "; " };
    Failure::new(
        Exit::Config,
        format!(
            "no token `{name}` on this device; `solarnode-agent token create {name} --for-config \
             --type data --as MANAGER` issues one for audits, `token import {name} --token-id ID` takes \
             one that there is{sign}{named}"
        ),
    )
}

fn ledger(settings: &Settings) -> Result<Ledger, Failure> {
    let contents = sent::load(&sent::path(&settings.state_dir))?;
    let ledger = contents.and_then(|contents| contents.ledger);
    ledger.filter(|ledger| ledger.node() == settings.node.number()).ok_or_else(|| {
        Failure::new(
            Exit::Unavailable,
            format!(
                "there is no ledger yet of what was accepted of node {}: the daemon begins one with \
                 its first upload",
                settings.node
            ),
        )
    })
}

fn client(settings: &Settings) -> Result<(Api, Clock), Failure> {
    let (solarnet, clock) = (&settings.solarnet, Clock::untold());
    let net = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone());
    let api = Api::new(solarnet, net.or_exit(Exit::Config)?, clock.clone(), Signer::new(None));
    Ok((api, clock))
}

/// The token with a key of today, as far as its policy lets it.
async fn renewed(api: &Api, stored: Credential) -> Result<Credential, Failure> {
    match refresh::renew(api, &stored).await {
        Err(failure) => {
            let cause = failure.error.downcast_ref::<CallError>().map(|error| error.cause);
            match cause {
                // What there is may do for a while.
                Some(Cause::AccessDenied | Cause::PathDenied)
                    if stored.usable_at(api.now()) || stored.secret.is_some() =>
                {
                    Ok(stored.derived(api.now().date_naive()))
                }
                _ => Err(failure),
            }
        }
        renewed => renewed,
    }
}

/// Refuses what the policy is known to forbid.
fn refuse(policy: &Policy, settings: &Settings, now: DateTime<Utc>) -> Result<(), Failure> {
    let node = i64::try_from(settings.node.number()).unwrap_or(i64::MAX);
    let asked = [Request::At(now), Request::Api(query::API_PATHS[0]), Request::Node(node)];
    match asked.into_iter().find_map(|request| policy.refuses(request)) {
        Some(refused) => Err(Failure::new(
            Exit::NoPermission,
            format!("the server will refuse this token: {refused}"),
        )),
        None => Ok(()),
    }
}

/// The level to ask for: none, unless the policy shows aggregates only. What is coarser than an hour says
/// nothing about an hour.
fn level(policy: &Policy) -> Result<Option<Aggregation>, Failure> {
    let finest = |level: &&Aggregation| level.seconds();
    let level = match policy.aggregation(None) {
        Ok(level) => level,
        Err(_) => policy.aggregations.iter().min_by_key(finest).copied(),
    };
    let level = level.filter(|level| *level != Aggregation::None);
    match level {
        Some(level) if level.seconds() > Aggregation::Hour.seconds() => Err(Failure::new(
            Exit::NoPermission,
            format!(
                "the token's policy shows nothing finer than {}: nothing of an hour can be compared; \
                 audit with a token whose policy has no `minAggregation` and no `aggregations`",
                level.name()
            ),
        )),
        level => Ok(level),
    }
}

fn within(mut book: Book, first: i64, end: i64) -> Book {
    for hours in book.hours.values_mut() {
        hours.retain(|hour, _| (first..end).contains(hour));
    }
    book.hours.retain(|_, hours| !hours.is_empty());
    book
}

fn failure(error: QueryError) -> Failure {
    let exit = match &error {
        QueryError::Call(error) => match error.next() {
            Next::Retry { .. } => Exit::Unavailable,
            Next::RefreshKey | Next::Gone | Next::Content | Next::Stop => Exit::NoPermission,
        },
        QueryError::NothingVisible { .. } | QueryError::Aggregated => Exit::NoPermission,
    };
    let hint = match &error {
        QueryError::Call(error) if error.cause == Cause::PathDenied => Some(format!(
            "the token's policy does not list the call that audits need: add {} to its apiPaths, or \
             let a Data token of its own audit (`token create --for-config --type data`)",
            query::API_PATHS[0]
        )),
        QueryError::Call(error) if error.cause == Cause::UnknownObject => Some(
            "SolarQuery does not know the node: is `node.id` right, and is it archived?".to_owned(),
        ),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    Failure { exit, error: hint.into_iter().fold(error, |error, hint| error.context(hint)) }
}

/// The beginning of an hour.
fn begin(hour: i64) -> String {
    let begin = hour.checked_mul(HOUR_MS).and_then(DateTime::from_timestamp_millis);
    utc(begin.unwrap_or_default())
}

impl Report {
    fn gaps(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict.is_gap())
    }

    fn not_judged(&self) -> impl Iterator<Item = &Finding> {
        let judged = |verdict: Verdict| verdict.is_gap() || verdict.is_well();
        self.findings.iter().filter(move |finding| !judged(finding.verdict))
    }

    fn exit(&self) -> Exit {
        if self.gaps().next().is_some() { Exit::Data } else { Exit::Ok }
    }

    fn accepted(&self) -> u64 {
        self.findings.iter().map(|finding| finding.accepted).sum()
    }

    fn as_json(&self) -> Value {
        let each = |finding: &Finding| {
            json!({
                "source": finding.source,
                "hour": begin(finding.hour),
                "accepted": finding.accepted,
                "shown": finding.found,
                "verdict": finding.verdict,
                "because": finding.verdict.because(),
            })
        };
        let whole = self.findings.iter().filter(|f| f.verdict == Verdict::Whole).count();
        json!({
            "node": self.node,
            "token": self.token.as_str(),
            "from": begin(self.hours.0),
            "to": begin(self.hours.1),
            "aggregation": self.level.map(Aggregation::name),
            "accepted": self.accepted(),
            "shown": self.findings.iter().filter_map(|finding| finding.found).sum::<u64>(),
            "hours": self.findings.len(),
            "whole": whole,
            "waiting": self.waiting,
            "gaps": self.gaps().map(each).collect::<Vec<_>>(),
            "not_judged": self.not_judged().map(each).collect::<Vec<_>>(),
        })
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (from, to) = (begin(self.hours.0), begin(self.hours.1));
        let well = self.findings.iter().filter(|finding| finding.verdict.is_well()).count();
        writeln!(
            out,
            "node {}, {from} to {to}: {} datum accepted, in {}",
            self.node,
            self.accepted(),
            hours(self.findings.len(), "of a source", "of sources")
        )?;
        match self.level {
            None => writeln!(
                out,
                "{}: every datum is there as it was sent",
                hours(well, "is whole", "are whole")
            )?,
            Some(level) => writeln!(
                out,
                "{}: the token's policy shows {} aggregates only, so datum cannot be counted",
                hours(well, "has something", "have something"),
                level.name()
            )?,
        }
        let gaps: Vec<&Finding> = self.gaps().collect();
        table(out, &hours(gaps.len(), "has a gap", "have a gap"), gaps)?;
        let not_judged: Vec<&Finding> = self.not_judged().collect();
        if !not_judged.is_empty() {
            table(
                out,
                &hours(not_judged.len(), "cannot be judged", "cannot be judged"),
                not_judged,
            )?;
        }
        if self.waiting > 0 {
            writeln!(out, "{} datum wait in the queue and are not accepted yet", self.waiting)?;
        }
        Ok(())
    }
}

/// So many hours, and what is said of one and of more.
fn hours(count: usize, one: &str, more: &str) -> String {
    if count == 1 { format!("1 hour {one}") } else { format!("{count} hours {more}") }
}

/// The findings, grouped by what they mean.
fn table(out: &mut impl Write, title: &str, findings: Vec<&Finding>) -> std::io::Result<()> {
    writeln!(out, "{title}")?;
    let mut groups = BTreeMap::<&str, Vec<&Finding>>::new();
    for finding in findings {
        groups.entry(finding.verdict.because()).or_default().push(finding);
    }
    for (because, findings) in groups {
        writeln!(out, "  {because}")?;
        for finding in findings {
            let shown = finding.found.map_or("?".to_owned(), |found| found.to_string());
            writeln!(
                out,
                "    {}  {}  accepted {}, shown {shown}",
                begin(finding.hour),
                finding.source,
                finding.accepted
            )?;
        }
    }
    Ok(())
}
