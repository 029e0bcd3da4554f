//! Every integration test, one binary.

mod clock;
mod config;
mod daemon;
mod instruct;
mod modbus;
mod outage;
mod readme;
mod refresh;
mod restart;
mod secrets;
mod support;
mod token;
mod upload;
