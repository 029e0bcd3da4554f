//! `read SOURCE`: reads one source now and prints what it said.
//!
//! The same plan, link and decoding as in the daemon, on a connection of its own; neither the queue
//! nor SolarNetwork is touched. The daemon may go on reading the same device meanwhile.
//!
//! `--json` prints one object a line: `{source, created, i, a, s, t, failed: [{property, reason}]}`,
//! with every number exactly as it would be stored.

use std::{io::Write, time::Duration};

use clap::Args;
use rust_decimal::Decimal;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Exit, Failure};
use crate::{
    clock::Clock,
    config::settings::{Bus, Property, Settings, Unit},
    domain::{Datum, Kind, Samples, Stamp, number},
    modbus::{self, Carrier, Failed, Outcome, Wire, source::Now, source::Source},
    queue::show,
};

/// Read one source once and print it; touches neither queue nor network
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent read /site/meter --watch")]
pub struct Read {
    /// The source's ID, as in the configuration
    pub source: String,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Read again and again, at the source's own interval
    #[arg(long)]
    pub watch: bool,
}

impl Read {
    /// Reads and prints.
    ///
    /// # Errors
    ///
    /// With 64 if no such source is configured, 69 if nothing of it could be read, 78 if it cannot be
    /// read as configured.
    pub fn run(&self, settings: &Settings, out: &mut impl Write) -> Result<Exit, Failure> {
        let (bus, unit) = self.find(settings)?;
        let mut source = Source::new(unit.clone()).map_err(|e| Failure::new(Exit::Config, e))?;
        let mut wire = Carrier::of(bus);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            if !self.watch {
                let outcome = read(&mut source, &mut wire).await;
                return self.print(unit, &outcome, out);
            }
            let mut turns = interval(unit.every);
            // As in the daemon: a turn missed is skipped, not made up for.
            turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                turns.tick().await;
                // Somebody is watching: a silent device is asked each time.
                source.revive(Duration::ZERO);
                let outcome = read(&mut source, &mut wire).await;
                match self.print(unit, &outcome, out) {
                    Ok(_) | Err(Failure { exit: Exit::Unavailable, .. }) => {}
                    Err(failure) => return Err(failure),
                }
            }
        })
    }

    fn find<'a>(&self, settings: &'a Settings) -> Result<(&'a Bus, &'a Unit), Failure> {
        let all = || settings.modbus.iter().flat_map(|bus| bus.units.iter().map(move |u| (bus, u)));
        all().find(|(_, unit)| unit.source.as_str() == self.source).ok_or_else(|| {
            let known: Vec<&str> = all().map(|(_, unit)| unit.source.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("no source `{}` is configured; known: {known}", self.source);
            Failure::new(Exit::Usage, message)
        })
    }

    fn print(&self, unit: &Unit, outcome: &Outcome, out: &mut impl Write) -> Result<Exit, Failure> {
        let mut reasons: Vec<String> =
            outcome.failed.iter().map(|failed| failed.reason.to_string()).collect();
        reasons.dedup();
        // The end of the command says it then, once for all properties.
        let at_the_end = outcome.datum.is_none() && reasons.len() <= 1 && !self.watch;
        if self.json {
            let line = serde_json::to_string(&Json::new(unit, outcome))
                .map_err(|error| Failure::new(Exit::Software, error))?;
            writeln!(out, "{line}")?;
        } else if !at_the_end {
            table(unit, outcome, out)?;
        }
        out.flush()?;
        if outcome.datum.is_some() {
            return Ok(Exit::Ok);
        }
        let message = format!("nothing of {} could be read: {}", unit.source, reasons.join("; "));
        Err(Failure::new(Exit::Unavailable, message))
    }
}

async fn read(source: &mut Source, wire: &mut impl Wire) -> Outcome {
    let (clock, started) = (Clock::system(), Instant::now());
    loop {
        let now = Now { running: || started.elapsed(), may_probe: true };
        if let Some(outcome) = source.step(wire, now, || clock.stamp()).await {
            return outcome;
        }
    }
}

/// The datum for scripts.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    source: &'a str,
    created: Option<String>,
    i: serde_json::Value,
    a: serde_json::Value,
    s: serde_json::Map<String, serde_json::Value>,
    t: &'a [String],
    failed: Vec<JsonFailed<'a>>,
}

#[derive(Serialize)]
struct JsonFailed<'a> {
    property: &'a str,
    reason: String,
}

impl<'a> Json<'a> {
    pub(super) fn new(unit: &'a Unit, outcome: &'a Outcome) -> Self {
        let datum = outcome.datum.as_ref();
        let numbers = |of: fn(&Samples) -> &Vec<(String, Decimal)>| {
            show::numbers(datum.map_or(&[], |datum| of(&datum.samples)))
        };
        let texts = datum.into_iter().flat_map(|datum| &datum.samples.status);
        Self {
            source: unit.source.as_str(),
            created: datum.and_then(created),
            i: numbers(|samples| &samples.instantaneous),
            a: numbers(|samples| &samples.accumulating),
            s: texts.map(|(name, text)| (name.clone(), text.clone().into())).collect(),
            t: datum.map_or(&[], |datum| &datum.samples.tags),
            failed: outcome
                .failed
                .iter()
                .map(|Failed { property, reason }| JsonFailed {
                    property,
                    reason: reason.to_string(),
                })
                .collect(),
        }
    }
}

fn created(datum: &Datum) -> Option<String> {
    match datum.stamp {
        Stamp::Wall { unix_ms } => show::created(unix_ms),
        Stamp::Boot { .. } => None,
    }
}

/// The datum for people: each property in the order of the configuration, with its place in both
/// notations that manuals use.
pub(super) fn table(unit: &Unit, outcome: &Outcome, out: &mut impl Write) -> std::io::Result<()> {
    match outcome.datum.as_ref().and_then(created) {
        Some(at) => writeln!(out, "{} at {at}", unit.source)?,
        None => writeln!(out, "{}", unit.source)?,
    }
    let rows: Vec<[String; 4]> =
        unit.properties.iter().map(|property| row(property, outcome)).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (names, values) = (width(0), width(2));
    for [name, kind, value, place] in &rows {
        writeln!(out, "  {name:<names$}  {kind}  {value:>values$}  {place}")?;
    }
    for Failed { property, reason } in &outcome.failed {
        writeln!(out, "  {property}: {reason}")?;
    }
    Ok(())
}

fn row(property: &Property, outcome: &Outcome) -> [String; 4] {
    let name = &property.name;
    let samples = outcome.datum.as_ref().map(|datum| &datum.samples);
    let found = |values: &[(String, Decimal)]| {
        values.iter().find(|(n, _)| n == name).map(|(_, value)| number::plain(*value))
    };
    let (kind, value) = match property.kind {
        Kind::Instantaneous => ("i", samples.and_then(|s| found(&s.instantaneous))),
        Kind::Accumulating => ("a", samples.and_then(|s| found(&s.accumulating))),
        Kind::Status => {
            let text = |(n, text): &(String, String)| (n == name).then(|| text.clone());
            ("s", samples.and_then(|s| s.status.iter().find_map(text)))
        }
    };
    let register = &property.register;
    let place = modbus::place(register.table, register.address, register.count());
    [name.clone(), kind.to_owned(), value.unwrap_or_else(|| "-".to_owned()), place]
}
