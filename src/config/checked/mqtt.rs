//! `[mqtt]` and `[flux]`: brokers.

use std::{path::PathBuf, time::Duration};

use super::super::{
    form::{Endpoint, File, Flag, Parsed, Span},
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::{Broker, Flux, Mqtt},
    written::Table,
};
use crate::domain::BrokerUrl;

pub(super) static SECTION: Section = Section {
    heading: "[mqtt]",
    doc: "The broker that readings go to, and instructions come from, where `upload.via` is `\"mqtt\"`.",
    keys: &[&URL, &SERVER_NAME, &CA_FILE, &KEEP_ALIVE],
    tables: &[],
    refused: REFUSED,
};

pub(super) static FLUX: Section = Section {
    heading: "[flux]",
    doc: "SolarFlux, a live feed for dashboards: with this heading in the file, every reading is also published there as \
          it is taken. Nothing is stored for it, and what cannot be published at once is left out.",
    keys: &[&FLUX_URL, &SERVER_NAME, &CA_FILE, &RETAIN],
    tables: &[],
    refused: REFUSED,
};

const REFUSED: &[(&str, &str)] = &[
    ("username", "no user: the node's certificate says who it is"),
    ("client_id", "no client ID: it is always the node's ID"),
];

const BROKER_URL: Parsed<BrokerUrl> = Parsed {
    kind: "broker address",
    range: "`mqtts://host:port`, or `mqtt://host:port` on a network you trust; no path",
    shown: no_user,
    parse: |text| text.parse().ok(),
};

/// A password stands before an `@`.
fn no_user(text: &str) -> bool {
    !text.contains('@')
}

static URL: Key<Parsed<BrokerUrl>> = Key {
    name: "url",
    form: BROKER_URL,
    presence: Presence::Optional("what SolarIn's network identity document says"),
    example: "\"mqtts://queue.solarnetwork.net:8883\"",
    doc: "Where the broker is.",
};

static FLUX_URL: Key<Parsed<BrokerUrl>> = Key {
    name: "url",
    form: BROKER_URL,
    presence: Presence::Optional("what SolarUser's public configuration says"),
    example: "\"mqtts://influx.solarnetwork.net:8884\"",
    doc: "Where the broker is.",
};

static SERVER_NAME: Key<Endpoint> = Key {
    name: "server_name",
    form: Endpoint { expected: "a name such as \"queue.solarnetwork.net\"" },
    presence: Presence::Optional("the host in `url`"),
    example: "\"queue.solarnetwork.net\"",
    doc: "The name that the broker's certificate must have, where it is reached by another one.",
};

static CA_FILE: Key<File> = Key {
    name: "ca_file",
    form: File,
    presence: Presence::Optional("`solarnet.ca_file`"),
    example: "\"/etc/solarnode-agent/broker-ca.pem\"",
    doc: "A PEM file of certificate authorities that are trusted beside the system's for this broker. A relative \
          path starts at the folder of the file it is written in.",
};

static KEEP_ALIVE: Key<Span> = Key {
    name: "keep_alive",
    form: Span { min: Duration::from_secs(5), max: Duration::from_secs(3600) },
    presence: Presence::Default("\"1m\""),
    example: "\"30s\"",
    doc: "How long the line may be silent before it is tried out.",
};

static RETAIN: Key<Flag> = Key {
    name: "retain",
    form: Flag,
    presence: Presence::Default("false"),
    example: "true",
    doc: "Whether the broker keeps the last reading of each source for those who come later.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<Mqtt> {
    let reader = Reader::new(table, &SECTION, problems);
    let (broker, keep_alive) = (broker(&reader, &URL, problems), reader.get(&KEEP_ALIVE));
    Some(Mqtt { broker: broker?, keep_alive: keep_alive? })
}

pub(super) fn check_flux(table: &Table, problems: &Problems) -> Option<Flux> {
    let reader = Reader::new(table, &FLUX, problems);
    let (broker, retain) = (broker(&reader, &FLUX_URL, problems), reader.get(&RETAIN));
    Some(Flux { broker: broker?, retain: retain? })
}

/// A broker ends a session where another one with the same ID begins, and the ID is the node's in both.
pub(super) fn complain_of_one_broker(flux: &Table, mqtt: &Mqtt, feed: &Flux, problems: &Problems) {
    let (Some(queue), Some(url)) = (&mqtt.broker.url, &feed.broker.url) else { return };
    if url.is_at(queue) {
        let reader = Reader::new(flux, &FLUX, problems);
        let expected = "another broker than `url` of [mqtt], which has one session for each node";
        reader.error(FLUX_URL.name, reader.shown(FLUX_URL.name), expected);
    }
}

/// `None` after a complaint about a file that is not there; other complaints end the check anyway.
fn broker(
    reader: &Reader<'_>,
    url: &'static Key<Parsed<BrokerUrl>>,
    problems: &Problems,
) -> Option<Broker> {
    let place = reader.place(url.name);
    let url_shown = reader.shown(url.name);
    let url = reader.optional(url);
    if url.as_ref().is_some_and(BrokerUrl::is_readable_on_the_way) {
        let expected = "mqtts://, because others on the way can read and change mqtt://";
        problems.warning(&place, url_shown, expected);
    }
    let server_name = reader.optional(&SERVER_NAME);
    if server_name.as_ref().is_some_and(|(_, port)| port.is_some()) {
        reader.error(SERVER_NAME.name, reader.shown(SERVER_NAME.name), "a name without a port");
        return None;
    }
    let beside = |path: PathBuf| super::beside(&reader.place(CA_FILE.name), &path);
    let ca_file = reader.optional(&CA_FILE).map(beside);
    if ca_file.as_ref().is_some_and(|path| !path.is_file()) {
        reader.error(CA_FILE.name, reader.shown(CA_FILE.name), "a PEM file that is there");
        return None;
    }
    if url.as_ref().is_some_and(|url| !url.secure) {
        for name in [SERVER_NAME.name, CA_FILE.name].into_iter().filter(|name| reader.has(name)) {
            let found = format!("{}, which has no effect", reader.shown(name));
            let expected = "mqtts:// in `url`, or no such key: mqtt:// shows no certificate";
            problems.warning(&reader.place(name), found, expected);
        }
    }
    Some(Broker { url, server_name: server_name.map(|(name, _)| name), ca_file })
}
