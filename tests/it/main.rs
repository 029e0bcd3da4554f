//! Every integration test, one binary.

mod config;
mod daemon;
mod instruct;
mod modbus;
mod readme;
mod refresh;
mod reload;
mod restart;
mod secrets;
mod support;
mod token;
mod upload;
mod watchdog;
