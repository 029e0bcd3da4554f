//! Datum on their way to SolarNetwork, and the proof that they arrived.
//!
//! A row of the queue is claimed, sent, and acknowledged only on the server's word; whatever else happens it
//! is sent again, which is harmless: the server replaces a datum of the same node, source and time.
//!
//! | `upload.via` | What goes out | What counts as the server's word |
//! | --- | --- | --- |
//! | `import` ([`import`]) | an import job of many rows, signed with a token | the job ended with `success` and loaded every row |
//!
//! Where `upload.proof` is `query`, that word is not enough, and SolarQuery is asked as well ([`proof`]).
//!
//! Shared by all: [`quarrel`] finds the row that a refusal is about, [`retry`] says when to try again,
//! [`status`] is what is shown. Guarantees: `docs/spec/upload.md`.

pub mod import;
pub mod mqtt;
pub mod proof;
pub mod quarrel;
pub mod retry;
pub mod status;

pub use status::UploadStatus;
