//! The configured token's policy against what the configuration needs.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    cli::daemon::token_in_use,
    config::{Problem, Settings, Severity, problem_at, settings::Proof},
    credential::Store,
    domain::TokenName,
    needs::{Needs, stops},
    policy::{Member, Refused},
    refresh::calls::POLICY_PATH,
};

/// How long before a token stops `check` begins to say so.
const SOON: TimeDelta = TimeDelta::days(30);

/// What is known here, without asking anybody, of the configured tokens' policies against what the
/// configuration needs: of the one that works, and of the one that proves, where the daemon has one for that.
pub(super) fn problems(path: &Path, settings: &Settings, now: DateTime<Utc>) -> Vec<Problem> {
    let needs = Needs::of(settings);
    let worker = Wanted {
        key: "solarnet.token",
        name: &settings.solarnet.token,
        needs: &needs,
        create: "token create --for-config".to_owned(),
    };
    let mut problems = Vec::new();
    if needs.is_any() {
        problems.extend(of(path, settings, &worker, now));
    }
    let asks = settings.upload.proof == Proof::Query;
    if let Some(name) = needs.audit_token.as_ref().filter(|_| asks) {
        let (key, needs) = ("audit.token", &needs.of_audit());
        let create = format!("token create {name} --for-config --type data");
        problems.extend(of(path, settings, &Wanted { key, name, needs, create }, now));
    }
    problems
}

/// A token that the configuration names.
struct Wanted<'a> {
    key: &'static str,
    name: &'a TokenName,
    needs: &'a Needs,
    /// The command that issues it.
    create: String,
}

/// A store that is not ours to read says nothing.
fn of(path: &Path, settings: &Settings, wanted: &Wanted<'_>, now: DateTime<Utc>) -> Vec<Problem> {
    let Wanted { key, name, needs, create } = wanted;
    let store = Store::new(&settings.state_dir, None);
    let warning =
        |found: String, expected: String| problem_at(path, key, found, expected, Severity::Warning);
    let credential = match store.load_stored(name) {
        Ok(Some(credential)) => credential,
        Ok(None) if token_in_use(&settings.control_socket, name).is_some() => return Vec::new(),
        // Without its folder this is no device, but where its configuration is written.
        Ok(None) if settings.state_dir.is_dir() => {
            let expected = format!(
                "a token on this device, or one that systemd passes: `solarnode-agent {create} --as MANAGER` issues \
                 one, `solarnode-agent token import {name} --token-id ID` takes one"
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
            format!(
                "a policy that allows it; `solarnode-agent token check {name}` asks SolarNetwork"
            ),
        )
    };
    let stops = stops(&credential, Some(&policy), Some(needs)).into_iter();
    let soon = stops.filter(|stop| stop.at < now + SOON).map(|stop| {
        let expected = format!("a token that goes on: see `solarnode-agent token check {name}`");
        warning(format!("\"{name}\": on {}, {}", stop.at.date_naive(), stop.because), expected)
    });
    let missing = needs.missing(&policy).into_iter();
    // What stands against renewing the key is among what stops.
    let missing = missing.filter(|refused| {
        refused.member != Member::RefreshAllowed && refused.wanted != POLICY_PATH
    });
    missing.map(lacks).chain(soon).collect()
}
