//! The edge agent for SolarNetwork nodes: reads meters, keeps what they say, sends it with proof, obeys safely.
//!
//! ```text
//!              ┌──────── instruct ◀───────────────── server
//!              ▼ writes      │ results                  ▲
//! devices ──▶ modbus ─────▶ queue ──claim──▶ upload ────┘ proof
//!                           │   ▲              │
//!                         spool └─ acknowledge ┘
//! ```
//!
//! A datum is *taken* once committed to disk and *gone* once the server proved that it has it.
//!
//! | Modules | Are about |
//! | --- | --- |
//! | [`modbus`], [`reader`] | meters and relays: a task for each bus; when a source is due |
//! | [`queue`] | what was read and not yet proved to have arrived, over the log in the crate `spool` |
//! | [`upload`], [`audit`] | the ways to SolarNetwork, each with its proof; whether what was accepted is still there |
//! | [`instruct`] | what users ask of the node, done at most once |
//! | [`flux`], [`files`] | beside the queue: the live feed, and files for a File Repository |
//! | [`solarnet`], [`solarin`], [`mqtt`], [`net`] | how the server is spoken to: with a token, with the node's certificate, through a broker; below them the HTTPS client |
//! | [`credential`], [`refresh`], [`tokens`], [`policy`], [`needs`] | tokens: stored and signed with, renewed daily, managed, what they may do, what the configuration needs |
//! | [`identity`] | the node's certificate, from the first to its renewals |
//! | [`clock`] | which time it is when the machine may be wrong |
//! | [`config`], [`app`], [`observe`], [`cli`] | from the file to settings, to running tasks, to what can be seen of them; the commands |
//! | [`domain`], [`file`], [`pulse`], [`runtime`] | what all of these share |
//!
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
