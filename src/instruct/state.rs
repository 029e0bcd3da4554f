//! The life of one instruction on this node. `Completed` and `Declined` are final.
//!
//! ```text
//!  New ──Wait──▶ Received ──Start──▶ Executing ──Succeed──▶ Completed
//!   │ │            │ │ ▲             ▲ │   │                   ▲
//!   │ └──Start─────┼─┼─┼─────────────┘ │   │                   │
//!   │              │ │ └───Postpone────┘   │ Fail, Interrupt   │
//!   │              │ └──────Overrule───────┼───────────────────┤
//!   └──Refuse,─────┴──Refuse───────────────┴──▶ Declined ◀─────┘
//!      Interrupt
//! ```
//!
//! * `New` is what the journal does not know; it is never stored.
//! * `Start` is on disk before anything is sent to a device.
//! * `Postpone` is for one moment only: the server could not be told `Executing`, and nothing was
//!   sent to the device yet.
//! * `Interrupt` is a crash in the middle: what was being done may have happened. It is **never**
//!   done again, so `Executing` has no way back to itself.
//! * `Overrule` is the server ending one that waits here: expired, or withdrawn by its owner.
//!
//! This file is pure.

use serde::{Deserialize, Serialize};

use crate::domain::InstructionState;

/// Where an instruction stands on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not in the journal.
    New,
    /// Kept for its time.
    Received,
    /// Being carried out: it may have reached the device.
    Executing,
    /// Carried out, and the device showed it.
    Completed,
    /// Refused, failed, cancelled, expired, or interrupted.
    Declined,
}

/// The two ways to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// As [`State::Completed`].
    Completed,
    /// As [`State::Declined`].
    Declined,
}

/// What can happen to an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Its time has not come.
    Wait,
    /// It is about to be carried out.
    Start,
    /// It could not be begun after all; surely nothing was sent to the device.
    Postpone,
    /// It was carried out and the device shows it.
    Succeed,
    /// It was tried and did not work.
    Fail,
    /// It will not be tried: refused, cancelled or expired.
    Refuse,
    /// The node stopped while it was being carried out.
    Interrupt,
    /// The server holds a final state that is not from here.
    Overrule(Ending),
}

/// An event that cannot happen in a state: a bug here, or a file that somebody else wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is not allowed in {state:?}")]
pub struct NotAllowed {
    state: State,
    event: Event,
}

impl Ending {
    /// The state it ends in.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::Completed => State::Completed,
            Self::Declined => State::Declined,
        }
    }
}

impl State {
    /// The state after `event`. Storing it and telling the server is the caller's work.
    ///
    /// # Errors
    ///
    /// If the drawing above has no such arrow.
    pub fn on(self, event: Event) -> Result<Self, NotAllowed> {
        use Event::{Fail, Interrupt, Overrule, Postpone, Refuse, Start, Succeed, Wait};
        use State::{Completed, Declined, Executing, New, Received};

        Ok(match (self, event) {
            (New, Wait) | (Executing, Postpone) => Received,
            (New | Received, Start) => Executing,
            (New | Received, Refuse) => Declined,
            (Executing, Succeed) => Completed,
            (Executing, Fail | Interrupt) => Declined,
            // The server says that it was begun here, and the journal that could tell is lost.
            (New, Interrupt) => Declined,
            (Received, Overrule(ending)) => ending.state(),

            // Every refusal is spelled out, so a new state or event stops the build here.
            (New, Postpone | Succeed | Fail | Overrule(_))
            | (Received, Wait | Postpone | Succeed | Fail | Interrupt)
            | (Executing, Wait | Start | Refuse | Overrule(_))
            | (
                Completed | Declined,
                Wait | Start | Postpone | Succeed | Fail | Refuse | Interrupt | Overrule(_),
            ) => return Err(NotAllowed { state: self, event }),
        })
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn ending(self) -> Option<Ending> {
        match self {
            Self::Completed => Some(Ending::Completed),
            Self::Declined => Some(Ending::Declined),
            Self::New | Self::Received | Self::Executing => None,
        }
    }

    /// What the server is told.
    #[must_use]
    pub fn told(self) -> InstructionState {
        match self {
            Self::New => InstructionState::Queued,
            Self::Received => InstructionState::Received,
            Self::Executing => InstructionState::Executing,
            Self::Completed => InstructionState::Completed,
            Self::Declined => InstructionState::Declined,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        prop::sample::select(vec![
            Event::Wait,
            Event::Start,
            Event::Postpone,
            Event::Succeed,
            Event::Fail,
            Event::Refuse,
            Event::Interrupt,
            Event::Overrule(Ending::Completed),
            Event::Overrule(Ending::Declined),
        ])
    }

    #[test]
    fn an_interrupted_instruction_ends_and_is_not_begun_again() {
        assert_eq!(State::Executing.on(Event::Interrupt), Ok(State::Declined));
        assert!(State::Executing.on(Event::Start).is_err());
        assert!(State::Declined.on(Event::Start).is_err());
    }

    proptest! {
        /// Nothing follows a final state, whatever comes.
        #[test]
        fn a_final_state_is_never_left(events in prop::collection::vec(event(), 0..30)) {
            let mut state = State::New;
            for event in events {
                let next = state.on(event);
                if state.ending().is_some() {
                    prop_assert!(next.is_err());
                }
                state = next.unwrap_or(state);
            }
        }

        /// Only an instruction that was begun, or ended by the server, is ever `Completed`.
        #[test]
        fn completion_needs_a_start(events in prop::collection::vec(event(), 0..30)) {
            let (mut state, mut begun) = (State::New, false);
            for event in events {
                let Ok(next) = state.on(event) else { continue };
                begun |= matches!(event, Event::Start | Event::Overrule(_));
                prop_assert!(next != State::Completed || begun);
                state = next;
            }
        }
    }
}
