//! Datum as lines of SolarNetwork's "Basic CSV": one column a group, holding JSON.
//!
//! ```text
//! nodeId,sourceId,created,i,a,s,t
//! 123,/site/meter,2026-11-22 10:00:00.250,"{""watts"":2603.5}","{""wattHours"":41899999}",{},[]
//! ```
//!
//! Quoting is that of RFC 4180. No cell is ever empty: what is missing is `{}` or `[]`. Numbers are
//! the decimal's own digits, never a binary floating-point's. Lines end in a line feed.

use std::{fmt::Write, io::Write as _};

use chrono::{DateTime, Datelike};
use rust_decimal::Decimal;

use crate::domain::{Datum, NodeId, number};

/// The first line; [`super::batch::config`] names the columns by number.
pub const HEADER: &str = "nodeId,sourceId,created,i,a,s,t\n";

/// Java's pattern of the `created` column.
pub const DATE_FORMAT: &str = "yyyy-MM-dd HH:mm:ss.SSS";

/// Why a datum cannot be put into a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its time, {unix_ms} ms since 1970, lies outside the years 1970 to 9999")]
pub struct OutsideTime {
    unix_ms: i64,
}

/// Appends the line of one datum at `unix_ms`.
///
/// # Errors
///
/// If the time has no four-digit year; nothing was appended then.
pub fn push_line(
    out: &mut String,
    node: NodeId,
    datum: &Datum,
    unix_ms: i64,
) -> Result<(), OutsideTime> {
    let created = DateTime::from_timestamp_millis(unix_ms)
        .filter(|created| (1970..=9999).contains(&created.year()))
        .ok_or(OutsideTime { unix_ms })?;
    write!(out, "{node},").expect("text can always be appended to text");
    push_cell(out, datum.source.as_str());
    write!(out, ",{},", created.format("%Y-%m-%d %H:%M:%S%.3f"))
        .expect("text can always be appended to text");
    let samples = &datum.samples;
    push_cell(out, &numbers(&samples.instantaneous));
    out.push(',');
    push_cell(out, &numbers(&samples.accumulating));
    out.push(',');
    push_cell(out, &object(&samples.status, |value, json| push_json_text(json, value)));
    out.push(',');
    push_cell(out, &array(&samples.tags));
    out.push('\n');
    Ok(())
}

fn push_cell(out: &mut String, cell: &str) {
    if cell.contains([',', '"', '\n', '\r']) {
        out.push('"');
        out.push_str(&cell.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(cell);
    }
}

fn numbers(group: &[(String, Decimal)]) -> String {
    object(group, |value, json| json.push_str(&number::plain(*value)))
}

fn object<T>(group: &[(String, T)], push_value: impl Fn(&T, &mut String)) -> String {
    let mut json = String::from("{");
    for (at, (name, value)) in group.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        push_json_text(&mut json, name);
        json.push(':');
        push_value(value, &mut json);
    }
    json.push('}');
    json
}

fn array(tags: &[String]) -> String {
    let mut json = String::from("[");
    for (at, tag) in tags.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        push_json_text(&mut json, tag);
    }
    json.push(']');
    json
}

fn push_json_text(json: &mut String, text: &str) {
    let mut bytes = Vec::with_capacity(text.len() + 2);
    serde_json::to_writer(&mut bytes, text).expect("text always makes JSON");
    bytes.flush().expect("memory is always written");
    json.push_str(std::str::from_utf8(&bytes).expect("JSON of text is text"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{Samples, Stamp},
        queue::record,
    };

    fn node() -> NodeId {
        NodeId::try_from(123).expect("a node")
    }

    fn line(datum: &Datum, unix_ms: i64) -> String {
        let mut out = String::new();
        push_line(&mut out, node(), datum, unix_ms).expect("a time within range");
        out
    }

    /// RFC 4180, read back the slow and obvious way.
    fn cells(line: &str) -> Vec<String> {
        let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        let mut chars = line.strip_suffix('\n').expect("a whole line").chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    cell.push('"');
                    chars.next();
                }
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(std::mem::take(&mut cell)),
                other => cell.push(other),
            }
        }
        assert!(!quoted, "an open quote");
        cells.push(cell);
        cells
    }

    #[test]
    fn a_datum_is_one_line_with_every_digit() {
        let number = |text: &str| text.parse::<Decimal>().expect("a decimal");
        let datum = Datum {
            source: "/site/meter".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 0 },
            samples: Samples {
                instantaneous: vec![
                    ("watts".into(), number("-2603.50")),
                    ("tiny".into(), number("0.0000000000000000000000000001")),
                ],
                accumulating: vec![("wattHours".into(), number("79228162514264337593543950335"))],
                status: vec![("opState".into(), "\"on\", or\noff".into())],
                tags: vec!["a,b".into()],
            },
        };
        assert_eq!(
            line(&datum, 1_795_341_605_007),
            "123,/site/meter,2026-11-22 10:00:05.007,\
             \"{\"\"watts\"\":-2603.5,\"\"tiny\"\":0.0000000000000000000000000001}\",\
             \"{\"\"wattHours\"\":79228162514264337593543950335}\",\
             \"{\"\"opState\"\":\"\"\\\"\"on\\\"\", or\\noff\"\"}\",\"[\"\"a,b\"\"]\"\n"
        );
    }

    #[test]
    fn nothing_is_an_empty_cell() {
        let datum = Datum {
            source: "m".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 0 },
            samples: Samples::default(),
        };
        assert_eq!(line(&datum, 0), "123,m,1970-01-01 00:00:00.000,{},{},{},[]\n");
    }

    #[test]
    fn times_without_a_four_digit_year_are_refused() {
        let datum = record::decode(&[1, 0, 1, b'm', 0, 0, 0, 0]).expect("an empty datum");
        for unix_ms in [-1, i64::MIN, i64::MAX, 253_402_300_800_000] {
            let mut out = String::new();
            assert_eq!(push_line(&mut out, node(), &datum, unix_ms), Err(OutsideTime { unix_ms }));
            assert_eq!(out, "");
        }
        assert!(line(&datum, 253_402_300_799_999).contains("9999-12-31 23:59:59.999"));
    }

    proptest! {
        /// Whatever is in a datum, its line has seven cells, and the JSON in them says the same.
        #[test]
        fn every_line_reads_back(datum in record::tests::datum(), unix_ms in 0..253_402_300_799_999i64) {
            let line = line(&datum, unix_ms);
            let cells = cells(&line);
            prop_assert_eq!(cells.len(), 7);
            prop_assert_eq!(&cells[1], datum.source.as_str());
            for (cell, group) in [(&cells[3], &datum.samples.instantaneous), (&cells[4], &datum.samples.accumulating)] {
                let json: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(cell).expect("a JSON object");
                for (name, value) in group {
                    // Of two with one name the last one counts.
                    let last = group.iter().rev().find(|(n, _)| n == name).expect("itself").1;
                    prop_assert_eq!(json[name].to_string().parse::<Decimal>().expect("a number"), last);
                    prop_assert!(value.scale() <= 28);
                }
            }
            let json: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&cells[5]).expect("a JSON object");
            for (name, _) in &datum.samples.status {
                let last = &datum.samples.status.iter().rev().find(|(n, _)| n == name).expect("itself").1;
                prop_assert_eq!(json[name].as_str(), Some(last.as_str()));
            }
            let tags: Vec<String> = serde_json::from_str(&cells[6]).expect("a JSON array");
            prop_assert_eq!(&tags, &datum.samples.tags);
        }
    }
}
