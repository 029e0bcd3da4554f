//! One unit as a source: which of its blocks is asked next, and what its silence means.
//!
//! ```text
//!  round:  block ─▶ block ─▶ … ─▶ outcome           (one request a step; other units in between)
//!            │
//!            ├─ answered                values
//!            ├─ refused: address, value split, or its values are missing and it is asked again later
//!            ├─ refused otherwise       its values are missing
//!            ├─ silent                  asked again `retries` times, then its values are missing
//!            ├─ the link ended on it    asked again likewise, then the rest of the round is missing
//!            └─ no link                 the rest of the round is missing
//!
//!  two blocks in a row silent ─▶ the round ends;  nothing answered in the round ─▶ the unit is down
//! ```
//!
//! Some units do not refuse what they do not have but stay silent. So silence is first held against
//! the block: it is left out of the next rounds and asked again at growing intervals, while the
//! others are read as before. A unit that is down is asked for one block at a time, another one each
//! time. When it answers, all its blocks are taken for well again, and a round is due at once.
//!
//! Some gateways hang up, or send what is no Modbus, when a unit behind them does not answer. A link that
//! ends on a request therefore counts as that unit's silence; otherwise every one of its turns would
//! cost the others the link. That no link can be made says nothing about the unit.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    frame::{Answer, Exception, Request},
    learnt::{Piece, Plans},
    plan::{Plan, PlanError},
    reading::{Outcome, Reading},
    round::Round,
    wire::{CallError, RequestError, Wire},
};
use crate::{
    config::settings::Unit,
    domain::Stamp,
    reader::{
        health::{Health, PROBE},
        stamp::Increasing,
    },
};

/// Beyond this a silent block is not asked again in the same round: within 10 s of falling silent a
/// unit has to stop costing its neighbours more than a probe now and then. With timeouts of up to
/// 5 s, the tries within this time and one try of a second block stay below that; on a serial line, where a
/// unit rests after each, with timeouts of up to 3 s.
const RETRY_WITHIN: Duration = Duration::from_secs(4);

/// A unit, what was learnt about it, and the round under way.
#[derive(Debug)]
pub struct Source {
    unit: Unit,
    plan: Plan,
    health: Health,
    stamps: Increasing,
    round: Option<Walk>,
    /// The block that the next probe asks for.
    probe: usize,
    /// A probe was answered and no round was made since.
    proved: bool,
    /// The last step asked a silent block in vain.
    in_vain: bool,
    /// The last step was answered, whatever the answer was.
    answered: bool,
    /// How long the answer to the last request is or was waited for.
    waited: Duration,
    /// The blocks of which `Plans` knows.
    kept: Vec<Piece>,
}

/// A round under way.
#[derive(Debug)]
struct Walk {
    round: Round,
    reading: Reading,
    /// Times the present block was asked again.
    tries: u8,
    /// When the present block was first asked.
    began: Option<Duration>,
    /// Whether anything was answered.
    answered: bool,
    /// Blocks in a row that stayed silent.
    silent: u8,
}

/// What a step is told about the time and the bus.
#[derive(Debug, Clone, Copy)]
pub struct Now<F> {
    /// Since the task started, now: asked again after the answer came.
    pub running: F,
    /// Whether a silent block may be asked.
    pub may_probe: bool,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answers again.
    Alive,
    /// It does not.
    Silent(Arc<str>),
    /// Nobody knows: the link is down.
    NoLink(Arc<str>),
}

impl Source {
    /// Plans a unit's requests.
    ///
    /// # Errors
    ///
    /// If the unit cannot be read as configured.
    pub fn new(unit: Unit) -> Result<Self, PlanError> {
        let plan = Plan::new(&unit)?;
        Ok(Self {
            kept: pieces(&plan),
            waited: unit.timeout,
            plan,
            unit,
            health: Health::default(),
            stamps: Increasing::default(),
            round: None,
            probe: 0,
            proved: false,
            in_vain: false,
            answered: false,
        })
    }

    /// Goes on with what was learnt before.
    pub(super) fn restore(&mut self, plans: &Plans) {
        if let Some(plan) = plans.of(&self.unit) {
            (self.kept, self.plan) = (pieces(&plan), plan);
        }
    }

    /// Hands over what was learnt since the last time.
    pub(super) fn keep_learnt(&mut self, plans: &Plans) {
        let kept = self.kept.iter().map(|piece| (piece.properties.as_slice(), piece.refused));
        if !self.plan.learnt().eq(kept) {
            self.kept = pieces(&self.plan);
            plans.keep(&self.unit, self.kept.clone());
        }
    }

    /// What it was made from.
    #[must_use]
    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    /// Whether it answers.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether the last step asked a silent block in vain, and so took time from the neighbours.
    #[must_use]
    pub fn asked_in_vain(&self) -> bool {
        self.in_vain
    }

    /// Whether the last step was answered.
    #[must_use]
    pub fn was_answered(&self) -> bool {
        self.answered
    }

    /// Whether an answer that came just now and too late, as for a probe, is in time for a read.
    #[must_use]
    pub fn is_slow(&self, now: Duration) -> bool {
        match self.health {
            Health::Down { asked, .. } => {
                self.waited + now.saturating_sub(asked) < self.unit.timeout
            }
            Health::Up { .. } => false,
        }
    }

    /// It may be probed at once.
    pub fn expect(&mut self) {
        self.health.expect();
    }

    /// Whether some of its requests were made and others of the same round are still to come.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.round.is_some()
    }

    /// It gave a sign of life.
    pub fn revive(&mut self, now: Duration) {
        if self.health.answered(now) {
            self.plan.forget_silence();
            self.proved = true;
        }
    }

    /// Makes one request of the round, the first one of a new round if none is under way. Returns
    /// what the round brought once it is over.
    pub async fn step<W: Wire>(
        &mut self,
        wire: &mut W,
        now: Now<impl Fn() -> Duration>,
        stamp: impl FnOnce() -> Stamp,
    ) -> Option<Outcome> {
        (self.in_vain, self.answered) = (false, false);
        let Self { unit, plan, health, round, proved, in_vain, answered, waited, .. } = self;
        let walk = round.get_or_insert_with(|| Walk::new(unit, std::mem::take(proved)));

        let started = (now.running)();
        let Some(block) = walk.round.block(plan) else {
            return Some(self.finish(started, "nothing to read"));
        };
        let probing = !block.health.is_up();
        let waits = block.health.next_probe(false).is_some_and(|at| at > started || !now.may_probe);
        // Where nothing else is left to ask for, the refusal is the unit's sign of life.
        let needed = block.refused.is_some() && !plan.blocks().iter().any(|b| b.health.is_up());
        if waits && !needed {
            let earlier = || Arc::from("no answer earlier; asked again later");
            walk.reading.fail(block, &block.refused.clone().unwrap_or_else(earlier));
            walk.round.failed(plan);
            return self.finish_if_done(started);
        }
        let began = *walk.began.get_or_insert(started);
        let wait = if probing { unit.timeout.min(PROBE) } else { unit.timeout };
        *waited = wait;
        let request = block.request();
        let error = match wire.call(unit.id, &request, wait).await {
            Ok(answer) => {
                *answered = true;
                walk.reading.answered(stamp);
                walk.reading_of(unit, plan, answer);
                let ended = (now.running)();
                if let Some(block) = walk.round.block_mut(plan) {
                    block.health.answered(ended);
                    block.refused = None;
                }
                walk.round.answered(plan);
                walk.next_block(true);
                return self.finish_if_done(ended);
            }
            Err(error) => error,
        };
        let ended = (now.running)();
        let may_retry = !probing
            && walk.tries < unit.retries
            && walk.silent == 0
            && !health.on_probation(started)
            && ended.saturating_sub(began) + rest(wire, unit.id) < RETRY_WITHIN;
        let had_link = !matches!(&error, CallError::Link(link) if link.is_before_sending());
        if may_retry && had_link && is_silence(&error) {
            walk.tries += 1;
            return None;
        }
        match &error {
            CallError::Link(_) => {
                walk.answered |= !had_link;
                Some(self.finish(ended, &error.to_string()))
            }
            CallError::Request(RequestError::Exception(exception)) if !is_silence(&error) => {
                *answered = true;
                walk.reading.answered(stamp);
                self.refused(*exception, &reason(&error, &request), ended)
            }
            CallError::Request(_) => {
                *in_vain = probing;
                self.unanswered(&reason(&error, &request), ended)
            }
        }
    }

    /// Goes on after a refusal of the present block, which is divided where its range may be to blame.
    fn refused(&mut self, exception: Exception, reason: &str, now: Duration) -> Option<Outcome> {
        let Self { plan, round: Some(walk), .. } = self else { return None };
        if exception.blames_range() && walk.round.split(plan) {
            walk.next_block(true);
            return None;
        }
        let reason: Arc<str> = Arc::from(reason);
        let whole = walk.round.block(plan).is_some_and(|block| plan.split(block).is_empty());
        if let Some(block) = walk.round.block_mut(plan) {
            if exception.blames_range() && whole {
                block.health.silent(now);
                block.refused = Some(reason.clone());
            } else {
                block.health.answered(now);
                block.refused = None;
            }
            walk.reading.fail(block, &reason);
        }
        walk.round.failed(plan);
        walk.next_block(true);
        self.finish_if_done(now)
    }

    /// Goes on after the present block's silence.
    fn unanswered(&mut self, reason: &str, now: Duration) -> Option<Outcome> {
        let Self { plan, round: Some(walk), in_vain, .. } = self else { return None };
        if let Some(block) = walk.round.block_mut(plan) {
            walk.reading.fail(block, &Arc::from(reason));
            block.health.silent(now);
        }
        walk.round.failed(plan);
        if *in_vain {
            // No news, and no evidence against the others.
            walk.move_on();
        } else {
            walk.next_block(false);
        }
        if walk.silent >= 2 {
            return Some(self.finish(now, reason));
        }
        self.finish_if_done(now)
    }

    /// Asks a unit that is down for one block; where it has no neighbours, it gets all its time.
    pub async fn ask<W: Wire>(
        &mut self,
        wire: &mut W,
        now: impl Fn() -> Duration,
        alone: bool,
    ) -> Probe {
        let wait = if alone { self.unit.timeout } else { self.unit.timeout.min(PROBE) };
        let blocks = self.plan.blocks();
        let Some(block) = blocks.get(self.probe % blocks.len().max(1)) else {
            self.health.silent(now());
            return Probe::Silent(Arc::from("nothing to read"));
        };
        self.probe = self.probe.wrapping_add(1);
        self.waited = wait;
        let request = block.request();
        match wire.call(self.unit.id, &request, wait).await {
            Err(CallError::Link(link)) if link.is_before_sending() => {
                self.health.postpone(now());
                Probe::NoLink(Arc::from(link.to_string()))
            }
            Err(error) if is_silence(&error) => {
                self.health.silent(now());
                Probe::Silent(Arc::from(reason(&error, &request)))
            }
            Ok(_) | Err(_) => {
                self.revive(now());
                Probe::Alive
            }
        }
    }

    fn finish_if_done(&mut self, now: Duration) -> Option<Outcome> {
        let done = self.round.as_ref().is_some_and(|w| w.round.block(&self.plan).is_none());
        done.then(|| self.finish(now, "not asked for"))
    }

    /// Ends the round; what was not asked for is missing because of `rest`.
    fn finish(&mut self, now: Duration, rest: &str) -> Outcome {
        let Some(walk) = self.round.take() else {
            return Outcome { datum: None, failed: Vec::new() };
        };
        if walk.answered {
            self.health.answered(now);
        } else {
            self.health.silent(now);
        }
        walk.reading.finish(&self.unit, &Arc::from(rest), &mut self.stamps)
    }
}

impl Walk {
    fn new(unit: &Unit, answered: bool) -> Self {
        Self {
            round: Round::default(),
            reading: Reading::new(unit.properties.len()),
            tries: 0,
            began: None,
            answered,
            silent: 0,
        }
    }

    fn reading_of(&mut self, unit: &Unit, plan: &Plan, answer: Answer<'_>) {
        if let (Some(block), Answer::Data(data)) = (self.round.block(plan), answer) {
            self.reading.take(unit, block, data);
        }
    }

    fn move_on(&mut self) {
        self.tries = 0;
        self.began = None;
    }

    fn next_block(&mut self, answered: bool) {
        self.move_on();
        self.answered |= answered;
        self.silent = if answered { 0 } else { self.silent + 1 };
    }
}

fn pieces(plan: &Plan) -> Vec<Piece> {
    let piece = |(properties, refused): (&[usize], bool)| Piece {
        properties: properties.to_vec(),
        refused,
    };
    plan.learnt().map(piece).collect()
}

/// How long the unit has to be left alone.
fn rest<W: Wire>(wire: &W, unit: u8) -> Duration {
    let until = wire.rests_until(unit);
    until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
}

/// Whether it is as if the unit had not answered.
fn is_silence(error: &CallError) -> bool {
    match error {
        CallError::Request(RequestError::Exception(exception)) => exception.means_silence(),
        CallError::Request(RequestError::DoesNotFit(_)) => false,
        CallError::Request(_) | CallError::Link(_) => true,
    }
}

/// What failed, with the place in both notations that manuals use.
fn reason(error: &CallError, request: &Request<'_>) -> String {
    match request {
        Request::Read { table, address, count } => {
            format!(
                "{error} (function {}, {})",
                request.function(),
                super::place(*table, *address, *count)
            )
        }
        _ => error.to_string(),
    }
}
