//! A reload: the file again, what differs, and only that.
//!
//! ```text
//!  SIGHUP ──▶ read, check, rehearse ──▶ changes ──▶ build ──▶ stop old ──▶ start new
//!                     │                    │          │
//!                     └── complaints ──────┴──────────┴──▶ refused: nothing was touched
//! ```
//!
//! * It is taken as a whole or not at all. A file with any complaint, and one that changes a key which
//!   needs a restart of the daemon, change nothing.
//! * All that can fail comes before anything is stopped.
//! * The instructor ends first, with what it has begun; then the buses, which hand over what they have
//!   read; then the rest. A part that is not among the [`Changes`] notices nothing.
//! * Given up in the middle, because the daemon is to stop, it leaves parts that have ended and parts
//!   that run, and [`Daemon::stop`] copes with both.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::{error, info, warn};

use super::{
    AppError, Daemon,
    brokers::{self, IdleSession},
    change::{Changes, How, Part, Shown},
    part::{self, IdleBus, Ways},
    rehearse::rehearse,
    task::finish_all,
};
use crate::{
    config::{self, ConfigError, Loaded, Problem, Settings, Severity},
    domain::Chain,
    instruct::ACT_LIMIT,
    observe::systemd,
    pulse::Bound,
    runtime::{off_thread, trim_memory},
    solarin::SolarIn,
    solarnet::Api,
};

/// An instruction under way is waited for; the other parts end in a few seconds.
const LONGEST: Bound = Bound::Within(ACT_LIMIT);

/// What the daemon runs on, and what came of the last attempt to change that: `config` in `status`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Configuration {
    /// The file, absolute; its drop-ins lie beside it.
    pub(super) file: PathBuf,
    #[serde(skip)]
    pub(super) settings: Arc<Settings>,
    /// The last reload since the daemon started.
    pub(super) last_reload: Option<LastReload>,
}

impl Configuration {
    /// Whether the daemon runs on something else than what stands in the file.
    pub(super) fn is_last_refused(&self) -> bool {
        self.last_reload.as_ref().is_some_and(|last| matches!(last.result, Outcome::Refused { .. }))
    }
}

/// A reload that is over.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LastReload {
    /// When, if the time was known.
    at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    result: Outcome,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Outcome {
    /// The file says what the daemon already does.
    Unchanged,
    /// What differed is in use.
    Applied { changes: Vec<Shown> },
    /// Nothing was changed.
    Refused { problems: Vec<String> },
}

/// What a reload would do now: the answer to `check --diff`.
#[derive(Debug, Serialize)]
pub(super) struct Preview {
    file: PathBuf,
    /// Why it would be refused: what is wrong in the file.
    problems: Vec<String>,
    /// Why it would be refused: keys that need a restart of the daemon.
    needs_restart: Vec<String>,
    changes: Vec<Shown>,
}

impl Preview {
    pub(super) async fn of(config: &Configuration) -> Self {
        let file = config.file.clone();
        match read(&file).await {
            Ok(loaded) => {
                let changes = Changes::between(&config.settings, &loaded.settings);
                let shown = changes.shown();
                Self { file, problems: Vec::new(), needs_restart: changes.fixed, changes: shown }
            }
            Err(problems) => {
                Self { file, problems, needs_restart: Vec::new(), changes: Vec::new() }
            }
        }
    }
}

/// Reads, checks and rehearses the file: what comes back, the daemon can run on.
async fn read(file: &Path) -> Result<Loaded, Vec<String>> {
    let file = file.to_owned();
    let work = move || {
        let loaded = config::load(&file).map_err(|error| match error {
            ConfigError::Invalid(problems) => {
                let errors = problems.iter().filter(|p| p.severity == Severity::Error);
                errors.map(Problem::to_string).collect()
            }
            error @ ConfigError::Unreadable { .. } => vec![Chain(&error).to_string()],
        })?;
        let refused = rehearse(&file, &loaded.settings);
        let refused: Vec<String> = refused.iter().map(Problem::to_string).collect();
        if refused.is_empty() { Ok(loaded) } else { Err(refused) }
    };
    off_thread(work).await
}

/// What takes the place of what is stopped, built before that.
struct Replacement {
    api: Option<(Api, SolarIn)>,
    buses: Vec<(String, IdleBus)>,
    mqtt: Option<IdleSession>,
    flux: Option<IdleSession>,
}

impl Daemon {
    /// Reads the configuration again and goes over to it where it differs.
    pub(super) async fn reload(&mut self) {
        systemd::reloading();
        let changed = self.replace_changed().await;
        trim_memory();
        let result = match changed {
            Ok(changes) if changes.is_empty() => {
                info!(event = "config.unchanged", "configuration read again, nothing changed");
                Outcome::Unchanged
            }
            Ok(changes) => {
                let changes = changes.shown();
                let listed: Vec<String> = changes.iter().map(Shown::to_string).collect();
                let listed = listed.join("; ");
                info!(event = "config.reloaded", changes = listed, "configuration changed");
                Outcome::Applied { changes }
            }
            Err(problems) => {
                for problem in &problems {
                    error!(event = "config.problem", problem, "configuration not usable");
                }
                error!(
                    event = "config.refused",
                    problems = problems.len(),
                    "reload refused, nothing changed"
                );
                Outcome::Refused { problems }
            }
        };
        let at = self.base.clock.trusted_now();
        self.base.board.config.send_modify(|config| {
            config.last_reload = Some(LastReload { at, result });
        });
        systemd::status(&self.view.line());
        systemd::ready();
    }

    async fn replace_changed(&mut self) -> Result<Changes, Vec<String>> {
        let _reloading = self.pulse.enter("reloading", LONGEST);
        let config = self.base.board.config.borrow().clone();
        let Loaded { settings: new, warnings } = read(&config.file).await?;
        for problem in &warnings {
            warn!(event = "config.warning", %problem, "configuration warning");
        }
        let changes = Changes::between(&config.settings, &new);
        if !changes.fixed.is_empty() {
            let needs = |key| format!("{key} changed, which needs a restart of the daemon");
            return Err(changes.fixed.iter().map(needs).collect());
        }
        let replacement =
            self.build(&changes, &new).map_err(|error| vec![Chain(&error).to_string()])?;
        self.stop_changed(&changes).await;
        self.start_changed(&changes, &new, replacement).await;
        self.base.board.config.send_modify(|config| config.settings = Arc::new(new));
        Ok(changes)
    }

    fn build(&self, changes: &Changes, new: &Settings) -> Result<Replacement, AppError> {
        let both = || {
            let api = part::api(&self.base, &new.solarnet)?;
            Ok::<_, AppError>((api, part::solarin(&self.base, new)?))
        };
        let api = changes.client.then(both).transpose()?;
        let begins = |name: &String| {
            let how = changes.of(&Part::Bus(name.clone()));
            matches!(how, Some(How::Start | How::Restart))
        };
        let buses = new
            .modbus
            .iter()
            .filter(|bus| begins(&bus.name))
            .map(|bus| Ok((bus.name.clone(), IdleBus::new(&self.base, bus, &new.controls)?)));
        let buses = buses.collect::<Result<_, AppError>>()?;
        let begins = |part: Part| changes.of(&part).is_some();
        let mqtt = if begins(Part::Mqtt) { brokers::mqtt(&self.base, new)? } else { None };
        let flux = if begins(Part::Flux) { brokers::flux(&self.base, new)? } else { None };
        Ok(Replacement { api, buses, mqtt, flux })
    }

    async fn stop_changed(&mut self, changes: &Changes) {
        let ends = |part: &Part| changes.of(part).is_some();
        if ends(&Part::Instructor) {
            self.instructor.finish().await;
        }
        let of_buses = self.buses.iter_mut().filter(|(name, _)| ends(&Part::Bus((*name).clone())));
        finish_all(of_buses.map(|(_, bus)| &mut bus.task)).await;
        let others = [
            (Part::Uploader, &mut self.uploader),
            (Part::Refresher, &mut self.refresher),
            (Part::Files, &mut self.files),
            (Part::Identity, &mut self.identity),
        ];
        finish_all(others.into_iter().filter(|(part, _)| ends(part)).map(|(_, task)| task)).await;
        if ends(&Part::Uploader) {
            finish_all(&mut self.proving).await;
        }
        for (part, live) in [(Part::Mqtt, &mut self.mqtt), (Part::Flux, &mut self.flux)] {
            if ends(&part) {
                finish_all(live.iter_mut().flat_map(|live| &mut live.tasks)).await;
                *live = None;
            }
        }
        self.buses.retain(|name, _| !ends(&Part::Bus(name.clone())));
    }

    async fn start_changed(&mut self, changes: &Changes, new: &Settings, replacement: Replacement) {
        let changes = |part: Part| changes.of(&part).is_some();
        if let Some((api, solarin)) = replacement.api {
            (self.api, self.solarin) = (api, solarin);
        }
        if changes(Part::Queue) {
            self.base.queue.adjust(new.queue.clone()).await;
        }
        for (name, bus) in replacement.buses {
            self.buses.insert(name, bus.start());
        }
        part::show_buses(&self.base.board, new, &self.buses);
        if changes(Part::Mqtt) {
            self.mqtt = replacement.mqtt.map(IdleSession::start);
        }
        if changes(Part::Flux) {
            self.flux = replacement.flux.map(|idle| idle.start_feed(&self.base, new));
        }
        if changes(Part::Instructor) {
            let (api, solarin) = (&self.api, &self.solarin);
            let ways = Ways { api, solarin, mqtt: self.mqtt.as_ref() };
            self.instructor = part::instructor(&self.base, new, ways, &self.buses);
        }
        if changes(Part::Uploader) {
            let (api, solarin) = (&self.api, &self.solarin);
            let ways = Ways { api, solarin, mqtt: self.mqtt.as_ref() };
            let (proof, proving) = part::proof(&self.base, new, &self.api);
            self.uploader = part::uploader(&self.base, new, ways, proof);
            self.proving = proving;
        }
        if changes(Part::Refresher) {
            self.refresher = part::refresher(&self.base, new, &self.api);
        }
        if changes(Part::Identity) {
            self.identity = part::keeper_of_identity(&self.base, new);
        }
        if changes(Part::Files) {
            self.files = part::files(&self.base, new, &self.api);
        }
    }
}
