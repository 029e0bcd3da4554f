//! What a configuration needs of its token, as a policy: nothing more, nothing less. Pure.
//!
//! Which calls are made is said where they are made: each task's `API_PATHS`. What they are for decides
//! which nodes and sources they touch. [`Needs::policy`] is the smallest policy under which everything
//! works; [`Needs::missing`] and [`Needs::excess`] hold another one against it, and [`stops`] says on
//! which date what ends.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    audit,
    config::{
        Settings,
        settings::{Proof, Via},
    },
    credential::Credential,
    domain::{NodeId, SourceId, TokenKind, TokenName},
    instruct,
    policy::{Member, Policy, Refused, Request, ant},
    refresh::calls::POLICY_PATH,
    upload,
};

/// What a configuration needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The node whose datum are uploaded and whose instructions are fetched.
    pub node: NodeId,
    /// The sources of everything that is uploaded, results of instructions included.
    pub sources: BTreeSet<SourceId>,
    /// The calls that are made, as `apiPaths` spells them.
    pub api_paths: Vec<&'static str>,
    /// The token of its own that audits, by its name, where one is configured.
    pub audit_token: Option<TokenName>,
}

/// A right that the configuration does not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// Where the policy gives it.
    pub member: Member,
    /// The right, in words.
    pub what: String,
}

/// Something that ends on a date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// When.
    pub at: DateTime<Utc>,
    /// What, and why.
    pub because: String,
}

/// Whether a configuration needs a node's certificate.
#[must_use]
pub fn certificate(settings: &Settings) -> bool {
    let by_upload = match settings.upload.via {
        Via::Import => false,
        Via::Bulk => true,
        // A broker without TLS, as on a machine of one's own, is shown nothing.
        Via::Mqtt => settings.mqtt.broker.url.as_ref().is_none_or(|url| url.secure),
    };
    let by_feed = settings.flux.as_ref().is_some_and(|flux| {
        let url = flux.broker.url.as_ref();
        url.is_none_or(|url| url.secure)
    });
    by_upload || by_feed
}

impl Needs {
    /// Of this configuration.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let units = settings.modbus.iter().flat_map(|bus| &bus.units);
        let mut sources: BTreeSet<SourceId> = units.map(|unit| unit.source.clone()).collect();
        let mut api_paths = Vec::new();
        let instructions = &settings.instructions;
        // With a certificate, neither datum nor instructions go through a call that a token signs.
        if settings.upload.via == Via::Import {
            api_paths.extend(upload::import::http::API_PATHS);
            api_paths.extend(instruct::API_PATHS.into_iter().filter(|_| instructions.enabled));
        }
        if instructions.enabled {
            // Every outcome becomes a datum.
            sources.extend(settings.controls.iter().map(|control| control.id.clone()));
            sources.extend(instructions.result_source.clone());
        }
        let mut audit_token = settings.audit.token.clone();
        let audits = audit_token.take_if(|name| *name == settings.solarnet.token).is_some();
        if audits || (audit_token.is_none() && settings.upload.proof == Proof::Query) {
            api_paths.extend(audit::query::API_PATHS);
        }
        // The address of each file becomes a datum.
        sources.extend(settings.files.iter().filter_map(|folder| folder.source.clone()));
        // Without this one the node is dead after a week.
        api_paths.push(POLICY_PATH);
        Self { node: settings.node, sources, api_paths, audit_token }
    }

    /// Whether there is anything for the token to do. With a certificate there may be nothing.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.api_paths.iter().any(|path| *path != POLICY_PATH)
    }

    /// Of the token that only audits: a Data token suffices.
    #[must_use]
    pub fn of_audit(&self) -> Self {
        let api_paths = audit::query::API_PATHS.into_iter().chain([POLICY_PATH]).collect();
        Self { api_paths, ..self.clone() }
    }

    /// Whether a token of this kind can do what is needed at all.
    #[must_use]
    pub fn fits(&self, kind: &str) -> bool {
        let reads_only = self
            .api_paths
            .iter()
            .all(|path| audit::query::API_PATHS.contains(path) || *path == POLICY_PATH);
        kind == TokenKind::User.name() || (reads_only && kind == TokenKind::Data.name())
    }

    /// The smallest policy that lets it work.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            node_ids: vec![Some(self.node_number())],
            source_ids: self.sources.iter().map(ToString::to_string).collect(),
            api_paths: self.api_paths.iter().map(ToString::to_string).collect(),
            refresh_allowed: Some(true),
            ..Policy::default()
        }
    }

    /// What the server will refuse under this policy.
    #[must_use]
    pub fn missing(&self, policy: &Policy) -> Vec<Refused> {
        let calls = self.api_paths.iter().map(|path| policy.refuses(Request::Api(&example(path))));
        let node = policy.refuses(Request::Node(self.node_number()));
        let sources = self.sources.iter().map(|s| policy.refuses(Request::Source(s.as_str())));
        calls
            .chain([node])
            .chain(sources)
            .chain([policy.refuses(Request::Refresh)])
            .flatten()
            .collect()
    }

    /// What this policy allows without need.
    #[must_use]
    pub fn excess(&self, policy: &Policy) -> Vec<Excess> {
        let own_node = self.node_number();
        let nodes = policy.node_ids.iter().flatten().filter(|id| **id != own_node);
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        let calls: Vec<String> = self.api_paths.iter().map(|path| example(path)).collect();
        let unused = |entry: &&String, own: &[&str]| !own.contains(&entry.as_str());
        let own_sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let own_calls: Vec<&str> =
            self.api_paths.iter().copied().chain(calls.iter().map(String::as_str)).collect();
        let any = |member: Member, entries: usize, what: &str| {
            (entries == 0).then(|| Excess { member, what: what.to_owned() })
        };
        let more = |member: Member, entry: &String, wanted: &[String]| {
            let used = wanted.iter().any(|wanted| ant::matches(entry, wanted));
            let what = if used { "allows more than is used" } else { "is not used" };
            Excess { member, what: format!("{entry} {what}") }
        };
        let mut excess = Vec::new();
        excess.extend(any(Member::NodeIds, policy.node_ids.len(), "any node of the account"));
        excess.extend(
            nodes.map(|id| Excess { member: Member::NodeIds, what: format!("{id} is not used") }),
        );
        excess.extend(any(Member::SourceIds, policy.source_ids.len(), "any source"));
        let beside = policy.source_ids.iter().filter(|entry| unused(entry, &own_sources));
        excess.extend(beside.map(|entry| more(Member::SourceIds, entry, &sources)));
        excess.extend(any(Member::ApiPaths, policy.api_paths.len(), "any call"));
        let beside = policy.api_paths.iter().filter(|entry| unused(entry, &own_calls));
        excess.extend(beside.map(|entry| more(Member::ApiPaths, entry, &calls)));
        excess
    }

    fn node_number(&self) -> i64 {
        // Node IDs are read from numbers of this size.
        i64::try_from(self.node.number()).unwrap_or(i64::MAX)
    }
}

/// A call that fits the path, where it is a pattern: a job's ID stands for the star.
fn example(path: &str) -> String {
    path.replace('*', "5d0f6c1e-3b0e-4a7f-9d4a-0c6b1a2f7e11")
}

impl Needs {
    /// What stops without the token.
    fn what_stops(&self) -> &'static str {
        let calls = |paths: &[&str]| self.api_paths.iter().any(|path| paths.contains(path));
        if calls(&upload::import::http::API_PATHS) {
            "uploads and instructions stop"
        } else if calls(&audit::query::API_PATHS) {
            "audits and proofs stop; uploads go on until too many datum wait for a proof"
        } else {
            "what uses it stops"
        }
    }
}

/// Why a key of a token with this policy cannot be renewed, if it cannot.
#[must_use]
pub fn renewal_refused(policy: &Policy) -> Option<Refused> {
    policy.refuses(Request::Refresh).or_else(|| policy.refuses(Request::Api(POLICY_PATH)))
}

/// On which dates what stops, the first one first, under the policy as far as it is known, and where it is known
/// what the token is for.
#[must_use]
pub fn stops(credential: &Credential, policy: Option<&Policy>, needs: Option<&Needs>) -> Vec<Stop> {
    let what = needs.map_or("what uses it stops", Needs::what_stops);
    let mut stops = Vec::new();
    let end = policy.and_then(|policy| policy.not_after).and_then(DateTime::from_timestamp_millis);
    if let Some(at) = end {
        let because = format!("the token ends (its policy's `notAfter`): {what}");
        stops.push(Stop { at, because });
    }
    let refused = policy.and_then(renewal_refused);
    if let (Some(refused), None) = (refused, &credential.secret) {
        let because = format!(
            "the signing key ends and cannot be renewed ({refused}) unless the token is imported again: \
             {what}"
        );
        stops.push(Stop { at: credential.ends(), because });
    }
    stops.sort_by_key(|stop| stop.at);
    stops
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn needs() -> Needs {
        Needs {
            node: NodeId::try_from(123).expect("a node ID"),
            sources: ["/site/meter", "/site/relay"].map(|s| s.parse().expect("a source")).into(),
            api_paths: vec!["/user/import/jobs", "/user/import/jobs/*", "/instr/view", POLICY_PATH],
            audit_token: None,
        }
    }

    fn policy(json: Value) -> Policy {
        Policy::read(&json).expect("a policy")
    }

    #[test]
    fn the_smallest_policy_lacks_nothing_and_has_nothing_to_spare() {
        let needs = needs();
        let policy = needs.policy();
        assert_eq!((needs.missing(&policy), needs.excess(&policy)), (vec![], vec![]));
        assert_eq!(
            policy.to_json(),
            json!({
                "nodeIds": [123],
                "sourceIds": ["/site/meter", "/site/relay"],
                "apiPaths": ["/user/import/jobs", "/user/import/jobs/*", "/instr/view", POLICY_PATH],
                "refreshAllowed": true,
            })
        );
        for member in [Member::NodeIds, Member::SourceIds, Member::ApiPaths] {
            let mut wider = policy.clone();
            wider.copy(member, &Policy::default());
            assert_eq!(needs.excess(&wider).len(), 1, "{member:?}");
        }
    }

    #[test]
    fn each_thing_that_is_left_out_is_missed() {
        let needs = needs();
        let whole = needs.policy().to_json();
        for (member, entries) in whole.as_object().expect("an object") {
            for left_out in entries.as_array().into_iter().flatten() {
                let mut narrower = whole.clone();
                let list = narrower[member].as_array_mut().expect("a list");
                list.retain(|entry| entry != left_out);
                // One that matches nothing of ours, so that an empty list is not "any".
                list.push(if member == "nodeIds" { json!(1) } else { json!("/nothing") });
                let missing = needs.missing(&policy(narrower));
                assert_eq!(missing.len(), 1, "{member} {left_out}: {missing:?}");
            }
        }
        let forbidden = policy(json!({"refreshAllowed": false}));
        assert_eq!(needs.missing(&forbidden)[0].member, Member::RefreshAllowed);
    }

    #[test]
    fn a_data_token_suffices_for_audits_and_for_nothing_else() {
        let needs = needs();
        let [user, data] = [TokenKind::User, TokenKind::Data].map(TokenKind::name);
        assert!(needs.fits(user) && !needs.fits(data));
        let of_audit = needs.of_audit();
        assert!(of_audit.fits(user) && of_audit.fits(data));
        assert_eq!(of_audit.policy().to_json()["apiPaths"], json!(["/datum/list", POLICY_PATH]));
        assert_eq!(of_audit.policy().source_ids, needs.policy().source_ids);
    }

    #[test]
    fn what_is_wider_than_needed_is_named() {
        let found = needs().excess(&policy(json!({
            "nodeIds": [123, 4], "sourceIds": ["/site/**", "/x"],
            "apiPaths": ["/instr/**", "/datum/**", "/auth-tokens/refresh/v2"],
        })));
        let found: Vec<&str> = found.iter().map(|excess| excess.what.as_str()).collect();
        assert_eq!(
            found,
            [
                "4 is not used",
                "/site/** allows more than is used",
                "/x is not used",
                "/instr/** allows more than is used",
                "/datum/** is not used",
            ]
        );
    }

    #[test]
    fn what_stops_is_told_with_its_date_the_first_one_first() {
        let day = chrono::NaiveDate::from_ymd_opt(2026, 11, 22).expect("a day");
        let secret = || "hunter2".parse().expect("a secret");
        let credential =
            |keep| Credential::derive("abc".parse().expect("an ID"), secret(), day, keep);
        let policy = policy(json!({
            "notAfter": 1_795_737_600_000_i64, "refreshAllowed": false,
        }));
        let dates = |stops: Vec<Stop>| -> Vec<String> {
            stops.iter().map(|stop| stop.at.date_naive().to_string()).collect()
        };
        let both = stops(&credential(false), Some(&policy), None);
        assert!(both[0].because.contains("notAfter"), "{both:?}");
        let asks = Needs { api_paths: audit::query::API_PATHS.to_vec(), ..needs() };
        for (needs, what) in [(needs(), "uploads and instructions stop"), (asks, "uploads go on")] {
            let stops = stops(&credential(false), Some(&policy), Some(&needs));
            assert!(stops.iter().all(|stop| stop.because.contains(what)), "{stops:?}");
        }
        assert_eq!(dates(both), ["2026-11-27", "2026-11-29"]);
        assert_eq!(dates(stops(&credential(true), Some(&policy), None)), ["2026-11-27"]);
        assert_eq!(stops(&credential(false), None, None), []);
    }
}
