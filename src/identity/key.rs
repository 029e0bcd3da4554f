//! The private key, whatever form it came in, tied to the certificate that it belongs to.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SigningKey},
};
use zeroize::Zeroizing;

use super::{
    asn1::{INTEGER, OCTET_STRING, Reader, SEQUENCE, around, context, element, integer},
    certificate::Certificate,
};

/// How a private key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Any key, with its algorithm beside it.
    Pkcs8,
    /// An RSA key.
    Pkcs1,
    /// A key of an elliptic curve.
    Sec1,
}

/// A private key as it came. Wiped on drop, shown by no `Debug`.
#[derive(Clone)]
pub struct PrivateKey {
    pub(super) form: Form,
    pub(super) der: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, <redacted>)", self.form)
    }
}

/// Why a key is of no use with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    Other,
    /// It is damaged, or of a kind that TLS does not take here.
    #[error(
        "the private key is damaged or of a kind that cannot be used: RSA of 2048 to 8192 bits, ECDSA over P-256 or P-384, \
         and Ed25519 can; have a certificate issued for such a key"
    )]
    Unusable,
}

impl PrivateKey {
    /// The key in the form that it is kept in, if it belongs to `certificate`.
    ///
    /// # Errors
    ///
    /// If it does not, or cannot be used.
    pub(super) fn fitted(&self, certificate: &Certificate) -> Result<Fitted, KeyError> {
        let public = certificate.public_key();
        let pkcs8 = match self.form {
            Form::Pkcs8 => self.der.clone(),
            // The key's own form says nothing that the certificate does not say as well.
            Form::Pkcs1 | Form::Sec1 => pkcs8(&public.algorithm, &self.der),
        };
        let pkcs8 = with_public_key(&pkcs8, &public.bits).unwrap_or(pkcs8);
        let der = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
        let signing = ring::default_provider()
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(der))
            .map_err(|_| KeyError::Unusable)?;
        // Not rustls' own comparison, which takes no certificate of version 1.
        let own = signing.public_key().ok_or(KeyError::Unusable)?;
        if !public.is_in(&own) {
            return Err(KeyError::Other);
        }
        Ok(Fitted { pkcs8, signing })
    }
}

/// A key that belongs to its certificate.
pub(super) struct Fitted {
    pub(super) pkcs8: Zeroizing<Vec<u8>>,
    pub(super) signing: Arc<dyn SigningKey>,
}

/// What TLS shows and signs with: the whole chain but for a root at its end, which the other side has or does not
/// trust.
pub(super) fn shown(chain: &[Certificate], key: Arc<dyn SigningKey>) -> Arc<CertifiedKey> {
    let shown = match chain {
        [all @ .., root] if !all.is_empty() && root.is_self_issued() => all,
        all => all,
    };
    let chain = shown.iter().map(|certificate| certificate.der().clone()).collect();
    Arc::new(CertifiedKey::new(chain, key))
}

fn pkcs8(algorithm: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = Zeroizing::new(element(OCTET_STRING, key));
    Zeroizing::new(around(SEQUENCE, &[&integer(0), algorithm, &key]))
}

/// A PKCS#8 key of an elliptic curve with the public key in it, where it has none. Java leaves it out, and
/// the provider wants to compare the two.
fn with_public_key(der: &[u8], public: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const VERSION: u32 = 1;
    let mut parts = Reader::new(der).sequence("the key").ok()?;
    parts.expect(INTEGER, "the version").ok()?;
    let algorithm = parts.expect(SEQUENCE, "the algorithm").ok()?;
    let mut key = parts.expect(OCTET_STRING, "the key").ok()?.inside().sequence("the key").ok()?;
    if key.expect(INTEGER, "the version").ok()?.number()? != VERSION {
        return None;
    }
    // An RSA key has a number here.
    let secret = key.expect(OCTET_STRING, "the key").ok()?;
    key.optional(context(0), "the curve").ok()?;
    if !key.is_empty() {
        return None;
    }
    let bits = element(super::asn1::BIT_STRING, &[&[0], public].concat());
    let public = element(context(1), &bits);
    let key = Zeroizing::new(around(SEQUENCE, &[&integer(VERSION), secret.whole, &public]));
    Some(pkcs8(algorithm.whole, &key))
}
