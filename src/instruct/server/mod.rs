//! The server, as instructions see it: what waits, what is said of one, and telling a state.
//!
//! | | a token ([`Token`]) | the node's certificate ([`Certificate`]) |
//! | --- | --- | --- |
//! | what waits | `viewPending`: `Queued`, `Received`, `Executing` | an exchange of nothing: `Queued` |
//! | pushed | never | on `node/{id}/instr`, through the [`super::Inbox`] |
//! | looking at one | `view` | only while the server still offers it |
//! | telling a state | `updateState`, without results | an acknowledgement, with results |
//!
//! What follows from the third row is [`Server::shows_acknowledged`]: with a certificate, one that this node
//! has acknowledged cannot be looked at again. What the journal says of it then counts as the server's
//! word, and whoever wants to withdraw it sends `CancelInstruction`.

mod certificate;
mod token;

use serde::{Deserialize, Serialize};

use super::parse::{Parsed, Skipped};
use crate::{
    domain::{Instruction, InstructionId, InstructionState},
    solarin::{Acknowledgement, InError},
    solarnet::{CallError, Cause, Next},
};

pub use certificate::{Broker, Certificate, Exchange, Heard};
pub use token::{API_PATHS, Token};

/// Reaches the server.
pub trait Server: Send + Sync {
    /// What waits for this node.
    fn pending(&self) -> impl Future<Output = Result<Parsed, ServerError>> + Send;

    /// One instruction. Not asked for one that was acknowledged, unless
    /// [`Server::shows_acknowledged`].
    fn view(&self, id: InstructionId) -> impl Future<Output = Result<Viewed, ServerError>> + Send;

    /// Tells a state.
    fn tell(&self, word: Acknowledgement)
    -> impl Future<Output = Result<Told, ServerError>> + Send;

    /// Whether one that was acknowledged, and has not ended, can be looked at again and is listed.
    fn shows_acknowledged(&self) -> bool;

    /// Whether states can be told at present although asking fails.
    fn is_connected(&self) -> bool;

    /// The way by which an instruction in this state comes from this server.
    fn way(&self, state: InstructionState) -> Way;
}

/// What became of a state that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was taken, and none that was told before can arrive after it.
    Taken,
    /// It was taken over HTTPS. An older one that the broker has may still arrive after it.
    Aside,
    /// The server does not have the instruction any more.
    Gone,
}

/// By which way an instruction came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Asked for with a token.
    Token,
    /// In an answer to the node's certificate.
    Https,
    /// Pushed by the broker.
    Mqtt,
}

impl Way {
    /// As commands show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Https => "https",
            Self::Mqtt => "mqtt",
        }
    }
}

/// What the server says of one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewed {
    /// It has it.
    There(Instruction),
    /// It does not have it any more, or does not offer it.
    Gone,
    /// There is an answer, and it makes no sense.
    Unreadable(Skipped),
}

impl Viewed {
    /// What an answer says of the instruction asked for.
    fn of(id: InstructionId, answer: Parsed) -> Self {
        let Parsed { instructions, skipped } = answer;
        let found = instructions.into_iter().find(|instruction| instruction.id == id);
        match (found, skipped.into_iter().find(|s| s.id.is_none_or(|other| other == id))) {
            (Some(instruction), _) => Self::There(instruction),
            (None, Some(skipped)) => Self::Unreadable(skipped),
            (None, None) => Self::Gone,
        }
    }
}

/// Why the server was not reached, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A call that a token signed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// An exchange with the node's certificate.
    #[error(transparent)]
    Exchange(#[from] InError),
    /// An exchange that went well and does not name the acknowledgement.
    #[error("the server did not take the state of an instruction")]
    NotTaken,
}

impl ServerError {
    /// What to do about it.
    #[must_use]
    pub fn next(&self) -> Next {
        match self {
            Self::Call(error) => error.next(),
            Self::Exchange(error) => error.next(),
            Self::NotTaken => Next::Retry { not_before: None },
        }
    }

    /// Whether the other instructions would meet the same.
    #[must_use]
    pub fn is_general(&self) -> bool {
        // An answer came: only this one is not in it.
        if matches!(self, Self::NotTaken) {
            return false;
        }
        match self.next() {
            Next::Retry { .. } | Next::RefreshKey => true,
            // The server also answers so for one ID that it no longer knows.
            Next::Stop => !matches!(self, Self::Call(error) if error.cause == Cause::AccessDenied),
            Next::Content | Next::Gone => false,
        }
    }
}
