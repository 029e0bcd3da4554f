//! Every policy case of the reference: the outcome by this code is the server's.

use serde_json::Value;

use super::flux::{Actor, Session};
use super::*;

fn policy(case: &Value) -> Option<Policy> {
    (!case["policy"].is_null()).then(|| Policy::read(&case["policy"]).unwrap())
}

fn decision(allowed: bool) -> Value {
    json!({ "decision": if allowed { "allow" } else { "deny" } })
}

fn served(effective: Option<Value>) -> Value {
    match effective {
        Some(effective) => json!({ "decision": "allow", "effective": effective }),
        None => decision(false),
    }
}

fn texts_of(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// What this code makes of a case, in the shape of its `expected`.
fn outcome(case: &Value) -> Value {
    let request = &case["request"];
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let given = policy(case);
    let policy = given.clone().unwrap_or_default();
    match case["kind"].as_str().unwrap() {
        "antMatch" => {
            let (pattern, path) = (text("pattern"), text("path"));
            json!({
                "match": ant::matches(pattern, path),
                "matchStart": ant::matches_start(pattern, path),
                "isPattern": ant::is_pattern(pattern),
            })
        }
        "apiPath" => decision(policy.allows_api_path(text("contextPath"), text("requestUri"))),
        "expiry" => decision(policy.is_valid_at(request["now"].as_i64().unwrap())),
        "refresh" => decision(policy.allows_refresh()),
        "tokenManagement" => decision(!policy.restricts()),
        "nodeIds" => {
            let ids = request["nodeIds"].as_array().into_iter().flatten();
            let ids: Vec<i64> = ids.filter_map(Value::as_i64).collect();
            served(policy.effective_nodes(&ids).map(|ids| json!(ids)))
        }
        "sourceIds" => {
            let ids = texts_of(&request["sourceIds"]);
            served(policy.effective_sources(&ids).map(|ids| json!(ids)))
        }
        "aggregation" => {
            let level = request["aggregation"].as_str().and_then(Aggregation::named);
            let effective = policy.effective_aggregation(level);
            served(effective.ok().map(|level| json!(level.map(Aggregation::name))))
        }
        "metadata" => {
            let owner = if text("type") == "User" { Owner::User } else { Owner::Node };
            served(policy.effective_metadata(owner, &without(request, "type")))
        }
        "userMetadataRead" => decision(text("tokenType") == "User" || policy.lists_user_metadata()),
        "policyPatch" => {
            let patch = Policy::read(&request["patch"]).unwrap();
            json!({ "effective": policy.merged_with(&patch).to_json() })
        }
        "parse" => {
            let json = serde_json::from_str(case["policyText"].as_str().unwrap());
            match json.ok().and_then(|json| Policy::read(&json).ok()) {
                Some(policy) => json!({ "policy": policy.to_json() }),
                None => json!({ "error": true }),
            }
        }
        kind @ ("fluxSubscribe" | "fluxPublish") => {
            let nodes = request["userNodeIds"].as_array().into_iter().flatten();
            let nodes: Vec<i64> = nodes.filter_map(Value::as_i64).collect();
            let actor = match text("actorType") {
                "UserToken" => Actor::UserToken,
                "ReadNodeDataToken" => Actor::DataToken,
                "Node" => Actor::Node,
                other => panic!("unknown actor {other}"),
            };
            let user = request["userId"].as_i64().unwrap();
            let session = Session { actor, user, nodes: &nodes, policy: given.as_ref() };
            let qos = request["qos"].as_u64().unwrap() as u8;
            let grant = match kind {
                "fluxSubscribe" => session.subscribe(text("topic"), qos),
                _ => session.publish(text("topic"), qos),
            };
            let mut out = decision(grant.allowed);
            out["effective"] = json!({ "topic": grant.topic, "qos": grant.qos });
            out
        }
        other => panic!("unknown kind {other}"),
    }
}

fn without(object: &Value, name: &str) -> Value {
    let members = object.as_object().unwrap().iter().filter(|(member, _)| *member != name);
    Value::Object(members.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Lists compare as sets, objects regardless of order.
fn as_set(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(as_set).collect();
            list.sort_by_key(Value::to_string);
            Value::Array(list)
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), as_set(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        other => other.clone(),
    }
}

#[test]
fn every_case_of_the_reference_is_decided_as_by_the_server() {
    let file: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/policy.json")).unwrap();
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let mut found = outcome(case);
        let expected = &case["expected"];
        if expected.get("effective").is_none() {
            found.as_object_mut().unwrap().remove("effective");
        }
        if as_set(&found) != as_set(expected) {
            wrong.push(format!("{}: {found}, not {expected}", case["id"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_out_of_place_derails_the_reader_as_it_does_the_servers() {
    for (text, expected) in [
        (r#"{"sourceIds":{"nodeIds":[7]},"nodeIds":[1]}"#, Some(r#"{"nodeIds":[7]}"#)),
        (r#"{"refreshAllowed":[true],"nodeIds":[1]}"#, Some("{}")),
        (r#"{"sourceIds":["/a",1]}"#, Some(r#"{"sourceIds":["/a","1"]}"#)),
        (r#"{"minAggregation":5}"#, Some(r#"{"minAggregation":"None"}"#)),
        (r#"{"aggregations":["h",null]}"#, Some(r#"{"aggregations":["Hour","None"]}"#)),
        (r#"{"aggregations":"Hour"}"#, None),
        (r#"{"minLocationPrecision":5}"#, None),
        (r#"{"locationPrecisions":["Block",null]}"#, None),
        (r#"{"locationPrecisions":[],"nodeIds":[1],"sourceIds":["/a"]}"#, Some("{}")),
        (r#"{"nodeIds":[1],"foo":{"nodeIds":"x"}}"#, Some(r#"{"nodeIds":[1]}"#)),
    ] {
        let read = Policy::read(&serde_json::from_str(text).unwrap()).ok();
        let expected: Option<Value> = expected.map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(read.map(|policy| policy.to_json()), expected, "{text}");
    }
}

#[test]
fn variables_of_the_path_matcher_are_regular_expressions() {
    for (pattern, path, expected) in [
        ("/a/{id}", "/a/1", true),
        ("/a/{id}", "/a/1/2", false),
        ("/a/{id:[0-9]+}", "/a/12", true),
        ("/a/{id:[0-9]+}", "/a/12x", false),
        ("/a/x{id:[0-9]{2}}.{kind}", "/a/x12.json", true),
        ("/a/x{id:[0-9]{2}}.{kind}", "/a/x123.json", false),
        ("/a/{id:[}", "/a/[", false),
        ("/a/.*", "/a/.b", true),
        ("/a/.*", "/a/b", false),
    ] {
        assert_eq!(ant::matches(pattern, path), expected, "{pattern} {path}");
    }
}

#[test]
fn a_user_token_has_any_other_topic_of_its_account_and_none_of_another() {
    let policy = Policy::default();
    let session = Session { actor: Actor::UserToken, user: 7, nodes: &[1], policy: Some(&policy) };
    for (topic, allowed, taken) in [
        ("event/x", true, "user/7/event/x"),
        ("user/7/#", true, "user/7/#"),
        ("user/8/#", false, "user/8/#"),
        ("user/8/node/1/datum/0/a", false, "user/8/node/1/datum/0/a"),
    ] {
        let grant = session.subscribe(topic, 0);
        assert_eq!((grant.allowed, grant.topic.as_str()), (allowed, taken));
    }
}
