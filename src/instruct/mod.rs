//! Instructions: what a user asks this node to do, done at most once, and what came of it.
//!
//! ```text
//!            viewPending, view                 ┌── decide (pure) ──┐
//!  server ──────────────────▶ parse (pure) ──▶ task ──▶ journal    │ state (pure)
//!     ▲                                        │   │  Executing on disk first
//!     └──────────── updateState ───────────────┤   └──▶ Actuator: write, read back
//!                                              └──────▶ Results: the outcome as a datum
//! ```
//!
//! What it guarantees (`docs/spec/instructions.md` has it in numbered requirements): an instruction
//! is carried out at most once over crashes, duplicates and restarts; never after it expired;
//! only if the configuration names its control and within its limits; and its outcome is stored
//! before the server hears of it.
//!
//! What it does not do: talk to devices or keep datum (two traits, [`Actuator`] and [`Results`], lead
//! there), and act on anything while the time cannot be trusted.

pub mod decide;
mod inbox;
pub mod journal;
pub mod outcome;
pub mod parse;
pub mod record;
mod serve;
pub mod server;
mod services;
pub mod state;
pub mod status;
mod step;
pub mod task;
pub mod topic;

pub use inbox::Inbox;
pub use server::API_PATHS;
pub use services::{Life, Services};
pub use status::Status;
pub use task::{ACT_LIMIT, Actuator, Instructor, NotStored, Results, Time};

#[cfg(test)]
mod tests;
