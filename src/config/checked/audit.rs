//! `[audit]`

use std::time::Duration;

use super::{
    super::{
        form::{Parsed, Span},
        problem::Problems,
        schema::{Key, Presence, Reader, Section},
        settings::Audit,
        written::Table,
    },
    solarnet,
};
use crate::domain::TokenName;

pub(super) static SECTION: Section = Section {
    heading: "[audit]",
    doc: "How SolarQuery is asked whether what was accepted is there: by `solarnode-agent audit`, and with \
          `upload.proof = \"query\"`.",
    keys: &[&TOKEN, &SETTLE],
    tables: &[],
    refused: &[],
};

static TOKEN: Key<Parsed<TokenName>> = Key {
    name: "token",
    form: solarnet::TOKEN_NAME,
    presence: Presence::Optional("`solarnet.token`, which then needs `/datum/list` in its policy"),
    example: "\"audit\"",
    doc: "The token that asks SolarQuery: best a Data token of its own, which can read and nothing \
          else (`solarnode-agent token create --for-config --type data`).",
};

static SETTLE: Key<Span> = Key {
    name: "settle",
    form: Span { min: Duration::from_millis(100), max: Duration::from_secs(3600) },
    presence: Presence::Default("\"15s\""),
    example: "\"1m\"",
    doc: "With `upload.proof = \"query\"`: how long SolarQuery may take to show what was accepted. It is asked then, \
          and after 4 and 16 times as long; what is still not shown is sent again.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Audit> {
    let audit = Reader::new(table, &SECTION, problems);
    Some(Audit { token: audit.optional(&TOKEN), settle: audit.get(&SETTLE)? })
}
