//! Who calls: judges the certificate that a client shows.
//!
//! The handshake lets a doubtful certificate pass as long as its key belongs to it, and every request is then
//! judged by the simulator's clock, so that the answer is 403, as SolarIn answers. Where it is told to, the
//! handshake itself refuses, as a server may that is set up so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use super::der::Facts;
use crate::http::{Shared, lock};
use crate::tls::{Authority, TlsError};

/// Judges by what the authority has issued.
#[derive(Debug)]
pub(crate) struct Doorman {
    strict: Arc<dyn ClientCertVerifier>,
    world: Shared,
    refuse: Arc<AtomicBool>,
}

impl Doorman {
    pub(super) fn new(
        authority: &Authority,
        world: Shared,
        refuse: Arc<AtomicBool>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der())?;
        let provider = Arc::new(ring::default_provider());
        let strict = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .allow_unauthenticated()
            .build()
            // The only other reason is a list of roots that is empty.
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { strict, world, refuse })
    }

    fn judge(&self, chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Result<(), Error> {
        let (first, others) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let since = u64::try_from(now.timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since));
        self.strict.verify_client_cert(first, others, now).map(|_| ())
    }
}

/// Who is on the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(super) doorman: Arc<Doorman>,
    /// Empty where none was shown.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
}

impl Peer {
    /// What the certificate says, good or not.
    pub(super) fn facts(&self) -> Option<Facts> {
        Facts::of(self.chain.first()?)
    }

    /// The node that it names, good or not.
    pub(crate) fn claimed(&self) -> Option<i64> {
        let uid = self.facts()?.uid?;
        uid.bytes().all(|byte| byte.is_ascii_digit()).then(|| uid.parse().ok())?
    }

    /// The node, if the certificate is good now.
    pub(super) fn node(&self, now: DateTime<Utc>) -> Option<i64> {
        self.doorman.judge(&self.chain, now).ok()?;
        self.claimed()
    }
}

impl ClientCertVerifier for Doorman {
    fn client_auth_mandatory(&self) -> bool {
        self.strict.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.refuse.load(Ordering::Relaxed) {
            let now = lock(&self.world).clock.now();
            self.judge(&[std::slice::from_ref(end_entity), intermediates].concat(), now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
