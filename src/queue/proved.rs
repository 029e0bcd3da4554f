//! Rows that were proved to have arrived, on their way to the queue's thread.
//!
//! Unlike what it is asked they do not wake it up while it lets readings gather: both are then one turn of work. Nobody
//! waits for them, and an acknowledgement is not brought to the disk at once anyway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Ranges;

/// Both ends: whoever proves tells, the thread takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Proved(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    seqs: Mutex<Ranges>,
    told: Notify,
}

impl Proved {
    pub(super) fn tell(&self, seqs: &Ranges) {
        self.lock().extend(seqs);
        self.0.told.notify_one();
    }

    /// Returns once something was told since it returned last.
    pub(super) async fn told(&self) {
        self.0.told.notified().await;
    }

    pub(super) fn take(&self) -> Ranges {
        std::mem::take(&mut *self.lock())
    }

    /// A panic elsewhere can only have left out what is then sent again.
    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.0.seqs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
