//! `[solarnet]`

use std::time::Duration;

use super::super::{
    form::{Endpoint, File, Parsed, Rate, Span, Url},
    problem::Problems,
    schema::{Key, Presence, Reader, Section},
    settings::SolarNet,
    written::Table,
};
use crate::domain::TokenName;

pub(super) static SECTION: Section = Section {
    heading: "[solarnet]",
    doc: "How SolarNetwork is reached. The defaults are the public service.",
    keys: &[&USER_URL, &QUERY_URL, &IN_URL, &TOKEN, &SIGN_HOST, &CA_FILE, &REQUEST_RATE, &TIMEOUT],
    tables: &[],
    refused: &[(
        "url",
        "`user_url` and `query_url`: SolarUser and SolarQuery have an address each",
    )],
};

static USER_URL: Key<Url> = Key {
    name: "user_url",
    form: Url { example: "https://data.solarnetwork.net/solaruser" },
    presence: Presence::Default("\"https://data.solarnetwork.net/solaruser\""),
    example: "\"https://data.solarnetwork.net/solaruser\"",
    doc: "SolarUser: uploads, instructions, tokens.",
};

static QUERY_URL: Key<Url> = Key {
    name: "query_url",
    form: Url { example: "https://data.solarnetwork.net/solarquery" },
    presence: Presence::Default("\"https://data.solarnetwork.net/solarquery\""),
    example: "\"https://data.solarnetwork.net/solarquery\"",
    doc: "SolarQuery: queries and the refresh of signing keys.",
};

static IN_URL: Key<Url> = Key {
    name: "in_url",
    form: Url { example: "https://in.solarnetwork.net/solarin" },
    presence: Presence::Default("\"https://in.solarnetwork.net/solarin\""),
    example: "\"https://in.solarnetwork.net/solarin\"",
    doc: "SolarIn: uploads and instructions with a certificate.",
};

/// A token's name on this device, in whichever section.
pub(super) const TOKEN_NAME: Parsed<TokenName> = Parsed {
    kind: "name",
    range: "1 to 64 of a-z A-Z 0-9 - _ and . , not beginning with a dot",
    shown: |_| false,
    parse: |text| text.parse().ok(),
};

static TOKEN: Key<Parsed<TokenName>> = Key {
    name: "token",
    form: TOKEN_NAME,
    presence: Presence::Default("\"site\""),
    example: "\"site\"",
    doc: "The token that signs requests, by the name that `solarnode-agent token import NAME` gave \
          it. Neither its ID nor its secret stands in this file.",
};

static SIGN_HOST: Key<Endpoint> = Key {
    name: "sign_host",
    form: Endpoint { expected: "a host such as \"data.solarnetwork.net\", without https://" },
    presence: Presence::Optional("the host of the request's address"),
    example: "\"data.solarnetwork.net\"",
    doc: "The host that goes into signatures, where a proxy makes the server see another one than \
          the agent asks for.",
};

static CA_FILE: Key<File> = Key {
    name: "ca_file",
    form: File,
    presence: Presence::Optional("only the system's authorities"),
    example: "\"/etc/solarnode-agent/ca.pem\"",
    doc: "A PEM file of certificate authorities that are trusted beside the system's. A relative \
          path starts at the folder of the file it is written in.",
};

static REQUEST_RATE: Key<Rate> = Key {
    name: "request_rate",
    form: Rate,
    presence: Presence::Default("\"0.5/s\""),
    example: "\"30/min\"",
    doc: "The most requests sent to each of the server's applications, sustained. Stay below the \
          server's own limit.",
};

static TIMEOUT: Key<Span> = Key {
    name: "timeout",
    form: Span { min: Duration::from_secs(1), max: Duration::from_secs(600) },
    presence: Presence::Default("\"30s\""),
    example: "\"1m\"",
    doc: "How long one request may take, from connecting to the last byte of the answer.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<SolarNet> {
    let solarnet = Reader::new(table, &SECTION, problems);
    let url = |key: &Key<Url>| {
        let address = solarnet.get(key)?;
        if address.readable_on_the_way {
            problems.warning(
                &solarnet.place(key.name),
                solarnet.shown(key.name),
                "https://, because others on the way can read and change http://",
            );
        }
        Some(address.text)
    };
    let user_url = url(&USER_URL);
    let query_url = url(&QUERY_URL);
    let in_url = url(&IN_URL);
    let token = solarnet.get(&TOKEN);
    let sign_host = solarnet.optional(&SIGN_HOST).map(|(host, port)| host_and_port(host, port));
    let ca_file =
        solarnet.optional(&CA_FILE).map(|path| super::beside(&solarnet.place(CA_FILE.name), &path));
    if ca_file.as_ref().is_some_and(|path| !path.is_file()) {
        let expected = "a PEM file that is there";
        solarnet.error(CA_FILE.name, solarnet.shown(CA_FILE.name), expected);
    }
    let requests_per_second = solarnet.get(&REQUEST_RATE);
    let timeout = solarnet.get(&TIMEOUT);
    Some(SolarNet {
        user_url: user_url?,
        query_url: query_url?,
        in_url: in_url?,
        token: token?,
        sign_host,
        ca_file,
        requests_per_second: requests_per_second?,
        timeout: timeout?,
    })
}

/// SolarIn knows a node by its certificate, which only TLS shows; to this machine itself, too.
pub(super) fn complain_of_no_certificate(table: &Table, solarnet: &SolarNet, problems: &Problems) {
    if solarnet.in_url.starts_with("http://") {
        let reader = Reader::known(table, &SECTION, problems);
        let expected = "https://, since http:// has no place for the node's certificate, which `upload.via` needs";
        reader.error(IN_URL.name, reader.shown(IN_URL.name), expected);
    }
}

/// As it stands in a `Host` header.
fn host_and_port(host: String, port: Option<u16>) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}
