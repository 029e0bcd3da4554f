//! `[queue]`

use std::time::Duration;

use super::super::{
    form::{Size, Span},
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::Queue,
    written::Table,
};

pub(super) static SECTION: Section = Section {
    heading: "[queue]",
    doc: "How readings wait on disk until the server has them.",
    keys: &[&LIMIT, &AT_RISK],
    tables: &[],
    refused: &[],
};

static LIMIT: Key<Size> = Key {
    name: "limit",
    form: Size { min: 2 << 20, max: 1 << 40 },
    presence: Presence::Default("\"256 MiB\""),
    example: "\"1 GiB\"",
    doc: "Disk that the queue may take. At the limit the oldest readings are dropped, and counted.",
};

static AT_RISK: Key<Span> = Key {
    name: "at_risk",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(60) },
    presence: Presence::Default("\"1s\""),
    example: "\"10s\"",
    doc: "How much arriving data a power cut may cost: the longest time between two commits. Longer \
          spares the card.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Queue> {
    let queue = Reader::new(table, &SECTION, problems);
    let (limit_bytes, at_risk) = (queue.get(&LIMIT), queue.get(&AT_RISK));
    Some(Queue { limit_bytes: limit_bytes?, at_risk: at_risk? })
}
