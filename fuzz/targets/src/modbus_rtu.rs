//! Bytes of a serial line: a request (as for `modbus_answer`), how much noise, the noise, a PDU in a right frame.

use solarnode_agent::modbus::frame::rtu::{Found, crc, find_answer, find_any};

use crate::modbus_answer::with_request;

const UNIT: u8 = 1;

fn assert_whole(bytes: &[u8], unit: u8, pdu: &std::ops::Range<usize>) {
    let (frame, sum) = (&bytes[pdu.start - 1..pdu.end], &bytes[pdu.end..pdu.end + 2]);
    assert!(frame[0] == unit && crc(frame).to_le_bytes() == sum, "{pdu:?} is no frame");
}

pub(crate) fn check(input: &[u8]) {
    with_request(input, |request, rest| {
        let Some((noise, rest)) = rest.split_first() else { return };
        let (noise, pdu) = rest.split_at(usize::from(*noise).min(rest.len()));
        let frame = [&[UNIT], pdu].concat();
        let bytes = [noise, &frame, &crc(&frame).to_le_bytes()].concat();

        for last in [false, true] {
            match find_answer(UNIT, request, &bytes, last) {
                Found::Answer(found) => {
                    assert_whole(&bytes, UNIT, &found);
                    assert!(request.answer(&bytes[found]).is_ok());
                }
                // Whatever stands before it, a right answer is found in the end.
                Found::Damaged | Found::Nothing => {
                    assert!(!last || request.answer(pdu).is_err(), "not found in {bytes:?}");
                }
            }
        }
        let mut from = 0;
        while let Some(found) = find_any(&bytes, from) {
            assert!(found.pdu.start > from);
            assert_whole(&bytes, found.unit, &found.pdu);
            from = found.pdu.end + 2;
        }
    });
}
