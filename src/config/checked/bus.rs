//! `[[modbus]]`

use std::time::Duration;

use super::{
    super::{
        form::{Endpoint, Parsed, Span, label},
        problem::Problems,
        schema::{Inner, Key, Presence, Reader, Section, Shape},
        settings::{Bus, Link},
        written::Table,
    },
    Names, unit,
};

pub(super) static SECTION: Section = Section {
    heading: "[[modbus]]",
    doc: "A Modbus link, with the units behind it. One request at a time is under way on it.",
    keys: &[&NAME, &TCP, &PAUSE, &CONNECT_TIMEOUT],
    tables: &[Inner { name: "unit", shape: Shape::Repeated, section: &unit::SECTION }],
    refused: &[
        ("serial", "`tcp`: serial lines are not in this version"),
        ("host", "`tcp`, as in tcp = \"192.0.2.7:502\""),
        ("port", "`tcp`, as in tcp = \"192.0.2.7:502\""),
        ("units", "[[modbus.unit]], once for each unit"),
    ],
};

static NAME: Key<Parsed<String>> = Key {
    name: "name",
    form: Parsed {
        kind: "text",
        range: "1 to 64 characters without control characters and blanks at its ends",
        shown: true,
        parse: label,
    },
    presence: Presence::Required,
    example: "\"meters\"",
    doc: "A name of your own, by which controls, logs and `status` refer to the link. No two links \
          have the same.",
};

static TCP: Key<Endpoint> = Key {
    name: "tcp",
    form: Endpoint {
        expected: "a host and perhaps a port of 1 to 65535, such as \"192.0.2.7:502\" or \"[2001:db8::7]:502\"",
    },
    presence: Presence::Required,
    example: "\"192.0.2.7:502\"",
    doc: "Where the Modbus TCP device or gateway answers. The port is 502 unless it is given.",
};

static PAUSE: Key<Span> = Key {
    name: "pause",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(10) },
    presence: Presence::Default("\"0s\""),
    example: "\"20ms\"",
    doc: "Silence kept between an answer and the next request, for devices that need it.",
};

static CONNECT_TIMEOUT: Key<Span> = Key {
    name: "connect_timeout",
    form: Span { min: Duration::from_millis(100), max: Duration::from_secs(60) },
    presence: Presence::Default("\"5s\""),
    example: "\"2s\"",
    doc: "How long opening the link may take.",
};

/// Modbus TCP's registered port.
///
/// # Source
///
/// IANA service names, `mbap`.
const PORT: u16 = 502;

pub(super) fn check(table: &Table, names: &mut Names, problems: &Problems) -> Option<Bus> {
    let bus = Reader::new(table, &SECTION, problems);
    let name = bus.get(&NAME);
    // A key of another link was complained about; asking for `tcp` as well would only confuse.
    let link = if bus.has("serial") && !bus.has(TCP.name) { None } else { bus.get(&TCP) };
    let pause = bus.get(&PAUSE);
    let connect_timeout = bus.get(&CONNECT_TIMEOUT);
    let units = bus.tables("unit");
    if let Some(name) = &name {
        names.add_bus(name, bus.place(NAME.name), units.is_empty(), problems);
    }
    let units: Vec<_> =
        units.into_iter().map(|table| unit::check(table, names, problems)).collect();
    let (host, port) = link?;
    Some(Bus {
        name: name?,
        link: Link::Tcp { host, port: port.unwrap_or(PORT) },
        pause: pause?,
        connect_timeout: connect_timeout?,
        units: units.into_iter().collect::<Option<_>>()?,
    })
}
