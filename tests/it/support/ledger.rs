//! What was read, what stood in the queue, what arrived: three views of the same datum, compared.
//!
//! A meter's reading is known by its number, from which all its values follow, so the queue's files
//! and the server's ledger can each be checked against the device without trusting the other.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::Value;
use solarnet_sim::{Entry, Key, MeterReading, Sim};

use super::agent::Agent;

/// One line of `queue export`: a datum that stands in the queue's files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Committed {
    pub(crate) source: String,
    /// `None` where its boot has not learnt the time yet.
    pub(crate) created_ms: Option<i64>,
    pub(crate) samples: Samples,
}

/// The samples of a datum, numbers as numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples {
    i: BTreeMap<String, Decimal>,
    a: BTreeMap<String, Decimal>,
    s: BTreeMap<String, String>,
}

impl Samples {
    /// The number of the meter's reading.
    pub(crate) fn reading(&self) -> Option<u32> {
        self.i.get("reading")?.to_string().parse().ok()
    }

    fn of_entry(entry: &Entry) -> Self {
        let shown = entry.datum.to_json();
        Self::of_json(&shown)
    }

    fn of_json(json: &Value) -> Self {
        let members = |group: &str| json[group].as_object().into_iter().flatten();
        let number = |(name, value): (&String, &Value)| {
            let number = value.to_string().parse().expect("a decimal");
            (name.clone(), number)
        };
        let text = |(name, value): (&String, &Value)| {
            (name.clone(), value.as_str().expect("text").to_owned())
        };
        Self {
            i: members("i").map(number).collect(),
            a: members("a").map(number).collect(),
            s: members("s").map(text).collect(),
        }
    }

    /// What the configuration of `support::agent::meter` makes of a reading.
    fn of_reading(number: u32) -> Self {
        let reading = MeterReading::at(number);
        let float = |value: f32| Decimal::try_from(value).expect("a decimal");
        let i = [
            ("watts", float(reading.watts)),
            ("voltage", float(reading.voltage)),
            ("frequency", float(reading.frequency)),
            ("current", float(reading.current)),
            ("reading", reading.number.into()),
            ("temp", Decimal::new(reading.temperature.into(), 1)),
        ];
        let a = [
            ("wattHours", Decimal::from(reading.watt_hours)),
            ("wattHoursReverse", reading.watt_hours_reverse.into()),
        ];
        let own = |(name, value): (&str, Decimal)| (name.to_owned(), value);
        Self {
            i: i.map(own).into(),
            a: a.map(own).into(),
            s: [("opState".to_owned(), reading.state.to_string())].into(),
        }
    }
}

/// Everything in the queue's files, by sequence number, as another process sees it.
pub(crate) fn committed(agent: &Agent) -> BTreeMap<u64, Committed> {
    let line = |line: &str| {
        let json: Value = serde_json::from_str(line).expect("JSON");
        let created = json["created"].as_str().map(|text| {
            let time: chrono::DateTime<chrono::Utc> = text.parse().expect("a date");
            time.timestamp_millis()
        });
        let source = json["source"].as_str().expect("a source").to_owned();
        let samples = Samples::of_json(&json);
        let seq = json["seq"].as_u64().expect("a number");
        (seq, Committed { source, created_ms: created, samples })
    };
    agent.ask(&["queue", "export"]).lines().map(line).collect()
}

/// The server's ledger, asked its questions.
pub(crate) struct Ledger {
    rows: Vec<(Key, Entry)>,
}

impl Ledger {
    pub(crate) fn of(sim: &Sim) -> Self {
        Self { rows: sim.ledger() }
    }

    /// The numbers of the readings of a source that arrived.
    pub(crate) fn readings(&self, source: &str) -> BTreeSet<u32> {
        let of_source = self.rows.iter().filter(|(key, _)| key.source == source);
        of_source.filter_map(|(_, entry)| Samples::of_entry(entry).reading()).collect()
    }

    /// Did every committed datum arrive, as it was?
    pub(crate) fn assert_has_all<'a>(&self, committed: impl IntoIterator<Item = &'a Committed>) {
        let arrived: BTreeMap<(&str, i64), &Entry> =
            self.rows.iter().map(|(key, entry)| ((key.source.as_str(), key.ms), entry)).collect();
        for datum in committed {
            let found = match datum.created_ms {
                Some(ms) => arrived.get(&(datum.source.as_str(), ms)).copied(),
                // It got its time later; its number tells which it is.
                None => self.rows.iter().find_map(|(key, entry)| {
                    let same = key.source == datum.source
                        && Samples::of_entry(entry).reading() == datum.samples.reading();
                    same.then_some(entry)
                }),
            };
            let Some(entry) = found else { panic!("committed and lost: {datum:?}") };
            assert_eq!(Samples::of_entry(entry), datum.samples, "{datum:?}");
        }
    }

    /// Was every arrival one that we read, none of them twice, each with the meter's own values?
    pub(crate) fn assert_only_readings(&self, source: &str, taken: u32) {
        let mut seen = BTreeSet::new();
        for (key, entry) in self.rows.iter().filter(|(key, _)| key.source == source) {
            let samples = Samples::of_entry(entry);
            let number = samples.reading().unwrap_or_else(|| panic!("no reading: {key:?}"));
            assert!((1..=taken).contains(&number), "reading {number} of {taken}: {key:?}");
            assert!(seen.insert(number), "reading {number} arrived at two instants: {key:?}");
            assert_eq!(samples, Samples::of_reading(number), "{key:?}");
        }
    }

    /// Did the content of every arrival survive its repeats?
    pub(crate) fn assert_unchanged(&self) {
        let changed: Vec<_> = self.rows.iter().filter(|(_, entry)| entry.changes > 0).collect();
        assert!(changed.is_empty(), "{changed:?}");
    }
}
