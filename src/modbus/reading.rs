//! What one read of a unit brought, and the datum it becomes. Pure.
//!
//! A datum carries what was read; what was not is named beside it, property by property. Its time is
//! that of the first answer.

use std::sync::Arc;

use super::{
    decode::{self, Absent, Value},
    frame::Data,
    plan::Block,
};
use crate::{
    config::settings::Unit,
    domain::{Datum, Kind, Samples, Stamp},
    reader::stamp::Increasing,
};

/// What has been read so far, property by property.
#[derive(Debug)]
pub struct Reading {
    stamp: Option<Stamp>,
    values: Vec<Option<Result<Value, Absent>>>,
}

/// What a whole read brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Absent if no property was read.
    pub datum: Option<Datum>,
    /// The properties that are missing, in the order they were configured.
    pub failed: Vec<Failed>,
}

/// A property that is missing from a datum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub property: String,
    /// Why.
    pub reason: Absent,
}

impl Reading {
    /// Nothing yet of a unit with that many properties.
    #[must_use]
    pub fn new(properties: usize) -> Self {
        Self { stamp: None, values: vec![None; properties] }
    }

    /// The unit answered; the first time counts.
    pub fn answered(&mut self, stamp: impl FnOnce() -> Stamp) {
        self.stamp.get_or_insert_with(stamp);
    }

    /// A block was read.
    pub fn take(&mut self, unit: &Unit, block: &Block, data: Data<'_>) {
        for &index in &block.properties {
            if let (Some(slot), Some(property)) =
                (self.values.get_mut(index), unit.properties.get(index))
            {
                *slot = Some(decode::value(property, block.address, data));
            }
        }
    }

    /// A block was not read.
    pub fn fail(&mut self, block: &Block, reason: &Arc<str>) {
        for &index in &block.properties {
            if let Some(slot) = self.values.get_mut(index) {
                *slot = Some(Err(Absent::NotRead(Arc::clone(reason))));
            }
        }
    }

    /// The datum, and what is missing from it; whatever was not asked for is so because of `rest`.
    #[must_use]
    pub fn finish(self, unit: &Unit, rest: &Arc<str>, stamps: &mut Increasing) -> Outcome {
        let mut samples = Samples { tags: unit.tags.clone(), ..Samples::default() };
        let mut failed = Vec::new();
        for (property, value) in unit.properties.iter().zip(self.values) {
            let name = property.name.clone();
            let value = value.unwrap_or_else(|| Err(Absent::NotRead(Arc::clone(rest))));
            match (property.kind, value) {
                (Kind::Instantaneous, Ok(Value::Number(number))) => {
                    samples.instantaneous.push((name, number));
                }
                (Kind::Accumulating, Ok(Value::Number(number))) => {
                    samples.accumulating.push((name, number));
                }
                (Kind::Status, Ok(Value::Text(text))) => samples.status.push((name, text)),
                // `decode` gives each kind its own sort of value.
                (_, Ok(_)) => {
                    failed.push(Failed { property: name, reason: Absent::NotNumber });
                    continue;
                }
                (_, Err(reason)) => {
                    failed.push(Failed { property: name, reason });
                    continue;
                }
            }
            for tag in &property.tags {
                if !samples.tags.contains(tag) {
                    samples.tags.push(tag.clone());
                }
            }
        }
        let datum = self.stamp.filter(|_| !samples.is_empty()).map(|stamp| Datum {
            source: unit.source.clone(),
            stamp: stamps.next(stamp),
            samples,
        });
        Outcome { datum, failed }
    }
}
