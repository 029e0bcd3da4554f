//! An answer to a batch, of SolarIn or of whatever stands in between.
//!
//! The first line has status and both retry headers (`-` for none), separated by `|`; the rest is the body.

use crate::{assert_readable, headed};
use chrono::{DateTime, TimeDelta, Utc};
use solarnode_agent::{
    domain::NodeId,
    solarin::answer::{Received, read},
    solarnet::Next,
};

pub(crate) fn check(input: &[u8]) {
    let (head, body) = headed(input);
    let head: Vec<&str> = head.split('|').collect();
    let header = |at: usize| head.get(at).copied().filter(|text| *text != "-");
    let Some(status) = head[0].parse().ok().filter(|status| (100..1000).contains(status)) else {
        return;
    };
    let now: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().expect("a date");
    let (rate_limit_retry_after, retry_after) = (header(1), header(2));
    let received = Received { status, body, rate_limit_retry_after, retry_after, now };
    match read(&received, NodeId::try_from(123).expect("a node")) {
        // Nothing is a success that does not say so twice, and nothing is stored that is not named.
        Ok(heard) => {
            let body: serde_json::Value = serde_json::from_slice(body).expect("an envelope");
            assert!(status / 100 == 2 && body["success"] == true);
            let entries = body["data"]["datum"].as_array().map_or(0, Vec::len);
            let named = heard.stored.len() + heard.streams.len() + heard.acknowledged.len();
            assert!(named <= entries, "{named} of {entries}");
        }
        Err(error) => {
            assert_readable(&error.to_string(), 1000);
            if let Next::Retry { not_before: Some(at) } = error.next() {
                assert!(at <= now + TimeDelta::hours(1), "{at}");
            }
        }
    }
}
