//! Numbers as texts: whether two mean the same, however they are written.

use serde_json::Number;

/// Digits without zeros at either end, and the power of ten behind them.
#[derive(Debug, PartialEq, Eq)]
struct Value {
    negative: bool,
    digits: String,
    exponent: i64,
}

/// `None` for an exponent that no number has.
fn value(text: &str) -> Option<Value> {
    let (text, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0').trim_end_matches('0').to_owned();
    let dropped = all.len() - all.trim_end_matches('0').len();
    let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let exponent = exponent.checked_add(i64::try_from(dropped).ok()?)?;
    let zero = digits.is_empty();
    Some(Value { negative: negative && !zero, digits, exponent: if zero { 0 } else { exponent } })
}

/// Whether they mean the same.
pub(crate) fn is_same(one: &Number, other: &Number) -> bool {
    let (one, other) = (one.to_string(), other.to_string());
    one == other || value(&one).is_some_and(|one| Some(one) == value(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_by_what_they_mean() {
        let same = |one: &str, other: &str| {
            is_same(&serde_json::from_str(one).unwrap(), &serde_json::from_str(other).unwrap())
        };
        for (one, other) in [
            ("230.50", "230.5"),
            ("1.2E+3", "1200"),
            ("0.00", "-0"),
            ("0.00000015", "1.5e-7"),
            ("99999999999999999999999.10", "99999999999999999999999.1"),
        ] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [("12", "1200"), ("1", "-1"), ("0.1", "0.10000000000000001")] {
            assert!(!same(one, other), "{one} {other}");
        }
    }
}
