//! A thread for one serial bus, with a runtime of its own that waits for nothing else.
//!
//! The silence between two frames is slept to the microsecond, which blocks whoever sleeps; and other work on the
//! same thread would make requests late. The thread runs the same [`Poller`] as any other bus, and ends with it.

use std::{num::NonZeroU64, thread};

use tokio::{runtime::Builder, sync::oneshot};
use tracing::debug;

use super::{
    poller::{PollError, Poller},
    wire::Wire,
};

/// Runs a bus on a thread of its own until it ends.
///
/// # Errors
///
/// As [`Poller::run`], and if there is no thread to be had.
pub(super) async fn run<W: Wire + 'static>(poller: Box<Poller<W>>) -> Result<(), PollError> {
    let bus = poller.name().to_owned();
    let (done, ended) = oneshot::channel();
    let begun = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        thread::Builder::new().name(format!("bus {bus}")).spawn(move || {
            sleep_exactly();
            // Nobody waits for the end any more only where the whole daemon was given up.
            drop(done.send(runtime.block_on(poller.run())));
        })
    });
    match begun {
        Ok(_detached) => ended.await.unwrap_or(Err(PollError::Panicked { bus })),
        Err(source) => Err(PollError::NoThread { bus, source }),
    }
}

/// Without this the system ends sleeps up to 50 µs late, to end several at once: that is 1 % of a bus at
/// 115,200 baud.
fn sleep_exactly() {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        debug!(%error, "sleeps will be a little late");
    }
}
