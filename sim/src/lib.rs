//! Plays SolarNetwork.
