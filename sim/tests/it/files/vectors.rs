//! Every request of `file-repository.json` is answered as the real server answered it, in each of the profiles
//! that the case was recorded in. What a case needs is in the file; nothing here knows a case by its name.

use std::collections::BTreeMap;

use chrono::{NaiveDateTime, TimeDelta, Utc};
use regex_lite::Regex;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};
use solarnet_sim::{FileRepository, FileToken, Profile};

use crate::client::{Answer, request};

/// What requests are sent with unless a case says otherwise.
const USER_AGENT: &str = "vector-client/1";
const RAW: &str = "application/octet-stream";

#[test]
fn every_case_of_the_reference_is_answered_as_by_the_real_server() {
    let file: Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/file-repository.json"))
            .unwrap();
    let mut wrong = Vec::new();
    let mut ran = 0;
    for profile in [Profile::V2A, Profile::V2B, Profile::V3] {
        let server = FileRepository::start(profile).unwrap();
        let admin = server.add_token(FileToken::with_roles(&["security.administrator"]));
        for case in file["cases"].as_array().unwrap() {
            let profiles = case["profiles"].as_array().unwrap();
            if profiles.iter().any(|name| name == profile.name()) {
                ran += 1;
                let mut run = Run::new(&server, profile, &admin);
                if let Err(problem) = run.case(case) {
                    wrong.push(format!("{} in {}: {problem}", case["id"], profile.name()));
                }
            }
        }
    }
    assert!(ran > 0);
    assert!(wrong.is_empty(), "{} of {ran} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One case on its way.
struct Run<'a> {
    server: &'a FileRepository,
    profile: Profile,
    /// What stands for each placeholder.
    names: BTreeMap<String, String>,
}

impl<'a> Run<'a> {
    fn new(server: &'a FileRepository, profile: Profile, admin: &str) -> Self {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).unwrap();
        let unique = hex::encode(&bytes[..8]);
        let hex = hex::encode(bytes);
        let uuid = format!(
            "{}-{}-4{}-8{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..]
        );
        let names = BTreeMap::from([
            ("ADMIN".to_owned(), admin.to_owned()),
            ("uuid".to_owned(), uuid),
            ("unique9".to_owned(), unique[..9].to_owned()),
            ("unique".to_owned(), unique),
        ]);
        Self { server, profile, names }
    }

    fn case(&mut self, case: &Value) -> Result<(), String> {
        for step in case["setup"].as_array().into_iter().flatten() {
            self.step(step).map_err(|problem| format!("setup {step}: {problem}"))?;
        }
        let answer = self.send(&case["request"]);
        self.judge(&case["expect"], &answer).map_err(|problem| {
            format!(
                "{problem}; answered {} {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            )
        })
    }

    /// One step of preparation, which has to succeed.
    fn step(&mut self, step: &Value) -> Result<(), String> {
        let text = |name: &str| step[name].as_str().unwrap_or_default();
        let credential = |name: &str| json!({ "_token": format!("{{{}}}", text(name)) });
        let body = |path: &str, query: Value| {
            let mut out = json!({ "method": "POST", "path": path, "query": query });
            for member in ["text", "base64", "base64_of_text", "append_unique", "pad_to"] {
                if let Some(value) = step.get(member) {
                    out[member] = value.clone();
                }
            }
            out["headers"] = json!({ "Content-Type": RAW });
            out
        };
        let (request, found): (Value, &[(&str, &str)]) = match text("op") {
            "token" => {
                let mut sent = Map::new();
                for name in ["roles", "data", "expires", "id"] {
                    if let Some(value) = step.get(name) {
                        sent.insert(name.to_owned(), value.clone());
                    }
                }
                let request = json!({
                    "method": "POST",
                    "path": "/auth/token/generate",
                    "query": { "_token": "{ADMIN}" },
                    "json": sent,
                });
                let id = if self.profile == Profile::V3 { "/token/id" } else { "/tokenId" };
                (request, &[("", id)])
            }
            "revoke" => {
                let path = format!("/auth/token/{{{}}}", text("token"));
                let query = json!({ "_token": "{ADMIN}" });
                (json!({ "method": "DELETE", "path": path, "query": query }), &[])
            }
            "file" => {
                let mut query = credential("token");
                query["fileName"] = step["fileName"].clone();
                for (name, value) in step["query"].as_object().into_iter().flatten() {
                    query[name] = value.clone();
                }
                (body("/repository/file/upload", query), &[("", "/filename")])
            }
            "collection" => {
                let request = json!({
                    "method": "POST",
                    "path": "/repository/collection",
                    "query": credential("token"),
                    "json": step["json"],
                });
                (request, &[("", "/collection/id")])
            }
            "version" => {
                let path = format!("/repository/collection/{{{}}}/backup", text("collection"));
                let request = body(&path, credential("token"));
                (request, &[("", "/version/id"), (".file", "/version/file/filename")])
            }
            "grant" => {
                let request = json!({
                    "method": "POST",
                    "path": format!("/repository/collection/{{{}}}/token", text("collection")),
                    "query": credential("by"),
                    "json": { "token": format!("{{{}}}", text("token")) },
                });
                (request, &[])
            }
            "raw" => {
                let answer = self.send(&step["request"]);
                return self.status(&step["status"], &answer);
            }
            other => panic!("unknown step {other}"),
        };
        let answer = self.send(&request);
        let shown = || String::from_utf8_lossy(&answer.body).into_owned();
        if !(200..300).contains(&answer.status) {
            return Err(format!("{} {}", answer.status, shown()));
        }
        for (suffix, pointer) in found {
            let json = answer.json();
            let value = json.pointer(pointer).and_then(Value::as_str).ok_or_else(shown)?;
            self.names.insert(format!("{}{suffix}", text("name")), value.to_owned());
        }
        Ok(())
    }

    fn fill(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (name, value) in &self.names {
            out = out.replace(&format!("{{{name}}}"), value);
        }
        out
    }

    fn fill_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill(text).into(),
            Value::Array(list) => list.iter().map(|entry| self.fill_json(entry)).collect(),
            Value::Object(map) => {
                map.iter().map(|(name, entry)| (name.clone(), self.fill_json(entry))).collect()
            }
            other => other.clone(),
        }
    }

    fn send(&self, wanted: &Value) -> Answer {
        let mut target = self.fill(wanted["path"].as_str().unwrap());
        let query = self.query(&wanted["query"]);
        if !query.is_empty() {
            target = format!("{target}?{query}");
        }
        let mut headers = vec![("host".to_owned(), self.server.address().to_string())];
        match wanted.get("user_agent") {
            Some(Value::Null) => {}
            Some(agent) => {
                headers.push(("user-agent".to_owned(), agent.as_str().unwrap().to_owned()))
            }
            None => headers.push(("user-agent".to_owned(), USER_AGENT.to_owned())),
        }
        for (name, value) in wanted["headers"].as_object().into_iter().flatten() {
            headers.push((name.clone(), self.fill(value.as_str().unwrap())));
        }
        let (kind, body) = self.body(wanted);
        let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        headers.extend(kind.filter(|_| !typed).map(|kind| ("content-type".to_owned(), kind)));
        let headers: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let method = wanted["method"].as_str().unwrap();
        request(self.server.address(), method, &target, &headers, &body).unwrap()
    }

    fn query(&self, query: &Value) -> String {
        let mut pairs = Vec::new();
        for (name, value) in query.as_object().into_iter().flatten() {
            let values = match value {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            };
            for value in values {
                let text = match &value {
                    Value::String(text) => self.fill(text),
                    other => other.to_string(),
                };
                pairs.push(format!("{}={}", encode(name), encode(&text)));
            }
        }
        pairs.join("&")
    }

    fn body(&self, wanted: &Value) -> (Option<String>, Vec<u8>) {
        if let Some(json) = wanted.get("json") {
            return (Some("application/json".to_owned()), self.fill_json(json).to_string().into());
        }
        if let Some(part) = wanted.get("multipart") {
            let text = |name: &str| part[name].as_str().map(|text| self.fill(text));
            let mut head = format!("name=\"{}\"", text("field").unwrap());
            if let Some(name) = text("filename") {
                head.push_str(&format!("; filename=\"{name}\""));
            }
            let kind = text("content_type").map(|kind| format!("Content-Type: {kind}\r\n"));
            let body = format!(
                "--vectors\r\nContent-Disposition: form-data; {head}\r\n{}\r\n{}\r\n--vectors--\r\n",
                kind.unwrap_or_default(),
                text("text").unwrap_or_default(),
            );
            return (Some("multipart/form-data; boundary=vectors".to_owned()), body.into());
        }
        let mut bytes = match (wanted.get("base64"), wanted.get("base64_of_text")) {
            (Some(text), _) => from_base64(text.as_str().unwrap()),
            (_, Some(text)) => to_base64(self.fill(text.as_str().unwrap()).as_bytes()).into_bytes(),
            _ => match wanted.get("text") {
                Some(text) => self.fill(text.as_str().unwrap()).into_bytes(),
                None => return (None, Vec::new()),
            },
        };
        if wanted["append_unique"] == true {
            bytes.extend_from_slice(self.names["unique"].as_bytes());
        }
        if let Some(size) = wanted["pad_to"].as_u64() {
            bytes.resize(size as usize, b'=');
        }
        (None, bytes)
    }

    fn status(&self, wanted: &Value, answer: &Answer) -> Result<(), String> {
        let wanted = wanted.get(self.profile.name()).unwrap_or(wanted);
        match wanted == &json!(answer.status) {
            true => Ok(()),
            false => Err(format!("status {}, not {wanted}", answer.status)),
        }
    }

    fn judge(&self, expect: &Value, answer: &Answer) -> Result<(), String> {
        self.status(&expect["status"], answer)?;
        if let Some(kind) = expect["content_type"].as_str() {
            let found = answer.header("content-type").unwrap_or_default();
            if !found.starts_with(kind) {
                return Err(format!("content type {found}, not {kind}"));
            }
        }
        for (name, wanted) in expect["headers"].as_object().into_iter().flatten() {
            let found = json!(answer.header(&name.to_ascii_lowercase()));
            self.matches(name, &self.fill_json(wanted), &found)?;
        }
        if let Some(text) = expect["text"].as_str() {
            let found = String::from_utf8_lossy(&answer.body).into_owned();
            if found != self.fill(text) {
                return Err(format!("text {found}"));
            }
        }
        let found: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match (expect.get("json"), found) {
            (None, _) | (Some(Value::Null), None) => Ok(()),
            (Some(Value::Null), Some(_)) => Err("JSON where none is expected".to_owned()),
            (Some(_), None) => Err("no JSON".to_owned()),
            (Some(wanted), Some(found)) => self.matches("", &self.fill_json(wanted), &found),
        }
    }

    /// Objects match as a subset unless they say that they are exact.
    fn matches(&self, at: &str, wanted: &Value, found: &Value) -> Result<(), String> {
        let differs = || Err(format!("at {at}: {found}, not {wanted}"));
        match wanted {
            Value::String(text) if text.starts_with('$') => match self.fits(text, found) {
                true => Ok(()),
                false => differs(),
            },
            Value::Object(wanted_map) => {
                if let Some(keys) = wanted_map.get("$keys") {
                    let found_keys = found.as_object().map(|map| map.keys().cloned().collect());
                    let found_keys: Vec<String> = found_keys.unwrap_or_default();
                    return if same_set(&json!(found_keys), keys) { Ok(()) } else { differs() };
                }
                if let Some(included) = wanted_map.get("$includes") {
                    let list = found.as_array().cloned().unwrap_or_default();
                    let all = included.as_array().unwrap().iter().all(|entry| list.contains(entry));
                    return if all { Ok(()) } else { differs() };
                }
                let exact = wanted_map.get("$exact") == Some(&Value::Bool(true));
                let Some(found_map) = found.as_object() else { return differs() };
                if exact && found_map.len() != wanted_map.len() - 1 {
                    return differs();
                }
                for (name, entry) in wanted_map.iter().filter(|(name, _)| *name != "$exact") {
                    let Some(found) = found_map.get(name) else { return differs() };
                    self.matches(&format!("{at}/{name}"), entry, found)?;
                }
                Ok(())
            }
            Value::Array(list) => {
                let Some(found_list) = found.as_array() else { return differs() };
                if list.len() != found_list.len() {
                    return differs();
                }
                for (index, (wanted, found)) in list.iter().zip(found_list).enumerate() {
                    self.matches(&format!("{at}/{index}"), wanted, found)?;
                }
                Ok(())
            }
            scalar if scalar == found => Ok(()),
            _ => differs(),
        }
    }

    fn fits(&self, matcher: &str, found: &Value) -> bool {
        let text = found.as_str();
        let is = |regex: &str| text.is_some_and(|text| Regex::new(regex).unwrap().is_match(text));
        match matcher {
            "$any" => true,
            "$string" => text.is_some(),
            "$int" => found.is_i64() || found.is_u64(),
            "$uuid" => is("^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
            "$datetime" => is(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"),
            _ => {
                if let Some(part) = matcher.strip_prefix("$contains:") {
                    return text.is_some_and(|text| text.contains(part));
                }
                if let Some(regex) = matcher.strip_prefix("$re:") {
                    return is(regex);
                }
                let span = matcher.strip_prefix("$now+").unwrap_or_else(|| panic!("{matcher}"));
                let (number, unit) = span.split_at(span.len() - 1);
                let number: i64 = number.parse().unwrap();
                let (span, tolerance) = match unit {
                    "s" => (TimeDelta::seconds(number), TimeDelta::seconds(90)),
                    "y" => (TimeDelta::seconds(number * 31_556_952), TimeDelta::days(1)),
                    _ => panic!("{matcher}"),
                };
                let read = |text| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok();
                let wanted = Utc::now().naive_utc() + span;
                text.and_then(read).is_some_and(|found| (found - wanted).abs() <= tolerance)
            }
        }
    }
}

fn same_set(a: &Value, b: &Value) -> bool {
    let sorted = |list: &Value| {
        let mut list: Vec<String> =
            list.as_array().into_iter().flatten().map(Value::to_string).collect();
        list.sort();
        list
    };
    sorted(a) == sorted(b)
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at) & 63) as usize;
            out.push(if at <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    out
}

fn from_base64(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|byte| ALPHABET.iter().position(|digit| *digit == byte))
        .map(|digit| digit as u32)
        .collect();
    let mut out = Vec::new();
    for chunk in digits.chunks(4) {
        let bits = (0..4).fold(0, |bits, at| bits << 6 | chunk.get(at).unwrap_or(&0));
        out.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    out
}

#[test]
fn the_runner_notices_an_answer_that_is_not_the_expected_one() {
    let server = FileRepository::start(Profile::V2A).unwrap();
    let admin = server.add_token(FileToken::with_roles(&["security.administrator"]));
    let mut run = Run::new(&server, Profile::V2A, &admin);
    let mut case = json!({
        "request": { "method": "GET", "path": "/auth/token/{ADMIN}", "query": { "_token": "{ADMIN}" } },
        "expect": { "status": 200, "json": { "tokenId": "{ADMIN}", "max_file_size": 0 } },
    });
    assert_eq!(run.case(&case), Ok(()));
    for (pointer, wrong) in [
        ("/expect/status", json!(202)),
        ("/expect/json/tokenId", json!("{uuid}")),
        ("/expect/json/max_file_size", json!("$string")),
    ] {
        let right = case.pointer(pointer).unwrap().clone();
        *case.pointer_mut(pointer).unwrap() = wrong;
        assert!(run.case(&case).is_err(), "{pointer}");
        *case.pointer_mut(pointer).unwrap() = right;
    }
    case["expect"]["json"]["$exact"] = true.into();
    assert!(run.case(&case).is_err());
}
