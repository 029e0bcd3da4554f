//! Security policies: how the server reads their JSON, and what they allow.
//!
//! The two location precisions are read, kept and given back, and count as restrictions where the server asks
//! whether there are any; no server evaluates them further. Metadata paths are applied as they were designed,
//! which the examined server version has stopped doing.
//!
//! The reader is as lenient as the server's: what has the wrong type vanishes without a word, and an
//! object, or an array where none belongs, derails the rest.

mod aggregation;
pub(crate) mod ant;
pub(crate) mod flux;
mod metadata;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

pub(crate) use aggregation::Aggregation;
pub(crate) use metadata::Owner;

/// A token's policy. Every property is optional; an empty policy restricts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Entries that were no numbers are `None`: they restrict without naming a node.
    node_ids: Option<Vec<Option<i64>>>,
    source_ids: Option<Vec<String>>,
    min_aggregation: Option<Aggregation>,
    aggregations: Option<Vec<Aggregation>>,
    min_location_precision: Option<String>,
    location_precisions: Option<Vec<String>>,
    node_metadata_paths: Option<Vec<String>>,
    user_metadata_paths: Option<Vec<String>>,
    api_paths: Option<Vec<String>>,
    not_after: Option<i64>,
    refresh_allowed: Option<bool>,
}

/// The policy text is one on which the server's reader fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy property {property} has a value on which the server fails")]
pub struct UnreadablePolicy {
    property: String,
}

/// The policy leaves nothing of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied;

/// The properties that are lists.
const LISTS: [&str; 7] = [
    "nodeIds",
    "sourceIds",
    "aggregations",
    "locationPrecisions",
    "nodeMetadataPaths",
    "userMetadataPaths",
    "apiPaths",
];

const PRECISIONS: [&str; 9] = [
    "LatLong",
    "Block",
    "Street",
    "PostalCode",
    "Locality",
    "StateOrProvince",
    "Region",
    "TimeZone",
    "Country",
];

impl Policy {
    /// Reads a policy as the server does. Anything but an object is no policy.
    ///
    /// # Errors
    ///
    /// Where the server's own reader fails: `aggregations` without entries, `minLocationPrecision` that is no text.
    pub fn read(json: &Value) -> Result<Self, UnreadablePolicy> {
        let mut policy = Self::default();
        if let Value::Object(properties) = json {
            policy.read_properties(properties)?;
        }
        Ok(policy)
    }

    fn read_properties(&mut self, properties: &Map<String, Value>) -> Result<(), UnreadablePolicy> {
        for (name, value) in properties {
            let fails = || UnreadablePolicy { property: name.to_owned() };
            let entries = value.as_array().filter(|entries| !entries.is_empty());
            match name.as_str() {
                "nodeIds" => keep(&mut self.node_ids, node_ids(value)),
                "sourceIds" => keep(&mut self.source_ids, texts(value)),
                "apiPaths" => keep(&mut self.api_paths, texts(value)),
                "nodeMetadataPaths" => keep(&mut self.node_metadata_paths, texts(value)),
                "userMetadataPaths" => keep(&mut self.user_metadata_paths, texts(value)),
                "minAggregation" => keep(&mut self.min_aggregation, level(value.as_str())),
                "aggregations" => {
                    let entries = entries.ok_or_else(fails)?.iter().map(scalar);
                    let levels: Vec<_> =
                        entries.filter_map(|text| level(text.as_deref())).collect();
                    keep(&mut self.aggregations, (!levels.is_empty()).then_some(levels));
                }
                "minLocationPrecision" => {
                    let text = value.as_str().ok_or_else(fails)?;
                    keep(&mut self.min_location_precision, precision(text));
                }
                "locationPrecisions" => match entries {
                    // The reader steps over the name that follows, and what is no name ends it.
                    None => return Ok(()),
                    Some(entries) if entries.contains(&Value::Null) => return Err(fails()),
                    Some(_) => keep(&mut self.location_precisions, known(value, precision)),
                },
                "notAfter" => keep(&mut self.not_after, value.as_i64().filter(|at| *at > 0)),
                "refreshAllowed" => keep(&mut self.refresh_allowed, value.as_bool()),
                _ => {}
            }
            match value {
                // Its properties are taken for ours, and its end for the end of the policy.
                Value::Object(inner) => return self.read_properties(inner),
                Value::Array(_) if !LISTS.contains(&name.as_str()) => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The policy as the server writes it.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(name.to_owned(), value);
            }
        };
        put("nodeIds", self.node_ids.as_ref().map(|ids| json!(sorted(ids))));
        put("sourceIds", self.source_ids.as_ref().map(|list| json!(list)));
        put("minAggregation", self.min_aggregation.map(|level| json!(level.name())));
        if self.min_aggregation.is_none() {
            let names = |list: &Vec<Aggregation>| list.iter().map(|level| level.name()).collect();
            put("aggregations", self.aggregations.as_ref().map(names));
        }
        put("minLocationPrecision", self.min_location_precision.as_ref().map(|text| json!(text)));
        if self.min_location_precision.is_none() {
            put("locationPrecisions", self.location_precisions.as_ref().map(|list| json!(list)));
        }
        put("nodeMetadataPaths", self.node_metadata_paths.as_ref().map(|list| json!(list)));
        put("userMetadataPaths", self.user_metadata_paths.as_ref().map(|list| json!(list)));
        put("apiPaths", self.api_paths.as_ref().map(|list| json!(list)));
        put("notAfter", self.not_after.map(|instant| json!(instant)));
        put("refreshAllowed", self.refresh_allowed.map(|allowed| json!(allowed)));
        Value::Object(out)
    }

    /// PATCH: lists become the union, scalars are replaced where the patch has one.
    pub(crate) fn merged_with(&self, patch: &Self) -> Self {
        Self {
            node_ids: union(&self.node_ids, &patch.node_ids),
            source_ids: union(&self.source_ids, &patch.source_ids),
            min_aggregation: patch.min_aggregation.or(self.min_aggregation),
            aggregations: union(&self.aggregations, &patch.aggregations),
            min_location_precision: patch
                .min_location_precision
                .clone()
                .or(self.min_location_precision.clone()),
            location_precisions: union(&self.location_precisions, &patch.location_precisions),
            node_metadata_paths: union(&self.node_metadata_paths, &patch.node_metadata_paths),
            user_metadata_paths: union(&self.user_metadata_paths, &patch.user_metadata_paths),
            api_paths: union(&self.api_paths, &patch.api_paths),
            not_after: patch.not_after.or(self.not_after),
            refresh_allowed: patch.refresh_allowed.or(self.refresh_allowed),
        }
    }

    /// The boundary instant itself is valid.
    pub(crate) fn is_valid_at(&self, now_ms: i64) -> bool {
        self.not_after.is_none_or(|end| now_ms <= end)
    }

    /// Only an explicit `false` forbids.
    pub(crate) fn allows_refresh(&self) -> bool {
        self.refresh_allowed != Some(false)
    }

    /// Anything but `notAfter` and `refreshAllowed` keeps a token from managing others.
    pub(crate) fn restricts(&self) -> bool {
        let free = Self {
            not_after: self.not_after,
            refresh_allowed: self.refresh_allowed,
            ..Self::default()
        };
        *self != free
    }

    /// Entries are alternatives, inverted ones too, so `["/a/**", "!/b/**"]` allows everything but `/b/**`.
    pub(crate) fn allows_api_path(&self, context: &str, path: &str) -> bool {
        let Some(entries) = self.api_paths.as_ref() else { return true };
        let inside = path.strip_prefix(context).unwrap_or(path);
        let inside = inside.strip_prefix("/api/v1/sec").unwrap_or(inside);
        entries.iter().filter(|entry| !entry.trim().is_empty()).any(|entry| {
            match entry.strip_prefix('!') {
                Some(pattern) => !ant::matches(pattern, inside),
                None => ant::matches(entry, inside),
            }
        })
    }

    /// The nodes that the policy lists, if it lists any.
    pub(crate) fn listed_nodes(&self) -> Option<Vec<i64>> {
        self.node_ids.as_ref().map(|ids| ids.iter().flatten().copied().collect())
    }

    /// Whether the one node is allowed.
    pub(crate) fn allows_node(&self, node: i64) -> bool {
        self.node_ids.as_ref().is_none_or(|ids| ids.contains(&Some(node)))
    }

    /// The nodes that are served for a query; `None` when that leaves none.
    pub(crate) fn effective_nodes(&self, requested: &[i64]) -> Option<Vec<i64>> {
        let Some(listed) = self.listed_nodes() else { return Some(requested.to_vec()) };
        if requested.is_empty() {
            return Some(listed);
        }
        let left: Vec<i64> =
            requested.iter().copied().filter(|node| self.allows_node(*node)).collect();
        (!left.is_empty()).then_some(left)
    }

    /// The source IDs and patterns that are served for a query; `None` when that leaves none.
    pub(crate) fn effective_sources(&self, requested: &[String]) -> Option<Vec<String>> {
        let Some(listed) = &self.source_ids else { return Some(requested.to_vec()) };
        if requested.is_empty() {
            return Some(listed.clone());
        }
        let (patterns, exact): (Vec<&String>, Vec<&String>) =
            listed.iter().partition(|text| ant::is_pattern(text));
        let mut kept: Vec<String> = requested
            .iter()
            .filter(|source| match ant::is_pattern(source) {
                true => patterns
                    .iter()
                    .any(|pattern| pattern == source || ant::matches_start(pattern, source)),
                false => {
                    exact.contains(source)
                        || patterns.iter().any(|pattern| ant::matches(pattern, source))
                }
            })
            .cloned()
            .collect();
        for id in exact {
            let asked =
                requested.iter().any(|text| ant::is_pattern(text) && ant::matches(text, id));
            if asked && !kept.iter().any(|entry| ant::matches_start(entry, id)) {
                kept.push(id.clone());
            }
        }
        (!kept.is_empty()).then_some(kept)
    }

    /// The level that is served for a query; `Err` when none is. `Ok(None)` is a request that asks for none, and
    /// is not made to.
    pub(crate) fn effective_aggregation(
        &self,
        requested: Option<Aggregation>,
    ) -> Result<Option<Aggregation>, Denied> {
        match (self.min_aggregation, &self.aggregations) {
            (Some(minimum), _) => match requested {
                Some(level) if level.reaches(minimum) => Ok(requested),
                _ => Ok(Some(minimum)),
            },
            (None, Some(listed)) => match requested {
                Some(level) if listed.contains(&level) => Ok(requested),
                _ => Err(Denied),
            },
            (None, None) => Ok(requested),
        }
    }

    /// What of a metadata object is served; `None` when nothing is.
    pub(crate) fn effective_metadata(&self, owner: Owner, metadata: &Value) -> Option<Value> {
        let paths = match owner {
            Owner::Node => &self.node_metadata_paths,
            Owner::User => &self.user_metadata_paths,
        };
        match paths {
            None => Some(metadata.clone()),
            Some(paths) => metadata::select(paths, metadata),
        }
    }

    /// A data token reads user metadata only where its policy says what of it.
    pub(crate) fn lists_user_metadata(&self) -> bool {
        self.user_metadata_paths.is_some()
    }

    /// Whether datum of this source may be written or shown.
    pub(crate) fn allows_source(&self, source: &str) -> bool {
        self.source_ids.as_ref().is_none_or(|listed| {
            listed.iter().any(|entry| match ant::is_pattern(entry) {
                true => ant::matches(entry, source),
                false => entry == source,
            })
        })
    }
}

fn node_ids(value: &Value) -> Option<Vec<Option<i64>>> {
    // Fractions are cut, so a number that is no i64 goes through f64.
    let id = |entry: &Value| entry.as_i64().or_else(|| entry.as_f64().map(|number| number as i64));
    let list: Vec<Option<i64>> = value.as_array()?.iter().map(id).collect();
    (!list.is_empty()).then_some(list)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    known(value, |text| Some(text.to_owned()))
}

/// Only what could be read takes the place of what was.
fn keep<T>(place: &mut Option<T>, read: Option<T>) {
    if read.is_some() {
        *place = read;
    }
}

/// Numbers and truth values among texts are texts.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn known<T>(value: &Value, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let list: Vec<T> =
        value.as_array()?.iter().filter_map(scalar).filter_map(|text| read(&text)).collect();
    (!list.is_empty()).then_some(list)
}

/// No text is the level `None`.
fn level(text: Option<&str>) -> Option<Aggregation> {
    match text {
        None | Some("") => Some(Aggregation::NONE),
        Some(text) => Aggregation::named(text),
    }
}

fn precision(text: &str) -> Option<String> {
    PRECISIONS.contains(&text).then(|| text.to_owned())
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

fn union<T: PartialEq + Clone>(left: &Option<Vec<T>>, right: &Option<Vec<T>>) -> Option<Vec<T>> {
    let mut all = left.clone().unwrap_or_default();
    for entry in right.iter().flatten() {
        if !all.contains(entry) {
            all.push(entry.clone());
        }
    }
    (!all.is_empty()).then_some(all)
}
