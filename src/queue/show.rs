//! A datum as the JSON that `read`, `queue peek` and `queue export` print.

use chrono::{DateTime, SecondsFormat};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use crate::domain::{Datum, Stamp, number};

/// The members of `read`, and `seq`. A datum without a place in time has `created: null` and, instead,
/// `boot` and `sinceBootMs`.
#[must_use]
pub fn json(seq: u64, datum: &Datum, unix_ms: Option<i64>) -> Value {
    let samples = &datum.samples;
    let mut shown = json!({
        "seq": seq,
        "source": datum.source.as_str(),
        "created": unix_ms.and_then(created),
        "i": numbers(&samples.instantaneous),
        "a": numbers(&samples.accumulating),
        "s": samples.status.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "t": samples.tags,
        "failed": [],
    });
    if let (None, Stamp::Boot { boot, since_boot_ms }) = (unix_ms, datum.stamp) {
        shown["boot"] = hex::encode(boot.0).into();
        shown["sinceBootMs"] = since_boot_ms.into();
    }
    shown
}

/// RFC 3339 with milliseconds, UTC.
#[must_use]
pub fn created(unix_ms: i64) -> Option<String> {
    let time = DateTime::from_timestamp_millis(unix_ms)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The numbers of a group, digit by digit and not by way of a float.
#[must_use]
pub fn numbers(group: &[(String, Decimal)]) -> Value {
    let number = |value: &Decimal| -> Value {
        let text = number::plain(*value);
        // A plain decimal is a JSON number; as text it would still say the same.
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    let members = group.iter().map(|(name, value)| (name.clone(), number(value)));
    Value::Object(members.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BootId, Samples};

    #[test]
    fn numbers_keep_every_digit_and_an_unplaced_datum_says_what_it_knows() {
        let datum = Datum {
            source: "/m".parse().expect("a source"),
            stamp: Stamp::Boot { boot: BootId([1; 16]), since_boot_ms: 5 },
            samples: Samples {
                accumulating: vec![(
                    "wattHours".into(),
                    "7922816251426433759354395.0335".parse().expect("a decimal"),
                )],
                ..Samples::default()
            },
        };
        assert_eq!(
            json(3, &datum, None).to_string(),
            r#"{"seq":3,"source":"/m","created":null,"i":{},"a":{"wattHours":7922816251426433759354395.0335},"s":{},"t":[],"failed":[],"boot":"01010101010101010101010101010101","sinceBootMs":5}"#
        );
        let placed = json(3, &datum, Some(1_795_341_605_007));
        assert_eq!(placed["created"], "2026-11-22T10:00:05.007Z");
        assert!(placed.get("boot").is_none());
    }
}
