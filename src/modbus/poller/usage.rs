//! How much of a bus's time a unit takes where it answers, and one request at most; silence is the business of
//! `health`. Pure.

use std::time::Duration;

use super::super::{airtime::Airtime, budget::BusBudget, frame::rtu};
use crate::{
    config::settings::{Bus, Control, Link, Unit},
    pulse::Bound,
};

/// What the readings of one unit take.
#[derive(Debug, Default)]
pub(super) struct Usage {
    planned: Cost,
    /// Of the last two readings, and of the one under way.
    last: [Cost; 2],
    current: Cost,
}

/// The time of all requests of a reading, and the longest of them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Cost {
    pub(super) reading: Duration,
    pub(super) longest: Duration,
}

impl Usage {
    pub(super) fn planned(budget: &BusBudget, unit: &Unit) -> Self {
        let unit = budget.units.iter().find(|planned| planned.source == unit.source);
        let planned = unit.map(|unit| Cost { reading: unit.reading, longest: unit.longest() });
        let planned = planned.unwrap_or_default();
        Self { planned, last: [planned; 2], current: Cost::default() }
    }

    /// A request was answered after this time, while the unit may take up to `timeout`. If it took longer, the
    /// link was opened first, which is not the unit's doing.
    pub(super) fn answered(&mut self, took: Duration, timeout: Duration) {
        if took > timeout + self.planned.longest {
            return;
        }
        self.current.reading += took;
        self.current.longest = self.current.longest.max(took);
    }

    /// A reading is over.
    pub(super) fn read(&mut self) {
        self.last = [std::mem::take(&mut self.current), self.last[0]];
    }

    /// What a reading takes. A single one that took longer tells nothing about the next: the whole machine may
    /// have stood still.
    pub(super) fn usual(&self) -> Cost {
        let [one, other] = self.last;
        let (reading, longest) = (one.reading.min(other.reading), one.longest.min(other.longest));
        Cost { reading, longest }
    }

    /// Whether it takes much longer than planned.
    pub(super) fn is_slow(&self) -> bool {
        self.usual().longest > self.planned.longest * 2
    }
}

/// How long one request may take, silence and a new connection included. On a serial line the unit may have to
/// rest, and the line to become quiet, before it; the airtime of the longest frames comes on top.
pub(super) fn longest(bus: &Bus, controls: &[Control]) -> Bound {
    let units = bus.units.iter().map(|unit| unit.timeout + unit.pause);
    let writes = controls.iter().filter(|control| control.bus == bus.name).map(|c| c.timeout);
    let slowest = units.chain(writes).max().unwrap_or_default();
    let exchange = match &bus.link {
        Link::Tcp { .. } => slowest,
        Link::RtuTcp { .. } => slowest * 3,
        Link::Serial(serial) => slowest * 3 + Airtime::new(serial).of(2 * rtu::MAX_FRAME),
    };
    Bound::Within(bus.pause + bus.connect_timeout + exchange)
}
