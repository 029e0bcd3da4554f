//! The credential in use, shared by everyone who signs and replaced while they do.
//!
//! Those who sign take [`Signer::current`] once per request, so a request is signed with one
//! credential even if it is replaced meanwhile. Those who had to wait for a key wait on
//! [`Signer::changed`].

use std::sync::Arc;

use tokio::sync::watch;

use super::Credential;

/// A cheap handle to the credential in use; all clones see the same one.
#[derive(Debug, Clone)]
pub struct Signer {
    current: watch::Sender<Option<Arc<Credential>>>,
}

impl Signer {
    /// Begins with `credential`, or with none until one is put in.
    #[must_use]
    pub fn new(credential: Option<Credential>) -> Self {
        Self { current: watch::Sender::new(credential.map(Arc::new)) }
    }

    /// What to sign with. Whether its key is usable at that time is for the caller to ask.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Credential>> {
        self.current.borrow().clone()
    }

    /// Signs with `credential` from now on. Those who watch are woken only if it is another one.
    pub fn replace(&self, credential: Credential) {
        self.current.send_if_modified(|current| {
            if current.as_deref() == Some(&credential) {
                return false;
            }
            *current = Some(Arc::new(credential));
            true
        });
    }

    /// Signs no more, because the token was removed from this device.
    pub fn clear(&self) {
        self.current.send_if_modified(|current| current.take().is_some());
    }

    /// Tells when the credential was replaced. What is in place now counts as seen.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<Option<Arc<Credential>>> {
        self.current.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    fn credential(day: u32) -> Credential {
        Credential::derive(
            "abc".parse().expect("a token ID"),
            "secret".parse().expect("a secret"),
            NaiveDate::from_ymd_opt(2026, 11, day).expect("a day"),
            false,
        )
    }

    #[test]
    fn every_clone_signs_with_the_replacement_and_is_woken_once() {
        let signer = Signer::new(None);
        let other = signer.clone();
        let mut changed = other.changed();
        signer.replace(credential(1));
        assert_eq!(other.current().as_deref(), Some(&credential(1)));
        assert!(changed.has_changed().expect("the sender is alive"));
        changed.mark_unchanged();
        signer.replace(credential(1));
        assert!(!changed.has_changed().expect("the sender is alive"));
    }

    #[test]
    fn a_request_under_way_keeps_its_credential() {
        let signer = Signer::new(Some(credential(1)));
        let mine = signer.current().expect("a credential");
        signer.replace(credential(2));
        assert_eq!(*mine, credential(1));
        signer.clear();
        assert_eq!(signer.current(), None);
    }
}
