//! The `token` commands as people use them: the real binary, against the simulator where they ask a
//! server, and without any configuration where they sign by hand.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{
    Act, IssuedToken, Misbehaviour, Seed, SeedUser, Sim, TokenKind, signing_key_hex,
};
use tempfile::TempDir;

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
        "token", "sign", "POST", &url, "--token-id", "-abc.567890123456789", "--secret-file", &secret,
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
    while !request.ends_with(b"\r\n\r\n{}") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut connection, &mut byte).expect("the request");
        request.extend(byte);
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

/// A server with one account, and a device that is configured for it.
struct Site {
    sim: Sim,
    dir: TempDir,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Site {
    fn new() -> Self {
        let user = SeedUser {
            id: 1,
            roles: vec!["ROLE_IMPORT".to_owned()],
            nodes: vec![101],
            ..SeedUser::default()
        };
        let sim = Sim::start(Seed { users: vec![user], ..Seed::default() }).expect("a free port");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = format!(
            "state_dir = '{}/state'\n[solarnet]\nuser_url = '{}'\nquery_url = '{}'\nrequest_rate = '10/s'\n",
            dir.path().display(),
            sim.user_url(),
            sim.query_url()
        );
        fs::write(dir.path().join("agent.toml"), config).expect("written");
        Self { sim, dir }
    }

    fn issue(&self, policy: &Value) -> IssuedToken {
        self.sim.issue_token(1, TokenKind::User, policy)
    }

    /// Runs `token …` and gives it `input` once it was seen not to have it in its arguments.
    fn token(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = Command::new(env!("CARGO_BIN_EXE_solarnode-agent"))
            .arg("--config")
            .arg(self.dir.path().join("agent.toml"))
            .arg("token")
            .args(arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        if !input.is_empty() {
            let seen = ["cmdline", "environ"].map(|name| {
                let bytes = fs::read(format!("/proc/{}/{name}", child.id())).expect("it runs");
                String::from_utf8_lossy(&bytes).into_owned()
            });
            assert!(!seen.iter().any(|text| text.contains(input)), "{seen:?}");
        }
        let mut stdin = child.stdin.take().expect("piped");
        // One that reads no input has closed it by now.
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let done =
            Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(input.is_empty() || !format!("{done:?}").contains(input.trim_end()), "{done:?}");
        done
    }

    fn import(&self, token: &IssuedToken, more: &[&str]) -> Done {
        let arguments = [&["import", "site", "--token-id", &token.id], more].concat();
        self.token(&arguments, &format!("{}\n", token.secret))
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("state/credentials/site.json")
    }

    /// The credential on disk: what was stored is the server's key of the day it says.
    fn stored(&self, token: &IssuedToken) -> Value {
        let stored = fs::read(self.file()).expect("stored");
        let stored: Value = serde_json::from_slice(&stored).expect("JSON");
        let day = NaiveDate::parse_from_str(text(&stored["key_date"]), "%Y%m%d").expect("a day");
        assert_eq!(text(&stored["key"]), signing_key_hex(&token.secret, day));
        stored
    }
}

fn key_date(at: DateTime<Utc>) -> String {
    at.format("%Y%m%d").to_string()
}

#[test]
fn an_imported_token_leaves_its_key_here_and_its_secret_nowhere() {
    let site = Site::new();
    let token = site.issue(&json!({}));
    let done = site.import(&token, &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let stored = site.stored(&token);
    assert_eq!(text(&stored["key_date"]), key_date(site.sim.now()));
    let mut folders = vec![site.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let contents = fs::read_to_string(&path).expect("text");
                    assert!(!contents.contains(&token.secret), "{}", path.display());
                }
            }
        }
    }
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&site.file()), 0o600);
    assert_eq!(mode(site.file().parent().expect("a folder")), 0o700);

    let shown = site.token(&["show"], "");
    assert!(
        shown.out.contains(&token.id) && !shown.out.contains(text(&stored["key"])),
        "{shown:?}"
    );
    let checked = site.token(&["check"], "");
    assert_eq!(checked.code, Some(0), "{checked:?}");

    let done = site.import(&token, &["--keep-secret"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(site.stored(&token)["secret"], token.secret);
    assert_eq!(mode(&site.file()), 0o600);
    assert_eq!(site.token(&["forget", "site"], "").code, Some(0));
    assert!(!site.file().exists());
}

#[test]
fn a_store_that_others_can_read_is_refused_until_it_is_repaired_as_told() {
    let site = Site::new();
    let token = site.issue(&json!({}));
    site.import(&token, &[]);
    fs::set_permissions(site.file(), fs::Permissions::from_mode(0o644)).expect("changed");
    let refused = site.token(&["check"], "");
    assert_eq!(refused.code, Some(77), "{refused:?}");
    let command = format!("chmod 600 {}", site.file().display());
    assert!(refused.err.contains(&command), "{refused:?}");
    let repaired = Command::new("sh").args(["-c", &command]).status().expect("a shell");
    assert!(repaired.success());
    assert_eq!(site.token(&["check"], "").code, Some(0));
}

#[test]
fn each_policy_is_answered_as_the_server_enforces_it() {
    let past = (Utc::now() - TimeDelta::hours(1)).timestamp_millis();
    #[rustfmt::skip]
    let cases = [
        (json!({"apiPaths": ["/auth-tokens/refresh/v2"]}), Some(0),  true,  ""),
        (json!({"nodeIds": [101]}),                        Some(0),  true,  ""),
        (json!({"refreshAllowed": true}),                  Some(0),  true,  ""),
        (json!({"refreshAllowed": false}),                 Some(0),  true,  "refreshAllowed"),
        (json!({"apiPaths": ["/datum/**"]}),               Some(0),  true,  "/auth-tokens/refresh/v2"),
        (json!({"notAfter": past}),                        Some(77), false, "notAfter"),
    ];
    for (policy, code, stored, want) in cases {
        let site = Site::new();
        let token = site.issue(&policy);
        let done = site.import(&token, &[]);
        assert_eq!(done.code, code, "{policy}: {done:?}");
        assert_eq!(site.file().exists(), stored, "{policy}");
        assert_eq!(done.err.is_empty(), want.is_empty(), "{policy}: {done:?}");
        assert!(done.err.contains(want), "{policy}: {done:?}");
        if code == Some(0) && !want.is_empty() {
            let ends = site.sim.now().date_naive() + Days::new(7);
            assert!(done.err.contains(&ends.to_string()), "{policy}: {done:?}");
        }
    }
}

#[test]
fn wrong_and_disabled_credentials_are_not_stored() {
    let site = Site::new();
    let token = site.issue(&json!({}));
    let wrong = IssuedToken { id: token.id.clone(), secret: "not.its-secret".to_owned() };
    let done = site.import(&wrong, &[]);
    assert_eq!(done.code, Some(77), "{done:?}");
    site.sim.set_token_active(&token.id, false);
    let done = site.import(&token, &[]);
    assert_eq!(done.code, Some(77), "{done:?}");
    assert!(!site.file().exists());
}

#[test]
fn a_device_days_off_imports_and_renews_by_the_servers_time() {
    let site = Site::new();
    site.sim.set_clock_offset(TimeDelta::days(30));
    let token = site.issue(&json!({"apiPaths": ["/auth-tokens/refresh/v2"]}));
    let done = site.import(&token, &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(text(&site.stored(&token)["key_date"]), key_date(site.sim.now()));

    site.sim.set_clock_offset(TimeDelta::days(36));
    let done = site.token(&["refresh"], "");
    assert_eq!(done.code, Some(0), "{done:?}");
    let stored = site.stored(&token);
    assert_eq!(text(&stored["key_date"]), key_date(site.sim.now()));
    assert_eq!(stored.get("secret"), None);

    site.sim.set_clock_offset(TimeDelta::days(43));
    let done = site.token(&["refresh"], "");
    assert_eq!(done.code, Some(77), "nobody can renew it: {done:?}");
    assert!(done.err.contains("token import"), "{done:?}");
    assert_eq!(site.stored(&token), stored);
}

#[test]
fn a_server_that_is_away_delays_the_proof_and_not_the_import() {
    let site = Site::new();
    let token = site.issue(&json!({}));
    site.sim.go_down();
    let done = site.import(&token, &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("unproved"), "{done:?}");
    assert_eq!(site.token(&["check"], "").code, Some(69));
    assert_eq!(site.token(&["refresh"], "").code, Some(69));
    site.sim.come_back().expect("the port is free");
    assert_eq!(site.token(&["check"], "").code, Some(0));
}

#[test]
fn a_new_key_that_was_handed_out_but_not_proved_is_not_stored() {
    let site = Site::new();
    let token = site.issue(&json!({}));
    site.import(&token, &[]);
    site.sim.set_clock_offset(TimeDelta::days(2));
    let before = site.stored(&token);
    for act in [Act::CutBefore, Act::CutAfter, Act::CutMidBody, Act::Transient] {
        // Counted are: one wrongly dated, its repetition, which hands out the key, then the proof.
        site.sim.misbehave(Misbehaviour::new("/solarquery/", act.clone()).skip(2).times(9));
        let done = site.token(&["refresh"], "");
        assert_eq!(done.code, Some(69), "{act:?}: {done:?}");
        assert_eq!(site.stored(&token), before, "{act:?}");
        site.sim.behave();
    }
    assert_eq!(site.token(&["refresh"], "").code, Some(0));
    assert_eq!(text(&site.stored(&token)["key_date"]), key_date(site.sim.now()));
}

#[test]
fn a_signature_made_by_hand_is_accepted() {
    let site = Site::new();
    let token = site.issue(&json!({}));
    site.import(&token, &[]);
    let url = format!("{}/api/v1/sec/whoami", site.sim.query_url());
    let done = site.token(&["sign", "GET", &url, "--token", "site"], "");
    assert_eq!(done.code, Some(0), "{done:?}");
    let command = format!("{} --max-time 20", done.out.lines().last().expect("a command"));
    let answer = Command::new("sh").args(["-c", &command]).output().expect("a shell");
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("curl is needed here");
    assert_eq!(answer["success"], true, "{answer}");
}
