//! From registers and bits to what a property says. Pure.
//!
//! ```text
//!  bytes ──byte order──▶ words ──word order──▶ raw value ──select──▶ invalid? ──scale──▶ value
//!                          └─ text and bytes: no word order ──▶ text
//! ```
//!
//! * `byte_order` applies inside each word, `word_order` between the words of one number; text and
//!   bytes ignore the word order.
//! * A single bit is a boolean: 1 or 0 for instantaneous and accumulating properties, `true` or
//!   `false` as status. Of a register, a bit is whether the register is not zero. Where a scale is
//!   set, the 1 or 0 is scaled and a number in every kind.
//! * `bit` and `mask` take bits out of an integer and give a number. An `invalid` value that these
//!   bits cannot hold is compared with the whole integer, so `0xFFFF` still means "not available"
//!   for each of its bits.
//! * Numbers are exact decimals (`exact`, `float`). What cannot be kept exactly is left out with a
//!   reason; nothing is ever a nearby value.
//! * Text loses NULs, and blanks at both ends.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::{
    exact::{self, OutOfRange},
    float::{self, NotDecimal},
    frame::Data,
};
use crate::{
    config::settings::{Encoding, Order, Property, Register, Scale, Select, Table},
    domain::{Kind, number},
};

/// What a property says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number; `i` and `a` have nothing else.
    Number(Decimal),
    /// Text, status only.
    Text(String),
}

/// Why a property is missing from a datum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The float has no decimal, or needs more digits than are kept.
    #[error(transparent)]
    Float(#[from] NotDecimal),
    /// The scaled value needs more digits than are kept.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The raw value is one of those that mean "not available".
    #[error("not available: the device sent {0}")]
    Invalid(Decimal),
    /// The bytes are no text.
    #[error("not {0} text")]
    NotText(&'static str),
    /// Text where the server stores a number.
    #[error("text cannot be a number")]
    NotNumber,
    /// The request that should have brought it did not.
    #[error("{0}")]
    NotRead(Arc<str>),
}

/// What a property says, given the data of a request that began at `first`.
///
/// # Errors
///
/// If it says nothing that could be stored.
pub fn value(property: &Property, first: u16, data: Data<'_>) -> Result<Value, Absent> {
    match raw(&property.register, first, data)? {
        Raw::Bit(bit) => {
            let bit_value = number_of(u8::from(bit).into(), property)?;
            let plain = property.scale.multiply == Decimal::ONE && property.scale.offset.is_zero();
            match property.kind {
                Kind::Status if plain => Ok(Value::Text(bit.to_string())),
                kind => Ok(of_kind(kind, bit_value)),
            }
        }
        Raw::Integer { value: whole, bits } => {
            let selected = select(whole, bits, property.register.select);
            let width = selected_bits(property.register.select);
            let unavailable = |invalid: &Decimal| match width {
                Some(width) if *invalid < Decimal::from(1_u128 << width) => *invalid == selected,
                _ => *invalid == whole,
            };
            if property.invalid.iter().any(unavailable) {
                return Err(Absent::Invalid(whole));
            }
            Ok(of_kind(property.kind, exact::scaled(selected, &property.scale)?))
        }
        Raw::Float(value) => Ok(of_kind(property.kind, number_of(value, property)?)),
        Raw::Text(text) if property.kind == Kind::Status => Ok(Value::Text(text)),
        Raw::Text(_) => Err(Absent::NotNumber),
    }
}

/// The number that a control shows, given the data of a request that began at `first`.
///
/// # Errors
///
/// If it shows none.
pub fn control(
    register: &Register,
    scale: &Scale,
    first: u16,
    data: Data<'_>,
) -> Result<Decimal, Absent> {
    let raw = match raw(register, first, data)? {
        Raw::Bit(bit) => u8::from(bit).into(),
        Raw::Integer { value, bits } => select(value, bits, register.select),
        Raw::Float(value) => value,
        Raw::Text(_) => return Err(Absent::NotNumber),
    };
    Ok(exact::scaled(raw, scale)?)
}

fn number_of(raw: Decimal, property: &Property) -> Result<Decimal, Absent> {
    if property.invalid.contains(&raw) {
        return Err(Absent::Invalid(raw));
    }
    Ok(exact::scaled(raw, &property.scale)?)
}

fn of_kind(kind: Kind, value: Decimal) -> Value {
    match kind {
        Kind::Instantaneous | Kind::Accumulating => Value::Number(value),
        Kind::Status => Value::Text(number::plain(value)),
    }
}

/// A value as the device encoded it.
enum Raw {
    Bit(bool),
    /// With the integer's bits, two's complement, for selecting some of them.
    Integer {
        value: Decimal,
        bits: u64,
    },
    Float(Decimal),
    Text(String),
}

fn raw(register: &Register, first: u16, data: Data<'_>) -> Result<Raw, Absent> {
    // The plan never asks for less than its values need; should it, the value is missing, no more.
    let lacking = || Absent::NotRead(Arc::from("the answer does not hold this address"));
    let index = usize::from(register.address.checked_sub(first).ok_or_else(lacking)?);
    if matches!(register.table, Table::Coil | Table::Discrete) {
        return data.bit(index).map(Raw::Bit).ok_or_else(lacking);
    }
    let bytes = data.words(index, usize::from(register.encoding.words())).ok_or_else(lacking)?;
    let integer = |value: Decimal| Raw::Integer { value, bits: word_bits(bytes, register) };
    Ok(match register.encoding {
        Encoding::Bit => Raw::Bit(bytes.iter().any(|byte| *byte != 0)),
        Encoding::U16 | Encoding::U32 | Encoding::U64 => integer(word_bits(bytes, register).into()),
        // Bit for bit: the narrowing takes exactly the words that were read.
        Encoding::I16 => integer((word_bits(bytes, register) as i16).into()),
        Encoding::I32 => integer((word_bits(bytes, register) as i32).into()),
        Encoding::I64 => integer((word_bits(bytes, register) as i64).into()),
        Encoding::F16 => Raw::Float(float::half(word_bits(bytes, register) as u16)?),
        Encoding::F32 => Raw::Float(float::single(word_bits(bytes, register) as u32)?),
        Encoding::F64 => Raw::Float(float::double(word_bits(bytes, register))?),
        Encoding::Bytes(_) => Raw::Text(hex::encode(in_order(bytes, register.byte_order))),
        Encoding::Utf8(_) => {
            let text = String::from_utf8(in_order(bytes, register.byte_order));
            Raw::Text(tidy(&text.map_err(|_| Absent::NotText("UTF-8"))?))
        }
        Encoding::Ascii(_) => {
            let text = in_order(bytes, register.byte_order);
            let text = std::str::from_utf8(&text).ok().filter(|text| text.is_ascii());
            Raw::Text(tidy(text.ok_or(Absent::NotText("ASCII"))?))
        }
    })
}

/// Up to four words as one number, the orders undone.
fn word_bits(bytes: &[u8], register: &Register) -> u64 {
    let word = |pair: &[u8]| match (pair, register.byte_order) {
        ([high, low], Order::Big) | ([low, high], Order::Little) => {
            u64::from(*high) << 8 | u64::from(*low)
        }
        _ => 0,
    };
    let join = |bits: u64, word: u64| bits << 16 | word;
    match register.word_order {
        Order::Big => bytes.chunks_exact(2).map(word).fold(0, join),
        Order::Little => bytes.chunks_exact(2).rev().map(word).fold(0, join),
    }
}

fn in_order(bytes: &[u8], order: Order) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if order == Order::Little {
        for pair in bytes.chunks_exact_mut(2) {
            pair.reverse();
        }
    }
    bytes
}

fn tidy(text: &str) -> String {
    text.replace('\0', "").trim_matches(|c| c <= ' ').to_owned()
}

fn select(value: Decimal, bits: u64, select: Select) -> Decimal {
    match select {
        Select::All => value,
        Select::Bit(bit) => (bits.checked_shr(bit.into()).unwrap_or(0) & 1).into(),
        Select::Mask(mask) => (bits & mask).checked_shr(mask.trailing_zeros()).unwrap_or(0).into(),
    }
}

/// How many bits a selection can hold; `None` where nothing is selected.
fn selected_bits(select: Select) -> Option<u32> {
    match select {
        Select::All => None,
        Select::Bit(_) => Some(1),
        Select::Mask(mask) => Some(64 - mask.leading_zeros() - mask.trailing_zeros().min(63)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(text: &str) -> Decimal {
        Decimal::from_str_exact(text).expect("a decimal")
    }

    fn property(kind: Kind, encoding: Encoding) -> Property {
        Property {
            name: "p".to_owned(),
            kind,
            register: Register {
                table: Table::Holding,
                address: 10,
                encoding,
                word_order: Order::Big,
                byte_order: Order::Big,
                select: Select::All,
            },
            scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
            invalid: Vec::new(),
            tags: Vec::new(),
        }
    }

    fn read(property: &Property, words: &[u16]) -> Result<Value, Absent> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        value(property, 10, Data::Words(&bytes))
    }

    fn number(text: &str) -> Result<Value, Absent> {
        Ok(Value::Number(d(text)))
    }

    fn text(text: &str) -> Result<Value, Absent> {
        Ok(Value::Text(text.to_owned()))
    }

    #[test]
    fn every_number_in_every_order() {
        use Encoding::*;
        use Order::{Big, Little};
        #[rustfmt::skip]
        let cases: &[(Encoding, Order, Order, &[u16], &str)] = &[
            (U16, Big,    Big,    &[0xFFFF],                         "65535"),
            (U16, Little, Big,    &[0x1234],                         "4660"),
            (U16, Big,    Little, &[0x3412],                         "4660"),
            (I16, Big,    Big,    &[0x8000],                         "-32768"),
            (I16, Big,    Little, &[0xFEFF],                         "-2"),
            (U32, Big,    Big,    &[0x1234, 0x5678],                 "305419896"),
            (U32, Little, Big,    &[0x5678, 0x1234],                 "305419896"),
            (U32, Big,    Little, &[0x3412, 0x7856],                 "305419896"),
            (U32, Little, Little, &[0x7856, 0x3412],                 "305419896"),
            (I32, Big,    Big,    &[0xFFFF, 0xFFFE],                 "-2"),
            (I32, Little, Big,    &[0xFFFE, 0xFFFF],                 "-2"),
            (U64, Big,    Big,    &[0xFFFF; 4],                      "18446744073709551615"),
            (U64, Little, Big,    &[4, 3, 2, 1],                     "281483566841860"),
            (I64, Big,    Big,    &[0x8000, 0, 0, 0],                "-9223372036854775808"),
            (F16, Big,    Big,    &[0x5B31],                         "230.1"),
            (F32, Big,    Big,    &[0x4366, 0x199A],                 "230.1"),
            (F32, Little, Big,    &[0x199A, 0x4366],                 "230.1"),
            (F32, Little, Little, &[0x9A19, 0x6643],                 "230.1"),
            (F64, Big,    Big,    &[0x406C, 0xC333, 0x3333, 0x3333], "230.1"),
            (F64, Little, Big,    &[0x3333, 0x3333, 0xC333, 0x406C], "230.1"),
        ];
        for &(encoding, word_order, byte_order, words, want) in cases {
            let mut property = property(Kind::Instantaneous, encoding);
            property.register.word_order = word_order;
            property.register.byte_order = byte_order;
            let name = format!("{encoding:?} words {word_order:?} bytes {byte_order:?}");
            assert_eq!(read(&property, words), number(want), "{name}");
        }
    }

    #[test]
    fn text_ignores_the_word_order_and_is_tidied() {
        for (encoding, byte_order, words, want) in [
            (Encoding::Ascii(3), Order::Big, [0x2041, 0x4200, 0x2000], "AB"),
            (Encoding::Ascii(3), Order::Little, [0x4142, 0x4443, 0x0020], "BACD"),
            (Encoding::Utf8(3), Order::Big, [0x5AC3, 0xA468, 0x0000], "Zäh"),
            (Encoding::Bytes(3), Order::Big, [0x0001, 0xABCD, 0xFF00], "0001abcdff00"),
            (Encoding::Bytes(3), Order::Little, [0x0001, 0xABCD, 0xFF00], "0100cdab00ff"),
        ] {
            let mut property = property(Kind::Status, encoding);
            property.register.word_order = Order::Little;
            property.register.byte_order = byte_order;
            assert_eq!(read(&property, &words), text(want), "{encoding:?} {byte_order:?}");
        }
    }

    #[test]
    fn what_cannot_be_stored_is_left_out_with_a_reason() {
        let i = |encoding| property(Kind::Instantaneous, encoding);
        let s = |encoding| property(Kind::Status, encoding);
        let mut factor = i(Encoding::U64);
        factor.scale.multiply = d("1.23456789012");
        #[rustfmt::skip]
        let cases: &[(Property, &[u16], &str)] = &[
            (i(Encoding::F32), &[0x7FC0, 0], "not a number"),
            (i(Encoding::F32), &[0x7F80, 0], "infinite"),
            (i(Encoding::F16), &[0xFC00], "infinite"),
            (i(Encoding::F64), &[0x7FEF, 0xFFFF, 0xFFFF, 0xFFFF], "outside the range of exact numbers (28 digits)"),
            (factor, &[0xFFFF; 4], "outside the range of exact numbers (28 digits)"),
            (i(Encoding::Ascii(1)), &[0x4142], "text cannot be a number"),
            (s(Encoding::Ascii(1)), &[0xC3A4], "not ASCII text"),
            (s(Encoding::Utf8(1)), &[0xFFFF], "not UTF-8 text"),
            (i(Encoding::U32), &[1], "the answer does not hold this address"),
        ];
        for (property, words, want) in cases {
            let absent = read(property, words).expect_err(want);
            assert_eq!(absent.to_string(), *want);
        }
    }

    #[test]
    fn bits_are_numbers_or_true_and_false() {
        let mut coil = property(Kind::Instantaneous, Encoding::Bit);
        coil.register.table = Table::Coil;
        let bits = Data::Bits(&[0b0000_0100]);
        assert_eq!(value(&coil, 8, bits), number("1"));
        assert_eq!(value(&coil, 9, bits), number("0"));
        coil.kind = Kind::Status;
        assert_eq!(value(&coil, 8, bits), text("true"));
        coil.scale = Scale { multiply: d("-1"), offset: d("1"), digits: None };
        assert_eq!(value(&coil, 8, bits), text("0"));

        let register = property(Kind::Accumulating, Encoding::Bit);
        assert_eq!(read(&register, &[0x0200]), number("1"));
        assert_eq!(read(&register, &[0]), number("0"));
    }

    #[test]
    fn bits_and_masks_are_taken_before_scaling() {
        let mut p = property(Kind::Instantaneous, Encoding::U16);
        p.scale.multiply = d("0.5");
        p.register.select = Select::Mask(0x0FF0);
        assert_eq!(read(&p, &[0xABCD]), number("94"));
        p.register.select = Select::Bit(15);
        assert_eq!(read(&p, &[0x8000]), number("0.5"));
        assert_eq!(read(&p, &[0x7FFF]), number("0"));
        let mut wide = property(Kind::Status, Encoding::U64);
        wide.register.select = Select::Mask(u64::MAX);
        assert_eq!(read(&wide, &[0xFFFF; 4]), text("18446744073709551615"));
    }

    #[test]
    fn invalid_values_are_compared_before_scaling() {
        let mut p = property(Kind::Instantaneous, Encoding::I16);
        p.scale.multiply = d("0.1");
        p.invalid = vec![d("-32768")];
        assert_eq!(read(&p, &[0x8000]), Err(Absent::Invalid(d("-32768"))));
        assert_eq!(read(&p, &[0x8001]), number("-3276.7"));

        let mut f = property(Kind::Instantaneous, Encoding::F32);
        f.invalid = vec![d("-9999.9")];
        assert_eq!(read(&f, &[0xC61C, 0x3F9A]), Err(Absent::Invalid(d("-9999.9"))));
    }

    #[test]
    fn an_invalid_value_too_large_for_its_bits_is_the_whole_registers() {
        let mut p = property(Kind::Instantaneous, Encoding::U16);
        p.register.select = Select::Mask(0x00F0);
        p.invalid = vec![d("15"), d("65535")];
        assert_eq!(read(&p, &[0xFFFF]), Err(Absent::Invalid(d("65535"))));
        assert_eq!(read(&p, &[0x12F4]), Err(Absent::Invalid(d("4852"))));
        assert_eq!(read(&p, &[0x000F]), number("0"), "15 in other bits is not meant");
    }

    #[test]
    fn status_numbers_are_plain_text() {
        let mut p = property(Kind::Status, Encoding::I16);
        p.scale.multiply = d("0.10");
        assert_eq!(read(&p, &[0xFF9C]), text("-10"));
    }
}
