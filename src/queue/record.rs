//! A datum as bytes on disk: compact, exact, readable for ever.
//!
//! # Format
//!
//! | Part | Encoding |
//! | --- | --- |
//! | layout | one byte: 1 = wall time follows, 2 = boot time follows; others belong to later versions |
//! | wall time | zigzag varint, milliseconds since the epoch |
//! | boot time | 16 bytes boot ID, varint milliseconds since that boot |
//! | source | text |
//! | `i` | varint count, then as often: name (text), number |
//! | `a` | as `i` |
//! | `s` | varint count, then as often: name (text), value (text) |
//! | `t` | varint count, then as often: tag (text) |
//!
//! * *varint*: seven bits a byte, least significant first, the top bit says that more follow.
//! * *zigzag*: 0, -1, 1, -2 … become 0, 1, 2, 3 …, so that small magnitudes are short.
//! * *text*: varint length in bytes, then UTF-8.
//! * *number*: one byte scale (0 to 28), zigzag varint mantissa; value = mantissa / 10^scale. This is
//!   `rust_decimal`'s own pair, so digits and trailing zeros survive exactly.
//!
//! Nothing follows the tags. A meter with seven properties takes 90 to 110 bytes, most of it names.
//!
//! [`decode`] takes any bytes whatsoever: it never panics, never reserves more memory than the
//! bytes could describe, and refuses what [`encode`] could not have written (with one exception:
//! longer spellings of a varint are not looked for). The checksum is the log engine's business.

use rust_decimal::Decimal;

use crate::domain::{BootId, Datum, Samples, SourceId, Stamp};

const WALL: u8 = 1;
const BOOT: u8 = 2;

/// The largest record that is accepted. A unit with 500 properties of 30 letters takes 20 KB; more
/// than this is a mistake somewhere else, and would not fit into the log's length field.
pub const MAX_BYTES: usize = 60 * 1024;

/// Why bytes are not a datum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a later version, or not by this program.
    #[error("layout {0} is not known to this version")]
    Layout(u8),
    /// The bytes end within a value.
    #[error("the record ends too early")]
    TooShort,
    /// Bytes are left over.
    #[error("the record is longer than its content")]
    TooLong,
    /// A value lies outside what could have been written.
    #[error("the record holds an impossible {0}")]
    Impossible(&'static str),
}

/// The bytes of a datum.
#[must_use]
pub fn encode(datum: &Datum) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match datum.stamp {
        Stamp::Wall { unix_ms } => {
            out.push(WALL);
            put_varint(&mut out, zigzag(unix_ms.into()));
        }
        Stamp::Boot { boot, since_boot_ms } => {
            out.push(BOOT);
            out.extend_from_slice(&boot.0);
            put_varint(&mut out, since_boot_ms.into());
        }
    }
    put_text(&mut out, datum.source.as_str());
    let Samples { instantaneous, accumulating, status, tags } = &datum.samples;
    for group in [instantaneous, accumulating] {
        put_count(&mut out, group.len());
        for (name, value) in group {
            put_text(&mut out, name);
            // Decimal has at most 28 digits after the point.
            out.push(value.scale().to_le_bytes()[0]);
            put_varint(&mut out, zigzag(value.mantissa()));
        }
    }
    put_count(&mut out, status.len());
    for (name, value) in status {
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    put_count(&mut out, tags.len());
    for tag in tags {
        put_text(&mut out, tag);
    }
    out
}

/// The datum of such bytes.
///
/// # Errors
///
/// If they were not written by [`encode`] of this version.
pub fn decode(bytes: &[u8]) -> Result<Datum, RecordError> {
    let mut input = Input { bytes };
    let stamp = input.stamp()?;
    let source = input.source()?;
    let samples = Samples {
        instantaneous: input.numbers()?,
        accumulating: input.numbers()?,
        status: input.list(2, |input| Ok((input.text()?.to_owned(), input.text()?.to_owned())))?,
        tags: input.list(1, |input| Ok(input.text()?.to_owned()))?,
    };
    if input.bytes.is_empty() {
        Ok(Datum { source, stamp, samples })
    } else {
        Err(RecordError::TooLong)
    }
}

/// When the datum of such bytes was read, refused as [`decode`] refuses them, without making it.
///
/// # Errors
///
/// If [`decode`] would not take them.
pub fn check(bytes: &[u8]) -> Result<Stamp, RecordError> {
    let mut input = Input { bytes };
    let stamp = input.stamp()?;
    input.source()?;
    for _group in 0..2 {
        input.list(3, |input| {
            input.text()?;
            input.number().map(drop)
        })?;
    }
    input.list(2, |input| {
        input.text()?;
        input.text().map(drop)
    })?;
    input.list(1, |input| input.text().map(drop))?;
    if input.bytes.is_empty() { Ok(stamp) } else { Err(RecordError::TooLong) }
}

/// Only when the datum was read; spares the rest of the work where nothing else is wanted.
///
/// # Errors
///
/// If the bytes do not begin as [`encode`] begins.
pub fn decode_stamp(bytes: &[u8]) -> Result<Stamp, RecordError> {
    Input { bytes }.stamp()
}

fn zigzag(value: i128) -> u128 {
    ((value << 1) ^ (value >> 127)).cast_unsigned()
}

fn unzigzag(value: u128) -> i128 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn put_varint(out: &mut Vec<u8>, mut value: u128) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7F);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // A usize has at most 64 bits on every machine there is.
    put_varint(out, count as u128);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// What is left to be read.
struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let (first, rest) = self.bytes.split_first().ok_or(RecordError::TooShort)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(RecordError::TooShort)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u128, RecordError> {
        let mut value: u128 = 0;
        // 126 bits: more than the widest value, a zigzag mantissa of 97 bits, needs.
        for shift in (0..126).step_by(7) {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::Impossible("number"))
    }

    fn stamp(&mut self) -> Result<Stamp, RecordError> {
        match self.byte()? {
            WALL => {
                let unix_ms = i64::try_from(unzigzag(self.varint()?));
                let unix_ms = unix_ms.map_err(|_| RecordError::Impossible("time"))?;
                Ok(Stamp::Wall { unix_ms })
            }
            BOOT => {
                let boot = self.take(16)?.try_into().map_err(|_| RecordError::TooShort)?;
                let since_boot_ms = u64::try_from(self.varint()?);
                let since_boot_ms = since_boot_ms.map_err(|_| RecordError::Impossible("time"))?;
                Ok(Stamp::Boot { boot: BootId(boot), since_boot_ms })
            }
            other => Err(RecordError::Layout(other)),
        }
    }

    fn source(&mut self) -> Result<SourceId, RecordError> {
        self.text()?.parse().map_err(|_| RecordError::Impossible("source"))
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        let length = usize::try_from(self.varint()?).map_err(|_| RecordError::TooShort)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| RecordError::Impossible("text"))
    }

    fn number(&mut self) -> Result<Decimal, RecordError> {
        let scale = self.byte()?;
        let mantissa = unzigzag(self.varint()?);
        Decimal::try_from_i128_with_scale(mantissa, scale.into())
            .map_err(|_| RecordError::Impossible("number"))
    }

    fn numbers(&mut self) -> Result<Vec<(String, Decimal)>, RecordError> {
        self.list(3, |input| Ok((input.text()?.to_owned(), input.number()?)))
    }

    /// A counted list whose items take at least `smallest` bytes each.
    fn list<T>(
        &mut self,
        smallest: usize,
        item: impl Fn(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = usize::try_from(self.varint()?).map_err(|_| RecordError::TooShort)?;
        // A count that the bytes cannot hold must not reserve memory.
        if count > self.bytes.len() / smallest {
            return Err(RecordError::TooShort);
        }
        (0..count).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamps() -> impl Strategy<Value = Stamp> {
        prop_oneof![
            any::<i64>().prop_map(|unix_ms| Stamp::Wall { unix_ms }),
            (any::<[u8; 16]>(), any::<u64>()).prop_map(|(boot, since_boot_ms)| Stamp::Boot {
                boot: BootId(boot),
                since_boot_ms
            }),
        ]
    }

    fn decimals() -> impl Strategy<Value = Decimal> {
        (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>(), 0u32..=28).prop_map(
            |(lo, mid, hi, negative, scale)| Decimal::from_parts(lo, mid, hi, negative, scale),
        )
    }

    prop_compose! {
        pub(crate) fn datum()(
            stamp in stamps(),
            source in "[/a-zäöü0-9]{1,64}",
            instantaneous in prop::collection::vec((".{0,12}", decimals()), 0..6),
            accumulating in prop::collection::vec((".{0,12}", decimals()), 0..4),
            status in prop::collection::vec((".{0,12}", "\\PC{0,40}|[\u{0}-\u{1f}\"',]{0,8}"), 0..4),
            tags in prop::collection::vec(".{0,12}", 0..4),
        ) -> Datum {
            Datum {
                source: source.parse().expect("a source"),
                stamp,
                samples: Samples { instantaneous, accumulating, status, tags },
            }
        }
    }

    proptest! {
        #[test]
        fn every_datum_comes_back_exactly(datum in datum()) {
            let bytes = encode(&datum);
            let back = decode(&bytes).expect("own bytes");
            prop_assert_eq!(&back, &datum);
            // Equal decimals may differ in their trailing zeros; these must survive, too.
            prop_assert_eq!(encode(&back), bytes.clone());
            prop_assert_eq!(decode_stamp(&bytes), Ok(datum.stamp));
            prop_assert_eq!(check(&bytes), Ok(datum.stamp));
        }

        #[test]
        fn no_prefix_of_a_record_is_a_record(datum in datum(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&datum);
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes));
            let mut marked = vec![WALL];
            marked.extend(bytes);
            drop(decode(&marked));
        }

        #[test]
        fn a_damaged_record_never_makes_the_decoder_panic(
            datum in datum(), at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut bytes = encode(&datum);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            prop_assert_eq!(check(&bytes), decode(&bytes).map(|datum| datum.stamp));
        }
    }

    #[test]
    fn a_typical_meter_takes_a_hundred_bytes() {
        let number = |text: &str| text.parse::<Decimal>().expect("a decimal");
        let datum = Datum {
            source: "/site/meter/1".parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms: 1_795_341_605_123 },
            samples: Samples {
                instantaneous: vec![
                    ("watts".into(), number("2603.5")),
                    ("voltage".into(), number("230.1")),
                    ("current".into(), number("11.31")),
                    ("frequency".into(), number("49.98")),
                ],
                accumulating: vec![("wattHours".into(), number("41899999"))],
                status: vec![("opState".into(), "Normal".into())],
                tags: vec![],
            },
        };
        let bytes = encode(&datum);
        assert!((70..110).contains(&bytes.len()), "{}", bytes.len());
    }

    #[test]
    fn a_count_beyond_the_bytes_reserves_nothing() {
        let mut bytes = vec![WALL, 0, 1, b'm'];
        put_varint(&mut bytes, u128::from(u64::MAX));
        assert_eq!(decode(&bytes), Err(RecordError::TooShort));
        let mut bytes = vec![WALL, 0];
        bytes.extend([0xFF; 40]);
        assert_eq!(decode(&bytes), Err(RecordError::Impossible("number")));
    }
}
