//! A token's security policy, as SolarNetwork's servers understand it. Pure.
//!
//! ```text
//!  policy JSON ──read (as leniently as the server)──▶ Policy ──evaluate──▶ served, or Refused because
//!       ▲                                              │  ▲
//!       └──────────── to_json (as the server writes) ──┘  └── intend: JSON as meant, misreadings named
//! ```
//!
//! * [`read`](Policy::read): what the server makes of a text. It is lenient to a fault: a restriction
//!   with a slip in it silently becomes *no restriction*.
//! * [`intend`]: the opposite. What the server would drop or misread is an error that says why.
//! * [`evaluate`](mod@evaluate), [`flux`]: what a policy allows, in SolarQuery and SolarUser and in SolarFlux.
//! * [`difference`]: two policies, member by member.
//!
//! An empty list and an absent one are the same to the server, so lists are plain vectors here and
//! empty means "no restriction". All eleven members that the server knows are kept, also those that
//! it never evaluates: a replacement that left one out would drop it.
//!
//! # Source
//!
//! The server classes named in `tests/vectors/policy.json`, which holds what they were seen to answer;
//! every case of it is a test here.

pub mod ant;
pub mod difference;
pub mod evaluate;
pub mod flux;
pub mod intend;
pub mod level;
mod read;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

pub use evaluate::{Refused, Request};
pub use level::{Aggregation, Precision};
pub use read::Unreadable;

/// What a token is restricted to. The default restricts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Nodes. `None` is an entry that was no number: it names no node and still restricts.
    pub node_ids: Vec<Option<i64>>,
    /// Sources, exact or as patterns.
    pub source_ids: Vec<String>,
    /// The lowest aggregation level served.
    pub min_aggregation: Option<Aggregation>,
    /// The only aggregation levels served; counts for nothing beside `min_aggregation`.
    pub aggregations: Vec<Aggregation>,
    /// Stored, not evaluated.
    pub min_location_precision: Option<Precision>,
    /// Stored, not evaluated; counts for nothing beside `min_location_precision`.
    pub location_precisions: Vec<Precision>,
    /// Paths of node metadata.
    pub node_metadata_paths: Vec<String>,
    /// Paths of user metadata.
    pub user_metadata_paths: Vec<String>,
    /// Calls, as paths below `/api/v1/sec`.
    pub api_paths: Vec<String>,
    /// The last instant at which the token is valid, in milliseconds since 1970.
    pub not_after: Option<i64>,
    /// Whether signing keys are handed out; only `false` forbids it.
    pub refresh_allowed: Option<bool>,
}

/// The members of a policy, in the order in which the server writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "they are the fields of `Policy`")]
pub enum Member {
    NodeIds,
    SourceIds,
    MinAggregation,
    Aggregations,
    MinLocationPrecision,
    LocationPrecisions,
    NodeMetadataPaths,
    UserMetadataPaths,
    ApiPaths,
    NotAfter,
    RefreshAllowed,
}

impl Member {
    /// All eleven.
    pub const ALL: [Self; 11] = [
        Self::NodeIds,
        Self::SourceIds,
        Self::MinAggregation,
        Self::Aggregations,
        Self::MinLocationPrecision,
        Self::LocationPrecisions,
        Self::NodeMetadataPaths,
        Self::UserMetadataPaths,
        Self::ApiPaths,
        Self::NotAfter,
        Self::RefreshAllowed,
    ];

    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeIds => "nodeIds",
            Self::SourceIds => "sourceIds",
            Self::MinAggregation => "minAggregation",
            Self::Aggregations => "aggregations",
            Self::MinLocationPrecision => "minLocationPrecision",
            Self::LocationPrecisions => "locationPrecisions",
            Self::NodeMetadataPaths => "nodeMetadataPaths",
            Self::UserMetadataPaths => "userMetadataPaths",
            Self::ApiPaths => "apiPaths",
            Self::NotAfter => "notAfter",
            Self::RefreshAllowed => "refreshAllowed",
        }
    }

    /// The member of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|member| member.name() == name)
    }
}

impl Policy {
    /// A member as JSON, if it is there.
    #[must_use]
    pub fn get(&self, member: Member) -> Option<Value> {
        fn list<T>(entries: &[T], shown: impl Fn(&T) -> Value) -> Option<Value> {
            (!entries.is_empty()).then(|| entries.iter().map(shown).collect())
        }
        let texts = |entries: &[String]| list(entries, |text| json!(text));
        match member {
            Member::NodeIds => {
                let mut ids = self.node_ids.clone();
                ids.sort_unstable();
                list(&ids, |id| json!(id))
            }
            Member::SourceIds => texts(&self.source_ids),
            Member::MinAggregation => self.min_aggregation.map(|level| json!(level.name())),
            Member::Aggregations => list(&self.aggregations, |level| json!(level.name())),
            Member::MinLocationPrecision => self.min_location_precision.map(|p| json!(p.name())),
            Member::LocationPrecisions => list(&self.location_precisions, |p| json!(p.name())),
            Member::NodeMetadataPaths => texts(&self.node_metadata_paths),
            Member::UserMetadataPaths => texts(&self.user_metadata_paths),
            Member::ApiPaths => texts(&self.api_paths),
            Member::NotAfter => self.not_after.map(|at| json!(at)),
            Member::RefreshAllowed => self.refresh_allowed.map(|allowed| json!(allowed)),
        }
    }

    /// Takes a member over from another policy, its absence included.
    pub fn copy(&mut self, member: Member, from: &Self) {
        match member {
            Member::NodeIds => self.node_ids.clone_from(&from.node_ids),
            Member::SourceIds => self.source_ids.clone_from(&from.source_ids),
            Member::MinAggregation => self.min_aggregation = from.min_aggregation,
            Member::Aggregations => self.aggregations.clone_from(&from.aggregations),
            Member::MinLocationPrecision => {
                self.min_location_precision = from.min_location_precision;
            }
            Member::LocationPrecisions => {
                self.location_precisions.clone_from(&from.location_precisions);
            }
            Member::NodeMetadataPaths => {
                self.node_metadata_paths.clone_from(&from.node_metadata_paths);
            }
            Member::UserMetadataPaths => {
                self.user_metadata_paths.clone_from(&from.user_metadata_paths);
            }
            Member::ApiPaths => self.api_paths.clone_from(&from.api_paths),
            Member::NotAfter => self.not_after = from.not_after,
            Member::RefreshAllowed => self.refresh_allowed = from.refresh_allowed,
        }
    }

    /// The members that are there, in the server's order.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        Member::ALL.into_iter().filter(|member| self.get(*member).is_some())
    }

    /// The members that keep a token from managing tokens: all but `notAfter` and `refreshAllowed`.
    pub fn restrictions(&self) -> impl Iterator<Item = Member> {
        let free = [Member::NotAfter, Member::RefreshAllowed];
        self.members().filter(move |member| !free.contains(member))
    }

    /// As the server stores it: a minimum makes the list beside it vanish.
    #[must_use]
    pub fn stored(mut self) -> Self {
        if self.min_aggregation.is_some() {
            self.aggregations.clear();
        }
        if self.min_location_precision.is_some() {
            self.location_precisions.clear();
        }
        self
    }

    /// As the server writes it: what is absent is left out, nodes are sorted.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let stored = self.clone().stored();
        let member = |member: Member| Some((member.name().to_owned(), stored.get(member)?));
        Value::Object(Member::ALL.into_iter().filter_map(member).collect::<Map<_, _>>())
    }

    /// What a PATCH with `patch` makes of this policy: lists become the union, and what `patch` has of
    /// the rest replaces what was there. Nothing can be taken away like this.
    #[must_use]
    pub fn merged_with(&self, patch: &Self) -> Self {
        fn union<T: Clone + PartialEq>(mine: &[T], more: &[T]) -> Vec<T> {
            let mut all = mine.to_vec();
            for entry in more {
                if !all.contains(entry) {
                    all.push(entry.clone());
                }
            }
            all
        }
        Self {
            node_ids: union(&self.node_ids, &patch.node_ids),
            source_ids: union(&self.source_ids, &patch.source_ids),
            min_aggregation: patch.min_aggregation.or(self.min_aggregation),
            aggregations: union(&self.aggregations, &patch.aggregations),
            min_location_precision: patch.min_location_precision.or(self.min_location_precision),
            location_precisions: union(&self.location_precisions, &patch.location_precisions),
            node_metadata_paths: union(&self.node_metadata_paths, &patch.node_metadata_paths),
            user_metadata_paths: union(&self.user_metadata_paths, &patch.user_metadata_paths),
            api_paths: union(&self.api_paths, &patch.api_paths),
            not_after: patch.not_after.or(self.not_after),
            refresh_allowed: patch.refresh_allowed.or(self.refresh_allowed),
        }
        .stored()
    }
}
