//! What SolarQuery shows of some sources and hours: the call, its pages, and what a token's policy makes
//! of them.
//!
//! Sources are asked for together, [`SOURCES`] at a time, in slices of whole hours, [`PAGE`] rows a page.
//! A policy narrows without a word: sources that it hides are left out, raw datum are raised to aggregates.
//! So a source of which nothing is shown is asked for alone (hidden, that is refused), and rows that look
//! like aggregates are not taken for datum.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashSet},
};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    compare::Shown,
    days::Book,
    tally::{self, Content, HOUR_MS, Tallies},
};
use crate::{
    credential::Credential,
    domain::NodeId,
    policy::Aggregation,
    solarnet::{Answer, Application, Call, CallAs, CallError, Cause, Method, Priority},
};

/// Path of the call below SolarQuery's base.
///
/// # Source
///
/// SolarQuery's `DatumController`.
const PATH: &str = "/api/v1/sec/datum/list";

/// The call as a token's policy spells it in `apiPaths`.
pub const API_PATHS: [&str; 1] = ["/datum/list"];

/// Rows of a page. SolarQuery gives no more, and fewer where it is configured so.
pub const PAGE: u64 = 1000;

/// Where an answer is too long to be read, the next page has so many times fewer rows.
pub const SMALLER: u64 = 10;

/// Sources of one call: their names fit into an address.
pub const SOURCES: usize = 40;

/// Rows that are expected in one slice: a server counts through all pages before the one it is asked for.
const SLICE_ROWS: u64 = 20_000;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The node.
    pub node: NodeId,
    /// What was accepted, which says of which sources and hours to ask.
    pub book: &'a Book,
    /// The level to ask for, where the token's policy allows no raw datum.
    pub level: Option<Aggregation>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server did not answer, or refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The token sees none of the sources.
    #[error(
        "the token may not see node {node}, or none of its sources: its policy needs `nodeIds` and `sourceIds` of this configuration (`token policy --for-config --type data`)"
    )]
    NothingVisible {
        /// The node.
        node: NodeId,
    },
    /// The rows are not those that were sent.
    #[error(
        "SolarQuery shows aggregates to this token, not datum: its policy has `minAggregation`; use a token without it, or tell this device the policy (`token check NAME --as MANAGER`)"
    )]
    Aggregated,
}

/// Asks for one datum of a node: a call that shows whether the token may.
#[must_use]
pub fn one(node: NodeId) -> Call {
    let query = [("nodeId", node.to_string()), ("max", "1".to_owned())];
    Call {
        application: Application::Query,
        priority: Priority::Urgent,
        method: Method::Get,
        path: PATH.to_owned(),
        query: query.map(|(name, value)| (name.to_owned(), value)).into(),
        body: None,
    }
}

/// Asks for a page of some sources' datum, from the first minute on and before the second: see [`minute_text`].
#[must_use]
pub fn page(
    node: NodeId,
    sources: &[impl Borrow<str>],
    (from, to): (String, String),
    offset: u64,
    max: u64,
) -> Call {
    let query = [
        ("nodeId", node.to_string()),
        ("sourceIds", sources.join(",")),
        ("startDate", from),
        ("endDate", to),
        ("offset", offset.to_string()),
        ("max", max.to_string()),
    ];
    Call {
        application: Application::Query,
        priority: Priority::Bulk,
        method: Method::Get,
        path: PATH.to_owned(),
        query: query.map(|(name, value)| (name.to_owned(), value)).into(),
        body: None,
    }
}

/// The rows of a page, and how many there are on all pages, where the server tells.
///
/// # Errors
///
/// If something else than SolarQuery answered.
pub fn rows_of(answer: &Answer) -> Result<(&[Value], Option<u64>), CallError> {
    let results = answer.data["results"].as_array().ok_or_else(|| no_results(PATH))?;
    Ok((results, answer.data["totalResults"].as_u64()))
}

/// Source and time of a row, if it can be one that we sent: datum of ours have milliseconds, one with more
/// is another writer's.
#[must_use]
pub fn key_of(row: &Map<String, Value>) -> Option<(&str, i64)> {
    let source = row.get("sourceId").and_then(Value::as_str)?;
    let created = row.get("created").and_then(created)?;
    let ours = created.timestamp_subsec_nanos().is_multiple_of(1_000_000);
    ours.then(|| (source, created.timestamp_millis()))
}

/// Whether a row looks like an aggregate: it has a minimum and a maximum beside a value.
#[must_use]
pub fn is_aggregate(row: &Map<String, Value>) -> bool {
    row.keys().any(|name| {
        row.contains_key(&format!("{name}_min")) && row.contains_key(&format!("{name}_max"))
    })
}

/// A run of hours and sources that one series of pages is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    sources: Vec<String>,
    /// The first hour and the one after the last.
    hours: (i64, i64),
}

impl Wanted<'_> {
    /// How many calls it takes, about.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.slices().iter().map(|slice| self.rows(slice) / PAGE + 1).sum()
    }

    fn rows(&self, slice: &Slice) -> u64 {
        let hours = slice.sources.iter().filter_map(|source| self.book.hours.get(source));
        let within = hours.flat_map(|hours| hours.range(slice.hours.0..slice.hours.1));
        within.map(|(_, entry)| entry.tally.count).sum()
    }

    fn slices(&self) -> Vec<Slice> {
        let sources: Vec<&String> = self.book.hours.keys().collect();
        sources.chunks(SOURCES).flat_map(|sources| self.slices_of(sources)).collect()
    }

    fn slices_of(&self, sources: &[&String]) -> Vec<Slice> {
        let mut hours = BTreeMap::<i64, u64>::new();
        for source in sources {
            for (hour, entry) in &self.book.hours[*source] {
                *hours.entry(*hour).or_default() += entry.tally.count;
            }
        }
        let mut slices: Vec<(i64, i64)> = Vec::new();
        let mut rows = 0;
        for (hour, count) in hours {
            rows += count;
            match slices.last_mut().filter(|slice| rows <= SLICE_ROWS && slice.1 == hour) {
                Some(slice) => slice.1 = hour + 1,
                None => {
                    slices.push((hour, hour + 1));
                    rows = count;
                }
            }
        }
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        slices.into_iter().map(|hours| Slice { sources: sources.clone(), hours }).collect()
    }

    fn page(&self, slice: &Slice, offset: u64, max: u64) -> Call {
        let hours = (hour_text(slice.hours.0), hour_text(slice.hours.1));
        let mut call = page(self.node, &slice.sources, hours, offset, max);
        let level = self.level.map(|l| ("aggregation".to_owned(), l.name().to_owned()));
        call.query.extend(level);
        call
    }

    /// Asks for everything. `raised` is whether the policy is known to show aggregates.
    ///
    /// # Errors
    ///
    /// If the server does not answer or refuses, or nothing of what it shows can be compared.
    pub async fn ask<C: CallAs>(
        &self,
        calls: &C,
        credential: &Credential,
        raised: bool,
    ) -> Result<Shown, QueryError> {
        let mut rows = Rows::default();
        for slice in self.slices() {
            match self.pages(calls, credential, &slice, &mut rows).await {
                // Of the sources of this slice none may be seen, or the node.
                Err(error) if error.cause == Cause::AccessDenied => {}
                other => other?,
            }
        }
        let mut shown =
            Shown { tallies: rows.tallies, hidden: BTreeSet::new(), aggregated: raised };
        for (source, hours) in &self.book.hours {
            if shown.tallies.contains_key(source) {
                continue;
            }
            let hours = hours.first_key_value().zip(hours.last_key_value());
            let Some(((first, _), (last, _))) = hours else { continue };
            let alone = Slice { sources: vec![source.clone()], hours: (*first, last + 1) };
            match calls.call_as(credential, self.page(&alone, 0, 1)).await {
                Err(error) if error.cause == Cause::AccessDenied => {
                    shown.hidden.insert(source.clone());
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        if shown.hidden.len() == self.book.hours.len() && !shown.hidden.is_empty() {
            return Err(QueryError::NothingVisible { node: self.node });
        }
        if !raised && (rows.aggregate || (rows.on_minutes && self.lacks(&shown.tallies))) {
            return Err(QueryError::Aggregated);
        }
        Ok(shown)
    }

    async fn pages<C: CallAs>(
        &self,
        calls: &C,
        credential: &Credential,
        slice: &Slice,
        rows: &mut Rows,
    ) -> Result<(), CallError> {
        // Rows that arrive meanwhile push others onto the next page.
        let mut seen = HashSet::new();
        let (mut offset, mut size) = (0, PAGE);
        loop {
            let answer = match calls.call_as(credential, self.page(slice, offset, size)).await {
                Err(error) if error.cause == Cause::AnswerTooLong && size > 1 => {
                    size /= SMALLER;
                    continue;
                }
                answer => answer?,
            };
            let (results, total) = rows_of(&answer)?;
            let before = seen.len();
            for row in results {
                rows.take(row, &mut seen);
            }
            offset += results.len() as u64;
            let news = seen.len() > before || total.is_some();
            if results.is_empty() || total.is_some_and(|total| offset >= total) || !news {
                return Ok(());
            }
        }
    }

    /// Whether of some hour fewer are shown than were accepted.
    fn lacks(&self, shown: &Tallies) -> bool {
        let found = |source: &String, hour: &i64| {
            shown.get(source).and_then(|hours| hours.get(hour)).map_or(0, |tally| tally.count)
        };
        let mut hours = self.book.hours.iter().flat_map(|(source, hours)| {
            hours.iter().map(move |(hour, entry)| (source, hour, entry.tally.count))
        });
        hours.any(|(source, hour, accepted)| found(source, hour) < accepted)
    }
}

/// What was read from pages.
#[derive(Debug, Default)]
struct Rows {
    tallies: Tallies,
    /// A row has a minimum and a maximum beside a value.
    aggregate: bool,
    /// There are rows, and all of them are of full minutes, as aggregates are and readings hardly ever.
    on_minutes: bool,
}

impl Rows {
    /// Takes a row, unless it is no datum of ours: of another time than we send, or read before.
    fn take(&mut self, row: &Value, seen: &mut HashSet<(String, i64)>) {
        let Some(row) = row.as_object() else { return };
        let Some((source, unix_ms)) = key_of(row) else { return };
        if !seen.insert((source.to_owned(), unix_ms)) {
            return;
        }
        self.on_minutes = (self.tallies.is_empty() || self.on_minutes) && unix_ms % 60_000 == 0;
        self.aggregate |= is_aggregate(row);
        tally::add(&mut self.tallies, source, unix_ms, &Content::shown(row));
    }
}

/// `2024-06-11 21:39:09.5Z`, or milliseconds since 1970.
fn created(value: &Value) -> Option<DateTime<Utc>> {
    match value {
        Value::String(text) => {
            let text = text.replacen(' ', "T", 1);
            DateTime::parse_from_rfc3339(&text).ok().map(|created| created.to_utc())
        }
        Value::Number(number) => DateTime::from_timestamp_millis(number.as_i64()?),
        _ => None,
    }
}

/// The beginning of an hour as `startDate` and `endDate` take it.
fn hour_text(hour: i64) -> String {
    minute_text(hour.saturating_mul(HOUR_MS))
}

/// The minute that a time lies in, as `startDate` and `endDate` take it, in UTC: every version of SolarQuery
/// reads minutes.
#[must_use]
pub fn minute_text(unix_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(unix_ms);
    time.unwrap_or_default().format("%Y-%m-%dT%H:%M").to_string()
}

fn no_results(path: &str) -> CallError {
    CallError {
        method: Method::Get.name(),
        path: path.to_owned(),
        cause: Cause::NotSolarNetwork,
        refusal: None,
        detail: Some("the answer has no list of results in it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        audit::{ledger::Entry, tally::Tally},
        credential::SigningKey,
    };

    fn book(entries: &[(&str, i64, u64)]) -> Book {
        let mut book = Book::default();
        for (source, hour, count) in entries {
            let tally = Tally { count: *count, ..Tally::default() };
            let entry = Entry { tally, ..Entry::default() };
            book.hours.entry((*source).to_owned()).or_default().insert(*hour, entry);
        }
        book
    }

    fn wanted(book: &Book) -> Wanted<'_> {
        Wanted { node: NodeId::try_from(123).expect("a node"), book, level: None }
    }

    #[test]
    fn slices_are_runs_of_hours_and_not_too_large() {
        let book = book(&[
            ("/a", 10, 9000),
            ("/b", 10, 9000),
            ("/a", 11, 2000),
            ("/a", 12, 1),
            ("/a", 20, 5),
        ]);
        let wanted = wanted(&book);
        let hours: Vec<_> = wanted.slices().into_iter().map(|slice| slice.hours).collect();
        assert_eq!(hours, [(10, 12), (12, 13), (20, 21)]);
        assert_eq!(wanted.calls(), 21 + 1 + 1);
    }

    #[test]
    fn the_call_is_the_declared_one_and_asks_for_whole_hours() {
        let book = book(&[("/a", 498_705, 1), ("/b", 498_705, 1)]);
        let call = wanted(&book).page(&wanted(&book).slices()[0], 1000, PAGE);
        assert_eq!(call.path, format!("/api/v1/sec{}", API_PATHS[0]));
        let query: Vec<String> = call.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            query,
            [
                "nodeId=123",
                "sourceIds=/a,/b",
                "startDate=2026-11-22T09:00",
                "endDate=2026-11-22T10:00",
                "offset=1000",
                "max=1000",
            ]
        );
    }

    /// SolarQuery with 25 rows, of which more than ten are more than is read of an answer.
    struct Long;

    impl CallAs for Long {
        fn server_time(&self) -> DateTime<Utc> {
            DateTime::UNIX_EPOCH
        }

        async fn call_as(&self, _: &Credential, call: Call) -> Result<Answer, CallError> {
            let number = |name: &str| {
                let found = call.query.iter().find(|(member, _)| member == name);
                found.and_then(|(_, value)| value.parse::<usize>().ok()).expect("a number")
            };
            if number("max") > 10 {
                return Err(CallError { cause: Cause::AnswerTooLong, ..no_results(PATH) });
            }
            let page = (0..25).skip(number("offset")).take(number("max"));
            let rows: Vec<Value> =
                page.map(|ms| json!({ "sourceId": "/a", "created": ms })).collect();
            Ok(Answer { data: json!({ "totalResults": 25, "results": rows }) })
        }
    }

    #[tokio::test]
    async fn pages_that_are_too_long_are_asked_for_in_smaller_ones() {
        let credential = Credential {
            token_id: "abcdefghij0123456789".parse().expect("a token ID"),
            key: SigningKey::new([0; 32]),
            key_date: chrono::NaiveDate::MIN,
            secret: None,
        };
        let book = book(&[("/a", 0, 25)]);
        let shown = wanted(&book).ask(&Long, &credential, false).await.expect("an answer");
        assert_eq!(shown.tallies["/a"][&0].count, 25);
    }

    #[test]
    fn rows_of_others_and_rows_read_twice_are_not_counted() {
        let mut rows = Rows::default();
        let mut seen = HashSet::new();
        for created in [
            json!("2026-11-22 09:00:00.25Z"),
            json!("2026-11-22 09:00:00.25Z"),
            json!("2026-11-22 09:00:00.250001Z"),
            json!("2026-11-22T09:00:01Z"),
            json!(1_795_338_002_000_i64),
            json!("soon"),
            json!(null),
        ] {
            rows.take(&json!({ "sourceId": "/a", "created": created, "watts": 1 }), &mut seen);
        }
        rows.take(&json!(5), &mut seen);
        assert_eq!(rows.tallies["/a"].values().map(|tally| tally.count).sum::<u64>(), 3);
        assert!(!rows.aggregate && !rows.on_minutes);
        let row = json!({ "sourceId": "/a", "created": "2026-11-22 09:00:00Z", "watts": 1,
            "watts_min": 1, "watts_max": 2 });
        let mut rows = Rows::default();
        rows.take(&row, &mut HashSet::new());
        assert!(rows.aggregate && rows.on_minutes);
    }
}
