//! What the file may say: keys, sections, and the reader that is driven by them.
//!
//! Each key is defined once, in the file of its section below `checked/`. That one definition
//! parses the value, bounds it, fills in the default, answers a misspelling with the nearest name,
//! and makes its row in `docs/configuration.md`.

use std::borrow::Cow;

use super::{
    problem::{Place, Problems},
    written::{self, Table, Value},
};

/// What values of one kind look like, and how they are read.
pub(super) trait Form: Sync {
    /// What a good value becomes.
    type Out;

    /// Reads a value, or says what would be right.
    fn read(&self, value: &Value) -> Result<Self::Out, Wrong>;

    /// The type, as the reference shows it.
    fn kind(&self) -> String;

    /// The unit, empty where there is none.
    fn unit(&self) -> &'static str {
        ""
    }

    /// The bounds or choices, empty where there are none.
    fn range(&self) -> String {
        String::new()
    }
}

/// Why a value does not fit its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What to show in place of the value, where the value says too little or must not be shown.
    pub(super) found: Option<String>,
    /// What would be right.
    pub(super) expected: String,
}

impl Wrong {
    /// The value is shown as it is.
    pub(super) fn expected(expected: impl Into<String>) -> Self {
        Self { found: None, expected: expected.into() }
    }
}

/// Whether a key must be there, and what holds where it is not. Defaults are written in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Left out is an error.
    Required,
    /// Left out means this value.
    Default(&'static str),
    /// Left out means what this text says.
    Optional(&'static str),
}

/// One key of a section.
#[derive(Debug)]
pub(super) struct Key<F> {
    pub(super) name: &'static str,
    pub(super) form: F,
    pub(super) presence: Presence,
    /// A value, written in TOML.
    pub(super) example: &'static str,
    /// One or two sentences for the person editing the file.
    pub(super) doc: &'static str,
}

/// A key without its type, as sections list them.
pub(super) trait Described: Sync {
    fn name(&self) -> &'static str;
    fn kind(&self) -> String;
    fn unit(&self) -> &'static str;
    fn range(&self) -> String;
    fn presence(&self) -> Presence;
    fn example(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    /// Whether the key would take this value.
    fn takes(&self, value: &Value) -> bool;
}

impl<F: Form> Described for Key<F> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn kind(&self) -> String {
        self.form.kind()
    }
    fn unit(&self) -> &'static str {
        self.form.unit()
    }
    fn range(&self) -> String {
        self.form.range()
    }
    fn presence(&self) -> Presence {
        self.presence
    }
    fn example(&self) -> &'static str {
        self.example
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn takes(&self, value: &Value) -> bool {
        self.form.read(value).is_ok()
    }
}

/// A table of the file: its keys and the tables inside it.
pub(super) struct Section {
    /// As it stands in the file, for example `[[modbus.unit]]`; empty for the file itself.
    pub(super) heading: &'static str,
    /// What it is for.
    pub(super) doc: &'static str,
    pub(super) keys: &'static [&'static dyn Described],
    pub(super) tables: &'static [Inner],
    /// Keys that somebody will try, and what to tell them.
    pub(super) refused: &'static [(&'static str, &'static str)],
}

/// A table inside another one.
pub(super) struct Inner {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) section: &'static Section,
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[name]`
    Header,
    /// `name = { … }`
    Inline,
    /// `[[name]]`, any number of times.
    Repeated,
}

/// Reads one table by its section, and complains about all that does not fit.
pub(super) struct Reader<'a> {
    table: &'a Table,
    section: &'static Section,
    problems: &'a Problems,
}

impl<'a> Reader<'a> {
    /// A reader of `table`. Keys that the section does not have are complained about here.
    pub(super) fn new(table: &'a Table, section: &'static Section, problems: &'a Problems) -> Self {
        let reader = Self::known(table, section, problems);
        for (name, _) in &table.entries {
            if !reader.names().any(|known| known == name) {
                reader.error(name, "an unknown key", reader.instead_of(name));
            }
        }
        reader
    }

    /// A reader of `table` that leaves unknown keys to somebody else.
    pub(super) fn known(
        table: &'a Table,
        section: &'static Section,
        problems: &'a Problems,
    ) -> Self {
        Self { table, section, problems }
    }

    /// The value of a key that must be there or has a default.
    pub(super) fn get<F: Form>(&self, key: &Key<F>) -> Option<F::Out> {
        if self.table.get(key.name).is_some() {
            return self.optional(key);
        }
        if let Presence::Default(default) = key.presence {
            let value = written::parse_value(default).and_then(|v| key.form.read(&v).ok());
            return Some(value.expect("a default fits its form: a test reads every one"));
        }
        let (kind, range) = (key.form.kind(), key.form.range());
        let form = if range.is_empty() { kind } else { format!("{kind}, {range}") };
        let expected = format!("{} = {}, for example ({form})", key.name, key.example);
        self.error(key.name, "nothing", expected);
        None
    }

    /// The value of a key that may be left out; `None` also after a complaint.
    pub(super) fn optional<F: Form>(&self, key: &Key<F>) -> Option<F::Out> {
        let node = self.table.get(key.name)?;
        match key.form.read(&node.value) {
            Ok(value) => Some(value),
            Err(Wrong { found, expected }) => {
                let found = found.unwrap_or_else(|| node.value.shown());
                self.error(key.name, found, expected);
                None
            }
        }
    }

    /// Whether a key or table is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.get(name).is_some()
    }

    /// The table `name`, if it is there and is a table.
    pub(super) fn table(&self, name: &str) -> Option<&'a Table> {
        let node = self.table.get(name)?;
        match &node.value {
            Value::Table(table) => Some(table),
            other => {
                let expected = match self.inner(name).shape {
                    Shape::Inline => format!("a table: {name} = {{ … }}"),
                    Shape::Header | Shape::Repeated => {
                        format!("a table under the heading {}", self.inner(name).section.heading)
                    }
                };
                self.error(name, other.shown(), expected);
                None
            }
        }
    }

    /// The table `name`; an empty one, where it would stand, if it is not there.
    pub(super) fn section(&self, name: &str) -> Cow<'a, Table> {
        match self.table(name) {
            Some(table) => Cow::Borrowed(table),
            None => Cow::Owned(Table { place: self.place(name), entries: Vec::new() }),
        }
    }

    /// The tables `name`, however many there are.
    pub(super) fn tables(&self, name: &str) -> Vec<&'a Table> {
        let Some(node) = self.table.get(name) else { return Vec::new() };
        let heading = self.inner(name).section.heading;
        let expected = || {
            format!(
                "tables under the heading {heading}, with two brackets, before the tables inside it"
            )
        };
        let Value::List(nodes) = &node.value else {
            self.error(name, node.value.shown(), expected());
            return Vec::new();
        };
        let key = self.place(name).key;
        let tables = nodes.iter().enumerate().filter_map(|(index, node)| match &node.value {
            Value::Table(table) => Some(table),
            other => {
                let place = node.place(format!("{key}[{index}]"));
                self.problems.error(&place, other.shown(), expected());
                None
            }
        });
        tables.collect()
    }

    /// Where a key stands; where it would stand, if it is not there.
    pub(super) fn place(&self, name: &str) -> Place {
        let place = self.table.place.of(name);
        match self.table.get(name) {
            Some(node) => node.place(place.key),
            None => place,
        }
    }

    /// The value of a key as a complaint shows it.
    pub(super) fn shown(&self, name: &str) -> String {
        self.table.get(name).map_or_else(|| "nothing".to_owned(), |node| node.value.shown())
    }

    /// Complains about a key.
    pub(super) fn error(&self, name: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.problems.error(&self.place(name), found, expected);
    }

    fn inner(&self, name: &str) -> &'static Inner {
        let found = self.section.tables.iter().find(|inner| inner.name == name);
        found.expect("only tables of the section are asked for")
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        let keys = self.section.keys.iter().map(|key| key.name());
        keys.chain(self.section.tables.iter().map(|inner| inner.name))
    }

    /// What to say about a key that is not one of ours. Its value is never shown: it may be a
    /// secret.
    fn instead_of(&self, name: &str) -> String {
        if let Some((_, say)) = self.section.refused.iter().find(|(known, _)| *known == name) {
            return (*say).to_owned();
        }
        let lower = name.to_ascii_lowercase();
        if ["secret", "password", "passwd", "private", "signing_key"]
            .iter()
            .any(|word| lower.contains(word))
        {
            return "no secret in this file; `solarnode-agent token import` keeps it".to_owned();
        }
        let near = nearest(&lower, self.names());
        near.map_or_else(
            || format!("a known one: {}", self.names().collect::<Vec<_>>().join(", ")),
            |near| format!("a known one: did you mean `{near}`?"),
        )
    }
}

/// The candidate most like `name`, if one is like it at all.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // A distance costs the product of the lengths; no key of ours is nearly so long.
    if name.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Every section with its keys, for tests and the reference: a section, then those inside it.
pub(super) fn sections(from: &'static Section) -> Vec<&'static Section> {
    let inner = from.tables.iter().flat_map(|inner| sections(inner.section));
    std::iter::once(from).chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::checked;

    #[test]
    fn every_default_and_example_is_taken_by_its_own_key() {
        for section in sections(&checked::FILE) {
            for key in section.keys {
                let place = format!("{} {}", section.heading, key.name());
                let takes =
                    |text: &str| written::parse_value(text).is_some_and(|value| key.takes(&value));
                assert!(takes(key.example()), "the example of {place}");
                if let Presence::Default(default) = key.presence() {
                    assert!(takes(default), "the default of {place}");
                }
            }
        }
    }

    #[test]
    fn a_misspelling_is_answered_with_the_nearest_name() {
        let names = || ["user_url", "query_url", "timeout"].into_iter();
        assert_eq!(nearest("user_ulr", names()), Some("user_url"));
        assert_eq!(nearest("time_out", names()), Some("timeout"));
        assert_eq!(nearest("flavour", names()), None);
        assert_eq!(nearest(&"user_url".repeat(1000), names()), None);
    }
}
