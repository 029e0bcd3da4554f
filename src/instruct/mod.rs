//! Instructions: what a user asks this node to do, done at most once, and what came of it.
//!
//! ```text
//!            pending, view, inbox           topic, decide, state (pure)
//!  server ──────────────────▶ parse (pure) ──▶ task ──▶ journal: Executing on disk first
//!     ▲                                        │  │ └──▶ Actuator: write, read back
//!     └─────────── state, results ─────────────┘  └────▶ Services: restart, reboot, log, certificate
//!                                                    ──▶ Results: the outcome as a datum
//! ```
//!
//! What it guarantees (`docs/spec/instructions.md` has it in numbered requirements): an instruction
//! is carried out at most once over crashes, duplicates and restarts; never after it expired;
//! only if the configuration names its control, or allows its topic, and within its limits; and its outcome is stored
//! before the server hears of it.
//!
//! The server is a token's SolarUser, or SolarIn and a broker with the node's certificate ([`server`]). By
//! whichever way an instruction comes, journal and decisions are the same.
//!
//! What it does not do: talk to devices, keep datum or touch the node itself (three traits, [`Actuator`],
//! [`Results`] and [`Services`], lead there), and act on anything while the time cannot be trusted.

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
