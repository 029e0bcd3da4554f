//! Aggregated datum: one row for each node, source and period that has any.
//!
//! Instantaneous properties become their mean with `_min` and `_max` beside it, accumulating ones the difference
//! between the last and the first of the period and the one before it, status and tags the last. Periods are of
//! UTC. Not played: interpolation at the edges, and the levels that fold time (`HourOfDay` and the like).

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, Utc};
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value, json};

use crate::ledger::{Entry, Key};
use crate::policy::Aggregation;
use crate::time;

/// Digits after the point that a mean keeps.
const MEAN_DIGITS: u32 = 9;

/// The start of the period that an instant falls into; `None` for levels that are not played.
pub(super) fn period(level: Aggregation, ms: i64) -> Option<DateTime<Utc>> {
    let instant = DateTime::from_timestamp_millis(ms)?;
    let day = instant.date_naive();
    let first = match level.name() {
        "Minute" | "FiveMinute" | "TenMinute" | "FifteenMinute" | "ThirtyMinute" | "Hour" => {
            let length = i64::from(level.seconds()) * 1000;
            return DateTime::from_timestamp_millis(ms - ms.rem_euclid(length));
        }
        "Day" => day,
        "Week" => day - Days::new(day.weekday().num_days_from_monday().into()),
        "Month" => day.with_day(1)?,
        "Year" => day.with_ordinal(1)?,
        _ => return None,
    };
    Some(first.and_time(chrono::NaiveTime::MIN).and_utc())
}

/// The rows, which are ordered by node, source and time, folded into periods.
pub(super) fn fold(rows: &[(&Key, &Entry)], level: Aggregation) -> Option<Vec<Value>> {
    let mut out = Vec::new();
    let mut before: Option<(&Key, &Entry)> = None;
    let mut rest = rows;
    while let Some((key, _)) = rest.first() {
        let start = period(level, key.ms)?;
        let same = |(other, _): &&(&Key, &Entry)| {
            (other.node, &other.source) == (key.node, &key.source)
                && period(level, other.ms) == Some(start)
        };
        let (group, after) = rest.split_at(rest.iter().take_while(same).count());
        let stream =
            |(other, _): &(&Key, &Entry)| (other.node, &other.source) == (key.node, &key.source);
        out.push(row(start, before.filter(stream), group));
        before = group.last().copied();
        rest = after;
    }
    Some(out)
}

fn row(start: DateTime<Utc>, before: Option<(&Key, &Entry)>, group: &[(&Key, &Entry)]) -> Value {
    let mut out = Map::new();
    let mut instantaneous: BTreeMap<&str, Vec<Decimal>> = BTreeMap::new();
    let mut accumulating: BTreeMap<&str, (Decimal, Decimal)> = BTreeMap::new();
    for (_, entry) in before.iter().chain(group) {
        for name in entry.datum.a.keys() {
            if let Some(value) = entry.datum.decimal(name) {
                accumulating.entry(name).or_insert((value, value)).1 = value;
            }
        }
    }
    for (key, entry) in group {
        if out.is_empty() {
            out.insert("created".to_owned(), time::write(start).into());
            out.insert("nodeId".to_owned(), key.node.into());
            out.insert("sourceId".to_owned(), key.source.as_str().into());
            out.insert("localDate".to_owned(), start.format("%Y-%m-%d").to_string().into());
            out.insert("localTime".to_owned(), start.format("%H:%M:%S").to_string().into());
        }
        for name in entry.datum.i.keys() {
            instantaneous.entry(name).or_default().extend(entry.datum.decimal(name));
        }
    }
    for (name, values) in instantaneous {
        let Some((least, most)) = values.iter().min().zip(values.iter().max()) else { continue };
        let sum: Decimal = values.iter().sum();
        let mean = (sum / Decimal::from(values.len())).round_dp(MEAN_DIGITS).normalize();
        out.insert(name.to_owned(), number(mean));
        out.insert(format!("{name}_min"), number(*least));
        out.insert(format!("{name}_max"), number(*most));
    }
    for (name, (first, last)) in accumulating {
        out.insert(name.to_owned(), number(last - first));
    }
    if let Some((_, last)) = group.last() {
        for (name, value) in &last.datum.s {
            out.insert(name.clone(), value.as_str().into());
        }
        if !last.datum.t.is_empty() {
            out.insert("tags".to_owned(), json!(last.datum.t));
        }
    }
    Value::Object(out)
}

/// The digits of a decimal are those of a JSON number.
fn number(value: Decimal) -> Value {
    value.to_string().parse::<Number>().map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Datum;

    fn datum(i: &str, a: &str) -> Datum {
        let one = |name: &str, value: &str| {
            BTreeMap::from([(name.to_owned(), value.parse::<Number>().unwrap())])
        };
        Datum { i: one("watts", i), a: one("wattHours", a), ..Datum::default() }
    }

    #[test]
    fn hours_have_means_and_differences_to_the_hour_before() {
        let level = Aggregation::named("Hour").unwrap();
        let key = |ms| Key { node: 1, source: "/a".to_owned(), ms };
        let entry = |datum| Entry::new(datum, "job", Utc::now());
        let rows = [
            (key(0), entry(datum("1", "100"))),
            (key(1_800_000), entry(datum("2.5", "110"))),
            (key(3_600_000), entry(datum("7", "115"))),
        ];
        let rows: Vec<(&Key, &Entry)> = rows.iter().map(|(key, entry)| (key, entry)).collect();
        let hours = fold(&rows, level).unwrap();
        assert_eq!(hours.len(), 2);
        assert_eq!(hours[0]["watts"].to_string(), "1.75");
        assert_eq!(hours[0]["watts_max"].to_string(), "2.5");
        assert_eq!(hours[0]["wattHours"].to_string(), "10");
        assert_eq!(hours[1]["wattHours"].to_string(), "5");
        assert_eq!(hours[1]["created"], "1970-01-01 01:00:00Z");
        assert!(fold(&rows, Aggregation::named("HourOfDay").unwrap()).is_none());
    }

    #[test]
    fn periods_begin_where_the_calendar_says() {
        let ms = time::read_text("2024-02-29 13:47:12.5Z").unwrap().timestamp_millis();
        for (level, start) in [
            ("FiveMinute", "2024-02-29 13:45:00Z"),
            ("Hour", "2024-02-29 13:00:00Z"),
            ("Day", "2024-02-29 00:00:00Z"),
            ("Week", "2024-02-26 00:00:00Z"),
            ("Month", "2024-02-01 00:00:00Z"),
            ("Year", "2024-01-01 00:00:00Z"),
        ] {
            let level = Aggregation::named(level).unwrap();
            assert_eq!(period(level, ms).map(time::write).as_deref(), Some(start));
        }
    }
}
