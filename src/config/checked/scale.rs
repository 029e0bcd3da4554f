//! `multiply`, `offset` and `digits`, wherever a raw value becomes one of the user's.

use rust_decimal::Decimal;

use super::super::{
    form::{Digits, Number},
    schema::{Key, Presence, Reader},
    settings::Scale,
};

pub(super) static MULTIPLY: Key<Number> = Key {
    name: "multiply",
    form: Number { not_zero: true, not_negative: false },
    presence: Presence::Default("1"),
    example: "0.1",
    doc: "The value is raw × `multiply` + `offset`, exactly, with no binary rounding.",
};

pub(super) static OFFSET: Key<Number> = Key {
    name: "offset",
    form: Number { not_zero: false, not_negative: false },
    presence: Presence::Default("0"),
    example: "-40",
    doc: "Added after multiplying.",
};

pub(super) static DIGITS: Key<Digits> = Key {
    name: "digits",
    form: Digits,
    presence: Presence::Optional("all are kept"),
    example: "2",
    doc: "Digits kept after the point, rounding half up, after scaling.",
};

pub(super) fn check(reader: &Reader<'_>) -> Option<Scale> {
    let (multiply, offset) = (reader.get(&MULTIPLY), reader.get(&OFFSET));
    let digits = reader.optional(&DIGITS);
    Some(Scale { multiply: multiply?, offset: offset?, digits })
}

/// The raw value behind a scaled one; `None` where the numbers are too large.
pub(super) fn unscaled(scale: &Scale, value: Decimal) -> Option<Decimal> {
    value.checked_sub(scale.offset)?.checked_div(scale.multiply)
}
