//! `register = { … }` of a property, and what it shares with `write = { … }` of a control: how a
//! value is encoded.

use std::time::Duration;

use rust_decimal::Decimal;

use super::{
    super::{
        form::{Choice, RawNumber, Span, Whole},
        problem::Problems,
        schema::{Form, Key, Presence, Reader, Section},
        settings::{Encoding, Order, Register, Select, Table},
        written,
    },
    place::{self, ADDRESS, NUMBER},
};

pub(super) static SECTION: Section = Section {
    heading: "register = { … }",
    doc: "Where a property's value stands and how it is encoded.",
    keys: &[&TABLE, &ADDRESS, &NUMBER, &TYPE, &LENGTH, &WORD_ORDER, &BYTE_ORDER, &BIT, &MASK],
    tables: &[],
    refused: &[],
};

static TABLE: Key<Choice<Table>> = Key {
    name: "table",
    form: Choice {
        options: &[
            ("coil", Table::Coil),
            ("discrete", Table::Discrete),
            ("input", Table::Input),
            ("holding", Table::Holding),
        ],
        aliases: &[],
        refused: &[],
    },
    presence: Presence::Optional("the table that `number` names; with `address` it must be there"),
    example: "\"input\"",
    doc: "Which of the unit's four tables: coils (function 1), discrete inputs (2), holding \
          registers (3), input registers (4).",
};

/// The names of the types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Sized(Encoding),
    /// With a length in registers.
    Bytes,
    Utf8,
    Ascii,
}

static TYPE: Key<Choice<Type>> = Key {
    name: "type",
    form: Choice {
        options: &[
            ("bit", Type::Sized(Encoding::Bit)),
            ("i16", Type::Sized(Encoding::I16)),
            ("u16", Type::Sized(Encoding::U16)),
            ("i32", Type::Sized(Encoding::I32)),
            ("u32", Type::Sized(Encoding::U32)),
            ("i64", Type::Sized(Encoding::I64)),
            ("u64", Type::Sized(Encoding::U64)),
            ("f16", Type::Sized(Encoding::F16)),
            ("f32", Type::Sized(Encoding::F32)),
            ("f64", Type::Sized(Encoding::F64)),
            ("bytes", Type::Bytes),
            ("utf8", Type::Utf8),
            ("ascii", Type::Ascii),
        ],
        aliases: &[("b", Type::Bytes), ("s", Type::Utf8), ("a", Type::Ascii)],
        refused: &[
            ("bool", "\"bit\""),
            ("int16", "\"i16\""),
            ("uint16", "\"u16\""),
            ("int32", "\"i32\""),
            ("uint32", "\"u32\""),
            ("int64", "\"i64\""),
            ("uint64", "\"u64\""),
            ("float", "\"f32\""),
            ("float32", "\"f32\""),
            ("double", "\"f64\""),
            ("float64", "\"f64\""),
            ("string", "\"utf8\" or \"ascii\""),
        ],
    },
    presence: Presence::Optional(
        "`\"bit\"` for coils and discrete inputs; otherwise it must be there",
    ),
    example: "\"f32\"",
    doc: "How the value is encoded: `i` signed, `u` unsigned, `f` IEEE 754, with the number of \
          bits. `bit` of a register is whether it is not 0. `bytes` become hexadecimal digits; \
          SolarNode's `b`, `s` and `a` mean `bytes`, `utf8` and `ascii`.",
};

static LENGTH: Key<Whole<u16>> = Key {
    name: "length",
    form: Whole { min: 1, max: 125, unit: "registers" },
    presence: Presence::Optional("for `bytes`, `utf8` and `ascii` it must be there"),
    example: "8",
    doc: "How long a text is. Only for `bytes`, `utf8` and `ascii`.",
};

/// The order of words or bytes, wherever one stands.
pub(super) const ORDER: Choice<Order> = Choice {
    options: &[("big", Order::Big), ("little", Order::Little)],
    aliases: &[],
    refused: &[],
};

/// How long an answer may take, wherever that stands.
pub(super) const TIMEOUT: Span =
    Span { min: Duration::from_millis(10), max: Duration::from_secs(60) };

pub(super) static WORD_ORDER: Key<Choice<Order>> = Key {
    name: "word_order",
    form: ORDER,
    presence: Presence::Optional("the unit's; of a control `\"big\"`"),
    example: "\"little\"",
    doc: "The order of the registers of a value of several registers: `big` has the most \
          significant first. A property takes it in `register` or beside it, not both. Texts \
          ignore it.",
};

pub(super) static BYTE_ORDER: Key<Choice<Order>> = Key {
    name: "byte_order",
    form: ORDER,
    presence: Presence::Optional("the unit's; of a control `\"big\"`"),
    example: "\"little\"",
    doc: "The order of the two bytes in each register. A property takes it in `register` or beside \
          it, not both.",
};

pub(super) static BIT: Key<Whole<u8>> = Key {
    name: "bit",
    form: Whole { min: 0, max: 63, unit: "" },
    presence: Presence::Optional("all bits"),
    example: "3",
    doc: "Takes one bit of a `u16`, `u32` or `u64`, as 0 or 1; bit 0 is the least significant. In \
          `register` or beside it, not both, and not with `mask`.",
};

pub(super) static MASK: Key<Whole<u64>> = Key {
    name: "mask",
    form: Whole { min: 1, max: u64::MAX, unit: "" },
    presence: Presence::Optional("all bits"),
    example: "0x0F00",
    doc: "Takes the bits of a `u16`, `u32` or `u64` that are set in the mask, shifted down to bit \
          0. In `register` or beside it, not both, and not with `bit`.",
};

/// The orders that a unit gives its properties.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orders {
    pub(super) word: Order,
    pub(super) byte: Order,
}

/// Reads where a property's value stands. `beside` is the property, `table` its `register`.
pub(super) fn check(
    beside: &Reader<'_>,
    table: &written::Table,
    orders: Orders,
    problems: &Problems,
) -> Option<Register> {
    let register = Reader::new(table, &SECTION, problems);
    let place = place::find(&register, &TABLE);
    let encoding = encoding(&register, place.map(|(table, _)| table));
    let word_order = either(beside, &register, &WORD_ORDER);
    let byte_order = either(beside, &register, &BYTE_ORDER);
    let bit = either(beside, &register, &BIT);
    let mask = either(beside, &register, &MASK);
    let (table, address) = place?;
    let encoding = encoding?;
    place::check_end(&register, address, encoding);
    let select = if place::is_bits(table) {
        for name in [WORD_ORDER.name, BYTE_ORDER.name, BIT.name, MASK.name] {
            for reader in [beside, &register].into_iter().filter(|reader| reader.has(name)) {
                let expected = "nothing: a coil or discrete input is one bit";
                reader.error(name, reader.shown(name), expected);
            }
        }
        Select::All
    } else {
        select(beside, &register, encoding, bit, mask)?
    };
    Some(Register {
        table,
        address,
        encoding,
        word_order: word_order.unwrap_or(orders.word),
        byte_order: byte_order.unwrap_or(orders.byte),
        select,
    })
}

fn encoding(register: &Reader<'_>, table: Option<Table>) -> Option<Encoding> {
    let bits = table.map(place::is_bits);
    if !register.has(TYPE.name) {
        if bits == Some(false) {
            register.error(TYPE.name, "nothing", "a type such as \"u16\" or \"f32\"");
        }
        return (bits == Some(true)).then_some(Encoding::Bit);
    }
    let found = register.optional(&TYPE)?;
    if bits == Some(true) && found != Type::Sized(Encoding::Bit) {
        let expected = "\"bit\": coils and discrete inputs are single bits";
        register.error(TYPE.name, register.shown(TYPE.name), expected);
        return None;
    }
    let of_length: fn(u16) -> Encoding = match found {
        Type::Sized(encoding) => {
            if register.has(LENGTH.name) {
                let expected = format!("nothing: {} has its own length", register.shown(TYPE.name));
                register.error(LENGTH.name, register.shown(LENGTH.name), expected);
            }
            return Some(encoding);
        }
        Type::Bytes => Encoding::Bytes,
        Type::Utf8 => Encoding::Utf8,
        Type::Ascii => Encoding::Ascii,
    };
    if !register.has(LENGTH.name) {
        register.error(LENGTH.name, "nothing", "the length of the text in registers");
    }
    Some(of_length(register.optional(&LENGTH)?))
}

/// The value of a key that may stand in either of two tables.
fn either<F: Form>(beside: &Reader<'_>, register: &Reader<'_>, key: &Key<F>) -> Option<F::Out> {
    if beside.has(key.name) && register.has(key.name) {
        let expected = "it in `register` or beside it, not both";
        beside.error(key.name, format!("{} here and in `register`", key.name), expected);
    }
    register.optional(key).or_else(|| beside.optional(key))
}

fn select(
    beside: &Reader<'_>,
    register: &Reader<'_>,
    encoding: Encoding,
    bit: Option<u8>,
    mask: Option<u64>,
) -> Option<Select> {
    let at = |name: &'static str| if register.has(name) { register } else { beside };
    let (name, select, highest) = match (bit, mask) {
        (None, None) => return Some(Select::All),
        (Some(_), Some(_)) => {
            at(MASK.name).error(MASK.name, "`bit` as well", "`bit` or `mask`, not both");
            return None;
        }
        (Some(bit), None) => (BIT.name, Select::Bit(bit), u32::from(bit)),
        (None, Some(mask)) => (MASK.name, Select::Mask(mask), mask.ilog2()),
    };
    let width = match encoding {
        Encoding::U16 | Encoding::U32 | Encoding::U64 => u32::from(encoding.words()) * 16,
        _ => {
            let expected = "nothing, or an unsigned type: \"u16\", \"u32\" or \"u64\"";
            at(name).error(name, at(name).shown(name), expected);
            return None;
        }
    };
    if highest >= width {
        let expected = format!("bits 0 to {} of a u{width}", width - 1);
        at(name).error(name, at(name).shown(name), expected);
        return None;
    }
    Some(select)
}

/// The smallest and largest raw value of a whole-number encoding.
pub(super) fn raw_range(encoding: Encoding) -> Option<(Decimal, Decimal)> {
    Some(match encoding {
        Encoding::Bit => (Decimal::ZERO, Decimal::ONE),
        Encoding::I16 => (i16::MIN.into(), i16::MAX.into()),
        Encoding::U16 => (Decimal::ZERO, u16::MAX.into()),
        Encoding::I32 => (i32::MIN.into(), i32::MAX.into()),
        Encoding::U32 => (Decimal::ZERO, u32::MAX.into()),
        Encoding::I64 => (i64::MIN.into(), i64::MAX.into()),
        Encoding::U64 => (Decimal::ZERO, u64::MAX.into()),
        Encoding::F16
        | Encoding::F32
        | Encoding::F64
        | Encoding::Bytes(_)
        | Encoding::Utf8(_)
        | Encoding::Ascii(_) => return None,
    })
}

/// A raw number as a value of the encoding, or what the encoding can have.
pub(super) fn raw_value(raw: RawNumber, encoding: Encoding) -> Result<Decimal, String> {
    let Some((min, max)) = raw_range(encoding) else {
        return match raw {
            RawNumber::Number(number) => Ok(number),
            RawNumber::Bits(_) => {
                Err("decimal numbers, as the type is a floating point one".into())
            }
        };
    };
    let number = match (raw, encoding) {
        (RawNumber::Number(number), _) => number,
        (RawNumber::Bits(bits), Encoding::I16) => match u16::try_from(bits) {
            Ok(bits) => bits.cast_signed().into(),
            Err(_) => bits.into(),
        },
        (RawNumber::Bits(bits), Encoding::I32) => match u32::try_from(bits) {
            Ok(bits) => bits.cast_signed().into(),
            Err(_) => bits.into(),
        },
        (RawNumber::Bits(bits), Encoding::I64) => bits.cast_signed().into(),
        (RawNumber::Bits(bits), _) => bits.into(),
    };
    if number < min || number > max || !number.fract().is_zero() {
        return Err(format!("whole numbers between {min} and {max}, which the type can have"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_patterns_of_signed_types_are_signed() {
        let bits = |bits, encoding| raw_value(RawNumber::Bits(bits), encoding);
        assert_eq!(bits(0x8000, Encoding::I16), Ok(i16::MIN.into()));
        assert_eq!(bits(0xFFFF_FFFF, Encoding::I32), Ok(Decimal::NEGATIVE_ONE));
        assert_eq!(bits(u64::MAX, Encoding::I64), Ok(Decimal::NEGATIVE_ONE));
        assert_eq!(bits(u64::MAX, Encoding::U64), Ok(u64::MAX.into()));
        assert!(bits(0x1_0000, Encoding::I16).is_err());
        assert!(bits(2, Encoding::Bit).is_err());
        assert!(raw_value(RawNumber::Number(Decimal::new(5, 1)), Encoding::U16).is_err());
    }
}
