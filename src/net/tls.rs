//! TLS as every connection of ours has it: which authorities count, at which time certificates are
//! verified, and the certificate that is shown.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    client::{ResolvesClientCert, Resumption, WebPkiServerVerifier},
    crypto::ring,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};

use super::{
    NetError,
    verifier::{Dates, Verifier},
};
use crate::clock::Clock;

/// TLS sessions that are remembered: there are two or three servers.
const SESSIONS: usize = 8;

/// What servers' certificates are verified against, and what is shown to them.
#[derive(Debug, Clone)]
pub struct Tls {
    config: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    /// `None` where no authority is known at all.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// What is shown to a server that asks for a certificate.
    identity: Option<Arc<dyn ResolvesClientCert>>,
}

impl Tls {
    /// Loads the system's authorities, and those of `ca_file` beside them. `key` is where the
    /// configuration names that file.
    ///
    /// # Errors
    ///
    /// If `ca_file` has no certificate in it, or TLS cannot be set up.
    pub fn new(
        key: &'static str,
        ca_file: Option<&PathBuf>,
        clock: Clock,
        identity: Option<Arc<dyn ResolvesClientCert>>,
    ) -> Result<Self, NetError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(key, ca_file)?);
        let tls = |e: &dyn Error| NetError::Tls(e.to_string());
        let time: Arc<dyn TimeProvider> = Arc::new(BelievedTime(clock));
        let config = ClientConfig::builder_with_details(provider.clone(), time)
            .with_safe_default_protocol_versions()
            .map_err(|e| tls(&e))?;
        let authorities = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(roots, provider);
            Some(builder.build().map_err(|e| tls(&e))?)
        };
        Ok(Self { config, authorities, identity })
    }

    /// The configuration of connections whose servers are verified at the time that the clock believes
    /// in, TLS 1.2 and 1.3.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        self.config_with(self.verifier(Dates::Checked))
    }

    /// Whether there is a certificate to show.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.has_certs())
    }

    pub(super) fn verifier(&self, dates: Dates) -> Arc<Verifier> {
        Arc::new(Verifier::new(self.authorities.clone(), dates))
    }

    pub(super) fn config_with(&self, verifier: Arc<Verifier>) -> ClientConfig {
        let config = self.config.clone().dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            Some(identity) => config.with_client_cert_resolver(identity.clone()),
            None => config.with_no_client_auth(),
        };
        // A session taken up again is not verified again; each configuration has its own, and so each
        // keeps to its own idea of dates.
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config
    }
}

/// The time certificates are verified at.
#[derive(Debug)]
struct BelievedTime(Clock);

impl TimeProvider for BelievedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.believed_now().timestamp()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

fn roots(key: &'static str, ca_file: Option<&PathBuf>) -> Result<RootCertStore, NetError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let bad = |reason: String| NetError::CaFile { key, path: path.clone(), reason };
        let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| bad(e.to_string()))?;
            roots.add(certificate).map_err(|e| bad(e.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(bad("there is no PEM certificate in it".to_owned()));
        }
    }
    Ok(roots)
}
