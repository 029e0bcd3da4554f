//! File Repository over the wire.

mod vectors;
