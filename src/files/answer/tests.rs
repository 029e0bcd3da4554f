//! Every answer of `tests/vectors/file-repository.json` that is JSON or a page, read as if this program had asked.
//!
//! The file says what the real servers answered; what an answer means is derived from it here by other rules than
//! the module's own, so that a case added to the file is checked without touching this one.

use serde_json::{Value, json};

use super::*;
use crate::files::profile::Profile;

struct Case {
    id: String,
    profiles: Vec<Profile>,
    call: Call,
    status: u16,
    body: Vec<u8>,
    json: Value,
}

/// Every case for every profile it was executed on; those answered with a file's bytes are nobody's to read.
fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/file-repository.json");
    let file: Value =
        serde_json::from_slice(&std::fs::read(path).expect("the file")).expect("JSON");
    let mut cases = Vec::new();
    for case in file["cases"].as_array().expect("cases") {
        let expect = &case["expect"];
        let Some(json) = expect.get("json") else { continue };
        let profiles = case["profiles"].as_array().expect("profiles");
        for profile in profiles {
            let status = match &expect["status"] {
                Value::Object(by_profile) => by_profile[profile.as_str().expect("text")].clone(),
                status => status.clone(),
            };
            let same = match &expect["status"] {
                Value::Object(_) => vec![profile],
                _ => profiles.iter().collect(),
            };
            let json = sample(json);
            let body = match &json {
                Value::Null => {
                    b"<!DOCTYPE html><html><body>Oops! An Error Occurred</body></html>".to_vec()
                }
                json => json.to_string().into_bytes(),
            };
            cases.push(Case {
                id: case["id"].as_str().expect("text").to_owned(),
                profiles: same.into_iter().map(profile_of).collect(),
                call: call_of(&case["request"]),
                status: u16::try_from(status.as_u64().expect("a number")).expect("a status"),
                body,
                json,
            });
        }
    }
    cases
}

fn profile_of(name: &Value) -> Profile {
    match name.as_str() {
        Some("V2A") => Profile::V2A,
        Some("V2B") => Profile::V2B,
        Some("V3") => Profile::V3,
        other => panic!("{other:?}"),
    }
}

fn call_of(request: &Value) -> Call {
    let path = request["path"].as_str().expect("a path");
    match request["method"].as_str().expect("a method") {
        "POST" if path == "/auth/token/generate" => Call::Generate,
        "GET" if path.starts_with("/auth/token/") => Call::LookUp,
        "DELETE" if path.starts_with("/auth/token/") => Call::Revoke,
        "POST" if path.starts_with("/repository/file/") => Call::Upload,
        "GET" if path == "/repository" => Call::List,
        _ => Call::Other,
    }
}

/// A body as the case describes it, with something fitting in place of each matcher.
fn sample(expected: &Value) -> Value {
    match expected {
        Value::Object(members) => {
            if let Some(keys) = members.get("$keys").and_then(Value::as_array) {
                return keys
                    .iter()
                    .map(|key| (key.as_str().expect("text").to_owned(), json!({})))
                    .collect();
            }
            if let Some(included) = members.get("$includes") {
                return included.clone();
            }
            let real = members.iter().filter(|(name, _)| !name.starts_with('$'));
            real.map(|(name, value)| (name.clone(), sample(value))).collect()
        }
        Value::Array(values) => values.iter().map(sample).collect(),
        Value::String(text) => match text.as_str() {
            "$int" => json!(7),
            "$any" => json!([]),
            "$uuid" => json!("0C5B0E1A-0000-4000-8000-00000000000A"),
            "$datetime" => json!("2030-05-05 08:00:00"),
            text if text.starts_with("$now") => json!("2030-05-05 08:00:00"),
            text if text.starts_with("$re:") => json!("0123456789name.txt"),
            text => json!(text.strip_prefix("$contains:").unwrap_or(text)),
        },
        other => other.clone(),
    }
}

/// What a case says by itself: a success has a status of 2xx, and every code in it that says 4xx or 5xx is
/// none, and so is every error code but 0, 200 and null.
fn is_success(case: &Case) -> bool {
    let text = case.json.to_string();
    let says_no = ["\"http_code\":4", "\"http_code\":5", "\"exit_code\":4", "\"status\":false"];
    (200..300).contains(&case.status)
        && case.json.is_object()
        && !says_no.iter().any(|words| text.contains(words))
}

fn read_case(case: &Case) -> Result<Accepted, Refusal> {
    read(case.call, Answer { status: case.status, location: None, body: &case.body })
}

#[test]
fn every_answer_of_the_vectors_is_told_for_what_it_is() {
    let cases = cases();
    assert!(!cases.is_empty());
    for case in &cases {
        let read = read_case(case);
        // A case may name a part of the answer only; without the member it is for, it is no whole answer.
        let whole = match case.call {
            Call::Generate | Call::LookUp => {
                case.json.get("tokenId").is_some() || case.json["token"].get("id").is_some()
            }
            _ => true,
        };
        match &read {
            Ok(_) => assert!(is_success(case), "{}: taken for a success", case.id),
            Err(refusal) => {
                assert!(!is_success(case) || !whole, "{}: {refusal:?}", case.id);
                assert_eq!(refusal.status, case.status, "{}", case.id);
            }
        }
    }
}

#[test]
fn no_answer_of_the_vectors_is_taken_for_another_generation_s() {
    for case in cases() {
        let told = match read_case(&case) {
            Ok(accepted) => accepted.profiles,
            Err(refusal) => refusal.profiles,
        };
        for profile in &case.profiles {
            assert!(told.contains(*profile), "{}: {profile} is not {told}", case.id);
        }
    }
}

#[test]
fn every_refusal_of_the_vectors_is_one_clear_sentence() {
    for case in cases() {
        let Err(refusal) = read_case(&case) else { continue };
        let sentence = &refusal.sentence;
        assert!(sentence.len() > 20, "{}: {sentence:?}", case.id);
        assert!(
            sentence.len() < 400 && !sentence.contains(['\n', '<', '{']),
            "{}: {sentence:?}",
            case.id
        );
        let says_nothing = sentence.contains("without saying why");
        assert!(!says_nothing, "{}: {sentence:?} of {}", case.id, case.json);
        assert!(
            !sentence.contains("_no_longer_") && !sentence.contains("not_allowed"),
            "{}: {sentence}",
            case.id
        );
        let page = case.json.is_null();
        let blamed =
            matches!(refusal.cause, Cause::Mime | Cause::Size | Cause::Invalid | Cause::Tag);
        assert!(!(page && blamed), "{}: a page says nothing about a file", case.id);
    }
}

#[test]
fn every_refusal_of_an_upload_in_the_vectors_is_followed_by_the_right_thing() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case.call == Call::Upload) {
        let Err(refusal) = read_case(case) else { continue };
        seen += 1;
        let next = refusal.cause.next();
        let want = match case.status {
            400 => Next::SetAside,
            403 => Next::Stop,
            500.. => Next::Retry,
            other => panic!("{}: {other}", case.id),
        };
        assert_eq!(next, want, "{}: {refusal}", case.id);
    }
    assert!(seen > 0);
}

fn refusal(call: Call, status: u16, body: &str) -> Refusal {
    let answer = Answer { status, location: Some("https://elsewhere/"), body: body.as_bytes() };
    read(call, answer).expect_err(body)
}

#[test]
fn what_stands_in_between_is_never_taken_for_the_repository() {
    for (status, body, cause) in [
        (200, "<html>Log in to the Wi-Fi</html>", Cause::Foreign),
        (200, "{}", Cause::Foreign),
        (200, "[]", Cause::Foreign),
        (200, "null", Cause::Foreign),
        (200, r#"{"status":"OK"}"#, Cause::Foreign),
        (204, "", Cause::Foreign),
        (302, "", Cause::Foreign),
        (404, "<h1>nginx</h1>", Cause::Foreign),
        (413, "<h1>nginx</h1>", Cause::Size),
        (429, "slow down", Cause::Trouble),
        (502, "<h1>nginx</h1>", Cause::Trouble),
        (503, r#"{"status":"Server error with code 7016101","error_code":null}"#, Cause::Trouble),
        (500, r#"{"status":"read only","error_code":5000001}"#, Cause::Trouble),
        (416, r#"{"status":"OK","code":416}"#, Cause::Invalid),
        (200, r#"{"status":"OK","filename":"a","http_code":"200"}"#, Cause::Invalid),
    ] {
        assert_eq!(refusal(Call::Upload, status, body).cause, cause, "{status} {body}");
    }
    let redirect = refusal(Call::Upload, 302, "");
    assert!(redirect.sentence.contains("https://elsewhere/"), "{redirect}");
}

#[test]
fn foreign_text_cannot_break_a_line_or_fill_a_log() {
    let text = format!("a\u{1b}[31mb\nc{}", "x".repeat(10_000));
    let body = json!({ "status": text, "error_code": 1, "http_code": 400 }).to_string();
    let sentence = refusal(Call::Upload, 400, &body).sentence;
    assert!(sentence.len() < 300 && !sentence.contains(char::is_control), "{sentence:?}");
}

#[test]
fn the_four_reasons_of_one_403_are_told_apart_where_the_server_does() {
    let body =
        |text: &str| json!({ "status": text, "error_code": 403, "http_code": 403 }).to_string();
    let upload = |reason: &str| {
        body(&format!("No enough permissions on the token to perform the operation. {reason}"))
    };
    for (body, cause, words) in [
        (upload("not_allowed_to_upload_any_file"), Cause::Denied, "has expired"),
        (upload("tag_not_allowed"), Cause::Tag, "tags"),
        (upload("invalid_password"), Cause::Password, "password"),
        (body("Invalid authorization. Details: anything"), Cause::TokenUnknown, "revoked"),
    ] {
        let refusal = refusal(Call::Upload, 403, &body);
        assert_eq!(refusal.cause, cause);
        assert!(refusal.sentence.contains(words), "{refusal}");
    }
}

#[test]
fn however_many_complaints_a_server_has_few_are_told() {
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("f{n}"), json!(["no"]))).collect();
    let bodies = [
        json!({ "status": "no", "code": 400, "fields": many }),
        json!({ "status": "", "code": 400, "errors": many, "context": many }),
    ];
    for body in bodies {
        let body = body.to_string();
        let answer = Answer { status: 400, location: None, body: body.as_bytes() };
        let refusal = read(Call::Generate, answer).expect_err("refused");
        assert_eq!(refusal.cause, Cause::Invalid);
        assert!(refusal.sentence.len() < 1000, "{}", refusal.sentence.len());
    }
}
