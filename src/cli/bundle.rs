//! `bundle`: everything that somebody who is to help has to see, in one archive, and no secret.
//!
//! ```text
//! solarnode-agent-bundle-20261122T100000Z.tar.gz      (gzip, tar; mode 0600)
//! └─ solarnode-agent-bundle/
//!    manifest.json      what is here, what was left out and why, versions
//!    config/…           the files of the configuration as written, secrets and comments removed
//!    effective.txt      every value that holds, with its file and line
//!    check.json status.json queue.json queue-check.json instructions.json tokens.json
//!                       what these commands say, in a process of their own each
//!    frames.jsonl       the last Modbus exchanges, from the running daemon; for `replay`
//!    journal.txt        the last day of the unit's journal, 5,000 lines at most
//!    machine.txt        system, disk, clock, serial ports
//! ```
//!
//! * Whatever is missing (no daemon, no journal, a file that is not ours to read) is named, and the rest
//!   is put together all the same: bundles are made on boxes that are in trouble.
//! * No secret: the configuration goes through `config::redacted`; keys and secrets are read from no
//!   other place than to look for them: each is searched for in all that goes in, and removed there.
//! * An existing file is never overwritten.

mod archive;
pub(super) use archive::FOLDER;
mod machine;
mod program;
mod scrub;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use clap::Args;

use self::{archive::Archive, program::Program, scrub::Scrub};
use super::{Exit, Failure, daemon::Daemon};
use crate::{
    config::{self, Local},
    credential::Store,
    domain::Chain,
    modbus::{recording, ring::Dump},
    observe::control::Ask,
};

/// The unit whose journal and state are asked for.
const UNIT: &str = "solarnode-agent.service";

/// Pack what support needs to see into one archive, without secrets
///
/// Configuration, status, queue, instructions, journal, the last minutes on the Modbus buses, versions
/// and the state of the machine. What is missing is named; a running daemon is not needed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  solarnode-agent bundle --output site-7.tar.gz\n\nThe archive has names of sources and tokens, addresses of devices and their values. It has no secret and no key."
)]
pub struct Bundle {
    /// The archive to write [default: solarnode-agent-bundle-TIME.tar.gz in this folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    daemon: Daemon,
}

impl Bundle {
    /// Makes the archive and says what is in it.
    ///
    /// # Errors
    ///
    /// With 64 if the file is already there, 74 or 77 if it cannot be written.
    pub fn run(
        self,
        config: &Path,
        now: DateTime<Utc>,
        out: &mut impl Write,
    ) -> Result<Exit, Failure> {
        let name = now.format("solarnode-agent-bundle-%Y%m%dT%H%M%SZ.tar.gz").to_string();
        let path = self.output.unwrap_or_else(|| name.into());
        let local = config::load_local(config);
        let scrub = match &local {
            Ok(local) => Scrub::of(&Store::folder_below(&local.state_dir)),
            Err(_) => Scrub::default(),
        };
        let mut archive = Archive::create(&path, now, scrub)?;
        of_the_daemon(&mut archive, config, &self.daemon)?;
        match &local {
            Ok(_) => of_the_agent(&mut archive, config)?,
            Err(error) => archive.left_out("what the agent keeps", &Chain(error).to_string()),
        }
        of_the_configuration(&mut archive, config)?;
        of_the_machine(&mut archive, local.as_ref().ok())?;
        writeln!(out, "{}", path.display())?;
        archive.finish(out)?;
        Ok(Exit::Ok)
    }
}

fn of_the_configuration(archive: &mut Archive, config: &Path) -> Result<(), Failure> {
    match config::redacted(config) {
        Ok(files) => {
            let folder = config.parent().unwrap_or(Path::new(""));
            for file in files {
                let name = file.path.strip_prefix(folder).unwrap_or(&file.path);
                let name = format!("config/{}", name.display());
                match file.text {
                    Some(text) => {
                        if file.removed > 0 {
                            let what = format!("{} comments and values of {name}", file.removed);
                            archive.left_out(&what, "they may hold a secret");
                        }
                        archive.add(&name, text.as_bytes())?;
                    }
                    None => archive.left_out(&name, "it is not TOML"),
                }
            }
        }
        Err(error) => archive.left_out("config", &Chain(&error).to_string()),
    }
    match config::effective(config) {
        Ok(text) => archive.add("effective.txt", text.as_bytes())?,
        Err(_) => archive.left_out("effective.txt", "the configuration cannot be read"),
    }
    archive.add_output("check.json", Program::this(config, &["check", "--json"]))
}

fn of_the_agent(archive: &mut Archive, config: &Path) -> Result<(), Failure> {
    for (name, arguments) in [
        ("queue.json", &["queue", "stat", "--json"][..]),
        ("queue-check.json", &["queue", "check", "--json"]),
        ("instructions.json", &["instruction", "list", "--json"]),
        ("tokens.json", &["token", "show", "--json"]),
        ("identity.json", &["identity", "show", "--json"]),
    ] {
        archive.add_output(name, Program::this(config, arguments))?;
    }
    Ok(())
}

fn of_the_daemon(archive: &mut Archive, config: &Path, daemon: &Daemon) -> Result<(), Failure> {
    match daemon.ask(config, Ask::Status) {
        Ok(status) => archive.add("status.json", format!("{status:#}\n").as_bytes())?,
        Err(failure) => archive.left_out("status.json", &on_one_line(failure)),
    }
    let frames = daemon.ask(config, Ask::Frames);
    match frames.map_err(on_one_line).and_then(|answer| {
        serde_json::from_value::<Dump>(answer)
            .map_err(|_| "the daemon is of a version that keeps none".to_owned())
    }) {
        Ok(dump) => archive.add("frames.jsonl", recording::render(&dump).as_bytes()),
        Err(reason) => {
            archive.left_out("frames.jsonl", &reason);
            Ok(())
        }
    }
}

fn on_one_line(failure: Failure) -> String {
    format!("{:#}", failure.error).replace('\n', "; ")
}

fn of_the_machine(archive: &mut Archive, local: Option<&Local>) -> Result<(), Failure> {
    let journal = Program::named(
        "journalctl",
        &["--unit", UNIT, "--since", "-24h", "--lines", "5000", "--output", "json", "--no-pager"],
    );
    match journal.run() {
        Ok(output) if output.status.success() => {
            let text = machine::journal(&String::from_utf8_lossy(&output.stdout));
            match text.is_empty() {
                true => archive.left_out("journal.txt", "the journal has nothing of the unit"),
                false => archive.add("journal.txt", text.as_bytes())?,
            }
        }
        Ok(output) => archive.left_out("journal.txt", &program::first_line(&output.stderr)),
        Err(error) => archive.left_out("journal.txt", &format!("journalctl: {error}")),
    }
    let text = machine::describe(local.map(|local| local.state_dir.as_path()));
    archive.add("machine.txt", text.as_bytes())
}
