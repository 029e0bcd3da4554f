//! One look: what SolarQuery shows of some rows.
//!
//! Rows are asked for by sources and minutes, [`SOURCES`] at a time. Between them others may lie that were proved
//! long ago: where a window of time holds many more than those that are looked for, it is cut at its longest
//! pause and both parts are asked for.
//!
//! A policy narrows without a word, see [`crate::audit::query`]. Where rows would have to be sent again
//! (`last`), a source of which nothing is shown is asked for alone, since only then a hidden one is refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::terms::{Found, Held};
use crate::{
    audit::{
        query::{self, PAGE, SOURCES, minute_text},
        tally::{Content, Tally},
    },
    domain::NodeId,
    runtime::off_thread,
    solarnet::{Answer, Call, CallError, Caller, Cause},
};

/// A minute, in which times are asked for.
const MINUTE_MS: i64 = 60_000;

/// So many times the rows that are looked for, and a page, may lie in their window.
const OTHERS: u64 = 4;

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The server did not answer, or refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What is shown are not the rows that were sent.
    #[error(
        "SolarQuery shows aggregates to the token that asks, not datum: its policy has `minAggregation`; use one \
         without it"
    )]
    Aggregated,
}

/// Looks for these rows. `last`: it has to be known why one is not shown.
///
/// # Errors
///
/// If nothing can be said of any row.
pub async fn look<C: Caller>(
    calls: &C,
    node: NodeId,
    rows: &[Held],
    last: bool,
) -> Result<Found, LookError> {
    let mut seen = Seen::of(rows);
    let mut windows = Window::of(rows);
    while let Some(window) = windows.pop() {
        let (mut offset, mut first, mut size) = (0, None, PAGE);
        loop {
            let answer = match calls.call(window.page(node, offset, size)).await {
                Ok(answer) => answer,
                // Rows of many properties.
                Err(error) if error.cause == Cause::AnswerTooLong && size > 1 => {
                    size /= query::SMALLER;
                    continue;
                }
                Err(error) if error.cause == Cause::AccessDenied => {
                    seen.hide(&window);
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let page = Page::of(&answer)?;
            // A server that does not say how many there are may not know of pages, too.
            let repeats = page.first.is_some() && page.first == first;
            (offset, first) = (offset + page.rows, page.first);
            seen = seen.with(answer).await;
            if page.rows == 0 || repeats || page.total.is_some_and(|total| offset >= total) {
                break;
            }
            let most = window.rows.len() as u64 * OTHERS + PAGE;
            if page.total.unwrap_or(offset) > most
                && let Some(parts) = window.cut()
            {
                windows.extend(parts);
                break;
            }
        }
    }
    if seen.are_aggregates(rows, last) {
        return Err(LookError::Aggregated);
    }
    if last {
        for alone in seen.without_any(rows) {
            match calls.call(alone.page(node, 0, 1)).await {
                Err(error) if error.cause == Cause::AccessDenied => seen.hide(&alone),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
    }
    Ok(seen.found)
}

/// What was read so far.
#[derive(Debug, Default)]
struct Seen {
    found: Found,
    /// The sources that are looked for.
    sources: BTreeMap<Arc<str>, OfSource>,
    /// A row has a minimum and a maximum beside a value.
    aggregate: bool,
    /// A row is not of a full minute, as aggregates are.
    between_minutes: bool,
}

#[derive(Debug, Default)]
struct OfSource {
    /// The times that are looked for.
    times: HashSet<i64>,
    /// Whether any row of it is there.
    shown: bool,
}

/// What of a page concerns the next one.
struct Page {
    rows: u64,
    /// Of all pages.
    total: Option<u64>,
    /// The first row.
    first: Option<Value>,
}

impl Page {
    fn of(answer: &Answer) -> Result<Self, CallError> {
        let (rows, total) = query::rows_of(answer)?;
        Ok(Self { rows: rows.len() as u64, total, first: rows.first().cloned() })
    }
}

impl Seen {
    fn of(rows: &[Held]) -> Self {
        let mut sources = BTreeMap::<Arc<str>, OfSource>::new();
        for row in rows {
            sources.entry(row.source.clone()).or_default().times.insert(row.unix_ms);
        }
        Self { sources, ..Self::default() }
    }

    /// Takes a page, beside the runtime: to hash a thousand rows takes a small processor a while.
    async fn with(mut self, answer: Answer) -> Self {
        let work = move || {
            let rows = query::rows_of(&answer).map(|(rows, _)| rows).unwrap_or_default();
            rows.iter().filter_map(Value::as_object).for_each(|row| self.take(row));
            self
        };
        off_thread(work).await
    }

    fn take(&mut self, row: &Map<String, Value>) {
        let Some((source, unix_ms)) = query::key_of(row) else { return };
        self.aggregate |= query::is_aggregate(row);
        self.between_minutes |= unix_ms % MINUTE_MS != 0;
        let Some((source, _)) = self.sources.get_key_value(source) else { return };
        let source = source.clone();
        let Some(wanted) = self.sources.get_mut(&source) else { return };
        wanted.shown = true;
        if wanted.times.contains(&unix_ms) {
            let contents = Tally::one(unix_ms, &Content::shown(row)).contents;
            self.found.shown.insert((source, unix_ms), contents);
        }
    }

    fn hide(&mut self, window: &Window<'_>) {
        self.found.hidden.extend(window.sources());
    }

    /// Whether aggregates were shown in the place of datum. That the times alone say so counts only when it
    /// matters.
    fn are_aggregates(&self, rows: &[Held], last: bool) -> bool {
        let shown = self.sources.values().any(|source| source.shown);
        let ours_between = rows.iter().any(|row| row.unix_ms % MINUTE_MS != 0);
        let by_time = last && !self.between_minutes && ours_between;
        let seen = |row: &Held| {
            let key = (row.source.clone(), row.unix_ms);
            self.found.shown.get(&key) == Some(&row.contents)
        };
        shown && (self.aggregate || by_time) && !rows.iter().any(seen)
    }

    /// For each source of which nothing was shown, and which is not known to be hidden, a window of its own.
    fn without_any<'a>(&self, rows: &'a [Held]) -> Vec<Window<'a>> {
        let nothing = |source: &Arc<str>| {
            !self.found.hidden.contains(source)
                && self.sources.get(source).is_some_and(|source| !source.shown)
        };
        let mut alone = BTreeMap::<&Arc<str>, Vec<&Held>>::new();
        for row in rows.iter().filter(|row| nothing(&row.source)) {
            alone.entry(&row.source).or_default().push(row);
        }
        alone.into_values().map(Window::new).collect()
    }
}

/// Rows that are asked for with one series of pages, by time.
#[derive(Debug)]
struct Window<'a> {
    rows: Vec<&'a Held>,
}

impl<'a> Window<'a> {
    fn new(mut rows: Vec<&'a Held>) -> Self {
        rows.sort_by_key(|row| row.unix_ms);
        Self { rows }
    }

    /// All rows, as few windows as names of sources fit into addresses.
    fn of(rows: &'a [Held]) -> Vec<Self> {
        let mut by_source = BTreeMap::<&Arc<str>, Vec<&Held>>::new();
        for row in rows {
            by_source.entry(&row.source).or_default().push(row);
        }
        let by_source: Vec<Vec<&Held>> = by_source.into_values().collect();
        by_source.chunks(SOURCES).map(|rows| Self::new(rows.concat())).collect()
    }

    fn sources(&self) -> BTreeSet<Arc<str>> {
        self.rows.iter().map(|row| row.source.clone()).collect()
    }

    fn page(&self, node: NodeId, offset: u64, max: u64) -> Call {
        let from = self.rows.first().map_or(0, |row| row.unix_ms);
        let last = self.rows.last().map_or(0, |row| row.unix_ms);
        let minutes = (minute_text(from), minute_text(last.saturating_add(MINUTE_MS)));
        let sources: Vec<Arc<str>> = self.sources().into_iter().collect();
        query::page(node, &sources, minutes, offset, max)
    }

    /// Two windows: what lies before the longest pause and what lies behind. `None` where all rows lie in two
    /// minutes that touch.
    fn cut(&self) -> Option<[Self; 2]> {
        let minute = |at: usize| self.rows.get(at).map_or(0, |row| row.unix_ms / MINUTE_MS);
        let pause = |at: &usize| minute(*at).abs_diff(minute(at - 1));
        let at = (1..self.rows.len()).max_by_key(pause).filter(|at| pause(at) > 1)?;
        let (before, behind) = self.rows.split_at(at);
        Some([behind, before].map(|rows| Self { rows: rows.to_vec() }))
    }
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
