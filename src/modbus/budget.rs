//! How much of a bus's time its reads take, before anything is connected. Pure.
//!
//! ```text
//!  one request   pauses + silence + request + reply + answer + silence
//!  one reading   the sum over the unit's requests, as they are planned
//!  share         the sum over the units of reading / `every`
//! ```
//!
//! A bus *fits* if three things hold. From then on nobody has to be lucky:
//!
//! 1. Each unit is read within its interval `t` while all answer: `share + longest / t ≤ 1`, where `longest` is
//!    the longest request of a neighbour. It may have begun a moment before and is not interrupted; the rest is
//!    the condition under which "who is due first is asked first" is never late.
//! 2. The same while one unit is silent: then the others' share counts, and `longest` is a question to the
//!    silent one, at most [`PROBE`]. Or, if such a question makes a neighbour miss turns, they are at most one
//!    in twenty over a minute at the distance that the reader keeps (`reader::health`). The same again while a
//!    unit takes its whole `timeout` for each request of a reading.
//! 3. A unit that falls silent is given up within 10 s: its `timeout` is at most [`LONGEST_TIMEOUT`].
//!
//! Units are taken to begin their answer after [`REPLY`]. On Modbus TCP that is the round trip, and all there is;
//! of a line behind a serial server nobody here knows the speed, so its airtime is not counted either. A unit
//! that is slower than that and makes its neighbours late is read less often (`poller`).
//!
//! What it does *not* count: writes, and requests that are repeated because an answer was lost.

use std::time::Duration;

use super::{airtime::Airtime, plan::Plan};
use crate::{
    config::settings::{Bus, Link, Unit},
    domain::SourceId,
    reader::health::{self, PROBE},
};

/// What a unit is taken to need before it begins to answer; most meters need 5 to 50 ms.
pub const REPLY: Duration = Duration::from_millis(20);
/// With longer timeouts a unit that fell silent may still hold its neighbours up after 10 s: on a line of bytes,
/// where it rests after each, and on Modbus TCP.
pub const LONGEST_TIMEOUT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));

/// The times of a bus.
#[derive(Debug, Clone, PartialEq)]
pub struct BusBudget {
    /// The part of its time that reading takes while all units answer; above 1 it does not suffice.
    pub share: f64,
    /// The same while the unit is silent for which it is the greatest.
    pub worst: f64,
    /// Its units, the one that costs most first.
    pub units: Vec<UnitBudget>,
    /// Why it does not fit.
    pub complaints: Vec<Complaint>,
}

/// The times of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitBudget {
    /// Its source.
    pub source: SourceId,
    /// From one reading to the next.
    pub every: Duration,
    /// How many requests a reading takes.
    pub requests: usize,
    /// How long a reading takes.
    pub reading: Duration,
    /// The part of the bus's time that this is.
    pub share: f64,
    /// Its longest request.
    longest: Duration,
    /// A question to it while it is silent.
    probe: Duration,
    /// A reading with each answer at the last moment.
    slowest: Duration,
    timeout: Duration,
}

/// Why a bus does not fit.
#[derive(Debug, Clone, PartialEq)]
pub enum Complaint {
    /// There is not enough time.
    Full,
    /// A neighbour's longest request makes a unit late.
    Late {
        /// Who is late.
        source: SourceId,
        /// Its interval.
        every: Duration,
        /// Whose request is too long.
        because_of: SourceId,
        /// How long it takes.
        request: Duration,
    },
    /// A unit that is silent makes a neighbour miss more than one turn in twenty.
    Silent {
        /// Who misses turns.
        source: SourceId,
        /// Its interval.
        every: Duration,
        /// Whose silence it is.
        because_of: SourceId,
        /// How long each question to it takes.
        probe: Duration,
    },
    /// A unit that takes its whole timeout for each request makes a neighbour miss more than one turn in twenty.
    Slow {
        /// Who misses turns.
        source: SourceId,
        /// Its interval.
        every: Duration,
        /// Whose slowness it is.
        because_of: SourceId,
        /// How long its reading takes then.
        reading: Duration,
    },
    /// A unit that fell silent is not given up within 10 s.
    Timeout {
        /// The unit.
        source: SourceId,
        /// Its timeout.
        timeout: Duration,
        /// The longest one that does no harm.
        most: Duration,
    },
}

impl BusBudget {
    /// Of a bus as it is configured. A unit that cannot be read costs nothing.
    #[must_use]
    pub fn of(bus: &Bus) -> Self {
        let mut units: Vec<UnitBudget> =
            bus.units.iter().filter_map(|unit| UnitBudget::of(bus, unit)).collect();
        units.sort_by(|a, b| b.share.total_cmp(&a.share));
        let share = units.iter().map(|unit| unit.share).sum();
        let silent = units.iter().map(|unit| share - unit.share + unit.silent_share(&units));
        let worst = silent.fold(share, f64::max);
        let mut complaints = Vec::new();
        if share > 1.0 {
            complaints.push(Complaint::Full);
        } else {
            complaints.extend(late(&units, share));
            let silent = harmed(&units, share, |unit| unit.probe);
            complaints.extend(silent.map(|(bad, harmed)| Complaint::Silent {
                source: harmed.source.clone(),
                every: harmed.every,
                because_of: bad.source.clone(),
                probe: bad.probe,
            }));
            let slow = harmed(&units, share, |unit| unit.slowest).filter(|_| silent.is_none());
            complaints.extend(slow.map(|(bad, harmed)| Complaint::Slow {
                source: harmed.source.clone(),
                every: harmed.every,
                because_of: bad.source.clone(),
                reading: bad.slowest,
            }));
        }
        complaints.extend(impatient(&bus.link, &units));
        Self { share, worst, units, complaints }
    }

    /// Whether every unit is read within its interval, and in nineteen of twenty turns while one is silent.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.complaints.is_empty()
    }
}

impl UnitBudget {
    fn of(bus: &Bus, unit: &Unit) -> Option<Self> {
        let plan = Plan::new(unit).ok()?;
        let airtime = match &bus.link {
            Link::Serial(serial) => Some(Airtime::new(serial)),
            Link::Tcp { .. } | Link::RtuTcp { .. } => None,
        };
        let pauses = bus.pause + unit.pause;
        let takes = |reply: Duration| {
            plan.blocks().iter().map(move |block| {
                let line = airtime.map(|airtime| airtime.shortest_exchange(&block.request()));
                pauses + line.unwrap_or_default() + reply
            })
        };
        let reading: Duration = takes(REPLY).sum();
        Some(Self {
            source: unit.source.clone(),
            every: unit.every,
            requests: plan.blocks().len(),
            reading,
            share: reading.div_duration_f64(unit.every),
            longest: takes(REPLY).max()?,
            probe: takes(unit.timeout.min(PROBE)).max()?,
            slowest: takes(unit.timeout).sum(),
            timeout: unit.timeout,
        })
    }

    /// How long its longest request takes.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The part of the bus's time that asking it takes while it is silent.
    fn silent_share(&self, units: &[Self]) -> f64 {
        let load: f64 = self.neighbours(units).map(|unit| unit.share).sum();
        let shortest = self.neighbours(units).map(|unit| unit.every).min();
        let distance = match shortest {
            Some(_) => health::distance(self.probe, shortest, load),
            None => health::LONGEST_ALONE,
        };
        self.probe.div_duration_f64(self.probe + distance)
    }

    fn neighbours<'a>(&'a self, units: &'a [Self]) -> impl Iterator<Item = &'a Self> {
        units.iter().filter(|other| other.source != self.source)
    }
}

/// The first unit that is late while all answer.
fn late(units: &[UnitBudget], share: f64) -> Option<Complaint> {
    units.iter().find_map(|unit| {
        let long = unit.neighbours(units).max_by_key(|other| other.longest)?;
        (share + long.longest.div_duration_f64(unit.every) > 1.0).then(|| Complaint::Late {
            source: unit.source.clone(),
            every: unit.every,
            because_of: long.source.clone(),
            request: long.longest,
        })
    })
}

/// The first unit that costs a neighbour too much if each time it is asked takes `cost`: the two of them.
fn harmed(
    units: &[UnitBudget],
    share: f64,
    cost: impl Fn(&UnitBudget) -> Duration,
) -> Option<(&UnitBudget, &UnitBudget)> {
    units.iter().find_map(|bad| {
        let (cost, load) = (cost(bad), share - bad.share);
        let shortest = bad.neighbours(units).map(|unit| unit.every).min()?;
        let bears = |unit: &&UnitBudget| health::bearable(cost, unit.every, shortest, load);
        Some((bad, bad.neighbours(units).find(|unit| !bears(unit))?))
    })
}

/// The first unit with neighbours that is waited for too long.
fn impatient(link: &Link, units: &[UnitBudget]) -> Option<Complaint> {
    let most = match link {
        Link::Serial(_) | Link::RtuTcp { .. } => LONGEST_TIMEOUT.0,
        Link::Tcp { .. } => LONGEST_TIMEOUT.1,
    };
    let unit = units.iter().find(|unit| units.len() > 1 && unit.timeout > most)?;
    Some(Complaint::Timeout { source: unit.source.clone(), timeout: unit.timeout, most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::settings::{Parity, Serial},
        modbus::plan::tests::{H, I, unit},
    };

    fn bus(baud: u32, units: Vec<Unit>) -> Bus {
        let serial = Serial { port: "/dev/null".into(), baud, parity: Parity::None, stop_bits: 1 };
        Bus {
            name: "bus".to_owned(),
            link: Link::Serial(serial),
            pause: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            units,
        }
    }

    fn meter(source: &str, every_ms: u64) -> Unit {
        let source = source.parse().expect("a source");
        Unit { source, every: Duration::from_millis(every_ms), ..unit(&[(H, 0, 50)]) }
    }

    #[test]
    fn a_reading_takes_its_bytes_its_silences_its_pauses_and_its_reply() {
        let pause = Duration::from_millis(10);
        let two = Unit { pause, ..unit(&[(H, 0, 50), (I, 0, 1)]) };
        let mut bus = Bus { pause, ..bus(9600, vec![two]) };
        // 8 + 105 and 8 + 7 characters, and four silences of three and a half.
        let line = (113.0 + 15.0 + 14.0) / 0.96;
        let near =
            |found: f64, ms: f64| assert!((found - ms / 1000.0).abs() < 1e-5, "{found} {ms}");
        let budget = BusBudget::of(&bus);
        near(budget.units[0].reading.as_secs_f64(), line + 4.0 * 10.0 + 2.0 * 20.0);
        near(budget.share, line + 80.0);
        assert_eq!((budget.units[0].requests, budget.fits()), (2, true));
        bus.link = Link::Tcp { host: "here".to_owned(), port: 502 };
        near(BusBudget::of(&bus).share, 80.0);
    }

    #[test]
    fn what_does_not_fit_is_said_with_the_unit_that_costs_most() {
        // A reading takes 145 ms at 9600 baud.
        let source = |text: &str| -> SourceId { text.parse().expect("a source") };
        let full = BusBudget::of(&bus(9600, vec![meter("/a", 400), meter("/b", 200)]));
        assert_eq!(
            (full.complaints.as_slice(), &full.units[0].source),
            (&[Complaint::Full][..], &source("/b"))
        );
        assert!(full.share > 1.0);

        let late = BusBudget::of(&bus(9600, vec![meter("/a", 10_000), meter("/b", 200)]));
        assert!(
            matches!(&late.complaints[0], Complaint::Late { source: late, because_of, .. }
                if *late == source("/b") && *because_of == source("/a")),
            "{late:?}"
        );

        // One question of a second to /a takes a turn of /b's six a minute.
        let busy = Unit { pause: Duration::from_secs(9), ..meter("/b", 10_000) };
        let silent = BusBudget::of(&bus(9600, vec![meter("/a", 1_000_000), busy]));
        assert!(
            matches!(&silent.complaints[0], Complaint::Silent { source: harmed, because_of, .. }
                if *harmed == source("/b") && *because_of == source("/a")),
            "{silent:?}"
        );
        assert!(silent.worst > silent.share);

        let patient = |ms| Unit { timeout: Duration::from_millis(ms), ..meter("/a", 10_000) };
        let fits = |units| BusBudget::of(&bus(9600, units)).fits();
        assert!(fits(vec![patient(3000), meter("/b", 5000)]));
        assert!(!fits(vec![patient(3001), meter("/b", 5000)]));
        assert!(fits(vec![patient(30_000)]), "there is nobody to protect");
    }
}
