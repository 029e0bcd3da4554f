//! `upload.proof = "query"` with the real daemon: a datum stays until SolarQuery shows it.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{
    Act, Authority, Fault, Misbehaviour, NodeCertificate, Sim, Site, SolarIn, TokenKind, Unit,
};

use crate::{
    audit::import_audit,
    mqtt,
    support::{
        agent::{Agent, Daemon, NODE, USER, eventually, link, meter, seed, solarnet},
        ledger::{Committed, Ledger, committed},
    },
};

const FIRST: &str = "/site/meter/1";
const SECOND: &str = "/site/meter/2";
const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";
const BULK: &str = "/solarin/bulkCollector.do";
const LIST: &str = "/solarquery/api/v1/sec/datum/list";

/// A server, two meters, and an agent with a token for uploads and one that asks.
struct Bench {
    sim: Sim,
    agent: Agent,
    site: Site,
    /// The token that asks.
    asks: String,
}

impl Bench {
    /// With what `token policy --for-config --type data` says that it needs.
    fn new() -> Self {
        let bench = Self::with(&json!({}));
        let policy = bench.agent.ask_json(&["token", "policy", "--for-config", "--type", "data"]);
        assert!(bench.sim.set_token_policy(&bench.asks, &policy));
        bench
    }

    fn with(policy: &Value) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1), Unit::meter(2)]).expect("a site");
        let agent = Agent::new(&config(&sim, &site, "query"));
        agent.import_token();
        let token = sim.issue_token(USER, TokenKind::ReadNodeData, policy);
        let secret = agent.private_file("secret", &token.secret);
        let secret = secret.to_str().expect("text");
        agent.ask(&["token", "import", "audit", "--token-id", &token.id, "--secret-file", secret]);
        Self { sim, agent, site, asks: token.id }
    }

    fn silence(&self, fault: Option<Fault>) {
        [1, 2].into_iter().for_each(|unit| self.site.set_fault(unit, fault));
    }

    /// Lets the meters be read until the server has that many datum, and then no more.
    fn read(&self, count: usize) {
        self.silence(None);
        eventually("enough is accepted", || self.sim.ledger_count().datum >= count);
        self.silence(Some(Fault::Silent));
    }

    fn jobs(&self) -> usize {
        self.sim.count_requests("POST", JOBS)
    }

    /// Of all that the server took, nothing is missing there.
    fn has_no_gap(&self) {
        let output = self.agent.run(&["audit", "--settle", "0s", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!(report["gaps"], json!([]), "{report}");
    }
}

fn config(sim: &Sim, site: &Site, proof: &str) -> String {
    let upload = format!("[upload]\nproof = \"{proof}\"\n");
    solarnet(sim).replace("[upload]\n", &upload)
        + "[audit]\ntoken = \"audit\"\nsettle = \"250ms\"\n"
        + &link(site)
        + &meter(1, FIRST, "100ms")
        + &meter(2, SECOND, "100ms")
}

fn proof(status: &Value, member: &str) -> Value {
    status["upload"]["proof"][member].clone()
}

#[test]
fn what_a_job_dropped_is_sent_again_and_nothing_is_deleted_before_it_is_there() {
    let bench = Bench::new();
    bench.sim.go_down();
    let daemon = bench.agent.start();
    let records = |status: &Value| status["queue"]["records"].as_u64();
    bench.agent.status_when("enough was read", |status| records(status) >= Some(20));
    bench.silence(Some(Fault::Silent));
    // One job for all, which drops three; then none.
    let drops = Misbehaviour::new(JOBS, Act::JobDropsRows { rows: 3 }).method("POST").times(1);
    bench.sim.misbehave(drops);
    bench.sim.misbehave(Misbehaviour::new(JOBS, Act::Transient).method("POST"));
    bench.sim.come_back().expect("the port is free");
    eventually("it is told", || daemon.events("proof.unseen").len() == 1);
    let left = committed(&bench.agent);
    let arrived = bench.sim.ledger();
    let is_there = |datum: &Committed| {
        let mut keys = arrived.iter().map(|(key, _)| (&key.source, Some(key.ms)));
        keys.any(|key| key == (&datum.source, datum.created_ms))
    };
    assert_eq!(left.values().filter(|datum| !is_there(datum)).count(), 3);
    let status = bench.agent.status_when("the rest is shown", |status| records(status) == Some(3));
    assert!(proof(&status, "shown").as_u64() >= Some(17), "{status}");
    let names: Vec<&Value> =
        status["credentials"].as_array().into_iter().flatten().map(|c| &c["token"]).collect();
    assert_eq!(names, ["site", "audit"]);
    assert_eq!(status["credentials"][1]["accepted"]["token_id"], json!(bench.asks));
    let text = bench.agent.ask(&["status"]);
    assert!(text.contains("proof by query: ok;"), "{text}");

    bench.sim.behave();
    let status = bench.agent.until_nothing_waits();
    assert_eq!((proof(&status, "sent_again"), proof(&status, "unseen")), (json!(3), json!(0)));
    let unseen = daemon.events("proof.unseen");
    assert_eq!(unseen.len(), 1, "{unseen:?}");
    assert!(unseen[0].contains("datum_count=3"), "{unseen:?}");
    assert_eq!(daemon.events("proof.complete").len(), 1);
    assert!(daemon.stop().success());
    bench.has_no_gap();
}

#[test]
fn a_daemon_that_is_killed_looks_before_it_sends_again_and_loses_nothing() {
    let bench = Bench::new();
    bench.sim.set_query_delay(TimeDelta::hours(1));
    let daemon = bench.agent.start();
    bench.read(30);
    let proved = |daemon: &Daemon| daemon.events("upload.proved").len();
    eventually("every job has ended well", || {
        let sent = daemon.events("upload.sent").len();
        let nothing_new = bench.agent.status().is_some_and(|status| {
            status["upload"]["open_jobs"] == 0
                && proof(&status, "waiting") == status["queue"]["records"]
        });
        sent > 0 && proved(&daemon) == sent && nothing_new
    });
    let (jobs, records) = (bench.jobs(), bench.agent.on_disk());
    assert!(records >= 30, "{records}");
    daemon.kill();
    let here = committed(&bench.agent);
    assert_eq!(here.len() as u64, records);

    // What was not written down when it was killed (the last proof, perhaps) is sent again; not the rest.
    bench.sim.set_query_delay(TimeDelta::zero());
    let daemon = bench.agent.start();
    let status = bench.agent.until_nothing_waits();
    assert!(proof(&status, "shown").as_u64() >= Some(records), "{status}");
    assert!(bench.jobs() <= jobs + 1, "{} {jobs}", bench.jobs());
    assert_eq!(daemon.events("proof.unseen"), [""; 0]);
    assert!(daemon.stop().success());
    Ledger::of(&bench.sim).assert_has_all(here.values());
    bench.has_no_gap();
}

#[test]
fn a_daemon_that_is_killed_while_the_server_drops_rows_gets_all_of_them_there() {
    let bench = Bench::new();
    let mut here = BTreeMap::new();
    for _ in 0..3 {
        let drops = Misbehaviour::new(JOBS, Act::JobDropsRows { rows: 2 }).method("POST").times(1);
        bench.sim.misbehave(drops);
        let before = bench.sim.ledger_count().datum;
        let daemon = bench.agent.start();
        bench.read(before + 5);
        eventually("something was shown", || {
            bench.agent.status().is_some_and(|status| proof(&status, "shown").as_u64() > Some(0))
        });
        daemon.kill();
        let left = committed(&bench.agent);
        // Dropped rows are still here, whatever their jobs said.
        assert!(!left.is_empty());
        here.extend(left);
    }
    let daemon = bench.agent.start();
    bench.agent.until_nothing_waits();
    assert!(daemon.stop().success());
    let ledger = Ledger::of(&bench.sim);
    ledger.assert_has_all(here.values());
    ledger.assert_unchanged();
    bench.has_no_gap();
}

#[test]
fn what_a_batch_named_and_the_server_did_not_store_is_sent_again() {
    let bench = Bench::with(&json!({ "nodeIds": [NODE] }));
    let authority = Authority::new().expect("an authority");
    let solarin = SolarIn::start(&bench.sim, &authority).expect("SolarIn");
    let node = authority.issue_node(&NodeCertificate::around(NODE, Utc::now())).expect("a node");
    let ca = bench.agent.private_file("ca.pem", &authority.pem());
    let text = config(&bench.sim, &bench.site, "query")
        .replace("[upload]\n", "[upload]\nvia = \"bulk\"\n")
        .replace(
            "[solarnet]\n",
            &format!("[solarnet]\nin_url = \"{}\"\nca_file = {ca:?}\n", solarin.url()),
        );
    bench.agent.configure(&text);
    let chain = bench.agent.private_file("chain.pem", &node.chain_pem());
    let key = bench.agent.private_file("key.pem", &node.key_pem());
    let (chain, key) = (chain.to_str().expect("text"), key.to_str().expect("text"));
    bench.agent.ask(&["identity", "import", chain, "--key-file", key]);
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::BatchDropsEntries { entries: 2 }));
    let daemon = bench.agent.start();
    eventually("it is told", || daemon.events("proof.unseen").len() == 1);
    // Before it is sent again: what is dropped twice is looked for in minutes.
    bench.sim.behave();
    bench.read(10);
    let status = bench.agent.until_nothing_waits();
    assert!(proof(&status, "sent_again").as_u64() >= Some(2), "{status}");
    assert_eq!(proof(&status, "unseen"), 0);
    assert!(daemon.stop().success());
    bench.has_no_gap();
}

#[test]
fn what_a_broker_acknowledged_and_the_server_lost_is_sent_again_and_not_deleted_before() {
    let bench = mqtt::Bench::with_certificate("");
    let config = bench.config.replace("via = \"mqtt\"", "via = \"mqtt\"\nproof = \"query\"");
    bench.agent.configure(&(config + "[audit]\ntoken = \"audit\"\nsettle = \"250ms\"\n"));
    import_audit(&bench.agent, &bench.network.sim, &json!({ "nodeIds": [NODE] }));
    bench.network.broker().lose(usize::MAX);
    let daemon = bench.agent.start();
    bench.agent.status_when("the broker took some", |status| {
        status["mqtt"]["published"].as_u64() >= Some(5)
    });
    bench.site.set_fault(1, Some(Fault::Silent));
    let here = committed(&bench.agent);
    assert!(here.len() >= 5, "{here:?}");
    eventually("it is told", || daemon.events("proof.unseen").len() == 1);
    assert_eq!(bench.network.sim.ledger_count().datum, 0);
    // Before it is sent again: what is lost twice is looked for in minutes.
    bench.network.broker().lose(0);
    let text = bench.agent.ask(&["status"]);
    assert!(text.contains("handed over since the start, last"), "{text}");
    let status = bench.agent.until_nothing_waits();
    assert!(proof(&status, "sent_again").as_u64() >= Some(5), "{status}");
    assert!(daemon.stop().success());
    Ledger::of(&bench.network.sim).assert_has_all(here.values());
}

#[test]
fn a_token_that_may_not_read_stops_proofs_is_told_and_costs_nothing_but_room() {
    let bench = Bench::with(&json!({ "apiPaths": ["/auth-tokens/refresh/v2"] }));
    let daemon = bench.agent.start();
    bench.read(10);
    let status = bench.agent.status_when("proofs are stopped", |status| {
        proof(status, "state") == "stopped" && status["upload"]["open_jobs"] == 0
    });
    assert!(proof(&status, "waits_for").to_string().contains("/datum/list"), "{status}");
    assert_eq!(status["upload"]["state"], "ok");
    assert!(status["queue"]["records"].as_u64() >= Some(10), "{status}");
    assert_eq!(daemon.events("proof.stopped").len(), 1);
    let text = bench.agent.ask(&["status"]);
    assert!(text.contains("proof by query: stopped") && text.contains("/datum/list"), "{text}");
    bench.read(20);
    assert!(bench.sim.count_requests("GET", LIST) < 4);

    // A token that may: the daemon hears of it.
    let token = bench.sim.issue_token(USER, TokenKind::ReadNodeData, &json!({ "nodeIds": [NODE] }));
    let secret = bench.agent.private_file("secret", &token.secret);
    let secret = secret.to_str().expect("text");
    let import = ["token", "import", "audit", "--token-id", &token.id, "--secret-file", secret];
    bench.agent.ask(&[&import[..], &["--replace"]].concat());
    bench.agent.until_nothing_waits();
    assert_eq!(daemon.events("proof.resumed").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_source_that_the_token_may_not_see_is_kept_and_named() {
    let bench = Bench::with(&json!({ "nodeIds": [NODE], "sourceIds": [FIRST] }));
    let daemon = bench.agent.start();
    bench.read(10);
    let status =
        bench.agent.status_when("proofs are stopped", |status| proof(status, "state") == "stopped");
    assert!(proof(&status, "waits_for").to_string().contains(SECOND), "{status}");
    assert!(proof(&status, "shown").as_u64() > Some(0), "{status}");
    assert_eq!(proof(&status, "sent_again"), 0);
    assert!(daemon.lines_with(&["proof.stopped", "hidden"]).len() == 1);
    assert!(daemon.stop().success());
    assert!(bench.agent.on_disk() > 0);
}

#[test]
fn a_token_that_sees_aggregates_only_proves_nothing() {
    let bench = Bench::with(&json!({ "minAggregation": "Hour" }));
    let daemon = bench.agent.start();
    bench.read(10);
    let status =
        bench.agent.status_when("proofs are stopped", |status| proof(status, "state") == "stopped");
    assert!(proof(&status, "waits_for").to_string().contains("minAggregation"), "{status}");
    assert_eq!(proof(&status, "shown"), 0);
    assert!(daemon.stop().success());
}

#[test]
fn a_reload_goes_over_to_another_level_and_back_and_loses_nothing() {
    let bench = Bench::new();
    bench.sim.set_query_delay(TimeDelta::hours(1));
    let daemon = bench.agent.start();
    bench.read(10);
    bench.agent.status_when("something waits", |status| proof(status, "waiting") != 0);
    bench.agent.configure(&config(&bench.sim, &bench.site, "job"));
    assert!(daemon.reload().contains("config.reloaded"));
    let status = bench.agent.until_nothing_waits();
    assert_eq!(status["upload"]["proof"], Value::Null);
    assert_eq!(status["credentials"].as_array().map(Vec::len), Some(1));
    bench.agent.configure(&config(&bench.sim, &bench.site, "query"));
    assert!(daemon.reload().contains("config.reloaded"));
    bench.sim.set_query_delay(TimeDelta::zero());
    let count = bench.sim.ledger_count().datum;
    bench.read(count + 10);
    let status = bench.agent.until_nothing_waits();
    assert!(proof(&status, "shown").as_u64() >= Some(10), "{status}");
    assert!(daemon.stop().success());
    bench.has_no_gap();
}

#[test]
fn the_configuration_says_what_the_token_that_asks_needs() {
    let bench = Bench::new();
    let policy = |arguments: &[&str]| {
        bench.agent.ask_json(&[&["token", "policy", "--for-config"], arguments].concat())
    };
    assert_eq!(
        policy(&["--type", "data"])["apiPaths"],
        json!(["/datum/list", "/auth-tokens/refresh/v2"])
    );
    assert!(!policy(&[])["apiPaths"].to_string().contains("/datum/list"));
    // Without a token of its own, that of uploads asks.
    let config = config(&bench.sim, &bench.site, "query");
    bench.agent.configure(&config.replace("token = \"audit\"\n", ""));
    assert!(policy(&[])["apiPaths"].to_string().contains("/datum/list"));
    let daemon = bench.agent.start();
    bench.read(6);
    let status = bench.agent.until_nothing_waits();
    assert_eq!(status["credentials"].as_array().map(Vec::len), Some(1));
    assert!(proof(&status, "shown").as_u64() >= Some(6), "{status}");
    assert!(daemon.stop().success());
}
