//! libFuzzer on the targets of `fuzz/targets`, as long as one likes.
//!
//! Everything is built anew for it, with coverage (`fuzz/.cargo/config.toml`): that takes minutes the first
//! time, so it is no part of `cargo xtask test`, which runs the targets without it.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::run::{cargo, root, run_in};

/// Without a number, each target runs for a minute.
const SECONDS: &str = "60";

/// `[--seconds N] [TARGET]`; without a target, one after the other.
pub(crate) fn fuzz(arguments: &[&str]) -> Result<(), String> {
    let (seconds, rest) = match arguments {
        ["--seconds", seconds, rest @ ..] => (*seconds, rest),
        rest => (SECONDS, rest),
    };
    if seconds.parse::<u32>().is_err() {
        return Err(format!("--seconds takes a whole number, not {seconds:?}"));
    }
    let known = targets()?;
    let wanted = match rest {
        [] => known,
        [one] if known.iter().any(|name| name == one) => vec![(*one).to_owned()],
        _ => return Err(format!("the targets are: {}", known.join(", "))),
    };
    let compiler = Command::new("c++").arg("--version").stdout(Stdio::null()).status();
    compiler
        .map_err(|error| format!("c++, which libFuzzer is built with: {error}; install `g++`"))?;
    wanted.iter().try_for_each(|name| one(name, seconds))
}

/// The targets are those that have seeds; a test of theirs compares.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/seeds");
    let entries =
        fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn one(name: &str, seconds: &str) -> Result<(), String> {
    let fuzz = root().join("fuzz");
    let (corpus, artifacts) = (format!("corpus/{name}"), format!("artifacts/{name}"));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(fuzz.join(folder)).map_err(|error| format!("fuzz/{folder}: {error}"))?;
    }
    let mut command = Command::new(cargo());
    // Where it runs decides the flags; those of the environment would take their place.
    command.env_remove("RUSTFLAGS").env("FUZZ_TARGET", name);
    command.args(["run", "--release", "--locked", "--quiet", "--", "-timeout=10"]);
    command.args([&format!("-max_total_time={seconds}"), "-rss_limit_mb=1024"]);
    command.args([&format!("-artifact_prefix={artifacts}/"), &corpus, &format!("seeds/{name}")]);
    run_in(&fuzz, &mut command).map_err(|error| format!("{name} (see fuzz/README.md): {error}"))
}
