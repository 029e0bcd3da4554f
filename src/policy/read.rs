//! A policy's JSON, read as the server reads it.
//!
//! Its reader walks over the text token by token and takes what it knows:
//!
//! * what has another type than expected vanishes, but a `minAggregation` that is no text is `None`;
//! * `aggregations` without entries, a `minLocationPrecision` that is no text, and a null among the
//!   `locationPrecisions` make it fail;
//! * `locationPrecisions` without entries end the reading;
//! * so does an array where none belongs, and any object, after its members were taken for the policy's.

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
        for (name, value) in members {
            let is_filled = value.as_array().is_some_and(|entries| !entries.is_empty());
            match name.as_str() {
                "nodeIds" => set(&mut self.node_ids, value, |entry| Some(node_id(entry))),
                "sourceIds" => set(&mut self.source_ids, value, scalar),
                "nodeMetadataPaths" => set(&mut self.node_metadata_paths, value, scalar),
                "userMetadataPaths" => set(&mut self.user_metadata_paths, value, scalar),
                "apiPaths" => set(&mut self.api_paths, value, scalar),
                "aggregations" if !is_filled => return Err(Unreadable::Member("aggregations")),
                "aggregations" => set(&mut self.aggregations, value, |entry| {
                    aggregation(scalar(entry).as_deref())
                }),
                // What follows is lost.
                "locationPrecisions" if !is_filled => return Ok(()),
                "locationPrecisions"
                    if value.as_array().is_some_and(|e| e.contains(&Value::Null)) =>
                {
                    return Err(Unreadable::Member("locationPrecisions"));
                }
                "locationPrecisions" => set(&mut self.location_precisions, value, |entry| {
                    Precision::named(&scalar(entry)?)
                }),
                "minAggregation" => {
                    self.min_aggregation = aggregation(value.as_str()).or(self.min_aggregation);
                }
                "minLocationPrecision" => {
                    let member = Unreadable::Member("minLocationPrecision");
                    let precision = Precision::named(value.as_str().ok_or(member)?);
                    self.min_location_precision = precision.or(self.min_location_precision);
                }
                "notAfter" => {
                    let at = value.as_i64().filter(|at| *at > 0);
                    self.not_after = at.or(self.not_after);
                }
                "refreshAllowed" => {
                    self.refresh_allowed = value.as_bool().or(self.refresh_allowed);
                }
                _ => {}
            }
            match value {
                Value::Object(inner) => return self.take(inner),
                Value::Array(_) if !LISTS.contains(&name.as_str()) => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The members that are lists.
const LISTS: [&str; 7] = [
    "nodeIds",
    "sourceIds",
    "aggregations",
    "locationPrecisions",
    "nodeMetadataPaths",
    "userMetadataPaths",
    "apiPaths",
];

/// What has no entries changes nothing.
fn set<T: PartialEq>(list: &mut Vec<T>, value: &Value, read: impl Fn(&Value) -> Option<T>) {
    let mut entries = Vec::new();
    for entry in value.as_array().into_iter().flatten().filter_map(read) {
        // The server keeps sets.
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    if !entries.is_empty() {
        *list = entries;
    }
}

/// Fractions are cut.
fn node_id(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

/// Numbers and truth values in a list of texts are texts.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn aggregation(text: Option<&str>) -> Option<Aggregation> {
    match text {
        None | Some("") => Some(Aggregation::None),
        Some(text) => Aggregation::named(text),
    }
}
