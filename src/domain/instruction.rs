//! An instruction as the server hands it out.

use std::fmt;

use chrono::{DateTime, Utc};

/// The server's number for an instruction, unique for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstructionId(pub i64);

impl fmt::Display for InstructionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The states the server knows. `Completed` and `Declined` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstructionState {
    /// A default value only; the server never hands it out on purpose.
    Unknown,
    /// Waiting to be fetched.
    Queued,
    /// Being pushed to the node.
    Queuing,
    /// The node has it and will act later.
    Received,
    /// The node is acting.
    Executing,
    /// Done; final.
    Completed,
    /// Refused, failed, cancelled or expired; final.
    Declined,
}

impl InstructionState {
    /// The server's spelling.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Queued => "Queued",
            Self::Queuing => "Queuing",
            Self::Received => "Received",
            Self::Executing => "Executing",
            Self::Completed => "Completed",
            Self::Declined => "Declined",
        }
    }

    /// The state of that spelling, if the server has it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        use InstructionState::*;
        [Unknown, Queued, Queuing, Received, Executing, Completed, Declined]
            .into_iter()
            .find(|state| state.name() == name)
    }

    /// Whether nothing may follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Declined)
    }
}

/// Topics that ask something of the node itself and not of a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeTopic {
    /// Another level for log lines.
    LoggingSetLevel,
    /// The agent starts again.
    SystemRestart,
    /// The machine starts again.
    SystemReboot,
    /// An inventory of the node.
    SystemConfiguration,
    /// A new certificate for the node.
    RenewCertificate,
}

impl NodeTopic {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::LoggingSetLevel,
        Self::SystemRestart,
        Self::SystemReboot,
        Self::SystemConfiguration,
        Self::RenewCertificate,
    ];

    /// SolarNetwork's spelling.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LoggingSetLevel => "LoggingSetLevel",
            Self::SystemRestart => "SystemRestart",
            Self::SystemReboot => "SystemReboot",
            Self::SystemConfiguration => "SystemConfiguration",
            Self::RenewCertificate => "RenewCertificate",
        }
    }

    /// The topic of that spelling.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// One parameter. Names may repeat: long values arrive in pieces of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name, for example a control ID.
    pub name: String,
    /// Value, always text.
    pub value: String,
}

/// An instruction as the server hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The server's number.
    pub id: InstructionId,
    /// What to do, for example `SetControlParameter`.
    pub topic: String,
    /// When it was given; the beginning of 1970 where that cannot be read.
    pub instruction_date: DateTime<Utc>,
    /// The state the server holds.
    pub state: InstructionState,
    /// After this instant it must not be carried out any more.
    pub expiration_date: Option<DateTime<Utc>>,
    /// In the order given.
    pub parameters: Vec<Parameter>,
    /// What of it cannot be read, if something cannot: it is declined. No parameters are here then.
    pub unreadable: Option<String>,
}
