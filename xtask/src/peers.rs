//! What the whole agent costs, and what is lost, beside other agents on the same work: builds what is ours and hands over
//! to `benches/peers/run.py`, which measures. The others have to be there: `benches/peers/setup.sh` installs them.

use crate::run::{cargo, root, run, target};

/// Runs all agents, or what the arguments choose.
pub(crate) fn peers(arguments: &[&str]) -> Result<(), String> {
    let python = target().join("peers/venv/bin/python");
    if !python.is_file() {
        return Err(format!("{} is missing: benches/peers/setup.sh makes it", python.display()));
    }
    run(&cargo(), &["build", "--release", "--locked", "--bin", "solarnode-agent"])?;
    run(&cargo(), &["build", "--locked", "--package", "solarnet-sim", "--example", "devices"])?;
    let script = root().join("benches/peers/run.py");
    let script = script.to_string_lossy();
    run(&python.to_string_lossy(), &[&[&*script], arguments].concat())
}
