//! The time that reading takes on each bus, for people and for scripts, and what to do if it is too much.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    config::{Problem, Settings, Severity, problem_at},
    modbus::{
        BusBudget,
        budget::{Complaint, REPLY, UnitBudget},
    },
};

/// How many units a complaint names.
const NAMED: usize = 3;

/// A bus's budget, by the name of the bus.
pub(super) struct Named<'a> {
    bus: &'a str,
    budget: BusBudget,
}

/// The budgets of all buses.
pub(super) fn budgets(settings: &Settings) -> Vec<Named<'_>> {
    let buses = settings.modbus.iter();
    buses.map(|bus| Named { bus: &bus.name, budget: BusBudget::of(bus) }).collect()
}

impl Named<'_> {
    /// Why it does not fit. The bus is the one at `index` of the configuration.
    pub(super) fn problems(&self, path: &Path, index: usize) -> Vec<Problem> {
        let complaints = self.budget.complaints.iter().map(|complaint| {
            let (what, remedy) = self.explain(complaint);
            let found = format!("\"{}\": {what}", self.bus);
            problem_at(path, &format!("modbus[{index}]"), found, remedy, Severity::Warning)
        });
        complaints.collect()
    }

    fn explain(&self, complaint: &Complaint) -> (String, String) {
        match complaint {
            Complaint::Full => (
                format!("reading takes {} of its time ({})", percent(self.budget.share), self.most()),
                "less than all of it: a longer `every`, a higher `baud`, fewer properties, or fewer and \
                 larger requests (`max_registers`, `max_gap`)"
                    .to_owned(),
            ),
            Complaint::Late { source, every, because_of, request } => (
                format!(
                    "it is busy for {} of its time, and a request to {because_of} takes {}: {source} \
                     cannot be read every {} ({})",
                    percent(self.budget.share),
                    span(*request),
                    span(*every),
                    self.most()
                ),
                format!(
                    "a longer `every` of {source}, a higher `baud`, or shorter requests to {because_of} \
                     (`max_registers`)"
                ),
            ),
            Complaint::Silent { source, every, because_of, probe } => (
                format!(
                    "should {because_of} fall silent, each question to it takes {}, and {source}, read every \
                     {}, misses more than one turn in twenty",
                    span(*probe),
                    span(*every)
                ),
                format!("a shorter `timeout` of {because_of}, or a longer `every` of {source}"),
            ),
            Complaint::Slow { source, every, because_of, reading } => (
                format!(
                    "should {because_of} need its whole `timeout` for each answer, a reading of it takes {}, and \
                     {source}, read every {}, misses more than one turn in twenty",
                    span(*reading),
                    span(*every)
                ),
                format!("a shorter `timeout` of {because_of}, fewer requests to it, or a longer `every` of {source}"),
            ),
            Complaint::Timeout { source, timeout, most } => (
                format!(
                    "should {source} fall silent, its `timeout` of {} holds the others up for more than 10 s",
                    span(*timeout)
                ),
                format!("a `timeout` of at most {} where a bus is shared", span(*most)),
            ),
        }
    }

    /// The units that cost most.
    fn most(&self) -> String {
        let named = self.budget.units.iter().take(NAMED).map(|unit| {
            let requests = if unit.requests == 1 { "request" } else { "requests" };
            format!(
                "{} {}: {} in {} {requests} every {}",
                unit.source,
                percent(unit.share),
                span(unit.reading),
                unit.requests,
                span(unit.every)
            )
        });
        let named = named.collect::<Vec<_>>().join("; ");
        match self.budget.units.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named}; and {more} more"),
        }
    }

    /// A line for people; nothing for a bus on which nothing is read.
    pub(super) fn line(&self) -> Option<String> {
        if self.budget.units.is_empty() {
            return None;
        }
        let BusBudget { share, worst, .. } = self.budget;
        let (share, worst) = (percent(share), percent(worst));
        let bus = self.bus;
        Some(format!(
            "  bus {bus}: {share} of its time is taken, {worst} with the worst unit silent"
        ))
    }

    /// All of it for scripts.
    pub(super) fn json(&self) -> Value {
        let unit = |unit: &UnitBudget| {
            json!({
                "source": unit.source.as_str(),
                "share": rounded(unit.share),
                "requests": unit.requests,
                "reading_ms": rounded(unit.reading.as_secs_f64() * 1000.0),
                "every_ms": millis(unit.every),
            })
        };
        json!({
            "bus": self.bus,
            "share": rounded(self.budget.share),
            "worst": rounded(self.budget.worst),
            "fits": self.budget.fits(),
            "reply_ms": millis(REPLY),
            "units": self.budget.units.iter().map(unit).collect::<Vec<_>>(),
        })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn rounded(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        small if small < 9.95 => format!("{small:.1} %"),
        large => format!("{large:.0} %"),
    }
}

fn span(span: Duration) -> String {
    match span.as_secs_f64() {
        long if long >= 1.0 => format!("{} s", (long * 10.0).round() / 10.0),
        short => format!("{:.0} ms", short * 1000.0),
    }
}
