//! A real systemd with journal and dbus, booted in a container: `systemd-nspawn` over the small Debian that
//! `tests/setup.sh` made. Needs root.
//!
//! Each box is its own: what it changes is gone with it. It shares this machine's network, so that the
//! simulator and its site are reachable from inside. Where this machine's control groups are those of
//! version 1, a box cannot enforce what needs them (`DeviceAllow=`, `MemoryMax=`); everything else of a
//! unit's sandbox is real.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::agent::eventually;

/// A running box; stopped when dropped.
pub(crate) struct Box {
    nspawn: Child,
    /// Its process 1, as this machine numbers it.
    leader: u32,
}

impl Box {
    /// Boots with these paths of this machine inside, each as `path:path inside`.
    pub(crate) fn boot(binds: &[String]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/box");
        assert!(tree.join("complete").exists(), "sh tests/setup.sh, as root, makes the box");
        // Missing where systemd does not run this machine.
        fs::create_dir_all("/run/systemd/nspawn").expect("root");
        let name = format!("snbox{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let nspawn = Command::new("systemd-nspawn")
            .args(["--quiet", "--volatile=overlay", "--boot", "--register=no", "--keep-unit"])
            .args(["--console=pipe", "--machine", &name, "--directory"])
            .arg(tree)
            .args(binds.iter().map(|bind| format!("--bind={bind}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("systemd-nspawn is there: apt-get install systemd-container");
        let mut started = Self { nspawn, leader: 0 };
        let process = started.nspawn.id();
        eventually("the box is up", || {
            // Its first child is a helper that soon ends; process 1 is the one that stays.
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            let children = children.unwrap_or_default();
            let Some(leader) = children.split_whitespace().next() else { return false };
            started.leader = leader.parse().expect("a number");
            let said = started.run("systemctl is-system-running").stdout;
            ["running", "degraded"].contains(&String::from_utf8_lossy(&said).trim())
        });
        started
    }

    /// Runs a line of shell inside.
    pub(crate) fn run(&self, line: &str) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.leader.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"])
            .args(["sh", "-c", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .expect("nsenter is there: apt-get install util-linux")
    }

    /// Runs a line that must succeed; gives what it printed.
    pub(crate) fn ask(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}: {error}", output.status);
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    /// Waits until a line prints this.
    pub(crate) fn until(&self, line: &str, printed: &str) {
        let mut last = String::new();
        let what = format!("`{line}` prints {printed}");
        eventually(&what, || {
            last = String::from_utf8_lossy(&self.run(line).stdout).trim().to_owned();
            last == printed
        });
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.run("journalctl --no-pager --lines 60").stdout;
            eprintln!("the box's journal:\n{}", String::from_utf8_lossy(&journal));
        }
        // systemd-nspawn takes its box with it when it is asked to end; killed, it would leave mounts behind.
        self.run("systemctl poweroff --force");
        for _ in 0..1200 {
            if matches!(self.nspawn.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self.nspawn.kill());
        drop(self.nspawn.wait());
    }
}
