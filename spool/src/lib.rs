//! A durable queue of opaque records.
//!
//! Made for devices that store every record before anything else happens to it, lose power at any
//! moment, and wear out their flash by what is written. It writes about as little as can be
//! written: one sync a commit into blocks that exist already, and nothing for a record that is
//! acknowledged before its commit is due.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! let (mut spool, _) = spool::Spool::open(folder.path(), spool::Options::new(1 << 20))?;
//! let seq = spool.append(b"watts=120")?;          // in memory
//! spool.commit()?;                                 // on disk
//! let batch = spool.peek(1, 100, 1 << 20)?;        // still there
//! assert_eq!(batch[0].payload, b"watts=120");
//! spool.acknowledge(seq..=seq)?;                   // delivered: its room is used again
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Spool`] is the single writer, [`Reader`] looks at the same folder from other processes.
//! - `format.rs` describes the files, what always holds, and recovery; start there.
//! - Records are bytes: what they mean, when to commit, and the time are the owner's business.

mod commit;
mod disk;
mod engine;
mod error;
mod format;
#[cfg(test)]
mod format_tests;
mod load;
#[cfg(test)]
mod memory_disk;
#[cfg(test)]
mod model_tests;
mod open;
mod ranges;
mod reader;
mod record;
#[cfg(test)]
mod recovery_tests;
mod room;
mod segment;
mod spool;

pub use error::Error;
pub use format::Seq;
pub use reader::{Damage, Reader, Verification};
pub use record::{Loss, Reason};
pub use segment::Record;
pub use spool::{Commit, Options, Recovery, Spool, Stat};
