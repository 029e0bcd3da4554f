//! What a certificate says, as far as a node needs to know it: names, dates, key, and who signed it. Pure.
//!
//! Extensions are not read: which of them a server wants is the server's affair.

use std::fmt;

use chrono::{DateTime, Utc};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, SignatureVerificationAlgorithm},
};
use sha2::{Digest, Sha256};

use super::asn1::{
    BIT_STRING, BMP_STRING, Element, INTEGER, Malformed, OID, Reader, SEQUENCE, SET, context,
    dotted,
};
use crate::domain::NodeId;

/// The attribute that holds the node's ID, `UID`.
///
/// # Source
///
/// RFC 4519, 2.39; SolarIn takes `UID=<digits>` out of the subject.
const UID: &str = "0.9.2342.19200300.100.1.1";

/// A certificate that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    /// Where in `der` the part lies that is signed.
    signed: std::ops::Range<usize>,
    signature_algorithm: Vec<u8>,
    signature: Vec<u8>,
    serial: Vec<u8>,
    issuer: Name,
    subject: Name,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
    public_key: PublicKey,
}

/// The key that a certificate is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    /// The element with the algorithm, as it also stands in PKCS#8.
    pub(super) algorithm: Vec<u8>,
    pub(super) bits: Vec<u8>,
}

/// What is known of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// It is that key's.
    Yes,
    /// It is not.
    No,
    /// It was made in a way that is not known here, for example with SHA-1.
    Unknown,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn from_der(bytes: &[u8]) -> Result<Self, Malformed> {
        let whole = Reader::new(bytes).expect(SEQUENCE, "the certificate")?;
        let der = whole.whole;
        let mut parts = whole.inside();
        let signed = parts.expect(SEQUENCE, "the certificate's contents")?;
        let from = der.len() - whole.contents.len();
        let signed_range = from..from + signed.whole.len();
        let signature_algorithm = parts.expect(SEQUENCE, "the signature's algorithm")?;
        let signature = parts.expect(BIT_STRING, "the signature")?;
        let signature = signature.bits().ok_or(Malformed("the signature"))?;

        let mut fields = signed.inside();
        fields.optional(context(0), "the version")?;
        let serial = fields.expect(INTEGER, "the serial number")?;
        fields.expect(SEQUENCE, "the algorithm")?;
        let issuer = Name::read(fields.expect(SEQUENCE, "the issuer")?)?;
        let mut dates = fields.sequence("the validity")?;
        let mut date = || dates.any("a date")?.time().ok_or(Malformed("a date"));
        let (not_before, not_after) = (date()?, date()?);
        let subject = Name::read(fields.expect(SEQUENCE, "the subject")?)?;
        let public_key = PublicKey::read(fields.expect(SEQUENCE, "the public key")?)?;
        Ok(Self {
            signed: signed_range,
            signature_algorithm: signature_algorithm.contents.to_vec(),
            signature: signature.to_vec(),
            serial: serial.contents.to_vec(),
            issuer,
            subject,
            not_before,
            not_after,
            public_key,
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// As it stands in files and on the wire.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whom it is about.
    #[must_use]
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// Who issued it.
    #[must_use]
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Its first second.
    #[must_use]
    pub fn not_before(&self) -> DateTime<Utc> {
        self.not_before
    }

    /// Its last second.
    #[must_use]
    pub fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }

    /// The serial number in hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> String {
        let digits = match &self.serial[..] {
            [0, rest @ ..] if !rest.is_empty() => rest,
            all => all,
        };
        hex::encode(digits)
    }

    /// SHA-256 of the whole, in hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(&self.der))
    }

    /// Whether it speaks of its own issuer, as the certificate of a root does.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether `issuer` could have issued it, by name.
    #[must_use]
    pub fn names_as_issuer(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject
    }

    /// Whether it was signed with the key of `issuer`.
    #[must_use]
    pub fn signed_by(&self, issuer: &Self) -> Signed {
        let Some(key) = algorithm_contents(&issuer.public_key.algorithm) else {
            return Signed::Unknown;
        };
        let provider = ring::default_provider();
        let fits = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
            algorithm.signature_alg_id().as_ref() == self.signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == key
        };
        let mut known =
            provider.signature_verification_algorithms.all.iter().filter(fits).peekable();
        if known.peek().is_none() {
            return Signed::Unknown;
        }
        let (bits, message) = (&issuer.public_key.bits, &self.der[self.signed.clone()]);
        // RSA keys of different lengths have algorithms of their own.
        let verified = known
            .any(|algorithm| algorithm.verify_signature(bits, message, &self.signature).is_ok());
        if verified { Signed::Yes } else { Signed::No }
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

fn algorithm_contents(algorithm: &[u8]) -> Option<&[u8]> {
    Reader::new(algorithm).expect(SEQUENCE, "the algorithm").ok().map(|element| element.contents)
}

impl PublicKey {
    fn read(element: Element<'_>) -> Result<Self, Malformed> {
        let mut parts = element.inside();
        let algorithm = parts.expect(SEQUENCE, "the key's algorithm")?;
        let bits = parts.expect(BIT_STRING, "the key")?.bits().ok_or(Malformed("the key"))?;
        Ok(Self { algorithm: algorithm.whole.to_vec(), bits: bits.to_vec() })
    }

    /// Whether it is the one in this SubjectPublicKeyInfo, however its algorithm is spelt.
    pub(super) fn is_in(&self, der: &[u8]) -> bool {
        let element = Reader::new(der).expect(SEQUENCE, "the public key");
        element.and_then(Self::read).is_ok_and(|other| other.bits == self.bits)
    }
}

/// A distinguished name. Equal are those with the same texts, however they are encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Vec<Vec<Attribute>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    oid: String,
    text: String,
}

impl Name {
    fn read(element: Element<'_>) -> Result<Self, Malformed> {
        let bad = "a name";
        let mut sets = element.inside();
        let mut name = Vec::new();
        while !sets.is_empty() {
            let mut attributes = sets.expect(SET, bad)?.inside();
            let mut set = Vec::new();
            while !attributes.is_empty() {
                let mut parts = attributes.sequence(bad)?;
                let oid = dotted(parts.expect(OID, bad)?.contents);
                set.push(Attribute { oid, text: text(parts.any(bad)?) });
            }
            name.push(set);
        }
        Ok(Self(name))
    }

    /// The node that this is the name of: the digits of its `UID`.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        let uid = self.0.iter().flatten().find(|attribute| attribute.oid == UID)?;
        NodeId::try_from(uid.text.parse::<i64>().ok()?).ok()
    }
}

/// As RFC 2253 writes it: the last part first.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, set) in self.0.iter().rev().enumerate() {
            for (beside, attribute) in set.iter().enumerate() {
                f.write_str(match (at, beside) {
                    (0, 0) => "",
                    (_, 0) => ",",
                    _ => "+",
                })?;
                attribute.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self.oid.as_str() {
            UID => "UID",
            "2.5.4.3" => "CN",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            "0.9.2342.19200300.100.1.25" => "DC",
            other => other,
        };
        write!(f, "{key}=")?;
        for (at, char) in self.text.chars().enumerate() {
            // RFC 2253, 2.4; what would disturb a terminal or a log is left out.
            if ",+\"\\<>;".contains(char) || (at == 0 && char == '#') {
                f.write_str("\\")?;
            }
            if !char.is_control() {
                write!(f, "{char}")?;
            }
        }
        Ok(())
    }
}

/// The text of an attribute, at most so much of it as people read.
fn text(element: Element<'_>) -> String {
    const LONGEST: usize = 256;
    let contents = element.contents;
    let text = if element.tag == BMP_STRING {
        let units = contents.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    } else {
        String::from_utf8_lossy(contents).into_owned()
    };
    text.chars().take(LONGEST).collect()
}
