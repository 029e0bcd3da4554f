//! Decimal numbers as text.

use rust_decimal::Decimal;

/// The shortest plain text of a number: no exponent, no trailing zeros after the point.
///
/// `230.50` and `230.5` are one number to the server; the shorter text is what it would give back.
#[must_use]
pub fn plain(value: Decimal) -> String {
    let value = value.normalize();
    if value.is_zero() { "0".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_shortest() {
        for (text, want) in [
            ("230.50", "230.5"),
            ("1200", "1200"),
            ("0.00", "0"),
            ("-0.0", "0"),
            ("-12.340", "-12.34"),
        ] {
            assert_eq!(plain(text.parse().expect("a decimal")), want);
        }
    }
}
