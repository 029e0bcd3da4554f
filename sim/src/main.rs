//! Plays SolarNetwork.
fn main() {}
