//! SolarQuery: key refresh, nodes, sources, metadata, and datum as far as it takes to check uploads. The response
//! cache is not played; how late a datum shows up is set with `query_delay`.

use std::collections::BTreeSet;

use chrono::{NaiveDate, NaiveTime};
use serde_json::{Map, Value, json};

use super::{Call, aggregate};
use crate::answer::{Answer, Refusal};
use crate::auth;
use crate::ledger::{Entry, Key};
use crate::misbehave::Act;
use crate::policy::{Aggregation, Owner, Policy, ant};
use crate::world::World;
use crate::world::token::TokenKind;
use crate::{random, time};

/// Rows of one page when the request says nothing, and at most.
const PAGE: usize = 1000;

impl World {
    pub(super) fn query(
        &mut self,
        method: &str,
        path: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Refusal> {
        match (method, path) {
            ("GET", "/auth-tokens/refresh/v2") => self.refresh(call),
            ("GET", "/nodes") => {
                let mine = self.nodes_of(call.caller.user).into_iter();
                let policy = call.caller.policy.as_ref();
                let listed =
                    mine.filter(|node| policy.is_none_or(|policy| policy.allows_node(*node)));
                Ok(Answer::data(listed.collect()))
            }
            ("GET", "/nodes/sources" | "/range/sources") => {
                let rows = self.rows(call, Sources::Requested)?;
                let sources: BTreeSet<&str> =
                    rows.iter().map(|(key, _)| key.source.as_str()).collect();
                Ok(Answer::data(sources.into_iter().collect()))
            }
            ("GET", "/datum/list") if call.parameter("mostRecent") == Some("true") => {
                self.most_recent(call)
            }
            ("GET", "/datum/mostRecent") => self.most_recent(call),
            ("GET", "/datum/list") => self.list(call),
            ("GET", "/users/meta") => self.user_metadata(call),
            ("GET", path) => match path.strip_prefix("/nodes/meta/").map(str::parse) {
                Some(Ok(node)) => self.node_metadata(node, call),
                Some(Err(_)) => Err(Refusal::illegal_argument("nodeId is not a number")),
                None => Err(Refusal::not_found()),
            },
            _ => Err(Refusal::not_found()),
        }
    }

    fn refresh(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let text = call.required("date")?;
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()
            .filter(|_| text.len() == "2025-06-15".len())
            .ok_or_else(|| Refusal::illegal_argument(format!("Invalid date: {text}")))?
            .and_time(NaiveTime::MIN)
            .and_utc();
        if day > call.now {
            return Err(Refusal::illegal_argument("date parameter cannot be in the future"));
        }
        if call.caller.policy.as_ref().is_some_and(|policy| !policy.allows_refresh()) {
            return Err(Refusal::access_denied());
        }
        let token = self.tokens.get(&call.caller.token).ok_or_else(Refusal::access_denied)?;
        let key = match call.act {
            Some(Act::RefreshWrongKey) => hex::encode(random::bytes::<32>()),
            _ => hex::encode(auth::signing_key(&token.secret, day)),
        };
        Ok(Answer::data(json!({ "key": key })))
    }

    fn node_metadata(&self, node: i64, call: &Call<'_>) -> Result<Answer, Refusal> {
        self.check_node(&call.caller, node)?;
        let known = self.nodes.get(&node).ok_or_else(Refusal::unknown_object)?;
        metadata(call, Owner::Node, ("nodeId", node), &known.metadata)
    }

    fn user_metadata(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let caller = &call.caller;
        if caller.kind == TokenKind::ReadNodeData
            && !caller.policy.as_ref().is_some_and(Policy::lists_user_metadata)
        {
            return Err(Refusal::access_denied());
        }
        let user = self.users.get(&caller.user).ok_or_else(Refusal::unknown_object)?;
        metadata(call, Owner::User, ("userId", caller.user), &user.metadata)
    }

    /// The stored datum that the request may see, ordered by node, source, time.
    fn rows(&self, call: &Call<'_>, when_none: Sources) -> Result<Vec<(&Key, &Entry)>, Refusal> {
        let requested = call.ids(&["nodeId", "nodeIds"])?;
        let everything = Policy::default();
        let policy = call.caller.policy.as_ref().unwrap_or(&everything);
        let nodes = policy.effective_nodes(&requested).ok_or_else(Refusal::access_denied)?;
        let nodes = match nodes.is_empty() {
            true => self.nodes_of(call.caller.user),
            false => nodes,
        };
        let nodes: Vec<i64> =
            nodes.into_iter().filter(|node| self.check_node(&call.caller, *node).is_ok()).collect();
        if nodes.is_empty() {
            return Err(Refusal::access_denied());
        }
        let mut sources: Vec<String> =
            call.list(&["sourceId", "sourceIds"]).into_iter().map(str::to_owned).collect();
        if sources.is_empty() && when_none == Sources::Available {
            let keys = self.ledger.rows().keys().filter(|key| nodes.contains(&key.node));
            let available: BTreeSet<&String> = keys.map(|key| &key.source).collect();
            sources = available.into_iter().cloned().collect();
        }
        let sources = policy.effective_sources(&sources).ok_or_else(Refusal::access_denied)?;
        let wanted = |source: &str| {
            sources.is_empty()
                || sources.iter().any(|entry| match ant::is_pattern(entry) {
                    true => ant::matches(entry, source),
                    false => entry == source,
                })
        };
        let instant = |name: &str| match call.parameter(name) {
            None => Ok(None),
            Some(text) => match time::read_text(text) {
                Some(instant) => Ok(Some(instant.timestamp_millis())),
                None => Err(Refusal::illegal_argument(format!("{name} is not a date: {text}"))),
            },
        };
        let (start, end) = (instant("startDate")?, instant("endDate")?);
        let fits = |key: &Key| {
            nodes.contains(&key.node)
                && wanted(&key.source)
                && start.is_none_or(|start| key.ms >= start)
                && end.is_none_or(|end| key.ms < end)
        };
        let late = |entry: &Entry| {
            !self.query_delay.is_zero() && entry.accepted + self.query_delay > call.now
        };
        let rows = self.ledger.rows().iter();
        Ok(rows.filter(|(key, entry)| fits(key) && !late(entry)).collect())
    }

    fn most_recent(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let rows = self.rows(call, Sources::Available)?;
        let stream = |row: &Value| (row["nodeId"].clone(), row["sourceId"].clone());
        let mut latest: Vec<Value> = Vec::new();
        for row in folded(&rows, level(call)?)? {
            match latest.last_mut().filter(|last| stream(last) == stream(&row)) {
                Some(last) => *last = row,
                None => latest.push(row),
            }
        }
        Ok(page(0, latest.len(), latest))
    }

    fn list(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let number = |name: &str, default: usize| match call.parameter(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Refusal::illegal_argument(format!("{name} is not a number: {text}"))),
        };
        let (offset, max) = (number("offset", 0)?, number("max", PAGE)?.min(PAGE));
        let rows = self.rows(call, Sources::Available)?;
        Ok(match level(call)? {
            // Only the page is written out: there may be a million of them.
            None => {
                let shown: Vec<_> = rows.iter().skip(offset).take(max).copied().collect();
                page(offset, rows.len(), folded(&shown, None)?)
            }
            level => {
                let all = folded(&rows, level)?;
                page(offset, all.len(), all.into_iter().skip(offset).take(max).collect())
            }
        })
    }
}

/// What a request without source IDs stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sources {
    /// The sources that there are, so that a policy which leaves none of them denies.
    Available,
    /// Whatever the policy lists.
    Requested,
}

/// The level of aggregation that is asked for, or enforced; `None` for raw datum.
fn level(call: &Call<'_>) -> Result<Option<Aggregation>, Refusal> {
    let requested = match call.parameter("aggregation").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let level = Aggregation::named(text);
            Some(level.ok_or_else(|| Refusal::illegal_argument(format!("No aggregation {text}")))?)
        }
    };
    let everything = Policy::default();
    let policy = call.caller.policy.as_ref().unwrap_or(&everything);
    let served = policy.effective_aggregation(requested).map_err(|_| Refusal::access_denied())?;
    Ok(served.filter(|level| *level != Aggregation::NONE))
}

fn folded(rows: &[(&Key, &Entry)], level: Option<Aggregation>) -> Result<Vec<Value>, Refusal> {
    match level {
        None => Ok(rows.iter().filter_map(|(key, entry)| datum(key, entry)).collect()),
        Some(level) => aggregate::fold(rows, level)
            .ok_or_else(|| Refusal::illegal_argument(format!("{} is not simulated", level.name()))),
    }
}

/// A metadata object, its owner's ID in front, as far as the policy shows it.
fn metadata(
    call: &Call<'_>,
    owner: Owner,
    (name, id): (&str, i64),
    stored: &Value,
) -> Result<Answer, Refusal> {
    let everything = Policy::default();
    let policy = call.caller.policy.as_ref().unwrap_or(&everything);
    let shown = policy.effective_metadata(owner, stored).ok_or_else(Refusal::access_denied)?;
    let mut out = Map::from_iter([(name.to_owned(), id.into())]);
    out.extend(shown.as_object().cloned().unwrap_or_default());
    Ok(Answer::data(Value::Object(out)))
}

fn page(offset: usize, total: usize, results: Vec<Value>) -> Answer {
    Answer::data(json!({
        "totalResults": total,
        "startingOffset": offset,
        "returnedResultCount": results.len(),
        "results": results,
    }))
}

/// A datum as SolarQuery shows it: properties of all groups side by side.
fn datum(key: &Key, entry: &Entry) -> Option<Value> {
    let created = chrono::DateTime::from_timestamp_millis(key.ms)?;
    let mut out = Map::new();
    out.insert("created".to_owned(), time::write(created).into());
    out.insert("nodeId".to_owned(), key.node.into());
    out.insert("sourceId".to_owned(), key.source.as_str().into());
    out.insert("localDate".to_owned(), created.format("%Y-%m-%d").to_string().into());
    out.insert("localTime".to_owned(), created.format("%H:%M:%S").to_string().into());
    for (name, value) in entry.datum.i.iter().chain(&entry.datum.a) {
        out.insert(name.clone(), Value::Number(value.clone()));
    }
    for (name, value) in &entry.datum.s {
        out.insert(name.clone(), value.as_str().into());
    }
    if !entry.datum.t.is_empty() {
        out.insert("tags".to_owned(), json!(entry.datum.t));
    }
    Some(Value::Object(out))
}
