//! Tokens, refresh, instructions, queries, limits and misbehaviour.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{
    Act, InstructionState, Misbehaviour, NewInstruction, RateLimit, Seed, Sim, TokenKind,
};

use crate::client::{Client, plain, request};
use crate::import::{JOBS, submit_one};
use crate::{NODE, SECRET, TOKEN, client_of, eventually, simple};

const USER: &str = "/solaruser/api/v1/sec";
const QUERY: &str = "/solarquery/api/v1/sec";
const TOKENS: &str = "/solaruser/api/v1/sec/user/auth-tokens";

fn refresh_target(date: &str) -> String {
    format!("{QUERY}/auth-tokens/refresh/v2?date={date}")
}

#[test]
fn who_am_i_answers_on_both_servers() {
    let sim = simple();
    let client = client_of(&sim);
    let me = json!({ "userId": 1, "token": TOKEN, "tokenType": "User" });
    assert_eq!(client.get(&format!("{USER}/whoami")).data(), me);
    assert_eq!(client.get(&format!("{QUERY}/whoami")).data(), me);
    assert_eq!(client.get(&format!("{QUERY}/nodes")).data(), json!([NODE]));
    assert_eq!(client.send("HEAD", &format!("{QUERY}/nodes"), None).unwrap().status, 200);
    assert_eq!(sim.requests()[0].token.as_deref(), Some(TOKEN));
    assert_eq!(sim.requests()[0].status, Some(200));
}

#[test]
fn a_wrong_secret_is_refused_with_the_headers_of_the_filter() {
    let sim = simple();
    let client = Client::new(sim.address(), TOKEN, "wrong");
    let answer = client.get(&format!("{USER}/whoami"));
    assert_eq!(answer.refusal(), (403, "Bad credentials".to_owned()));
    assert_eq!(answer.header("www-authenticate"), Some("SNWS2"));
    assert_eq!(answer.header("x-sn-errormessage"), Some("Bad credentials"));
    assert!(answer.json().get("code").is_none());

    let anonymous = plain(sim.address(), "GET", &format!("{USER}/whoami"), "");
    let message = "Full authentication is required to access this resource";
    assert_eq!(anonymous.refusal(), (401, message.to_owned()));
    assert_eq!(anonymous.header("www-authenticate"), Some("SNWS2"));
}

#[test]
fn the_clock_is_told_in_every_answer_and_judges_every_date() {
    let sim = simple();
    let mut client = client_of(&sim);
    sim.set_clock_offset(TimeDelta::hours(2));
    let answer = client.get(&format!("{USER}/whoami"));
    assert_eq!(answer.refusal(), (403, "Date skew too large".to_owned()));
    let told = chrono::DateTime::parse_from_rfc2822(answer.header("date").unwrap()).unwrap();
    assert!((told.with_timezone(&Utc) - sim.now()).num_seconds().abs() <= 2);
    client.date = Some(told.with_timezone(&Utc));
    client.get(&format!("{USER}/whoami")).data();
}

#[test]
fn tokens_are_issued_listed_disabled_and_deleted() {
    let sim = simple();
    let client = client_of(&sim);
    let policy = json!({ "nodeIds": [NODE], "sourceIds": ["/a/**"], "refreshAllowed": true });
    let issued = client.post_json(&format!("{TOKENS}/generate/User"), &policy).data();
    let (id, secret) = (issued["id"].as_str().unwrap(), issued["authSecret"].as_str().unwrap());
    assert_eq!(id.len(), 20);
    assert!((24..32).contains(&secret.len()));
    assert_eq!((&issued["policy"], &issued["expired"]), (&policy, &json!(false)));

    let edge = Client::new(sim.address(), id, secret);
    edge.get(&format!("{USER}/whoami")).data();
    let listed = client.get(TOKENS).data();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(listed[1].get("authSecret").is_none());
    // A restricted token sees itself and manages nothing.
    assert_eq!(edge.get(TOKENS).data().as_array().unwrap().len(), 1);
    let denied = edge.post_json(&format!("{TOKENS}/generate/User"), &json!({}));
    assert_eq!(denied.refusal(), (403, "ACCESS_DENIED".to_owned()));
    assert!(denied.header("www-authenticate").is_none());

    let found = client.get(&format!("{TOKENS}/find?active=true&tokenTypes=User")).data();
    assert_eq!(found["returnedResultCount"], 2);
    let target = format!("{TOKENS}/policy?tokenId={id}");
    let patch = json!({ "sourceIds": ["/b"] }).to_string();
    let patched = client.send("PATCH", &target, Some(("application/json", patch.as_bytes())));
    assert_eq!(patched.unwrap().data()["policy"]["sourceIds"], json!(["/a/**", "/b"]));

    client.post(&format!("{TOKENS}/status?status=Disabled&tokenId={id}"));
    assert_eq!(edge.get(&format!("{USER}/whoami")).refusal(), (403, "Bad credentials".into()));
    client.send("DELETE", &format!("{TOKENS}?tokenId={id}"), None).unwrap();
    let gone = client.post(&format!("{TOKENS}/status?status=Active&tokenId={id}"));
    assert_eq!(gone.refusal(), (403, "UNKNOWN_OBJECT".to_owned()));

    let foreign =
        client.post_json(&format!("{TOKENS}/generate/ReadNodeData"), &json!({ "nodeIds": [9] }));
    assert_eq!(foreign.refusal(), (403, "UNKNOWN_OBJECT".to_owned()));
    assert_eq!(client.post(&format!("{TOKENS}/generate/user")).refusal().0, 422);
}

#[test]
fn a_refreshed_key_is_the_derived_one_and_never_of_tomorrow() {
    let sim = simple();
    let client = client_of(&sim);
    // From the reference's worked example, section 2.8.
    let key = client.get(&refresh_target("2025-06-15")).data()["key"].clone();
    assert_eq!(key, "ac7d64b63dfa8c21536328e30d41db5060680940dc0464dcec94a2d48c6c2577");
    let tomorrow = (Utc::now() + TimeDelta::days(1)).format("%Y-%m-%d").to_string();
    assert_eq!(
        client.get(&refresh_target(&tomorrow)).refusal(),
        (422, "Illegal argument: date parameter cannot be in the future".to_owned())
    );
    assert_eq!(client.get(&refresh_target("20250615")).status, 422);
    sim.misbehave(Misbehaviour::new("/solarquery/", Act::RefreshWrongKey).times(1));
    assert_ne!(client.get(&refresh_target("2025-06-15")).data()["key"], key);
}

#[test]
fn each_policy_says_no_in_its_own_words() {
    let sim = simple();
    for (policy, target, refusal) in [
        (json!({ "refreshAllowed": false }), refresh_target("2025-06-15"), (403, "ACCESS_DENIED")),
        (json!({ "apiPaths": ["/instr/**"] }), format!("{USER}/whoami"), (403, "Access denied")),
        (json!({ "notAfter": 1 }), format!("{USER}/whoami"), (401, "Expired token")),
        (
            json!({ "nodeIds": [124] }),
            format!("{USER}/instr/viewPending?nodeId={NODE}"),
            (403, "ACCESS_DENIED"),
        ),
        (
            json!({ "sourceIds": ["/a"] }),
            format!("{QUERY}/datum/list?nodeId={NODE}&sourceIds=%2Fb"),
            (403, "ACCESS_DENIED"),
        ),
    ] {
        let issued = sim.issue_token(1, TokenKind::User, &policy);
        let client = Client::new(sim.address(), &issued.id, &issued.secret);
        let expected = (refusal.0, refusal.1.to_owned());
        assert_eq!(client.get(&target).refusal(), expected, "{policy}");
    }
}

#[test]
fn roles_decide_what_a_token_may_call() {
    let mut seed = Seed::simple(1, NODE, TOKEN, SECRET);
    seed.users[0].roles.clear();
    let sim = Sim::start(seed).unwrap();
    let denied = client_of(&sim).get(JOBS);
    assert_eq!(denied.refusal(), (403, "Access Denied".to_owned()));
    assert!(denied.header("www-authenticate").is_none());
    let issued = sim.issue_token(1, TokenKind::ReadNodeData, &Value::Null);
    let reader = Client::new(sim.address(), &issued.id, &issued.secret);
    reader.get(&format!("{QUERY}/nodes")).data();
    assert_eq!(reader.get(&format!("{USER}/whoami")).refusal().1, "Access Denied");
    assert_eq!(reader.post(&format!("{QUERY}/nodes")).refusal().1, "Access Denied");
}

#[test]
fn uploads_can_be_listed_again() {
    let sim = simple();
    let client = client_of(&sim);
    submit_one(&client);
    let list = client.get(&format!(
        "{QUERY}/datum/list?endDate=2024-06-12&nodeId={NODE}&sourceIds=%2Fm&startDate=2024-06-11"
    ));
    let row = &list.data()["results"][0];
    assert_eq!(row["created"], "2024-06-11 21:30:00.5Z");
    assert_eq!(row["watts"].to_string(), "1");
    let recent = client.get(&format!("{QUERY}/datum/mostRecent?nodeId={NODE}")).data();
    assert_eq!(recent["returnedResultCount"], 1);
    assert_eq!(client.get(&format!("{QUERY}/nodes/sources?nodeIds={NODE}")).data(), json!(["/m"]));
    let before = client.get(&format!("{QUERY}/datum/list?endDate=2024-06-11&nodeId={NODE}")).data();
    assert_eq!(before["totalResults"], 0);
}

#[test]
fn instructions_are_added_listed_and_changed() {
    let sim = simple();
    let client = client_of(&sim);
    let form = "nodeId=123&parameters%5B0%5D.name=%2Frelay&parameters%5B0%5D.value=1";
    let added = client
        .send(
            "POST",
            &format!("{USER}/instr/add/SetControlParameter"),
            Some(("application/x-www-form-urlencoded", form.as_bytes())),
        )
        .unwrap()
        .data();
    assert_eq!(added["parameters"], json!([{ "name": "/relay", "value": "1" }]));
    assert_eq!((&added["state"], &added["nodeId"]), (&json!("Queued"), &json!(NODE)));
    let second = json!({ "nodeId": NODE, "topic": "Signal", "params": { "a": "b" } });
    client.post_json(&format!("{USER}/instr/add"), &second).data();

    let pending = format!("{USER}/instr/viewPending?nodeId={NODE}");
    assert_eq!(client.get(&pending).data().as_array().unwrap().len(), 2);
    let id = added["id"].as_i64().unwrap();
    let set = |state: &str| client.post(&format!("{USER}/instr/updateState?id={id}&state={state}"));
    assert_eq!(set("Received").json(), json!({ "success": true }));
    let active = client.get(&format!("{USER}/instr/viewActive?nodeId={NODE}")).data();
    assert_eq!(active.as_array().unwrap().len(), 1);
    set("Completed");
    assert_eq!(client.get(&pending).data().as_array().unwrap().len(), 1);
    let seen = client.get(&format!("{USER}/instr/view?id={id}")).data();
    assert_eq!(seen["state"], "Completed");
    let states: Vec<&str> =
        sim.instruction(id).unwrap().history.iter().map(|(_, state)| state.name()).collect();
    assert_eq!(states, ["Queued", "Received", "Completed"]);

    assert_eq!(set("Done").refusal().0, 422);
    let unknown = client.get(&format!("{USER}/instr/view?id=99")).refusal();
    assert_eq!(unknown, (403, "UNKNOWN_OBJECT".to_owned()));
    let nodeless = client.get(&format!("{USER}/instr/viewPending"));
    assert_eq!(nodeless.status, 403);
    let topicless = client.post_json(&format!("{USER}/instr/add"), &json!({ "nodeId": NODE }));
    assert_eq!(topicless.status, 422);
}

#[test]
fn instructions_expire_come_late_twice_and_again() {
    let sim = simple();
    let client = client_of(&sim);
    let new = NewInstruction { node: NODE, topic: "Signal".to_owned(), ..Default::default() };
    let pending = format!("{USER}/instr/viewPending?nodeId={NODE}");
    let listed = || client.get(&pending).data().as_array().unwrap().len();

    let past = Some(sim.now() - TimeDelta::seconds(1));
    let expired = sim.add_instruction(NewInstruction { expires: past, ..new.clone() });
    assert_eq!(sim.instruction(expired).unwrap().state, InstructionState::Declined);
    let late = Some(sim.now() + TimeDelta::hours(1));
    sim.add_instruction(NewInstruction { visible_from: late, ..new.clone() });
    assert_eq!(listed(), 0);

    let id = sim.add_instruction(new);
    assert_eq!(listed(), 1);
    sim.misbehave(Misbehaviour::new(USER, Act::DuplicateInstruction).times(1));
    assert_eq!(listed(), 2);
    sim.misbehave(Misbehaviour::new(USER, Act::HoldInstruction).times(1));
    assert_eq!(listed(), 0);
    sim.set_instruction_state(id, InstructionState::Completed);
    assert_eq!(listed(), 0);
    sim.misbehave(Misbehaviour::new(USER, Act::ReplayInstruction).times(1));
    assert_eq!(listed(), 2);
}

#[test]
fn the_rate_limit_is_per_token_and_application() {
    let sim = simple();
    let client = client_of(&sim);
    sim.set_rate_limit(Some(RateLimit { capacity: 1, refill_per_s: 0.001 }));
    let target = format!("{USER}/whoami");
    assert_eq!(client.get(&target).header("x-sn-rate-limit-remaining"), Some("0"));
    let refused = client.get(&target);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json(), json!({ "success": false, "code": "WEB.10000" }));
    let retry: i64 = refused.header("x-sn-rate-limit-retry-after").unwrap().parse().unwrap();
    assert!(retry > sim.now().timestamp_millis());
    client.get(&format!("{QUERY}/whoami")).data();
}

#[test]
fn answers_are_replaced_on_demand() {
    let sim = simple();
    let client = client_of(&sim);
    let target = format!("{USER}/whoami");
    let once = |act: Act| {
        sim.misbehave(Misbehaviour::new(USER, act).times(1));
        client.get(&target)
    };
    assert_eq!(once(Act::Status { status: 503 }).status, 503);
    let page = once(Act::ProxyPage { status: 502 });
    assert_eq!((page.status, page.header("content-type")), (502, Some("text/html")));
    assert_eq!(once(Act::SuccessFalse { message: "x".into() }).refusal(), (200, "x".into()));
    assert_eq!(once(Act::SuccessWithoutData).json(), json!({ "success": true }));
    assert!(once(Act::SuccessNonsense).data().is_array());
    assert!(serde_json::from_slice::<Value>(&once(Act::Garbage).body).is_err());
    assert_eq!(once(Act::Transient).json()["code"], "DAO.00202");
    let busy = once(Act::TooMany { retry_after_ms: 5000 });
    assert_eq!((busy.status, busy.json()["code"].as_str()), (429, Some("WEB.10000")));
    assert!(busy.header("x-sn-rate-limit-retry-after").is_some());
    let dated = once(Act::WrongDate { offset_ms: -86_400_000 });
    let told = chrono::DateTime::parse_from_rfc2822(dated.header("date").unwrap()).unwrap();
    assert!(sim.now() - told.with_timezone(&Utc) > TimeDelta::hours(23));
    client.get(&target).data();
}

#[test]
fn connections_are_cut_where_asked_and_what_was_done_stays_done() {
    let sim = simple();
    let client = client_of(&sim);
    let target = format!("{USER}/instr/add");
    let body = json!({ "nodeId": NODE, "topic": "Signal" }).to_string();
    for (act, done) in [(Act::CutBefore, 0), (Act::CutAfter, 1), (Act::CutMidBody, 2)] {
        sim.misbehave(Misbehaviour::new(USER, act.clone()).times(1));
        let answer = client.send("POST", &target, Some(("application/json", body.as_bytes())));
        assert!(answer.is_err(), "{act:?}");
        let pending = client.get(&format!("{USER}/instr/viewPending?nodeId={NODE}")).data();
        assert_eq!(pending.as_array().unwrap().len(), done, "{act:?}");
    }
    assert_eq!(sim.requests()[0].status, None);
    // A replaced answer may follow a request that was carried out.
    sim.misbehave(Misbehaviour::new(USER, Act::Status { status: 502 }).times(1).processed());
    client.send("POST", &target, Some(("application/json", body.as_bytes()))).unwrap();
    let pending = client.get(&format!("{USER}/instr/viewPending?nodeId={NODE}")).data();
    assert_eq!(pending.as_array().unwrap().len(), 3);
}

#[test]
fn slow_answers_are_slow() {
    let sim = simple();
    let client = client_of(&sim);
    for act in [Act::Slow { ms: 60 }, Act::Trickle { ms: 1 }] {
        sim.misbehave(Misbehaviour::new(USER, act).times(1));
        let start = Instant::now();
        client.get(&format!("{USER}/whoami")).data();
        assert!(start.elapsed() >= Duration::from_millis(60));
    }
}

#[test]
fn the_server_goes_away_and_comes_back_on_its_port() {
    let sim = simple();
    let client = client_of(&sim);
    sim.go_down();
    assert!(client.send("GET", &format!("{USER}/whoami"), None).is_err());
    sim.come_back().unwrap();
    client.get(&format!("{USER}/whoami")).data();
    assert_eq!(plain(sim.address(), "POST", "/sim/down", r#"{"ms":30}"#).status, 200);
    eventually("it came back", || {
        client.send("GET", &format!("{USER}/whoami"), None).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let sim = simple();
    let client = client_of(&sim);
    let body = vec![b' '; 65_536];
    let answer = client.send("POST", &format!("{QUERY}/x"), Some(("text/plain", &body))).unwrap();
    assert_eq!(answer.refusal(), (403, "Maximum upload size of 65535 bytes exceeded".to_owned()));
}

#[test]
fn the_firewall_refuses_odd_paths_before_anything_else() {
    let sim = simple();
    for target in ["/solaruser//api", "/solaruser/a%2Fb", "/solaruser/a;b", "/solaruser/{a}"] {
        let headers = [("host", sim.address().to_string())];
        let answer = request(sim.address(), "GET", target, &headers, b"").unwrap();
        assert_eq!(answer.status, 400, "{target}");
    }
}

#[test]
fn the_admin_surface_shows_and_changes_the_world() {
    let sim = simple();
    let client = client_of(&sim);
    let admin = |method: &str, target: &str, body: &str| {
        let answer = plain(sim.address(), method, target, body);
        (answer.status, answer.json())
    };
    submit_one(&client);
    let (_, count) = admin("GET", "/sim/ledger/count", "");
    assert_eq!(count, json!({ "datum": 1, "accepts": 1, "repeated": 0, "changed": 0 }));
    let (_, rows) = admin("GET", "/sim/ledger?node=123&source=%2Fm", "");
    assert_eq!(rows[0]["datum"], json!({ "i": { "watts": 1 } }));
    assert_eq!(admin("GET", "/sim/requests?path=/solaruser/", "").1[0]["method"], "POST");
    assert_eq!(admin("GET", "/sim/jobs", "").1[0]["jobState"], "Completed");

    let switch = r#"[{"path":"/solaruser/","times":1,"act":"status","status":500}]"#;
    assert_eq!(admin("POST", "/sim/misbehave", switch).0, 200);
    assert_eq!(client.get(&format!("{USER}/whoami")).status, 500);
    assert_eq!(admin("GET", "/sim/misbehave", "").1, json!([]));
    assert_eq!(admin("POST", "/sim/misbehave", r#"{"act":"explode"}"#).0, 400);

    let new = r#"{"nodeId":123,"topic":"Signal","params":{"a":"b"}}"#;
    assert_eq!(admin("POST", "/sim/instruction", new).1["state"], "Queued");
    assert_eq!(admin("GET", "/sim/instructions", "").1[0]["topic"], "Signal");
    let (_, issued) = admin("POST", "/sim/tokens", r#"{"user":1,"type":"User"}"#);
    let id = issued["id"].as_str().unwrap();
    assert_eq!(admin("POST", &format!("/sim/tokens/{id}/disable"), "").1["status"], "Disabled");
    assert_eq!(admin("DELETE", &format!("/sim/tokens/{id}"), "").0, 200);
    assert_eq!(admin("GET", "/sim/tokens", "").1.as_array().unwrap().len(), 1);
    assert_eq!(admin("POST", "/sim/clock", r#"{"offset_ms":3600000}"#).1["offset_ms"], 3_600_000);
    assert_eq!(client.get(&format!("{USER}/whoami")).refusal().1, "Date skew too large");
    assert_eq!(admin("POST", "/sim/clock", "{}").0, 400);
    assert_eq!(admin("GET", "/sim/nothing", "").0, 404);
}
