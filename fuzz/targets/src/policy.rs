//! A token's policy from the server, and what is judged by it.
//!
//! The first line is a path, source ID or topic; the rest is the policy.

use crate::{headed, json};
use chrono::DateTime;
use solarnode_agent::{
    domain::TokenKind,
    policy::{
        Policy, Request,
        difference::difference,
        evaluate::Metadata,
        flux::{Actor, Session},
        intend::{intend, slips},
    },
};

pub(crate) fn check(input: &[u8]) {
    let (path, body) = headed(input);
    let Some(value) = json(body) else { return };
    // One that is written for us may have a slip; then that is said.
    if let Err(found) = intend(&value, 0) {
        assert!(!found.is_empty());
        found.iter().for_each(|slip| assert!(!slip.to_string().is_empty()));
    }
    let Ok(policy) = Policy::read(&value) else { return };

    let stored = policy.clone().stored();
    let again = Policy::read(&policy.to_json()).expect("our own policy");
    assert_eq!(again.to_json(), policy.to_json());
    assert!(difference(&stored, &stored).is_empty());
    // Lists of a patch are added once, however often it comes.
    let merged = policy.merged_with(&again);
    assert_eq!(merged.merged_with(&again).to_json(), merged.to_json());
    slips(&policy, 0).iter().for_each(|slip| assert!(!slip.to_string().is_empty()));

    let at = Request::At(DateTime::UNIX_EPOCH);
    let requests =
        [at, Request::Api(&path), Request::Node(101), Request::Source(&path), Request::Refresh];
    for request in requests {
        if let Some(refused) = policy.refuses(request) {
            assert!(!refused.to_string().is_empty());
        }
        // What restricts nothing refuses nothing.
        assert!(Policy::default().refuses(request).is_none());
    }
    // Nothing comes out that was not asked for or listed.
    if let Ok(nodes) = policy.nodes(&[101, 102]) {
        assert!(nodes.iter().all(|node| [101, 102].contains(node)));
    }
    policy.metadata(Metadata::Node, &value).ok();
    let session =
        Session { actor: Actor::Token(TokenKind::Data), user: 1, nodes: &[101], policy: &policy };
    let verdict = session.subscribe(&path, 2);
    assert_eq!(verdict.allowed, verdict.qos <= 1);
}
