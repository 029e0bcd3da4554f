//! Everything that must hold before a change lands.

use std::{fs, path::PathBuf, process::Command};

use crate::run::{cargo, root, run, run_with};

/// Programs the tests talk to, and the Debian package each is in.
const TOOLS: [(&str, &str); 1] = [("mbpoll", "mbpoll")];

/// The Modbus server by others that the reader is tested against.
const PYMODBUS: &str = "pymodbus==3.16.1";

/// Installs what is missing, then runs format, lints, every test and the quickstart.
pub(crate) fn all() -> Result<(), String> {
    install_tools()?;
    install_pymodbus()?;
    let cargo = cargo();
    run(&cargo, &["fmt", "--all", "--check"])?;
    run(&cargo, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    run(&cargo, &["test", "--workspace", "--locked"])?;
    crate::run::quickstart(&[])
}

fn is_there(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn install_tools() -> Result<(), String> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let sudo = if is_there("sudo") { "sudo" } else { "env" };
    run(sudo, &["apt-get", "update", "-q"])
        .and_then(|()| {
            let install = ["apt-get", "install", "-y", "-q", "--no-install-recommends"];
            run(sudo, &[&install[..], &missing].concat())
        })
        .map_err(|error| format!("the tests need these Debian packages: {names} ({error})"))
}

/// A Python environment of the tests' own, below `target/`.
fn install_pymodbus() -> Result<(), String> {
    let venv: PathBuf = root().join("target/test-tools/venv");
    let done = venv.join("installed");
    if fs::read_to_string(&done).is_ok_and(|text| text == PYMODBUS) {
        return Ok(());
    }
    let need = |error: String| {
        format!(
            "the tests need Python 3 with venv and pip, for {PYMODBUS} (Debian: python3-venv): {error}"
        )
    };
    let mut make = Command::new("python3");
    run_with(make.args(["-m", "venv"]).arg(&venv)).map_err(need)?;
    let mut pip = Command::new(venv.join("bin/pip"));
    run_with(pip.args(["install", "--quiet", "--disable-pip-version-check", PYMODBUS]))
        .map_err(need)?;
    fs::write(&done, PYMODBUS).map_err(|error| format!("{}: {error}", done.display()))
}
