//! Batches over HTTPS with the node's certificate: proof is an answer that names a datum's key.
//!
//! ```text
//!  queue ──claim──▶ batch ──exchange──▶ solarin ──▶ server
//!    ▲                                    │ keys, or a refusal
//!    └── acknowledge · reject ── machine (retry, quarrel) ◀┘
//! ```
//!
//! [`task`] is the shell: it asks [`machine`] what to do, does it, and tells it what came of it. What decides is
//! pure and in [`machine`], [`super::quarrel`] and [`super::retry`]; what goes into one request is pure and in
//! [`batch`].
//!
//! A backlog drains back to back: the next batch goes as soon as the answer to the last one is there, and no
//! two are under way.
//!
//! Nothing here has to survive a restart: rows without proof are still in the queue, and sending them again
//! is harmless. The file that is written before new rows are sent (`upload.json`) keeps the ledger honest.
//!
//! What it does not do: it never decides what an HTTP status means (`solarin::answer` does), makes no request
//! when there is nothing to send, and asks for no instructions; those that come along go to their inbox.

pub mod batch;
pub mod machine;
pub mod task;

pub use task::Uploader;
