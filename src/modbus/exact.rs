//! Arithmetic on readings without a rounding that nobody asked for.
//!
//! A [`Decimal`] holds 96 bits, about 28 digits, and its own operators round silently when a result
//! needs more. Here a number is a 128-bit integer and a scale, so that a 64-bit counter times a
//! factor of 18 digits is still exact; whatever does not fit even there, or does not fit into a
//! [`Decimal`] at the end, is [`OutOfRange`] and never a nearby value.

use rust_decimal::Decimal;

use crate::config::settings::Scale;

/// A result that would have to be rounded to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("outside the range of exact numbers (28 digits)")]
pub struct OutOfRange;

/// `mantissa / 10^scale`.
#[derive(Debug, Clone, Copy)]
struct Exact {
    mantissa: i128,
    scale: u32,
}

/// `raw × multiply + offset`, rounded half up (away from zero) to `digits` where given.
///
/// # Errors
///
/// If the exact result does not fit.
pub(super) fn scaled(raw: Decimal, scale: &Scale) -> Result<Decimal, OutOfRange> {
    if scale.multiply == Decimal::ONE && scale.offset.is_zero() && scale.digits.is_none() {
        return Ok(raw);
    }
    let mut value = Exact::from(raw).times(Exact::from(scale.multiply))?;
    if !scale.offset.is_zero() {
        value = value.plus(Exact::from(scale.offset))?;
    }
    if let Some(digits) = scale.digits {
        value = value.rounded(digits);
    }
    value.decimal()
}

/// The raw value from which [`scaled`] makes `value`, `digits` aside; `None` if there is none that
/// a [`Decimal`] can hold.
#[must_use]
pub(super) fn unscaled(value: Decimal, scale: &Scale) -> Option<Decimal> {
    let exact = Scale { digits: None, ..*scale };
    let negative = Scale { multiply: Decimal::ONE, offset: -scale.offset, digits: None };
    let raw = scaled(value, &negative).ok()?.checked_div(scale.multiply)?;
    (scaled(raw, &exact) == Ok(value)).then(|| raw.normalize())
}

/// `mantissa × 10^exponent` as a decimal.
///
/// # Errors
///
/// If it does not fit.
pub(super) fn from_parts(mantissa: i128, exponent: i32) -> Result<Decimal, OutOfRange> {
    let power = exponent.unsigned_abs();
    if exponent <= 0 {
        return Exact { mantissa, scale: power }.decimal();
    }
    let mantissa = ten_to(power).and_then(|ten| mantissa.checked_mul(ten)).ok_or(OutOfRange)?;
    Exact { mantissa, scale: 0 }.decimal()
}

fn ten_to(power: u32) -> Option<i128> {
    10_i128.checked_pow(power)
}

impl From<Decimal> for Exact {
    fn from(value: Decimal) -> Self {
        Self { mantissa: value.mantissa(), scale: value.scale() }.shortest()
    }
}

impl Exact {
    fn shortest(mut self) -> Self {
        while self.scale > 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.scale -= 1;
        }
        self
    }

    fn times(self, other: Self) -> Result<Self, OutOfRange> {
        let mantissa = self.mantissa.checked_mul(other.mantissa).ok_or(OutOfRange)?;
        Ok(Self { mantissa, scale: self.scale + other.scale }.shortest())
    }

    fn plus(self, other: Self) -> Result<Self, OutOfRange> {
        let scale = self.scale.max(other.scale);
        let a = self.widened(scale).ok_or(OutOfRange)?;
        let b = other.widened(scale).ok_or(OutOfRange)?;
        Ok(Self { mantissa: a.checked_add(b).ok_or(OutOfRange)?, scale }.shortest())
    }

    /// The mantissa at a larger scale.
    fn widened(self, scale: u32) -> Option<i128> {
        self.mantissa.checked_mul(ten_to(scale - self.scale)?)
    }

    fn rounded(self, digits: u32) -> Self {
        let Some(cut) = self.scale.checked_sub(digits).filter(|cut| *cut > 0) else { return self };
        // More digits to cut than an i128 has: what is left is less than a half.
        let Some(unit) = ten_to(cut) else { return Self { mantissa: 0, scale: 0 } };
        let (whole, rest) = (self.mantissa / unit, self.mantissa % unit);
        let up = if rest.unsigned_abs() >= unit.unsigned_abs() / 2 { rest.signum() } else { 0 };
        Self { mantissa: whole + up, scale: digits }.shortest()
    }

    fn decimal(self) -> Result<Decimal, OutOfRange> {
        let short = self.shortest();
        Decimal::try_from_i128_with_scale(short.mantissa, short.scale).map_err(|_| OutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(text: &str) -> Decimal {
        Decimal::from_str_exact(text).expect("a decimal")
    }

    fn scale(multiply: &str, offset: &str, digits: Option<u32>) -> Scale {
        Scale { multiply: d(multiply), offset: d(offset), digits }
    }

    #[test]
    fn results_are_exact_or_refused() {
        let max = "18446744073709551615";
        for (raw, multiply, offset, digits, want) in [
            ("2301", "0.1", "0", None, Some("230.1")),
            (max, "0.001", "0", None, Some("18446744073709551.615")),
            (max, "1.2345678901", "0", None, None),
            (max, "1.2345678901", "0", Some(3), Some("22773757910294280017.548")),
            (max, "79228162514264337593543950335", "0", None, None),
            (
                "3",
                "0.0000000000000000000000000001",
                "0",
                None,
                Some("0.0000000000000000000000000003"),
            ),
            ("100", "1.8", "32", None, Some("212")),
            ("-273", "1", "273.15", Some(1), Some("0.2")),
            ("5", "1", "0", Some(0), Some("5")),
        ] {
            let result = scaled(d(raw), &scale(multiply, offset, digits));
            assert_eq!(result.ok(), want.map(d), "{raw} × {multiply} + {offset} to {digits:?}");
        }
    }

    #[test]
    fn halves_go_away_from_zero() {
        for (raw, digits, want) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("0.125", 2, "0.13"),
            ("2.4999", 0, "2"),
            ("-0.4", 0, "0"),
        ] {
            assert_eq!(scaled(d(raw), &scale("1", "0", Some(digits))), Ok(d(want)), "{raw}");
        }
    }

    #[test]
    fn going_back_is_exact_or_nothing() {
        assert_eq!(unscaled(d("21.5"), &scale("0.1", "0", None)), Some(d("215")));
        assert_eq!(unscaled(d("212"), &scale("1.8", "32", None)), Some(d("100")));
        assert_eq!(unscaled(d("1"), &scale("3", "0", None)), None);
        assert_eq!(unscaled(d("1"), &scale("0", "0", None)), None);
    }

    proptest! {
        /// What was scaled without rounding can be scaled back to where it came from.
        #[test]
        fn scaling_back_finds_the_raw_value(raw in any::<i32>(), m in 1i64..100_000, e in 0u32..6, o in any::<i32>()) {
            let scale = Scale { multiply: Decimal::new(m, e), offset: Decimal::new(o.into(), 3), digits: None };
            let value = scaled(raw.into(), &scale).expect("fits");
            prop_assert_eq!(unscaled(value, &scale), Some(raw.into()));
        }
    }
}
