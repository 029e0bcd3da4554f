//! The configured token's policy against what the configuration needs.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    config::{Problem, Settings, Severity},
    credential::Store,
    needs::{Needs, stops},
    policy::{Member, Refused},
    refresh::calls::POLICY_PATH,
};

/// How long before a token stops `check` begins to say so.
const SOON: TimeDelta = TimeDelta::days(30);

/// What is known here, without asking anybody, of the configured token's policy against what the
/// configuration needs. A store that is not ours to read says nothing.
pub(super) fn problems(path: &Path, settings: &Settings, now: DateTime<Utc>) -> Vec<Problem> {
    let (store, name) = (Store::new(&settings.state_dir, None), &settings.solarnet.token);
    let warning = |found: String, expected: String| Problem {
        file: path.display().to_string(),
        line: None,
        key: "solarnet.token".to_owned(),
        found,
        expected,
        severity: Severity::Warning,
    };
    let credential = match store.load_stored(name) {
        Ok(Some(credential)) => credential,
        // Without its folder this is no device, but where its configuration is written.
        Ok(None) if settings.state_dir.is_dir() => {
            let expected = format!(
                "a token on this device: `solarnode-agent token create --for-config --as MANAGER` \
                 issues one, `solarnode-agent token import {name} --token-id ID` takes one"
            );
            return vec![warning(format!("\"{name}\", which is not there"), expected)];
        }
        Ok(None) | Err(_) => return Vec::new(),
    };
    let Ok(Some(known)) = store.remembered(name, &credential.token_id) else { return Vec::new() };
    let policy = known.policy();
    let seen = known.seen.date_naive();
    let lacks = |refused: Refused| {
        warning(
            format!("\"{name}\" ({}): {refused} (as of {seen})", credential.token_id),
            "a policy that allows it; `solarnode-agent token check` asks SolarNetwork".to_owned(),
        )
    };
    let stops = stops(&credential, Some(&policy)).into_iter();
    let soon = stops.filter(|stop| stop.at < now + SOON).map(|stop| {
        let expected = "a token that goes on: see `solarnode-agent token check`".to_owned();
        warning(format!("\"{name}\": on {}, {}", stop.at.date_naive(), stop.because), expected)
    });
    let missing = Needs::of(settings).missing(&policy).into_iter();
    // What stands against renewing the key is among what stops.
    let missing = missing.filter(|refused| {
        refused.member != Member::RefreshAllowed && refused.wanted != POLICY_PATH
    });
    missing.map(lacks).chain(soon).collect()
}
