//! Which time it is, when the machine's own clock may be wrong.
//!
//! Three questions, three answers:
//!
//! * *What does the server think?* The `Date` of its last answer plus the monotonic time since:
//!   [`Clock::signing_now`]. Requests are signed with it.
//! * *When was this read?* [`Clock::stamp`]: the system clock where it lies within a minute of the
//!   server's, otherwise server time; where neither is known, the machine's own time line.
//! * *What does a reading of that boot mean in wall time?* [`Clock::place`], from the anchor of
//!   its boot.
//!
//! ```text
//!            a Date far from the system clock
//!  unknown ──────────────────▶ doubted (signed with, nothing else)
//!     │                           │ a second Date near it
//!     └───────────────────────────┴──▶ trusted   (never back within a boot)
//!       a Date within a minute of the system clock, or NTP is in step
//! ```
//!
//! A server may be wrong for a moment (one of many behind a load balancer): what one answer alone says is
//! followed at once for signing, since that server will check the signature, and for everything
//! else once a second answer in a row confirms it. A `Date` that no clock of this program's life can
//! show is not taken at all.
//!
//! The anchor of each boot (wall time at boot) is written to `clock.json` once, when it becomes
//! known; it is never moved, so a reading placed twice gets the same instant. The system clock is
//! never set. [`Core`] is pure; [`Clock`] asks the machine, and the task [`Clock::keep`] does
//! what takes its time: it writes the file and looks whether NTP has set the clock.

pub mod anchors;
mod core;
mod ntp;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::core::TOLERANCE;
pub use self::core::{Core, Now, Trust, build_date};
use crate::domain::{BootId, Stamp, utc};
use crate::file;
use crate::pulse::{Bound, Pulse};
use crate::runtime::off_thread;

/// How often [`Clock::keep`] looks for NTP, and tries again to write what a disk did not take.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long a date that is not believed is not mentioned again.
const REFUSED_ONCE_IN: Duration = Duration::from_secs(24 * 60 * 60);

/// The clock that every task shares: cheap to clone, never waits for anything but a short lock.
#[derive(Debug, Clone)]
pub struct Clock {
    shared: Arc<Mutex<Shared>>,
    file: Arc<PathBuf>,
    /// An anchor became known.
    learnt: Arc<Notify>,
}

#[derive(Debug)]
struct Shared {
    core: Core,
    /// An anchor is known that is not on disk.
    unsaved: bool,
    /// The disk did not take it, which was said.
    save_failed: bool,
    /// The system clock was off when last compared, which was said.
    differs: bool,
    /// When a date that is not believed was mentioned, since boot.
    refused: Option<Duration>,
}

/// Why the clock could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The kernel's boot ID could not be read, so readings could not be told apart between boots.
    #[error("could not read this boot's ID from {BOOT_ID}")]
    BootId(#[source] std::io::Error),
    /// The anchors could not be read. They are needed to place readings of earlier boots.
    #[error("could not read {}", path.display())]
    Anchors {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
}

const FILE: &str = "clock.json";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Clock {
    /// Reads the anchors below `state_dir` and looks whether NTP is in step.
    ///
    /// # Errors
    ///
    /// If the boot ID or an existing anchor file cannot be read. A file that is not ours to parse is
    /// set aside with a warning: unplaced readings are kept, new anchors will be learnt.
    pub fn open(state_dir: &Path) -> Result<Self, ClockError> {
        let boot = std::fs::read_to_string(BOOT_ID).map_err(ClockError::BootId)?;
        let boot = anchors::parse_boot(boot.trim())
            .ok_or_else(|| ClockError::BootId(std::io::ErrorKind::InvalidData.into()))?;
        let path = state_dir.join(FILE);
        let known = match anchors::load(&path)? {
            Ok(known) => known,
            Err(error) => {
                let aside = path.with_extension("json.damaged");
                warn!(
                    event = "clock.anchors_unreadable",
                    path = %path.display(), %error,
                    "clock anchors set aside"
                );
                std::fs::rename(&path, &aside)
                    .map_err(|source| ClockError::Anchors { path: path.clone(), source })?;
                BTreeMap::new()
            }
        };
        let clock = Self::with(Core::new(boot, known), path);
        if ntp::is_in_step() {
            clock.change(Core::learn_synchronised);
        }
        Ok(clock)
    }

    /// A clock that knows the anchors below `state_dir`, learns nothing and writes nothing: for
    /// commands beside the daemon that place what is in its queue.
    ///
    /// # Errors
    ///
    /// If an existing anchor file cannot be read. One that is not ours to parse counts as none: the
    /// daemon says so.
    pub fn read_only(state_dir: &Path) -> Result<Self, ClockError> {
        let known = anchors::load(&state_dir.join(FILE))?.unwrap_or_default();
        Ok(Self::with(Core::new(BootId([0; 16]), known), PathBuf::new()))
    }

    /// A clock that trusts the system's and keeps no file, for commands that run once.
    #[must_use]
    pub fn system() -> Self {
        let mut core = Core::new(BootId([0; 16]), BTreeMap::new());
        core.learn_synchronised(now());
        Self::with(core, PathBuf::new())
    }

    fn with(core: Core, file: PathBuf) -> Self {
        let shared =
            Shared { core, unsaved: false, save_failed: false, differs: false, refused: None };
        Self { shared: Arc::new(Mutex::new(shared)), file: Arc::new(file), learnt: Arc::default() }
    }

    /// Takes the `Date` of an answer that arrived just now from a server that proved who it is.
    pub fn learn_server(&self, date: DateTime<Utc>) {
        let before = self.trust();
        let mut plausible = true;
        self.change(|core, now| plausible = core.learn_server(now, date));
        if !plausible {
            self.refuse(date);
            return;
        }
        let after = self.trust();
        if let Trust::Server { ahead } = after {
            let differs = ahead.abs() > TOLERANCE;
            let said = std::mem::replace(&mut self.lock().differs, differs);
            if differs && !said {
                warn!(
                    event = "clock.differs",
                    ahead_secs = ahead.num_seconds(),
                    "system clock differs from the server's; using the server's time"
                );
            }
        }
        if before == Trust::Unknown && after != Trust::Unknown {
            info!(event = "clock.known", from = "server", "time known");
        }
    }

    /// A server told a date that cannot be right. Said once a day.
    pub fn refuse(&self, date: DateTime<Utc>) {
        let at = now().since_boot;
        let refused = &mut self.lock().refused;
        if refused.is_none_or(|said| at.saturating_sub(said) >= REFUSED_ONCE_IN) {
            *refused = Some(at);
            warn!(event = "clock.date_refused", date = utc(date), "server's date not believed");
        }
    }

    /// Whether a server told a time that nothing else speaks for yet: another opinion is wanted.
    #[must_use]
    pub fn doubts(&self) -> bool {
        self.lock().core.doubts()
    }

    /// Writes new anchors to disk, and looks for NTP until the time is known. Runs until `stop`.
    pub async fn keep(self, pulse: Pulse, stop: CancellationToken) {
        loop {
            let waiting = pulse.enter("waiting for news of the time", Bound::Within(LOOK_EVERY));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.learnt.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            drop(waiting);
            if self.trust() == Trust::Unknown && ntp::is_in_step() {
                self.change(Core::learn_synchronised);
                info!(event = "clock.known", from = "ntp", "time known");
            }
            self.save().await;
        }
        self.save().await;
    }

    /// Writes the anchors in a thread for that: the disk may take its time.
    async fn save(&self) {
        let anchors = {
            let mut shared = self.lock();
            if !std::mem::take(&mut shared.unsaved) {
                return;
            }
            anchors::render(shared.core.anchors())
        };
        let file = self.file.clone();
        let written = off_thread(move || file::replace(&file, &anchors, 0o640)).await;
        let mut shared = self.lock();
        match written {
            Ok(()) => shared.save_failed = false,
            Err(error) => {
                shared.unsaved = true;
                if !std::mem::replace(&mut shared.save_failed, true) {
                    warn!(event = "clock.anchor_not_saved", %error, "clock anchor not saved");
                }
            }
        }
    }

    /// Which boot of the machine this is.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.lock().core.boot()
    }

    /// A clock that has been told nothing and keeps no file, for commands that ask a server once:
    /// it takes the server's word.
    #[must_use]
    pub fn untold() -> Self {
        Self::with(Core::new(BootId([0; 16]), BTreeMap::new()), PathBuf::new())
    }

    fn change(&self, change: impl FnOnce(&mut Core, Now)) {
        let mut shared = self.lock();
        let before = shared.core.anchors().len();
        change(&mut shared.core, now());
        if shared.core.anchors().len() != before && !self.file.as_os_str().is_empty() {
            shared.unsaved = true;
            self.learnt.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Nothing below panics while holding it; a poisoned lock still holds a whole value.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stamp of a reading taken now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.lock().core.stamp(now())
    }

    /// The wall time of a stamp in milliseconds since the epoch, if it can be known.
    #[must_use]
    pub fn place(&self, stamp: Stamp) -> Option<i64> {
        self.lock().core.place(stamp)
    }

    /// The time to sign with: the server's where known, else the system clock's.
    #[must_use]
    pub fn signing_now(&self) -> DateTime<Utc> {
        let now = now();
        let core = &self.lock().core;
        core.server_now(now).or_else(|| core.trusted(now)).unwrap_or(now.system)
    }

    /// The time at which certificates are verified: as [`Clock::trusted_now`], else what one server said
    /// whose certificate was right then, else the system clock's.
    #[must_use]
    pub fn believed_now(&self) -> DateTime<Utc> {
        let now = now();
        let core = &self.lock().core;
        core.trusted(now).or_else(|| core.server_now(now)).unwrap_or(now.system)
    }

    /// The time, if it can be trusted. Nothing acts on an instruction without it.
    #[must_use]
    pub fn trusted_now(&self) -> Option<DateTime<Utc>> {
        self.lock().core.trusted(now())
    }

    /// The latest start of any boot whose time was known: no right clock is before it.
    #[must_use]
    pub fn latest_known(&self) -> Option<DateTime<Utc>> {
        self.lock().core.anchors().values().max().copied()
    }

    /// How the clock stands.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.lock().core.trust(now())
    }
}

/// One look at the machine's clocks.
#[must_use]
pub fn now() -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let secs = u64::try_from(boot.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(boot.tv_nsec).unwrap_or(0);
    Now { system: Utc::now(), since_boot: Duration::new(secs, nanos) }
}
