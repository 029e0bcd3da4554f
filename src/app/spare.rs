//! The way round a silent broker, with since when it is taken.

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    upload::{UploadError, mqtt::Spare},
};

/// Shows since when readings take the way that it wraps.
pub(super) struct Shown<S> {
    pub(super) way: S,
    pub(super) clock: Clock,
    /// `None` while it is not taken.
    pub(super) since: watch::Sender<Option<DateTime<Utc>>>,
}

impl<S: Spare> Spare for Shown<S> {
    async fn run(&self, stop: CancellationToken) -> Result<(), UploadError> {
        self.since.send_replace(Some(self.clock.signing_now()));
        let done = self.way.run(stop).await;
        self.since.send_replace(None);
        done
    }
}
