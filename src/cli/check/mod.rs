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
    app,
    config::{self, ConfigError, Problem, Settings, Severity},
    credential::{Store, store::StoreError},
    needs::{self, Needs},
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
    /// {"note": why tokens were not looked at, "buses": [{bus, share, worst, fits, reply_ms, units}]}; with --diff also
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
    note: Option<&'a str>,
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
                let refused = app::rehearse(path, &loaded.settings);
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
        let note = settings.as_ref().and_then(not_looked_at);
        let note = note.as_deref();
        if self.json {
            let buses = budgets.map(|buses| buses.iter().map(bus::Named::json).collect());
            let report = Report { problems: &problems, note, buses, diff: changes };
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
            note.map(|note| writeln!(out, "note: {note}")).transpose()?;
            changes.map(|changes| write!(out, "{}", diff::render(changes))).transpose()?;
        }
        out.flush()?;
        let taken = changes.is_none_or(|changes| diff::refusals(changes).is_empty());
        Ok(if fine && taken { Exit::Ok } else { Exit::Config })
    }
}

/// Why nothing is said of tokens and certificates, where the configuration needs one.
fn not_looked_at(settings: &Settings) -> Option<String> {
    if !Needs::of(settings).is_any() && !needs::certificate(settings) {
        return None;
    }
    let folder = settings.state_dir.display();
    let why = if !settings.state_dir.is_dir() {
        format!("`state_dir` {folder} is not there yet")
    } else if let Err(StoreError::NotAllowed { .. }) = Store::new(&settings.state_dir, None).names()
    {
        format!("the credentials in `state_dir` {folder} are not yours to read")
    } else {
        return None;
    };
    Some(format!("{why}: tokens and certificates were not looked at"))
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
        let problem = problems.iter().find(|problem| problem["key"] == "solarnet.ca_file");
        let problem = problem.unwrap_or_else(|| panic!("{report}"));
        assert_eq!(problem["line"], 5);
        let found = problem["found"].as_str().expect("text");
        assert!(found.starts_with(&authorities.display().to_string()), "{found}");
        assert!(!found.contains("ca_file"), "{found}");
    }

    #[test]
    fn that_there_is_no_device_yet_is_a_note_and_no_warning() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, state) = (dir.path().join("agent.toml"), dir.path().join("state"));
        let text = format!("state_dir = {state:?}\n[node]\nid = 1\n[upload]\nvia = \"bulk\"\n");
        std::fs::write(&path, text).expect("written");
        let checked = || {
            let mut out = Vec::new();
            let check = Check { json: false, diff: false, daemon: Daemon::default() };
            let exit = check.run(&path, &mut out).expect("an output");
            let text = String::from_utf8(out).expect("text");
            assert_eq!(exit, Exit::Ok, "{text}");
            text
        };
        let (fresh, note) = (checked(), "is not there yet: tokens and certificates");
        assert!(fresh.contains(note) && !fresh.contains("is stored"), "{fresh}");
        std::fs::create_dir(&state).expect("made");
        let device = checked();
        assert!(!device.contains(note) && device.contains("no certificate is stored"), "{device}");
    }
}
