//! The files that the daemon reads back after a restart, damaged or not.
//!
//! Each is read as every kind of them. Whatever one takes, it writes again and reads as the same.

use std::{fs::DirBuilder, hint::black_box, os::unix::fs::DirBuilderExt, time::Duration};

use crate::{folder, write};
use solarnode_agent::{
    clock::{Core, Now, anchors, build_date},
    credential::Store,
    domain::BootId,
    files::journal,
    instruct::record::Record,
    tokens::Issue,
    upload::store,
};

/// Everything that has this in it is secret.
const SECRET: &str = "hunter2";

pub(crate) fn check(bytes: &[u8]) {
    // upload.json
    if let Ok(contents) = store::parse(bytes) {
        assert_eq!(store::parse(&store::render(&contents)).expect("our own"), contents);
    }
    // clock.json
    if let Ok(known) = anchors::parse(bytes) {
        assert_eq!(anchors::parse(&anchors::render(&known)).expect("our own"), known);
        let boot = known.keys().next().copied().unwrap_or(BootId([0; 16]));
        let mut core = Core::new(boot, known);
        let now = Now { system: build_date(), since_boot: Duration::from_secs(60) };
        black_box(core.stamp(now));
        core.learn_server(now, build_date());
        assert!(core.place(core.stamp(now)).is_some(), "what was learnt is known");
        black_box(core.trust(now));
    }
    // instructions/<id>.json
    if let Ok(record) = Record::from_json(bytes) {
        assert_eq!(Record::from_json(&record.to_json()).expect("our own"), record);
        assert!(record.told().is_none() || record.state.ending().is_some());
    }
    // files.jsonl
    let (ledger, facts, _) = journal::parse(bytes);
    let mut lines = Vec::new();
    for line in ledger.lines() {
        serde_json::to_writer(&mut lines, &line).expect("JSON");
        lines.push(b'\n');
    }
    let (again, written, damaged) = journal::parse(&lines);
    assert!(damaged == 0 && written <= facts.saturating_mul(2));
    assert_eq!(again.untold(), ledger.untold());
    assert_eq!(again.most_lines(), ledger.most_lines());
    // credentials/NAME.issue
    if let Some(issue) = Issue::from_bytes(bytes) {
        assert_eq!(Issue::from_bytes(&issue.to_bytes()), Some(issue));
    }
    // credentials/NAME.json, and the same as systemd passes it
    let state = folder();
    let (credentials, passed) = (state.path().join("credentials"), state.path().join("passed"));
    for folder in [&credentials, &passed] {
        DirBuilder::new().mode(0o700).create(folder).expect("a folder");
    }
    write(&credentials.join("site.json"), bytes);
    write(&passed.join("passed"), bytes);
    let (store, day) = (Store::new(state.path(), Some(passed)), build_date().date_naive());
    for name in ["site", "passed"] {
        let loaded = store.load(&name.parse().expect("a name"), day);
        let shown = format!("{loaded:?}");
        let public = loaded.as_ref().ok().and_then(Option::as_ref);
        let public =
            public.is_some_and(|(credential, _)| credential.token_id.as_str().contains(SECRET));
        assert!(public || !shown.contains(SECRET), "{shown}");
        if let Err(error) = &loaded {
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
    }
}
