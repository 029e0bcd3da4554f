//! From a control's value to what is written. Pure; the way back is `decode`.
//!
//! `raw = (value − offset) / multiply` has to be exact and in the register's range: a set-point is
//! never rounded, cut off or wrapped. A float takes a value exactly when reading it back gives that
//! value again (`float`).

use rust_decimal::{Decimal, prelude::ToPrimitive};

use super::{exact, float, frame::Request};
use crate::config::settings::{Encoding, Order, Register, Scale, Select, Table};

/// What is written for one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// One coil.
    Coil {
        /// Which.
        address: u16,
        /// On or off.
        on: bool,
    },
    /// One to four holding registers.
    Registers {
        /// The first.
        address: u16,
        /// In the order in which they stand on the unit.
        words: Vec<u16>,
    },
}

impl Write {
    /// The request: function 5 for a coil, 6 for one register, 16 for several.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        match self {
            Self::Coil { address, on } => Request::WriteCoil { address: *address, on: *on },
            Self::Registers { address, words } => match words.as_slice() {
                [word] => Request::WriteRegister { address: *address, word: *word },
                words => Request::WriteRegisters { address: *address, words },
            },
        }
    }
}

/// Why a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The table is read only.
    #[error("its table is read only")]
    ReadOnly,
    /// The register holds text, or the control is a part of a register.
    #[error("only whole numeric registers and coils can be written")]
    NotWholeNumber,
    /// Going back through `multiply` and `offset` gives no exact raw value.
    #[error("no exact raw value gives it")]
    Inexact,
    /// The raw value is not one the register can hold.
    #[error("the raw value {raw} does not fit into {encoding:?}")]
    Range {
        /// What would have to be written.
        raw: Decimal,
        /// What the register holds.
        encoding: Encoding,
    },
}

/// What to write so that the control shows `value`.
///
/// # Errors
///
/// If nothing does so exactly.
pub fn write(register: &Register, scale: &Scale, value: Decimal) -> Result<Write, Unwritable> {
    let raw = exact::unscaled(value, scale).ok_or(Unwritable::Inexact)?;
    let (address, encoding) = (register.address, register.encoding);
    let outside = || Unwritable::Range { raw, encoding };
    let truth = || match raw {
        raw if raw.is_zero() => Ok(false),
        raw if raw == Decimal::ONE => Ok(true),
        _ => Err(outside()),
    };
    match register.table {
        Table::Coil => return Ok(Write::Coil { address, on: truth()? }),
        Table::Holding => {}
        Table::Discrete | Table::Input => return Err(Unwritable::ReadOnly),
    }
    if register.select != Select::All {
        return Err(Unwritable::NotWholeNumber);
    }
    // `to_u16` and its like cut fractions off; only whole numbers may reach them.
    let whole = || raw.is_integer().then_some(raw).ok_or_else(outside);
    let bits = match encoding {
        Encoding::Bit => Some(truth()?.into()),
        Encoding::U16 => whole()?.to_u16().map(u64::from),
        Encoding::U32 => whole()?.to_u32().map(u64::from),
        Encoding::U64 => whole()?.to_u64(),
        Encoding::I16 => whole()?.to_i16().map(|n| u64::from(n.cast_unsigned())),
        Encoding::I32 => whole()?.to_i32().map(|n| u64::from(n.cast_unsigned())),
        Encoding::I64 => whole()?.to_i64().map(i64::cast_unsigned),
        Encoding::F16 => float::to_half(raw).map(u64::from),
        Encoding::F32 => float::to_single(raw).map(u64::from),
        Encoding::F64 => float::to_double(raw),
        Encoding::Bytes(_) | Encoding::Utf8(_) | Encoding::Ascii(_) => {
            return Err(Unwritable::NotWholeNumber);
        }
    };
    let bits = bits.ok_or_else(outside)?;
    let word = |shift: u16| {
        // Bit for bit: one word of the number.
        let word = (bits >> (16 * shift)) as u16;
        if register.byte_order == Order::Little { word.swap_bytes() } else { word }
    };
    let least_first = (0..encoding.words()).map(word);
    let words = match register.word_order {
        Order::Little => least_first.collect(),
        Order::Big => least_first.rev().collect(),
    };
    Ok(Write::Registers { address, words })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::modbus::{decode, frame::Data};

    fn d(text: &str) -> Decimal {
        Decimal::from_str_exact(text).expect("a decimal")
    }

    fn register(encoding: Encoding) -> Register {
        Register {
            table: Table::Holding,
            address: 7,
            encoding,
            word_order: Order::Big,
            byte_order: Order::Big,
            select: Select::All,
        }
    }

    fn scale(multiply: &str, offset: &str) -> Scale {
        Scale { multiply: d(multiply), offset: d(offset), digits: None }
    }

    #[test]
    fn one_coil_one_register_and_several_have_their_functions() {
        let one = scale("1", "0");
        let coil = Register { table: Table::Coil, ..register(Encoding::Bit) };
        for (register, value, function) in [
            (coil, "1", 5),
            (register(Encoding::U16), "7", 6),
            (register(Encoding::U32), "7", 16),
            (register(Encoding::F64), "7.25", 16),
        ] {
            let write = write(&register, &one, d(value)).expect("fits");
            assert_eq!(write.request().function(), function);
        }
    }

    #[test]
    fn a_value_that_does_not_fit_exactly_is_refused() {
        let coil = Register { table: Table::Coil, ..register(Encoding::Bit) };
        let part = Register { select: Select::Bit(3), ..register(Encoding::U16) };
        let input = Register { table: Table::Input, ..register(Encoding::U16) };
        #[rustfmt::skip]
        let cases = [
            (coil, scale("1", "0"), "2"),
            (register(Encoding::U16), scale("1", "0"), "-1"),
            (register(Encoding::U16), scale("1", "0"), "65536"),
            (register(Encoding::U16), scale("1", "0"), "1.5"),
            (register(Encoding::U16), scale("0.1", "0"), "21.55"),
            (register(Encoding::I16), scale("1", "0"), "32768"),
            (register(Encoding::U16), scale("3", "0"), "1"),
            (register(Encoding::F32), scale("1", "0"), "16777217"),
            (register(Encoding::F16), scale("1", "0"), "70000"),
            (register(Encoding::Ascii(2)), scale("1", "0"), "1"),
            (part, scale("1", "0"), "1"),
            (input, scale("1", "0"), "1"),
        ];
        for (register, scale, value) in cases {
            assert!(write(&register, &scale, d(value)).is_err(), "{register:?} {value}");
        }
    }

    fn encodings() -> impl Strategy<Value = Encoding> {
        use Encoding::*;
        prop::sample::select(vec![Bit, I16, U16, I32, U32, I64, U64, F16, F32, F64])
    }

    fn orders() -> impl Strategy<Value = Order> {
        prop::sample::select(vec![Order::Big, Order::Little])
    }

    proptest! {
        /// What can be written reads back as the value wanted, in every encoding and order.
        #[test]
        fn what_is_written_reads_back(
            encoding in encodings(), word_order in orders(), byte_order in orders(),
            value in prop_oneof![-2i64..3, any::<i16>().prop_map(i64::from), any::<i64>()],
            digits in 0u32..4, factor in prop::sample::select(vec!["1", "0.1", "-2", "1000"]),
        ) {
            let register = Register { word_order, byte_order, ..register(encoding) };
            let scale = scale(factor, "0");
            let value = Decimal::new(value, digits);
            if let Ok(Write::Registers { words, .. }) = write(&register, &scale, value) {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                let read = decode::control(&register, &scale, 7, Data::Words(&bytes));
                prop_assert_eq!(read, Ok(value));
            }
        }

        /// Every whole number within a register's range can be written.
        #[test]
        fn the_whole_range_can_be_written(value in any::<i64>(), word in any::<u16>()) {
            let one = scale("1", "0");
            prop_assert!(write(&register(Encoding::I64), &one, value.into()).is_ok());
            prop_assert!(write(&register(Encoding::U64), &one, value.cast_unsigned().into()).is_ok());
            prop_assert!(write(&register(Encoding::U16), &one, word.into()).is_ok());
            prop_assert!(write(&register(Encoding::F32), &one, word.into()).is_ok());
        }
    }
}
