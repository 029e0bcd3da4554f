//! CBOR that a server pushed, as the JSON it stands for.
//!
//! Maps, lists, text, numbers, truth values and null; of indefinite length as well. Numbers keep their value:
//! integers, bignums (tags 2 and 3), decimal fractions (tag 4) of some three hundred digits, floats in
//! the shortest decimal text that is them. What is not a number becomes null. Other tags are taken for what they
//! stand before.
//!
//! Refused as a whole: more than [`MAX_BYTES`], [`MAX_ITEMS`] or [`MAX_DEPTH`]; the same name twice in a map, of
//! which one reader takes the first and another the last; names that are not text; byte strings; anything behind
//! the first item. Memory is bounded by what the limits allow, whatever lengths a message claims.

use minicbor::{
    Decoder,
    data::{Tag, Type},
};
use serde_json::{Map, Number, Value};

/// The longest message: a hundred instructions of several kilobytes each.
pub const MAX_BYTES: usize = 1 << 20;

/// The most items in a message, names and nested ones included.
pub const MAX_ITEMS: usize = 50_000;

/// The deepest nesting. An instruction's parameters are at the fifth level.
pub const MAX_DEPTH: usize = 32;

/// The furthest a decimal point may be shifted.
const MAX_EXPONENT: u64 = 400;

/// The most parts of a bignum, nine decimal digits each. The time that it takes grows with their square.
const MAX_PARTS: usize = 34;

/// One more than the largest of these parts.
const PART: u64 = 1_000_000_000;

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not CBOR, or ends too early.
    #[error("it is not CBOR: {0}")]
    Malformed(String),
    /// It is larger than anything expected here.
    #[error("it has more than {0}")]
    TooLarge(&'static str),
    /// It is CBOR that has no JSON form.
    #[error("it holds {0}, which has no place here")]
    Unsupported(&'static str),
    /// A name twice in one map.
    #[error("the name `{0}` stands twice in one map")]
    Duplicate(String),
}

impl From<minicbor::decode::Error> for DecodeError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Reads one whole message.
///
/// # Errors
///
/// If it is not one CBOR item within the limits that has a JSON form.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge("1 MiB"));
    }
    let mut reader = Reader { input: Decoder::new(bytes), items: 0 };
    let value = reader.value(0)?;
    if reader.input.position() < bytes.len() {
        return Err(DecodeError::Unsupported("a second item"));
    }
    Ok(value)
}

struct Reader<'a> {
    input: Decoder<'a>,
    items: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(DecodeError::TooLarge("50,000 items"));
        }
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooLarge("32 levels"));
        }
        match self.input.datatype()? {
            Type::Bool => Ok(Value::Bool(self.input.bool()?)),
            Type::Null => Ok(self.input.null().map(|()| Value::Null)?),
            Type::Undefined => Ok(self.input.undefined().map(|()| Value::Null)?),
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => number(&i128::from(self.input.int()?).to_string()),
            Type::F16 => float(self.half()?),
            Type::F32 => float(self.input.f32()?),
            Type::F64 => float(self.input.f64()?),
            Type::String | Type::StringIndef => Ok(Value::String(self.text()?)),
            Type::Array | Type::ArrayIndef => self.array(depth),
            Type::Map | Type::MapIndef => self.map(depth),
            Type::Tag => self.tagged(depth),
            Type::Bytes | Type::BytesIndef => Err(DecodeError::Unsupported("bytes")),
            Type::Break => Err(DecodeError::Malformed("an end without a beginning".to_owned())),
            Type::Simple | Type::Unknown(_) => Err(DecodeError::Unsupported("a special value")),
        }
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        Ok(self.input.str_iter()?.collect::<Result<_, _>>()?)
    }

    fn array(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let length = self.input.array()?;
        let mut items = Vec::new();
        while self.goes_on(length, items.len())? {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let length = self.input.map()?;
        let mut members = Map::new();
        while self.goes_on(length, members.len())? {
            let (Type::String | Type::StringIndef) = self.input.datatype()? else {
                return Err(DecodeError::Unsupported("a name that is not text"));
            };
            self.items += 1;
            let name = self.text()?;
            if members.contains_key(&name) {
                return Err(DecodeError::Duplicate(name.chars().take(64).collect()));
            }
            let value = self.value(depth + 1)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }

    /// Whether a list or map has another member; takes the mark that ends one of indefinite length.
    fn goes_on(&mut self, length: Option<u64>, read: usize) -> Result<bool, DecodeError> {
        if let Some(length) = length {
            return Ok((read as u64) < length);
        }
        let ends = self.input.datatype()? == Type::Break;
        if ends {
            self.input.set_position(self.input.position() + 1);
        }
        Ok(!ends)
    }

    fn tagged(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let position = self.input.position();
        match self.input.tag()?.as_u64() {
            2 | 3 => {
                self.input.set_position(position);
                number(&self.integer()?.to_string())
            }
            4 => self.fraction(),
            5 => Err(DecodeError::Unsupported("a binary fraction")),
            _ => self.value(depth + 1),
        }
    }

    /// Tag 4: the exponent of ten, then the mantissa.
    fn fraction(&mut self) -> Result<Value, DecodeError> {
        let length = self.input.array()?;
        if length.is_some_and(|length| length != 2) {
            return Err(DecodeError::Malformed("a decimal fraction has two parts".to_owned()));
        }
        let exponent = self.input.i64()?;
        let mantissa = self.integer()?;
        if length.is_none() && self.goes_on(None, 2)? {
            return Err(DecodeError::Malformed("a decimal fraction has two parts".to_owned()));
        }
        if exponent.unsigned_abs() > MAX_EXPONENT {
            return Err(DecodeError::TooLarge("400 decimal places"));
        }
        number(&shifted(mantissa, exponent))
    }

    /// An integer, or a bignum.
    fn integer(&mut self) -> Result<Integer, DecodeError> {
        if self.input.datatype()? != Type::Tag {
            let value = i128::from(self.input.int()?);
            return Ok(Integer { negative: value < 0, digits: value.unsigned_abs().to_string() });
        }
        let tag = self.input.tag()?;
        if ![Tag::new(2), Tag::new(3)].contains(&tag) {
            return Err(DecodeError::Unsupported("a number of another kind"));
        }
        let mut parts = vec![0];
        for chunk in self.input.bytes_iter()? {
            for byte in chunk? {
                multiply_add(&mut parts, 256, u64::from(*byte));
                if parts.len() > MAX_PARTS {
                    return Err(DecodeError::TooLarge("300 digits in a number"));
                }
            }
        }
        let negative = tag == Tag::new(3);
        if negative {
            multiply_add(&mut parts, 1, 1);
        }
        let digits: String = parts.iter().rev().map(|part| format!("{part:09}")).collect();
        let significant = digits.trim_start_matches('0');
        Ok(Integer {
            negative,
            digits: if significant.is_empty() { "0".to_owned() } else { significant.to_owned() },
        })
    }

    /// IEEE 754, 16 bits: sign, five bits of exponent, ten of fraction. The codec would bring in a crate for it.
    fn half(&mut self) -> Result<f32, DecodeError> {
        let at = self.input.position() + 1;
        let Some([high, low]) = self.input.input().get(at..at + 2) else {
            return Err(DecodeError::Malformed("end of input bytes".to_owned()));
        };
        self.input.set_position(at + 2);
        let bits = u16::from_be_bytes([*high, *low]);
        let (exponent, fraction) = ((bits >> 10) & 0x1f, f32::from(bits & 0x3ff));
        let magnitude = match exponent {
            0 => fraction * 2f32.powi(-24),
            0x1f if fraction == 0.0 => f32::INFINITY,
            0x1f => f32::NAN,
            _ => (1024.0 + fraction) * 2f32.powi(i32::from(exponent) - 25),
        };
        Ok(if bits & 0x8000 == 0 { magnitude } else { -magnitude })
    }
}

/// `parts × factor + more`; the first part has the last digits.
fn multiply_add(parts: &mut Vec<u64>, factor: u64, more: u64) {
    let mut carry = more;
    for part in parts.iter_mut() {
        let sum = *part * factor + carry;
        (*part, carry) = (sum % PART, sum / PART);
    }
    if carry > 0 {
        parts.push(carry);
    }
}

struct Integer {
    negative: bool,
    digits: String,
}

impl std::fmt::Display for Integer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.negative { "-" } else { "" })?;
        f.write_str(&self.digits)
    }
}

/// The digits with the point moved by `exponent`, no more.
fn shifted(mantissa: Integer, exponent: i64) -> String {
    let sign = if mantissa.negative { "-" } else { "" };
    let mut digits = mantissa.digits;
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or(usize::MAX);
    if exponent >= 0 {
        if digits != "0" {
            digits.extend(std::iter::repeat_n('0', places));
        }
        return format!("{sign}{digits}");
    }
    if digits.len() <= places {
        digits.insert_str(0, &"0".repeat(places + 1 - digits.len()));
    }
    let (whole, fraction) = digits.split_at(digits.len() - places);
    format!("{sign}{whole}.{fraction}")
}

fn float(value: impl std::fmt::Debug + Into<f64> + Copy) -> Result<Value, DecodeError> {
    // What JSON has no number for.
    if !value.into().is_finite() {
        return Ok(Value::Null);
    }
    // One that is whole stays a float, `1.0`: the server takes none where it wants an integer.
    number(&format!("{value:?}"))
}

fn number(text: &str) -> Result<Value, DecodeError> {
    let number = text.parse::<Number>().map_err(|e| DecodeError::Malformed(e.to_string()))?;
    Ok(Value::Number(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(hex: &str) -> Result<Value, DecodeError> {
        decode(&hex::decode(hex.replace(' ', "")).expect("hex"))
    }

    #[test]
    fn numbers_keep_their_value() {
        for (hex, want) in [
            ("c4 82 20 19 0901", "230.5"),
            ("c4 82 22 20", "-0.001"),
            ("c4 82 02 0c", "1200"),
            ("c4 82 39 00c7 00", &format!("0.{}", "0".repeat(200))),
            ("c4 9f 20 01 ff", "0.1"),
            ("c2 49 00ffffffffffffffff", "18446744073709551615"),
            ("c3 50 ffffffffffffffffffffffffffffffff", "-340282366920938463463374607431768211456"),
            (
                "c2 5f 41 01 50 00000000000000000000000000000000 ff",
                "340282366920938463463374607431768211456",
            ),
            ("c2 40", "0"),
            ("c3 43 3b9ac9", "-3906250"),
            ("c3 44 3b9ac9ff", "-1000000000"),
            ("c4 82 22 c2 45 00ffffffff", "4294967.295"),
            (&format!("c2 58 80 {}", "ff".repeat(128)), ""),
            ("c3 50 7fffffffffffffffffffffffffffffff", "-170141183460469231731687303715884105728"),
            ("3b ffffffffffffffff", "-18446744073709551616"),
            ("f9 3c00", "1.0"),
            ("f9 0001", "5.9604645e-8"),
            ("f9 c400", "-4.0"),
            ("fa 43661 99a", "230.1"),
            ("fb 3fd3333333333334", "0.30000000000000004"),
            ("f9 7c00", "null"),
            ("fb 7ff8000000000000", "null"),
            ("c1 1a 5f5e1000", "1600000000"),
        ] {
            let got = read(hex).map(|value| value.to_string());
            assert_eq!(got.unwrap_or_default(), want, "{hex}");
        }
    }

    #[test]
    fn indefinite_lengths_are_read_and_names_may_not_repeat() {
        let got = read("bf 61 61 9f 01 02 ff 7f 61 62 61 63 ff f6 ff");
        assert_eq!(got, Ok(json!({ "a": [1, 2], "bc": null })));
        assert_eq!(read("a2 61 61 01 61 61 02"), Err(DecodeError::Duplicate("a".into())));
    }

    #[test]
    fn what_claims_too_much_is_refused_before_it_costs_anything() {
        assert!(matches!(read("9b ffffffffffffffff"), Err(DecodeError::Malformed(_))));
        assert!(matches!(read("bb ffffffffffffffff 61 61 01"), Err(DecodeError::Malformed(_))));
        assert!(matches!(read("7b ffffffffffffffff"), Err(DecodeError::Malformed(_))));
        assert!(matches!(read(&"81".repeat(200_000)), Err(DecodeError::TooLarge("32 levels"))));
        assert!(matches!(read(&"c6".repeat(200_000)), Err(DecodeError::TooLarge("32 levels"))));
        let many = format!("9a 000f0000 {}", "01".repeat(0xf_0000));
        assert_eq!(read(&many), Err(DecodeError::TooLarge("50,000 items")));
        assert_eq!(decode(&vec![0; MAX_BYTES + 1]), Err(DecodeError::TooLarge("1 MiB")));
        assert!(matches!(read("c4 82 1a 7fffffff 01"), Err(DecodeError::TooLarge(_))));
        assert!(matches!(read("c4 82 3b 7fffffffffffffff 01"), Err(DecodeError::TooLarge(_))));
    }

    #[test]
    fn what_has_no_json_form_is_refused() {
        for hex in [
            "41 00",
            "a1 01 02",
            "01 02",
            "ff",
            "c5 82 01 02",
            "e0",
            "",
            "c4 81 01",
            "c4 83 01 02 03",
        ] {
            assert!(read(hex).is_err(), "{hex}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = decode(&bytes) {
                // Whatever was read can be shown and read again.
                let text = value.to_string();
                prop_assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
            }
        }
    }
}
