//! What is known about time, and what follows from it. Pure: it is told the time.
//!
//! A server's word counts as *settled* – good enough for stamps, instructions and the boot's anchor –
//! once there are two opinions: the first `Date` together with a second one, the system clock, or what
//! this boot knew before. One alone is signed with, since the server that said it will check.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::{BootId, Stamp};

/// How far the system clock may lie from the server's and still stamp readings.
pub(super) const TOLERANCE: TimeDelta = TimeDelta::seconds(60);

/// How far two answers may differ and still agree: whole seconds, and the time on the way.
const AGREEMENT: TimeDelta = TimeDelta::seconds(2);

/// How long before this program was built a date may lie: the clock of the machine that built it was
/// another one.
const BEFORE_BUILD: TimeDelta = TimeDelta::days(30);

/// How long after it was built. Dates beyond have no place in a header either.
const AFTER_BUILD: TimeDelta = TimeDelta::days(100 * 365);

/// How far stamps may lag behind the last one given before the anchor: a system clock that was at one
/// end of [`TOLERANCE`] and is now at the other.
const LAG: TimeDelta = TimeDelta::seconds(120);

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
    /// The same, once there were two opinions: for everything else.
    settled: Option<DateTime<Utc>>,
    synchronised: bool,
    /// Wall time at the start of each boot that learnt the time.
    anchors: BTreeMap<BootId, DateTime<Utc>>,
    /// Readings before this one's instant may have got theirs from the anchor, which was set then.
    floor: Option<DateTime<Utc>>,
}

impl Core {
    /// Which boot this is.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// Knows the anchors of earlier boots, and of this one if the daemon was restarted within it.
    #[must_use]
    pub fn new(boot: BootId, anchors: BTreeMap<BootId, DateTime<Utc>>) -> Self {
        Self { boot, server: None, settled: None, synchronised: false, anchors, floor: None }
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
        let before = self.server;
        let agrees = |known: &DateTime<Utc>| (*known - zero).abs() <= AGREEMENT;
        let server = before.or(first).filter(agrees).unwrap_or(zero);
        self.server = Some(server);
        let near = |other: DateTime<Utc>| (other - server).abs() <= TOLERANCE;
        let known = self.settled.or(first).unwrap_or(now.system - delta(now.since_boot));
        if near(known) || before.is_some_and(near) {
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
        if let (Some(wall), false) = (self.trusted(now), self.anchors.contains_key(&self.boot)) {
            self.anchors.insert(self.boot, wall - delta(now.since_boot));
            self.floor = Some(wall + TimeDelta::milliseconds(1));
            while self.anchors.len() > MAX_ANCHORS {
                let oldest = self.anchors.iter().min_by_key(|(_, started)| **started);
                if let Some(oldest) = oldest.map(|(boot, _)| *boot) {
                    self.anchors.remove(&oldest);
                }
            }
        }
    }

    /// Whether the last answer told a time that nothing else speaks for.
    #[must_use]
    pub fn doubts(&self) -> bool {
        let alone = |server: DateTime<Utc>| {
            self.settled.is_none_or(|settled| (settled - server).abs() > TOLERANCE)
        };
        self.server.is_some_and(alone)
    }

    /// The wall time at the start of each boot that learnt it.
    #[must_use]
    pub fn anchors(&self) -> &BTreeMap<BootId, DateTime<Utc>> {
        &self.anchors
    }

    /// The time of the server that answered last, if any did since the daemon started.
    #[must_use]
    pub fn server_now(&self, now: Now) -> Option<DateTime<Utc>> {
        self.server.map(|zero| zero + delta(now.since_boot))
    }

    /// The servers' time, if two opinions told it since the daemon started.
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

    /// The stamp of a reading taken now: not before readings that got their instant from the anchor.
    #[must_use]
    pub fn stamp(&self, now: Now) -> Stamp {
        match self.trusted(now) {
            Some(wall) => {
                let floor = self.floor.filter(|floor| *floor - wall <= LAG);
                let wall = floor.map_or(wall, |floor| floor.max(wall));
                Stamp::Wall { unix_ms: wall.timestamp_millis() }
            }
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

pub(super) fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
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

    /// Two answers that agree.
    fn told(core: &mut Core, now: Now, date: DateTime<Utc>) {
        assert!(core.learn_server(now, date));
        assert!(core.learn_server(now, date));
    }

    #[test]
    fn a_machine_that_boots_in_1970_stamps_nothing_until_it_knows() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        let early = core.stamp(at("1970-01-01T00:00:20Z", 20));
        assert_eq!(early, Stamp::Boot { boot: BOOT, since_boot_ms: 20_000 });
        assert_eq!(core.place(early), None);

        told(&mut core, at("1970-01-01T00:01:00Z", 60), date("2026-11-22T10:00:00Z"));
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
    fn a_first_date_far_from_the_system_clock_needs_a_second_opinion() {
        let first = date("2027-11-22T10:00:00Z");
        let right = date("2026-11-22T10:00:00Z");
        let now = at("1970-01-01T00:01:00Z", 60);
        let mut core = Core::new(BOOT, BTreeMap::new());
        core.learn_server(now, first);
        assert!(core.doubts() && core.trusted(now).is_none() && core.anchors().is_empty());
        assert_eq!(core.server_now(now), Some(first + TimeDelta::milliseconds(500)), "signed with");

        core.learn_server(now, right);
        assert!(core.doubts() && core.trusted(now).is_none(), "now it is one against one");
        core.learn_server(now, right);
        assert_eq!(core.trusted(now), Some(right + TimeDelta::milliseconds(500)));
        assert!(!core.doubts());
        let early = Stamp::Boot { boot: BOOT, since_boot_ms: 0 };
        let zero = date("2026-11-22T09:59:00.500Z").timestamp_millis();
        assert_eq!(core.place(early), Some(zero), "the first one left no trace");
    }

    #[test]
    fn ntp_and_one_server_that_contradict_each_other_leave_the_system_clock_in_charge() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        let now = at("2026-11-22T10:00:00Z", 100);
        core.learn_synchronised(now);
        core.learn_server(now, date("2027-11-22T10:00:00Z"));
        assert_eq!(core.trusted(now), Some(now.system));
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
        assert!(core.doubts());
        assert_eq!(core.server_now(now), Some(date("2027-11-22T10:00:11.500Z")));
        assert_eq!(core.trusted(now), Some(now.system));

        core.learn_server(at_second(20), date("2027-11-22T10:00:20Z"));
        let now = at_second(21);
        assert_eq!(core.trusted(now), Some(date("2027-11-22T10:00:21.500Z")), "confirmed");
    }

    #[test]
    fn a_system_clock_that_steps_back_stamps_nothing_before_what_the_anchor_placed() {
        let mut core = Core::new(BOOT, BTreeMap::new());
        let early = core.stamp(at("2026-11-22T10:00:40Z", 100));
        core.learn_server(at("2026-11-22T10:00:40Z", 100), date("2026-11-22T10:00:00Z"));
        // NTP sets it right, 40 s back.
        let later = core.stamp(at("2026-11-22T10:00:01Z", 101));
        assert!(core.place(later) > core.place(early), "{later:?}");
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
        told(&mut core, at("1970-01-01T00:01:00Z", 60), date("2026-11-22T10:00:00Z"));
        let restarted = Core::new(BOOT, core.anchors.clone());
        let later = at("1970-01-01T00:02:00Z", 120);
        assert_eq!(restarted.trusted(later), Some(date("2026-11-22T10:01:00.500Z")));
        assert_eq!(Core::new(BootId([8; 16]), core.anchors).trusted(later), None);
    }

    #[test]
    fn a_restart_and_the_first_answer_after_it_do_not_move_the_time_of_readings() {
        for system in ["1970-01-01T00:01:00Z", "2026-11-22T09:59:40Z"] {
            let mut core = Core::new(BOOT, BTreeMap::new());
            told(&mut core, at(system, 60), date("2026-11-22T10:00:00Z"));
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
}
