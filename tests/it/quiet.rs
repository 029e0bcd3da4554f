//! What stays wrong for a whole day costs few lines of the log. The real daemon, with its clock made quick by
//! libfaketime: a day in a minute, and every timer with it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use solarnet_sim::{Fault, Sim, Site, Unit};

use crate::support::{
    agent::{Agent, Daemon, eventually, link, meter, seed, solarnet},
    faketime::QuickTime,
};

/// How much quicker than real time the daemon's time passes. Longer timeouts than a real one would have make up
/// for it: 10 minutes are 0.4 s.
const QUICKER: u32 = 1440;

/// A day and an hour of its time.
const DAY: Duration = Duration::from_secs(25 * 3600 / QUICKER as u64);

/// The numbers of `docs/logging.md`: lines a day of one event about one thing, and of all that is wrong.
fn allowed() -> (usize, usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logging.md");
    let text = fs::read_to_string(path).expect("the documentation");
    let mut numbers = text.split("at most **").skip(1).map(|rest| {
        rest.split_once(" lines**").and_then(|(n, _)| n.parse().ok()).expect("a number of lines")
    });
    (numbers.next().expect("of one event"), numbers.next().expect("of all"))
}

struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1), Unit::meter(2)]).expect("a site");
        let agent = Agent::new("");
        let bench = Self { sim, site, agent };
        bench.configure(|text| text);
        bench
    }

    /// Times are the daemon's: an hour is less than a second here.
    fn configure(&self, change: impl Fn(String) -> String) {
        let units = meter(1, "/site/1", "5m") + &meter(2, "/site/2", "5m");
        let text = solarnet(&self.sim) + &link(&self.site) + &units;
        let text = text
            .replace("timeout = \"2s\"\nproperty", "timeout = \"1m\"\nproperty")
            .replace("timeout = \"2s\"", "timeout = \"10m\"")
            .replace("name = \"cabinet\"", "name = \"cabinet\"\nconnect_timeout = \"1m\"")
            .replace("\"200ms\"", "\"1m\"")
            .replace("at_risk = \"50ms\"", "at_risk = \"1m\"")
            .replace("every = \"1s\"", "every = \"5m\"");
        self.agent.configure(&change(text));
    }

    /// A day of the daemon, with something done to it all the while, and longer where a slow machine needs longer
    /// until it tells what it has to.
    fn day(&self, must_tell: &str, meanwhile: impl Fn(u32)) -> Vec<String> {
        let time = QuickTime::at_speed(f64::from(QUICKER));
        let daemon = Daemon::spawn(time.shown_to(self.agent.command(&["run"])));
        let (begun, mut round) = (Instant::now(), 0);
        eventually(&format!("{must_tell} is told"), || {
            meanwhile(round);
            round += 1;
            begun.elapsed() >= DAY && !daemon.lines_with(&[must_tell]).is_empty()
        });
        let log = daemon.log();
        daemon.kill();
        assert!(log.iter().any(|line| line.contains("agent.started")), "it ran: {log:?}");
        log
    }
}

fn assert_quiet(log: &[String]) {
    let (of_one, of_all) = allowed();
    let shown = log.join("\n");
    assert!(log.len() <= of_all, "{} lines:\n{shown}", log.len());
    let mut counts = BTreeMap::new();
    for line in log {
        let about = |field: &str| line.split(field).nth(1).and_then(|rest| rest.split('"').nth(1));
        *counts.entry((about("event="), about("source_id="))).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| *count <= of_one), "{counts:?}:\n{shown}");
}

#[test]
fn what_stays_wrong_for_a_day_costs_few_lines_of_the_log() {
    let failures: [(&str, fn()); 5] = [
        ("all meters are silent", || {
            let bench = Bench::new();
            bench.agent.import_token();
            for unit in [1, 2] {
                bench.site.set_fault(unit, Some(Fault::Silent));
            }
            assert_quiet(&bench.day("source.down", |_| {}));
        }),
        ("the server is down", || {
            let bench = Bench::new();
            bench.agent.import_token();
            let url = bench.sim.url();
            bench.configure(|text| text.replace(&url, "http://127.0.0.1:9"));
            assert_quiet(&bench.day("instruction.trouble", |_| {}));
        }),
        ("the token is refused", || {
            let bench = Bench::new();
            let key = bench.agent.private_file(
                "key",
                &solarnet_sim::signing_key_hex("another secret", chrono::Utc::now().date_naive()),
            );
            let today = chrono::Utc::now().format("%Y%m%d").to_string();
            let key = key.to_str().expect("text");
            bench.agent.ask(&[
                "token",
                "import",
                "site",
                "--offline",
                "--token-id",
                crate::support::agent::TOKEN,
                "--key-file",
                key,
                "--key-date",
                &today,
            ]);
            assert_quiet(&bench.day("credential.refused", |_| {}));
        }),
        ("the server's clock and ours run apart", || {
            // Theirs takes a minute for our day.
            let bench = Bench::new();
            bench.agent.import_token();
            assert_quiet(&bench.day("clock.differs", |_| {}));
        }),
        ("a meter comes and goes all day", || {
            let bench = Bench::new();
            // No server, so that only the meter makes lines.
            let url = bench.sim.url();
            bench.configure(|text| {
                text.replace(&url, "http://127.0.0.1:9").replace("every = \"5m\"", "every = \"1m\"")
            });
            let log = bench.day("left_out=", |round| {
                let refuses = Some(Fault::Exception(4)).filter(|_| round % 2 == 0);
                bench.site.set_fault(1, refuses);
            });
            assert_quiet(&log);
        }),
    ];
    thread::scope(|scope| {
        for (name, failure) in failures {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn_scoped(scope, failure)
                .expect("a thread");
        }
    });
}

/// A file system of so many KiB; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mounted_at(path: PathBuf, kib: u32) -> Self {
        fs::create_dir_all(&path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(&path);
        let output = mount.output().expect("mount");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The machine of the tests must not keep it, however the test ended.
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_stays_full_for_a_day_costs_one_line_of_the_log() {
    let bench = Bench::new();
    // Without a token everything is kept, and the queue's first file is full after some hours. There is no room
    // for a second one.
    bench.configure(|text| {
        text.replace("[queue]", "[queue]\nlimit = \"2 MiB\"")
            .replace("every = \"5m\"", "every = \"1m\"")
    });
    let _disk = SmallDisk::mounted_at(bench.agent.state_dir().join("queue"), 200);
    let log = bench.day("queue.refused", |_| {});
    assert_quiet(&log);
    let of_queue = log.iter().filter(|line| line.contains("event=\"queue.")).count();
    assert_eq!(of_queue, 1, "{}", log.join("\n"));
}
