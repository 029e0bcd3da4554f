//! The messages of MQTT: CBOR, as SolarNetwork's own node writes it and as its server writes it.

mod decode;
mod encode;

pub use decode::{DecodeError, MAX_BYTES, MAX_DEPTH, MAX_ITEMS, decode};
pub use encode::{acknowledgement, datum, live, stream};
