//! Import jobs.
//!
//! ```text
//! Staged ─confirm─▶ Queued ─▶ Claimed ─▶ Executing ─▶ Completed (success or not) ─12 h─▶ gone
//!    └─────────────────┴─────────┴── DELETE ─▶ Retracted, gone
//! ```
//!
//! A job rests in each state for as long as the delays say, leaves `Queued` only when one of the workers is
//! free and no earlier job of the same account and group key is unfinished, and loads its rows at the
//! moment it completes, row by row against the policy of its token and the ownership of the nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::World;
use crate::import::config::ImportConfig;
use crate::import::{self, Row};
use crate::misbehave::Act;
use crate::random;

/// Finished jobs vanish after this. (Server: 12 hours, as deployed.)
const KEPT: TimeDelta = TimeDelta::hours(12);

/// Longest source ID that the database takes.
const SOURCE_ID_LIMIT: usize = 64;

/// How long a job rests in each state, and how many run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportDelays {
    /// Milliseconds in `Queued`.
    pub queued_ms: u64,
    /// Milliseconds in `Claimed`.
    pub claimed_ms: u64,
    /// Milliseconds in `Executing`.
    pub executing_ms: u64,
    /// Jobs that run at once. (Server: 2, as deployed.)
    pub workers: usize,
}

impl Default for ImportDelays {
    /// No delays, two workers.
    fn default() -> Self {
        Self { queued_ms: 0, claimed_ms: 0, executing_ms: 0, workers: 2 }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Waits to be confirmed.
    Staged,
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Claimed,
    /// Loading.
    Executing,
    /// Over, with success or without.
    Completed,
    /// Withdrawn.
    Retracted,
}

impl JobState {
    /// The name that the API uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Staged => "Staged",
            Self::Queued => "Queued",
            Self::Claimed => "Claimed",
            Self::Executing => "Executing",
            Self::Completed => "Completed",
            Self::Retracted => "Retracted",
        }
    }
}

/// A job as stored.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    /// Order of submission.
    number: u64,
    pub(crate) user: i64,
    token: String,
    config: ImportConfig,
    /// As it was sent, for the status.
    configuration: Value,
    data: Bytes,
    pub(crate) state: JobState,
    since: Instant,
    submitted_ms: i64,
    started_ms: i64,
    completed_ms: i64,
    success: bool,
    message: Option<String>,
    loaded: u64,
    /// What goes wrong with it.
    act: Option<Act>,
}

impl Job {
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, JobState::Completed | JobState::Retracted)
    }

    fn is_active(&self) -> bool {
        matches!(self.state, JobState::Claimed | JobState::Executing)
    }

    pub(crate) fn receipt(&self) -> Value {
        let mut out = json!({ "jobId": self.id, "jobState": self.state.name() });
        if let Some(key) = &self.config.group_key {
            out["groupKey"] = key.as_str().into();
        }
        out
    }

    /// The status as the API shows it.
    pub(crate) fn to_json(&self) -> Value {
        let done = !self.is_open();
        let mut out = json!({
            "userId": self.user,
            "jobId": self.id,
            "jobState": self.state.name(),
            "configuration": self.configuration,
            "percentComplete": if done { 1.0 } else { 0.0 },
            "submitDate": self.submitted_ms,
            "importDate": self.submitted_ms,
            "startedDate": self.started_ms,
            "completionDate": self.completed_ms,
            "success": self.success,
            "loadedCount": self.loaded,
            "done": done,
            "cancelled": self.state == JobState::Retracted,
        });
        if let Some(key) = &self.config.group_key {
            out["groupKey"] = key.as_str().into();
        }
        if let Some(message) = &self.message {
            out["message"] = message.as_str().into();
        }
        out
    }
}

/// What a request hands in.
pub(crate) struct NewJob {
    pub(crate) user: i64,
    pub(crate) token: String,
    pub(crate) config: ImportConfig,
    pub(crate) configuration: Value,
    pub(crate) data: Bytes,
    pub(crate) act: Option<Act>,
}

/// All jobs.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) delays: ImportDelays,
    list: BTreeMap<String, Job>,
    submitted: u64,
    /// When a worker last became free: nothing that waited for it started before.
    freed: Option<Instant>,
}

impl Jobs {
    /// Files a job; gives its receipt.
    pub(crate) fn submit(&mut self, new: NewJob, at: Instant, now: DateTime<Utc>) -> Value {
        self.submitted += 1;
        let job = Job {
            id: random::uuid(),
            number: self.submitted,
            user: new.user,
            token: new.token,
            state: if new.config.stage { JobState::Staged } else { JobState::Queued },
            config: new.config,
            configuration: new.configuration,
            data: new.data,
            since: at,
            submitted_ms: now.timestamp_millis(),
            started_ms: 0,
            completed_ms: 0,
            success: false,
            message: None,
            loaded: 0,
            act: new.act,
        };
        let receipt = job.receipt();
        if job.act != Some(Act::JobVanishes) {
            self.list.insert(job.id.clone(), job);
        }
        receipt
    }

    pub(crate) fn get(&self, user: i64, id: &str) -> Option<&Job> {
        self.list.get(id).filter(|job| job.user == user)
    }

    /// In order of submission.
    pub(crate) fn all(&self) -> Vec<&Job> {
        let mut all: Vec<&Job> = self.list.values().collect();
        all.sort_by_key(|job| job.number);
        all
    }

    /// Staged → Queued.
    pub(crate) fn confirm(&mut self, user: i64, id: &str, at: Instant) -> Option<Value> {
        let job = self.list.get_mut(id).filter(|job| job.user == user)?;
        if job.state == JobState::Staged {
            job.state = JobState::Queued;
            job.since = at;
        }
        Some(job.to_json())
    }

    /// Withdraws a job that has not begun (or any, by force) and forgets it. Others stay as they are.
    pub(crate) fn retract(&mut self, user: i64, id: &str, force: bool) -> Option<Value> {
        let job = self.list.get_mut(id).filter(|job| job.user == user)?;
        let early = matches!(job.state, JobState::Staged | JobState::Queued | JobState::Claimed);
        if !early && !force {
            return Some(job.to_json());
        }
        let mut job = self.list.remove(id)?;
        job.state = JobState::Retracted;
        Some(job.to_json())
    }

    pub(crate) fn forget_finished(&mut self, now: DateTime<Utc>) {
        let limit = (now - KEPT).timestamp_millis();
        self.list.retain(|_, job| job.is_open() || job.completed_ms > limit);
    }

    /// The next change of state: when, and which job.
    fn next(&self) -> Option<(Instant, String)> {
        let delay = |ms| Duration::from_millis(ms);
        let busy = self.list.values().filter(|job| job.is_active()).count();
        let due = |job: &Job| match job.state {
            JobState::Queued if busy >= self.delays.workers || self.waits_for_group(job) => None,
            JobState::Queued => {
                let earliest = job.since + delay(self.delays.queued_ms);
                Some(self.freed.map_or(earliest, |freed| freed.max(earliest)))
            }
            JobState::Claimed => Some(job.since + delay(self.delays.claimed_ms)),
            JobState::Executing if job.act == Some(Act::JobHangs) => None,
            JobState::Executing => Some(job.since + delay(self.delays.executing_ms)),
            JobState::Staged | JobState::Completed | JobState::Retracted => None,
        };
        let all = self.list.values().filter_map(|job| Some((due(job)?, job.number, &job.id)));
        all.min().map(|(at, _, id)| (at, id.clone()))
    }

    fn waits_for_group(&self, job: &Job) -> bool {
        job.config.group_key.is_some()
            && self.list.values().any(|other| {
                other.number < job.number
                    && other.user == job.user
                    && other.config.group_key == job.config.group_key
                    && other.is_open()
            })
    }
}

impl World {
    /// Carries out all changes of state that are due, in order of their times.
    pub(crate) fn advance_jobs(&mut self, until: Instant) {
        while let Some((at, id)) = self.jobs.next().filter(|(at, _)| *at <= until) {
            let now_ms = self.clock.now().timestamp_millis();
            let Some(job) = self.jobs.list.get_mut(&id) else { return };
            job.since = at;
            match job.state {
                JobState::Queued => job.state = JobState::Claimed,
                JobState::Claimed => {
                    job.state = JobState::Executing;
                    job.started_ms = now_ms;
                }
                _ => {
                    job.state = JobState::Completed;
                    job.completed_ms = now_ms;
                    let Some(mut job) = self.jobs.list.remove(&id) else { return };
                    self.load(&mut job);
                    self.jobs.list.insert(id, job);
                    self.jobs.freed = Some(at);
                }
            }
        }
    }

    /// Loads a job's rows, and writes its outcome.
    fn load(&mut self, job: &mut Job) {
        if let Some(Act::JobFails { message }) = &job.act {
            job.message = Some(message.clone());
            return;
        }
        let data = std::mem::take(&mut job.data);
        let rows = import::read(&job.config.input, &data);
        let mut good = rows.good;
        if let Some(Act::JobLosesRows { rows }) = job.act {
            good.truncate(good.len().saturating_sub(rows));
        }
        let mut pending = Vec::new();
        let mut error = rows.error;
        for row in good {
            if let Err(refused) = self.check_row(job, &row) {
                error = Some(refused);
                break;
            }
            pending.push(row);
            if job.config.batch_size == Some(pending.len()) {
                self.commit(job, std::mem::take(&mut pending));
            }
        }
        match error {
            // Without batches everything was one transaction, which is rolled back.
            Some(message) => job.message = Some(message),
            None => {
                self.commit(job, pending);
                job.success = true;
                job.message = Some(format!("Loaded {} datum.", job.loaded));
            }
        }
        if let Some(Act::JobMiscounts { loaded }) = job.act {
            job.loaded = loaded;
        }
    }

    fn check_row(&self, job: &Job, row: &Row) -> Result<(), String> {
        let key = &row.key;
        let owned = self.nodes.get(&key.node).is_some_and(|node| node.user == job.user);
        let policy = match self.tokens.get(&job.token) {
            Some(token) => token.policy.as_ref(),
            None => return Err("Token no longer available.".to_owned()),
        };
        if !owned || policy.is_some_and(|policy| !policy.allows_node(key.node)) {
            return Err(format!("Not authorized to load data for node {}.", key.node));
        }
        if policy.is_some_and(|policy| !policy.allows_source(&key.source)) {
            return Err(format!("Not authorized to load data for source {}.", key.source));
        }
        if key.source.chars().count() > SOURCE_ID_LIMIT {
            return Err("ERROR: value too long for type character varying(64)".to_owned());
        }
        Ok(())
    }

    fn commit(&mut self, job: &mut Job, rows: Vec<Row>) {
        job.loaded += rows.len() as u64;
        let now = self.clock.now();
        let dropped = match job.act {
            Some(Act::JobDropsRows { rows }) => rows,
            _ => 0,
        };
        for row in rows.into_iter().skip(dropped) {
            // The server skips a datum without samples, and counts it.
            if !row.datum.is_empty() {
                self.ledger.accept(row.key, row.datum, &job.id, now);
            }
        }
    }
}
