//! Every integration test, one binary.

mod token;
