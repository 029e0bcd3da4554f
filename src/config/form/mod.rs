//! The forms values take: how each is spelled, bounded, and asked for when it is wrong.

mod number;
mod quantity;
mod text;

pub(super) use number::{Digits, Number, RawNumber, RawNumbers, Register, Whole};
pub(super) use quantity::{Rate, Size, Span, SpanOrNever, span, span_text};
pub(super) use text::{
    Choice, Endpoint, File, Flag, LABEL, Listed, Named, Parsed, Texts, Url, label,
};
