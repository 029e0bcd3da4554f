//! An HTTP answer of SolarNetwork, or of whatever stands in between.
//!
//! The first line has status, `WWW-Authenticate` (`-` for none), error message, and both retry headers,
//! separated by `|`; the rest is the body.

use crate::{assert_readable, headed};
use chrono::{DateTime, TimeDelta, Utc};
use solarnode_agent::solarnet::{
    CallError, Next,
    answer::{Received, read},
};

pub(crate) fn check(input: &[u8]) {
    let (head, body) = headed(input);
    let head: Vec<&str> = head.split('|').collect();
    let header = |at: usize| head.get(at).copied().filter(|text| *text != "-");
    let Some(status) = head[0].parse().ok().filter(|status| (100..1000).contains(status)) else {
        return;
    };
    let now: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().expect("a date");
    let received = Received {
        status,
        body,
        authenticate: header(1).is_some(),
        error_message: header(2),
        rate_limit_retry_after: header(3),
        retry_after: header(4),
        now,
    };
    match read(&received) {
        // Nothing is a success that does not say so twice.
        Ok(_) => {
            let body: serde_json::Value = serde_json::from_slice(body).expect("an envelope");
            assert!(status / 100 == 2 && body["success"] == true);
        }
        Err((cause, refusal)) => {
            let error = CallError {
                method: "GET",
                path: "/api".to_owned(),
                cause,
                refusal: Some(refusal),
                detail: None,
            };
            assert_readable(&error.to_string(), 1000);
            if let Next::Retry { not_before: Some(at) } = error.next() {
                assert!(at <= now + TimeDelta::hours(1), "{at}");
            }
        }
    }
}
