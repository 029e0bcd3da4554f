//! Every integration test, one binary.

mod config;
mod token;
