//! `[[modbus.unit]]`

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        form::{Choice, Parsed, Span, Texts, Whole},
        problem::Problems,
        schema::{Inner, Key, Presence, Reader, Section, Shape},
        settings::{Order, Phase, Unit},
        written::Table,
    },
    Names,
    instructions::SOURCE_ID,
    property,
    register::{self, Orders},
};
use crate::domain::SourceId;

pub(super) static SECTION: Section = Section {
    heading: "[[modbus.unit]]",
    doc: "A unit on the link above it, read as a whole into one datum of one source.",
    keys: &[
        &ID,
        &SOURCE,
        &EVERY,
        &PHASE,
        &MAX_REGISTERS,
        &MAX_BITS,
        &MAX_GAP,
        &TIMEOUT,
        &RETRIES,
        &PAUSE,
        &WORD_ORDER,
        &BYTE_ORDER,
        &TAGS,
    ],
    tables: &[Inner { name: "property", shape: Shape::Repeated, section: &property::SECTION }],
    refused: &[
        ("profile", "properties under [[modbus.unit.property]]: profiles are not in this version"),
        ("properties", "[[modbus.unit.property]], once for each property"),
    ],
};

/// A unit's address, wherever one stands.
pub(super) const UNIT_ID: Whole<u8> = Whole { min: 0, max: 255, unit: "" };

static ID: Key<Whole<u8>> = Key {
    name: "id",
    form: UNIT_ID,
    presence: Presence::Required,
    example: "1",
    doc: "The unit's address on the link; on a serial line 1 to 247. Devices that speak TCP \
          themselves often answer to 1, 0 or 255.",
};

static SOURCE: Key<Parsed<SourceId>> = Key {
    name: "source",
    form: SOURCE_ID,
    presence: Presence::Required,
    example: "\"/site/meter\"",
    doc: "The source that the unit's readings belong to. No two units or controls share one.",
};

static EVERY: Key<Span> = Key {
    name: "every",
    form: Span { min: Duration::from_millis(100), max: Duration::from_secs(86_400) },
    presence: Presence::Required,
    example: "\"10s\"",
    doc: "From one reading's start to the next one's.",
};

static PHASE: Key<Choice<Phase>> = Key {
    name: "phase",
    form: Choice {
        options: &[("spread", Phase::Spread), ("aligned", Phase::Aligned)],
        aliases: &[],
        refused: &[],
    },
    presence: Presence::Default("\"spread\""),
    example: "\"aligned\"",
    doc: "`spread` reads at an offset made from the source ID, so that units and sites do not fire \
          at once; `aligned` reads at whole multiples of `every` in UTC.",
};

static MAX_REGISTERS: Key<Whole<u16>> = Key {
    name: "max_registers",
    // Modbus Application Protocol V1.1b3, 6.3 and 6.4.
    form: Whole { min: 1, max: 125, unit: "registers" },
    presence: Presence::Default("125"),
    example: "50",
    doc: "The most registers in one request; some devices take fewer than the protocol allows.",
};

static MAX_BITS: Key<Whole<u16>> = Key {
    name: "max_bits",
    // Modbus Application Protocol V1.1b3, 6.1 and 6.2.
    form: Whole { min: 1, max: 2000, unit: "bits" },
    presence: Presence::Default("2000"),
    example: "64",
    doc: "The most coils or discrete inputs in one request.",
};

static MAX_GAP: Key<Whole<u16>> = Key {
    name: "max_gap",
    form: Whole { min: 0, max: 2000, unit: "registers or bits" },
    presence: Presence::Default("0"),
    example: "8",
    doc: "How many registers (or bits) that no property wants a request may read over to join two \
          that are wanted. With 0 nothing undeclared is ever read, which some devices demand.",
};

static TIMEOUT: Key<Span> = Key {
    name: "timeout",
    form: register::TIMEOUT,
    presence: Presence::Default("\"1s\""),
    example: "\"500ms\"",
    doc: "How long one answer may take.",
};

static RETRIES: Key<Whole<u8>> = Key {
    name: "retries",
    form: Whole { min: 0, max: 10, unit: "" },
    presence: Presence::Default("1"),
    example: "2",
    doc: "How often an unanswered request is sent again within the same reading.",
};

static PAUSE: Key<Span> = Key {
    name: "pause",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(10) },
    presence: Presence::Default("\"0s\""),
    example: "\"50ms\"",
    doc: "Silence kept before each request to this unit, on top of the link's.",
};

static WORD_ORDER: Key<Choice<Order>> = Key {
    name: "word_order",
    form: register::ORDER,
    presence: Presence::Default("\"big\""),
    example: "\"little\"",
    doc: "The order of the registers of a value of several registers, for properties that do not \
          say otherwise. `big` is the protocol's own: the most significant first.",
};

static BYTE_ORDER: Key<Choice<Order>> = Key {
    name: "byte_order",
    form: register::ORDER,
    presence: Presence::Default("\"big\""),
    example: "\"little\"",
    doc: "The order of the two bytes in each register, for properties that do not say otherwise.",
};

static TAGS: Key<Texts> = Key {
    name: "tags",
    form: Texts,
    presence: Presence::Default("[]"),
    example: "[\"north\"]",
    doc: "Labels on every reading of this unit.",
};

/// `ids` are the addresses that a unit on this link can have.
pub(super) fn check(
    table: &Table,
    ids: Whole<u8>,
    names: &mut Names,
    problems: &Problems,
) -> Option<Unit> {
    let unit = Reader::new(table, &SECTION, problems);
    let id = unit.get(&Key { form: ids, ..ID });
    let source = unit.get(&SOURCE);
    if let Some(source) = &source {
        names.add_source(source, unit.place(SOURCE.name), problems);
    }
    let every = unit.get(&EVERY);
    let phase = unit.get(&PHASE);
    let max_registers = unit.get(&MAX_REGISTERS);
    let max_bits = unit.get(&MAX_BITS);
    let max_gap = unit.get(&MAX_GAP);
    let timeout = unit.get(&TIMEOUT);
    let retries = unit.get(&RETRIES);
    let pause = unit.get(&PAUSE);
    // After a complaint any order does to check the rest.
    let orders = Orders {
        word: unit.get(&WORD_ORDER).unwrap_or(Order::Big),
        byte: unit.get(&BYTE_ORDER).unwrap_or(Order::Big),
    };
    let tags = unit.get(&TAGS);

    let tables = unit.tables("property");
    if !unit.has("property") {
        unit.error("property", "nothing", "at least one [[modbus.unit.property]]");
    }
    let mut seen = BTreeMap::new();
    let mut properties = Vec::new();
    for table in tables {
        let property = property::check(table, orders, max_registers, &mut seen, problems);
        properties.push(property);
    }
    Some(Unit {
        id: id?,
        source: source?,
        every: every?,
        phase: phase?,
        max_registers: max_registers?,
        max_bits: max_bits?,
        max_gap: max_gap?,
        timeout: timeout?,
        retries: retries?,
        pause: pause?,
        properties: properties.into_iter().collect::<Option<_>>()?,
        tags: tags?,
    })
}
