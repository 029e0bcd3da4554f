//! The network identity document: where SolarNetwork's services are, as SolarIn says without being shown who asks.
//!
//! `GET {in_url}/identity.do` names most of them; SolarUser's (else SolarQuery's) public configuration adds some,
//! SolarFlux among them. What was learnt is kept for a day, in `STATE_DIR/network.json` as well, and used for longer
//! while no server answers. What the configuration says goes before it; that is its callers' affair.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use tracing::debug;

use crate::{
    clock::Clock,
    file,
    net::{Net, Outgoing},
    runtime::off_thread,
};

/// How long what was learnt is taken for right without asking again.
const FRESH: TimeDelta = TimeDelta::days(1);

/// How soon after an attempt that failed the next one is made.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest document. Those of the public service have two kilobytes.
const MAX_BYTES: usize = 64 * 1024;

/// The most services, and the longest address, that are kept.
const MAX_SERVICES: (usize, usize) = (64, 512);

/// SolarUser, by its name in the document.
pub const SOLARUSER: &str = "solaruser";
/// The MQTT broker of SolarIn.
pub const MQTT: &str = "solarin-mqtt";
/// The MQTT broker of SolarFlux.
pub const FLUX: &str = "solarflux";

/// What a document says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Addresses by the services' names.
    pub services: BTreeMap<String, String>,
    /// What a person compares with the invitation.
    pub identity_key: Option<String>,
    /// What a person compares with SolarNetwork's page; only there for an invitation.
    pub security_phrase: Option<String>,
}

/// Where the services are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    in_url: Arc<str>,
    net: Net,
    clock: Clock,
    path: Arc<Path>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` before the file was looked for.
    known: Option<Known>,
    tried: Option<Instant>,
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Who said so.
    from: String,
    fetched: Option<DateTime<Utc>>,
    services: BTreeMap<String, String>,
}

impl Network {
    /// Of the SolarIn at `in_url`. Touches nothing.
    #[must_use]
    pub fn new(in_url: &str, net: Net, clock: Clock, state_dir: &Path) -> Self {
        let path: PathBuf = state_dir.join("network.json");
        Self { in_url: in_url.into(), net, clock, path: path.into(), state: Arc::default() }
    }

    /// Where the service of that name is; `None` if SolarNetwork does not say, or never answered.
    pub async fn service_url(&self, name: &str) -> Option<String> {
        let mut state = self.state.lock().await;
        if state.known.is_none() {
            state.known = Some(self.load().await);
        }
        let now = self.clock.believed_now();
        let known = state.known.get_or_insert_default();
        let is_fresh = known.fetched.is_some_and(|at| at <= now && now - at < FRESH);
        let tried_lately = state.tried.is_some_and(|at| at.elapsed() < PAUSE);
        if !is_fresh && !tried_lately {
            state.tried = Some(Instant::now());
            if let Some(services) = self.fetch().await {
                let from = self.in_url.to_string();
                let known = Known { from, fetched: Some(self.clock.believed_now()), services };
                self.save(&known).await;
                state.known = Some(known);
            }
        }
        state.known.as_ref()?.services.get(name).cloned()
    }

    async fn fetch(&self) -> Option<BTreeMap<String, String>> {
        let url = format!("{}/identity.do", self.in_url);
        let document = document(&self.get(&url).await?)?;
        let mut services = document.services;
        for name in [SOLARUSER, "solarquery"] {
            let Some(base) = services.get(name) else { continue };
            let url = format!("{}/api/v1/pub/config", base.trim_end_matches('/'));
            if let Some(more) = self.get(&url).await.and_then(|bytes| public_config(&bytes)) {
                services.extend(more);
                break;
            }
        }
        Some(services)
    }

    async fn get(&self, url: &str) -> Option<Bytes> {
        match self.net.send(&get(url)).await {
            Ok(answer) if answer.status == 200 => Some(answer.body),
            Ok(answer) => {
                debug!(url, status = answer.status, "no network identity");
                None
            }
            Err(error) => {
                debug!(url, ?error, "no network identity");
                None
            }
        }
    }

    /// What was kept of this server. A file that cannot be read is as good as none: the server is asked.
    async fn load(&self) -> Known {
        let path = self.path.clone();
        let read = off_thread(move || std::fs::read(path)).await;
        let known = read.ok().and_then(|bytes| known(&bytes));
        known.filter(|known| known.from == *self.in_url).unwrap_or_default()
    }

    async fn save(&self, known: &Known) {
        let path = self.path.clone();
        let bytes = serde_json::to_vec(known).expect("text and numbers always make JSON");
        let saved = off_thread(move || file::replace(&path, &bytes, 0o640)).await;
        if let Err(error) = saved {
            // It is in memory, and the server is asked again after a restart.
            debug!(%error, "network identity not kept on disk");
        }
    }
}

/// A plain GET of JSON.
#[must_use]
pub fn get(url: &str) -> Outgoing {
    Outgoing {
        method: "GET",
        url: url.to_owned(),
        headers: vec![("Accept".to_owned(), "application/json".to_owned())],
        body: Bytes::new(),
    }
}

/// Reads `identity.do`. `None` if it is not that document. One that names its host may have no services.
#[must_use]
pub fn document(bytes: &[u8]) -> Option<Document> {
    let data = data(bytes)?;
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    let services = match &data["networkServiceURLs"] {
        Value::Null if data["host"].is_string() => BTreeMap::new(),
        services => addresses(services)?,
    };
    Some(Document {
        services,
        identity_key: text("identityKey"),
        security_phrase: text("securityPhrase"),
    })
}

/// Reads the services out of a public configuration.
#[must_use]
pub fn public_config(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    addresses(&data(bytes)?["serviceUrls"])
}

/// What stands in the envelope, or the whole where there is none.
pub(super) fn data(bytes: &[u8]) -> Option<Value> {
    let bytes = (bytes.len() <= MAX_BYTES).then_some(bytes)?;
    let mut answer: Value = serde_json::from_slice(bytes).ok()?;
    match answer.get("success") {
        None => Some(answer),
        Some(Value::Bool(true)) => Some(answer["data"].take()),
        Some(_) => None,
    }
}

/// Names and addresses; what is no address is left out.
fn addresses(services: &Value) -> Option<BTreeMap<String, String>> {
    let address = |(name, url): (&String, &Value)| {
        let url = url.as_str()?;
        let is_one = url.len() <= MAX_SERVICES.1
            && url.contains("://")
            && url.bytes().all(|byte| byte.is_ascii_graphic());
        is_one.then(|| (name.clone(), url.to_owned()))
    };
    Some(services.as_object()?.iter().filter_map(address).take(MAX_SERVICES.0).collect())
}

fn known(bytes: &[u8]) -> Option<Known> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests;
