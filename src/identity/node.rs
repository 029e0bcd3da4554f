//! A node's certificate with its chain and key: what is stored, shown to servers, and renewed.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::{
    certificate::Certificate,
    check::{Complaint, assemble, chain},
    key::{Fitted, shown},
    material::{Material, MaterialError},
    pem,
};

/// Certificate, chain and key that belong together. The key is wiped on drop and shown by no `Debug`.
#[derive(Clone)]
pub struct NodeCertificate {
    /// The node's own first. Never empty.
    chain: Vec<Certificate>,
    pkcs8: Zeroizing<Vec<u8>>,
    certified: Arc<CertifiedKey>,
}

/// Why a stored certificate cannot be used. No message holds anything secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no PEM, as which it is stored.
    #[error("it is damaged: there is no certificate in it")]
    Damaged,
    /// It cannot be read.
    #[error(transparent)]
    Material(MaterialError),
    /// Its parts do not belong together.
    #[error(transparent)]
    Parts(#[from] Complaint),
}

impl From<MaterialError> for Unusable {
    /// Hints on files that an operator hands over do not fit the one that is stored.
    fn from(error: MaterialError) -> Self {
        match error {
            MaterialError::Neither | MaterialError::Empty => Self::Damaged,
            error => Self::Material(error),
        }
    }
}

impl NodeCertificate {
    /// `chain` begins with the certificate that the key belongs to.
    pub(super) fn new(chain: Vec<Certificate>, fitted: Fitted) -> Self {
        let certified = shown(&chain, fitted.signing);
        Self { chain, pkcs8: fitted.pkcs8, certified }
    }

    /// Reads what [`NodeCertificate::to_pem`] wrote, or any PEM with a key and its certificates.
    ///
    /// # Errors
    ///
    /// If there is no such thing in it.
    pub fn from_pem(bytes: &[u8]) -> Result<Self, Unusable> {
        let mut material = Material::default();
        material.add::<MaterialError>(bytes, || Ok(None))?;
        Ok(assemble(&material)?)
    }

    /// The chain and then the key.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = pem::write("PRIVATE KEY", &self.pkcs8);
        let chain: String = self.chain.iter().map(|certificate| certificate.to_pem()).collect();
        let mut text = Zeroizing::new(String::with_capacity(chain.len() + key.len()));
        text.push_str(&chain);
        text.push_str(&key);
        text
    }

    /// The same key with another certificate, found by its public key: nothing foreign makes work for the private one.
    ///
    /// # Errors
    ///
    /// If the key is not that certificate's, or there is none.
    pub fn recertified(&self, certificates: &[Certificate]) -> Result<Self, Complaint> {
        let first = certificates.first().ok_or(Complaint::NoCertificate)?;
        let own = &self.leaf().public_key().bits;
        let leaf = certificates.iter().find(|one| one.public_key().bits == *own);
        let subject = || first.subject().to_string();
        let leaf = leaf.ok_or_else(|| Complaint::OtherKey { subject: subject() })?;
        let chain = chain(leaf, certificates);
        let certified = shown(&chain, self.certified.key.clone());
        Ok(Self { chain, pkcs8: self.pkcs8.clone(), certified })
    }

    /// The node's own certificate.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.chain[0]
    }

    /// The node's own certificate, that of its issuer, and so on.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The chain as it goes into files of other kinds.
    pub(super) fn ders(&self) -> Vec<&[u8]> {
        self.chain.iter().map(|certificate| certificate.der().as_ref()).collect()
    }

    /// The first moment at which one of the chain is past its end.
    #[must_use]
    pub fn ends(&self) -> DateTime<Utc> {
        let ends = self.chain.iter().map(Certificate::not_after).min();
        ends.unwrap_or_else(|| self.leaf().not_after())
    }

    /// What TLS takes.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// The private key. Call it inside the expression that consumes it.
    pub(super) fn expose_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

impl Certificate {
    /// In PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::write("CERTIFICATE", self.der()).to_string()
    }
}

impl PartialEq for NodeCertificate {
    /// The key follows from the certificate.
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = self.leaf();
        f.debug_struct("NodeCertificate")
            .field("subject", &leaf.subject().to_string())
            .field("serial", &leaf.serial())
            .finish_non_exhaustive()
    }
}
