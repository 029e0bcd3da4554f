//! Boxes whose clock is wrong, over TLS: whatever the system clock shows, every reading arrives under the
//! instant at which it was taken, signatures are accepted, and nothing acts on a time that is not known.
//!
//! The agent runs with a wall clock of its own ([`WallClock`]); simulator and meter have the real one, so
//! that the ledger can be held against it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{
    Act, Authority, Certificate, Fault, InstructionState, Misbehaviour, Seen, Sim, Site, Unit,
    Versions,
};

use crate::support::{
    agent::{Agent, Daemon, eventually, link, patient_meter, seed, solarnet},
    faketime::WallClock,
    orders::order,
};

const METER: u8 = 1;
const RELAY: u8 = 3;
const SOURCE: &str = "/site/meter";
const SWITCH: &str = "/site/relay";

/// How often the meter is read.
const EVERY: TimeDelta = TimeDelta::milliseconds(200);

/// How far a stamp may lie from the truth: `Date` has whole seconds, and readings take their time.
const EXACT: TimeDelta = TimeDelta::milliseconds(1500);

/// How late the first answer comes: what it says of the time is old by then.
const LATE_MS: u64 = 1500;

/// An authority, a server that shows a certificate of it, a meter and a relay, and an agent for them.
struct Bench {
    authority: Authority,
    sim: Sim,
    site: Site,
    agent: Agent,
    begun: DateTime<Utc>,
}

impl Bench {
    fn new() -> Self {
        Self::showing(&usual())
    }

    fn showing(certificate: &Certificate) -> Self {
        let authority = Authority::new().expect("an authority");
        let identity = authority.issue(certificate).expect("a certificate");
        let address = "127.0.0.1:0".parse().expect("an address");
        let sim = Sim::start_tls(seed(), address, identity).expect("a simulator");
        let units = vec![Unit::meter(METER), Unit::relay(RELAY, 8)];
        let site = Site::start(units).expect("a site");
        let agent = Agent::new("");
        let ca_file = agent.private_file("ca.pem", &authority.pem());
        let trusting = format!("[solarnet]\nca_file = \"{}\"", ca_file.display());
        let control = format!(
            r#"
[[control]]
id = "{SWITCH}"
timeout = "30s"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "coil", address = 0 }}
allow = {{ min = 0, max = 1, every = "0s" }}
"#
        );
        let every = format!("{}ms", EVERY.num_milliseconds());
        let config = solarnet(&sim).replace("[solarnet]", &trusting)
            + &link(&site)
            + &patient_meter(METER, SOURCE, &every)
            + &control;
        agent.configure(&config);
        agent.import_token();
        Self { authority, sim, site, agent, begun: Utc::now() }
    }

    fn start(&self, clock: &WallClock) -> Daemon {
        let daemon = Daemon::spawn(clock.shown_to(self.agent.command(&["run", "--log", "debug"])));
        eventually("the daemon answers", || self.agent.status().is_some());
        daemon
    }

    /// The server shows this from now on.
    fn show(&self, certificate: &Certificate) {
        self.sim.set_identity(self.authority.issue(certificate).expect("a certificate"));
    }

    /// What was asked since the daemon was started.
    fn asked(&self) -> Vec<Seen> {
        let since = |seen: &Seen| seen.time > self.begun;
        self.sim.requests().into_iter().filter(since).collect()
    }

    /// What the server does with everything that comes.
    fn misbehave(&self, act: Act) -> Misbehaviour {
        Misbehaviour::new("", act)
    }

    fn give_instruction(&self) -> i64 {
        self.sim.add_instruction(order("SetControlParameter", &[(SWITCH, "1")]))
    }

    fn is_completed(&self, id: i64) -> bool {
        self.sim.instruction(id).is_some_and(|i| i.state == InstructionState::Completed)
    }

    fn clock(&self) -> Value {
        self.agent.status().expect("a status")["clock"].clone()
    }

    /// Readings go on, and not faster than they should.
    fn readings_go_on(&self) {
        // The time is that of more than the readings, however long it takes to look at either.
        let (since, before) = (Utc::now(), self.site.readings(METER));
        eventually("readings go on", || self.site.readings(METER) >= before + 8);
        let taken = i64::from(self.site.readings(METER) - before);
        let turns = (Utc::now() - since).num_milliseconds() / EVERY.num_milliseconds();
        assert!(taken <= turns + 2, "{taken} readings in {turns} turns");
    }

    /// Waits until nothing is left, and holds every stamp against the time at which it was taken.
    fn everything_arrived_with_its_own_time(&self) {
        self.site.set_fault(METER, Some(Fault::Silent));
        let readings = self.site.readings(METER);
        eventually("everything arrived", || self.instants().len() == readings as usize);
        assert_eq!(self.sim.ledger_count().changed, 0, "no two of the same instant");
        let status = self.agent.until_nothing_waits();
        assert_eq!(
            (&status["queue"]["dropped"], &status["queue"]["rejected"]),
            (&0.into(), &0.into())
        );

        let instants = self.instants();
        assert!(instants.keys().copied().eq(1..=readings), "{instants:?}");
        let (first, last) = (instants[&1], instants[&readings]);
        assert!(first >= self.begun - EXACT && last <= Utc::now() + EXACT, "{first} to {last}");
        assert!(instants.values().is_sorted_by(|a, b| a < b), "{instants:?}");
    }

    /// Each reading keeps its place in line: none is squeezed in a millisecond after another one.
    fn no_two_readings_were_moved_together(&self) {
        let instants: Vec<_> = self.instants().into_values().collect();
        let near = instants.windows(2).find(|pair| pair[1] - pair[0] < EVERY / 20);
        assert_eq!(near, None);
    }

    /// When each reading that arrived was taken, says its stamp.
    fn instants(&self) -> BTreeMap<u32, DateTime<Utc>> {
        let mut instants = BTreeMap::new();
        for (key, entry) in self.sim.ledger().into_iter().filter(|(key, _)| key.source == SOURCE) {
            let number = entry.datum.decimal("reading").expect("a number").to_string();
            let at = DateTime::from_timestamp_millis(key.ms).expect("an instant");
            let before = instants.insert(number.parse().expect("a number"), at);
            assert_eq!(before, None, "reading {number} has two instants");
        }
        instants
    }

    /// The agent does not learn the time: readings are kept, counted, shown, and none is sent.
    fn nothing_is_known_and_nothing_lost(&self, daemon: &Daemon) {
        let status = self.agent.status_when("some are unplaced", |status| {
            status["queue"]["unplaced"].as_u64() >= Some(5)
        });
        assert_eq!(
            (&status["clock"]["trust"], &status["clock"]["now"]),
            (&"unknown".into(), &Value::Null)
        );
        assert_eq!(self.sim.ledger_count().datum, 0);
        let exported = self.agent.ask(&["queue", "export"]);
        let created = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["created"].clone()
        };
        assert!(exported.lines().count() >= 5);
        assert!(exported.lines().all(|line| created(line).is_null()), "{exported}");
        assert_eq!(daemon.events("clock.known"), Vec::<String>::new());
        assert_eq!(self.site.writes(RELAY), []);
    }
}

/// The clock of a box without a battery, half a minute after it was switched on.
fn in_1970() -> WallClock {
    WallClock::at(DateTime::UNIX_EPOCH + TimeDelta::seconds(30))
}

/// Valid for weeks around now.
fn usual() -> Certificate {
    Certificate::around(Utc::now())
}

/// Valid for decades around now.
fn long() -> Certificate {
    let decades = TimeDelta::days(365 * 20);
    Certificate::between(Utc::now() - decades, Utc::now() + decades)
}

/// A box starts with a clock that is off, and with nobody to ask, so that readings wait for the time.
fn starts_with(clock: &WallClock, certificate: &Certificate, probes: usize) {
    let bench = Bench::showing(certificate);
    bench.sim.go_down();
    let instruction = bench.give_instruction();
    let daemon = bench.start(clock);
    eventually("readings wait for the time", || {
        bench.site.readings(METER) >= 3 && bench.clock()["trust"] == "unknown"
    });
    assert_eq!((bench.sim.ledger_count().datum, bench.site.writes(RELAY).len()), (0, 0));
    bench.sim.misbehave(bench.misbehave(Act::Slow { ms: LATE_MS }).times(1));
    bench.sim.come_back().expect("the same port");

    eventually("the instruction is carried out", || bench.is_completed(instruction));
    bench.readings_go_on();
    bench.everything_arrived_with_its_own_time();
    bench.no_two_readings_were_moved_together();
    assert_eq!(bench.site.writes(RELAY).len(), 1, "once");
    assert_eq!(bench.clock()["trust"], "server");
    for (event, times) in [
        ("clock.known", 1),
        ("clock.probed", probes),
        ("clock.date_refused", 0),
        ("clock.differs", 1),
        ("clock.anchor_not_saved", 0),
    ] {
        assert_eq!(daemon.events(event).len(), times, "{event}");
    }
    assert!(daemon.stop().success());
}

#[test]
fn a_box_that_boots_in_1970_stamps_signs_and_acts_by_the_servers_time() {
    starts_with(&in_1970(), &usual(), 1);
}

#[test]
fn a_box_two_weeks_back_that_finds_a_certificate_of_last_week() {
    let renewed =
        Certificate::between(Utc::now() - TimeDelta::days(7), Utc::now() + TimeDelta::days(80));
    starts_with(&WallClock::off_by(TimeDelta::days(-14)), &renewed, 1);
}

#[test]
fn a_box_two_hours_off_needs_no_probe() {
    let clock = WallClock::off_by(TimeDelta::hours(2));
    starts_with(&clock, &usual().speaking(Versions::Tls12), 0);
}

#[test]
fn a_box_ten_years_ahead_finds_back() {
    let clock = WallClock::off_by(TimeDelta::days(3650));
    starts_with(&clock, &usual().speaking(Versions::Tls13), 1);
}

#[test]
fn a_clock_that_steps_while_it_runs_moves_neither_stamps_nor_reads() {
    let bench = Bench::new();
    let clock = WallClock::off_by(TimeDelta::zero());
    let daemon = bench.start(&clock);
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 3);
    let mut differs = 0;
    for step in
        [TimeDelta::hours(2), TimeDelta::days(-14), TimeDelta::zero(), TimeDelta::days(-20_000)]
    {
        clock.set_off_by(step);
        bench.readings_go_on();
        let is_seen = |status: &Value| {
            let ahead = status["clock"]["ahead_ms"].as_i64().expect("milliseconds");
            (TimeDelta::milliseconds(ahead) - step).abs() < EXACT
        };
        bench.agent.status_when("the step is seen", is_seen);
        let instruction = bench.give_instruction();
        eventually("an instruction is carried out", || bench.is_completed(instruction));
        let sent = bench.sim.ledger_count().datum;
        eventually("uploads go on", || bench.sim.ledger_count().datum >= sent + 5);
        // One line each time that it goes wrong; from wrong to wrong is no news.
        differs += usize::from(step != TimeDelta::zero() && step != TimeDelta::days(-14));
        eventually("it is said", || daemon.events("clock.differs").len() == differs);
    }
    bench.everything_arrived_with_its_own_time();
    assert!(daemon.stop().success());
}

#[test]
fn a_small_step_back_repeats_no_instant() {
    let bench = Bench::new();
    let clock = WallClock::off_by(TimeDelta::seconds(20));
    let daemon = bench.start(&clock);
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 3);
    clock.set_off_by(TimeDelta::seconds(-20));
    bench.readings_go_on();
    bench.site.set_fault(METER, Some(Fault::Silent));
    let readings = bench.site.readings(METER);
    eventually("everything arrived", || bench.instants().len() == readings as usize);
    let instants = bench.instants();
    assert!(instants.values().is_sorted_by(|a, b| a < b), "{instants:?}");
    assert_eq!(bench.sim.ledger_count().changed, 0);
    assert!(daemon.stop().success());
}

#[test]
fn without_a_server_the_time_is_never_known_and_readings_stay() {
    let bench = Bench::new();
    bench.sim.go_down();
    let clock = in_1970();
    let daemon = bench.start(&clock);
    bench.readings_go_on();
    bench.nothing_is_known_and_nothing_lost(&daemon);
    assert!(daemon.stop().success());
    // The same boot, so the next run may place what this one kept.
    bench.sim.come_back().expect("the same port");
    let daemon = bench.start(&clock);
    bench.everything_arrived_with_its_own_time();
    assert!(daemon.stop().success());
}

#[test]
fn strangers_do_not_tell_the_time() {
    for stranger in [
        (Authority::new().expect("an authority"), usual()),
        (Authority::new().expect("an authority"), usual().named("elsewhere.example")),
    ] {
        let bench = Bench::new();
        let (authority, certificate) = stranger;
        bench.sim.set_identity(authority.issue(&certificate).expect("a certificate"));
        let clock = in_1970();
        let daemon = bench.start(&clock);
        bench.nothing_is_known_and_nothing_lost(&daemon);
        assert_eq!(bench.asked(), [], "not even asked for the time");
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_right_name_of_a_known_authority_is_needed_to_tell_the_time() {
    let bench = Bench::showing(&usual().named("elsewhere.example"));
    let clock = in_1970();
    let daemon = bench.start(&clock);
    bench.nothing_is_known_and_nothing_lost(&daemon);
    assert_eq!(bench.asked(), []);
    assert!(daemon.stop().success());
}

/// A box in 1970 meets a server whose `Date` it must not believe; it says so once.
fn is_not_believed(certificate: &Certificate, server_off_by: TimeDelta) {
    let bench = Bench::showing(certificate);
    bench.sim.set_clock_offset(server_off_by);
    let clock = in_1970();
    let daemon = bench.start(&clock);
    let probes = || bench.sim.count_requests("HEAD", "");
    eventually("it is asked", || probes() >= 1);
    bench.nothing_is_known_and_nothing_lost(&daemon);
    // Nothing but unsigned questions for the time was sent.
    assert!(bench.asked().iter().all(|seen| seen.method == "HEAD" && seen.token.is_none()));
    bench.sim.set_clock_offset(TimeDelta::zero());
    bench.show(&usual());
    eventually("it is asked again", || daemon.events("clock.probed").len() == 1);
    bench.everything_arrived_with_its_own_time();
    assert_eq!(daemon.events("clock.date_refused").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_date_outside_of_the_certificates_own_life_is_not_believed() {
    let now = Utc::now();
    is_not_believed(
        &Certificate::between(now - TimeDelta::days(90), now - TimeDelta::days(1)),
        TimeDelta::zero(),
    );
}

#[test]
fn a_date_before_the_build_is_not_believed_whatever_the_certificate_says() {
    is_not_believed(&long(), TimeDelta::days(-3650));
}

#[test]
fn an_expired_certificate_stays_expired_where_the_time_is_known() {
    let bench = Bench::new();
    let clock = WallClock::off_by(TimeDelta::zero());
    let daemon = bench.start(&clock);
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 3);
    let now = Utc::now();
    bench.show(&Certificate::between(now - TimeDelta::days(90), now - TimeDelta::days(1)));
    // Open connections are cut; what comes now sees the other certificate.
    bench.sim.go_down();
    bench.sim.come_back().expect("the same port");
    let requests = bench.sim.requests().len();
    eventually("it is complained about", || !daemon.lines_with(&["expired"]).is_empty());
    bench.readings_go_on();
    assert_eq!(bench.sim.requests().len(), requests, "nothing was sent to it");
    assert!(daemon.events("clock.probed").is_empty());
    bench.show(&usual());
    bench.everything_arrived_with_its_own_time();
    assert!(daemon.stop().success());
}

#[test]
fn a_wrong_first_date_is_outvoted_and_leaves_no_trace() {
    let bench = Bench::showing(&long());
    let wrong = Act::WrongDate { offset_ms: TimeDelta::days(200).num_milliseconds() };
    bench.sim.misbehave(bench.misbehave(wrong).times(1));
    let clock = in_1970();
    let daemon = bench.start(&clock);
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 3);
    bench.readings_go_on();
    bench.everything_arrived_with_its_own_time();
    assert!(daemon.stop().success());
}

#[test]
fn single_answers_of_another_day_move_no_stamp() {
    let bench = Bench::showing(&long());
    let clock = WallClock::off_by(TimeDelta::hours(-2));
    let daemon = bench.start(&clock);
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 3);
    for days in [1, -1, 300, -400] {
        let wrong = Act::WrongDate { offset_ms: TimeDelta::days(days).num_milliseconds() };
        bench.sim.misbehave(bench.misbehave(wrong).times(1));
        let sent = bench.sim.ledger_count().datum;
        eventually("uploads go on", || bench.sim.ledger_count().datum >= sent + 3);
    }
    bench.everything_arrived_with_its_own_time();
    assert!(daemon.stop().success());
}

#[test]
fn without_a_date_in_the_answers_instructions_are_held_until_there_is_one() {
    let bench = Bench::new();
    bench.sim.misbehave(bench.misbehave(Act::NoDate));
    let instruction = bench.give_instruction();
    // Near enough for signatures, too far off to stamp anything.
    let clock = WallClock::off_by(TimeDelta::minutes(10));
    let daemon = bench.start(&clock);
    eventually("the instruction was seen", || !daemon.events("instruction.held").is_empty());
    bench.nothing_is_known_and_nothing_lost(&daemon);
    assert!(!bench.is_completed(instruction));
    bench.sim.behave();
    eventually("the instruction is carried out", || bench.is_completed(instruction));
    bench.everything_arrived_with_its_own_time();
    assert_eq!(daemon.events("instruction.held").len(), 1);
    assert!(daemon.stop().success());
}
