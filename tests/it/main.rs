//! Every integration test, one binary.

mod config;
mod modbus;
mod token;
