//! CBOR (RFC 8949), as the Java server reads and writes it.
//!
//! Reading is strict about form: one item and nothing behind it, texts in UTF-8, text for the names of members.
//! Numbers keep all their digits: integers, big integers (tags 2 and 3), decimal fractions (tag 4), and floats, which
//! become what Java would write them as. Other tags are passed over.
//!
//! [`Item::to_json`] can do what the server does to a datum without the tag `_v2`: negate the scale of every
//! number that is not an integer, because old nodes wrote it with the wrong sign.

use serde_json::{Map, Number as JsonNumber, Value};

/// Deeper items are refused.
const DEPTH: usize = 32;

/// Why something is no CBOR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no CBOR: {0}")]
pub(crate) struct NoCbor(&'static str);

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Number(Number),
    Text(String),
    /// Bytes mean nothing here.
    Bytes,
    Bool(bool),
    /// Null, undefined, and floats that are no numbers.
    Null,
    Array(Vec<Item>),
    Map(Vec<(String, Item)>),
}

/// Digits and the power of ten that they are multiplied with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    /// With a sign where it is negative.
    digits: String,
    exponent: i64,
    /// No integer by its form, whatever its value is.
    pub(crate) is_decimal: bool,
}

impl Item {
    pub(crate) fn member(&self, name: &str) -> Option<&Item> {
        let Item::Map(members) = self else { return None };
        members.iter().rev().find(|member| member.0 == name).map(|member| &member.1)
    }

    /// The same in JSON; `swap` negates the scale of what is no integer.
    pub(crate) fn to_json(&self, swap: bool) -> Value {
        match self {
            Item::Number(number) => number.to_json(swap).map_or(Value::Null, Value::Number),
            Item::Text(text) => text.as_str().into(),
            Item::Bytes | Item::Null => Value::Null,
            Item::Bool(is_so) => (*is_so).into(),
            Item::Array(items) => items.iter().map(|item| item.to_json(swap)).collect(),
            Item::Map(members) => {
                let members = members.iter().map(|(name, item)| (name.clone(), item.to_json(swap)));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

impl Number {
    fn to_json(&self, swap: bool) -> Option<JsonNumber> {
        let swapped = swap && self.is_decimal;
        let exponent = if swapped { self.exponent.checked_neg()? } else { self.exponent };
        // Plain digits where they are few, without zeros behind the point that say nothing.
        let text = match exponent {
            0 => self.digits.clone(),
            1..=64 => {
                let zeros = usize::try_from(exponent).ok()?;
                if self.digits == "0" {
                    "0".to_owned()
                } else {
                    self.digits.clone() + &"0".repeat(zeros)
                }
            }
            -64..=-1 => {
                let places = usize::try_from(-exponent).ok()?;
                let (sign, digits) = match self.digits.strip_prefix('-') {
                    Some(digits) => ("-", digits),
                    None => ("", self.digits.as_str()),
                };
                let digits = format!("{digits:0>width$}", width = places + 1);
                let (whole, fraction) = digits.split_at(digits.len() - places);
                format!("{sign}{whole}.{fraction}")
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned()
            }
            _ => format!("{}E{exponent}", self.digits),
        };
        serde_json::from_str(&text).ok()
    }

    fn integer(digits: String) -> Self {
        Self { digits, exponent: 0, is_decimal: false }
    }

    /// As `Double.toString` and `Float.toString` write it, from the shortest digits that mean it; these have one
    /// digit behind the point at least.
    fn float(shortest: &str) -> Option<Self> {
        let (mantissa, exponent) = shortest.split_once('e')?;
        let exponent: i64 = exponent.parse().ok()?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits = format!("{whole}{fraction}");
        let mut scale = i64::try_from(fraction.len()).ok()? - exponent;
        let is_plain = (-3..7).contains(&exponent);
        let least = if is_plain { 1 } else { 1 - exponent };
        while scale < least {
            digits.push('0');
            scale += 1;
        }
        let zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'-'));
        let digits = if zero { "0".to_owned() } else { digits };
        Some(Self { digits, exponent: -scale, is_decimal: true })
    }
}

/// Reads one item, with nothing behind it.
pub(crate) fn read(bytes: &[u8]) -> Result<Item, NoCbor> {
    let mut reader = Reader(bytes);
    let item = reader.item(DEPTH)?;
    if reader.0.is_empty() { Ok(item) } else { Err(NoCbor("bytes behind the item")) }
}

struct Reader<'a>(&'a [u8]);

/// Major type, the five bits beside it, and the argument; `None` for indefinite length.
struct Head {
    major: u8,
    info: u8,
    argument: Option<u64>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], NoCbor> {
        let length = usize::try_from(length).map_err(|_| NoCbor("it ends too soon"))?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NoCbor("it ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, NoCbor> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 0x1f);
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            }
            31 if matches!(major, 2..=5 | 7) => None,
            _ => return Err(NoCbor("a length that does not exist")),
        };
        Ok(Head { major, info, argument })
    }

    fn item(&mut self, depth: usize) -> Result<Item, NoCbor> {
        let head = self.head()?;
        self.item_of(&head, depth)?.ok_or(NoCbor("an end where nothing began"))
    }

    /// The item behind a head; `None` for the end of an indefinite one.
    fn item_of(&mut self, head: &Head, depth: usize) -> Result<Option<Item>, NoCbor> {
        let depth = depth.checked_sub(1).ok_or(NoCbor("it is too deep"))?;
        Ok(Some(match (head.major, head.argument) {
            (0, Some(number)) => Item::Number(Number::integer(number.to_string())),
            (1, Some(number)) => {
                Item::Number(Number::integer((-1 - i128::from(number)).to_string()))
            }
            (2, length) => {
                self.string(2, length)?;
                Item::Bytes
            }
            (3, length) => {
                let bytes = self.string(3, length)?;
                let text =
                    String::from_utf8(bytes).map_err(|_| NoCbor("text that is not UTF-8"))?;
                Item::Text(text)
            }
            (4, length) => Item::Array(self.items(length, depth)?),
            (5, length) => Item::Map(self.members(length, depth)?),
            (6, Some(tag @ 2..=3)) => Item::Number(Number::integer(self.big(tag)?)),
            (6, Some(4)) => self.fraction(depth)?,
            (6, Some(_)) => self.item(depth)?,
            (7, None) => return Ok(None),
            (7, Some(bits)) => simple(head.info, bits)?,
            _ => return Err(NoCbor("a length that does not exist")),
        }))
    }

    /// Until the end, or so many.
    fn more(&mut self, left: &mut Option<u64>) -> Result<Option<Head>, NoCbor> {
        match left {
            Some(0) => return Ok(None),
            Some(left) => *left -= 1,
            None => {}
        }
        let head = self.head()?;
        let ends = left.is_none() && head.major == 7 && head.argument.is_none();
        Ok((!ends).then_some(head))
    }

    fn items(&mut self, mut left: Option<u64>, depth: usize) -> Result<Vec<Item>, NoCbor> {
        let mut items = Vec::new();
        while let Some(head) = self.more(&mut left)? {
            items.push(self.item_of(&head, depth)?.ok_or(NoCbor("an end where nothing began"))?);
        }
        Ok(items)
    }

    fn members(
        &mut self,
        mut left: Option<u64>,
        depth: usize,
    ) -> Result<Vec<(String, Item)>, NoCbor> {
        let mut members = Vec::new();
        while let Some(head) = self.more(&mut left)? {
            match self.item_of(&head, depth)? {
                Some(Item::Text(name)) => members.push((name, self.item(depth)?)),
                _ => return Err(NoCbor("a member whose name is no text")),
            }
        }
        Ok(members)
    }

    /// A string, whole or in pieces of the same kind.
    fn string(&mut self, major: u8, length: Option<u64>) -> Result<Vec<u8>, NoCbor> {
        if let Some(length) = length {
            return self.take(length).map(<[u8]>::to_vec);
        }
        let mut out = Vec::new();
        while let Some(head) = self.more(&mut None)? {
            let length = head.argument.filter(|_| head.major == major);
            out.extend_from_slice(self.take(length.ok_or(NoCbor("a piece of another kind"))?)?);
        }
        Ok(out)
    }

    /// The integer behind tag 2, or tag 3 for a negative one.
    fn big(&mut self, tag: u64) -> Result<String, NoCbor> {
        let head = self.head()?;
        if head.major != 2 {
            return Err(NoCbor("a big integer that is no bytes"));
        }
        let bytes = self.string(2, head.argument)?;
        if bytes.len() > 128 {
            return Err(NoCbor("an integer of more than a thousand bits"));
        }
        // Decimal digits, the last one first. Tag 3 means -1 - n.
        let mut digits = vec![0u8];
        let add = |digits: &mut Vec<u8>, times: u32, plus: u32| {
            let mut carry = plus;
            for digit in digits.iter_mut() {
                let sum = u32::from(*digit) * times + carry;
                *digit = (sum % 10) as u8;
                carry = sum / 10;
            }
            while carry > 0 {
                digits.push((carry % 10) as u8);
                carry /= 10;
            }
        };
        bytes.iter().for_each(|byte| add(&mut digits, 256, u32::from(*byte)));
        let sign = if tag == 3 { "-" } else { "" };
        if tag == 3 {
            add(&mut digits, 1, 1);
        }
        let text: String = digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect();
        let text = text.trim_start_matches('0');
        Ok(if text.is_empty() { "0".to_owned() } else { format!("{sign}{text}") })
    }

    /// `[exponent, mantissa]` behind tag 4.
    fn fraction(&mut self, depth: usize) -> Result<Item, NoCbor> {
        let wrong = NoCbor("a decimal fraction that is none");
        let Item::Array(parts) = self.item(depth)? else { return Err(wrong) };
        let [Item::Number(exponent), Item::Number(mantissa)] = &parts[..] else {
            return Err(wrong);
        };
        if exponent.is_decimal || mantissa.is_decimal {
            return Err(wrong);
        }
        // Java keeps a scale in 32 bits.
        let exponent: i32 = exponent.digits.parse().map_err(|_| wrong)?;
        Ok(Item::Number(Number {
            digits: mantissa.digits.clone(),
            exponent: exponent.into(),
            is_decimal: true,
        }))
    }
}

fn simple(info: u8, bits: u64) -> Result<Item, NoCbor> {
    let float = |shortest: String| Number::float(&shortest).map_or(Item::Null, Item::Number);
    Ok(match info {
        20 => Item::Bool(false),
        21 => Item::Bool(true),
        22 | 23 => Item::Null,
        25 => float(format!("{:e}", half(bits as u16))),
        26 => float(format!("{:e}", f32::from_bits(bits as u32))),
        27 => float(format!("{:e}", f64::from_bits(bits))),
        _ => return Err(NoCbor("a simple value without meaning")),
    })
}

/// A float of 16 bits.
fn half(bits: u16) -> f32 {
    let fraction = f32::from(bits & 0x3ff);
    let size = match bits >> 10 & 0x1f {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        exponent => (1024.0 + fraction) * 2f32.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// `{"instructions":[…]}`, the outer map of indefinite length.
pub(crate) fn instructions(list: &[Value]) -> Vec<u8> {
    let mut out = vec![0xbf];
    write(&mut out, &Value::from("instructions"));
    write(&mut out, &Value::from(list));
    out.push(0xff);
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(is_so) => out.push(0xf4 + u8::from(*is_so)),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => head(out, 0, number),
            (None, Some(number)) => head(out, 1, number.unsigned_abs() - 1),
            // No instruction has any.
            (None, None) => out.push(0xf6),
        },
        Value::String(text) => {
            head(out, 3, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(items) => {
            head(out, 4, items.len() as u64);
            items.iter().for_each(|item| write(out, item));
        }
        Value::Object(members) => {
            head(out, 5, members.len() as u64);
            for (name, member) in members {
                write(out, &Value::from(name.as_str()));
                write(out, member);
            }
        }
    }
}

/// The shortest form.
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (info, from) = match argument {
        0..24 => return out.push(major << 5 | bytes[7]),
        24..0x100 => (24, 7),
        0x100..0x1_0000 => (25, 6),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 0),
    };
    out.push(major << 5 | info);
    out.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(hex: &str, swap: bool) -> String {
        match read(&hex::decode(hex.replace(' ', "")).unwrap()) {
            Ok(item) => item.to_json(swap).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_kind_of_number_keeps_its_digits() {
        for (hex, text) in [
            ("c4 82 20 19 0901", "230.5"),
            ("c4 82 22 20", "-0.001"),
            ("c4 82 02 0c", "1200"),
            ("c4 82 00 00", "0"),
            ("c4 82 02 00", "0"),
            ("3b 7fffffffffffffff", "-9223372036854775808"),
            ("c2 49 00ffffffffffffffff", "18446744073709551615"),
            ("c3 49 010000000000000000", "-18446744073709551617"),
            ("c3 40", "-1"),
            ("c4 82 28 c2 4d 0a36d0ae6b8a4d9f6b5f5b1e15", "809246095919011284554.056670741"),
            ("f9 4a40", "12.5"),
            ("fa 4366199a", "230.1"),
            ("fb 4097700000000000", "1500.0"),
            ("f9 0001", "5.9604645E-8"),
            ("f9 7e00", "null"),
            ("fb fff0000000000000", "null"),
        ] {
            let shown = shown(hex, false);
            let same =
                serde_json::from_str::<Value>(text).unwrap().as_number().is_some_and(|text| {
                    serde_json::from_str::<JsonNumber>(&shown)
                        .is_ok_and(|shown| crate::number::is_same(&shown, text))
                });
            assert!(same || shown == text, "{hex}: {shown}, not {text}");
        }
    }

    #[test]
    fn without_the_tag_everything_but_integers_has_its_scale_negated() {
        for (hex, text) in [
            ("c4 82 20 18 7d", "1250"),
            ("fb 4029000000000000", "1250"),
            ("f9 4a40", "1250"),
            ("c4 82 02 0c", "0.12"),
            // 1200.0 in Java, whose scale is 1.
            ("fb 4092c00000000000", "120000"),
            // 1.0E8, whose scale is -7.
            ("fb 4197d78400000000", "0.000001"),
            ("19 04b0", "1200"),
            ("a1 61 69 a1 61 77 c4 82 20 18 7d", r#"{"i":{"w":1250}}"#),
        ] {
            assert_eq!(shown(hex, true), text, "{hex}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (hex, reason) in [
            ("", "it ends too soon"),
            ("18", "it ends too soon"),
            ("1c", "a length that does not exist"),
            ("ff", "an end where nothing began"),
            ("8201", "it ends too soon"),
            ("a10102", "a member whose name is no text"),
            ("9f01", "it ends too soon"),
            ("01 01", "bytes behind the item"),
            ("61 ff", "text that is not UTF-8"),
            ("7f 41 61 ff", "a piece of another kind"),
            ("c4 81 01", "a decimal fraction that is none"),
            ("c4 82 01 61 31", "a decimal fraction that is none"),
            ("bf 61 61 ff", "an end where nothing began"),
            ("9b ffffffffffffffff", "it ends too soon"),
            ("e0", "a simple value without meaning"),
            (&"81".repeat(100), "it is too deep"),
        ] {
            assert_eq!(shown(hex, false), format!("no CBOR: {reason}"), "{hex}");
        }
        assert_eq!(shown("7f 61 61 61 62 ff", false), r#""ab""#);
    }
}
