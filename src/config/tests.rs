//! Whole configurations, from files to settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};

use rust_decimal::Decimal;
use tempfile::TempDir;

use super::{settings::*, *};
use crate::domain::Kind;

/// A folder with `agent.toml` and nothing else.
fn folder(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).expect("write");
    (dir, path)
}

/// An ordinary user whose folders are below `/home/u`.
fn user() -> Environment {
    Environment::of(None, Some(("/home/u/config".into(), "/home/u/state".into())))
}

fn loaded(text: &str) -> Settings {
    let (_dir, path) = folder(text);
    load_in(&path, &user()).unwrap_or_else(|error| panic!("{error}")).settings
}

fn decimal(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

const NODE: &str = "[node]\nid = 1\n";

#[test]
fn a_renewal_that_could_not_arrive_is_not_allowed() {
    let renew = format!("{NODE}[identity]\nrenew = true\n");
    assert!(loaded(&renew).identity.renew);
    let (_dir, path) = folder(&(renew + "[instructions]\nenabled = false\n"));
    let error = load_in(&path, &user()).expect_err("the key would be sent in vain").to_string();
    assert!(error.contains("identity.renew: found true, expected false, or `enabled"), "{error}");
}

#[test]
fn a_node_alone_has_every_default() {
    let settings = loaded(NODE);
    assert_eq!(
        settings,
        Settings {
            node: NodeId::try_from(1).expect("an ID"),
            state_dir: "/home/u/state".into(),
            control_socket: "/home/u/state/control.sock".into(),
            solarnet: SolarNet {
                user_url: "https://data.solarnetwork.net/solaruser".to_owned(),
                query_url: "https://data.solarnetwork.net/solarquery".to_owned(),
                in_url: "https://in.solarnetwork.net/solarin".to_owned(),
                token: "site".parse().expect("a name"),
                sign_host: None,
                ca_file: None,
                requests_per_second: 0.5,
                timeout: Duration::from_secs(30),
            },
            identity: Identity { renew: false, renew_before: Duration::from_secs(60 * 86_400) },
            upload: Upload {
                via: Via::Import,
                every: Duration::from_secs(60),
                proof: Proof::Answer,
                in_flight: 20,
                fallback_after: Some(Duration::from_secs(300)),
            },
            mqtt: Mqtt { broker: Broker::default(), keep_alive: Duration::from_secs(60) },
            flux: None,
            audit: Audit { token: None, settle: Duration::from_secs(15) },
            queue: Queue { limit_bytes: 256 << 20, at_risk: Duration::from_secs(1) },
            modbus: Vec::new(),
            controls: Vec::new(),
            instructions: Instructions {
                enabled: true,
                poll_fastest: Duration::from_secs(5),
                poll_slowest: Duration::from_secs(30),
                max_age: Duration::from_secs(900),
                result_source: None,
                allow: BTreeSet::new(),
            },
            repository: None,
            files: Vec::new(),
        }
    );
}

#[test]
fn every_key_of_a_unit_arrives() {
    let settings = loaded(
        r#"
        [node]
        id = 1
        [[modbus]]
        name = "b"
        tcp = "[2001:db8::7]:1502"
        pause = "20ms"
        connect_timeout = "2s"
        [[modbus.unit]]
        id = 255
        source = "/m"
        every = "1m 30s"
        phase = "aligned"
        max_registers = 50
        max_bits = 64
        max_gap = 8
        timeout = "800ms"
        retries = 3
        pause = "50ms"
        word_order = "little"
        tags = ["north"]
        [[modbus.unit.property]]
        name = "watts"
        kind = "i"
        register = { number = 40001, type = "i32", byte_order = "little" }
        multiply = 0.1
        offset = -40
        digits = 2
        invalid = [0x80000000, -1]
        tags = ["estimated"]
        [[modbus.unit.property]]
        name = "mode"
        kind = "status"
        register = { table = "input", address = 65535, type = "u16", word_order = "big" }
        mask = 0x0F00
        "#,
    );
    let unit = Unit {
        id: 255,
        source: "/m".parse().expect("a source"),
        every: Duration::from_secs(90),
        phase: Phase::Aligned,
        max_registers: 50,
        max_bits: 64,
        max_gap: 8,
        timeout: Duration::from_millis(800),
        retries: 3,
        pause: Duration::from_millis(50),
        properties: Arc::new([
            Property {
                name: "watts".to_owned(),
                kind: Kind::Instantaneous,
                register: Register {
                    table: Table::Holding,
                    address: 0,
                    encoding: Encoding::I32,
                    word_order: Order::Little,
                    byte_order: Order::Little,
                    select: Select::All,
                },
                scale: Scale { multiply: decimal("0.1"), offset: decimal("-40"), digits: Some(2) },
                invalid: vec![i32::MIN.into(), decimal("-1")],
                tags: vec!["estimated".to_owned()],
            },
            Property {
                name: "mode".to_owned(),
                kind: Kind::Status,
                register: Register {
                    table: Table::Input,
                    address: 65535,
                    encoding: Encoding::U16,
                    word_order: Order::Big,
                    byte_order: Order::Big,
                    select: Select::Mask(0x0F00),
                },
                scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
                invalid: Vec::new(),
                tags: Vec::new(),
            },
        ]),
        tags: vec!["north".to_owned()],
    };
    let link = Link::Tcp { host: "2001:db8::7".to_owned(), port: 1502 };
    assert_eq!(
        settings.modbus,
        [Bus {
            name: "b".to_owned(),
            link,
            pause: Duration::from_millis(20),
            connect_timeout: Duration::from_secs(2),
            units: vec![unit],
        }]
    );
}

#[test]
fn every_key_of_a_control_arrives() {
    let settings = loaded(
        r#"
        [node]
        id = 1
        [[modbus]]
        name = "b"
        tcp = "gateway"
        [[control]]
        id = "/limit"
        write = { modbus = "b", unit = 4, table = "holding", address = 100, multiply = "0.1" }
        allow = { min = -0.0, max = 100.5, every = "1m" }
        tolerance = 0.1
        settle = "3s"
        timeout = "2s"
        "#,
    );
    assert_eq!(
        settings.controls,
        [Control {
            id: "/limit".parse().expect("a source"),
            bus: "b".to_owned(),
            unit: 4,
            register: Register {
                table: Table::Holding,
                address: 100,
                encoding: Encoding::U16,
                word_order: Order::Big,
                byte_order: Order::Big,
                select: Select::All,
            },
            scale: Scale { multiply: decimal("0.1"), offset: Decimal::ZERO, digits: None },
            timeout: Duration::from_secs(2),
            tolerance: decimal("0.1"),
            settle: Duration::from_secs(3),
            allow: Allow {
                min: Decimal::ZERO,
                max: decimal("100.5"),
                every: Duration::from_secs(60),
            },
            states: BTreeMap::new(),
            signals: BTreeMap::new(),
        }]
    );
}

#[test]
fn paths_start_at_the_file_they_are_written_in() {
    let (dir, path) = folder(&format!("state_dir = \"state\"\n{NODE}"));
    fs::create_dir(dir.path().join("agent.d")).expect("create");
    fs::write(dir.path().join("agent.d/ca.pem"), "").expect("write");
    fs::write(dir.path().join("agent.d/1.toml"), "[solarnet]\nca_file = \"ca.pem\"")
        .expect("write");
    let settings = load_in(&path, &user()).expect("a configuration").settings;
    assert_eq!(settings.state_dir, dir.path().join("state"));
    assert_eq!(settings.control_socket, dir.path().join("state/control.sock"));
    assert_eq!(settings.solarnet.ca_file, Some(dir.path().join("agent.d/ca.pem")));
}

#[test]
fn systemd_moves_the_default_state_folder_and_not_a_chosen_one() {
    let service = Environment::of(Some("/srv/agent".into()), None);
    let (_dir, path) = folder(NODE);
    let settings = load_in(&path, &service).expect("a configuration").settings;
    assert_eq!(settings.state_dir, Path::new("/srv/agent"));
    let (_dir, path) = folder(&format!("state_dir = \"/chosen\"\n{NODE}"));
    let settings = load_in(&path, &service).expect("a configuration").settings;
    assert_eq!(settings.state_dir, Path::new("/chosen"));
}

#[test]
fn local_commands_work_beside_slips_in_other_sections() {
    let (_dir, path) = folder(
        "state_dir = \"/chosen\"\n[node]\nid = 0\n\
         [solarnet]\ntoken = \"a\"\n[[modbus]]\nnmae = 1\n",
    );
    load_in(&path, &user()).expect_err("the daemon does not start on it");
    let local = load_local_in(&path, &user()).expect("local commands do");
    assert_eq!(local.state_dir, Path::new("/chosen"));
    assert_eq!(local.node, None);
    assert_eq!(local.solarnet().expect("the section").token.as_str(), "a");
}

#[test]
fn a_misspelled_address_never_means_the_public_server() {
    for text in ["[solarnet]\nuser_ulr = \"https://192.0.2.1\"\n", "solarnet = 1\n"] {
        let (_dir, path) = folder(text);
        let local = load_local_in(&path, &user()).expect("the queue can be looked into");
        local.solarnet().expect_err("the server cannot be called");
    }
}

#[test]
fn a_slip_in_the_servers_section_is_told_to_those_who_need_it() {
    let (_dir, path) = folder("[solarnet]\ntimeout = 5\n");
    let local = load_local_in(&path, &user()).expect("the queue can be looked into");
    let error = local.solarnet().expect_err("the server cannot be called").to_string();
    assert!(error.contains("agent.toml:2: solarnet.timeout: found 5"), "{error}");
}

#[test]
fn only_the_default_file_may_be_missing_and_only_for_local_commands() {
    let environment = user();
    let default = environment.file.clone();
    assert!(matches!(load_in(&default, &environment), Err(ConfigError::Unreadable { .. })));
    let local = load_local_in(&default, &environment).expect("defaults");
    assert_eq!(local.state_dir, Path::new("/home/u/state"));
    assert!(matches!(
        load_local_in(Path::new("/nowhere/agent.toml"), &environment),
        Err(ConfigError::Unreadable { .. })
    ));
}

#[test]
fn a_file_that_is_not_ours_is_told_from_one_that_is_wrong() {
    let error =
        |kind: io::ErrorKind| ConfigError::Unreadable { path: "f".into(), source: kind.into() };
    assert!(error(io::ErrorKind::PermissionDenied).is_permission());
    assert!(!error(io::ErrorKind::NotFound).is_permission());
    assert!(!ConfigError::Invalid(Vec::new()).is_permission());
}

#[test]
fn values_of_states_and_signals_lie_within_the_limits_of_their_control() {
    let control = |more: &str| {
        let text = format!(
            "{NODE}\n[[modbus]]\nname = \"a\"\ntcp = \"192.0.2.7\"\n[[control]]\nid = \"/c\"\n\
             write = {{ modbus = \"a\", unit = 1, table = \"coil\", address = 0 }}\n\
             allow = {{ min = 0, max = 1 }}\n{more}"
        );
        let (_dir, path) = folder(&text);
        load_in(&path, &user()).map(|loaded| loaded.settings.controls[0].clone())
    };
    let good = control("states = { Normal = 1, Standby = 0 }\nsignals = { \"open it\" = 1 }");
    let good = good.expect("a control");
    let names: Vec<_> = good.states.iter().map(|(state, value)| (state.name(), *value)).collect();
    assert_eq!(names, [("Normal", Decimal::ONE), ("Standby", Decimal::ZERO)]);
    assert_eq!(good.signals.keys().collect::<Vec<_>>(), ["open it"]);
    for (bad, key) in [
        ("states = { Normal = 2 }", "control[0].states"),
        ("states = { normal = 1 }", "control[0].states"),
        ("states = { Normal = \"on\" }", "control[0].states"),
        ("signals = { \" x\" = 1 }", "control[0].signals"),
        ("signals = [1]", "control[0].signals"),
    ] {
        let problems = control(bad).expect_err(bad).to_string();
        assert!(problems.contains(key), "{bad}: {problems}");
    }
}
