//! Plays SolarNetwork.
mod admin;
mod answer;
mod api;
mod auth;
mod http;
mod import;
mod ledger;
mod misbehave;
mod policy;
mod random;
mod rate;
mod request;
mod seed;
mod sim;
mod time;
mod world;

pub use ledger::{Datum, Entry, Key, LedgerCount, Seen};
pub use misbehave::{Act, Misbehaviour};
pub use policy::{Policy, UnreadablePolicy};
pub use rate::RateLimit;
pub use seed::{Seed, SeedError, SeedToken, SeedUser};
pub use sim::{IssuedToken, Sim, StartError};
pub use world::instruction::{Instruction, NewInstruction, State as InstructionState};
pub use world::job::{ImportDelays, JobState};
pub use world::token::TokenKind;
