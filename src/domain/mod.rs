//! What the field calls things: nodes, sources, datum, controls, instructions.
//!
//! Nothing here does I/O, waits, or knows another module. Everything that crosses a module boundary
//! in the data flow is one of these types.

mod broker;
mod chain;
mod control;
mod datum;
mod files;
mod id;
mod instruction;
pub mod number;
mod time;
mod token;

pub use broker::{BrokerUrl, InvalidBrokerUrl};
pub use chain::Chain;
pub use control::{ControlWrite, OperatingState, WriteError, WriteReport};
pub use datum::{BootId, Datum, Kind, Samples, Stamp};
pub use files::{Pattern, is_file_tag};
pub use id::{InvalidId, NodeId, SourceId, TokenId, TokenName};
pub use instruction::{Instruction, InstructionId, InstructionState, NodeTopic, Parameter};
pub use time::utc;
pub use token::TokenKind;
