//! Everything that must hold before a change lands.

use crate::run::{cargo, run};

/// Installs what is missing, then runs format, lints, every test and the quickstart.
pub(crate) fn all() -> Result<(), String> {
    run("sh", &["tests/setup.sh"])?;
    let cargo = cargo();
    run(&cargo, &["fmt", "--all", "--check"])?;
    run(&cargo, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    run(&cargo, &["test", "--workspace", "--locked"])?;
    crate::run::quickstart(&[])
}
