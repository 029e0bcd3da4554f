//! `[identity]`

use std::time::Duration;

use super::super::{
    form::{Flag, Span},
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::Identity,
    written::Table,
};

pub(super) static SECTION: Section = Section {
    heading: "[identity]",
    doc: "The certificate that makes this machine a node, installed with `solarnode-agent identity import`. Used \
          where `upload.via` is `\"bulk\"` or `\"mqtt\"`, and by [flux].",
    keys: &[&RENEW, &RENEW_BEFORE],
    tables: &[],
    refused: &[],
};

static RENEW: Key<Flag> = Key {
    name: "renew",
    form: Flag,
    presence: Presence::Default("false"),
    example: "true",
    doc: "Whether the agent may have its certificate renewed. SolarNetwork's way of doing so sends the private key \
          to the server, which is why it has to be allowed here.",
};

static RENEW_BEFORE: Key<Span> = Key {
    name: "renew_before",
    form: Span { min: Duration::from_secs(86_400), max: Duration::from_secs(90 * 86_400) },
    presence: Presence::Default("\"60d\""),
    example: "\"30d\"",
    doc: "How long before the certificate's end warnings and renewals begin. The server refuses a renewal earlier \
          than three months before.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Identity> {
    let identity = Reader::new(table, &SECTION, problems);
    let (renew, renew_before) = (identity.get(&RENEW), identity.get(&RENEW_BEFORE));
    Some(Identity { renew: renew?, renew_before: renew_before? })
}

/// A renewed certificate comes as an instruction. Without any, the private key would be sent day after day in vain.
pub(super) fn complain_of_deaf_renewals(table: &Table, problems: &Problems) {
    let expected = "false, or `enabled = true` under [instructions]: a renewed certificate comes as an instruction, \
                    and the private key would be sent in vain";
    let reader = Reader::known(table, &SECTION, problems);
    reader.error(RENEW.name, reader.shown(RENEW.name), expected);
}
