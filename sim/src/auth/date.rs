//! Reads the date headers, in the forms that the server reads: RFC 1123 (also with a one-digit day, `UTC`,
//! a numeric offset, a wrong weekday), RFC 850, asctime. Writes the one form that it writes.

use chrono::{DateTime, FixedOffset, NaiveDate, TimeZone, Utc};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Sun, 15 Jun 2025 08:09:10 GMT`
pub(crate) fn format(date: DateTime<Utc>) -> String {
    date.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The instant that a date header names, or `None` when the server could not read it.
pub(crate) fn parse(text: &str) -> Option<DateTime<Utc>> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (weekday, rest) = words.split_first()?;
    match rest {
        [day, month, year, time, zone] if weekday.ends_with(',') => {
            instant(number(year)?, month, number(day)?, time, offset(zone)?)
        }
        [date, time, zone] if weekday.ends_with(',') => {
            let mut parts = date.split('-');
            let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
            let short: i32 = number(year)?;
            // RFC 850 has two digits for the year; this program is not going to see 2070.
            let year = if short < 70 { 2000 + short } else { 1900 + short };
            instant(year, month, number(day)?, time, offset(zone)?)
        }
        [month, day, time, year] => {
            instant(number(year)?, month, number(day)?, time, FixedOffset::east_opt(0)?)
        }
        _ => None,
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn offset(zone: &str) -> Option<FixedOffset> {
    if matches!(zone, "GMT" | "UTC" | "Z") {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_at_checked(2)?;
    let hours: i32 = number(hours)?;
    let minutes: i32 = number(minutes.trim_start_matches(':'))?;
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

fn instant(
    year: i32,
    month: &str,
    day: u32,
    time: &str,
    offset: FixedOffset,
) -> Option<DateTime<Utc>> {
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let mut parts = time.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let local = NaiveDate::from_ymd_opt(year, u32::try_from(month).ok()?, day)?.and_hms_opt(
        number(hour)?,
        number(minute)?,
        number(second)?,
    )?;
    Some(offset.from_local_datetime(&local).single()?.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_the_server_reads_names_the_same_instant() {
        let expected = Utc.with_ymd_and_hms(1994, 11, 6, 8, 49, 37).unwrap();
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Mon, 6 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 10:49:37 +0200",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn iso_and_epoch_dates_are_refused() {
        for text in ["1994-11-06T08:49:37Z", "784111777", "", "Sun, 06 Nov 1994", "a b c d e f"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
