//! The configuration for somebody else's eyes: as written, without what may be a secret.
//!
//! Kept is only what is known to be none: a key of ours with a value that this key takes. So a password
//! under a name of its own, one in an address, one pasted where a name belongs, and whatever a comment
//! holds are left out, without anybody having to guess what secrets look like. Everything else stays
//! where it stood, so that line numbers in complaints still fit:
//!
//! ```text
//! # our token is hunter2               #[removed]
//! [solarnet]                           [solarnet]
//! token = "site"                  →    token = "site"
//! user_url = "https://me:hunter2@h"    user_url = "[removed]"
//! password = "hunter2"                 password = "[removed]"
//! ```
//!
//! A file that is not TOML is left out as a whole. That somebody calls a token by its secret, no rule
//! can tell; whoever sends the text on compares it with the secrets of this device as well.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, checked, merged,
    problem::join,
    schema::{Described, Section},
    written::{self, Node, Table, Value},
};

/// In place of what was removed.
const REMOVED: &str = "[removed]";

/// A file of the configuration, or why it is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The file.
    pub path: PathBuf,
    /// Its text; `None` where it is not TOML.
    pub text: Option<String>,
    /// Values and comments that were removed.
    pub removed: usize,
}

/// The file `path` and its drop-ins, each with what may be a secret removed.
///
/// # Errors
///
/// If one of them cannot be read.
pub fn redacted(path: &Path) -> Result<Vec<Redacted>, ConfigError> {
    let mut files = vec![path.to_owned()];
    files.extend(merged::drop_ins(path)?);
    files
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).map_err(|source: io::Error| {
                ConfigError::Unreadable { path: path.clone(), source }
            })?;
            let (text, removed) = match std::str::from_utf8(&bytes).ok().and_then(redact) {
                Some((text, removed)) => (Some(text), removed),
                None => (None, 0),
            };
            Ok(Redacted { path, text, removed })
        })
        .collect()
}

/// Every value that holds, with its key and the file and line it comes from; one line each.
///
/// # Errors
///
/// If a file cannot be read or is not TOML.
pub fn effective(path: &Path) -> Result<String, ConfigError> {
    let mut lines = String::new();
    table_lines(&merged::read(path)?, Some(&checked::FILE), "", &mut lines);
    Ok(lines)
}

fn table_lines(table: &Table, section: Option<&'static Section>, at: &str, lines: &mut String) {
    for (name, node) in &table.entries {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match Known::find(section, name) {
            Known::Table(section) => match &node.value {
                Value::Table(table) => table_lines(table, Some(section), &at, lines),
                Value::List(nodes) => {
                    for (index, node) in nodes.iter().enumerate() {
                        let at = format!("{at}[{index}]");
                        match &node.value {
                            Value::Table(table) => table_lines(table, Some(section), &at, lines),
                            _ => line(&at, REMOVED, node, lines),
                        }
                    }
                }
                _ => line(&at, REMOVED, node, lines),
            },
            Known::Key(key) if key.takes(&node.value) => {
                line(&at, &written(&node.value), node, lines);
            }
            Known::Key(_) | Known::Nothing => line(&at, REMOVED, node, lines),
        }
    }
}

fn line(at: &str, value: &str, node: &Node, lines: &mut String) {
    lines.push_str(&format!("{at} = {value}  # {}:{}\n", node.file, node.line));
}

fn written(value: &Value) -> String {
    match value {
        Value::List(nodes) => {
            let values: Vec<String> = nodes.iter().map(|node| written(&node.value)).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Table(table) => {
            let entry = |(name, node): &(String, Node)| {
                format!("{} = {}", join("", name), written(&node.value))
            };
            let entries: Vec<String> = table.entries.iter().map(entry).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.shown(),
    }
}

/// What the schema knows under a name.
enum Known {
    Key(&'static dyn Described),
    Table(&'static Section),
    Nothing,
}

impl Known {
    fn find(section: Option<&'static Section>, name: &str) -> Self {
        let Some(section) = section else { return Self::Nothing };
        if let Some(key) = section.keys.iter().find(|key| key.name() == name) {
            return Self::Key(*key);
        }
        let inner = section.tables.iter().find(|inner| inner.name == name);
        inner.map_or(Self::Nothing, |inner| Self::Table(inner.section))
    }
}

/// The text without what may be a secret, and how much was removed; `None` where it is not TOML.
fn redact(text: &str) -> Option<(String, usize)> {
    let table = DeTable::parse(text).ok()?;
    let mut spans = Spans::default();
    spans.table(table.get_ref(), Some(&checked::FILE));
    Some(spans.apply(text))
}

/// The places of keys and values, each with whether it is kept.
#[derive(Default)]
struct Spans(Vec<(Range<usize>, bool)>);

impl Spans {
    fn table(&mut self, table: &DeTable<'_>, section: Option<&'static Section>) {
        for (key, value) in table {
            self.0.push((key.span(), true));
            match Known::find(section, key.get_ref()) {
                Known::Table(section) => self.value(value, Some(section), false),
                Known::Key(key) => {
                    let raw = written::placeless(value.get_ref().clone());
                    self.value(value, None, key.takes(&raw));
                }
                Known::Nothing => self.value(value, None, false),
            }
        }
    }

    fn value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        section: Option<&'static Section>,
        keep: bool,
    ) {
        match value.get_ref() {
            // Names with a value each, which are a value together.
            DeValue::Table(table) if keep => {
                for (name, value) in table {
                    self.0.push((name.span(), true));
                    self.value(value, None, true);
                }
            }
            DeValue::Table(table) => self.table(table, section),
            DeValue::Array(values) => values.iter().for_each(|v| self.value(v, section, keep)),
            _ => self.0.push((value.span(), keep)),
        }
    }

    fn apply(mut self, text: &str) -> (String, usize) {
        self.0.sort_by_key(|(span, _)| span.start);
        let (mut out, mut at, mut removed) = (String::with_capacity(text.len()), 0, 0);
        for (span, keep) in self.0 {
            // The headers of a table may be reported more than once.
            if span.start < at {
                continue;
            }
            removed += between(&text[at..span.start], &mut out);
            if keep {
                out.push_str(&text[span.clone()]);
            } else {
                out.push_str(&format!("\"{REMOVED}\""));
                // The lines below stay where they were.
                out.extend(text[span.clone()].chars().filter(|c| *c == '\n'));
                removed += 1;
            }
            at = span.end;
        }
        removed += between(&text[at..], &mut out);
        (out, removed)
    }
}

/// Copies what stands between keys and values, without the words of comments.
fn between(text: &str, out: &mut String) -> usize {
    let mut removed = 0;
    for line in text.split_inclusive('\n') {
        match line.split_once('#') {
            Some((before, comment)) if !comment.trim().is_empty() => {
                out.push_str(before);
                out.push('#');
                out.push_str(REMOVED);
                out.push_str(if comment.ends_with('\n') { "\n" } else { "" });
                removed += 1;
            }
            _ => out.push_str(line),
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLANTED: &str = r#"# our token is hunter2
state_dir = "/var/lib/x"            # hunter2
password = "hunter2"
"hunter # not a comment" = 1
[solarnet]
user_url = "https://me:hunter2@example.com"
query_url = "https://example.com/solarquery?key=hunter2"
token = "site"
secret = """
hunter2
hunter2"""
[node]
id = 7
[[modbus]]
name = "a#b"
tcp = "me:hunter2@192.0.2.7"
keys = ["hunter2", { deep = "hunter2" }]
[[modbus.unit]]
id = 1
source = "/a"
every = '10s'
tags = [
    "one", # hunter2
    "two",
]
[hunter]
any = ["hunter2"]
[[hunter.list]]
any = 0xdead
"#;

    #[test]
    fn only_what_a_key_of_ours_takes_is_left_and_every_line_stays_where_it_was() {
        let (text, removed) = redact(PLANTED).expect("TOML");
        assert!(!text.contains("hunter2") && !text.contains("dead"), "{text}");
        assert_eq!(text.lines().count(), PLANTED.lines().count(), "{text}");
        for kept in [
            "state_dir = \"/var/lib/x\"            #[removed]\npassword = \"[removed]\"\n",
            "\"hunter # not a comment\" = \"[removed]\"\n[solarnet]\nuser_url = \"[removed]\"\n",
            "token = \"site\"\n",
            "name = \"a#b\"\ntcp = \"[removed]\"\nkeys = [\"[removed]\", { deep = \"[removed]\" }]\n",
            "every = '10s'\ntags = [\n    \"one\", #[removed]\n    \"two\",\n]\n[hunter]\n",
        ] {
            assert!(text.contains(kept), "{kept}\nis not in\n{text}");
        }
        assert_eq!(removed, 13);
        assert!(redact(&text).is_some(), "still TOML:\n{text}");
    }

    #[test]
    fn a_configuration_without_secrets_means_the_same_afterwards() {
        for name in ["agent.toml", "minimal.toml", "relay.toml", "simulator.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
            let text = std::fs::read_to_string(&path).expect("an example");
            let dir = tempfile::tempdir().expect("a temporary folder");
            let copy = dir.path().join("agent.toml");
            let (redacted, _) = redact(&text).expect("TOML");
            std::fs::write(&copy, redacted).expect("written");
            let values = |path: &Path| -> Vec<String> {
                let lines = effective(path).expect("a configuration");
                lines.lines().map(|l| l.split("  # ").next().unwrap_or(l).to_owned()).collect()
            };
            assert_eq!(values(&path), values(&copy));
            assert!(!values(&copy).concat().contains(REMOVED));
        }
    }

    #[test]
    fn numbers_with_names_are_kept_and_other_values_below_them_are_not() {
        let head = "[[control]]\nstates = ";
        let fine = format!("{head}{{ Normal = 1, Standby = 0 }}\nsignals = {{ open = 1 }}\n");
        assert_eq!(redact(&fine), Some((fine.clone(), 0)));
        let (text, removed) = redact(&format!("{head}{{ Normal = \"hunter2\" }}\n")).expect("TOML");
        assert!(!text.contains("hunter2") && removed == 1, "{text}");
    }

    #[test]
    fn what_holds_is_listed_with_its_place_and_without_secrets() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, PLANTED).expect("written");
        let text = effective(&path).expect("a configuration");
        assert!(!text.contains("hunter2"), "{text}");
        let file = path.display();
        assert!(
            text.contains(&format!("modbus[0].unit[0].every = \"10s\"  # {file}:21\n")),
            "{text}"
        );
        assert!(text.contains(&format!("password = [removed]  # {file}:3\n")), "{text}");
    }

    proptest! {
        /// Whatever the value of an unknown key or a comment is, it is not in the result.
        #[test]
        fn no_text_under_a_foreign_name_and_no_comment_survives(
            secret in "[a-zA-Z0-9+/=#'{}\\[\\] .-]{6,40}", name in "x[a-z]{0,8}",
        ) {
            let value = format!("\"{secret}\"");
            let text = format!("{name} = {value} # {secret}\n[solarnet]\n{name} = [ {value}, # {secret}\n ]\n");
            let (redacted, _) = redact(&text).expect("TOML");
            prop_assert!(!redacted.contains(&secret), "{}", redacted);
        }
    }
}
