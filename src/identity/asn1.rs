//! ASN.1 as certificates and key stores use it: elements read one after another, and written. Pure.
//!
//! An element is a tag, a length and contents. What is read here is DER, where each value has one form.
//! Some Java libraries write key stores and chains in BER, where lengths may be open and texts of bytes
//! in pieces; [`to_der`] makes DER of that first. Tags above 30 occur in none of the formats read here and are
//! refused, as is anything nested deeper than 32.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use zeroize::Zeroizing;

/// INTEGER.
pub(super) const INTEGER: u8 = 0x02;
/// BIT STRING.
pub(super) const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub(super) const OCTET_STRING: u8 = 0x04;
/// NULL.
pub(super) const NULL: u8 = 0x05;
/// OBJECT IDENTIFIER.
pub(super) const OID: u8 = 0x06;
/// BMPString: UTF-16, big end first.
pub(super) const BMP_STRING: u8 = 0x1e;
/// UTCTime.
const UTC_TIME: u8 = 0x17;
/// GeneralizedTime.
const GENERALIZED_TIME: u8 = 0x18;
/// SEQUENCE.
pub(super) const SEQUENCE: u8 = 0x30;
/// SET.
pub(super) const SET: u8 = 0x31;

/// An OCTET STRING in pieces, as BER has it.
const OCTET_STRING_IN_PIECES: u8 = 0x24;

/// How deep elements may lie in each other.
const MAX_DEPTH: usize = 32;

/// `[number]` around another element.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// `[number]` in the place of a primitive's own tag.
pub(super) const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// Bytes that are not the ASN.1 they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or not well-formed")]
pub struct Malformed(pub(super) &'static str);

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) contents: &'a [u8],
    /// Tag and length included.
    pub(super) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// What is inside it.
    pub(super) fn inside(self) -> Reader<'a> {
        Reader(self.contents)
    }

    /// The bits of a BIT STRING that has whole bytes.
    pub(super) fn bits(self) -> Option<&'a [u8]> {
        (self.tag == BIT_STRING).then_some(())?;
        self.contents.strip_prefix(&[0])
    }

    /// A small INTEGER that is not negative.
    pub(super) fn number(self) -> Option<u32> {
        let fits = self.tag == INTEGER && (1..=5).contains(&self.contents.len());
        if !fits || self.contents[0] & 0x80 != 0 {
            return None;
        }
        let wide = self.contents.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        u32::try_from(wide).ok()
    }

    /// UTCTime or GeneralizedTime, in the form that certificates have: with seconds and `Z`.
    pub(super) fn time(self) -> Option<DateTime<Utc>> {
        let text = std::str::from_utf8(self.contents).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match (self.tag, text.len()) {
            (UTC_TIME, 12) => {
                let short: i32 = text[..2].parse().ok()?;
                // RFC 5280, 4.1.2.5.1
                (if short < 50 { 2000 + short } else { 1900 + short }, &text[2..])
            }
            (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
            _ => return None,
        };
        let part = |at: usize| rest[at..at + 2].parse::<u32>().ok();
        let day = NaiveDate::from_ymd_opt(year, part(0)?, part(2)?)?;
        let at: NaiveDateTime = day.and_hms_opt(part(4)?, part(6)?, part(8)?)?;
        Some(at.and_utc())
    }
}

/// Reads elements one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self, what: &'static str) -> Result<Element<'a>, Malformed> {
        let (tag, header, length) = header(self.0).ok_or(Malformed(what))?;
        let end = length.and_then(|length| header.checked_add(length)).ok_or(Malformed(what))?;
        let whole = self.0.get(..end).ok_or(Malformed(what))?;
        self.0 = &self.0[end..];
        Ok(Element { tag, contents: &whole[header..], whole })
    }

    /// The next element, which has this tag.
    pub(super) fn expect(&mut self, tag: u8, what: &'static str) -> Result<Element<'a>, Malformed> {
        self.optional(tag, what)?.ok_or(Malformed(what))
    }

    /// The next element if it has this tag.
    pub(super) fn optional(
        &mut self,
        tag: u8,
        what: &'static str,
    ) -> Result<Option<Element<'a>>, Malformed> {
        if self.0.first() == Some(&tag) { self.any(what).map(Some) } else { Ok(None) }
    }

    /// What is inside the next element, a SEQUENCE.
    pub(super) fn sequence(&mut self, what: &'static str) -> Result<Reader<'a>, Malformed> {
        self.expect(SEQUENCE, what).map(Element::inside)
    }
}

/// Tag, length of the header, and length of the contents; `None` for the last where it is open.
fn header(bytes: &[u8]) -> Option<(u8, usize, Option<usize>)> {
    let (tag, first) = (*bytes.first()?, *bytes.get(1)?);
    if tag & 0x1f == 0x1f {
        return None;
    }
    match first {
        0x80 => Some((tag, 2, None)),
        0..0x80 => Some((tag, 2, Some(usize::from(first)))),
        _ => {
            let count = usize::from(first & 0x7f);
            // Four bytes say 4 GiB; nothing that is read here has that.
            let digits = bytes.get(2..2 + count).filter(|_| count <= 4)?;
            let length = digits.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            Some((tag, 2 + count, Some(length)))
        }
    }
}

/// The first element of `bytes` in DER; what follows it is left out.
/// It is wiped on drop, since it may hold a key.
pub(super) fn to_der(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(Vec::with_capacity(bytes.len()));
    rewrite(bytes, MAX_DEPTH, &mut der)?;
    Some(der)
}

/// Writes the first element of `bytes` to `der`. Returns how long it was.
fn rewrite(bytes: &[u8], depth: usize, der: &mut Vec<u8>) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    let (tag, header, length) = header(bytes)?;
    let is_primitive = tag & 0x20 == 0;
    if is_primitive {
        let end = header.checked_add(length?)?;
        push_element(der, tag, bytes.get(header..end)?);
        return Some(end);
    }
    let limit = match length {
        Some(length) => header.checked_add(length)?,
        None => bytes.len(),
    };
    let bytes = bytes.get(..limit)?;
    // As much room as its DER takes: a buffer that grows leaves copies behind. An open length has pieces that grow.
    let (mut at, mut inside) = (header, Zeroizing::new(Vec::with_capacity(length.unwrap_or(0))));
    let end = loop {
        match (length, bytes.get(at..)?) {
            (None, [0, 0, ..]) => break at + 2,
            (Some(_), []) => break at,
            (_, rest) => at += rewrite(rest, depth, &mut inside)?,
        }
    };
    if tag == OCTET_STRING_IN_PIECES {
        push_element(der, OCTET_STRING, &joined(&inside)?);
    } else {
        push_element(der, tag, &inside);
    }
    Some(end)
}

/// The bytes of OCTET STRINGs that follow each other.
pub(super) fn joined(pieces: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut reader = Reader(pieces);
    let mut joined = Zeroizing::new(Vec::with_capacity(pieces.len()));
    while !reader.is_empty() {
        joined.extend_from_slice(reader.expect(OCTET_STRING, "a piece").ok()?.contents);
    }
    Some(joined)
}

/// Writes an element.
pub(super) fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(contents.len() + 6);
    push_element(&mut bytes, tag, contents);
    bytes
}

fn push_element(bytes: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    bytes.push(tag);
    let digits = contents.len().to_be_bytes();
    let leading = digits.iter().take_while(|byte| **byte == 0).count();
    match contents.len() {
        short @ 0..0x80 => bytes.push(short as u8),
        _ => {
            bytes.push(0x80 | (digits.len() - leading) as u8);
            bytes.extend_from_slice(&digits[leading..]);
        }
    }
    bytes.extend_from_slice(contents);
}

/// Writes an element around others.
pub(super) fn around(tag: u8, inside: &[&[u8]]) -> Vec<u8> {
    element(tag, &Zeroizing::new(inside.concat()))
}

/// Writes an INTEGER that is not negative.
pub(super) fn integer(number: u32) -> Vec<u8> {
    let digits = number.to_be_bytes();
    let leading = digits.iter().take(3).take_while(|byte| **byte == 0).count();
    let digits = &digits[leading..];
    let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
    element(INTEGER, &[sign, digits].concat())
}

/// The dotted form of an object identifier, of its first 32 numbers; real ones have a dozen.
pub(super) fn dotted(oid: &[u8]) -> String {
    let (mut arcs, mut arc) = (Vec::new(), 0_u64);
    for byte in oid {
        arc = arc.saturating_mul(128).saturating_add(u64::from(byte & 0x7f));
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(std::mem::take(&mut arc));
        }
    }
    arcs.iter().take(32).map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn open_lengths_and_texts_in_pieces_become_der() {
        let ber = hex::decode("30802480040101040202030000020105a0800500000000000000");
        let der = to_der(&ber.expect("digits"));
        assert_eq!(
            der.map(|der| hex::encode(&*der)).as_deref(),
            Some("300c0403010203020105a0020500")
        );
    }

    #[test]
    fn depth_is_bounded_and_open_ends_are_refused() {
        assert_eq!(to_der(&[0x30, 0x80].repeat(10_000)), None);
        assert_eq!(to_der(&[0x30, 0x80, 0x05, 0x00]), None);
        assert_eq!(to_der(&[0x04, 0x80, 0x00, 0x00]), None);
    }

    #[test]
    fn times_are_those_of_certificates() {
        let time = |tag, text: &str| {
            Element { tag, contents: text.as_bytes(), whole: &[] }.time().map(|at| at.to_rfc3339())
        };
        assert_eq!(time(UTC_TIME, "491231235959Z").as_deref(), Some("2049-12-31T23:59:59+00:00"));
        assert_eq!(time(UTC_TIME, "500101000000Z").as_deref(), Some("1950-01-01T00:00:00+00:00"));
        let long = time(GENERALIZED_TIME, "20500101000000Z");
        assert_eq!(long.as_deref(), Some("2050-01-01T00:00:00+00:00"));
        assert_eq!(time(UTC_TIME, "4912312359Z"), None);
        assert_eq!(time(GENERALIZED_TIME, "20500230000000Z"), None);
    }

    #[test]
    fn object_identifiers_are_shown_with_dots() {
        let oid = hex::decode("0992268993f22c640101").expect("digits");
        assert_eq!(dotted(&oid), "0.9.2342.19200300.100.1.1");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48]), "1.2.840");
    }

    proptest! {
        #[test]
        fn what_is_der_stays_as_it_is(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let inside: Vec<u8> =
                parts.iter().flat_map(|part| element(OCTET_STRING, part)).collect();
            let der = element(SEQUENCE, &inside);
            prop_assert_eq!(to_der(&der), Some(Zeroizing::new(der)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Some(der) = to_der(&bytes) {
                prop_assert_eq!(to_der(&der), Some(der));
            }
        }

        #[test]
        fn numbers_come_back(number: u32) {
            let written = integer(number);
            let read = Reader::new(&written).any("it").map(Element::number);
            prop_assert_eq!(read, Ok(Some(number)));
        }
    }
}
