//! `[audit]`

use super::super::{
    form::Parsed,
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::Audit,
    written::Table,
};
use crate::domain::TokenName;

pub(super) static SECTION: Section = Section {
    heading: "[audit]",
    doc: "How `solarnode-agent audit` asks whether what was accepted is still there.",
    keys: &[&TOKEN],
    tables: &[],
    refused: &[],
};

static TOKEN: Key<Parsed<TokenName>> = Key {
    name: "token",
    form: Parsed {
        kind: "name",
        range: "1 to 64 of a-z A-Z 0-9 - _ and . , not beginning with a dot",
        shown: false,
        parse: |text| text.parse().ok(),
    },
    presence: Presence::Optional("`solarnet.token`, which then needs `/datum/list` in its policy"),
    example: "\"audit\"",
    doc: "The token that asks SolarQuery: best a Data token of its own, which can read and nothing \
          else (`solarnode-agent token create --for-config --type data`).",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Audit {
    let audit = Reader::new(table, &SECTION, problems);
    Audit { token: audit.optional(&TOKEN) }
}
