//! The signing key's life: renewed in time, killed at each step of it, refused, run out, repaired.
//!
//! A key signs for its UTC day and the six that follow. One that is five days old when the daemon
//! starts is renewed at once, so most tests begin with such a key.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};
use solarnet_sim::{Act, IssuedToken, Misbehaviour, Sim, Site, TokenKind, Unit, signing_key_hex};

use crate::support::{
    agent::{Agent, Daemon, USER, eventually, link, meter, seed, solarnet},
    ledger::{Ledger, committed},
};

const REFRESH: &str = "/solarquery/api/v1/sec/auth-tokens/refresh/v2";
const SOURCE: &str = "/site/meter";

/// A server, a meter, and an agent that has no token yet.
struct Place {
    sim: Sim,
    site: Site,
    agent: Agent,
    token: IssuedToken,
}

impl Place {
    /// With a token of this policy; `null` is none.
    fn new(policy: &Value) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let token = sim.issue_token(USER, TokenKind::User, policy);
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let agent = Agent::new(&(solarnet(&sim) + &link(&site) + &meter(1, SOURCE, "200ms")));
        Self { sim, site, agent, token }
    }

    fn import_secret(&self, options: &[&str]) {
        self.agent.import(&self.token.id, &self.token.secret, options);
    }

    /// Imports the key of a day, not the secret. Gives what the command said beside.
    fn import_key_of(&self, day: NaiveDate) -> String {
        let key = signing_key_hex(&self.token.secret, day);
        let file = self.agent.private_file("key", &key);
        let date = day.format("%Y%m%d").to_string();
        let file = file.to_str().expect("text");
        let arguments = ["token", "import", "site", "--token-id", &self.token.id];
        let options = ["--key-file", file, "--key-date", &date];
        let output = self.agent.run(&[&arguments[..], &options[..]].concat());
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "{said}");
        said
    }

    /// A key that has been in use for five days; gives its day.
    fn import_old_key(&self) -> NaiveDate {
        let day = self.old_day();
        self.import_key_of(day);
        day
    }

    fn today(&self) -> NaiveDate {
        self.sim.now().date_naive()
    }

    fn old_day(&self) -> NaiveDate {
        self.today() - Days::new(5)
    }

    /// The day of the stored key. The file must be whole, for its owner alone, and hold the token's
    /// own key of that day and no secret.
    fn stored_day(&self) -> NaiveDate {
        let path = self.agent.state_dir().join("credentials/site.json");
        let mode = fs::metadata(&path).expect("a credential").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{mode:o}");
        let stored: Value =
            serde_json::from_slice(&fs::read(&path).expect("read")).expect("a whole file");
        let day = stored["key_date"].as_str().expect("a day");
        let day = NaiveDate::parse_from_str(day, "%Y%m%d").expect("a day");
        assert_eq!(stored["key"], signing_key_hex(&self.token.secret, day));
        assert_eq!(stored["token_id"], self.token.id.as_str());
        assert!(stored.get("secret").is_none(), "the secret is on the device");
        day
    }

    fn spawn(&self) -> Daemon {
        Daemon::spawn(self.agent.command(&["run", "--log", "debug"]))
    }

    /// The credential's part of the status, once it is so.
    fn credential_when(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        self.agent.status_when(what, |status| is_so(&status["credentials"][0]))["credentials"][0]
            .take()
    }

    fn refreshes(&self) -> usize {
        self.sim.count_requests("GET", REFRESH)
    }

    fn a_fresh_reading_arrives(&self) {
        let read = self.site.readings(1);
        eventually("a fresh reading arrives", || {
            Ledger::of(&self.sim).readings(SOURCE).iter().any(|number| *number > read)
        });
    }
}

fn says(status: &Value, member: &str, words: &str) -> bool {
    status[member].as_str().is_some_and(|text| text.contains(words))
}

#[test]
fn killed_at_any_step_of_a_renewal_a_usable_key_remains_and_renewing_goes_on_by_itself() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new(&Value::Null);
    let refresh = |act| Misbehaviour::new(REFRESH, act);
    let steps = [
        ("asking is slow", Some(refresh(Act::Slow { ms: 400 }).times(1)), 1),
        ("asking is cut", Some(refresh(Act::CutAfter).times(1)), 1),
        ("asking is cut in the answer", Some(refresh(Act::CutMidBody).times(1)), 1),
        ("proving is slow", Some(refresh(Act::Slow { ms: 400 }).skip(1).times(1)), 2),
        ("proving is cut", Some(refresh(Act::CutAfter).skip(1).times(1)), 2),
        // Answered at once: what comes next is the file.
        ("saving", None, 2),
        ("saving", None, 2),
        ("saving", None, 2),
    ];
    let mut renewed = 0;
    for (step, switch, calls) in steps.iter().cycle().take(3 * steps.len()) {
        let old = place.import_old_key();
        let before = place.refreshes();
        switch.iter().for_each(|switch| place.sim.misbehave(switch.clone()));
        let daemon = place.spawn();
        eventually(step, || place.refreshes() >= before + calls);
        let within = if *step == "saving" { 0..8 } else { 0..200 };
        std::thread::sleep(Duration::from_millis(random.u64(within)));
        daemon.kill();
        place.sim.behave();

        let day = place.stored_day();
        assert!(day == old || day == place.today(), "{step}: {day}");
        renewed += usize::from(day == place.today());
        let daemon = place.spawn();
        eventually("the key is renewed", || place.stored_day() == place.today());
        daemon.kill();
    }
    println!("{renewed} of {} were renewed when killed", 3 * steps.len());
    let daemon = place.agent.start();
    place.a_fresh_reading_arrives();
    assert!(daemon.stop().success());
}

#[test]
fn a_wrong_key_is_not_taken_and_said_and_the_old_one_signs_on() {
    let place = Place::new(&Value::Null);
    let old = place.import_old_key();
    place.sim.misbehave(Misbehaviour::new(REFRESH, Act::RefreshWrongKey));
    let daemon = place.agent.start();
    let status = place.credential_when("the wrong key is said", |status| {
        says(status, "last_error", "does not accept")
    });
    assert_eq!(status["key_date"], old.to_string());
    assert!(status["next_attempt"].is_string(), "{status}");
    assert_eq!(place.stored_day(), old);
    place.a_fresh_reading_arrives();
    assert_eq!(daemon.events("credential.refused"), [""; 0]);

    place.sim.behave();
    eventually("it is renewed when the server is right again", || {
        place.stored_day() == place.today()
    });
    place.credential_when("nothing stands against it", |status| status["last_error"].is_null());
    assert!(daemon.stop().success());
}

#[test]
fn what_the_policy_forbids_is_named_with_the_day_on_which_the_key_ends() {
    let refusals = [
        (json!({ "refreshAllowed": false }), "refreshAllowed"),
        (
            json!({ "refreshAllowed": true, "apiPaths": ["/user/import/**", "/instr/**"] }),
            "/auth-tokens/refresh/v2",
        ),
    ];
    for (policy, named) in refusals {
        let place = Place::new(&policy);
        let old = place.old_day();
        let end = old + Days::new(7);
        let said = place.import_key_of(old);
        assert!(said.contains(named) && said.contains(&end.to_string()), "{said}");
        let daemon = place.agent.start();
        let status = place.credential_when("it is named", |status| says(status, "because", named));
        assert!(says(&status, "ends", &end.to_string()), "{status}");
        let lines = daemon.lines_with(&["credential.", named, &end.to_string()]);
        assert_eq!(lines.len(), 1, "once: {lines:?}");
        // It is no reason to keep anything back.
        place.a_fresh_reading_arrives();
        assert_eq!(place.stored_day(), old);
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_token_that_has_run_out_or_is_disabled_is_named_and_loses_nothing() {
    type Refuse = fn(&Place);
    let refusals: [(Refuse, &str); 2] = [
        (
            |place| {
                let past = place.sim.now() - TimeDelta::minutes(1);
                let policy = json!({ "notAfter": past.timestamp_millis() });
                assert!(place.sim.set_token_policy(&place.token.id, &policy));
            },
            "notAfter",
        ),
        (|place| assert!(place.sim.set_token_active(&place.token.id, false)), "disabled"),
    ];
    for (refuse, named) in refusals {
        let place = Place::new(&Value::Null);
        place.import_old_key();
        refuse(&place);
        let daemon = place.agent.start();
        let status = place.credential_when("it is named", |status| says(status, "because", named));
        assert!(status["ends"].is_string(), "{status}");
        let before = place.agent.on_disk();
        eventually("readings go on", || place.agent.on_disk() >= before + 5);
        daemon.kill();
        let kept = committed(&place.agent);
        assert_eq!(place.sim.ledger_count().datum, 0);

        // Another start, the token in order again: everything is sent.
        assert!(place.sim.set_token_policy(&place.token.id, &Value::Null));
        assert!(place.sim.set_token_active(&place.token.id, true));
        let daemon = place.agent.start();
        place.a_fresh_reading_arrives();
        Ledger::of(&place.sim).assert_has_all(kept.values());
        assert!(daemon.stop().success());
    }
}

/// The server's clock for this test: at so many seconds before the next UTC midnight, some days off.
fn before_midnight(sim: &Sim, seconds: i64, days: i64) -> DateTime<Utc> {
    let now = Utc::now();
    let midnight = (now.date_naive() + Days::new(1)).and_time(chrono::NaiveTime::MIN).and_utc();
    let offset = midnight - TimeDelta::seconds(seconds) - now + TimeDelta::days(days);
    sim.set_clock_offset(offset);
    midnight + TimeDelta::days(days)
}

#[test]
fn a_key_signs_across_utc_midnight_with_the_server_a_day_ahead_and_a_day_behind() {
    for days in [-1, 0] {
        let place = Place::new(&Value::Null);
        // Up to a day behind the system's clock, and up to a day ahead of it. (A server's clock that
        // is more than a day before the program's build is not believed.)
        let midnight = before_midnight(&place.sim, 10, days);
        place.import_secret(&[]);
        let eve = midnight.date_naive() - Days::new(1);
        assert_eq!(place.stored_day(), eve, "the server's day counts");
        let daemon = place.agent.start();
        place.a_fresh_reading_arrives();
        // `Date` has whole seconds, so the agent's midnight may be half of one later.
        let over = midnight + TimeDelta::seconds(1);
        eventually("the server's midnight is over", || place.sim.now() > over);
        place.a_fresh_reading_arrives();
        assert!(daemon.stop().success());
        // What is read after midnight bears the server's day.
        let last = place.sim.ledger().into_iter().map(|(key, _)| key.ms).max();
        assert!(last.is_some_and(|ms| ms > midnight.timestamp_millis()), "{last:?}");

        let daemon = place.agent.start();
        eventually("the new day's key is fetched at the start", || {
            place.stored_day() == midnight.date_naive()
        });
        assert!(daemon.stop().success());
        Ledger::of(&place.sim).assert_unchanged();
    }
}

#[test]
fn with_a_kept_secret_the_new_day_s_key_is_made_here_and_nobody_is_asked() {
    let place = Place::new(&json!({ "refreshAllowed": false }));
    let midnight = before_midnight(&place.sim, 10, 0);
    place.import_secret(&["--keep-secret"]);
    let daemon = place.agent.start();
    place.a_fresh_reading_arrives();
    // By now the import has had its proof, and the daemon knows the time.
    let asked = place.refreshes();
    let status = place.credential_when("a key of the new day", |status| {
        status["key_date"] == midnight.date_naive().to_string()
    });
    assert_eq!(status["secret_kept"], true);
    assert!(status["ends"].is_null(), "{status}");
    place.a_fresh_reading_arrives();
    assert_eq!(place.refreshes(), asked, "the refresh call was used");
    assert!(daemon.stop().success());
}

#[test]
fn a_key_that_has_run_out_is_repaired_by_an_import_while_the_daemon_runs() {
    let place = Place::new(&Value::Null);
    place.import_old_key();
    place.sim.set_clock_offset(TimeDelta::days(3));
    let daemon = place.agent.start();
    let status = place.credential_when("it is said to have run out", |status| {
        says(status, "because", "last day")
    });
    assert!(says(&status, "because", "solarnode-agent token import site"), "{status}");
    let read = place.site.readings(1);
    eventually("readings go on", || place.site.readings(1) >= read + 10);
    let mut kept = committed(&place.agent);
    assert!(kept.len() >= 10, "{}", kept.len());
    assert_eq!(place.sim.ledger_count().datum, 0);

    place.import_secret(&[]);
    place.a_fresh_reading_arrives();
    kept.extend(committed(&place.agent));
    let fresh = place.credential_when("the key is well", |status| status["last_error"].is_null());
    assert_eq!(fresh["key_date"], place.today().to_string());
    Ledger::of(&place.sim).assert_only_readings(SOURCE, place.site.readings(1));
    eventually("everything stored is sent without a restart", || {
        let arrived = Ledger::of(&place.sim).readings(SOURCE);
        kept.values().all(|datum| datum.samples.reading().is_none_or(|n| arrived.contains(&n)))
    });
    Ledger::of(&place.sim).assert_has_all(kept.values());
    assert!(daemon.stop().success());
}
