//! Dates as SNWS2 writes them: in a header, in the signing message, and as a signing day.
//!
//! | Where | Form | Example |
//! | --- | --- | --- |
//! | `X-SN-Date`, `Date` | `EEE, dd MMM yyyy HH:mm:ss GMT` | `Sun, 15 Jun 2025 08:09:10 GMT` |
//! | signing message | `yyyyMMdd'T'HHmmss'Z'` | `20250615T080910Z` |
//! | signing day | `yyyyMMdd` | `20250615` |
//!
//! All have whole seconds: a fraction is dropped, never rounded.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Timelike, Utc};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The text of a date header.
#[must_use]
pub fn http_date(date: DateTime<Utc>) -> String {
    // Not chrono's formatter: this runs for every request, and that parses its pattern every time.
    let (day, time) = (date.date_naive(), date.time());
    let month = MONTHS[day.month0() as usize];
    format!(
        "{}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
        day.weekday(),
        day.day(),
        day.year(),
        time.hour(),
        time.minute(),
        time.second(),
    )
}

/// The request's timestamp in the signing message.
#[must_use]
pub(crate) fn timestamp(date: DateTime<Utc>) -> String {
    let (day, time) = (date.date_naive(), date.time());
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        day.year(),
        day.month(),
        day.day(),
        time.hour(),
        time.minute(),
        time.second(),
    )
}

/// A signing day, as it goes into the key.
#[must_use]
pub fn signing_day(day: NaiveDate) -> String {
    format!("{:04}{:02}{:02}", day.year(), day.month(), day.day())
}

/// Reads a signing day, `YYYYMMDD`.
#[must_use]
pub fn parse_signing_day(text: &str) -> Option<NaiveDate> {
    if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
    NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(4, 6)?, number(6, 8)?)
}

/// Reads a date header in the forms that the server reads: the one above (also with a day of one
/// digit, `UTC` or a numeric offset), RFC 850 and asctime. A wrong weekday does not matter to it.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Some((_weekday, rest)) = text.split_once(',') {
        let rest = rest.trim();
        if let Ok(date) = NaiveDateTime::parse_from_str(rest, "%d-%b-%y %H:%M:%S GMT") {
            return Some(date.and_utc());
        }
        let rest = rest.strip_suffix("UTC").map_or(rest.to_owned(), |time| format!("{time}GMT"));
        return DateTime::parse_from_rfc2822(&rest).ok().map(|date| date.to_utc());
    }
    let (_weekday, rest) = text.split_once(' ')?;
    NaiveDateTime::parse_from_str(rest.trim(), "%b %e %H:%M:%S %Y").ok().map(|date| date.and_utc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_the_server_reads_is_read() {
        let want = "2025-06-05T08:09:10Z".parse().ok();
        for text in [
            "Thu, 05 Jun 2025 08:09:10 GMT",
            "Thu, 5 Jun 2025 08:09:10 GMT",
            "Mon, 05 Jun 2025 08:09:10 GMT",
            "Thu, 05 Jun 2025 08:09:10 UTC",
            "Thu, 05 Jun 2025 10:09:10 +0200",
            "Thursday, 05-Jun-25 08:09:10 GMT",
            "Thu Jun  5 08:09:10 2025",
            " Thu, 05 Jun 2025 08:09:10 GMT ",
        ] {
            assert_eq!(parse_http_date(text), want, "{text}");
        }
        for text in ["", "2025-06-05T08:09:10Z", "1749110950", "Thu, 05 Jun", "Thu,"] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn signing_days_are_eight_digits_of_a_real_day() {
        assert_eq!(parse_signing_day("20240229"), NaiveDate::from_ymd_opt(2024, 2, 29));
        for bad in ["20250229", "2025-06-15", "2025615", "+2025061", "", "２0250615"] {
            assert_eq!(parse_signing_day(bad), None, "{bad}");
        }
    }

    proptest! {
        /// A date header written from an instant denotes that instant's whole second.
        #[test]
        fn date_headers_read_back(secs in 0i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let date = DateTime::from_timestamp(secs, nanos).expect("before the year 10000");
            let text = http_date(date);
            prop_assert_eq!(parse_http_date(&text), DateTime::from_timestamp(secs, 0));
            prop_assert_eq!(text, date.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
            prop_assert_eq!(timestamp(date), date.format("%Y%m%dT%H%M%SZ").to_string());
            let day = date.date_naive();
            prop_assert_eq!(parse_signing_day(&signing_day(day)), Some(day));
        }
    }
}
