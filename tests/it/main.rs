//! Every integration test, one binary.

mod audit;
mod bundle;
mod catalog;
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
mod systemd;
mod token;
mod token_manage;
mod upload;
