//! The agent under show: its commands, its daemon, and one plain HTTP call beside it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::narrator::{log_line, say};

/// How long a daemon may take to stop.
const GRACE: Duration = Duration::from_secs(40);

/// The agent's program and the configuration it gets.
pub(super) struct Agent {
    pub(super) program: PathBuf,
    pub(super) config: PathBuf,
}

impl Agent {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--config").arg(&self.config).stdin(Stdio::null());
        command
    }

    /// Runs a command and shows what it prints.
    pub(super) fn show(&self, arguments: &[&str]) -> anyhow::Result<()> {
        say("you", &format!("$ solarnode-agent {}", arguments.join(" ")));
        let output = self.command(arguments).output().context("the agent did not start")?;
        for text in [&output.stdout, &output.stderr] {
            for line in String::from_utf8_lossy(text).lines() {
                say("agent", line);
            }
        }
        ensure!(output.status.success(), "solarnode-agent {}: {}", arguments[0], output.status);
        Ok(())
    }

    /// Runs a command and takes the JSON that it prints.
    pub(super) fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command(arguments).output().context("the agent did not start")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "solarnode-agent {}: {error}", arguments[0]);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Datum in the queue, by the running daemon's word.
    pub(super) fn waiting(&self) -> anyhow::Result<u64> {
        let status = self.ask(&["status", "--json"])?;
        status["queue"]["records"].as_u64().context("status has no queue.records")
    }

    /// Datum that stand in the spool's files, sent ones included, as another process reads them.
    pub(super) fn in_spool(&self) -> anyhow::Result<usize> {
        let check = self.ask(&["queue", "check", "--json"])?;
        let held = check["held"].as_u64().context("queue check has no `held`")?;
        Ok(usize::try_from(held)?)
    }

    /// Starts the daemon; its log is shown as it comes.
    pub(super) fn start(&self) -> anyhow::Result<Daemon> {
        say("you", "$ solarnode-agent run");
        let mut child = self
            .command(&["run", "--log", "debug"])
            .stderr(Stdio::piped())
            .spawn()
            .context("the agent did not start")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log_line(&line);
            }
        });
        Ok(Daemon { child, reader: Some(reader) })
    }
}

/// A running daemon; killed when dropped.
pub(super) struct Daemon {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Stops it as systemd would, and waits for a clean end.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        // The shell's own `kill`: the program of that name is not on every machine.
        let kill = format!("kill -TERM {}", self.child.id());
        if self.child.try_wait()?.is_none() {
            // It may end by itself meanwhile: an interrupt from the terminal reaches both.
            Command::new("sh").args(["-c", &kill]).status().context(kill)?;
        }
        let until = Instant::now() + GRACE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < until, "the agent did not stop in {} s", GRACE.as_secs());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.wait()
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            bail!("the agent's log could not be shown");
        }
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone is fine: the show is over.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One POST over a plain connection, with these headers and no others that matter.
pub(super) fn post(
    to: SocketAddr,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Value> {
    let path = url.find(&to.to_string()).map(|at| &url[at + to.to_string().len()..]);
    let path = path.context("the URL is not the server's")?;
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let json = body.find('{').zip(body.rfind('}')).map(|(from, to)| &body[from..=to]);
    Ok(serde_json::from_str(json.context("no JSON in the answer")?)?)
}
