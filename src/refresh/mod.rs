//! Keeps the signing key alive: a fresh one every UTC day, proved before it replaces the old one.
//!
//! * [`calls`]: the one call to SolarQuery that hands out keys, and what proves a key;
//! * [`machine`]: when to do what, and what to tell the operator; pure;
//! * [`task`]: carries it out in the daemon.
//!
//! The only state is the credential's file, replaced whole, so the process may die at any moment:
//! what is on disk is the old proved key or the new proved key.

pub mod calls;
pub mod machine;
pub mod task;

pub use calls::{RefreshCalls, Unproved, prove};
pub use task::{Refresher, Status};
