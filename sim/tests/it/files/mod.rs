//! File Repository over the wire.

mod server;
mod vectors;
