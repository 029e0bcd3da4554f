//! From "the server took it" to "the queue may forget it": the level of proof that the configuration asks for.
//!
//! ```text
//!  uploader ── handed_over(rows) ─▶ Proof ── the way in's own word ──▶ acknowledged at once
//!     ▲                               │
//!     └── claims while has_room       └─ `query` ─▶ Prover: waits until they settled, asks SolarQuery
//!                                                     │ shown as they are here ──▶ acknowledged
//!                                                     └ not shown, however often ─▶ released, sent again
//! ```
//!
//! An uploader does not know which level it works at. It calls [`Proof::begin`] first, claims rows while there
//! is room ([`Proof::has_room`]), and hands over what the server took ([`Proof::handed_over`]).
//!
//! * With the word of the way in (an import job's end, an answer that names the key, a PUBACK) a row is
//!   acknowledged when it is handed over. That costs nothing.
//! * With `query` it stays claimed until SolarQuery showed its key with its values. It is acknowledged for no
//!   other reason. At most [`MOST`] rows wait so, and those that are on their way: then nothing is claimed.
//! * Nothing of this is on disk. After a restart rows that were not proved are still in the queue.

pub mod look;
pub mod machine;
pub mod task;
pub mod terms;

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    pulse::{Bound, Pulse},
    queue::{Queue, Ranges},
};

pub use task::{Prover, Status};
pub use terms::Limits;

/// Rows that wait for SolarQuery before no more are claimed.
pub const MOST: u64 = 20_000;

/// What uploads wait for where there is no room ([`Proof::has_room`]).
pub const NO_ROOM: &str = "SolarQuery has not shown yet what was uploaded";

/// What an uploader's pulse shows meanwhile.
const WAITING: &str = "waiting for the prover";

/// Calls that wait for the prover, which never takes long to hear.
const CALLS: usize = 16;

/// What becomes of rows that the server took. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proof {
    queue: Queue,
    asked: Option<Asked>,
    pulse: Pulse,
}

/// The end of the prover that uploaders hold.
#[derive(Debug, Clone)]
struct Asked {
    asks: mpsc::Sender<Ask>,
    /// How many rows wait for SolarQuery.
    waiting: watch::Receiver<u64>,
}

/// The prover's end.
#[derive(Debug)]
pub struct Told {
    asks: mpsc::Receiver<Ask>,
    waiting: watch::Sender<u64>,
}

/// What the prover is told.
#[derive(Debug)]
enum Ask {
    HandedOver(Ranges),
    Begin { known: Ranges, done: oneshot::Sender<()> },
}

impl Proof {
    /// Takes the word of the way in.
    #[must_use]
    pub fn at_once(queue: Queue) -> Self {
        Self { queue, asked: None, pulse: Pulse::unheard() }
    }

    /// The same for an uploader, whose pulse shows when it waits.
    #[must_use]
    pub fn for_task(&self, pulse: &Pulse) -> Self {
        let queue = self.queue.for_task(pulse);
        Self { queue, pulse: pulse.clone(), ..self.clone() }
    }

    /// Wants more than that: the [`Prover`] that is made of the other end.
    #[must_use]
    pub fn by_query(queue: Queue) -> (Self, Told) {
        let (asks, asked) = mpsc::channel(CALLS);
        let (publish, waiting) = watch::channel(0);
        (
            Self { queue, asked: Some(Asked { asks, waiting }), pulse: Pulse::unheard() },
            Told { asks: asked, waiting: publish },
        )
    }

    /// To be called when an uploader begins: what a run before it had claimed may be claimed again.
    /// `known` are rows that it knows to have been taken by the server before: with `query` they are looked
    /// for before they are sent again.
    pub async fn begin(&self, known: Ranges) {
        let Some(asked) = &self.asked else { return self.queue.release_all().await };
        let _waiting = self.pulse.enter(WAITING, Bound::Open);
        let (done, is_done) = oneshot::channel();
        // The prover ends after the uploaders, or takes the daemon down with it.
        drop(asked.asks.send(Ask::Begin { known, done }).await);
        drop(is_done.await);
    }

    /// Whether rows may be claimed. Where not, the queue's status changes when that does.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.asked.as_ref().is_none_or(|asked| *asked.waiting.borrow() < MOST)
    }

    /// The server took these rows, which the caller has claimed. They are the caller's no more.
    pub async fn handed_over(&self, seqs: Ranges) {
        match &self.asked {
            None => self.queue.acknowledge(&seqs),
            Some(asked) => {
                let _waiting = self.pulse.enter(WAITING, Bound::Open);
                // As in `begin`; they stay claimed until the next uploader begins.
                drop(asked.asks.send(Ask::HandedOver(seqs)).await);
            }
        }
    }
}
