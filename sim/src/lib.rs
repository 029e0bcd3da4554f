//! Plays SolarNetwork.
mod auth;
pub mod policy;
mod request;
