//! Every integration test, one binary.

mod modbus;
