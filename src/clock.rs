//! Which time it is, when the machine's own clock may be wrong.
//!
//! Three questions, three answers (design 5.3):
//!
//! * *What does the server think?* The `Date` of its last answer plus the monotonic time since:
//!   [`Clock::server_now`]. Requests are signed with it.
//! * *When was this read?* [`Clock::stamp`]: the system clock where it lies within a minute of the
//!   server's, otherwise server time; where neither is known, the machine's own time line.
//! * *What does a reading of that boot mean in wall time?* [`Clock::place`], from the anchor of
//!   its boot.
//!
//! ```text
//!  unknown ──first Date, or the kernel says NTP is in step──▶ trusted   (never back within a boot)
//! ```
//!
//! A server may be wrong for a moment (one of many behind a load balancer): a jump of more than a minute
//! is followed at once for signing, since that server will check the signature, and for everything
//! else once a second answer in a row confirms it. A `Date` that no clock of this program's life can
//! show is not taken at all.
//!
//! The anchor of each boot (wall time at boot) is written to `clock.json` once, when it becomes
//! known; it is never moved, so a reading placed twice gets the same instant. The system clock is
//! never set. [`Core`] is pure: it is told the time; [`Clock`] asks the machine and keeps the file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::domain::{BootId, Stamp};
use crate::file;

/// How far the system clock may lie from the server's and still stamp readings.
const TOLERANCE: TimeDelta = TimeDelta::seconds(60);

/// How far two answers may differ and still agree: whole seconds, and the time on the way.
const AGREEMENT: TimeDelta = TimeDelta::seconds(2);

/// How long before this program was built a date may lie: the clock of the machine that built it was
/// another one.
const BEFORE_BUILD: TimeDelta = TimeDelta::days(30);

/// How long after it was built. Dates beyond have no place in a header either.
const AFTER_BUILD: TimeDelta = TimeDelta::days(100 * 365);

/// Boots whose anchors are kept; older ones have no readings left in any queue worth the name.
const MAX_ANCHORS: usize = 512;

/// One look at the machine's clocks, taken at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What the system clock says, right or wrong.
    pub system: DateTime<Utc>,
    /// Time since the machine started, sleep included.
    pub since_boot: Duration,
}

/// How the clock stands, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Neither the server nor NTP has said what time it is since the machine started.
    Unknown,
    /// The kernel says that NTP keeps the system clock in step.
    Synchronised,
    /// The server's time is known; `ahead` is by how much the system clock leads it.
    Server {
        /// System clock minus server time.
        ahead: TimeDelta,
    },
}

/// The pure part: what is known about time, and what follows from it.
#[derive(Debug, Clone)]
pub struct Core {
    boot: BootId,
    /// Server time minus time since boot, from the last verified answer: to sign with.
    server: Option<DateTime<Utc>>,
    /// The same without jumps that only one answer made: for everything else.
    settled: Option<DateTime<Utc>>,
    synchronised: bool,
    /// Wall time at the start of each boot that learnt the time.
    anchors: BTreeMap<BootId, DateTime<Utc>>,
}

impl Core {
    /// Knows the anchors of earlier boots, and of this one if the daemon was restarted within it.
    #[must_use]
    pub fn new(boot: BootId, anchors: BTreeMap<BootId, DateTime<Utc>>) -> Self {
        Self { boot, server: None, settled: None, synchronised: false, anchors }
    }

    /// Takes the `Date` of an answer that arrived just now.
    ///
    /// `Date` has whole seconds and was written before the answer travelled: server time is taken
    /// as half a second past it.
    ///
    /// Returns whether the date was one that can be right; any other teaches nothing.
    pub fn learn_server(&mut self, now: Now, date: DateTime<Utc>) -> bool {
        let age = date - build_date();
        if age < -BEFORE_BUILD || age > AFTER_BUILD {
            return false;
        }
        let zero = date + TimeDelta::milliseconds(500) - delta(now.since_boot);
        // A step of our own making would come with every answer's rounding; keep the first value
        // of this boot while answers agree with it, over restarts of the daemon too.
        let first = self.anchors.get(&self.boot).copied();
        let agrees = |known: &DateTime<Utc>| (*known - zero).abs() <= AGREEMENT;
        let known = self.server.or(first).filter(agrees);
        let server = known.unwrap_or(zero);
        self.server = Some(server);
        let settled = self.settled.or(first);
        let jumps = settled.is_some_and(|settled| (settled - server).abs() > TOLERANCE);
        if known.is_some() || !jumps {
            self.settled = Some(server);
        }
        self.anchor(now);
        true
    }

    /// Takes the kernel's word that NTP keeps the system clock in step.
    pub fn learn_synchronised(&mut self, now: Now) {
        self.synchronised = true;
        self.anchor(now);
    }

    fn anchor(&mut self, now: Now) {
        if let Some(wall) = self.trusted(now) {
            self.anchors.entry(self.boot).or_insert(wall - delta(now.since_boot));
        }
    }

    /// The time of the server that answered last, if any did since the daemon started.
    #[must_use]
    pub fn server_now(&self, now: Now) -> Option<DateTime<Utc>> {
        self.server.map(|zero| zero + delta(now.since_boot))
    }

    /// The servers' time, if any answer told it since the daemon started.
    fn settled_now(&self, now: Now) -> Option<DateTime<Utc>> {
        self.settled.map(|zero| zero + delta(now.since_boot))
    }

    /// The time that readings are stamped with, if it can be trusted.
    #[must_use]
    pub fn trusted(&self, now: Now) -> Option<DateTime<Utc>> {
        let told = match self.settled_now(now) {
            None if self.synchronised => return Some(now.system),
            // Restarted within a boot that knew the time: its anchor still holds.
            None => self.anchors.get(&self.boot).map(|zero| *zero + delta(now.since_boot)),
            server => server,
        }?;
        Some(if (now.system - told).abs() <= TOLERANCE { now.system } else { told })
    }

    /// The stamp of a reading taken now.
    #[must_use]
    pub fn stamp(&self, now: Now) -> Stamp {
        match self.trusted(now) {
            Some(wall) => Stamp::Wall { unix_ms: wall.timestamp_millis() },
            None => Stamp::Boot {
                boot: self.boot,
                since_boot_ms: u64::try_from(now.since_boot.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }

    /// The wall time of a stamp in milliseconds since the epoch, if its boot ever knew the time.
    #[must_use]
    pub fn place(&self, stamp: Stamp) -> Option<i64> {
        match stamp {
            Stamp::Wall { unix_ms } => Some(unix_ms),
            Stamp::Boot { boot, since_boot_ms } => {
                let zero = self.anchors.get(&boot)?.timestamp_millis();
                zero.checked_add(i64::try_from(since_boot_ms).ok()?)
            }
        }
    }

    /// How the clock stands.
    #[must_use]
    pub fn trust(&self, now: Now) -> Trust {
        match self.settled_now(now) {
            Some(server) => Trust::Server { ahead: now.system - server },
            None if self.synchronised => Trust::Synchronised,
            None => Trust::Unknown,
        }
    }
}

/// When this program was built.
#[must_use]
pub fn build_date() -> DateTime<Utc> {
    let secs = env!("SOLARNODE_BUILD_UNIX").parse().unwrap_or(0);
    DateTime::from_timestamp(secs, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// The clock that every task shares: cheap to clone, never waits for anything but a short lock.
#[derive(Debug, Clone)]
pub struct Clock {
    shared: Arc<Mutex<Shared>>,
    file: Arc<PathBuf>,
}

#[derive(Debug)]
struct Shared {
    core: Core,
    /// An anchor is known that the disk did not take; tried again with every answer.
    unsaved: bool,
}

/// The file: the wall time at the start of each boot that learnt it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Anchors {
    anchors: Vec<Anchor>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Anchor {
    boot: String,
    started: DateTime<Utc>,
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
    /// Reads the anchors below `state_dir` and asks the kernel whether NTP is in step.
    ///
    /// # Errors
    ///
    /// If the boot ID or an existing anchor file cannot be read. A file that is not ours to parse is
    /// set aside with a warning: unplaced readings are kept, new anchors will be learnt.
    pub fn open(state_dir: &Path) -> Result<Self, ClockError> {
        let boot = std::fs::read_to_string(BOOT_ID).map_err(ClockError::BootId)?;
        let boot = parse_boot(boot.trim())
            .ok_or_else(|| ClockError::BootId(std::io::ErrorKind::InvalidData.into()))?;
        let path = state_dir.join(FILE);
        let anchors = match load_anchors(&path)? {
            Ok(anchors) => anchors,
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
        let clock = Self::with(Core::new(boot, anchors), path);
        if kernel_is_synchronised() {
            clock.change(|core, now| core.learn_synchronised(now));
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
        let anchors = load_anchors(&state_dir.join(FILE))?.unwrap_or_default();
        Ok(Self::with(Core::new(BootId([0; 16]), anchors), PathBuf::new()))
    }

    /// A clock that trusts the system's and keeps no file, for commands that run once.
    #[must_use]
    pub fn system() -> Self {
        let mut core = Core::new(BootId([0; 16]), BTreeMap::new());
        core.learn_synchronised(now());
        Self::with(core, PathBuf::new())
    }

    fn with(core: Core, file: PathBuf) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { core, unsaved: false })), file: Arc::new(file) }
    }

    /// Takes the `Date` of an answer that arrived just now from a server that proved who it is.
    pub fn learn_server(&self, date: DateTime<Utc>) {
        let before = self.trust();
        let mut plausible = true;
        self.change(|core, now| plausible = core.learn_server(now, date));
        if !plausible {
            debug!(event = "clock.date_refused", %date, "server's date not believed");
            return;
        }
        let far = |trust: &Trust| match trust {
            Trust::Server { ahead } => ahead.abs() > TOLERANCE,
            Trust::Unknown | Trust::Synchronised => false,
        };
        let after = self.trust();
        if let (true, false, Trust::Server { ahead }) = (far(&after), far(&before), &after) {
            warn!(
                event = "clock.differs",
                ahead_secs = ahead.num_seconds(),
                "system clock differs from the server's; using the server's time"
            );
        }
        if before == Trust::Unknown && after != Trust::Unknown {
            info!(event = "clock.known", "time learnt from the server");
        }
    }

    /// A clock that has been told nothing and keeps no file, for commands that ask a server once:
    /// it takes the server's word.
    #[must_use]
    pub fn untold() -> Self {
        Self::with(Core::new(BootId([0; 16]), BTreeMap::new()), PathBuf::new())
    }

    fn change(&self, change: impl FnOnce(&mut Core, Now)) {
        let mut shared = self.lock();
        let Shared { core, unsaved } = &mut *shared;
        let known = core.anchors.len();
        change(core, now());
        if (core.anchors.len() > known || *unsaved) && !self.file.as_os_str().is_empty() {
            while core.anchors.len() > MAX_ANCHORS {
                let oldest =
                    core.anchors.iter().min_by_key(|(_, started)| **started).map(|(boot, _)| *boot);
                if let Some(oldest) = oldest {
                    core.anchors.remove(&oldest);
                }
            }
            match file::replace(&self.file, &render_anchors(&core.anchors), 0o640) {
                Ok(()) => *unsaved = false,
                Err(error) if !std::mem::replace(unsaved, true) => {
                    warn!(event = "clock.anchor_not_saved", %error, "clock anchor not saved");
                }
                Err(_) => {}
            }
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

    /// The time at which certificates are verified: as [`Clock::trusted_now`], else the system clock's.
    #[must_use]
    pub fn believed_now(&self) -> DateTime<Utc> {
        let now = now();
        self.lock().core.trusted(now).unwrap_or(now.system)
    }

    /// The time, if it can be trusted. Nothing acts on an instruction without it.
    #[must_use]
    pub fn trusted_now(&self) -> Option<DateTime<Utc>> {
        self.lock().core.trusted(now())
    }

    /// The latest start of any boot whose time was known: no right clock is before it.
    #[must_use]
    pub fn latest_known(&self) -> Option<DateTime<Utc>> {
        self.lock().core.anchors.values().max().copied()
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

/// Whether NTP keeps the system clock in step, by the mark that systemd-timesyncd and chrony's unit
/// leave. The kernel's own flag needs a system call outside the sandbox's set.
fn kernel_is_synchronised() -> bool {
    Path::new("/run/systemd/timesync/synchronized").exists()
}

fn load_anchors(
    path: &Path,
) -> Result<Result<BTreeMap<BootId, DateTime<Utc>>, serde_json::Error>, ClockError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse_anchors(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ok(BTreeMap::new())),
        Err(source) => Err(ClockError::Anchors { path: path.to_owned(), source }),
    }
}

fn parse_boot(text: &str) -> Option<BootId> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut id = [0; 16];
    hex::decode_to_slice(digits, &mut id).ok()?;
    Some(BootId(id))
}

fn parse_anchors(bytes: &[u8]) -> Result<BTreeMap<BootId, DateTime<Utc>>, serde_json::Error> {
    let file: Anchors = serde_json::from_slice(bytes)?;
    Ok(file.anchors.into_iter().filter_map(|a| Some((parse_boot(&a.boot)?, a.started))).collect())
}

fn render_anchors(anchors: &BTreeMap<BootId, DateTime<Utc>>) -> Vec<u8> {
    let anchors = anchors
        .iter()
        .map(|(boot, started)| Anchor { boot: hex::encode(boot.0), started: *started });
    serde_json::to_vec(&Anchors { anchors: anchors.collect() })
        .expect("text and dates always make JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([7; 16]);

    fn at(system: &str, since_boot_secs: u64) -> Now {
        Now {
            system: system.parse().expect("a date"),
            since_boot: Duration::from_secs(since_boot_secs),
        }
    }

    fn date(text: &str) -> DateTime<Utc> {
        text.parse().expect("a date")
    }

    #[test]
    fn a_machine_that_boots_in_1970_stamps_nothing_until_it_knows() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        let early = core.stamp(at("1970-01-01T00:00:20Z", 20));
        assert_eq!(early, Stamp::Boot { boot: BOOT, since_boot_ms: 20_000 });
        assert_eq!(core.place(early), None);

        core.learn_server(at("1970-01-01T00:01:00Z", 60), date("2026-11-22T10:00:00Z"));
        let placed = core.place(early).expect("the boot knows the time now");
        assert_eq!(placed, date("2026-11-22T09:59:20.500Z").timestamp_millis());
        assert_eq!(
            core.stamp(at("1970-01-01T00:01:10Z", 70)),
            Stamp::Wall { unix_ms: date("2026-11-22T10:00:10.500Z").timestamp_millis() }
        );
    }

    #[test]
    fn a_system_clock_within_a_minute_stamps_and_one_two_hours_off_does_not() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        core.learn_server(at("2026-11-22T10:00:30Z", 100), date("2026-11-22T10:00:00Z"));
        let near = at("2026-11-22T10:00:31Z", 101);
        assert_eq!(core.trusted(near), Some(near.system));
        let stepped = at("2026-11-22T12:00:31Z", 101);
        assert_eq!(core.trusted(stepped), Some(date("2026-11-22T10:00:01.500Z")));
    }

    #[test]
    fn one_wrong_answer_is_signed_with_and_stamps_nothing() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        let at_second = |secs: u64| {
            let system = date("2026-11-22T10:00:00Z") + delta(Duration::from_secs(secs));
            Now { system, since_boot: Duration::from_secs(100 + secs) }
        };
        core.learn_server(at_second(0), date("2026-11-22T10:00:00Z"));
        core.learn_server(at_second(10), date("2027-11-22T10:00:10Z"));
        let now = at_second(11);
        assert_eq!(core.server_now(now), Some(date("2027-11-22T10:00:11.500Z")));
        assert_eq!(core.trusted(now), Some(now.system));

        core.learn_server(at_second(20), date("2027-11-22T10:00:20Z"));
        let now = at_second(21);
        assert_eq!(core.trusted(now), Some(date("2027-11-22T10:00:21.500Z")), "confirmed");
    }

    #[test]
    fn dates_that_no_clock_shows_teach_nothing() {
        for text in ["1970-01-01T00:00:00Z", "+262142-12-31T23:59:59Z", "-262143-01-01T00:00:01Z"] {
            let mut core = Core::new(BOOT, BTreeMap::new());
            let now = at("2026-11-22T10:00:00Z", 100);
            assert!(!core.learn_server(now, date(text)), "{text}");
            assert_eq!(core.trust(now), Trust::Unknown);
            assert_eq!(core.server_now(at("2026-11-22T10:00:00Z", 1 << 40)), None);
        }
    }

    #[test]
    fn an_anchor_never_moves() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        let early = core.stamp(at("2026-11-22T09:00:00Z", 10));
        core.learn_server(at("2026-11-22T10:00:00Z", 100), date("2026-11-22T10:00:00Z"));
        let first = core.place(early);
        core.learn_server(at("2026-11-22T11:00:00Z", 3700), date("2026-11-22T11:00:09Z"));
        assert_eq!(core.place(early), first);
    }

    #[test]
    fn a_restart_within_the_boot_keeps_what_it_knew() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        core.learn_server(at("1970-01-01T00:01:00Z", 60), date("2026-11-22T10:00:00Z"));
        let restarted = Core::new(BOOT, core.anchors.clone());
        let later = at("1970-01-01T00:02:00Z", 120);
        assert_eq!(restarted.trusted(later), Some(date("2026-11-22T10:01:00.500Z")));
        assert_eq!(Core::new(BootId([8; 16]), core.anchors).trusted(later), None);
    }

    #[test]
    fn a_restart_and_the_first_answer_after_it_do_not_move_the_time_of_readings() {
        for system in ["1970-01-01T00:01:00Z", "2026-11-22T09:59:40Z"] {
            let mut core = Core::new(BOOT, BTreeMap::new());
            core.learn_server(at(system, 60), date("2026-11-22T10:00:00Z"));
            let later = Now {
                system: date(system) + TimeDelta::seconds(60),
                since_boot: Duration::from_secs(120),
            };
            let before = core.trusted(later);
            let mut restarted = Core::new(BOOT, core.anchors);
            assert_eq!(restarted.trusted(later), before, "{system}");
            // Rounded otherwise than the first one.
            restarted.learn_server(later, date("2026-11-22T10:01:01Z"));
            assert_eq!(restarted.trusted(later), before, "{system}");
        }
    }

    #[test]
    fn anchors_survive_the_file() {
        let anchors = BTreeMap::from([(BOOT, date("2026-11-22T09:58:20.500Z"))]);
        assert_eq!(parse_anchors(&render_anchors(&anchors)).expect("own JSON"), anchors);
    }
}
