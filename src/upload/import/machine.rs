//! What the uploader does next. Pure: it is told the time, the chance and what the server said.
//!
//! The life of one batch:
//!
//! ```text
//!  claim ─▶ on disk ─▶ Ready ──receipt──▶ Following ──Completed, success, every row──▶ proved:
//!                       ▲ │                │   │ ▲                                  acknowledged
//!                       │ │ no answer      │   └─┘ 2, 4, 8, 16, 30 s
//!           not listed, │ ▼                │
//!           or lost ────┤ Unsure ──listed──┤
//!                       │ ▲                ├── another count, vanished, stuck ──▶ Ready (again)
//!                       └─┼────────────────┘
//!  restart with one open ─┘                └── refused for its content ──▶ quarrel, or a person
//! ```
//!
//! What always holds:
//!
//! * Rows are acknowledged for one reason only: a job of this batch ended with `Completed`,
//!   `success` and `loadedCount` equal to the batch's rows. When in doubt, a batch is sent again: the
//!   server replaces a row by its equal.
//! * A batch has its ID and its rows on disk before it is sent ([`Effect::Save`] comes first), so after
//!   a restart it is looked for among the jobs by name before it is sent again.
//! * At most [`MAX_OPEN`] batches are open. One that ends before a row with the same key as one of its own
//!   ([`Batch::twin`]) is open alone, so that the later row comes later.
//! * A refusal for its content starts a quarrel ([`crate::upload::quarrel`]). It takes one of the two places;
//!   fresh batches go on in the other.
//!
//! Two things make it wait ([`crate::upload::waits`]): *trouble* with calls, and being *stopped* by refusals of which
//! nothing tells what they are about. Neither ever gives up a row.

use std::time::Duration;

use super::{
    super::{
        quarrel::{self, Part, Quarrel, Verdict},
        retry::{self, Pause},
        terms::Claims,
        waits::{self, Rest, Stopped, Trouble},
    },
    terms::{Batch, Effect, Failed, Job, JobState, Limits, Note, Step, Waiting},
};
use crate::{
    queue::Ranges,
    solarnet::{Cause, Next},
};

/// Jobs that are open at a time.
pub const MAX_OPEN: usize = 2;

/// How long a job may stand still before its batch is sent again; doubled for every time that
/// happened to the batch. Shipped servers start a job within ten seconds.
const STUCK: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone)]
struct Open {
    batch: Batch,
    part: Option<Part>,
    phase: Phase,
    opened: Duration,
    stuck: u32,
}

#[derive(Debug, Clone)]
enum Phase {
    /// To be sent.
    Ready { due: Duration },
    /// Sent perhaps: the list of jobs knows.
    Unsure,
    /// The server has a job of it.
    Following { job: String, due: Duration, looks: u32, progress: String, moved: Duration },
}

/// The calls there are. Trouble with one of them is over when it, or a new job, succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Send,
    Look,
    Follow,
}

/// The uploader's state.
#[derive(Debug, Clone)]
pub struct Machine {
    claims: Claims,
    open: Vec<Open>,
    building: Option<Part>,
    quarrel: Quarrel,
    /// Refused batches whose rows are to be told apart by source.
    unsplit: Vec<Part>,
    /// Rows in the quarrel have a later twin in the queue.
    twin: bool,
    trouble: Option<Trouble<Kind>>,
    stopped: Option<Stopped>,
    accepted: u64,
    odd_told: bool,
    refusal: Option<String>,
    hung: u32,
}

impl Machine {
    /// Begins with the batches that were open when the last run ended, whose rows are claimed.
    /// With a `backlog` of other rows, the first claim does not wait.
    #[must_use]
    pub fn new(limits: Limits, open: Vec<Batch>, backlog: bool) -> Self {
        let zero = Duration::ZERO;
        let open = open
            .into_iter()
            .map(|batch| Open { batch, part: None, phase: Phase::Unsure, opened: zero, stuck: 0 })
            .collect();
        Self {
            claims: Claims::new(limits, backlog),
            open,
            building: None,
            quarrel: Quarrel::default(),
            unsplit: Vec::new(),
            twin: false,
            trouble: None,
            stopped: None,
            accepted: 0,
            odd_told: false,
            refusal: None,
            hung: 0,
        }
    }

    /// The batches that may be on their way, oldest first.
    pub fn open_batches(&self) -> impl Iterator<Item = &Batch> {
        self.open.iter().map(|open| &open.batch)
    }

    /// How many jobs did not come to an end. The server runs jobs of one group one after the other, so
    /// whatever is sent after such a job needs another group than what was sent before.
    #[must_use]
    pub fn hung(&self) -> u32 {
        self.hung
    }

    /// Why uploads wait, for people.
    #[must_use]
    pub fn waits_for(&self) -> Option<&str> {
        let trouble = self.trouble.as_ref().map(|trouble| trouble.text.as_str());
        trouble.or_else(|| self.stopped.as_ref()?.told().map(|(_, text)| text))
    }

    /// Whether a person has to do something.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        let trouble = self.trouble.as_ref().map(|trouble| trouble.pause);
        let stopped = self.stopped.as_ref().and_then(Stopped::told).map(|(pause, _)| pause);
        trouble.into_iter().chain(stopped).any(|pause| pause != Pause::Trouble)
    }

    /// What to do now, after what has to be done because nothing more could be tried.
    pub fn next(
        &mut self,
        now: Duration,
        jitter: f64,
        waiting: Option<Waiting>,
    ) -> (Vec<Effect>, Step) {
        if let Some(part) = self.unsplit.first() {
            return (Vec::new(), Step::Split(part.seqs.clone()));
        }
        if let Some(trouble) = self.trouble.as_ref().filter(|trouble| now < trouble.until) {
            return (Vec::new(), Step::Wait(Some(trouble.until)));
        }
        if let Some(step) = self.open.iter().find_map(|open| due(open, now)) {
            return (Vec::new(), step);
        }
        if let Some(step) = self.open_another(now, waiting) {
            return (Vec::new(), step);
        }
        let effects = self.stop_if_stuck(now, jitter, waiting);
        (effects, Step::Wait(self.wake(waiting)))
    }

    fn open_another(&mut self, now: Duration, waiting: Option<Waiting>) -> Option<Step> {
        if self.open.len() >= MAX_OPEN {
            return None;
        }
        if self.stopped.as_mut().is_some_and(|stopped| stopped.looks(now)) {
            self.quarrel.look_again();
        }
        let resting = self.next_look().is_some();
        let trying = self.open.iter().any(|open| open.part.is_some());
        if !resting
            && !trying
            && let Some(part) = self.quarrel.pick(self.accepted)
        {
            let seqs = part.seqs.clone();
            self.building = Some(part);
            return Some(Step::Build(seqs));
        }
        let due = self.claims.due(waiting).is_some_and(|due| due <= now);
        (due && self.may_claim()).then_some(Step::Claim)
    }

    /// Whether rows that were never claimed may be.
    fn may_claim(&self) -> bool {
        let fresh = self.open.iter().filter(|open| open.part.is_none()).count();
        let places = if self.quarrel.is_empty() { MAX_OPEN } else { MAX_OPEN - 1 };
        let resting = self.stopped.as_ref().is_some_and(Stopped::keeps_fresh);
        let twin = self.open.iter().any(|open| open.batch.twin)
            || (self.twin && self.quarrel.has_untried());
        fresh < places
            && self.open.len() < MAX_OPEN
            && !resting
            && !twin
            && self.quarrel.rows() < quarrel::MAX_ROWS
    }

    /// When the next look begins, where none is under way.
    fn next_look(&self) -> Option<Duration> {
        self.stopped.as_ref().and_then(Stopped::keeps_suspects)
    }

    /// Ends the attempt to find out what the server does not like where nothing more can be tried.
    fn stop_if_stuck(
        &mut self,
        now: Duration,
        jitter: f64,
        waiting: Option<Waiting>,
    ) -> Vec<Effect> {
        if self.quarrel.is_empty() || !self.open.is_empty() {
            return Vec::new();
        }
        let exhausted = self.quarrel.is_exhausted(self.accepted);
        let fresh_comes = !exhausted && waiting.is_some_and(|w| w.count > 0) && self.may_claim();
        if fresh_comes || self.next_look().is_some() {
            return Vec::new();
        }
        let reason = self.refusal.as_deref().unwrap_or("without a word");
        let text = format!(
            "the server refuses all that is tried: {reason}; check the node, the token's policy, and the names and texts of the properties"
        );
        let quiet = self.quarrel.others_pass(self.accepted);
        self.stop(now, jitter, Rest { pause: Pause::Person, all: exhausted, quiet, text })
    }

    fn wake(&self, waiting: Option<Waiting>) -> Option<Duration> {
        let open = self.open.iter().filter_map(|open| match &open.phase {
            Phase::Ready { due } | Phase::Following { due, .. } => Some(*due),
            Phase::Unsure => None,
        });
        let look = self.next_look().filter(|_| self.open.len() < MAX_OPEN);
        let fresh = self.claims.due(waiting).filter(|_| self.may_claim());
        open.chain(look).chain(fresh).min()
    }

    /// The answer to [`Step::Claim`] and [`Step::Build`]: the batch that came of it, the rows of a
    /// part that had no room in it, and whether more rows than these are waiting.
    pub fn opened(
        &mut self,
        now: Duration,
        batch: Option<Batch>,
        left: Ranges,
        backlog: bool,
    ) -> Vec<Effect> {
        let part = self.building.take();
        match &part {
            Some(part) => self.quarrel.add([part.of(left, part.one_source)]),
            None => self.claims.claimed(now, batch.is_none(), backlog),
        }
        let Some(batch) = batch else { return Vec::new() };
        let part = part.map(|mut part| {
            part.seqs = batch.seqs.clone();
            part
        });
        let phase = Phase::Ready { due: now };
        self.open.push(Open { batch, part, phase, opened: now, stuck: 0 });
        vec![Effect::Save]
    }

    /// Before a batch is sent: some of its rows are gone, and this one has those that are left. It has
    /// a name of its own, so that no job of the former one is taken for its proof.
    pub fn replaced(&mut self, id: &str, left: Option<Batch>) -> Vec<Effect> {
        let Some(at) = self.position(id) else { return Vec::new() };
        match left {
            Some(batch) => {
                let open = &mut self.open[at];
                open.part.iter_mut().for_each(|part| part.seqs = batch.seqs.clone());
                open.batch = batch;
            }
            None => drop(self.open.remove(at)),
        }
        vec![Effect::Save]
    }

    /// The answer to [`Step::Split`]: the same rows, a set for each source.
    pub fn split(&mut self, by_source: Vec<Ranges>) {
        if self.unsplit.is_empty() {
            return;
        }
        let mixed = self.unsplit.remove(0);
        self.quarrel.add(by_source.into_iter().map(|seqs| mixed.of(seqs, true)));
    }

    /// The answer to [`Step::Send`]: the job's ID, where the receipt had one.
    pub fn sent(
        &mut self,
        id: &str,
        now: Duration,
        jitter: f64,
        result: Result<Option<String>, Failed>,
    ) -> Vec<Effect> {
        let Some(at) = self.position(id) else { return Vec::new() };
        match result.map(|job| job.filter(|job| !self.is_followed(job))) {
            Ok(Some(job)) => {
                let due = now + retry::follow(0);
                let progress = String::new();
                self.open[at].phase = Phase::Following { job, due, looks: 0, progress, moved: now };
                self.well(None, now)
            }
            // A success without a job ID, or with that of another batch's: the list knows more. Where it does not,
            // either, this must not go on without a pause.
            Ok(None) => {
                self.open[at].phase = Phase::Unsure;
                let (next, text) =
                    (Next::Retry { not_before: None }, "the receipt names no new job");
                let (cause, text) = (Cause::NotSolarNetwork, text.to_owned());
                let failed = Failed { cause, next, not_before: None, text };
                self.fails(Kind::Send, now, jitter, failed)
            }
            Err(failed) => match failed.next {
                Next::Content => self.refused(at, now, jitter, &failed.text),
                Next::Retry { .. } => {
                    let unread =
                        matches!(failed.cause, Cause::Tls | Cause::RateLimited | Cause::DateSkew);
                    if !unread {
                        self.open[at].phase = Phase::Unsure;
                    }
                    self.fails(Kind::Send, now, jitter, failed)
                }
                Next::RefreshKey | Next::Gone | Next::Stop => {
                    self.fails(Kind::Send, now, jitter, failed)
                }
            },
        }
    }

    /// The answer to [`Step::Look`].
    pub fn looked(
        &mut self,
        now: Duration,
        jitter: f64,
        result: Result<Vec<Job>, Failed>,
    ) -> Vec<Effect> {
        let jobs = match result {
            Ok(jobs) => jobs,
            // Where it cannot be known what is there, all is sent again, which is harmless.
            Err(failed) if failed.next == Next::Gone || failed.cause == Cause::AnswerTooLong => {
                Vec::new()
            }
            Err(failed) => return self.fails(Kind::Look, now, jitter, failed),
        };
        let mut effects = self.well(Some(Kind::Look), now);
        let unsure: Vec<String> = (self.open.iter())
            .filter(|open| matches!(open.phase, Phase::Unsure))
            .map(|open| open.batch.id.clone())
            .collect();
        for id in unsure {
            let Some(at) = self.position(&id) else { continue };
            let (name, rows) = (&self.open[at].batch.name, self.open[at].batch.rows);
            let named = jobs.iter().filter(|job| job.name.as_ref() == Some(name));
            // Sent twice, there are two: the one that proves most counts.
            let best = named.min_by_key(|job| match job.state {
                JobState::Completed if proves(job, rows) => 0,
                JobState::Pending => 1,
                JobState::Completed => 2,
                JobState::Lost => 3,
            });
            match best {
                Some(job) => {
                    self.open[at].phase = Phase::Following {
                        job: job.id.clone(),
                        due: now,
                        looks: 0,
                        progress: String::new(),
                        moved: now,
                    };
                    effects.extend(self.judge(at, now, jitter, job));
                }
                None => self.open[at].phase = Phase::Ready { due: now },
            }
        }
        effects
    }

    /// The answer to [`Step::Follow`].
    pub fn followed(
        &mut self,
        id: &str,
        now: Duration,
        jitter: f64,
        result: Result<Job, Failed>,
    ) -> Vec<Effect> {
        let Some(at) = self.position(id) else { return Vec::new() };
        match result {
            Ok(job) => {
                let mut effects = self.well(Some(Kind::Follow), now);
                effects.extend(self.judge(at, now, jitter, &job));
                effects
            }
            // Not there any more, or an ID that the server itself cannot read.
            Err(failed) if matches!(failed.next, Next::Gone | Next::Content) => {
                let mut effects = self.well(Some(Kind::Follow), now);
                effects.extend(self.again(at, now, jitter, &failed.text));
                effects
            }
            Err(failed) => self.fails(Kind::Follow, now, jitter, failed),
        }
    }

    /// The answer to [`Step::Follow`] was no job at all: the batch is sent again.
    pub fn garbled(&mut self, id: &str, now: Duration, jitter: f64) -> Vec<Effect> {
        let Some(at) = self.position(id) else { return Vec::new() };
        self.again(at, now, jitter, "the answer about its job cannot be read")
    }

    /// Another key is there: what waited for it need not wait any longer.
    pub fn key_changed(&mut self, now: Duration) {
        Trouble::hurry(&mut self.trouble, now);
        Stopped::hurry(&mut self.stopped, now);
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.open.iter().position(|open| open.batch.id == id)
    }

    fn is_followed(&self, id: &str) -> bool {
        let of = |open: &Open| matches!(&open.phase, Phase::Following { job, .. } if job == id);
        self.open.iter().any(of)
    }

    /// Decides what a job's state means for its batch.
    fn judge(&mut self, at: usize, now: Duration, jitter: f64, job: &Job) -> Vec<Effect> {
        let Open { batch, phase, .. } = &self.open[at];
        let asked = matches!(phase, Phase::Following { job: asked, .. } if *asked == job.id);
        if !asked || job.name.as_ref().is_some_and(|name| *name != batch.name) {
            return self.again(at, now, jitter, "the answer is about another job");
        }
        let rows = batch.rows;
        match job.state {
            JobState::Completed if proves(job, rows) => self.proved(at, now),
            JobState::Completed if job.success => {
                let loaded = job.loaded.map_or("nothing".to_owned(), |loaded| loaded.to_string());
                self.again(at, now, jitter, &format!("{loaded} of {rows} rows reported as loaded"))
            }
            JobState::Completed => {
                let reason = job.message.as_deref().unwrap_or("the job failed without a message");
                self.refused(at, now, jitter, &format!("the import job failed: {reason}"))
            }
            JobState::Lost => self.again(at, now, jitter, "the job was taken back"),
            JobState::Pending => self.pending(at, now, jitter, job),
        }
    }

    fn pending(&mut self, at: usize, now: Duration, jitter: f64, job: &Job) -> Vec<Effect> {
        let limit = STUCK * 2u32.pow(self.open[at].stuck.min(4));
        let Phase::Following { due, looks, progress, moved, .. } = &mut self.open[at].phase else {
            return Vec::new();
        };
        *looks = looks.saturating_add(1);
        *due = now + retry::follow(*looks);
        if *progress != job.progress {
            progress.clone_from(&job.progress);
            *moved = now;
        }
        if now.saturating_sub(*moved) < limit {
            return Vec::new();
        }
        self.open[at].stuck += 1;
        self.hung = self.hung.saturating_add(1);
        self.again(at, now, jitter, "the job does not come to an end")
    }

    fn proved(&mut self, at: usize, now: Duration) -> Vec<Effect> {
        let Open { batch, part, .. } = self.open.remove(at);
        self.accepted += 1;
        self.odd_told = false;
        self.quarrel.note_accepted(part.as_ref());
        if self.quarrel.is_empty() && self.unsplit.is_empty() {
            self.refusal = None;
            self.twin = false;
        }
        let mut effects = vec![
            Effect::Acknowledge(batch.seqs),
            Effect::Note(Note::Proved { batch: batch.id, rows: batch.rows }),
        ];
        let resumed = Stopped::ends(&mut self.stopped, now);
        effects.extend(resumed.map(|down| Effect::Note(Note::Resumed { down })));
        effects
    }

    /// Sends a batch again, later the longer it has been trying.
    fn again(&mut self, at: usize, now: Duration, jitter: f64, what: &str) -> Vec<Effect> {
        let lasted = now.saturating_sub(self.open[at].opened);
        let wait = retry::wait(Pause::Trouble, lasted, jitter).max(retry::follow(0));
        self.open[at].phase = Phase::Ready { due: now + wait };
        self.odd(at, what)
    }

    fn odd(&mut self, at: usize, what: &str) -> Vec<Effect> {
        if std::mem::replace(&mut self.odd_told, true) {
            return Vec::new();
        }
        let (batch, what) = (self.open[at].batch.id.clone(), what.to_owned());
        vec![Effect::Note(Note::Odd { batch, what })]
    }

    /// A batch was refused for its content.
    fn refused(&mut self, at: usize, now: Duration, jitter: f64, reason: &str) -> Vec<Effect> {
        let Open { batch, part, .. } = self.open.remove(at);
        if concerns_account(reason) {
            // No row is to blame: all of them wait, and are claimed afresh.
            let mut seqs = self.quarrel.end();
            seqs.extend(&batch.seqs);
            self.unsplit.drain(..).for_each(|unsplit| seqs.extend(&unsplit.seqs));
            let text = format!(
                "{}; check that the node belongs to the token's account, and that the token's policy lists the node (nodeIds) and every source (sourceIds)",
                reason.trim_end_matches('.')
            );
            let mut effects = vec![Effect::Release(seqs)];
            let why = Rest { pause: Pause::Person, all: true, quiet: false, text };
            effects.extend(self.stop(now, jitter, why));
            return effects;
        }
        let mut effects = Vec::new();
        if self.refusal.is_none() {
            let (batch, reason) = (batch.id.clone(), reason.to_owned());
            effects.push(Effect::Note(Note::Refused { batch, reason }));
        }
        self.refusal = Some(reason.to_owned());
        self.twin |= batch.twin;
        let part = part.unwrap_or_else(|| Part::new(batch.seqs, false));
        match self.quarrel.refused(part, self.accepted) {
            Verdict::GoesOn => {}
            Verdict::SplitBySource(part) => self.unsplit.push(part),
            Verdict::GiveUp(seq) => {
                effects.push(Effect::GiveUp { seq, reason: reason.to_owned() });
            }
        }
        effects
    }

    fn stop(&mut self, now: Duration, jitter: f64, why: Rest) -> Vec<Effect> {
        let (pause, kind, text) = (why.pause, "refused", why.text.clone());
        if !Stopped::rests(&mut self.stopped, now, jitter, why) {
            return Vec::new();
        }
        vec![Effect::Note(Note::Stopped { pause, kind, text })]
    }

    /// A call succeeded: trouble with that kind of call is over. `None` is a new job, after which all is.
    fn well(&mut self, kind: Option<Kind>, now: Duration) -> Vec<Effect> {
        let is_well = |with: &Kind| kind.is_none_or(|kind| kind == *with);
        let over = Trouble::ends(&mut self.trouble, now, is_well);
        over.map(|down| Effect::Note(Note::Resumed { down })).into_iter().collect()
    }

    fn fails(&mut self, kind: Kind, now: Duration, jitter: f64, failed: Failed) -> Vec<Effect> {
        let Failed { cause, next, not_before, text } = failed;
        let failed =
            waits::Failed { pause: Pause::before(next), kind: cause.name(), not_before, text };
        let news = Trouble::fails(&mut self.trouble, kind, now, jitter, failed);
        news.map(|failed| Effect::Note(failed.into())).into_iter().collect()
    }
}

/// What an open batch asks for now, if anything.
fn due(open: &Open, now: Duration) -> Option<Step> {
    match &open.phase {
        Phase::Ready { due } if *due <= now => Some(Step::Send(open.batch.clone())),
        Phase::Following { job, due, .. } if *due <= now => {
            Some(Step::Follow { batch: open.batch.id.clone(), job: job.clone() })
        }
        Phase::Unsure => Some(Step::Look),
        Phase::Ready { .. } | Phase::Following { .. } => None,
    }
}

/// The only proof there is.
fn proves(job: &Job, rows: u64) -> bool {
    job.state == JobState::Completed && job.success && job.loaded == Some(rows)
}

/// Whether a job's failure is about the account, the token or the node rather than about a row.
fn concerns_account(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["not authorized", "access denied", "access_denied", "forbidden"]
        .iter()
        .any(|words| reason.contains(words))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
