use std::{
    collections::VecDeque,
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clap::Parser;
use spool::{Options, Spool};
use tempfile::TempDir;

use super::*;
use crate::{
    credential::signing_key,
    domain::{Datum, Samples, Stamp},
    queue,
    solarnet::{Answer, Call, CallError, Cause, Refusal},
};

const SECRET: &str = "Zq3.v7X_k9-LmN2pRsT4uVwYz";

/// The server's view of one token: its secret and time, and what it says instead of a key.
struct Server {
    secret: TokenSecret,
    now: Mutex<DateTime<Utc>>,
    /// What the first answer teaches.
    real: DateTime<Utc>,
    refusals: Mutex<VecDeque<Cause>>,
    asked: Mutex<Vec<NaiveDate>>,
}

impl Server {
    fn at(now: &str) -> Self {
        let now = now.parse().expect("a date");
        Self {
            secret: SECRET.parse().expect("a secret"),
            now: Mutex::new(now),
            real: now,
            refusals: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    fn refusing(self, causes: impl IntoIterator<Item = Cause>) -> Self {
        lock(&self.refusals).extend(causes);
        self
    }

    fn believed(self, now: &str) -> Self {
        *lock(&self.now) = now.parse().expect("a date");
        self
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(cause: Cause) -> CallError {
    let refusal = Refusal { status: 403, code: None, message: None, retry_after: None };
    CallError { method: "GET", path: "/r".to_owned(), cause, refusal: Some(refusal), detail: None }
}

impl RefreshCalls for &Server {
    fn now(&self) -> DateTime<Utc> {
        *lock(&self.now)
    }

    async fn fetch(
        &self,
        credential: &Credential,
        day: NaiveDate,
    ) -> Result<SigningKey, CallError> {
        lock(&self.asked).push(day);
        let cause = lock(&self.refusals).pop_front();
        if cause == Some(Cause::Unreachable) {
            return Err(refusal(Cause::Unreachable));
        }
        *lock(&self.now) = self.real;
        // The server tries the request's day and the six before it.
        let today = self.real.date_naive();
        let known = (0..7)
            .map(|ago| signing_key(&self.secret, today - chrono::Days::new(ago)))
            .any(|key| key == credential.key);
        match cause {
            Some(cause) => Err(refusal(cause)),
            None if known && day <= today => Ok(signing_key(&self.secret, day)),
            None if known => Err(refusal(Cause::BadContent)),
            None => Err(refusal(Cause::BadCredentials)),
        }
    }
}

impl CallAs for &Server {
    fn server_time(&self) -> DateTime<Utc> {
        RefreshCalls::now(self)
    }

    /// Nothing but the refresh call is played here; `tests/it/token_manage.rs` has the simulator.
    async fn call_as(&self, _: &Credential, _: Call) -> Result<Answer, CallError> {
        Err(refusal(Cause::PathDenied))
    }
}

impl Secrets for &[u8] {
    fn ask_for(&mut self, _: &str) {}
}

struct Device {
    dir: TempDir,
}

/// What a command did: its code, or its code and message, and its two outputs.
#[derive(Debug)]
struct Outcome {
    exit: Exit,
    out: String,
    err: String,
}

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    token: Token,
}

impl Device {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    fn context(&self) -> TokenContext {
        TokenContext {
            state_dir: self.dir.path().join("state"),
            control_socket: self.dir.path().join("control.sock"),
            solarnet: SolarNet {
                user_url: "https://sn.example/solaruser".to_owned(),
                query_url: "https://sn.example/solarquery".to_owned(),
                in_url: "https://sn.example/solarin".to_owned(),
                token: "site".parse().expect("a name"),
                sign_host: Some("sn.example:443".to_owned()),
                ca_file: None,
                requests_per_second: 0.5,
                timeout: Duration::from_secs(1),
            },
            needs: None,
        }
    }

    fn stored(&self) -> Option<Credential> {
        let name = "site".parse().expect("a name");
        self.context().store().load_stored(&name).expect("readable")
    }

    fn run(&self, server: &Server, arguments: &str, input: &str) -> Outcome {
        let arguments = std::iter::once("token").chain(arguments.split_whitespace());
        let parsed = Arguments::try_parse_from(arguments).expect("proper arguments");
        let (mut input, mut out, mut err) = (input.as_bytes(), Vec::new(), Vec::new());
        let mut nobody = |_: &str| Ok(None);
        let confirm = &mut nobody;
        let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err, confirm };
        let result = parsed.token.run(&mut streams, || Ok(self.context()), |_| Ok(server));
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (out, mut err) = (text(out), text(err));
        let exit = result.unwrap_or_else(|failure| {
            err.push_str(&format!("{:#}", failure.error));
            failure.exit
        });
        assert!(!out.contains(SECRET) && !err.contains(SECRET), "{out}{err}");
        if let Some(stored) = self.stored() {
            let key = stored.key.expose_hex();
            assert!(!out.contains(key.as_str()) && !err.contains(key.as_str()), "{out}{err}");
        }
        Outcome { exit, out, err }
    }

    fn import(&self, server: &Server, more: &str) -> Outcome {
        let arguments = format!("import site --token-id abcdefghij0123456789 {more}");
        self.run(server, &arguments, &format!("{SECRET}\n"))
    }
}

fn key_of(day: &str) -> SigningKey {
    signing_key(&SECRET.parse().expect("a secret"), parse_signing_day(day).expect("a day"))
}

#[test]
fn an_import_is_proved_and_keeps_only_the_key() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    let outcome = device.import(&server, "");
    assert_eq!(outcome.exit, Exit::Ok, "{outcome:?}");
    assert!(outcome.out.contains("2026-11-29 00:00 UTC"), "{outcome:?}");
    let stored = device.stored().expect("stored");
    assert_eq!((&stored.key, &stored.secret), (&key_of("20261122"), &None));
    assert_eq!(*lock(&server.asked), [stored.key_date]);

    let outcome = device.import(&server, "--keep-secret");
    assert_eq!(outcome.exit, Exit::Ok, "{outcome:?}");
    assert!(device.stored().expect("stored").secret.is_some());
}

#[test]
fn a_box_in_1970_makes_the_key_of_the_servers_day() {
    let server = Server::at("2026-11-22T10:00:00Z").believed("1970-01-01T00:05:00Z");
    let device = Device::new();
    assert_eq!(device.import(&server, "").exit, Exit::Ok);
    assert_eq!(device.stored().expect("stored").key, key_of("20261122"));

    let device = Device::new();
    let server = Server::at("1970-01-01T00:05:00Z").refusing([Cause::Unreachable]);
    let outcome = device.import(&server, "");
    assert_eq!(outcome.exit, Exit::Unavailable, "{outcome:?}");
    assert!(outcome.err.contains("Set the clock"), "{outcome:?}");
    assert_eq!(device.stored(), None);
}

#[test]
fn what_the_server_says_to_an_import_decides_what_is_stored() {
    #[rustfmt::skip]
    let cases = [
        (Cause::BadCredentials, "",              Exit::NoPermission, false, "token is disabled"),
        (Cause::TokenExpired,   "",              Exit::NoPermission, false, "notAfter"),
        (Cause::AccessDenied,   "",              Exit::Ok,           true,  "refreshAllowed"),
        (Cause::AccessDenied,   "--keep-secret", Exit::Ok,           true,  ""),
        (Cause::PathDenied,     "",              Exit::Ok,           true,  "/auth-tokens/refresh/v2"),
        (Cause::Unreachable,    "",              Exit::Ok,           true,  "unproved"),
        (Cause::ServerTrouble,  "",              Exit::Ok,           true,  "unproved"),
    ];
    for (cause, more, exit, stored, want) in cases {
        let device = Device::new();
        let server = Server::at("2126-11-22T10:00:00Z").refusing([cause]);
        let outcome = device.import(&server, more);
        assert_eq!(outcome.exit, exit, "{cause:?} {outcome:?}");
        assert_eq!(device.stored().is_some(), stored, "{cause:?}");
        assert!(outcome.err.contains(want), "{cause:?} {outcome:?}");
        if matches!(cause, Cause::AccessDenied | Cause::PathDenied) && more.is_empty() {
            assert!(outcome.err.contains("2126-11-29"), "the date it ends: {outcome:?}");
        }
    }
}

#[test]
fn a_source_of_which_datum_wait_is_needed_though_it_is_configured_no_more() {
    let (device, mut err) = (Device::new(), Vec::new());
    let context = device.context();
    let mut sources = || {
        let needs = Needs {
            node: 123.try_into().expect("a node"),
            sources: ["/here".parse().expect("a source")].into(),
            api_paths: Vec::new(),
            audit_token: None,
        };
        err.clear();
        let needs = context.with_waiting(needs, &mut err).expect("written");
        let said = String::from_utf8(err.clone()).expect("text");
        (needs.policy().source_ids, said)
    };
    assert_eq!(sources(), (vec!["/here".to_owned()], String::new()), "before the first start");

    let folder = queue::folder(&device.dir.path().join("state"));
    let (mut spool, _) = Spool::open(&folder, Options::new(1 << 20)).expect("a queue");
    let datum = Datum {
        source: "/gone".parse().expect("a source"),
        stamp: Stamp::Wall { unix_ms: 1 },
        samples: Samples::default(),
    };
    spool.append(&queue::record::encode(&datum)).expect("room");
    spool.commit().expect("written");
    let both = vec!["/gone".to_owned(), "/here".to_owned()];
    assert_eq!(sources(), (both, String::new()), "also while the daemon runs");

    drop(spool);
    fs::remove_dir_all(&folder).expect("removed");
    fs::write(&folder, "").expect("written");
    let (named, said) = sources();
    assert_eq!(named, ["/here"]);
    assert!(said.starts_with("note: ") && said.contains("left out"), "{said}");
}

#[test]
fn offline_asks_nobody() {
    let (device, server) = (Device::new(), Server::at("2126-11-22T10:00:00Z"));
    assert_eq!(device.import(&server, "--offline").exit, Exit::Ok);
    assert!(lock(&server.asked).is_empty());
    assert!(device.stored().is_some());
}

#[test]
fn a_key_is_imported_with_its_day_and_no_other() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    let file = device.dir.path().join("key");
    fs::write(&file, format!("{}\n", key_of("20261117").expose_hex().as_str())).expect("written");
    let import = |day: &str| {
        device.import(&server, &format!("--key-file {} --key-date {day}", file.display()))
    };
    let other_day = import("20261118");
    assert_eq!(other_day.exit, Exit::Usage, "{other_day:?}");
    assert!(other_day.err.contains("2026-11-18"), "{other_day:?}");
    assert_eq!(device.stored(), None);

    assert_eq!(import("20261117").exit, Exit::Ok);
    assert_eq!(device.stored().expect("stored").ends().to_rfc3339(), "2026-11-24T00:00:00+00:00");

    fs::write(&file, key_of("20261101").expose_hex().as_str()).expect("written");
    let old = import("20261101");
    assert_eq!(old.exit, Exit::NoPermission, "{old:?}");
    assert!(old.err.contains("2026-11-08"), "{old:?}");
}

#[test]
fn a_misspelt_option_is_not_taken_for_a_token_id() {
    let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).map(drop);
    let error = parse("token delete --yess --as boss").expect_err("no ID");
    assert!(error.to_string().contains("--yess"), "{error}");
    assert!(parse("token delete abc --as --yes").is_err());
    assert!(parse("token delete -abcdefghij012345678 --yes --as -bcdefghij0123456789").is_ok());
}

#[test]
fn another_token_is_overwritten_only_where_that_is_asked_for() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    device.import(&server, "");
    let (other, before) = ("import site --token-id zyxwvutsrq9876543210", device.stored());
    let refused = device.run(&server, other, SECRET);
    assert_eq!(refused.exit, Exit::Usage, "{refused:?}");
    assert!(refused.err.contains("--replace") && refused.err.contains("abcdefghij0123456789"));
    assert_eq!(device.stored(), before);
    assert_eq!(device.import(&server, "").exit, Exit::Ok, "the same token again is fine");
    let replaced = device.run(&server, &format!("{other} --replace"), SECRET);
    assert_eq!(replaced.exit, Exit::Ok, "{replaced:?}");
    let stored = device.stored().expect("stored");
    assert_eq!(stored.token_id.as_str(), "zyxwvutsrq9876543210");
}

#[test]
fn wrong_input_is_named_and_never_quoted() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    let arguments = "import site --token-id abc";
    for input in ["", "\n", "two words\n", "two\nlines\n"] {
        let outcome = device.run(&server, arguments, input);
        assert_eq!(outcome.exit, Exit::Usage, "{outcome:?}");
        assert!(outcome.err.contains("standard input"), "{outcome:?}");
        assert!(!outcome.err.contains("two words"), "{outcome:?}");
    }
    let missing = device.run(&server, "import site --token-id abc --secret-file /no/such", "");
    assert_eq!(missing.exit, Exit::Usage);
    assert!(missing.err.contains("/no/such"), "{missing:?}");
    let unknown = device.run(&server, "check", "");
    assert_eq!(unknown.exit, Exit::Config);
    assert!(unknown.err.contains("token import site"), "{unknown:?}");
}

#[test]
fn show_says_when_keys_end_and_forget_removes_them() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    device.import(&server, "");
    let shown = device.run(&server, "show", "");
    assert!(shown.out.contains("abcdefghij0123456789"), "{shown:?}");
    assert!(shown.out.contains("2026-11-29 00:00 UTC"), "{shown:?}");
    let json = device.run(&server, "show site --json", "").out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["tokens"][0]["ends"], "2026-11-29T00:00:00Z");
    assert_eq!(json["tokens"][0]["secret_kept"], false);

    assert_eq!(device.run(&server, "forget site", "").exit, Exit::Ok);
    assert_eq!(device.run(&server, "forget site", "").exit, Exit::Config);
    assert_eq!(device.run(&server, "show", "").out, "");
}

#[test]
fn one_corrupt_file_does_not_hide_the_other_tokens() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    device.import(&server, "");
    let store = device.context().store();
    let stored = device.stored().expect("stored");
    let bad = "bad".parse().expect("a name");
    store.save(&bad, &stored).expect("saved");
    fs::write(store.path(&bad), "{").expect("written");
    let shown = device.run(&server, "show", "");
    assert_eq!(shown.exit, Exit::Data);
    assert!(shown.out.contains("site: ") && shown.err.contains("bad.json"), "{shown:?}");
}

#[test]
fn a_refresh_replaces_the_key_once_it_is_proved() {
    let (device, server) = (Device::new(), Server::at("2026-11-17T10:00:00Z"));
    device.import(&server, "");
    let server = Server::at("2026-11-22T10:00:00Z").believed("2026-11-20T00:00:00Z");
    let refreshed = device.run(&server, "refresh", "");
    assert_eq!(refreshed.exit, Exit::Ok, "{refreshed:?}");
    assert!(
        device.stored().expect("stored").key_date > parse_signing_day("20261117").expect("day")
    );
    let again = device.run(&server, "refresh", "");
    assert_eq!(again.exit, Exit::Ok, "{again:?}");
    assert_eq!(device.stored().expect("stored").key, key_of("20261122"));

    // The new key is handed out and then refused: the old one stays.
    let server = Server::at("2026-11-24T10:00:00Z");
    let old = device.stored();
    lock(&server.refusals).extend([Cause::ServerTrouble]);
    assert_eq!(device.run(&server, "refresh", "").exit, Exit::Unavailable);
    assert_eq!(device.stored(), old);
}

#[test]
fn policies_that_forbid_to_renew_are_named() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    device.import(&server, "");
    for (cause, want) in [
        (Cause::AccessDenied, "refreshAllowed"),
        (Cause::PathDenied, "/auth-tokens/refresh/v2"),
        (Cause::TokenExpired, "notAfter"),
        (Cause::BadCredentials, "token import"),
    ] {
        let server = Server::at("2026-11-23T10:00:00Z").refusing([cause]);
        let outcome = device.run(&server, "refresh", "");
        assert_eq!(outcome.exit, Exit::NoPermission, "{outcome:?}");
        assert!(outcome.err.contains(want), "{outcome:?}");
    }
    let server = Server::at("2026-11-23T10:00:00Z").refusing([Cause::AccessDenied]);
    let checked = device.run(&server, "check", "");
    assert_eq!(checked.exit, Exit::Ok, "{checked:?}");
    assert!(checked.err.contains("2026-11-29"), "{checked:?}");
}

#[test]
fn a_stored_token_signs_and_its_configured_host_goes_along_to_the_configured_server_only() {
    let (device, server) = (Device::new(), Server::at("2026-11-22T10:00:00Z"));
    device.import(&server, "");
    let sign = |url: &str, date: &str| {
        let line = format!("sign GET {url} --token site --date {date} --json");
        let outcome = device.run(&server, &line, "");
        assert_eq!(outcome.exit, Exit::Ok, "{outcome:?}");
        let json: serde_json::Value = serde_json::from_str(&outcome.out).expect("JSON");
        (json["canonicalRequest"].as_str().expect("text").to_owned(), outcome.err)
    };
    let (ours, quiet) = sign("https://sn.example/solarquery/x?a", "2026-11-22T10:00:00.9Z");
    assert!(ours.contains("\nhost:sn.example:443\n"), "{ours}");
    assert!(ours.contains("\nx-sn-date:Sun, 22 Nov 2026 10:00:00 GMT\n"), "{ours}");
    assert_eq!(quiet, "");
    let (other, warned) = sign("https://other.example/solarquery/x", "2026-11-29T00:00:00Z");
    assert!(other.contains("\nhost:other.example\n"), "{other}");
    assert!(warned.contains("2026-11-22") && warned.contains("2026-11-29"), "{warned}");
}
