//! A policy in options: one for each member that SolarNetwork knows, or a file with all of it.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};

use super::{Exit, Failure, OrExit, open};
use crate::policy::{
    Aggregation, Member, Policy, Precision,
    intend::{Slip, intend, slips},
};

/// Longest policy file read.
const MAX_POLICY_BYTES: u64 = 1 << 20;

/// What a token may do.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Policy")]
pub(super) struct PolicyOptions {
    /// Only this node (may be repeated)
    #[arg(long = "node", value_name = "ID", value_parser = parse_node)]
    nodes: Vec<i64>,
    /// Only this source, or sources that match: `*` within a level, `**` over levels (may be repeated)
    #[arg(long = "source", value_name = "ID")]
    sources: Vec<String>,
    /// Only this call, as a path below /api/v1/sec, or calls that match (may be repeated)
    #[arg(long = "api-path", value_name = "PATH")]
    api_paths: Vec<String>,
    /// No datum finer than this level, such as Hour
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    min_aggregation: Option<Aggregation>,
    /// Only datum of this level (may be repeated)
    #[arg(long = "aggregation", value_name = "LEVEL", value_parser = level)]
    aggregations: Vec<Aggregation>,
    /// Only node metadata at paths that match, such as /m/name or /pm/meter/** (may be repeated)
    #[arg(long = "node-metadata", value_name = "PATH")]
    node_metadata: Vec<String>,
    /// Only account metadata at paths that match (may be repeated)
    #[arg(long = "user-metadata", value_name = "PATH")]
    user_metadata: Vec<String>,
    /// No place more precisely than this; SolarNetwork stores it and does not use it
    #[arg(long, value_name = "PRECISION", value_parser = precision)]
    min_location_precision: Option<Precision>,
    /// Only places of this precision (may be repeated); SolarNetwork stores it and does not use it
    #[arg(long = "location-precision", value_name = "PRECISION", value_parser = precision)]
    location_precisions: Vec<Precision>,
    /// The last instant at which it is valid, such as 2026-12-31T23:59:59Z, or a time from now: 90d
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<Expiry>,
    /// Whether its signing keys can be renewed without the secret
    #[arg(long, value_name = "WHETHER")]
    refresh: Option<Refresh>,
    /// All of it from a JSON file, as SolarNetwork writes policies; options change its members
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
enum Expiry {
    At(DateTime<Utc>),
    After(TimeDelta),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Refresh {
    Allowed,
    Forbidden,
}

fn parse_node(text: &str) -> Result<i64, &'static str> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or("a node ID is a whole number above zero")
}

impl PolicyOptions {
    /// Whether none was given.
    pub(super) fn is_empty(&self) -> bool {
        self.policy.is_none() && self.options(DateTime::UNIX_EPOCH).members().next().is_none()
    }

    /// `base` with the members of the file and of the options in the place of its own.
    ///
    /// Fails with everything that the server would drop or misread.
    pub(super) fn over(&self, base: &Policy, now: DateTime<Utc>) -> Result<Policy, Failure> {
        let now_ms = now.timestamp_millis();
        let mut policy = base.clone();
        if let Some(path) = &self.policy {
            let from = path.display().to_string();
            let mut text = String::new();
            std::io::Read::read_to_string(
                &mut std::io::Read::take(open(path)?, MAX_POLICY_BYTES),
                &mut text,
            )
            .with_context(|| format!("could not read {from}"))
            .or_exit(Exit::Usage)?;
            let json: serde_json::Value = serde_json::from_str(&text)
                .with_context(|| format!("{from} is not JSON"))
                .or_exit(Exit::Usage)?;
            let file = intend(&json, now_ms).map_err(|slips| refused(&from, &slips))?;
            overlay(&mut policy, &file);
        }
        overlay(&mut policy, &self.options(now));
        let slips = slips(&policy, now_ms);
        if slips.is_empty() { Ok(policy) } else { Err(refused("the policy", &slips)) }
    }

    fn options(&self, now: DateTime<Utc>) -> Policy {
        let not_after = self.expires.map(|expires| match expires {
            Expiry::At(at) => at,
            Expiry::After(time) => now.checked_add_signed(time).unwrap_or(DateTime::<Utc>::MAX_UTC),
        });
        Policy {
            node_ids: self.nodes.iter().copied().map(Some).collect(),
            source_ids: self.sources.clone(),
            min_aggregation: self.min_aggregation,
            aggregations: self.aggregations.clone(),
            min_location_precision: self.min_location_precision,
            location_precisions: self.location_precisions.clone(),
            node_metadata_paths: self.node_metadata.clone(),
            user_metadata_paths: self.user_metadata.clone(),
            api_paths: self.api_paths.clone(),
            not_after: not_after.map(|at| at.timestamp_millis()),
            refresh_allowed: self.refresh.map(|refresh| refresh == Refresh::Allowed),
        }
    }
}

fn overlay(policy: &mut Policy, over: &Policy) {
    for member in over.members() {
        // Of a minimum and its list, the one that is given takes the other's place.
        match member {
            Member::MinAggregation => policy.aggregations.clear(),
            Member::Aggregations => policy.min_aggregation = None,
            Member::MinLocationPrecision => policy.location_precisions.clear(),
            Member::LocationPrecisions => policy.min_location_precision = None,
            _ => {}
        }
    }
    for member in over.members() {
        policy.copy(member, over);
    }
}

fn refused(what: &str, slips: &[Slip]) -> Failure {
    let lines: Vec<String> = slips.iter().map(|slip| format!("\n  {slip}")).collect();
    let message = format!(
        "{what} would not mean to SolarNetwork what it says; nothing was sent:{}",
        lines.concat()
    );
    Failure::new(Exit::Usage, message)
}

fn level(text: &str) -> Result<Aggregation, String> {
    let names = || Aggregation::ALL.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ");
    Aggregation::named(text).ok_or_else(|| format!("a level is one of {}", names()))
}

fn precision(text: &str) -> Result<Precision, String> {
    let names = || Precision::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
    Precision::named(text).ok_or_else(|| format!("a precision is one of {}", names()))
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Expiry::At(at.to_utc()));
    }
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        text.strip_suffix(unit)?.parse::<u32>().ok()?.checked_mul(*seconds)
    });
    let after = seconds.filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into()));
    let after = after.and_then(|time| TimeDelta::from_std(time).ok());
    after.map(Expiry::After).ok_or_else(|| {
        "write an instant such as 2026-12-31T23:59:59Z, or a time from now such as 90d or 12h; a day \
         alone would leave open whether it still counts"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        policy: PolicyOptions,
    }

    fn now() -> DateTime<Utc> {
        "2026-11-22T10:00:00Z".parse().expect("a date")
    }

    fn options(arguments: &str) -> Result<PolicyOptions, clap::Error> {
        let arguments = std::iter::once("x").chain(arguments.split_whitespace());
        Arguments::try_parse_from(arguments).map(|parsed| parsed.policy)
    }

    #[test]
    fn every_member_has_an_option() {
        let all = options(
            "--node 1 --node 2 --source /a/** --api-path /instr/** --min-aggregation Hour \
             --node-metadata /m/** --user-metadata /pm/a/* --min-location-precision Block \
             --expires 2027-01-01T00:00:00Z --refresh forbidden",
        );
        let policy = all.expect("options").over(&Policy::default(), now()).expect("a policy");
        assert_eq!(
            policy.to_json(),
            json!({
                "nodeIds": [1, 2], "sourceIds": ["/a/**"], "minAggregation": "Hour",
                "minLocationPrecision": "Block", "nodeMetadataPaths": ["/m/**"],
                "userMetadataPaths": ["/pm/a/*"], "apiPaths": ["/instr/**"],
                "notAfter": 1_798_761_600_000_i64, "refreshAllowed": false,
            })
        );
        let lists = options("--aggregation Hour --aggregation d --location-precision Block");
        let over = lists.expect("options").over(&policy, now()).expect("a policy");
        assert_eq!(over.min_aggregation, None, "the list takes its place");
        assert_eq!(over.to_json()["aggregations"], json!(["Hour", "Day"]));
        assert_eq!(over.to_json()["nodeIds"], json!([1, 2]));
    }

    #[test]
    fn an_expiry_is_an_instant_or_a_time_from_now_and_nothing_that_can_be_misread() {
        let ends = |text: &str| {
            let policy = options(&format!("--expires {text}"))?.options(now());
            Ok::<_, clap::Error>(policy.not_after.expect("an expiry"))
        };
        assert_eq!(ends("90d").expect("a time"), (now() + TimeDelta::days(90)).timestamp_millis());
        for bad in ["2026-12-31", "1798761600000", "0d", "-1d", "soon", "99999999999d"] {
            assert!(ends(bad).is_err(), "{bad}");
        }
        let past = options("--expires 2020-01-01T00:00:00Z").expect("options");
        let refused = past.over(&Policy::default(), now()).expect_err("over");
        assert!(refused.error.to_string().contains("has passed"), "{:#}", refused.error);
    }

    #[test]
    fn words_are_case_sensitive_and_named() {
        for bad in ["--min-aggregation hour", "--location-precision block", "--node 0"] {
            options(bad).expect_err(bad);
        }
        assert!(options("").expect("none").is_empty());
        assert!(!options("--refresh allowed").expect("one").is_empty());
    }
}
