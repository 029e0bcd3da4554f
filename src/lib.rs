//! The edge agent for SolarNetwork nodes.
//!
//! ```text
//!               ┌──────── instruct ◀──────────────── server
//!               ▼ writes      │ results                 ▲
//! devices ──▶ modbus ──▶ reader ──▶ queue ──▶ upload ───┘ proof
//!                                   │  ▲         │
//!                                 spool └─ acknowledge
//!
//!  credential ──signs──▶ solarnet (every call) ◀── refresh (keeps the key alive)
//!  config ──▶ app ──▶ every task            observe ◀── every task
//! ```
//!
//! A datum is *taken* once committed to disk and *gone* once the server proved that it has it.
//! Each module's header says what it guarantees; `docs/architecture.md` says who may import whom.

pub mod app;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
pub mod domain;
pub mod file;
pub mod files;
pub mod flux;
pub mod identity;
pub mod instruct;
pub mod modbus;
pub mod mqtt;
pub mod needs;
pub mod net;
pub mod observe;
pub mod policy;
pub mod pulse;
pub mod queue;
pub mod reader;
pub mod refresh;
pub mod runtime;
pub mod solarin;
pub mod solarnet;
pub mod tokens;
pub mod upload;
