//! `audit` with the real agent: what the server lost is found, and nothing else is called a gap.

use std::process::Output;

use chrono::{DateTime, SecondsFormat, TimeDelta, Timelike};
use serde_json::{Value, json};
use solarnet_sim::{Act, Fault, Misbehaviour, Sim, Site, TokenKind, Unit};

use crate::{
    mqtt,
    support::agent::{Agent, NODE, USER, eventually, link, meter, seed, solarnet},
};

const FIRST: &str = "/site/meter/1";
const SECOND: &str = "/site/meter/2";
const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";
const LIST: &str = "/solarquery/api/v1/sec/datum/list";

const AUDIT: &str = "[audit]\ntoken = \"audit\"\n";

/// Gives the agent a token for audits.
pub(crate) fn import_audit(agent: &Agent, sim: &Sim, policy: &Value) {
    let token = sim.issue_token(USER, TokenKind::ReadNodeData, policy);
    let secret = agent.private_file("secret", &token.secret);
    let secret = secret.to_str().expect("text");
    agent.ask(&["token", "import", "audit", "--token-id", &token.id, "--secret-file", secret]);
}

/// A server, two meters, and an agent with a token for uploads and another one for audits.
struct Bench {
    sim: Sim,
    agent: Agent,
    site: Site,
    units: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self::with(
            &json!({ "nodeIds": [NODE], "apiPaths": ["/datum/list", "/auth-tokens/refresh/v2"] }),
        )
    }

    /// With that policy of the audit's token.
    fn with(policy: &Value) -> Self {
        Self::of(policy, &[(1, FIRST), (2, SECOND)], "100ms")
    }

    fn of(policy: &Value, meters: &[(u8, &str)], every: &str) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(meters.iter().map(|(unit, _)| Unit::meter(*unit)).collect());
        let site = site.expect("a site");
        let units: String =
            meters.iter().map(|(unit, source)| meter(*unit, source, every)).collect();
        // Lists are long, and who audits does not ask twice.
        let patient = solarnet(&sim).replace("timeout = \"2s\"", "timeout = \"60s\"");
        let agent = Agent::new(&(patient + AUDIT + &link(&site) + &units));
        agent.import_token();
        import_audit(&agent, &sim, policy);
        Self { sim, agent, site, units: meters.iter().map(|(unit, _)| *unit).collect() }
    }

    /// Runs the daemon until the server has that many datum, lets it finish, and stops it.
    fn send(&self, count: usize) {
        let daemon = self.agent.start();
        eventually("enough is accepted", || self.sim.ledger_count().datum >= count);
        self.silence(Some(Fault::Silent));
        // A reading that was under way may be left in the queue, which makes no difference.
        self.agent.until_nothing_waits();
        assert!(daemon.stop().success());
        self.silence(None);
    }

    fn silence(&self, fault: Option<Fault>) {
        self.units.iter().for_each(|unit| self.site.set_fault(*unit, fault));
    }

    fn audit(&self) -> (i32, Value) {
        audit(&self.agent)
    }

    /// The first datum of the source, gone from the server without a word; gives its hour.
    fn lose_one(&self, source: &str) -> String {
        let ledger = self.sim.ledger();
        let (key, _) = ledger.iter().find(|(key, _)| key.source == source).expect("a datum");
        assert!(self.sim.lose_datum(NODE, source, key.ms));
        hour(key.ms)
    }
}

/// As a person would much later: nothing is too recent to be judged.
fn audit(agent: &Agent) -> (i32, Value) {
    let output = agent.run(&["audit", "--settle", "0s", "--json"]);
    let report = serde_json::from_slice(&output.stdout);
    (code(&output), report.unwrap_or_else(|_| panic!("{}", error(&output))))
}

fn hour(unix_ms: i64) -> String {
    let at = DateTime::from_timestamp_millis(unix_ms).expect("a time");
    let at =
        at.with_minute(0).and_then(|at| at.with_second(0)).and_then(|at| at.with_nanosecond(0));
    at.expect("the hour").to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_all_there_is_whole_and_what_the_server_lost_is_found_by_source_and_hour() {
    let bench = Bench::new();
    bench.send(20);
    let (exit, report) = bench.audit();
    assert_eq!((exit, &report["gaps"]), (0, &json!([])), "{report}");
    assert!(report["whole"].as_u64() >= Some(2), "{report}");
    assert!(report["accepted"].as_u64() >= Some(20), "{report}");
    assert_eq!(report["whole"], report["hours"], "{report}");

    let hour = bench.lose_one(SECOND);
    let (exit, report) = bench.audit();
    let gaps = report["gaps"].as_array().expect("gaps");
    assert_eq!((exit, gaps.len()), (65, 1), "{report}");
    let gap = &gaps[0];
    assert_eq!((&gap["source"], &gap["hour"]), (&json!(SECOND), &json!(hour)), "{report}");
    assert_eq!(gap["verdict"], "missing");
    assert_eq!(gap["accepted"].as_u64(), gap["shown"].as_u64().map(|shown| shown + 1));
    let text = bench.agent.run(&["audit", "--settle", "0s"]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("1 hour has a gap") && text.contains(SECOND), "{text}");
    // With the ordinary patience it may only be late.
    let output = bench.agent.run(&["audit", "--json"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
}

#[test]
fn rows_that_a_job_dropped_although_it_reported_them_are_a_gap() {
    let bench = Bench::new();
    let drops = Misbehaviour::new(JOBS, Act::JobDropsRows { rows: 2 }).method("POST").times(1);
    bench.sim.misbehave(drops);
    bench.send(20);
    let (exit, report) = bench.audit();
    assert_eq!(exit, 65, "{report}");
    assert_eq!(lost(&report), 2, "{report}");
}

/// How many datum the gaps of a report are short of.
fn lost(report: &Value) -> u64 {
    let count = |gap: &Value, member: &str| gap[member].as_u64().expect("a count");
    let gaps = report["gaps"].as_array().into_iter().flatten();
    gaps.map(|gap| count(gap, "accepted") - count(gap, "shown")).sum()
}

#[test]
fn what_a_broker_acknowledged_and_the_server_lost_is_a_gap_also_after_a_kill() {
    let bench = mqtt::Bench::with_certificate(AUDIT);
    import_audit(&bench.agent, &bench.network.sim, &json!({}));
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    assert!(daemon.stop().success());
    assert!(bench.network.broker().until_taken());
    let (exit, report) = audit(&bench.agent);
    assert_eq!((exit, &report["whole"]), (0, &report["hours"]), "{report}");
    assert!(report["accepted"].as_u64() >= Some(1), "{report}");

    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    daemon.kill();
    assert!(bench.network.broker().until_taken());
    let (exit, report) = audit(&bench.agent);
    assert_eq!((exit, &report["gaps"]), (0, &json!([])), "{report}");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    assert!(daemon.stop().success());
    assert!(bench.network.broker().until_taken());
    let (exit, report) = audit(&bench.agent);
    assert_eq!((exit, &report["gaps"]), (0, &json!([])), "{report}");
    let verdict = &report["not_judged"][0]["verdict"];
    assert_eq!(verdict, "uncertain", "some may not have been counted: {report}");

    let fresh = mqtt::Bench::with_certificate(AUDIT);
    import_audit(&fresh.agent, &fresh.network.sim, &json!({}));
    let daemon = fresh.agent.start();
    fresh.fresh_readings_arrive();
    fresh.network.broker().lose(3);
    fresh.fresh_readings_arrive();
    fresh.site.set_fault(1, Some(Fault::Silent));
    fresh.agent.until_nothing_waits();
    assert!(daemon.stop().success());
    assert!(fresh.network.broker().until_taken());
    let (exit, report) = audit(&fresh.agent);
    assert_eq!((exit, lost(&report)), (65, 3), "{report}");
}

#[test]
fn what_is_shown_late_is_no_gap() {
    let bench = Bench::new();
    bench.sim.set_query_delay(TimeDelta::hours(1));
    bench.send(10);
    let output = bench.agent.run(&["audit", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((code(&output), &report["gaps"]), (0, &json!([])), "{report}");
    let verdicts: Vec<&Value> =
        report["not_judged"].as_array().into_iter().flatten().map(|f| &f["verdict"]).collect();
    assert!(!verdicts.is_empty() && verdicts.iter().all(|v| **v == "recent"), "{report}");
}

#[test]
fn a_daemon_that_is_killed_makes_no_gap() {
    let bench = Bench::new();
    for round in 1..=3 {
        let daemon = bench.agent.start();
        let before = bench.sim.ledger_count().datum;
        eventually("more is accepted", || bench.sim.ledger_count().datum > before + 5);
        daemon.kill();
        let (exit, report) = bench.audit();
        assert_eq!((exit, &report["gaps"]), (0, &json!([])), "round {round}: {report}");
    }
    let before = bench.sim.ledger_count().datum;
    bench.send(before + 10);
    let (exit, report) = bench.audit();
    assert_eq!((exit, &report["gaps"]), (0, &json!([])), "{report}");
    assert!(report["accepted"].as_u64() >= Some(10), "{report}");
}

#[test]
fn a_source_that_the_token_may_not_see_is_no_gap() {
    let policy = json!({ "nodeIds": [NODE], "sourceIds": [FIRST] });
    let bench = Bench::with(&policy);
    bench.send(20);
    let (exit, report) = bench.audit();
    assert_eq!((exit, &report["gaps"]), (0, &json!([])), "{report}");
    let hidden = &report["not_judged"][0];
    assert_eq!((&hidden["source"], &hidden["verdict"]), (&json!(SECOND), &json!("hidden")));
    assert_eq!(hidden["shown"], Value::Null);
    bench.lose_one(FIRST);
    assert_eq!(bench.audit().0, 65);
}

#[test]
fn a_token_that_cannot_prove_anything_says_so() {
    for (policy, words) in [
        (json!({ "minAggregation": "Hour" }), "aggregates"),
        (json!({ "minAggregation": "Day" }), "aggregates"),
        (json!({ "sourceIds": ["/elsewhere"] }), "none of its sources"),
        (json!({ "nodeIds": [NODE + 1] }), "node 123"),
        (json!({ "apiPaths": ["/auth-tokens/refresh/v2"] }), "/datum/list"),
    ] {
        let bench = Bench::with(&policy);
        bench.send(6);
        let output = bench.agent.run(&["audit", "--settle", "0s"]);
        assert_eq!(code(&output), 77, "{policy}: {}", error(&output));
        assert!(error(&output).contains(words), "{policy}: {}", error(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn more_than_a_page_is_asked_for_page_by_page() {
    let sources: Vec<String> = (1..=12).map(|unit| format!("/site/meter/{unit}")).collect();
    let meters: Vec<(u8, &str)> = (1..).zip(sources.iter().map(String::as_str)).collect();
    let bench = Bench::of(&json!({}), &meters, "100ms");
    bench.send(1300);
    let (exit, report) = bench.audit();
    assert_eq!((exit, &report["whole"]), (0, &report["hours"]), "{report}");
    assert!(report["shown"].as_u64() >= Some(1300), "{report}");
    assert!(bench.sim.count_requests("GET", LIST) >= 2);
    bench.lose_one("/site/meter/9");
    assert_eq!(bench.audit().0, 65);
}

#[test]
fn without_token_ledger_or_server_the_command_says_what_is_missing() {
    let bench = Bench::new();
    let output = bench.agent.run(&["audit"]);
    assert_eq!(code(&output), 69, "{}", error(&output));
    assert!(error(&output).contains("no ledger yet"), "{}", error(&output));
    let output = bench.agent.run(&["audit", "--token", "nobody"]);
    assert_eq!(code(&output), 78, "{}", error(&output));
    bench.send(4);
    bench.sim.go_down();
    let output = bench.agent.run(&["audit"]);
    assert_eq!(code(&output), 69, "{}", error(&output));
    let output = bench.agent.run(&["audit", "--since", "36d"]);
    assert_eq!(code(&output), 64, "{}", error(&output));
}

#[test]
fn the_configuration_says_what_the_token_of_audits_needs() {
    let bench = Bench::new();
    let policy = bench.agent.ask_json(&["token", "policy", "--for-config", "--type", "data"]);
    assert_eq!(policy["apiPaths"], json!(["/datum/list", "/auth-tokens/refresh/v2"]));
    assert_eq!(policy["nodeIds"], json!([NODE]));
    let of_uploads = bench.agent.ask_json(&["token", "policy", "--for-config"]);
    assert_eq!(policy["sourceIds"], of_uploads["sourceIds"]);
    assert!(!of_uploads["apiPaths"].to_string().contains("/datum/list"));
}
