//! When a token ends, as the server understands it. Pure.
//!
//! The server keeps the digits of a date and drops its offset, so `08:00:00+02:00` would end two hours late.
//! Here an instant with an offset becomes the digits of the server's own zone first; digits without one are
//! sent as they are; a span is sent as `+N seconds`, which is right in every zone.
//!
//! | Written | Sent |
//! | --- | --- |
//! | `auto` | `auto`: the server's default, half an hour unless set up otherwise |
//! | `never` | `never`: 20 years in V2, 40 in V3; no token is without an end |
//! | `30d`, `12h`, `1d12h` | `+2592000 seconds` |
//! | `2030-05-05`, `2030-05-05 08:00[:00]` | the same digits: the server's clock |
//! | `2030-05-05T08:00:00Z`, `…+02:00` | the digits that the server's clock shows then |
//!
//! The answer's digits of a span, held against the `Date` header, tell the server's offset
//! ([`offset_learnt`]).

use std::{fmt, str::FromStr};

use chrono::{
    DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, Utc,
};

/// The form of dates on the wire.
pub const FORM: &str = "%Y-%m-%d %H:%M:%S";

/// When a new token is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// When the server's default says.
    Auto,
    /// In decades.
    Never,
    /// So long after it was issued.
    In(TimeDelta),
    /// When the server's clock shows this.
    ServerClock(NaiveDateTime),
    /// At this instant.
    At(DateTime<FixedOffset>),
}

/// A text that is no expiry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no expiry: `auto`, `never`, a span such as `30d`, a date of the server's clock such as \
     `2030-05-05 08:00`, or an instant such as `2030-05-05T08:00:00Z`"
)]
pub struct NoExpiry(String);

impl FromStr for Expiry {
    type Err = NoExpiry;

    fn from_str(text: &str) -> Result<Self, NoExpiry> {
        let text = text.trim();
        let no = || NoExpiry(text.to_owned());
        match text {
            "auto" | "automatic" => return Ok(Self::Auto),
            "never" => return Ok(Self::Never),
            _ => {}
        }
        if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(instant));
        }
        if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Ok(Self::ServerClock(day.and_time(NaiveTime::MIN)));
        }
        for form in [FORM, "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"] {
            if let Ok(time) = NaiveDateTime::parse_from_str(text, form) {
                return Ok(Self::ServerClock(time));
            }
        }
        span(text).map(Self::In).ok_or_else(no)
    }
}

/// `1d12h`; whole numbers with a unit.
fn span(text: &str) -> Option<TimeDelta> {
    const MOST: i64 = 100 * 365 * 86_400;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let secs = match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(secs)?)?;
        rest = after;
    }
    (1..=MOST).contains(&total).then(|| TimeDelta::seconds(total))
}

impl Expiry {
    /// The member `expires` of the request. `offset` is how far the server's clock is ahead of UTC.
    #[must_use]
    pub fn wire(&self, offset: FixedOffset) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Never => "never".to_owned(),
            Self::In(span) => format!("+{} seconds", span.num_seconds()),
            Self::ServerClock(time) => time.format(FORM).to_string(),
            Self::At(instant) => instant.with_timezone(&offset).format(FORM).to_string(),
        }
    }

    /// Whether it lies in the past whatever the server's zone may be: the server would issue a token that
    /// is of no use.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        match self {
            Self::Auto | Self::Never | Self::In(_) => false,
            Self::ServerClock(time) => time.and_utc() < now - TimeDelta::hours(12),
            Self::At(instant) => *instant <= now,
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Never => f.write_str("never"),
            Self::In(span) => write!(f, "in {} s", span.num_seconds()),
            Self::ServerClock(time) => write!(f, "{} by the server's clock", time.format(FORM)),
            Self::At(instant) => f.write_str(&instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        }
    }
}

/// Reads the digits of an answer.
#[must_use]
pub fn parse_digits(text: &str) -> Option<NaiveDateTime> {
    NaiveDateTime::parse_from_str(text, FORM).ok()
}

/// How far the server's clock is ahead of UTC, from an answer to a request with a span.
///
/// Offsets are whole quarters of an hour; what is further off tells nothing.
#[must_use]
pub fn offset_learnt(
    asked: Expiry,
    digits: NaiveDateTime,
    answered: DateTime<Utc>,
) -> Option<FixedOffset> {
    const QUARTER: i64 = 900;
    let Expiry::In(span) = asked else { return None };
    let ahead = (digits.and_utc() - answered - span).num_seconds();
    let quarters = (ahead + QUARTER / 2).div_euclid(QUARTER);
    let rest = ahead - quarters * QUARTER;
    (rest.abs() <= 120).then(|| FixedOffset::east_opt(i32::try_from(quarters * QUARTER).ok()?))?
}

/// `+02:00`, `-0330`, `Z` or `UTC`.
///
/// # Errors
///
/// If it is none of these.
pub fn parse_offset(text: &str) -> Result<FixedOffset, &'static str> {
    const WRONG: &str = "an offset from UTC is written +02:00, -03:30 or UTC";
    if matches!(text, "UTC" | "Z" | "utc") {
        return Ok(UTC);
    }
    let sign = match text.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Err(WRONG),
    };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(WRONG);
    }
    let number = |range: std::ops::Range<usize>| digits[range].parse::<i32>().map_err(|_| WRONG);
    let (hours, minutes) = (number(0..2)?, number(2..4)?);
    if hours > 14 || minutes > 59 {
        return Err(WRONG);
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60)).ok_or(WRONG)
}

/// The zone of a server that was not set up otherwise.
pub const UTC: FixedOffset = FixedOffset::east_opt(0).expect("zero is an offset");

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> DateTime<Utc> {
        text.parse().expect("a date")
    }

    #[test]
    fn an_offset_never_reaches_the_server_and_the_instant_stays_the_same() {
        let east = parse_offset("+02:00").expect("an offset");
        for (written, offset, sent) in [
            ("auto", UTC, "auto"),
            ("never", UTC, "never"),
            ("30d", east, "+2592000 seconds"),
            ("+1d12h", east, "+129600 seconds"),
            ("2030-05-05", east, "2030-05-05 00:00:00"),
            ("2030-05-05 08:00", east, "2030-05-05 08:00:00"),
            ("2030-05-05 08:00:00", UTC, "2030-05-05 08:00:00"),
            ("2030-05-05T08:00:00Z", UTC, "2030-05-05 08:00:00"),
            ("2030-05-05T08:00:00Z", east, "2030-05-05 10:00:00"),
            ("2030-05-05T08:00:00+02:00", UTC, "2030-05-05 06:00:00"),
        ] {
            let expiry: Expiry = written.parse().expect(written);
            assert_eq!(expiry.wire(offset), sent, "{written}");
        }
    }

    #[test]
    fn what_the_server_would_misread_is_refused() {
        for text in [
            "",
            "AUTO",
            "NEVER",
            "2030-02-31",
            "2030-13-01 00:00:00",
            "05/06/2030",
            "1900000000",
            "tomorrow",
            "0d",
            "-1d",
            "10 parsecs",
            "@1900000000",
        ] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_past_date_is_over_in_every_zone_or_not_said_to_be() {
        let now = date("2026-11-22T10:00:00Z");
        let over = |text: &str| text.parse::<Expiry>().expect(text).is_over(now);
        assert!(over("2026-11-21"));
        assert!(over("2026-11-22T09:59:59Z"));
        assert!(!over("2026-11-22 09:00"), "it may be later there");
        assert!(!over("never"));
        assert!(!over("+262142-12-31 23:59:59"), "the last second there is");
    }

    #[test]
    fn a_span_tells_the_zone_of_the_server() {
        let asked: Expiry = "1h".parse().expect("a span");
        let answered = date("2026-11-22T10:00:00Z");
        let learnt = |digits: &str| {
            offset_learnt(asked, parse_digits(digits).expect("digits"), answered)
                .map(|offset| offset.local_minus_utc())
        };
        assert_eq!(learnt("2026-11-22 11:00:00"), Some(0));
        assert_eq!(learnt("2026-11-22 12:59:58"), Some(7200));
        assert_eq!(learnt("2026-11-22 07:30:03"), Some(-12_600));
        assert_eq!(learnt("2026-11-22 11:07:00"), None);
        assert_eq!(
            offset_learnt(
                Expiry::Auto,
                parse_digits("2026-11-22 11:00:00").expect("digits"),
                answered
            ),
            None
        );
    }

    #[test]
    fn offsets_are_read_or_refused() {
        assert_eq!(parse_offset("-03:30").map(|o| o.local_minus_utc()), Ok(-12_600));
        for bad in ["", "2", "+2", "+15:00", "+ä1:00", "+02:60", "CET"] {
            assert!(parse_offset(bad).is_err(), "{bad}");
        }
    }
}
