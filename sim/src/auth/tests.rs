//! The reference's signing vectors, against this crate's own verification.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::*;
use crate::request::Incoming;

fn vectors() -> Vec<Value> {
    let file: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/snws2.json")).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn request(vector: &Value) -> Incoming {
    let input = &vector["input"];
    let mut headers: Vec<(String, String)> = input["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]).to_owned()))
        .collect();
    let authorization = text(&vector["expected"]["authorization"]);
    headers.push(("authorization".to_owned(), authorization.to_owned()));
    let body = match (&input["bodyText"], &input["bodyBase64"]) {
        (Value::String(body), _) => body.as_bytes().to_vec(),
        (_, Value::String(body)) => decode_base64(body),
        _ => Vec::new(),
    };
    Incoming {
        method: text(&input["method"]).to_owned(),
        target: text(&input["target"]).to_owned(),
        headers,
        body: body.into(),
        too_large: false,
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = text
        .trim_end_matches('=')
        .bytes()
        .map(|byte| format!("{:06b}", alphabet.iter().position(|known| *known == byte).unwrap()))
        .collect();
    bits.as_bytes()
        .chunks_exact(8)
        .map(|bits| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap())
        .collect()
}

/// The server knows the secret also where the client of a vector holds only a key made from it.
fn secret_of(token: &str) -> String {
    let known = vectors().into_iter().find(|vector| {
        vector["input"]["tokenId"] == token && vector["input"]["tokenSecret"].is_string()
    });
    text(&known.unwrap()["input"]["tokenSecret"]).to_owned()
}

fn date(vector: &Value) -> DateTime<Utc> {
    text(&vector["input"]["requestDate"]).parse().unwrap()
}

fn answer(vector: &Value, request: &Incoming, now: DateTime<Utc>) -> Result<String, Rejection> {
    let input = &vector["input"];
    let secret = secret_of(text(&input["tokenId"]));
    let lookup = |id: &str| {
        (id == text(&input["tokenId"])).then(|| Signatory {
            secret: &secret,
            active: true,
            policy: None,
        })
    };
    verify(request, now, lookup).map(|token| token.unwrap())
}

#[test]
fn every_vector_is_answered_as_the_server_does() {
    let vectors = vectors();
    assert!(!vectors.is_empty());
    for vector in &vectors {
        let id = text(&vector["id"]);
        let answer = answer(vector, &request(vector), date(vector));
        match vector["serverAccepts"].as_bool().unwrap() {
            true => assert_eq!(answer.as_deref(), Ok(text(&vector["input"]["tokenId"])), "{id}"),
            false => {
                assert_eq!(answer.unwrap_err(), Rejection::forbidden("Bad credentials"), "{id}")
            }
        }
    }
}

#[test]
fn what_the_library_gets_wrong_is_refused() {
    let mut seen = 0;
    for vector in vectors() {
        let Some(wrong) = vector["libraryOutput"]["authorization"].as_str() else { continue };
        let mut request = request(&vector);
        request.headers.last_mut().unwrap().1 = wrong.to_owned();
        assert_eq!(
            answer(&vector, &request, date(&vector)).unwrap_err().message,
            "Bad credentials",
            "{}",
            vector["id"]
        );
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn the_canonical_request_is_the_vectors() {
    for vector in vectors() {
        let request = request(&vector);
        let components = request.header("authorization").unwrap().strip_prefix("SNWS2 ").unwrap();
        let canonical = Claim::parse(components).unwrap().canonical_request(&request);
        assert_eq!(canonical, text(&vector["expected"]["canonicalRequest"]), "{}", vector["id"]);
    }
}

#[test]
fn the_parameters_are_those_the_application_sees() {
    for vector in vectors() {
        let Some(expected) = vector["serverSeesParameters"].as_object() else { continue };
        let pairs = request(&vector).parameters();
        for (name, values) in expected {
            let seen: Vec<&str> =
                pairs.iter().filter(|pair| pair.0 == *name).map(|pair| pair.1.as_str()).collect();
            let values: Vec<&str> = values.as_array().unwrap().iter().map(text).collect();
            assert_eq!(seen, values, "{}", vector["id"]);
        }
        assert!(pairs.iter().all(|pair| expected.contains_key(&pair.0)), "{}", vector["id"]);
    }
}

#[test]
fn fifteen_minutes_of_skew_is_too_much_and_a_millisecond_less_is_not() {
    let vector = &vectors()[0];
    let request = request(vector);
    for (off_ms, fits) in [(899_999, true), (-899_999, true), (900_000, false), (-900_000, false)] {
        let now = date(vector) + chrono::TimeDelta::milliseconds(off_ms);
        match answer(vector, &request, now) {
            Ok(_) => assert!(fits, "{off_ms}"),
            Err(rejection) => {
                assert!(!fits, "{off_ms}");
                assert_eq!(rejection, Rejection::forbidden("Date skew too large"));
            }
        }
    }
}

/// Changes one thing of a good request and says what the answer must be.
#[test]
fn each_mistake_in_the_header_has_its_own_message() {
    let vectors = vectors();
    let vector = vectors.iter().find(|vector| vector["id"] == "post-json-unicode").unwrap();
    type Change = fn(&mut Incoming);
    fn set(request: &mut Incoming, name: &str, value: Option<&str>) {
        request.headers.retain(|header| header.0 != name);
        if let Some(value) = value {
            request.headers.push((name.to_owned(), value.to_owned()));
        }
    }
    fn edit(request: &mut Incoming, from: &str, to: &str) {
        let header = request.headers.iter_mut().find(|header| header.0 == "authorization").unwrap();
        assert!(header.1.contains(from), "{} holds no {from}", header.1);
        header.1 = header.1.replace(from, to);
    }
    let cases: [(Change, &str); 14] = [
        (|r| set(r, "x-sn-date", None), "Missing or invalid HTTP Date header value"),
        (|r| set(r, "x-sn-date", Some("2025-06-15")), "Invalid HTTP X-SN-Date header value"),
        (|r| edit(r, "Credential=", "credential="), "Invalid Credential value"),
        (|r| edit(r, ",Signature", ", Signature"), "Invalid Signature value"),
        (|r| edit(r, ",SignedHeaders", ", SignedHeaders"), "Invalid SignedHeaders value"),
        (|r| edit(r, "host;", ""), "The 'Host' HTTP header must be included in SignedHeaders"),
        (|r| edit(r, "digest;", ""), "The 'digest' HTTP header must be included in SignedHeaders"),
        (
            |r| edit(r, ";x-sn-date", ""),
            "The 'Date' or 'X-SN-Date' HTTP header must be included in SignedHeaders",
        ),
        (
            |r| set(r, "x-sn-other", Some("1")),
            "The 'x-sn-other' HTTP header must be included in SignedHeaders",
        ),
        (|r| r.body = vec![1].into(), "Content sha-256 digest value mismatch"),
        (|r| set(r, "digest", Some("sha-256=!")), "Invalid Digest sha-256 encoding"),
        (|r| edit(r, "host", "Host"), "Bad credentials"),
        (|r| edit(r, "Credential=a", "Credential=b"), "Bad credentials"),
        (|r| r.target.push('/'), "Bad credentials"),
    ];
    for (change, message) in cases {
        let mut request = request(vector);
        change(&mut request);
        let rejection = answer(vector, &request, date(vector)).unwrap_err();
        assert_eq!((rejection.status, rejection.message.as_str()), (403, message));
    }
}

#[test]
fn another_scheme_is_nobodys() {
    for scheme in ["Basic abc", "Bearer abc", "snws2 Credential=a", "SNWS2  Credential=a"] {
        let request = Incoming {
            headers: vec![("authorization".to_owned(), scheme.to_owned())],
            target: "/solarquery/ping".to_owned(),
            ..Incoming::default()
        };
        let answer = verify(&request, Utc::now(), |_| None);
        assert!(!matches!(answer, Ok(Some(_))), "{scheme}");
    }
}
