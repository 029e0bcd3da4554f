//! Datum on their way to SolarNetwork, and the proof that they arrived.
//!
//! A row of the queue is claimed, sent, and acknowledged only on the server's word; whatever else happens it
//! is sent again, which is harmless: the server replaces a datum of the same node, source and time.
//!
//! | `upload.via` | What goes out | What counts as the server's word |
//! | --- | --- | --- |
//! | `import` ([`import`]) | an import job of many rows, signed with a token | the job ended with `success` and loaded every row |
//! | `bulk` ([`bulk`]) | a batch over HTTPS, with the node's certificate | an answer that names the datum's key |
//! | `mqtt` ([`mqtt`]) | a message of one row to the broker, with the node's certificate | its PUBACK, which says "handed over" |
//!
//! Where `upload.proof` is `query`, that word is not enough, and SolarQuery is asked as well ([`proof`]).
//!
//! Shared by all: [`quarrel`] finds the row that a refusal is about, [`waits`] is what keeps a way waiting, [`retry`]
//! says when to try again, [`status`] is what is shown; [`store`] is what is on disk. Guarantees:
//! `docs/spec/upload.md` and its neighbours.

mod book;
pub mod bulk;
pub mod import;
pub mod mqtt;
pub mod proof;
pub mod quarrel;
pub mod retry;
pub mod status;
pub mod store;
pub mod terms;
pub mod waits;

pub use book::UploadError;
pub use status::UploadStatus;
