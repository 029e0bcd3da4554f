//! The program as it is used by hand.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::client::{Client, plain};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solarnet-sim"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts it and gives the address that its first line names.
fn start(arguments: &[&str]) -> (Child, std::net::SocketAddr) {
    let mut child = program(arguments).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let address =
        line.trim_end().strip_prefix("listening on ").expect("the line names the address");
    let address = address.trim_start_matches("http://").parse().unwrap();
    child.stdout = Some(out.into_inner());
    (child, address)
}

/// Asks it to stop, and gives what it still said.
fn terminate(mut child: Child) -> (i32, String) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    (child.wait().unwrap().code().unwrap(), rest)
}

fn outcome(arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = program(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn the_example_seed_is_served_and_a_signal_stops_it() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/seed.json");
    let (child, address) = start(&["serve", "--seed", seed.to_str().unwrap()]);
    let edge = Client::new(address, "edge0edge0edge0edge0", "not-a-real-secret-edge0001");
    let pending = edge.get("/solaruser/api/v1/sec/instr/viewPending?nodeId=123").data();
    assert_eq!(pending[0]["topic"], "SetControlParameter");
    assert_eq!(plain(address, "GET", "/sim/ledger/count", "").json()["datum"], 0);
    assert_eq!(terminate(child).0, 0);
}

#[test]
fn a_site_counts_what_was_read_and_says_so_at_the_end() {
    let (child, _) = start(&["site", "--meter", "1", "--meter", "2", "--relay", "3"]);
    let (code, rest) = terminate(child);
    assert_eq!(code, 0);
    let sums: serde_json::Value = serde_json::from_str(&rest).unwrap();
    assert_eq!(sums["meters"]["2"]["readings"], 0);
    assert_eq!(sums["relays"]["3"]["writes"], serde_json::json!([]));
}

#[test]
fn mistakes_end_with_a_message_and_their_code() {
    let (code, message) = outcome(&["serve", "--sed", "x"]);
    assert_eq!(code, 64, "{message}");
    let (code, message) = outcome(&["serve", "--seed", "/nowhere/seed.json"]);
    assert_eq!(code, 78);
    assert!(message.contains("/nowhere/seed.json"), "{message}");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/policy.json");
    let (code, message) = outcome(&["serve", "--seed", manifest.to_str().unwrap()]);
    assert_eq!(code, 78);
    assert!(message.contains("policy.json: at about: unknown member; expected one of users,"));
}

/// Runs the README's script against a server; needs curl and openssl, like the README's reader.
#[test]
fn the_readmes_signed_calls_work() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let (child, address) =
        start(&["serve", "--seed", examples.join("seed.json").to_str().unwrap()]);
    let call = |method: &str, target: &str, more: &[&str]| -> serde_json::Value {
        let output = Command::new("sh")
            .arg(examples.join("call.sh"))
            .args([method, &format!("http://{address}{target}")])
            .args(more)
            .env("TOKEN", "manager0manager0mana")
            .env("SECRET", "not-a-real-secret-manager1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "call.sh (packages curl, openssl): {said}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["success"], true, "{answer}");
        answer["data"].clone()
    };
    let api = "/solaruser/api/v1/sec";
    assert_eq!(call("GET", &format!("{api}/whoami"), &[])["userId"], 100);
    let body = examples.join("import.multipart");
    let more = [body.to_str().unwrap(), "multipart/form-data; boundary=example"];
    call("POST", &format!("{api}/user/import/jobs"), &more);
    let jobs = || call("GET", &format!("{api}/user/import/jobs"), &[]);
    crate::eventually("the job is done", || jobs()[0]["done"] == true);
    assert_eq!(jobs()[0]["message"], "Loaded 2 datum.");
    let list = call("GET", "/solarquery/api/v1/sec/datum/list?nodeId=123", &[]);
    assert_eq!(list["results"][0]["voltage"].to_string(), "230.1");
    assert_eq!(terminate(child).0, 0);
}

#[test]
fn nodes_find_solarin_their_certificates_and_a_broker() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("nodes");
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/seed.json");
    let arguments = ["serve", "--in-listen", "127.0.0.1:0", "--mqtt", "--flux", "--seed"];
    let files_argument = ["--in-files", files.to_str().unwrap()];
    let last = ["--in-certificates-last", "90m"];
    let all = [&arguments[..], &[seed.to_str().unwrap()], &files_argument, &last].concat();
    let mut child = program(&all).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert!(line().starts_with("listening on http://127.0.0.1:"));
    let solarin = line();
    let (url, shown) = solarin.strip_prefix("solarin at ").unwrap().split_once(", ").unwrap();
    assert_eq!(shown, format!("certificates in {}", files.display()));
    assert!(line().starts_with("mqtt broker at mqtts://127.0.0.1:"));
    assert!(line().starts_with("solarflux broker at mqtts://127.0.0.1:"));
    let answer = Command::new("curl")
        .args(["--silent", "--show-error", "--cacert", "ca.pem", "--cert", "node-123.pem"])
        .args(["--key", "node-123.key", "-H", "content-type: application/json", "-d", "[]"])
        .arg(format!("{url}/bulkCollector.do"))
        .current_dir(&files)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect(&said);
    assert_eq!(answer["success"], true);
    let ends_within = |seconds: &str| {
        let certificate = files.join("node-123.pem");
        let openssl = Command::new("openssl")
            .args(["x509", "-noout", "-checkend", seconds, "-in"])
            .arg(certificate)
            .output();
        !openssl.unwrap().status.success()
    };
    assert!(ends_within("5400") && !ends_within("5000"), "90 minutes, but for what this took");
    child.stdout = Some(out.into_inner());
    assert_eq!(terminate(child).0, 0);
}
