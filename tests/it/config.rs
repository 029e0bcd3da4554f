//! `check` on folders of typical slips, the examples, the reference, and foreign bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use proptest::prelude::*;
use solarnode_agent::config::{self, ConfigError, Severity};

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `solarnode-agent` in `folder`, without anything of this environment that could change what it
/// says.
fn agent(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_solarnode-agent"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("SOLARNODE_CONFIG")
        // A device on which nothing was set up yet.
        .env("STATE_DIRECTORY", "/nonexistent")
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is text")
}

/// The entries of a folder, sorted.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be listed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Whether files that are made from the code are to be written instead of compared.
fn update() -> bool {
    env::var_os("UPDATE_DOCS").is_some()
}

/// Compares a file with what it should hold, or writes it.
fn assert_file(path: &Path, want: &str) {
    if update() {
        fs::write(path, want).expect("the file can be written");
        return;
    }
    let held = fs::read_to_string(path).unwrap_or_default();
    assert!(
        held == want,
        "{} is not what the code says; `UPDATE_DOCS=1 cargo test --test it config::` writes it. \
         The code says:\n{want}",
        path.display()
    );
}

/// Each folder of `tests/cases` has a `config.toml`, perhaps drop-ins, and `error.txt` or `ok.txt`
/// with exactly what `check` prints. A new case: its `config.toml`, and the file empty; then
/// `UPDATE_DOCS=1 cargo test --test it config::`, and read what it wrote.
#[test]
fn every_case_is_answered_word_for_word() {
    let cases = entries(&root().join("tests/cases"));
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    for case in cases {
        let output = agent(&case, &["check", "--config", "config.toml"]);
        let (error, ok) = (case.join("error.txt"), case.join("ok.txt"));
        let wrong = error.exists();
        assert!(wrong != ok.exists(), "{}: error.txt or ok.txt, one of them", case.display());
        assert_file(if wrong { &error } else { &ok }, text(&output.stdout));
        let want = if wrong { 78 } else { 0 };
        assert_eq!(output.status.code(), Some(want), "{}", case.display());
        assert_eq!(text(&output.stderr), "", "{}", case.display());
    }
}

#[test]
fn no_case_shows_a_secret() {
    let case = root().join("tests/cases/secrets-are-not-shown");
    let held = fs::read_to_string(case.join("config.toml")).expect("the case");
    assert!(held.contains("hunter2"), "the case has lost its secret");
    for arguments in
        [&["check", "-c", "config.toml"][..], &["check", "-c", "config.toml", "--json"]]
    {
        let output = agent(&case, arguments);
        assert!(!text(&output.stdout).contains("hunter2"));
        assert!(!text(&output.stderr).contains("hunter2"));
    }
}

#[test]
fn json_has_the_members_that_scripts_rely_on() {
    let case = root().join("tests/cases/duration-with-unknown-unit");
    let output = agent(&case, &["check", "--json", "--config", "config.toml"]);
    assert_eq!(output.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        report,
        serde_json::json!({"problems": [{
            "file": "config.toml",
            "line": 11,
            "key": "modbus[0].unit[0].every",
            "found": "\"10 sec\"",
            "expected": "a duration such as \"10s\", between 100ms and 1d",
            "severity": "error",
        }]})
    );
    let case = root().join("tests/cases/ok-one-property");
    let output = agent(&case, &["check", "--json", "--config", "config.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let note =
        "`state_dir` /nonexistent is not there yet: tokens and certificates were not looked at";
    assert_eq!(
        report,
        serde_json::json!({"problems": [], "note": note, "buses": [{
            "bus": "b", "share": 0.002, "worst": 0.0625, "fits": true, "reply_ms": 20,
            "units": [{
                "source": "/m", "share": 0.002, "requests": 1, "reading_ms": 20.0, "every_ms": 10_000,
            }],
        }]})
    );
}

#[test]
fn a_file_that_is_not_there_is_named_with_the_way_to_name_another() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = agent(dir.path(), &["check", "--config", "missing.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stdout), "");
    let message = text(&output.stderr);
    assert!(message.contains("missing.toml") && message.contains("--config"), "{message}");
}

#[test]
fn every_example_is_right() {
    let examples = entries(&root().join("examples"));
    assert!(examples.len() >= 4);
    for example in examples {
        let loaded = config::load(&example).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.warnings, [], "{}", example.display());
    }
}

#[test]
fn the_reference_is_what_the_code_says() {
    assert_file(&root().join("docs/configuration.md"), &config::reference());
}

#[test]
fn every_block_of_toml_in_the_reference_is_right() {
    let reference = config::reference();
    let mut blocks = 0;
    let dir = tempfile::tempdir().expect("a temporary folder");
    for block in reference.split("```toml\n").skip(1) {
        let block = block.split("```").next().expect("a block ends");
        let path = dir.path().join("agent.toml");
        fs::write(&path, block).expect("write");
        config::load(&path).unwrap_or_else(|error| panic!("{error}\n{block}"));
        blocks += 1;
    }
    assert!(blocks > 0);
}

/// Loads `bytes` as a configuration.
fn load(bytes: &[u8]) -> Result<config::Loaded, ConfigError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("agent.toml");
    fs::write(&path, bytes).expect("write");
    config::load(&path)
}

/// Whatever the bytes are: settings, or at least one error.
fn assert_answered(bytes: &[u8]) {
    match load(bytes) {
        Ok(loaded) => assert!(loaded.warnings.iter().all(|p| p.severity == Severity::Warning)),
        Err(ConfigError::Invalid(problems)) => {
            assert!(problems.iter().any(|p| p.severity == Severity::Error));
            assert!(problems.iter().all(|p| !p.to_string().contains('\n')));
        }
        Err(error @ ConfigError::Unreadable { .. }) => panic!("{error}"),
    }
}

#[test]
fn absurd_files_are_answered_and_not_obeyed() {
    let deep = "[".repeat(100_000);
    let lists = format!("a = {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let dotted = format!("{}a = 1", "a.".repeat(50_000));
    let tables = format!("a = {}1{}", "{a = ".repeat(50_000), "}".repeat(50_000));
    let number = format!("[node]\nid = {}", "9".repeat(100_000));
    let key = format!("{} = 1", "k".repeat(1_000_000));
    let long = "#".repeat(5 << 20);
    for absurd in [&deep, &lists, &dotted, &tables, &number, &key, &long] {
        assert_answered(absurd.as_bytes());
    }
    assert_answered(b"\xff\xfe");
    assert_answered(b"\0");
    assert_answered("\u{feff}[node]\nid = 1".as_bytes());
}

/// Pieces that people and accidents put where they do not belong.
const PIECES: [&str; 24] = [
    "[[modbus]]\n",
    "[modbus]\n",
    "\n",
    "\"",
    "'",
    "=",
    "0x",
    "-1",
    "nan",
    "1e400",
    "\"10s\"",
    "{",
    "}",
    "[",
    "]",
    "bit = 3\n",
    "mask = 0\n",
    "number = 1\n",
    "99999999999999999999999999",
    "ä",
    "\u{0}",
    "invalid = [0x8000]\n",
    "1979-05-27",
    "multiply = 1e-28\n",
];

/// Values that are right for few keys.
const VALUES: [&str; 25] = [
    "0",
    "-1",
    "255",
    "65535",
    "65536",
    "18446744073709551615",
    "0xFFFFFFFFFFFFFFFFFF",
    "1.5",
    "inf",
    "nan",
    "1e-400",
    "79228162514264337593543950335",
    "-79228162514264337593543950335",
    "0.0000000000000000000000000001",
    "true",
    "\"\"",
    "\"x\"",
    "\"0s\"",
    "\"1d\"",
    "[]",
    "[1]",
    "[[]]",
    "{}",
    "{ a = 1 }",
    "1979-05-27T07:32:00Z",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mangled_files_never_panic(
        which in 0..3_usize,
        cuts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..20_usize, 0..PIECES.len()),
            1..6,
        ),
    ) {
        let example = ["agent.toml", "relay.toml", "sparse-map.toml"][which];
        let mut bytes = fs::read(root().join("examples").join(example)).expect("the example");
        for (at, removed, piece) in cuts {
            let start = at.index(bytes.len() + 1);
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, PIECES[piece].bytes());
        }
        assert_answered(&bytes);
    }

    #[test]
    fn values_of_any_kind_under_any_key_never_panic(
        which in 0..3_usize,
        line in any::<prop::sample::Index>(),
        value in prop::sample::select(&VALUES[..]),
    ) {
        let example = ["agent.toml", "relay.toml", "sparse-map.toml"][which];
        let held = fs::read_to_string(root().join("examples").join(example)).expect("the example");
        let mut lines: Vec<_> = held.lines().map(str::to_owned).collect();
        let keys: Vec<_> = (0..lines.len()).filter(|at| lines[*at].contains(" = ")).collect();
        let at = keys[line.index(keys.len())];
        let (key, _) = lines[at].split_once(" = ").expect("it has one");
        lines[at] = format!("{key} = {value}");
        assert_answered(lines.join("\n").as_bytes());
    }
}
