//! Plain numbers: counts, exact decimals, raw register values, register numbers.

use std::fmt::{self, Display};

use rust_decimal::Decimal;

use super::super::{
    schema::{Form, Wrong},
    settings::Table,
    written::Value,
};

/// A whole number from `min` to `max`.
#[derive(Clone, Copy)]
pub(in crate::config) struct Whole<T> {
    pub(in crate::config) min: T,
    pub(in crate::config) max: T,
    /// What it counts; shown as the unit.
    pub(in crate::config) unit: &'static str,
}

impl<T> Form for Whole<T>
where
    T: TryFrom<i128> + Into<i128> + PartialOrd + Display + Copy + Sync,
{
    type Out = T;

    fn read(&self, value: &Value) -> Result<T, Wrong> {
        let number = match value {
            Value::Whole(whole) => whole.number().and_then(|number| T::try_from(number).ok()),
            _ => None,
        };
        number
            .filter(|number| *number >= self.min && *number <= self.max)
            .ok_or_else(|| Wrong::expected(format!("a whole number, {}", self.range())))
    }

    fn kind(&self) -> String {
        "whole number".to_owned()
    }

    fn unit(&self) -> &'static str {
        self.unit
    }

    fn range(&self) -> String {
        if self.max.into() > i128::from(u32::MAX) {
            // Only the type ends it there; nobody means that number.
            return format!("{} or more", self.min);
        }
        format!("between {} and {}", self.min, self.max)
    }
}

/// An exact decimal number, as a number or as text.
pub(in crate::config) struct Number {
    /// Zero would make no sense.
    pub(in crate::config) not_zero: bool,
    /// Less than zero would make no sense.
    pub(in crate::config) not_negative: bool,
}

impl Form for Number {
    type Out = Decimal;

    fn read(&self, value: &Value) -> Result<Decimal, Wrong> {
        decimal(value)
            .filter(|number| !(self.not_zero && number.is_zero()))
            .filter(|number| !(self.not_negative && *number < Decimal::ZERO))
            .ok_or_else(|| {
                let range = self.range();
                let but = if range.is_empty() { range } else { format!(", {range}") };
                Wrong::expected(format!("a decimal number of at most 28 digits{but}"))
            })
    }

    fn kind(&self) -> String {
        "number".to_owned()
    }

    fn range(&self) -> String {
        match (self.not_zero, self.not_negative) {
            (true, _) => "not 0".to_owned(),
            (_, true) => "0 or more".to_owned(),
            _ => String::new(),
        }
    }
}

/// The number exactly as it was spelled; nothing goes through binary floating point.
fn decimal(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::Whole(whole) if whole.radix != 10 => {
            return Decimal::try_from_i128_with_scale(whole.number()?, 0).ok();
        }
        Value::Whole(whole) => &whole.digits,
        Value::Float(text) | Value::Text(text) => text,
        _ => return None,
    };
    let text = text.strip_prefix('+').unwrap_or(text);
    if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E')) {
        return None;
    }
    if text.contains(['e', 'E']) {
        Decimal::from_scientific(text).ok()
    } else {
        Decimal::from_str_exact(text).ok()
    }
}

/// Digits kept after the point.
pub(in crate::config) struct Digits;

impl Form for Digits {
    type Out = u32;

    fn read(&self, value: &Value) -> Result<u32, Wrong> {
        Whole { min: 0, max: 28, unit: "" }.read(value)
    }

    fn kind(&self) -> String {
        "whole number".to_owned()
    }

    fn unit(&self) -> &'static str {
        "digits after the point"
    }

    fn range(&self) -> String {
        "between 0 and 28".to_owned()
    }
}

/// A number as a device sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RawNumber {
    /// Written in decimal: the number itself.
    Number(Decimal),
    /// Written in hexadecimal, octal or binary: the bits as they stand in the registers.
    Bits(u64),
}

impl fmt::Display for RawNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Bits(bits) => write!(f, "{bits:#x}"),
        }
    }
}

/// A list of raw numbers.
pub(in crate::config) struct RawNumbers;

impl Form for RawNumbers {
    type Out = Vec<RawNumber>;

    fn read(&self, value: &Value) -> Result<Vec<RawNumber>, Wrong> {
        let wrong = || Wrong::expected("a list of numbers such as [0x8000, -1]");
        let Value::List(nodes) = value else { return Err(wrong()) };
        let raw = |value: &Value| match value {
            Value::Whole(whole) if whole.radix != 10 => {
                Some(RawNumber::Bits(u64::try_from(whole.number()?).ok()?))
            }
            _ => decimal(value).map(RawNumber::Number),
        };
        nodes
            .iter()
            .map(|node| {
                raw(&node.value).ok_or_else(|| Wrong { found: Some(node.value.shown()), ..wrong() })
            })
            .collect()
    }

    fn kind(&self) -> String {
        "list of numbers".to_owned()
    }
}

/// A register's number as manuals print it: one-based, with the digit of its table in front.
pub(in crate::config) struct Register;

impl Form for Register {
    /// The table and the zero-based address.
    type Out = (Table, u16);

    fn read(&self, value: &Value) -> Result<(Table, u16), Wrong> {
        let read = match value {
            Value::Whole(whole) if whole.radix == 10 => whole.number().and_then(|number| {
                let digits = if number < 10_000 { 5 } else { 0 };
                register(&format!("{number:0digits$}"))
            }),
            Value::Text(text) => register(text),
            _ => None,
        };
        read.ok_or_else(|| {
            Wrong::expected(
                "a register number as manuals print it: 1 and up for coils, 10001 for discrete \
                 inputs, 30001 for input registers, 40001 for holding registers, or with six \
                 digits, as in 400001",
            )
        })
    }

    fn kind(&self) -> String {
        "whole number or text of 5 or 6 digits".to_owned()
    }

    fn range(&self) -> String {
        "1 to 9999, 10001 to 19999, 30001 to 39999, 40001 to 49999; 100001 to 165536, 300001 to \
         365536, 400001 to 465536; coils of six digits as text, `\"000001\"` to `\"065536\"`"
            .to_owned()
    }
}

/// Reads five or six digits: the table's, then the one-based number.
fn register(text: &str) -> Option<(Table, u16)> {
    if !matches!(text.len(), 5 | 6) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (table, number) = text.split_at(1);
    let table = match table {
        "0" => Table::Coil,
        "1" => Table::Discrete,
        "3" => Table::Input,
        "4" => Table::Holding,
        _ => return None,
    };
    let address = number.parse::<u32>().ok()?.checked_sub(1)?;
    Some((table, u16::try_from(address).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::written::parse_value;

    fn value(text: &str) -> Value {
        parse_value(text).expect("a value")
    }

    #[test]
    fn decimals_are_exact_however_they_are_written() {
        for (text, want) in [
            ("0.1", "0.1"),
            ("\"0.1\"", "0.1"),
            ("-5", "-5"),
            ("+2.50", "2.50"),
            ("1e-3", "0.001"),
            ("2E2", "200"),
            ("0x10", "16"),
            ("1_000.5", "1000.5"),
        ] {
            assert_eq!(decimal(&value(text)), Some(want.parse().expect("a decimal")), "{text}");
        }
        for bad in [
            "inf",
            "nan",
            "1e400",
            "1e-400",
            "0.12345678901234567890123456789012345",
            "99999999999999999999999999999999999",
            "\"\"",
            "\"1,5\"",
            "\"e\"",
            "\"--1\"",
            "true",
        ] {
            assert_eq!(decimal(&value(bad)), None, "{bad}");
        }
    }

    #[test]
    fn register_numbers_are_one_based_and_name_their_table() {
        for (text, want) in [
            ("1", (Table::Coil, 0)),
            ("\"00001\"", (Table::Coil, 0)),
            ("\"065536\"", (Table::Coil, 65535)),
            ("9999", (Table::Coil, 9998)),
            ("10001", (Table::Discrete, 0)),
            ("30013", (Table::Input, 12)),
            ("49999", (Table::Holding, 9998)),
            ("300001", (Table::Input, 0)),
            ("465536", (Table::Holding, 65535)),
        ] {
            assert_eq!(Register.read(&value(text)), Ok(want), "{text}");
        }
        for bad in ["0", "-1", "10000", "20001", "30000", "50001", "465537", "400000", "0x9c41"] {
            assert!(Register.read(&value(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn raw_values_in_hexadecimal_are_bit_patterns() {
        assert_eq!(
            RawNumbers.read(&value("[0x8000, -1, 0xFFFFFFFFFFFFFFFF]")),
            Ok(vec![
                RawNumber::Bits(0x8000),
                RawNumber::Number(Decimal::NEGATIVE_ONE),
                RawNumber::Bits(u64::MAX)
            ])
        );
    }
}
