//! Tasks of the real daemon are made to hang, each by what it waits for: a FIFO that nobody writes, a
//! frozen file system, a stopped process. The log must name the task, and systemd must hear
//! nothing until it moves again.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use solarnet_sim::{Sim, Site, Unit};

use crate::support::agent::{Agent, Daemon, eventually, link, meter, seed, solarnet};

/// What systemd is told to expect, and so the daemon's patience: longer than a busy machine stands still.
const PERIOD: Duration = Duration::from_secs(6);

/// A server, a meter, an agent with its token, and the socket that systemd would listen on.
struct Bench {
    _sim: Sim,
    _site: Site,
    agent: Agent,
    systemd: UnixDatagram,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let config = solarnet(&sim) + &link(&site) + &meter(1, "/site/meter", "200ms");
        let agent = Agent::new(&config);
        agent.import_token();
        let systemd = UnixDatagram::bind(agent.path("notify")).expect("a socket");
        Self { _sim: sim, _site: site, agent, systemd }
    }

    fn spawn(&self) -> Daemon {
        let mut command = self.agent.command(&["run", "--log", "debug"]);
        command.env("NOTIFY_SOCKET", self.agent.path("notify"));
        command.env("WATCHDOG_USEC", PERIOD.as_micros().to_string());
        Daemon::spawn(command)
    }

    /// Whether systemd hears within its period that all is well. What came before is not counted.
    fn is_fed(&self) -> bool {
        self.systemd.set_nonblocking(true).expect("set");
        while self.systemd.recv(&mut [0; 4096]).is_ok() {}
        self.systemd.set_nonblocking(false).expect("set");
        let until = Instant::now() + PERIOD;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.systemd.set_read_timeout(Some(left)).expect("set");
            let mut message = [0; 4096];
            let length = self.systemd.recv(&mut message).unwrap_or(0);
            if message[..length].starts_with(b"WATCHDOG=1") {
                return true;
            }
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.agent.state_dir().join(name)
    }

    /// The task is named, nobody else is, and systemd hears nothing; after `release` it does again.
    fn names(&self, daemon: &Daemon, task: &str, doing: &str, release: impl FnOnce()) {
        eventually("the log names who hangs", || !daemon.events("agent.task_stuck").is_empty());
        let (task, doing) = (format!("task=\"{task}\""), format!("doing=\"{doing}\""));
        assert!(!self.is_fed());
        let stuck = daemon.events("agent.task_stuck");
        assert_eq!(stuck.len(), 1, "{stuck:?}");
        assert!(stuck[0].contains(&task) && stuck[0].contains(&doing), "{stuck:?}");
        release();
        eventually("it goes on", || !daemon.lines_with(&["agent.task_moves", &task]).is_empty());
        eventually("systemd hears of it", || self.is_fed());
    }
}

/// Whoever reads this file waits.
fn make_fifo(path: &Path) {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).expect("a folder");
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        Ok(()) | Err(_) => {}
    }
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, FileType::Fifo, mode, 0).expect("a FIFO");
}

/// Gives the reader of a FIFO something, and an end; whoever reads it again finds a file.
fn end_fifo(path: &Path, text: &str) {
    let mut writer = fs::OpenOptions::new().write(true).open(path).expect("a reader");
    let file = path.with_extension("file");
    fs::write(&file, text).expect("a file");
    fs::rename(&file, path).expect("renamed");
    writer.write_all(text.as_bytes()).expect("written");
}

#[test]
fn systemd_hears_that_all_is_well_as_long_as_it_is() {
    let bench = Bench::new();
    let daemon = bench.spawn();
    eventually("it answers", || bench.agent.status().is_some());
    for _ in 0..5 {
        assert!(bench.is_fed());
    }
    assert_eq!(daemon.events("agent.task_stuck"), [""; 0]);
    daemon.pause();
    assert!(!bench.is_fed(), "a stopped process says nothing");
    daemon.resume();
    eventually("it is well again", || bench.is_fed());
    assert!(daemon.stop().success());
}

#[test]
fn every_task_and_every_thread_has_a_pulse_also_after_a_reload() {
    let bench = Bench::new();
    let text = fs::read_to_string(bench.agent.config()).expect("a configuration");
    let text = text.split_once('\n').expect("after the state folder").1;
    // No such port: its thread looks for it every now and then.
    let serial = |name: &str| {
        let unit = meter(1, &format!("/site/{name}"), "1s");
        let port = format!("serial = {{ port = \"/dev/{name}\", baud = 9600 }}");
        format!("\n[[modbus]]\nname = \"{name}\"\n{port}\n{unit}")
    };
    let assert_all = |daemon: &Daemon, buses: &[&str]| {
        let status = bench.agent.status().expect("a status");
        let tasks = status["tasks"].as_array().expect("tasks");
        let mut names: Vec<&str> = tasks.iter().filter_map(|task| task["task"].as_str()).collect();
        names.sort_unstable();
        let parts = [
            "agent",
            "clock",
            "control socket",
            "files",
            "identity",
            "instructor",
            "queue",
            "refresher",
            "uploader",
        ];
        let mut all = [buses, &parts].concat();
        all.sort_unstable();
        assert_eq!(names, all);
        // The main one, those that work for a moment on behalf of a task, and who looks after the others.
        let known = [&["solarnode-agent", "tokio-rt-worker", "watchdog"][..], &names].concat();
        // One whose task has just ended may need a moment more.
        eventually("no thread is left without a pulse", || {
            daemon.threads().iter().all(|thread| known.contains(&&**thread))
        });
    };
    bench.agent.configure(&(text.to_owned() + &serial("attic")));
    let daemon = bench.agent.start();
    assert_all(&daemon, &["bus attic", "bus cabinet"]);
    assert!(daemon.threads().contains(&"bus attic".to_owned()), "{:?}", daemon.threads());
    bench.agent.configure(&(text.to_owned() + &serial("attic") + &serial("roof")));
    daemon.reload();
    assert_all(&daemon, &["bus attic", "bus cabinet", "bus roof"]);
    bench.agent.configure(text);
    daemon.reload();
    assert_all(&daemon, &["bus cabinet"]);
    assert!(daemon.stop().success());
}

#[test]
fn an_instructor_that_waits_for_its_journal_is_named() {
    let bench = Bench::new();
    let journal = bench.state("instructions/7.json");
    make_fifo(&journal);
    let daemon = bench.spawn();
    bench.names(&daemon, "instructor", "working", || end_fifo(&journal, "{}"));
}

#[test]
fn an_uploader_that_keeps_the_thread_is_named_and_not_those_who_wait_for_it() {
    let bench = Bench::new();
    let open = bench.state("upload.json");
    make_fifo(&open);
    let daemon = bench.spawn();
    bench.names(&daemon, "uploader", "working", || end_fifo(&open, "[]"));
}

/// A file system of its own for the state, which can be frozen.
struct Freezer {
    image: tempfile::TempDir,
}

impl Freezer {
    fn new() -> Self {
        let freezer = Self { image: tempfile::tempdir().expect("a temporary folder") };
        let image = freezer.image.path().join("image");
        fs::File::create(&image).expect("a file").set_len(64 << 20).expect("a size");
        fs::create_dir(freezer.mount()).expect("a folder");
        let image = image.to_str().expect("text");
        run("mkfs.ext4", &["-q", image]);
        run("mount", &["-o", "loop", image, freezer.mount().to_str().expect("text")]);
        freezer
    }

    fn mount(&self) -> PathBuf {
        self.image.path().join("mount")
    }

    fn freeze(&self, how: &str) {
        run("fsfreeze", &[how, self.mount().to_str().expect("text")]);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Not frozen, most likely; and the machine of the tests must not keep it.
        let mount = self.mount();
        drop(Command::new("fsfreeze").arg("-u").arg(&mount).output());
        drop(Command::new("umount").arg("-l").arg(&mount).output());
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs root"]
fn a_queue_on_a_disk_that_does_not_answer_is_named() {
    let freezer = Freezer::new();
    let state = freezer.mount().join("state");
    let bench = Bench::new();
    // On a disk of its own is only the queue: what others keep would hang as well.
    fs::create_dir_all(&state).expect("a folder");
    std::os::unix::fs::symlink(&state, bench.state("queue")).expect("a link");
    let daemon = bench.spawn();
    eventually("it answers", || bench.agent.status().is_some());
    assert!(bench.is_fed());
    freezer.freeze("-f");
    bench.names(&daemon, "queue", "committing to the disk", || freezer.freeze("-u"));
    assert!(daemon.stop().success());
}
