//! Keeps the node's certificate: reads the store, puts it into use, has it renewed, and says what ends when.
//!
//! The task alone reads the certificate's files in the daemon and puts into the [`Identity`] what it finds. Told that
//! the store changed it reads it again; while there is nothing usable it looks once a minute even if nobody tells it.
//! The certificate of another node than the configured one is never put into use: with it, this node's datum would be
//! stored as the other's. It counts as none.
//!
//! A renewed certificate takes these steps; killed between any two of them, the next start goes on:
//!
//! ```text
//!  arrives ─▶ checked ─▶ node.next.pem ─▶ proved by a call ─▶ node.pem ─▶ in use ─▶ node.next.pem removed
//! ```
//!
//! What is remembered of outages and of the last request stands in `STATE_DIR/identity.json`. It is no loss: without
//! it a renewal is asked for once more.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Identity, NodeCertificate,
    calls::{IdentityCalls, Trouble},
    check::{Complaint, Listed, judge, of_node},
    node::Unusable,
    renewal::{Condition, Life, Machine, Memory, Moment, Step, Terms},
    renewed::renewed,
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
};

/// How often the last contact is written to disk: outages are measured in days.
const CONTACT_EVERY: TimeDelta = TimeDelta::hours(6);

/// Renewed certificates that wait to be looked at; there is one a day at most.
const WAITING: usize = 4;

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

/// Hands a renewed certificate to the keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Installer(mpsc::Sender<Arrival>);

/// Renewed certificates on their way to whichever keeper runs.
#[derive(Debug, Clone)]
pub struct Arrivals(Arc<Mutex<mpsc::Receiver<Arrival>>>);

#[derive(Debug)]
struct Arrival {
    pem: String,
    answer: oneshot::Sender<Result<String, String>>,
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

/// Where things stand with the certificate: a member of `credentials` in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Always `node`; what tells it from a token.
    pub certificate: &'static str,
    /// Whether the configuration needs it.
    pub needed: bool,
    /// Whom it is about.
    pub subject: Option<String>,
    /// Its serial number, hexadecimal.
    pub serial: Option<String>,
    /// The first instant at which something stops if nothing changes.
    pub ends: Option<DateTime<Utc>>,
    /// Why then.
    pub because: String,
    /// When a renewal is asked for next.
    pub next_attempt: Option<DateTime<Utc>>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The longest time for which SolarNetwork was out of reach.
    pub longest_outage_secs: i64,
}

impl Status {
    /// Whether there is anything to be said: there is a certificate, or there should be.
    #[must_use]
    pub fn is_of_interest(&self) -> bool {
        self.needed || self.subject.is_some() || self.last_error.is_some()
    }
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
        // Dropping it in the middle is what a power cut does; each file is replaced whole.
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let path = memory_path(&self.state_dir);
        let written = remembered(path.clone()).await;
        let mut work = Work {
            machine: Machine::new(self.terms, written.clone()),
            written,
            unreadable: None,
            reported: None,
            begun: Instant::now(),
            path,
            parts: self,
        };
        let arrivals = work.parts.arrivals.clone();
        // Only one keeper runs at a time.
        let mut arrivals = arrivals.0.lock().await;
        work.reload().await;
        loop {
            work.hear().await;
            work.report();
            match work.machine.step(work.moment()) {
                Step::Ask => work.ask().await,
                Step::Prove => drop(work.prove().await),
                Step::Wait(wait) => {
                    let left = Bound::Within(wait);
                    let waiting = work.parts.pulse.enter("waiting for the next look", left);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {
                            drop(waiting);
                            if work.parts.identity.current().is_none() {
                                work.reload().await;
                            }
                        }
                        () = work.parts.reload.notified() => {
                            drop(waiting);
                            work.reload().await;
                        }
                        Some(arrival) = arrivals.recv() => {
                            drop(waiting);
                            let outcome = work.install(&arrival.pem).await;
                            // Whoever asked may have been stopped.
                            drop(arrival.answer.send(outcome));
                        }
                    }
                }
            }
        }
    }
}

/// The running task: the parts it was given, and what it knows.
struct Work<C> {
    parts: Keeper<C>,
    machine: Machine,
    /// What stands on disk of the machine's memory.
    written: Memory,
    path: PathBuf,
    /// Why what is in the store is not used, if it is not.
    unreadable: Option<String>,
    /// What the log says last, and whether something stands against a renewal.
    reported: Option<(Condition, bool)>,
    begun: Instant,
}

impl<C: IdentityCalls> Work<C> {
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

    async fn may_follow(
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

    /// Asks for a renewal, after writing down that it does.
    async fn ask(&mut self) {
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
        let outcome = {
            let _asking = self.parts.pulse.enter("asking for a renewal", self.patience());
            self.parts.calls.ask(&current).await
        };
        let moment = self.moment();
        self.machine.asked(outcome, moment);
        self.write_memory().await;
    }

    /// What an instruction brought.
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
    async fn prove(&mut self) -> Result<String, String> {
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

    async fn drop_next(&self) {
        let store = self.parts.store.clone();
        if let Err(error) = off_thread(move || store.forget_identity(Slot::Next)).await {
            // The next start finds that it is of no use.
            debug!(error = %Chain(&error), "leftover of a renewal not removed");
        }
    }

    /// Takes note of the last answer of SolarNetwork.
    async fn hear(&mut self) {
        if let Some(at) = (self.parts.contact)() {
            self.machine.heard(at);
        }
        let (new, old) = (self.machine.memory().last_contact, self.written.last_contact);
        let is_old = new.is_some_and(|new| old.is_none_or(|old| new - old >= CONTACT_EVERY));
        if is_old {
            self.write_memory().await;
        }
    }

    async fn write_memory(&mut self) {
        let memory = self.machine.memory().clone();
        if memory == self.written {
            return;
        }
        let bytes = serde_json::to_vec(&memory).expect("numbers and times always make JSON");
        let path = self.path.clone();
        match off_thread(move || file::replace(&path, &bytes, 0o640)).await {
            Ok(()) => self.written = memory,
            // Without it a renewal is asked for once more after a restart.
            Err(error) => debug!(%error, "memory of renewals not written"),
        }
    }

    /// Publishes where things stand, and logs it if that changed.
    fn report(&mut self) {
        let moment = self.moment();
        let condition = self.machine.condition(moment);
        let status = self.status(condition, moment);
        let ends = matches!(condition, Condition::Ends | Condition::EndsSoon);
        let known = (condition, ends && status.last_error.is_some());
        if self.reported.as_ref() != Some(&known) {
            self.log(condition, &status);
            self.reported = Some(known);
        }
        self.parts.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    fn log(&self, condition: Condition, status: &Status) {
        let because = &status.because;
        let ends = status.ends.map(utc).unwrap_or_default();
        let error = status.last_error.as_deref().unwrap_or_default();
        match condition {
            Condition::Missing if self.parts.needed => {
                error!(event = "identity.missing", because, "no certificate, uploads wait");
            }
            Condition::Missing | Condition::TimeUnknown => {}
            Condition::NotYet => {
                warn!(event = "identity.not_yet", because, "certificate not valid yet");
            }
            Condition::Well | Condition::Renewing => {
                info!(
                    event = "identity.well",
                    certificate_expires = ends,
                    because,
                    "certificate in use"
                );
            }
            Condition::Ends => {
                warn!(
                    event = "identity.ends",
                    certificate_expires = ends,
                    because,
                    error,
                    "certificate ends"
                );
            }
            Condition::EndsSoon => {
                error!(
                    event = "identity.ends_soon",
                    certificate_expires = ends,
                    because,
                    error,
                    "certificate ends soon"
                );
            }
            Condition::RunOut => {
                error!(
                    event = "identity.ran_out",
                    certificate_expires = ends,
                    because,
                    "certificate ran out, uploads wait"
                );
            }
        }
    }

    fn status(&self, condition: Condition, moment: Moment) -> Status {
        let current = self.parts.identity.current();
        let leaf = current.as_deref().map(NodeCertificate::leaf);
        let complaints = current.as_deref().map(|certificate| {
            let now = moment.now.unwrap_or_else(|| self.parts.clock.believed_now());
            let mut complaints = judge(certificate, self.parts.node, now);
            complaints.retain(|complaint| complaint.is_final() && moment.now.is_some());
            complaints
        });
        let complaints = complaints.filter(|complaints| !complaints.is_empty());
        let wrong = complaints.map(|complaints| Listed(&complaints).to_string());
        Status {
            certificate: "node",
            needed: self.parts.needed,
            subject: leaf.map(|leaf| leaf.subject().to_string()),
            serial: leaf.map(super::Certificate::serial),
            ends: current.as_deref().map(NodeCertificate::ends),
            because: wrong.unwrap_or_else(|| self.because(condition)),
            next_attempt: self.machine.asks_at(moment.now),
            last_error: self
                .unreadable
                .clone()
                .or_else(|| self.machine.trouble().map(ToString::to_string)),
            longest_outage_secs: self.machine.memory().longest_outage_secs,
        }
    }

    fn because(&self, condition: Condition) -> String {
        let import = "`solarnode-agent identity import` installs one";
        let renewal = if self.parts.terms.allowed {
            "renewals are asked for on this device"
        } else {
            "renew it at SolarNetwork and import it, or allow `identity.renew`"
        };
        match condition {
            Condition::Missing => match &self.unreadable {
                Some(error) => error.clone(),
                None => format!("there is no certificate on this device; {import}"),
            },
            Condition::TimeUnknown => "the time is not known yet".to_owned(),
            Condition::NotYet => {
                "the certificate is not valid yet: set the clock, or wait".to_owned()
            }
            Condition::Well => "the certificate ends then".to_owned(),
            Condition::Renewing => "a renewed certificate is on its way".to_owned(),
            Condition::Ends | Condition::EndsSoon => {
                format!("the certificate ends then: {renewal}")
            }
            Condition::RunOut => format!("the certificate has ended; {import}"),
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

/// Runs what reads or writes files, or works for long, in a thread for that.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
