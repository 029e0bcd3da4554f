//! The server's clock, and the texts in which it writes and reads instants.

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, SubsecRound, TimeDelta, Utc};
use serde_json::Value;

/// The machine's clock moved by an offset that tests set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    pub(crate) offset: TimeDelta,
}

impl Clock {
    /// Now, cut to the microseconds that the database keeps.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        (Utc::now() + self.offset).trunc_subsecs(6)
    }
}

/// `2024-06-11 21:39:08.12Z`: a space, the fraction without trailing zeros.
pub(crate) fn write(instant: DateTime<Utc>) -> String {
    let text = instant.format("%Y-%m-%d %H:%M:%S%.9f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Epoch milliseconds as a number, or a date with space or `T`, with `Z`, an offset or nothing (UTC).
pub(crate) fn read(value: &Value) -> Option<DateTime<Utc>> {
    match value {
        Value::Number(number) => DateTime::from_timestamp_millis(number.as_i64()?),
        Value::String(text) => read_text(text),
        _ => None,
    }
}

/// The text forms of [`read`].
pub(crate) fn read_text(text: &str) -> Option<DateTime<Utc>> {
    // A leap second is none of these either.
    if !has_form(text) || text.contains(":60") {
        return None;
    }
    let text = text.replacen(' ', "T", 1);
    if let Ok(instant) = DateTime::parse_from_rfc3339(&text) {
        return Some(instant.with_timezone(&Utc));
    }
    // A zone may stand behind minutes, and behind a date.
    let after_date = text.get(10..)?;
    let zone = 10 + after_date.find(['Z', '+', '-']).unwrap_or(after_date.len());
    let (local, zone) = text.split_at(zone);
    let offset = match zone {
        "" | "Z" => TimeDelta::zero(),
        zone => TimeDelta::seconds(zone.parse::<FixedOffset>().ok()?.local_minus_utc().into()),
    };
    let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%dT%H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(local, "%Y-%m-%dT%H:%M"))
        .ok()
        .or_else(|| NaiveDate::parse_from_str(local, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    Some(local.and_utc() - offset)
}

/// Whether digits and signs stand exactly where they belong, which what reads them does not ask.
fn has_form(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let zone = ["Z", "+00:00", "-00:00"].into_iter().find(|zone| form.ends_with(zone));
    let local = form.strip_suffix(zone.unwrap_or_default()).unwrap_or(&form);
    match local.replacen(' ', "T", 1).as_str() {
        "0000-00-00" | "0000-00-00T00:00" | "0000-00-00T00:00:00" => true,
        local => local
            .strip_prefix("0000-00-00T00:00:00.")
            .is_some_and(|fraction| !fraction.is_empty() && "000000000".starts_with(fraction)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fractions_lose_their_trailing_zeros() {
        for text in
            ["2024-06-11 21:39:09Z", "2024-06-11 21:39:09.5Z", "2024-06-11 21:39:08.120001Z"]
        {
            assert_eq!(write(read_text(text).unwrap()), text);
        }
    }

    #[test]
    fn the_forms_that_the_server_reads_are_read() {
        let expected = read(&json!(1_718_141_940_000_i64));
        for text in [
            "2024-06-11 21:39:00Z",
            "2024-06-11T21:39:00.000Z",
            "2024-06-11T23:39:00+02:00",
            "2024-06-11 21:39:00",
            "2024-06-11 21:39",
            "2024-06-11T21:39Z",
            "2024-06-11 23:39+02:00",
        ] {
            assert_eq!(read(&json!(text)), expected, "{text}");
        }
        for wrong in [
            json!("1718141949500"),
            json!(null),
            json!("soon"),
            json!("2024-06-11  21:39:00"),
            json!("2024-06-11 21:39:60Z"),
            json!("2024-06-11 21:39:00+0200"),
            json!("2024-6-11 21:39:00"),
            json!("2024-06-11 21:39:00."),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }
}
