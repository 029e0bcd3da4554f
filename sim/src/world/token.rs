//! Security tokens.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::auth::Signatory;
use crate::policy::Policy;
use crate::{random, time};

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Acts as its owner, with all of the owner's roles.
    User,
    /// Reads datum through SolarQuery.
    ReadNodeData,
}

impl TokenKind {
    /// The name that the API uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::ReadNodeData => "ReadNodeData",
        }
    }

    /// Names are case-sensitive.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::User, Self::ReadNodeData].into_iter().find(|kind| kind.name() == name)
    }
}

/// A token as the servers keep it.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) user: i64,
    pub(crate) kind: TokenKind,
    pub(crate) active: bool,
    pub(crate) policy: Option<Policy>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) created: DateTime<Utc>,
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("kind", &self.kind)
            .field("active", &self.active)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// A new token with a random ID and secret.
    pub(crate) fn issue(
        user: i64,
        kind: TokenKind,
        policy: Option<Policy>,
        now: DateTime<Utc>,
    ) -> Self {
        let [extra] = random::bytes::<1>();
        Self {
            id: random::text(20),
            // 24 to 31 characters, as the server makes them.
            secret: random::text(24 + usize::from(extra % 8)),
            user,
            kind,
            active: true,
            policy,
            name: None,
            description: None,
            created: now,
        }
    }

    pub(crate) fn signatory(&self) -> Signatory<'_> {
        Signatory { secret: &self.secret, active: self.active, policy: self.policy.as_ref() }
    }

    /// `ROLE_` and the type's name; a User token has the account's roles as well.
    pub(crate) fn roles(&self, account: &BTreeSet<String>) -> BTreeSet<String> {
        match self.kind {
            TokenKind::User => {
                let mut roles = account.clone();
                roles.insert("ROLE_USER".to_owned());
                roles
            }
            TokenKind::ReadNodeData => BTreeSet::from(["ROLE_READNODEDATA".to_owned()]),
        }
    }

    /// The token as the API shows it; with its secret only right after it was made.
    pub(crate) fn to_json(&self, now: DateTime<Utc>, with_secret: bool) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
        put("id", self.id.as_str().into());
        put("created", time::write(self.created).into());
        put("userId", self.user.into());
        if let Some(name) = &self.name {
            put("name", name.as_str().into());
        }
        if let Some(description) = &self.description {
            put("description", description.as_str().into());
        }
        if with_secret {
            put("authSecret", self.secret.as_str().into());
        }
        put("status", if self.active { "Active" } else { "Disabled" }.into());
        put("type", self.kind.name().into());
        let mut expired = false;
        if let Some(policy) = &self.policy {
            expired = !policy.is_valid_at(now.timestamp_millis());
            put("policy", policy.to_json());
        }
        put("expired", expired.into());
        Value::Object(out)
    }
}
