//! Every case of `tests/vectors/datum.json` that is about encoding and decoding, whichever there are.

use std::collections::BTreeMap;

use chrono::DateTime;
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value, json};

use super::{
    Acknowledgement, cbor, json as encode,
    stream::{Row, StreamMetadata},
    time,
};
use crate::domain::{Datum, InstructionId, InstructionState, Samples, Stamp};

fn vectors(group: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/datum.json");
    let all = std::fs::read(path).expect("the vectors are there");
    let all: Value = serde_json::from_slice(&all).expect("the vectors are JSON");
    all[group].as_array().expect("a list of cases").clone()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn bytes(hex: &Value) -> Vec<u8> {
    hex::decode(hex.as_str().expect("hex digits")).expect("hex digits")
}

/// A datum of the vectors as this agent holds it.
struct Ours {
    datum: Datum,
    unix_ms: i64,
    /// Nothing in it has a type that this agent does not have, so that both write the same bytes.
    is_same: bool,
}

/// A number of one of Java's types, and whether it is one of the same type here; `None` if it is none.
///
/// Whole numbers and decimals are told apart by their digits here, so a decimal has a fraction, if only of zeros.
/// A float has the shortest digits of its own width, as the note of d19 wants it.
fn number(kind: &str, value: &Value) -> Option<(Decimal, bool)> {
    let given = text(value);
    let (digits, mut is_same) = match kind {
        "float" => {
            let single: f32 = given.parse().expect("a float");
            (single.to_string(), single.to_string() == f64::from(single).to_string())
        }
        "double" => (given.parse::<f64>().expect("a float").to_string(), true),
        "bigint" => (given.clone(), given.parse::<i64>().is_err()),
        _ => (given, true),
    };
    let mut number = held(&digits)?;
    if ["decimal", "double", "float"].contains(&kind) {
        number.rescale(number.scale().max(1));
        is_same &= number.scale() > 0;
    }
    Some((number, is_same))
}

/// A status as text.
fn status(property: &Value) -> String {
    let given = &property["value"];
    let single = Some("float").filter(|kind| property["type"] == *kind);
    let single = single.and_then(|kind| number(kind, given));
    single.map_or_else(|| text(given), |(number, _)| number.to_string())
}

/// A number with all of its digits, if it has no more than this agent holds.
fn held(digits: &str) -> Option<Decimal> {
    let number = Decimal::from_str_exact(digits).or_else(|_| Decimal::from_scientific(digits));
    number.ok().filter(|number| by_value(&number.to_string()) == by_value(digits))
}

/// `None` for what this agent never has: a location's datum, a source ID or a number that it does not take.
fn ours(fields: &Value) -> Option<Ours> {
    if fields["kind"] != "node" {
        return None;
    }
    let unix_ms = fields["createdMs"].as_i64()?;
    // Beyond milliseconds nothing is kept here.
    let created = DateTime::from_timestamp_millis(unix_ms);
    let mut is_same = fields.get("nodeId").is_none() && time::read(&fields["created"]) == created;
    let named = |group: &str| fields[group].as_array().cloned().unwrap_or_default();
    let mut numbers = |group: &str| -> Option<Vec<(String, Decimal)>> {
        let finite = |p: &Value| text(&p["value"]).parse::<f64>().is_ok_and(f64::is_finite);
        let mut numbers = Vec::new();
        for p in named(group).iter().filter(|p| p["type"] == "decimal" || finite(p)) {
            let (number, same) = number(&text(&p["type"]), &p["value"])?;
            is_same &= same;
            numbers.push((text(&p["name"]), number));
        }
        Some(numbers)
    };
    let samples = Samples {
        instantaneous: numbers("i")?,
        accumulating: numbers("a")?,
        status: named("s").iter().map(|p| (text(&p["name"]), status(p))).collect(),
        tags: fields["t"].as_array().into_iter().flatten().map(text).collect(),
    };
    is_same &= named("s").iter().all(|p| p["type"] == "string");
    let source = text(&fields["sourceId"]).parse().ok()?;
    let datum = Datum { source, stamp: Stamp::Wall { unix_ms }, samples };
    Some(Ours { datum, unix_ms, is_same })
}

/// What the server takes from an object, as `server_reads` writes it; numbers by value.
#[derive(Debug, PartialEq)]
struct Read {
    source: Option<String>,
    /// In milliseconds, to which the node cuts it.
    timestamp: Option<i64>,
    groups: [BTreeMap<String, Scalar>; 3],
    tags: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Scalar {
    Number(String),
    Other(Value),
}

/// The digits that a number has, without point, exponent and the zeros that say nothing.
fn by_value(number: &str) -> String {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().expect("an exponent");
    let digits = format!("{whole}{fraction}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |d| ("-", d));
    let digits = digits.trim_start_matches('0');
    let kept = digits.trim_end_matches('0');
    if kept.is_empty() {
        return "0".to_owned();
    }
    let exponent = exponent - fraction.len() as i64 + (digits.len() - kept.len()) as i64;
    format!("{sign}{kept}e{exponent}")
}

fn milliseconds(instant: &Value) -> Option<i64> {
    time::read(instant).map(|at| at.timestamp_millis())
}

fn expected(reads: &Value) -> Option<Read> {
    if reads["rejected"] == true {
        return None;
    }
    let group = |name: &str| {
        let members = reads[name].as_object().cloned().unwrap_or_default();
        let scalar = |value: Value| match value.get("number") {
            Some(number) => Scalar::Number(by_value(&text(number))),
            None => Scalar::Other(value),
        };
        members.into_iter().map(|(name, value)| (name, scalar(value))).collect()
    };
    Some(Read {
        source: reads["sourceId"].as_str().map(str::to_owned),
        timestamp: milliseconds(&reads["timestamp"]),
        groups: ["i", "a", "s"].map(group),
        tags: reads["t"].as_array().into_iter().flatten().map(text).collect(),
    })
}

/// The server's rules for an object of which this agent read the JSON or the CBOR.
fn as_the_server(object: &Value) -> Option<Read> {
    let timestamp = match found(object, "created").last() {
        None => None,
        Some(created) => Some(milliseconds(created)?),
    };
    let mut groups = ["i", "a", "s"].into_iter().flat_map(|name| found(object, name));
    if !groups.all(|group| group.is_object() || group.is_null()) {
        return None;
    }
    let group = |name: &str| -> BTreeMap<String, Scalar> {
        let groups = found(object, name);
        let members = groups.iter().filter_map(|group| group.as_object()).flatten();
        let kept =
            members.filter(|(_, value)| value.is_number() || name == "s" && !value.is_null());
        kept.map(|(name, value)| match value {
            Value::Number(number) => (name.clone(), Scalar::Number(by_value(&number.to_string()))),
            other => (name.clone(), Scalar::Other(other.clone())),
        })
        .collect()
    };
    let mut tags = Vec::new();
    for tag in found(object, "t").into_iter().filter_map(Value::as_array).flatten().map(text) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let source = found(object, "sourceId").last().and_then(|id| id.as_str()).map(str::to_owned);
    Some(Read { source, timestamp, groups: ["i", "a", "s"].map(group), tags })
}

/// A member wherever it stands: the server walks into whatever it does not know.
fn found<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut values = Vec::new();
    for item in value.as_array().into_iter().flatten() {
        values.extend(found(item, name));
    }
    for (member, value) in value.as_object().into_iter().flatten() {
        match member.as_str() {
            known if known == name => values.push(value),
            "i" | "a" | "s" | "t" => {}
            _ => values.extend(found(value, name)),
        }
    }
    values
}

/// The same with every status value as text, which is what the server stores and this agent keeps.
fn with_status_text(read: Read) -> Read {
    let [i, a, s] = read.groups;
    let plain = |value| match value {
        Scalar::Other(Value::String(text)) => Scalar::Other(text.into()),
        Scalar::Other(other) => Scalar::Other(other.to_string().into()),
        Scalar::Number(number) => Scalar::Number(number),
    };
    let number_or_text = |value: Scalar| match &value {
        Scalar::Other(Value::String(text)) if text.parse::<Decimal>().is_ok() => {
            Scalar::Number(by_value(text))
        }
        _ => value,
    };
    let s = s.into_iter().map(|(name, value)| (name, number_or_text(plain(value)))).collect();
    Read { groups: [i, a, s], ..read }
}

fn as_json(push: impl FnOnce(&mut String)) -> String {
    let mut out = String::new();
    push(&mut out);
    out
}

#[test]
fn every_datum_is_written_as_the_node_writes_it_and_read_as_it_was() {
    let mut same = 0;
    for case in vectors("datum") {
        let id = text(&case["id"]);
        let reads = expected(&case["server_reads"]);
        // What others write is read, whichever form it has.
        for form in ["cbor_mqtt_java_hex", "cbor_mqtt_compact_hex"] {
            let theirs = cbor::decode(&bytes(&case[form])).expect("CBOR");
            assert_eq!(as_the_server(&without_v2(theirs)), reads, "{id} {form}");
        }
        let Some(Ours { datum, unix_ms, is_same }) = ours(&case["fields"]) else { continue };
        let written = cbor::datum(&datum, unix_ms);
        let json = as_json(|out| encode::push_datum(out, &datum, unix_ms));
        if is_same {
            assert_eq!(hex::encode(&written), text(&case["cbor_mqtt_java_hex"]), "{id}");
            same += 1;
        }
        let mut want = with_status_text(reads.expect("a datum"));
        // A float is wider there.
        let singles = ["i", "a", "s"].map(|group| case["fields"][group].as_array());
        for (group, properties) in want.groups.iter_mut().zip(singles) {
            for p in properties.into_iter().flatten().filter(|p| p["type"] == "float") {
                if let Some((single, _)) = number("float", &p["value"]) {
                    group.insert(text(&p["name"]), Scalar::Number(by_value(&single.to_string())));
                }
            }
        }
        let from_json = serde_json::from_str(&json).expect("JSON");
        let from_cbor = without_v2(cbor::decode(&written).expect("CBOR"));
        for read in [from_json, from_cbor] {
            let read = as_the_server(&read).map(with_status_text);
            assert_eq!(read.as_ref(), Some(&want), "{id}: {json}");
        }
    }
    assert!(same > 0, "no case has the same bytes");
}

/// A datum from MQTT without the tag that ends its tags there.
fn without_v2(mut datum: Value) -> Value {
    let tags = datum["t"].as_array_mut().expect("tags");
    assert_eq!(tags.pop(), Some(json!("_v2")));
    datum
}

#[test]
fn the_json_of_a_datum_has_the_members_and_the_order_of_the_nodes() {
    for case in vectors("datum") {
        let id = text(&case["id"]);
        let Some(Ours { datum, unix_ms, is_same }) = ours(&case["fields"]) else { continue };
        let json = as_json(|out| encode::push_datum(out, &datum, unix_ms));
        let theirs = text(&case["json_http"]);
        let members = |text: &str| -> Vec<String> {
            let object: Map<String, Value> = serde_json::from_str(text).expect("an object");
            object.keys().filter(|name| *name != "nodeId").cloned().collect()
        };
        assert_eq!(members(&json), members(&theirs), "{id}");
        assert!(!json.contains("_v2"), "{id}");
        // The same text, but for exponents and for how a control character is escaped.
        if is_same && !theirs.contains(['E', '\\']) {
            assert_eq!(json, theirs, "{id}");
        }
    }
}

#[test]
fn every_stream_datum_is_written_as_the_node_writes_it() {
    for case in vectors("stream_datum") {
        let id = text(&case["id"]);
        let theirs: Value = serde_json::from_str(&text(&case["json_http"])).expect("JSON");
        for form in ["cbor_mqtt_java_hex", "cbor_mqtt_compact_hex"] {
            let read = cbor::decode(&bytes(&case[form])).expect("CBOR");
            assert_eq!(values_of(&read), values_of(&theirs), "{id} {form}");
        }

        let fields = &case["fields"];
        let given = |group: &str| fields[group].as_array().cloned().unwrap_or_default();
        let name = |at: usize| format!("p{at}");
        let names = |group: &str| -> Vec<String> { (0..given(group).len()).map(name).collect() };
        let metadata = StreamMetadata::read(&json!({
            "streamId": fields["streamId"], "sourceId": "/m",
            "i": names("i"), "a": names("a"), "s": names("s"),
        }))
        .expect("metadata");
        let values = |group: &str| -> Vec<(String, String)> {
            let values = given(group).into_iter().enumerate().filter(|(_, value)| !value.is_null());
            values.map(|(at, value)| (name(at), text(&value))).collect()
        };
        let numbers = |group: &str| -> Option<Vec<(String, Decimal)>> {
            let read = |(name, given): (String, String)| Some((name, held(&given)?));
            values(group).into_iter().map(read).collect()
        };
        let (Some(instantaneous), Some(accumulating)) = (numbers("i"), numbers("a")) else {
            continue;
        };
        // Here a whole number has no positive exponent.
        let is_same = !case["fields"].to_string().contains("E+");
        let datum = Datum {
            source: "/m".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 0 },
            samples: Samples {
                instantaneous,
                accumulating,
                status: values("s"),
                tags: given("t").iter().map(text).collect(),
            },
        };
        let unix_ms = fields["createdMs"].as_i64().expect("milliseconds");
        let row: Row<'_> = metadata.row(&datum, unix_ms).expect("a known stream");
        let written = cbor::stream(&row);
        let shortened = without_last_nulls(&theirs);
        if is_same && shortened == theirs {
            assert_eq!(hex::encode(&written), text(&case["cbor_mqtt_java_hex"]), "{id}");
        }
        let json = serde_json::from_str(&as_json(|out| encode::push_stream(out, &row)));
        for ours in [json.expect("JSON"), cbor::decode(&written).expect("CBOR")] {
            assert_eq!(values_of(&ours), values_of(&shortened), "{id}");
        }
    }
}

/// A row of which no group ends with a value that is missing.
fn without_last_nulls(row: &Value) -> Value {
    let mut row = row.clone();
    for group in row.as_array_mut().expect("a row") {
        if let Value::Array(values) = group {
            let length = values.iter().rposition(|value| !value.is_null()).map_or(0, |at| at + 1);
            values.truncate(length);
            if values.is_empty() {
                *group = Value::Null;
            }
        }
    }
    row
}

/// Any JSON with its numbers by value.
fn values_of(value: &Value) -> Value {
    match value {
        Value::Number(number) => by_value(&number.to_string()).into(),
        Value::Array(items) => items.iter().map(values_of).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), values_of(value))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn every_acknowledgement_is_written_as_the_node_writes_it() {
    for case in vectors("instruction_status") {
        let id = text(&case["id"]);
        let theirs: Value = serde_json::from_str(&text(&case["json_http_item"])).expect("JSON");
        for form in ["cbor_mqtt_hex", "cbor_mqtt_compact_hex"] {
            let read = cbor::decode(&bytes(&case[form])).expect("CBOR");
            assert_eq!(values_of(&read), values_of(&theirs), "{id} {form}");
        }
        // This agent always knows since when.
        let Some(at) = time::read(&theirs["statusDate"]) else { continue };
        let acknowledgement = Acknowledgement {
            id: InstructionId(theirs["instructionId"].as_i64().expect("an ID")),
            state: InstructionState::from_name(&text(&theirs["state"])).expect("a state"),
            at,
            result: theirs.get("resultParameters").and_then(Value::as_object).cloned(),
        };
        let json = as_json(|out| encode::push_acknowledgement(out, &acknowledgement));
        let ours: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(ours.to_string(), theirs.to_string(), "{id}");
        let written = cbor::acknowledgement(&acknowledgement);
        // The JSON of a decimal has lost the zeros at its end, which its CBOR keeps.
        let results = acknowledgement.result.iter().flat_map(Map::values);
        if results.filter_map(Value::as_number).all(Number::is_i64) {
            assert_eq!(hex::encode(&written), text(&case["cbor_mqtt_hex"]), "{id}");
        }
        let read = cbor::decode(&written).expect("CBOR");
        assert_eq!(values_of(&read), values_of(&theirs), "{id}");
    }
}

#[test]
fn everything_that_the_server_accepts_is_read_with_the_same_values() {
    let from_cbor = vectors("accept_cbor").into_iter().map(|case| {
        let read = cbor::decode(&bytes(&case["cbor_hex"])).ok();
        (case, read)
    });
    let from_json = vectors("accept_json").into_iter().map(|case| {
        let read = serde_json::from_str(&text(&case["json"])).ok();
        (case, read)
    });
    for (case, read) in from_cbor.chain(from_json) {
        let (reads, id) = (&case["server_reads"], &case["id"]);
        match &read {
            None => assert_eq!(expected(reads), None, "{id}"),
            Some(Value::Array(row)) => {
                assert_eq!(stream_read(row), stream_expected(reads), "{id}");
            }
            Some(object) => {
                let (read, want) = (as_the_server(object), expected(reads));
                // Without it the server reverses exponents, which JSON does not have.
                let is_reversed = case.get("cbor_hex").is_some() && !has_v2(object);
                let shown = |read: Option<Read>| if is_reversed { read.map(names) } else { read };
                assert_eq!(shown(read), shown(want), "{id}");
            }
        }
    }
}

fn has_v2(object: &Value) -> bool {
    found(object, "t").into_iter().filter_map(Value::as_array).flatten().any(|tag| tag == "_v2")
}

/// The same without the values of its numbers.
fn names(mut read: Read) -> Read {
    for value in read.groups.iter_mut().flat_map(BTreeMap::values_mut) {
        if let Scalar::Number(number) = value {
            number.clear();
        }
    }
    read
}

type StreamRead = Option<(Vec<u8>, Option<i64>, [Value; 3])>;

/// The server's rules for a row of a stream.
fn stream_read(row: &[Value]) -> StreamRead {
    let whole = |at: usize| row.get(at)?.as_i64();
    let (unix_ms, halves) = (whole(0)?, [whole(1)?, whole(2)?]);
    if unix_ms < 1 || halves.contains(&0) {
        return None;
    }
    let group = |at: usize| row.get(at).filter(|group| !group.is_null());
    // Numbers may be text, and what is a status becomes it.
    let is_number = |value: &Value| value.as_str().is_none_or(|text| text.parse::<f64>().is_ok());
    let mut values = [3, 4].into_iter().filter_map(|at| row.get(at)?.as_array()).flatten();
    if !values.all(is_number) {
        return None;
    }
    let numbers = |at: usize| group(at).map(numbers_of).unwrap_or_default();
    let status: Option<Vec<Value>> = group(5).and_then(Value::as_array).map(|values| {
        values.iter().map(|v| if v.is_null() { Value::Null } else { text(v).into() }).collect()
    });
    let id = halves.iter().flat_map(|half| half.to_be_bytes()).collect();
    let status = status.map(Value::from).unwrap_or_default();
    Some((id, Some(unix_ms), [numbers(3), numbers(4), status]))
}

fn stream_expected(reads: &Value) -> StreamRead {
    let id = hex::decode(reads["streamId"].as_str()?.replace('-', "")).ok()?;
    let numbers = |name: &str| reads.get(name).map(numbers_of).unwrap_or_default();
    let groups = [numbers("i"), numbers("a"), reads["s"].clone()];
    Some((id, milliseconds(&reads["timestamp"]), groups))
}

/// Numbers, also such as are text, by value.
fn numbers_of(group: &Value) -> Value {
    let number = |value: &Value| match value {
        Value::Null | Value::Bool(_) => Value::Null,
        number => by_value(&text(number)).into(),
    };
    group.as_array().into_iter().flatten().map(number).collect()
}

#[test]
fn every_pushed_instruction_is_read_as_its_json() {
    for case in vectors("instructions") {
        let json: Value = serde_json::from_str(&text(&case["json"])).expect("JSON");
        assert_eq!(cbor::decode(&bytes(&case["cbor_mqtt_hex"])), Ok(json), "{}", case["id"]);
    }
}
