//! `status`: asks the running daemon how everything is.

use std::{io::Write, path::Path};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Exit, Failure, daemon::Daemon};
use crate::{domain::utc, observe::control::Ask};

/// Ask the running daemon: sources, queue, uploads, clock, credentials, instructions
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  solarnode-agent status --json | jq .queue.records")]
pub struct Status {
    /// Print JSON: {sources, queue, upload, mqtt, flux, files, clock, credentials, instructions, config, log, tasks}
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
    section("mqtt", broker(&status["mqtt"]).into_iter().collect());
    section("flux", flux(&status["flux"]).into_iter().collect());
    if !status["files"]["folders"].as_array().is_none_or(Vec::is_empty) {
        section("files", files(&status["files"]));
    }
    section("clock", vec![clock(&status["clock"])]);
    section("credentials", each(&status["credentials"], credential));
    section("instructions", instructions(&status["instructions"]));
    section("configuration", configuration(&status["config"]));
    section("log", levels(&status["log"]).into_iter().collect());
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
            Ok(time) => utc(time),
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
    // What SolarQuery has to show is only accepted before.
    let word = match (upload["via"].as_str(), upload["proof"].is_object()) {
        (Some("mqtt"), _) => "handed over",
        (_, true) => "accepted",
        (_, false) => "proved",
    };
    let done = match upload["via"].as_str() {
        Some("mqtt" | "bulk") => format!("{uploaded} {word} since the start"),
        _ => {
            let open = show(&upload["open_jobs"]);
            format!("{uploaded} {word} since the start, open jobs: {open}")
        }
    };
    let line =
        format!("{}; {done}, last {}", show(&upload["state"]), show(&upload["last_success"]));
    let mut lines = vec![line];
    if !upload["over_https_since"].is_null() {
        let since = show(&upload["over_https_since"]);
        lines.push(format!("over HTTPS since {since}, as the broker is silent"));
    }
    lines.extend(proof(&upload["proof"]));
    if upload["state"] == "ok" {
        return lines;
    }
    let (waits_for, last_error) = (&upload["waits_for"], &upload["last_error"]);
    if !waits_for.is_null() {
        lines.push(format!("waits: {}", show(waits_for)));
    }
    if !last_error.is_null() && last_error != waits_for {
        lines.push(format!("last error: {}", show(last_error)));
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

/// A session with a broker, where there is to be one.
fn broker(session: &Value) -> Option<String> {
    session.as_object()?;
    let line = match session["state"].as_str() {
        Some("connected") => {
            format!("connected to {} since {}", show(&session["broker"]), show(&session["since"]))
        }
        state => {
            let (state, since) = (state.unwrap_or("-"), show(&session["since"]));
            let broker = with(String::new(), "broker ", &session["broker"]);
            format!("not connected since {since} ({state}){broker}")
        }
    };
    Some(with(line, "", &session["last_error"]))
}

fn flux(flux: &Value) -> Option<String> {
    let line = broker(&flux["broker"])?;
    let (published, left_out) = (show(&flux["published"]), show(&flux["left_out"]));
    Some(format!("{line}; {published} published since the start, {left_out} left out"))
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
    let line = with(line, "renewal asked for from ", &certificate["next_attempt"]);
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

/// Only where an instruction changed what is logged.
fn levels(log: &Value) -> Option<String> {
    let changed = log["changed"].as_object().filter(|changed| !changed.is_empty())?;
    let modules: Vec<_> =
        changed.iter().map(|(module, level)| format!("{module} {}", show(level))).collect();
    Some(format!(
        "{} by instruction until the agent restarts; else {}",
        modules.join(", "),
        show(&log["level"])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_log_are_shown_while_an_instruction_has_changed_them() {
        let text = render(&serde_json::json!({
            "log": { "level": "info", "changed": { "root": "off", "upload": "debug" } }
        }));
        let line = "log           root off, upload debug by instruction until the agent restarts; else info\n";
        assert!(text.ends_with(line), "{text}");
        let text = render(&serde_json::json!({ "log": { "level": "info", "changed": {} } }));
        assert!(!text.contains("log "), "{text}");
    }

    #[test]
    fn brokers_and_the_way_round_them_are_shown_where_there_are_any() {
        let text = render(&serde_json::json!({
            "upload": { "state": "ok", "via": "mqtt", "over_https_since": "2026-11-22T01:00:00.5Z" },
            "mqtt": { "state": "waiting", "broker": "mqtts://b:8883", "since": "2026-11-22T00:50:00Z",
                      "last_error": "no route" },
            "flux": { "published": 7, "left_out": 1,
                      "broker": { "state": "connected", "broker": "mqtts://f:8884", "since": null } },
        }));
        for line in [
            "over HTTPS since 2026-11-22T01:00:00Z, as the broker is silent",
            "mqtt          not connected since 2026-11-22T00:50:00Z (waiting); broker mqtts://b:8883; no route",
            "flux          connected to mqtts://f:8884 since -; 7 published since the start, 1 left out",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let text = render(&serde_json::json!({ "mqtt": null, "flux": null }));
        assert!(!text.contains("mqtt") && !text.contains("flux"), "{text}");
    }

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_goes() {
        let text = render(&serde_json::json!({ "queue": { "records": 3, "dropped": 2 } }));
        assert!(text.contains("3 datum wait"), "{text}");
        assert!(text.contains("2 dropped"), "{text}");
        assert!(text.contains("sources       none"), "{text}");
    }
}
