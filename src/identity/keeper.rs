//! Keeps the node's certificate: reads the store, puts it into use, has it renewed, and says what ends when.
//!
//! The task alone reads the certificate's files in the daemon and puts into the [`Identity`] what it finds. Told that
//! the store changed it reads it again; while there is nothing usable it looks once a minute even if nobody tells it.
//! The certificate of another node than the configured one is never put into use: with it, this node's datum would be
//! stored as the other's. It counts as none.
//!
//! A renewed certificate is checked and proved before it is put into use (`arrival`).
//!
//! What is remembered of outages and of the last request stands in `STATE_DIR/identity.json`. It is no loss: without
//! it a renewal is asked for once more.

mod arrival;
mod report;

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{Mutex, Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use self::arrival::Arrival;
pub use self::{
    arrival::{Arrivals, Installer},
    report::Status,
};
use super::{
    Identity, NodeCertificate,
    calls::IdentityCalls,
    check::{Complaint, of_node},
    node::Unusable,
    renewal::{CONTACT_EVERY, Condition, Life, Machine, Memory, Moment, Step, Terms},
};
use crate::{
    clock::Clock,
    credential::{
        Store,
        store::{Origin, StoreError, identity::Slot},
    },
    domain::{Chain, NodeId, utc},
    file,
    pulse::{Bound, Pulse},
    runtime::off_thread,
};

/// Why the certificate on this device cannot be used. No message holds anything secret.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it is no certificate with its key.
    #[error(
        "{} is of no use: {reason}; it was left as it is. \
         Import the certificate again with `solarnode-agent identity import`", path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Unusable,
    },
    /// It is not the configured node's.
    #[error("the certificate on this device is not used: {0}")]
    OtherNode(Complaint),
}

/// Reads the certificate in that slot.
///
/// # Errors
///
/// If there is one that cannot be used.
pub fn load(store: &Store, slot: Slot) -> Result<Option<(NodeCertificate, Origin)>, LoadError> {
    let Some(found) = store.load_identity(slot)? else { return Ok(None) };
    match NodeCertificate::from_pem(&found.bytes) {
        Ok(certificate) => Ok(Some((certificate, found.origin))),
        Err(reason) => Err(LoadError::Unusable { path: found.path, reason }),
    }
}

/// Reads the certificate in that slot for use by this node.
///
/// # Errors
///
/// If there is one that cannot be used, or that is not this node's.
pub fn load_of(
    store: &Store,
    slot: Slot,
    node: NodeId,
) -> Result<Option<NodeCertificate>, LoadError> {
    let Some((certificate, _)) = load(store, slot)? else { return Ok(None) };
    of_node(&certificate, node).map_err(LoadError::OtherNode)?;
    Ok(Some(certificate))
}

/// Keeps the certificate of one node.
pub struct Keeper<C> {
    /// Whose it has to be.
    pub node: NodeId,
    /// Whether the configuration needs one.
    pub needed: bool,
    /// When to have it renewed.
    pub terms: Terms,
    /// Where it is kept.
    pub store: Store,
    /// Where the memory is kept.
    pub state_dir: PathBuf,
    /// Where everyone takes it from.
    pub identity: Identity,
    /// The time.
    pub clock: Clock,
    /// How SolarIn is asked.
    pub calls: C,
    /// Notified when the store was changed by someone else.
    pub reload: Arc<Notify>,
    /// Renewed ones that instructions bring.
    pub arrivals: Arrivals,
    /// When SolarNetwork answered last.
    pub contact: Box<dyn Fn() -> Option<DateTime<Utc>> + Send + Sync>,
    /// Where things stand, for `status`.
    pub status: watch::Sender<Status>,
    /// Shows what it does.
    pub pulse: Pulse,
    /// Ends the task.
    pub stop: CancellationToken,
}

impl<C: IdentityCalls> Keeper<C> {
    /// Reads the store, then keeps the certificate until stopped.
    pub async fn run(self) {
        let stop = self.stop.clone();
        let path = memory_path(&self.state_dir);
        let written = remembered(path.clone()).await;
        let mut work = Work {
            machine: Machine::new(self.terms, written.clone()),
            written,
            writing: Arc::default(),
            unreadable: None,
            reported: None,
            begun: Instant::now(),
            path,
            parts: self,
        };
        // Dropping it in the middle is what a power cut does; each file is replaced whole.
        stop.run_until_cancelled(work.keep()).await;
        work.listen();
        work.machine.stopping();
        work.write_memory().await;
    }
}

/// The running task: the parts it was given, and what it knows.
struct Work<C> {
    parts: Keeper<C>,
    machine: Machine,
    /// What stands on disk of the machine's memory.
    written: Memory,
    /// Held while it is written: what a stop cut off goes on, and what is newer comes after it.
    writing: Arc<Mutex<()>>,
    path: PathBuf,
    /// Why what is in the store is not used, if it is not.
    unreadable: Option<String>,
    /// What the log says last, and whether something stands against a renewal.
    reported: Option<(Condition, bool)>,
    begun: Instant,
}

impl<C: IdentityCalls> Work<C> {
    async fn keep(&mut self) {
        let arrivals = self.parts.arrivals.clone();
        // Only one keeper runs at a time.
        let mut arrivals = arrivals.0.lock().await;
        self.reload().await;
        loop {
            self.hear().await;
            self.report();
            match self.machine.step(self.moment()) {
                Step::Ask => self.ask(&mut arrivals).await,
                Step::Prove => drop(self.prove().await),
                Step::Wait(wait) => {
                    let left = Bound::Within(wait);
                    let waiting = self.parts.pulse.enter("waiting for the next look", left);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {
                            drop(waiting);
                            if self.parts.identity.current().is_none() {
                                self.reload().await;
                            }
                        }
                        () = self.parts.reload.notified() => {
                            drop(waiting);
                            self.reload().await;
                        }
                        Some(arrival) = arrivals.recv() => {
                            drop(waiting);
                            self.take(arrival).await;
                        }
                    }
                }
            }
        }
    }

    fn moment(&self) -> Moment {
        Moment { now: self.parts.clock.trusted_now(), elapsed: self.begun.elapsed() }
    }

    fn patience(&self) -> Bound {
        Bound::Within(self.parts.calls.patience())
    }

    /// Takes what is in the store. One that cannot be read changes nothing; another node's is as good as none.
    async fn reload(&mut self) {
        let (store, node) = (self.parts.store.clone(), self.parts.node);
        let load = move || (load_of(&store, Slot::Current, node), load(&store, Slot::Next));
        let loaded = off_thread(load).await;
        let unreadable = match loaded.0 {
            Ok(current) => {
                self.put_into_use(current);
                None
            }
            Err(error) => {
                if matches!(error, LoadError::OtherNode(_)) {
                    self.put_into_use(None);
                }
                Some(Chain(&error).to_string())
            }
        };
        if self.unreadable != unreadable
            && let Some(error) = &unreadable
        {
            error!(event = "identity.unreadable", %error, "certificate not used");
        }
        self.unreadable = unreadable;
        let current = self.parts.identity.current();
        let next = loaded.1.ok().flatten().map(|(certificate, _)| certificate);
        // One that an import has overtaken is of no use any more.
        let waits = match (&current, &next) {
            (Some(current), Some(next)) => {
                let follows = self.may_follow(current, &next.leaf().to_pem()).await;
                follows.is_ok_and(|next| next.is_some())
            }
            _ => false,
        };
        if next.is_some() && !waits {
            self.drop_next().await;
        }
        self.machine.holds(current.map(|current| life(&current)), waits);
    }

    fn put_into_use(&self, certificate: Option<NodeCertificate>) {
        let described = certificate.as_ref().map(|certificate| {
            let leaf = certificate.leaf();
            (leaf.subject().to_string(), leaf.serial(), utc(leaf.not_after()))
        });
        if self.parts.identity.replace(certificate)
            && let Some((subject, serial, ends)) = described
        {
            info!(
                event = "identity.in_use",
                subject,
                serial,
                certificate_expires = ends,
                "another certificate in use"
            );
        }
    }

    /// Asks for a renewal, after writing down that it does. Over MQTT the renewed one may come before the answer.
    async fn ask(&mut self, arrivals: &mut mpsc::Receiver<Arrival>) {
        let Some((now, current)) = self.moment().now.zip(self.parts.identity.current()) else {
            return;
        };
        self.machine.asking(now);
        self.write_memory().await;
        info!(
            event = "identity.renewal_asked",
            serial = current.leaf().serial(),
            certificate_expires = utc(current.ends()),
            "renewal asked for, the private key goes to SolarNetwork"
        );
        let calls = self.parts.calls.clone();
        let mut answer = pin!(calls.ask(&current));
        let outcome = loop {
            let asking = self.parts.pulse.enter("asking for a renewal", self.patience());
            tokio::select! {
                outcome = &mut answer => break outcome,
                Some(arrival) = arrivals.recv() => {
                    drop(asking);
                    self.take(arrival).await;
                }
            }
        };
        let moment = self.moment();
        self.machine.asked(outcome, moment);
        self.write_memory().await;
    }

    /// Takes note of the last answer of SolarNetwork.
    fn listen(&mut self) {
        if let Some(at) = (self.parts.contact)() {
            self.machine.heard(at);
        }
    }

    async fn hear(&mut self) {
        self.listen();
        let (memory, written) = (self.machine.memory(), &self.written);
        let (new, old) = (memory.last_contact, written.last_contact);
        let is_old = new.is_some_and(|new| old.is_none_or(|old| new - old >= CONTACT_EVERY));
        if is_old || memory.exact != written.exact {
            self.write_memory().await;
        }
    }

    async fn write_memory(&mut self) {
        let memory = self.machine.memory().clone();
        if memory == self.written {
            return;
        }
        let bytes = serde_json::to_vec(&memory).expect("numbers and times always make JSON");
        let (path, writing) = (self.path.clone(), self.writing.clone().lock_owned().await);
        let write = move || {
            let written = file::replace(&path, &bytes, 0o640);
            drop(writing);
            written
        };
        match off_thread(write).await {
            Ok(()) => self.written = memory,
            // Without it a renewal is asked for once more after a restart.
            Err(error) => debug!(%error, "memory of renewals not written"),
        }
    }
}

fn life(certificate: &NodeCertificate) -> Life {
    Life { begins: certificate.leaf().not_before(), ends: certificate.ends() }
}

fn memory_path(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.json")
}

/// What is in the file; nothing where there is none that can be read.
async fn remembered(path: PathBuf) -> Memory {
    let read: io::Result<Vec<u8>> = off_thread(move || std::fs::read(path)).await;
    read.ok().and_then(|bytes| memory(&bytes)).unwrap_or_default()
}

/// What is remembered in this state folder, for a command.
#[must_use]
pub fn remembered_in(state_dir: &Path) -> Memory {
    let read = std::fs::read(memory_path(state_dir)).ok();
    read.and_then(|bytes| memory(&bytes)).unwrap_or_default()
}

/// Reads the contents of `identity.json`.
#[must_use]
pub fn memory(bytes: &[u8]) -> Option<Memory> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests;
