//! Whether NTP has set the system clock, as far as a sandbox may know.

use std::path::Path;

/// systemd-timesyncd's mark: made when it has set the clock since the machine started.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// Whether it has.
pub(super) fn is_in_step() -> bool {
    Path::new(TIMESYNCD).exists()
}
