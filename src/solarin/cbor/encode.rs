//! Datum and acknowledgements as CBOR, byte for byte as SolarNetwork's own node writes them.
//!
//! * A datum and its groups are maps of indefinite length; text and the list of tags have theirs.
//! * A whole number is the shortest integer, beyond 64 bits a bignum (tag 2 or 3). A decimal with a fraction,
//!   even one of zeros, is tag 4: `[exponent, mantissa]` without trailing zeros, `230.50` is `[-1, 2305]`.
//! * `t` ends a datum and `_v2` ends `t`. Without it the server takes every exponent for its opposite, a habit
//!   it owes to an old version of its library: 12.5 becomes 1250.
//! * Streams and acknowledgements have no such tag. In a stream every number is tag 4, digits as they are.

use std::convert::Infallible;

use chrono::{DateTime, Utc};
use minicbor::{data::Tag, encode};
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value};

use crate::{
    domain::Datum,
    solarin::{Acknowledgement, stream::Row, time},
};

/// The tag that says: exponents are meant as they stand.
const EXPONENTS_AS_WRITTEN: &str = "_v2";

/// RFC 8949, 3.4.3 and 3.4.4.
const POSITIVE_BIGNUM: Tag = Tag::new(2);
const NEGATIVE_BIGNUM: Tag = Tag::new(3);
const DECIMAL_FRACTION: Tag = Tag::new(4);

type Encoder = minicbor::Encoder<Vec<u8>>;
type Written = Result<(), encode::Error<Infallible>>;

/// A datum that was read at `unix_ms`, for `node/ID/datum`.
#[must_use]
pub fn datum(datum: &Datum, unix_ms: i64) -> Vec<u8> {
    message(|out| {
        let samples = &datum.samples;
        out.begin_map()?.str("created")?;
        match DateTime::<Utc>::from_timestamp_millis(unix_ms).and_then(time::text) {
            Some(created) => out.str(&created)?,
            None => out.i64(unix_ms)?,
        };
        out.str("sourceId")?.str(datum.source.as_str())?;
        for (name, group) in [("i", &samples.instantaneous), ("a", &samples.accumulating)] {
            if !group.is_empty() {
                out.str(name)?.begin_map()?;
                for (name, value) in group {
                    push_number(out.str(name)?, *value)?;
                }
                out.end()?;
            }
        }
        if !samples.status.is_empty() {
            out.str("s")?.begin_map()?;
            for (name, value) in &samples.status {
                out.str(name)?.str(value)?;
            }
            out.end()?;
        }
        push_tags(out.str("t")?, &samples.tags, &[EXPONENTS_AS_WRITTEN])?;
        out.end()?.ok()
    })
}

/// A datum for the live feed: one flat map, numbers as they are. Names that begin with `_` are private, and
/// those of the map's own members are taken. A name in several groups has the value of the last one, as there.
#[must_use]
pub fn live(datum: &Datum, unix_ms: i64) -> Vec<u8> {
    const OWN: [&str; 2] = ["created", "sourceId"];
    let samples = &datum.samples;
    let shown = |name: &str| !name.starts_with('_') && !OWN.contains(&name);
    let is_status = |name: &str| samples.status.iter().any(|(other, _)| other == name);
    let accumulates = |name: &str| samples.accumulating.iter().any(|(other, _)| other == name);
    message(|out| {
        out.begin_map()?.str(OWN[0])?.i64(unix_ms)?;
        out.str(OWN[1])?.str(datum.source.as_str())?;
        let instantaneous = samples.instantaneous.iter().filter(|(name, _)| !accumulates(name));
        for (name, value) in instantaneous.chain(&samples.accumulating) {
            if shown(name) && !is_status(name) {
                push_number(out.str(name)?, *value)?;
            }
        }
        for (name, value) in samples.status.iter().filter(|(name, _)| shown(name)) {
            out.str(name)?.str(value)?;
        }
        out.str("_v")?.u8(2)?.end()?.ok()
    })
}

/// A datum of a known stream, for the same topic.
#[must_use]
pub fn stream(row: &Row<'_>) -> Vec<u8> {
    message(|out| {
        out.array(7)?.i64(row.unix_ms)?;
        for half in row.halves {
            out.i64(half)?;
        }
        for group in [&row.instantaneous, &row.accumulating] {
            push_group(out, group, |out, value| {
                push_fraction(out, value.mantissa(), -i64::from(value.scale()))
            })?;
        }
        push_group(out, &row.status, |out, text| out.str(text)?.ok())?;
        if row.tags.is_empty() { out.null()?.ok() } else { push_tags(out, row.tags, &[]) }
    })
}

/// What is said about an instruction, for the same topic.
#[must_use]
pub fn acknowledgement(acknowledgement: &Acknowledgement) -> Vec<u8> {
    let at = time::text(acknowledgement.at);
    let members = 2 + u64::from(at.is_some()) + u64::from(acknowledgement.result.is_some());
    message(|out| {
        out.map(members)?;
        out.str("instructionId")?.i64(acknowledgement.id.0)?;
        out.str("state")?.str(acknowledgement.state.name())?;
        if let Some(at) = at {
            out.str("statusDate")?.str(&at)?;
        }
        if let Some(result) = &acknowledgement.result {
            push_object(out.str("resultParameters")?, result)?;
        }
        out.ok()
    })
}

fn message(write: impl FnOnce(&mut Encoder) -> Written) -> Vec<u8> {
    let mut out = Encoder::new(Vec::with_capacity(256));
    write(&mut out).expect("memory is always written");
    out.into_writer()
}

/// As the number is: whole, or with a fraction.
fn push_number(out: &mut Encoder, value: Decimal) -> Written {
    if value.scale() == 0 {
        return push_integer(out, value.mantissa());
    }
    let (mut mantissa, mut exponent) = (value.mantissa(), -i64::from(value.scale()));
    while mantissa != 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    push_fraction(out, mantissa, if mantissa == 0 { 0 } else { exponent })
}

fn push_integer(out: &mut Encoder, value: i128) -> Written {
    match i64::try_from(value) {
        Ok(value) => out.i64(value)?.ok(),
        Err(_) => push_bignum(out, value),
    }
}

fn push_fraction(out: &mut Encoder, mantissa: i128, exponent: i64) -> Written {
    out.tag(DECIMAL_FRACTION)?.array(2)?.i64(exponent)?;
    match i64::try_from(mantissa) {
        Ok(mantissa) if i32::try_from(mantissa).is_ok() => out.i64(mantissa)?.ok(),
        // What is no 32-bit integer is written in eight bytes there, even where four would do.
        Ok(mantissa) => {
            let negative = mantissa < 0;
            let argument = if negative { !mantissa } else { mantissa };
            out.writer_mut().push(if negative { 0x3b } else { 0x1b });
            out.writer_mut().extend(argument.to_be_bytes());
            Ok(())
        }
        Err(_) => push_bignum(out, mantissa),
    }
}

/// The bytes of the magnitude, with a zero before them where the first bit is set, as Java writes them.
fn push_bignum(out: &mut Encoder, value: i128) -> Written {
    let (tag, argument) =
        if value < 0 { (NEGATIVE_BIGNUM, !value) } else { (POSITIVE_BIGNUM, value) };
    let bytes = argument.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let sign = usize::from(bytes.get(zeros).is_some_and(|first| *first >= 0x80));
    // An i128 that is not negative begins with a zero bit, so a set first bit has a zero byte before it.
    out.tag(tag)?.bytes(&bytes[zeros - sign..])?.ok()
}

fn push_tags(out: &mut Encoder, tags: &[String], more: &[&str]) -> Written {
    out.array((tags.len() + more.len()) as u64)?;
    for tag in tags.iter().map(String::as_str).chain(more.iter().copied()) {
        out.str(tag)?;
    }
    out.ok()
}

fn push_group<T>(
    out: &mut Encoder,
    group: &[Option<T>],
    push: impl Fn(&mut Encoder, &T) -> Written,
) -> Written {
    if group.is_empty() {
        return out.null()?.ok();
    }
    out.array(group.len() as u64)?;
    for value in group {
        match value {
            Some(value) => push(out, value)?,
            None => out.null()?.ok()?,
        }
    }
    out.ok()
}

fn push_object(out: &mut Encoder, object: &Map<String, Value>) -> Written {
    out.begin_map()?;
    for (name, value) in object {
        push_value(out.str(name)?, value)?;
    }
    out.end()?.ok()
}

fn push_value(out: &mut Encoder, value: &Value) -> Written {
    match value {
        Value::Null => out.null()?.ok(),
        Value::Bool(value) => out.bool(*value)?.ok(),
        Value::Number(number) => push_json_number(out, number),
        Value::String(text) => out.str(text)?.ok(),
        Value::Array(items) => {
            out.array(items.len() as u64)?;
            items.iter().try_for_each(|item| push_value(out, item))
        }
        Value::Object(object) => push_object(out, object),
    }
}

/// In the digits it has. A number beyond 128 bits is none that this agent makes; it goes out as text, whole.
fn push_json_number(out: &mut Encoder, number: &Number) -> Written {
    let text = number.to_string();
    if let Ok(value) = text.parse() {
        return push_integer(out, value);
    }
    let (digits, power) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent: Option<i64> = power.parse().ok();
    let exponent = exponent.and_then(|power| power.checked_sub_unsigned(fraction.len() as u64));
    match (format!("{whole}{fraction}").parse(), exponent) {
        (Ok(mantissa), Some(exponent)) => push_fraction(out, mantissa, exponent),
        _ => out.str(&text)?.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_among_results_keep_their_digits() {
        for (json, want) in [
            ("-0", "00"),
            ("1200", "1904b0"),
            ("18446744073709551616", "c249010000000000000000"),
            ("-9223372036854775809", "c3490 08000000000000000"),
            ("12.50", "c482211904e2"),
            ("-0.5", "c4822024"),
            ("1.2E+3", "c482020c"),
            ("1.5e-7", "c482270f"),
            ("1E30", "c482181e01"),
            ("1.2345678901234567890123456789012E5", "c4823819c24e009bd30a3c645943dd1690a03a14"),
        ] {
            let number = serde_json::from_str(json).expect("a number");
            let mut out = Encoder::new(Vec::new());
            push_json_number(&mut out, &number).expect("memory");
            assert_eq!(hex::encode(out.into_writer()), want.replace(' ', ""), "{json}");
        }
    }
}
