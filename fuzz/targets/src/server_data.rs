//! What stands in the envelopes of SolarNetwork: import jobs, tokens, keys.

use crate::json;
use serde_json::Value;
use solarnode_agent::{refresh, solarnet::Answer, tokens, upload::import::http};

/// Everything that has this in it is secret where it is one.
const SECRET: &str = "hunter2";

pub(crate) fn check(bytes: &[u8]) {
    let Some(data) = json(bytes) else { return };

    for job in http::jobs(&data).into_iter().chain(http::job(&data)) {
        // It becomes a part of a path.
        assert!(
            http::status(&job.id)
                .path
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"?#%.".contains(&b))
        );
        assert_eq!(http::receipt(&serde_json::json!({ "jobId": job.id })), Some(job.id));
    }

    for token in tokens::calls::tokens(&data).into_iter().flatten() {
        // Read from what it is written as, a policy is the same.
        let policy = token.policy.stored();
        let again = solarnode_agent::policy::Policy::read(&policy.to_json());
        assert_eq!(again.map(|policy| policy.to_json()), Ok(policy.to_json()));
    }
    let secret = data["authSecret"].as_str().is_some_and(|secret| secret.contains(SECRET));
    let elsewhere = |data: &Value| {
        let mut others = data.clone();
        others.as_object_mut().map(|members| members.remove("authSecret"));
        others.to_string().contains(SECRET)
    };
    if let Some((token, hidden)) = tokens::calls::created(data.clone()) {
        let shown = format!("{token:?} {hidden:?}");
        assert!(!secret || elsewhere(&data) || !shown.contains(SECRET), "{shown}");
    }
    match refresh::calls::read_key(Answer { data: data.clone() }) {
        Ok(key) => {
            let digits = data["key"].as_str().expect("a key");
            assert_eq!(digits.parse().as_ref(), Ok(&key), "another key");
            assert!(digits.len() == 64 && !format!("{key:?}").contains(digits));
        }
        Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
    }
}
