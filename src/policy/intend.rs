//! A policy as somebody means it. Pure.
//!
//! The server's reader turns most slips into *no restriction*, without a word. So what is about to be
//! sent is read strictly here, and whatever the server would drop, misread or understand in another
//! way than it looks is a [`Slip`] that names the member and says why. What passes is read by the
//! server as it was meant.

use std::fmt;

use serde_json::Value;

use super::{Aggregation, Member, Policy, Precision, evaluate::instant};

/// Something that would not mean to the server what it seems to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slip {
    /// The member's name, as it was written.
    pub member: String,
    /// What the server would make of it, and what would be right.
    pub why: String,
}

impl fmt::Display for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.member, self.why)
    }
}

/// Reads a policy's JSON as it is meant.
///
/// # Errors
///
/// With everything that the server would not read like that.
pub fn intend(value: &Value, now_ms: i64) -> Result<Policy, Vec<Slip>> {
    let Value::Object(members) = value else {
        let why = "a policy is a JSON object; anything else means no restriction at all".to_owned();
        return Err(vec![Slip { member: "policy".to_owned(), why }]);
    };
    let mut policy = Policy::default();
    let mut slips = Vec::new();
    for (name, value) in members {
        let taken = match Member::named(name) {
            Some(member) => take(&mut policy, member, value),
            None => Err(unknown(name)),
        };
        if let Err(why) = taken {
            slips.push(Slip { member: name.clone(), why });
        }
    }
    slips.extend(self::slips(&policy, now_ms));
    if slips.is_empty() { Ok(policy) } else { Err(slips) }
}

fn unknown(name: &str) -> String {
    let near = |member: &Member| strsim::damerau_levenshtein(name, member.name());
    let nearest = Member::ALL.into_iter().min_by_key(near).filter(|member| near(member) <= 3);
    let hint = nearest.map(|member| format!("; did you mean `{}`?", member.name()));
    format!("the server does not know it and would drop it{}", hint.unwrap_or_default())
}

fn take(policy: &mut Policy, member: Member, value: &Value) -> Result<(), String> {
    match member {
        Member::NodeIds => {
            let id = |entry: &Value| entry.as_i64().filter(|id| *id > 0).map(Some);
            policy.node_ids = list(value, id, "a node ID is a whole number above zero")?;
        }
        Member::SourceIds => policy.source_ids = texts(value)?,
        Member::MinAggregation => policy.min_aggregation = Some(level(value)?),
        Member::Aggregations => policy.aggregations = words(value, level)?,
        Member::MinLocationPrecision => policy.min_location_precision = Some(precision(value)?),
        Member::LocationPrecisions => policy.location_precisions = words(value, precision)?,
        Member::NodeMetadataPaths => policy.node_metadata_paths = texts(value)?,
        Member::UserMetadataPaths => policy.user_metadata_paths = texts(value)?,
        Member::ApiPaths => policy.api_paths = texts(value)?,
        Member::NotAfter => {
            let instant = value.as_i64().filter(|at| *at > 0).ok_or(
                "the server would drop it, and the token would never end: it takes a whole number of \
                 milliseconds since 1970",
            )?;
            policy.not_after = Some(instant);
        }
        Member::RefreshAllowed => {
            let allowed = value.as_bool().ok_or(
                "the server would drop it, and renewing would be allowed: it takes true or false",
            )?;
            policy.refresh_allowed = Some(allowed);
        }
    }
    Ok(())
}

fn list<T>(
    value: &Value,
    read: impl Fn(&Value) -> Option<T>,
    expected: &str,
) -> Result<Vec<T>, String> {
    let entries = value.as_array().ok_or(
        "the server would drop it, which means no restriction: it takes a list in brackets",
    )?;
    if entries.is_empty() {
        return Err("an empty list means no restriction to the server: leave it out".to_owned());
    }
    let read = |entry: &Value| read(entry).ok_or_else(|| format!("{expected}, not {entry}"));
    entries.iter().map(read).collect()
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    list(value, |entry| entry.as_str().map(str::to_owned), "an entry is a text")
}

fn words<T>(value: &Value, word: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    let entries = list(value, |entry| Some(entry.clone()), "")?;
    entries.iter().map(word).collect()
}

fn level(value: &Value) -> Result<Aggregation, String> {
    let read = value.as_str().filter(|text| !text.is_empty()).and_then(Aggregation::named);
    read.ok_or_else(|| not_a_word(value, Aggregation::ALL.iter().map(|level| level.name())))
}

fn precision(value: &Value) -> Result<Precision, String> {
    let read = value.as_str().and_then(Precision::named);
    read.ok_or_else(|| not_a_word(value, Precision::ALL.iter().map(|precision| precision.name())))
}

fn not_a_word(value: &Value, words: impl Iterator<Item = &'static str>) -> String {
    let words: Vec<&str> = words.collect();
    let same = |word: &&&str| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(word));
    let hint = words.iter().find(same).map(|word| format!("; names are case-sensitive: {word}"));
    let hint = hint.unwrap_or_else(|| format!("; it knows {}", words.join(", ")));
    format!("the server does not know {value} and would drop it{hint}")
}

/// What is wrong with a policy whose members are each of the right type.
#[must_use]
pub fn slips(policy: &Policy, now_ms: i64) -> Vec<Slip> {
    let mut slips = Vec::new();
    let mut slip = |member: Member, why: String| {
        slips.push(Slip { member: member.name().to_owned(), why });
    };
    if policy.min_aggregation.is_some() && !policy.aggregations.is_empty() {
        slip(
            Member::Aggregations,
            "the server drops it where `minAggregation` is given: leave one of them out".to_owned(),
        );
    }
    if policy.min_location_precision.is_some() && !policy.location_precisions.is_empty() {
        slip(
            Member::LocationPrecisions,
            "the server drops it where `minLocationPrecision` is given: leave one of them out"
                .to_owned(),
        );
    }
    if let Some(end) = policy.not_after.filter(|end| *end <= now_ms) {
        let hint = if end < 100_000_000_000 { "; it counts milliseconds, not seconds" } else { "" };
        slip(
            Member::NotAfter,
            format!("{} has passed, so the token would be of no use{hint}", instant(end)),
        );
    }
    for entry in &policy.source_ids {
        if let Some(why) = blank(entry) {
            slip(Member::SourceIds, why);
        }
    }
    for (member, paths) in [
        (Member::NodeMetadataPaths, &policy.node_metadata_paths),
        (Member::UserMetadataPaths, &policy.user_metadata_paths),
    ] {
        for path in paths {
            let root = path.split('/').nth(1).filter(|_| path.starts_with('/'));
            if !root
                .is_some_and(|root| root.contains(['*', '?', '{']) || matches!(root, "m" | "pm"))
            {
                slip(member, format!("`{path}` matches nothing: paths begin with /m/ or /pm/"));
            }
        }
    }
    for why in api_path_slips(&policy.api_paths) {
        slip(Member::ApiPaths, why);
    }
    slips
}

fn blank(entry: &str) -> Option<String> {
    match entry {
        _ if entry.trim().is_empty() => Some("an entry is blank and matches nothing".to_owned()),
        _ if entry.trim() != entry => {
            Some(format!("`{entry}` has blanks at its ends, which count: it would match nothing"))
        }
        _ => None,
    }
}

fn api_path_slips(entries: &[String]) -> Vec<String> {
    let mut slips = Vec::new();
    for entry in entries {
        let pattern = entry.strip_prefix('!').unwrap_or(entry);
        if let Some(why) = blank(pattern) {
            slips.push(why);
        } else if !pattern.starts_with('/') {
            slips.push(format!("`{entry}` matches no call: paths begin with /"));
        } else if pattern.starts_with("/api/v1/sec") {
            let right = pattern.trim_start_matches("/api/v1/sec");
            slips.push(format!(
                "`{entry}` matches no call: the server cuts /api/v1/sec off before it compares; \
                 write {right}"
            ));
        } else if ["/solaruser", "/solarquery", "/solarin"].iter().any(|a| pattern.starts_with(a)) {
            slips.push(format!(
                "`{entry}` matches no call: the server cuts the application's name and /api/v1/sec \
                 off before it compares"
            ));
        } else if pattern.contains("://") || pattern.contains('=') || pattern.contains('&') {
            slips.push(format!("`{entry}` matches no call: neither host nor query are part of it"));
        }
    }
    let inverted = entries.iter().filter(|entry| entry.starts_with('!')).count();
    if inverted > 0 && entries.len() > 1 {
        slips.push(
            "entries are alternatives: one with `!` beside others allows all that it does not \
             name, so it stands alone or not at all"
                .to_owned(),
        );
    }
    slips
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_750_000_000_000;

    #[test]
    fn what_the_server_would_drop_or_misread_is_named_with_the_reason() {
        #[rustfmt::skip]
        let cases = [
            (json!([]),                                       "policy",       "no restriction"),
            (json!({"nodeIds": []}),                          "nodeIds",      "empty list"),
            (json!({"nodeIds": null}),                        "nodeIds",      "takes a list"),
            (json!({"nodeIds": 5}),                           "nodeIds",      "takes a list"),
            (json!({"nodeIds": ["5"]}),                       "nodeIds",      "whole number"),
            (json!({"nodeIds": [1.5]}),                       "nodeIds",      "whole number"),
            (json!({"nodeIds": [0]}),                         "nodeIds",      "above zero"),
            (json!({"sourceIds": "/a"}),                      "sourceIds",    "no restriction"),
            (json!({"sourceIds": [" /a"]}),                   "sourceIds",    "blanks"),
            (json!({"sourceIds": [1]}),                       "sourceIds",    "a text"),
            (json!({"minAggregation": "hour"}),               "minAggregation", "case-sensitive: Hour"),
            (json!({"minAggregation": ""}),                   "minAggregation", "would drop"),
            (json!({"minAggregation": null}),                 "minAggregation", "would drop"),
            (json!({"aggregations": []}),                     "aggregations", "empty list"),
            (json!({"aggregations": ["Hour", "x"]}),          "aggregations", "does not know"),
            (json!({"minAggregation": "Day", "aggregations": ["Day"]}), "aggregations", "drops it"),
            (json!({"locationPrecisions": []}),               "locationPrecisions", "empty list"),
            (json!({"minLocationPrecision": null}),           "minLocationPrecision", "would drop"),
            (json!({"minLocationPrecision": "Block", "locationPrecisions": ["Block"]}), "locationPrecisions", "drops it"),
            (json!({"notAfter": "2030-01-01"}),               "notAfter",     "never end"),
            (json!({"notAfter": 0}),                          "notAfter",     "never end"),
            (json!({"notAfter": 1.9e12}),                     "notAfter",     "never end"),
            (json!({"notAfter": 1767225600}),                 "notAfter",     "not seconds"),
            (json!({"notAfter": NOW}),                        "notAfter",     "has passed"),
            (json!({"refreshAllowed": "false"}),              "refreshAllowed", "true or false"),
            (json!({"apiPaths": ["/api/v1/sec/instr/**"]}),   "apiPaths",     "write /instr/**"),
            (json!({"apiPaths": ["/solarquery/api/v1/sec/nodes"]}), "apiPaths", "application"),
            (json!({"apiPaths": ["nodes"]}),                  "apiPaths",     "begin with /"),
            (json!({"apiPaths": [""]}),                       "apiPaths",     "blank"),
            (json!({"apiPaths": ["/datum/list?nodeId=1"]}),   "apiPaths",     "query"),
            (json!({"apiPaths": ["/datum/**", "!/instr/**"]}), "apiPaths",    "alternatives"),
            (json!({"apiPaths": ["!/a/**", "!/b/**"]}),       "apiPaths",     "alternatives"),
            (json!({"nodeMetadataPaths": ["m/a"]}),           "nodeMetadataPaths", "/pm/"),
            (json!({"userMetadataPaths": ["/q/**"]}),         "userMetadataPaths", "/pm/"),
            (json!({"sourceId": ["/a"]}),                     "sourceId",     "`sourceIds`"),
            (json!({"extra": {"nodeIds": [1]}}),              "extra",        "does not know"),
        ];
        for (policy, member, why) in cases {
            let slips = intend(&policy, NOW).expect_err("a slip");
            assert_eq!(slips.len(), 1, "{policy}: {slips:?}");
            assert_eq!(slips[0].member, member, "{policy}");
            assert!(slips[0].why.contains(why), "{policy}: {}", slips[0]);
        }
    }

    #[test]
    fn every_slip_of_a_policy_is_named_at_once() {
        let slips = intend(&json!({"nodeIds": [], "notAfter": 0, "x": 1}), NOW).expect_err("slips");
        assert_eq!(slips.len(), 3, "{slips:?}");
    }

    #[test]
    fn a_policy_with_every_member_passes() {
        let all = json!({
            "nodeIds": [1, 2], "sourceIds": ["/a/**"], "minAggregation": "Hour",
            "minLocationPrecision": "Block", "nodeMetadataPaths": ["/m/**"],
            "userMetadataPaths": ["/pm/a/*"], "apiPaths": ["!/user/**"], "notAfter": NOW + 1,
            "refreshAllowed": false,
        });
        assert_eq!(intend(&all, NOW).expect("no slip").to_json(), all);
        let others = json!({"aggregations": ["Hour", "d"], "locationPrecisions": ["Block"]});
        assert_eq!(intend(&others, NOW).expect("no slip").to_json()["aggregations"][1], "Day");
    }

    fn anything() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop::sample::select(vec!["", "Hour", "hour", "/a/**", "!/a", "Block", "/m/a", " "])
                .prop_map(Value::from),
        ];
        let list = prop::collection::vec(scalar.clone(), 0..3).prop_map(Value::from);
        prop_oneof![scalar, list]
    }

    fn policies() -> impl Strategy<Value = Value> {
        let name = prop::sample::select(Member::ALL.to_vec()).prop_map(|member| member.name());
        prop::collection::btree_map(name, anything(), 0..5)
            .prop_map(|members| members.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())
    }

    proptest! {
        /// What passes is read by the server exactly as it was meant.
        #[test]
        fn what_passes_is_read_as_it_was_meant(policy in policies()) {
            if let Ok(meant) = intend(&policy, NOW) {
                let read = Policy::read(&meant.to_json());
                let found = read.map(|read| super::super::difference::difference(&meant, &read));
                prop_assert_eq!(found, Ok(vec![]));
            }
        }
    }
}
