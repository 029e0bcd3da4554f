//! `bulkCollector.do`, driven by the vectors of the real servers where there are some.

use std::io::Write;

use chrono::{DateTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use solarnet_sim::{
    Act, Datum, Entry, InstructionState, Kind, Misbehaviour, NewInstruction, Sim, Stream,
};

use super::{BULK, Bench};
use crate::NODE;

const AT: i64 = 1_718_141_949_500;
const STREAM: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

pub(super) fn vectors(section: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/datum.json");
    let text = std::fs::read_to_string(path).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[section].as_array().unwrap().clone()
}

/// The stream of the vectors; its names are ours.
fn stream() -> Stream {
    let names = |group: &str| (0..16).map(|at| format!("{group}{at}")).collect();
    Stream {
        id: STREAM.to_owned(),
        kind: Kind::Node,
        object: NODE,
        source: "/stream".to_owned(),
        i: names("i"),
        a: names("a"),
        s: names("s"),
    }
}

/// The same with the ID that a vector has.
pub(super) fn stream_of(reads: &Value) -> Stream {
    let id = reads["streamId"].as_str().unwrap_or(STREAM).to_owned();
    Stream { id, ..stream() }
}

pub(super) fn new(topic: &str) -> NewInstruction {
    NewInstruction { node: NODE, topic: topic.to_owned(), ..NewInstruction::default() }
}

/// Compares what is stored with what the vector says that the real server reads. What it keeps as number or
/// truth value in a status is text in the database.
fn assert_reads(entry: &Entry, reads: &Value, id: &str) {
    let empty = json!({});
    let members = |group: &str| {
        let group = reads.get(group).unwrap_or(&empty);
        group.as_object().unwrap().clone()
    };
    for (group, stored) in [("i", &entry.datum.i), ("a", &entry.datum.a)] {
        let expected = members(group);
        assert_eq!(stored.len(), expected.len(), "{id} {group}");
        for (name, value) in expected {
            let read = stored[&name].to_string();
            let is_same = is_same_number(&read, value["number"].as_str().unwrap());
            assert!(is_same, "{id} {name}: {read} is not {value}");
        }
    }
    let expected = members("s");
    assert_eq!(entry.datum.s.len(), expected.len(), "{id} s");
    for (name, value) in expected {
        let read = &entry.datum.s[&name];
        let is_same = match (value.get("number").and_then(Value::as_str), value.as_str()) {
            (Some(number), _) => is_same_number(read, number),
            (None, Some(text)) => read == text,
            (None, None) => serde_json::from_str::<Value>(read).is_ok_and(|read| read == value),
        };
        assert!(is_same, "{id} {name}: {read} is not {value}");
    }
    let tags = reads.get("t").map_or(json!([]), Value::clone);
    assert_eq!(json!(entry.datum.t), tags, "{id}");
}

fn is_same_number(one: &str, other: &str) -> bool {
    let datum = |text: &str| {
        let i = [("x".to_owned(), serde_json::from_str(text).unwrap())].into();
        Datum { i, ..Datum::default() }
    };
    datum(one).is_same(&datum(other))
}

fn milliseconds(reads: &Value) -> i64 {
    DateTime::parse_from_rfc3339(reads["timestamp"].as_str().unwrap()).unwrap().timestamp_millis()
}

/// What the real server reads of a stream datum, with our names of its stream.
fn named(reads: &Value) -> Value {
    let mut named =
        json!({ "timestamp": reads["timestamp"], "t": reads.get("t").unwrap_or(&json!([])) });
    for group in ["i", "a", "s"] {
        let values = reads[group].as_array().into_iter().flatten().enumerate();
        for (at, value) in values.filter(|(_, value)| !value.is_null()) {
            let value = if group == "s" { value.clone() } else { json!({ "number": value }) };
            named[group][format!("{group}{at}")] = value;
        }
    }
    named
}

/// Asserts that what is stored is what the real server reads of one datum: all of it, or nothing.
pub(super) fn assert_stored(sim: &Sim, reads: &Value, id: &str) {
    if reads["rejected"] == true {
        assert_eq!((sim.ledger_count().datum, sim.dropped().len()), (0, 1), "{id}");
        return;
    }
    assert_eq!(sim.dropped(), [], "{id}");
    let ms = milliseconds(reads);
    let (reads, entry) = match (reads["sourceId"].as_str(), reads["kind"].as_str()) {
        (None, _) => (named(reads), sim.entry(NODE, "/stream", ms)),
        (Some(source), Some("Location" | "location" | "l")) => {
            let location = reads["objectId"].as_i64().unwrap();
            (reads.clone(), sim.location_entry(location, source, ms))
        }
        (Some(source), _) => (reads.clone(), sim.entry(NODE, source, ms)),
    };
    match entry {
        Some(entry) => assert_reads(&entry, &reads, id),
        None => assert!(["i", "a", "s"].iter().all(|group| reads[group].is_null()), "{id}"),
    }
}

#[test]
fn datum_are_read_as_the_real_server_reads_them() {
    let accepted = vectors("accept_json").into_iter().map(|vector| (vector, "json"));
    let written = vectors("datum").into_iter().map(|vector| (vector, "json_http"));
    for (vector, text) in accepted.chain(written) {
        let bench = Bench::new();
        bench.sim.put_stream(stream_of(&vector["server_reads"]));
        let id = vector["id"].as_str().unwrap();
        let answer = bench.post(&format!("[{}]", vector[text].as_str().unwrap()));
        assert_eq!(answer["success"], true, "{id}");
        let mut reads = vector["server_reads"].clone();
        if reads["rejected"] == true {
            assert_eq!(answer["data"], json!({}), "{id}");
        } else {
            let listed = &answer["data"]["datum"][0];
            assert_eq!(listed["sourceId"], reads["sourceId"], "{id}");
            assert_eq!(listed["streamId"], reads["streamId"], "{id}");
            if reads["timestamp"].is_null() {
                // It has the server's time then.
                reads["timestamp"] = listed["timestamp"].as_str().unwrap().replace(' ', "T").into();
            }
        }
        assert_stored(&bench.sim, &reads, id);
    }
}

#[test]
fn stream_datum_are_read_by_the_names_of_their_stream() {
    for vector in vectors("stream_datum") {
        let bench = Bench::new();
        let reads = &vector["server_reads"];
        bench.sim.put_stream(stream_of(reads));
        let answer = bench.post(&format!("[{}]", vector["json_http"].as_str().unwrap()));
        let id = vector["id"].as_str().unwrap();
        assert_eq!(answer["data"]["datum"][0]["streamId"], reads["streamId"], "{id}: {answer}");
        assert_stored(&bench.sim, reads, id);
    }
}

#[test]
fn batches_are_answered_as_the_real_server_answers() {
    for vector in vectors("http_batch") {
        let bench = Bench::new();
        bench.sim.put_stream(stream());
        let id = vector["id"].as_str().unwrap();
        let mut expected = vector["response_json"].clone();
        // The instructions of the answer, with the simulator's IDs and times.
        let offered = expected.pointer_mut("/data/instructions").and_then(Value::as_array_mut);
        for shown in offered.into_iter().flatten() {
            let given = shown["parameters"].as_array().into_iter().flatten();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let parameters = given.map(|p| (text(&p["name"]), text(&p["value"]))).collect();
            let wanted = NewInstruction { parameters, ..new(shown["topic"].as_str().unwrap()) };
            let number = bench.sim.add_instruction(wanted);
            *shown = bench.sim.instruction(number).unwrap().to_json();
        }
        // A group that is not listed was lost on its way into the database.
        let listed = expected["data"]["datum"].as_array();
        let lists = |member| listed.into_iter().flatten().any(|one| one.get(member).is_some());
        let groups = if lists("sourceId") { 3 } else { u8::from(lists("streamId")) };
        if expected["success"] == true && groups < 3 {
            bench.sim.misbehave(Misbehaviour::new(BULK, Act::BatchTransient { groups }));
        }
        assert_eq!(bench.post(&vector["request_json"].to_string()), expected, "{id}");
    }
}

#[test]
fn the_answer_goes_by_group_and_lists_what_is_empty_too() {
    let bench = Bench::new();
    bench.sim.put_stream(stream());
    let stream = "[1718141949500,1121305442246149791,-6816918738128300786,[1]]";
    let answer = bench.post(&format!(
        r#"[{{"created":1,"locationId":7,"sourceId":"w","i":{{"temp":1}}}},
            {{"created":2,"sourceId":"/empty"}},
            {{"created":3,"nodeId":999,"sourceId":"/m","i":{{"w":1}}}},
            {stream},
            {{"instructionId":77,"state":"Completed"}}]"#
    ));
    let listed = answer["data"]["datum"].as_array().unwrap();
    let names: Vec<&str> = listed
        .iter()
        .map(|one| one["sourceId"].as_str().or(one["streamId"].as_str()).unwrap_or("status"))
        .collect();
    assert_eq!(names, ["status", STREAM, "/empty", "/m", "w"]);
    assert_eq!(listed[3]["nodeId"], NODE);
    assert_eq!((&listed[4]["kind"], &listed[4]["locationId"]), (&json!("l"), &json!(7)));
    assert!(bench.sim.entry(NODE, "/empty", 2).is_none());
    assert!(bench.sim.location_entry(7, "w", 1).is_some());
    assert_eq!(bench.sim.entry(NODE, "/m", 3).unwrap().last_job, "bulk");
}

#[test]
fn a_poll_lists_at_most_a_hundred_queued_instructions_and_changes_none() {
    let bench = Bench::of_two();
    let ids: Vec<i64> = (0..101).map(|_| bench.sim.add_instruction(new("Signal"))).collect();
    bench.sim.add_instruction(NewInstruction { node: 124, ..new("Signal") });
    for _ in 0..2 {
        let answer = bench.post("[]");
        assert!(answer["data"].get("datum").is_none());
        let listed = answer["data"]["instructions"].as_array().unwrap();
        let listed: Vec<i64> = listed.iter().map(|one| one["id"].as_i64().unwrap()).collect();
        assert_eq!(listed, ids[..100]);
    }
    bench.post(&format!(r#"[{{"instructionId":{},"state":"Received"}}]"#, ids[0]));
    assert_eq!(bench.post("[]")["data"]["instructions"][99]["id"], ids[100]);
    assert_eq!(bench.post("{\"no\":[1]}")["success"], true);
}

#[test]
fn results_are_merged_and_the_state_that_it_has_is_not_written_again() {
    let bench = Bench::new();
    let id = bench.sim.add_instruction(new("Signal"));
    let tell = |state: &str, results: &str| {
        let status = r#""statusDate":"2024-06-11 21:39:09.649036Z""#;
        let body = format!(
            r#"[{{"instructionId":{id},"state":"{state}",{status},"resultParameters":{results}}}]"#
        );
        assert_eq!(bench.post(&body)["data"]["datum"][0]["state"], *state);
    };
    tell("Executing", r#"{"a":1}"#);
    tell("Executing", r#"{"a":2,"b":2}"#);
    tell("Completed", r#"{"c":"x/y"}"#);
    let instruction = bench.sim.instruction(id).unwrap();
    assert_eq!(Value::Object(instruction.results.unwrap()), json!({ "a": 1, "c": "x/y" }));
    assert_eq!(instruction.history.len(), 3);
}

/// Each is the whole batch's failure; what was stored before stays.
#[test]
fn what_spoils_a_batch_leaves_statuses_and_earlier_groups() {
    let long = "s".repeat(65);
    let good = r#"{"created":5,"sourceId":"/good","i":{"w":1}}"#;
    let streamed = "[5,1121305442246149791,-6816918738128300786,[1]]";
    for (what, spoiler, streamed_stays) in [
        ("unknown state", r#"{"instructionId":2,"state":"Done"}"#.to_owned(), false),
        ("another node's", r#"{"instructionId":ALIEN,"state":"Completed"}"#.to_owned(), false),
        ("long source", format!(r#"{{"created":6,"sourceId":"{long}","i":{{"w":1}}}}"#), true),
        ("no source", r#"{"created":6,"i":{"w":1}}"#.to_owned(), true),
        ("unknown stream", "[6,1,1,[1]]".to_owned(), false),
        ("malformed", "{".to_owned(), false),
    ] {
        let bench = Bench::of_two();
        bench.sim.put_stream(stream());
        let mine = bench.sim.add_instruction(new("Signal"));
        let alien = bench.sim.add_instruction(NewInstruction { node: 124, ..new("Signal") });
        let spoiler = spoiler.replace("ALIEN", &alien.to_string());
        let status = format!(r#"{{"instructionId":{mine},"state":"Executing"}}"#);
        let answer = bench.post(&format!("[{status},{good},{streamed},{spoiler}]"));
        assert_eq!(answer, json!({ "success": false, "message": "Internal error" }), "{what}");
        let executing = bench.sim.instruction(mine).unwrap().state == InstructionState::Executing;
        assert!(executing, "{what}");
        assert_eq!(bench.sim.entry(NODE, "/stream", 5).is_some(), streamed_stays, "{what}");
        assert!(bench.sim.entry(NODE, "/good", 5).is_none(), "{what}");
        assert_eq!(bench.sim.dropped().len(), 1, "{what}");
    }
}

#[test]
fn what_cannot_be_read_is_dropped_and_the_rest_is_kept() {
    let bench = Bench::new();
    let answer = bench.post(
        r#"[1, "x", null, {"__type__":"Other","sourceId":"/a"}, [1,2,3,"x"], [0,1,1], {"created":"soon"},
            {"created":1.5,"sourceId":"/a"}, {"created":9,"sourceId":"/a","i":{"w":"12","v":true,"x":1},
             "t":"alone","more":{"deep":{"a":{"wh":2}}}}]"#,
    );
    assert_eq!(answer["data"]["datum"].as_array().unwrap().len(), 1);
    assert_eq!(bench.sim.dropped().len(), 8);
    let kept = bench.sim.entry(NODE, "/a", 9).unwrap().datum.to_json();
    assert_eq!(kept, json!({ "i": { "x": 1 }, "a": { "wh": 2 } }));
}

#[test]
fn a_datum_without_a_time_gets_the_servers_and_one_that_comes_again_replaces() {
    let bench = Bench::new();
    bench.sim.set_clock_offset(TimeDelta::days(3));
    let answer = bench.post(r#"[{"sourceId":"/m","i":{"w":1}}]"#);
    let created = answer["data"]["datum"][0]["created"].as_str().unwrap().replace(' ', "T");
    let created: DateTime<Utc> = created.parse().unwrap();
    assert!((created - bench.sim.now()).num_seconds().abs() < 20);
    bench.post(r#"[{"created":1,"sourceId":"/m","i":{"a":1,"b":230.50}}]"#);
    bench.post(r#"[{"created":1,"sourceId":"/m","i":{"a":1.0,"b":2.305E+2}}]"#);
    assert_eq!(bench.sim.entry(NODE, "/m", 1).unwrap().changes, 0);
    bench.post(r#"[{"created":1,"sourceId":"/m","i":{"b":2}}]"#);
    let entry = bench.sim.entry(NODE, "/m", 1).unwrap();
    assert_eq!((entry.datum.to_json(), entry.changes), (json!({ "i": { "b": 2 } }), 1));
}

#[test]
fn a_gzip_body_is_unpacked_and_any_other_is_an_internal_error() {
    let bench = Bench::new();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(br#"[{"created":1,"sourceId":"/m","i":{"w":1}}]"#).unwrap();
    let packed = packed.finish().unwrap();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let answer = bench.node.send("POST", BULK, &headers, &packed).unwrap();
    assert_eq!(answer.data()["datum"][0]["sourceId"], "/m");
    assert!(String::from_utf8_lossy(&answer.body).contains(r#""\/m""#));
    for body in [&packed[..packed.len() / 2], b"[]"] {
        let answer = bench.node.send("POST", BULK, &headers, body).unwrap();
        assert_eq!(answer.refusal(), (200, "Internal error".to_owned()));
    }
}

#[test]
fn misbehaviour_loses_drops_and_ends_in_the_middle_of_a_batch() {
    let bench = Bench::new();
    bench.sim.put_stream(stream());
    let batch = format!(
        r#"[{{"created":{AT},"sourceId":"/a","i":{{"w":1}}}},{{"created":{AT},"sourceId":"/b","i":{{"w":1}}}},
            [{AT},1121305442246149791,-6816918738128300786,[1]]]"#
    );
    let act = |act: Act| {
        bench.sim.misbehave(Misbehaviour::new(BULK, act).times(1));
        let answer = bench.post(&batch);
        assert_eq!(answer["success"], true);
        let listed = answer["data"]["datum"].as_array().map_or(0, Vec::len);
        let stored: Vec<String> =
            bench.sim.ledger().into_iter().map(|(key, _)| key.source).collect();
        for source in &stored {
            assert!(bench.sim.lose_datum(NODE, source, AT));
        }
        (listed, stored.join(" "))
    };
    assert_eq!(act(Act::BatchLosesEntries { entries: 2 }), (1, "/stream".to_owned()));
    assert_eq!(act(Act::BatchDropsEntries { entries: 2 }), (3, "/b".to_owned()));
    assert_eq!(act(Act::BatchTransient { groups: 0 }), (0, String::new()));
    assert_eq!(act(Act::BatchTransient { groups: 1 }), (1, "/stream".to_owned()));
    assert_eq!(act(Act::NoDate), (3, "/a /b /stream".to_owned()));
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::CutAfter).times(1));
    assert!(bench.node.post(BULK, "application/json", batch.as_bytes()).is_err());
    assert_eq!(bench.sim.ledger_count().datum, 3);
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::ProxyPage { status: 502 }).times(1));
    assert_eq!(bench.node.post(BULK, "application/json", b"[]").unwrap().status, 502);
}

#[test]
fn instructions_come_twice_late_or_once_more_on_demand() {
    let bench = Bench::new();
    let id = bench.sim.add_instruction(new("Signal"));
    let listed = |act: Act| {
        bench.sim.misbehave(Misbehaviour::new(BULK, act).times(1));
        bench.post("[]")["data"]["instructions"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(listed(Act::DuplicateInstruction), 2);
    assert_eq!(listed(Act::HoldInstruction), 0);
    bench.sim.set_instruction_state(id, InstructionState::Completed);
    assert_eq!(listed(Act::NoDate), 0);
    assert_eq!(listed(Act::ReplayInstruction), 1);
}
