//! As much of DER as SolarIn needs: what a certificate says, and the PKCS#7 wrapping in which a renewed one
//! is delivered.

use chrono::{DateTime, NaiveDate, Utc};

const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed: the version of a certificate, the content and the certificates in PKCS#7.
const CONTEXT_0: u8 = 0xa0;

/// 0.9.2342.19200300.100.1.1, the attribute that a node's ID is in.
const UID: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01];
/// 1.2.840.113549.1.7.1 and .2
const PKCS7_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const PKCS7_SIGNED: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// What a certificate says, as far as anyone here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The `UID` of the subject, if there is one.
    pub(crate) uid: Option<String>,
    /// Its last second.
    pub(crate) until: DateTime<Utc>,
    /// Subject, and public key with its algorithm, as they are encoded.
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
}

impl Facts {
    /// Reads a certificate; `None` when it is none.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let mut outer = Reader(certificate);
        let mut certificate = Reader(outer.expect(SEQUENCE)?.content);
        let mut body = Reader(certificate.expect(SEQUENCE)?.content);
        if body.0.first() == Some(&CONTEXT_0) {
            body.next()?;
        }
        body.expect(INTEGER)?;
        let _algorithm = body.expect(SEQUENCE)?;
        let _issuer = body.expect(SEQUENCE)?;
        let mut validity = Reader(body.expect(SEQUENCE)?.content);
        let _from = validity.next()?;
        let until = instant(&validity.next()?)?;
        let subject = body.expect(SEQUENCE)?;
        let public_key = body.expect(SEQUENCE)?.whole.to_vec();
        Some(Self {
            uid: uid(subject.content)?,
            until,
            subject: subject.whole.to_vec(),
            public_key,
        })
    }
}

/// The `UID` among the attributes of a name. The outer `None` is a name that cannot be read.
fn uid(name: &[u8]) -> Option<Option<String>> {
    let mut sets = Reader(name);
    while !sets.0.is_empty() {
        let mut attributes = Reader(sets.expect(SET)?.content);
        while !attributes.0.is_empty() {
            let mut attribute = Reader(attributes.expect(SEQUENCE)?.content);
            let (kind, value) = (attribute.expect(OID)?, attribute.next()?);
            if kind.content == UID {
                return Some(Some(std::str::from_utf8(value.content).ok()?.to_owned()));
            }
        }
    }
    Some(None)
}

/// `YYMMDDHHMMSSZ`, or with the whole year.
fn instant(element: &Element<'_>) -> Option<DateTime<Utc>> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if element.tag == UTC_TIME { 2 } else { 4 })?;
    let year: i32 = year.parse().ok()?;
    let year = match element.tag {
        UTC_TIME if year < 50 => 2000 + year,
        UTC_TIME => 1900 + year,
        _ => year,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u32>().ok();
    let day = NaiveDate::from_ymd_opt(year, part(0)?, part(2)?)?;
    Some(day.and_hms_opt(part(4)?, part(6)?, part(8)?)?.and_utc())
}

/// Certificates in a PKCS#7 `SignedData` that signs nothing.
pub(crate) fn pkcs7(certificates: &[&[u8]]) -> Vec<u8> {
    let content = element(SEQUENCE, &[&element(OID, &[PKCS7_DATA])]);
    let signed = element(
        SEQUENCE,
        &[
            &element(INTEGER, &[&[1]]),
            &element(SET, &[]),
            &content,
            &element(CONTEXT_0, certificates),
            &element(SET, &[]),
        ],
    );
    element(SEQUENCE, &[&element(OID, &[PKCS7_SIGNED]), &element(CONTEXT_0, &[&signed])])
}

fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|content| content.len()).sum();
    let mut out = vec![tag];
    let big = length.to_be_bytes();
    let digits = &big[big.iter().take_while(|byte| **byte == 0).count()..];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            // A length has at most eight digits.
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    contents.iter().for_each(|content| out.extend_from_slice(content));
    out
}

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let digits = if *first < 0x80 { 0 } else { usize::from(*first & 0x7f) };
        let length = match digits {
            0 => usize::from(*first),
            // More than four would be a certificate of gigabytes.
            1..=4 => rest.get(..digits)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            _ => return None,
        };
        let content = rest.get(digits..)?.get(..length)?;
        let (whole, after) = self.0.split_at_checked(2 + digits + length)?;
        self.0 = after;
        Some(Element { tag: *tag, content, whole })
    }

    fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::solarin::node::NodeCertificate;
    use crate::tls::Authority;

    #[test]
    fn a_certificate_says_whose_it_is_and_until_when() {
        let until = DateTime::from_timestamp(4_000_000_000, 0).unwrap();
        for until in [until, until - TimeDelta::days(30_000)] {
            let wanted = NodeCertificate::between(123, until - TimeDelta::days(1), until);
            let node = Authority::new().unwrap().issue_node(&wanted).unwrap();
            let facts = Facts::of(node.der()).unwrap();
            assert_eq!((facts.uid.as_deref(), facts.until), (Some("123"), until));
        }
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let node = Authority::new().unwrap();
        let node = node.issue_node(&NodeCertificate::around(1, Utc::now())).unwrap();
        for length in 0..node.der().len() {
            assert_eq!(Facts::of(&node.der()[..length]), None, "{length}");
        }
        assert_eq!(Facts::of(b"\x30\x84\xff\xff\xff\xff"), None);
    }
}
