//! What the documentation says, held against the program: commands and their outputs, configurations, links, the
//! log's events, and the tests that requirements name.
//!
//! The commands of `README.md` and `docs/operations.md` are run in their order, on one box: a folder, the
//! simulator and its site. Those that would change this machine are not run, and each has its reason in
//! [`NOT_RUN`]; `systemctl start`, `stop` and `restart` do it to a daemon of the test's own. The quickstart is run
//! by `cargo xtask test`.

mod document;
mod loosely;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use chrono::Utc;
use document::{Shown, blocks, shown};
use solarnet_sim::{Authority, NodeCertificate, Seed, Sim, Site, Unit};
use solarnode_agent::config;

use crate::support::agent::{Agent, Daemon, eventually};

/// Commands that are shown and not run here, by their beginning without `sudo`.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo xtask quickstart", "`cargo xtask test` runs it after the tests"),
    ("cargo xtask test", "it is what runs this"),
    ("cargo build --release", "this test has the program already"),
    ("cargo run -p solarnet-sim", "the simulator runs inside this test"),
    ("systemd-sysusers", "makes a user on this machine; its file is tried below"),
    ("systemd-tmpfiles", "makes folders on this machine"),
    ("systemctl daemon-reload", "there need not be a systemd here"),
    (
        "systemctl enable --now solarnode-agent-reboot.path",
        "`tests/it/systemd.rs` does, in a box of its own",
    ),
    ("journalctl", "there need not be a journal here"),
    ("tar -C /var/lib", "the state is elsewhere here"),
];

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder with that ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Everything that people read.
fn documents() -> Vec<PathBuf> {
    let mut documents = files(&root().join("docs"), "md");
    documents
        .extend(["README.md", "CONTRIBUTING.md", "sim/README.md"].map(|name| root().join(name)));
    documents
}

/// The box that the documentation describes.
struct Place {
    sim: Sim,
    site: Site,
    agent: Agent,
    daemon: Option<Daemon>,
}

impl Place {
    fn new() -> Self {
        let seed = Seed::load(&root().join("sim/examples/seed.json")).expect("the example seed");
        let sim = Sim::start(seed).expect("the simulator");
        let site = Site::start(vec![Unit::meter(1), Unit::relay(3, 8)]).expect("the site");
        let place = Self { agent: Agent::new(""), sim, site, daemon: None };
        let example = place.here(&read(&root().join("examples/simulator.toml")));
        // The same box with a quicker life.
        let quick = example
            .replace("\nevery = \"10s\"", "\nevery = \"1s\"")
            .replace("\nevery = \"5s\"", "\nevery = \"1s\"")
            .replace("[solarnet]\n", "[solarnet]\nrequest_rate = \"20/s\"\n");
        place.agent.configure(&quick);
        place.agent.private_file("secret.txt", "not-a-real-secret-edge0001\n");
        place.agent.private_file("manager.txt", "not-a-real-secret-manager1\n");
        let authority = Authority::new().expect("an authority");
        let node = NodeCertificate::around(123, Utc::now());
        let node = authority.issue_node(&node).expect("a certificate");
        fs::create_dir(place.agent.path("nodes")).expect("a folder");
        place.agent.private_file("nodes/node-123.pem", &node.chain_pem());
        place.agent.private_file("nodes/node-123.key", &node.key_pem());
        place
    }

    /// Text with the addresses of this run instead of those that are shown.
    fn here(&self, text: &str) -> String {
        text.replace("127.0.0.1:8080", &self.sim.address().to_string())
            .replace("127.0.0.1:5020", &self.site.address().to_string())
            .replace("/usr/local/share/man/man1", &self.agent.path("").display().to_string())
    }

    /// Does what is shown, and compares what comes of it.
    fn follow(&mut self, shown: &Shown) {
        let at = &shown.at;
        let command = shown.command.strip_prefix("sudo ").unwrap_or(&shown.command);
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["solarnode-agent", ..] => self.run(shown, command),
            ["install", "-d", _] => {}
            ["install", rest @ ..] => {
                let from = rest.iter().find(|w| w.contains('/')).expect("a file to install");
                let there = from.starts_with("target/") || root().join(from).exists();
                assert!(there, "{at}: {from} is not in the repository");
            }
            ["systemctl", "stop", "solarnode-agent"] => self.stop(),
            ["systemctl", "enable", "--now", "solarnode-agent"] => {
                self.daemon = Some(self.agent.start());
                self.settle();
            }
            ["systemctl", "start" | "restart", "solarnode-agent"] => {
                self.stop();
                self.daemon = Some(self.agent.start());
            }
            _ => assert!(
                NOT_RUN.iter().any(|(beginning, _)| command.starts_with(beginning)),
                "{at}: nothing here runs `{command}`"
            ),
        }
    }

    fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            assert!(daemon.stop().success(), "the daemon stops cleanly");
        }
    }

    /// Waits for what the documentation shows some seconds after the start.
    fn settle(&self) {
        eventually("readings are proved", || {
            self.agent.status().is_some_and(|status| {
                status["upload"]["last_success"].is_string()
                    && status["instructions"]["last_poll"].is_string()
                    && status["credentials"][0]["next_attempt"].is_string()
            }) && self.sim.instruction(1).is_some_and(|i| i.state.name() == "Completed")
        });
    }

    fn run(&self, shown: &Shown, command: &str) {
        let program = Path::new(env!("CARGO_BIN_EXE_solarnode-agent"));
        let folder = program.parent().expect("the program is in a folder");
        let config = self.agent.config();
        let output = Command::new("sh")
            .args(["-c", &self.here(command)])
            .current_dir(self.agent.path(""))
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
            .env("SOLARNODE_CONFIG", &config)
            .output()
            .expect("a shell");
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .replace(&config.display().to_string(), "/etc/solarnode-agent/agent.toml")
                .replace(&self.agent.state_dir().display().to_string(), "/var/lib/solarnode-agent")
        };
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{}: `{command}`: {printed}", shown.at);
        let alike = if command.contains("queue peek") {
            // How many still stand in the files depends on the moment.
            loosely::each_is_among(&shown.output, &printed)
        } else {
            loosely::same(&shown.output, &printed)
        };
        assert!(
            alike,
            "{}: `{command}` prints\n{printed}\nand the documentation shows\n{}",
            shown.at, shown.output
        );
    }
}

#[test]
fn every_command_shown_does_what_is_shown() {
    let mut place = Place::new();
    let mut commands = 0;
    for path in [root().join("README.md"), root().join("docs/operations.md")] {
        for shown in shown(&path, &read(&path)) {
            place.follow(&shown);
            commands += usize::from(shown.command.contains("solarnode-agent "));
        }
    }
    assert!(commands >= 15, "only {commands} commands were found");
}

#[test]
fn every_reason_for_not_running_a_command_is_needed() {
    let all: Vec<Shown> = ["README.md", "docs/operations.md", "docs/logging.md"]
        .iter()
        .flat_map(|name| shown(&root().join(name), &read(&root().join(name))))
        .collect();
    for (beginning, _) in NOT_RUN {
        let used = all.iter().any(|shown| {
            shown.command.strip_prefix("sudo ").unwrap_or(&shown.command).starts_with(beginning)
        });
        assert!(used, "nothing shows `{beginning}`");
    }
}

#[test]
fn sections_open_with_their_one_command() {
    let readme = read(&root().join("README.md"));
    for (section, command) in
        [("Quickstart", "cargo xtask quickstart"), ("Tests", "cargo xtask test")]
    {
        let opening = format!("## {section}\n\n```console\n$ {command}\n```\n");
        assert!(readme.contains(&opening), "`## {section}` does not open with `{command}`");
    }
}

#[test]
fn the_configuration_in_the_readme_is_the_example() {
    let example = read(&root().join("examples/simulator.toml"));
    let (_, example) = example.split_once("\n\n").expect("a comment, then the configuration");
    let readme = read(&root().join("README.md"));
    let shown = blocks(&readme).find(|block| block.language == "toml").expect("a block of TOML");
    assert_eq!(shown.text, example);
}

#[test]
fn every_block_of_toml_and_json_is_right() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("agent.toml");
    fs::write(dir.path().join("ca.pem"), "").expect("a file that blocks name");
    for document in documents() {
        let text = read(&document);
        for block in blocks(&text) {
            let at = format!("{}:{}", document.display(), block.line);
            match block.language {
                "toml" => {
                    fs::write(&path, block.text).expect("written");
                    let loaded =
                        config::load(&path).unwrap_or_else(|error| panic!("{at}: {error}"));
                    // A block may show a part that reads nothing.
                    let other = loaded.warnings.iter().find(|warning| warning.key != "modbus");
                    assert_eq!(other, None, "{at}");
                }
                "json" => {
                    let value = serde_json::from_str::<serde_json::Value>(block.text);
                    value.unwrap_or_else(|error| panic!("{at}: {error}"));
                }
                _ => {}
            }
        }
    }
}

/// Whatever stands in backticks and begins with the program's name, and every command of a block.
#[test]
fn every_command_named_anywhere_exists() {
    let mut named = BTreeSet::new();
    for document in documents() {
        let text = read(&document);
        for (at, _) in text.match_indices("solarnode-agent ") {
            if !text[..at].ends_with(['`', '$', ' ']) {
                continue;
            }
            let words = text[at..].split_whitespace().skip(1).take(2);
            let path: Vec<String> = words
                .take_while(|w| !w.ends_with('\n'))
                .map(|w| w.trim_end_matches(['`', '.', ',', ';', ':', ')']).to_owned())
                .take_while(|w| is_command(w))
                .collect();
            named.insert(path);
        }
    }
    assert!(named.len() >= 12, "only {named:?} were found");
    for path in named {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solarnode-agent"));
        let output = command.args(&path).arg("--help").output().expect("the program runs");
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "solarnode-agent {path:?} --help");
        assert!(help.contains("Example:\n  solarnode-agent "), "no example: {path:?}");
    }
}

/// A word that is a command, and not the rest of a sentence.
fn is_command(word: &str) -> bool {
    let top = [
        "run",
        "check",
        "read",
        "status",
        "token",
        "files",
        "queue",
        "instruction",
        "bundle",
        "replay",
        "completions",
        "man",
    ];
    let below = [
        "import", "show", "check", "refresh", "forget", "sign", "stat", "peek", "export", "list",
        "create", "update", "policy", "enable", "disable", "delete", "put",
    ];
    top.contains(&word) || below.contains(&word)
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        let folder = document.parent().expect("a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let target = link.0.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(folder.join(target).exists(), "{}: {target}", document.display());
        }
    }
}

/// Each event's level, as the macro around it says.
fn events_in_the_sources() -> BTreeMap<String, String> {
    let mut events = BTreeMap::new();
    for file in files(&root().join("src"), "rs") {
        let text = read(&file);
        for (at, found) in text.match_indices("event = \"") {
            let name = text[at + found.len()..].split('"').next().expect("a quoted name");
            let macros = ["error", "warn", "info", "debug", "trace"];
            let level = macros.iter().max_by_key(|level| text[..at].rfind(&format!("{level}!(")));
            events.insert(name.to_owned(), level.expect("five levels").to_string());
        }
    }
    events
}

#[test]
fn the_log_has_every_event_with_its_level_and_no_other() {
    let text = read(&root().join("docs/logging.md"));
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeMap<String, String> = rows
        .filter_map(|row| {
            let mut cells = row.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            name.contains('.').then(|| (name.to_owned(), cells.next().unwrap_or("").to_owned()))
        })
        .collect();
    assert_eq!(documented, events_in_the_sources(), "docs/logging.md against src/");
}

#[test]
fn requirements_list_only_events_that_are_logged() {
    let events = events_in_the_sources();
    for file in files(&root().join("docs/spec"), "md") {
        let text = read(&file);
        let Some((_, table)) = text.split_once("## Events") else { continue };
        for row in table.lines().filter(|line| line.starts_with("| `")) {
            let (names, rest) = row[2..].split_once(" | ").expect("cells");
            for name in names.split('`').skip(1).step_by(2) {
                let level = events.get(name);
                let level = level.unwrap_or_else(|| panic!("{}: `{name}`", file.display()));
                let told = rest.split(" | ").next().expect("a level");
                assert_eq!(told, level, "{}: `{name}`", file.display());
            }
        }
    }
}

/// The names of all tests in the workspace's sources.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["src", "spool", "sim", "tests", "fuzz/targets"] {
        for file in files(&root().join(folder), "rs") {
            let text = read(&file);
            for attribute in ["#[test]\n", "#[tokio::test"] {
                for rest in text.split(attribute).skip(1) {
                    let name = rest.split_once("fn ").map_or("", |(_, rest)| rest);
                    let name = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
                    names.extend(name.map(str::to_owned));
                }
            }
        }
    }
    names
}

#[test]
fn every_requirement_has_a_number_of_its_own_and_names_a_test_that_exists() {
    let tests_that_exist = tests();
    let mut requirements = 0;
    for file in files(&root().join("docs/spec"), "md") {
        let mut next = 1;
        for row in read(&file).lines().filter_map(|line| line.strip_prefix("| [")) {
            let Some((number, rest)) = row.split_once("] | ") else { continue };
            // The list of files in the README has links in this place.
            if number.contains("](") {
                continue;
            }
            let at = format!("{}: [{number}]", file.display());
            let (_, n) = number.rsplit_once('-').unwrap_or_else(|| panic!("{at}: no number"));
            assert_eq!(n.parse(), Ok(next), "{at}: numbers rise by one");
            next += 1;
            requirements += 1;
            let (_, tests) = rest.trim_end_matches(" |").rsplit_once(" | ").expect("three cells");
            let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "{at} names no test");
            for test in named {
                let name = test.rsplit("::").next().expect("a last part");
                let group = name == "tests" || name == "spool" || name.ends_with(".rs");
                assert!(
                    group || tests_that_exist.contains(name),
                    "{at}: there is no test `{test}`"
                );
            }
        }
    }
    assert!(requirements >= 100, "only {requirements} requirements were found");
}

/// The unit as shipped, but for the place of the program.
#[test]
fn systemd_understands_what_is_installed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let unit = read(&root().join("systemd/solarnode-agent.service"));
    let program = env!("CARGO_BIN_EXE_solarnode-agent");
    let unit = unit.replace("/usr/bin/solarnode-agent", program);
    let path = dir.path().join("solarnode-agent.service");
    fs::write(&path, unit).expect("written");
    for arguments in
        [&["verify", "--man=no"][..], &["security", "--offline=true", "--threshold=20"]]
    {
        let output = Command::new("systemd-analyze").args(arguments).arg(&path).output();
        let output = output.expect("systemd-analyze is there: apt-get install systemd");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
    for (tool, file) in [
        (&["systemd-sysusers", "--dry-run"][..], "systemd/solarnode-agent.sysusers"),
        (&["systemd-tmpfiles", "--cat-config"], "systemd/solarnode-agent.tmpfiles"),
    ] {
        let output = Command::new(tool[0]).args(&tool[1..]).arg(root().join(file)).output();
        let output = output.expect("systemd is there: apt-get install systemd");
        assert!(output.status.success(), "{tool:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
