//! The File Repository: its tokens, and the files that go there.
//!
//! ```text
//!  a folder ──scan──▶ settling ──▶ hash ──▶ ledger: known? ──▶ rules: would it be taken?
//!                                              ▲                     │
//!             datum with the address ◀── stored┘◀── upload ◀─────────┘
//!             file deleted or kept  ◀──────┘
//! ```
//!
//! * [`answer`], [`profile`]: what the server's answers mean, which are often not what they seem.
//! * [`wanted`], [`role`], [`expiry`]: what a new token is to be, checked before the server is asked.
//! * [`rules`]: whether a file would be taken, checked before it is sent.
//! * [`ledger`], [`journal`]: what became of every file, in memory and on disk.
//! * [`watch`], `trouble`, `watched`: which files may be taken, when it is tried again, and how a folder is.
//! * [`content`], [`client`], [`task`]: hashing, the calls, and the daemon's part.
//!
//! Guarantees: a file is deleted only after the repository said that it has its content, and that is on disk; a
//! content is sent once, and after a crash in the middle only if the repository cannot tell that it has it;
//! nothing of a file is held in memory but the piece under way.
//!
//! It knows neither passwords of files nor collections, and does not look into folders inside a folder.

pub mod answer;
pub mod client;
pub mod content;
pub mod expiry;
pub mod journal;
pub mod ledger;
pub mod name;
pub mod profile;
pub mod role;
pub mod rules;
pub mod status;
pub mod task;
mod trouble;
pub mod wanted;
pub mod watch;
mod watched;

pub use client::{CallError, Repository};
pub use profile::Profile;
pub use status::Status;
pub use task::{FileUploader, NotTold, Reports};
