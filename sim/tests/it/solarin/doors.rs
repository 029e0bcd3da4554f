//! Who is let in.

use chrono::{TimeDelta, Utc};
use solarnet_sim::{Authority, NodeCertificate};

use super::{BULK, Bench, Node};
use crate::NODE;

#[test]
fn without_a_certificate_only_what_is_public_answers() {
    let bench = Bench::new();
    let stranger = Node::new(&bench.solarin, &bench.authority, None);
    for (path, status) in [
        ("/solarin/ping", 200),
        ("/solarin/identity.do", 200),
        ("/solarin/api/v1/pub/config", 200),
        (BULK, 403),
        ("/solarin/api/v1/sec/datum/meta/123/stream?sourceId=a", 403),
    ] {
        assert_eq!(stranger.get(path).status, status, "{path}");
    }
    let posted = stranger.post(BULK, "application/json", b"[]").unwrap();
    assert_eq!(posted.refusal(), (403, "Access Denied".to_owned()));
}

#[test]
fn a_certificate_that_is_not_good_now_is_refused_with_403() {
    let bench = Bench::new();
    let now = Utc::now();
    let day = TimeDelta::days(1);
    let stranger = Authority::new().unwrap();
    let foreign = stranger.issue_node(&NodeCertificate::around(NODE, now)).unwrap();
    for (what, caller, status) in [
        ("good", bench.caller(&NodeCertificate::around(NODE, now)), 200),
        ("RSA", bench.caller(&NodeCertificate::around(NODE, now).rsa()), 200),
        ("expired", bench.caller(&NodeCertificate::between(NODE, now - day * 2, now - day)), 403),
        ("early", bench.caller(&NodeCertificate::between(NODE, now + day, now + day * 2)), 403),
        ("no UID", bench.caller(&NodeCertificate::around(NODE, now).without_uid()), 403),
        ("no such node", bench.caller(&NodeCertificate::around(9, now)), 403),
        ("foreign", Node::new(&bench.solarin, &bench.authority, Some(&foreign)), 403),
    ] {
        let answer = caller.post(BULK, "application/json", b"[]").unwrap();
        assert_eq!(answer.status, status, "{what}");
    }
    // A certificate ends while its connection stands, by the server's clock.
    bench.sim.set_clock_offset(TimeDelta::days(800));
    assert_eq!(bench.node.post(BULK, "application/json", b"[]").unwrap().status, 403);
    assert_eq!(bench.sim.requests().last().unwrap().node, Some(NODE));
}

#[test]
fn the_handshake_refuses_what_is_not_good_where_it_is_told_to() {
    let bench = Bench::new();
    bench.solarin.refuse_at_handshake(true);
    let now = Utc::now();
    let old = NodeCertificate::between(NODE, now - TimeDelta::days(9), now - TimeDelta::days(1));
    let refused = bench.caller(&old).post(BULK, "application/json", b"[]").unwrap_err();
    assert!(refused.to_string().contains("CertificateExpired"), "{refused}");
    assert_eq!(bench.node.post(BULK, "application/json", b"[]").unwrap().status, 200);
}

#[test]
fn only_post_and_only_json_are_taken_under_both_names() {
    let bench = Bench::new();
    for path in [BULK, "/solarin/u/bulkCollector.do"] {
        assert_eq!(bench.node.get(path).status, 405);
        let answer = bench.node.post(path, "application/json;charset=UTF-8", b"[]").unwrap();
        assert_eq!((answer.status, answer.json()["success"].as_bool()), (200, Some(true)));
        assert_eq!(bench.node.post(path, "application/cbor", b"[]").unwrap().status, 415);
    }
}
