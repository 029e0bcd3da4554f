//! What several topics share, one file each.

pub(crate) mod agent;
pub(crate) mod faketime;
pub(crate) mod ledger;
pub(crate) mod modbus;
pub(crate) mod network;
pub(crate) mod orders;
pub(crate) mod systemd;
pub(crate) mod wire;
