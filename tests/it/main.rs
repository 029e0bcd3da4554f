//! Every integration test, one binary.

mod audit;
mod bundle;
mod catalog;
mod clock;
mod config;
mod daemon;
mod failed_sync;
mod fairness;
mod files;
mod instruct;
mod modbus;
mod outage;
mod quiet;
mod readme;
mod refresh;
mod reload;
mod restart;
mod secrets;
mod serial;
mod support;
mod systemd;
mod token;
mod token_manage;
mod token_rotate;
mod upload;
mod watchdog;
