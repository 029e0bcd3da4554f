//! `[node]`

use super::super::{
    form::Whole,
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    written::Table,
};
use crate::domain::NodeId;

pub(super) static SECTION: Section = Section {
    heading: "[node]",
    doc: "The node as SolarNetwork knows it.",
    keys: &[&ID],
    tables: &[],
    refused: &[],
};

static ID: Key<Whole<i64>> = Key {
    name: "id",
    form: Whole { min: 1, max: i64::MAX, unit: "" },
    presence: Presence::Required,
    example: "123",
    doc: "The node's ID as SolarNetwork assigned it.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<NodeId> {
    let node = Reader::new(table, &SECTION, problems);
    NodeId::try_from(node.get(&ID)?).ok()
}
