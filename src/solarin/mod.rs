//! SolarIn: what a node that has a certificate says to SolarNetwork, and what it hears.
//!
//! | Item | JSON ([`json`], HTTPS) | CBOR ([`cbor`], MQTT) |
//! | --- | --- | --- |
//! | datum | object, never the tag `_v2`: it would be stored | map with the tag `_v2` last: without it the server reverses every exponent |
//! | datum of a known stream ([`stream`]) | array of seven | array of seven, no tag |
//! | acknowledgement of an instruction ([`Acknowledgement`]) | object | map |
//!
//! Numbers are decimals from the register to the last byte; none passes through binary floating point. What
//! comes in as CBOR becomes the same [`serde_json::Value`] that its JSON form would give, within bounds.
//!
//! [`SolarIn`] is the client of `bulkCollector.do`, which carries the first column; what its answers mean is
//! decided in [`answer`] alone. The rest is pure. Sources: the encoders and decoders of SolarNetwork's own node
//! and server; `tests/vectors/datum.json` holds what they emit and accept, and every case of it is a test here.

pub mod acknowledgement;
pub mod answer;
pub mod arrival;
pub mod cbor;
pub mod client;
pub mod json;
pub mod outbox;
pub mod stream;
pub mod time;

pub use acknowledgement::Acknowledgement;
pub use answer::{Cause, InError, Key};
pub use client::{Exchanged, Item, SolarIn};

#[cfg(test)]
mod vector_tests;
