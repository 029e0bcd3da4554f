//! PKCS#7 as a bag of certificates, which is how SolarNetwork sends a renewed chain. Pure.
//!
//! Signatures in it are not looked at: a certificate is believed for its own signature.

use super::asn1::{INTEGER, Malformed, OID, Reader, SEQUENCE, SET, context, dotted, to_der};

/// The content of SignedData.
const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";

/// The certificates, as DER, in the order in which they stand.
///
/// # Errors
///
/// If it is no PKCS#7 of that kind.
pub fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let der = to_der(bytes).ok_or(Malformed("the PKCS#7 chain"))?;
    let mut info = Reader::new(&der).sequence("the PKCS#7 chain")?;
    let kind = info.expect(OID, "the kind of the PKCS#7 chain")?.contents;
    if dotted(kind) != SIGNED_DATA {
        return Err(Malformed("the kind of the PKCS#7 chain"));
    }
    let mut data = info.expect(context(0), "the contents")?.inside().sequence("the contents")?;
    data.expect(INTEGER, "the version")?;
    data.expect(SET, "the algorithms")?;
    data.expect(SEQUENCE, "the signed content")?;
    let Some(set) = data.optional(context(0), "the certificates")? else { return Ok(Vec::new()) };
    let (mut set, mut certificates) = (set.inside(), Vec::new());
    while !set.is_empty() {
        let certificate = set.any("a certificate")?;
        // Others are attribute certificates and the like.
        if certificate.tag == SEQUENCE {
            certificates.push(certificate.whole.to_vec());
        }
    }
    Ok(certificates)
}
