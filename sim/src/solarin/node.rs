//! Certificates of nodes, as right or as wrong as a test wants them, with their keys.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rcgen::{
    Certificate as RawCertificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};

use super::openssl::{self, OpensslError};
use crate::random;
use crate::tls::{Authority, TlsError, set_validity};

/// 0.9.2342.19200300.100.1.1
const UID: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 1];

/// What a node's certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The node.
    pub node: i64,
    /// Its first second. The fraction is cut off.
    pub from: DateTime<Utc>,
    /// Its last second.
    pub until: DateTime<Utc>,
    /// Of RSA (2048 bit, made by the openssl command) instead of P-256.
    pub rsa: bool,
    /// The subject names the node in `UID`. SolarIn takes no certificate without.
    pub names_the_node: bool,
}

impl NodeCertificate {
    /// Valid from 30 days before `now` to 700 days after.
    #[must_use]
    pub fn around(node: i64, now: DateTime<Utc>) -> Self {
        let day = 86_400;
        let (from, until) =
            (now - Duration::from_secs(30 * day), now + Duration::from_secs(700 * day));
        Self::between(node, from, until)
    }

    /// Valid then.
    #[must_use]
    pub fn between(node: i64, from: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        Self { node, from, until, rsa: false, names_the_node: true }
    }

    /// With an RSA key.
    #[must_use]
    pub fn rsa(self) -> Self {
        Self { rsa: true, ..self }
    }

    /// A subject that does not name the node.
    #[must_use]
    pub fn without_uid(self) -> Self {
        Self { names_the_node: false, ..self }
    }
}

/// A node's certificate, its key, and who issued it.
pub struct NodeIdentity {
    certificate: RawCertificate,
    key: KeyPair,
    authority: String,
}

impl std::fmt::Debug for NodeIdentity {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NodeIdentity").finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// The certificate alone.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The certificate, and that of its authority.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.certificate.pem() + &self.authority
    }

    /// The key, PKCS#8.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// A store with key and certificate under the alias `node` and the authority under `ca`.
    ///
    /// # Errors
    ///
    /// Without the openssl command.
    pub fn pkcs12(&self, password: &str) -> Result<Vec<u8>, OpensslError> {
        openssl::pkcs12(&self.key_pem(), &self.certificate_pem(), &self.authority, password)
    }
}

impl Authority {
    /// Issues a certificate to a node, for a new key.
    ///
    /// # Errors
    ///
    /// If a date has no place in a certificate, or there is no openssl command to make an RSA key.
    pub fn issue_node(&self, wanted: &NodeCertificate) -> Result<NodeIdentity, TlsError> {
        let key = match wanted.rsa {
            false => KeyPair::generate()?,
            true => KeyPair::from_pem(&openssl::rsa_key()?)?,
        };
        self.certify_node(wanted, key)
    }

    /// Issues a certificate to a node for the key that it has.
    ///
    /// # Errors
    ///
    /// As for [`Authority::issue_node`].
    pub fn renew_node(
        &self,
        wanted: &NodeCertificate,
        identity: &NodeIdentity,
    ) -> Result<NodeIdentity, TlsError> {
        self.certify_node(wanted, KeyPair::from_pem(&identity.key_pem())?)
    }

    pub(super) fn certify_node(
        &self,
        wanted: &NodeCertificate,
        key: KeyPair,
    ) -> Result<NodeIdentity, TlsError> {
        let mut params = CertificateParams::default();
        // RFC 2253 shows them from last to first: UID=…,CN=…,OU=SolarNode,O=SolarNetwork
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "SolarNetwork");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "SolarNode");
        // Not the ID: who takes the name for it is wrong.
        params.distinguished_name.push(DnType::CommonName, format!("node-{}", wanted.node));
        if wanted.names_the_node {
            let uid = DnType::CustomDnType(UID.to_vec());
            params.distinguished_name.push(uid, wanted.node.to_string());
        }
        // Not made of the key, as rcgen has it: a renewed certificate has the key of the one before.
        params.serial_number = Some(random::bytes::<16>().to_vec().into());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, wanted.from, wanted.until);
        let certificate = params.signed_by(&key, self.issuer())?;
        Ok(NodeIdentity { certificate, key, authority: self.pem() })
    }
}

/// Whether a certificate's public key (as it is encoded there) is that of a private key in PEM; gives the pair.
pub(super) fn pair(private: &str, public: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(private).ok().filter(|pair| pair.subject_public_key_info() == public)
}

#[cfg(test)]
mod tests {
    use super::openssl::open_pkcs12;
    use super::*;
    use crate::solarin::der::Facts;

    #[test]
    fn a_store_opens_with_its_password_and_holds_the_key_of_its_certificate() {
        let authority = Authority::new().unwrap();
        for wanted in
            [NodeCertificate::around(7, Utc::now()), NodeCertificate::around(7, Utc::now()).rsa()]
        {
            let node = authority.issue_node(&wanted).unwrap();
            let store = node.pkcs12("pass word").unwrap();
            let opened = open_pkcs12(&store, "pass word").unwrap();
            assert_eq!(opened.certificate, node.certificate_pem().replace("\r\n", "\n"));
            let facts = Facts::of(node.der()).unwrap();
            assert!(pair(&opened.key, &facts.public_key).is_some());
            let other = authority.issue_node(&wanted).unwrap();
            assert!(pair(&other.key_pem(), &facts.public_key).is_none());
            assert!(open_pkcs12(&store, "word").is_err());
        }
    }
}
