//! `token rotate` by the real program, while the real daemon uploads: the daemon goes over to the
//! successor without a restart, import jobs of the old token are waited for, a command that is killed at
//! any moment is finished by the next one, and no reading is lost on the way.

use std::{
    io::Write as _,
    process::{Child, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use solarnet_sim::{
    Act, ImportDelays, IssuedToken, Misbehaviour, Sim, Site, TokenKind, Unit, signing_key_hex,
};

use crate::support::{
    agent::{Agent, Daemon, NODE, SECRET, TOKEN, USER, eventually, link, meter, seed, solarnet},
    ledger::{Ledger, committed},
};

const TOKENS: &str = "/solaruser/api/v1/sec/user/auth-tokens";
const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";
const REFRESH: &str = "/solarquery/api/v1/sec/auth-tokens/refresh/v2";
const SOURCE: &str = "/site/meter";

/// A server whose token of the seed is the manager, and a device with a token of its own.
struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
    token: IssuedToken,
    policy: Value,
}

/// How a command ended.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Done {
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Fails with that code and these words.
    fn fails(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.err.contains(words), "{words}: {self:#?}");
        self
    }
}

fn done(output: Output) -> Done {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Bench {
    fn new(import: &[&str]) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        // A command that gives up goes on when it is given again, which is another matter.
        let patient = solarnet(&sim).replace("timeout = \"2s\"", "timeout = \"60s\"");
        let agent = Agent::new(&(patient + &link(&site) + &meter(1, SOURCE, "200ms")));
        let policy = agent.ask_json(&["token", "policy", "--for-config"]);
        let token = sim.issue_token(USER, TokenKind::User, &policy);
        agent.import(&token.id, &token.secret, import);
        let bench = Self { sim, site, agent, token, policy };
        let id = &bench.token.id;
        let named = ["update", id, "--name", "Barn", "--description", "Gateway \"7\""];
        bench.manage(&named).ok();
        bench
    }

    fn start(&self, arguments: &[&str], id: &str, secret: &str) -> Child {
        let mut child = self
            .agent
            .command(&[&["token"], arguments, &["--as", id]].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let mut stdin = child.stdin.take().expect("piped");
        // One that reads no secret has closed it by now.
        drop(stdin.write_all(secret.as_bytes()));
        child
    }

    fn manage(&self, arguments: &[&str]) -> Done {
        let child = self.start(arguments, TOKEN, SECRET);
        done(child.wait_with_output().expect("it ends"))
    }

    fn rotate(&self, more: &[&str]) -> Done {
        self.manage(&[&["rotate", "--yes"], more].concat())
    }

    /// The tokens at the server beside the manager.
    fn tokens(&self) -> Vec<Value> {
        let listed = self.manage(&["list", "--json"]).ok();
        let listed: Value = serde_json::from_str(&listed.out).expect("JSON");
        let tokens = listed["tokens"].as_array().expect("tokens").clone();
        tokens.into_iter().filter(|token| token["id"] != TOKEN).collect()
    }

    fn stored(&self) -> Value {
        let file = self.agent.state_dir().join("credentials/site.json");
        serde_json::from_slice(&std::fs::read(file).expect("a credential")).expect("JSON")
    }

    fn record(&self) -> bool {
        self.agent.state_dir().join("credentials/site.rotation").exists()
    }

    /// One token beside the manager, like the first one in all but its ID, which is in the store.
    fn assert_rotated_from(&self, old: &str) -> String {
        let tokens = self.tokens();
        assert_eq!(tokens.len(), 1, "{tokens:#?}");
        let token = &tokens[0];
        assert_eq!(
            (&token["name"], &token["description"]),
            (&json!("Barn"), &json!("Gateway \"7\""))
        );
        assert_eq!((&token["policy"], &token["type"]), (&self.policy, &json!("User")));
        assert_eq!(token["status"], "Active");
        assert_eq!(self.stored()["token_id"], token["id"]);
        assert!(!self.record());
        let id = token["id"].as_str().expect("an ID");
        assert_ne!(id, old);
        id.to_owned()
    }

    fn fresh_readings_arrive(&self) {
        let read = self.site.readings(1);
        eventually("a fresh reading arrives", || {
            Ledger::of(&self.sim).readings(SOURCE).iter().any(|number| *number > read)
        });
    }

    /// Everything that stands in the queue's files has arrived, and nothing was refused on the way.
    fn assert_nothing_lost(&self, daemon: Daemon) {
        let kept = committed(&self.agent);
        assert!(kept.len() > 5, "{}", kept.len());
        eventually("everything stored arrives", || {
            let arrived = Ledger::of(&self.sim).readings(SOURCE);
            kept.values().all(|datum| datum.samples.reading().is_none_or(|n| arrived.contains(&n)))
        });
        let ledger = Ledger::of(&self.sim);
        ledger.assert_has_all(kept.values());
        ledger.assert_only_readings(SOURCE, self.site.readings(1));
        for event in ["upload.refused", "upload.stopped", "upload.given_up", "credential.refused"] {
            assert_eq!(daemon.events(event), [""; 0], "{event}");
        }
        assert!(daemon.stop().success());
    }
}

#[test]
fn the_running_daemon_goes_over_to_the_successor_and_jobs_of_the_old_token_end_before_it_does() {
    let bench = Bench::new(&[]);
    bench.sim.set_import_delays(ImportDelays { queued_ms: 8000, ..ImportDelays::default() });
    let daemon = bench.agent.start();
    let open = || bench.sim.jobs().iter().any(|job| job["jobState"] != "Completed");
    eventually("a job is under way", open);
    let rotated = bench.rotate(&["--json"]).ok();
    let new = bench.assert_rotated_from(&bench.token.id);
    let shown: Value = serde_json::from_str(&rotated.out).expect("JSON");
    assert_eq!((&shown["id"], &shown["replaced"]), (&json!(new), &json!(bench.token.id)));
    assert_eq!((&shown["daemon"], &shown["token"]), (&json!("switched"), &json!("site")));
    let steps = [
        "is issued",
        "is proved by the refresh call, GET /user/import/jobs",
        "is in this device's store",
        "the running daemon uses",
        "has the name",
        "are over",
        "is disabled",
        "works without it",
        "is deleted",
    ];
    let mut rest = rotated.err.as_str();
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("`{step}` in its order: {rotated:#?}"));
        rest = &rest[at..];
    }
    // Only a key is on the device, as before.
    assert!(bench.stored().get("secret").is_none());
    assert_eq!(daemon.events("credential.replaced").len(), 1);
    let status = bench.agent.status_when("the new token is in use", |status| {
        status["credentials"][0]["token_id"] == new.as_str()
    });
    let used = &status["credentials"][0];
    assert_eq!((&used["accepted"]["token_id"], &used["leaving"]), (&json!(new), &json!([])));
    bench.fresh_readings_arrive();
    bench.assert_nothing_lost(daemon);
}

#[test]
fn killed_at_random_moments_and_run_again_each_rotation_ends_with_one_token_and_no_reading_is_lost()
{
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bench = Bench::new(&[]);
    bench.sim.set_import_delays(ImportDelays { queued_ms: 300, ..ImportDelays::default() });
    let daemon = bench.agent.start();
    let mut old = bench.token.id.clone();
    for round in 0..3 {
        for _ in 0..3 {
            let mut child = bench.start(&["rotate", "--yes"], TOKEN, SECRET);
            std::thread::sleep(Duration::from_millis(random.u64(50..2500)));
            child.kill().expect("killed");
            let ended = done(child.wait_with_output().expect("it ends"));
            println!("round {round}: killed after {:?}", ended.err.lines().last());
            // Whatever it had come to, the device has a token that works.
            let stored = bench.stored()["token_id"].clone();
            let tokens = bench.tokens();
            let works = |token: &Value| token["id"] == stored && token["status"] == "Active";
            assert!(tokens.iter().any(works), "{stored}: {tokens:#?}");
            assert!(tokens.len() <= 2, "{tokens:#?}");
        }
        // Where the last one was quick enough to finish, this is the next rotation.
        bench.rotate(&[]).ok();
        old = bench.assert_rotated_from(&old);
    }
    assert!(daemon.events("credential.replaced").len() >= 3);
    bench.fresh_readings_arrive();
    bench.assert_nothing_lost(daemon);
}

#[test]
fn a_successor_whose_secret_got_lost_is_deleted_after_asking() {
    let bench = Bench::new(&[]);
    let lost = Misbehaviour::new(&format!("{TOKENS}/generate"), Act::CutAfter).times(1).processed();
    bench.sim.misbehave(lost);
    bench.rotate(&[]).fails(69, "run the same command again");
    assert!(bench.record());
    assert_eq!(bench.tokens().len(), 2);
    bench.manage(&["rotate"]).fails(64, "--yes");
    let again = bench.rotate(&[]).ok();
    assert!(again.err.contains("nobody has the secret"), "{again:#?}");
    assert!(again.err.contains("no daemon is running"), "{again:#?}");
    bench.assert_rotated_from(&bench.token.id);
}

#[test]
fn a_second_rotation_is_kept_away_and_one_that_an_import_has_overtaken_is_given_up() {
    let bench = Bench::new(&[]);
    let generate = format!("{TOKENS}/generate");
    // It gets no further.
    bench.sim.misbehave(Misbehaviour::new(&generate, Act::Slow { ms: 60_000 }).times(1));
    let mut first = bench.start(&["rotate", "--yes"], TOKEN, SECRET);
    eventually("the first has begun", || bench.record());
    bench.rotate(&[]).fails(69, "is being rotated by another command");
    first.kill().expect("killed");
    first.wait().expect("it ends");

    let other = bench.sim.issue_token(USER, TokenKind::User, &json!({}));
    bench.agent.import(&other.id, &other.secret, &[]);
    let given_up = bench.rotate(&[]).fails(64, "put in by hand");
    assert!(given_up.err.contains(&bench.token.id), "{given_up:#?}");
    assert!(!bench.record());
    assert_eq!(bench.stored()["token_id"], other.id.as_str());
    assert!(bench.tokens().iter().all(|token| token["status"] == "Active"), "nothing was done");
    bench.rotate(&[]).ok();
}

#[test]
fn an_old_token_without_which_the_daemon_does_not_work_is_enabled_again() {
    let bench = Bench::new(&[]);
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    // While the old one is being disabled, everything that the daemon calls begins to fail.
    let status = format!("{TOKENS}/status");
    bench.sim.misbehave(Misbehaviour::new(&status, Act::Slow { ms: 3000 }).times(1));
    let child = bench.start(&["rotate", "--yes", "--wait", "6"], TOKEN, SECRET);
    let state = || bench.sim.token(&bench.token.id).map(|token| token["status"].clone());
    eventually("it is being disabled", || state() == Some(json!("Disabled")));
    for path in [REFRESH, JOBS, "/solaruser/api/v1/sec/instr"] {
        bench.sim.misbehave(Misbehaviour::new(path, Act::Status { status: 500 }));
    }
    let ended = done(child.wait_with_output().expect("it ends"));
    let ended = ended.fails(69, "accepted no call of the daemon");
    assert!(ended.err.contains("is enabled again"), "{ended:#?}");
    let tokens = bench.tokens();
    assert_eq!(tokens.len(), 2);
    assert!(tokens.iter().all(|token| token["status"] == "Active"), "{tokens:#?}");

    bench.sim.behave();
    let again = bench.rotate(&[]).ok();
    assert!(again.err.contains("only the rest is done"), "{again:#?}");
    bench.assert_rotated_from(&bench.token.id);
    bench.fresh_readings_arrive();
    bench.assert_nothing_lost(daemon);
}

#[test]
fn a_kept_secret_is_followed_by_a_kept_secret_and_renewal_may_be_forbidden() {
    let bench = Bench::new(&["--keep-secret"]);
    let policy = json!({ "refreshAllowed": false });
    assert!(bench.sim.set_token_policy(&bench.token.id, &policy));
    let daemon = bench.agent.start();
    let rotated = bench.rotate(&[]).ok();
    assert!(rotated.err.contains("the running daemon uses"), "{rotated:#?}");
    let tokens = bench.tokens();
    assert_eq!((tokens.len(), &tokens[0]["policy"]), (1, &policy));
    let stored = bench.stored();
    let secret = stored["secret"].as_str().expect("the secret is kept");
    assert_ne!(secret, bench.token.secret);
    let key = signing_key_hex(secret, bench.sim.now().date_naive());
    assert_eq!(stored["key"], key, "it is the successor's");
    bench.fresh_readings_arrive();
    bench.assert_nothing_lost(daemon);
}

#[test]
fn a_rotation_that_cannot_be_is_refused_before_anything_is_done() {
    let bench = Bench::new(&[]);
    let (id, secret) = (bench.token.id.clone(), bench.token.secret.clone());
    bench.manage(&["rotate"]).fails(64, "--yes");
    bench.manage(&["rotate", "nobody", "--yes"]).fails(78, "no token `nobody`");
    let itself = bench.sim.issue_token(USER, TokenKind::User, &json!({}));
    bench.agent.import(&itself.id, &itself.secret, &[]);
    let child = bench.start(&["rotate", "--yes"], &itself.id, &itself.secret);
    done(child.wait_with_output().expect("it ends")).fails(64, "another manager");
    bench.agent.import(&id, &secret, &[]);

    let past = (bench.sim.now() - chrono::TimeDelta::hours(1)).timestamp_millis();
    assert!(bench.sim.set_token_policy(&id, &json!({ "notAfter": past })));
    bench.rotate(&[]).fails(77, "has run out");
    assert!(bench.sim.delete_token(&id));
    bench.rotate(&[]).fails(77, "create site --replace");
    assert_eq!(bench.sim.count_requests("POST", &format!("{TOKENS}/generate")), 0);
    assert!(!bench.record());
    assert_eq!(bench.stored()["token_id"], id.as_str());
    // One that does not use the configured token's needs: the refresh call is its proof.
    let data = bench.sim.issue_token(USER, TokenKind::ReadNodeData, &json!({ "nodeIds": [NODE] }));
    let file = bench.agent.private_file("secret", &data.secret);
    let file = file.to_str().expect("text");
    bench.agent.ask(&["token", "import", "reports", "--token-id", &data.id, "--secret-file", file]);
    let rotated = bench.rotate(&["reports"]).ok();
    assert!(rotated.err.contains("proved by the refresh call\n"), "{rotated:#?}");
    assert!(rotated.out.contains(&format!("taken the place of {}", data.id)), "{rotated:#?}");
}
