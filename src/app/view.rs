//! What can be seen from outside: the published status of every part.
//!
//! A part that is started again publishes where its predecessor did, so the view never changes.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::reload::{Configuration, Preview};
use crate::{
    clock::{Clock, Trust},
    config::settings::Via,
    credential::Signer,
    files, flux, identity, instruct,
    modbus::{self, BusStatus, Recorder, ring},
    mqtt,
    observe::{
        control::{Answers, Ask},
        log::Levels,
    },
    pulse::{Pulses, Sample},
    queue::QueueStat,
    refresh,
    upload::{UploadStatus, proof},
};

/// Where the parts publish how they stand.
#[derive(Debug, Clone)]
pub(super) struct Board {
    /// What the daemon runs on.
    pub(super) config: watch::Sender<Configuration>,
    /// Every bus that runs, in the order of the configuration.
    pub(super) buses: watch::Sender<Vec<watch::Receiver<BusStatus>>>,
    pub(super) upload: watch::Sender<UploadStatus>,
    /// Since when readings go over HTTPS because the broker is silent.
    pub(super) over_https: watch::Sender<Option<DateTime<Utc>>>,
    /// `None` where SolarQuery is not asked.
    pub(super) proof: watch::Sender<Option<proof::Status>>,
    pub(super) credential: watch::Sender<refresh::Status>,
    pub(super) identity: watch::Sender<identity::keeper::Status>,
    /// Where the daemon asks SolarQuery with a token of its own.
    pub(super) auditing: watch::Sender<Option<Auditing>>,
    pub(super) instructions: watch::Sender<instruct::Status>,
    pub(super) files: watch::Sender<files::Status>,
    /// The session with SolarNetwork's broker, and that of the live feed.
    pub(super) mqtt: watch::Sender<mqtt::Status>,
    pub(super) flux_broker: watch::Sender<mqtt::Status>,
    pub(super) flux: watch::Sender<flux::Status>,
    /// What passes on the buses.
    pub(super) frames: Recorder,
}

impl Board {
    /// With nothing but the configuration on it.
    pub(super) fn new(config: Configuration) -> Self {
        Self {
            config: watch::Sender::new(config),
            buses: watch::Sender::default(),
            upload: watch::Sender::default(),
            over_https: watch::Sender::default(),
            proof: watch::Sender::default(),
            credential: watch::Sender::default(),
            identity: watch::Sender::default(),
            auditing: watch::Sender::default(),
            instructions: watch::Sender::default(),
            files: watch::Sender::default(),
            mqtt: watch::Sender::default(),
            flux_broker: watch::Sender::default(),
            flux: watch::Sender::default(),
            frames: Recorder::new(ring::BYTES),
        }
    }
}

/// The token of audits, in use.
#[derive(Debug, Clone)]
pub(super) struct Auditing {
    pub(super) status: watch::Receiver<refresh::Status>,
    pub(super) signer: Signer,
    /// Wakes its refresher.
    pub(super) changed: Arc<Notify>,
}

/// Answers what is asked over the control socket.
pub(super) struct View {
    pub(super) clock: Clock,
    pub(super) board: Board,
    pub(super) queue: watch::Receiver<QueueStat>,
    pub(super) pulses: Pulses,
    /// What is logged.
    pub(super) levels: Levels,
    /// What is signed with.
    pub(super) signer: Signer,
    /// Wakes the refresher: the credential store was changed.
    pub(super) credential_changed: Arc<Notify>,
    /// Wakes the keeper of the certificate: its file was changed.
    pub(super) identity_changed: Arc<Notify>,
}

impl View {
    /// The members of `status --json`.
    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "sources": self.sources(),
            "queue": *self.queue.borrow(),
            "upload": self.upload(),
            "clock": self.clock_status(),
            "credentials": self.credentials(),
            "instructions": *self.board.instructions.borrow(),
            "files": *self.board.files.borrow(),
            "mqtt": self.mqtt(),
            "flux": self.flux(),
            "config": *self.board.config.borrow(),
            "log": self.levels.status(),
            "tasks": self.tasks(),
        })
    }

    /// The token, the one of audits where it is another, and the certificate where there is one or should be.
    fn credentials(&self) -> Vec<Value> {
        let working = self.board.credential.borrow();
        let working = (working.missed || working.token_id.is_some())
            .then(|| credential(&working, &self.signer));
        let mut all: Vec<Value> = working.into_iter().collect();
        let auditing = self.board.auditing.borrow();
        all.extend(auditing.iter().map(|own| credential(&own.status.borrow(), &own.signer)));
        let identity = self.board.identity.borrow();
        all.extend(identity.is_of_interest().then(|| json!(*identity)));
        all
    }

    fn upload(&self) -> Value {
        let mut upload = json!(*self.board.upload.borrow());
        upload["via"] = json!(self.board.config.borrow().settings.upload.via);
        upload["over_https_since"] = json!(*self.board.over_https.borrow());
        upload["proof"] = json!(*self.board.proof.borrow());
        upload
    }

    /// `null` where datum take another way.
    fn mqtt(&self) -> Value {
        let wanted = self.board.config.borrow().settings.upload.via == Via::Mqtt;
        if wanted { json!(*self.board.mqtt.borrow()) } else { Value::Null }
    }

    /// `null` where there is to be none.
    fn flux(&self) -> Value {
        if self.board.config.borrow().settings.flux.is_none() {
            return Value::Null;
        }
        let mut flux = json!(*self.board.flux.borrow());
        flux["broker"] = json!(*self.board.flux_broker.borrow());
        flux
    }

    fn sources(&self) -> Vec<Value> {
        let of_bus = |bus: &watch::Receiver<BusStatus>| {
            let bus = bus.borrow();
            let named = |source: &modbus::SourceStatus| {
                let mut value = json!(source);
                value["bus"] = json!(bus.bus);
                value
            };
            bus.sources.iter().map(named).collect::<Vec<_>>()
        };
        self.board.buses.borrow().iter().flat_map(of_bus).collect()
    }

    fn tasks(&self) -> Vec<Value> {
        let shown = |sample: Sample| {
            json!({
                "task": sample.task,
                "doing": sample.doing,
                "since_ms": u64::try_from(sample.lasts.as_millis()).unwrap_or(u64::MAX),
            })
        };
        self.pulses.samples().into_iter().map(shown).collect()
    }

    fn clock_status(&self) -> Value {
        let (trust, ahead_ms) = match self.clock.trust() {
            Trust::Unknown => ("unknown", None),
            Trust::Synchronised => ("synchronised", None),
            Trust::Server { ahead } => ("server", Some(ahead.num_milliseconds())),
        };
        json!({ "trust": trust, "ahead_ms": ahead_ms, "now": self.clock.trusted_now() })
    }

    /// One line for `systemctl status`.
    pub(super) fn line(&self) -> String {
        let (mut up, mut all) = (0, 0);
        for bus in self.board.buses.borrow().iter() {
            let bus = bus.borrow();
            all += bus.sources.len();
            up += bus.sources.iter().filter(|s| s.state.is_up()).count();
        }
        let (queue, upload) = (self.queue.borrow(), self.board.upload.borrow());
        let waits = upload.waits_for.as_deref().map(|w| format!(", {w}")).unwrap_or_default();
        let refused = self.board.config.borrow().is_last_refused();
        let refused = if refused { ", the last reload was refused" } else { "" };
        format!(
            "{up} of {all} sources answer, {} datum wait, uploads {}{waits}{refused}",
            queue.records, upload.state
        )
    }
}

fn credential(status: &refresh::Status, signer: &Signer) -> Value {
    let mut credential = json!(status);
    credential["accepted"] = json!(signer.accepted());
    credential["leaving"] = signer.leaving().iter().map(ToString::to_string).collect();
    credential
}

impl Answers for View {
    async fn answer(&self, ask: Ask) -> Value {
        match ask {
            Ask::Status => self.status(),
            Ask::Frames => json!(self.board.frames.dump(self.clock.trusted_now())),
            Ask::Changes => {
                let config = self.board.config.borrow().clone();
                json!(Preview::of(&config).await)
            }
            Ask::CredentialChanged => {
                self.credential_changed.notify_one();
                if let Some(own) = &*self.board.auditing.borrow() {
                    own.changed.notify_one();
                }
                json!({ "ok": true })
            }
            Ask::IdentityChanged => {
                self.identity_changed.notify_one();
                json!({ "ok": true })
            }
        }
    }
}
