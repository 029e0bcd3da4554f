//! `check`: says whether the daemon would start on this configuration, and if not, all that is
//! wrong; whether the policy of its token, as it was last seen, allows what it needs; and whether
//! what is to be read fits into the time of each bus.

mod bus;
mod diff;
mod files;
mod identity;
mod token;

use std::{io::Write, path::Path};

use chrono::Utc;
use serde::Serialize;
use serde_json::Value;

use super::{Exit, Failure, daemon::Daemon};
use crate::{
    app::{self, AppError},
    config::{self, ConfigError, Problem, Settings, Severity},
    domain::Chain,
};

/// Check the configuration and name everything that is wrong with it
///
/// Each complaint names the file, the line, the key, the value found and what would be right. The
/// exit code is 78 where something is wrong; warnings alone are fine.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  solarnode-agent check --config agent.toml\n  solarnode-agent check --diff && systemctl reload solarnode-agent"
)]
pub struct Check {
    /// Print JSON: {"problems": [{file, line, key, found, expected, severity}]}; if nothing is wrong also
    /// {"buses": [{bus, share, worst, fits, reply_ms, units}]}; with --diff also
    /// {"diff": {file, problems, needs_restart, changes: [{part, how, keys}]}}
    #[arg(long)]
    json: bool,
    /// Ask the running daemon what a reload would restart; 78 if it would refuse
    #[arg(long)]
    diff: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Serialize)]
struct Report<'a> {
    problems: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    buses: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<&'a Value>,
}

impl Check {
    /// Checks the configuration `path` and its drop-ins.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, the output cannot be written, or no daemon says what a reload would do.
    /// What is wrong in the files is the command's output, not its failure.
    pub fn run(self, path: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
        let (settings, problems) = match config::load(path) {
            Ok(loaded) => {
                let refused = app::rehearse(&loaded.settings);
                let refused = refused.iter().map(|(key, error)| problem(path, key, error));
                let token = token::problems(path, &loaded.settings, Utc::now());
                let files = files::problems(path, &loaded.settings, Utc::now());
                let identity = identity::problems(path, &loaded.settings, Utc::now());
                let budgets = bus::budgets(&loaded.settings);
                let buses = budgets.iter().enumerate().flat_map(|(i, bus)| bus.problems(path, i));
                let known = token.into_iter().chain(files).chain(identity).chain(buses);
                let problems = loaded.warnings.into_iter().chain(refused).chain(known).collect();
                (Some(loaded.settings), problems)
            }
            Err(ConfigError::Invalid(problems)) => (None, problems),
            Err(error @ ConfigError::Unreadable { .. }) => return Err(error.into()),
        };
        let fine = problems.iter().all(|p| p.severity == Severity::Warning);
        let settings = settings.filter(|_| fine);
        let asked = settings.is_some() && self.diff;
        let changes = asked.then(|| self.daemon.changes(path)).transpose()?;
        let changes = changes.as_ref();
        let budgets = settings.as_ref().map(bus::budgets);
        if self.json {
            let buses = budgets.map(|buses| buses.iter().map(bus::Named::json).collect());
            let report = Report { problems: &problems, buses, diff: changes };
            let report = serde_json::to_string_pretty(&report);
            writeln!(out, "{}", report.map_err(std::io::Error::from)?)?;
        } else {
            for problem in &problems {
                writeln!(out, "{problem}")?;
            }
            if let Some(settings) = &settings {
                writeln!(out, "{}: ok ({})", path.display(), summary(settings))?;
            }
            for line in budgets.iter().flatten().filter_map(bus::Named::line) {
                writeln!(out, "{line}")?;
            }
            changes.map(|changes| write!(out, "{}", diff::render(changes))).transpose()?;
        }
        out.flush()?;
        let taken = changes.is_none_or(|changes| diff::refusals(changes).is_empty());
        Ok(if fine && taken { Exit::Ok } else { Exit::Config })
    }
}

/// What one of the daemon's parts says that could not be made of the settings.
fn problem(path: &Path, key: &str, error: &AppError) -> Problem {
    let expected = match error {
        AppError::Net(_) => "a PEM file of the authorities' certificates",
        _ => "units that can be read as the protocol has it",
    };
    let found = Chain(error).to_string();
    problem_at(path, key.to_owned(), found, expected.to_owned(), Severity::Error)
}

/// A problem of which only the key is known, not the line.
fn problem_at(
    path: &Path,
    key: String,
    found: String,
    expected: String,
    severity: Severity,
) -> Problem {
    Problem { file: path.display().to_string(), line: None, key, found, expected, severity }
}

/// How much a configuration describes.
fn summary(settings: &Settings) -> String {
    let units = settings.modbus.iter().flat_map(|bus| &bus.units);
    let properties = units.clone().map(|unit| unit.properties.len()).sum();
    let mut parts = vec![
        count(settings.modbus.len(), "bus", "buses"),
        count(units.count(), "unit", "units"),
        count(properties, "property", "properties"),
        count(settings.controls.len(), "control", "controls"),
    ];
    if !settings.files.is_empty() {
        parts.push(count(settings.files.len(), "folder of files", "folders of files"));
    }
    parts.join(", ")
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_the_client_cannot_use_are_a_problem() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, authorities) = (dir.path().join("agent.toml"), dir.path().join("ca.pem"));
        std::fs::write(&authorities, "no certificate").expect("written");
        let text = "[node]\nid = 1\n[solarnet]\ntoken = \"site\"\nca_file = \"ca.pem\"\n";
        std::fs::write(&path, text).expect("written");
        let mut out = Vec::new();
        let check = Check { json: true, diff: false, daemon: Daemon::default() };
        let exit = check.run(&path, &mut out).expect("an output");
        let report: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(exit, Exit::Config);
        let problems = report["problems"].as_array().expect("problems");
        assert!(problems.iter().any(|p| p["key"] == "solarnet.ca_file"), "{report}");
    }
}
