//! The whole main job in half a minute: the real agent against a simulated SolarNetwork and site.
//!
//! ```text
//!  issue a token through the real call, import a signing key of it that is five days old
//!  start the agent ── it refreshes the key, reads the meter, commits, uploads, waits for the proof
//!  an instruction switches the relay ── written, read back, reported
//!  the server goes away ── readings go on ── and comes back: what waited is sent
//!  stop, start once more without the meter, until nothing waits
//!  compare three independent counts: at the devices, in the spool, in the server's ledger
//! ```
//!
//! It prints what happens as it happens, the agent's own log lines included, and fails on any
//! difference between the counts.

mod agent;
mod narrator;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use chrono::{TimeDelta, Utc};
use solarnet_sim::{
    ImportDelays, NewInstruction, Seed, SeedToken, SeedUser, Sim, Site, TokenKind, Unit,
};

use agent::Agent;
use narrator::say;

const USER: i64 = 100;
const NODE: i64 = 123;
const METER: u8 = 1;
const RELAY: u8 = 3;
const MANAGER: &str = "manager0manager0mana";
const MANAGER_SECRET: &str = "not-a-real-secret-manager1";

/// How long the signing key has been in use when the agent gets it; it signs for seven days.
const KEY_AGE_DAYS: i64 = 5;

/// How long anything may take before the quickstart says that it does not happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the agent may do with its token, and nothing else.
const POLICY: &str = r#"{"nodeIds":[123],"sourceIds":["/site/**"],"refreshAllowed":true,"apiPaths":["/user/import/**","/instr/**","/auth-tokens/refresh/v2"]}"#;

/// The counts at the end.
struct Counts {
    readings: usize,
    outcomes: usize,
    spool: usize,
    ledger: usize,
}

/// Runs the show; `forever` keeps it running until it is interrupted.
pub(crate) fn run(program: &Path, forever: bool) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("solarnode-quickstart-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let done = show(program, &folder, forever);
    match &done {
        Ok(()) => fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?,
        Err(_) => eprintln!("everything is left in {} to look at", folder.display()),
    }
    done
}

fn show(program: &Path, folder: &Path, forever: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let sim = Sim::start(seed())?;
    let site = Site::start(vec![Unit::meter(METER), Unit::relay(RELAY, 8)])?;
    say(
        "sim",
        &format!("SolarNetwork plays at {}, meter and relay at {}", sim.url(), site.address()),
    );

    let agent = Agent { program: program.to_owned(), config: folder.join("agent.toml") };
    fs::write(&agent.config, config(folder, &sim, Some(&site)))?;
    agent.show(&["check"])?;
    let (id, secret) = issue_token(&agent, folder, &sim)?;
    import_old_key(&agent, folder, &id, &secret)?;

    let mut running = agent.start()?;
    if forever {
        say("sim", "running until interrupted (Ctrl-C)");
        crate::End::watch()?.wait();
        return running.stop();
    }
    wait_for("the first readings are in the ledger", || sim.ledger_count().datum >= 3)?;
    switch_the_relay(&sim, &site)?;
    survive_an_outage(&sim, &site)?;
    agent.show(&["status"])?;
    // The rest of the half minute: ordinary life.
    std::thread::sleep(Duration::from_secs(24).saturating_sub(began.elapsed()));

    say("you", "stop the agent (SIGTERM), as `systemctl stop` would");
    running.stop()?;
    let readings = usize::try_from(site.readings(METER))?;
    say("you", "start it once more without the meter, until nothing waits");
    fs::write(&agent.config, config(folder, &sim, None))?;
    let mut running = agent.start()?;
    wait_for("the queue is empty", || agent.waiting().is_ok_and(|waiting| waiting == 0))?;
    let spool = agent.in_spool()?;
    running.stop()?;

    let outcomes = sim.ledger().iter().filter(|(key, _)| key.source == "/site/relay").count();
    compare(&sim, &Counts { readings, outcomes, spool, ledger: sim.ledger_count().datum })
}

fn seed() -> Seed {
    Seed {
        users: vec![SeedUser {
            id: USER,
            roles: vec!["ROLE_IMPORT".to_owned()],
            nodes: vec![NODE],
            archived: Vec::new(),
        }],
        tokens: vec![SeedToken {
            id: MANAGER.to_owned(),
            secret: MANAGER_SECRET.to_owned(),
            user: USER,
            kind: TokenKind::User,
            active: true,
            policy: None,
        }],
        import: ImportDelays { queued_ms: 400, claimed_ms: 100, executing_ms: 300, workers: 2 },
        ..Seed::default()
    }
}

/// The agent's configuration; without a site it has nothing to read.
fn config(folder: &Path, sim: &Sim, site: Option<&Site>) -> String {
    let mut text = format!(
        r#"state_dir = "{folder}"

[node]
id = {NODE}

[solarnet]
user_url = "{user}"
query_url = "{query}"
token = "site"
request_rate = "10/s"

[upload]
every = "2s"

[instructions]
poll_fastest = "500ms"
poll_slowest = "2s"
"#,
        folder = folder.display(),
        user = sim.user_url(),
        query = sim.query_url(),
    );
    if let Some(site) = site {
        text.push_str(&format!(
            r#"
[[modbus]]
name = "cabinet"
tcp = "{address}"

[[modbus.unit]]
id = {METER}
source = "/site/meter"
every = "1s"
property = [
    {{ name = "watts", kind = "instantaneous", register = {{ table = "input", address = 0, type = "f32" }} }},
    {{ name = "voltage", kind = "instantaneous", register = {{ table = "input", address = 2, type = "f32" }} }},
    {{ name = "frequency", kind = "instantaneous", register = {{ table = "input", address = 4, type = "f32" }} }},
    {{ name = "current", kind = "instantaneous", register = {{ table = "input", address = 6, type = "f32" }} }},
    {{ name = "wattHours", kind = "accumulating", register = {{ table = "input", address = 8, type = "u64" }} }},
    {{ name = "wattHoursReverse", kind = "accumulating", register = {{ table = "input", address = 12, type = "u32" }} }},
    {{ name = "reading", kind = "instantaneous", register = {{ table = "input", address = 14, type = "u32" }} }},
    {{ name = "temp", kind = "instantaneous", register = {{ table = "input", address = 16, type = "i16" }}, multiply = 0.1 }},
    {{ name = "opState", kind = "status", register = {{ table = "input", address = 17, type = "u16" }} }},
]

[[control]]
id = "/site/relay"
write = {{ modbus = "cabinet", unit = {RELAY}, table = "coil", address = 0 }}
allow = {{ min = 0, max = 1, every = "1s" }}
"#,
            address = site.address(),
        ));
    }
    text
}

/// Issues the agent's token as a person with a manager's token would: one signed call.
fn issue_token(agent: &Agent, folder: &Path, sim: &Sim) -> anyhow::Result<(String, String)> {
    say("you", "issue a token that may do what this configuration needs and nothing else");
    let secret_file = write_private(folder, "manager.secret", MANAGER_SECRET)?;
    let body = write_private(folder, "policy.json", POLICY)?;
    let url = format!("{}/api/v1/sec/user/auth-tokens/generate/User", sim.user_url());
    let now = Utc::now();
    let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let signed = agent.ask(&[
        "token",
        "sign",
        "POST",
        &url,
        "--token-id",
        MANAGER,
        "--secret-file",
        &secret_file,
        "--body",
        &body,
        "-H",
        "Content-Type: application/json",
        "-H",
        &format!("X-SN-Date: {date}"),
        "--date",
        &now.to_rfc3339(),
        "--json",
    ])?;
    let authorization =
        signed["authorization"].as_str().context("no authorization in the answer")?;
    let headers = [
        ("Content-Type", "application/json"),
        ("X-SN-Date", date.as_str()),
        ("Authorization", authorization),
    ];
    let answer = agent::post(sim.address(), &url, &headers, POLICY)?;
    let member = |name: &str| answer["data"][name].as_str().map(str::to_owned);
    let (id, secret) =
        member("id").zip(member("authSecret")).with_context(|| format!("no token: {answer}"))?;
    say("sim", &format!("token {id} issued, with this policy: {}", answer["data"]["policy"]));
    fs::remove_file(secret_file)?;
    Ok((id, secret))
}

/// Only a signing key goes to the device, and one that has been in use for a while.
fn import_old_key(agent: &Agent, folder: &Path, id: &str, secret: &str) -> anyhow::Result<()> {
    let day = (Utc::now() - TimeDelta::days(KEY_AGE_DAYS)).date_naive();
    let key = solarnet_sim::signing_key_hex(secret, day);
    let key_file = write_private(folder, "signing.key", &key)?;
    let date = day.format("%Y%m%d").to_string();
    say("you", &format!("import its signing key of {day}: the secret never reaches the device"));
    agent.show(&[
        "token",
        "import",
        "site",
        "--token-id",
        id,
        "--key-file",
        &key_file,
        "--key-date",
        &date,
    ])?;
    fs::remove_file(key_file)?;
    Ok(())
}

fn write_private(folder: &Path, name: &str, text: &str) -> anyhow::Result<String> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let path: PathBuf = folder.join(name);
    let mut options = fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?
        .write_all(text.as_bytes())?;
    Ok(path.display().to_string())
}

fn switch_the_relay(sim: &Sim, site: &Site) -> anyhow::Result<()> {
    let id = sim.add_instruction(NewInstruction {
        node: NODE,
        topic: "SetControlParameter".to_owned(),
        parameters: vec![("/site/relay".to_owned(), "1".to_owned())],
        instruction_date: None,
        expires: Some(Utc::now() + TimeDelta::minutes(5)),
        visible_from: None,
    });
    say("you", &format!("instruction {id}: switch /site/relay on"));
    let ended =
        || sim.instruction(id).is_some_and(|i| matches!(i.state.name(), "Completed" | "Declined"));
    wait_for("the instruction ends", ended)?;
    let state = sim.instruction(id).map_or("gone", |i| i.state.name());
    let coil = site.value(RELAY, solarnet_sim::Table::Coil, 0);
    let writes = site.writes(RELAY).len();
    ensure!(
        state == "Completed" && coil == Some(1) && writes == 1,
        "instruction {id} is {state}, the coil is {coil:?} after {writes} writes"
    );
    say("sim", &format!("instruction {id} is {state}; the relay's coil is on, after one write"));
    Ok(())
}

fn survive_an_outage(sim: &Sim, site: &Site) -> anyhow::Result<()> {
    let (before, readings) = (sim.ledger_count().datum, site.readings(METER));
    say("sim", "the server goes away");
    sim.go_down();
    std::thread::sleep(Duration::from_secs(6));
    let during = site.readings(METER);
    ensure!(during > readings, "the meter was not read while the server was away");
    say(
        "sim",
        &format!("the server comes back; {} readings were taken meanwhile", during - readings),
    );
    sim.come_back()?;
    let wanted = before + usize::try_from(during - readings)?;
    wait_for("what waited is in the ledger", || sim.ledger_count().datum >= wanted)?;
    say("sim", "what waited has arrived");
    Ok(())
}

fn compare(sim: &Sim, counts: &Counts) -> anyhow::Result<()> {
    let Counts { readings, outcomes, spool, ledger } = *counts;
    let devices = readings + outcomes;
    let numbers: std::collections::BTreeSet<String> = sim
        .ledger()
        .iter()
        .filter_map(|(_, entry)| entry.datum.decimal("reading").map(|n| n.to_string()))
        .collect();
    let lost = (1..=readings).filter(|number| !numbers.contains(&number.to_string())).count();
    println!();
    println!("  counted at                          datum");
    println!(
        "  the devices                        {devices:>6}   {readings} readings, {outcomes} instruction outcome(s)"
    );
    println!("  the agent's spool                  {spool:>6}");
    println!("  the server's ledger                {ledger:>6}");
    println!("  lost                               {lost:>6}");
    println!();
    if devices != spool || devices != ledger || lost > 0 {
        bail!("the counts differ");
    }
    Ok(())
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        ensure!(Instant::now() < until, "waited {} s until {what}, in vain", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
