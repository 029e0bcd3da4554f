//! Whatever the server does: every reading that was taken arrives, as it was read, and nothing leaves the
//! queue without proof.
//!
//! The simulated meter numbers its readings and makes every value from the number, so the ledger can be
//! compared with what the meter showed, reading by reading ([`Bench::everything_arrived`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Instant,
};

use chrono::{TimeDelta, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use solarnet_sim::{
    Act, Fault, ImportDelays, MeterReading, Misbehaviour, RateLimit, Seed, Sim, Site, Unit,
};

use crate::support::agent::{
    Agent, NODE, TOKEN, USER, eventually, link, meter, patient_meter, seed, solarnet,
};

const METER: u8 = 1;
const SOURCE: &str = "/site/meter";
const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";
/// The path of one job begins so, that of the list does not.
const ONE_JOB: &str = "/solaruser/api/v1/sec/user/import/jobs/";

/// A server, a meter and an agent that reads it five times a second.
struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

impl Bench {
    fn new() -> Self {
        Self::with(seed())
    }

    fn with(seed: Seed) -> Self {
        let sim = Sim::start(seed).expect("a simulator");
        let site = Site::start(vec![Unit::meter(METER)]).expect("a site");
        let meter = patient_meter(METER, SOURCE, "200ms");
        let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &meter));
        Self { sim, site, agent }
    }

    fn posts(&self) -> usize {
        self.sim.count_requests("POST", JOBS)
    }

    fn looks(&self) -> usize {
        self.sim.count_requests("GET", JOBS)
    }

    /// Lets these happen to the next calls that fit, one after the other.
    fn misbehave(&self, method: &str, path: &str, acts: impl IntoIterator<Item = Act>) {
        for act in acts {
            self.sim.misbehave(Misbehaviour::new(path, act).method(method).times(1));
        }
    }

    /// Keeps the meter from being read again; gives how many readings it gave.
    fn silence_the_meter(&self) -> u32 {
        self.site.set_fault(METER, Some(Fault::Silent));
        self.site.readings(METER)
    }

    /// Waits until the queue has let go of everything, and compares the ledger with the meter.
    fn everything_arrived(&self) -> Value {
        let readings = self.silence_the_meter();
        // Before the last reading is queued nothing waits, too.
        let settled = |status: &Value| {
            status["queue"]["records"] == 0 && self.sim.ledger_count().datum >= readings as usize
        };
        let status = self.agent.status_when("everything arrived", settled);
        assert_eq!(status["queue"]["rejected"], 0);
        assert_eq!(status["queue"]["dropped"], 0);
        self.ledger_is_what_the_meter_showed(readings);
        status
    }

    fn ledger_is_what_the_meter_showed(&self, readings: u32) {
        let mut seen = BTreeMap::new();
        for (key, entry) in self.sim.ledger() {
            assert_eq!((key.node, key.source.as_str()), (NODE, SOURCE));
            let shown = content(&entry.datum);
            let number = shown["reading"].to_string().parse().expect("a reading's number");
            assert_eq!(shown, expected(number), "reading {number}");
            assert_eq!(entry.datum.s.get("opState").map(String::as_str), Some("1"));
            assert_eq!(seen.insert(number, key.ms), None, "reading {number} has two times");
        }
        let numbers: Vec<u32> = seen.keys().copied().collect();
        assert_eq!(numbers, (1..=readings).collect::<Vec<_>>());
        assert_eq!(self.sim.ledger_count().changed, 0);
        let times: Vec<i64> = seen.into_values().collect();
        assert!(times.is_sorted(), "readings lie in time as they were taken");
    }
}

fn content(datum: &solarnet_sim::Datum) -> BTreeMap<String, Decimal> {
    let names = datum.i.keys().chain(datum.a.keys());
    names.map(|name| (name.clone(), datum.decimal(name).expect("a decimal").normalize())).collect()
}

/// What the meter showed, as exact decimals.
fn expected(number: u32) -> BTreeMap<String, Decimal> {
    let shown = MeterReading::at(number);
    let float = |value: f32| value.to_string().parse::<Decimal>().expect("a decimal");
    [
        ("watts", float(shown.watts)),
        ("voltage", float(shown.voltage)),
        ("frequency", float(shown.frequency)),
        ("current", float(shown.current)),
        ("wattHours", shown.watt_hours.into()),
        ("wattHoursReverse", shown.watt_hours_reverse.into()),
        ("reading", shown.number.into()),
        ("temp", Decimal::new(shown.temperature.into(), 1)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.normalize()))
    .collect()
}

/// Answers that are no success, and after which nobody knows what became of the call.
fn wrong_answers() -> Vec<Act> {
    vec![
        Act::CutBefore,
        Act::TooMany { retry_after_ms: 1500 },
        Act::Transient,
        Act::Status { status: 500 },
        Act::Status { status: 503 },
        Act::ProxyPage { status: 200 },
        Act::ProxyPage { status: 403 },
        Act::SuccessFalse { message: "the database is away".to_owned() },
        Act::Garbage,
    ]
}

#[test]
fn wrong_answers_to_a_new_job_delay_readings_and_lose_none() {
    let bench = Bench::new();
    bench.agent.import_token();
    let acts = wrong_answers();
    let count = acts.len();
    bench.misbehave("POST", JOBS, acts);
    let began = Instant::now();
    let daemon = bench.agent.start();
    eventually("every wrong answer was given", || bench.posts() > count);
    let status = bench.agent.status().expect("a status");
    assert!(status["queue"]["records"].as_u64() > Some(0), "nothing is proved yet: {status}");
    let seconds = began.elapsed().as_secs() as usize;
    let asked = bench.posts() + bench.looks();
    assert!(asked <= 2 * count + 2 * seconds, "{asked} requests in {seconds} s");
    bench.everything_arrived();
    // One line for each cause, not for each answer.
    let told = daemon.events("upload.waiting").len() + daemon.events("upload.stopped").len();
    assert!((1..=count).contains(&told), "{told} lines");
    assert!(!daemon.events("upload.resumed").is_empty());
    assert!(daemon.stop().success());
}

#[test]
fn wrong_answers_about_jobs_prove_nothing_and_lose_nothing() {
    let bench = Bench::new();
    bench.agent.import_token();
    let mut acts = wrong_answers();
    acts.extend([Act::SuccessWithoutData, Act::SuccessNonsense, Act::CutAfter, Act::CutMidBody]);
    let count = acts.len();
    bench.misbehave("GET", JOBS, acts);
    let daemon = bench.agent.start();
    eventually("every wrong answer was given", || bench.looks() > count);
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn a_job_whose_receipt_was_lost_is_found_and_not_sent_again() {
    let bench = Bench::new();
    bench.agent.import_token();
    let lost = |act: Act| Misbehaviour::new(JOBS, act).method("POST").times(1).processed();
    let acts = [
        Act::CutAfter,
        Act::CutMidBody,
        Act::Status { status: 502 },
        Act::ProxyPage { status: 504 },
        Act::Garbage,
        Act::SuccessWithoutData,
        Act::SuccessNonsense,
        // The agent's patience is 2 s.
        Act::Slow { ms: 3000 },
    ];
    let count = acts.len();
    for act in acts {
        bench.sim.misbehave(lost(act));
    }
    let daemon = bench.agent.start();
    eventually("every receipt was lost", || bench.posts() > count);
    bench.everything_arrived();
    assert_eq!(bench.sim.ledger_count().repeated, 0);
    let jobs = bench.sim.jobs();
    let names: BTreeSet<_> = jobs.iter().map(|job| job["configuration"]["name"].as_str()).collect();
    assert_eq!(names.len(), jobs.len(), "no batch was sent twice");
    assert!(daemon.stop().success());
}

#[test]
fn slow_and_trickling_answers_are_waited_for() {
    let bench = Bench::new();
    let config = fs::read_to_string(bench.agent.config()).expect("the configuration");
    // Longer than a busy machine takes for them.
    let patient = config.replacen("timeout = \"2s\"", "timeout = \"60s\"", 1);
    fs::write(bench.agent.config(), patient).expect("written");
    bench.agent.import_token();
    bench.misbehave("POST", JOBS, [Act::Slow { ms: 1000 }, Act::Trickle { ms: 5 }]);
    bench.misbehave("GET", JOBS, [Act::Slow { ms: 1000 }]);
    let daemon = bench.agent.start();
    eventually("both happened", || bench.posts() > 2);
    bench.everything_arrived();
    assert_eq!(bench.sim.ledger_count().repeated, 0);
    assert!(daemon.events("upload.waiting").is_empty());
    assert!(daemon.stop().success());
}

#[test]
fn jobs_that_end_otherwise_than_well_are_no_proof() {
    let bench = Bench::new();
    bench.agent.import_token();
    bench.misbehave(
        "POST",
        JOBS,
        [
            Act::JobLosesRows { rows: 2 },
            Act::JobMiscounts { loaded: 1_000_000 },
            Act::JobVanishes,
            Act::JobFails { message: "deadlock detected".to_owned() },
        ],
    );
    let daemon = bench.agent.start();
    eventually("all of it happened", || bench.posts() > 5);
    let status = bench.everything_arrived();
    assert_eq!(status["upload"]["given_up"], 0);
    assert!(!daemon.events("upload.repeated").is_empty());
    assert!(!daemon.events("upload.refused").is_empty());
    assert!(daemon.stop().success());
}

#[test]
fn a_job_that_never_ends_keeps_its_rows_and_costs_few_requests() {
    let bench = Bench::new();
    bench.agent.import_token();
    bench.sim.misbehave(Misbehaviour::new(JOBS, Act::JobHangs).method("POST").times(1));
    let daemon = bench.agent.start();
    eventually("the job was asked for three times", || bench.looks() >= 3);
    assert_eq!(bench.sim.ledger_count().datum, 0);
    let status = bench.agent.status().expect("a status");
    assert_eq!(status["upload"]["uploaded"], 0);
    // 2 s and 4 s after it was sent, and no more often for the second one.
    let asked = bench.sim.requests().into_iter().filter(|seen| seen.path.starts_with(JOBS));
    let mut looks = 0;
    let until_the_third = asked.take_while(|seen| {
        looks += usize::from(seen.method == "GET");
        looks < 3
    });
    assert!(until_the_third.count() < 6);
    bench.silence_the_meter();
    let waiting = bench.site.readings(METER);
    bench.agent.status_when("all of them wait", |status| {
        status["queue"]["records"].as_u64() == Some(u64::from(waiting))
    });
    assert!(daemon.stop().success());
}

#[test]
fn a_server_that_is_away_is_asked_rarely_and_gets_everything_when_it_is_back() {
    let bench = Bench::new();
    bench.agent.import_token();
    bench.sim.go_down();
    let daemon = bench.agent.start();
    eventually("readings go on", || bench.site.readings(METER) >= 10);
    bench.sim.come_back().expect("the same port");
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 10);
    for _ in 0..2 {
        bench.sim.go_down();
        let before = bench.site.readings(METER);
        eventually("readings go on", || bench.site.readings(METER) >= before + 10);
        bench.sim.come_back().expect("the same port");
    }
    bench.everything_arrived();
    assert!(!daemon.events("upload.resumed").is_empty());
    assert!(daemon.stop().success());
}

#[test]
fn a_rate_limit_below_our_own_is_obeyed() {
    let bench = Bench::new();
    let config = solarnet(&bench.sim)
        .replace("request_rate = \"50/s\"", "request_rate = \"2/s\"")
        .replace("poll_fastest = \"200ms\"", "poll_fastest = \"2s\"")
        .replace("poll_slowest = \"200ms\"", "poll_slowest = \"2s\"");
    bench.agent.configure(&(config + &link(&bench.site) + &meter(METER, SOURCE, "200ms")));
    bench.agent.import_token();
    bench.sim.set_rate_limit(Some(RateLimit { capacity: 2, refill_per_s: 1.0 }));
    let daemon = bench.agent.start();
    eventually("readings arrive", || bench.sim.ledger_count().datum >= 20);
    bench.everything_arrived();
    let seen = bench.sim.requests();
    let refused = seen.iter().filter(|request| request.status == Some(429)).count();
    // A refusal names the instant, and whoever waits for it is let through.
    assert!(refused * 2 <= seen.len(), "{refused} of {} requests were refused", seen.len());
    assert!(daemon.stop().success());
}

#[test]
fn a_server_whose_clock_is_off_gets_signatures_by_its_clock() {
    let bench = Bench::new();
    bench.agent.import_token();
    let daemon = bench.agent.start();
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 1);
    for hours in [2, -2, 0] {
        let before = bench.agent.status().expect("a status")["upload"]["uploaded"].as_u64();
        bench.sim.set_clock_offset(TimeDelta::hours(hours));
        bench
            .agent
            .status_when("uploads go on", |status| status["upload"]["uploaded"].as_u64() > before);
    }
    // One answer with a wrong date among right ones.
    bench.sim.misbehave(Misbehaviour::new(JOBS, Act::WrongDate { offset_ms: 7_200_000 }).times(2));
    let readings = bench.silence_the_meter();
    let status = bench.agent.until_nothing_waits();
    assert_eq!(status["queue"]["rejected"], 0);
    eventually("all of it is there", || bench.sim.ledger_count().datum >= readings as usize);
    assert_eq!(bench.sim.ledger_count().changed, 0);
    assert!(daemon.stop().success());
}

#[test]
fn a_date_before_this_program_was_built_is_not_believed() {
    let bench = Bench::new();
    bench.agent.import_token();
    let daemon = bench.agent.start();
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 1);
    bench.sim.set_clock_offset(TimeDelta::days(-3650));
    let before = bench.site.readings(METER);
    eventually("readings go on", || bench.site.readings(METER) >= before + 10);
    let clock = &bench.agent.status().expect("a status")["clock"];
    assert!(clock["ahead_ms"].as_i64().expect("milliseconds").abs() < 60_000, "{clock}");
    bench.sim.set_clock_offset(TimeDelta::zero());
    bench.everything_arrived();
    let oldest = bench.sim.ledger().iter().map(|(key, _)| key.ms).min().expect("a datum");
    assert!(oldest > (Utc::now() - TimeDelta::hours(1)).timestamp_millis());
    assert!(daemon.stop().success());
}

#[test]
fn a_server_ten_years_ahead_is_believed_and_served() {
    let ahead = TimeDelta::days(3650);
    let bench = Bench::with(Seed { clock_offset: ahead, ..seed() });
    bench.agent.import_token();
    let daemon = bench.agent.start();
    eventually("readings arrive", || bench.sim.ledger_count().datum >= 5);
    bench.everything_arrived();
    let oldest = bench.sim.ledger().iter().map(|(key, _)| key.ms).min().expect("a datum");
    assert!(oldest > (Utc::now() + ahead - TimeDelta::hours(1)).timestamp_millis());
    assert_eq!(daemon.events("clock.differs").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_token_that_is_disabled_for_a_while_loses_nothing() {
    let bench = Bench::new();
    bench.agent.import_token();
    let daemon = bench.agent.start();
    eventually("the first readings arrive", || bench.sim.ledger_count().datum >= 1);
    assert!(bench.sim.set_token_active(TOKEN, false));
    bench.agent.status_when("uploads stop", |status| status["upload"]["state"] == "stopped");
    let (requests, since) = (bench.posts() + bench.looks(), bench.site.readings(METER));
    eventually("readings go on", || bench.site.readings(METER) >= since + 10);
    assert!(bench.posts() + bench.looks() <= requests + 1, "it waits for another key");
    assert!(bench.sim.set_token_active(TOKEN, true));
    // Without another key it looks again after 30 s, more or less.
    eventually("uploads go on", || bench.sim.ledger_count().datum >= since as usize);
    bench.everything_arrived();
    assert_eq!(daemon.events("upload.stopped").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_wrong_key_from_the_refresh_call_never_replaces_the_one_that_works() {
    let bench = Bench::new();
    let day = (Utc::now() - TimeDelta::days(2)).date_naive();
    let key = solarnet_sim::signing_key_hex(crate::support::agent::SECRET, day);
    let file = bench.agent.private_file("key", &key);
    bench.agent.ask(&[
        "token",
        "import",
        "site",
        "--token-id",
        TOKEN,
        "--key-file",
        file.to_str().expect("text"),
        "--key-date",
        &day.format("%Y%m%d").to_string(),
    ]);
    bench.sim.misbehave(Misbehaviour::new("/solarquery/", Act::RefreshWrongKey));
    let daemon = bench.agent.start();
    eventually("a renewal was tried", || !daemon.events("credential.not_renewed").is_empty());
    eventually("readings arrive all the same", || bench.sim.ledger_count().datum >= 5);
    let status = bench.agent.status().expect("a status");
    assert_eq!(status["credentials"][0]["key_date"], json!(day.to_string()));
    bench.everything_arrived();
    assert!(daemon.stop().success());
}

#[test]
fn after_a_kill_the_list_of_jobs_decides_what_is_sent_again() {
    for forgotten in [false, true] {
        let bench = Bench::new();
        bench.agent.import_token();
        bench.sim.set_import_delays(ImportDelays { executing_ms: 4000, ..ImportDelays::default() });
        if forgotten {
            bench.sim.misbehave(Misbehaviour::new(JOBS, Act::JobVanishes).method("POST").times(1));
        }
        let daemon = bench.agent.start();
        eventually("the first job is open", || bench.posts() == 1);
        let readings = bench.silence_the_meter();
        eventually("all of them are on disk", || bench.agent.on_disk() == u64::from(readings));
        daemon.kill();
        let (posts, requests) = (bench.posts(), bench.sim.requests().len());

        let daemon = bench.agent.start();
        bench.everything_arrived();
        let after = bench.sim.requests().split_off(requests);
        let import: Vec<_> = after.iter().filter(|seen| seen.path.starts_with(JOBS)).collect();
        let first = import.first().expect("a request");
        assert_eq!((first.method.as_str(), first.path.as_str()), ("GET", JOBS));
        assert_eq!(bench.sim.ledger_count().repeated, 0);
        // The rows of a job that is there are not sent again; what is left goes in one job at most.
        let sent = bench.posts() - posts;
        assert_eq!(bench.sim.jobs().len(), bench.posts() - usize::from(forgotten));
        assert!(sent <= 1 + usize::from(forgotten), "{sent} jobs after the restart");
        assert!(!forgotten || sent >= 1);
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_source_outside_the_policy_is_the_operators_business_and_loses_nothing() {
    let sim = Sim::start(seed()).expect("a simulator");
    let site = Site::start(vec![Unit::meter(1), Unit::meter(2)]).expect("a site");
    let (one, two) = (meter(1, "/site/one", "200ms"), meter(2, "/site/two", "200ms"));
    let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &one + &two));
    agent.import_token();
    assert!(sim.set_token_policy(TOKEN, &json!({ "sourceIds": ["/site/one"] })));
    let daemon = agent.start();
    let status = agent.status_when("a person is asked", |s| s["upload"]["state"] == "stopped");
    let error = status["upload"]["last_error"].as_str().expect("a remedy");
    assert!(error.contains("/site/two") && error.contains("sourceIds"), "{error}");
    assert_eq!(daemon.events("upload.stopped").len(), 1);

    assert!(sim.set_token_policy(TOKEN, &Value::Null));
    for unit in [1, 2] {
        site.set_fault(unit, Some(Fault::Silent));
    }
    let readings = (site.readings(1) + site.readings(2)) as usize;
    eventually("everything arrives", || sim.ledger_count().datum == readings);
    let status = agent.until_nothing_waits();
    assert_eq!(
        (&status["queue"]["rejected"], &status["upload"]["given_up"]),
        (&json!(0), &json!(0))
    );
    assert!(daemon.stop().success());
}

/// The agent's uploads stop for a person, who is told these words; nothing is lost meanwhile.
fn stops_with(seed: Seed, node: i64, words: &[&str]) {
    let sim = Sim::start(seed).expect("a simulator");
    let site = Site::start(vec![Unit::meter(METER)]).expect("a site");
    let config = solarnet(&sim).replace(&format!("id = {NODE}"), &format!("id = {node}"));
    let agent = Agent::new(&(config + &link(&site) + &meter(METER, SOURCE, "200ms")));
    agent.import_token();
    let daemon = agent.start();
    let status = agent.status_when("a person is asked", |s| s["upload"]["state"] == "stopped");
    let error = status["upload"]["last_error"].as_str().expect("a remedy");
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    assert_eq!(sim.ledger_count().datum, 0);
    site.set_fault(METER, Some(Fault::Silent));
    let readings = u64::from(site.readings(METER));
    let status = agent.status_when("all of them wait", |status| {
        status["queue"]["records"].as_u64() == Some(readings)
    });
    assert_eq!(status["queue"]["rejected"], 0);
    let asked = sim.count_requests("POST", JOBS) + sim.count_requests("GET", ONE_JOB);
    assert!(asked <= 4, "{asked} requests");
    assert_eq!(daemon.events("upload.stopped").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_node_that_is_not_ours_stops_uploads_and_keeps_everything() {
    stops_with(seed(), 999, &["999", "account"]);
}

#[test]
fn an_account_without_the_import_role_stops_uploads_and_keeps_everything() {
    let mut seed = seed();
    seed.users[0].roles.clear();
    assert_eq!(seed.users[0].id, USER);
    stops_with(seed, NODE, &["ROLE_IMPORT"]);
}
