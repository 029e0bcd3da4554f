//! The stored certificate against what the configuration needs of one.

use std::path::Path;

use chrono::{DateTime, Utc};

use crate::{
    cli::daemon::certificate_in_use,
    config::{Problem, Settings, Severity, problem_at, settings::Via},
    credential::{
        Store,
        store::{StoreError, identity::Slot},
    },
    domain::Chain,
    identity::{
        check::judge,
        keeper::{LoadError, load},
    },
    needs,
};

/// What is known here, without asking anybody. A store that is not ours to read says nothing; and without a state
/// folder this is no device, but where its configuration is written.
pub(super) fn problems(path: &Path, settings: &Settings, now: DateTime<Utc>) -> Vec<Problem> {
    if !needs::certificate(settings) || !settings.state_dir.is_dir() {
        return Vec::new();
    }
    let (key, value) = match settings.upload.via {
        Via::Bulk => ("upload.via", "\"bulk\""),
        Via::Mqtt => ("upload.via", "\"mqtt\""),
        Via::Import => ("flux", "a live feed"),
    };
    let warning = |found: String, expected: &str| {
        problem_at(path, key, found, expected.to_owned(), Severity::Warning)
    };
    let another = "a certificate that fits: `solarnode-agent identity import`";
    match load(&Store::new(&settings.state_dir, None), Slot::Current) {
        Ok(None) if certificate_in_use(&settings.control_socket).is_some() => Vec::new(),
        Ok(None) => vec![warning(
            format!("{value}, and no certificate is stored"),
            "the node's certificate: `solarnode-agent identity import` installs it, or systemd passes it",
        )],
        Ok(Some((certificate, _))) => {
            let mut complaints = judge(&certificate, settings.node, now);
            complaints.retain(|complaint| !complaint.is_remark());
            let found = complaints.iter().map(|complaint| format!("{value}, and {complaint}"));
            found.map(|found| warning(found, another)).collect()
        }
        Err(LoadError::Store(StoreError::NotAllowed { .. })) => Vec::new(),
        Err(error) => vec![warning(format!("{value}, and {}", Chain(&error)), another)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_certificate_that_is_needed_and_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, state) = (dir.path().join("agent.toml"), dir.path().join("state"));
        let found = |more: &str| {
            let text = format!("state_dir = {state:?}\n[node]\nid = 1\n{more}");
            std::fs::write(&path, text).expect("written");
            let settings = config::load(&path).expect("a configuration").settings;
            let problems = problems(&path, &settings, Utc::now());
            problems.iter().map(|problem| problem.found.clone()).collect::<Vec<_>>()
        };
        let bulk = "[upload]\nvia = \"bulk\"\n";
        assert_eq!(found(bulk), [""; 0], "no device");
        std::fs::create_dir(&state).expect("made");
        assert_eq!(found(bulk), ["\"bulk\", and no certificate is stored"]);
        assert_eq!(found(""), [""; 0]);
        let plain = "[upload]\nvia = \"mqtt\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1883\"\n";
        assert_eq!(found(plain), [""; 0], "a broker without TLS is shown none");
        Store::new(&state, None).save_identity(Slot::Current, b"hunter2").expect("saved");
        let damaged = found(bulk).join("");
        assert!(damaged.contains("it is damaged") && !damaged.contains("hunter2"), "{damaged}");
    }
}
