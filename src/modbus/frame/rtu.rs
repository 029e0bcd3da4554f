//! Modbus RTU frames: nothing says where one ends, so lengths are predicted and checksums decide.
//!
//! ```text
//!  unit(1) PDU(1..253) CRC(2, low byte first)        at most 256 bytes
//!
//!  function 01 to 04   ends `bytes` after its third byte
//!           05 06 0F 10   8 bytes
//!           + 0x80        5 bytes
//!
//!  noise… 01 │ 01 03 04 00 2A 00 07 CRC │ noise…      the answer is looked for at every offset
//! ```
//!
//! [`find_answer`] takes only what the request calls for: its unit, its function, its length, its echo, and the
//! right checksum; all that stands before it is noise. A frame cannot be told from an earlier one of the same
//! unit, function and length: RTU has no transaction numbers. The link keeps them apart in time.
//!
//! # Source
//!
//! Modbus over Serial Line V1.02, sections 2.3, 2.5.1 and appendix B.

use std::ops::Range;

use super::{DoesNotFit, Request};

/// Longest frame: unit, a PDU of 253 bytes, checksum.
pub const MAX_FRAME: usize = 256;
/// A refusal: unit, function, code, checksum. No answer is shorter.
const REFUSAL: usize = 5;
/// Unit and checksum, around the PDU.
const AROUND: usize = 3;

/// The checksum of a frame: CRC-16, polynomial 0xA001 reflected, begun with ones.
#[must_use]
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        let index = usize::from(crc.to_le_bytes()[0] ^ byte);
        crc >> 8 ^ TABLE[index]
    })
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0_u16;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

/// Replaces `out` by a whole RTU frame.
///
/// # Errors
///
/// If the protocol has no room for the request.
pub fn encode(unit: u8, request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), DoesNotFit> {
    out.clear();
    out.push(unit);
    request.encode(out)?;
    out.extend_from_slice(&crc(out).to_le_bytes());
    Ok(())
}

/// Bytes of a request's frame.
#[must_use]
pub fn request_length(request: &Request<'_>) -> usize {
    match request {
        Request::Read { .. } | Request::WriteCoil { .. } | Request::WriteRegister { .. } => 8,
        Request::WriteCoils { on, .. } => 9 + on.len().div_ceil(8),
        Request::WriteRegisters { words, .. } => 9 + words.len() * 2,
    }
}

/// Bytes of the frame that answers a request, refusals aside.
#[must_use]
pub fn answer_length(request: &Request<'_>) -> usize {
    request.answer_length() + AROUND
}

/// What stands in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The answer's PDU, right in everything; what stands before its frame is noise.
    Answer(Range<usize>),
    /// All of the answer has come, and its checksum is wrong.
    Damaged,
    /// Not the answer, or not all of it.
    Nothing,
}

/// Looks for the answer of `unit` to `request`. While more bytes may come, one that has begun is waited for; with
/// `last`, what stands behind such a beginning is looked at as well: it may be noise that looks like one.
#[must_use]
pub fn find_answer(unit: u8, request: &Request<'_>, bytes: &[u8], last: bool) -> Found {
    let function = request.function();
    let mut damaged = false;
    for start in 0..bytes.len() {
        let rest = &bytes[start..];
        let length = match *rest {
            [u] | [u, ..] if u != unit => continue,
            [_] => answer_length(request),
            [_, f, ..] if f == function | 0x80 => REFUSAL,
            [_, f, ..] if f != function => continue,
            [_, _, bytes, ..] if !request.fits_byte_count(bytes) => continue,
            _ => answer_length(request),
        };
        let Some(frame) = rest.get(..length) else {
            if last {
                continue;
            }
            return Found::Nothing;
        };
        let pdu = 1..length - 2;
        if !has_right_crc(frame) {
            // Of a read the first three bytes are as they should be, which noise hardly is.
            damaged |= length > REFUSAL && matches!(request, Request::Read { .. });
        } else if request.answer(&frame[pdu.clone()]).is_ok() {
            return Found::Answer(start + pdu.start..start + pdu.end);
        }
    }
    if damaged { Found::Damaged } else { Found::Nothing }
}

/// A frame of any unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtuFrame {
    /// Which unit it claims to be from.
    pub unit: u8,
    /// Where in the buffer its PDU is; the checksum's two bytes follow.
    pub pdu: Range<usize>,
}

/// The first whole frame of an answer, whoever sent it, at or after `from`.
#[must_use]
pub fn find_any(bytes: &[u8], from: usize) -> Option<RtuFrame> {
    (from..bytes.len()).find_map(|start| {
        let rest = &bytes[start..];
        let length = predicted_length(rest)?;
        let frame = rest.get(..length).filter(|frame| has_right_crc(frame))?;
        Some(RtuFrame { unit: frame[0], pdu: start + 1..start + length - 2 })
    })
}

/// How long the frame of an answer that begins like this is.
fn predicted_length(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [_, 1..=4, count, ..] => Some(AROUND + 2 + usize::from(count)),
        [_, 5 | 6 | 15 | 16, ..] => Some(8),
        [_, function, ..] if function & 0x80 != 0 => Some(REFUSAL),
        _ => None,
    }
}

fn has_right_crc(frame: &[u8]) -> bool {
    let Some((body, [low, high])) = frame.split_last_chunk() else { return false };
    crc(body) == u16::from_le_bytes([*low, *high])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::Table;

    const READ: Request<'_> = Request::Read { table: Table::Holding, address: 0x6B, count: 2 };
    const COIL: Request<'_> = Request::WriteCoil { address: 3, on: true };

    fn framed(body: &[u8]) -> Vec<u8> {
        [body, &crc(body).to_le_bytes()].concat()
    }

    fn request(unit: u8, request: &Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode(unit, request, &mut out).expect("fits");
        out
    }

    /// The example of the specification's appendix B, and one that every manual has.
    #[test]
    fn checksums_are_the_specifications() {
        assert_eq!(crc(&[2, 7]).to_le_bytes(), [0x41, 0x12]);
        let read = Request::Read { table: Table::Holding, address: 0, count: 10 };
        assert_eq!(request(1, &read), [1, 3, 0, 0, 0, 10, 0xC5, 0xCD]);
    }

    #[test]
    fn lengths_are_those_of_the_frames() {
        let on = [true; 9];
        for asked in [
            READ,
            COIL,
            Request::WriteRegister { address: 0, word: 1 },
            Request::WriteCoils { address: 0, on: &on },
            Request::WriteRegisters { address: 0, words: &[1, 2] },
        ] {
            assert_eq!(request(1, &asked).len(), request_length(&asked), "{asked:?}");
        }
        assert_eq!(answer_length(&READ), 9);
        assert_eq!(answer_length(&COIL), 8);
    }

    #[test]
    fn an_answer_is_found_behind_noise_and_not_before_its_end() {
        let answer = framed(&[1, 3, 4, 0, 42, 0, 7]);
        for noise in
            [&[][..], &[0], &[1], &[1, 3], &[1, 3, 2, 1], &[1, 0x83], &[1, 0x83, 2, 0, 0, 9]]
        {
            let bytes = [noise, &answer].concat();
            let at = noise.len();
            for cut in 0..bytes.len() {
                assert_eq!(
                    find_answer(1, &READ, &bytes[..cut], false),
                    Found::Nothing,
                    "{noise:?}"
                );
            }
            let found = find_answer(1, &READ, &bytes, true);
            assert_eq!(found, Found::Answer(at + 1..at + 7), "{noise:?}");
        }
    }

    #[test]
    fn what_is_no_answer_to_the_request_is_not_taken() {
        for bytes in [
            framed(&[2, 3, 4, 0, 42, 0, 7]),
            framed(&[1, 4, 4, 0, 42, 0, 7]),
            framed(&[1, 3, 2, 0, 42]),
            framed(&[1, 0x84, 2]),
            request(1, &READ),
        ] {
            assert_eq!(find_answer(1, &READ, &bytes, true), Found::Nothing, "{bytes:?}");
        }
        let mut damaged = framed(&[1, 3, 4, 0, 42, 0, 7]);
        damaged[5] ^= 1;
        assert_eq!(find_answer(1, &READ, &damaged, false), Found::Damaged);
        assert_eq!(find_answer(1, &READ, &framed(&[1, 0x83, 2]), false), Found::Answer(1..3));
        assert_eq!(find_answer(1, &COIL, &request(1, &COIL), false), Found::Answer(1..6));
        let other = request(1, &Request::WriteCoil { address: 3, on: false });
        assert_eq!(find_answer(1, &COIL, &other, true), Found::Nothing);
    }

    #[test]
    fn frames_of_others_are_found_between_noise() {
        let bytes = [&[9, 9][..], &framed(&[7, 3, 2, 0, 1]), &[0], &framed(&[8, 0x83, 2])].concat();
        let first = find_any(&bytes, 0).expect("a frame");
        assert_eq!((first.unit, first.pdu.clone()), (7, 3..7));
        let second = find_any(&bytes, first.pdu.end + 2).expect("another");
        assert_eq!((second.unit, &bytes[second.pdu.clone()]), (8, &[0x83, 2][..]));
        assert_eq!(find_any(&bytes, second.pdu.end), None);
    }

    proptest! {
        /// Whatever surrounds an answer, it is found once all of it is there, and it is the right one.
        #[test]
        fn an_answer_is_found_in_any_noise(
            words in prop::collection::vec(any::<u8>(), 4),
            before in prop::collection::vec(any::<u8>(), 0..20),
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let answer = framed(&[&[1, 3, 4][..], &words].concat());
            let bytes = [&before[..], &answer, &after].concat();
            let Found::Answer(pdu) = find_answer(1, &READ, &bytes, true) else {
                return Err(TestCaseError::fail("not found"));
            };
            prop_assert_eq!(&bytes[pdu][2..], &words[..]);
        }

        /// No single flipped bit passes for an answer.
        #[test]
        fn a_flipped_bit_is_noticed(bit in 0_usize..72, words in prop::collection::vec(any::<u8>(), 4)) {
            let mut bytes = framed(&[&[1, 3, 4][..], &words].concat());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(find_answer(1, &READ, &bytes, true), Found::Answer(_)));
        }

        /// Whatever bytes arrive, the result is a verdict, and a frame never reaches past them.
        #[test]
        fn foreign_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..600), unit: u8) {
            for request in [READ, COIL] {
                if let Found::Answer(pdu) = find_answer(unit, &request, &bytes, true) {
                    prop_assert!(request.answer(&bytes[pdu]).is_ok());
                }
            }
            if let Some(frame) = find_any(&bytes, 0) {
                prop_assert!(frame.pdu.end + 2 <= bytes.len());
            }
        }
    }
}
