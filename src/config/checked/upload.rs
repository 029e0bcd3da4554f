//! `[upload]`

use std::time::Duration;

use super::super::{
    form::{Choice, Span},
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::{Upload, Via},
    written::Table,
};

pub(super) static SECTION: Section = Section {
    heading: "[upload]",
    doc: "How readings leave.",
    keys: &[&VIA, &EVERY],
    tables: &[],
    refused: &[],
};

static VIA: Key<Choice<Via>> = Key {
    name: "via",
    form: Choice {
        options: &[("import", Via::Import)],
        aliases: &[],
        refused: &[
            ("bulk", "\"import\": this version uploads with a token, not with a certificate"),
            ("mqtt", "\"import\": this version uploads with a token, not over MQTT"),
        ],
    },
    presence: Presence::Default("\"import\""),
    example: "\"import\"",
    doc: "The way in: SolarUser's datum import, signed with the token.",
};

static EVERY: Key<Span> = Key {
    name: "every",
    form: Span { min: Duration::from_secs(1), max: Duration::from_secs(86_400) },
    presence: Presence::Default("\"1m\""),
    example: "\"5m\"",
    doc: "The longest a stored reading waits for the next batch while the server answers.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Upload> {
    let upload = Reader::new(table, &SECTION, problems);
    let (via, every) = (upload.get(&VIA), upload.get(&EVERY));
    Some(Upload { via: via?, every: every? })
}
