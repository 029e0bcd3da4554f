//! `token sign` as people use it: the real binary, without any configuration.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_solarnode-agent"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the agent starts")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn vectors() -> Vec<Value> {
    let file = include_str!("../vectors/snws2.json");
    let mut file: Value = serde_json::from_str(file).expect("JSON");
    let Value::Array(vectors) = file["vectors"].take() else { panic!("vectors") };
    vectors
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let text = text.trim_end_matches('=').as_bytes();
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, b| bits << 6 | u32::from(digit(*b)));
        let bits = bits << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    text.chunks(4).flat_map(group).collect()
}

/// The arguments that ask for a vector's signature, its files in `dir`.
fn arguments(vector: &Value, dir: &Path) -> Vec<String> {
    let input = &vector["input"];
    let file = |name: &str, contents: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, contents).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let mut arguments = ["token", "sign", "--json", "--token-id", text(&input["tokenId"])]
        .map(str::to_owned)
        .to_vec();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    match input["tokenSecret"].as_str() {
        Some(secret) => option("--secret-file", file("secret", format!("{secret}\n").as_bytes())),
        None => option("--key-file", file("key", text(&input["signingKeyHex"]).as_bytes())),
    }
    option("--key-date", text(&input["signingDate"]).to_owned());
    for header in input["headers"].as_array().expect("headers") {
        option("-H", format!("{}: {}", text(&header[0]), text(&header[1])));
    }
    for name in input["extraSignedHeaders"].as_array().into_iter().flatten() {
        option("--sign-header", text(name).to_owned());
    }
    option("--sign-host", text(&input["signHost"]).to_owned());
    if let Some(body) = input["bodyText"].as_str() {
        option("--body", file("body", body.as_bytes()));
    }
    if let Some(body) = input["bodyBase64"].as_str() {
        option("--body", file("body", &base64(body)));
    }
    arguments.extend([text(&input["method"]).to_owned(), text(&input["url"]).to_owned()]);
    arguments
}

#[test]
fn token_sign_reproduces_every_vector_of_the_server() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for vector in vectors() {
        let id = text(&vector["id"]);
        let arguments = arguments(&vector, dir.path());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = agent(&arguments);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{id}: {err}");
        let signed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for (name, want) in vector["expected"].as_object().expect("members") {
            if name != "signingKeyHex" {
                assert_eq!(&signed[name.as_str()], want, "{id}: {name}");
            }
        }
        // Only a key outside its days is worth a word.
        assert_eq!(err.is_empty(), vector["serverAccepts"] == true, "{id}: {err}");
        let all = String::from_utf8_lossy(&output.stdout).into_owned() + &err;
        for secret in [&vector["input"]["tokenSecret"], &vector["expected"]["signingKeyHex"]] {
            assert!(!secret.as_str().is_some_and(|secret| all.contains(secret)), "{id}");
        }
    }
}

/// What curl sends when given the printed command, seen by the other end of the connection.
#[test]
fn the_printed_command_sends_what_was_signed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str, contents: &str| {
        let path = dir.path().join(name);
        fs::write(&path, contents).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (secret, body) = (path("secret", "hunter2.hunter2"), path("it's a body", "{}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/a/../b%7e?q=[1]&q={{2}}", listener.local_addr().expect("bound"));
    #[rustfmt::skip]
    let output = agent(&[
        "token", "sign", "POST", &url, "--token-id", "-abc.", "--secret-file", &secret,
        "-H", "X-SN-Note: it's", "--sign-header", "accept", "--body", &body,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("text");
    let command = printed.lines().last().expect("a command");
    let authorization =
        printed.lines().find(|l| l.starts_with("Authorization: ")).expect("the header");

    let mut curl = Command::new("sh")
        .args(["-c", &format!("{command} --max-time 20")])
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell");
    let (mut connection, _) = listener.accept().expect("curl is needed for this test");
    connection.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("set");
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n{}") {
        let count = std::io::Read::read(&mut connection, &mut buffer).expect("the request");
        assert!(count > 0, "curl hung up early");
        request.extend_from_slice(&buffer[..count]);
    }
    std::io::Write::write_all(&mut connection, b"HTTP/1.1 204 No Content\r\n\r\n").expect("sent");
    assert!(curl.wait().expect("curl ends").success());

    let request = String::from_utf8(request).expect("text");
    let lines: Vec<&str> = request.lines().collect();
    assert_eq!(lines[0], "POST /a/../b%7e?q=[1]&q={2} HTTP/1.1");
    assert!(lines.contains(&authorization), "{request}");
    assert!(lines.contains(&"X-SN-Note: it's"), "{request}");
    let date = printed.lines().find_map(|line| line.strip_prefix("x-sn-date:")).expect("signed");
    assert!(lines.contains(&format!("X-SN-Date: {date}").as_str()), "{request}");
    for unwanted in ["accept:", "content-type:"] {
        assert!(!request.to_lowercase().contains(unwanted), "{request}");
    }
}

#[test]
fn wrong_arguments_end_with_64_and_say_what_is_missing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let secret = dir.path().join("secret");
    fs::write(&secret, "hunter2.hunter2\n").expect("written");
    let secret = secret.to_str().expect("text");
    let url = "https://h/";
    let by_id = ["--token-id", "abc", "--secret-file", secret];
    let cases: [(&[&str], &[&str], &str); 8] = [
        (&["GET", url], &[], "--token"),
        (&["GET", url, "--token-id", "abc"], &[], "--secret-file"),
        (&["GET", url, "--token-id", "abc", "--key-file", secret], &[], "--key-date"),
        (&["GET", "h/a"], &by_id, "https"),
        (&["GET", "https://h/?a=%zz"], &by_id, "%25"),
        (&["GET", url, "-H", "no colon"], &by_id, "Name: value"),
        (&["GET", url, "-H", "X-SN-Date: today"], &by_id, "today"),
        (&["GET", url, "--date", "today"], &by_id, "2025-06-15T08:09:10Z"),
    ];
    for (arguments, more, want) in cases {
        let output = agent(&[&["token", "sign"], arguments, more].concat());
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {err}");
        assert!(err.contains(want), "{arguments:?}: {err}");
        assert!(output.stdout.is_empty() && !err.contains("hunter2"), "{arguments:?}: {err}");
    }
}
