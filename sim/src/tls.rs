//! HTTPS: an authority of its own that issues certificates as right or as wrong as a test wants them.
//!
//! Every [`Authority`] is new, so a server of one is a stranger to whoever trusts another. A
//! [`Certificate`] says for which names it is, when it is valid, and which versions of TLS the server
//! that shows it speaks; nothing is made up to the clock, so it may be expired from the beginning.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ConfigBuilder, ServerConfig, WantsVerifier};

use crate::solarin::openssl::OpensslError;

/// Why there is no certificate, or none that a server can show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be made, for example because a name is not one.
    #[error("the certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// It cannot be served.
    #[error("the certificate cannot be served")]
    Server(#[from] rustls::Error),
    /// An RSA key is not to be had.
    #[error("the key cannot be made")]
    Openssl(#[from] OpensslError),
}

/// Which versions of TLS a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// Its first second. The fraction is cut off.
    pub from: DateTime<Utc>,
    /// Its last second.
    pub until: DateTime<Utc>,
    /// What the server that shows it speaks.
    pub versions: Versions,
}

impl Certificate {
    /// For the loopback interface, valid from 30 days before `now` to 60 days after.
    #[must_use]
    pub fn around(now: DateTime<Utc>) -> Self {
        Self::between(
            now - Duration::from_secs(30 * 86_400),
            now + Duration::from_secs(60 * 86_400),
        )
    }

    /// For the loopback interface, valid then.
    #[must_use]
    pub fn between(from: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        Self { names, from, until, versions: Versions::default() }
    }

    /// For this name instead.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { names: vec![name.to_owned()], ..self }
    }

    /// Shown by a server of these versions.
    #[must_use]
    pub fn speaking(self, versions: Versions) -> Self {
        Self { versions, ..self }
    }
}

/// A certificate and its key, ready to be shown.
#[derive(Clone)]
pub struct Identity(pub(crate) TlsAcceptor);

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.clone()
    }
}

/// An authority that nobody knows yet.
#[derive(Clone)]
pub struct Authority(Arc<CertifiedIssuer<'static, KeyPair>>);

impl std::fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes one that is valid from 1975 to 4096, so that only the certificates that it issues can be out
    /// of date.
    ///
    /// # Errors
    ///
    /// If there is no randomness to be had.
    pub fn new() -> Result<Self, TlsError> {
        let mut params = CertificateParams::default();
        let key = KeyPair::generate()?;
        // No two have the same name.
        let name = format!("solarnet-sim {}", hex::encode(&key.public_key_raw()[..8]));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(Arc::new(CertifiedIssuer::self_signed(params, key)?)))
    }

    /// Its own certificate, for who is to trust it.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.0
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Issues a certificate.
    ///
    /// # Errors
    ///
    /// If a name is not one, or a date has no place in a certificate.
    pub fn issue(&self, wanted: &Certificate) -> Result<Identity, TlsError> {
        let Shown { certificate, key } = self.certify(wanted)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = speaking(wanted.versions)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Identity(TlsAcceptor::from(Arc::new(config))))
    }

    pub(crate) fn certify(&self, wanted: &Certificate) -> Result<Shown, TlsError> {
        let mut params = CertificateParams::new(wanted.names.clone())?;
        params.distinguished_name.push(DnType::CommonName, "solarnet-sim");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, wanted.from, wanted.until);
        let key = KeyPair::generate()?;
        Ok(Shown { certificate: params.signed_by(&key, self.issuer())?, key })
    }
}

/// What a server shows, and the key that belongs to it.
pub(crate) struct Shown {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

/// From when until when, in whole seconds, never before 1970.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |at: DateTime<Utc>| Duration::from_secs(at.timestamp().try_into().unwrap_or(0));
    params.not_before = epoch + since(from);
    params.not_after = epoch + since(until);
}

/// The beginning of a server's configuration.
pub(crate) fn speaking(
    versions: Versions,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    let versions: &[_] = match versions {
        Versions::Both => &[&TLS12, &TLS13],
        Versions::Tls12 => &[&TLS12],
        Versions::Tls13 => &[&TLS13],
    };
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
}
