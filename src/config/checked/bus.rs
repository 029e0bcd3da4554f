//! `[[modbus]]`, with its link: `tcp`, `serial = { … }` or `rtu_tcp`

use std::time::Duration;

use super::{
    super::{
        form::{Endpoint, LABEL, Parsed, Span},
        problem::Problems,
        schema::{Inner, Key, Presence, Reader, Section, Shape},
        settings::{Bus, Link},
        written::Table,
    },
    Names,
    serial::{self, ON_A_LINE},
    unit::{self, UNIT_ID},
};

pub(super) static SECTION: Section = Section {
    heading: "[[modbus]]",
    doc: "A Modbus link, with the units behind it. One request at a time is under way on it.",
    keys: &[&NAME, &TCP, &RTU_TCP, &PAUSE, &CONNECT_TIMEOUT],
    tables: &[
        Inner { name: "serial", shape: Shape::Inline, section: &serial::SECTION },
        Inner { name: "unit", shape: Shape::Repeated, section: &unit::SECTION },
    ],
    refused: &[
        ("baud", "serial = { port = …, baud = … }"),
        (
            "rtu",
            "serial = { … } for a port of this machine, `rtu_tcp` for one behind a serial server",
        ),
        ("host", "`tcp`, as in tcp = \"192.0.2.7:502\""),
        ("port", "`tcp`, as in tcp = \"192.0.2.7:502\", or serial = { port = …, baud = … }"),
        ("units", "[[modbus.unit]], once for each unit"),
    ],
};

static NAME: Key<Parsed<String>> = Key {
    name: "name",
    form: LABEL,
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
    presence: Presence::Optional("`serial` or `rtu_tcp` says where"),
    example: "\"192.0.2.7:502\"",
    doc: "Where the Modbus TCP device or gateway answers. The port is 502 unless it is given. One of \
          `tcp`, `serial` and `rtu_tcp` has to be there.",
};

static RTU_TCP: Key<Endpoint> = Key {
    name: "rtu_tcp",
    form: Endpoint { expected: "a host and a port, such as \"192.0.2.7:4001\"" },
    presence: Presence::Optional("`tcp` or `serial` says where"),
    example: "\"192.0.2.7:4001\"",
    doc: "A serial server that passes the bytes of its line on as they are: RTU frames over TCP. What \
          answers at port 502 is nearly always `tcp`.",
};

static PAUSE: Key<Span> = Key {
    name: "pause",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(10) },
    presence: Presence::Default("\"0s\""),
    example: "\"20ms\"",
    doc: "Silence kept between an answer and the next request, for devices that need it. On a serial \
          line the 3.5 characters of the protocol are kept in any case.",
};

static CONNECT_TIMEOUT: Key<Span> = Key {
    name: "connect_timeout",
    form: Span { min: Duration::from_millis(100), max: Duration::from_secs(60) },
    presence: Presence::Default("\"5s\""),
    example: "\"2s\"",
    doc: "How long opening the connection may take. Without effect on a serial port.",
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
    let link = link(&bus, names, problems);
    let pause = bus.get(&PAUSE);
    let connect_timeout = bus.get(&CONNECT_TIMEOUT);
    let units = bus.tables("unit");
    // What stands there, whether it is right or not, says which addresses make sense.
    let on_a_line = bus.has("serial") || bus.has(RTU_TCP.name);
    if let Some(name) = &name {
        names.add_bus(name, bus.place(NAME.name), units.is_empty(), on_a_line, problems);
    }
    let id = if on_a_line { ON_A_LINE } else { UNIT_ID };
    let units: Vec<_> =
        units.into_iter().map(|table| unit::check(table, id, names, problems)).collect();
    Some(Bus {
        name: name?,
        link: link?,
        pause: pause?,
        connect_timeout: connect_timeout?,
        units: units.into_iter().collect::<Option<_>>()?,
    })
}

fn link(bus: &Reader<'_>, names: &mut Names, problems: &Problems) -> Option<Link> {
    let links = [TCP.name, "serial", RTU_TCP.name];
    let mut given = links.into_iter().filter(|link| bus.has(link));
    let Some(link) = given.next() else {
        let expected = "tcp = \"192.0.2.7:502\", or serial = { port = \"/dev/serial/by-id/…\", \
                        baud = 9600 }, or rtu_tcp = \"192.0.2.7:4001\"";
        bus.error(TCP.name, "nothing", expected);
        return None;
    };
    if let Some(second) = given.next() {
        bus.error(second, format!("`{link}` as well"), "one link for each [[modbus]]");
        return None;
    }
    if link == TCP.name {
        let (host, port) = bus.optional(&TCP)?;
        return Some(Link::Tcp { host, port: port.unwrap_or(PORT) });
    }
    if link == RTU_TCP.name {
        let (host, port) = bus.optional(&RTU_TCP)?;
        let Some(port) = port else {
            bus.error(RTU_TCP.name, bus.shown(RTU_TCP.name), RTU_TCP.form.expected);
            return None;
        };
        return Some(Link::RtuTcp { host, port });
    }
    let serial = serial::check(bus.table("serial")?, names, problems)?;
    Some(Link::Serial(serial))
}
