//! Import jobs over the wire: what is taken, in which order, and what the status says.

use std::io::Write;

use chrono::TimeDelta;
use serde_json::{Value, json};
use solarnet_sim::{Act, ImportDelays, Misbehaviour, Seed, Sim};

use crate::client::{Answer, Client};
use crate::{NODE, client_of, simple};

pub(crate) const JOBS: &str = "/solaruser/api/v1/sec/user/import/jobs";

/// The configuration that an agent sends, with changes.
pub(crate) fn config(changes: Value) -> Value {
    let mut config = json!({
        "name": "batch-1",
        "stage": false,
        "groupKey": "gw-17",
        "inputConfiguration": {
            "name": "basic",
            "serviceIdentifier":
                "net.solarnetwork.central.datum.imp.standard.BasicCsvDatumImportInputFormatService",
            "timeZoneId": "UTC",
            "serviceProperties": { "dateFormat": "yyyy-MM-dd HH:mm:ss.SSS" },
        },
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name.as_str()] = value.clone();
    }
    config
}

/// Rows of (node, source, second within the minute, watts).
pub(crate) fn csv(rows: &[(i64, &str, u32, &str)]) -> String {
    let mut out = "nodeId,sourceId,created,i,a,s,t\n".to_owned();
    for (node, source, second, watts) in rows {
        out.push_str(&format!(
            "{node},{source},2024-06-11 21:30:{second:02}.500,\"{{\"\"watts\"\":{watts}}}\",,,\n"
        ));
    }
    out
}

const FIRST_MS: i64 = 1_718_141_400_500;

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

pub(crate) fn post(client: &Client, config: &Value, data: &[u8]) -> std::io::Result<Answer> {
    let mut body = format!(
        "--b0\r\nContent-Disposition: form-data; name=\"config\"\r\n\
         Content-Type: application/json\r\n\r\n{config}\r\n--b0\r\n\
         Content-Disposition: form-data; name=\"data\"; filename=\"data.csv\"\r\n\
         Content-Type: text/csv\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(data);
    body.extend_from_slice(b"\r\n--b0--\r\n");
    client.send("POST", JOBS, Some(("multipart/form-data; boundary=b0", &body)))
}

/// Submits and gives the job's ID.
pub(crate) fn submit(client: &Client, config: &Value, data: &[u8]) -> String {
    let receipt = post(client, config, data).unwrap().data();
    receipt["jobId"].as_str().unwrap().to_owned()
}

/// Submits one good row.
pub(crate) fn submit_one(client: &Client) -> String {
    submit(client, &config(json!({})), csv(&[(NODE, "/m", 0, "1")]).as_bytes())
}

fn status(client: &Client, id: &str) -> Value {
    client.get(&format!("{JOBS}/{id}")).data()
}

#[test]
fn a_gzipped_file_arrives_exactly_once_however_often_it_is_sent() {
    let sim = simple();
    let client = client_of(&sim);
    let file = gzip(&csv(&[(NODE, "/m", 0, "230.10"), (NODE, "/m", 1, "-4")]));
    let receipt = post(&client, &config(json!({})), &file).unwrap().data();
    assert_eq!(receipt["groupKey"], "gw-17");
    let done = status(&client, receipt["jobId"].as_str().unwrap());
    assert_eq!(done["success"], true);
    assert_eq!(done["message"], "Loaded 2 datum.");
    assert_eq!(done["loadedCount"], 2);
    assert_eq!(done["jobState"], "Completed");
    assert_eq!(done["configuration"]["name"], "batch-1");

    submit(&client, &config(json!({})), &file);
    let count = sim.ledger_count();
    assert_eq!((count.datum, count.accepts, count.repeated, count.changed), (2, 4, 2, 0));
    let entry = sim.entry(NODE, "/m", FIRST_MS).unwrap();
    assert_eq!(entry.datum.i["watts"].to_string(), "230.10");
    assert_eq!(entry.datum.decimal("watts").unwrap().to_string(), "230.10");
    assert_ne!(entry.first_job, entry.last_job);

    let changed = csv(&[(NODE, "/m", 0, "1")]);
    submit(&client, &config(json!({})), changed.as_bytes());
    assert_eq!(sim.ledger_count().changed, 1);
}

#[test]
fn without_batches_one_bad_row_takes_all_with_it() {
    let sim = simple();
    let client = client_of(&sim);
    let long = "x".repeat(65);
    for (bad, message) in [
        ((456, "/m", 1, "1"), "Not authorized to load data for node 456."),
        ((NODE, long.as_str(), 1, "1"), "ERROR: value too long for type character varying(64)"),
    ] {
        let file = csv(&[(NODE, "/m", 0, "1"), bad, (NODE, "/m", 2, "1")]);
        let done = status(&client, &submit(&client, &config(json!({})), file.as_bytes()));
        assert_eq!(done["success"], false);
        assert_eq!(done["done"], true);
        assert_eq!(done["message"], message);
        assert_eq!(done["loadedCount"], 0);
        assert_eq!(sim.ledger_count().datum, 0);
    }
    let file = csv(&[(NODE, "/m", 0, "1"), (456, "/m", 1, "1")]);
    let batched = config(json!({ "batchSize": 1 }));
    assert_eq!(status(&client, &submit(&client, &batched, file.as_bytes()))["loadedCount"], 1);
    assert_eq!(sim.ledger_count().datum, 1);
}

#[test]
fn every_row_is_held_against_the_policy() {
    let sim = simple();
    let issued = sim.issue_token(
        1,
        solarnet_sim::TokenKind::User,
        &json!({ "sourceIds": ["/site/**"], "nodeIds": [NODE] }),
    );
    let client = Client::new(sim.address(), &issued.id, &issued.secret);
    let good = submit(&client, &config(json!({})), csv(&[(NODE, "/site/a", 0, "1")]).as_bytes());
    assert_eq!(status(&client, &good)["success"], true);
    let bad = submit(&client, &config(json!({})), csv(&[(NODE, "/other", 0, "1")]).as_bytes());
    let bad = status(&client, &bad);
    assert_eq!(bad["message"], "Not authorized to load data for source /other.");
}

#[test]
fn a_request_that_the_server_would_not_read_is_refused() {
    let sim = simple();
    let client = client_of(&sim);
    let refused = |config: &Value| post(&client, config, b"h\n").unwrap().refusal();
    let mut no_input = config(json!({}));
    no_input["inputConfig"] = no_input["inputConfiguration"].take();
    assert_eq!(refused(&no_input), (422, "inputConfiguration is required".to_owned()));
    assert_eq!(refused(&config(json!({"name": null}))), (422, "name is required".to_owned()));
    assert_eq!(
        refused(&config(json!({"batchSize": "many"}))),
        (422, "batchSize has the wrong type".to_owned())
    );
    let untyped = b"--b\r\nContent-Disposition: form-data; name=\"config\"\r\n\r\n{}\r\n--b\r\n\
        Content-Disposition: form-data; name=\"data\"; filename=\"d\"\r\n\r\n\r\n--b--\r\n";
    let answer = client.send("POST", JOBS, Some(("multipart/form-data; boundary=b", untyped)));
    assert_eq!(answer.unwrap().status, 422);
    assert_eq!(client.get(&format!("{JOBS}/1")).refusal().0, 422);
    assert_eq!(sim.jobs().len(), 0);
}

#[test]
fn jobs_pass_through_their_states_and_groups_run_in_order() {
    let mut seed = Seed::simple(1, NODE, crate::TOKEN, crate::SECRET);
    seed.import = ImportDelays { queued_ms: 0, claimed_ms: 0, executing_ms: 600_000, workers: 2 };
    let sim = Sim::start(seed).unwrap();
    let client = client_of(&sim);
    let file = csv(&[(NODE, "/m", 0, "1")]);
    let first = submit(&client, &config(json!({})), file.as_bytes());
    let second = submit(&client, &config(json!({})), file.as_bytes());
    let other = submit(&client, &config(json!({"groupKey": null})), file.as_bytes());
    assert_eq!(status(&client, &first)["jobState"], "Executing");
    assert_eq!(status(&client, &second)["jobState"], "Queued");
    assert_eq!(status(&client, &other)["jobState"], "Executing");
    let open = client.get(&format!("{JOBS}?states=Queued%2CExecuting")).data();
    assert_eq!(open.as_array().unwrap().len(), 3);

    let retracted = client.send("DELETE", &format!("{JOBS}/{second}"), None).unwrap().data();
    assert_eq!(retracted["jobState"], "Retracted");
    sim.set_import_delays(ImportDelays::default());
    assert_eq!(status(&client, &first)["success"], true);
    assert_eq!(status(&client, &other)["success"], true);
    assert_eq!(client.get(&format!("{JOBS}/{second}")).refusal(), (403, "UNKNOWN_OBJECT".into()));
}

#[test]
fn a_staged_job_waits_to_be_confirmed() {
    let sim = simple();
    let client = client_of(&sim);
    let file = csv(&[(NODE, "/m", 0, "1")]);
    let id = submit(&client, &config(json!({"stage": true})), file.as_bytes());
    assert_eq!(status(&client, &id)["jobState"], "Staged");
    client.post(&format!("{JOBS}/{id}/confirm")).data();
    assert_eq!(status(&client, &id)["success"], true);
}

#[test]
fn finished_jobs_vanish_after_twelve_hours() {
    let sim = simple();
    let mut client = client_of(&sim);
    let id = submit_one(&client);
    status(&client, &id);
    sim.set_clock_offset(TimeDelta::hours(12) + TimeDelta::minutes(1));
    client.date = Some(sim.now());
    assert_eq!(client.get(&format!("{JOBS}/{id}")).refusal(), (403, "UNKNOWN_OBJECT".to_owned()));
    assert_eq!(sim.ledger_count().datum, 1);
}

#[test]
fn jobs_go_wrong_on_demand() {
    let sim = simple();
    let client = client_of(&sim);
    let file = csv(&[(NODE, "/m", 0, "1"), (NODE, "/m", 1, "1"), (NODE, "/m", 2, "1")]);
    let run = |act: Act| {
        sim.misbehave(Misbehaviour::new(JOBS, act).method("POST").times(1));
        let id = submit(&client, &config(json!({})), file.as_bytes());
        client.get(&format!("{JOBS}/{id}"))
    };
    let vanished = run(Act::JobVanishes).refusal();
    assert_eq!(vanished, (403, "UNKNOWN_OBJECT".to_owned()));
    let failed = run(Act::JobFails { message: "no".to_owned() }).data();
    assert_eq!((&failed["success"], &failed["message"]), (&json!(false), &json!("no")));
    assert_eq!(run(Act::JobHangs).data()["jobState"], "Executing");
    assert_eq!(sim.ledger_count().datum, 0);

    // The hanging job holds its group for ever.
    let hanging = sim.jobs()[1]["jobId"].as_str().unwrap().to_owned();
    client.send("DELETE", &format!("{JOBS}/{hanging}?force=true"), None).unwrap().data();
    let short = run(Act::JobLosesRows { rows: 2 }).data();
    assert_eq!((&short["success"], &short["loadedCount"]), (&json!(true), &json!(1)));
    assert_eq!(sim.ledger_count().datum, 1);
    assert_eq!(run(Act::JobMiscounts { loaded: 7 }).data()["loadedCount"], 7);
    assert_eq!(sim.ledger_count().datum, 3);
}
