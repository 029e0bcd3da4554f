//! SolarNetwork's broker: one message a datum, proof is its PUBACK, which says "handed over".
//!
//! ```text
//!  queue ──claim──▶ encode (CBOR) ──▶ window ──publish──▶ mqtt::Handle ──▶ broker
//!    ▲                                  │ PUBACK, refusal, loss
//!    └── handed over · release ── machine ◀┘            fallback: MQTT or HTTPS
//! ```
//!
//! [`task`] is the shell. What decides is pure: [`machine`] says what is sent next and what becomes of a row,
//! [`suspicion`] over which row the connection is lost again and again, [`fallback`] whether rows go over the broker
//! or over HTTPS, [`account`] what the ledger is told.
//!
//! * At most `upload.in_flight` messages are without their PUBACK: a backlog drains through that window,
//!   in memory as well as on the line.
//! * A row is handed over for one reason only, its PUBACK without an error. Rows whose connection was lost
//!   are released and sent again after they were claimed afresh.
//! * A row over which the connection is lost again and again holds up no other, nor does one that is too long.
//! * A PUBACK with an error is the operator's business: sending stops, one row is tried now and then, and
//!   nothing is given up.
//! * A PUBACK means that the broker took the message. SolarNetwork has then still to store it, and says
//!   nothing when it does not: who has to be sure sets `upload.proof = "query"`. The ledger counts it all the
//!   same, so that an audit finds what was not stored.
//! * Two rows of the same source and time go in their order on one connection, and brokers keep it, unless one is
//!   suspected.

pub mod account;
pub mod fallback;
pub mod machine;
pub mod suspicion;
pub mod task;

pub use task::{Spare, Uploader};
