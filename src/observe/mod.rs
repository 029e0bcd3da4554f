//! How people and machines see the daemon from outside: journal, `status`, systemd.

pub mod control;
pub mod journal;
pub mod log;
mod plain;
mod ration;
pub mod systemd;
pub mod watchdog;
