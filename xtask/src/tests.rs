//! Everything that must hold before a change lands.
//!
//! Tests that need root (they mount file systems, cut power, start system services) carry
//! `#[ignore = "needs root"]`, and nothing else is ignored: so `cargo test` alone leaves them out,
//! and everything that is ignored is run here. Who cannot be root says so, and is told by name what
//! was not run.

use std::{
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use crate::run::{cargo, root, run};

/// Installs what is missing, then runs format, lints, every test and the quickstart.
pub(crate) fn all(with_root: bool) -> Result<(), String> {
    if with_root && !is_root()? {
        return Err("some tests need root: run this as root, or with --without-root".to_owned());
    }
    run("sh", &["tests/setup.sh"])?;
    let cargo = cargo();
    run(&cargo, &["fmt", "--all", "--check"])?;
    run(&cargo, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    // One run names all that fails. Most tests of the whole agent wait for it most of the time.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = format!("--test-threads={}", 2 * cores);
    let mut arguments = vec!["test", "--workspace", "--locked", "--no-fail-fast", "--", &*threads];
    arguments.extend(with_root.then_some("--include-ignored"));
    run(&cargo, &arguments)?;
    crate::run::quickstart(&[])?;
    if !with_root {
        let left_out = ignored()?;
        left_out.iter().for_each(|name| println!("NOT RUN (needs root): {name}"));
        println!("NOT RUN: {} tests that need root", left_out.len());
    }
    Ok(())
}

fn is_root() -> Result<bool, String> {
    let process =
        std::fs::metadata("/proc/self").map_err(|error| format!("/proc/self: {error}"))?;
    Ok(process.uid() == 0)
}

/// The names of the tests that are ignored.
fn ignored() -> Result<Vec<String>, String> {
    let mut command = Command::new(cargo());
    command.args(["test", "--workspace", "--locked", "--quiet", "--", "--ignored", "--list"]);
    command.args(["--format", "terse"]).current_dir(root()).stderr(Stdio::inherit());
    let listed = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !listed.status.success() {
        return Err(format!("{command:?}: {}", listed.status));
    }
    let names = String::from_utf8_lossy(&listed.stdout);
    Ok(names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}
