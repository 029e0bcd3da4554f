use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    config::{
        self,
        settings::{Proof, RepositorySettings},
    },
    domain::NodeId,
};

/// Two buses, one of them with a control, and every section.
fn settings() -> Settings {
    let text = r#"
state_dir = "/s"
[node]
id = 1
[solarnet]
token = "site"
[flux]
[[modbus]]
name = "cabinet"
tcp = "192.0.2.1"
[[modbus.unit]]
id = 1
source = "/meter/1"
every = "10s"
property = [{ name = "watts", kind = "instantaneous", register = { table = "input", address = 0, type = "f32" } }]
[[modbus.unit]]
id = 2
source = "/meter/2"
every = "10s"
property = [{ name = "watts", kind = "instantaneous", register = { table = "input", address = 0, type = "f32" } }]
[[modbus]]
name = "roof"
tcp = "192.0.2.2"
[[modbus.unit]]
id = 1
source = "/inverter"
every = "10s"
property = [{ name = "watts", kind = "instantaneous", register = { table = "input", address = 0, type = "f32" } }]
[[control]]
id = "/relay"
write = { modbus = "roof", unit = 1, table = "coil", address = 0 }
allow = { min = 0, max = 1, every = "10s" }
"#;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, text).expect("written");
    config::load(&file).expect("a configuration").settings
}

type Edit = (&'static str, fn(&mut Settings), &'static [&'static str]);

const MINUTE: Duration = Duration::from_secs(61);

/// A change of each key, and what happens for it.
#[rustfmt::skip]
const EDITS: &[Edit] = &[
    ("node.id", |s| s.node = NodeId::try_from(2).expect("a node"), &["!node.id"]),
    ("state_dir", |s| s.state_dir = "/t".into(), &["!state_dir"]),
    ("control_socket", |s| s.control_socket = "/t".into(), &["!control_socket"]),
    ("user_url", |s| s.solarnet.user_url.push('x'), CLIENT),
    ("query_url", |s| s.solarnet.query_url.push('x'), CLIENT),
    ("in_url", |s| s.solarnet.in_url.push('x'), CLIENT_AND_NODE),
    ("sign_host", |s| s.solarnet.sign_host = Some("x".into()), CLIENT),
    ("ca_file", |s| s.solarnet.ca_file = Some("/ca".into()), CLIENT_FILES_AND_NODE),
    ("request_rate", |s| s.solarnet.requests_per_second = 7.0, CLIENT),
    ("timeout", |s| s.solarnet.timeout = MINUTE, CLIENT_FILES_AND_NODE),
    ("token", |s| s.solarnet.token = "other".parse().expect("a name"), &["refresher"]),
    ("repository", |s| s.repository = Some(RepositorySettings { url: "http://r".into(), token: "f".parse().expect("a name") }), &["files"]),
    ("every", |s| s.upload.every = Duration::from_secs(7), &["uploader"]),
    ("via", |s| s.upload.via = Via::Mqtt, &["uploader", "instructor", "refresher", "identity", "mqtt"]),
    ("proof", |s| s.upload.proof = Proof::Query, &["uploader", "refresher"]),
    ("in_flight", |s| s.upload.in_flight = 7, &["uploader", "instructor", "mqtt"]),
    ("fallback_after", |s| s.upload.fallback_after = None, &["uploader"]),
    ("renew", |s| s.identity.renew = true, &["instructor", "identity"]),
    ("renew_before", |s| s.identity.renew_before = MINUTE, &["identity"]),
    ("mqtt url", |s| s.mqtt.broker.url = "mqtts://b".parse().ok(), &["uploader", "instructor", "mqtt"]),
    ("server_name", |s| s.mqtt.broker.server_name = Some("b".into()), &["uploader", "instructor", "mqtt"]),
    ("broker's ca_file", |s| s.mqtt.broker.ca_file = Some("/ca".into()), &["uploader", "instructor", "mqtt"]),
    ("keep_alive", |s| s.mqtt.keep_alive = MINUTE, &["uploader", "instructor", "mqtt"]),
    ("retain", |s| s.flux.iter_mut().for_each(|flux| flux.retain = true), &["flux"]),
    ("no live feed", |s| s.flux = None, &["identity", "flux"]),
    ("limit", |s| s.queue.limit_bytes += 1, &["queue"]),
    ("at_risk", |s| s.queue.at_risk = MINUTE, &["queue"]),
    ("enabled", |s| s.instructions.enabled ^= true, &["instructor"]),
    ("poll_fastest", |s| s.instructions.poll_fastest = MINUTE, &["instructor"]),
    ("poll_slowest", |s| s.instructions.poll_slowest = MINUTE, &["instructor"]),
    ("max_age", |s| s.instructions.max_age = MINUTE, &["instructor"]),
    ("result_source", |s| s.instructions.result_source = Some("/r".parse().expect("a source")), &["instructor"]),
    ("pause", |s| s.modbus[0].pause = MINUTE, &["bus cabinet"]),
    ("connect_timeout", |s| s.modbus[0].connect_timeout = MINUTE, &["bus cabinet"]),
    ("link", |s| s.modbus[0].link = s.modbus[1].link.clone(), &["bus cabinet"]),
    ("unit", |s| s.modbus[0].units[1].every = MINUTE, &["bus cabinet"]),
    ("property", |s| Arc::make_mut(&mut s.modbus[0].units[0].properties)[0].tags.push("x".into()), &["bus cabinet"]),
    ("a unit less", |s| drop(s.modbus[0].units.pop()), &["bus cabinet"]),
    ("a unit of the bus with the control", |s| s.modbus[1].units[0].every = MINUTE, &["bus roof", "instructor"]),
    ("limits of the control", |s| s.controls[0].allow.max = 7.into(), &["bus roof", "instructor"]),
    ("no control", |s| s.controls.clear(), &["bus roof", "instructor"]),
    ("the control elsewhere", |s| s.controls[0].bus = "cabinet".into(), &["bus cabinet", "bus roof", "instructor"]),
    ("another name", |s| s.modbus[0].name = "cellar".into(), &["bus cabinet", "bus cellar"]),
    ("a bus less", |s| drop(s.modbus.remove(0)), &["bus cabinet"]),
];

const CLIENT: &[&str] = &["uploader", "instructor", "refresher"];
const CLIENT_AND_NODE: &[&str] =
    &["uploader", "instructor", "refresher", "identity", "mqtt", "flux"];
const CLIENT_FILES_AND_NODE: &[&str] =
    &["uploader", "instructor", "refresher", "files", "identity", "mqtt", "flux"];

fn touched(changes: &Changes) -> Vec<String> {
    let fixed = changes.fixed.iter().map(|key| format!("!{key}"));
    fixed.chain(changes.parts.keys().map(Part::to_string)).collect()
}

#[test]
fn each_key_touches_what_uses_it_and_nothing_else() {
    let old = settings();
    for (key, edit, expected) in EDITS {
        let mut new = old.clone();
        edit(&mut new);
        let changes = Changes::between(&old, &new);
        assert_eq!(touched(&changes), *expected, "{key}");
        assert_eq!(touched(&Changes::between(&new, &old)), *expected, "{key}, back again");
        let way_in = *key == "via";
        assert_eq!(changes.client, expected.starts_with(CLIENT) && !way_in, "{key}");
    }
}

#[test]
fn the_token_that_asks_is_the_uploaders_business_only_where_it_asks() {
    let edits: [fn(&mut Settings); 3] = [
        |s| s.audit.token = Some("audit".parse().expect("a name")),
        |s| s.audit.settle = MINUTE,
        |s| s.solarnet.token = "other".parse().expect("a name"),
    ];
    for (edit, otherwise) in edits.into_iter().zip([&[][..], &[], &["refresher"]]) {
        for proof in [Proof::Answer, Proof::Query] {
            let mut old = settings();
            old.upload.proof = proof;
            let mut new = old.clone();
            edit(&mut new);
            let asked = touched(&Changes::between(&old, &new)).contains(&"uploader".to_owned());
            assert_eq!(asked, proof == Proof::Query);
            if proof == Proof::Answer {
                assert_eq!(touched(&Changes::between(&old, &new)), otherwise);
            }
        }
    }
}

#[test]
fn whoever_needs_a_certificate_from_now_on_hears_that_there_is_none() {
    let mut by_broker = settings();
    by_broker.flux = None;
    by_broker.upload.via = Via::Mqtt;
    let with = |edit: fn(&mut Settings)| {
        let mut new = by_broker.clone();
        edit(&mut new);
        touched(&Changes::between(&by_broker, &new)).contains(&"identity".to_owned())
    };
    assert!(with(|s| s.mqtt.broker.url = "mqtt://192.0.2.1".parse().ok()));
    assert!(!with(|s| s.mqtt.broker.url = "mqtts://192.0.2.1".parse().ok()));
    assert!(!with(|s| s.flux = settings().flux), "it needs one already");
}

#[test]
fn the_brokers_session_begins_and_ends_with_its_way_in() {
    let by = |via| Settings { upload: Upload { via, ..settings().upload }, ..settings() };
    let session = |old, new| {
        let shown = Changes::between(&by(old), &by(new)).shown();
        shown.iter().map(ToString::to_string).find(|change| change.starts_with("mqtt"))
    };
    assert_eq!(session(Via::Bulk, Via::Mqtt).as_deref(), Some("mqtt started (upload.via)"));
    assert_eq!(session(Via::Mqtt, Via::Import).as_deref(), Some("mqtt stopped (upload.via)"));
    assert_eq!(session(Via::Import, Via::Bulk), None);
}

#[test]
fn a_bus_is_started_stopped_or_restarted_and_the_keys_say_why() {
    let old = settings();
    let mut new = old.clone();
    new.modbus[0].name = "cellar".to_owned();
    new.modbus[1].units[0].every = MINUTE;
    new.controls[0].tolerance = 1.into();
    let shown = Changes::between(&old, &new).shown();
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "bus cabinet stopped (modbus.cabinet)",
            "bus cellar started (modbus.cellar)",
            "bus roof restarted (unit /inverter, control /relay)",
            "instructor restarted (modbus.roof)",
        ]
    );
}

#[test]
fn the_order_of_buses_units_and_controls_means_nothing() {
    let old = settings();
    let mut new = old.clone();
    new.modbus.reverse();
    new.modbus.iter_mut().for_each(|bus| bus.units.reverse());
    assert!(Changes::between(&old, &new).is_empty());
}

proptest! {
    /// The settings are as small as they are so that any two lists of edits often meet.
    #[test]
    fn nothing_happens_exactly_where_nothing_differs(
        edits in prop::collection::vec((0..EDITS.len(), any::<bool>()), 0..6),
    ) {
        let (mut old, mut new) = (settings(), settings());
        for (edit, on_new) in edits {
            let side = if on_new { &mut new } else { &mut old };
            // Edits of a bus that an earlier one removed have nothing to work on.
            if side.modbus.len() == 2 && side.modbus[0].units.len() == 2 && !side.controls.is_empty() {
                EDITS[edit].1(side);
            }
        }
        let changes = Changes::between(&old, &new);
        prop_assert_eq!(changes.is_empty(), old == new);
        prop_assert!(Changes::between(&new, &new).is_empty());
        for bus in &new.modbus {
            let of = |s: &Settings| -> Vec<Control> {
                s.controls.iter().filter(|c| c.bus == bus.name).cloned().collect()
            };
            let same = old.modbus.contains(bus) && of(&old) == of(&new);
            prop_assert_eq!(changes.of(&Part::Bus(bus.name.clone())).is_none(), same);
        }
    }
}
