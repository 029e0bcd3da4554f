//! The simulator's own surface under `/sim/`: no credentials, JSON in and out. The README lists the calls.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::auth::canonical;
use crate::http::{Shared, lock};
use crate::ledger::{Entry, Key, LedgerCount};
use crate::misbehave::Misbehaviour;
use crate::policy::Policy;
use crate::policy::flux::{Actor, Session};
use crate::request::Incoming;
use crate::seed;
use crate::server::Orders;
use crate::solarin::identity::IDENTITY_KEY;
use crate::world::World;
use crate::world::token::{Token, TokenKind};

/// What the caller got wrong.
struct Complaint(u16, String);

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self(400, message)
    }
}

/// Answers a request under `/sim/`.
pub(crate) fn answer(world: &Shared, orders: &Orders, request: &Incoming) -> Answer {
    let mut world = lock(world);
    world.advance();
    match call(&mut world, orders, request) {
        Ok(value) => Answer::json(200, &value),
        Err(Complaint(status, message)) => Answer::json(status, &json!({ "error": message })),
    }
}

fn call(world: &mut World, orders: &Orders, request: &Incoming) -> Result<Value, Complaint> {
    let parameters =
        canonical::parse_pairs(request.target.split_once('?').map_or("", |(_, query)| query));
    let parameter =
        |name: &str| parameters.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str());
    let body = || -> Result<Value, Complaint> {
        serde_json::from_slice(&request.body)
            .map_err(|error| Complaint(400, format!("the body is not JSON: {error}")))
    };
    let path = request.path().strip_prefix("/sim").unwrap_or_default();
    match (request.method.as_str(), path) {
        ("GET", "/ledger") => {
            let node = parameter("node").map(str::parse::<i64>).transpose();
            let node = node.map_err(|_| "node is not a number".to_owned())?;
            let source = parameter("source");
            let fits = |key: &Key| {
                node.is_none_or(|node| key.node == node)
                    && source.is_none_or(|source| key.source == source)
            };
            let rows = world.ledger.rows().iter().filter(|(key, _)| fits(key));
            Ok(rows.map(|(key, entry)| row(key, entry)).collect())
        }
        ("GET", "/ledger/count") => Ok(count(world.ledger.count())),
        ("GET", "/requests") => {
            let prefix = parameter("path").unwrap_or_default();
            let fits = world.seen().filter(|seen| seen.path.starts_with(prefix));
            Ok(fits.map(|seen| seen.to_json()).collect())
        }
        ("GET", "/misbehave") => Ok(json!(world.switches.list().collect::<Vec<_>>())),
        ("DELETE", "/misbehave") => {
            world.switches.clear();
            Ok(json!([]))
        }
        ("POST", "/misbehave") => {
            let body = body()?;
            let list = match body {
                Value::Array(list) => list,
                one => vec![one],
            };
            let mut switches = Vec::new();
            for (index, entry) in list.into_iter().enumerate() {
                let switch =
                    Misbehaviour::read(entry).map_err(|error| format!("at [{index}]: {error}"))?;
                switches.push(switch);
            }
            switches.into_iter().for_each(|switch| world.switches.add(switch));
            Ok(json!(world.switches.list().collect::<Vec<_>>()))
        }
        ("GET", "/clock") => Ok(clock(world)),
        ("POST", "/clock") => {
            let offset = body()?["offset_ms"].as_i64();
            let offset = offset.and_then(TimeDelta::try_milliseconds);
            world.clock.offset =
                offset.ok_or_else(|| "expected {\"offset_ms\": whole number}".to_owned())?;
            Ok(clock(world))
        }
        ("GET", "/instructions") => Ok(world.instructions.all().map(|i| i.to_json()).collect()),
        ("POST", "/instruction") => {
            let new = seed::read_instruction(&body()?)?;
            let now = world.clock.now();
            Ok(world.instructions.add(new, now).to_json())
        }
        ("GET", "/dropped") => Ok(world.dropped.iter().map(|dropped| dropped.to_json()).collect()),
        ("POST", "/invitation") => invite(world, &body()?),
        ("GET", "/jobs") => Ok(world.jobs.all().into_iter().map(|job| job.to_json()).collect()),
        ("GET", "/tokens") => {
            let now = world.clock.now();
            Ok(world.tokens.values().map(|token| token.to_json(now, false)).collect())
        }
        ("POST", "/tokens") => issue(world, &body()?),
        ("POST", "/flux") => flux(world, &body()?),
        ("POST", "/down") => {
            let ms = body()?["ms"].as_u64();
            let ms = ms.ok_or_else(|| "expected {\"ms\": whole number}".to_owned())?;
            orders.outage(Duration::from_millis(ms));
            Ok(json!({ "down_ms": ms }))
        }
        (method, path) => match path.strip_prefix("/tokens/") {
            Some(rest) => token_call(world, method, rest),
            None => Err(Complaint(404, "no such call; the README lists them".to_owned())),
        },
    }
}

/// An invitation's text, for the device that is to become this node.
fn invite(world: &mut World, body: &Value) -> Result<Value, Complaint> {
    let node = body["nodeId"].as_i64().filter(|id| world.nodes.contains_key(id));
    let (Some(node), Some(user)) = (node, body["username"].as_str()) else {
        let expected = "expected {\"nodeId\": a node of the seed, \"username\": a text}";
        return Err(expected.to_owned().into());
    };
    let invitation = world.invite(node, user);
    let invitation = invitation.ok_or_else(|| "there is no SolarIn to lead to".to_owned())?;
    Ok(json!({
        "text": invitation.text,
        "identityKey": IDENTITY_KEY,
        "securityPhrase": invitation.security_phrase,
        "expiration": crate::time::write(invitation.expires),
    }))
}

fn issue(world: &mut World, body: &Value) -> Result<Value, Complaint> {
    let user = body["user"].as_i64().filter(|id| world.users.contains_key(id));
    let kind = body["type"].as_str().and_then(TokenKind::named);
    let (Some(user), Some(kind)) = (user, kind) else {
        return Err("expected {\"user\": an account's ID, \"type\": \"User\" or \"ReadNodeData\"}"
            .to_owned()
            .into());
    };
    let policy = match &body["policy"] {
        Value::Null => None,
        policy => Some(Policy::read(policy).map_err(|error| error.to_string())?),
    };
    let now = world.clock.now();
    let token = Token::issue(user, kind, policy, now);
    let shown = token.to_json(now, true);
    world.tokens.insert(token.id.clone(), token);
    Ok(shown)
}

/// What SolarFlux would grant: to a token that subscribes, or to a node that publishes.
fn flux(world: &World, body: &Value) -> Result<Value, Complaint> {
    let topic = body["topic"].as_str();
    let qos = body["qos"].as_u64().and_then(|qos| u8::try_from(qos).ok()).unwrap_or_default();
    let token = body["token"].as_str().and_then(|id| world.tokens.get(id));
    let node = body["node"].as_i64().and_then(|id| Some((id, world.nodes.get(&id)?)));
    let grant = match (topic, token, node) {
        (Some(topic), Some(token), None) => {
            let actor = match token.kind {
                TokenKind::User => Actor::UserToken,
                TokenKind::ReadNodeData => Actor::DataToken,
            };
            let (user, nodes) = (token.user, world.nodes_of(token.user));
            let policy = token.policy.as_ref();
            Session { actor, user, nodes: &nodes, policy }.subscribe(topic, qos)
        }
        (Some(topic), None, Some((id, node))) => {
            let session =
                Session { actor: Actor::Node, user: node.user, nodes: &[id], policy: None };
            session.publish(topic, qos)
        }
        _ => {
            let expected = "expected {\"topic\": …} with \"token\" or \"node\": a known ID";
            return Err(expected.to_owned().into());
        }
    };
    Ok(json!({ "allowed": grant.allowed, "topic": grant.topic, "qos": grant.qos }))
}

fn token_call(world: &mut World, method: &str, rest: &str) -> Result<Value, Complaint> {
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    let now = world.clock.now();
    let token = world
        .tokens
        .get_mut(id)
        .ok_or_else(|| Complaint(404, format!("there is no token {id}")))?;
    match (method, action) {
        ("POST", "disable") => token.active = false,
        ("POST", "enable") => token.active = true,
        ("DELETE", "") => {
            world.tokens.remove(id);
            return Ok(json!({}));
        }
        _ => return Err(Complaint(404, "no such call; the README lists them".to_owned())),
    }
    Ok(token.to_json(now, false))
}

fn clock(world: &World) -> Value {
    json!({
        "offset_ms": world.clock.offset.num_milliseconds(),
        "now": crate::time::write(world.clock.now()),
    })
}

fn row(key: &Key, entry: &Entry) -> Value {
    json!({
        "node": key.node,
        "source": key.source,
        "ms": key.ms,
        "datum": entry.datum.to_json(),
        "accepts": entry.accepts,
        "changes": entry.changes,
        "first_job": entry.first_job,
        "last_job": entry.last_job,
    })
}

fn count(count: LedgerCount) -> Value {
    json!({
        "datum": count.datum,
        "accepts": count.accepts,
        "repeated": count.repeated,
        "changed": count.changed,
    })
}
