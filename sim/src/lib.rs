//! Plays SolarNetwork.
mod answer;
mod api;
mod auth;
mod import;
mod ledger;
mod misbehave;
pub mod policy;
mod random;
mod rate;
mod request;
mod time;
mod world;
