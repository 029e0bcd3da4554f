//! What to do with one instruction, now.
//!
//! In this order; the first that applies decides:
//!
//! 1. It ended here: nothing, or the final state once more if the server does not have it.
//! 2. The server holds a final state: that stands, nothing is written onto it.
//! 3. The time cannot be trusted: hold. Nothing acts and nothing ends.
//! 4. It was begun here and not ended, or the server says so and the journal does not know it: it
//!    may have happened, which is its end.
//! 5. The topic is not one of ours or not allowed, or its parameters make no order ([`super::topic`]):
//!    declined.
//! 6. It expired, or is too old: declined.
//! 7. It is for later: wait.
//! 8. Too soon after the last write: declined.
//! 9. The server was last asked more than [`FRESH`] ago: view it again.
//! 10. Act.
//!
//! An instruction to cancel has no maximal age: it makes nothing happen, and a node that comes back
//! after an outage finds it together with what it cancels. Its own `expirationDate` counts.
//!
//! This file is pure.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    outcome::{Code, Refusal, readable},
    parse,
    state::{Ending, State},
    topic::{CANCEL, EXECUTION_DATE, Order, Request, Rules, order, refusal},
};
use crate::domain::{ControlWrite, Instruction, InstructionId, InstructionState, SourceId, utc};

/// How old the server's word may be when something is done.
pub const FRESH: Duration = Duration::from_secs(5);

/// The longest that the server keeps an instruction that has not ended (its weekly purge).
pub const KEPT: TimeDelta = TimeDelta::days(120);

/// Everything that decides.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What the server says.
    pub instruction: &'a Instruction,
    /// How long ago it said so.
    pub seen_ago: Duration,
    /// The time, if it can be trusted.
    pub now: Option<DateTime<Utc>>,
    /// What the journal says.
    pub known: State,
    /// What the configuration allows.
    pub rules: &'a Rules,
    /// When each control was last written.
    pub last_writes: &'a BTreeMap<SourceId, DateTime<Utc>>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, until the time is known.
    Hold,
    /// Nothing: it has ended, here and at the server.
    Ignore,
    /// Tell the server the final state again.
    Resend,
    /// The server ended it.
    Overruled(Ending),
    /// It was begun and not ended: it may have happened.
    Interrupted,
    /// Refuse it.
    Decline(Refusal),
    /// Keep it as `Received` until then.
    Wait {
        /// Its `executionDate`.
        until: DateTime<Utc>,
    },
    /// Ask the server again before acting.
    ViewAgain,
    /// Write to a device.
    Act(ControlWrite),
    /// Do what is asked of the node itself.
    Serve(Request),
    /// Cancel that one.
    Cancel(InstructionId),
}

/// Decides. See the module's header for the order.
#[must_use]
pub fn decide(case: &Case<'_>) -> Decision {
    let Case { instruction, rules, .. } = *case;
    let ended_there = match instruction.state {
        InstructionState::Completed => Some(Ending::Completed),
        InstructionState::Declined => Some(Ending::Declined),
        InstructionState::Unknown
        | InstructionState::Queued
        | InstructionState::Queuing
        | InstructionState::Received
        | InstructionState::Executing => None,
    };
    match (case.known.ending(), ended_there) {
        (Some(_), Some(_)) => return Decision::Ignore,
        (Some(_), None) => return Decision::Resend,
        // One that was begun is not the server's to end: what may have happened is still told.
        (None, Some(ending)) if case.known != State::Executing => {
            return Decision::Overruled(ending);
        }
        (None, _) => {}
    }
    let Some(now) = case.now else { return Decision::Hold };
    // `Executing` is told to the server before anything is sent to a device. One that the journal
    // lost is thus known to be untouched as long as the server does not say `Executing`.
    let begun_there = instruction.state == InstructionState::Executing;
    if case.known == State::Executing || (case.known == State::New && begun_there) {
        return Decision::Interrupted;
    }
    let order = match order(instruction, rules) {
        Ok(order) => order,
        Err(refusal) => return Decision::Decline(refusal),
    };
    let due = match execution_date(instruction) {
        Ok(due) => due,
        Err(refusal) => return Decision::Decline(refusal),
    };
    if let Some(refusal) = late(instruction, due, now, rules.max_age) {
        return Decision::Decline(refusal);
    }
    if let Some(until) = due.filter(|due| *due > now) {
        return Decision::Wait { until };
    }
    match order {
        Order::Cancel(id) => Decision::Cancel(id),
        Order::Write { write, every } => {
            if let Some(refusal) = too_soon(&write.control, every, case.last_writes, now) {
                return Decision::Decline(refusal);
            }
            if case.seen_ago > FRESH { Decision::ViewAgain } else { Decision::Act(write) }
        }
        Order::Ask(_) if case.seen_ago > FRESH => Decision::ViewAgain,
        Order::Ask(request) => Decision::Serve(request),
    }
}

/// The instant from which an instruction is not carried out any more, if there is one.
///
/// Its `expirationDate`, otherwise `max_age` after its `executionDate` or, without one, after its
/// `instructionDate`. A cancellation has no maximal age.
#[must_use]
pub fn not_after(instruction: &Instruction, max_age: Duration) -> Option<DateTime<Utc>> {
    if instruction.expiration_date.is_some() || instruction.topic == CANCEL {
        return instruction.expiration_date;
    }
    let due = execution_date(instruction).ok().flatten();
    let from = due.unwrap_or(instruction.instruction_date);
    let age = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    Some(from.checked_add_signed(age).unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// When an instruction is to be carried out, if it says so.
///
/// # Errors
///
/// If what it says is not one instant, or one that cannot come true.
pub fn execution_date(instruction: &Instruction) -> Result<Option<DateTime<Utc>>, Refusal> {
    let mut given = instruction.parameters.iter().filter(|p| p.name == EXECUTION_DATE);
    let Some(first) = given.next() else { return Ok(None) };
    let unreadable = || {
        let text = readable(&first.value);
        refusal(Code::Parameters, format!("`{EXECUTION_DATE}` is not one instant: `{text}`"))
    };
    if given.next().is_some() {
        return Err(unreadable());
    }
    let due = parse::instant(&first.value).ok_or_else(unreadable)?;
    if due - instruction.instruction_date > KEPT {
        let days = KEPT.num_days();
        let message = format!("`{EXECUTION_DATE}` is more than {days} days after the instruction");
        return Err(refusal(Code::Parameters, message));
    }
    Ok(Some(due))
}

fn late(
    instruction: &Instruction,
    due: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    max_age: Duration,
) -> Option<Refusal> {
    let end = not_after(instruction, max_age)?;
    let (code, message) = if instruction.expiration_date.is_none() {
        let from = utc(due.unwrap_or(instruction.instruction_date));
        let secs = max_age.as_secs();
        (Code::TooOld, format!("it was for {from}, {secs} s ago or more (`max_age`)"))
    } else if now >= end {
        (Code::Expired, format!("it expired at {}", utc(end)))
    } else {
        let end = utc(end);
        (Code::Expired, format!("it would expire at {end}, before its `{EXECUTION_DATE}`"))
    };
    (now >= end || due.is_some_and(|due| due >= end)).then(|| refusal(code, message))
}

fn too_soon(
    control: &SourceId,
    every: Duration,
    last_writes: &BTreeMap<SourceId, DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<Refusal> {
    let last = *last_writes.get(control)?;
    let every = TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
    (now - last < every).then(|| {
        let (secs, at) = (every.num_seconds(), utc(last));
        let message = if last > now {
            format!(
                "the last write was at {at}, and now it is {}: the clock was set back",
                utc(now)
            )
        } else {
            format!("the last write was at {at}, less than {secs} s ago")
        };
        refusal(Code::TooSoon, message)
    })
}

#[cfg(test)]
mod tests;
