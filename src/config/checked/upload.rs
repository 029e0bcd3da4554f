//! `[upload]`

use std::time::Duration;

use super::super::{
    form::{Choice, Span, SpanOrNever, Whole},
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::{Proof, Upload, Via},
    written::Table,
};

pub(super) static SECTION: Section = Section {
    heading: "[upload]",
    doc: "How readings leave.",
    keys: &[&VIA, &EVERY, &PROOF, &IN_FLIGHT, &FALLBACK_AFTER],
    tables: &[],
    refused: &[],
};

static VIA: Key<Choice<Via>> = Key {
    name: "via",
    form: Choice {
        options: &[("import", Via::Import), ("bulk", Via::Bulk), ("mqtt", Via::Mqtt)],
        aliases: &[],
        refused: &[],
    },
    presence: Presence::Default("\"import\""),
    example: "\"mqtt\"",
    doc: "The way in. `\"import\"`: SolarUser's datum import, signed with the token. `\"bulk\"`: SolarIn's batches over \
          HTTPS, with the node's certificate. `\"mqtt\"`: SolarNetwork's broker, with the node's certificate.",
};

static EVERY: Key<Span> = Key {
    name: "every",
    form: Span { min: Duration::from_secs(1), max: Duration::from_secs(86_400) },
    presence: Presence::Default("\"1m\""),
    example: "\"5m\"",
    doc: "The longest a stored reading waits for the next batch while the server answers. Over MQTT readings \
          leave as soon as they are stored.",
};

static PROOF: Key<Choice<Level>> = Key {
    name: "proof",
    form: Choice {
        options: &[
            ("job", Level::Job),
            ("answer", Level::Answer),
            ("puback", Level::Puback),
            ("query", Level::Query),
        ],
        aliases: &[],
        refused: &[],
    },
    presence: Presence::Optional("what `via` gives: `\"job\"`, `\"answer\"` or `\"puback\"`"),
    example: "\"query\"",
    doc: "What has to be seen before a reading is deleted here. `\"job\"` (import): the job ended well and loaded \
          every row. `\"answer\"` (bulk): the answer names the reading. `\"puback\"` (mqtt): the broker took it, which \
          is not yet storage. `\"query\"` (any): SolarQuery shows it to the token of [audit].",
};

static IN_FLIGHT: Key<Whole<u16>> = Key {
    name: "in_flight",
    form: Whole { min: 1, max: 1000, unit: "messages" },
    presence: Presence::Default("20"),
    example: "50",
    doc: "Over MQTT: how many readings may be on their way to the broker at a time.",
};

static FALLBACK_AFTER: Key<SpanOrNever> = Key {
    name: "fallback_after",
    form: SpanOrNever(Span { min: Duration::from_secs(1), max: Duration::from_secs(86_400) }),
    presence: Presence::Default("\"5m\""),
    example: "\"never\"",
    doc: "Over MQTT: how long the broker may be silent before readings go over HTTPS instead, until it is back.",
};

/// The words of `proof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Job,
    Answer,
    Puback,
    Query,
}

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Upload> {
    let upload = Reader::new(table, &SECTION, problems);
    let (via, every) = (upload.get(&VIA), upload.get(&EVERY));
    let (in_flight, fallback_after) = (upload.get(&IN_FLIGHT), upload.get(&FALLBACK_AFTER));
    let level = upload.optional(&PROOF);
    let (via, every) = (via?, every?);
    let (of_via, name, word) = match via {
        Via::Import => (Level::Job, "import", "job"),
        Via::Bulk => (Level::Answer, "bulk", "answer"),
        Via::Mqtt => (Level::Puback, "mqtt", "puback"),
    };
    let proof = match level {
        Some(Level::Query) => Proof::Query,
        Some(level) if level != of_via => {
            let expected = format!("\"{word}\" or \"query\", since `via` is \"{name}\"");
            upload.error(PROOF.name, upload.shown(PROOF.name), expected);
            return None;
        }
        Some(_) | None => Proof::Answer,
    };
    Some(Upload { via, every, proof, in_flight: in_flight?, fallback_after: fallback_after? })
}
