//! The credential in use, shared by everyone who signs and replaced while they do.
//!
//! Those who sign take [`Signer::current`] once per request, so a request is signed with one
//! credential even if it is replaced meanwhile. Those who had to wait for a key wait on
//! [`Signer::changed`].
//!
//! It also knows what a token's rotation has to know before the old one is taken away: which token
//! SolarNetwork accepted last ([`Signer::accepted`]), and with which tokens calls are still under way
//! although they were replaced ([`Signer::leaving`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;

use super::Credential;
use crate::domain::TokenId;

/// A cheap handle to the credential in use; all clones see the same one.
#[derive(Debug, Clone)]
pub struct Signer {
    current: watch::Sender<Option<Arc<Credential>>>,
    uses: Arc<Mutex<Uses>>,
}

#[derive(Debug, Default)]
struct Uses {
    accepted: Option<Accepted>,
    /// Credentials of other tokens that were in use; whoever signed with one still holds it.
    leaving: Vec<Weak<Credential>>,
}

/// That SolarNetwork accepted a token: a member of `credentials` in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The token that signed.
    pub token_id: String,
    /// How many calls of it were accepted since another token's was.
    pub calls: u64,
    /// When the last one was.
    pub at: DateTime<Utc>,
}

impl Signer {
    /// Begins with `credential`, or with none until one is put in.
    #[must_use]
    pub fn new(credential: Option<Credential>) -> Self {
        Self { current: watch::Sender::new(credential.map(Arc::new)), uses: Arc::default() }
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
            let token_id = credential.token_id.clone();
            let old = current.replace(Arc::new(credential));
            self.let_go(old.filter(|old| old.token_id != token_id));
            true
        });
    }

    /// Signs no more, because the token was removed from this device.
    pub fn clear(&self) {
        self.current.send_if_modified(|current| {
            let old = current.take();
            let was_there = old.is_some();
            self.let_go(old);
            was_there
        });
    }

    fn let_go(&self, old: Option<Arc<Credential>>) {
        let mut uses = self.uses();
        uses.leaving.retain(|one| one.strong_count() > 0);
        uses.leaving.extend(old.as_ref().map(Arc::downgrade));
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        // Nothing in there can be half done.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that SolarNetwork accepted a call signed with this token.
    pub fn note_accepted(&self, token_id: &TokenId, at: DateTime<Utc>) {
        let mut uses = self.uses();
        let known = uses.accepted.take().filter(|known| known.token_id == token_id.as_str());
        let calls = known.map_or(0, |known| known.calls) + 1;
        uses.accepted = Some(Accepted { token_id: token_id.to_string(), calls, at });
    }

    /// Which token SolarNetwork accepted last.
    #[must_use]
    pub fn accepted(&self) -> Option<Accepted> {
        self.uses().accepted.clone()
    }

    /// The tokens that are not in use any more and still sign: calls with them are under way.
    #[must_use]
    pub fn leaving(&self) -> Vec<TokenId> {
        let current = self.current();
        let uses = self.uses();
        let held = uses.leaving.iter().filter_map(Weak::upgrade).map(|one| one.token_id.clone());
        held.filter(|id| current.as_ref().is_none_or(|current| current.token_id != *id)).collect()
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

    #[test]
    fn a_replaced_token_leaves_when_the_last_call_signed_with_it_is_over() {
        let other = Credential { token_id: "xyz".parse().expect("a token ID"), ..credential(1) };
        let signer = Signer::new(Some(credential(1)));
        let calling = signer.current();
        // The next key of the same token is no other token.
        signer.replace(credential(2));
        assert_eq!(signer.leaving(), []);
        let calling_later = signer.current();
        signer.replace(other);
        drop(calling);
        assert_eq!(signer.leaving(), ["abc".parse().expect("a token ID")]);
        drop(calling_later);
        assert_eq!(signer.leaving(), []);
    }

    #[test]
    fn accepted_calls_are_counted_for_one_token_at_a_time() {
        let signer = Signer::new(None);
        let accepted = |id: &str| {
            signer.note_accepted(&id.parse().expect("a token ID"), DateTime::UNIX_EPOCH);
            signer.accepted().map(|accepted| (accepted.token_id, accepted.calls))
        };
        assert_eq!(accepted("a"), Some(("a".to_owned(), 1)));
        assert_eq!(accepted("a"), Some(("a".to_owned(), 2)));
        assert_eq!(accepted("b"), Some(("b".to_owned(), 1)));
    }
}
