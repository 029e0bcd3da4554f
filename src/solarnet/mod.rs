//! Calls to SolarNetwork: signed, paced, and answered with one clear result.
//!
//! [`Caller::call`] is the only way any part of the agent talks to SolarNetwork. It waits for its turn
//! ([`pace`]), signs with the server's time and the current key, sends, learns the server's time
//! from the answer, and turns what came back into an [`Answer`] or a [`CallError`] whose
//! [`CallError::next`] says what to do ([`answer`] holds that table; `docs/spec/answers.md` shows
//! it).
//!
//! It does not retry, with one exception: an answer that says `Date skew too large` teaches the
//! server's time, and the call is signed again once.

pub mod answer;
mod api;
pub mod pace;

pub use answer::{CallError, Cause, Next, Refusal};
pub use api::Api;

use std::future::Future;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::credential::Credential;

/// Which of the server's applications a call goes to. Rate limits count per token and application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Application {
    /// SolarUser: imports, instructions, tokens.
    User,
    /// SolarQuery: queries, and the refresh of signing keys.
    Query,
}

/// Who goes first when several calls wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Instructions and the signing key: few, small, and somebody waits for them.
    Urgent,
    /// Everything else.
    Bulk,
}

/// The methods that SolarNetwork's API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Adds or acts.
    Post,
    /// Puts something in the place of what is there.
    Put,
    /// Adds to what is there.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// As on the request line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// One call, before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where it goes.
    pub application: Application,
    /// When it goes.
    pub priority: Priority,
    /// How.
    pub method: Method,
    /// The path below the application's base, for example `/api/v1/sec/instr/viewPending`.
    pub path: String,
    /// Query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// What is sent along.
    pub body: Option<Body>,
}

/// A request's body, exactly as it goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The `Content-Type` header, signed as it stands.
    pub content_type: String,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a successful call gave: the `data` of the envelope, `null` where it had none.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The envelope's `data`.
    pub data: serde_json::Value,
}

/// Whoever carries out calls: [`Api`] in the daemon, a fake with behaviour in tests.
pub trait Caller: Send + Sync {
    /// Makes one call and waits for its one result; bounded by the configured timeout.
    fn call(&self, call: Call) -> impl Future<Output = Result<Answer, CallError>> + Send;
}

/// Whoever carries out calls with a credential that is given for each, and not the configured one.
pub trait CallAs: Send + Sync {
    /// The server's time as far as it is known; every answer teaches it.
    fn server_time(&self) -> DateTime<Utc>;

    /// As [`Caller::call`], signed with `credential`.
    fn call_as(
        &self,
        credential: &Credential,
        call: Call,
    ) -> impl Future<Output = Result<Answer, CallError>> + Send;
}
