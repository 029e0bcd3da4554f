//! Every integration test, one binary.

mod config;
mod daemon;
mod instruct;
mod modbus;
mod restart;
mod support;
mod token;
mod upload;
