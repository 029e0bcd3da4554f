use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn token() -> TokenId {
    "abcdefghij0123456789".parse().expect("a token ID")
}

fn key() -> SigningKey {
    SigningKey::new([7; 32])
}

fn date() -> DateTime<Utc> {
    "2025-06-15T08:09:10Z".parse().expect("a date")
}

fn headers(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut headers =
        owned(&[("Host", "data.solarnetwork.net"), ("X-SN-Date", "Sun, 15 Jun 2025 08:09:10 GMT")]);
    headers.extend(owned(more));
    headers
}

fn request<'a>(
    method: &'a str,
    target: &'a str,
    headers: &'a [(String, String)],
    body: &'a [u8],
) -> Request<'a> {
    Request { method, target, headers, sign_host: None, also_sign: &[], body }
}

fn try_sign(request: &Request<'_>) -> Result<Signed, SignError> {
    sign(request, &token(), &key(), date())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// Padded base64, as the vectors use it.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.bytes().filter(|b| *b != b'=') {
        let value = DIGITS.iter().position(|d| *d == digit).expect("base64");
        bits = (bits << 6) | u32::try_from(value).expect("six bits");
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("eight bits"));
        }
    }
    bytes
}

/// Computed by the server's own classes; where the official library differs, the server counts.
#[test]
fn every_vector_of_the_server_is_reproduced() {
    let file: Value = serde_json::from_str(include_str!("../../../tests/vectors/snws2.json"))
        .expect("the vectors are JSON");
    let vectors = file["vectors"].as_array().expect("vectors");
    assert!(!vectors.is_empty());
    for vector in vectors {
        let (id, input, expected) = (text(vector, "id"), &vector["input"], &vector["expected"]);
        let day = crate::credential::date::parse_signing_day(text(input, "signingDate"))
            .expect("a signing day");
        let key = match input["tokenSecret"].as_str() {
            Some(secret) => signing_key(&secret.parse().expect("a secret"), day),
            None => text(input, "signingKeyHex").parse().expect("a key"),
        };
        assert_eq!(key.expose_hex().as_str(), text(expected, "signingKeyHex"), "{id}");

        let strings = |name: &str| -> Vec<String> {
            let array = input[name].as_array().map_or(&[][..], Vec::as_slice);
            array.iter().map(|v| v.as_str().expect("text").to_owned()).collect()
        };
        let headers: Vec<(String, String)> =
            serde_json::from_value(input["headers"].clone()).expect("pairs");
        let body = match (input["bodyText"].as_str(), input["bodyBase64"].as_str()) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(text)) => base64(text),
            (None, None) => Vec::new(),
        };
        let date = input["requestDateWithMillis"].as_str().unwrap_or(text(input, "requestDate"));
        let request = Request {
            method: text(input, "method"),
            target: text(input, "target"),
            headers: &headers,
            sign_host: input["signHost"].as_str(),
            also_sign: &strings("extraSignedHeaders"),
            body: &body,
        };
        let token = text(input, "tokenId").parse().expect("a token ID");
        let signed = sign(&request, &token, &key, date.parse().expect("a date"))
            .unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(signed.canonical_request, text(expected, "canonicalRequest"), "{id}");
        assert_eq!(signed.signing_message, text(expected, "signingMessage"), "{id}");
        assert_eq!(signed.signed_headers, text(expected, "signedHeaders"), "{id}");
        assert_eq!(signed.signature, text(expected, "signature"), "{id}");
        assert_eq!(signed.authorization, text(expected, "authorization"), "{id}");
    }
}

/// A second set, of the calls that a node makes, from the official libraries' own tests.
#[test]
fn the_calls_of_a_node_are_signed_as_others_sign_them() {
    let file: Value = serde_json::from_str(include_str!("../../../tests/vectors/datum.json"))
        .expect("the vectors are JSON");
    for vector in file["signing_snws2"].as_array().expect("vectors") {
        let id = text(vector, "id");
        let headers: Vec<(String, String)> = vector["headers"]
            .as_object()
            .expect("headers")
            .iter()
            .map(|(n, v)| (n.clone(), v.as_str().expect("text").to_owned()))
            .collect();
        let date = headers.iter().find(|(n, _)| n.ends_with("Date")).expect("a date");
        let date = parse_http_date(&date.1).expect("a date");
        let params: Vec<(String, String)> =
            serde_json::from_value(vector["params"].clone()).expect("pairs");
        let query = encode_query(&params);
        let is_form = headers.iter().any(|(_, v)| v.contains("urlencoded"));
        let target = match query.is_empty() || is_form {
            true => text(vector, "path").to_owned(),
            false => format!("{}?{query}", text(vector, "path")),
        };
        let body = match (is_form, vector["body_text"].as_str()) {
            (true, _) => query,
            (false, body) => body.unwrap_or_default().to_owned(),
        };
        let key = signing_key(&text(vector, "secret").parse().expect("secret"), date.date_naive());
        assert_eq!(key.expose_hex().as_str(), text(vector, "signing_key_hex"), "{id}");
        let request = request(text(vector, "method"), &target, &headers, body.as_bytes());
        let token = text(vector, "token").parse().expect("a token ID");
        let signed = sign(&request, &token, &key, date).expect("signable");
        let (got, want) = (&signed.canonical_request, text(vector, "canonical_request"));
        let is_there = is_form || vector.get("body_text").is_some();
        if !is_there && !want.ends_with(&hex::encode(Sha256::digest(b""))) {
            // Its body is not in the file, only its hash, which is the last line.
            let head = |text: &str| text.rsplit_once('\n').map(|(head, _)| head.to_owned());
            assert_eq!(head(got), head(want), "{id}");
            continue;
        }
        assert_eq!(got, want, "{id}");
        assert_eq!(signed.signing_message, text(vector, "signature_data"), "{id}");
        assert_eq!(signed.authorization, text(vector, "authorization"), "{id}");
    }
}

#[test]
fn what_the_server_would_refuse_is_refused_here_with_its_reason() {
    let get = |target: &str, headers: &[(String, String)]| {
        try_sign(&request("GET", target, headers, b"")).expect_err("not signable").to_string()
    };
    let good = headers(&[]);
    assert!(get("https://x/", &good).contains("begin with `/`"));
    assert!(get("/caf\u{e9}", &good).contains("percent-encode"));
    assert!(get("/a b", &good).contains("percent-encode"));
    assert!(get("/a#fragment", &good).contains("percent-encode"));
    assert!(get("/", &good[1..]).contains("Host"));
    assert!(get("/", &good[..1]).contains("X-SN-Date"));
    assert!(get("/", &headers(&[("X-SN-Note", "caf\u{e9}")])).contains("x-sn-note"));
    assert!(get("/", &headers(&[("X-SN-Note", "a\r\nHost: b")])).contains("x-sn-note"));
    assert!(get("/", &headers(&[("x-sn-a b", "c")])).contains("x-sn-a b"));
    let late = owned(&[("Host", "h"), ("X-SN-Date", "Sun, 15 Jun 2025 08:09:11 GMT")]);
    assert!(get("/", &late).contains("08:09:10"));
    assert!(matches!(
        try_sign(&request("GET", "/?a=%zz", &good, b"")),
        Err(SignError::Parameters(_))
    ));
    let form = [("Content-Type", "application/x-www-form-urlencoded"), ("Digest", "sha-256=x")];
    let form = headers(&form);
    for method in ["PUT", "patch", "DELETE"] {
        let error = try_sign(&request(method, "/", &form, b"a=1")).expect_err("never passes");
        assert_eq!(error, SignError::DigestedForm { method: method.to_uppercase() });
    }
}

#[test]
fn the_signature_itself_cannot_be_signed() {
    let headers = headers(&[]);
    let also = ["Authorization".to_owned()];
    let signed = Request { also_sign: &also, ..request("GET", "/", &headers, b"") };
    assert!(matches!(try_sign(&signed), Err(SignError::HeaderName { .. })));
    let sent = self::headers(&[("authorization", "Basic eA==")]);
    let twice = request("GET", "/", &sent, b"");
    assert!(matches!(try_sign(&twice), Err(SignError::HeaderName { .. })));
}

#[test]
fn a_method_is_one_word() {
    for method in ["", "GE T", "GET\n/other"] {
        let headers = headers(&[]);
        let error = try_sign(&request(method, "/", &headers, b"")).expect_err("no method");
        assert_eq!(error, SignError::Method { method: method.to_owned() });
    }
}

#[test]
fn a_digest_makes_a_posted_form_a_body_like_any_other() {
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let (plain, digested) = (headers(&[form]), headers(&[form, ("Content-MD5", "x")]));
    let lines = |headers: &[(String, String)]| {
        let signed = try_sign(&request("POST", "/p?z=1", headers, b"a=%31")).expect("signable");
        let lines: Vec<_> = signed.canonical_request.lines().map(str::to_owned).collect();
        (lines[2].clone(), lines[lines.len() - 1].clone())
    };
    assert_eq!(lines(&plain), ("a=1&z=1".to_owned(), hex::encode(Sha256::digest(b""))));
    assert_eq!(lines(&digested), ("z=1".to_owned(), hex::encode(Sha256::digest(b"a=%31"))));
}

#[test]
fn of_a_header_sent_twice_the_first_counts_and_a_missing_one_is_empty() {
    let headers = headers(&[("X-Note", "first"), ("x-note", "second")]);
    let also = ["X-Note".to_owned(), "x-absent".to_owned()];
    let request = Request { also_sign: &also, ..request("GET", "/", &headers, b"") };
    let signed = try_sign(&request).expect("signable");
    assert!(signed.canonical_request.contains("\nx-absent:\n"), "{}", signed.canonical_request);
    assert!(signed.canonical_request.contains("\nx-note:first\n"), "{}", signed.canonical_request);
    assert_eq!(signed.signed_headers, "host;x-absent;x-note;x-sn-date");
}

#[test]
fn a_date_header_with_another_spelling_of_the_same_second_is_signed_as_sent() {
    let headers = owned(&[("Host", "h"), ("Date", "Sun, 15 Jun 2025 10:09:10 +0200")]);
    let signed = try_sign(&request("GET", "/", &headers, b"")).expect("signable");
    assert!(signed.canonical_request.contains("\ndate:Sun, 15 Jun 2025 10:09:10 +0200\n"));
    assert!(signed.signing_message.contains("20250615T080910Z"));
}

proptest! {
    /// The order in which headers are sent does not matter, nor does the case of their names.
    #[test]
    fn header_order_and_case_do_not_matter(
        names in prop::collection::btree_set("x-sn-[a-z]{1,6}", 0..5),
        value in "[ -~]{0,20}",
        seed in any::<u64>(),
    ) {
        prop_assume!(!names.contains("x-sn-date"));
        let mut sent = headers(&[]);
        sent.extend(names.into_iter().map(|name| (name, value.clone())));
        let straight = try_sign(&request("GET", "/", &sent, b"")).expect("signable");
        fastrand::Rng::with_seed(seed).shuffle(&mut sent);
        for (name, _) in &mut sent {
            *name = name.to_uppercase();
        }
        prop_assert_eq!(try_sign(&request("get", "/", &sent, b"")).expect("signable"), straight);
    }

    /// Blanks around a value and the length of runs of spaces inside it do not matter.
    #[test]
    fn blanks_are_folded(words in prop::collection::vec("[!-~]{1,5}", 1..5), run in 1usize..5) {
        let loose = format!("\t {} ", words.join(&" ".repeat(run)));
        prop_assert_eq!(folded(&loose), words.join(" "));
    }

    /// A body that differs in any way has another signature; the same one has the same.
    #[test]
    fn every_byte_of_the_body_is_signed(
        body in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let headers = headers(&[("Content-Type", "application/json")]);
        let sign = |body: &[u8]| {
            try_sign(&request("POST", "/", &headers, body)).expect("signable").signature
        };
        let mut other = body.clone();
        other[at.index(body.len())] ^= flip;
        prop_assert_eq!(sign(&body), sign(&body));
        prop_assert_ne!(sign(&body), sign(&other));
    }

    /// Whatever is asked for, the answer is a signature or a reason, and never a broken line.
    #[test]
    fn nothing_can_add_a_line(target in "\\PC{0,20}", name in "\\PC{0,8}", value in "(?s).{0,20}") {
        let headers = headers(&[(&name, &value)]);
        let also = [name];
        let request = Request { also_sign: &also, ..request("GET", &target, &headers, b"") };
        if let Ok(signed) = try_sign(&request) {
            let names = signed.signed_headers.split(';').count();
            let both_dates = signed.signed_headers.split(';').any(|n| n == "date");
            prop_assert_eq!(
                signed.canonical_request.matches('\n').count(),
                4 + names - usize::from(both_dates)
            );
        }
    }
}
