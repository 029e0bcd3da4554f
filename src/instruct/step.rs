//! One step with one instruction: what [`decide`] says, done and recorded.
//!
//! The order in which an instruction is carried out, and why:
//!
//! 1. journal `Executing` — from here on a crash means "may have happened";
//! 2. server `Executing` — if that fails, it goes back to `Received`: nothing was sent;
//! 3. the expiry again, for the call took its time;
//! 4. the write, with its read-back;
//! 5. journal, with what came of it — retried until it is on disk, since this is known only now;
//! 6. the result datum — stored before the server hears of the end;
//! 7. the final state to the server — repeated until it is there, without acting again, and never
//!    written onto a state that is seen to be final. Where the broker may have an older state, it gets
//!    the final one as well, since nobody else keeps their order.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::{
    decide::{self, Case, Decision, FRESH},
    outcome::{self, Attempt, Code, INTERRUPTED, Refusal},
    record::{Kept, Record},
    server::{Server, Told, Viewed},
    services::Services,
    state::{Ending, Event, State},
    task::{ACT_LIMIT, Actuator, Aside, Results, Seen, Time, Trouble, Worker},
    topic::{self, CANCEL, PARENT},
};
use crate::{
    domain::{Chain, ControlWrite, InstructionId, InstructionState, WriteError, utc},
    pulse::Bound,
    solarin::Acknowledgement,
};

/// Longest time between two attempts to get an outcome onto a disk that does not take it.
const SLOWEST_SAVE: Duration = Duration::from_secs(30);

/// Between two trials of the broker with a word that it does not take: at first, and at most. Where a connection is
/// lost over that very word, it must not be lost with every poll.
const BROKER_AGAIN: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// What is said when the server no longer knows an instruction that waited here.
const GONE: &str = "the server does not have it any more";

impl<S: Server, A: Actuator, R: Results, T: Time, V: Services> Worker<S, A, R, T, V> {
    /// Whether an instruction is there to cancel another.
    pub(super) fn cancels(&self, id: InstructionId) -> bool {
        self.seen.get(&id).is_some_and(|seen| seen.instruction.topic == CANCEL)
    }

    /// What needs the time, and not the server: ends what was being carried out when the node
    /// stopped and what expired while waiting, and stores the result datum of what ended.
    pub(super) async fn tidy(&mut self) -> Result<(), Trouble> {
        let Some(now) = self.time.trusted_now() else {
            self.held = self.journal.records().any(|record| record.state == State::Executing);
            return Ok(());
        };
        for id in self.ids(|record| record.state == State::Executing) {
            self.interrupt(id, now).await?;
        }
        let is_over = |record: &Record| {
            record.state == State::Received && record.not_after.is_some_and(|end| end <= now)
        };
        for id in self.ids(is_over) {
            let message = "its last moment passed while it waited".to_owned();
            self.decline(id, Refusal { code: Code::Expired, message }, now).await?;
        }
        for id in self.ids(|record| record.state.ending().is_some() && !record.reported) {
            self.report(id).await?;
        }
        Ok(())
    }

    fn ids(&self, which: impl Fn(&Record) -> bool) -> Vec<InstructionId> {
        self.journal.records().filter(|record| which(record)).map(|record| record.id).collect()
    }

    fn known(&self, id: InstructionId) -> State {
        self.journal.get(id).map_or(State::New, |record| record.state)
    }

    /// Takes the step that is due, if any.
    pub(super) async fn step(&mut self, id: InstructionId) -> Result<(), Trouble> {
        if !self.seen.contains_key(&id) {
            match self.known(id) {
                // The poll did not list it: it ended there, is gone, or is on its way.
                State::Received if !self.look(id).await? => return self.gone(id).await,
                State::Received => {}
                State::New | State::Executing | State::Completed | State::Declined => {
                    return self.settle(id).await;
                }
            }
        }
        loop {
            let Some(seen) = self.seen.get(&id) else { return Ok(()) };
            let now = self.time.trusted_now();
            let known = self.known(id);
            let decision = decide::decide(&Case {
                instruction: &seen.instruction,
                seen_ago: seen.at.elapsed(),
                now,
                known,
                rules: &self.rules,
                last_writes: &self.journal.last_writes(),
            });
            return match (decision, now) {
                (Decision::Ignore, _) => self.settle(id).await,
                (Decision::Resend, _) => {
                    self.aside.remove(&id);
                    self.acknowledge(id, false).await?;
                    self.settle(id).await
                }
                (Decision::Hold, _) | (_, None) => {
                    self.held = true;
                    Ok(())
                }
                (Decision::Overruled(_), _) if known == State::New => Ok(()),
                (Decision::Overruled(ending), Some(now)) => {
                    self.overrule(id, ending, "the server ended it", now).await
                }
                (Decision::Interrupted, Some(now)) => {
                    self.interrupt(id, now).await?;
                    self.settle(id).await
                }
                (Decision::Decline(refusal), Some(now)) => {
                    self.decline(id, refusal, now).await?;
                    self.settle(id).await
                }
                (Decision::Wait { until }, Some(now)) => self.keep(id, until, now).await,
                (Decision::ViewAgain, _) => match self.look(id).await? {
                    true => continue,
                    false => self.gone(id).await,
                },
                (Decision::Act(write), Some(now)) => self.act(id, write, now).await,
                (Decision::Serve(request), Some(now)) => self.serve(id, request, now).await,
                (Decision::Cancel(target), Some(now)) => self.cancel(id, target, now).await,
            };
        }
    }

    /// Asks the server for one instruction. Returns whether it still has it.
    ///
    /// Where it cannot be asked for one that was acknowledged, this node's own word counts as its.
    async fn look(&mut self, id: InstructionId) -> Result<bool, Trouble> {
        if let Some(record) = self.journal.get(id).filter(|_| !self.server.shows_acknowledged()) {
            if let Some(instruction) = record.instruction() {
                self.seen.insert(id, Seen { instruction, at: Instant::now() });
            }
            return Ok(true);
        }
        match self.before_stop(self.server.view(id)).await?? {
            Viewed::There(instruction) => {
                self.seen.insert(id, Seen { instruction, at: Instant::now() });
                Ok(true)
            }
            Viewed::Gone => {
                self.seen.remove(&id);
                self.outdate(id, Instant::now());
                Ok(false)
            }
            Viewed::Unreadable(skipped) => Err(Trouble::Unreadable(skipped)),
        }
    }

    /// Tells the server where an instruction stands. That the broker may get a state is on disk before.
    async fn tell(&mut self, record: &mut Record, now: DateTime<Utc>) -> Result<Told, Trouble> {
        let (id, state) = (record.id, record.state.told());
        if !state.is_final() && !record.published && self.server.is_connected() {
            record.published = true;
            self.journal.put(record.clone()).await?;
        }
        let result = record.told().map(|told| told.parameters());
        let word = Acknowledgement { id, state, at: record.ended.unwrap_or(now), result };
        let told = self.before_stop(self.server.tell(word)).await??;
        // What arrives now was on its way. If the word was not heard, the instruction is offered again.
        self.outdate(id, Instant::now() + FRESH);
        if let Some(seen) = self.seen.get_mut(&id) {
            seen.instruction.state = state;
            seen.at = Instant::now();
        }
        Ok(told)
    }

    /// The record of an instruction: the journal's, or a new one with what was asked.
    pub(super) async fn record(
        &mut self,
        id: InstructionId,
        now: DateTime<Utc>,
    ) -> Result<Record, Trouble> {
        if let Some(record) = self.journal.get(id) {
            return Ok(record.clone());
        }
        if !self.journal.make_room(now).await? {
            return Err(Trouble::Full);
        }
        let Some(seen) = self.seen.get(&id) else { return Ok(Record::new(id, "unknown")) };
        let instruction = &seen.instruction;
        let (control, wanted) = topic::target(instruction, &self.rules).unzip();
        let instruction_date =
            Some(instruction.instruction_date).filter(|at| *at > DateTime::UNIX_EPOCH);
        let not_after = |_| decide::not_after(instruction, self.rules.max_age);
        Ok(Record {
            instruction_date,
            execution_date: decide::execution_date(instruction).ok().flatten(),
            not_after: instruction_date.and_then(not_after),
            control,
            wanted: wanted.flatten(),
            way: Some(self.server.way(instruction.state)),
            kept: Some(Kept::of(instruction)),
            ..Record::new(id, &outcome::readable(&instruction.topic))
        })
    }

    /// Takes an event into a record; one that the drawing does not have is a bug worth a line.
    pub(super) fn advance(record: &mut Record, event: Event) -> bool {
        let from = record.state.told().name();
        match record.on(event) {
            Ok(()) => {
                let to = record.state.told().name();
                info!(
                    event = "instruction.state",
                    instruction_id = record.id.0,
                    topic = record.topic,
                    from,
                    to,
                    "instruction changed"
                );
                true
            }
            Err(error) => {
                error!(
                    event = "instruction.bug", instruction_id = record.id.0, %error,
                    "instruction left as it is"
                );
                false
            }
        }
    }

    async fn keep(
        &mut self,
        id: InstructionId,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        if self.known(id) == State::New {
            let mut record = self.record(id, now).await?;
            if Self::advance(&mut record, Event::Wait) {
                info!(
                    event = "instruction.waiting",
                    instruction_id = id.0,
                    until = utc(until),
                    "instruction kept for later"
                );
                self.journal.put(record).await?;
            }
        }
        let told = self.seen.get(&id).map(|seen| seen.instruction.state);
        if told != Some(InstructionState::Received)
            && let Some(mut record) = self.journal.get(id).cloned()
        {
            self.tell(&mut record, now).await?;
        }
        Ok(())
    }

    async fn act(
        &mut self,
        id: InstructionId,
        write: ControlWrite,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let noted = |record: &mut Record| {
            record.written = Some(now);
            record.control = Some(write.control.clone());
            record.wanted = Some(write.value);
        };
        let Some(mut record) = self.begin(id, now, noted).await? else { return Ok(()) };
        let attempt = self.write(write).await;
        if !attempt.touched {
            record.written = None;
        }
        record.before = attempt.before;
        record.after = attempt.after;
        self.finish(record, attempt.event, attempt.code, attempt.message, now).await
    }

    /// Puts `Executing` on disk, then tells the server. `None` if nothing is to be done after all.
    pub(super) async fn begin(
        &mut self,
        id: InstructionId,
        now: DateTime<Utc>,
        note: impl FnOnce(&mut Record),
    ) -> Result<Option<Record>, Trouble> {
        let mut record = self.record(id, now).await?;
        if !Self::advance(&mut record, Event::Start) {
            return Ok(None);
        }
        record.started = Some(now);
        record.published |= self.server.is_connected();
        note(&mut record);
        self.journal.put(record.clone()).await?;

        let told = self.tell(&mut record, now).await;
        // The call took its time: the agent may be stopping, the instruction may have expired.
        let now = self.time.trusted_now().unwrap_or(now);
        let refused = match &told {
            Ok(Told::Taken | Told::Aside) => record.not_after.filter(|end| now >= *end).map(|_| {
                let message = "it expired before it could be begun; nothing was done".to_owned();
                Refusal { code: Code::Expired, message }
            }),
            Ok(Told::Gone) => {
                Some(Refusal { code: Code::EndedElsewhere, message: GONE.to_owned() })
            }
            Err(_) => None,
        };
        if told.is_err() || (refused.is_none() && self.stop.is_cancelled()) {
            Self::advance(&mut record, Event::Postpone);
            (record.started, record.written, record.life) = (None, None, None);
            self.journal.put(record).await?;
            return told.and(Err(Trouble::Stopping));
        }
        let Some(Refusal { code, message }) = refused else { return Ok(Some(record)) };
        record.written = None;
        record.acknowledged = matches!(told, Ok(Told::Gone));
        self.finish(record, Event::Fail, Some(code), message, now).await?;
        Ok(None)
    }

    /// Records how it ended, stores the result datum and tells the server.
    pub(super) async fn finish(
        &mut self,
        mut record: Record,
        event: Event,
        code: Option<Code>,
        message: String,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let id = record.id;
        Self::advance(&mut record, event);
        let ended = self.time.trusted_now().unwrap_or(now);
        self.end(&mut record, code, message, ended);
        self.put_surely(record).await?;
        self.settle(id).await
    }

    async fn write(&self, write: ControlWrite) -> Attempt {
        let _writing = self.pulse.enter("carrying out an instruction", Bound::Within(ACT_LIMIT));
        let wanted = write.value;
        let control = write.control.clone();
        let result = timeout(ACT_LIMIT, self.actuator.write(write)).await.unwrap_or_else(|_| {
            let reason = format!("no result within {} s", ACT_LIMIT.as_secs());
            Err(WriteError::Unknown { control, reason })
        });
        outcome::attempt(wanted, &result)
    }

    /// Puts an outcome on disk, however long that takes: it is known here and nowhere else.
    ///
    /// If the agent stops first, the journal still says `Executing`, which is the truth it has.
    async fn put_surely(&mut self, record: Record) -> Result<(), Trouble> {
        let mut pause = Duration::from_secs(1);
        loop {
            let Err(error) = self.journal.put(record.clone()).await else { return Ok(()) };
            if self.stop.is_cancelled() {
                return Err(error.into());
            }
            warn!(
                event = "instruction.not_recorded",
                instruction_id = record.id.0,
                error = %Chain(&error),
                "outcome not on disk yet"
            );
            let left = Bound::Within(pause);
            let _waiting = self.pulse.enter("waiting to write an outcome once more", left);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(SLOWEST_SAVE);
        }
    }

    async fn decline(
        &mut self,
        id: InstructionId,
        refusal: Refusal,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let mut record = self.record(id, now).await?;
        if Self::advance(&mut record, Event::Refuse) {
            self.end(&mut record, Some(refusal.code), refusal.message, now);
            self.journal.put(record).await?;
        }
        Ok(())
    }

    async fn interrupt(&mut self, id: InstructionId, now: DateTime<Utc>) -> Result<(), Trouble> {
        let mut record = self.record(id, now).await?;
        let (event, code, message) = match self.restarted(&record) {
            Some(message) => (Event::Succeed, None, message),
            None => (Event::Interrupt, Some(Code::MayHaveHappened), INTERRUPTED.to_owned()),
        };
        if Self::advance(&mut record, event) {
            self.end(&mut record, code, message, now);
            self.journal.put(record).await?;
        }
        Ok(())
    }

    async fn gone(&mut self, id: InstructionId) -> Result<(), Trouble> {
        match self.time.trusted_now() {
            Some(now) if self.known(id) == State::Received => {
                self.overrule(id, Ending::Declined, GONE, now).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Somebody else ended it. There is nothing to tell, and no outcome of ours to report.
    async fn overrule(
        &mut self,
        id: InstructionId,
        ending: Ending,
        message: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let mut record = self.record(id, now).await?;
        if Self::advance(&mut record, Event::Overrule(ending)) {
            record.reported = true;
            record.acknowledged = true;
            self.end(&mut record, Some(Code::EndedElsewhere), message.to_owned(), now);
            self.journal.put(record).await?;
        }
        Ok(())
    }

    async fn cancel(
        &mut self,
        id: InstructionId,
        target: InstructionId,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        if !self.waits(target) || target == id {
            let message = format!("instruction {target} does not wait on this node");
            self.decline(id, Refusal { code: Code::NotCancellable, message }, now).await?;
            return self.settle(id).await;
        }
        let mut made = self.made_by(target);
        made.retain(|made| ![id, target].contains(made));
        // The target last: while it waits, the same cancellation after a crash finds them all.
        let cancelled: Vec<_> = made.into_iter().chain([target]).collect();
        for cancelled in &cancelled {
            let message = format!("cancelled by instruction {id}");
            self.decline(*cancelled, Refusal { code: Code::Cancelled, message }, now).await?;
        }
        let mut record = self.record(id, now).await?;
        if Self::advance(&mut record, Event::Start) && Self::advance(&mut record, Event::Succeed) {
            record.started = Some(now);
            self.end(&mut record, None, format!("instruction {target} cancelled"), now);
            self.journal.put(record).await?;
        }
        for cancelled in cancelled {
            self.settle(cancelled).await?;
        }
        self.settle(id).await
    }

    /// Whether it is here, or was given together with its cancellation, and is not begun.
    fn waits(&self, id: InstructionId) -> bool {
        match self.known(id) {
            State::Received => true,
            State::New => self.seen.get(&id).is_some_and(|seen| {
                !seen.instruction.state.is_final()
                    && seen.instruction.state != InstructionState::Executing
            }),
            State::Executing | State::Completed | State::Declined => false,
        }
    }

    /// Those that wait and say that they were made by this one.
    fn made_by(&self, parent: InstructionId) -> BTreeSet<InstructionId> {
        let says = |name: &str, value: &str| name == PARENT && value.trim().parse() == Ok(parent.0);
        let kept = self.ids(|record| {
            let mut parameters = record.kept.iter().flat_map(|kept| &kept.parameters);
            parameters.any(|(name, value)| says(name, value))
        });
        let seen = self.seen.iter().filter(|(_, seen)| {
            seen.instruction.parameters.iter().any(|p| says(&p.name, &p.value))
        });
        let all = kept.into_iter().chain(seen.map(|(id, _)| *id));
        all.filter(|id| self.waits(*id)).collect()
    }

    /// Writes down how it ended, and says so once.
    fn end(&self, record: &mut Record, code: Option<Code>, message: String, now: DateTime<Utc>) {
        // The end is the time of the result datum. Two of one source must not share a millisecond.
        let mut ended = DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now);
        while self.journal.records().any(|other| other.ended == Some(ended)) {
            ended += TimeDelta::milliseconds(1);
        }
        let (instruction_id, topic) = (record.id.0, record.topic.as_str());
        let reason = code.map_or("", Code::name);
        match (code, record.state) {
            (Some(Code::MayHaveHappened), _) => error!(
                event = "instruction.uncertain",
                instruction_id,
                topic,
                detail = message,
                "instruction may have happened"
            ),
            (_, State::Completed) => {
                info!(
                    event = "instruction.done",
                    instruction_id,
                    topic,
                    detail = message,
                    "instruction done"
                );
            }
            (_, State::New | State::Received | State::Executing | State::Declined) => warn!(
                event = "instruction.declined",
                instruction_id,
                topic,
                code = reason,
                detail = message,
                "instruction declined"
            ),
        }
        record.ended = Some(ended);
        record.code = code;
        record.message = Some(message);
        record.kept = None;
    }

    /// Stores the result datum, if there is a source for it.
    async fn report(&mut self, id: InstructionId) -> Result<(), Trouble> {
        let Some(record) = self.journal.get(id).filter(|r| !r.reported) else { return Ok(()) };
        let mut record = record.clone();
        let source = record.control.clone().or_else(|| self.settings.result_source.clone());
        if let (Some(source), Some(told)) = (source, record.told()) {
            self.results.store(outcome::datum(source, &told)).await?;
        }
        record.reported = true;
        Ok(self.journal.put(record).await?)
    }

    async fn acknowledge(&mut self, id: InstructionId, done: bool) -> Result<(), Trouble> {
        match self.journal.get(id) {
            Some(record) if record.acknowledged != done => {
                let record = Record { acknowledged: done, ..record.clone() };
                Ok(self.journal.put(record).await?)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Stores the result datum and then brings the final state to the server.
    pub(super) async fn settle(&mut self, id: InstructionId) -> Result<(), Trouble> {
        if self.known(id).ending().is_none() {
            return Ok(());
        }
        self.report(id).await?;
        let Some(record) = self.journal.get(id).filter(|r| !r.acknowledged) else { return Ok(()) };
        let mut record = record.clone();
        let is_connected = self.server.is_connected();
        let mut waited = Duration::ZERO;
        if let Some(aside) = self.aside.get(&id) {
            // The server has it. Only the broker is left.
            if !is_connected || Instant::now() < aside.at {
                return Ok(());
            }
            waited = aside.waited;
        } else {
            let is_fresh = |seen: &Seen| seen.at.elapsed() <= FRESH;
            if !self.seen.get(&id).is_some_and(is_fresh) && !self.look(id).await? {
                return self.acknowledge(id, true).await;
            }
            let final_there = |seen: &Seen| seen.instruction.state.is_final();
            if self.seen.get(&id).is_some_and(final_there) {
                return self.acknowledge(id, true).await;
            }
        }
        let ended = record.ended.unwrap_or_default();
        if self.tell(&mut record, ended).await? == Told::Aside && record.published {
            if is_connected {
                let (first, most) = BROKER_AGAIN;
                waited = (waited * 2).clamp(first, most);
            }
            self.aside.insert(id, Aside { at: Instant::now() + waited, waited });
            return Ok(());
        }
        self.aside.remove(&id);
        self.acknowledge(id, true).await
    }
}
