//! Java date patterns, as far as an import configuration needs them, read strictly.

use chrono::{DateTime, FixedOffset, NaiveDate, TimeZone, Utc};

/// A pattern that was understood, with the zone for local times.
#[derive(Debug, Clone)]
pub(super) struct DateFormat {
    items: Vec<Item>,
    zone: Option<FixedOffset>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(char),
    /// A field of digits: letter and width.
    Digits(char, usize),
    /// `X`, `XX`, `XXX`, `Z`: an offset.
    Offset,
}

impl DateFormat {
    /// Reads pattern and zone.
    ///
    /// Zones are `UTC`, its other names, and fixed offsets: the simulator has no time zone database.
    pub(super) fn new(pattern: &str, zone: Option<&str>) -> Result<Self, String> {
        let zone = zone.map(fixed_zone).transpose()?;
        let mut items = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(character) = rest.next() {
            if character == '\'' {
                literal(&mut rest, &mut items);
                continue;
            }
            if !character.is_ascii_alphabetic() {
                items.push(Item::Literal(character));
                continue;
            }
            let mut width = 1;
            while rest.next_if_eq(&character).is_some() {
                width += 1;
            }
            items.push(match (character, width) {
                ('y' | 'u', 4) | ('M' | 'd' | 'H' | 'm' | 's', 1 | 2) | ('S', 1..=9) => {
                    Item::Digits(character, width)
                }
                ('X', 1..=3) | ('Z', 1..=3) => Item::Offset,
                _ => {
                    return Err(format!(
                        "Date pattern letters {} are not played by the simulator",
                        character.to_string().repeat(width)
                    ));
                }
            });
        }
        if zone.is_none() && !items.contains(&Item::Offset) {
            return Err("A date pattern without time zone needs a timeZoneId".to_owned());
        }
        Ok(Self { items, zone })
    }

    /// The instant that the text names; `None` unless the text fits the pattern exactly.
    pub(super) fn parse(&self, text: &str) -> Option<DateTime<Utc>> {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        let (mut hour, mut minute, mut second, mut nano) = (0, 0, 0, 0);
        let mut offset = None;
        let mut rest = text;
        for item in &self.items {
            match item {
                Item::Literal(character) => rest = rest.strip_prefix(*character)?,
                Item::Digits(letter, width) => {
                    let value = take_digits(&mut rest, *width)?;
                    match letter {
                        'y' | 'u' => year = i32::try_from(value).ok()?,
                        'M' => month = value,
                        'd' => day = value,
                        'H' => hour = value,
                        'm' => minute = value,
                        's' => second = value,
                        _ => nano = value * 10u32.pow(9 - u32::try_from(*width).ok()?),
                    }
                }
                Item::Offset => offset = Some(take_offset(&mut rest)?),
            }
        }
        if !rest.is_empty() {
            return None;
        }
        let local = NaiveDate::from_ymd_opt(year, month, day)?
            .and_hms_nano_opt(hour, minute, second, nano)?;
        // With a zone, an offset in the text is ignored.
        Some(self.zone.or(offset)?.from_local_datetime(&local).single()?.with_timezone(&Utc))
    }
}

fn literal(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, items: &mut Vec<Item>) {
    if rest.next_if_eq(&'\'').is_some() {
        items.push(Item::Literal('\''));
        return;
    }
    while let Some(character) = rest.next() {
        if character == '\'' && rest.next_if_eq(&'\'').is_none() {
            return;
        }
        items.push(Item::Literal(character));
    }
}

/// Exactly `width` digits; a width of one takes one or two (Java: a number without padding).
fn take_digits(rest: &mut &str, width: usize) -> Option<u32> {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let taken = if width == 1 { digits.min(2) } else { width };
    if taken == 0 || digits < taken {
        return None;
    }
    let (number, after) = rest.split_at(taken);
    *rest = after;
    number.parse().ok()
}

fn take_offset(rest: &mut &str) -> Option<FixedOffset> {
    if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        return FixedOffset::east_opt(0);
    }
    let length = rest.bytes().skip(1).take_while(|b| b.is_ascii_digit() || *b == b':').count() + 1;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    offset(text)
}

fn offset(text: &str) -> Option<FixedOffset> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes = if minutes.is_empty() { 0 } else { minutes.parse::<i32>().ok()? };
    FixedOffset::east_opt(sign * (hours.parse::<i32>().ok()? * 3600 + minutes * 60))
}

fn fixed_zone(name: &str) -> Result<FixedOffset, String> {
    let fixed = match name {
        "UTC" | "GMT" | "Z" | "Etc/UTC" => FixedOffset::east_opt(0),
        other => offset(other),
    };
    fixed.ok_or_else(|| format!("Time zone {name} is not played by the simulator"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pattern: &str, zone: Option<&str>, text: &str) -> Option<String> {
        let instant = DateFormat::new(pattern, zone).unwrap().parse(text)?;
        Some(instant.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string())
    }

    #[test]
    fn milliseconds_are_read_where_the_pattern_has_them_and_only_there() {
        let (plain, millis) = ("yyyy-MM-dd HH:mm:ss", "yyyy-MM-dd HH:mm:ss.SSS");
        let utc = Some("UTC");
        assert_eq!(
            read(millis, utc, "2024-06-11 21:30:00.120").as_deref(),
            Some("2024-06-11T21:30:00.120Z")
        );
        for (pattern, text) in [
            (millis, "2024-06-11 21:30:00"),
            (millis, "2024-06-11 21:30:00.12"),
            (plain, "2024-06-11 21:30:00.120"),
            (plain, "2024-06-31 21:30:00"),
            (plain, "2024-06-11T21:30:00"),
        ] {
            assert_eq!(read(pattern, utc, text), None, "{pattern}: {text}");
        }
    }

    #[test]
    fn offsets_count_only_without_a_zone() {
        let pattern = "yyyy-MM-dd'T'HH:mm:ssXXX";
        let text = "2024-06-11T21:30:00+02:00";
        assert_eq!(read(pattern, None, text).as_deref(), Some("2024-06-11T19:30:00Z"));
        assert_eq!(read(pattern, Some("UTC"), text).as_deref(), Some("2024-06-11T21:30:00Z"));
        assert!(DateFormat::new("yyyy-MM-dd", None).is_err());
    }
}
