//! The refresh call: a signed GET to SolarQuery that hands out the key of a UTC day.
//!
//! It is signed like any call, with a key that is still usable, and answers with the key of the day
//! asked for, which may not lie in the future. That makes it a proof as well: signed with a key and
//! asked for that key's own day, the server has to return the same key. No other call is allowed
//! under every policy that allows this one.

use std::future::Future;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use zeroize::Zeroize;

use crate::{
    credential::{Credential, SigningKey},
    solarnet::{Answer, Api, Application, Call, CallError, Cause, Method, Priority},
};

/// Path of the call below SolarQuery's base.
///
/// # Source
///
/// SolarQuery's `AuthTokenController`; a token's `apiPaths` names it [`POLICY_PATH`].
const PATH: &str = "/api/v1/sec/auth-tokens/refresh/v2";

/// The call as a token's policy spells it in `apiPaths`.
pub const POLICY_PATH: &str = "/auth-tokens/refresh/v2";

/// Whoever can ask the server for keys: the real client, or a fake with behaviour in tests.
pub trait RefreshCalls: Send + Sync {
    /// The server's time as far as it is known; every answer teaches it.
    fn now(&self) -> DateTime<Utc>;

    /// Asks for the key of `day`, signed with `credential`.
    fn fetch(
        &self,
        credential: &Credential,
        day: NaiveDate,
    ) -> impl Future<Output = Result<SigningKey, CallError>> + Send;
}

/// The refresh call for `day`.
#[must_use]
pub fn call(day: NaiveDate) -> Call {
    Call {
        application: Application::Query,
        priority: Priority::Urgent,
        method: Method::Get,
        path: PATH.to_owned(),
        query: vec![("date".to_owned(), day.format("%Y-%m-%d").to_string())],
        body: None,
    }
}

/// Takes the key out of the answer to [`call`].
///
/// # Errors
///
/// If there is no key in it: something else than SolarQuery's refresh call answered.
pub fn read_key(answer: Answer) -> Result<SigningKey, CallError> {
    let mut data = answer.data;
    let key = match data.get_mut("key").map(Value::take) {
        Some(Value::String(mut text)) => {
            let key = text.parse().ok();
            text.zeroize();
            key
        }
        _ => None,
    };
    key.ok_or_else(|| CallError {
        method: Method::Get.name(),
        path: PATH.to_owned(),
        cause: Cause::NotSolarNetwork,
        refusal: None,
        detail: Some("the answer has no signing key in it".to_owned()),
    })
}

impl RefreshCalls for Api {
    fn now(&self) -> DateTime<Utc> {
        Api::now(self)
    }

    async fn fetch(
        &self,
        credential: &Credential,
        day: NaiveDate,
    ) -> Result<SigningKey, CallError> {
        read_key(self.call_as(credential, call(day)).await?)
    }
}

/// Why a key is not proved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unproved {
    /// There was no key in answer.
    #[error("the key could not be proved")]
    Refused(#[from] CallError),
    /// The key is the token's, but of another day than the one it was given for.
    #[error("the server's key of {day} is another one: the key is not of that day")]
    OtherKey {
        /// The day it was said to be of.
        day: NaiveDate,
    },
}

/// Proves a key by a real call: asked for the key's own day, the server returns the same key.
///
/// # Errors
///
/// If it does not.
pub async fn prove(calls: &impl RefreshCalls, credential: &Credential) -> Result<(), Unproved> {
    let day = credential.key_date;
    let same = calls.fetch(credential, day).await? == credential.key;
    same.then_some(()).ok_or(Unproved::OtherKey { day })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_call_asks_solarquery_for_one_day() {
        let call = call(NaiveDate::from_ymd_opt(2026, 1, 2).expect("a day"));
        assert_eq!((call.application, call.method), (Application::Query, Method::Get));
        assert_eq!(call.query, [("date".to_owned(), "2026-01-02".to_owned())]);
        assert!(call.path.ends_with(POLICY_PATH));
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_key_and_no_error_repeats_them() {
        let digits = "1f96b28b651285e49d06989aebaee169fa67a5f6a07fb72a8325fce83b425ad6";
        let key = read_key(Answer { data: json!({ "key": digits }) }).expect("a key");
        assert_eq!(key, digits.parse().expect("a key"));
        for data in
            [json!(null), json!([]), json!({}), json!({ "key": 1 }), json!({ "key": "1f96b28b" })]
        {
            let error = read_key(Answer { data }).expect_err("no key");
            assert_eq!(error.cause, Cause::NotSolarNetwork);
            assert!(!error.to_string().contains("1f96b28b"), "{error}");
        }
    }
}
