//! A token on its way: from the moment before it is asked for to the moment when it is safe here. Pure.
//!
//! SolarUser issues a token without a name, tells its secret once, and is given the name by a second
//! call. A process that dies in between, or an answer that is lost, leaves a token behind that nobody
//! has the secret of. So before the call a record is put beside the credentials:
//!
//! ```text
//!  record ──▶ create ──▶ compare ──▶ install ──▶ name ──▶ remove the record
//!     │          │ killed here:            │ killed here:
//!     │          ▼ an orphan               ▼ in use, without a name
//!     └──────── the next run of the same command looks for it first
//! ```
//!
//! The record has the IDs of all tokens that were there before. What is new since, of the same kind
//! and policy, and has no other name, is what was left behind.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Listing, Token};
use crate::{
    domain::{TokenId, TokenKind, TokenName},
    policy::{Policy, difference::difference},
    solarnet::{CallError, Cause},
};

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issue {
    /// The kind asked for, as the API spells it.
    kind: String,
    /// The policy asked for.
    policy: Value,
    /// The tokens that were there before.
    known: Vec<String>,
}

/// What an earlier run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// No token.
    Nothing,
    /// The token that is in use on this device; only its name may be missing.
    Installed(Box<Token>),
    /// Tokens that nobody has the secret of.
    Orphans(Vec<Token>),
}

impl Issue {
    /// Before a token of this kind and policy is asked for, while these are there.
    #[must_use]
    pub fn new(kind: TokenKind, policy: &Policy, before: &[Token]) -> Self {
        Self {
            kind: kind.name().to_owned(),
            policy: policy.to_json(),
            known: before.iter().map(|token| token.id.to_string()).collect(),
        }
    }

    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and JSON make JSON, and memory takes it")
    }

    /// Reads a record; `None` if it makes no sense.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What is there that the run with this record left behind. `installed` is the token that is on
    /// this device under the name.
    #[must_use]
    pub fn left(&self, now: &Listing, name: &TokenName, installed: Option<&TokenId>) -> Left {
        let left = self.issued(&now.tokens, Some(name.as_str()));
        match left.iter().find(|token| Some(&token.id) == installed) {
            Some(token) => Left::Installed(Box::new(token.clone())),
            None if left.is_empty() => Left::Nothing,
            None => Left::Orphans(left),
        }
    }

    /// The tokens among these that were issued since and fit: of the kind and policy asked for, and
    /// without another name than this one.
    #[must_use]
    pub fn issued(&self, tokens: &[Token], name: Option<&str>) -> Vec<Token> {
        let wanted = Policy::read(&self.policy).unwrap_or_default();
        let ours = |token: &&Token| {
            !self.known.iter().any(|id| id == token.id.as_str())
                && token.kind == self.kind
                && (token.name.is_none() || token.name.as_deref() == name)
                && difference(&wanted, &token.policy).is_empty()
        };
        tokens.iter().filter(ours).cloned().collect()
    }
}

/// Whether a call that failed like this may have been carried out all the same.
#[must_use]
pub fn may_have_happened(error: &CallError) -> bool {
    match error.cause {
        // TLS can fail at any time, also after the request was sent.
        Cause::Unreachable
        | Cause::AnswerTooLong
        | Cause::Tls
        | Cause::ServerTrouble
        | Cause::NotSolarNetwork => true,
        Cause::NoKey
        | Cause::RateLimited
        | Cause::BadCredentials
        | Cause::DateSkew
        | Cause::TokenExpired
        | Cause::PathDenied
        | Cause::RoleMissing
        | Cause::AccessDenied
        | Cause::UnknownObject
        | Cause::TooLarge
        | Cause::BadContent
        | Cause::NoSuchCall => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_an_answer_may_have_happened_and_a_refused_one_has_not() {
        let failed = |cause| CallError {
            method: "POST",
            path: "/solaruser/api/v1/sec/user/auth-tokens/generate/ReadNodeData".to_owned(),
            cause,
            refusal: None,
            detail: None,
        };
        for cause in [Cause::Unreachable, Cause::Tls, Cause::ServerTrouble] {
            assert!(may_have_happened(&failed(cause)), "{cause:?}");
        }
        for cause in [Cause::BadCredentials, Cause::RateLimited, Cause::BadContent] {
            assert!(!may_have_happened(&failed(cause)), "{cause:?}");
        }
    }
}
