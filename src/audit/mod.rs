//! Whether what was accepted is still there: the agent's ledger against what SolarQuery shows.
//!
//! ```text
//!  upload ─ proof ─▶ ledger (recent) ── fold ──▶ days: audit/YYYY-MM-DD.json
//!                        └────────── Book ─────────┘
//!                                     │
//!  SolarQuery ── query, as a token ──▶ compare ──▶ gaps by source and hour, each with its likely cause
//! ```
//!
//! [`tally`] (what is counted and hashed), [`ledger`] (what was accepted) and [`compare`] (what is missing)
//! are pure; [`days`] is the ledger's files, [`query`] asks the server. Guarantees: `docs/spec/audit.md`.
//!
//! What it does not do: it repairs nothing (a datum that was proved is no longer here), and it does not
//! prove who wrote what SolarQuery shows.

pub mod compare;
pub mod days;
pub mod ledger;
pub mod query;
pub mod tally;

pub use ledger::Ledger;
