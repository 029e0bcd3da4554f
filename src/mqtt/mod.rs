//! Sessions with MQTT brokers: SolarNetwork's queue, which takes datum and hands out instructions, and the
//! live feed.
//!
//! ```text
//!  upload, instruct ──Handle::publish──▶ ┌─────────┐ dialogue: who is owed what   (pure)
//!  flux ────────────Handle::offer──────▶ │ session │ reconnect: when again, what is told   (pure)
//!  instruct ◀──────────── Deliver ────── └────┬────┘ packet: bytes   (pure, the crate `rumqttc`)
//!                                             └── link: TCP, TLS ──▶ broker
//! ```
//!
//! MQTT 5, whose acknowledgements say whether a message was taken: a broker of 3.1.1 acknowledges what its
//! rules made it throw away. The client ID is the node's; each session begins clean, so nothing waits at
//! the broker for who is not there, and whoever publishes sends again what was not acknowledged.
//!
//! What it does not do: it keeps no message, knows nothing of what is in one, and decides for nobody what
//! a lost connection means. An acknowledged message was handed over to the broker, which is not storage.
//!
//! Guarantees: `docs/spec/mqtt.md`.

mod dialogue;
mod handle;
mod link;
pub mod packet;
mod reconnect;
mod report;
mod session;

pub use handle::{Handle, PublishError};
pub use packet::{MAX_INCOMING, Refusal};
pub use report::Status;
pub use session::{Client, Deliver, Session, Subscription, Surroundings};
