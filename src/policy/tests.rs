//! Every case of `tests/vectors/policy.json`: what the server's own classes answered.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    evaluate::Metadata,
    flux::{Actor, Session, Verdict},
    *,
};
use crate::domain::TokenKind;

/// Lists compare as sets.
fn as_set(value: &Value) -> Value {
    match value {
        Value::Array(entries) => {
            let texts: BTreeSet<String> = entries.iter().map(|e| as_set(e).to_string()).collect();
            texts.into_iter().collect()
        }
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), as_set(value))).collect()
        }
        other => other.clone(),
    }
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().into_iter().flatten().map(|id| id.as_i64().expect("a number")).collect()
}

fn texts(value: &Value) -> Vec<String> {
    let text = |text: &Value| text.as_str().expect("text").to_owned();
    value.as_array().into_iter().flatten().map(text).collect()
}

/// A decision and what is served, as the vectors write them.
fn decided<T>(result: Result<T, Refused>, effective: impl Fn(T) -> Option<Value>) -> Value {
    let mut answer = json!({ "decision": if result.is_ok() { "allow" } else { "deny" } });
    if let Some(effective) = result.ok().and_then(effective) {
        answer["effective"] = effective;
    }
    answer
}

fn flux(case: &Value, policy: &Policy) -> Value {
    let request = &case["request"];
    let nodes = numbers(&request["userNodeIds"]);
    let session = Session {
        actor: match request["actorType"].as_str().expect("an actor") {
            "ReadNodeDataToken" => Actor::Token(TokenKind::Data),
            "UserToken" => Actor::Token(TokenKind::User),
            "Node" => Actor::Node,
            other => panic!("an actor that is new: {other}"),
        },
        user: request["userId"].as_i64().expect("a user"),
        nodes: &nodes,
        policy,
    };
    let topic = request["topic"].as_str().expect("a topic");
    let qos = request["qos"].as_u64().and_then(|qos| qos.try_into().ok()).expect("a QoS");
    let verdict = match case["kind"] == "fluxSubscribe" {
        true => Some(session.subscribe(topic, qos)),
        false => session.publish(topic, qos),
    };
    match verdict {
        Some(Verdict { allowed, topic, qos }) => json!({
            "decision": if allowed { "allow" } else { "deny" },
            "effective": { "topic": topic, "qos": qos },
        }),
        None => json!({ "decision": "deny" }),
    }
}

fn answer(case: &Value) -> Value {
    let request = &case["request"];
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let policy = || Policy::read(&case["policy"]).expect("a policy that the server reads");
    match case["kind"].as_str().expect("a kind") {
        "nodeIds" => decided(policy().nodes(&numbers(&request["nodeIds"])), |ids| Some(json!(ids))),
        "sourceIds" => {
            decided(policy().sources(&texts(&request["sourceIds"])), |ids| Some(json!(ids)))
        }
        "aggregation" => {
            let wanted = request["aggregation"].as_str();
            let wanted = wanted.map(|name| Aggregation::named(name).expect("a level"));
            decided(policy().aggregation(wanted), |level| Some(json!(level.map(Aggregation::name))))
        }
        "metadata" => {
            let mut object = request.clone();
            let kind = object.as_object_mut().and_then(|object| object.remove("type"));
            let kind = match kind.as_ref().and_then(Value::as_str) {
                Some("Node") => Metadata::Node,
                Some("User") => Metadata::User,
                other => panic!("a kind of metadata that is new: {other:?}"),
            };
            decided(policy().metadata(kind, &object), Some)
        }
        "apiPath" => decided(policy().api_path(text("contextPath"), text("requestUri")), |()| None),
        "expiry" => {
            decided(policy().valid_at(request["now"].as_i64().expect("an instant")), |()| None)
        }
        "refresh" => decided(policy().refresh(), |()| None),
        "tokenManagement" => decided(policy().manage_tokens(), |()| None),
        "userMetadataRead" => {
            let kind = TokenKind::named(text("tokenType")).expect("a kind of token");
            decided(policy().user_metadata(kind), |()| None)
        }
        "policyPatch" => {
            let patch = Policy::read(&request["patch"]).expect("a patch that the server reads");
            json!({ "effective": policy().merged_with(&patch).to_json() })
        }
        "parse" => match Policy::read_text(case["policyText"].as_str().expect("text")) {
            Ok(policy) => json!({ "policy": policy.to_json() }),
            Err(_) => json!({ "error": true }),
        },
        "antMatch" => json!({
            "match": ant::matches(text("pattern"), text("path")),
            "matchStart": ant::matches_start(text("pattern"), text("path")),
            "isPattern": ant::is_pattern(text("pattern")),
        }),
        "fluxSubscribe" | "fluxPublish" => flux(case, &policy()),
        other => panic!("a kind of case that is new: {other}"),
    }
}

#[test]
fn every_case_of_the_server_is_answered_as_the_server_answered_it() {
    let file = include_str!("../../tests/vectors/policy.json");
    let file: Value = serde_json::from_str(file).expect("JSON");
    let cases = file["cases"].as_array().expect("cases");
    assert!(!cases.is_empty());
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let (got, want) = (answer(case), &case["expected"]);
            (as_set(&got) != as_set(want)).then(|| format!("{}: {got}, not {want}", case["id"]))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// As the server's classes do it: what comes in a form that nobody expects.
#[test]
fn a_text_with_slips_is_read_as_the_server_reads_it() {
    for (text, want) in [
        (r#"{"sourceIds":{"nodeIds":[7]},"nodeIds":[1]}"#, Some(r#"{"nodeIds":[7]}"#)),
        (r#"{"notAfter":{},"nodeIds":[1]}"#, Some("{}")),
        (r#"{"refreshAllowed":[true],"nodeIds":[1]}"#, Some("{}")),
        (r#"{"sourceIds":["/a",1,true,1]}"#, Some(r#"{"sourceIds":["/a","1","true"]}"#)),
        (r#"{"nodeIds":"1","sourceIds":["/a"]}"#, Some(r#"{"sourceIds":["/a"]}"#)),
        (r#"{"nodeIds":[1.9,"2"]}"#, Some(r#"{"nodeIds":[null,1]}"#)),
        (
            r#"{"minAggregation":5,"nodeIds":[1]}"#,
            Some(r#"{"nodeIds":[1],"minAggregation":"None"}"#),
        ),
        (r#"{"minAggregation":[],"nodeIds":[1]}"#, Some(r#"{"minAggregation":"None"}"#)),
        (r#"{"aggregations":["h",0,null,"x"]}"#, Some(r#"{"aggregations":["Hour","None"]}"#)),
        (r#"{"aggregations":"Hour"}"#, None),
        (r#"{"minLocationPrecision":5}"#, None),
        (r#"{"minLocationPrecision":"x","nodeIds":[1]}"#, Some(r#"{"nodeIds":[1]}"#)),
        (r#"{"locationPrecisions":[],"nodeIds":[1],"sourceIds":["/a"]}"#, Some("{}")),
        (
            r#"{"nodeIds":[1],"locationPrecisions":"Block","sourceIds":["/a"]}"#,
            Some(r#"{"nodeIds":[1]}"#),
        ),
        (r#"{"locationPrecisions":["Block",null]}"#, None),
        (r#"{"locationPrecisions":["x"],"nodeIds":[1]}"#, Some(r#"{"nodeIds":[1]}"#)),
        (r#"{"nodeIds":[1],"foo":{"nodeIds":"x"}}"#, Some(r#"{"nodeIds":[1]}"#)),
    ] {
        let read = Policy::read_text(text).ok().map(|policy| policy.to_json());
        let want = want.map(|want| serde_json::from_str(want).expect("JSON"));
        assert_eq!(read, want, "{text}");
    }
}

#[test]
fn a_refusal_names_the_member_that_stands_against_it() {
    let policy = Policy::read(&json!({
        "nodeIds": [1], "sourceIds": ["/a/**"], "apiPaths": ["/instr/**"], "notAfter": 5,
        "refreshAllowed": false,
    }))
    .expect("a policy");
    let at = |ms| chrono::DateTime::from_timestamp_millis(ms).expect("an instant");
    for (request, member, word) in [
        (Request::At(at(6)), Member::NotAfter, "run out"),
        (Request::Api("/nodes"), Member::ApiPaths, "/nodes"),
        (Request::Node(2), Member::NodeIds, "`2`"),
        (Request::Source("/b"), Member::SourceIds, "`/b`"),
        (Request::Refresh, Member::RefreshAllowed, "renew"),
        (Request::ManageTokens, Member::NodeIds, "nodeIds"),
    ] {
        let refused = policy.refuses(request).expect("refused");
        assert_eq!(refused.member, member);
        assert!(refused.to_string().contains(word), "{refused}");
    }
    for request in
        [Request::At(at(5)), Request::Api("/instr/view"), Request::Node(1), Request::Source("/a/b")]
    {
        assert_eq!(policy.refuses(request), None, "{request:?}");
    }
}
