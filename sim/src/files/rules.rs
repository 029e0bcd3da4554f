//! Which limits a collection may have: how they are read, the caps of the server, and how they have to fit each
//! other.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::collection::{Collection, Strategy};
use super::form::Form;
use super::limit;

/// Caps of the server, as its shipped environment sets them.
const MAX_VERSIONS: u64 = 5;
const MAX_ONE_VERSION: u64 = 4_000_000_000;
const MAX_COLLECTION: u64 = 15_000_000_000;

/// Something is wrong with the rules of a collection.
pub(super) struct Broken {
    pub(super) code: i64,
    pub(super) field: &'static str,
    pub(super) message: &'static str,
    pub(super) context: Value,
}

fn wrong(status: &str, code: i64, errors: Map<String, Value>, context: Value) -> Answer {
    Answer::json(
        400,
        json!({
            "status": status,
            "error_code": code,
            "http_code": 400,
            "errors": errors,
            "collection": null,
            "context": context,
        }),
    )
}

impl From<Broken> for Answer {
    fn from(broken: Broken) -> Self {
        let errors = Map::from_iter([(broken.field.to_owned(), broken.message.into())]);
        wrong("Logic validation error", broken.code, errors, broken.context)
    }
}

pub(super) const LIMIT_INPUTS: [&str; 6] = [
    "maxBackupsCount",
    "maxOneVersionSize",
    "maxCollectionSize",
    "strategy",
    "description",
    "filename",
];

/// The limits as a request writes them.
pub(super) struct Limits {
    count: String,
    one: String,
    all: String,
    strategy: String,
    description: String,
    filename: String,
}

impl Limits {
    pub(super) fn read(form: &mut Form, inputs: &Map<String, Value>) -> Self {
        let [count, one, all, strategy, description, filename] = LIMIT_INPUTS
            .map(|name| form.text(&format!("form.{name}"), inputs.get(name)).unwrap_or_default());
        Self { count, one, all, strategy, description, filename }
    }

    /// A collection with these limits, if they can be read.
    pub(super) fn check(self, id: String, created: NaiveDateTime) -> Result<Collection, Answer> {
        let mut errors = Map::new();
        let mut wants = |field: &str, found: Option<u64>, message: &str| {
            found.unwrap_or_else(|| {
                errors.insert(field.to_owned(), message.into());
                0
            })
        };
        let size = "cannot_parse_disk_space_check_format";
        let max_count =
            wants("maxBackupsCount", self.count.parse().ok(), "number_cannot_be_negative_value");
        let max_one = wants("maxOneVersionSize", limit::parse(&self.one), size);
        let max_all = wants("maxCollectionSize", limit::parse(&self.all), size);
        let strategy = [Strategy::DeleteOldest, Strategy::Alert]
            .into_iter()
            .find(|strategy| strategy.name() == self.strategy);
        wants(
            "strategy",
            strategy.map(|_| 0),
            "unknown_strategy_allowed___delete_oldest_when_adding_new___or__alert_when_backup_limit_reached",
        );
        let is_name = !self.filename.is_empty()
            && self.filename.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c));
        wants("filename", is_name.then_some(0), "invalid_format");
        match strategy.filter(|_| errors.is_empty()) {
            None => Err(wrong("Form validation error", 400, errors, Value::Null)),
            Some(strategy) => Ok(Collection {
                id,
                max_count,
                max_one,
                max_all,
                strategy,
                description: without_tags(&self.description),
                filename: self.filename,
                password: None,
                created,
                tokens: BTreeSet::new(),
                versions: Vec::new(),
            }),
        }
    }
}

/// The description loses what looks like HTML.
fn without_tags(text: &str) -> String {
    let mut inside = false;
    let visible = |c: &char| {
        let was_inside = inside;
        inside = (inside || *c == '<') && *c != '>';
        !was_inside && !inside
    };
    text.chars().filter(visible).collect()
}

impl Collection {
    pub(super) fn has_infinite_limit(&self) -> bool {
        [self.max_count, self.max_one, self.max_all].contains(&0)
    }

    /// The caps of the server, and whether the limits fit each other.
    pub(super) fn check_rules(&self) -> Result<(), Broken> {
        let broken = |code, field, message, context| Err(Broken { code, field, message, context });
        if self.max_count > MAX_VERSIONS {
            let context = json!({ "max": MAX_VERSIONS });
            return broken(4000, "maxBackupsCount", "max_backups_count_too_many", context);
        }
        if self.max_one > MAX_ONE_VERSION {
            let context = json!({ "max": limit::write(MAX_ONE_VERSION) });
            return broken(4002, "maxOneVersionSize", "max_one_version_size_too_big", context);
        }
        if self.max_all > MAX_COLLECTION {
            let context = json!({ "max": limit::write(MAX_COLLECTION) });
            return broken(4001, "maxCollectionSize", "max_collection_size_too_big", context);
        }
        if self.has_infinite_limit() {
            return Ok(());
        }
        if self.max_one > self.max_all {
            let message = "max_collection_size_is_lower_than_single_element_size";
            return broken(4003, "maxCollectionSize", message, json!([]));
        }
        let needed = self.max_count * self.max_one;
        if needed > self.max_all {
            let message =
                "max_collection_size_will_have_not_enough_space_to_keep_max_number_of_items";
            let context = json!({ "needsAtLeastValue": limit::write(needed) });
            return broken(4003, "maxCollectionSize", message, context);
        }
        Ok(())
    }
}
