//! What the uploader does next. Pure: it is told the time, the chance and what the server said.
//!
//! The life of a row:
//!
//! ```text
//!  claim ─▶ fresh ──named──▶ acknowledged ◀──named── quarrel ──alone, again and again, while
//!             │                                        ▲ ▲       others are named──▶ given up
//!             ├── others are named, this one not ──────┘ │
//!             ├── `success: false` ──────────────────────┤ by source, then in halves
//!             └── nothing is named ──▶ held ── another ──┘
//!                                      │  ▲    batch is named
//!                                      └──┘ later, by turns with another batch
//! ```
//!
//! What always holds:
//!
//! * A row is acknowledged for one reason only: an answer to a request that held it names its key.
//! * While everything is refused, or nothing is named, nothing is given up: that is the server's trouble, or
//!   a person's business.
//! * One request is under way at a time. Rows behind a row with the same key ([`Sent::twin`]) wait until that one
//!   is proved, or stands alone in the quarrel.
//!
//! Two things make it wait ([`crate::upload::waits`]): *trouble*, that is no answer, or one that names nothing; and
//! being *stopped* by refusals of which nothing tells what they are about.

use std::time::Duration;

use super::{
    super::{
        quarrel::{self, Part, Quarrel, Verdict},
        retry::Pause,
        terms::{Claims, Limits, Note, Waiting},
        waits::{self, Rest, Stopped, Trouble},
    },
    batch::MAX_ROWS,
};
use crate::{queue::Ranges, solarnet::Next};

/// Answers in a row that name nothing of a batch before another one is tried beside it.
const PATIENCE: u32 = 2;

/// What is held against a row that no answer names.
const LEFT_OUT: &str =
    "the server leaves datum out of its answers, alone as well, while it names others";

/// A fixed name for answers that name nothing.
const NOTHING_NAMED: &str = "nothing_named";

/// An exchange that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// A fixed name of the trouble.
    pub kind: &'static str,
    /// What it means.
    pub next: Next,
    /// No exchange before this moment.
    pub not_before: Option<Duration>,
    /// For people, remedy included.
    pub text: String,
}

/// What became of the rows that were to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Those that went.
    pub seqs: Ranges,
    /// Those that are in the queue no more, or are no datum.
    pub gone: Ranges,
    /// Whether a row behind them has the key of one of them.
    pub twin: bool,
}

/// What to do now. Each is answered by the method named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Claim the oldest rows: [`Machine::claimed`].
    Claim,
    /// Send these rows, or a beginning of them that fits into a request: [`Machine::sent`].
    Send(Ranges),
    /// Tell which of these rows belong together by source: [`Machine::split`].
    Split(Ranges),
    /// Ask for nothing but the time: [`Machine::asked`].
    Ask,
    /// Nothing before this moment, or before rows or another certificate arrive.
    Wait(Option<Duration>),
}

/// What has to be done because of what happened, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The server has these rows.
    Acknowledge(Ranges),
    /// The server will not take this row.
    GiveUp {
        /// Which.
        seq: u64,
        /// The server's words, or what it did.
        reason: String,
    },
    /// For the journal.
    Note(Note),
}

/// Rows that were sent, and of which nothing was named.
#[derive(Debug, Clone)]
struct Held {
    seqs: Ranges,
    /// How often in a row.
    times: u32,
}

/// What the request is about that was asked for last.
#[derive(Debug, Clone)]
enum Trying {
    Fresh,
    Held,
    Part(Part),
}

/// The uploader's state.
#[derive(Debug, Clone)]
pub struct Machine {
    claims: Claims,
    /// Claimed, and to be sent in their order.
    fresh: Ranges,
    held: Option<Held>,
    /// Whether the held rows were tried last, so that it is others' turn.
    held_last: bool,
    quarrel: Quarrel,
    /// Refused rows that are to be told apart by source.
    unsplit: Vec<Part>,
    /// Whether fresh rows go before the quarrel: by turns.
    fresh_first: bool,
    /// Rows that are not proved have a twin behind them.
    twin: bool,
    trying: Option<Trying>,
    /// Each kind of failure is trouble of its own.
    trouble: Option<Trouble<&'static str>>,
    stopped: Option<Stopped>,
    accepted: u64,
    odd_told: bool,
    refusal: Option<String>,
    /// Rows wait that nobody can claim before the time is known.
    timeless: bool,
}

impl Machine {
    /// Begins with rows that are claimed. With a `backlog` of others, the first claim does not wait.
    #[must_use]
    pub fn new(limits: Limits, claimed: Ranges, backlog: bool) -> Self {
        Self {
            claims: Claims::new(limits, backlog),
            fresh: claimed,
            held: None,
            held_last: false,
            quarrel: Quarrel::default(),
            unsplit: Vec::new(),
            fresh_first: true,
            twin: false,
            trying: None,
            trouble: None,
            stopped: None,
            accepted: 0,
            odd_told: false,
            refusal: None,
            timeless: false,
        }
    }

    /// Whether rows wait that nobody can claim before the time is known.
    pub fn set_timeless(&mut self, timeless: bool) {
        self.timeless = timeless;
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
        if self.timeless {
            return (Vec::new(), Step::Ask);
        }
        if self.stopped.as_mut().is_some_and(|stopped| stopped.looks(now)) {
            self.quarrel.look_again();
        }
        let step = if self.fresh_first {
            self.try_fresh(now, waiting).or_else(|| self.try_part())
        } else {
            self.try_part().or_else(|| self.try_fresh(now, waiting))
        };
        if let Some(step) = step {
            return (Vec::new(), step);
        }
        let effects = self.stop_if_stuck(now, jitter, waiting);
        let look = self.next_look();
        let claim = self.claim_due(waiting).filter(|_| self.fresh_may_go());
        (effects, Step::Wait(look.into_iter().chain(claim).min()))
    }

    fn try_part(&mut self) -> Option<Step> {
        if self.next_look().is_some() {
            return None;
        }
        let part = self.quarrel.pick(self.accepted)?;
        let seqs = part.seqs.clone();
        self.trying = Some(Trying::Part(part));
        Some(Step::Send(seqs))
    }

    /// Held rows, fresh ones or a claim.
    fn try_fresh(&mut self, now: Duration, waiting: Option<Waiting>) -> Option<Step> {
        if !self.fresh_may_go() {
            return None;
        }
        let others = self
            .held
            .as_ref()
            .is_none_or(|held| held.times >= PATIENCE && self.held_last && !self.twin);
        if others {
            if !self.fresh.is_empty() {
                self.trying = Some(Trying::Fresh);
                return Some(Step::Send(self.fresh.first_of(MAX_ROWS as u64)));
            }
            if self.claim_due(waiting).is_some_and(|due| due <= now) {
                return Some(Step::Claim);
            }
        }
        let held = self.held.as_ref()?;
        self.trying = Some(Trying::Held);
        Some(Step::Send(held.seqs.clone()))
    }

    /// Whether rows outside the quarrel may be sent.
    fn fresh_may_go(&self) -> bool {
        let resting = self.stopped.as_ref().is_some_and(Stopped::keeps_fresh);
        let behind_twin = self.twin && self.quarrel.has_untried();
        !resting
            && !behind_twin
            && !self.quarrel.is_exhausted(self.accepted)
            && self.quarrel.rows() < quarrel::MAX_ROWS
    }

    fn claim_due(&self, waiting: Option<Waiting>) -> Option<Duration> {
        self.claims.due(waiting).filter(|_| self.fresh.is_empty())
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
        let resting = self.next_look().is_some();
        let exhausted = self.quarrel.is_exhausted(self.accepted);
        let others_come = !exhausted && waiting.is_some_and(|w| w.count > 0) && self.fresh_may_go();
        if self.quarrel.is_empty() || resting || others_come {
            return Vec::new();
        }
        let (pause, kind, text) = match &self.refusal {
            Some(reason) => {
                let text = format!(
                    "the server refuses all that is tried: {reason}; check that the certificate is this node's, and the names and texts of the properties"
                );
                (Pause::Person, "refused", text)
            }
            None => (Pause::Trouble, NOTHING_NAMED, LEFT_OUT.to_owned()),
        };
        let quiet = self.quarrel.others_pass(self.accepted);
        let why = Rest { pause, all: exhausted, quiet, text: text.clone() };
        if !Stopped::rests(&mut self.stopped, now, jitter, why) {
            return Vec::new();
        }
        vec![Effect::Note(Note::Stopped { pause, kind, text })]
    }

    /// The answer to [`Step::Claim`]: the rows, and whether more than these wait.
    pub fn claimed(&mut self, now: Duration, rows: &Ranges, backlog: bool) {
        self.claims.claimed(now, rows.is_empty(), backlog);
        self.fresh.extend(rows);
    }

    /// The answer to [`Step::Split`]: the same rows, a set for each source.
    pub fn split(&mut self, by_source: Vec<Ranges>) {
        if self.unsplit.is_empty() {
            return;
        }
        let mixed = self.unsplit.remove(0);
        self.quarrel.add(by_source.into_iter().map(|seqs| mixed.of(seqs, true)));
    }

    /// The answer to [`Step::Send`]: what went, and which of those rows the server's answer names.
    pub fn sent(
        &mut self,
        now: Duration,
        jitter: f64,
        sent: Sent,
        result: Result<Ranges, Failed>,
    ) -> Vec<Effect> {
        let Some(trying) = self.trying.take() else { return Vec::new() };
        self.fresh_first = matches!(trying, Trying::Part(_));
        self.held_last = matches!(trying, Trying::Held);
        let Sent { seqs, gone, twin } = sent;
        let origin = self.take_out(trying, &seqs, &gone);
        if seqs.is_empty() {
            return Vec::new();
        }
        let tried = Tried { seqs, origin };
        match result {
            Ok(named) => self.answered(now, jitter, tried, &named, twin),
            Err(failed) => match failed.next {
                Next::Content => {
                    let mut effects = self.well(now, |kind| kind != NOTHING_NAMED);
                    self.twin |= twin;
                    effects.extend(self.refused(tried, failed.text));
                    effects
                }
                Next::Retry { .. } | Next::RefreshKey | Next::Stop | Next::Gone => {
                    self.put_back(tried);
                    self.fails(now, jitter, failed)
                }
            },
        }
    }

    /// The answer to [`Step::Ask`]: whether the time is known now.
    pub fn asked(
        &mut self,
        now: Duration,
        jitter: f64,
        result: Result<bool, Failed>,
    ) -> Vec<Effect> {
        let failed = match result {
            Ok(true) => return self.well(now, |_| true),
            Ok(false) => Failed {
                kind: "no_time",
                next: Next::Retry { not_before: None },
                not_before: None,
                text: "the server does not say which time it is".to_owned(),
            },
            // There was nothing in it to refuse.
            Err(failed) if failed.next == Next::Content => {
                Failed { next: Next::Retry { not_before: None }, ..failed }
            }
            Err(failed) => failed,
        };
        self.fails(now, jitter, failed)
    }

    /// Another certificate is in use: what was refused may pass now.
    pub fn identity_changed(&mut self, now: Duration) {
        Trouble::hurry(&mut self.trouble, now);
        Stopped::hurry(&mut self.stopped, now);
    }

    /// Takes the rows of a request, and those that are gone, from where they were.
    fn take_out(&mut self, trying: Trying, seqs: &Ranges, gone: &Ranges) -> Origin {
        match trying {
            Trying::Fresh => {
                self.fresh.subtract(seqs);
                self.fresh.subtract(gone);
                Origin::Fresh
            }
            Trying::Held => {
                let times = self.held.take().map_or(0, |mut held| {
                    // What had no room this time goes again later.
                    held.seqs.subtract(seqs);
                    held.seqs.subtract(gone);
                    self.fresh.extend(&held.seqs);
                    held.times
                });
                Origin::Held { times }
            }
            Trying::Part(part) => {
                let mut left = part.seqs.clone();
                left.subtract(seqs);
                left.subtract(gone);
                self.quarrel.add([part.of(left, part.one_source)]);
                Origin::Quarrel(part)
            }
        }
    }

    fn put_back(&mut self, tried: Tried) {
        match tried.origin {
            Origin::Fresh => self.fresh.extend(&tried.seqs),
            Origin::Held { times } => self.held = Some(Held { seqs: tried.seqs, times }),
            Origin::Quarrel(part) => self.quarrel.add([part.of(tried.seqs, part.one_source)]),
        }
    }

    /// An answer that is a success: some rows are named, or none.
    fn answered(
        &mut self,
        now: Duration,
        jitter: f64,
        tried: Tried,
        named: &Ranges,
        twin: bool,
    ) -> Vec<Effect> {
        let mut left = tried.seqs.clone();
        left.subtract(named);
        let rows = tried.seqs.count() - left.count();
        if rows == 0 {
            return self.nothing_named(now, jitter, tried, twin);
        }
        let mut accepted = tried.seqs.clone();
        accepted.subtract(&left);
        let mut effects = self.well(now, |_| true);
        // Those that are left may have one, of this request or of the one before.
        let twin = twin || self.twin;
        let part = match &tried.origin {
            Origin::Quarrel(part) => Some(part),
            Origin::Fresh | Origin::Held { .. } => None,
        };
        effects.extend(self.proved(now, part, accepted, rows));
        if left.is_empty() {
            return effects;
        }
        self.twin = twin;
        effects.extend(self.odd(&tried.seqs, || {
            format!("the answer names {rows} of {} datum", tried.seqs.count())
        }));
        let part = match tried.origin {
            Origin::Quarrel(part) => part.of(left, part.one_source),
            Origin::Fresh | Origin::Held { .. } => Part::new(left, false),
        };
        self.quarrel.add([part]);
        effects
    }

    fn proved(
        &mut self,
        now: Duration,
        part: Option<&Part>,
        seqs: Ranges,
        rows: u64,
    ) -> Vec<Effect> {
        self.accepted += 1;
        self.quarrel.note_accepted(part);
        let batch = name(&seqs);
        let mut effects =
            vec![Effect::Acknowledge(seqs), Effect::Note(Note::Proved { batch, rows })];
        let resumed = Stopped::ends(&mut self.stopped, now);
        effects.extend(resumed.map(|down| Effect::Note(Note::Resumed { down })));
        // Of others something is named, of these nothing was: it is about them.
        if let Some(held) = self.held.take() {
            effects.extend(self.refuse(Part::new(held.seqs, false), LEFT_OUT.to_owned()));
        }
        if self.quarrel.is_empty() && self.unsplit.is_empty() {
            self.odd_told = false;
            self.refusal = None;
            self.twin = false;
        }
        effects
    }

    /// A success that names none of the rows: the server's trouble, as long as it names no others.
    fn nothing_named(
        &mut self,
        now: Duration,
        jitter: f64,
        tried: Tried,
        twin: bool,
    ) -> Vec<Effect> {
        let mut effects = self.well(now, |kind| kind != NOTHING_NAMED);
        self.twin |= twin;
        let times = match tried.origin {
            Origin::Quarrel(part) => {
                effects
                    .extend(self.refuse(part.of(tried.seqs, part.one_source), LEFT_OUT.to_owned()));
                return effects;
            }
            Origin::Held { times } => times + 1,
            Origin::Fresh => 1,
        };
        if self.held.is_some() {
            // Tried beside those that are held; it is not about single rows, then.
            self.fresh.extend(&tried.seqs);
        } else if self.twin && times > PATIENCE {
            // No other row may go before these: it has to be found out with them alone.
            effects.extend(self.refuse(Part::new(tried.seqs, false), LEFT_OUT.to_owned()));
            return effects;
        } else {
            self.held = Some(Held { seqs: tried.seqs, times });
        }
        let text = "the server's answer names none of the datum, as it does while its data base is in trouble";
        let failed = Failed {
            kind: NOTHING_NAMED,
            next: Next::Retry { not_before: None },
            not_before: None,
            text: text.to_owned(),
        };
        effects.extend(self.fails(now, jitter, failed));
        effects
    }

    /// `success: false`: some row among these is to blame, or the server is in trouble.
    fn refused(&mut self, tried: Tried, reason: String) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.refusal.is_none() {
            let (batch, reason) = (name(&tried.seqs), reason.clone());
            effects.push(Effect::Note(Note::Refused { batch, reason }));
        }
        self.refusal = Some(reason.clone());
        let part = match tried.origin {
            Origin::Quarrel(part) => part.of(tried.seqs, part.one_source),
            Origin::Fresh | Origin::Held { .. } => Part::new(tried.seqs, false),
        };
        effects.extend(self.refuse(part, reason));
        effects
    }

    fn refuse(&mut self, part: Part, reason: String) -> Vec<Effect> {
        match self.quarrel.refused(part, self.accepted) {
            Verdict::GoesOn => Vec::new(),
            Verdict::SplitBySource(part) => {
                self.unsplit.push(part);
                Vec::new()
            }
            Verdict::GiveUp(seq) => vec![Effect::GiveUp { seq, reason }],
        }
    }

    fn odd(&mut self, seqs: &Ranges, what: impl FnOnce() -> String) -> Vec<Effect> {
        if std::mem::replace(&mut self.odd_told, true) {
            return Vec::new();
        }
        vec![Effect::Note(Note::Odd { batch: name(seqs), what: what() })]
    }

    /// Trouble of the kinds that `is_over` says is over.
    fn well(&mut self, now: Duration, is_over: impl Fn(&str) -> bool) -> Vec<Effect> {
        let over = Trouble::ends(&mut self.trouble, now, |kind| is_over(kind));
        over.map(|down| Effect::Note(Note::Resumed { down })).into_iter().collect()
    }

    fn fails(&mut self, now: Duration, jitter: f64, failed: Failed) -> Vec<Effect> {
        let Failed { kind, next, not_before, text } = failed;
        let failed = waits::Failed { pause: Pause::before(next), kind, not_before, text };
        let news = Trouble::fails(&mut self.trouble, kind, now, jitter, failed);
        news.map(|failed| Effect::Note(failed.into())).into_iter().collect()
    }
}

/// The rows of a request, and where they came from.
struct Tried {
    seqs: Ranges,
    origin: Origin,
}

enum Origin {
    Fresh,
    Held { times: u32 },
    Quarrel(Part),
}

/// What the journal calls the rows of a request.
fn name(seqs: &Ranges) -> String {
    format!("{}-{}", seqs.first().unwrap_or(0), seqs.last().unwrap_or(0))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
