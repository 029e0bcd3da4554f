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
const SLACK: Duration = Duration::from_secs(1);

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
            config += &unit.replace("timeout = \"300ms\"", "timeout = \"10s\"");
        }
        config += &format!(
            r#"
[[control]]
id = "/site/relay"
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
    Life::begin_with_server_ahead(Duration::from_millis(100), TimeDelta::hours(-30)).run(14);
}
