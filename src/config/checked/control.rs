//! `[[control]]`, with `write = { … }` and `allow = { … }`

use std::{collections::BTreeMap, time::Duration};

use rust_decimal::Decimal;

use super::{
    super::{
        form::{Choice, Named, Number, Parsed, Span, Whole, label},
        problem::Problems,
        schema::{Inner, Key, Presence, Reader, Section, Shape},
        settings::{Allow, Control, Encoding, Order, Register, Scale, Select, Table},
        written,
    },
    Names,
    instructions::SOURCE_ID,
    place::{self, ADDRESS, NUMBER},
    register::{self, BYTE_ORDER, WORD_ORDER},
    scale,
    serial::ON_A_LINE,
    unit::UNIT_ID,
};
use crate::domain::{OperatingState, SourceId};

pub(super) static SECTION: Section = Section {
    heading: "[[control]]",
    doc: "Something that an instruction may set. What is not listed here cannot be set.",
    keys: &[&ID, &TOLERANCE, &SETTLE, &TIMEOUT, &STATES, &SIGNALS],
    tables: &[
        Inner { name: "write", shape: Shape::Inline, section: &WRITE },
        Inner { name: "allow", shape: Shape::Inline, section: &ALLOW },
    ],
    refused: &[],
};

static ID: Key<Parsed<SourceId>> = Key {
    name: "id",
    form: SOURCE_ID,
    presence: Presence::Required,
    example: "\"/site/relay\"",
    doc: "The control's ID, as instructions name it, and the source of its results. No two controls \
          or units share one.",
};

static TOLERANCE: Key<Number> = Key {
    name: "tolerance",
    form: Number { not_zero: false, not_negative: true },
    presence: Presence::Default("0"),
    example: "0.5",
    doc: "How far the value read back may lie from the one wanted, in the control's own units.",
};

static SETTLE: Key<Span> = Key {
    name: "settle",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(60) },
    presence: Presence::Default("\"1s\""),
    example: "\"5s\"",
    doc: "How long the device may take to show the value written.",
};

static TIMEOUT: Key<Span> = Key {
    name: "timeout",
    form: register::TIMEOUT,
    presence: Presence::Default("\"1s\""),
    example: "\"2s\"",
    doc: "How long one answer of the device may take.",
};

static STATES: Key<Named<OperatingState>> = Key {
    name: "states",
    form: Named {
        what: "operating states",
        range: "`Unknown`, `Normal`, `Starting`, `Standby`, `Shutdown`, `Fault`, `Disabled`, `Recovery`, \
                `Override`",
        parse: |name| OperatingState::from_text(name).filter(|state| state.name() == name),
    },
    presence: Presence::Optional("`SetOperatingState` is declined"),
    example: "{ Normal = 1, Standby = 0 }",
    doc: "The value that each operating state stands for. An instruction `SetOperatingState` may name these \
          and no others, by name or by SolarNetwork's code.",
};

static SIGNALS: Key<Named<String>> = Key {
    name: "signals",
    form: Named {
        what: "signals",
        range: "each name 1 to 64 characters without control characters and blanks at its ends",
        parse: label,
    },
    presence: Presence::Optional("`Signal` is declined"),
    example: "{ open = 1, close = 0 }",
    doc: "The value that each signal stands for. An instruction `Signal` may name these and no others.",
};

static WRITE: Section = Section {
    heading: "write = { … }",
    doc: "Where a control is written and read back.",
    keys: &[
        &MODBUS,
        &UNIT,
        &TABLE,
        &ADDRESS,
        &NUMBER,
        &TYPE,
        &WORD_ORDER,
        &BYTE_ORDER,
        &scale::MULTIPLY,
        &scale::OFFSET,
        &scale::DIGITS,
    ],
    tables: &[],
    refused: &[],
};

static MODBUS: Key<Parsed<String>> = Key {
    name: "modbus",
    form: Parsed {
        kind: "text",
        range: "the `name` of a [[modbus]]",
        shown: |_| true,
        parse: |text| Some(text.to_owned()),
    },
    presence: Presence::Required,
    example: "\"meters\"",
    doc: "The link that reaches the device.",
};

static UNIT: Key<Whole<u8>> = Key {
    name: "unit",
    form: UNIT_ID,
    presence: Presence::Required,
    example: "3",
    doc: "The device's address on the link. It need not be a unit that is read.",
};

static TABLE: Key<Choice<Table>> = Key {
    name: "table",
    form: Choice {
        options: &[("coil", Table::Coil), ("holding", Table::Holding)],
        aliases: &[],
        refused: &[
            ("discrete", "\"coil\" or \"holding\": discrete inputs cannot be written"),
            ("input", "\"coil\" or \"holding\": input registers cannot be written"),
        ],
    },
    presence: Presence::Optional("the table that `number` names; with `address` it must be there"),
    example: "\"coil\"",
    doc: "Coils and holding registers can be written.",
};

static TYPE: Key<Choice<Encoding>> = Key {
    name: "type",
    form: Choice {
        options: &[
            ("bit", Encoding::Bit),
            ("i16", Encoding::I16),
            ("u16", Encoding::U16),
            ("i32", Encoding::I32),
            ("u32", Encoding::U32),
            ("i64", Encoding::I64),
            ("u64", Encoding::U64),
            ("f16", Encoding::F16),
            ("f32", Encoding::F32),
            ("f64", Encoding::F64),
        ],
        aliases: &[],
        refused: &[
            ("bytes", "a number: texts are not written"),
            ("utf8", "a number: texts are not written"),
            ("ascii", "a number: texts are not written"),
        ],
    },
    presence: Presence::Optional("`\"bit\"` for a coil, `\"u16\"` for a holding register"),
    example: "\"u16\"",
    doc: "How the value is encoded. A coil is a `bit`, a holding register never is.",
};

static ALLOW: Section = Section {
    heading: "allow = { … }",
    doc: "The limits of a control, in its own units. An instruction outside them is declined.",
    keys: &[&MIN, &MAX, &EVERY],
    tables: &[],
    refused: &[],
};

static MIN: Key<Number> = Key {
    name: "min",
    form: Number { not_zero: false, not_negative: false },
    presence: Presence::Required,
    example: "0",
    doc: "The smallest value.",
};

static MAX: Key<Number> = Key {
    name: "max",
    form: Number { not_zero: false, not_negative: false },
    presence: Presence::Required,
    example: "1",
    doc: "The largest value; not below `min`.",
};

static EVERY: Key<Span> = Key {
    name: "every",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(86_400) },
    presence: Presence::Default("\"1s\""),
    example: "\"10s\"",
    doc: "The shortest time between two writes; an instruction that comes sooner is declined.",
};

pub(super) fn check(
    table: &written::Table,
    names: &mut Names,
    problems: &Problems,
) -> Option<Control> {
    let control = Reader::new(table, &SECTION, problems);
    let id = control.get(&ID);
    if let Some(id) = &id {
        names.add_source(id, control.place(ID.name), problems);
    }
    for (name, example) in [
        ("write", "write = { modbus = \"meters\", unit = 3, table = \"coil\", address = 0 }"),
        ("allow", "allow = { min = 0, max = 1 }, the limits of the control"),
    ] {
        if !control.has(name) {
            control.error(name, "nothing", example);
        }
    }
    let write = control.table("write").and_then(|table| write(table, names, problems));
    let allow = control.table("allow").and_then(|table| allow(table, problems));
    let tolerance = control.get(&TOLERANCE);
    let settle = control.get(&SETTLE);
    let timeout = control.get(&TIMEOUT);
    let states = named(&control, &STATES, allow.as_ref());
    let signals = named(&control, &SIGNALS, allow.as_ref());
    let (write, allow) = (write?, allow?);
    for (name, value) in [(MIN.name, allow.min), (MAX.name, allow.max)] {
        if let Some(reach) = out_of_reach(&write.register, &write.scale, value) {
            let place = control.place("allow").of(name);
            problems.error(&place, value.to_string(), reach);
        }
    }
    Some(Control {
        id: id?,
        bus: write.bus,
        unit: write.unit,
        register: write.register,
        scale: write.scale,
        timeout: timeout?,
        tolerance: tolerance?,
        settle: settle?,
        allow,
        states: states?,
        signals: signals?,
    })
}

/// Values with names; each within the control's limits.
fn named<T: Ord>(
    control: &Reader<'_>,
    key: &Key<Named<T>>,
    allow: Option<&Allow>,
) -> Option<BTreeMap<T, Decimal>> {
    if !control.has(key.name) {
        return Some(BTreeMap::new());
    }
    let values = control.optional(key)?;
    let outside = |value: &Decimal| allow.is_some_and(|a| *value < a.min || *value > a.max);
    let Some(value) = values.values().find(|value| outside(value)) else { return Some(values) };
    control.error(key.name, value.to_string(), "values within `allow.min` and `allow.max`");
    None
}

struct Write {
    bus: String,
    unit: u8,
    register: Register,
    scale: Scale,
}

fn write(table: &written::Table, names: &mut Names, problems: &Problems) -> Option<Write> {
    let write = Reader::new(table, &WRITE, problems);
    let bus = write.get(&MODBUS);
    if let Some(bus) = &bus
        && !names.use_bus(bus)
    {
        let known = names.bus_names();
        let expected = match known.is_empty() {
            true => "the name of a [[modbus]], of which there is none".to_owned(),
            false => format!("the name of a [[modbus]]: {known}"),
        };
        write.error(MODBUS.name, write.shown(MODBUS.name), expected);
    }
    let on_a_line = bus.as_ref().is_some_and(|bus| names.is_on_a_line(bus));
    let ids = if on_a_line { ON_A_LINE } else { UNIT_ID };
    let unit = write.get(&Key { form: ids, ..UNIT });
    let place = place::find(&write, &TABLE);
    let chosen = write.optional(&TYPE);
    let word_order = write.optional(&WORD_ORDER).unwrap_or(Order::Big);
    let byte_order = write.optional(&BYTE_ORDER).unwrap_or(Order::Big);
    let scale = scale::check(&write);
    let (table, address) = place?;
    let coil = place::is_bits(table);
    if coil {
        for name in [WORD_ORDER.name, BYTE_ORDER.name] {
            if write.has(name) {
                write.error(name, write.shown(name), "nothing: a coil is one bit");
            }
        }
    }
    let encoding = match (chosen, coil) {
        (None, true) => Encoding::Bit,
        (None, false) => Encoding::U16,
        (Some(encoding), coil) if (encoding == Encoding::Bit) == coil => encoding,
        (Some(_), true) => {
            write.error(TYPE.name, write.shown(TYPE.name), "\"bit\", as a coil is");
            return None;
        }
        (Some(_), false) => {
            let expected = "a type of 16 bits or more, such as \"u16\", for a holding register";
            write.error(TYPE.name, write.shown(TYPE.name), expected);
            return None;
        }
    };
    place::check_end(&write, address, encoding);
    let select = Select::All;
    Some(Write {
        bus: bus?,
        unit: unit?,
        register: Register { table, address, encoding, word_order, byte_order, select },
        scale: scale?,
    })
}

fn allow(table: &written::Table, problems: &Problems) -> Option<Allow> {
    let allow = Reader::new(table, &ALLOW, problems);
    let (min, max, every) = (allow.get(&MIN), allow.get(&MAX), allow.get(&EVERY));
    let (min, max) = (min?, max?);
    if min > max {
        allow.error(MIN.name, min.to_string(), format!("at most max, which is {max}"));
        return None;
    }
    Some(Allow { min, max, every: every? })
}

/// What the register can show instead, where it cannot show `value`.
fn out_of_reach(register: &Register, scale: &Scale, value: Decimal) -> Option<String> {
    let (least, most) = register::raw_range(register.encoding)?;
    let raw = scale::unscaled(scale, value);
    if raw.is_some_and(|raw| (least..=most).contains(&raw)) {
        return None;
    }
    let raw =
        raw.map_or_else(|| "too large a number".to_owned(), |raw| raw.normalize().to_string());
    Some(format!("a limit whose raw value lies between {least} and {most}; this one's is {raw}"))
}
