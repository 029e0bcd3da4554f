//! Every case of `tests/vectors/datum.json` that is about encoding and decoding.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use super::{
    Acknowledgement, cbor, json as encode,
    stream::{Row, StreamMetadata},
    time,
};
use crate::domain::{Datum, InstructionId, InstructionState, Samples, Stamp};

fn vectors(group: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/vectors/datum.json"))
        .expect("the vectors are JSON");
    all[group].as_array().expect("a list of cases").clone()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn bytes(hex: &Value) -> Vec<u8> {
    hex::decode(hex.as_str().expect("hex digits")).expect("hex digits")
}

/// A number as this agent holds it: one that was a decimal there has a fraction here, if only of zeros.
fn decimal(kind: &str, value: &Value) -> Decimal {
    let text = text(value);
    let mut number = Decimal::from_str_exact(&text)
        .or_else(|_| Decimal::from_scientific(&text))
        .expect("a number");
    if kind == "decimal" && number.scale() == 0 {
        number.rescale(1);
    }
    number
}

fn datum_of(fields: &Value) -> (Datum, i64) {
    let properties = |group: &str| -> Vec<(String, String, Value)> {
        let list = fields[group].as_array().cloned().unwrap_or_default();
        list.iter().map(|p| (text(&p["name"]), text(&p["type"]), p["value"].clone())).collect()
    };
    let numbers = |group: &str| -> Vec<(String, Decimal)> {
        let named = properties(group).into_iter();
        named
            .map(|(name, kind, value)| match kind.as_str() {
                // The note of d19: the shortest text of the float, not of its wider form.
                "float" => {
                    let float: f32 = text(&value).parse().expect("a float");
                    (name, float.to_string().parse().expect("a number"))
                }
                kind => (name, decimal(kind, &value)),
            })
            .collect()
    };
    let samples = Samples {
        instantaneous: numbers("i"),
        accumulating: numbers("a"),
        status: properties("s").into_iter().map(|(name, _, value)| (name, text(&value))).collect(),
        tags: fields["t"].as_array().into_iter().flatten().map(text).collect(),
    };
    let unix_ms = fields["createdMs"].as_i64().expect("milliseconds");
    let source = text(&fields["sourceId"]).parse().expect("a source");
    (Datum { source, stamp: Stamp::Wall { unix_ms }, samples }, unix_ms)
}

/// What the server takes from an object, as `server_reads` writes it; numbers by value.
#[derive(Debug, PartialEq)]
struct Read {
    source: String,
    timestamp: Option<chrono::DateTime<chrono::Utc>>,
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
        source: text(&reads["sourceId"]),
        timestamp: time::read(&reads["timestamp"]),
        groups: ["i", "a", "s"].map(group),
        tags: reads["t"].as_array().into_iter().flatten().map(text).collect(),
    })
}

/// The server's rules for an object of which this agent read the JSON or the CBOR.
fn as_the_server(object: &Value) -> Option<Read> {
    let samples = object.get("samples").unwrap_or(object);
    let timestamp = match object.get("created") {
        None => None,
        Some(created) => Some(time::read(created)?),
    };
    let group = |name: &str| -> BTreeMap<String, Scalar> {
        let members = samples[name].as_object().cloned().unwrap_or_default();
        let kept = members.into_iter().filter(|(_, value)| name == "s" || value.is_number());
        kept.map(|(name, value)| match value {
            Value::Number(number) => (name, Scalar::Number(by_value(&number.to_string()))),
            other => (name, Scalar::Other(other)),
        })
        .collect()
    };
    Some(Read {
        source: text(&object["sourceId"]),
        timestamp,
        groups: ["i", "a", "s"].map(group),
        tags: samples["t"].as_array().into_iter().flatten().map(text).collect(),
    })
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
    for case in vectors("datum") {
        let id = text(&case["id"]);
        let (datum, unix_ms) = datum_of(&case["fields"]);
        let written = cbor::datum(&datum, unix_ms);
        let json = as_json(|out| encode::push_datum(out, &datum, unix_ms));
        let java = bytes(&case["cbor_mqtt_java_hex"]);
        let typed_status = ["d27", "d41"].contains(&id.as_str());
        // A float in its own digits; its node written out, which the node leaves out as well, normally.
        let other_content = ["d19", "d35"].contains(&id.as_str());
        if !typed_status && !other_content {
            assert_eq!(hex::encode(&written), hex::encode(&java), "{id}");
        }

        let mut want = expected(&case["server_reads"]).map(with_status_text).expect("a datum");
        if id == "d19" {
            want.groups[0].insert("voltage".into(), Scalar::Number(by_value("230.1")));
        }
        let from_json: Value = serde_json::from_str(&json).expect("JSON");
        let read = as_the_server(&from_json).map(with_status_text);
        assert_eq!(read.as_ref(), Some(&want), "{id}: {json}");
        let mut from_cbor = cbor::decode(&written).expect("CBOR");
        let tags = from_cbor["t"].as_array_mut().expect("tags");
        assert_eq!(tags.pop(), Some(json!("_v2")), "{id}");
        assert_eq!(as_the_server(&from_cbor).map(with_status_text), Some(want), "{id}");

        // And what others write is read, whichever form it has.
        for form in ["cbor_mqtt_java_hex", "cbor_mqtt_compact_hex"] {
            let mut theirs = cbor::decode(&bytes(&case[form])).expect("CBOR");
            theirs["t"].as_array_mut().expect("tags").pop();
            assert_eq!(as_the_server(&theirs), expected(&case["server_reads"]), "{id} {form}");
        }
    }
}

#[test]
fn the_json_of_a_datum_has_the_members_and_the_order_of_the_nodes() {
    for case in vectors("datum") {
        let id = text(&case["id"]);
        let (datum, unix_ms) = datum_of(&case["fields"]);
        let json = as_json(|out| encode::push_datum(out, &datum, unix_ms));
        let theirs = text(&case["json_http"]);
        let members = |text: &str| -> Vec<String> {
            let object: Map<String, Value> = serde_json::from_str(text).expect("an object");
            object.keys().filter(|name| *name != "nodeId").cloned().collect()
        };
        assert_eq!(members(&json), members(&theirs), "{id}");
        assert!(!json.contains("_v2"), "{id}");
        // The same text, but for exponents, the two cases of typed status values, and a float's digits.
        if !theirs.contains("E") && !["d19", "d27", "d35", "d41"].contains(&id.as_str()) {
            assert_eq!(json, theirs, "{id}");
        }
    }
}

#[test]
fn every_stream_datum_is_written_as_the_node_writes_it() {
    for case in vectors("stream_datum") {
        let id = text(&case["id"]);
        let fields = &case["fields"];
        let names = |group: &str| -> Vec<String> {
            let count = fields[group].as_array().map_or(0, Vec::len);
            (0..count).map(|at| format!("p{at}")).collect()
        };
        let metadata = StreamMetadata::read(&json!({
            "streamId": fields["streamId"], "sourceId": "/m",
            "i": names("i"), "a": names("a"), "s": names("s"),
        }))
        .expect("metadata");
        let values = |group: &str| -> Vec<(String, String)> {
            let values = fields[group].as_array().into_iter().flatten().map(text);
            names(group).into_iter().zip(values).collect()
        };
        let numbers = |group: &str| -> Vec<(String, Decimal)> {
            let parsed = |(name, text): (String, String)| (name, text.parse().expect("a number"));
            values(group).into_iter().map(parsed).collect()
        };
        let datum = Datum {
            source: "/m".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 0 },
            samples: Samples {
                instantaneous: numbers("i"),
                accumulating: numbers("a"),
                status: values("s"),
                tags: fields["t"].as_array().into_iter().flatten().map(text).collect(),
            },
        };
        let unix_ms = fields["createdMs"].as_i64().expect("milliseconds");
        let row: Row<'_> = metadata.row(&datum, unix_ms).expect("a known stream");
        let written = cbor::stream(&row);
        assert_eq!(hex::encode(&written), text(&case["cbor_mqtt_java_hex"]), "{id}");

        let json: Value =
            serde_json::from_str(&as_json(|out| encode::push_stream(out, &row))).expect("JSON");
        let theirs: Value = serde_json::from_str(&text(&case["json_http"])).expect("JSON");
        assert_eq!(values_of(&json), values_of(&theirs), "{id}");
        for form in ["cbor_mqtt_java_hex", "cbor_mqtt_compact_hex"] {
            let read = cbor::decode(&bytes(&case[form])).expect("CBOR");
            assert_eq!(values_of(&read), values_of(&theirs), "{id} {form}");
        }
    }
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
        let mut result = theirs.get("resultParameters").and_then(Value::as_object).cloned();
        if id == "st6" {
            // Its CBOR keeps the zero that its JSON lost.
            let result = result.as_mut().expect("results");
            result.insert("result".into(), serde_json::from_str("12.50").expect("a number"));
        }
        let acknowledgement = Acknowledgement {
            id: InstructionId(theirs["instructionId"].as_i64().expect("an ID")),
            state: InstructionState::from_name(&text(&theirs["state"])).expect("a state"),
            at: time::read(&theirs["statusDate"]).expect("a time"),
            result,
        };
        let json = as_json(|out| encode::push_acknowledgement(out, &acknowledgement));
        let ours: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(values_of(&ours), values_of(&theirs), "{id}");
        if id != "st6" {
            assert_eq!(json, text(&case["json_http_item"]), "{id}");
        }
        let written = cbor::acknowledgement(&acknowledgement);
        assert_eq!(hex::encode(&written), text(&case["cbor_mqtt_hex"]), "{id}");
        for form in ["cbor_mqtt_hex", "cbor_mqtt_compact_hex"] {
            let read = cbor::decode(&bytes(&case[form])).expect("CBOR");
            assert_eq!(values_of(&read), values_of(&theirs), "{id} {form}");
        }
    }
}

#[test]
fn everything_that_the_server_accepts_is_read_with_the_same_values() {
    let from_cbor = vectors("accept_cbor").into_iter().map(|case| {
        let read = cbor::decode(&bytes(&case["cbor_hex"])).expect("CBOR");
        (case, read)
    });
    let from_json = vectors("accept_json").into_iter().map(|case| {
        let read = serde_json::from_str(&text(&case["json"])).expect("JSON");
        (case, read)
    });
    for (case, read) in from_cbor.chain(from_json) {
        let reads = &case["server_reads"];
        match &read {
            Value::Array(row) => {
                assert_eq!(stream_read(row), stream_expected(reads), "{}", case["id"]);
            }
            object => assert_eq!(as_the_server(object), expected(reads), "{}", case["id"]),
        }
    }
}

type StreamRead = Option<(Vec<u8>, Option<chrono::DateTime<chrono::Utc>>, [Value; 3])>;

fn stream_read(row: &[Value]) -> StreamRead {
    let halves = [row[1].as_i64()?, row[2].as_i64()?];
    if halves.contains(&0) {
        return None;
    }
    let group = |at: usize| row.get(at).map(values_of).unwrap_or_default();
    let id = halves.iter().flat_map(|half| half.to_be_bytes()).collect();
    Some((id, time::read(&row[0]), [group(3), group(4), group(5)]))
}

fn stream_expected(reads: &Value) -> StreamRead {
    let id = hex::decode(reads["streamId"].as_str()?.replace('-', "")).ok()?;
    let numbers = |name: &str| -> Value {
        reads[name]
            .as_array()
            .into_iter()
            .flatten()
            .map(|n| Value::from(by_value(&text(n))))
            .collect()
    };
    Some((id, time::read(&reads["timestamp"]), [numbers("i"), numbers("a"), reads["s"].clone()]))
}

#[test]
fn every_pushed_instruction_is_read_as_its_json() {
    for case in vectors("instructions") {
        let json: Value = serde_json::from_str(&text(&case["json"])).expect("JSON");
        assert_eq!(cbor::decode(&bytes(&case["cbor_mqtt_hex"])), Ok(json), "{}", case["id"]);
    }
}
