//! What systemd is told: ready, reloading, alive, stopping, and one line of state for `systemctl status`.
//!
//! Without systemd (`NOTIFY_SOCKET` unset) all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// Every task is running, after a start or a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon reads its configuration again; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no monotonic clock"),
    }
}

/// The daemon was asked to stop and finishes what is under way.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often systemd wants to hear that the daemon is alive, if it does.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
}

/// Every task makes progress.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

fn tell(state: &[NotifyState<'_>]) {
    // The daemon does its work whether or not anybody listens.
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd not told");
    }
}
