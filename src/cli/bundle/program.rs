//! Other programs, asked what they know: with a deadline, since a bundle is made on boxes in trouble.

use std::{
    io::{self, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long one may take. Counting a full queue takes a few seconds on a small box.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked whether it has ended.
const GLANCE: Duration = Duration::from_millis(10);

/// A program with its arguments.
pub(super) struct Program(io::Result<Command>);

impl Program {
    /// This program with another command, on the same configuration.
    pub(super) fn this(config: &Path, arguments: &[&str]) -> Self {
        Self(std::env::current_exe().map(|program| {
            let mut command = Command::new(program);
            command.args(arguments).arg("--config").arg(config);
            command
        }))
    }

    /// A program of the system.
    pub(super) fn named(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(name);
        command.args(arguments).env("LC_ALL", "C");
        Self(Ok(command))
    }

    /// Runs it to its end, or kills it when its time is over.
    pub(super) fn run(self) -> io::Result<Output> {
        let mut command = self.0?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < deadline => thread::sleep(GLANCE),
                None => return Err(killed(&mut child)),
            }
        };
        let bytes = |drained: thread::JoinHandle<Vec<u8>>| drained.join().unwrap_or_default();
        Ok(Output { status, stdout: bytes(stdout), stderr: bytes(stderr) })
    }
}

fn killed(child: &mut Child) -> io::Error {
    // It may have ended just now.
    child.kill().ok();
    child.wait().ok();
    let text = format!("it did not end within {} s", PATIENCE.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Reads a pipe to its end beside everything else, so that the program is not held up by it.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is worth having.
            pipe.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}

/// The first line of what a program complained of.
pub(super) fn first_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed");
    line.strip_prefix("solarnode-agent: ").unwrap_or(line).to_owned()
}
