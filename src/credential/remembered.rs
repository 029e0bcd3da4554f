//! The policy of a token on this device, as SolarNetwork last told it. Pure.
//!
//! A device cannot ask for it whenever it wants: least privilege leaves the call out. So what was seen
//! when the token was issued or checked stands beside the credential, `NAME.policy`, with its date. It
//! may be outdated, and whoever shows it says so.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{domain::TokenId, policy::Policy};

/// What was seen, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    token_id: String,
    /// The token's kind, as the API spells it.
    pub kind: String,
    policy: Value,
    /// When, by the server's clock.
    pub seen: DateTime<Utc>,
}

impl Remembered {
    /// What is now seen of a token.
    #[must_use]
    pub fn new(id: &TokenId, kind: &str, policy: &Policy, seen: DateTime<Utc>) -> Self {
        Self { token_id: id.to_string(), kind: kind.to_owned(), policy: policy.to_json(), seen }
    }

    /// The file's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and JSON make JSON, and memory takes it")
    }

    /// Reads what is remembered of this token; `None` if it is another's or makes no sense.
    pub(super) fn from_bytes(bytes: &[u8], id: &TokenId) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        (read.token_id == id.as_str()).then_some(read)
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::read(&self.policy).unwrap_or_default()
    }
}
