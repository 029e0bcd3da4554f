//! What a simulator starts with: accounts, nodes, tokens, instructions, delays and limits.
//!
//! In code a [`Seed`] is filled in directly; by hand it is a JSON file, read strictly: an unknown or
//! missing member, or one of the wrong type, is named by its path with what was expected there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use serde_json::{Map, Value};

use crate::api::parameters;
use crate::policy::Policy;
use crate::rate::RateLimit;
use crate::time;
use crate::world::instruction::NewInstruction;
use crate::world::job::ImportDelays;
use crate::world::token::{Token, TokenKind};
use crate::world::{Node, User, World};

/// An account.
#[derive(Debug, Clone, Default)]
pub struct SeedUser {
    /// User ID.
    pub id: i64,
    /// Roles beside `ROLE_USER`; imports need `ROLE_IMPORT`.
    pub roles: Vec<String>,
    /// Node IDs that it owns.
    pub nodes: Vec<i64>,
    /// Those of them that are archived.
    pub archived: Vec<i64>,
}

/// A token.
#[derive(Clone)]
pub struct SeedToken {
    /// Token ID.
    pub id: String,
    /// Secret.
    pub secret: String,
    /// Owner.
    pub user: i64,
    /// Type.
    pub kind: TokenKind,
    /// Disabled tokens behave like unknown ones.
    pub active: bool,
    /// Policy.
    pub policy: Option<Policy>,
}

impl std::fmt::Debug for SeedToken {
    /// Without the secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SeedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Everything to start with.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// Accounts.
    pub users: Vec<SeedUser>,
    /// Tokens.
    pub tokens: Vec<SeedToken>,
    /// Instructions.
    pub instructions: Vec<NewInstruction>,
    /// How long import jobs take.
    pub import: ImportDelays,
    /// The request rate limit; absent: none.
    pub rate_limit: Option<RateLimit>,
    /// How long a new instruction is `Queuing`.
    pub instruction_queuing: TimeDelta,
    /// How far the simulator's clock is off the machine's.
    pub clock_offset: TimeDelta,
}

/// Why a seed file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read.
    #[error("cannot read the seed file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no JSON.
    #[error("{} is not valid JSON", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A member is wrong.
    #[error("{}: at {at}: {problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The member's path.
        at: String,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

impl Seed {
    /// One account with `ROLE_IMPORT`, one node, one unrestricted User token: what most tests need.
    pub fn simple(user: i64, node: i64, token: &str, secret: &str) -> Self {
        Self {
            users: vec![SeedUser {
                id: user,
                roles: vec!["ROLE_IMPORT".to_owned()],
                nodes: vec![node],
                archived: Vec::new(),
            }],
            tokens: vec![SeedToken {
                id: token.to_owned(),
                secret: secret.to_owned(),
                user,
                kind: TokenKind::User,
                active: true,
                policy: None,
            }],
            ..Self::default()
        }
    }

    /// Reads a seed file.
    ///
    /// # Errors
    ///
    /// Names the file, and the member with what is expected there.
    pub fn load(path: &Path) -> Result<Self, SeedError> {
        let file = path.to_owned();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) => return Err(SeedError::Unreadable { path: file, source }),
        };
        let json: Value = match serde_json::from_str(&text) {
            Ok(json) => json,
            Err(source) => return Err(SeedError::NotJson { path: file, source }),
        };
        read(&At { path: String::new(), value: &json })
            .map_err(|Wrong { at, problem }| SeedError::Wrong { path: file, at, problem })
    }

    /// The world as it is at the start.
    pub(crate) fn grow(self) -> World {
        let mut world = World::default();
        world.clock.offset = self.clock_offset;
        world.rate_limit = self.rate_limit;
        world.jobs.delays = self.import;
        world.instructions.queuing = self.instruction_queuing;
        let now = world.clock.now();
        for user in self.users {
            for node in user.nodes {
                let archived = user.archived.contains(&node);
                world.nodes.insert(node, Node { user: user.id, archived, metadata: Value::Null });
            }
            let roles = user.roles.into_iter().collect();
            world.users.insert(user.id, User { roles, metadata: Value::Null });
        }
        for token in self.tokens {
            let token = Token {
                id: token.id,
                secret: token.secret,
                user: token.user,
                kind: token.kind,
                active: token.active,
                policy: token.policy,
                name: None,
                description: None,
                created: now,
            };
            world.tokens.insert(token.id.clone(), token);
        }
        for instruction in self.instructions {
            world.instructions.add(instruction, now);
        }
        world
    }
}

/// A place in the JSON, and what stands there.
struct At<'a> {
    path: String,
    value: &'a Value,
}

struct Wrong {
    at: String,
    problem: String,
}

impl<'a> At<'a> {
    fn wrong(&self, expected: &str) -> Wrong {
        let at = if self.path.is_empty() { "the top".to_owned() } else { self.path.clone() };
        Wrong { at, problem: format!("expected {expected}, found {}", shown(self.value)) }
    }

    fn object(&self, known: &[&str]) -> Result<&'a Map<String, Value>, Wrong> {
        let map = self.value.as_object().ok_or_else(|| self.wrong("an object"))?;
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(map),
            Some(name) => Err(Wrong {
                at: self.inside(name),
                problem: format!("unknown member; expected one of {}", known.join(", ")),
            }),
        }
    }

    fn inside(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A member; null counts as absent.
    fn member(&self, name: &str) -> Option<At<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(At { path: self.inside(name), value })
    }

    fn needed(&self, name: &str, expected: &str) -> Result<At<'a>, Wrong> {
        self.member(name).ok_or_else(|| Wrong {
            at: self.inside(name),
            problem: format!("missing; expected {expected}"),
        })
    }

    fn each<T>(&self, read: impl Fn(&At<'a>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("an array"))?;
        let entry = |(index, value)| read(&At { path: format!("{}[{index}]", self.path), value });
        list.iter().enumerate().map(entry).collect()
    }

    fn integer(&self, expected: &str) -> Result<i64, Wrong> {
        self.value.as_i64().ok_or_else(|| self.wrong(expected))
    }

    fn text(&self, expected: &str) -> Result<String, Wrong> {
        let text = self.value.as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| self.wrong(expected))
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, known: &[&str]) -> Result<T, Wrong> {
        for name in self.object(known)?.keys() {
            if let Some(member) = self.member(name)
                && !member.value.as_f64().is_some_and(|number| number >= 0.0)
            {
                return Err(member.wrong("a number that is not negative"));
            }
        }
        T::deserialize(self.value)
            .map_err(|error| Wrong { at: self.path.clone(), problem: error.to_string() })
    }
}

/// A value in a message: what it is, cut short, and never a secret (secrets are texts).
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        scalar => scalar.to_string(),
    }
}

fn read(top: &At<'_>) -> Result<Seed, Wrong> {
    top.object(&[
        "users",
        "tokens",
        "instructions",
        "import",
        "rate_limit",
        "instruction_queuing_ms",
        "clock_offset_ms",
    ])?;
    let milliseconds = |name: &str| match top.member(name) {
        None => Ok(TimeDelta::zero()),
        Some(at) => at.integer("milliseconds, a whole number").map(TimeDelta::milliseconds),
    };
    let users = top.needed("users", "an array of accounts")?.each(user)?;
    let tokens = top.needed("tokens", "an array of tokens")?.each(|at| token(at, &users))?;
    no_repeats("tokens", tokens.iter().map(|token| token.id.as_str()))?;
    no_repeats("users", users.iter().map(|user| user.id))?;
    no_repeats("users[].nodes", users.iter().flat_map(|user| user.nodes.clone()))?;
    Ok(Seed {
        tokens,
        users,
        instructions: match top.member("instructions") {
            None => Vec::new(),
            Some(list) => list.each(instruction)?,
        },
        import: match top.member("import") {
            None => ImportDelays::default(),
            Some(at) => at.parsed(&["queued_ms", "claimed_ms", "executing_ms", "workers"])?,
        },
        rate_limit: match top.member("rate_limit") {
            None => None,
            Some(at) => Some(at.parsed(&["capacity", "refill_per_s"])?),
        },
        instruction_queuing: milliseconds("instruction_queuing_ms")?,
        clock_offset: milliseconds("clock_offset_ms")?,
    })
}

/// IDs name one thing each: a node that two accounts own would belong to whoever comes last.
fn no_repeats<T: Ord + std::fmt::Display>(
    at: &str,
    ids: impl Iterator<Item = T>,
) -> Result<(), Wrong> {
    let mut seen = BTreeSet::new();
    for id in ids {
        let problem = format!("the ID {id} is there twice; expected each once");
        if !seen.insert(id) {
            return Err(Wrong { at: at.to_owned(), problem });
        }
    }
    Ok(())
}

fn user(at: &At<'_>) -> Result<SeedUser, Wrong> {
    at.object(&["id", "roles", "nodes", "archived"])?;
    let nodes = |name: &str| match at.member(name) {
        None => Ok(Vec::new()),
        Some(list) => list.each(|id| id.integer("a node ID")),
    };
    Ok(SeedUser {
        id: at.needed("id", "a user ID")?.integer("a user ID")?,
        roles: match at.member("roles") {
            None => Vec::new(),
            Some(list) => list.each(|role| role.text("a role such as ROLE_IMPORT"))?,
        },
        nodes: nodes("nodes")?,
        archived: nodes("archived")?,
    })
}

fn token(at: &At<'_>, users: &[SeedUser]) -> Result<SeedToken, Wrong> {
    at.object(&["id", "secret", "user", "type", "status", "policy"])?;
    let owner = at.needed("user", "the ID of an account under users")?;
    let user = owner.integer("a user ID")?;
    if !users.iter().any(|known| known.id == user) {
        return Err(owner.wrong("the ID of an account under users"));
    }
    let kind = at.needed("type", "User or ReadNodeData")?;
    let status = match at.member("status") {
        None => true,
        Some(status) => match status.value.as_str() {
            Some("Active") => true,
            Some("Disabled") => false,
            _ => return Err(status.wrong("Active or Disabled")),
        },
    };
    Ok(SeedToken {
        id: at.needed("id", "a token ID")?.text("a token ID")?,
        secret: at.needed("secret", "the token's secret")?.text("the token's secret")?,
        user,
        kind: kind
            .value
            .as_str()
            .and_then(TokenKind::named)
            .ok_or_else(|| kind.wrong("User or ReadNodeData"))?,
        active: status,
        policy: match at.member("policy") {
            None => None,
            Some(policy) => {
                policy.value.as_object().ok_or_else(|| policy.wrong("a policy object"))?;
                let read = Policy::read(policy.value);
                Some(read.map_err(|error| Wrong { at: policy.path, problem: error.to_string() })?)
            }
        },
    })
}

/// An instruction as the API takes it, with `visibleFrom` beside its dates.
fn instruction(at: &At<'_>) -> Result<NewInstruction, Wrong> {
    at.object(&[
        "nodeId",
        "topic",
        "params",
        "parameters",
        "instructionDate",
        "expirationDate",
        "visibleFrom",
    ])?;
    let instant = |name: &str| match at.member(name) {
        None => Ok(None),
        Some(date) => {
            let expected = "a date such as 2026-01-31 12:00:00Z, or epoch milliseconds";
            time::read(date.value).map(Some).ok_or_else(|| date.wrong(expected))
        }
    };
    Ok(NewInstruction {
        node: at.needed("nodeId", "a node ID")?.integer("a node ID")?,
        topic: at.needed("topic", "a topic")?.text("a topic")?,
        parameters: parameters(at.value),
        instruction_date: instant("instructionDate")?,
        expires: instant("expirationDate")?,
        visible_from: instant("visibleFrom")?,
    })
}

/// An instruction from JSON outside a seed file; the message names the member.
pub(crate) fn read_instruction(json: &Value) -> Result<NewInstruction, String> {
    instruction(&At { path: String::new(), value: json })
        .map_err(|wrong| format!("at {}: {}", wrong.at, wrong.problem))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaint(json: Value) -> String {
        match read(&At { path: String::new(), value: &json }) {
            Ok(_) => "none".to_owned(),
            Err(wrong) => format!("at {}: {}", wrong.at, wrong.problem),
        }
    }

    #[test]
    fn a_wrong_member_is_named_with_what_is_expected() {
        let token = |change: fn(&mut Value)| {
            let mut token = json!({"id": "a", "secret": "b", "user": 1, "type": "User"});
            change(&mut token);
            json!({"users": [{"id": 1}], "tokens": [token]})
        };
        for (json, expected) in [
            (token(|_| {}), "none"),
            (
                token(|token| token["type"] = "user".into()),
                "at tokens[0].type: expected User or ReadNodeData, found a text",
            ),
            (
                token(|token| token["user"] = 2.into()),
                "at tokens[0].user: expected the ID of an account under users, found 2",
            ),
            (
                token(|token| token["secrets"] = "x".into()),
                "at tokens[0].secrets: unknown member; expected one of id, secret, user, type, \
                 status, policy",
            ),
            (json!({"users": []}), "at tokens: missing; expected an array of tokens"),
            (
                json!({"users": [{"id": 1, "nodes": [5]}, {"id": 2, "nodes": [5]}], "tokens": []}),
                "at users[].nodes: the ID 5 is there twice; expected each once",
            ),
            (json!([]), "at the top: expected an object, found an array"),
            (
                json!({"users": [], "tokens": [], "import": {"queued_ms": -1}}),
                "at import.queued_ms: expected a number that is not negative, found -1",
            ),
            (
                json!({"users": [], "tokens": [], "instructions": [{"nodeId": 1}]}),
                "at instructions[0].topic: missing; expected a topic",
            ),
        ] {
            assert_eq!(complaint(json), expected);
        }
    }

    #[test]
    fn every_file_in_examples_is_taken() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                assert!(!Seed::load(&path).unwrap().tokens.is_empty());
                seen += 1;
            }
        }
        assert_eq!(seen, 1);
    }

    #[test]
    fn numbers_may_be_fractions_where_they_make_sense() {
        let json = json!({
            "users": [], "tokens": [], "rate_limit": { "refill_per_s": 0.5 }, "clock_offset_ms": -5,
        });
        let Ok(seed) = read(&At { path: String::new(), value: &json }) else { panic!("refused") };
        assert_eq!(seed.rate_limit, Some(RateLimit { capacity: 2, refill_per_s: 0.5 }));
        assert_eq!(seed.clock_offset, TimeDelta::milliseconds(-5));
    }
}
