//! `status`: asks the running daemon how everything is.

use std::{io::Write, path::Path};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{Exit, Failure, daemon::Daemon};
use crate::observe::control::Ask;

/// Ask the running daemon: sources, queue, uploads, clock, credentials, instructions
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  solarnode-agent status --json | jq .queue.records")]
pub struct Status {
    /// Print JSON: {sources, queue, upload, clock, credentials, instructions, config}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

impl Status {
    /// Asks the daemon that runs on the file `config` and prints the answer.
    ///
    /// # Errors
    ///
    /// With 69 if no daemon answers, 77 if it is not ours to ask, 78 if none is found and the
    /// configuration, which may say where it is, cannot be used.
    pub fn run(self, config: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
        let status = self.daemon.ask(config, Ask::Status)?;
        if self.json {
            writeln!(out, "{status:#}")?;
        } else {
            write!(out, "{}", render(&status))?;
        }
        Ok(Exit::Ok)
    }
}

/// What people read. The daemon may be of another version, so nothing here is taken for granted.
fn render(status: &Value) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        for (number, line) in lines.iter().enumerate() {
            let title = if number == 0 { title } else { "" };
            text.push_str(&format!("{title:<14}{line}\n"));
        }
    };
    section("sources", each(&status["sources"], source));
    section("queue", queue(&status["queue"]));
    section("uploads", upload(&status["upload"]));
    if !status["files"]["folders"].as_array().is_none_or(Vec::is_empty) {
        section("files", files(&status["files"]));
    }
    section("clock", vec![clock(&status["clock"])]);
    section("credentials", each(&status["credentials"], credential));
    section("instructions", instructions(&status["instructions"]));
    section("configuration", configuration(&status["config"]));
    text
}

fn each(list: &Value, line: impl Fn(&Value) -> String) -> Vec<String> {
    let lines: Vec<String> = list.as_array().into_iter().flatten().map(line).collect();
    if lines.is_empty() { vec!["none".to_owned()] } else { lines }
}

/// The text of a scalar, times to the second; a dash where there is none.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => match text.parse::<DateTime<Utc>>() {
            Ok(time) => time.to_rfc3339_opts(SecondsFormat::Secs, true),
            Err(_) => text.clone(),
        },
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// How many there are, with the word for one.
fn count(number: &Value, one: &str) -> String {
    let plural = if *number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", show(number))
}

fn with(text: String, label: &str, value: &Value) -> String {
    if value.is_null() { text } else { format!("{text}; {label}{}", show(value)) }
}

fn source(source: &Value) -> String {
    let line = format!(
        "{} (unit {} on {}): {}, {}, {} failed, last {}",
        show(&source["source"]),
        show(&source["unit"]),
        show(&source["bus"]),
        show(&source["state"]),
        count(&source["reads"], "read"),
        show(&source["failed"]),
        show(&source["last_read"]),
    );
    with(line, "", &source["reason"])
}

fn queue(queue: &Value) -> Vec<String> {
    let line = format!(
        "{} datum wait, {} of {} bytes, oldest {}",
        show(&queue["records"]),
        show(&queue["bytes"]),
        show(&queue["limit"]),
        show(&queue["oldest"]),
    );
    let counts = ["rejected", "dropped", "corrupt", "unplaced", "refused"];
    let lost = counts.iter().filter(|name| queue[**name].as_u64().is_some_and(|n| n > 0));
    let lost: Vec<String> = lost.map(|name| format!("{} {name}", queue[*name])).collect();
    if lost.is_empty() { vec![line] } else { vec![line, lost.join(", ")] }
}

fn upload(upload: &Value) -> Vec<String> {
    let uploaded = show(&upload["uploaded"]);
    let done = match upload["via"].as_str() {
        Some("mqtt") => format!("{uploaded} handed over since the start"),
        Some("bulk") => format!("{uploaded} proved since the start"),
        _ => {
            let open = show(&upload["open_jobs"]);
            format!("{uploaded} proved since the start, open jobs: {open}")
        }
    };
    let line =
        format!("{}; {done}, last {}", show(&upload["state"]), show(&upload["last_success"]));
    let mut lines = vec![line];
    lines.extend(proof(&upload["proof"]));
    if upload["state"] == "ok" {
        return lines;
    }
    for (name, label) in [("waits_for", "waits: "), ("last_error", "last error: ")] {
        if !upload[name].is_null() {
            lines.push(format!("{label}{}", show(&upload[name])));
        }
    }
    lines
}

/// Where SolarQuery is asked as well.
fn proof(proof: &Value) -> Option<String> {
    proof.as_object()?;
    let line = format!(
        "proof by query: {}; {} shown since the start, {} not yet, {} sent again, last {}",
        show(&proof["state"]),
        show(&proof["shown"]),
        show(&proof["waiting"]),
        show(&proof["sent_again"]),
        show(&proof["last_shown"]),
    );
    Some(with(line, "waits: ", &proof["waits_for"]))
}

fn files(files: &Value) -> Vec<String> {
    let folder = |folder: &Value| {
        let line = format!(
            "{}: {}; {} uploaded since the start, {} wait, {} set aside, last {}",
            show(&folder["folder"]),
            show(&folder["state"]),
            show(&folder["uploaded"]),
            show(&folder["waiting"]),
            show(&folder["aside"]),
            show(&folder["last_upload"]),
        );
        let line = with(line, "", &folder["reason"]);
        let aside = &folder["last_aside"];
        match aside["file"].as_str() {
            Some(file) => format!("{line}; set aside: {file}: {}", show(&aside["reason"])),
            None => line,
        }
    };
    let mut lines = each(&files["folders"], folder);
    if !files["ends"].is_null() {
        lines.push(format!("token {} ends {}", show(&files["token"]), show(&files["ends"])));
    }
    lines
}

fn clock(clock: &Value) -> String {
    let line = format!("{}, now {}", show(&clock["trust"]), show(&clock["now"]));
    with(line, "system clock ahead by ms: ", &clock["ahead_ms"])
}

fn certificate(certificate: &Value) -> String {
    let line = format!(
        "certificate {}: ends {}; {}",
        show(&certificate["subject"]),
        show(&certificate["ends"]),
        show(&certificate["because"]),
    );
    let line = with(line, "a renewal is asked for next on ", &certificate["next_attempt"]);
    with(line, "", &certificate["last_error"])
}

fn credential(credential: &Value) -> String {
    if credential["certificate"].is_string() {
        return certificate(credential);
    }
    let line = format!(
        "{} ({}): key of {}, ends {}: {}",
        show(&credential["token"]),
        show(&credential["token_id"]),
        show(&credential["key_date"]),
        show(&credential["ends"]),
        show(&credential["because"]),
    );
    let line = with(line, "next renewal ", &credential["next_attempt"]);
    with(line, "", &credential["last_error"])
}

fn instructions(instructions: &Value) -> Vec<String> {
    let line = format!(
        "{} completed, {} declined ({} may have happened), {} waiting, last poll {}",
        show(&instructions["completed"]),
        show(&instructions["declined"]),
        show(&instructions["uncertain"]),
        show(&instructions["waiting_count"]),
        show(&instructions["last_poll"]),
    );
    vec![with(line, "trouble: ", &instructions["error"])]
}

/// Only what somebody should know: a daemon that runs on its file has nothing to say here.
fn configuration(config: &Value) -> Vec<String> {
    let last = &config["last_reload"];
    if last["result"] != "refused" {
        return Vec::new();
    }
    let line = format!("{}: reload refused, at {}", show(&config["file"]), show(&last["at"]));
    let problems = last["problems"].as_array().into_iter().flatten().map(show);
    [line].into_iter().chain(problems).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_goes() {
        let text = render(&serde_json::json!({ "queue": { "records": 3, "dropped": 2 } }));
        assert!(text.contains("3 datum wait"), "{text}");
        assert!(text.contains("2 dropped"), "{text}");
        assert!(text.contains("sources       none"), "{text}");
    }
}
