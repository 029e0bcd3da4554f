//! Running other programs, from the workspace's root, with their output passed through.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var("CARGO_TARGET_DIR").map_or_else(|_| root().join("target"), PathBuf::from)
}

/// The cargo that runs this.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a program to its end; anything but success is an error that names the command.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    run_with(Command::new(program).args(arguments))
}

/// As [`run`], for a command that needs more than arguments.
pub(crate) fn run_with(command: &mut Command) -> Result<(), String> {
    run_in(&root(), command)
}

/// As [`run_with`], in another folder.
pub(crate) fn run_in(folder: &Path, command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    eprintln!("== {shown}");
    let status =
        command.current_dir(folder).status().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}")) }
}

/// Builds agent and simulator, then hands over to the simulator's quickstart.
pub(crate) fn quickstart(arguments: &[&str]) -> Result<(), String> {
    run(
        &cargo(),
        &["build", "--package", "solarnode-agent", "--package", "solarnet-sim", "--bins"],
    )?;
    let folder = std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .ok_or("the folder of the built programs is not known")?;
    let mut command = Command::new(folder.join("solarnet-sim"));
    command.arg("quickstart").arg("--agent").arg(folder.join("solarnode-agent")).args(arguments);
    run_with(&mut command)
}

/// Writes the generated documentation anew.
pub(crate) fn docs() -> Result<(), String> {
    let mut command = Command::new(cargo());
    command.args(["test", "--package", "solarnode-agent", "--test", "it", "config::"]);
    run_with(command.env("UPDATE_DOCS", "1"))
}
