//! No secret and no key outside of the credential's file: not in logs of any level, not in what any
//! command prints, not in other files, not in the process list.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
};

use chrono::{Days, NaiveDate};
use serde_json::{Value, json};
use solarnet_sim::{
    Act, Authority, FileRepository, FileToken, IssuedToken, Misbehaviour, NewInstruction,
    NodeCertificate, Profile, Sim, Site, SolarIn, Table, TokenKind, Unit, signing_key_hex,
};

use crate::{
    bundle::unpacked,
    support::agent::{Agent, Daemon, NODE, USER, eventually, link, meter, seed, solarnet},
};

/// What must not be found, and what to call it where it is.
struct Needles(Vec<(String, Vec<u8>)>);

impl Needles {
    /// The secret, and the keys of these days: as digits in both cases, as bytes, as Rust prints bytes.
    fn new(token: &IssuedToken, days: &[NaiveDate]) -> Self {
        let mut needles = vec![("the secret".to_owned(), token.secret.clone().into_bytes())];
        for day in days {
            let digits = signing_key_hex(&token.secret, *day);
            let bytes = hex::decode(&digits).expect("hexadecimal digits");
            let listed = format!("{}, {}, {}, {}", bytes[0], bytes[1], bytes[2], bytes[3]);
            needles.extend([
                (format!("the key of {day}"), digits.clone().into_bytes()),
                (format!("the key of {day} in capitals"), digits.to_uppercase().into_bytes()),
                (format!("the bytes of the key of {day}"), bytes),
                (format!("the listed bytes of the key of {day}"), listed.into_bytes()),
            ]);
        }
        Self(needles)
    }

    /// The secret alone, which stands nowhere at all.
    fn secret(&self) -> Self {
        Self(self.0[..1].to_vec())
    }

    fn assert_not_in(&self, place: &str, bytes: &[u8]) {
        // A character for each byte, as texts are searched much faster than bytes.
        let text = |bytes: &[u8]| -> String { bytes.iter().copied().map(char::from).collect() };
        let haystack = text(bytes);
        for (name, needle) in &self.0 {
            assert_eq!(haystack.find(&text(needle)), None, "{name} stands in {place}");
        }
    }

    fn assert_not_in_output(&self, arguments: &str, output: &Output) {
        self.assert_not_in(&format!("the output of {arguments}"), &output.stdout);
        self.assert_not_in(&format!("the messages of {arguments}"), &output.stderr);
    }
}

/// Signatures are good for a quarter of an hour, so they are no business of the log either.
fn assert_no_signature_in(log: &[String]) {
    for line in log {
        let lower = line.to_ascii_lowercase();
        for words in ["signature=", "snws2 credential=", "authorization:", "\"authorization\""] {
            assert!(!lower.contains(words), "{line}");
        }
    }
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

/// Looks through the arguments and environments of all processes, again and again until told to stop.
/// Returns how often it saw the agent.
fn watch_processes(needles: &Needles, done: &AtomicBool) -> usize {
    let mut agents = 0;
    while !done.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").expect("the process list").flatten() {
            for file in ["cmdline", "environ"] {
                // Gone meanwhile, or another user's.
                let Ok(bytes) = fs::read(entry.path().join(file)) else { continue };
                let agent = bytes.starts_with(env!("CARGO_BIN_EXE_solarnode-agent").as_bytes());
                agents += usize::from(agent);
                needles.assert_not_in(&format!("{}/{file}", entry.path().display()), &bytes);
            }
        }
    }
    agents
}

struct Place {
    sim: Sim,
    site: Site,
    agent: Agent,
    token: IssuedToken,
}

impl Place {
    fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let token = sim.issue_token(USER, TokenKind::User, &Value::Null);
        let relay = Unit::new(3).with(Table::Holding, 0, &[0]);
        let site = Site::start(vec![Unit::meter(1), relay]).expect("a site");
        let control = r#"
[[control]]
id = "/site/relay"
timeout = "30s"
write = { modbus = "cabinet", unit = 3, table = "holding", address = 0, type = "u16" }
allow = { min = 0, max = 9 }
"#;
        let config = solarnet(&sim) + &link(&site) + &meter(1, "/site/meter", "200ms") + control;
        Self { agent: Agent::new(&config), sim, site, token }
    }

    fn day(&self, ago: u64) -> NaiveDate {
        self.sim.now().date_naive() - Days::new(ago)
    }

    fn needles(&self) -> Needles {
        Needles::new(&self.token, &[self.day(0), self.day(1), self.day(5)])
    }

    fn import_key_of(&self, day: NaiveDate) -> Output {
        let digits = signing_key_hex(&self.token.secret, day);
        let file = self.agent.private_file("key", &digits);
        let date = day.format("%Y%m%d").to_string();
        let output = self.agent.run(&[
            "token",
            "import",
            "site",
            "--token-id",
            &self.token.id,
            "--key-file",
            file.to_str().expect("text"),
            "--key-date",
            &date,
        ]);
        fs::remove_file(file).expect("removed");
        output
    }

    /// Runs the daemon through its whole life at this level: a renewal, uploads, an instruction, a
    /// refusal, calls that are cut.
    fn live(&self, level: &str, while_it_runs: impl FnOnce()) -> Vec<String> {
        assert!(self.import_key_of(self.day(5)).status.success());
        let command = self.agent.command(&["run", "--log", level]);
        let mut daemon = Daemon::spawn(command);
        eventually("it answers", || self.agent.status().is_some());
        let instruction = self.sim.add_instruction(NewInstruction {
            node: NODE,
            topic: "SetControlParameter".to_owned(),
            parameters: vec![("/site/relay".to_owned(), "1".to_owned())],
            ..NewInstruction::default()
        });
        eventually("the instruction ends", || {
            self.sim.instruction(instruction).is_some_and(|i| i.state.is_final())
        });
        let before = self.sim.ledger_count().datum;
        eventually("readings arrive", || self.sim.ledger_count().datum > before + 5);
        for act in [Act::CutAfter, Act::Garbage, Act::Status { status: 500 }] {
            self.sim.misbehave(Misbehaviour::new("/solar", act).times(2));
        }
        let misbehaved = self.sim.requests().len() + 6;
        eventually("it was misbehaved at", || self.sim.requests().len() > misbehaved);
        while_it_runs();
        // A token that is refused, and another one put in while it runs.
        assert!(self.sim.set_token_active(&self.token.id, false));
        eventually("the refusal is logged", || !daemon.lines_with(&["credentials"]).is_empty());
        assert!(self.sim.set_token_active(&self.token.id, true));
        assert!(self.import_key_of(self.day(1)).status.success());
        daemon.terminate();
        assert!(daemon.wait().success());
        daemon.log()
    }

    fn assert_files_are_clean(&self, keeps_secret: bool) {
        let needles = self.needles();
        // With what a kill or stop may leave of its replacement, `site.json.new`.
        let credentials = self.agent.state_dir().join("credentials");
        let files = files_below(&self.agent.state_dir());
        assert!(files.len() > 3, "{files:?}");
        for file in files {
            let bytes = fs::read(&file).expect("read");
            if !file.starts_with(&credentials) {
                needles.assert_not_in(&file.display().to_string(), &bytes);
                continue;
            }
            let mode = fs::metadata(&file).expect("a file").permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", file.display());
            if !keeps_secret {
                needles.secret().assert_not_in(&file.display().to_string(), &bytes);
            }
        }
    }
}

#[test]
fn no_log_of_any_level_and_no_file_but_the_credential_holds_a_secret_or_a_key() {
    for level in ["debug", "trace"] {
        let place = Place::new();
        let log = place.live(level, || {});
        let lines = log.iter().filter(|line| line.contains(&level.to_uppercase())).count();
        assert!(lines > 20, "{log:#?}");
        place.needles().assert_not_in(&format!("the {level} log"), log.join("\n").as_bytes());
        assert_no_signature_in(&log);
        place.assert_files_are_clean(false);
        assert!(place.site.readings(1) > 5);
    }
}

#[test]
fn no_command_prints_one_and_the_process_list_never_shows_one() {
    let place = Place::new();
    let needles = place.needles();
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_processes(&needles, &done));
        // Also where something below fails: the scope waits for the watcher.
        let finish = Finish(&done);
        place.live("info", || every_command(&place, &needles));
        drop(finish);
        watcher.join().expect("nothing was found")
    });
    assert!(seen > 10, "the agent was seen in the process list {seen} times");
    place.assert_files_are_clean(false);
}

struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn every_command(place: &Place, needles: &Needles) {
    let agent = &place.agent;
    let commands: [&[&str]; 18] = [
        &["check"],
        &["check", "--json"],
        &["read", "/site/meter"],
        &["read", "/site/meter", "--json"],
        &["status"],
        &["status", "--json"],
        &["token", "show"],
        &["token", "show", "--json"],
        &["token", "show", "site", "--json"],
        &["token", "check"],
        &["token", "refresh"],
        &["queue", "stat", "--json"],
        &["queue", "peek"],
        &["queue", "export"],
        &["queue", "check"],
        &["instruction", "list", "--json"],
        &["--help"],
        &["token", "import", "--help"],
    ];
    for arguments in commands {
        let output = agent.run(arguments);
        assert_ne!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        needles.assert_not_in_output(&arguments.join(" "), &output);
    }
    // What it signs is for people to see, what it signs with is not.
    let url = format!("{}/api/v1/sec/whoami", place.sim.user_url());
    for more in [&[][..], &["--json"]] {
        let arguments = [&["token", "sign", "GET", &url, "--token", "site"][..], more].concat();
        let output = agent.run(&arguments);
        assert!(output.status.success(), "{output:?}");
        needles.assert_not_in_output("token sign", &output);
    }
    managing(place, needles);
    mistakes(place, needles);
}

/// The commands that act at SolarNetwork, with the secret in a file and on standard input. What they
/// issue is shown once, where it is to be shown, and its key is in its file alone.
fn managing(place: &Place, needles: &Needles) {
    let agent = &place.agent;
    let file = agent.private_file("manager.txt", &place.token.secret);
    let act = |arguments: &[&str], from_file: bool| {
        let acting = ["--as", &place.token.id, "--secret-file", file.to_str().expect("text")];
        let acting = if from_file { &acting[..] } else { &acting[..2] };
        let mut command = agent.command(&[&["token"], arguments, acting].concat());
        let stdin = fs::File::open(&file).expect("the secret");
        let output = command.stdin(stdin).output().expect("the agent starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        needles.assert_not_in_output(&arguments.join(" "), &output);
        output
    };
    let shown = act(&["create", "shown", "--type", "data", "--node", "123", "--json"], true);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let (id, secret) =
        (shown["id"].as_str().expect("an ID"), shown["secret"].as_str().expect("one"));
    let issued = IssuedToken { id: id.to_owned(), secret: secret.to_owned() };
    let of_issued = Needles::new(&issued, &[place.day(0)]);
    let commands: [&[&str]; 9] = [
        &["list"],
        &["list", "--json"],
        &["policy", id],
        &["policy", id, "--add", "--source", "/a", "--yes"],
        &["policy", id, "--set", "--expires", "9d", "--yes", "--json"],
        &["update", id, "--name", "other"],
        &["disable", id],
        &["enable", id],
        &["delete", id, "--yes"],
    ];
    for (at, arguments) in commands.into_iter().enumerate() {
        let output = act(arguments, at % 2 == 0);
        of_issued.assert_not_in_output(&arguments.join(" "), &output);
    }
    act(&["check"], false);
    let installed = act(&["create", "--for-config", "another"], false);
    let path = agent.state_dir().join("credentials/another.json");
    let stored = fs::read_to_string(&path).expect("installed");
    let stored: Value = serde_json::from_str(&stored).expect("JSON");
    assert_eq!(stored.get("secret"), None);
    let key = stored["key"].as_str().expect("a key").as_bytes().to_vec();
    Needles(vec![("its key".to_owned(), key)]).assert_not_in_output("create", &installed);
    for more in [&[][..], &["--json"]] {
        let rotated = act(&[&["rotate", "another", "--yes"], more].concat(), more.is_empty());
        let stored: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        assert_eq!(stored.get("secret"), None);
        let key = stored["key"].as_str().expect("a key").as_bytes().to_vec();
        Needles(vec![("its key".to_owned(), key)]).assert_not_in_output("rotate", &rotated);
    }
    for path in files_below(&agent.state_dir()) {
        let bytes = fs::read(&path).expect("read");
        of_issued.assert_not_in(&path.display().to_string(), &bytes);
    }
    assert!(agent.run(&["token", "forget", "another"]).status.success());
    fs::remove_file(file).expect("removed");
}

/// What goes wrong is told without quoting what must not be told.
fn mistakes(place: &Place, needles: &Needles) {
    let agent = &place.agent;
    let secret = &place.token.secret;
    let key = signing_key_hex(secret, place.day(0));
    let id = &place.token.id;
    let try_out = |name: &str, text: &str, options: &[&str]| {
        let file = agent.private_file(name, text);
        let mut arguments = vec!["token", "import", "other", "--token-id", id];
        arguments.extend(options);
        arguments.push(file.to_str().expect("text"));
        let output = agent.run(&arguments);
        assert!(!output.status.success(), "{name}: {output:?}");
        needles.assert_not_in_output(name, &output);
        fs::remove_file(file).expect("removed");
    };
    let today = place.day(0).format("%Y%m%d").to_string();
    let yesterday = place.day(1).format("%Y%m%d").to_string();
    let key_of = |date| ["--key-date", date, "--key-file"];
    try_out("a secret where a key belongs", secret, &key_of(&today));
    try_out("a key with a digit too many", &format!("{key}0"), &key_of(&today));
    try_out("a key of another day", &key, &key_of(&yesterday));
    try_out("two lines of secret", &format!("{secret}\n{secret}\n"), &["--secret-file"]);

    // Files in the store that cannot be understood, with everything in them.
    let path = agent.state_dir().join("credentials/other.json");
    let broken = [
        json!({ "token_id": id, "key": key, "key_date": today, "secret": secret, "more": key })
            .to_string(),
        json!({ "token_id": id, "key": format!("{key}{key}"), "key_date": secret }).to_string(),
        json!({ "token_id": id, "key": { (key.as_str()): secret } }).to_string(),
        format!("{{\"token_id\":\"{secret}\",\"key\":\"{key}"),
    ];
    for text in broken {
        let file = agent.private_file("broken", &text);
        fs::rename(file, &path).expect("moved");
        for arguments in [&["token", "show"][..], &["token", "check", "other"]] {
            let output = agent.run(arguments);
            needles.assert_not_in_output(&arguments.join(" "), &output);
        }
        assert_eq!(agent.run(&["token", "check", "other"]).status.code(), Some(65), "{text}");
    }
    fs::remove_file(path).expect("removed");
}

#[test]
fn a_kept_secret_stands_in_the_credential_s_file_and_nowhere_else() {
    let place = Place::new();
    place.agent.import(&place.token.id, &place.token.secret, &["--keep-secret"]);
    let daemon = Daemon::spawn(place.agent.command(&["run", "--log", "trace"]));
    eventually("readings arrive", || place.sim.ledger_count().datum > 3);
    let needles = place.needles();
    for arguments in [&["token", "show", "--json"][..], &["status", "--json"], &["token", "check"]]
    {
        let output = place.agent.run(arguments);
        assert!(output.status.success(), "{output:?}");
        needles.assert_not_in_output(&arguments.join(" "), &output);
    }
    let log = daemon.log();
    assert!(daemon.stop().success());
    needles.assert_not_in("the trace log", log.join("\n").as_bytes());
    assert_no_signature_in(&log);
    place.assert_files_are_clean(true);
    let credential = place.agent.state_dir().join("credentials/site.json");
    let stored = fs::read_to_string(credential).expect("read");
    assert!(stored.contains(&place.token.secret), "kept where it was asked for");
}

/// A File Repository token is sent as it is, so all of it is a secret: the manager's, which is never stored, and
/// the one that uploads.
#[test]
fn no_token_of_the_file_repository_stands_anywhere_but_in_its_credential_s_file() {
    let repository = FileRepository::start(Profile::V3).expect("a repository");
    let manager = repository.add_token(FileToken::with_roles(&["security.administrator"]));
    let own = repository.add_token(FileToken::with_roles(&["upload.all"]));
    let sim = Sim::start(seed()).expect("a simulator");
    let config = format!(
        "{}\n[repository]\nurl = \"{}\"\ntoken = \"own\"\n[[files]]\nfolder = \"in\"\nevery = \"100ms\"\n\
         settle = \"0s\"\nsource = \"/site/files\"\n",
        solarnet(&sim),
        repository.url()
    );
    let agent = Agent::new(&config);
    fs::create_dir(agent.path("in")).expect("a folder");
    let named = |name: &str, token: &str| (name.to_owned(), token.as_bytes().to_vec());
    let needles =
        Needles(vec![named("the manager's token", &manager), named("its own token", &own)]);
    let (by, file) = (agent.private_file("manager", &manager), agent.private_file("own", &own));
    let (by, file) = (by.to_str().expect("text"), file.to_str().expect("text"));
    agent.ask(&["files", "token", "import", "own", "--token-file", file, "--manager-file", by]);

    let daemon = Daemon::spawn(agent.command(&["run", "--log", "trace"]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_processes(&needles, &done));
        let finish = Finish(&done);
        for number in 0..3 {
            fs::write(
                agent.path("in").join(format!("{number}.txt")),
                format!("file number {number}"),
            )
            .expect("a file");
        }
        eventually("the files are there", || repository.files().len() == 3);
        let picture = agent.private_file("picture.jpg", "a picture of ten");
        let picture = picture.to_str().expect("text");
        let commands: [&[&str]; 12] = [
            &["status", "--json"],
            &["files", "put", picture, "--json"],
            &["files", "put", picture, "--token-file", by, "--again"],
            &[
                "files",
                "put",
                picture,
                "--token-file",
                file,
                "--again",
                "--url",
                "http://127.0.0.1:1",
            ],
            &["files", "token", "list", "--json"],
            &["files", "token", "show", "own", "--manager-file", by, "--json"],
            &["files", "token", "show", "own", "--with-itself"],
            &["files", "token", "show", "--token-file", by, "--manager-file", file],
            &["files", "token", "revoke", "--token-file", by, "--manager-file", file, "--yes"],
            &["files", "token", "import", "other", "--token-file", by, "--offline"],
            &[
                "files",
                "token",
                "generate",
                "--role",
                "upload.all",
                "--install",
                "new",
                "--manager-file",
                by,
            ],
            &["files", "token", "generate", "--role", "upload.all", "--manager-file", file],
        ];
        for arguments in commands {
            let output = agent.run(arguments);
            assert_ne!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
            needles.assert_not_in_output(&arguments.join(" "), &output);
        }
        // A file of the store that cannot be understood, and a text that is no token.
        let broken = agent
            .private_file("broken", &format!("{{\"token\":\"{own}\",\"more\":\"{manager}\"}}"));
        fs::rename(broken, agent.state_dir().join("credentials/broken.files-token"))
            .expect("moved");
        let two = agent.private_file("two", &format!("{own} {manager}"));
        let two = two.to_str().expect("text");
        for arguments in [
            &["files", "token", "show", "broken", "--manager-file", by][..],
            &["files", "put", picture, "--token-file", two],
        ] {
            let output = agent.run(arguments);
            assert!(!output.status.success(), "{output:?}");
            needles.assert_not_in_output(&arguments.join(" "), &output);
        }
        drop(finish);
        assert!(watcher.join().expect("nothing was found") > 10);
    });
    let log = daemon.log();
    assert!(daemon.stop().success());
    needles.assert_not_in("the trace log", log.join("\n").as_bytes());
    let credentials = agent.state_dir().join("credentials");
    for path in files_below(&agent.state_dir()) {
        let bytes = fs::read(&path).expect("read");
        if path.starts_with(&credentials) {
            let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", path.display());
        } else {
            needles.assert_not_in(&path.display().to_string(), &bytes);
        }
    }
}

/// The private key, the passwords that protect it on its way, and what lets somebody become the node.
#[test]
fn no_key_of_a_certificate_and_no_password_stands_anywhere_but_in_the_store() {
    let sim = Sim::start(seed()).expect("a simulator");
    let authority = Authority::new().expect("an authority");
    let solarin = SolarIn::start(&sim, &authority).expect("SolarIn");
    let site = Site::start(vec![Unit::meter(1)]).expect("a site");
    let reach = format!("[solarnet]\nca_file = \"ca.pem\"\nin_url = \"{}\"", solarin.url());
    let config = solarnet(&sim)
        .replace("[solarnet]", &reach)
        .replace("[upload]", "[upload]\nvia = \"bulk\"");
    let config = config + &link(&site) + &meter(1, "/site/meter", "200ms");
    let agent = Agent::new(&(config + "\n[identity]\nrenew = true\n"));
    fs::write(agent.path("ca.pem"), authority.pem()).expect("written");
    let until = sim.now() + chrono::TimeDelta::days(50);
    let wanted = NodeCertificate::between(NODE, until - chrono::TimeDelta::days(730), until);
    let node = authority.issue_node(&wanted).expect("issued");
    let invitation = sim.invite(NODE, "user@example.com").expect("an invitation");

    let password = "hunter2-of-the-store";
    let mut needles = vec![
        ("the password".to_owned(), password.as_bytes().to_vec()),
        ("the confirmation key".to_owned(), invitation.confirmation_key.clone().into_bytes()),
    ];
    // Each line of the key's base64, and its bytes in two spellings.
    let pem = node.key_pem();
    for line in pem.lines().filter(|line| !line.starts_with('-')) {
        needles.push(("a line of the key".to_owned(), line.as_bytes().to_vec()));
    }
    let output = std::process::Command::new("openssl")
        .args(["pkey", "-outform", "DER", "-in"])
        .arg(agent.private_file("key.pem", &pem))
        .output()
        .expect("the openssl command is needed: apt-get install openssl");
    fs::remove_file(agent.path("key.pem")).expect("removed");
    // After the identifiers, which every key has.
    let secret = &output.stdout[36..60];
    needles.push(("the key".to_owned(), secret.to_vec()));
    needles.push(("the key in digits".to_owned(), hex::encode(secret).into_bytes()));
    let needles = Needles(needles);

    let store = agent.path("node.p12");
    fs::write(&store, node.pkcs12(password).expect("a store")).expect("written");
    let word = agent.private_file("password", password);
    let wrong = agent.private_file("wrong", &format!("{password}!"));
    let mixed = agent.private_file("mixed", &(authority.pem() + &pem));
    let invited = agent.private_file("invitation", &invitation.text);
    let [store, word, wrong, mixed, invited] =
        [&store, &word, &wrong, &mixed, &invited].map(|path| path.to_str().expect("text"));
    let done = AtomicBool::new(false);
    let log = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_processes(&needles, &done));
        let finish = Finish(&done);
        let attempts: [&[&str]; 11] = [
            &["identity", "import", store, "--password-file", wrong],
            &["identity", "import", mixed],
            &["identity", "import", word],
            &["identity", "associate", "--invitation-file", word, "--yes"],
            &["identity", "associate", "--invitation-file", invited],
            &["identity", "associate", "--invitation-file", invited, "--yes"],
            &["identity", "import", store, "--password-file", word],
            &["identity", "show"],
            &["identity", "show", "--json"],
            &["identity", "check"],
            &["check"],
        ];
        for arguments in attempts {
            let output = agent.run(arguments);
            needles.assert_not_in_output(&arguments.join(" "), &output);
        }
        let daemon = Daemon::spawn(agent.command(&["run", "--log", "trace"]));
        eventually("it is renewed", || !daemon.events("identity.renewed").is_empty());
        let archive = agent.path("bundle.tar.gz");
        let bundle = ["bundle", "--output", archive.to_str().expect("text")];
        for arguments in [&["status"][..], &["status", "--json"], &bundle] {
            let output = agent.run(arguments);
            needles.assert_not_in_output(&arguments.join(" "), &output);
        }
        for (name, bytes) in unpacked(&archive) {
            needles.assert_not_in(&format!("{name} of the bundle"), &bytes);
        }
        let log = daemon.log();
        assert!(daemon.stop().success());
        drop(finish);
        assert!(watcher.join().expect("nothing was found") > 5);
        log
    });
    needles.assert_not_in("the trace log", log.join("\n").as_bytes());
    let credentials = agent.state_dir().join("credentials");
    for path in files_below(&agent.state_dir()) {
        let bytes = fs::read(&path).expect("read");
        if path.starts_with(&credentials) {
            let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", path.display());
        } else {
            needles.assert_not_in(&path.display().to_string(), &bytes);
        }
    }
}
