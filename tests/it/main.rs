//! Every integration test, one binary.

mod config;
mod daemon;
mod instruct;
mod modbus;
mod readme;
mod refresh;
mod restart;
mod secrets;
mod serial;
mod support;
mod token;
mod upload;
