//! How many datum of a source lie in an hour, and sums of hashes that tell whether they are the same. Pure.
//!
//! A datum is hashed as SolarQuery shows it: the properties of all groups side by side, sorted by name,
//! numbers as the shortest decimal, tags as a set. What the server leaves out or writes in another way is
//! left out or written alike on both sides: empty texts, the zeros at the end of `230.50`, the order of
//! members and tags, and which group a property is of. A property whose name SolarQuery uses for a member
//! of its own (`created`, …) cannot be told from it, and is not compared.
//!
//! The hashes of an hour are added up, so the order in which they come does not matter. They guard
//! against accidents and not against somebody who forges datum: the first 64 bits of SHA-256.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::domain::{Samples, number};

/// Milliseconds of an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// SolarQuery's own members of a row.
const OWN_MEMBERS: [&str; 6] = ["created", "nodeId", "sourceId", "localDate", "localTime", "tags"];

/// What is comparable of a datum: its properties and its tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content<'a> {
    properties: BTreeMap<&'a str, Cow<'a, str>>,
    tags: BTreeSet<&'a str>,
}

impl<'a> Content<'a> {
    /// Of a datum that was sent.
    #[must_use]
    pub fn sent(samples: &'a Samples) -> Self {
        let numbers = samples.instantaneous.iter().chain(&samples.accumulating);
        let numbers = numbers.map(|(name, value)| (name.as_str(), number::plain(*value).into()));
        let texts = samples.status.iter().map(|(name, text)| (name.as_str(), text.into()));
        Self::of(numbers.chain(texts), samples.tags.iter().map(String::as_str))
    }

    /// Of a row of SolarQuery's.
    #[must_use]
    pub fn shown(row: &'a Map<String, Value>) -> Self {
        let text = |value: &'a Value| match value {
            Value::String(text) => Some(text.into()),
            Value::Number(number) => Some(plain(&number.to_string()).into()),
            Value::Bool(flag) => Some(flag.to_string().into()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let properties = row.iter().filter_map(|(name, value)| Some((name.as_str(), text(value)?)));
        let tags = row.get("tags").and_then(Value::as_array).into_iter().flatten();
        Self::of(properties, tags.filter_map(Value::as_str))
    }

    fn of(
        properties: impl Iterator<Item = (&'a str, Cow<'a, str>)>,
        tags: impl Iterator<Item = &'a str>,
    ) -> Self {
        let ours =
            |(name, value): &(&str, Cow<'_, str>)| !value.is_empty() && !OWN_MEMBERS.contains(name);
        Self { properties: properties.filter(ours).collect(), tags: tags.collect() }
    }
}

/// A number of the server's as [`number::plain`] writes it; one beyond a decimal stays as it is.
fn plain(text: &str) -> String {
    let decimal = text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(text));
    decimal.map_or_else(|_| text.to_owned(), number::plain)
}

/// The datum of one source within one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The sum of the hashes of their times.
    pub times: u64,
    /// The sum of the hashes of their times and contents.
    pub contents: u64,
}

impl Tally {
    /// One datum.
    #[must_use]
    pub fn one(unix_ms: i64, content: &Content<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(unix_ms.to_le_bytes());
        let times = first_bytes(hash.clone().finalize().as_slice());
        // Lengths stand before texts, so that no two contents are one run of bytes.
        let mut put = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        for (name, value) in &content.properties {
            put(name);
            put(value);
        }
        put("");
        content.tags.iter().for_each(|tag| put(tag));
        Self { count: 1, times, contents: first_bytes(hash.finalize().as_slice()) }
    }

    /// Adds the datum of another tally.
    pub fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.times = self.times.wrapping_add(other.times);
        self.contents = self.contents.wrapping_add(other.contents);
    }
}

fn first_bytes(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

impl From<(u64, u64, u64)> for Tally {
    fn from((count, times, contents): (u64, u64, u64)) -> Self {
        Self { count, times, contents }
    }
}

impl From<Tally> for (u64, u64, u64) {
    fn from(tally: Tally) -> Self {
        (tally.count, tally.times, tally.contents)
    }
}

/// The hour that a time lies in: the number of hours since 1970.
#[must_use]
pub fn hour_of(unix_ms: i64) -> i64 {
    unix_ms.div_euclid(HOUR_MS)
}

/// Something for each source and hour.
pub type Hours<T> = BTreeMap<String, BTreeMap<i64, T>>;

/// Tallies by source and hour.
pub type Tallies = Hours<Tally>;

/// Adds one datum to the tallies.
pub fn add(tallies: &mut Tallies, source: &str, unix_ms: i64, content: &Content<'_>) {
    let hours = match tallies.get_mut(source) {
        Some(hours) => hours,
        None => tallies.entry(source.to_owned()).or_default(),
    };
    hours.entry(hour_of(unix_ms)).or_default().add(Tally::one(unix_ms, content));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::queue::record;

    /// The row that SolarQuery makes of samples, its own way of writing included.
    fn row(samples: &Samples) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("created".to_owned(), json!("2026-11-22 10:00:00.25Z"));
        row.insert("nodeId".to_owned(), json!(123));
        for (name, value) in samples.status.iter().rev() {
            row.entry(name.clone()).or_insert_with(|| json!(value));
        }
        for (name, value) in samples.accumulating.iter().chain(&samples.instantaneous).rev() {
            let number = serde_json::from_str(&value.to_string()).expect("a number");
            row.entry(name.clone()).or_insert(number);
        }
        row.insert("tags".to_owned(), samples.tags.iter().rev().cloned().collect());
        row
    }

    #[test]
    fn what_the_server_writes_in_another_way_is_the_same_content() {
        let samples = Samples {
            instantaneous: vec![("watts".into(), "230.50".parse().expect("a decimal"))],
            accumulating: vec![("wattHours".into(), "1200".parse().expect("a decimal"))],
            status: vec![("opState".into(), "1".into()), ("note".into(), String::new())],
            tags: vec!["b".into(), "a".into(), "b".into()],
        };
        let sent = Content::sent(&samples);
        for text in [
            r#"{"created":"x","watts":230.5,"wattHours":1200,"opState":"1","tags":["a","b"]}"#,
            r#"{"wattHours":1.2E+3,"tags":["b","a"],"opState":"1","watts":230.500,"gone":null}"#,
            r#"{"wattHours":1200.0,"tags":["b","a"],"opState":"1","watts":2305e-1,"note":""}"#,
        ] {
            let row: Map<String, Value> = serde_json::from_str(text).expect("JSON");
            assert_eq!(Content::shown(&row), sent, "{text}");
        }
        for text in [
            r#"{"watts":230.51,"wattHours":1200,"opState":"1","tags":["a","b"]}"#,
            r#"{"wattHours":1200,"opState":"1","tags":["a","b"]}"#,
            r#"{"watts":230.5,"wattHours":1200,"opState":"2","tags":["a","b"]}"#,
            r#"{"watts":230.5,"wattHours":1200,"opState":"1"}"#,
            r#"{"watts":230.5,"wattHours":1200,"opState":"1","more":1,"tags":["a","b"]}"#,
        ] {
            let row: Map<String, Value> = serde_json::from_str(text).expect("JSON");
            let (ours, theirs) = (Tally::one(5, &sent), Tally::one(5, &Content::shown(&row)));
            assert_eq!(ours.times, theirs.times);
            assert_ne!(ours.contents, theirs.contents, "{text}");
        }
    }

    proptest! {
        /// Whatever a datum holds, what SolarQuery shows of it has the same hash.
        #[test]
        fn what_is_sent_is_what_is_shown(mut datum in record::tests::datum()) {
            // One name stands in one group, as the configuration has it.
            let mut seen = BTreeSet::new();
            let samples = &mut datum.samples;
            samples.instantaneous.retain(|(name, _)| seen.insert(name.clone()));
            samples.accumulating.retain(|(name, _)| seen.insert(name.clone()));
            samples.status.retain(|(name, _)| seen.insert(name.clone()));
            let row = row(samples);
            let (sent, shown) = (Content::sent(samples), Content::shown(&row));
            prop_assert_eq!(Tally::one(7, &sent), Tally::one(7, &shown));
        }

        /// The order of datum does not matter, and one that is missing or twice there does.
        #[test]
        fn tallies_do_not_depend_on_the_order(times in prop::collection::vec(0i64..9_000_000, 1..40), turn in 0usize..40) {
            let tally = |times: &[i64]| {
                let mut tallies = Tallies::new();
                times.iter().for_each(|ms| add(&mut tallies, "/m", *ms, &Content::default()));
                tallies
            };
            let mut turned = times.clone();
            turned.rotate_left(turn % times.len());
            prop_assert_eq!(tally(&times), tally(&turned));
            prop_assert_ne!(tally(&times), tally(&times[1..]));
            turned.push(times[0]);
            prop_assert_ne!(tally(&times), tally(&turned));
        }
    }
}
