//! What SolarQuery shows to tokens of all kinds, and what it keeps from them.

use chrono::TimeDelta;
use serde_json::{Value, json};
use solarnet_sim::{Act, IssuedToken, Misbehaviour, Sim, TokenKind};

use crate::client::Client;
use crate::import::{JOBS, config, csv, submit};
use crate::{NODE, client_of, simple};

const LIST: &str = "/solarquery/api/v1/sec/datum/list";
const RECENT: &str = "/solarquery/api/v1/sec/datum/mostRecent";

fn reader(sim: &Sim, policy: &Value) -> Client {
    let IssuedToken { id, secret } = sim.issue_token(1, TokenKind::ReadNodeData, policy);
    Client::new(sim.address(), &id, &secret)
}

/// Three datum of `/m` and one of `/n`, some milliseconds apart.
fn with_datum() -> Sim {
    let sim = simple();
    let rows =
        [(NODE, "/m", 0, "1"), (NODE, "/m", 1, "2"), (NODE, "/m", 2, "6"), (NODE, "/n", 0, "9")];
    submit(&client_of(&sim), &config(json!({})), csv(&rows).as_bytes());
    sim
}

#[test]
fn lists_come_in_pages() {
    let sim = with_datum();
    let client = reader(&sim, &Value::Null);
    let page = |query: &str| {
        let data = client.get(&format!("{LIST}?{query}")).data();
        let watts = data["results"].as_array().unwrap().iter().map(|row| row["watts"].to_string());
        (data["totalResults"].clone(), watts.collect::<Vec<_>>())
    };
    assert_eq!(page("max=3&nodeId=123"), (json!(4), vec!["1".into(), "2".into(), "6".into()]));
    assert_eq!(page("max=3&nodeId=123&offset=3"), (json!(4), vec!["9".into()]));
    assert_eq!(page("max=3&nodeId=123&offset=9"), (json!(4), vec![]));
}

#[test]
fn a_minimum_aggregation_raises_what_is_asked_for() {
    let sim = with_datum();
    let client = reader(&sim, &json!({ "minAggregation": "Hour" }));
    for query in ["nodeId=123&sourceId=%2Fm", "aggregation=Minute&nodeId=123&sourceId=%2Fm"] {
        let data = client.get(&format!("{LIST}?{query}")).data();
        assert_eq!(data["returnedResultCount"], 1, "{query}");
        assert_eq!(data["results"][0]["created"], "2024-06-11 21:00:00Z");
        assert_eq!(data["results"][0]["watts"].to_string(), "3");
        assert_eq!(data["results"][0]["watts_max"].to_string(), "6");
    }
    let day = client.get(&format!("{LIST}?aggregation=Day&nodeId=123")).data();
    assert_eq!(day["results"][0]["created"], "2024-06-11 00:00:00Z");
    assert_eq!(client.get(&format!("{RECENT}?nodeId=123")).data()["returnedResultCount"], 2);
}

#[test]
fn a_set_of_aggregations_denies_all_others() {
    let sim = with_datum();
    let client = reader(&sim, &json!({ "aggregations": ["Hour", "Day"] }));
    let denied = (403, "ACCESS_DENIED".to_owned());
    assert_eq!(client.get(&format!("{LIST}?nodeId=123")).refusal(), denied);
    assert_eq!(client.get(&format!("{LIST}?aggregation=Month&nodeId=123")).refusal(), denied);
    client.get(&format!("{LIST}?aggregation=Hour&nodeId=123")).data();
    assert_eq!(client.get(&format!("{LIST}?aggregation=hour&nodeId=123")).refusal().0, 422);
}

#[test]
fn sources_are_narrowed_in_silence_and_denied_when_none_is_left() {
    let sim = with_datum();
    let client = reader(&sim, &json!({ "sourceIds": ["/m"] }));
    let all = client.get(&format!("{LIST}?nodeId=123")).data();
    assert_eq!(all["totalResults"], 3);
    let both = client.get(&format!("{LIST}?nodeId=123&sourceIds=%2Fm%2C%2Fn")).data();
    assert_eq!(both["totalResults"], 3);
    let denied = (403, "ACCESS_DENIED".to_owned());
    assert_eq!(client.get(&format!("{LIST}?nodeId=123&sourceId=%2Fn")).refusal(), denied);
    let nothing = reader(&sim, &json!({ "sourceIds": ["/x"] }));
    assert_eq!(nothing.get(&format!("{LIST}?nodeId=123")).refusal(), denied);
}

#[test]
fn metadata_shows_what_the_policy_selects() {
    let sim = simple();
    let metadata = json!({ "m": { "a": 1, "b": { "c": 2 } }, "t": ["x"] });
    assert!(sim.set_node_metadata(NODE, metadata.clone()) && sim.set_user_metadata(1, metadata));
    let (node, user) =
        ("/solarquery/api/v1/sec/nodes/meta/123", "/solarquery/api/v1/sec/users/meta");
    let denied = (403, "ACCESS_DENIED".to_owned());

    let open = reader(&sim, &Value::Null);
    assert_eq!(open.get(node).data()["m"]["b"]["c"], 2);
    assert_eq!(open.get(user).refusal(), denied, "a data token has to list paths");
    let narrow = json!({ "nodeMetadataPaths": ["/m/b/**"], "userMetadataPaths": ["/m/a"] });
    let narrow = reader(&sim, &narrow);
    assert_eq!(
        narrow.get(node).data(),
        json!({ "nodeId": 123, "m": { "b": { "c": 2 } }, "t": ["x"] })
    );
    assert_eq!(narrow.get(user).data(), json!({ "userId": 1, "m": { "a": 1 }, "t": ["x"] }));
    let none = reader(&sim, &json!({ "nodeMetadataPaths": ["/pm/**"] }));
    assert_eq!(none.get(node).refusal(), denied);
}

#[test]
fn datum_can_be_dropped_lost_and_late() {
    let sim = simple();
    let client = client_of(&sim);
    sim.misbehave(Misbehaviour::new(JOBS, Act::JobDropsRows { rows: 1 }).method("POST").times(1));
    let rows = [(NODE, "/m", 0, "1"), (NODE, "/m", 1, "2"), (NODE, "/m", 2, "3")];
    let job = submit(&client, &config(json!({})), csv(&rows).as_bytes());
    let done = client.get(&format!("{JOBS}/{job}")).data();
    assert_eq!((&done["success"], &done["loadedCount"]), (&json!(true), &json!(3)));
    assert_eq!(sim.ledger_count().datum, 2, "one is gone without a word");

    let (key, _) = sim.ledger().remove(0);
    assert!(sim.lose_datum(NODE, &key.source, key.ms));
    assert!(!sim.lose_datum(NODE, &key.source, key.ms));
    let total = || client.get(&format!("{LIST}?nodeId=123")).data()["totalResults"].clone();
    assert_eq!(total(), 1);
    sim.set_query_delay(TimeDelta::hours(1));
    assert_eq!(total(), 0);
    sim.set_query_delay(TimeDelta::zero());
    assert_eq!(total(), 1);
}

#[test]
fn a_restricted_token_manages_none_and_sees_itself() {
    let sim = simple();
    let tokens = "/solaruser/api/v1/sec/user/auth-tokens";
    for (policy, restricted) in [
        (json!({ "notAfter": 4_102_444_800_000_i64, "refreshAllowed": true }), false),
        (json!({ "minLocationPrecision": "Block" }), true),
        (json!({ "userMetadataPaths": ["/m/**"] }), true),
        (json!({ "sourceIds": [] }), false),
    ] {
        let issued = sim.issue_token(1, TokenKind::User, &policy);
        let client = Client::new(sim.address(), &issued.id, &issued.secret);
        let listed = client.get(tokens).data();
        let generated = client.post(&format!("{tokens}/generate/ReadNodeData"));
        if restricted {
            assert_eq!(listed.as_array().unwrap().len(), 1, "{policy}");
            assert_eq!(generated.refusal(), (403, "ACCESS_DENIED".to_owned()), "{policy}");
        } else {
            assert!(listed.as_array().unwrap().len() > 1, "{policy}");
            assert!(generated.data()["authSecret"].is_string(), "{policy}");
        }
    }
}

#[test]
fn flux_grants_are_told_by_hand() {
    let sim = simple();
    let issued = sim.issue_token(1, TokenKind::ReadNodeData, &json!({ "sourceIds": ["/m"] }));
    let ask = |body: Value| {
        let body = body.to_string();
        crate::client::plain(sim.address(), "POST", "/sim/flux", &body).json()
    };
    let topic = "node/123/datum/0/m";
    let granted = json!({ "allowed": true, "topic": "user/1/node/123/datum/0/m", "qos": 1 });
    assert_eq!(ask(json!({ "token": issued.id, "topic": topic, "qos": 2 })), granted);
    assert_eq!(ask(json!({ "node": NODE, "topic": topic, "qos": 1 })), granted);
    let refused = ask(json!({ "token": issued.id, "topic": "node/123/datum/0/n" }));
    assert_eq!((&refused["allowed"], &refused["qos"]), (&json!(false), &json!(128)));
}
