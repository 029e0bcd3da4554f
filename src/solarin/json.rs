//! Items of `bulkCollector.do` as JSON, and the groups of a datum for whoever else writes them.
//!
//! ```json
//! {"created":"2024-06-11 21:39:09.5Z","sourceId":"/meter/1","i":{"watts":2603.5},"t":["indoor"]}
//! {"instructionId":12345,"state":"Completed","statusDate":"2024-06-11 21:39:09.649036Z"}
//! ```
//!
//! A group without members is left out. Text is appended to what the caller has, without spaces.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;

use super::{Acknowledgement, stream, time};
use crate::domain::{Datum, number};

/// Appends a datum read at `unix_ms`.
pub fn push_datum(out: &mut String, datum: &Datum, unix_ms: i64) {
    let samples = &datum.samples;
    out.push_str("{\"created\":");
    push_created(out, unix_ms);
    out.push_str(",\"sourceId\":");
    push_text(out, datum.source.as_str());
    for (name, group) in [("i", &samples.instantaneous), ("a", &samples.accumulating)] {
        if !group.is_empty() {
            push_member(out, name);
            push_numbers(out, group);
        }
    }
    if !samples.status.is_empty() {
        push_member(out, "s");
        push_status(out, &samples.status);
    }
    if !samples.tags.is_empty() {
        push_member(out, "t");
        push_tags(out, &samples.tags);
    }
    out.push('}');
}

/// Appends an acknowledgement.
pub fn push_acknowledgement(out: &mut String, acknowledgement: &Acknowledgement) {
    out.push_str("{\"instructionId\":");
    push_display(out, acknowledgement.id);
    out.push_str(",\"state\":");
    push_text(out, acknowledgement.state.name());
    // Required nowhere and used nowhere on this path; what cannot be said is left out.
    if let Some(at) = time::text(acknowledgement.at) {
        push_member(out, "statusDate");
        push_text(out, &at);
    }
    if let Some(result) = &acknowledgement.result {
        push_member(out, "resultParameters");
        push_list(out, ['{', '}'], result, |out, (name, value)| {
            push_name(out, name);
            push_display(out, value);
        });
    }
    out.push('}');
}

/// Appends a datum of a known stream.
pub fn push_stream(out: &mut String, row: &stream::Row<'_>) {
    out.push('[');
    push_display(out, row.unix_ms);
    for half in row.halves {
        out.push(',');
        push_display(out, half);
    }
    for group in [&row.instantaneous, &row.accumulating] {
        out.push(',');
        push_group(out, group, |out, value: &Decimal| out.push_str(&number::plain(*value)));
    }
    out.push(',');
    push_group(out, &row.status, |out, text: &&str| push_text(out, text));
    out.push(',');
    if row.tags.is_empty() {
        out.push_str("null");
    } else {
        push_tags(out, row.tags);
    }
    out.push(']');
}

/// Appends a group of numbers as an object: each in its plain decimal digits.
pub fn push_numbers(out: &mut String, group: &[(String, Decimal)]) {
    push_list(out, ['{', '}'], group, |out, (name, value)| {
        push_name(out, name);
        out.push_str(&number::plain(*value));
    });
}

/// Appends a group of status values as an object.
pub fn push_status(out: &mut String, group: &[(String, String)]) {
    push_list(out, ['{', '}'], group, |out, (name, value)| {
        push_name(out, name);
        push_text(out, value);
    });
}

/// Appends tags as an array.
pub fn push_tags(out: &mut String, tags: &[String]) {
    push_list(out, ['[', ']'], tags, |out, tag| push_text(out, tag));
}

/// When a datum was read: text, and where there is none for that year, milliseconds.
fn push_created(out: &mut String, unix_ms: i64) {
    match DateTime::<Utc>::from_timestamp_millis(unix_ms).and_then(time::text) {
        Some(created) => push_text(out, &created),
        None => push_display(out, unix_ms),
    }
}

fn push_group<T>(out: &mut String, group: &[Option<T>], push: impl Fn(&mut String, &T)) {
    if group.is_empty() {
        out.push_str("null");
        return;
    }
    push_list(out, ['[', ']'], group, |out, value| match value {
        Some(value) => push(out, value),
        None => out.push_str("null"),
    });
}

fn push_list<T>(
    out: &mut String,
    [begin, end]: [char; 2],
    items: impl IntoIterator<Item = T>,
    push: impl Fn(&mut String, T),
) {
    out.push(begin);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push(out, item);
    }
    out.push(end);
}

fn push_member(out: &mut String, name: &str) {
    out.push(',');
    push_name(out, name);
}

fn push_name(out: &mut String, name: &str) {
    push_text(out, name);
    out.push(':');
}

fn push_display(out: &mut String, value: impl Display) {
    use std::fmt::Write as _;
    write!(out, "{value}").expect("text can always be appended to text");
}

fn push_text(out: &mut String, text: &str) {
    push_display(out, Value::from(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Samples, Stamp};

    #[test]
    fn a_time_without_four_digits_of_year_goes_out_as_milliseconds() {
        let datum = Datum {
            source: "/m\"1".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 0 },
            samples: Samples { status: vec![("s\n".into(), "ü".into())], ..Samples::default() },
        };
        let mut out = String::new();
        push_datum(&mut out, &datum, 253_402_300_800_000);
        let want = r#"{"created":253402300800000,"sourceId":"/m\"1","s":{"s\n":"ü"}}"#;
        assert_eq!(out, want);
    }
}
