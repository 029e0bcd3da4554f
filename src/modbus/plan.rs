//! Which requests bring a unit's values. Pure.
//!
//! ```text
//!  declared   ▓▓▓▓ ▓▓      ▓▓▓▓▓▓▓▓▓▓▓▓   ▓
//!  gap ≤ 1    ├─────┤      ├──────┤├───┤  ┤     cut between values where a block would be too long
//! ```
//!
//! * Every value is in exactly one block, whole: it is never split over two requests. Values that
//!   share registers share the block, unless together they are longer than a request may be.
//! * A block is no longer than the protocol and the unit's `max_registers` or `max_bits` allow.
//! * No undeclared register is read unless at most `max_gap` of them lie between two declared ones.
//! * Blocks are in the order of tables and addresses, whatever the order of the properties.
//!
//! What a unit teaches by refusing a request is in `round`.

use std::sync::Arc;

use super::{
    frame::{MAX_READ_BITS, MAX_READ_REGISTERS, Request},
    learnt::Piece,
};
use crate::{
    config::settings::{Property, Register, Table, Unit},
    reader::health::Health,
};

/// One request and the values it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Where.
    pub table: Table,
    /// First register or bit.
    pub address: u16,
    /// How many.
    pub count: u16,
    /// The properties it brings, as indices into the unit's list.
    pub properties: Vec<usize>,
    /// Whether the unit answers it at all; some stay silent instead of refusing.
    pub health: Health,
    /// Reads for which a refusal does not split it.
    pub(super) rest: u8,
    /// What the unit said if it has no such registers; then it is asked as seldom as if it had been silent.
    pub(super) refused: Option<Arc<str>>,
}

impl Block {
    /// The request that reads it.
    #[must_use]
    pub fn request(&self) -> Request<'static> {
        Request::Read { table: self.table, address: self.address, count: self.count }
    }
}

/// Why a unit cannot be read as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// One value alone is longer than a request may be.
    #[error("property `{property}` takes {words} registers, more than the {most} of one request")]
    TooLong {
        /// The property's name.
        property: String,
        /// What it takes.
        words: u16,
        /// What the unit allows (`max_registers`, at most 125).
        most: u16,
    },
    /// The last register lies beyond the last address there is.
    #[error(
        "property `{property}` reaches beyond address 65535: {words} registers from {address} on"
    )]
    BeyondEnd {
        /// The property's name.
        property: String,
        /// Where it begins.
        address: u16,
        /// What it takes.
        words: u16,
    },
    /// A value of no length.
    #[error("property `{property}` has no length")]
    Empty {
        /// The property's name.
        property: String,
    },
}

/// The requests that bring all values of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) blocks: Vec<Block>,
    /// Where each property's value lies, for splitting.
    spans: Vec<Span>,
}

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    table: Table,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn of(register: &Register) -> Self {
        let start = register.address.into();
        Self { table: register.table, start, end: start + u32::from(register.count()) }
    }
}

fn is_bits(table: Table) -> bool {
    matches!(table, Table::Coil | Table::Discrete)
}

impl Plan {
    /// Plans the requests for all of a unit's properties.
    ///
    /// # Errors
    ///
    /// If a single value does not fit into a request.
    pub fn new(unit: &Unit) -> Result<Self, PlanError> {
        let limits = Limits::of(unit);
        for property in unit.properties.iter() {
            check(property, &limits)?;
        }
        let spans: Vec<Span> = unit.properties.iter().map(|p| Span::of(&p.register)).collect();
        let mut order: Vec<usize> = (0..spans.len()).collect();
        order.sort_by_key(|i| (spans[*i], *i));

        let mut blocks: Vec<Block> = Vec::new();
        for index in order {
            let span = spans[index];
            match blocks.last_mut() {
                Some(block) if limits.join(block, span) => block.take(span, index),
                _ => blocks.push(Block::around(span, index)),
            }
        }
        Ok(Self { blocks, spans })
    }

    /// The requests, in the order in which they are made.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Forgets which blocks were not answered. What was refused stays so.
    pub fn forget_silence(&mut self) {
        for block in self.blocks.iter_mut().filter(|block| block.refused.is_none()) {
            block.health = Health::default();
        }
    }

    /// The blocks' properties, and whether the unit has no such registers.
    pub(super) fn learnt(&self) -> impl Iterator<Item = (&[usize], bool)> {
        self.blocks.iter().map(|block| (block.properties.as_slice(), block.refused.is_some()))
    }

    /// A plan as it was learnt once; nothing if these are not blocks for all of the unit's properties.
    pub(super) fn restored(unit: &Unit, pieces: &[Piece]) -> Option<Self> {
        let Self { spans, .. } = Self::new(unit).ok()?;
        let limits = Limits::of(unit);
        let mut missing = vec![true; spans.len()];
        let mut blocks = Vec::new();
        for piece in pieces {
            let (first, more) = piece.properties.split_first()?;
            let mut block = Block::around(*spans.get(*first)?, *first);
            for index in more {
                let span = *spans.get(*index)?;
                if span < spans[*block.properties.last()?] || !limits.join(&block, span) {
                    return None;
                }
                block.take(span, *index);
            }
            for index in &piece.properties {
                if !std::mem::take(missing.get_mut(*index)?) {
                    return None;
                }
            }
            if piece.refused {
                block.health = Health::long_silent();
                block.refused =
                    Some(Arc::from("the unit refused it before the restart; asked again later"));
            }
            blocks.push(block);
        }
        (!missing.contains(&true)).then_some(Self { blocks, spans })
    }

    /// Smaller blocks for the same values, or nothing if a smaller one makes no difference.
    #[must_use]
    pub fn split(&self, block: &Block) -> Vec<Block> {
        let at_gaps = self.pieces(block);
        if at_gaps.len() > 1 {
            return at_gaps;
        }
        let cuts = |clear: bool| {
            (1..block.properties.len()).filter(move |cut| {
                let (left, right) = block.properties.split_at(*cut);
                let reach = left.iter().map(|i| self.spans[*i].end).max();
                let next = self.spans[right[0]];
                // Without a clear cut, values that overlap are parted, as long as they differ.
                if clear { reach <= Some(next.start) } else { next != self.spans[left[cut - 1]] }
            })
        };
        let middle = block.properties.len() / 2;
        let nearest = |cut: &usize| cut.abs_diff(middle);
        let Some(cut) = cuts(true).min_by_key(nearest).or_else(|| cuts(false).min_by_key(nearest))
        else {
            return Vec::new();
        };
        let (left, right) = block.properties.split_at(cut);
        vec![self.block(left), self.block(right)]
    }

    /// The block cut at every gap it bridges.
    fn pieces(&self, block: &Block) -> Vec<Block> {
        let mut pieces: Vec<Block> = Vec::new();
        for &index in &block.properties {
            let span = self.spans[index];
            match pieces.last_mut() {
                Some(piece) if span.start <= piece.end() => piece.take(span, index),
                _ => pieces.push(Block::around(span, index)),
            }
        }
        pieces
    }

    /// One block around values given in order.
    fn block(&self, properties: &[usize]) -> Block {
        let mut block = Block::around(self.spans[properties[0]], properties[0]);
        for &index in &properties[1..] {
            block.take(self.spans[index], index);
        }
        block
    }
}

impl Block {
    fn around(span: Span, index: usize) -> Self {
        let mut block = Self {
            table: span.table,
            // Both came from u16 and were checked to end at 65536 at most.
            address: u16::try_from(span.start).unwrap_or(u16::MAX),
            count: 0,
            properties: Vec::new(),
            health: Health::default(),
            rest: 0,
            refused: None,
        };
        block.take(span, index);
        block
    }

    fn take(&mut self, span: Span, index: usize) {
        let count = span.end.max(self.end()) - u32::from(self.address);
        self.count = u16::try_from(count).unwrap_or(u16::MAX);
        self.properties.push(index);
    }

    pub(super) fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }
}

/// What the unit and the protocol allow.
struct Limits {
    registers: u16,
    bits: u16,
    gap: u16,
}

impl Limits {
    fn of(unit: &Unit) -> Self {
        Self {
            registers: unit.max_registers.min(MAX_READ_REGISTERS),
            bits: unit.max_bits.min(MAX_READ_BITS),
            gap: unit.max_gap,
        }
    }

    fn most(&self, table: Table) -> u16 {
        if is_bits(table) { self.bits } else { self.registers }
    }

    /// Whether a block may grow to take in a value that begins no earlier than the block's last.
    fn join(&self, block: &Block, span: Span) -> bool {
        let end = span.end.max(block.end());
        block.table == span.table
            && span.start <= block.end() + u32::from(self.gap)
            && end - u32::from(block.address) <= u32::from(self.most(span.table))
    }
}

fn check(property: &Property, limits: &Limits) -> Result<(), PlanError> {
    let register = &property.register;
    let (words, most) = (register.count(), limits.most(register.table));
    let name = || property.name.clone();
    if words == 0 {
        return Err(PlanError::Empty { property: name() });
    }
    if words > most {
        return Err(PlanError::TooLong { property: name(), words, most });
    }
    if u32::from(register.address) + u32::from(words) > 0x1_0000 {
        let address = register.address;
        return Err(PlanError::BeyondEnd { property: name(), address, words });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::prelude::*;
    use rust_decimal::Decimal;

    use super::*;
    use crate::{
        config::settings::{Encoding, Order, Phase, Scale, Select},
        domain::Kind,
    };

    pub(in crate::modbus) fn unit(values: &[(Table, u16, u16)]) -> Unit {
        let property = |(i, &(table, address, words)): (usize, &(Table, u16, u16))| Property {
            name: format!("p{i}"),
            kind: Kind::Status,
            register: Register {
                table,
                address,
                encoding: if is_bits(table) { Encoding::Bit } else { Encoding::Bytes(words) },
                word_order: Order::Big,
                byte_order: Order::Big,
                select: Select::All,
            },
            scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
            invalid: Vec::new(),
            tags: Vec::new(),
        };
        Unit {
            id: 1,
            source: "/m".parse().expect("a source ID"),
            every: Duration::from_secs(1),
            phase: Phase::Spread,
            max_registers: 125,
            max_bits: 2000,
            max_gap: 0,
            timeout: Duration::from_secs(1),
            retries: 0,
            pause: Duration::ZERO,
            properties: values.iter().enumerate().map(property).collect(),
            tags: Vec::new(),
        }
    }

    pub(in crate::modbus) fn ranges(plan: &Plan) -> Vec<(Table, u16, u16)> {
        plan.blocks.iter().map(|b| (b.table, b.address, b.count)).collect()
    }

    fn planned(unit: &Unit) -> Vec<(Table, u16, u16)> {
        ranges(&Plan::new(unit).expect("a plan"))
    }

    pub(in crate::modbus) const H: Table = Table::Holding;
    pub(in crate::modbus) const I: Table = Table::Input;

    #[test]
    fn neighbours_share_a_request_and_tables_do_not() {
        let unit = unit(&[(H, 2, 2), (I, 4, 1), (H, 0, 2), (H, 4, 1), (Table::Coil, 5, 1)]);
        assert_eq!(planned(&unit), [(Table::Coil, 5, 1), (I, 4, 1), (H, 0, 5)]);
    }

    #[test]
    fn a_gap_is_read_over_only_up_to_its_limit() {
        let mut unit = unit(&[(H, 0, 1), (H, 3, 1), (H, 10, 1)]);
        assert_eq!(planned(&unit), [(H, 0, 1), (H, 3, 1), (H, 10, 1)]);
        unit.max_gap = 2;
        assert_eq!(planned(&unit), [(H, 0, 4), (H, 10, 1)]);
        unit.max_gap = 6;
        assert_eq!(planned(&unit), [(H, 0, 11)]);
    }

    #[test]
    fn a_long_range_is_cut_between_values_and_not_past_its_end() {
        let values: Vec<_> = (0..50).map(|i| (I, i * 2, 2)).collect();
        let mut unit = unit(&values);
        unit.max_registers = 63;
        assert_eq!(planned(&unit), [(I, 0, 62), (I, 62, 38)]);
    }

    #[test]
    fn values_in_the_same_registers_share_a_request() {
        let unit = unit(&[(H, 7, 1), (H, 7, 1), (H, 6, 4), (H, 9, 2)]);
        assert_eq!(planned(&unit), [(H, 6, 5)]);
    }

    #[test]
    fn what_cannot_be_read_names_its_property() {
        let mut long = unit(&[(H, 0, 1), (H, 5, 20)]);
        long.max_registers = 16;
        let error = Plan::new(&long).expect_err("too long").to_string();
        assert_eq!(error, "property `p1` takes 20 registers, more than the 16 of one request");
        let end = unit(&[(H, 65535, 2)]);
        assert!(matches!(Plan::new(&end), Err(PlanError::BeyondEnd { .. })));
        let empty = unit(&[(H, 0, 0)]);
        assert!(matches!(Plan::new(&empty), Err(PlanError::Empty { .. })));
        assert!(Plan::new(&unit(&[(H, 65535, 1)])).is_ok());
    }

    pub(in crate::modbus) fn units() -> impl Strategy<Value = Unit> {
        let table = prop::sample::select(vec![Table::Coil, Table::Discrete, H, I]);
        let value = (table, 0u16..400, prop_oneof![Just(1u16), Just(2), Just(4), 1u16..20]);
        (prop::collection::vec(value, 1..40), 20u16..130, 1u16..2100, 0u16..20).prop_map(
            |(values, registers, bits, gap)| Unit {
                max_registers: registers,
                max_bits: bits,
                max_gap: gap,
                ..unit(&values)
            },
        )
    }

    /// Each property lies whole in the one block that lists it.
    pub(in crate::modbus) fn whole_and_once(
        unit: &Unit,
        blocks: &[Block],
    ) -> Result<(), TestCaseError> {
        for (index, property) in unit.properties.iter().enumerate() {
            let holders: Vec<_> = blocks.iter().filter(|b| b.properties.contains(&index)).collect();
            prop_assert_eq!(holders.len(), 1, "p{}", index);
            let span = Span::of(&property.register);
            prop_assert_eq!(holders[0].table, span.table);
            prop_assert!(
                u32::from(holders[0].address) <= span.start && span.end <= holders[0].end()
            );
        }
        Ok(())
    }

    proptest! {
        /// Every value is whole in exactly one request, and no request is longer than allowed.
        #[test]
        fn requests_cover_every_value_within_limits(unit in units()) {
            let plan = Plan::new(&unit).expect("a plan");
            whole_and_once(&unit, &plan.blocks)?;
            for block in &plan.blocks {
                let most = if is_bits(block.table) { unit.max_bits.min(2000) } else { unit.max_registers.min(125) };
                prop_assert!((1..=most).contains(&block.count), "{:?}", block);
                prop_assert!(block.request().encode(&mut Vec::new()).is_ok());
            }
        }

        /// No run of undeclared registers in a request is longer than the gap limit.
        #[test]
        fn only_allowed_gaps_are_read(unit in units()) {
            let declared: BTreeSet<(Table, u32)> = unit.properties.iter()
                .map(|p| Span::of(&p.register))
                .flat_map(|s| (s.start..s.end).map(move |a| (s.table, a)))
                .collect();
            for block in Plan::new(&unit).expect("a plan").blocks() {
                let mut run = 0;
                for address in u32::from(block.address)..block.end() {
                    run = if declared.contains(&(block.table, address)) { 0 } else { run + 1 };
                    prop_assert!(run <= unit.max_gap);
                }
                prop_assert_eq!(run, 0, "a request does not end in a gap");
            }
        }

        /// The order in which properties are configured changes nothing on the bus.
        #[test]
        fn the_plan_does_not_depend_on_the_order(unit in units()) {
            let mut reversed = unit.clone();
            Arc::make_mut(&mut reversed.properties).reverse();
            prop_assert_eq!(planned(&unit), planned(&reversed));
        }
    }
}
