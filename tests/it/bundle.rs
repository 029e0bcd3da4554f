//! The support bundle, and its recording played back: what is in the archive, that no secret is, and that a
//! recording means what the meter said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use chrono::Utc;
use serde_json::Value;
use solarnet_sim::{Fault, Sim, Site, Unit, signing_key_hex};

use crate::support::agent::{Agent, SECRET, TOKEN, eventually, link, meter, seed, solarnet};

const SOURCE: &str = "/site/meter";

struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &meter(1, SOURCE, "200ms")));
        Self { sim, site, agent }
    }

    fn archive(&self) -> PathBuf {
        self.agent.path("bundle.tar.gz")
    }

    fn bundle(&self) -> String {
        self.agent.ask(&["bundle", "--output", self.archive().to_str().expect("text")])
    }

    fn replay(&self, arguments: &[&str]) -> Output {
        let archive = self.archive();
        let mut all = vec!["replay", archive.to_str().expect("text")];
        all.extend(arguments);
        self.agent.run(&all)
    }
}

/// The files of an archive, by their names.
pub(crate) fn unpacked(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = fs::File::open(path).expect("an archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().expect("entries");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mode().expect("a mode"), 0o600);
            let name = entry.path().expect("a name").display().to_string();
            let name = name.strip_prefix("solarnode-agent-bundle/").expect("one folder").to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            (name, bytes)
        })
        .collect()
}

fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_bundle_holds_what_support_needs_and_says_what_it_lacks() {
    let bench = Bench::new();
    bench.agent.import_token();
    let daemon = bench.agent.start();
    eventually("some readings", || bench.site.readings(1) >= 5);
    let printed = bench.bundle();
    let files = unpacked(&bench.archive());
    for name in [
        "manifest.json",
        "config/agent.toml",
        "effective.txt",
        "check.json",
        "status.json",
        "queue.json",
        "queue-check.json",
        "instructions.json",
        "tokens.json",
        "frames.jsonl",
        "machine.txt",
    ] {
        assert!(files.contains_key(name), "{name} is not among {:?}", files.keys());
        assert!(name == "manifest.json" || printed.contains(name), "{name}: {printed}");
    }
    assert_eq!(json(&files, "status.json")["sources"][0]["source"], SOURCE);
    assert_eq!(json(&files, "tokens.json")["tokens"][0]["token_id"], TOKEN);
    let manifest = json(&files, "manifest.json");
    assert_eq!(manifest["agent"], env!("CARGO_PKG_VERSION"));
    // There is no journal of such a unit here, or no journal at all.
    assert!(printed.contains("left out:\n") && printed.contains("  journal.txt: "), "{printed}");
    let left_out = manifest["left_out"].as_array().expect("a list");
    assert!(left_out.iter().any(|one| one["what"] == "journal.txt"), "{manifest}");
    let mode = fs::metadata(bench.archive()).expect("an archive").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(daemon.stop().success());
}

#[test]
fn without_a_daemon_or_a_usable_configuration_a_bundle_is_made_of_what_there_is() {
    let bench = Bench::new();
    let printed = bench.bundle();
    for missing in ["status.json: no daemon is running", "frames.jsonl: no daemon is running"] {
        assert!(printed.contains(missing), "{missing} is not in {printed}");
    }
    assert!(unpacked(&bench.archive()).contains_key("config/agent.toml"));

    let again = bench.agent.run(&["bundle", "-o", bench.archive().to_str().expect("text")]);
    assert_eq!(again.status.code(), Some(64), "an archive is never overwritten");
    assert!(String::from_utf8_lossy(&again.stderr).contains("is already there"));

    // A daemon that runs is asked all the same.
    let daemon = bench.agent.start();
    let socket = bench.agent.path("state/control.sock");
    let text = fs::read_to_string(bench.agent.config()).expect("the configuration");
    fs::write(bench.agent.config(), "this is [ no TOML").expect("written");
    let asked = ["status", "--socket", socket.to_str().expect("text")];
    assert!(bench.agent.run(&asked).status.success());
    let lost = bench.agent.run(&["status"]);
    assert_eq!(lost.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&lost.stderr).contains("--socket"), "{lost:?}");
    fs::write(bench.agent.config(), text).expect("written");
    assert!(daemon.stop().success());

    fs::remove_file(bench.archive()).expect("removed");
    fs::write(bench.agent.config(), "this is [ no TOML").expect("written");
    let printed = bench.bundle();
    assert!(printed.contains("config/agent.toml: it is not TOML"), "{printed}");
    assert!(unpacked(&bench.archive()).contains_key("machine.txt"));

    fs::remove_file(bench.archive()).expect("removed");
    fs::remove_file(bench.agent.config()).expect("removed");
    assert!(
        bench.bundle().contains("config: the configuration"),
        "it is missing, and that is said"
    );
    let nowhere = bench.agent.run(&["bundle", "-o", "/nowhere/at/all.tar.gz"]);
    assert_eq!(nowhere.status.code(), Some(74));
}

#[test]
fn no_secret_is_in_a_bundle_wherever_one_was_put() {
    let bench = Bench::new();
    bench.agent.import(TOKEN, SECRET, &["--keep-secret"]);
    // Another one, that only the configuration has.
    const PLANTED: &str = "hunter2hunter2";
    let config = fs::read_to_string(bench.agent.config()).expect("the configuration");
    let config = config.replace("[node]", &format!("# {PLANTED} {SECRET}\n[node]"));
    fs::write(bench.agent.config(), &config).expect("written");
    let drop_ins = bench.agent.path("agent.d");
    fs::create_dir(&drop_ins).expect("a folder");
    let daemon = bench.agent.start();
    eventually("some readings", || bench.site.readings(1) >= 3);
    // A name may be anything, even the secret itself.
    let careless = format!(
        "password = \"{PLANTED}\"\n[solarnet]\ntoken = \"{SECRET}\" # {PLANTED}\n\
         user_url = \"https://me:{PLANTED}@example.com\"\n[{PLANTED}]\nx = \"{PLANTED}\"\n"
    );
    fs::write(drop_ins.join("10.toml"), careless.replace(&format!("[{PLANTED}]"), "[x]"))
        .expect("written");
    let printed = bench.bundle();
    assert!(daemon.stop().success());

    let day = Utc::now().date_naive();
    let key = signing_key_hex(SECRET, day);
    let archive = fs::read(bench.archive()).expect("an archive");
    let mut files = unpacked(&bench.archive());
    files.insert("what is printed".to_owned(), printed.clone().into_bytes());
    files.insert("the archive itself".to_owned(), archive);
    for (name, bytes) in &files {
        for needle in [SECRET, PLANTED, &key, &key.to_uppercase()] {
            let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "{needle} stands in {name}");
        }
    }
    assert!(printed.contains("they were secrets of this device"), "{printed}");
    assert!(files["config/agent.d/10.toml"].len() > 50, "the rest of it is there");
}

#[test]
fn what_was_recorded_is_read_again_with_the_same_values() {
    let bench = Bench::new();
    let daemon = bench.agent.start();
    eventually("some readings", || bench.site.readings(1) >= 5);
    bench.site.set_fault(1, Some(Fault::Exception(4)));
    eventually("it is down", || !daemon.events("source.down").is_empty());
    bench.site.set_fault(1, None);
    eventually("it is up", || !daemon.events("source.up").is_empty());
    bench.bundle();
    assert!(daemon.stop().success());

    let output = bench.replay(&["--json", "--source", SOURCE]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let replayed = lines(&output);
    let complete: Vec<&Value> =
        replayed.iter().filter(|line| line["failed"] == serde_json::json!([])).collect();
    assert!(complete.len() >= 5, "{replayed:?}");
    let refused = |line: &&Value| line["failed"][0]["reason"].to_string().contains("exception 4");
    assert!(replayed.iter().any(|line| refused(&line)), "{replayed:?}");
    // Nothing was sent, so the queue has every one of them.
    let values =
        |line: &Value| (line["i"].to_string(), line["a"].to_string(), line["s"].to_string());
    let stored: BTreeSet<_> =
        lines(&bench.agent.run(&["queue", "export"])).iter().map(values).collect();
    for line in &complete {
        assert!(stored.contains(&values(line)), "{line} is not in the queue");
    }
    assert!(said.contains("reads recorded"), "{said}");
}

#[test]
fn a_recording_tells_what_another_configuration_would_have_read() {
    let bench = Bench::new();
    bench.agent.import_token();
    let daemon = bench.agent.start();
    eventually("some readings", || bench.site.readings(1) >= 3);
    bench.bundle();
    assert!(daemon.stop().success());
    let before = lines(&bench.replay(&["--json"]));

    // Fewer registers, in other blocks, with another factor, and some that nobody asked for.
    let other = r#"
[[modbus.unit]]
id = 1
source = "/other"
every = "1s"
property = [
    { name = "kilowatts", kind = "instantaneous", register = { table = "input", address = 0, type = "f32" }, multiply = 0.001 },
    { name = "high", kind = "instantaneous", register = { table = "input", address = 8, type = "u16" } },
    { name = "unknown", kind = "instantaneous", register = { table = "input", address = 17, type = "u32" } },
    { name = "elsewhere", kind = "instantaneous", register = { table = "holding", address = 0, type = "u16" } },
]
"#;
    bench.agent.configure(&(solarnet(&bench.sim) + &link(&bench.site) + other));
    let output = bench.replay(&["--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let after = lines(&output);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        let watts = before["i"]["watts"].as_f64().expect("watts");
        let kilowatts = after["i"]["kilowatts"].as_f64().expect("kilowatts");
        assert!((watts / 1000.0 - kilowatts).abs() < 1e-9, "{before} {after}");
        let failed = after["failed"].to_string();
        assert!(failed.contains("not recorded: input 17..18 (30018..30019)"), "{failed}");
        assert!(failed.contains("not recorded: holding 0 (40001)"), "{failed}");
    }
    assert!(said.contains("asks for registers that were not recorded: input 17..18"), "{said}");

    // The archive has its own configuration, under which everything is there.
    assert_eq!(lines(&bench.replay(&["--json", "--bundled"])), before);

    let nobody = other.replace("id = 1\n", "id = 9\n");
    bench.agent.configure(&(solarnet(&bench.sim) + &link(&bench.site) + &nobody));
    let output = bench.replay(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("the recording holds unit 1 on cabinet"), "{said}");
    assert_eq!(bench.replay(&["--source", "/none"]).status.code(), Some(64));
    let config = bench.agent.config();
    let output = bench.agent.run(&["replay", config.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
}
