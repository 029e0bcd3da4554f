//! How people and machines see the daemon from outside: journal, `status`, systemd.

pub mod control;
pub mod log;
pub mod systemd;
pub mod watchdog;
