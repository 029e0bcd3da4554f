//! Floating-point registers as exact decimals.
//!
//! A device that sends a binary fraction meant the decimal it was made from: 230.1 as a single is
//! 230.1000061…, and nobody wants those digits. The value is therefore the *shortest decimal that
//! reads back to the same bits at the same width* (for halves, singles and doubles alike), and a
//! decimal can be written to a register exactly when reading it back gives that decimal again.

use rust_decimal::{Decimal, prelude::ToPrimitive};

use super::exact::{OutOfRange, from_parts};

/// Why a float has no decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDecimal {
    /// NaN.
    #[error("not a number")]
    Nan,
    /// Positive or negative infinity.
    #[error("infinite")]
    Infinite,
    /// Too large or with too many digits.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

/// The shortest decimal of a single.
///
/// # Errors
///
/// If there is none.
pub(super) fn single(bits: u32) -> Result<Decimal, NotDecimal> {
    let value = f32::from_bits(bits);
    finite(value.into())?;
    parse(&format!("{value:e}"))
}

/// The shortest decimal of a double.
///
/// # Errors
///
/// If there is none.
pub(super) fn double(bits: u64) -> Result<Decimal, NotDecimal> {
    let value = f64::from_bits(bits);
    finite(value)?;
    parse(&format!("{value:e}"))
}

/// The shortest decimal of a half.
///
/// # Errors
///
/// If there is none.
pub(super) fn half(bits: u16) -> Result<Decimal, NotDecimal> {
    let value = half_value(bits);
    finite(value)?;
    // Five digits tell any two halves apart; most need fewer.
    let shortest = (0..4)
        .map(|digits| format!("{value:.digits$e}"))
        .find(|text| text.parse().is_ok_and(|near| nearest_half(near) == bits));
    parse(&shortest.unwrap_or_else(|| format!("{value:.4e}")))
}

/// The half that reads as exactly this decimal.
#[must_use]
pub(super) fn to_half(value: Decimal) -> Option<u16> {
    let bits = nearest_half(value.to_f64()?);
    (half(bits) == Ok(value)).then_some(bits)
}

/// The single that reads as exactly this decimal.
#[must_use]
pub(super) fn to_single(value: Decimal) -> Option<u32> {
    // From the text: by way of a double it would be rounded twice.
    let bits = value.to_string().parse::<f32>().ok()?.to_bits();
    (single(bits) == Ok(value)).then_some(bits)
}

/// The double that reads as exactly this decimal.
#[must_use]
pub(super) fn to_double(value: Decimal) -> Option<u64> {
    let bits = value.to_string().parse::<f64>().ok()?.to_bits();
    (double(bits) == Ok(value)).then_some(bits)
}

fn finite(value: f64) -> Result<(), NotDecimal> {
    if value.is_nan() {
        Err(NotDecimal::Nan)
    } else if value.is_infinite() {
        Err(NotDecimal::Infinite)
    } else {
        Ok(())
    }
}

/// Takes `-1.25e-3` as Rust writes it.
fn parse(text: &str) -> Result<Decimal, NotDecimal> {
    let parts = text.split_once('e').and_then(|(digits, exponent)| {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = fraction.trim_end_matches('0');
        let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
        let exponent: i32 = exponent.parse().ok()?;
        Some((mantissa, exponent - i32::try_from(fraction.len()).ok()?))
    });
    let (mantissa, exponent) = parts.ok_or(OutOfRange)?;
    Ok(from_parts(mantissa, if mantissa == 0 { 0 } else { exponent })?)
}

/// The value of a half (IEEE 754-2019, 3.6: 5 bits of exponent with bias 15, 10 of fraction).
fn half_value(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3FF);
    let magnitude = match i32::from(bits >> 10 & 0x1F) {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// The half nearest to a value; of two equally near ones, the even one.
///
/// Halves without their sign are in order of their bits, so it is found by bisection.
fn nearest_half(value: f64) -> u16 {
    const LARGEST: u16 = 0x7BFF;
    const INFINITY: u16 = 0x7C00;
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let magnitude = value.abs();
    if magnitude >= 65520.0 {
        // Half a step past the largest.
        return sign | INFINITY;
    }
    let (mut low, mut high) = (0, LARGEST);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if half_value(middle) <= magnitude { low = middle } else { high = middle - 1 }
    }
    let up = low.min(LARGEST - 1) + 1;
    let (below, above) = (magnitude - half_value(low), half_value(up) - magnitude);
    let nearest = if above < below || (above == below && low % 2 == 1) { up } else { low };
    sign | nearest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(text: &str) -> Decimal {
        Decimal::from_str_exact(text).expect("a decimal")
    }

    #[test]
    fn the_shortest_text_of_that_very_width_counts() {
        assert_eq!(single(230.1f32.to_bits()), Ok(d("230.1")));
        assert_eq!(single(0.1f32.to_bits()), Ok(d("0.1")));
        assert_eq!(single(16_777_216f32.to_bits()), Ok(d("16777216")));
        assert_eq!(single((-0.0f32).to_bits()), Ok(d("0")));
        assert_eq!(double(230.1f64.to_bits()), Ok(d("230.1")));
        assert_eq!(double(1e15f64.to_bits()), Ok(d("1000000000000000")));
        assert_eq!(half(0x3C00), Ok(d("1")));
        assert_eq!(half(0x2E66), Ok(d("0.1")));
        assert_eq!(half(0x5B31), Ok(d("230.1")));
        assert_eq!(half(0xC000), Ok(d("-2")));
        assert_eq!(
            half(0x7BFF),
            Ok(d("65500")),
            "largest; 65504 to the digit, told apart by three"
        );
        assert_eq!(half(0x0001), Ok(d("0.00000006")));
    }

    #[test]
    fn what_is_no_number_is_named() {
        assert_eq!(single(0x7FC0_0000), Err(NotDecimal::Nan));
        assert_eq!(single(0xFF80_0000), Err(NotDecimal::Infinite));
        assert_eq!(half(0x7C00), Err(NotDecimal::Infinite));
        assert_eq!(half(0xFE00), Err(NotDecimal::Nan));
        assert_eq!(double(1e30f64.to_bits()), Err(OutOfRange.into()));
        assert_eq!(single(1e-38f32.to_bits()), Err(OutOfRange.into()));
    }

    #[test]
    fn every_half_survives_the_way_there_and_back() {
        for bits in 0..=u16::MAX {
            if let Ok(value) = half(bits) {
                let wanted = if value.is_zero() { 0 } else { bits };
                assert_eq!(to_half(value), Some(wanted), "{bits:#06x}");
            }
        }
    }

    proptest! {
        /// A single survives the way to a decimal and back.
        #[test]
        fn singles_survive(bits in any::<u32>()) {
            if let Ok(value) = single(bits) && !value.is_zero() {
                prop_assert_eq!(to_single(value), Some(bits));
            }
        }

        /// A double survives the way to a decimal and back.
        #[test]
        fn doubles_survive(mantissa in -1e15f64..1e15) {
            if let Ok(value) = double(mantissa.to_bits()) && !value.is_zero() {
                prop_assert_eq!(to_double(value), Some(mantissa.to_bits()));
            }
        }
    }
}
