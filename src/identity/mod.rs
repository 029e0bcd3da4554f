//! The node's certificate: who this device is to SolarIn, and how that is kept alive.
//!
//! ```text
//!  PEM, PKCS#12 ──material──▶ certificates, keys ──check──▶ NodeCertificate ──▶ store ──▶ Identity
//!                                                                  ▲                        │ TLS
//!  RenewCertificate ──pkcs7──▶ renewed chain ──proved by a call────┘                        ▼
//!  an invitation ──associate──▶ PKCS#12 of the server                          SolarIn, brokers
//! ```
//!
//! * Whoever opens a connection takes the certificate from [`Identity`], which may be given another one at any
//!   time: the next connection shows it, and who wants to open a new one for that reason hears of it.
//! * Everything that reads foreign bytes is pure and bounded.
//! * A certificate is taken in only if key, chain and node belong together ([`check`]); a renewed one only after it
//!   was accepted on a connection of its own ([`keeper`]).
//!
//! It does not judge whom a server trusts: that is the server's affair.

mod asn1;
pub mod associate;
pub mod calls;
pub mod certificate;
pub mod check;
pub mod invitation;
pub mod keeper;
mod key;
pub mod material;
pub mod network;
pub mod node;
mod pem;
pub mod pkcs12;
pub mod pkcs7;
pub mod renewal;
pub mod renewed;

use std::sync::Arc;

use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::sync::watch;

pub use asn1::Malformed;
pub use certificate::Certificate;
pub use invitation::Invitation;
pub use keeper::{Arrivals, Installer, Keeper};
pub use key::{KeyError, PrivateKey};
pub use node::NodeCertificate;

/// The certificate in use. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Identity(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    current: watch::Sender<Option<Arc<NodeCertificate>>>,
    changes: watch::Sender<u64>,
}

impl Identity {
    /// With nothing to show.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this one from now on, or none. Whether that is a change.
    pub fn replace(&self, certificate: Option<NodeCertificate>) -> bool {
        let changed = self.0.current.send_if_modified(|current| {
            let changes = current.as_deref() != certificate.as_ref();
            if changes {
                *current = certificate.map(Arc::new);
            }
            changes
        });
        if changed {
            self.0.changes.send_modify(|changes| *changes += 1);
        }
        changed
    }

    /// What is shown.
    #[must_use]
    pub fn current(&self) -> Option<Arc<NodeCertificate>> {
        self.0.current.borrow().clone()
    }

    /// Counts the changes.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let certified = self.current()?.certified();
        certified.key.choose_scheme(schemes).is_some().then_some(certified)
    }

    fn has_certs(&self) -> bool {
        self.0.current.borrow().is_some()
    }
}

#[cfg(test)]
mod tests;
