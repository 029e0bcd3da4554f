//! The reference's policy cases, of the kinds that this simulator plays.

use serde_json::Value;

use super::*;

fn cases(kind: &str) -> Vec<Value> {
    let file: Value =
        serde_json::from_str(include_str!("../../tests/vectors/policy.json")).unwrap();
    let cases: Vec<Value> = file["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["kind"] == kind)
        .cloned()
        .collect();
    assert!(!cases.is_empty(), "no case of kind {kind}");
    cases
}

fn policy(case: &Value) -> Policy {
    Policy::read(&case["policy"]).unwrap()
}

fn allowed(case: &Value) -> bool {
    match case["expected"]["decision"].as_str().unwrap() {
        "allow" => true,
        "deny" => false,
        other => panic!("unknown decision {other}"),
    }
}

/// Lists compare as sets.
fn as_set(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.clone();
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
fn the_path_matcher_is_the_servers() {
    for case in cases("antMatch") {
        let (pattern, path) = (
            case["request"]["pattern"].as_str().unwrap(),
            case["request"]["path"].as_str().unwrap(),
        );
        let expected = &case["expected"];
        assert_eq!(ant::matches(pattern, path), expected["match"], "{}", case["id"]);
        assert_eq!(ant::matches_start(pattern, path), expected["matchStart"], "{}", case["id"]);
        assert_eq!(ant::is_pattern(pattern), expected["isPattern"], "{}", case["id"]);
    }
}

#[test]
fn api_paths_are_decided_as_by_the_server() {
    for case in cases("apiPath") {
        let decided = policy(&case).allows_api_path(
            case["request"]["contextPath"].as_str().unwrap(),
            case["request"]["requestUri"].as_str().unwrap(),
        );
        assert_eq!(decided, allowed(&case), "{}", case["id"]);
    }
}

#[test]
fn expiry_and_refresh_are_decided_as_by_the_server() {
    for case in cases("expiry") {
        let now = case["request"]["now"].as_i64().unwrap();
        assert_eq!(policy(&case).is_valid_at(now), allowed(&case), "{}", case["id"]);
    }
    for case in cases("refresh") {
        assert_eq!(policy(&case).allows_refresh(), allowed(&case), "{}", case["id"]);
    }
    for case in cases("tokenManagement") {
        assert_eq!(!policy(&case).restricts(), allowed(&case), "{}", case["id"]);
    }
}

#[test]
fn nodes_and_sources_are_narrowed_as_by_the_server() {
    for case in cases("nodeIds") {
        let requested: Vec<i64> = case["request"]["nodeIds"]
            .as_array()
            .map(|list| list.iter().filter_map(Value::as_i64).collect())
            .unwrap_or_default();
        let effective = policy(&case).effective_nodes(&requested);
        assert_eq!(effective.is_some(), allowed(&case), "{}", case["id"]);
        if let Some(effective) = effective {
            let expected = as_set(&case["expected"]["effective"]);
            assert_eq!(as_set(&json!(effective)), expected, "{}", case["id"]);
        }
    }
    for case in cases("sourceIds") {
        let requested: Vec<String> = case["request"]["sourceIds"]
            .as_array()
            .map(|list| list.iter().map(|id| id.as_str().unwrap().to_owned()).collect())
            .unwrap_or_default();
        let effective = policy(&case).effective_sources(&requested);
        assert_eq!(effective.is_some(), allowed(&case), "{}", case["id"]);
        if let Some(effective) = effective {
            let expected = as_set(&case["expected"]["effective"]);
            assert_eq!(as_set(&json!(effective)), expected, "{}", case["id"]);
        }
    }
}

#[test]
fn policies_are_read_as_leniently_as_by_the_server() {
    for case in cases("parse") {
        let text = case["policyText"].as_str().unwrap();
        let read = Policy::read(&serde_json::from_str(text).unwrap());
        if case["expected"]["error"] == true {
            assert!(read.is_err(), "{}", case["id"]);
            continue;
        }
        let written = read.unwrap().to_json();
        assert_eq!(as_set(&written), as_set(&case["expected"]["policy"]), "{}", case["id"]);
    }
}

#[test]
fn a_patch_only_ever_adds() {
    for case in cases("policyPatch") {
        let patch = Policy::read(&case["request"]["patch"]).unwrap();
        let merged = policy(&case).merged_with(&patch).to_json();
        assert_eq!(as_set(&merged), as_set(&case["expected"]["effective"]), "{}", case["id"]);
    }
}
