//! The journal's catalog: made of the table in `docs/logging.md`, so that `journalctl -x` says what the
//! documentation says. `UPDATE_DOCS=1 cargo test --test it catalog::` writes it anew.

use std::{fs, path::Path, process::Command};

use solarnode_agent::observe::journal::message_id;

/// A row of the documentation's tables.
struct Event {
    name: String,
    fields: Vec<String>,
    means: String,
    remedy: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn events() -> Vec<Event> {
    let text = fs::read_to_string(root().join("docs/logging.md")).expect("the documentation");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix('|'));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [name, _level, fields, means, remedy] = cells[..] else { return None };
        Some(Event {
            name: name.trim_end_matches('`').to_owned(),
            fields: fields.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
            means: plain(means),
            remedy: plain(remedy),
        })
    })
    .collect()
}

/// Text without what makes links and code of it.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("](") {
        let (words, label) = before.rsplit_once('[').expect("a link has a beginning");
        let (_, after) = link.split_once(')').expect("a link has an end");
        plain += &format!("{words}{label}");
        rest = after;
    }
    (plain + rest).replace('`', "")
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

/// Words in lines of at most 78 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= 78 {
            *last += &format!(" {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn catalog() -> String {
    let mut text = "\
# What journalctl -x says about each event of solarnode-agent. Made of docs/logging.md by
# `UPDATE_DOCS=1 cargo test --test it catalog::`; an ID is made of the event's name.
"
    .to_owned();
    for Event { name, fields, means, remedy } in events() {
        text += &format!(
            "\n-- {}\nSubject: {name}\nDefined-By: solarnode-agent\nDocumentation: man:solarnode-agent(1)\n\n",
            message_id(&name)
        );
        text += &wrapped(&sentence(&means));
        let remedy = match remedy.strip_prefix("nothing") {
            Some(rest) => format!("Nothing has to be done{rest}."),
            None => format!("What to do: {}", sentence(&remedy)),
        };
        text += &format!("\n{}", wrapped(&remedy));
        if !fields.is_empty() {
            text.push('\n');
        }
        for field in fields {
            text += &format!("  {field}: @SOLARNODE_{}@\n", field.to_uppercase());
        }
    }
    text
}

#[test]
fn the_catalog_explains_every_event_of_the_log_and_no_other() {
    let path = root().join("systemd/solarnode-agent.catalog");
    let catalog = catalog();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &catalog).expect("written");
    }
    let shipped = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(shipped, catalog, "UPDATE_DOCS=1 cargo test --test it catalog:: makes it anew");
    assert!(events().len() >= 50, "only {} events were found", events().len());
}

#[test]
fn the_journal_takes_the_catalog() {
    let box_root = tempfile::tempdir().expect("a temporary folder");
    let folder = box_root.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&folder).expect("a folder");
    fs::create_dir_all(box_root.path().join("var/lib/systemd/catalog")).expect("a folder");
    let shipped = root().join("systemd/solarnode-agent.catalog");
    fs::copy(shipped, folder.join("solarnode-agent.catalog")).expect("copied");
    let journalctl = |arguments: &[&str]| {
        let mut command = Command::new("journalctl");
        command.arg(format!("--root={}", box_root.path().display())).args(arguments);
        let output = command.output().expect("journalctl is there: apt-get install systemd");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    };
    journalctl(&["--update-catalog"]);
    let known = journalctl(&["--list-catalog"]);
    for event in events() {
        let line = format!("{} solarnode-agent: {}", message_id(&event.name), event.name);
        assert!(known.contains(&line), "{line} is not in\n{known}");
    }
    let shown = journalctl(&["--dump-catalog", &message_id("source.down")]);
    assert!(shown.contains("What to do: Power, cable"), "{shown}");
}
