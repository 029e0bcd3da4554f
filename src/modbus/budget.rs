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
//!    in twenty over a minute at the distance that the reader keeps (`reader::health`).
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
            complaints.extend(silent_neighbour(&units, share));
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

/// The first unit whose silence costs a neighbour too much.
fn silent_neighbour(units: &[UnitBudget], share: f64) -> Option<Complaint> {
    units.iter().find_map(|silent| {
        let load = share - silent.share;
        let shortest = silent.neighbours(units).map(|unit| unit.every).min()?;
        let harmed = silent
            .neighbours(units)
            .find(|unit| !health::bearable(silent.probe, unit.every, shortest, load))?;
        Some(Complaint::Silent {
            source: harmed.source.clone(),
            every: harmed.every,
            because_of: silent.source.clone(),
            probe: silent.probe,
        })
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
