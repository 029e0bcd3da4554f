//! `[[modbus.unit.property]]`

use std::collections::BTreeMap;

use super::{
    super::{
        form::{Choice, LABEL, Parsed, RawNumbers, Texts},
        problem::{Place, Problems},
        schema::{Inner, Key, Presence, Reader, Section, Shape},
        settings::Property,
        written::Table,
    },
    place,
    register::{self, Orders},
    scale,
};
use crate::domain::Kind;

pub(super) static SECTION: Section = Section {
    heading: "[[modbus.unit.property]]",
    doc: "One value of the unit above it, and what it becomes.",
    keys: &[
        &NAME,
        &KIND,
        &scale::MULTIPLY,
        &scale::OFFSET,
        &scale::DIGITS,
        &INVALID,
        &TAGS,
        &register::WORD_ORDER,
        &register::BYTE_ORDER,
        &register::BIT,
        &register::MASK,
    ],
    tables: &[Inner { name: "register", shape: Shape::Inline, section: &register::SECTION }],
    refused: &[
        ("address", "`address` inside register = { … }"),
        ("number", "`number` inside register = { … }"),
        ("table", "`table` inside register = { … }"),
        ("type", "`type` inside register = { … }"),
        ("length", "`length` inside register = { … }"),
        ("scale", "`multiply`, or `digits` to round"),
    ],
};

static NAME: Key<Parsed<String>> = Key {
    name: "name",
    form: LABEL,
    presence: Presence::Required,
    example: "\"watts\"",
    doc: "The property's name in the datum. Within a unit no two of the same kind share one.",
};

static KIND: Key<Choice<Kind>> = Key {
    name: "kind",
    form: Choice {
        options: &[
            ("instantaneous", Kind::Instantaneous),
            ("accumulating", Kind::Accumulating),
            ("status", Kind::Status),
        ],
        aliases: &[("i", Kind::Instantaneous), ("a", Kind::Accumulating), ("s", Kind::Status)],
        refused: &[("tag", "`tags = [\"…\"]`, a key of its own")],
    },
    presence: Presence::Required,
    example: "\"instantaneous\"",
    doc: "What it is to the server: `instantaneous` is averaged, `accumulating` (a counter that \
          only grows) is differenced, `status` is kept as text. The short `i`, `a` and `s` are \
          taken too.",
};

static INVALID: Key<RawNumbers> = Key {
    name: "invalid",
    form: RawNumbers,
    presence: Presence::Default("[]"),
    example: "[0x8000, -1]",
    doc: "Raw values that mean \"not available\", compared before scaling: the property is then left \
          out. A number in hexadecimal is the bits as they stand in the registers, so `0x8000` of \
          an `i16` is -32768.",
};

static TAGS: Key<Texts> = Key {
    name: "tags",
    form: Texts,
    presence: Presence::Default("[]"),
    example: "[\"estimated\"]",
    doc: "Labels that the datum gets whenever this property was read.",
};

/// Where the properties of a unit were seen, by kind and name.
pub(super) type Seen = BTreeMap<(&'static str, String), Place>;

pub(super) fn check(
    table: &Table,
    orders: Orders,
    max_registers: Option<u16>,
    seen: &mut Seen,
    problems: &Problems,
) -> Option<Property> {
    let property = Reader::new(table, &SECTION, problems);
    let name = property.get(&NAME);
    let kind = property.get(&KIND);
    if let (Some(name), Some(kind)) = (&name, kind) {
        let place = property.place(NAME.name);
        if let Some(other) = seen.get(&(kind_name(kind), name.clone())) {
            let found = format!("{name:?}, which {} has too", other.file_and_line());
            problems.error(&place, found, "a name of its own for each property of a kind");
        }
        seen.entry((kind_name(kind), name.clone())).or_insert(place);
    }
    if !property.has("register") {
        let expected =
            "register = { table = \"input\", address = 12, type = \"f32\" }, or another place";
        property.error("register", "nothing", expected);
    }
    let register = property
        .table("register")
        .and_then(|table| register::check(&property, table, orders, problems));
    let scale = scale::check(&property);
    let tags = property.get(&TAGS);
    let invalid = property.get(&INVALID);
    let (register, invalid) = (register?, invalid?);

    let encoding = register.encoding;
    if let Some(most) = max_registers
        && !place::is_bits(register.table)
        && encoding.words() > most
    {
        let found = format!("a value of {} registers", encoding.words());
        let expected =
            format!("at most {most}, the unit's max_registers: no value is read in pieces");
        property.error("register", found, expected);
    }
    if encoding.is_text() {
        if kind.is_some_and(|kind| kind != Kind::Status) {
            property.error(
                KIND.name,
                property.shown(KIND.name),
                "\"status\", as the type is a text",
            );
        }
        for name in [scale::MULTIPLY.name, scale::OFFSET.name, scale::DIGITS.name, INVALID.name] {
            if property.has(name) {
                property.error(name, property.shown(name), "nothing: the type is a text");
            }
        }
    }
    let mut values = Vec::new();
    for raw in invalid {
        match register::raw_value(raw, encoding) {
            Ok(value) => values.push(value),
            Err(expected) => {
                property.error(INVALID.name, raw.to_string(), expected);
                return None;
            }
        }
    }
    Some(Property {
        name: name?,
        kind: kind?,
        register,
        scale: scale?,
        invalid: values,
        tags: tags?,
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Instantaneous => "instantaneous",
        Kind::Accumulating => "accumulating",
        Kind::Status => "status",
    }
}
