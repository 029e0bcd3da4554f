//! Verifiers of certificates that remember the chain they accepted last, so that a server's `Date` can be
//! held against the validity of its own certificate.
//!
//! [`Dates::Checked`] is the usual verification. [`Dates::Ignored`] is for one purpose: a machine without a
//! battery clock cannot verify a certificate's dates, and cannot learn the date without a verified
//! connection. It breaks the circle: chain, name and signatures are checked as always, at an instant
//! inside the chain's own validity instead of now. What such a connection says is used for one thing
//! only: its `Date`, and that only where [`Verifier::last_chain_is_valid_at`] it.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Instants tried until one suits every certificate of the chain.
const MAX_TRIES: usize = 8;

/// At which time a chain is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dates {
    /// At the time the agent believes in.
    Checked,
    /// At an instant of the chain's own.
    Ignored,
}

/// Checks chain, name and signatures, and remembers the chain.
#[derive(Debug)]
pub(super) struct Verifier {
    /// None where no authority is known at all: then nothing is accepted.
    inner: Option<Arc<WebPkiServerVerifier>>,
    dates: Dates,
    last: Mutex<Option<Chain>>,
}

#[derive(Debug)]
struct Chain {
    end_entity: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

/// Whether a certificate was refused for its dates.
#[must_use]
pub fn is_about_dates(error: &Error) -> bool {
    let Error::InvalidCertificate(error) = error else { return false };
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

impl Verifier {
    pub(super) fn new(inner: Option<Arc<WebPkiServerVerifier>>, dates: Dates) -> Self {
        Self { inner, dates, last: Mutex::new(None) }
    }

    fn inner(&self) -> Result<&WebPkiServerVerifier, Error> {
        self.inner.as_deref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    /// Whether the chain seen last is valid at `date`, for the name it was seen under.
    pub(super) fn last_chain_is_valid_at(&self, date: DateTime<Utc>) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(chain), Ok(inner), Ok(secs)) =
            (&*last, self.inner(), u64::try_from(date.timestamp()))
        else {
            return false;
        };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let Chain { end_entity, intermediates, name } = chain;
        inner.verify_server_cert(end_entity, intermediates, name, &[], at).is_ok()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let inner = self.inner()?;
        let mut at = now;
        for _ in 0..MAX_TRIES {
            match inner.verify_server_cert(end_entity, intermediates, name, ocsp, at) {
                Ok(verified) => {
                    let chain = Chain {
                        end_entity: end_entity.clone().into_owned(),
                        intermediates: intermediates
                            .iter()
                            .map(|c| c.clone().into_owned())
                            .collect(),
                        name: name.to_owned(),
                    };
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
                    return Ok(verified);
                }
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before,
                    ..
                })) if self.dates == Dates::Ignored && not_before > at => at = not_before,
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                    not_after,
                    ..
                })) if self.dates == Dates::Ignored && not_after < at => at = not_after,
                Err(other) => return Err(other),
            }
        }
        Err(Error::InvalidCertificate(CertificateError::Expired))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner()?.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner()?.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner().map(ServerCertVerifier::supported_verify_schemes).unwrap_or_default()
    }
}
