//! `identity` by the real program: certificates from every kind of file, what is refused, the running daemon that uses
//! them, a new node by invitation, and renewals that are killed at any moment.

use std::{
    fs,
    io::Write as _,
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use solarnet_sim::{Act, Authority, Misbehaviour, NodeCertificate, NodeIdentity, Site, Unit};

use crate::support::{
    agent::{Agent, Daemon, NODE, SECRET, TOKEN, eventually, link, meter},
    ledger::Ledger,
    network::Network,
    orders::{self, order},
};

const SOURCE: &str = "/site/meter";
const BULK: &str = "/solarin/bulkCollector.do";
const RENEW: &str = "/solarin/api/v1/sec/cert/renew";
const PASSWORD: &str = "hunter2-store";

/// A node whose certificate comes from an authority that SolarIn knows.
struct Bench {
    network: Network,
    site: Site,
    agent: Agent,
}

impl Deref for Bench {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl Bench {
    /// With more configuration, and uploads that need the certificate.
    fn new(more: &str) -> Self {
        let network = Network::new();
        let site = Site::start(vec![Unit::meter(1)]).expect("a site");
        let config = network.config("bulk") + &link(&site) + &meter(1, SOURCE, "200ms") + more;
        let agent = Agent::new(&config);
        Self { network, site, agent }
    }

    fn now(&self) -> DateTime<Utc> {
        self.sim.now()
    }

    /// Issued long ago, with so many days left.
    fn with_days_left(&self, days: i64) -> NodeIdentity {
        let until = self.now() + TimeDelta::days(days);
        self.issue(&NodeCertificate::between(NODE, until - TimeDelta::days(730), until))
    }

    fn import(&self, node: &NodeIdentity) {
        self.network.import(&self.agent, node);
    }

    fn stored(&self) -> String {
        fs::read_to_string(self.agent.state_dir().join("credentials/node.pem")).expect("stored")
    }

    fn serial(&self) -> String {
        let shown = self.agent.ask_json(&["identity", "show", "--json"]);
        shown["serial"].as_str().expect("a serial number").to_owned()
    }

    fn key(&self) -> Vec<u8> {
        key_of(&self.stored())
    }

    fn next(&self) -> std::path::PathBuf {
        self.agent.state_dir().join("credentials/node.next.pem")
    }

    fn fresh_readings_arrive(&self) {
        let read = self.site.readings(1);
        eventually("a fresh reading arrives", || {
            Ledger::of(&self.sim).readings(SOURCE).iter().any(|number| *number > read)
        });
    }
}

/// The certificate among the credentials of a status.
fn of_status(status: &Value) -> &Value {
    let credentials = status["credentials"].as_array().expect("credentials");
    credentials.iter().find(|one| one["certificate"] == "node").unwrap_or(&Value::Null)
}

/// What the openssl command makes of this input.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("the openssl command is needed: apt-get install openssl");
    child.stdin.take().expect("piped").write_all(input).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}

/// The private key in a PEM file, as openssl writes it.
fn key_of(pem: &str) -> Vec<u8> {
    openssl(&["pkey"], pem.as_bytes())
}

/// A store made by openssl in the way of these options.
fn store(node: &NodeIdentity, options: &[&str]) -> Vec<u8> {
    let all = node.key_pem() + &node.chain_pem();
    let password = format!("pass:{PASSWORD}");
    let made = ["pkcs12", "-export", "-name", "node", "-passout", &password];
    openssl(&[&made, options].concat(), all.as_bytes())
}

fn run(agent: &Agent, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = agent.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the agent starts");
    // One that fails before it reads has closed it.
    drop(child.stdin.take().expect("piped").write_all(input));
    child.wait_with_output().expect("it ends")
}

/// Fails with that code and these words.
fn assert_fails(output: &Output, code: i32, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(words), "{words}: {error}");
}

#[test]
fn key_and_chain_are_taken_from_pem_and_pkcs12_of_every_kind() {
    let bench = Bench::new("");
    let agent = &bench.agent;
    let wanted = NodeCertificate::around(NODE, bench.now());
    for node in [bench.issue(&wanted), bench.issue(&wanted.clone().rsa())] {
        let (chain, key) = (node.chain_pem(), node.key_pem());
        let traditional = openssl(&["pkey", "-traditional"], key.as_bytes());
        let password = format!("pass:{PASSWORD}");
        let encrypted = openssl(
            &["pkcs8", "-topk8", "-v2", "aes-128-cbc", "-passout", &password],
            key.as_bytes(),
        );
        let pkcs7 = {
            let file = agent.private_file("chain.pem", &chain);
            openssl(&["crl2pkcs7", "-nocrl", "-certfile", file.to_str().expect("text")], b"")
        };
        let with = |key: &[u8]| [chain.as_bytes(), key].concat();
        let files: [(&str, Vec<u8>); 9] = [
            ("PKCS#8 behind the chain", with(key.as_bytes())),
            ("PKCS#8 before it", [key.as_bytes(), chain.as_bytes()].concat()),
            ("PKCS#1 or SEC 1", with(&traditional)),
            ("encrypted PKCS#8", with(&encrypted)),
            ("PKCS#7", [&pkcs7[..], key.as_bytes()].concat()),
            ("a store of OpenSSL 3", store(&node, &[])),
            ("a store of old programs", store(&node, &["-legacy"])),
            (
                "a store with AES-128",
                store(
                    &node,
                    &["-keypbe", "aes-128-cbc", "-certpbe", "aes-128-cbc", "-macalg", "sha512"],
                ),
            ),
            (
                "a store in the clear",
                store(&node, &["-keypbe", "NONE", "-certpbe", "NONE", "-nomac"]),
            ),
        ];
        let mut kept: Option<String> = None;
        for (kind, bytes) in files {
            let file = agent.path("given");
            fs::write(&file, bytes).expect("written");
            let output = run(
                agent,
                &["identity", "import", file.to_str().expect("text")],
                format!("{PASSWORD}\n").as_bytes(),
            );
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && error.is_empty(), "{kind}: {error}");
            assert_eq!(bench.key(), key_of(&key), "{kind}");
            let shown = agent.ask(&["identity", "show", "--json"]);
            assert_eq!(*kept.get_or_insert_with(|| shown.clone()), shown, "{kind}");
        }
        let path = agent.state_dir().join("credentials/node.pem");
        let mode = fs::metadata(&path).expect("stored").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
    }
    let shown = agent.ask_json(&["identity", "show", "--json"]);
    assert_eq!(shown["node"], NODE);
    assert_eq!(shown["subject"], "UID=123,CN=node-123,OU=SolarNode,O=SolarNetwork");
    assert_eq!(shown["chain"].as_array().map(Vec::len), Some(1));
    agent.ask(&["identity", "forget"]);
    assert_fails(&agent.run(&["identity", "show"]), 78, "identity import");
}

#[test]
fn what_does_not_fit_is_refused_and_says_what_to_change() {
    let bench = Bench::new("");
    let agent = &bench.agent;
    let good = bench.issue(&NodeCertificate::around(NODE, bench.now()));
    bench.import(&good);
    let before = bench.stored();
    let day = TimeDelta::days(1);
    let other = bench.issue(&NodeCertificate::around(NODE + 1, bench.now()));
    let nobody = bench.issue(&NodeCertificate::around(NODE, bench.now()).without_uid());
    let past =
        bench.issue(&NodeCertificate::between(NODE, bench.now() - day * 9, bench.now() - day));
    let all = |node: &NodeIdentity| (node.chain_pem() + &node.key_pem()).into_bytes();
    let mixed = (good.chain_pem() + &other.key_pem()).into_bytes();
    let (key, chain) = (good.key_pem().into_bytes(), good.chain_pem().into_bytes());
    let damaged = good.chain_pem().replacen("MII", "M!I", 1) + &good.key_pem();
    let refusals: [(&[u8], &str); 8] = [
        (&all(&other), "that of node 124, and `node.id` in the configuration is 123"),
        (&all(&nobody), "has no `UID=`"),
        (&all(&past), "have another one issued, or set the clock"),
        (&mixed, "does not belong to the certificate"),
        (&key, "no certificate in it"),
        (&chain, "--key-file"),
        (damaged.as_bytes(), "damaged"),
        (b"hunter2", "neither PEM nor a PKCS#12 store"),
    ];
    for (bytes, words) in refusals {
        assert_fails(&run(agent, &["identity", "import"], bytes), 64, words);
    }
    let file = agent.path("node.p12");
    fs::write(&file, store(&good, &[])).expect("written");
    let import = ["identity", "import", file.to_str().expect("text")];
    assert_fails(&run(agent, &import, b"hunter3\n"), 64, "the password is not that of");
    assert_fails(&run(agent, &import, b""), 64, "cannot be imported with an empty password");
    let chain = agent.private_file("chain.pem", &good.chain_pem());
    let chain = chain.to_str().expect("text");
    let keyless = ["identity", "import", chain, "--key-file", chain];
    assert_fails(&run(agent, &keyless, b""), 64, "chain.pem has no private key");
    assert_fails(&run(agent, &["identity", "import", "/nowhere"], b""), 64, "/nowhere");
    assert_eq!(bench.stored(), before, "nothing was stored");

    let later =
        bench.issue(&NodeCertificate::between(NODE, bench.now() + day, bench.now() + day * 9));
    let output = run(agent, &["identity", "import"], &all(&later));
    assert!(output.status.success(), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("warning: ") && error.contains("set the clock, or wait"), "{error}");
    assert!(error.contains("would have ended later"), "{error}");
}

#[test]
fn check_says_what_solarin_says_and_what_stops_when() {
    let bench = Bench::new("\n[identity]\nrenew = true\n");
    let agent = &bench.agent;
    assert_fails(&agent.run(&["identity", "check"]), 78, "no certificate on this device");
    bench.import(&bench.with_days_left(400));
    let report = agent.ask_json(&["identity", "check", "--json"]);
    assert_eq!(report["solarin"], "accepted");
    let date = |name: &str| -> DateTime<Utc> {
        report[name].as_str().and_then(|text| text.parse().ok()).expect("a date")
    };
    assert_eq!(date("ends") - date("warns_from"), TimeDelta::days(60));
    assert_eq!(date("renews_from"), date("warns_from"));

    let ended = bench.with_days_left(-1);
    let path = agent.state_dir().join("credentials/node.pem");
    fs::write(path, ended.chain_pem() + &ended.key_pem()).expect("written");
    let checked = agent.run(&["identity", "check"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("stopped on ") && !said.contains("renewal"), "{said}");
    assert_eq!(checked.status.code(), Some(78));

    let stranger = Authority::new().expect("an authority");
    let foreign = stranger.issue_node(&NodeCertificate::around(NODE, bench.now())).expect("issued");
    bench.import(&foreign);
    for at_handshake in [false, true] {
        bench.solarin.refuse_at_handshake(at_handshake);
        let refused = agent.run(&["identity", "check"]);
        assert_eq!(refused.status.code(), Some(77), "{at_handshake}: {refused:?}");
    }
    bench.solarin.go_down();
    let silent = agent.run(&["identity", "check"]);
    assert_eq!(silent.status.code(), Some(69), "{silent:?}");
    assert!(agent.run(&["identity", "check", "--offline"]).status.success());
}

#[test]
fn the_daemon_waits_for_a_certificate_and_uses_an_imported_one_without_a_restart() {
    let bench = Bench::new("");
    let daemon = bench.agent.start();
    let status = bench.agent.status_when("it is missed", |status| {
        of_status(status)["because"].as_str().is_some_and(|why| why.contains("identity import"))
    });
    assert_eq!(of_status(&status)["needed"], true);
    assert_eq!(daemon.events("identity.missing").len(), 1);
    eventually("readings are kept meanwhile", || bench.agent.on_disk() > 3);
    assert_eq!(bench.sim.ledger_count().datum, 0);

    bench.import(&bench.issue(&NodeCertificate::around(NODE, bench.now())));
    eventually("it is in use", || daemon.events("identity.in_use").len() == 1);
    bench.fresh_readings_arrive();
    let status = bench.agent.status_when("it is shown", |status| {
        of_status(status)["serial"] == bench.serial().as_str()
    });
    assert!(of_status(&status)["ends"].is_string(), "{status}");

    // One that cannot be understood is named and left alone; the one in use stays.
    let path = bench.agent.state_dir().join("credentials/node.pem");
    fs::write(&path, "hunter2").expect("written");
    drop(daemon);
    let daemon = bench.agent.start();
    eventually("it is named", || daemon.events("identity.unreadable").len() == 1);
    assert_eq!(fs::read_to_string(&path).expect("left alone"), "hunter2");
    assert!(daemon.stop().success());
}

#[test]
fn a_certificate_that_stands_alone_is_taken_with_a_note_of_what_that_means() {
    let bench = Bench::new("");
    let imported = |text: &str| {
        let file = bench.agent.private_file("node.pem", text);
        let output = run(&bench.agent, &["identity", "import", file.to_str().expect("text")], b"");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        error
    };
    let node = bench.issue(&NodeCertificate::around(NODE, bench.now()));
    let end = "-----END CERTIFICATE-----\n";
    let leaf = node.chain_pem().split_inclusive(end).next().expect("a certificate").to_owned();
    let note = imported(&(leaf + &node.key_pem()));
    assert!(note.starts_with("note: the chain ends with UID=123"), "{note}");

    let (key, subject) = (node.key_pem(), "/O=SolarNetwork/OU=SolarNode/CN=123/UID=123");
    let key_file = bench.agent.private_file("key.pem", &key);
    let key_file = key_file.to_str().expect("text");
    let own = openssl(&["req", "-x509", "-key", key_file, "-subj", subject, "-days", "30"], b"");
    let note = imported(&(String::from_utf8(own).expect("PEM") + &key));
    assert!(note.starts_with("note: the certificate of UID=123"), "{note}");
    assert!(note.contains("is its own issuer"), "{note}");
}

#[test]
fn what_systemd_passes_is_the_daemons_alone_and_commands_say_so() {
    let bench = Bench::new("");
    let node = bench.issue(&NodeCertificate::around(NODE, bench.now()));
    let passed = bench.agent.path("passed");
    fs::create_dir(&passed).expect("a folder");
    fs::write(passed.join("node-certificate"), node.chain_pem() + &node.key_pem())
        .expect("written");
    fs::write(passed.join("site"), format!("{TOKEN}\n{SECRET}\n")).expect("written");
    let mut command = bench.agent.command(&["run"]);
    command.env("CREDENTIALS_DIRECTORY", &passed);
    let daemon = Daemon::spawn(command);
    bench.agent.status_when("both are in use", |status| {
        of_status(status)["subject"].is_string() && status["credentials"][0]["token_id"] == TOKEN
    });
    for arguments in [["identity", "show"], ["identity", "check"]] {
        let output = run(&bench.agent, &arguments, b"");
        assert_fails(
            &output,
            78,
            "UID=123,CN=node-123,OU=SolarNode,O=SolarNetwork is not in the store: systemd",
        );
    }
    // Whoever may read the daemon's folder can name it.
    let mut command = bench.agent.command(&["identity", "check", "--json"]);
    let checked = command.env("CREDENTIALS_DIRECTORY", &passed).output().expect("it runs");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("\"solarin\": \"accepted\""));
    let output = run(&bench.agent, &["token", "show", "site"], b"");
    assert_fails(&output, 78, "is not in the store: systemd passed it to the running daemon alone");
    let warned = |text: &str| text.contains("no certificate is stored");
    assert!(!warned(&bench.agent.ask(&["check"])));
    assert!(daemon.stop().success());
    assert!(warned(&bench.agent.ask(&["check"])), "nobody is there who has one");
}

#[test]
fn a_new_node_takes_up_its_invitation_even_if_it_is_killed_on_the_way() {
    let bench = Bench::new("");
    let agent = &bench.agent;
    let invitation = bench.sim.invite(NODE, "user@example.com").expect("an invitation");
    let file = agent.private_file("invitation", &invitation.text);
    let associate = ["identity", "associate", "--invitation-file", file.to_str().expect("text")];
    let silent = run(agent, &associate, b"");
    assert_fails(&silent, 64, &invitation.security_phrase);
    assert_fails(&silent, 64, "--yes goes on without asking");
    let config = fs::read_to_string(agent.config()).expect("the configuration");
    fs::write(agent.config(), config.replace("/solarin\"", "/nowhere\"")).expect("written");
    assert_fails(&run(agent, &associate, b""), 77, "(404): Not found; is `solarnet.in_url` right?");
    fs::write(agent.config(), config).expect("written");
    bench.sim.set_issuing_delay(TimeDelta::seconds(5));
    let mut child = agent
        .command(&[&associate[..], &["--yes"]].concat())
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent starts");
    let taken_up = || bench.sim.count_requests("POST", "/solaruser/associate.json") > 0;
    eventually("it is taken up", taken_up);
    child.kill().expect("killed");
    child.wait().expect("it ends");

    let again = run(agent, &[&associate[..], &["--yes"]].concat(), b"");
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success(), "{error}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("this machine is node 123"));
    for text in [&again.stdout, &again.stderr, &silent.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains(&invitation.confirmation_key), "{text}");
    }
    assert!(!agent.state_dir().join("credentials/node.association").exists());
    assert_eq!(agent.ask_json(&["identity", "check", "--json"])["solarin"], "accepted");

    for nonsense in ["hunter2", "aHVudGVyMg=="] {
        let output = run(agent, &["identity", "associate", "--yes"], nonsense.as_bytes());
        assert_fails(&output, 64, "not an invitation");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
    }
}

#[test]
fn a_renewed_certificate_is_asked_for_proved_and_used_without_a_restart() {
    let bench = Bench::new("\n[identity]\nrenew = true\n");
    let old = bench.with_days_left(50);
    bench.import(&old);
    let (serial, key) = (bench.serial(), old.key_pem());
    let daemon = bench.agent.start();
    eventually("it is renewed", || daemon.events("identity.renewed").len() == 1);
    assert_eq!(daemon.events("identity.renewal_asked").len(), 1);
    assert_eq!(bench.sim.count_requests("POST", RENEW), 1);
    assert_ne!(bench.serial(), serial);
    assert_eq!(bench.key(), key_of(&key), "the key is the same");
    assert!(!bench.next().exists());
    let status = bench.agent.status_when("it is shown", |status| {
        of_status(status)["serial"] == bench.serial().as_str()
    });
    assert_eq!(of_status(&status)["last_error"], Value::Null);
    bench.fresh_readings_arrive();
    let done = ["event=\"instruction.done\"", "RenewCertificate"];
    eventually("the instruction ends here", || !daemon.lines_with(&done).is_empty());
    let line = daemon.lines_with(&done).remove(0);
    let id = line.split("instruction_id=").nth(1).and_then(|rest| rest.split(' ').next());
    let id = id.expect("it is named").parse().expect("a number");
    eventually("the instruction ends at the server", || {
        bench.sim.instruction(id).is_some_and(|instruction| instruction.state.is_final())
    });
    assert!(daemon.stop().success());
}

#[test]
fn the_key_stays_here_unless_renewals_are_allowed() {
    let bench = Bench::new("");
    bench.import(&bench.with_days_left(50));
    let daemon = bench.agent.start();
    eventually("the end is announced", || daemon.events("identity.ends").len() == 1);
    bench.fresh_readings_arrive();
    assert_eq!(bench.sim.count_requests("POST", RENEW), 0);
    let status = bench.agent.status().expect("a status");
    let because = of_status(&status)["because"].as_str().expect("a reason").to_owned();
    assert!(because.contains("identity.renew"), "{because}");
    assert!(daemon.stop().success());
}

#[test]
fn killed_at_random_moments_a_renewal_leaves_a_certificate_that_works_and_ends_well() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bench = Bench::new("\n[identity]\nrenew = true\n");
    let old = bench.with_days_left(50);
    bench.import(&old);
    let serial = bench.serial();
    let memory = bench.agent.state_dir().join("identity.json");
    for round in 0..6 {
        let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
        std::thread::sleep(Duration::from_millis(random.u64(50..1500)));
        println!("round {round}: {:?}", daemon.log().last());
        daemon.kill();
        // Whatever it had come to, there is a whole certificate with the key.
        bench.serial();
        assert_eq!(bench.key(), key_of(&old.key_pem()));
        // It may have been killed before it asked; otherwise it would wait for a day.
        fs::remove_file(&memory).unwrap_or_default();
    }
    let daemon = bench.agent.start();
    eventually("the renewed one is in use", || bench.serial() != serial && !bench.next().exists());
    bench.fresh_readings_arrive();
    assert_eq!(bench.agent.ask_json(&["identity", "check", "--json"])["solarin"], "accepted");
    assert!(daemon.stop().success());
}

/// After it was asked for, while it is proved, once it is in use, and before what was proved is removed.
#[test]
fn killed_at_each_step_of_a_renewal_it_goes_on_there_and_the_key_travels_once() {
    let bench = Bench::new("\n[identity]\nrenew = true\n");
    let old = bench.with_days_left(50);
    bench.import(&old);
    let serial = bench.serial();
    // Longer than a busy machine takes for an answer: one that did not come is asked for again.
    let config = fs::read_to_string(bench.agent.config()).expect("a configuration");
    let patient = config.replacen("timeout = \"2s\"", "timeout = \"60s\"", 1);
    fs::write(bench.agent.config(), patient).expect("written");
    bench.sim.set_instruction_queuing(TimeDelta::seconds(3600));
    let daemon = bench.agent.start();
    eventually("it is asked for", || bench.sim.count_requests("POST", RENEW) == 1);
    let asked = || fs::read_to_string(bench.agent.state_dir().join("identity.json"));
    assert!(asked().expect("written before").contains("\"asked\":\""));
    daemon.kill();

    // Slow, and still within the agent's patience.
    bench.sim.misbehave(Misbehaviour::new(BULK, Act::Slow { ms: 50_000 }));
    bench.sim.set_instruction_queuing(TimeDelta::zero());
    let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
    eventually("it is being proved", || bench.next().exists());
    daemon.kill();
    assert_eq!(bench.serial(), serial, "it is not proved yet");
    assert!(bench.next().exists());

    bench.sim.behave();
    let daemon = Daemon::spawn(bench.agent.command(&["run", "--log", "debug"]));
    eventually("it is in use", || bench.serial() != serial);
    daemon.kill();
    let renewed = bench.serial();
    fs::copy(bench.agent.state_dir().join("credentials/node.pem"), bench.next()).expect("left");

    let daemon = bench.agent.start();
    eventually("what is left over is removed", || !bench.next().exists());
    bench.fresh_readings_arrive();
    assert_eq!((bench.serial(), bench.key()), (renewed, key_of(&old.key_pem())));
    assert_eq!(bench.sim.count_requests("POST", RENEW), 1);
    assert!(daemon.stop().success());
}

#[test]
fn an_outage_that_was_long_brings_the_warning_forward() {
    let bench = Bench::new("");
    let ending = bench.with_days_left(100);
    bench.import(&ending);
    let daemon = bench.agent.start();
    eventually("there is time", || daemon.events("identity.well").len() == 1);
    bench.fresh_readings_arrive();
    assert!(daemon.stop().success());

    let last = (bench.now() - TimeDelta::days(120)).to_rfc3339();
    let memory = serde_json::json!({ "last_contact": last, "longest_outage_secs": 0, "asked": null, "exact": true });
    fs::write(bench.agent.state_dir().join("identity.json"), memory.to_string()).expect("written");
    let daemon = bench.agent.start();
    bench.fresh_readings_arrive();
    // It looks at its certificate again, and at who has answered meanwhile.
    bench.import(&ending);
    let secs = TimeDelta::days(120).num_seconds();
    bench.agent.status_when("the outage is known", |status| {
        of_status(status)["longest_outage_secs"].as_i64() >= Some(secs)
    });
    assert_eq!(daemon.events("identity.ends").len(), 1);
    assert!(daemon.stop().success());
    let daemon = bench.agent.start();
    eventually("it is remembered", || daemon.events("identity.ends").len() == 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_node_whose_meters_are_silent_is_in_contact_while_its_polls_are_answered() {
    let network = Network::new();
    let site = Site::start(vec![Unit::meter(2)]).expect("a site");
    let silent = link(&site) + &meter(1, SOURCE, "200ms");
    let agent = Agent::new(&(network.config("bulk") + &silent));
    let bench = Bench { network, site, agent };
    bench.import(&bench.with_days_left(100));
    let daemon = bench.agent.start();
    let polled = |status: &Value| status["instructions"]["last_poll"].is_string();
    let status = bench.agent.status_when("it polled", polled);
    assert!(status["upload"]["last_success"].is_null(), "{status}");
    assert!(daemon.stop().success());
    let memory = fs::read_to_string(bench.agent.state_dir().join("identity.json"));
    let memory: Value = serde_json::from_str(&memory.expect("written")).expect("JSON");
    assert!(memory["last_contact"].is_string() && memory["exact"] == true, "{memory}");
}

#[test]
fn a_node_whose_meters_are_silent_is_in_contact_while_the_broker_holds_its_session() {
    let network = Network::with_broker();
    let site = Site::start(vec![Unit::meter(2)]).expect("a site");
    let silent = link(&site) + &meter(1, SOURCE, "200ms");
    let config = network.config("mqtt") + &silent;
    let config = config.replace("[instructions]", "[instructions]\nenabled = false");
    let bench = Bench { network, site, agent: Agent::new(&config) };
    bench.import(&bench.with_days_left(100));
    let daemon = bench.agent.start();
    let status = bench.agent.status_when("it is connected and knows the time", |status| {
        status["mqtt"]["state"] == "connected" && status["clock"]["trust"] == "server"
    });
    assert!(status["upload"]["last_success"].is_null(), "{status}");
    assert!(status["instructions"]["last_poll"].is_null(), "{status}");
    assert!(daemon.stop().success());
    let memory = fs::read_to_string(bench.agent.state_dir().join("identity.json"));
    let memory: Value = serde_json::from_str(&memory.expect("written")).expect("JSON");
    assert!(memory["last_contact"].is_string() && memory["exact"] == true, "{memory}");
}

#[test]
fn a_start_goes_on_with_a_renewed_certificate_that_was_not_proved() {
    let bench = Bench::new("");
    let old = bench.with_days_left(50);
    bench.import(&old);
    let serial = bench.serial();
    let day = TimeDelta::days(1);
    let renewed = |from: DateTime<Utc>| {
        let wanted = NodeCertificate::between(NODE, from, bench.now() + day * 700);
        let next = bench.authority.renew_node(&wanted, &old).expect("renewed");
        let file = bench.agent.private_file("next", &(next.chain_pem() + &next.key_pem()));
        fs::rename(file, bench.next()).expect("moved");
        next
    };
    // One that SolarIn does not accept: it begins tomorrow.
    renewed(bench.now() + day);
    let daemon = bench.agent.start();
    eventually("it is given up", || daemon.events("identity.renewed_refused").len() == 1);
    eventually("it is gone", || !bench.next().exists());
    assert_eq!(bench.serial(), serial);
    bench.fresh_readings_arrive();
    drop(daemon);

    // One that nobody can judge at first.
    renewed(bench.now() - day);
    bench.solarin.go_down();
    let daemon = bench.agent.start();
    eventually("it cannot be proved", || !daemon.lines_with(&["identity."]).is_empty());
    assert_eq!(bench.serial(), serial);
    bench.solarin.come_back().expect("it comes back");
    eventually("it is proved", || daemon.events("identity.renewed").len() == 1);
    assert_ne!(bench.serial(), serial);
    bench.fresh_readings_arrive();
    assert!(daemon.stop().success());
}

#[test]
fn what_is_sent_as_a_renewed_certificate_and_is_none_changes_nothing() {
    let bench = Bench::new("\n[identity]\nrenew = true\n");
    let old = bench.with_days_left(400);
    bench.import(&old);
    let before = bench.stored();
    let daemon = bench.agent.start();
    let day = TimeDelta::days(1);
    let stranger = Authority::new().expect("an authority");
    let wanted = NodeCertificate::between(NODE, bench.now() - day, bench.now() + day * 900);
    let shorter = NodeCertificate::between(NODE, bench.now() - day, bench.now() + day * 300);
    let texts = [
        "hunter2".to_owned(),
        stranger.renew_node(&wanted, &old).expect("issued").chain_pem(),
        bench.issue(&wanted).certificate_pem(),
        // SolarIn would accept it.
        bench.authority.renew_node(&shorter, &old).expect("issued").chain_pem(),
    ];
    for text in texts {
        let id = bench.sim.add_instruction(order("RenewCertificate", &[("Certificate", &text)]));
        let said = format!("{:?}", orders::ended(&bench.sim, id));
        assert!(said.contains("Declined") && said.contains("renewed certificate"), "{said}");
    }
    assert_eq!(bench.stored(), before);
    assert!(daemon.stop().success());
}
