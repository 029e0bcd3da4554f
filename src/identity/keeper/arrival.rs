//! A renewed certificate, from its arrival until it is in use or given up.
//!
//! Killed between any two steps, the next start goes on:
//!
//! ```text
//!  arrives ─▶ checked ─▶ node.next.pem ─▶ proved by a call ─▶ node.pem ─▶ in use ─▶ node.next.pem removed
//! ```

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::{
    super::{
        NodeCertificate,
        calls::{IdentityCalls, Trouble},
        renewed::renewed,
    },
    Work, life, load, load_of,
};
use crate::{
    credential::store::identity::Slot,
    domain::{Chain, utc},
    runtime::off_thread,
};

/// Renewed certificates that wait to be looked at; there is one a day at most.
const WAITING: usize = 4;

/// Hands a renewed certificate to the keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Installer(mpsc::Sender<Arrival>);

/// Renewed certificates on their way to whichever keeper runs.
#[derive(Debug, Clone)]
pub struct Arrivals(pub(super) Arc<Mutex<mpsc::Receiver<Arrival>>>);

#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) pem: String,
    pub(super) answer: oneshot::Sender<Result<String, String>>,
}

impl Installer {
    /// Both ends.
    #[must_use]
    pub fn channel() -> (Self, Arrivals) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), Arrivals(Arc::new(Mutex::new(receiver))))
    }

    /// Checks a renewed certificate, proves it and uses it.
    ///
    /// # Errors
    ///
    /// If it is not in use when this returns: why, and what becomes of it.
    pub async fn install(&self, pem: String) -> Result<String, String> {
        let gone = || "the agent is being stopped; the certificate was not installed".to_owned();
        let (answer, outcome) = oneshot::channel();
        self.0.send(Arrival { pem, answer }).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl<C: IdentityCalls> Work<C> {
    pub(super) async fn may_follow(
        &self,
        current: &Arc<NodeCertificate>,
        pem: &str,
    ) -> Result<Option<NodeCertificate>, String> {
        let (now, node) = (self.parts.clock.believed_now(), self.parts.node);
        let (current, pem) = (current.clone(), pem.to_owned());
        // Signatures of whoever sent it are verified.
        let outcome = off_thread(move || renewed(&current, &pem, node, now)).await;
        outcome.map_err(|error| error.to_string())
    }

    /// Installs what an instruction brought, and answers whoever carries it out.
    pub(super) async fn take(&mut self, arrival: Arrival) {
        let outcome = self.install(&arrival.pem).await;
        // Whoever asked may have been stopped.
        drop(arrival.answer.send(outcome));
    }

    async fn install(&mut self, pem: &str) -> Result<String, String> {
        let current = self.parts.identity.current();
        let current =
            current.ok_or("there is no certificate on this device that could be renewed")?;
        let outcome = self.may_follow(&current, pem).await;
        if let Err(error) = &outcome {
            error!(event = "identity.renewed_refused", error, "renewed certificate not taken");
        }
        let Some(next) = outcome? else {
            let until = utc(current.leaf().not_after());
            return Ok(format!("this certificate is in use already, until {until}"));
        };
        let store = self.parts.store.clone();
        let pem = next.to_pem();
        off_thread(move || store.save_identity(Slot::Next, pem.as_bytes()))
            .await
            .map_err(|error| format!("not installed: {}", Chain(&error)))?;
        self.machine.holds(Some(life(&current)), true);
        self.prove().await
    }

    /// Proves the renewed certificate and takes it into use.
    pub(super) async fn prove(&mut self) -> Result<String, String> {
        let store = self.parts.store.clone();
        let node = self.parts.node;
        let next = off_thread(move || load_of(&store, Slot::Next, node)).await;
        let before = self.parts.identity.current();
        let (Ok(Some(next)), Some(before)) = (next, &before) else {
            // Somebody has removed or replaced it.
            self.machine.holds(before.map(|current| life(&current)), false);
            return Err("the renewed certificate is not in the store any more".to_owned());
        };
        let next = Arc::new(next);
        let outcome = {
            let _proving = self.parts.pulse.enter("proving a renewed certificate", self.patience());
            self.parts.calls.prove(&next).await
        };
        let known = self.machine.trouble().is_some();
        let moment = self.moment();
        self.machine.proved(outcome.clone(), moment);
        match outcome {
            Ok(()) => self.take_over(before, &next).await,
            Err(Trouble::Refused(error)) => {
                error!(event = "identity.renewed_refused", error, "renewed certificate not taken");
                self.drop_next().await;
                Err(format!("the renewed certificate was given up: {error}"))
            }
            Err(Trouble::Passing(error)) => {
                if !known {
                    warn!(
                        event = "identity.not_proved",
                        error, "renewed certificate not proved yet"
                    );
                }
                Err(format!("the renewed certificate is kept and proved later: {error}"))
            }
        }
    }

    /// Puts `next` in the place of `before`, unless somebody changed either of them while it was proved.
    async fn take_over(
        &mut self,
        before: &Arc<NodeCertificate>,
        next: &Arc<NodeCertificate>,
    ) -> Result<String, String> {
        let (store, old, new) = (self.parts.store.clone(), before.clone(), next.clone());
        let saved = off_thread(move || {
            let holds = |slot, wanted: &NodeCertificate| {
                load(&store, slot)
                    .is_ok_and(|found| found.is_some_and(|(found, _)| found == *wanted))
            };
            let still = || holds(Slot::Current, &old) && holds(Slot::Next, &new);
            store.save_identity_if(Slot::Current, new.to_pem().as_bytes(), still)
        });
        match saved.await {
            Ok(true) => {}
            Ok(false) => {
                // Whatever is in the store now counts.
                self.reload().await;
                return Err("another certificate was put in while this one was proved".to_owned());
            }
            Err(error) => {
                // It stays where it is, and the next start proves it once more.
                self.machine.holds(Some(life(before)), true);
                return Err(format!("the renewed certificate is not on disk: {}", Chain(&error)));
            }
        }
        let (serial, ends) = (next.leaf().serial(), utc(next.ends()));
        info!(
            event = "identity.renewed",
            serial,
            certificate_expires = ends,
            "renewed certificate proved"
        );
        self.put_into_use(Some((**next).clone()));
        self.drop_next().await;
        self.machine.holds(Some(life(next)), false);
        self.write_memory().await;
        Ok(format!("certificate {serial} is in use until {ends}"))
    }

    pub(super) async fn drop_next(&self) {
        let store = self.parts.store.clone();
        if let Err(error) = off_thread(move || store.forget_identity(Slot::Next)).await {
            // The next start finds that it is of no use.
            debug!(error = %Chain(&error), "leftover of a renewal not removed");
        }
    }
}
