//! An answer of a File Repository, or of whatever stands in between.
//!
//! The first line has call, status and `Location`, separated by `|`; the rest is the body.

use std::hint::black_box;

use crate::{assert_readable, headed};
use chrono::{DateTime, Utc};
use solarnode_agent::files::{
    answer::{Answer, Call, read},
    client::{granted, shown_end},
    expiry::{Expiry, offset_learnt, parse_digits},
};

pub(crate) fn check(input: &[u8]) {
    let (head, body) = headed(input);
    let mut head = head.split('|');
    let call = match head.next() {
        Some("generate") => Call::Generate,
        Some("lookup") => Call::LookUp,
        Some("revoke") => Call::Revoke,
        Some("upload") => Call::Upload,
        Some("list") => Call::List,
        _ => Call::Other,
    };
    let Some(status) = head.next().and_then(|status| status.parse().ok()) else { return };
    let now: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().expect("a date");
    match read(call, Answer { status, location: head.next(), body }) {
        Ok(accepted) => {
            assert!((200..300).contains(&status) && accepted.body.is_object());
            let granted = granted(&accepted);
            assert!(!shown_end(granted.restrictions.expires).is_empty());
            black_box(granted.restrictions.ends());
            // What is kept of it is read again by the daemon.
            let kept = serde_json::to_value(&granted.restrictions).expect("JSON");
            assert_eq!(serde_json::from_value(kept).ok(), Some(granted.restrictions.clone()));
            for obstacle in [
                granted.restrictions.check_upload(&["tag".to_owned()], now),
                granted.restrictions.check_file(1, Some(&["image/png"])),
            ] {
                obstacle
                    .err()
                    .iter()
                    .for_each(|obstacle| assert!(!obstacle.to_string().contains('\n')));
            }
            let expires = accepted.body["expires"].as_str().and_then(parse_digits);
            let asked: Expiry = "1h".parse().expect("a span");
            expires.and_then(|digits| offset_learnt(asked, digits, now));
        }
        Err(refusal) => {
            assert!(!refusal.sentence.is_empty());
            assert_readable(&refusal.to_string(), 4000);
        }
    }
}
