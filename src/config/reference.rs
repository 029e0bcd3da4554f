//! `docs/configuration.md`, made from the same definitions that parse the file.

use std::fmt::Write;

use super::{
    checked,
    schema::{Described, Presence, Section, sections},
};

const HEAD: &str = include_str!("reference.md");

/// The reference of every key, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in sections(&checked::FILE) {
        add_section(&mut text, section);
    }
    text
}

fn add_section(text: &mut String, section: &Section) {
    let heading = match section.heading {
        "" => "At the top of the file".to_owned(),
        heading => format!("`{heading}`"),
    };
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    add(format!("\n### {heading}\n\n{}\n", section.doc));
    if section.keys.is_empty() {
        return;
    }
    add("| Key | Type | Unit | Default | Range | Example | Meaning |".to_owned());
    add("| --- | --- | --- | --- | --- | --- | --- |".to_owned());
    for key in section.keys {
        add(row(*key));
    }
    for inner in section.tables {
        if inner.section.heading.starts_with(inner.name) {
            let heading = inner.section.heading;
            add(format!("| `{}` | table | | required | | | `{heading}`, below |", inner.name));
        }
    }
}

fn row(key: &dyn Described) -> String {
    let default = match key.presence() {
        Presence::Required => "required".to_owned(),
        Presence::Default(default) => format!("`{default}`"),
        Presence::Optional(otherwise) => otherwise.to_owned(),
    };
    let mut row = String::from("|");
    for cell in [
        format!("`{}`", key.name()),
        key.kind(),
        key.unit().to_owned(),
        default,
        key.range(),
        format!("`{}`", key.example()),
        key.doc().to_owned(),
    ] {
        // Writing to a string cannot fail.
        let cell = if cell.is_empty() { cell } else { format!(" {}", cell.replace('|', "\\|")) };
        write!(row, "{cell} |").ok();
    }
    row
}
