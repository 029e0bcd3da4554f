//! The short form of a datum, for a stream whose names the server already has in order.
//!
//! ```text
//! [ milliseconds, stream ID high half, low half (signed), [i…]|null, [a…]|null, [s…]|null, [t…]|null ]
//! ```
//!
//! Only a datum of which the server's metadata names every property can be said this way; others go out as
//! objects, and add what they have to the metadata. Names are appended by the server and never move, so
//! metadata that was fetched once stays true for the names in it.
//!
//! A stream that is unknown or another node's fails the whole request over HTTPS, which an object never does.

use rust_decimal::Decimal;
use serde_json::Value;

use crate::domain::Datum;

/// The names of a stream's properties, in the server's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMetadata {
    /// The two halves of the stream's UUID. Neither is zero.
    pub halves: [i64; 2],
    /// Whose stream it is.
    pub source: String,
    /// Names of instantaneous readings.
    pub instantaneous: Vec<String>,
    /// Names of accumulating readings.
    pub accumulating: Vec<String>,
    /// Names of status values.
    pub status: Vec<String>,
}

/// A datum, put into the order of its stream. Groups have no missing values at their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// When it was read; above zero.
    pub unix_ms: i64,
    /// The stream's UUID.
    pub halves: [i64; 2],
    /// `i`
    pub instantaneous: Vec<Option<Decimal>>,
    /// `a`
    pub accumulating: Vec<Option<Decimal>>,
    /// `s`
    pub status: Vec<Option<&'a str>>,
    /// `t`
    pub tags: &'a [String],
}

impl StreamMetadata {
    /// Reads one metadata object as SolarIn and SolarQuery give it; `None` if it cannot be used.
    #[must_use]
    pub fn read(object: &Value) -> Option<Self> {
        let names = |member: &str| -> Option<Vec<String>> {
            match object.get(member) {
                None | Some(Value::Null) => Some(Vec::new()),
                Some(Value::Array(names)) => {
                    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
                }
                Some(_) => None,
            }
        };
        let uuid = object.get("streamId")?.as_str()?;
        let digits: String = uuid.chars().filter(|c| *c != '-').collect();
        let bytes: [u8; 16] = hex::decode(digits).ok()?.try_into().ok()?;
        let id = i128::from_be_bytes(bytes);
        let halves = [(id >> 64) as i64, id as i64];
        if halves.contains(&0) {
            return None;
        }
        Some(Self {
            halves,
            source: object.get("sourceId")?.as_str()?.to_owned(),
            instantaneous: names("i")?,
            accumulating: names("a")?,
            status: names("s")?,
        })
    }

    /// The datum in the order of this stream, unless it has a property that the metadata does not name, belongs to
    /// another source, or is of a time that the server refuses in this form.
    #[must_use]
    pub fn row<'a>(&self, datum: &'a Datum, unix_ms: i64) -> Option<Row<'a>> {
        if unix_ms < 1 || datum.source.as_str() != self.source {
            return None;
        }
        let samples = &datum.samples;
        Some(Row {
            unix_ms,
            halves: self.halves,
            instantaneous: ordered(&self.instantaneous, &samples.instantaneous, |value| *value)?,
            accumulating: ordered(&self.accumulating, &samples.accumulating, |value| *value)?,
            status: ordered(&self.status, &samples.status, String::as_str)?,
            tags: &samples.tags,
        })
    }
}

fn ordered<'a, T, U: Clone>(
    names: &[String],
    group: &'a [(String, T)],
    value: impl Fn(&'a T) -> U,
) -> Option<Vec<Option<U>>> {
    let mut ordered = Vec::new();
    for (name, given) in group {
        let at = names.iter().position(|known| known == name)?;
        if ordered.len() <= at {
            ordered.resize(at + 1, None);
        }
        ordered[at] = Some(value(given));
    }
    Some(ordered)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{Samples, Stamp};

    fn metadata() -> Value {
        json!({
            "streamId": "0f8fad5b-d9cb-469f-a165-70867728950e", "sourceId": "/m",
            "i": ["watts", "volts", "amps"], "s": ["mode"]
        })
    }

    fn datum(i: &[(&str, i64)], a: &[(&str, i64)]) -> Datum {
        let group = |group: &[(&str, i64)]| {
            group.iter().map(|(name, value)| ((*name).to_owned(), Decimal::from(*value))).collect()
        };
        Datum {
            source: "/m".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 5 },
            samples: Samples {
                instantaneous: group(i),
                accumulating: group(a),
                ..Samples::default()
            },
        }
    }

    #[test]
    fn values_take_the_servers_order_and_what_ends_a_group_is_left_out() {
        let metadata = StreamMetadata::read(&metadata()).expect("metadata");
        assert_eq!(metadata.halves, [1_121_305_442_246_149_791, -6_816_918_738_128_300_786]);
        let datum = datum(&[("volts", 230)], &[]);
        let row = metadata.row(&datum, 5).expect("a row");
        assert_eq!(row.instantaneous, [None, Some(Decimal::from(230))]);
        assert_eq!((row.accumulating.len(), row.status.len()), (0, 0));
    }

    #[test]
    fn a_datum_that_the_metadata_does_not_cover_is_no_row() {
        let metadata = StreamMetadata::read(&metadata()).expect("metadata");
        let known = datum(&[("watts", 1)], &[]);
        assert!(metadata.row(&known, 1).is_some());
        assert!(metadata.row(&known, 0).is_none(), "a time that the server refuses");
        assert!(metadata.row(&datum(&[("hertz", 50)], &[]), 5).is_none(), "a new name");
        assert!(metadata.row(&datum(&[], &[("watts", 1)]), 5).is_none(), "in another group");
        let mut other = known.clone();
        other.source = "/n".parse().expect("a source");
        assert!(metadata.row(&other, 5).is_none(), "another source");
    }

    #[test]
    fn a_stream_with_a_zero_half_cannot_be_named() {
        let mut metadata = metadata();
        metadata["streamId"] = json!("00000000-0000-0000-a165-70867728950e");
        assert_eq!(StreamMetadata::read(&metadata), None);
    }
}
