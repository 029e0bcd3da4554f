//! What is wrong with a configuration, said so that the person at the keyboard can repair it.

use std::{cell::RefCell, fmt, sync::Arc};

use serde::Serialize;

/// Where a value stands: file, line, and the key as a person would point at it.
///
/// The indexes of a key count within its own file, so `modbus[0]` is the first `[[modbus]]` there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file as it was named.
    pub(super) file: Arc<str>,
    /// Counted from 1; `None` for the file as a whole.
    pub(super) line: Option<usize>,
    /// For example `modbus[0].unit[1].every`; empty for the file as a whole.
    pub(super) key: String,
}

impl Place {
    /// The place of `key` in the table that stands here.
    pub(super) fn of(&self, key: &str) -> Self {
        Self { key: join(&self.key, key), ..self.clone() }
    }

    /// `agent.toml:12`, to point at this place from another one.
    pub(super) fn file_and_line(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.to_string(),
        }
    }
}

/// The key `name` inside `table`, quoted where TOML would want it quoted.
pub(super) fn join(table: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name = if !name.is_empty() && name.chars().all(bare) {
        shorten(name)
    } else {
        format!("{:?}", shorten(name))
    };
    if table.is_empty() { name } else { format!("{table}.{name}") }
}

/// Long text cut to what fits a line of complaint.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a problem stops the daemon from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, and somebody should look.
    Warning,
}

/// One thing that is wrong, with what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// The key, for example `modbus[0].unit[1].every`; empty where the file as a whole is meant.
    pub key: String,
    /// What stands there.
    pub found: String,
    /// What would be right.
    pub expected: String,
    /// Whether it stops the daemon from starting.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, found, expected, severity } = self;
        f.write_str(file)?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        if *severity == Severity::Warning {
            f.write_str(": warning")?;
        }
        if !key.is_empty() {
            write!(f, ": {key}")?;
        }
        write!(f, ": found {found}, expected {expected}")
    }
}

/// Collects problems while a configuration is checked, so that one run names all of them.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Something that stops the daemon from starting.
    pub(super) fn error(
        &self,
        place: &Place,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.add(place, found.into(), expected.into(), Severity::Error);
    }

    /// Something that somebody should look at.
    pub(super) fn warning(
        &self,
        place: &Place,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.add(place, found.into(), expected.into(), Severity::Warning);
    }

    fn add(&self, place: &Place, found: String, expected: String, severity: Severity) {
        self.0.borrow_mut().push(Problem {
            file: place.file.to_string(),
            line: place.line,
            key: place.key.clone(),
            found,
            expected,
            severity,
        });
    }

    /// What a check made, with the warnings, or all problems where one of them is an error.
    ///
    /// A value beside an error is not used: it may be the default of a key that was misspelled.
    pub(super) fn judge<T>(self, made: Option<T>) -> Result<(T, Vec<Problem>), Vec<Problem>> {
        let problems = self.into_sorted();
        match made {
            Some(made) if problems.iter().all(|p| p.severity == Severity::Warning) => {
                Ok((made, problems))
            }
            _ => Err(problems),
        }
    }

    /// What was collected, in the order of the text.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_file_line_key_found_expected() {
        let mut problem = Problem {
            file: "agent.toml".to_owned(),
            line: Some(12),
            key: "modbus[0].unit[1].every".to_owned(),
            found: "\"10 sec\"".to_owned(),
            expected: "a duration".to_owned(),
            severity: Severity::Error,
        };
        assert_eq!(
            problem.to_string(),
            "agent.toml:12: modbus[0].unit[1].every: found \"10 sec\", expected a duration"
        );
        problem =
            Problem { line: None, key: String::new(), severity: Severity::Warning, ..problem };
        assert_eq!(
            problem.to_string(),
            "agent.toml: warning: found \"10 sec\", expected a duration"
        );
    }

    #[test]
    fn foreign_keys_are_quoted_and_cut() {
        assert_eq!(join("a", "b-c"), "a.b-c");
        assert_eq!(join("a", "b\nc"), "a.\"b\\nc\"");
        assert!(join("", &"ü".repeat(5000)).chars().count() < 70);
    }
}
