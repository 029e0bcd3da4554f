//! The File Repository: the real agent against the simulator's, in its three generations.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use solarnet_sim::{Act, FileRepository, FileToken, Misbehaviour, Profile, Sim};

use crate::support::agent::{Agent, eventually, seed, solarnet};

const PROFILES: [Profile; 3] = [Profile::V2A, Profile::V2B, Profile::V3];

const UPLOAD: &str = "/repository/file/upload";

/// A repository with a manager's token, and an agent that knows it.
struct Place {
    repository: FileRepository,
    manager: String,
    agent: Agent,
    sim: Sim,
}

impl Place {
    fn new(profile: Profile) -> Self {
        Self::with(profile, "")
    }

    /// With more of a configuration.
    fn with(profile: Profile, more: &str) -> Self {
        let repository = FileRepository::start(profile).expect("a repository");
        let manager = repository.add_token(FileToken::with_roles(&["security.administrator"]));
        let sim = Sim::start(seed()).expect("a simulator");
        let config = format!(
            "{}\n[repository]\nurl = \"{}\"\ntoken = \"camera\"\n{more}",
            solarnet(&sim),
            repository.url()
        );
        let agent = Agent::new(&config);
        fs::create_dir(agent.path("in")).expect("a folder");
        agent.private_file("manager", &manager);
        Self { repository, manager, agent, sim }
    }

    /// With a watched folder.
    fn watching(profile: Profile, keys: &str) -> Self {
        Self::settling(profile, Duration::from_millis(300), keys)
    }

    /// The same with that time for a file to settle.
    fn settling(profile: Profile, settle: Duration, keys: &str) -> Self {
        let settle = settle.as_millis();
        let folder = "[[files]]\nfolder = \"in\"\nevery = \"100ms\"\n";
        Self::with(profile, &format!("{folder}settle = \"{settle}ms\"\n{keys}"))
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.agent.path("in").join(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// Runs a command; `manager` is put behind it.
    fn manage(&self, arguments: &[&str]) -> Output {
        let manager = self.agent.path("manager");
        let file = ["--manager-file", manager.to_str().expect("text")];
        self.agent.run(&[&["files", "token"], arguments, &file[..]].concat())
    }

    /// `generate --install camera` with these roles and more.
    fn install(&self, arguments: &[&str]) {
        let output =
            self.manage(&[&["generate", "--install", "camera", "--replace"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn put(&self, arguments: &[&str]) -> Output {
        self.agent.run(&[&["files", "put"], arguments].concat())
    }

    fn put_json(&self, arguments: &[&str]) -> Value {
        let output = self.put(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stdout));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn uploads(&self) -> usize {
        self.repository.requests().iter().filter(|seen| seen.path == UPLOAD).count()
    }

    /// How many entries the repository has of each content.
    fn entries(&self) -> BTreeMap<String, usize> {
        let mut entries = BTreeMap::new();
        for file in self.repository.files() {
            *entries.entry(file.sha256).or_insert(0) += 1;
        }
        entries
    }

    /// The only folder's status, when it is so.
    fn folder_when(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let status = self.agent.status_when(what, |status| is_so(&status["files"]["folders"][0]));
        status["files"]["folders"][0].clone()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn sha256(content: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(content))
}

fn assert_refused(output: &Output, exit: i32, words: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    assert!(said.contains(words), "{words:?} is not in: {said}");
}

#[test]
fn a_token_is_issued_with_every_field_and_looked_up_in_every_generation() {
    for profile in PROFILES {
        let place = Place::new(profile);
        let output = place.manage(&[
            "generate",
            "--role",
            "upload.all",
            "--role",
            "security.authentication_lookup",
            "--tag",
            "site-1",
            "--mime-type",
            "image/jpeg",
            "--max-file-size",
            "14579",
            "--user-agent",
            "Edge/1.0 (linux)",
            "--ip-address",
            "127.0.0.1",
            "--expires",
            "2030-05-05T10:00:00+02:00",
            "--json",
        ]);
        assert!(output.status.success(), "{profile:?}: {}", text(&output.stderr));
        let issued: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(issued["expires"], "2030-05-05 08:00:00", "the instant, in the server's digits");
        let token = issued["token"].as_str().expect("a token");
        assert!(place.repository.has_token(token));

        place.agent.private_file("token", token);
        let path = place.agent.path("token");
        let arguments = ["show", "--token-file", path.to_str().expect("text"), "--json"];
        let output = place.manage(&arguments);
        assert!(output.status.success(), "{profile:?}: {}", text(&output.stderr));
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for (member, value) in [
            ("expires", json!("2030-05-05 08:00:00")),
            ("roles", json!(["upload.all", "security.authentication_lookup"])),
            ("tags", json!(["site-1"])),
            ("mime_types", json!(["image/jpeg"])),
            ("max_file_size", json!(14_579)),
        ] {
            assert_eq!(shown[member], value, "{profile:?}: {member}");
        }
        let told = profile == Profile::V3;
        assert_eq!(
            shown["user_agents"],
            if told { json!(["Edge/1.0 (linux)"]) } else { Value::Null }
        );
        // Looking itself up, it has to come from where it may.
        let itself =
            ["files", "token", "import", "own", "--token-file", path.to_str().expect("text")];
        let output =
            place.agent.run(&[&itself[..], &["--user-agent", "Edge/1.0 (linux)"]].concat());
        assert!(output.status.success() && text(&output.stdout).contains("14579"), "{output:?}");
    }
}

#[test]
fn ends_are_sent_as_the_server_understands_them() {
    let place = Place::new(Profile::V2A);
    for (written, shown) in [
        ("2031-01-02", "2031-01-02 00:00:00"),
        ("2031-01-02 03:04", "2031-01-02 03:04:00"),
        ("2031-01-02T03:04:05Z", "2031-01-02 03:04:05"),
    ] {
        let output = place.manage(&["generate", "--role", "upload.all", "--expires", written]);
        let said = text(&output.stdout);
        assert!(said.contains(&format!("ends         {shown} by the server's clock")), "{said}");
    }
    let ends_in = |expires: &str| {
        let output =
            place.manage(&["generate", "--role", "upload.all", "--expires", expires, "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["ends"].clone()
    };
    let ends: chrono::DateTime<chrono::Utc> =
        ends_in("30d").as_str().expect("the zone is learnt from a span").parse().expect("a date");
    let days = (ends - chrono::Utc::now()).num_hours() as f64 / 24.0;
    assert!((days - 30.0).abs() < 0.1, "{days}");
    assert_eq!(ends_in("never"), Value::Null, "nothing tells the zone");
}

#[test]
fn a_token_of_no_use_is_refused_before_anything_is_sent() {
    let place = Place::new(Profile::V2A);
    for (arguments, words) in [
        (&["--role", "upload.image"][..], "did you mean upload.images?"),
        (&["--role", "upload.videos"], "cannot be granted"),
        (
            &["--role", "collections.add_tokens_to_allowed_collections"],
            "is printed in the server's documentation",
        ),
        (&["--role", "upload.all", "--tag", "ab"], "3 to 32"),
        (&["--role", "upload.all", "--mime-type", "image/*"], "without wildcards"),
        (&["--role", "upload.all", "--ip-address", "10.0.0.0/8"], "never match"),
        (&["--role", "upload.all", "--max-file-size", "0"], "a limit of 0"),
        (&["--role", "upload.all", "--expires", "2010-01-01"], "is past"),
        (&["--role", "upload.all", "--expires", "NEVER"], "no expiry"),
    ] {
        let output = place.manage(&[&["generate"], arguments].concat());
        assert_refused(&output, 64, words);
    }
    assert_eq!(place.repository.requests().len(), 0);
}

#[test]
fn a_field_that_the_server_s_generation_lacks_is_refused_with_the_reason_and_nothing_is_issued() {
    for (profile, argument, words) in [
        (Profile::V2A, "--id-file", Some("of version V2A")),
        (Profile::V2B, "--id-file", None),
        (Profile::V3, "--id-file", None),
        (Profile::V2A, "--role", Some("needs V3")),
        (Profile::V2B, "--role", Some("needs V3")),
        (Profile::V3, "--role", None),
    ] {
        let place = Place::new(profile);
        let id = "01234567-89ab-cdef-8123-456789abcdef";
        place.agent.private_file("id", id);
        let path = place.agent.path("id");
        let value = match argument {
            "--id-file" => path.to_str().expect("text"),
            _ => "securecopy.stream",
        };
        let output = place.manage(&["generate", "--role", "upload.all", argument, value]);
        match words {
            Some(words) => assert_refused(&output, 64, words),
            None => assert!(output.status.success(), "{profile:?}: {}", text(&output.stderr)),
        }
        assert_eq!(place.repository.has_token(id), words.is_none() && argument == "--id-file");
        if words.is_some() {
            assert!(text(&output.stdout).is_empty(), "{output:?}");
        }
    }
}

#[test]
fn an_installed_token_is_not_shown_and_not_replaced_by_accident_and_revoking_removes_it() {
    let place = Place::new(Profile::V2B);
    let generate = ["generate", "--role", "upload.all", "--install", "camera"];
    let output = place.manage(&generate);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stored = fs::read_to_string(place.agent.state_dir().join("credentials/camera.files-token"));
    let stored: Value = serde_json::from_str(&stored.expect("a file")).expect("JSON");
    let token = stored["token"].as_str().expect("a token").to_owned();
    assert!(place.repository.has_token(&token));
    assert!(!text(&output.stdout).contains(&token) && !text(&output.stderr).contains(&token));
    assert_refused(&place.manage(&generate), 64, "--replace");

    let list = place.agent.ask_json(&["files", "token", "list", "--json"]);
    assert_eq!(list["tokens"][0]["name"], "camera");
    assert_eq!(list["tokens"][0]["roles"], json!(["upload.all"]));
    assert_refused(&place.manage(&["revoke", "camera"]), 64, "--yes");
    let output = place.manage(&["revoke", "camera", "--yes"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!place.repository.has_token(&token));
    assert_refused(
        &place.agent.run(&["files", "token", "forget", "camera"]),
        78,
        "no File Repository token",
    );
    assert_refused(&place.manage(&["show", "camera"]), 78, "files token import camera");
}

#[test]
fn a_revoked_an_expired_and_a_too_narrow_token_end_each_command_with_77_and_the_reason() {
    for profile in PROFILES {
        let place = Place::new(profile);
        let file = place.file("picture.jpg", "a picture of ten");
        let file = file.to_str().expect("text");
        place.agent.private_file("subject", &place.manager);
        let subject = place.agent.path("subject");
        let subject = subject.to_str().expect("text");
        let past = chrono::Utc::now() - chrono::TimeDelta::days(1);
        let expired =
            FileToken { expires: Some(past), ..FileToken::with_roles(&["security.administrator"]) };
        let elsewhere = FileToken {
            ip_addresses: vec!["192.0.2.1".to_owned()],
            ..FileToken::with_roles(&["security.administrator"])
        };
        let narrow = FileToken::with_roles(&["view.any_file"]);
        for (token, words) in [
            (place.repository.add_token(narrow), "expired"),
            (place.repository.add_token(expired), "expired"),
            (place.repository.add_token(elsewhere), "not allowed from this address"),
            ("no-such-token".to_owned(), "does not know this token"),
        ] {
            place.agent.private_file("manager", &token);
            let by = place.agent.path("manager");
            let by = by.to_str().expect("text");
            for output in [
                place.manage(&["generate", "--role", "upload.all"]),
                place.manage(&["show", "--token-file", subject]),
                place.manage(&["revoke", "--yes", "--token-file", subject]),
                place.put(&[file, "--token-file", by]),
            ] {
                assert_refused(&output, 77, words);
                let said = text(&output.stderr);
                assert!(!said.contains(&token) && said.lines().count() == 1, "{said}");
            }
        }
        assert!(place.repository.has_token(&place.manager));
        assert_eq!(place.repository.files(), []);
    }
}

#[test]
fn no_server_a_foreign_server_and_no_address_are_told_apart() {
    let place = Place::new(Profile::V2A);
    place.repository.go_down();
    let generate = ["generate", "--role", "upload.all"];
    assert_refused(&place.manage(&generate), 69, "no answer from http://");
    place.repository.come_back().expect("the same port");
    let foreign = place.sim.user_url();
    assert_refused(
        &place.manage(&[&generate[..], &["--url", &foreign]].concat()),
        69,
        "File Repository",
    );
    place.repository.misbehave(Misbehaviour::new("/", Act::ProxyPage { status: 502 }));
    assert_refused(&place.manage(&generate), 69, "error page");
    place.agent.configure(&solarnet(&place.sim));
    assert_refused(&place.manage(&generate), 78, "--url");
}

#[test]
fn a_file_is_uploaded_once_and_is_there_under_the_address_that_is_printed() {
    for profile in PROFILES {
        let place = Place::new(profile);
        place.install(&["--role", "upload.all", "--tag", "site-1"]);
        let content = format!("content of {profile:?}");
        let file = place.file("Bild 1.txt", &content);
        let file = file.to_str().expect("text");
        let put = place.put_json(&[file, "--tag", "site-1", "--public"]);
        let done = &put["files"][0];
        assert_eq!(done["outcome"], "uploaded", "{profile:?}: {put}");
        assert_eq!(done["sha256"], sha256(&content));
        let stored = &place.repository.files()[0];
        assert_eq!(
            done["address"],
            format!("{}/repository/file/{}", place.repository.url(), stored.filename)
        );
        assert!(stored.filename.ends_with("Bild_1.txt"), "{}", stored.filename);
        assert_eq!((stored.tags.clone(), stored.public), (vec!["site-1".to_owned()], true));
        assert_eq!(place.repository.content(&stored.filename), Some(content.clone().into_bytes()));

        let again = place.file("other-name.txt", &content);
        let put = place.put_json(&[again.to_str().expect("text")]);
        assert_eq!(put["files"][0]["outcome"], "known");
        assert_eq!(put["files"][0]["address"], done["address"]);
        assert_eq!(place.uploads(), 1, "not sent again");
        let tokens: Vec<_> = place
            .repository
            .requests()
            .into_iter()
            .filter(|seen| seen.query.contains("token"))
            .collect();
        assert!(tokens.is_empty(), "a token in an address: {tokens:?}");
    }
}

#[test]
fn files_of_every_small_size_arrive_as_they_are() {
    let place = Place::new(Profile::V2A);
    place.install(&["--role", "upload.all"]);
    for size in [0_usize, 1, 8, 9, 10, 65_536, 65_537] {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let file = place.file(&format!("size-{size}.bin"), &content);
        let put = place.put_json(&[file.to_str().expect("text")]);
        let name = put["files"][0]["filename"].as_str().expect("a name").to_owned();
        assert_eq!(place.repository.content(&name), Some(content), "{size}");
    }
}

#[test]
fn what_the_token_does_not_allow_is_not_sent() {
    let place = Place::new(Profile::V2A);
    place.install(&[
        "--role",
        "upload.all",
        "--tag",
        "site-1",
        "--max-file-size",
        "100",
        "--mime-type",
        "image/png",
    ]);
    let exact = place.file("exact.txt", [b'x'; 100]);
    let archive = place.file("a.gz", b"\x1f\x8b\x08 something");
    let (exact, archive) = (exact.to_str().expect("text"), archive.to_str().expect("text"));
    assert_refused(
        &place.put(&[exact]),
        77,
        "has 100 bytes, and the token takes files smaller than 100",
    );
    assert_refused(&place.put(&[archive]), 77, "application/gzip");
    assert_refused(&place.put(&[archive, "--tag", "Site-1"]), 77, "does not allow the tag");
    assert_refused(&place.put(&[archive, "--tag", "no good"]), 64, "takes no tag");
    assert_refused(&place.put(&[exact, "--name", "a/b/c.txt"]), 64, "takes no name");
    assert_refused(&place.put(&["/no/such/file"]), 64, "cannot be read");
    assert_eq!(place.uploads(), 0);
    // What only the server can tell is its to say.
    let unknown = place.file("text.txt", "some ordinary words");
    assert_refused(&place.put(&[unknown.to_str().expect("text")]), 77, "text/plain");
    assert_eq!(place.uploads(), 1);
}

#[test]
fn memory_does_not_grow_with_the_file() {
    const BYTES: u64 = 64 << 20;
    let place = Place::new(Profile::V2A);
    place.install(&["--role", "upload.all"]);
    let path = place.agent.path("in").join("large.bin");
    let mut file = fs::File::create(&path).expect("a file");
    let block: Vec<u8> =
        (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for _ in 0..BYTES >> 20 {
        file.write_all(&block).expect("written");
    }
    drop(file);
    let mut command = place.agent.command(&["files", "put", path.to_str().expect("text")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
    let status = format!("/proc/{}/status", child.id());
    let mut most_kib = 0;
    let until = Instant::now() + Duration::from_secs(300);
    let exit = loop {
        if let Ok(text) = fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            most_kib = most_kib.max(kib.unwrap_or(0));
        }
        if let Some(exit) = child.try_wait().expect("a child") {
            break exit;
        }
        assert!(Instant::now() < until, "the upload takes too long");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(exit.success());
    assert_eq!(place.repository.files()[0].size, BYTES);
    assert!(most_kib > 0 && most_kib < 48 << 10, "{most_kib} KiB");
}

#[test]
fn a_file_that_appears_is_uploaded_and_its_address_becomes_a_datum_and_only_then_it_is_deleted() {
    let place = Place::watching(
        Profile::V2A,
        "patterns = [\"*.jpg\"]\ntags = [\"site-1\"]\nafter = \"delete\"\nsource = \"/site/camera\"\n",
    );
    place.install(&["--role", "upload.all", "--tag", "site-1"]);
    place.agent.import_token();
    let daemon = place.agent.start();
    let path = place.file("one.jpg", "first picture");
    place.file("one.txt", "another kind of file");
    eventually("the picture is there", || place.repository.files().len() == 1);
    eventually("it is deleted here", || !path.exists());
    let stored = place.repository.files()[0].clone();
    assert_eq!(stored.sha256, sha256("first picture"));
    assert_eq!(stored.tags, ["site-1"]);
    eventually("its datum arrives", || place.sim.ledger_count().datum == 1);
    let export = place.agent.ask(&["queue", "export"]);
    assert!(export.is_empty() || export.contains(&stored.filename), "{export}");

    // The same picture under another name: known, deleted, not sent.
    let same = place.file("two.jpg", "first picture");
    eventually("it is deleted too", || !same.exists());
    assert_eq!(place.uploads(), 1);
    let folder = place.folder_when("all is well", |folder| folder["known"] == 1);
    assert_eq!((&folder["state"], &folder["uploaded"]), (&json!("ok"), &json!(1)));
    assert!(place.agent.path("in").join("one.txt").exists());
    assert_eq!(daemon.events("files.uploaded").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_file_is_not_taken_while_it_is_written() {
    const SETTLE: Duration = Duration::from_secs(1);
    let place = Place::settling(Profile::V3, SETTLE, "");
    place.install(&["--role", "upload.all"]);
    let daemon = place.agent.start();
    let path = place.file("log.txt", "line\n");
    let mut file = OpenOptions::new().append(true).open(&path).expect("a file");
    let mut content = "line\n".to_owned();
    let (mut written, mut longest) = (Instant::now(), Duration::ZERO);
    for _ in 0..40 {
        std::thread::sleep(SETTLE / 20);
        file.write_all(b"line\n").expect("written");
        content.push_str("line\n");
        longest = longest.max(written.elapsed());
        written = Instant::now();
    }
    eventually("the whole of it is there", || {
        place.repository.files().iter().any(|file| file.sha256 == sha256(&content))
    });
    // On a busy machine the writer may pause for longer than the file has to settle.
    if longest < SETTLE / 2 {
        let first = place.repository.files()[0].sha256.clone();
        assert_eq!(first, sha256(&content), "a part of it was taken for the whole");
    }
    assert!(path.exists(), "kept");
    assert!(daemon.stop().success());
}

#[test]
fn an_outage_is_waited_for_and_a_restart_sends_nothing_again() {
    let place = Place::watching(Profile::V3, "");
    place.install(&["--role", "upload.all"]);
    place.repository.go_down();
    let daemon = place.agent.start();
    for number in 0..3 {
        place.file(&format!("{number}.txt"), format!("file number {number}"));
    }
    place.folder_when("it waits", |folder| folder["state"] == "waiting" && folder["waiting"] == 3);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.events("files.waiting").len(), 1, "told once");
    place.repository.come_back().expect("the same port");
    eventually("all are there", || place.repository.files().len() == 3);
    place.folder_when("all is well", |folder| folder["state"] == "ok" && folder["waiting"] == 0);
    assert_eq!(daemon.events("files.resumed").len(), 1);
    assert!(daemon.stop().success());

    let daemon = place.agent.start();
    place.file("3.txt", "file number 3");
    eventually("the new one is there", || place.repository.files().len() == 4);
    assert_eq!(place.entries().values().max(), Some(&1));
    assert!(daemon.stop().success());
}

#[test]
fn a_file_that_cannot_be_accepted_is_set_aside_with_the_reason_and_a_wider_token_takes_it() {
    let place = Place::watching(Profile::V2A, "");
    place.install(&["--role", "upload.all", "--max-file-size", "20"]);
    let daemon = place.agent.start();
    place.file("large.txt", "more than twenty bytes");
    place.file("small.txt", "a few bytes");
    let folder = place
        .folder_when("one is set aside", |folder| folder["aside"] == 1 && folder["uploaded"] == 1);
    assert_eq!(folder["state"], "ok");
    assert_eq!(folder["last_aside"]["file"], "large.txt");
    assert!(folder["last_aside"]["reason"].as_str().expect("a reason").contains("smaller than 20"));
    assert_eq!(daemon.events("files.aside").len(), 1);
    assert!(daemon.stop().success());

    let daemon = place.agent.start();
    place.folder_when("it is remembered", |folder| folder["aside"] == 1);
    assert_eq!(daemon.events("files.aside").len(), 0, "and not told again");
    place.install(&["--role", "upload.all"]);
    eventually("a wider token takes it", || place.repository.files().len() == 2);
    assert!(daemon.stop().success());
}

#[test]
fn a_revoked_token_stops_uploads_is_told_once_and_another_one_goes_on_without_a_restart() {
    let place = Place::watching(Profile::V2B, "");
    let daemon = place.agent.start();
    place.file("1.txt", "the first file");
    let folder = place.folder_when("no token", |folder| folder["state"] == "stopped");
    assert!(
        folder["reason"].as_str().expect("a reason").contains("files token import camera"),
        "{folder}"
    );
    place.install(&["--role", "upload.all"]);
    eventually("it is there", || place.repository.files().len() == 1);
    place.folder_when("all is well", |folder| folder["state"] == "ok");

    let stored = fs::read_to_string(place.agent.state_dir().join("credentials/camera.files-token"));
    let stored: Value = serde_json::from_str(&stored.expect("a file")).expect("JSON");
    let token = stored["token"].as_str().expect("a token");
    assert!(place.repository.revoke_token(token));
    place.file("2.txt", "the second file");
    let folder = place.folder_when("stopped", |folder| folder["state"] == "stopped");
    assert!(
        folder["reason"].as_str().expect("a reason").contains("does not know this token"),
        "{folder}"
    );
    let advice = "files token generate --install camera";
    assert!(folder["reason"].as_str().expect("a reason").contains(advice), "{folder}");
    place.install(&["--role", "upload.all"]);
    eventually("it goes on", || place.repository.files().len() == 2);
    assert_eq!(daemon.events("files.stopped").len(), 2);
    let log = daemon.log().join("\n");
    assert!(!log.contains(token), "the token stands in the log");
    assert!(daemon.stop().success());
}

#[test]
fn a_file_that_the_server_stumbles_over_does_not_hold_up_the_others() {
    let place = Place::watching(Profile::V2A, "");
    place.install(&["--role", "upload.all"]);
    let mut failing = Misbehaviour::new(UPLOAD, Act::ProxyPage { status: 500 });
    failing.times = Some(3);
    place.repository.misbehave(failing);
    let daemon = place.agent.start();
    for number in 0..4 {
        place.file(&format!("{number}.txt"), format!("file number {number}"));
    }
    eventually("all are there", || place.repository.files().len() == 4);
    place.folder_when("all is well", |folder| folder["state"] == "ok");
    let doubts = daemon.events("files.in_doubt");
    let names: std::collections::BTreeSet<_> =
        doubts.iter().filter_map(|line| line.split_once(" name=")).map(|(_, rest)| rest).collect();
    assert!(!doubts.is_empty(), "a failed upload leaves a doubt");
    assert_eq!(doubts.len(), names.len(), "each is told once: {doubts:?}");
    assert!(daemon.stop().success());
}

/// What stands for a power cut: SIGKILL at any moment, again and again, while the server is slow, cuts
/// connections after it took a file, and fails.
fn killed_at_any_moment(profile: Profile) {
    const FILES: usize = 16;
    let place = Place::watching(profile, "public = true\nafter = \"delete\"\n");
    place.install(&["--role", "upload.all", "--role", "view.can_use_listing_endpoint_at_all"]);
    let mut contents = Vec::new();
    for number in 0..FILES {
        let content = format!("file number {number}, {}", "x".repeat(number * 997));
        place.file(&format!("file-{number}.txt"), &content);
        contents.push(sha256(content));
    }
    place.repository.misbehave(Misbehaviour::new(UPLOAD, Act::Slow { ms: 100 }));
    let mut random = fastrand::Rng::with_seed(7);
    let mut kills = 0;
    let until = Instant::now() + Duration::from_secs(300);
    while place.repository.files().len() < FILES && kills < 25 {
        assert!(
            Instant::now() < until,
            "{} of {FILES} after {kills} kills",
            place.repository.files().len()
        );
        let before = place.uploads();
        let daemon = crate::support::agent::Daemon::spawn(place.agent.command(&["run"]));
        // While it starts, or around an upload. However quick it is, it gets no further than a few files.
        if random.u8(..4) > 0 {
            let all = || place.repository.files().len() >= FILES;
            eventually("it uploads", || place.uploads() > before || all());
        }
        std::thread::sleep(Duration::from_millis(random.u64(..200)));
        daemon.kill();
        kills += 1;
    }
    place.repository.behave();
    let daemon = place.agent.start();
    eventually("every file is there and deleted here", || {
        place.repository.files().len() >= FILES
            && fs::read_dir(place.agent.path("in")).expect("a folder").count() == 0
    });
    assert!(daemon.stop().success());
    let entries = place.entries();
    for content in &contents {
        assert_eq!(entries.get(content), Some(&1), "after {kills} kills");
    }
    assert!(kills >= 5, "{kills} kills were too few to show anything");
}

#[test]
fn no_file_is_lost_or_doubled_when_the_daemon_is_killed_at_any_moment_v2() {
    killed_at_any_moment(Profile::V2A);
}

#[test]
fn no_file_is_lost_or_doubled_when_the_daemon_is_killed_at_any_moment_v3() {
    killed_at_any_moment(Profile::V3);
}

#[test]
fn a_reply_that_is_lost_makes_no_double_where_the_repository_tells() {
    let place = Place::watching(Profile::V3, "public = true\n");
    place.install(&["--role", "upload.all", "--role", "view.can_use_listing_endpoint_at_all"]);
    let mut lost = Misbehaviour::new(UPLOAD, Act::CutAfter);
    lost.times = Some(1);
    place.repository.misbehave(lost);
    let daemon = place.agent.start();
    place.file("one.txt", "the only file");
    place.folder_when("it is known to be there", |folder| folder["uploaded"] == 1);
    assert_eq!(place.uploads(), 1, "looked up instead of sent again");
    assert_eq!(daemon.events("files.in_doubt").len(), 1);
    assert!(daemon.stop().success());
}
