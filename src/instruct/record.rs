//! What the journal keeps of one instruction.
//!
//! One JSON object, in the file `<id>.json`. Members are only ever added; unknown ones are ignored;
//! a `version` that is not [`VERSION`] makes the file unreadable, and an unreadable file counts as
//! "may have happened" (see [`super::journal`]).

use std::{fmt::Display, str::FromStr};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use super::{
    outcome::{Code, Told},
    server::Way,
    state::{Event, NotAllowed, State},
};
use crate::domain::{Instruction, InstructionId, Parameter, SourceId};

/// The version of the format.
pub const VERSION: u32 = 1;

/// One instruction, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the format the file was written in.
    pub version: u32,
    /// The server's number.
    #[serde(with = "number")]
    pub id: InstructionId,
    /// What to do.
    pub topic: String,
    /// Where it stands.
    pub state: State,
    /// When it was given, if that is known.
    pub instruction_date: Option<DateTime<Utc>>,
    /// When it is to be carried out, if that was asked for.
    pub execution_date: Option<DateTime<Utc>>,
    /// From this instant on it would not be carried out any more, whatever the server says.
    pub not_after: Option<DateTime<Utc>>,
    /// When it was begun.
    pub started: Option<DateTime<Utc>>,
    /// When it ended; also the time of its result datum, so that a repeat is the same datum.
    pub ended: Option<DateTime<Utc>>,
    /// The control it names.
    #[serde(with = "text")]
    pub control: Option<SourceId>,
    /// The value it asks for.
    #[serde(with = "text")]
    pub wanted: Option<Decimal>,
    /// The value read before the write.
    #[serde(with = "text")]
    pub before: Option<Decimal>,
    /// The value read after the write.
    #[serde(with = "text")]
    pub after: Option<Decimal>,
    /// When the control may have been written; absent if it surely was not.
    pub written: Option<DateTime<Utc>>,
    /// What happened, for people.
    pub message: Option<String>,
    /// What happened, for programs.
    pub code: Option<Code>,
    /// The result datum is stored, or none is to be made.
    pub reported: bool,
    /// What is answered beside the message, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The way by which it came.
    #[serde(default)]
    pub way: Option<Way>,
    /// The life of the agent or the machine in which it was to be ended by a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<String>,
    /// The rest of what was asked, until it has ended: not every server shows it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// A state on the way to the end was, or may have been, handed to the broker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub published: bool,
    /// The server has the final state, or holds one of its own, or no longer has the instruction.
    pub acknowledged: bool,
}

/// What a record has to keep to stand for the instruction itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When it expires.
    pub expiration_date: Option<DateTime<Utc>>,
    /// Names and values, in the order given.
    pub parameters: Vec<(String, String)>,
}

impl Kept {
    /// Of this instruction.
    #[must_use]
    pub fn of(instruction: &Instruction) -> Self {
        let pairs = instruction.parameters.iter().map(|p| (p.name.clone(), p.value.clone()));
        Self { expiration_date: instruction.expiration_date, parameters: pairs.collect() }
    }
}

impl Record {
    /// An instruction that the journal does not know yet.
    #[must_use]
    pub fn new(id: InstructionId, topic: &str) -> Self {
        Self {
            version: VERSION,
            id,
            topic: topic.to_owned(),
            state: State::New,
            instruction_date: None,
            execution_date: None,
            not_after: None,
            started: None,
            ended: None,
            control: None,
            wanted: None,
            before: None,
            after: None,
            written: None,
            message: None,
            code: None,
            reported: false,
            result: None,
            way: None,
            life: None,
            kept: None,
            published: false,
            acknowledged: false,
        }
    }

    /// What stands in for a file that cannot be read: begun, and nothing else known.
    #[must_use]
    pub fn damaged(id: InstructionId) -> Self {
        Self { state: State::Executing, published: true, ..Self::new(id, "unknown") }
    }

    /// Reads a file's contents.
    ///
    /// # Errors
    ///
    /// If it is not a whole record of this version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.version != VERSION {
            return Err(serde_json::Error::custom(format!("version {}", record.version)));
        }
        Ok(record)
    }

    /// The file's contents.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .expect("text, numbers, dates and truth values always make JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Takes an event. The state changes only if the drawing in [`super::state`] has the arrow.
    ///
    /// # Errors
    ///
    /// If it has not; nothing is changed then.
    pub fn on(&mut self, event: Event) -> Result<(), NotAllowed> {
        self.state = self.state.on(event)?;
        Ok(())
    }

    /// Whether nothing is left to do for it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.state.ending().is_some() && self.reported && self.acknowledged
    }

    /// The instruction itself, in the state that this node has told, if enough of it is kept.
    #[must_use]
    pub fn instruction(&self) -> Option<Instruction> {
        let kept = self.kept.as_ref()?;
        let parameter = |(name, value): &(String, String)| Parameter {
            name: name.clone(),
            value: value.clone(),
        };
        Some(Instruction {
            id: self.id,
            topic: self.topic.clone(),
            instruction_date: self.instruction_date?,
            state: self.state.told(),
            expiration_date: kept.expiration_date,
            parameters: kept.parameters.iter().map(parameter).collect(),
            unreadable: None,
        })
    }

    /// What its result datum says, once it has ended.
    #[must_use]
    pub fn told(&self) -> Option<Told<'_>> {
        self.state.ending()?;
        Some(Told {
            id: self.id,
            outcome: self.state.told(),
            ended: self.ended?,
            before: self.before,
            wanted: self.wanted,
            after: self.after,
            message: self.message.as_deref(),
            code: self.code,
            result: self.result.as_ref(),
        })
    }
}

mod number {
    use super::*;

    pub(super) fn serialize<S: Serializer>(id: &InstructionId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<InstructionId, D::Error> {
        i64::deserialize(from).map(InstructionId)
    }
}

/// Values that are kept as the text they are shown as.
mod text {
    use super::*;

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(to)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
