//! `[instructions]`

use std::{collections::BTreeSet, time::Duration};

use super::super::{
    form::{Flag, Listed, Parsed, Span, span_text},
    problem::{Place, Problems},
    schema::{Key, Presence, Reader, Section},
    settings::Instructions,
    written::Table,
};
use crate::domain::{NodeTopic, SourceId};

pub(super) static SECTION: Section = Section {
    heading: "[instructions]",
    doc: "How instructions are fetched and bounded. What they may do to devices stands under [[control]].",
    keys: &[&ENABLED, &POLL_FASTEST, &POLL_SLOWEST, &MAX_AGE, &RESULT_SOURCE, &ALLOW],
    tables: &[],
    refused: &[],
};

static ENABLED: Key<Flag> = Key {
    name: "enabled",
    form: Flag,
    presence: Presence::Default("true"),
    example: "false",
    doc: "Whether instructions are fetched at all.",
};

static POLL_FASTEST: Key<Span> = Key {
    name: "poll_fastest",
    form: Span { min: Duration::from_millis(200), max: Duration::from_secs(3600) },
    presence: Presence::Default("\"5s\""),
    example: "\"2s\"",
    doc: "The time between two polls just after an instruction was seen.",
};

static POLL_SLOWEST: Key<Span> = Key {
    name: "poll_slowest",
    form: Span { min: Duration::from_millis(200), max: Duration::from_secs(86_400) },
    presence: Presence::Default("\"30s\""),
    example: "\"5m\"",
    doc: "The time between two polls after a long quiet time; not below `poll_fastest`.",
};

static MAX_AGE: Key<Span> = Key {
    name: "max_age",
    form: Span { min: Duration::from_secs(1), max: Duration::from_secs(30 * 86_400) },
    presence: Presence::Default("\"15m\""),
    example: "\"1h\"",
    doc: "How old an instruction without an expiry of its own may be when it is carried out.",
};

static RESULT_SOURCE: Key<Parsed<SourceId>> = Key {
    name: "result_source",
    form: SOURCE_ID,
    presence: Presence::Optional("no such results"),
    example: "\"/site/instructions\"",
    doc: "The source of results of instructions that name no control.",
};

static ALLOW: Key<Listed<NodeTopic>> = Key {
    name: "allow",
    form: Listed {
        kind: "list of topics",
        range: "\"LoggingSetLevel\", \"SystemRestart\", \"SystemReboot\", \"SystemConfiguration\", \
                \"RenewCertificate\"",
        least: 0,
        parse: NodeTopic::from_name,
    },
    presence: Presence::Default("[]"),
    example: "[\"SystemRestart\", \"LoggingSetLevel\"]",
    doc: "What instructions may ask of the node itself. Everything else is declined; a control needs no entry, \
          it is allowed by being configured. `SystemReboot` also needs the unit \
          `solarnode-agent-reboot.path` (see operations).",
};

/// Polls go before uploads: as often as the rate allows, they would leave nothing of it.
pub(super) fn complain_of_starved_uploads(
    table: &Table,
    instructions: &Instructions,
    requests_per_second: f64,
    problems: &Problems,
) {
    let polls_per_second = instructions.poll_fastest.as_secs_f64().recip();
    if instructions.enabled && polls_per_second >= requests_per_second {
        let found = format!(
            "{}, while `solarnet.request_rate` allows {requests_per_second} requests a second: polls alone \
             use that up, and uploads wait",
            span_text(instructions.poll_fastest)
        );
        let place = Reader::known(table, &SECTION, problems).place(POLL_FASTEST.name);
        problems.warning(&place, found, "a longer interval, or a higher `solarnet.request_rate`");
    }
}

/// Where `result_source` stands.
pub(super) fn place_of_result_source(table: &Table, problems: &Problems) -> Place {
    Reader::known(table, &SECTION, problems).place(RESULT_SOURCE.name)
}

/// A source ID, wherever one stands.
pub(super) const SOURCE_ID: Parsed<SourceId> = Parsed {
    kind: "source ID",
    range: "1 to 64 characters without + # * ? , control characters or blanks at its ends",
    shown: |_| true,
    parse: |text| text.parse().ok(),
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Instructions> {
    let instructions = Reader::new(table, &SECTION, problems);
    let enabled = instructions.get(&ENABLED);
    let poll_fastest = instructions.get(&POLL_FASTEST);
    let poll_slowest = instructions.get(&POLL_SLOWEST);
    let max_age = instructions.get(&MAX_AGE);
    let result_source = instructions.optional(&RESULT_SOURCE);
    let allow = instructions.get(&ALLOW);
    if let (Some(fastest), Some(slowest)) = (poll_fastest, poll_slowest)
        && fastest > slowest
    {
        if instructions.has(POLL_SLOWEST.name) {
            let expected = format!("at least poll_fastest, which is {}", span_text(fastest));
            instructions.error(POLL_SLOWEST.name, instructions.shown(POLL_SLOWEST.name), expected);
        } else {
            let expected = format!("at most poll_slowest, which is {}", span_text(slowest));
            instructions.error(POLL_FASTEST.name, instructions.shown(POLL_FASTEST.name), expected);
        }
    }
    Some(Instructions {
        enabled: enabled?,
        poll_fastest: poll_fastest?,
        poll_slowest: poll_slowest?,
        max_age: max_age?,
        result_source,
        allow: BTreeSet::from_iter(allow?),
    })
}
