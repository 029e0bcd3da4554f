//! What SolarFlux, the MQTT side, lets an actor subscribe and publish. Pure.
//!
//! Datum topics have the form `[user/USER/]node/NODE/datum/LEVEL/SOURCE`, where SOURCE is the source ID
//! without its leading slash and may have several levels. The prefix is added where a client leaves
//! it out. Node, level and source of a subscription are held against the policy; a User token may
//! subscribe to any other topic of its account, past its policy. Only nodes publish. API paths,
//! and whether keys may be renewed, do not count here.

use super::{Aggregation, Policy, ant};
use crate::domain::TokenKind;

/// The most a subscription or message is granted.
const MAX_QOS: u8 = 1;
/// A subscription that is refused, as a SUBACK says it.
const REFUSED: u8 = 128;

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A token; `nodes` of [`Session`] are those of its account that are not archived.
    Token(TokenKind),
    /// A node; `nodes` of [`Session`] is itself.
    Node,
}

/// A connection.
#[derive(Debug, Clone)]
pub struct Session<'a> {
    /// Who connected.
    pub actor: Actor,
    /// The account.
    pub user: i64,
    /// The nodes that the actor has.
    pub nodes: &'a [i64],
    /// The token's policy.
    pub policy: &'a Policy,
}

/// What becomes of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is granted.
    pub allowed: bool,
    /// The topic as it is then known.
    pub topic: String,
    /// The quality of service granted; 128 where it is refused.
    pub qos: u8,
}

/// A datum topic, taken apart.
struct Datum<'a> {
    user: Option<&'a str>,
    /// `None` for `+`.
    node: Option<i64>,
    level: &'a str,
    source: &'a str,
}

impl Session<'_> {
    /// Asks for a subscription.
    #[must_use]
    pub fn subscribe(&self, topic: &str, qos: u8) -> Verdict {
        let verdict = |allowed: bool, topic: String| {
            let qos = if allowed { qos.min(MAX_QOS) } else { REFUSED };
            Verdict { allowed, topic, qos }
        };
        let Actor::Token(kind) = self.actor else { return verdict(false, topic.to_owned()) };
        let own = |user: Option<&str>| user.is_none_or(|id| id == self.user.to_string());
        match datum(topic) {
            Some(datum) if !own(datum.user) => verdict(false, topic.to_owned()),
            Some(datum) => verdict(self.may_read(&datum), self.prefixed(topic)),
            None if kind == TokenKind::User && own(user_of(topic)) => {
                verdict(true, self.prefixed(topic))
            }
            None => verdict(false, topic.to_owned()),
        }
    }

    /// Asks to publish; gives nothing where it is refused.
    #[must_use]
    pub fn publish(&self, topic: &str, qos: u8) -> Option<Verdict> {
        let datum = datum(topic).filter(|_| self.actor == Actor::Node)?;
        let own_user = datum.user.is_none_or(|id| id == self.user.to_string());
        let own_node = datum.node.is_none_or(|node| self.nodes.contains(&node));
        (own_user && own_node).then(|| Verdict {
            allowed: true,
            topic: self.prefixed(topic),
            qos: qos.min(MAX_QOS),
        })
    }

    fn prefixed(&self, topic: &str) -> String {
        match user_of(topic) {
            Some(_) => topic.to_owned(),
            None => format!("user/{}/{topic}", self.user),
        }
    }

    fn may_read(&self, datum: &Datum<'_>) -> bool {
        let policy = self.policy;
        let node = match datum.node {
            Some(node) => {
                self.nodes.contains(&node)
                    && (policy.node_ids.is_empty() || policy.node_ids.contains(&Some(node)))
            }
            None => policy.node_ids.is_empty(),
        };
        node && may_level(policy, datum.level) && may_source(policy, datum.source)
    }
}

fn may_level(policy: &Policy, level: &str) -> bool {
    let known = Aggregation::named(level);
    match policy.min_aggregation {
        Some(least) => known.is_some_and(|level| level.seconds() >= least.seconds()),
        None if policy.aggregations.is_empty() => true,
        None => known.is_some_and(|level| policy.aggregations.contains(&level)),
    }
}

fn may_source(policy: &Policy, source: &str) -> bool {
    let source = format!("/{source}");
    // Two levels, so that `/*` does not cover what stands for any number of them.
    let widened = source.replace('#', "#/#");
    policy.source_ids.is_empty()
        || policy.source_ids.iter().any(|entry| match ant::is_pattern(entry) {
            true => ant::matches(entry, &widened),
            false => *entry == source,
        })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The account that the topic names, if it begins with one.
fn user_of(topic: &str) -> Option<&str> {
    let (user, _) = topic.strip_prefix("user/")?.split_once('/')?;
    is_number(user).then_some(user)
}

fn datum(topic: &str) -> Option<Datum<'_>> {
    let user = user_of(topic);
    let inside = match user {
        Some(user) => &topic["user/".len() + user.len() + 1..],
        None => topic,
    };
    let (node, rest) = inside.strip_prefix("node/")?.split_once('/')?;
    let (level, source) = rest.strip_prefix("datum/")?.split_once('/')?;
    if level.is_empty() || source.is_empty() {
        return None;
    }
    let node = match node {
        "+" => None,
        node if is_number(node) => Some(node.parse().ok()?),
        _ => return None,
    };
    Some(Datum { user, node, level, source })
}
