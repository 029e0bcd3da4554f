//! `check`: says whether the daemon would start on this configuration, and if not, all that is
//! wrong; and whether the policy of its token, as it was last seen, allows what it needs.

use std::{io::Write, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{Exit, Failure};
use crate::{
    app::{self, AppError},
    config::{self, ConfigError, Problem, Settings, Severity},
    credential::Store,
    domain::Chain,
    needs::{Needs, stops},
    policy::{Member, Refused},
    refresh::calls::POLICY_PATH,
};

/// How long before a token stops `check` begins to say so.
const SOON: TimeDelta = TimeDelta::days(30);

/// Check the configuration and name everything that is wrong with it
///
/// Each complaint names the file, the line, the key, the value found and what would be right. The
/// exit code is 78 where something is wrong; warnings alone are fine.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  solarnode-agent check --config agent.toml")]
pub struct Check {
    /// Print JSON: {"problems": [{file, line, key, found, expected, severity}]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    problems: &'a [Problem],
}

impl Check {
    /// Checks the configuration `path` and its drop-ins.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or the output cannot be written. What is wrong in the files is the
    /// command's output, not its failure.
    pub fn run(self, path: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
        let (settings, problems) = match config::load(path) {
            Ok(loaded) => {
                let refused = app::rehearse(&loaded.settings);
                let refused = refused.iter().map(|(key, error)| problem(path, key, error));
                let token = token_problems(path, &loaded.settings, Utc::now());
                let problems = loaded.warnings.into_iter().chain(refused).chain(token).collect();
                (Some(loaded.settings), problems)
            }
            Err(ConfigError::Invalid(problems)) => (None, problems),
            Err(error @ ConfigError::Unreadable { .. }) => return Err(error.into()),
        };
        let fine = problems.iter().all(|p| p.severity == Severity::Warning);
        if self.json {
            let report = serde_json::to_string_pretty(&Report { problems: &problems });
            writeln!(out, "{}", report.map_err(std::io::Error::from)?)?;
        } else {
            for problem in &problems {
                writeln!(out, "{problem}")?;
            }
            if let Some(settings) = settings.filter(|_| fine) {
                writeln!(out, "{}: ok ({})", path.display(), summary(&settings))?;
            }
        }
        out.flush()?;
        Ok(if fine { Exit::Ok } else { Exit::Config })
    }
}

/// What is known here, without asking anybody, of the configured token's policy against what the
/// configuration needs. A store that is not ours to read says nothing.
fn token_problems(path: &Path, settings: &Settings, now: DateTime<Utc>) -> Vec<Problem> {
    let (store, name) = (Store::new(&settings.state_dir, None), &settings.solarnet.token);
    let Ok(Some(credential)) = store.load_stored(name) else { return Vec::new() };
    let Ok(Some(known)) = store.remembered(name, &credential.token_id) else { return Vec::new() };
    let policy = known.policy();
    let warning = |found: String, expected: String| Problem {
        file: path.display().to_string(),
        line: None,
        key: "solarnet.token".to_owned(),
        found,
        expected,
        severity: Severity::Warning,
    };
    let seen = known.seen.date_naive();
    let lacks = |refused: Refused| {
        warning(
            format!("\"{name}\" ({}): {refused} (as of {seen})", credential.token_id),
            "a policy that allows it; `solarnode-agent token check` asks SolarNetwork".to_owned(),
        )
    };
    let stops = stops(&credential, Some(&policy)).into_iter();
    let soon = stops.filter(|stop| stop.at < now + SOON).map(|stop| {
        let expected = "a token that goes on: see `solarnode-agent token check`".to_owned();
        warning(format!("\"{name}\": on {}, {}", stop.at.date_naive(), stop.because), expected)
    });
    let missing = Needs::of(settings).missing(&policy).into_iter();
    // What stands against renewing the key is among what stops.
    let missing = missing.filter(|refused| {
        refused.member != Member::RefreshAllowed && refused.wanted != POLICY_PATH
    });
    missing.map(lacks).chain(soon).collect()
}

/// What one of the daemon's parts says that could not be made of the settings.
fn problem(path: &Path, key: &str, error: &AppError) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: None,
        key: key.to_owned(),
        found: Chain(error).to_string(),
        expected: match error {
            AppError::Net(_) => "a PEM file of the authorities' certificates",
            _ => "units that can be read as the protocol has it",
        }
        .to_owned(),
        severity: Severity::Error,
    }
}

/// How much a configuration describes.
fn summary(settings: &Settings) -> String {
    let units = settings.modbus.iter().flat_map(|bus| &bus.units);
    let properties = units.clone().map(|unit| unit.properties.len()).sum();
    [
        count(settings.modbus.len(), "bus", "buses"),
        count(units.count(), "unit", "units"),
        count(properties, "property", "properties"),
        count(settings.controls.len(), "control", "controls"),
    ]
    .join(", ")
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
        let exit = Check { json: true }.run(&path, &mut out).expect("an output");
        let report: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(exit, Exit::Config);
        let problems = report["problems"].as_array().expect("problems");
        assert!(problems.iter().any(|p| p["key"] == "solarnet.ca_file"), "{report}");
    }
}
