//! When a token expires, as PHP reads it: words, free-form dates, and expressions relative to now.
//!
//! What is kept are the digits of the clock on the wall: an offset or zone is read and dropped. Read are ISO dates
//! and times, `05/06/2030` (month first), `5.6.2030` and `5-6-2030` (day first), dates with English month names,
//! `@` with a Unix time, words such as `tomorrow`, names of weekdays, and sums such as `+1 week -2 hours`. Not
//! read, and so refused, is the rest of what PHP knows (`first monday of`, week numbers, zone names).

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, SubsecRound, TimeDelta,
};

/// The server's `TOKEN_EXPIRATION_TIME`.
const DEFAULT_LIFE: TimeDelta = TimeDelta::minutes(30);

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The instant in the server's own time, or `None` for what the server refuses. `None` as text is a member that
/// is missing, null or false.
pub(super) fn read(
    text: Option<&str>,
    now: NaiveDateTime,
    never_years: i32,
) -> Option<NaiveDateTime> {
    match text.map(str::trim) {
        None | Some("" | "auto" | "automatic") => now.checked_add_signed(DEFAULT_LIFE),
        Some("never") => {
            let months = u32::try_from(never_years * 12).unwrap_or_default();
            now.checked_add_months(Months::new(months))
        }
        Some(text) => {
            parse(text, now).filter(|instant| *instant != DateTime::UNIX_EPOCH.naive_utc())
        }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    date: Option<NaiveDate>,
    time: Option<NaiveTime>,
    /// A word such as `tomorrow` sets the time to midnight, unless one is given.
    midnight: bool,
    /// 24:00.
    next_day: bool,
    months: i64,
    seconds: i64,
    weekday: Option<u32>,
}

fn parse(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    if let Some(seconds) = text.strip_prefix('@') {
        return Some(DateTime::from_timestamp(seconds.parse().ok()?, 0)?.naive_utc());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect();
    let mut reading = Reading::default();
    let mut rest = words.as_slice();
    while !rest.is_empty() {
        rest = reading.step(rest)?;
    }
    reading.finish(now)
}

impl Reading {
    /// Reads the next word, or more of them; gives what is left.
    fn step<'a, 'b>(&mut self, words: &'a [&'b str]) -> Option<&'a [&'b str]> {
        let (word, rest) = words.split_first()?;
        match *word {
            "now" => return Some(rest),
            "today" | "midnight" => {
                self.midnight = true;
                return Some(rest);
            }
            "noon" => {
                self.time = NaiveTime::from_hms_opt(12, 0, 0);
                return Some(rest);
            }
            "tomorrow" | "yesterday" => {
                self.midnight = true;
                self.seconds += if *word == "tomorrow" { 86_400 } else { -86_400 };
                return Some(rest);
            }
            "next" | "last" => {
                let (unit, rest) = rest.split_first()?;
                let count = if *word == "next" { 1 } else { -1 };
                return self.add(count, unit).then_some(rest);
            }
            // Words for UTC; whatever zone it is, its offset is dropped.
            "utc" | "gmt" | "z" => return Some(rest),
            _ => {}
        }
        if let Some(day) = WEEKDAYS.iter().position(|name| names(name, word)) {
            (self.weekday, self.midnight) = (u32::try_from(day).ok(), true);
            return Some(rest);
        }
        if let Some(rest) = self.with_month_name(words).or_else(|| self.relative(words)) {
            return Some(rest);
        }
        self.absolute(word).then_some(rest)
    }

    /// `5 may 2030`, `may 5 2030`.
    fn with_month_name<'a, 'b>(&mut self, words: &'a [&'b str]) -> Option<&'a [&'b str]> {
        let [first, second, year, rest @ ..] = words else { return None };
        let month = |word: &str| MONTHS.iter().position(|name| names(name, word));
        let (month, day) = match (month(first), month(second)) {
            (Some(month), None) => (month, second),
            (None, Some(month)) => (month, first),
            _ => return None,
        };
        let day = day.trim_end_matches(|last: char| last.is_ascii_alphabetic()).parse().ok()?;
        self.date = Some(rolled(year.parse().ok()?, u32::try_from(month).ok()? + 1, day)?);
        Some(rest)
    }

    /// `+10 minutes`, `+10minutes`, `2 days ago`.
    fn relative<'a, 'b>(&mut self, words: &'a [&'b str]) -> Option<&'a [&'b str]> {
        let (word, mut rest) = words.split_first()?;
        let end = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (number, mut unit) = word.split_at(end);
        let mut count: i64 = number.parse().ok()?;
        if unit.is_empty() {
            (unit, rest) = rest.split_first()?;
        }
        if let Some(("ago", left)) = rest.split_first().map(|(word, left)| (*word, left)) {
            (count, rest) = (-count, left);
        }
        self.add(count, unit).then_some(rest)
    }

    fn add(&mut self, count: i64, unit: &str) -> bool {
        let seconds = match unit.strip_suffix('s').unwrap_or(unit) {
            "sec" | "second" => 1,
            "min" | "minute" => 60,
            "hour" => 3600,
            "day" => 86_400,
            "week" => 604_800,
            "fortnight" => 1_209_600,
            "month" => {
                self.months += count;
                return true;
            }
            "year" => {
                self.months += count * 12;
                return true;
            }
            _ => return false,
        };
        match count.checked_mul(seconds).and_then(|added| self.seconds.checked_add(added)) {
            Some(sum) => {
                self.seconds = sum;
                true
            }
            None => false,
        }
    }

    /// A date, a time, or both with a `t` between them, and what looks like an offset.
    fn absolute(&mut self, word: &str) -> bool {
        if let Some((date, time)) = word.split_once('t') {
            return self.date(date) && self.time(time);
        }
        if word.contains(':') && !word.starts_with(['+', '-']) {
            return self.time(word);
        }
        // An offset on its own is dropped like one that is glued to its time.
        let is_offset = word.strip_prefix(['+', '-']).is_some_and(is_offset);
        is_offset && self.time.is_some() || self.date(word)
    }

    fn date(&mut self, text: &str) -> bool {
        let parts = |separator: char| -> Option<[i32; 3]> {
            let numbers: Option<Vec<i32>> =
                text.split(separator).map(|part| part.parse().ok()).collect();
            numbers?.try_into().ok()
        };
        let year_first = text.split('-').next().is_some_and(|first| first.len() == 4);
        let [year, month, day] = match (parts('-'), parts('/'), parts('.')) {
            (Some(date), ..) if year_first => date,
            (Some([day, month, year]), ..) | (.., Some([day, month, year])) => [year, month, day],
            (_, Some([first, second, third]), _) if first > 999 => [first, second, third],
            (_, Some([month, day, year]), _) => [year, month, day],
            _ => return false,
        };
        let (Ok(month), Ok(day)) = (u32::try_from(month), u32::try_from(day)) else { return false };
        self.date = rolled(year, month, day);
        self.date.is_some()
    }

    fn time(&mut self, text: &str) -> bool {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.');
        let (digits, zone) = text.split_at(end.unwrap_or(text.len()));
        let known = match zone.strip_prefix(['+', '-']) {
            Some(offset) => is_offset(offset),
            None => matches!(zone, "" | "z" | "utc" | "gmt"),
        };
        let whole = digits.split('.').next().unwrap_or_default();
        let numbers: Option<Vec<u32>> = whole.split(':').map(|part| part.parse().ok()).collect();
        let time = match numbers.as_deref() {
            Some([24, 0] | [24, 0, 0]) => {
                self.next_day = true;
                Some(NaiveTime::MIN)
            }
            Some([hour, minute]) => NaiveTime::from_hms_opt(*hour, *minute, 0),
            Some([hour, minute, second]) => NaiveTime::from_hms_opt(*hour, *minute, *second),
            _ => None,
        };
        self.time = time;
        known && time.is_some()
    }

    fn finish(self, now: NaiveDateTime) -> Option<NaiveDateTime> {
        let midnight = self.midnight || self.date.is_some();
        let time = self.time.unwrap_or(if midnight { NaiveTime::MIN } else { now.time() });
        let mut date = self.date.unwrap_or(now.date());
        if self.months != 0 {
            let month = i64::from(date.year()) * 12 + i64::from(date.month0()) + self.months;
            let year = i32::try_from(month.div_euclid(12)).ok()?;
            date = rolled(year, u32::try_from(month.rem_euclid(12)).ok()? + 1, date.day())?;
        }
        let delta = TimeDelta::try_seconds(self.seconds)?;
        let mut out = date.and_time(time).checked_add_signed(delta)?;
        if self.next_day {
            out = out.checked_add_days(Days::new(1))?;
        }
        if let Some(wanted) = self.weekday {
            let ahead = (wanted + 7 - out.weekday().num_days_from_monday()) % 7;
            out = out.checked_add_days(Days::new(ahead.into()))?;
        }
        Some(out.trunc_subsecs(0))
    }
}

/// English names may be cut to their first three letters.
fn names(name: &str, word: &str) -> bool {
    word.len() >= 3 && (name == word || name.get(..3) == Some(word))
}

fn is_offset(text: &str) -> bool {
    let digits = text.replace(':', "");
    (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A date whose day may lie beyond the end of its month, and then rolls over into the next.
fn rolled(year: i32, month: u32, day: u32) -> Option<NaiveDate> {
    if day > 31 {
        return None;
    }
    let first = NaiveDate::from_ymd_opt(year, month, 1)?;
    match day.checked_sub(1) {
        Some(days) => first.checked_add_days(Days::new(days.into())),
        None => first.pred_opt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_php_reads_them() {
        let now = "2026-01-31 10:20:30";
        let format = "%Y-%m-%d %H:%M:%S";
        for (text, expected) in [
            ("", "2026-01-31 10:50:30"),
            (" auto ", "2026-01-31 10:50:30"),
            ("automatic", "2026-01-31 10:50:30"),
            ("never", "2046-01-31 10:20:30"),
            ("2030-05-05 08:00:00", "2030-05-05 08:00:00"),
            (" 2030-05-05 08:00 ", "2030-05-05 08:00:00"),
            ("2030-05-05", "2030-05-05 00:00:00"),
            ("2030-05-05T08:00:00+02:00", "2030-05-05 08:00:00"),
            ("2030-05-05T08:00:00.25Z", "2030-05-05 08:00:00"),
            ("2030-05-05 08:00:00 +0200", "2030-05-05 08:00:00"),
            ("2030-02-31", "2030-03-03 00:00:00"),
            ("2030-12-31 24:00", "2031-01-01 00:00:00"),
            ("05/06/2030", "2030-05-06 00:00:00"),
            ("5.6.2030 07:08", "2030-06-05 07:08:00"),
            ("5 May 2030", "2030-05-05 00:00:00"),
            ("May 5, 2030 09:00", "2030-05-05 09:00:00"),
            ("@1900000000", "2030-03-17 17:46:40"),
            ("+10 minutes", "2026-01-31 10:30:30"),
            ("+3600 seconds", "2026-01-31 11:20:30"),
            ("+1 month", "2026-03-03 10:20:30"),
            ("+1 week -2 hours", "2026-02-07 08:20:30"),
            ("2 days ago", "2026-01-29 10:20:30"),
            ("next year", "2027-01-31 10:20:30"),
            ("tomorrow", "2026-02-01 00:00:00"),
            ("tomorrow 12:30", "2026-02-01 12:30:00"),
            ("monday", "2026-02-02 00:00:00"),
            ("2010-01-01 00:00:00", "2010-01-01 00:00:00"),
        ] {
            let now = NaiveDateTime::parse_from_str(now, format).unwrap();
            let read = read(Some(text), now, 20).map(|instant| instant.format(format).to_string());
            assert_eq!(read.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        let now = NaiveDateTime::default();
        for text in [
            "AUTO",
            "NEVER",
            "soon",
            "1970-01-01 00:00:00",
            "@0",
            "2030-13-01 00:00:00",
            "2030-01-32",
            "2030-05-05 25:00:00",
            "2030-05-05 08:61",
            "1900000000",
            "0",
            "1",
            "@x",
            "2030-05-05 nonsense",
            "+10 parsecs",
            "99999999999999999999 days",
        ] {
            assert_eq!(read(Some(text), now, 20), None, "{text}");
        }
    }
}
