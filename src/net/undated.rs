//! A certificate verifier that checks everything but today's date.
//!
//! A machine without a battery clock cannot verify a certificate's dates, and cannot learn the date
//! without a verified connection. This verifier breaks the circle: chain, name and signatures are
//! checked as always, at an instant inside the chain's own validity instead of now. What such a
//! connection says is used for one thing only: its `Date`, and that only where
//! [`Undated::last_chain_is_valid_at`] it.

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

/// Checks chain and name at an instant of the chain's own.
#[derive(Debug)]
pub(super) struct Undated {
    /// None where no authority is known at all: then nothing is accepted.
    inner: Option<Arc<WebPkiServerVerifier>>,
    last: Mutex<Option<Chain>>,
}

#[derive(Debug)]
struct Chain {
    end_entity: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

/// Whether a certificate was refused for its dates.
pub(super) fn is_about_dates(error: &Error) -> bool {
    let Error::InvalidCertificate(error) = error else { return false };
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

impl Undated {
    pub(super) fn new(inner: Option<Arc<WebPkiServerVerifier>>) -> Self {
        Self { inner, last: Mutex::new(None) }
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

impl ServerCertVerifier for Undated {
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
                })) if not_before > at => at = not_before,
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                    not_after,
                    ..
                })) if not_after < at => at = not_after,
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
