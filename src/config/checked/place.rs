//! Where a value stands: a table and an address, in either of two notations.
//!
//! Zero-based addresses against the one-based numbers of manuals is the mistake that everybody makes
//! once, so both can be written, each under a key of its own, and complaints show the other one.

use super::super::{
    form::{self, Choice, Whole},
    schema::{Form, Key, Presence, Reader},
    settings::{Encoding, Table},
};

pub(super) static ADDRESS: Key<Whole<u16>> = Key {
    name: "address",
    form: Whole { min: 0, max: u16::MAX, unit: "" },
    presence: Presence::Optional("`number` says it"),
    example: "12",
    doc: "Zero-based, as on the wire. Manuals usually count from 1: their 30013 is address 12.",
};

pub(super) static NUMBER: Key<form::Register> = Key {
    name: "number",
    form: form::Register,
    presence: Presence::Optional("`address` says it"),
    example: "30013",
    doc: "As manuals print it: one-based, with the digit of its table in front. In place of \
          `address`, never beside it.",
};

/// Table and zero-based address. `key` is the table's, which differs by what may be done there.
pub(super) fn find(register: &Reader<'_>, key: &Key<Choice<Table>>) -> Option<(Table, u16)> {
    match (register.has(ADDRESS.name), register.has(NUMBER.name)) {
        (true, true) => {
            let expected = "`address` (from 0) or `number` (as manuals print it), not both";
            register.error(NUMBER.name, "an address as well", expected);
            None
        }
        (false, false) => {
            let expected = "an address (from 0), or in its place a `number` as manuals print it";
            register.error(ADDRESS.name, "nothing", expected);
            register.optional(key);
            None
        }
        (true, false) => {
            let address = register.optional(&ADDRESS);
            if !register.has(key.name) {
                let expected = format!("one of {}", key.form.range());
                register.error(key.name, "nothing", expected);
            }
            Some((register.optional(key)?, address?))
        }
        (false, true) => by_number(register, key),
    }
}

fn by_number(register: &Reader<'_>, key: &Key<Choice<Table>>) -> Option<(Table, u16)> {
    let (table, address) = register.optional(&NUMBER)?;
    let found = || format!("{}, in the table of {}", register.shown(NUMBER.name), plural(table));
    if !key.form.options.iter().any(|(_, option)| *option == table) {
        let expected = format!("a number in one of {}", key.form.range());
        register.error(NUMBER.name, found(), expected);
        return None;
    }
    if register.has(key.name) {
        let wanted = register.optional(key)?;
        if wanted != table {
            let (same, plural) = (number(wanted, address), plural(wanted));
            let expected = format!("{same} for the same place among {plural}, or another table");
            register.error(NUMBER.name, found(), expected);
            return None;
        }
    }
    Some((table, address))
}

/// The number as manuals print it.
fn number(table: Table, address: u16) -> String {
    let digit = match table {
        Table::Coil => 0,
        Table::Discrete => 1,
        Table::Input => 3,
        Table::Holding => 4,
    };
    let number = u32::from(address) + 1;
    let digits = if number < 10_000 { 4 } else { 5 };
    match table {
        // TOML has no numbers with zeros in front.
        Table::Coil if number >= 10_000 => format!("\"{digit}{number:0digits$}\""),
        Table::Coil => number.to_string(),
        Table::Discrete | Table::Input | Table::Holding => format!("{digit}{number:0digits$}"),
    }
}

fn plural(table: Table) -> &'static str {
    match table {
        Table::Coil => "coils",
        Table::Discrete => "discrete inputs",
        Table::Input => "input registers",
        Table::Holding => "holding registers",
    }
}

/// Whether a table holds single bits.
pub(super) fn is_bits(table: Table) -> bool {
    matches!(table, Table::Coil | Table::Discrete)
}

/// A value must not run over the end of its table.
pub(super) fn check_end(register: &Reader<'_>, address: u16, encoding: Encoding) {
    if u32::from(address) + u32::from(encoding.words()) > 65_536 {
        let name = if register.has(NUMBER.name) { NUMBER.name } else { ADDRESS.name };
        let found =
            format!("{} for a value of {} registers", register.shown(name), encoding.words());
        register.error(name, found, "a value that ends at address 65535 or before");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_suggested_as_manuals_print_it() {
        assert_eq!(number(Table::Input, 12), "30013");
        assert_eq!(number(Table::Holding, 9998), "49999");
        assert_eq!(number(Table::Holding, 9999), "410000");
        assert_eq!(number(Table::Coil, 0), "1");
        assert_eq!(number(Table::Coil, 65535), "\"065536\"");
    }
}
