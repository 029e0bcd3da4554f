//! A policy's JSON, read as the server reads it.
//!
//! Its reader walks over the text and takes what it knows. What has another type than expected
//! vanishes; three values make it fail; an empty `locationPrecisions` makes it step over the member
//! that follows; and an unknown member that holds an object or an array ends the reading, after that
//! object's own members were taken for the policy's.

use serde_json::{Map, Value};

use super::{Aggregation, Policy, Precision};

/// A text on which the server's own reader fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// A member has a value on which the server fails.
    #[error("`{0}` has a value on which the server fails")]
    Member(&'static str),
}

impl Policy {
    /// Reads a policy's text as the server does.
    ///
    /// # Errors
    ///
    /// Where the server's reader fails.
    pub fn read_text(text: &str) -> Result<Self, Unreadable> {
        Self::read(&serde_json::from_str(text).map_err(|_| Unreadable::NotJson)?)
    }

    /// Reads a policy as the server does. `null`, and whatever is no object, restricts nothing.
    ///
    /// # Errors
    ///
    /// Where the server's reader fails.
    pub fn read(value: &Value) -> Result<Self, Unreadable> {
        let mut policy = Self::default();
        if let Value::Object(members) = value {
            policy.take(members)?;
        }
        Ok(policy)
    }

    fn take(&mut self, members: &Map<String, Value>) -> Result<(), Unreadable> {
        let mut members = members.iter();
        while let Some((name, value)) = members.next() {
            match name.as_str() {
                "nodeIds" => self.node_ids = list(value, |entry| Some(node_id(entry))),
                "sourceIds" => self.source_ids = list(value, text),
                "minAggregation" => self.min_aggregation = min_aggregation(value),
                "aggregations" if is_nothing(value) => {
                    return Err(Unreadable::Member("aggregations"));
                }
                "aggregations" => self.aggregations = list(value, word(Aggregation::named)),
                "minLocationPrecision" if value.is_null() => {
                    return Err(Unreadable::Member("minLocationPrecision"));
                }
                "minLocationPrecision" => {
                    self.min_location_precision = word(Precision::named)(value);
                }
                "locationPrecisions" if value.as_array().is_some_and(Vec::is_empty) => {
                    // The member that follows is lost, whatever it is.
                    members.next();
                }
                "locationPrecisions" => {
                    self.location_precisions = list(value, word(Precision::named));
                }
                "nodeMetadataPaths" => self.node_metadata_paths = list(value, text),
                "userMetadataPaths" => self.user_metadata_paths = list(value, text),
                "apiPaths" => self.api_paths = list(value, text),
                "notAfter" => self.not_after = value.as_i64().filter(|at| *at > 0),
                "refreshAllowed" => self.refresh_allowed = value.as_bool(),
                _ => match value {
                    Value::Object(inner) => return self.take(inner),
                    Value::Array(_) => return Ok(()),
                    _ => {}
                },
            }
        }
        Ok(())
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn list<T: PartialEq>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let mut entries = Vec::new();
    for entry in value.as_array().into_iter().flatten().filter_map(read) {
        // The server keeps sets.
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries
}

/// Fractions are cut.
fn node_id(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn word<T>(named: impl Fn(&str) -> Option<T>) -> impl Fn(&Value) -> Option<T> {
    move |value| value.as_str().and_then(&named)
}

fn min_aggregation(value: &Value) -> Option<Aggregation> {
    match value {
        Value::Null => Some(Aggregation::None),
        Value::String(text) if text.is_empty() => Some(Aggregation::None),
        value => word(Aggregation::named)(value),
    }
}
