//! `instruction list|show`: what this node was asked to do, and what came of it.
//!
//! Reads the journal's files and changes nothing, so it works whether the daemon runs or not.

use std::{io, io::Write, path::Path};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, Failure};
use crate::{
    domain::{InstructionId, number::plain, utc},
    instruct::{
        journal::{self, Contents, JournalError},
        outcome::{Code, readable},
        record::Record,
        server::Way,
    },
};

/// Look into the journal of instructions, also while the daemon runs
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent instruction list")]
pub struct Instruction {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the instructions this node remembers, by ID
    ///
    /// The exit code is 65 where an entry of the journal is damaged.
    #[command(after_help = "Example:\n  solarnode-agent instruction list")]
    List {
        /// Print JSON: {"instructions": […], "damaged": [id, …]}
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of one instruction
    #[command(after_help = "Example:\n  solarnode-agent instruction show 12345")]
    Show {
        /// The instruction's number, as the server gave it
        #[arg(value_name = "ID", value_parser = parse_id)]
        id: i64,
        /// Print the journal's entry as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Listing<'a> {
    instructions: Vec<&'a Record>,
    damaged: Vec<i64>,
}

fn parse_id(text: &str) -> Result<i64, &'static str> {
    text.parse()
        .map_err(|_| "an instruction's ID is a whole number, as `instruction list` shows it")
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Io,
        };
        Self { exit, error: error.into() }
    }
}

impl Instruction {
    /// Prints what was asked for from the journal below `state_dir`.
    ///
    /// # Errors
    ///
    /// If the journal cannot be read, has no such instruction, or the output cannot be written.
    pub fn run(self, state_dir: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
        let contents = journal::read(&journal::folder(state_dir))?;
        let exit = match self.what {
            What::List { json } => list(&contents, json, out)?,
            What::Show { id, json } => show(&contents, InstructionId(id), json, out)?,
        };
        out.flush()?;
        Ok(exit)
    }
}

fn list(contents: &Contents, json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
    if json {
        let listing = Listing {
            instructions: contents.records.values().collect(),
            damaged: contents.damaged.iter().map(|(id, _)| id.0).collect(),
        };
        let text = serde_json::to_string_pretty(&listing).map_err(io::Error::from)?;
        writeln!(out, "{text}")?;
    } else if contents.records.is_empty() && contents.damaged.is_empty() {
        writeln!(out, "no instructions")?;
    } else {
        writeln!(
            out,
            "{:>12}  {:<9}  {:<20}  {:<5}  {:<32}  OUTCOME",
            "ID", "STATE", "WHEN", "BY", "WHAT"
        )?;
        for record in contents.records.values() {
            let when = record.ended.or(record.execution_date).or(record.started);
            writeln!(
                out,
                "{:>12}  {:<9}  {:<20}  {:<5}  {:<32}  {}",
                record.id,
                record.state.told().name(),
                when.map(utc).unwrap_or_default(),
                record.way.map_or("", Way::name),
                what(record),
                record.message.as_deref().map(readable).unwrap_or_default(),
            )?;
        }
        for (id, error) in &contents.damaged {
            writeln!(out, "{id:>12}  damaged: {error}")?;
        }
    }
    Ok(if contents.damaged.is_empty() { Exit::Ok } else { Exit::Data })
}

fn show(
    contents: &Contents,
    id: InstructionId,
    json: bool,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    if let Some((_, error)) = contents.damaged.iter().find(|(damaged, _)| *damaged == id) {
        let message = format!("the journal's entry of instruction {id} is damaged: {error}");
        return Err(Failure::new(Exit::Data, message));
    }
    let Some(record) = contents.records.get(&id) else {
        let message =
            format!("instruction {id} is not in the journal; `instruction list` shows what is");
        return Err(Failure::new(Exit::Usage, message));
    };
    if json {
        out.write_all(&record.to_json())?;
        return Ok(Exit::Ok);
    }
    let yes = |flag: bool| Some(if flag { "yes" } else { "no" }.to_owned());
    let ended = record.state.ending().is_some();
    let lines = [
        ("instruction", Some(record.id.to_string())),
        ("topic", Some(readable(&record.topic))),
        ("state", Some(record.state.told().name().to_owned())),
        ("came by", record.way.map(|way| way.name().to_owned())),
        ("given", record.instruction_date.map(utc)),
        ("to be done at", record.execution_date.map(utc)),
        ("not after", record.not_after.map(utc)),
        ("begun", record.started.map(utc)),
        ("ended", record.ended.map(utc)),
        ("control", record.control.as_ref().map(ToString::to_string)),
        ("before", record.before.map(plain)),
        ("wanted", record.wanted.map(plain)),
        ("after", record.after.map(plain)),
        ("code", record.code.map(|code: Code| code.name().to_owned())),
        ("message", record.message.as_deref().map(readable)),
        ("result", record.result.as_ref().map(ToString::to_string)),
        ("result stored", yes(record.reported).filter(|_| ended)),
        ("server knows", yes(record.acknowledged).filter(|_| ended)),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            writeln!(out, "{name:<14} {value}")?;
        }
    }
    Ok(Exit::Ok)
}

/// What was asked for, in few words.
fn what(record: &Record) -> String {
    match (&record.control, record.wanted) {
        (Some(control), Some(wanted)) => format!("{control} = {}", plain(wanted)),
        (Some(control), None) => format!("{} {control}", readable(&record.topic)),
        (None, _) => readable(&record.topic),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::instruct::{journal::Journal, state::Event};

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        instruction: Instruction,
    }

    async fn journal(dir: &Path) {
        let mut journal = Journal::open(dir).expect("open");
        let mut record = Record::new(InstructionId(7), "SetControlParameter");
        record.on(Event::Refuse).expect("a new one can be refused");
        let record = Record {
            control: Some("/relay".parse().expect("a source")),
            wanted: Some("2".parse().expect("a decimal")),
            ended: Some("2026-11-22T12:00:00Z".parse().expect("a date")),
            code: Some(Code::Limit),
            message: Some("2 is outside the 0 to 1 allowed".to_owned()),
            way: Some(Way::Mqtt),
            result: Some(serde_json::json!(["/relay"])),
            ..record
        };
        journal.put(record).await.expect("put");
    }

    fn run(dir: &Path, arguments: &[&str]) -> Result<(Exit, String), Failure> {
        let arguments = ["x"].iter().chain(arguments);
        let parsed = Arguments::try_parse_from(arguments).expect("arguments");
        let mut out = Vec::new();
        let exit = parsed.instruction.run(dir, &mut out)?;
        Ok((exit, String::from_utf8(out).expect("text")))
    }

    #[tokio::test]
    async fn the_list_has_one_line_an_instruction() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(run(dir.path(), &["list"]).expect("a list").1, "no instructions\n");
        journal(dir.path()).await;
        let (exit, text) = run(dir.path(), &["list"]).expect("a list");
        assert_eq!(exit, Exit::Ok);
        let line = text.lines().nth(1).expect("a line");
        let words: Vec<_> = line.split_whitespace().take(7).collect();
        assert_eq!(words, ["7", "Declined", "2026-11-22T12:00:00Z", "mqtt", "/relay", "=", "2"]);
        assert!(line.ends_with("2 is outside the 0 to 1 allowed"), "{line}");
    }

    #[test]
    fn an_instruction_without_a_value_is_named_by_its_topic() {
        let mut record = Record::new(InstructionId(7), "Signal");
        assert_eq!(what(&record), "Signal");
        record.control = Some("/relay".parse().expect("a source"));
        assert_eq!(what(&record), "Signal /relay");
    }

    #[tokio::test]
    async fn json_has_the_journals_own_members() {
        let dir = tempfile::tempdir().expect("a folder");
        journal(dir.path()).await;
        let (_, text) = run(dir.path(), &["list", "--json"]).expect("a list");
        let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let (_, text) = run(dir.path(), &["show", "7", "--json"]).expect("an instruction");
        let one: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(list["instructions"][0], one);
        assert_eq!((&one["id"], &one["wanted"]), (&7.into(), &"2".into()));
        assert_eq!((&one["state"], &one["code"]), (&"declined".into(), &"limit".into()));
    }

    #[tokio::test]
    async fn one_is_shown_in_words_and_an_unknown_one_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        journal(dir.path()).await;
        let (_, text) = run(dir.path(), &["show", "7"]).expect("an instruction");
        for line in
            ["code           limit\n", "came by        mqtt\n", "result         [\"/relay\"]\n"]
        {
            assert!(text.contains(line), "{text}");
        }
        let failure = run(dir.path(), &["show", "8"]).expect_err("unknown");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.error.to_string().contains("instruction 8"), "{:#}", failure.error);
    }

    #[tokio::test]
    async fn a_damaged_entry_is_listed_left_alone_and_ends_with_65() {
        let dir = tempfile::tempdir().expect("a folder");
        journal(dir.path()).await;
        let path = journal::folder(dir.path()).join("9.json");
        std::fs::write(&path, "{").expect("write");
        let (exit, text) = run(dir.path(), &["list"]).expect("a list");
        assert_eq!(exit, Exit::Data);
        assert!(text.contains("9  damaged"), "{text}");
        assert_eq!(run(dir.path(), &["show", "9"]).expect_err("damaged").exit, Exit::Data);
        assert_eq!(std::fs::read(&path).expect("still there"), b"{");
    }
}
