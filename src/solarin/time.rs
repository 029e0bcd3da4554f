//! Instants as SolarNetwork writes and reads them in datum and instructions.
//!
//! Written: `2024-06-11 21:39:09.5Z`; UTC, a blank in the middle, the fraction without trailing zeros and left
//! out when it is zero.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc};
use serde_json::Value;

/// The text of an instant; `None` outside the years 0 to 9999, which have four digits.
#[must_use]
pub fn text(at: DateTime<Utc>) -> Option<String> {
    if !(0..=9999).contains(&at.year()) {
        return None;
    }
    let text = at.format("%Y-%m-%d %H:%M:%S%.9f").to_string();
    Some(format!("{}Z", text.trim_end_matches('0').trim_end_matches('.')))
}

/// Reads an instant wherever the server's own decoder would: whole milliseconds since 1970, or text with a
/// blank or a `T`, with `Z`, an offset or no zone (UTC then), down to minutes or to the day.
///
/// Numbers that are text or have a fraction are refused, as there.
#[must_use]
pub fn read(value: &Value) -> Option<DateTime<Utc>> {
    match value {
        Value::Number(number) => DateTime::from_timestamp_millis(number.as_i64()?),
        Value::String(text) => read_text(text),
        _ => None,
    }
}

fn read_text(text: &str) -> Option<DateTime<Utc>> {
    if !has_form(text) {
        return None;
    }
    let date = NaiveDate::parse_from_str(text.get(..10)?, "%Y-%m-%d").ok()?;
    let rest = text.get(10..)?;
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone);
    let time = match time.strip_prefix([' ', 'T']) {
        Some(time) => NaiveTime::parse_from_str(time, "%H:%M:%S%.f")
            .or_else(|_| NaiveTime::parse_from_str(time, "%H:%M"))
            .ok()?,
        None if time.is_empty() => NaiveTime::MIN,
        None => return None,
    };
    // The server reads no leap second either.
    let local: NaiveDateTime = date.and_time(time);
    if local.nanosecond() >= 1_000_000_000 {
        return None;
    }
    if matches!(zone, "" | "Z") {
        return Some(local.and_utc());
    }
    let zone: chrono::FixedOffset = zone.parse().ok()?;
    local.checked_sub_offset(zone).map(|utc| utc.and_utc())
}

/// Whether digits and signs stand exactly where they belong, which what reads them does not ask.
fn has_form(text: &str) -> bool {
    const SECONDS: &str = "0000-00-00 00:00:00";
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let zone = form.get(10..).and_then(|rest| rest.find(['Z', '+', '-']));
    let (local, zone) = form.split_at(zone.map_or(form.len(), |at| 10 + at));
    let local = local.replacen('T', " ", 1);
    let is_local = match local.split_once('.') {
        Some((whole, fraction)) => {
            whole == SECONDS && !fraction.is_empty() && "000000000".starts_with(fraction)
        }
        None => [&SECONDS[..10], &SECONDS[..16], SECONDS].contains(&local.as_str()),
    };
    is_local && ["", "Z", "+00:00", "-00:00"].contains(&zone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn fractions_have_no_trailing_zeros() {
        for (nanos, want) in [
            (0, "2024-06-11 21:39:00Z"),
            (500_000_000, "2024-06-11 21:39:00.5Z"),
            (120_000_000, "2024-06-11 21:39:00.12Z"),
            (649_036_000, "2024-06-11 21:39:00.649036Z"),
        ] {
            let at = DateTime::from_timestamp(1_718_141_940, nanos).expect("an instant");
            assert_eq!(text(at).as_deref(), Some(want));
        }
        assert_eq!(text(DateTime::<Utc>::MAX_UTC), None);
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        for value in [
            json!(null),
            json!("1718141949500"),
            json!(1_718_141_949.5),
            json!("2024-06-11x21:39"),
            json!("2024-13-01"),
            json!("2024-6-11 21:39"),
            json!("+2024-6-11 21:39"),
            json!("2024-06-11  21:39"),
            json!("2024-06-11 1:39"),
            json!("2024-06-11 21:39:60"),
            json!("2024-06-11 21:39:09.1234567890"),
            json!("2024-06-11 21:39+0200"),
            json!("2024-06-11 21:39+02"),
            json!("2024-06-11 21:39+02:00[Europe/Paris]"),
            json!("2024-06-11 21:39 Z"),
            json!("2024-06-11 21:39+"),
            json!(""),
        ] {
            assert_eq!(read(&value), None, "{value}");
        }
    }

    #[test]
    fn what_the_server_reads_is_read() {
        let midnight = DateTime::from_timestamp(1_718_064_000, 0);
        for text in [
            "2024-06-11",
            "2024-06-11Z",
            "2024-06-11T00:00",
            "2024-06-11 00:00Z",
            "2024-06-11 00:00:00.000000000Z",
            "2024-06-11T12:00:00+12:00",
            "2024-06-10 23:30-00:30",
        ] {
            assert_eq!(read(&json!(text)), midnight, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(secs in 0i64..253_402_300_800, nanos in 0u32..1_000_000_000) {
            let at = DateTime::from_timestamp(secs, nanos).expect("an instant");
            prop_assert_eq!(read(&Value::String(text(at).expect("four digits"))), Some(at));
        }

        #[test]
        fn foreign_text_does_no_harm(text in ".*") {
            read_text(&text);
        }
    }
}
