//! SolarFlux: who may subscribe and publish to which MQTT topic.
//!
//! Datum topics have the form `[user/USER/]node/NODE/datum/LEVEL/SOURCE…`, and the whole topic has to fit. The
//! server adds the user's prefix where it is missing. It refuses a subscription by granting 128.

use super::{Aggregation, Policy, ant};

/// The highest quality of service that is granted.
const MAX_QOS: u8 = 1;
/// What SUBACK says of a refused topic.
const REFUSED: u8 = 128;

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    UserToken,
    DataToken,
    Node,
}

/// An actor with its account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session<'a> {
    pub(crate) actor: Actor,
    pub(crate) user: i64,
    /// The account's nodes that are not archived; of a node: itself.
    pub(crate) nodes: &'a [i64],
    pub(crate) policy: Option<&'a Policy>,
}

/// What was decided about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) allowed: bool,
    /// The topic as the server takes it.
    pub(crate) topic: String,
    pub(crate) qos: u8,
}

impl Grant {
    fn new(allowed: bool, topic: String, qos: u8) -> Self {
        Self { allowed, topic, qos: if allowed { qos.min(MAX_QOS) } else { REFUSED } }
    }
}

impl Session<'_> {
    pub(crate) fn subscribe(&self, topic: &str, qos: u8) -> Grant {
        let (owner, inside) = split_user(topic);
        let foreign = owner.is_some_and(|owner| owner != self.user.to_string());
        let datum = DatumTopic::parse(inside);
        // Not a datum topic: a User token may have any under its own account, past its policy.
        let allowed = match (self.actor, &datum) {
            _ if foreign => false,
            (Actor::UserToken | Actor::DataToken, Some(datum)) => self.allows(datum),
            (Actor::UserToken, None) => true,
            (Actor::DataToken | Actor::Node, None) | (Actor::Node, Some(_)) => false,
        };
        let rewritten = owner.is_none() && (datum.is_some() || self.actor == Actor::UserToken);
        let topic = if rewritten { self.prefixed(topic) } else { topic.to_owned() };
        Grant::new(allowed, topic, qos)
    }

    pub(crate) fn publish(&self, topic: &str, qos: u8) -> Grant {
        let (owner, inside) = split_user(topic);
        let foreign = owner.is_some_and(|owner| owner != self.user.to_string());
        let own = DatumTopic::parse(inside).is_some_and(|datum| match datum.node {
            "+" => true,
            node => self.nodes.iter().any(|own| own.to_string() == node),
        });
        let allowed = self.actor == Actor::Node && own && !foreign;
        let topic = match owner {
            Some(_) => topic.to_owned(),
            None => self.prefixed(topic),
        };
        Grant::new(allowed, topic, qos)
    }

    fn prefixed(&self, topic: &str) -> String {
        format!("user/{}/{topic}", self.user)
    }

    fn allows(&self, topic: &DatumTopic<'_>) -> bool {
        let everything = Policy::default();
        let policy = self.policy.unwrap_or(&everything);
        let node = match topic.node {
            "+" => policy.node_ids.is_none(),
            text => text
                .parse()
                .is_ok_and(|node| self.nodes.contains(&node) && policy.allows_node(node)),
        };
        node && allows_level(policy, topic.level) && allows_source(policy, topic.source)
    }
}

fn allows_level(policy: &Policy, level: &str) -> bool {
    let level = Aggregation::named(level);
    match (policy.min_aggregation, &policy.aggregations) {
        (Some(minimum), _) => level.is_some_and(|level| level.reaches(minimum)),
        (None, Some(listed)) => level.is_some_and(|level| listed.contains(&level)),
        (None, None) => true,
    }
}

/// Policy IDs without a leading slash never match; `#` has to be covered by the pattern at any depth.
fn allows_source(policy: &Policy, source: &str) -> bool {
    let Some(listed) = &policy.source_ids else { return true };
    let path = format!("/{source}");
    let deep = path.replace('#', "#/#");
    listed.iter().any(|entry| match ant::is_pattern(entry) {
        true => ant::matches(entry, &deep),
        false => *entry == path,
    })
}

/// `user/USER/` and the rest; no user where the topic does not begin so.
fn split_user(topic: &str) -> (Option<&str>, &str) {
    let split = topic.strip_prefix("user/").and_then(|rest| rest.split_once('/'));
    match split.filter(|(user, _)| is_number(user)) {
        Some((user, rest)) => (Some(user), rest),
        None => (None, topic),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

struct DatumTopic<'a> {
    node: &'a str,
    level: &'a str,
    source: &'a str,
}

impl<'a> DatumTopic<'a> {
    fn parse(topic: &'a str) -> Option<Self> {
        let (node, rest) = topic.strip_prefix("node/")?.split_once('/')?;
        let (level, source) = rest.strip_prefix("datum/")?.split_once('/')?;
        let fits = (node == "+" || is_number(node)) && !level.is_empty() && !source.is_empty();
        fits.then_some(Self { node, level, source })
    }
}
