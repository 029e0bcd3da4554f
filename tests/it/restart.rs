//! Killed at random moments, with a server that is away or misbehaves as often as not; and started with
//! state files that a bad disk left behind.
//!
//! What counts as committed is what another process finds in the queue's files after each kill. At the
//! end the ledger is asked: did every committed datum arrive, was every arrival one that we read, did
//! its content survive, and does a fresh one still get through?

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::TimeDelta;
use solarnet_sim::{Act, ImportDelays, Misbehaviour, NewInstruction, Sim, Site, Table, Unit};

use crate::support::{
    agent::{Agent, Daemon, NODE, eventually, link, meter, seed, solarnet},
    ledger::{Committed, Ledger, committed},
};

const METERS: [(u8, &str, u64); 2] = [(1, "/site/meter/1", 100), (2, "/site/meter/2", 170)];
const RELAY: u8 = 3;
const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";

/// What a busy machine may add to a commit that is due.
const SLACK: Duration = Duration::from_secs(2);

/// One device with its server, killed again and again.
struct Life {
    seed: u64,
    random: fastrand::Rng,
    at_risk: Duration,
    sim: Sim,
    site: Site,
    agent: Agent,
    /// Everything that was ever found in the queue's files after a kill.
    committed: BTreeMap<u64, Committed>,
    /// How many readings each meter had given at each kill.
    readings_at_kill: Vec<[u32; METERS.len()]>,
    instructions: Vec<i64>,
}

impl Life {
    fn begin(at_risk: Duration) -> Self {
        Self::begin_with_server_ahead(at_risk, TimeDelta::zero())
    }

    fn begin_with_server_ahead(at_risk: Duration, ahead: TimeDelta) -> Self {
        let seed = std::env::var("KILL_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("KILL_SEED={seed} kills at the same moments again");
        let sim = Sim::start(self::seed()).expect("a simulator");
        sim.set_clock_offset(ahead);
        let (queued_ms, claimed_ms, executing_ms) = (200, 100, 200);
        sim.set_import_delays(ImportDelays { queued_ms, claimed_ms, executing_ms, workers: 2 });
        let relay = Unit::new(RELAY).with(Table::Holding, 0, &[0]);
        let site = Site::start(vec![Unit::meter(1), Unit::meter(2), relay]).expect("a site");
        let agent = Agent::new(&config(&sim, at_risk, Some(&site)));
        agent.import_token();
        Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            at_risk,
            sim,
            site,
            agent,
            committed: BTreeMap::new(),
            readings_at_kill: Vec::new(),
            instructions: Vec::new(),
        }
    }

    fn run(mut self, kills: usize) {
        for _ in 0..kills {
            self.live_and_die();
        }
        self.sim.behave();
        self.sim.come_back().expect("the port is still free");
        self.a_fresh_one_gets_through();
        self.drain();
        self.ask_the_ledger();
        self.ask_the_relay();
    }

    /// Runs the daemon for a while and kills it, whatever it is doing.
    fn live_and_die(&mut self) {
        let daemon = self.spawn();
        let moments = match self.random.u8(..4) {
            // Hardly begun, in the middle of things, and long enough to follow a job to its end.
            0 => 0..150,
            1 | 2 => 100..1500,
            _ => 1500..3500,
        };
        let until_trouble = Duration::from_millis(self.random.u64(0..1000));
        let until_kill = Duration::from_millis(self.random.u64(moments));
        // Random moments are what is being tested, not guesses at how long something takes.
        std::thread::sleep(until_trouble.min(until_kill));
        self.sim.behave();
        self.sim.come_back().expect("the port is still free");
        if self.random.bool() {
            self.trouble();
        }
        if self.random.bool() {
            self.instruct();
        }
        std::thread::sleep(until_kill.saturating_sub(until_trouble));
        daemon.kill();
        self.site.until_all_have_left().expect("the site is there");
        self.readings_at_kill.push(METERS.map(|(unit, ..)| self.site.readings(unit)));
        // Killed before it had made a queue, there is nothing to look at.
        if self.agent.state_dir().join("queue").exists() {
            self.look();
        }
    }

    fn spawn(&self) -> Daemon {
        Daemon::spawn(self.agent.command(&["run", "--log", "debug"]))
    }

    /// Lets the server be away, or misbehave in a way of its own.
    fn trouble(&mut self) {
        let any = |act| Misbehaviour::new("/solar", act);
        let switch = match self.random.u8(..7) {
            0 => return self.sim.go_down(),
            1 => Misbehaviour::new(JOBS, Act::CutAfter).method("POST").times(2),
            2 => any(Act::CutMidBody).times(3),
            3 => any(Act::TooMany { retry_after_ms: 500 }),
            4 => any(Act::Status { status: 500 }),
            5 => Misbehaviour::new(JOBS, Act::JobVanishes).times(1),
            _ => any(Act::Slow { ms: 300 }),
        };
        self.sim.misbehave(switch);
    }

    /// Each instruction wants a value of its own, so that every write tells which one it is.
    fn instruct(&mut self) {
        let value = self.instructions.len() + 1;
        self.instructions.push(self.sim.add_instruction(NewInstruction {
            node: NODE,
            topic: "SetControlParameter".to_owned(),
            parameters: vec![("/site/relay".to_owned(), value.to_string())],
            ..NewInstruction::default()
        }));
    }

    /// Remembers what stands in the queue's files, which nobody writes now.
    fn look(&mut self) {
        for (seq, datum) in committed(&self.agent) {
            let known = self.committed.entry(seq).or_insert_with(|| datum.clone());
            assert_eq!(
                (&known.source, &known.samples),
                (&datum.source, &datum.samples),
                "record {seq} has become another one"
            );
            if let (Some(before), Some(now)) = (known.created_ms, datum.created_ms) {
                assert_eq!(before, now, "record {seq} has got another time");
            }
            known.created_ms = datum.created_ms.or(known.created_ms);
        }
    }

    fn a_fresh_one_gets_through(&mut self) {
        let daemon = self.spawn();
        for (unit, source, _) in METERS {
            let before = self.site.readings(unit);
            eventually("a fresh reading arrives", || {
                Ledger::of(&self.sim).readings(source).iter().any(|number| *number > before)
            });
        }
        eventually("every instruction ends", || {
            self.instructions.iter().all(|id| {
                self.sim.instruction(*id).is_some_and(|instruction| instruction.state.is_final())
            })
        });
        assert!(daemon.stop().success());
        self.readings_at_kill.push(METERS.map(|(unit, ..)| self.site.readings(unit)));
        self.look();
    }

    /// Without meters, until nothing waits.
    fn drain(&self) {
        self.agent.configure(&config(&self.sim, self.at_risk, None));
        let daemon = self.agent.start();
        self.agent.until_nothing_waits();
        assert!(daemon.stop().success());
    }

    fn ask_the_ledger(&self) {
        let ledger = Ledger::of(&self.sim);
        ledger.assert_has_all(self.committed.values());
        ledger.assert_unchanged();
        for (at, (unit, source, every)) in METERS.into_iter().enumerate() {
            ledger.assert_only_readings(source, self.site.readings(unit));
            let arrived = ledger.readings(source);
            let mut taken = 0;
            let mut lost = Vec::new();
            for readings in &self.readings_at_kill {
                let now = readings[at];
                // What a kill costs are the last readings before it, and nothing in between.
                let kept = (taken..now).rev().find(|number| arrived.contains(&(number + 1)));
                let last_kept = kept.map_or(taken, |number| number + 1);
                let in_between: Vec<u32> =
                    (taken + 1..=last_kept).filter(|number| !arrived.contains(number)).collect();
                assert!(in_between.is_empty(), "{source}: lost {in_between:?} of {taken}..{now}");
                lost.push(now - last_kept);
                taken = now;
            }
            println!("{source}: {taken} read, lost at each kill: {lost:?}");
            let at_risk = (self.at_risk + SLACK).as_millis() / u128::from(every) + 2;
            assert!(lost.iter().all(|lost| u128::from(*lost) <= at_risk), "{source}: {lost:?}");
            assert_eq!(lost.last(), Some(&0), "{source}: stopped as asked, it loses nothing");
        }
    }

    fn ask_the_relay(&self) {
        let writes = self.site.writes(RELAY);
        for (id, value) in self.instructions.iter().zip(1u16..) {
            let instruction = self.sim.instruction(*id).expect("it was added");
            let written = writes.iter().filter(|write| write.values == [value]).count();
            let state = instruction.state.name();
            assert!(written <= 1, "instruction {id} was carried out {written} times");
            assert!(written == 1 || state != "Completed", "{id} is {state}, nothing was written");
        }
        println!("{} instructions, {} writes", self.instructions.len(), writes.len());
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: KILL_SEED={}", self.seed);
        }
    }
}

/// Without a site there is nothing to read.
fn config(sim: &Sim, at_risk: Duration, site: Option<&Site>) -> String {
    let risk = format!("at_risk = \"{}ms\"", at_risk.as_millis());
    let mut config = solarnet(sim).replace("at_risk = \"50ms\"", &risk);
    if let Some(site) = site {
        config += &link(site);
        for (unit, source, every) in METERS {
            // A machine busy with other tests must not look like a silent meter.
            let unit = meter(unit, source, &format!("{every}ms"));
            config += &unit.replace("timeout = \"2s\"", "timeout = \"10s\"");
        }
        config += &format!(
            r#"
[[control]]
id = "/site/relay"
timeout = "30s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "holding", address = 0, type = "u16" }}
allow = {{ min = 0, max = 65535, every = "0s" }}
"#
        );
    }
    config
}

#[test]
fn killed_at_random_with_a_tenth_of_a_second_at_risk_nothing_committed_is_lost() {
    Life::begin(Duration::from_millis(100)).run(14);
}

#[test]
fn killed_at_random_with_a_second_at_risk_nothing_committed_is_lost() {
    Life::begin(Duration::from_secs(1)).run(14);
}

#[test]
fn killed_at_random_committing_every_reading_nothing_committed_is_lost() {
    Life::begin(Duration::ZERO).run(14);
}

#[test]
fn killed_at_random_with_a_wrong_system_clock_nothing_committed_is_lost() {
    // The server's time counts then, learnt anew after each start.
    Life::begin_with_server_ahead(Duration::from_millis(100), TimeDelta::hours(30)).run(14);
}

/// A daemon that read while its server was away, and was killed: its folder, and what stands in its
/// queue.
struct Remains {
    sim: Sim,
    site: Site,
    agent: Agent,
    committed: BTreeMap<u64, Committed>,
    instruction: i64,
}

impl Remains {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let relay = Unit::new(RELAY).with(Table::Holding, 0, &[0]);
        let site = Site::start(vec![Unit::meter(1), Unit::meter(2), relay]).expect("a site");
        let agent = Agent::new(&config(&sim, Duration::ZERO, Some(&site)));
        agent.import_token();
        let daemon = agent.start();
        let instruction = sim.add_instruction(NewInstruction {
            node: NODE,
            topic: "SetControlParameter".to_owned(),
            parameters: vec![("/site/relay".to_owned(), "7".to_owned())],
            ..NewInstruction::default()
        });
        let is_final = |i: solarnet_sim::Instruction| i.state.is_final();
        eventually("the instruction ends", || sim.instruction(instruction).is_some_and(is_final));
        // A job whose receipt never comes, so that a batch is open; then nobody at all.
        sim.misbehave(Misbehaviour::new(JOBS, Act::CutAfter).method("POST").times(1));
        let posts = sim.count_requests("POST", JOBS);
        eventually("a batch is sent", || sim.count_requests("POST", JOBS) > posts);
        sim.go_down();
        let read = site.readings(1);
        eventually("readings go on", || site.readings(1) >= read + 10);
        daemon.kill();
        sim.behave();
        let committed = committed(&agent);
        assert!(committed.len() >= 10, "{}", committed.len());
        Self { sim, site, agent, committed, instruction }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.agent.state_dir().join(name)
    }

    /// The segment that is appended to: the one with the highest number.
    fn newest_segment(&self) -> PathBuf {
        let entries = fs::read_dir(self.file("queue")).expect("a queue");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "seg")).max().expect("a segment")
    }

    /// Where the queue's records of a source begin in a file, roughly: where its name stands.
    fn records_in(bytes: &[u8], source: &str) -> Vec<usize> {
        let windows = bytes.windows(source.len()).enumerate();
        windows.filter(|(_, window)| *window == source.as_bytes()).map(|(at, _)| at).collect()
    }

    /// Starts it again, without meters, until nothing waits. Gives the log.
    fn drain(&self) -> (Vec<String>, serde_json::Value) {
        self.sim.come_back().expect("the port is still free");
        self.agent.configure(&config(&self.sim, Duration::ZERO, None));
        let mut daemon = self.agent.start();
        let status = self.agent.until_nothing_waits();
        daemon.terminate();
        assert!(daemon.wait().success());
        (daemon.log(), status)
    }

    fn assert_all_arrived_except(&self, lost: &[u64]) {
        let ledger = Ledger::of(&self.sim);
        let kept = self.committed.iter().filter(|(seq, _)| !lost.contains(seq));
        ledger.assert_has_all(kept.map(|(_, datum)| datum));
        ledger.assert_unchanged();
        for (unit, source, _) in METERS {
            ledger.assert_only_readings(source, self.site.readings(unit));
        }
        assert_eq!(self.site.writes(RELAY).len(), 1, "the instruction is carried out once");
    }
}

/// Cuts a file in the middle, empties it, or writes what is no JSON, JSON of others, and zeros into it.
fn damage(path: &Path, way: usize) {
    let whole = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bytes = match way {
        0 => whole[..whole.len() / 2].to_vec(),
        1 => Vec::new(),
        2 => b"\xff\xfe{{{".to_vec(),
        3 => b"{\"open\":[{\"id\":1}],\"anchors\":7}".to_vec(),
        _ => vec![0; whole.len()],
    };
    fs::write(path, bytes).expect("written");
}

fn has_event(log: &[String], event: &str) -> bool {
    log.iter().any(|line| line.contains(&format!("event=\"{event}\"")))
}

#[test]
fn a_damaged_state_file_is_said_and_costs_no_datum() {
    let try_out = |way| {
        let remains = Remains::new();
        damage(&remains.file("upload.json"), way);
        damage(&remains.file("clock.json"), way);
        damage(&remains.file(&format!("instructions/{}.json", remains.instruction)), way);
        let (log, _) = remains.drain();
        for event in
            ["upload.state_unreadable", "clock.anchors_unreadable", "instruction.journal_damaged"]
        {
            assert!(has_event(&log, event), "{way}: {event} is not in {log:#?}");
        }
        assert!(remains.file("clock.json.damaged").exists());
        remains.assert_all_arrived_except(&[]);
    };
    // Most of it is waiting for the server.
    std::thread::scope(|scope| {
        for way in 0..5 {
            scope.spawn(move || try_out(way));
        }
    });
}

#[test]
fn a_damaged_record_is_counted_and_all_others_arrive() {
    let remains = Remains::new();
    let path = remains.newest_segment();
    let mut bytes = fs::read(&path).expect("read");
    // In a record that is not of the last commit: that one might never have been reported durable.
    let (_, source, _) = METERS[0];
    let of_source: Vec<u64> = (remains.committed.iter())
        .filter(|(_, datum)| datum.source == source)
        .map(|(seq, _)| *seq)
        .collect();
    let from_the_end = 3;
    let places = Remains::records_in(&bytes, source);
    let place = places[places.len() - from_the_end];
    let lost = of_source[of_source.len() - from_the_end];
    bytes[place] ^= 0x40;
    fs::write(&path, bytes).expect("written");

    assert_eq!(remains.agent.run(&["queue", "check"]).status.code(), Some(65));
    let (log, status) = remains.drain();
    assert!(has_event(&log, "queue.recovered"), "{log:#?}");
    assert_eq!(status["queue"]["corrupt"], 1);
    remains.assert_all_arrived_except(&[lost]);
}

#[test]
fn a_torn_tail_costs_what_was_in_it_and_nothing_else() {
    let remains = Remains::new();
    let path = remains.newest_segment();
    let bytes = fs::read(&path).expect("read");
    let places = METERS.map(|(_, source, _)| Remains::records_in(&bytes, source));
    let end = places.iter().flatten().max().expect("a record");
    // Within the payload of the last record: it is gone, whatever its source.
    fs::write(&path, &bytes[..end + 20]).expect("written");

    assert_eq!(remains.agent.run(&["queue", "check"]).status.code(), Some(65));
    let (log, _) = remains.drain();
    assert!(has_event(&log, "queue.recovered"), "{log:#?}");
    let last = remains.committed.keys().next_back().expect("a record");
    remains.assert_all_arrived_except(&[*last]);
}
