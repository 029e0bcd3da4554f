//! Numbers that carry a unit: durations, sizes, rates.

use std::time::Duration;

use super::super::{
    schema::{Form, Wrong},
    written::Value,
};

/// A duration such as `"10s"` or `"1m 30s"`.
pub(in crate::config) struct Span {
    pub(in crate::config) min: Duration,
    pub(in crate::config) max: Duration,
}

const SPAN_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Form for Span {
    type Out = Duration;

    fn read(&self, value: &Value) -> Result<Duration, Wrong> {
        let between = self.range();
        let Value::Text(text) = value else {
            let number = value.shown();
            return Err(Wrong::expected(match value {
                Value::Whole(_) => {
                    format!("a duration with its unit, \"{number}s\" for seconds, {between}")
                }
                _ => format!("a duration such as \"10s\", {between}"),
            }));
        };
        match span(text) {
            Some(duration) if (self.min..=self.max).contains(&duration) => Ok(duration),
            Some(_) => Err(Wrong::expected(format!("a duration {between}"))),
            None => Err(Wrong::expected(format!("a duration such as \"10s\", {between}"))),
        }
    }

    fn kind(&self) -> String {
        "duration".to_owned()
    }

    fn unit(&self) -> &'static str {
        "`ms` `s` `m` `h` `d`"
    }

    fn range(&self) -> String {
        format!("between {} and {}", span_text(self.min), span_text(self.max))
    }
}

/// A duration, or the word `"never"`.
pub(in crate::config) struct SpanOrNever(pub(in crate::config) Span);

impl Form for SpanOrNever {
    type Out = Option<Duration>;

    fn read(&self, value: &Value) -> Result<Option<Duration>, Wrong> {
        if matches!(value, Value::Text(text) if text == "never") {
            return Ok(None);
        }
        let or_never = |wrong: Wrong| Wrong::expected(format!("{}, or \"never\"", wrong.expected));
        self.0.read(value).map(Some).map_err(or_never)
    }

    fn kind(&self) -> String {
        self.0.kind()
    }

    fn unit(&self) -> &'static str {
        self.0.unit()
    }

    fn range(&self) -> String {
        format!("{}, or `\"never\"`", self.0.range())
    }
}

/// Reads `1m 30s`: whole numbers with units, the larger first, each unit once.
pub(in crate::config) fn span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut units = SPAN_UNITS.iter();
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        // Going on behind the unit before refuses a second one and a larger one.
        let unit = if unit == "min" { "m" } else { unit };
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*millis)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_millis(total))
}

/// `10 s rest` as number, unit and rest; the number is digits only.
fn number_and_unit(text: &str) -> Option<(&str, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    Some((number, unit, rest))
}

/// The duration as the file would spell it.
pub(in crate::config) fn span_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let unit = SPAN_UNITS.iter().find(|(_, unit)| millis.is_multiple_of(u128::from(*unit)));
    let (name, unit) = unit.unwrap_or(&("ms", 1));
    format!("{}{name}", millis / u128::from(*unit))
}

/// A number of bytes such as `"64 MiB"`.
pub(in crate::config) struct Size {
    pub(in crate::config) min: u64,
    pub(in crate::config) max: u64,
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

impl Form for Size {
    type Out = u64;

    fn read(&self, value: &Value) -> Result<u64, Wrong> {
        let between = self.range();
        let Value::Text(text) = value else {
            let number = value.shown();
            return Err(Wrong::expected(match value {
                Value::Whole(_) => {
                    format!("a size with its unit, \"{number} MiB\" for mebibytes, {between}")
                }
                _ => format!("a size such as \"64 MiB\", {between}"),
            }));
        };
        match size(text) {
            Some(bytes) if (self.min..=self.max).contains(&bytes) => Ok(bytes),
            Some(_) => Err(Wrong::expected(format!("a size {between}"))),
            None => Err(Wrong::expected(format!("a size such as \"64 MiB\", {between}"))),
        }
    }

    fn kind(&self) -> String {
        "size".to_owned()
    }

    fn unit(&self) -> &'static str {
        "`B` `kB` `MB` `GB` `TB` `KiB` `MiB` `GiB` `TiB`"
    }

    fn range(&self) -> String {
        format!("between {} and {}", size_text(self.min), size_text(self.max))
    }
}

fn size(text: &str) -> Option<u64> {
    let (number, unit, rest) = number_and_unit(text.trim())?;
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    if !rest.is_empty() {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

fn size_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    let (name, unit) = unit.unwrap_or(&("B", 1));
    format!("{} {name}", bytes / unit)
}

/// A rate such as `"0.5/s"`, at most 100 and at least 0.01 a second.
pub(in crate::config) struct Rate;

impl Form for Rate {
    /// A second.
    type Out = f64;

    fn read(&self, value: &Value) -> Result<f64, Wrong> {
        let found = match value {
            Value::Text(text) => rate(text),
            _ => None,
        };
        found.filter(|rate| (0.01..=100.0).contains(rate)).ok_or_else(|| {
            Wrong::expected(format!("a rate such as \"0.5/s\" or \"30/min\", {}", self.range()))
        })
    }

    fn kind(&self) -> String {
        "rate".to_owned()
    }

    fn unit(&self) -> &'static str {
        "`/s` `/min`"
    }

    fn range(&self) -> String {
        "between 0.01/s and 100/s".to_owned()
    }
}

fn rate(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once('/')?;
    let number = number.trim();
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let seconds = match unit.trim() {
        "s" => 1.0,
        "min" => 60.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? / seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units_the_larger_first() {
        for (text, millis) in [
            ("10s", 10_000),
            ("10 s", 10_000),
            ("1m 30s", 90_000),
            ("1h30m", 5_400_000),
            ("15min", 900_000),
            ("500ms", 500),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "10 sec",
            "1.5s",
            "-1s",
            "30s 1m",
            "1s 1s",
            "1m 1min",
            "99999999999999999999d",
            "1s,",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        for (text, bytes) in
            [("64 MiB", 64 << 20), ("1GB", 1_000_000_000), ("4096 B", 4096), ("2 kB", 2000)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in ["64", "64 M", "MiB", "1.5 GiB", "1 GiB 1 MiB", "99999999999999 TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates_are_a_number_over_seconds_or_minutes() {
        assert_eq!(rate("0.5/s"), Some(0.5));
        assert_eq!(rate("30 / min"), Some(0.5));
        for bad in ["0.5", "/s", "1/h", "inf/s", "1e3/s", "./s"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_back_as_it_was_shown(millis in 0..=u64::from(u32::MAX)) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(span(&span_text(duration)), Some(duration));
        }

        #[test]
        fn a_size_is_read_back_as_it_was_shown(bytes in 0..=u64::MAX) {
            prop_assert_eq!(size(&size_text(bytes)), Some(bytes));
        }
    }
}
