//! What a policy allows, decided as SolarQuery and SolarUser decide it. Pure.
//!
//! The server narrows where it can and refuses only what leaves nothing: nodes and sources that are
//! not listed are dropped from a request, an aggregation level is raised to the minimum. Each function
//! here gives what is then served. [`Policy::refuses`] asks the one question that matters before a
//! call is sent: would it be refused, and by which member?

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{Aggregation, Member, Policy, ant};
use crate::domain::TokenKind;

/// The prefix of calls that need a token; the server cuts it from a path before it looks at a policy.
const SEC: &str = "/api/v1/sec";

/// Why the server refuses: which member of the policy, and what it does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The member that stands against it.
    pub member: Member,
    /// What was asked for, as the member would have to list it.
    pub wanted: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member, wanted } = self;
        let name = member.name();
        match member {
            Member::NotAfter => write!(f, "its policy has run out (`{name}` {wanted})"),
            Member::RefreshAllowed => write!(f, "its policy forbids to renew keys (`{name}`)"),
            _ if wanted.is_empty() => write!(f, "its policy has `{name}`"),
            _ => write!(f, "its policy's `{name}` does not have `{wanted}`"),
        }
    }
}

/// Something a token is about to be used for.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// Any call at that instant.
    At(DateTime<Utc>),
    /// A call, by its path below the application and `/api/v1/sec`, for example `/instr/view`.
    Api(&'a str),
    /// Reading or writing of this one node.
    Node(i64),
    /// Reading or writing of this one source.
    Source(&'a str),
    /// The call that hands out signing keys; its API path is another question.
    Refresh,
    /// Creating, changing or deleting tokens.
    ManageTokens,
}

/// Which metadata is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// A node's.
    Node,
    /// An account's.
    User,
}

impl Policy {
    /// Why the server will refuse this, if it will.
    #[must_use]
    pub fn refuses(&self, request: Request<'_>) -> Option<Refused> {
        match request {
            Request::At(now) => self.valid_at(now.timestamp_millis()).err(),
            Request::Api(path) => self.api_path("", path).err(),
            Request::Node(node) => self.nodes(&[node]).err(),
            Request::Source(source) => self.sources(&[source.to_owned()]).err(),
            Request::Refresh => self.refresh().err(),
            Request::ManageTokens => self.manage_tokens().err(),
        }
    }

    /// The nodes that a query for these is answered for; none asked for means those listed.
    ///
    /// # Errors
    ///
    /// If none is left.
    pub fn nodes(&self, wanted: &[i64]) -> Result<Vec<i64>, Refused> {
        if self.node_ids.is_empty() {
            return Ok(wanted.to_vec());
        }
        if wanted.is_empty() {
            return Ok(self.node_ids.iter().flatten().copied().collect());
        }
        let listed = |node: &i64| self.node_ids.contains(&Some(*node));
        let left: Vec<i64> = wanted.iter().copied().filter(listed).collect();
        match left.is_empty() {
            true => Err(refused(Member::NodeIds, listed_as(wanted))),
            false => Ok(left),
        }
    }

    /// The sources and patterns that a query for these is answered for; none asked for means those
    /// listed.
    ///
    /// # Errors
    ///
    /// If none is left.
    pub fn sources(&self, wanted: &[String]) -> Result<Vec<String>, Refused> {
        if self.source_ids.is_empty() {
            return Ok(wanted.to_vec());
        }
        if wanted.is_empty() {
            return Ok(self.source_ids.clone());
        }
        let (patterns, exact): (Vec<&String>, Vec<&String>) =
            self.source_ids.iter().partition(|text| ant::is_pattern(text));
        let stays = |source: &&String| match ant::is_pattern(source) {
            // A pattern is compared as a text, its wildcards being ordinary characters.
            true => patterns.iter().any(|p| p == source || ant::matches_start(p, source)),
            false => exact.contains(source) || patterns.iter().any(|p| ant::matches(p, source)),
        };
        let mut left: Vec<String> = wanted.iter().filter(stays).cloned().collect();
        for id in exact {
            let asked_for = wanted.iter().any(|w| ant::is_pattern(w) && ant::matches(w, id));
            if asked_for && !left.iter().any(|kept| ant::matches_start(kept, id)) {
                left.push(id.clone());
            }
        }
        match left.is_empty() {
            true => Err(refused(Member::SourceIds, wanted.join(", "))),
            false => Ok(left),
        }
    }

    /// The aggregation level that is served to who asks for this one.
    ///
    /// # Errors
    ///
    /// If only others are served.
    pub fn aggregation(&self, wanted: Option<Aggregation>) -> Result<Option<Aggregation>, Refused> {
        if let Some(least) = self.min_aggregation {
            let enough = |level: &Aggregation| level.seconds() >= least.seconds();
            return Ok(Some(wanted.filter(enough).unwrap_or(least)));
        }
        let listed = wanted.is_some_and(|level| self.aggregations.contains(&level));
        match self.aggregations.is_empty() || listed {
            true => Ok(wanted),
            false => {
                let wanted = wanted.map_or("no aggregation", Aggregation::name);
                Err(refused(Member::Aggregations, wanted.to_owned()))
            }
        }
    }

    /// What is left of a metadata object (members `m`, `pm`, `t`). Tags always stay.
    ///
    /// This is the server's design; the version that this model was held against filters nowhere, so
    /// do not rely on it to keep anything from anybody.
    ///
    /// # Errors
    ///
    /// If nothing but tags is left.
    pub fn metadata(&self, kind: Metadata, object: &Value) -> Result<Value, Refused> {
        let (member, paths) = match kind {
            Metadata::Node => (Member::NodeMetadataPaths, &self.node_metadata_paths),
            Metadata::User => (Member::UserMetadataPaths, &self.user_metadata_paths),
        };
        if paths.is_empty() {
            return Ok(object.clone());
        }
        let mut left = Map::new();
        for name in ["m", "pm"] {
            if let Some(kept) = selected(paths, &format!("/{name}"), &object[name]) {
                left.insert(name.to_owned(), kept);
            }
        }
        if left.is_empty() {
            return Err(refused(member, String::new()));
        }
        if let Some(tags) = object.get("t") {
            left.insert("t".to_owned(), tags.clone());
        }
        Ok(Value::Object(left))
    }

    /// Whether a call to `path` may be made; `context` is the application's prefix.
    ///
    /// Entries are alternatives, those inverted by `!` as well: two of them with different patterns
    /// allow everything.
    ///
    /// # Errors
    ///
    /// If no entry allows it.
    pub fn api_path(&self, context: &str, path: &str) -> Result<(), Refused> {
        let inside = path.strip_prefix(context).unwrap_or(path);
        let inside = inside.strip_prefix(SEC).unwrap_or(inside);
        let mut entries = self.api_paths.iter().filter(|entry| !entry.trim().is_empty());
        let allows = |entry: &String| match entry.strip_prefix('!') {
            Some(pattern) => !ant::matches(pattern, inside),
            None => ant::matches(entry, inside),
        };
        match self.api_paths.is_empty() || entries.any(allows) {
            true => Ok(()),
            false => Err(refused(Member::ApiPaths, inside.to_owned())),
        }
    }

    /// Whether the token is valid at that instant; the last one is.
    ///
    /// # Errors
    ///
    /// If it is over.
    pub fn valid_at(&self, now_ms: i64) -> Result<(), Refused> {
        match self.not_after {
            Some(end) if now_ms > end => Err(refused(Member::NotAfter, instant(end))),
            _ => Ok(()),
        }
    }

    /// Whether signing keys are handed out.
    ///
    /// # Errors
    ///
    /// Only where it was forbidden in so many words.
    pub fn refresh(&self) -> Result<(), Refused> {
        match self.refresh_allowed {
            Some(false) => Err(refused(Member::RefreshAllowed, String::new())),
            _ => Ok(()),
        }
    }

    /// Whether a User token with this policy may manage tokens.
    ///
    /// # Errors
    ///
    /// If it restricts anything but its own life.
    pub fn manage_tokens(&self) -> Result<(), Refused> {
        self.restrictions().next().map_or(Ok(()), |member| Err(refused(member, String::new())))
    }

    /// Whether a token may read its account's metadata at all.
    ///
    /// # Errors
    ///
    /// For a Data token without paths of user metadata.
    pub fn user_metadata(&self, kind: TokenKind) -> Result<(), Refused> {
        match kind == TokenKind::Data && self.user_metadata_paths.is_empty() {
            true => Err(refused(Member::UserMetadataPaths, "/".to_owned())),
            false => Ok(()),
        }
    }
}

fn refused(member: Member, wanted: String) -> Refused {
    Refused { member, wanted }
}

fn listed_as(nodes: &[i64]) -> String {
    let texts: Vec<String> = nodes.iter().map(i64::to_string).collect();
    texts.join(", ")
}

/// An instant of a policy, as people read it.
#[must_use]
pub fn instant(ms: i64) -> String {
    let at = DateTime::<Utc>::from_timestamp_millis(ms);
    at.map_or_else(|| ms.to_string(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Leaves stay where a pattern matches their path; objects with what is left of them.
fn selected(paths: &[String], at: &str, value: &Value) -> Option<Value> {
    let Value::Object(members) = value else {
        let matched = !value.is_null() && paths.iter().any(|path| ant::matches(path, at));
        return matched.then(|| value.clone());
    };
    if !paths.iter().any(|path| ant::matches_start(path, at)) {
        return None;
    }
    let kept: Map<String, Value> = members
        .iter()
        .filter_map(|(name, value)| {
            Some((name.clone(), selected(paths, &format!("{at}/{name}"), value)?))
        })
        .collect();
    (!kept.is_empty()).then_some(Value::Object(kept))
}
