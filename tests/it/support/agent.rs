//! The real agent in a folder of its own: its commands, its daemon, its log.
//!
//! ```text
//! let agent = Agent::new(&(solarnet(&sim) + &meter(&site)));     a configuration, nothing running
//! agent.import_token();
//! let daemon = agent.start();                                    answers `status` when this returns
//! eventually("the ledger has ten", || sim.ledger_count().datum >= 10);
//! assert!(daemon.stop().success());
//! ```
//!
//! Nothing of the environment reaches the agent. A daemon is killed when dropped; where the test failed,
//! its log is shown.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use solarnet_sim::{Seed, Sim, Site};
use tempfile::TempDir;

/// The account of [`seed`].
pub(crate) const USER: i64 = 100;
/// The node of [`seed`] and of every configuration made here.
pub(crate) const NODE: i64 = 123;
/// The token of [`seed`], unrestricted.
pub(crate) const TOKEN: &str = "edge0edge0edge0edge0";
/// Its secret.
pub(crate) const SECRET: &str = "not-a-real-secret";

/// How long anything may take before a test says that it does not happen: what passes never takes so long, even
/// on a machine that is slow and busy, so this says nothing about how quick the agent is.
const PATIENCE: Duration = Duration::from_secs(300);

/// One account with [`NODE`] and [`TOKEN`].
pub(crate) fn seed() -> Seed {
    Seed::simple(USER, NODE, TOKEN, SECRET)
}

/// The sections that every configuration needs, as quick as they may be.
pub(crate) fn solarnet(sim: &Sim) -> String {
    format!(
        r#"
[node]
id = {NODE}

[solarnet]
user_url = "{user}"
query_url = "{query}"
request_rate = "50/s"
timeout = "2s"

[upload]
every = "1s"

[queue]
at_risk = "50ms"

[instructions]
poll_fastest = "200ms"
poll_slowest = "200ms"
result_source = "/site/instructions"
"#,
        user = sim.user_url(),
        query = sim.query_url(),
    )
}

/// A link called `cabinet` to the site; units follow it.
pub(crate) fn link(site: &Site) -> String {
    format!("\n[[modbus]]\nname = \"cabinet\"\ntcp = \"{}\"\n", site.address())
}

/// A unit that reads a simulated meter's whole block with every request.
pub(crate) fn meter(unit: u8, source: &str, every: &str) -> String {
    format!(
        r#"
[[modbus.unit]]
id = {unit}
source = "{source}"
every = "{every}"
timeout = "2s"
property = [
    {{ name = "watts", kind = "instantaneous", register = {{ table = "input", address = 0, type = "f32" }} }},
    {{ name = "voltage", kind = "instantaneous", register = {{ table = "input", address = 2, type = "f32" }} }},
    {{ name = "frequency", kind = "instantaneous", register = {{ table = "input", address = 4, type = "f32" }} }},
    {{ name = "current", kind = "instantaneous", register = {{ table = "input", address = 6, type = "f32" }} }},
    {{ name = "wattHours", kind = "accumulating", register = {{ table = "input", address = 8, type = "u64" }} }},
    {{ name = "wattHoursReverse", kind = "accumulating", register = {{ table = "input", address = 12, type = "u32" }} }},
    {{ name = "reading", kind = "instantaneous", register = {{ table = "input", address = 14, type = "u32" }} }},
    {{ name = "temp", kind = "instantaneous", register = {{ table = "input", address = 16, type = "i16" }}, multiply = 0.1 }},
    {{ name = "opState", kind = "status", register = {{ table = "input", address = 17, type = "u16" }} }},
]
"#
    )
}

/// The same with a minute for each answer: what the meter has counted the agent takes, however busy the machine is.
/// For meters that fall silent at the end, if ever.
pub(crate) fn patient_meter(unit: u8, source: &str, every: &str) -> String {
    meter(unit, source, every).replace("timeout = \"2s\"", "timeout = \"60s\"")
}

/// A configuration and a state folder. Both are gone when this is dropped.
pub(crate) struct Agent {
    folder: TempDir,
}

impl Agent {
    /// Puts the configuration into a new folder; `state_dir` is added to it.
    pub(crate) fn new(config: &str) -> Self {
        let agent = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        agent.configure(config);
        agent
    }

    /// Replaces the configuration.
    pub(crate) fn configure(&self, config: &str) {
        let text = format!("state_dir = \"{}\"\n{config}", self.state_dir().display());
        fs::write(self.config(), text).expect("the configuration is written");
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// The state folder.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A path beside the configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file beside the configuration that only its owner may read.
    pub(crate) fn private_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        path
    }

    /// The program with these arguments and this configuration, ready to be run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solarnode-agent"));
        command.args(arguments).arg("--config").arg(self.config()).env_clear().stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the agent starts")
    }

    /// Runs a command that must succeed; gives what it printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) fn ask_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ask(arguments)).expect("JSON")
    }

    /// `token import` of [`TOKEN`] under the name that the configuration uses.
    pub(crate) fn import_token(&self) {
        self.import(TOKEN, SECRET, &[]);
    }

    /// `token import` of any token in the place of the one before, with more options if need be.
    pub(crate) fn import(&self, id: &str, secret: &str, options: &[&str]) {
        let file = self.private_file("secret", secret);
        let file = file.to_str().expect("text");
        let mut arguments =
            vec!["token", "import", "site", "--token-id", id, "--secret-file", file, "--replace"];
        arguments.extend(options);
        self.ask(&arguments);
        fs::remove_file(file).expect("the secret is removed");
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = Daemon::spawn(self.command(&["run", "--log", "debug"]));
        eventually("the daemon answers", || self.status().is_some());
        daemon
    }

    /// The members of `status --json`, if a daemon answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Waits until the daemon's status is so; gives that status.
    pub(crate) fn status_when(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        eventually(what, || {
            last = self.status();
            last.as_ref().is_some_and(&is_so)
        });
        last.expect("a status")
    }

    /// Datum in the queue's files, sent ones included; what was not committed is in none.
    pub(crate) fn on_disk(&self) -> u64 {
        self.ask_json(&["queue", "check", "--json"])["held"].as_u64().expect("a count")
    }

    /// Waits until the daemon has proof for everything that it keeps.
    pub(crate) fn until_nothing_waits(&self) -> Value {
        self.status_when("nothing waits", |status| status["queue"]["records"] == 0)
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    /// Not a pipe: what it has logged can be seen at once, and nobody has to keep up with it.
    log: File,
}

impl Daemon {
    /// Starts a command whose standard error is its log.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let log = tempfile::tempfile().expect("a file");
        let stderr = log.try_clone().expect("a file");
        let child = command.stderr(stderr).spawn().expect("the agent starts");
        Self { child, log }
    }

    /// The lines logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        let mut text = vec![0; self.log.metadata().expect("a file").len() as usize];
        self.log.read_exact_at(&mut text, 0).expect("the log");
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = str::from_utf8(&text[..whole]).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// The lines logged so far that contain all of these.
    pub(crate) fn lines_with(&self, parts: &[&str]) -> Vec<String> {
        let all = |line: &String| parts.iter().all(|part| line.contains(part));
        self.log().into_iter().filter(all).collect()
    }

    /// The lines logged so far with this event.
    pub(crate) fn events(&self, event: &str) -> Vec<String> {
        self.lines_with(&[&format!("event=\"{event}\"")])
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// KiB of memory that it has.
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let folder = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(folder).expect("a process").flatten();
        // One that ends meanwhile has no name any more.
        let names =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a signal");
    }

    /// Stops the whole process, until [`Daemon::resume`].
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("a signal");
    }

    /// Lets a paused process go on.
    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("a signal");
    }

    /// Sends SIGHUP and waits until the reload is over; gives the event that says how.
    pub(crate) fn reload(&self) -> String {
        let outcomes = ["config.reloaded", "config.unchanged", "config.refused"];
        let said = || outcomes.iter().flat_map(|event| self.events(event)).count();
        let before = said();
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("a signal");
        eventually("the reload is over", || said() > before);
        let is_outcome = |line: &String| {
            outcomes.iter().any(|event| line.contains(&format!("event=\"{event}\"")))
        };
        self.log().into_iter().rev().find(is_outcome).expect("just seen")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the daemon ends", || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some()
        });
        ended.expect("ended")
    }

    /// Stops it as systemd would.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone is fine: the test is over.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log().join("\n"));
        }
    }
}

/// Waits until it is so, looking often, with a deadline. Gives how long that took, without what a machine that
/// stood still meanwhile took from everyone: a measure for what is to be quick.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    const STEP: Duration = Duration::from_millis(50);
    let (until, mut took) = (Instant::now() + PATIENCE, Duration::ZERO);
    loop {
        let step = Instant::now();
        if is_so() {
            return took;
        }
        assert!(step < until, "waited {} s until {what}, in vain", PATIENCE.as_secs());
        std::thread::sleep(STEP);
        took += step.elapsed().min(2 * STEP);
    }
}

/// Tries it a few times: for what is to be quick, which a busy machine that starves the agent itself may hinder.
/// What is slow by itself is slow each time.
pub(crate) fn at_one_try(attempt: impl FnMut() -> Result<(), String>) {
    const TRIES: usize = 5;
    let tries = std::iter::repeat_with(attempt).take(TRIES);
    let failures: Vec<String> = tries.map_while(Result::err).collect();
    assert!(failures.len() < TRIES, "at no try: {failures:#?}");
}

/// Lets time pass; gives how much of it a machine that stood still meanwhile left to everyone.
pub(crate) fn live_through(time: Duration) -> Duration {
    let begun = Instant::now();
    eventually("time passes", || begun.elapsed() >= time)
}
