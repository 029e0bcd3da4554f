use std::sync::Mutex;

use chrono::DateTime;
use serde_json::json;

use super::*;

const MINUTE: i64 = MINUTE_MS;

/// SolarQuery with some rows, all of one value.
#[derive(Default)]
struct Server {
    /// Source and time.
    rows: Vec<(&'static str, i64)>,
    hidden: Vec<&'static str>,
    /// Rows of a page, at most; none is what is asked for.
    page: Option<usize>,
    /// More rows than these are more than is read of an answer.
    readable: Option<usize>,
    /// Does not tell how many there are.
    uncounted: bool,
    /// Does not know of pages.
    first_page_only: bool,
    /// Shows minima and maxima.
    aggregates: bool,
    calls: Mutex<u64>,
}

impl Caller for Server {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        *self.calls.lock().expect("no panic") += 1;
        let value = |name: &str| {
            let found = call.query.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.clone()).expect("asked for")
        };
        let number = |name: &str| value(name).parse::<usize>().expect("a number");
        let minute = |name: &str| {
            let time = DateTime::parse_from_rfc3339(&format!("{}:00Z", value(name)));
            time.expect("a minute").timestamp_millis()
        };
        let asked = value("sourceIds");
        let visible: Vec<&str> =
            asked.split(',').filter(|source| !self.hidden.contains(source)).collect();
        let refused = |cause| {
            let (method, path) = ("GET", call.path.clone());
            Err(CallError { method, path, cause, refusal: None, detail: None })
        };
        if visible.is_empty() {
            return refused(Cause::AccessDenied);
        }
        let within = minute("startDate")..minute("endDate");
        let all: Vec<Value> = (self.rows.iter())
            .filter(|(source, ms)| visible.contains(source) && within.contains(ms))
            .map(|(source, ms)| {
                let mut row = shown(*ms);
                row.insert("created".to_owned(), json!(ms));
                row.insert("sourceId".to_owned(), json!(source));
                if self.aggregates {
                    row.extend([
                        ("watts_min".to_owned(), json!(0)),
                        ("watts_max".to_owned(), json!(9)),
                    ]);
                }
                Value::Object(row)
            })
            .collect();
        let offset = if self.first_page_only { 0 } else { number("offset") };
        let max = number("max").min(self.page.unwrap_or(usize::MAX));
        let page: Vec<&Value> = all.iter().skip(offset).take(max).collect();
        if self.readable.is_some_and(|readable| page.len() > readable) {
            return refused(Cause::AnswerTooLong);
        }
        let mut data = json!({ "results": page });
        if !self.uncounted {
            data["totalResults"] = json!(all.len());
        }
        Ok(Answer { data })
    }
}

impl Server {
    fn calls(&self) -> u64 {
        *self.calls.lock().expect("no panic")
    }

    async fn look(&self, rows: &[Held], last: bool) -> Result<Found, LookError> {
        look(self, NodeId::try_from(123).expect("a node"), rows, last).await
    }
}

fn shown(unix_ms: i64) -> Map<String, Value> {
    Map::from_iter([("watts".to_owned(), json!(unix_ms as f64 / 2.0))])
}

fn held(seq: u64, source: &'static str, unix_ms: i64) -> Held {
    let contents = Tally::one(unix_ms, &Content::shown(&shown(unix_ms))).contents;
    Held { seq, source: source.into(), unix_ms, contents }
}

fn proved(rows: &[Held], found: &Found) -> usize {
    let is_shown =
        |row: &&Held| found.shown.get(&(row.source.clone(), row.unix_ms)) == Some(&row.contents);
    rows.iter().filter(is_shown).count()
}

#[tokio::test]
async fn what_is_there_is_found_page_by_page_and_nothing_else() {
    let times = (0..2500).map(|n| n * 100 + 1);
    for (page, uncounted) in [(None, false), (Some(300), false), (None, true), (Some(700), true)] {
        let rows = times.clone().map(|ms| ("/a", ms)).collect();
        let server = Server { rows, page, uncounted, ..Server::default() };
        let wanted: Vec<Held> =
            (0..).zip(times.clone()).map(|(seq, ms)| held(seq, "/a", ms)).collect();
        let found = server.look(&wanted, true).await.expect("an answer");
        assert_eq!((proved(&wanted, &found), found.shown.len()), (2500, 2500));
        assert_eq!(
            server.calls(),
            2500_u64.div_ceil(page.unwrap_or(1000) as u64) + u64::from(uncounted)
        );
        let others = [held(1, "/a", 50), held(2, "/b", 1)];
        assert_eq!(server.look(&others, true).await.expect("an answer"), Found::default());
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_of_pages_is_not_asked_for_ever() {
    let rows = (0..1500).map(|n| ("/a", n)).collect();
    let server = Server { rows, uncounted: true, first_page_only: true, ..Server::default() };
    let wanted: Vec<Held> = (0..1500).map(|n| held(n as u64, "/a", n)).collect();
    let found = server.look(&wanted, false).await.expect("an answer");
    assert_eq!((proved(&wanted, &found), server.calls()), (1000, 2));
}

#[tokio::test]
async fn pages_that_are_too_long_are_asked_for_in_smaller_ones() {
    let rows = (0..150).map(|n| ("/a", n)).collect();
    let server = Server { rows, readable: Some(14), ..Server::default() };
    let wanted: Vec<Held> = (0..150).map(|n| held(n as u64, "/a", n)).collect();
    let found = server.look(&wanted, false).await.expect("an answer");
    // Of 1000 rows, of 100, and fifteen of 10.
    assert_eq!((proved(&wanted, &found), server.calls()), (150, 2 + 15));
    let none = Server { readable: Some(0), rows: vec![("/a", 1)], ..Server::default() };
    assert!(matches!(none.look(&wanted, false).await, Err(LookError::Call(_))));
}

#[tokio::test]
async fn many_rows_between_those_that_are_looked_for_cost_few_requests() {
    // Two rows that were lost a day apart, a row a second in between.
    let rows: Vec<_> = (0..86_400).map(|n| ("/a", n * 1000)).collect();
    let server = Server { rows, ..Server::default() };
    let wanted = [held(1, "/a", 5000), held(2, "/a", 7000), held(3, "/a", 86_000_000)];
    let found = server.look(&wanted, false).await.expect("an answer");
    assert_eq!((proved(&wanted, &found), server.calls()), (3, 3));
}

#[test]
fn names_of_many_sources_are_spread_over_calls() {
    let row = |n: u64| Held { source: format!("/source/{n}").into(), ..held(n, "", 5) };
    let rows: Vec<Held> = (0..100).map(row).collect();
    let windows = Window::of(&rows);
    assert_eq!(
        windows.iter().map(|window| window.sources().len()).collect::<Vec<_>>(),
        [40, 40, 20]
    );
}

#[tokio::test]
async fn a_hidden_source_is_known_when_it_matters() {
    let server = Server { rows: vec![("/a", 1)], hidden: vec!["/secret"], ..Server::default() };
    let wanted = [held(1, "/a", 1), held(2, "/secret", 1), held(3, "/late", 1)];
    let found = server.look(&wanted, false).await.expect("an answer");
    assert_eq!((found.hidden.len(), server.calls()), (0, 1));
    let found = server.look(&wanted, true).await.expect("an answer");
    assert_eq!(found.hidden.iter().map(|source| &**source).collect::<Vec<_>>(), ["/secret"]);
    assert_eq!((proved(&wanted, &found), server.calls()), (1, 1 + 3));
    // Where all are hidden, one refusal tells.
    let found = server.look(&wanted[1..2], true).await.expect("an answer");
    assert_eq!((found.hidden.len(), server.calls()), (1, 5));
}

#[tokio::test]
async fn aggregates_are_not_taken_for_datum() {
    let wanted = [held(1, "/a", MINUTE + 5), held(2, "/a", MINUTE + 77)];
    let told = Server { rows: vec![("/a", MINUTE)], aggregates: true, ..Server::default() };
    assert!(matches!(told.look(&wanted, false).await, Err(LookError::Aggregated)));
    let by_time = Server { rows: vec![("/a", MINUTE)], ..Server::default() };
    assert!(by_time.look(&wanted, false).await.is_ok());
    assert!(matches!(by_time.look(&wanted, true).await, Err(LookError::Aggregated)));
    // A reading of a full minute that was lost makes no aggregates of the others.
    let full = [held(1, "/a", MINUTE), held(2, "/a", 3 * MINUTE)];
    assert_eq!(proved(&full, &by_time.look(&full, true).await.expect("an answer")), 1);
}
