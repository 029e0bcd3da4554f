//! Modbus on the wire: requests to bytes, bytes to answers. Pure; knows neither sockets nor time.
//!
//! ```text
//!  PDU: function(1) data(0..252), every number with its high byte first
//!
//!  01 02 03 04  address(2) count(2)              →  function bytes(1) data
//!  05 06        address(2) value(2)              →  the same five bytes
//!  0F 10        address(2) count(2) bytes(1) data →  function address(2) count(2)
//!  refusal                                       →  function+0x80 code(1)
//! ```
//!
//! [`tcp`] and [`rtu`] put it into frames and find it there.
//!
//! An answer counts only if its function, its length and everything it has to repeat from the
//! request are right; otherwise it is a [`Mismatch`], which says what was wrong. Foreign bytes can
//! not make anything here panic. What is *not* here: which request an answer belongs to (the link
//! knows) and what the words mean (`decode`).
//!
//! # Source
//!
//! Modbus Application Protocol V1.1b3, section 6.

pub mod rtu;
pub mod tcp;

use std::fmt;

pub use tcp::{BrokenFraming, HEADER, MAX_FRAME, TcpFrame, decode_tcp, encode_tcp};

use crate::config::settings::Table;

/// Most registers one read may ask for (V1.1b3, 6.3).
pub const MAX_READ_REGISTERS: u16 = 125;
/// Most coils or discrete inputs one read may ask for (V1.1b3, 6.1).
pub const MAX_READ_BITS: u16 = 2000;
/// Most registers one write may carry (V1.1b3, 6.12).
pub const MAX_WRITE_REGISTERS: usize = 123;
/// Most coils one write may carry (V1.1b3, 6.11).
pub const MAX_WRITE_BITS: usize = 1968;

/// What is asked of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Functions 1 to 4, by table.
    Read {
        /// Where.
        table: Table,
        /// First register or bit.
        address: u16,
        /// How many.
        count: u16,
    },
    /// Function 5.
    WriteCoil {
        /// Which coil.
        address: u16,
        /// On or off.
        on: bool,
    },
    /// Function 6.
    WriteRegister {
        /// Which holding register.
        address: u16,
        /// Its new value.
        word: u16,
    },
    /// Function 15.
    WriteCoils {
        /// First coil.
        address: u16,
        /// The coils from there on.
        on: &'a [bool],
    },
    /// Function 16.
    WriteRegisters {
        /// First holding register.
        address: u16,
        /// The registers from there on.
        words: &'a [u16],
    },
}

/// A request that the protocol has no room for. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} from address {address} on do not fit into one Modbus request")]
pub struct DoesNotFit {
    address: u16,
    count: usize,
}

/// An answer, whole and belonging to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// What was read.
    Data(Data<'a>),
    /// The write was accepted.
    Written,
}

/// What was read, as it stood on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// Coils or discrete inputs, eight a byte, the first in the lowest bit.
    Bits(&'a [u8]),
    /// Registers, two bytes each, the high byte first.
    Words(&'a [u8]),
}

impl<'a> Data<'a> {
    /// Bit number `index`, if it was read.
    #[must_use]
    pub fn bit(self, index: usize) -> Option<bool> {
        match self {
            Self::Bits(bytes) => bytes.get(index / 8).map(|byte| byte >> (index % 8) & 1 == 1),
            Self::Words(_) => None,
        }
    }

    /// The bytes of `count` registers from register number `index` on, if they were read.
    #[must_use]
    pub fn words(self, index: usize, count: usize) -> Option<&'a [u8]> {
        match self {
            Self::Words(bytes) => bytes.get(index.checked_mul(2)?..(index + count).checked_mul(2)?),
            Self::Bits(_) => None,
        }
    }
}

/// A refusal, by the code the unit gave (V1.1b3, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exception(pub u8);

impl Exception {
    /// The unit does not know the function.
    pub const ILLEGAL_FUNCTION: Self = Self(1);
    /// Something in the range asked for does not exist.
    pub const ILLEGAL_ADDRESS: Self = Self(2);
    /// A value, or the length, is not allowed.
    pub const ILLEGAL_VALUE: Self = Self(3);
    /// The unit failed while it carried the request out.
    pub const DEVICE_FAILURE: Self = Self(4);
    /// The unit accepted the request and needs a while.
    pub const ACKNOWLEDGE: Self = Self(5);
    /// The unit is busy.
    pub const BUSY: Self = Self(6);
    /// A gateway has no way to the unit.
    pub const GATEWAY_PATH: Self = Self(0x0A);
    /// A gateway asked the unit and got no answer.
    pub const GATEWAY_SILENT: Self = Self(0x0B);

    /// Whether it is a gateway's word for a unit that does not answer.
    #[must_use]
    pub fn means_silence(self) -> bool {
        matches!(self, Self::GATEWAY_PATH | Self::GATEWAY_SILENT)
    }

    /// Whether a smaller request may fare better.
    #[must_use]
    pub fn blames_range(self) -> bool {
        matches!(self, Self::ILLEGAL_ADDRESS | Self::ILLEGAL_VALUE)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::ILLEGAL_FUNCTION => "illegal function",
            Self::ILLEGAL_ADDRESS => "illegal data address",
            Self::ILLEGAL_VALUE => "illegal data value",
            Self::DEVICE_FAILURE => "server device failure",
            Self::ACKNOWLEDGE => "acknowledged, in progress",
            Self::BUSY => "server device busy",
            Self(7) => "negative acknowledge",
            Self(8) => "memory parity error",
            Self::GATEWAY_PATH => "gateway path unavailable",
            Self::GATEWAY_SILENT => "gateway target did not respond",
            Self(_) => "unknown code",
        };
        write!(f, "exception {} ({name})", self.0)
    }
}

/// Why bytes are not the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another function was answered.
    #[error("function {found} answered instead of {wanted}")]
    Function {
        /// Asked for.
        wanted: u8,
        /// Answered.
        found: u8,
    },
    /// Too short, too long, or a byte count that does not fit.
    #[error("an answer of {found} bytes instead of {wanted}")]
    Length {
        /// Bytes of the PDU that the request calls for.
        wanted: usize,
        /// Bytes that came, or that the answer says it has.
        found: usize,
    },
    /// A write was confirmed with another address or value.
    #[error("a write was confirmed with another address or value than asked for")]
    Echo,
}

impl Request<'_> {
    /// The function code.
    #[must_use]
    pub fn function(&self) -> u8 {
        match self {
            Self::Read { table: Table::Coil, .. } => 1,
            Self::Read { table: Table::Discrete, .. } => 2,
            Self::Read { table: Table::Holding, .. } => 3,
            Self::Read { table: Table::Input, .. } => 4,
            Self::WriteCoil { .. } => 5,
            Self::WriteRegister { .. } => 6,
            Self::WriteCoils { .. } => 15,
            Self::WriteRegisters { .. } => 16,
        }
    }

    /// Appends the PDU.
    ///
    /// # Errors
    ///
    /// If the protocol has no room for it; `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), DoesNotFit> {
        let (address, second) = self.numbers()?;
        out.push(self.function());
        out.extend_from_slice(&address.to_be_bytes());
        out.extend_from_slice(&second.to_be_bytes());
        match *self {
            Self::Read { .. } | Self::WriteCoil { .. } | Self::WriteRegister { .. } => {}
            Self::WriteCoils { on, .. } => {
                out.push(low_byte(on.len().div_ceil(8)));
                out.extend(
                    on.chunks(8).map(|eight| {
                        eight.iter().rev().fold(0, |byte, on| byte << 1 | u8::from(*on))
                    }),
                );
            }
            Self::WriteRegisters { words, .. } => {
                out.push(low_byte(words.len() * 2));
                out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        Ok(())
    }

    /// The two numbers after the function code, checked against the protocol's limits.
    fn numbers(&self) -> Result<(u16, u16), DoesNotFit> {
        let (address, count, most) = match *self {
            Self::WriteCoil { address, on } => return Ok((address, if on { 0xFF00 } else { 0 })),
            Self::WriteRegister { address, word } => return Ok((address, word)),
            Self::Read { table: Table::Coil | Table::Discrete, address, count } => {
                (address, usize::from(count), usize::from(MAX_READ_BITS))
            }
            Self::Read { table: Table::Input | Table::Holding, address, count } => {
                (address, usize::from(count), usize::from(MAX_READ_REGISTERS))
            }
            Self::WriteCoils { address, on } => (address, on.len(), MAX_WRITE_BITS),
            Self::WriteRegisters { address, words } => (address, words.len(), MAX_WRITE_REGISTERS),
        };
        let fits = (1..=most).contains(&count) && usize::from(address) + count <= 0x1_0000;
        match u16::try_from(count) {
            Ok(number) if fits => Ok((address, number)),
            _ => Err(DoesNotFit { address, count }),
        }
    }

    /// Takes a PDU as the answer to this request: what it brings, or the unit's refusal.
    ///
    /// # Errors
    ///
    /// If the PDU is not an answer to this request.
    pub fn answer<'p>(&self, pdu: &'p [u8]) -> Result<Result<Answer<'p>, Exception>, Mismatch> {
        let wanted = self.function();
        let (&found, body) =
            pdu.split_first().ok_or(Mismatch::Length { wanted: self.answer_length(), found: 0 })?;
        if found == wanted | 0x80 {
            return match body {
                [code] => Ok(Err(Exception(*code))),
                _ => Err(Mismatch::Length { wanted: 2, found: pdu.len() }),
            };
        }
        if found != wanted {
            return Err(Mismatch::Function { wanted, found });
        }
        if pdu.len() != self.answer_length() {
            return Err(Mismatch::Length { wanted: self.answer_length(), found: pdu.len() });
        }
        match (self, body) {
            (Self::Read { table, .. }, [bytes, data @ ..]) => {
                if usize::from(*bytes) != data.len() {
                    let found = 2 + usize::from(*bytes);
                    return Err(Mismatch::Length { wanted: self.answer_length(), found });
                }
                Ok(Ok(Answer::Data(match table {
                    Table::Coil | Table::Discrete => Data::Bits(data),
                    Table::Input | Table::Holding => Data::Words(data),
                })))
            }
            (_, [a, b, c, d]) => {
                let echo = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                if self.numbers() == Ok(echo) {
                    Ok(Ok(Answer::Written))
                } else {
                    Err(Mismatch::Echo)
                }
            }
            _ => Err(Mismatch::Length { wanted: self.answer_length(), found: pdu.len() }),
        }
    }

    /// Whether the answer's third byte may be this one: its byte count, where it has one.
    fn fits_byte_count(&self, bytes: u8) -> bool {
        !matches!(self, Self::Read { .. }) || usize::from(bytes) + 2 == self.answer_length()
    }

    /// Bytes of the PDU that answers this request, refusals aside.
    fn answer_length(&self) -> usize {
        match *self {
            Self::Read { table: Table::Coil | Table::Discrete, count, .. } => {
                2 + usize::from(count).div_ceil(8)
            }
            Self::Read { table: Table::Input | Table::Holding, count, .. } => {
                2 + usize::from(count) * 2
            }
            _ => 5,
        }
    }
}

/// The byte count of a write, which the limits above keep below 256.
fn low_byte(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COILS: Request<'_> = Request::Read { table: Table::Coil, address: 0x13, count: 0x13 };
    const WORDS: Request<'_> = Request::Read { table: Table::Holding, address: 0x6B, count: 3 };

    fn pdu(request: &Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        request.encode(&mut out).expect("fits");
        out
    }

    /// The examples of the specification, sections 6.1 to 6.12.
    #[test]
    fn requests_are_the_specifications_bytes() {
        let discrete = Request::Read { table: Table::Discrete, address: 0xC4, count: 0x16 };
        let input = Request::Read { table: Table::Input, address: 8, count: 1 };
        let coils = [true, false, true, true, false, false, true, true, true, false];
        #[rustfmt::skip]
        let cases: [(Request<'_>, &[u8]); 8] = [
            (COILS, &[1, 0, 0x13, 0, 0x13]),
            (discrete, &[2, 0, 0xC4, 0, 0x16]),
            (WORDS, &[3, 0, 0x6B, 0, 3]),
            (input, &[4, 0, 8, 0, 1]),
            (Request::WriteCoil { address: 0xAC, on: true }, &[5, 0, 0xAC, 0xFF, 0]),
            (Request::WriteRegister { address: 1, word: 3 }, &[6, 0, 1, 0, 3]),
            (Request::WriteCoils { address: 0x13, on: &coils }, &[15, 0, 0x13, 0, 10, 2, 0xCD, 1]),
            (Request::WriteRegisters { address: 1, words: &[10, 0x102] }, &[16, 0, 1, 0, 2, 4, 0, 10, 1, 2]),
        ];
        for (request, want) in cases {
            assert_eq!(pdu(&request), want, "{request:?}");
        }
    }

    #[test]
    fn the_specifications_answers_are_understood() {
        let bits = COILS.answer(&[1, 3, 0xCD, 0x6B, 5]).expect("fits").expect("no refusal");
        let Answer::Data(bits) = bits else { panic!("{bits:?}") };
        let read: Vec<bool> = (0..8).filter_map(|i| bits.bit(i)).collect();
        assert_eq!(read, [true, false, true, true, false, false, true, true]);
        assert_eq!(bits.bit(18), Some(true));
        assert_eq!(bits.bit(24), None);

        let words = WORDS.answer(&[3, 6, 2, 0x2B, 0, 0, 0, 0x64]).expect("fits").expect("data");
        let Answer::Data(words) = words else { panic!("{words:?}") };
        assert_eq!(words.words(2, 1), Some(&[0, 0x64][..]));
        assert_eq!(words.words(2, 2), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_its_request_is_a_mismatch() {
        let write = Request::WriteRegisters { address: 1, words: &[1, 2] };
        let coil = Request::WriteCoil { address: 5, on: true };
        let length = |wanted, found| Err(Mismatch::Length { wanted, found });
        assert_eq!(WORDS.answer(&[]), length(8, 0));
        assert_eq!(
            WORDS.answer(&[4, 6, 0, 0, 0, 0, 0, 0]),
            Err(Mismatch::Function { wanted: 3, found: 4 })
        );
        assert_eq!(WORDS.answer(&[3, 4, 0, 0, 0, 0]), length(8, 6));
        assert_eq!(WORDS.answer(&[3, 4, 0, 0, 0, 0, 0, 0]), length(8, 6));
        assert_eq!(WORDS.answer(&[0x83]), length(2, 1));
        assert_eq!(WORDS.answer(&[0x83, 2, 0]), length(2, 3));
        assert_eq!(WORDS.answer(&[0x83, 2]), Ok(Err(Exception::ILLEGAL_ADDRESS)));
        assert_eq!(write.answer(&[16, 0, 1, 0, 2]), Ok(Ok(Answer::Written)));
        assert_eq!(write.answer(&[16, 0, 1, 0, 1]), Err(Mismatch::Echo));
        assert_eq!(coil.answer(&[5, 0, 5, 0xFF, 0]), Ok(Ok(Answer::Written)));
        assert_eq!(coil.answer(&[5, 0, 5, 0, 0]), Err(Mismatch::Echo));
    }

    #[test]
    fn nothing_beyond_the_protocols_limits_is_encoded() {
        let read = |table, address, count| Request::Read { table, address, count };
        for bad in [
            read(Table::Holding, 0, 0),
            read(Table::Holding, 0, 126),
            read(Table::Coil, 0, 2001),
            read(Table::Input, 65535, 2),
            Request::WriteRegisters { address: 0, words: &[0; 124] },
            Request::WriteRegisters { address: 0, words: &[] },
            Request::WriteCoils { address: 0, on: &[false; 1969] },
        ] {
            let mut out = vec![1];
            assert!(bad.encode(&mut out).is_err(), "{bad:?}");
            assert_eq!(out, [1]);
        }
        assert!(read(Table::Input, 65535, 1).encode(&mut Vec::new()).is_ok());
    }

    proptest! {
        /// Whatever bytes arrive, the result is a verdict, and a frame never reaches past them.
        #[test]
        fn foreign_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(frame)) = decode_tcp(&bytes) {
                prop_assert!(bytes.get(frame.pdu.clone()).is_some());
            }
            for request in [COILS, WORDS, Request::WriteCoil { address: 0, on: true }] {
                if let Ok(Ok(Answer::Data(data))) = request.answer(&bytes) {
                    prop_assert!(data.bit(COILS_LAST).is_some() || data.words(0, 3).is_some());
                }
            }
        }
    }

    const COILS_LAST: usize = 0x12;
}
