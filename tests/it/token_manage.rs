//! The token commands that act at SolarNetwork, by the real program against the simulator: issuing,
//! changing and deleting tokens, what they refuse to send, what they do when they are interrupted, and
//! how every token command ends with a token that is revoked, disabled, over or too narrow.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Child, Output, Stdio},
};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{
    Act, InstructionState, IssuedToken, Misbehaviour, NewInstruction, Seen, Sim, Site, TokenKind,
    Unit, signing_key_hex,
};

use crate::support::agent::{
    Agent, NODE, SECRET, TOKEN, USER, eventually, link, meter, seed, solarnet,
};

const TOKENS: &str = "/solaruser/api/v1/sec/user/auth-tokens";

/// A server with one account, whose token of the seed is the manager; and a device.
struct Bench {
    sim: Sim,
    site: Site,
    agent: Agent,
}

/// How a command ended.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Done {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

fn done(output: Output) -> Done {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(vec![Unit::meter(1), Unit::relay(3, 8)]).expect("a site");
        let control = r#"
[[control]]
id = "/site/relay"
write = { modbus = "cabinet", unit = 3, table = "coil", address = 0 }
allow = { min = 0, max = 1 }
"#;
        // Long enough for a command to be killed while it waits.
        let patient = solarnet(&sim).replace("timeout = \"2s\"", "timeout = \"60s\"");
        let config = patient + &link(&site) + &meter(1, "/site/meter", "200ms") + control;
        Self { agent: Agent::new(&config), sim, site }
    }

    /// Starts `token …`, with the secret on standard input.
    fn start(&self, arguments: &[&str], secret: &str) -> Child {
        let mut child = self
            .agent
            .command(&[&["token"], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let mut stdin = child.stdin.take().expect("piped");
        // One that reads no secret has closed it by now.
        drop(stdin.write_all(format!("{secret}\n").as_bytes()));
        child
    }

    fn token(&self, arguments: &[&str], secret: &str) -> Done {
        let child = self.start(arguments, secret);
        let done = done(child.wait_with_output().expect("it ends"));
        assert!(secret.is_empty() || !format!("{done:?}").contains(secret), "{done:?}");
        done
    }

    /// `token …` acting as the manager.
    fn manage(&self, arguments: &[&str]) -> Done {
        self.token(&[arguments, &["--as", TOKEN]].concat(), SECRET)
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.manage(&["list", "--json"]).ok().json();
        listed["tokens"].as_array().expect("tokens").clone()
    }

    /// The token of that name at the server.
    fn named(&self, name: &str) -> Value {
        let found = self.listed().into_iter().find(|token| token["name"] == name);
        found.unwrap_or_else(|| panic!("no token `{name}`"))
    }

    fn stored(&self, name: &str) -> Option<Value> {
        let file = self.agent.state_dir().join(format!("credentials/{name}.json"));
        let bytes = std::fs::read(file).ok()?;
        Some(serde_json::from_slice(&bytes).expect("JSON"))
    }

    fn note(&self, name: &str) -> bool {
        self.agent.state_dir().join(format!("credentials/{name}")).exists()
    }

    fn calls(&self, method: &str, path: &str) -> usize {
        self.sim.count_requests(method, &format!("{TOKENS}{path}"))
    }
}

fn id(token: &Value) -> &str {
    token["id"].as_str().expect("an ID")
}

/// The usual way to set up a device, to the end: one command, then everything that the agent does is
/// allowed, and it does nothing that the policy has and nobody calls.
#[test]
fn a_token_for_the_configuration_is_issued_installed_and_enough_and_no_more_than_enough() {
    let bench = Bench::new();
    let printed = done(bench.agent.run(&["token", "policy", "--for-config"])).ok().json();
    let created = bench.manage(&["create", "--for-config", "--json"]).ok();
    assert!(created.json().get("secret").is_none(), "{created:?}");
    assert!(created.err.contains("is proved"), "{created:?}");
    let token = bench.named("site");
    assert_eq!(token["policy"], printed);
    assert_eq!(token["type"], "User");
    let stored = bench.stored("site").expect("installed");
    assert_eq!((stored["token_id"].as_str(), stored.get("secret")), (Some(id(&token)), None));
    assert!(!bench.note("site.issue") && bench.note("site.policy"));

    let checked = done(bench.agent.run(&["token", "check"])).ok();
    assert!(checked.out.contains("exactly what the configuration needs"), "{checked:?}");
    let checked = done(bench.agent.run(&["check"])).ok().out;
    assert!(checked.contains("1 control)\n") && !checked.contains("warning"), "{checked}");

    let before = bench.sim.requests().len();
    let daemon = bench.agent.start();
    let instruction = bench.sim.add_instruction(NewInstruction {
        node: NODE,
        topic: "SetControlParameter".to_owned(),
        parameters: vec![("/site/relay".to_owned(), "1".to_owned())],
        ..NewInstruction::default()
    });
    let unknown = bench.sim.add_instruction(NewInstruction {
        node: NODE,
        topic: "Unheard".to_owned(),
        ..NewInstruction::default()
    });
    let ended = |id| bench.sim.instruction(id).is_some_and(|i| i.state.is_final());
    eventually("the instructions end", || ended(instruction) && ended(unknown));
    // One that waits, and is in no list when its time comes: it is looked at alone before it is done.
    let later = Utc::now() + TimeDelta::seconds(8);
    let waiting = bench.sim.add_instruction(NewInstruction {
        node: NODE,
        topic: "SetControlParameter".to_owned(),
        parameters: vec![
            ("/site/relay".to_owned(), "0".to_owned()),
            ("executionDate".to_owned(), later.to_rfc3339()),
        ],
        ..NewInstruction::default()
    });
    let received = |i: solarnet_sim::Instruction| i.state == InstructionState::Received;
    eventually("it is received", || bench.sim.instruction(waiting).is_some_and(received));
    bench.sim.misbehave(Misbehaviour::new(
        "/solaruser/api/v1/sec/instr/viewPending",
        Act::HoldInstruction,
    ));
    eventually("the last instruction ends", || ended(waiting));
    let sources = || -> BTreeSet<String> {
        bench.sim.ledger().into_iter().map(|(key, _)| key.source).collect()
    };
    let wanted = ["/site/instructions", "/site/meter", "/site/relay"].map(str::to_owned);
    eventually("every source arrives", || sources() == BTreeSet::from(wanted.clone()));
    assert_eq!(daemon.events("upload.stopped"), Vec::<String>::new());
    let followed =
        || bench.sim.count_requests("GET", "/solaruser/api/v1/sec/user/import/jobs/") > 0;
    eventually("a job is followed", followed);
    // The next day's key, which no test waits for.
    bench.sim.set_clock_offset(TimeDelta::days(1));
    done(bench.agent.run(&["token", "refresh"])).ok();
    assert!(daemon.stop().success());
    assert!(bench.site.readings(1) > 0);

    let list = |member: &str| -> BTreeSet<String> {
        let list = printed[member].as_array().expect("a list").iter();
        list.map(|entry| entry.as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(list("sourceIds"), sources(), "no source is missing and none is to spare");
    let called: BTreeSet<String> =
        bench.sim.requests()[before..].iter().filter_map(api_path).collect();
    assert_eq!(list("apiPaths"), called, "no call is missing and none is to spare");
    assert_eq!(printed["nodeIds"], json!([NODE]));
}

/// A call as `apiPaths` spells it; nothing where no token is needed, as to ask for the time.
fn api_path(seen: &Seen) -> Option<String> {
    let (_, path) = seen.path.split_once("/api/v1/sec")?;
    Some(match path.strip_prefix("/user/import/jobs/") {
        Some(_) => "/user/import/jobs/*".to_owned(),
        None => path.to_owned(),
    })
}

#[test]
fn a_data_token_is_issued_with_every_member_and_its_secret_is_shown_once() {
    let bench = Bench::new();
    #[rustfmt::skip]
    let created = bench.manage(&[
        "create", "reports", "--type", "data", "--description", "For the owner",
        "--node", "123", "--source", "/site/**", "--min-aggregation", "Hour",
        "--api-path", "/datum/**", "--node-metadata", "/m/**", "--user-metadata", "/pm/a/*",
        "--min-location-precision", "Block", "--expires", "90d", "--refresh", "forbidden", "--json",
    ]).ok().json();
    let listed = bench.named("reports");
    let secret = created["secret"].as_str().expect("a secret").to_owned();
    assert!(listed.get("secret").is_none() && listed.get("authSecret").is_none());
    assert_eq!(listed["description"], "For the owner");
    assert_eq!(listed["type"], "ReadNodeData");
    let policy = &listed["policy"];
    assert_eq!(policy.as_object().expect("members").len(), 9, "{policy}");
    let ends = Utc::now() + TimeDelta::days(90);
    let off = policy["notAfter"].as_i64().expect("an instant") - ends.timestamp_millis();
    assert!(off.abs() < 60_000, "{policy}");
    assert!(bench.stored("reports").is_none() && !bench.note("reports.issue"));
    // What was shown is the secret: it signs.
    let import = bench.token(&["import", "reports", "--token-id", id(&listed)], &secret);
    assert!(import.err.contains("refreshAllowed") || import.err.contains("apiPaths"), "{import:?}");
    let shown = bench.manage(&["list"]).ok().out;
    let line = shown.lines().find(|line| line.contains("reports")).expect("a line");
    assert!(line.contains("ReadNodeData") && line.contains("minAggregation"), "{line}");
}

#[test]
fn adding_widens_setting_keeps_the_rest_and_replacing_drops_it() {
    let bench = Bench::new();
    bench.manage(&["create", "t", "--node", "123", "--source", "/a", "--expires", "9d"]).ok();
    let token = bench.named("t");
    let policy = |arguments: &[&str]| bench.manage(&[&["policy", id(&token)], arguments].concat());
    let nobody = policy(&["--add", "--source", "/b"]);
    assert_eq!(nobody.code, Some(64), "nobody could be asked: {nobody:?}");
    assert!(nobody.err.contains("sourceIds: + /b (wider)"), "{nobody:?}");
    assert_eq!(bench.named("t")["policy"], token["policy"]);

    let added =
        policy(&["--add", "--source", "/b", "--api-path", "/datum/**", "--yes", "--json"]).ok();
    assert!(added.err.contains("apiPaths: any → /datum/** (narrower)"), "{added:?}");
    assert_eq!(added.json()["policy"]["sourceIds"], json!(["/a", "/b"]));
    assert_eq!(bench.calls("PATCH", "/policy"), 1);

    let set = policy(&["--set", "--source", "/c", "--remove", "notAfter", "--yes", "--json"]).ok();
    let kept = &set.json()["policy"];
    assert_eq!(kept["sourceIds"], json!(["/c"]));
    assert_eq!((kept.get("notAfter"), &kept["nodeIds"]), (None, &json!([123])));
    assert_eq!(kept["apiPaths"], json!(["/datum/**"]));
    let again = policy(&["--set", "--source", "/c", "--yes"]).ok();
    assert!(again.err.contains("already"), "{again:?}");
    assert_eq!(bench.calls("PUT", "/policy"), 1);

    let replaced = policy(&["--replace", "--source", "/d", "--yes", "--json"]).ok();
    assert_eq!(replaced.json()["policy"], json!({"sourceIds": ["/d"]}));
    assert!(replaced.err.contains("nodeIds: 123 → any (wider)"), "{replaced:?}");
    let cleared = policy(&["--replace", "--yes", "--json"]).ok();
    assert_eq!(cleared.json()["policy"], json!({}));
    assert_eq!(policy(&["--source", "/x"]).code, Some(64), "neither word was said");
    assert_eq!(policy(&["--add", "--yes"]).code, Some(64), "nothing was given");
}

#[test]
fn what_would_be_dropped_or_misread_is_not_sent() {
    let bench = Bench::new();
    let file = |text: &str| bench.agent.private_file("policy.json", text);
    for (text, why) in [
        (r#"{"nodeIds": []}"#, "`nodeIds`: an empty list means no restriction"),
        (r#"{"minAggregation": "hour"}"#, "case-sensitive: Hour"),
        (r#"{"notAfter": "2030-01-01"}"#, "`notAfter`"),
        (r#"{"locationPrecisions": [], "nodeIds": [123]}"#, "`locationPrecisions`"),
        (r#"{"sourceID": ["/a"]}"#, "did you mean `sourceIds`"),
        (r#"{"apiPaths": ["/datum/**", "!/instr/**"]}"#, "alternatives"),
        ("{", "is not JSON"),
    ] {
        let path = file(text);
        let refused = bench.manage(&["create", "x", "--policy", path.to_str().expect("text")]);
        assert_eq!(refused.code, Some(64), "{text}: {refused:?}");
        assert!(refused.err.contains(why), "{text}: {refused:?}");
    }
    assert_eq!(bench.calls("POST", "/generate"), 0);
    let good = file(r#"{"nodeIds": [123], "refreshAllowed": false}"#);
    bench.manage(&["create", "x", "--policy", good.to_str().expect("text")]).ok();
    assert_eq!(bench.named("x")["policy"], json!({"nodeIds": [123], "refreshAllowed": false}));
}

#[test]
fn names_and_states_change_and_deleting_asks() {
    let bench = Bench::new();
    bench.manage(&["create", "t", "--node", "123", "--description", "first"]).ok();
    let token = bench.named("t");
    let with =
        |command: &str, more: &[&str]| bench.manage(&[&[command, id(&token)], more].concat());
    with("update", &["--name", "Barn gateway"]).ok();
    assert_eq!(bench.named("Barn gateway")["description"], "first", "what is not given stays");
    with("update", &["--description", ""]).ok();
    assert_eq!(bench.named("Barn gateway")["description"], Value::Null);
    assert_eq!(with("update", &["--name", " "]).code, Some(64));
    assert_eq!(with("update", &["--name", &"x".repeat(129)]).code, Some(64));

    with("disable", &[]).ok();
    assert_eq!(bench.named("Barn gateway")["status"], "Disabled");
    assert!(with("disable", &[]).ok().out.contains("already"));
    with("enable", &[]).ok();
    assert_eq!(bench.named("Barn gateway")["status"], "Active");
    let own = bench.manage(&["disable", TOKEN]);
    assert_eq!(own.code, Some(64), "it could not enable itself again: {own:?}");

    let asked = with("delete", &[]);
    assert_eq!(asked.code, Some(64), "{asked:?}");
    assert!(asked.err.contains("--yes"), "{asked:?}");
    with("delete", &["--yes"]).ok();
    assert_eq!(bench.listed().len(), 1);
    let gone = with("delete", &["--yes"]);
    assert_eq!(gone.code, Some(77), "the server would say yes: {gone:?}");
    assert!(gone.err.contains("no token"), "{gone:?}");
}

/// The answer is lost, or the process dies, at each step; the same command again puts it right.
#[test]
fn interrupted_at_any_step_the_same_command_again_leaves_one_token_that_works() {
    let create = ["create", "--for-config", "--yes"];
    // The answer to `generate` is lost: nobody has the secret.
    for act in [Act::CutAfter, Act::Garbage] {
        let bench = Bench::new();
        bench
            .sim
            .misbehave(Misbehaviour::new(&format!("{TOKENS}/generate"), act).times(1).processed());
        let lost = bench.manage(&create);
        assert_eq!(lost.code, Some(69), "{lost:?}");
        assert!(lost.err.contains("run the same command again"), "{lost:?}");
        assert!(bench.stored("site").is_none() && bench.note("site.issue"));
        let asked = bench.manage(&create[..2]);
        assert_eq!(asked.code, Some(64), "it asks before it deletes: {asked:?}");
        assert!(asked.err.contains("nobody has the secret"), "{asked:?}");
        bench.manage(&create).ok();
        one_token_that_works(&bench);
    }
    // Killed while `generate` is answered, and while the name is given.
    for step in ["/generate", "/info"] {
        let bench = Bench::new();
        let slow = Act::Slow { ms: 60_000 };
        bench.sim.misbehave(Misbehaviour::new(&format!("{TOKENS}{step}"), slow).times(1));
        let mut child = bench.start(&[&create[..], &["--as", TOKEN]].concat(), SECRET);
        // It is carried out before it is answered.
        eventually("the call arrives", || {
            let listed = bench.listed();
            listed.len() == 2 && (step == "/generate" || listed.iter().any(|t| t["name"] == "site"))
        });
        child.kill().expect("killed");
        child.wait().expect("it ends");
        assert!(bench.note("site.issue"), "{step}");
        let again = bench.manage(&create).ok();
        if step == "/info" {
            assert!(again.err.contains("only the rest is done"), "{again:?}");
            assert_eq!(bench.calls("POST", "/generate"), 1, "not issued twice");
        }
        one_token_that_works(&bench);
    }
    // Refused outright: nothing was issued, so there is nothing to look for.
    let bench = Bench::new();
    let refused = bench.manage(&["create", "x", "--node", "99"]);
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(!bench.note("x.issue"));
}

fn one_token_that_works(bench: &Bench) {
    let token = bench.named("site");
    assert_eq!(bench.listed().len(), 2, "the manager and the new one");
    assert_eq!(bench.stored("site").expect("installed")["token_id"], token["id"]);
    assert!(!bench.note("site.issue"));
    done(bench.agent.run(&["token", "check"])).ok();
    let taken = bench.manage(&["create", "--for-config"]);
    assert_eq!(taken.code, Some(64), "{taken:?}");
    assert!(taken.err.contains("--replace"), "{taken:?}");
}

#[test]
fn a_check_names_what_is_missing_what_is_too_much_and_what_stops_when() {
    let bench = Bench::new();
    let narrow = bench.sim.issue_token(
        USER,
        TokenKind::User,
        &json!({
            "nodeIds": [NODE, 124], "sourceIds": ["/site/meter", "/other"],
            "apiPaths": ["/user/import/**", "/instr/view*", "/auth-tokens/refresh/v2"],
            "notAfter": (Utc::now() + TimeDelta::days(20)).timestamp_millis(),
        }),
    );
    bench.agent.import(&narrow.id, &narrow.secret, &[]);
    let unknown = done(bench.agent.run(&["token", "check"])).ok();
    assert!(unknown.out.contains("its policy is not known"), "{unknown:?}");
    assert!(unknown.out.contains("--as"), "{unknown:?}");

    let checked = bench.manage(&["check"]);
    assert_eq!(checked.code, Some(77), "{checked:?}");
    for want in [
        "missing   apiPaths: /instr/updateState",
        "missing   sourceIds: /site/relay",
        "missing   sourceIds: /site/instructions",
        "too much  nodeIds: 124 is not used",
        "too much  sourceIds: /other is not used",
        "too much  apiPaths: /user/import/** allows more than is used",
        "`notAfter`",
    ] {
        assert!(checked.out.contains(want), "{want}: {checked:?}");
    }
    let remembered = bench.token(&["check", "--json"], "");
    assert_eq!(remembered.code, Some(77), "{remembered:?}");
    let json = remembered.json();
    assert_eq!(json["policy_from"], "remembered");
    assert_eq!(json["missing"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!(json["stops"].as_array().map(Vec::len), Some(1), "{json}");
    let shown = done(bench.agent.run(&["token", "show"])).ok();
    assert!(shown.out.contains("the token ends on"), "{shown:?}");
    // `check` says it without asking anybody.
    bench.sim.go_down();
    let offline = done(bench.agent.run(&["check"])).ok();
    for want in ["/instr/updateState", "/site/relay", "notAfter"] {
        assert!(offline.out.contains(want), "{want}: {offline:?}");
    }
}

#[test]
fn a_check_tries_the_node_that_is_configured() {
    let bench = Bench::new();
    for (policy, want) in [
        (json!({"nodeIds": [999]}), "viewPending of node 123 is refused"),
        (
            json!({"apiPaths": ["/auth-tokens/refresh/v2", "/instr/**"]}),
            "GET /user/import/jobs is refused",
        ),
    ] {
        let token = bench.sim.issue_token(USER, TokenKind::User, &policy);
        bench.agent.import(&token.id, &token.secret, &[]);
        let checked = bench.token(&["check"], "");
        assert_eq!(checked.code, Some(77), "{checked:?}");
        assert!(checked.out.contains(want), "{checked:?}");
    }
    // A token that may ask for its own policy is held against the configuration without a manager.
    let open = bench.sim.issue_token(USER, TokenKind::User, &json!({}));
    bench.agent.import(&open.id, &open.secret, &[]);
    let checked = bench.token(&["check", "--json"], "").ok().json();
    assert_eq!(checked["policy_from"], "server");
    assert_eq!(checked["excess"].as_array().map(Vec::len), Some(3), "{checked}");
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Revoked,
    Disabled,
    Over,
    NarrowCalls,
    Restricted,
    Data,
}

/// Every command that calls, with every token that will not do: always 77, and the reason in words.
#[test]
fn every_command_says_what_is_wrong_with_the_token_it_acts_with() {
    let bench = Bench::new();
    let target = bench.sim.issue_token(USER, TokenKind::User, &json!({"nodeIds": [NODE]}));
    let managing: [&[&str]; 8] = [
        &["list"],
        &["rotate", "--yes"],
        &["create", "x", "--node", "123"],
        &["update", &target.id, "--name", "x"],
        &["policy", &target.id],
        &["enable", &target.id],
        &["disable", &target.id],
        &["delete", &target.id, "--yes"],
    ];
    let own: [&[&str]; 3] = [&["import"], &["check"], &["refresh"]];
    let past = (Utc::now() - TimeDelta::hours(1)).timestamp_millis();
    for wrong in [
        Wrong::Revoked,
        Wrong::Disabled,
        Wrong::Over,
        Wrong::NarrowCalls,
        Wrong::Restricted,
        Wrong::Data,
    ] {
        let kind = if wrong == Wrong::Data { TokenKind::ReadNodeData } else { TokenKind::User };
        let token = bench.sim.issue_token(USER, kind, &json!({}));
        bench.agent.import(&token.id, &token.secret, &[]);
        let spoilt = match wrong {
            Wrong::Revoked => bench.sim.delete_token(&token.id),
            Wrong::Disabled => bench.sim.set_token_active(&token.id, false),
            Wrong::Over => bench.sim.set_token_policy(&token.id, &json!({"notAfter": past})),
            Wrong::NarrowCalls => {
                bench.sim.set_token_policy(&token.id, &json!({"apiPaths": ["/nodes"]}))
            }
            Wrong::Restricted => bench.sim.set_token_policy(&token.id, &json!({"nodeIds": [9]})),
            Wrong::Data => true,
        };
        assert!(spoilt, "{wrong:?}");
        let (of_manager, of_own) = match wrong {
            Wrong::Revoked | Wrong::Disabled => ("does not know this token", "Bad credentials"),
            Wrong::Over => ("policy has run out", "notAfter"),
            Wrong::NarrowCalls => ("policy has API paths", "/auth-tokens/refresh/v2"),
            Wrong::Restricted => ("policy has `nodeIds`", "node 123"),
            Wrong::Data => ("Data token", "User token"),
        };
        for command in managing {
            // A restricted token may list: it sees itself.
            let seen = wrong == Wrong::Restricted && command == ["list"];
            let ended = bench.token(&[command, &["--as", &token.id]].concat(), &token.secret);
            let want = if seen { Some(0) } else { Some(77) };
            assert_eq!(ended.code, want, "{wrong:?} {command:?}: {ended:?}");
            assert!(ended.err.contains(of_manager), "{wrong:?} {command:?}: {ended:?}");
        }
        for command in own {
            let ended = own_command(&bench, command, &token);
            // These two do no more than prove the key, which the policy lets it do.
            let enough = matches!(wrong, Wrong::Restricted | Wrong::Data) && command != ["check"];
            // An import whose proof the policy does not allow is stored, with a warning.
            let unproved = wrong == Wrong::NarrowCalls && command == ["import"];
            let want = if enough || unproved { Some(0) } else { Some(77) };
            assert_eq!(ended.code, want, "{wrong:?} {command:?}: {ended:?}");
            let told = format!("{}{}", ended.out, ended.err);
            let silent = wrong == Wrong::Restricted || command == ["refresh"];
            assert!(
                (enough && silent) || told.contains(of_own),
                "{wrong:?} {command:?}: {ended:?}"
            );
        }
    }
    assert_eq!(bench.calls("DELETE", ""), 0, "nothing was done with any of them");
    assert_eq!(bench.calls("POST", "/generate"), 0);
}

fn own_command(bench: &Bench, command: &[&str], token: &IssuedToken) -> Done {
    match command {
        ["import"] => bench.token(&["import", "site", "--token-id", &token.id], &token.secret),
        command => bench.token(command, ""),
    }
}

#[test]
fn a_box_without_a_clock_manages_with_the_servers_time() {
    let bench = Bench::new();
    bench.sim.set_clock_offset(TimeDelta::days(40));
    bench.manage(&["create", "--for-config"]).ok();
    let stored = bench.stored("site").expect("installed");
    let day = bench.sim.now().date_naive();
    assert_eq!(stored["key_date"], day.format("%Y%m%d").to_string());
    let key = signing_key_hex(SECRET, day);
    assert_ne!(stored["key"], key, "the manager's key is not stored");
}

/// Runs a command at a terminal of its own; types the two words of its input when it is asked for them.
/// Prints what stood on the terminal.
const AT_A_TERMINAL: &str = r#"
import os, pty, select, sys
secret, answer = sys.stdin.buffer.read().split()
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
def wait_for(words):
    global seen
    while words not in seen:
        if not select.select([terminal], [], [], 30)[0]:
            sys.exit("waited in vain for %r: %r" % (words, seen))
        seen += os.read(terminal, 1024)
wait_for(b"(not shown): ")
os.write(terminal, secret + b"\n")
wait_for(b"[y/N] ")
os.write(terminal, answer + b"\n")
try:
    while more := os.read(terminal, 1024):
        seen += more
except OSError:
    pass
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn at_a_terminal_the_secret_is_typed_unseen_and_a_person_is_asked() {
    let bench = Bench::new();
    bench.manage(&["create", "t", "--node", "123"]).ok();
    let token = bench.named("t");
    let arguments = ["token", "delete", id(&token), "--as", TOKEN];
    for (answer, code, left) in [("n", 64, 2), ("y", 0, 1)] {
        let delete = bench.agent.command(&arguments);
        let mut python = std::process::Command::new("python3")
            .args(["-c", AT_A_TERMINAL])
            .arg(delete.get_program())
            .args(delete.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 is needed for this test");
        let mut stdin = python.stdin.take().expect("piped");
        stdin.write_all(format!("{SECRET} {answer}").as_bytes()).expect("written");
        drop(stdin);
        let done = done(python.wait_with_output().expect("it ends"));
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.out.contains(&format!("Delete {}", id(&token))), "{done:?}");
        assert!(!done.out.contains(SECRET), "{done:?}");
        assert_eq!(bench.listed().len(), left, "{done:?}");
    }
}
