//! When devices are read, whatever protocol they speak. Pure: every function is told the time.
//!
//! * [`schedule`]: when a source is due, and which of several goes first.
//! * [`health`]: how seldom a silent device is asked, so that it does not cost its neighbours.
//! * [`stamp`]: that no two datum of a source bear the same instant.
//!
//! The tasks that do the reading are in the modules of their protocols.

pub mod health;
pub mod schedule;
pub mod stamp;
