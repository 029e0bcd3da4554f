//! How uploads stand, whichever way they take.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;
use tracing::error;

use crate::queue::Queue;

/// How uploads stand, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct UploadStatus {
    /// `ok`, `waiting` (it passes) or `stopped` (a person has to do something).
    pub state: &'static str,
    /// Jobs that the server has and has not finished, as far as we know. The other ways have none.
    pub open_jobs: usize,
    /// Datum proved since the daemon started; over a broker, those that it took.
    pub uploaded: u64,
    /// Datum given up since the daemon started.
    pub given_up: u64,
    /// When the last of them was.
    pub last_success: Option<DateTime<Utc>>,
    /// What went wrong last, with its remedy, until uploads go on.
    pub last_error: Option<String>,
    /// What is being waited for, if anything.
    pub waits_for: Option<String>,
}

impl UploadStatus {
    /// The server will never take this row.
    pub(super) async fn give_up(&mut self, queue: &Queue, seq: u64, reason: String) {
        error!(event = "upload.given_up", seq, reason, "datum given up, see rejected.jsonl");
        self.given_up += 1;
        queue.reject(seq, reason).await;
    }

    /// Says what is waited for, and shows it where it differs from what was shown.
    pub(super) fn publish(
        &mut self,
        needs_a_person: bool,
        waits_for: Option<&str>,
        shown: &watch::Sender<Self>,
    ) {
        self.waits_for = waits_for.map(str::to_owned);
        self.state = match (needs_a_person, waits_for) {
            (true, _) => "stopped",
            (false, Some(_)) => "waiting",
            (false, None) => "ok",
        };
        shown.send_if_modified(|status| {
            let changed = status != self;
            status.clone_from(self);
            changed
        });
    }
}
