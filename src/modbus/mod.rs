//! Modbus: which registers are read, how, and what they mean.
//!
//! ```text
//!             plan ──▶ source ◀── health, schedule (reader)
//!                        │
//!   poller ──────────────┼──▶ wire (link, rtu) ──frame──▶ units
//!     │                  ▼
//!     │   decode ──▶ reading ──▶ datum
//!     └── write ◀── encode
//! ```
//!
//! | Pure | Shell |
//! | --- | --- |
//! | [`frame`]: bytes of requests and answers | [`wire`]: the trait of what carries them; [`link`]: a TCP connection |
//! | `rtu::hearing`: what bytes on an RTU line mean | [`rtu`]: a serial line, or one behind TCP |
//! | [`airtime`], [`budget`]: how long bytes are on a serial line, and all reads on a bus | `thread`: a thread for a serial bus |
//! | [`plan`], [`round`]: registers wanted to requests, and what refusals teach | [`source`]: one unit, one request a step |
//! | [`decode`], [`encode`]: registers to values and back, exactly | [`write`]: one write, read back |
//! | [`reading`]: values to a datum | [`poller`]: the task of a bus |
//! | | [`learnt`]: what refusals taught, over restarts |
//! | [`recording`], [`playback`]: what was kept, read again | [`ring`]: keeps the last minutes of every bus |
//!
//! Guarantees: one request at a time a bus; a value is read whole or not at all; one failed request
//! costs only its own values; a silent unit costs its neighbours at most 5 % of their turns; a write
//! is sent once. A serial bus runs on a thread of its own ([`run`]).

pub mod airtime;
pub mod budget;
mod carrier;
pub mod decode;
pub mod encode;
mod exact;
mod float;
pub mod frame;
pub mod learnt;
pub mod link;
pub mod plan;
pub mod playback;
pub mod poller;
pub mod reading;
pub mod recording;
pub mod ring;
pub mod round;
pub mod rtu;
mod serial;
pub mod source;
pub mod status;
#[cfg(test)]
mod tests;
mod thread;
pub mod wire;
pub mod write;

pub use budget::BusBudget;
pub use carrier::Carrier;
pub use learnt::Plans;
pub use link::TcpLink;
pub use plan::{Plan, PlanError};
pub use poller::{Channels, PollError, Poller};
pub use reading::{Failed, Outcome};
pub use ring::Recorder;
pub use rtu::RtuLink;
pub use serial::{Holder, OpenError};
pub use status::{BusStatus, SourceState, SourceStatus};
pub use wire::Wire;
pub use write::WriteJob;

use crate::config::settings::Table;

/// Runs a bus where it belongs: on a serial line on a thread of its own, else here.
///
/// # Errors
///
/// As [`Poller::run`], and if there is no thread to be had.
pub async fn run<W: Wire + 'static>(poller: Poller<W>) -> Result<(), PollError> {
    let poller = Box::new(poller);
    if poller.blocks() { thread::run(poller).await } else { poller.run().await }
}

/// Names registers in both notations that manuals use, for example `input 12 (30013)`.
#[must_use]
pub fn place(table: Table, address: u16, count: u16) -> String {
    let (name, first) = match table {
        Table::Coil => ("coil", 1),
        Table::Discrete => ("discrete", 10_001),
        Table::Input => ("input", 30_001),
        Table::Holding => ("holding", 40_001),
    };
    // Beyond 9999 the old numbers need a sixth digit: 40001 becomes 400001.
    let long = u32::from(address) + u32::from(count) > 9999 && first > 1;
    let first = if long { (first - 1) * 10 + 1 } else { first };
    let number = first + u32::from(address);
    match count {
        0 | 1 => format!("{name} {address} ({number})"),
        _ => {
            let more = u32::from(count) - 1;
            format!("{name} {address}..{} ({number}..{})", u32::from(address) + more, number + more)
        }
    }
}
