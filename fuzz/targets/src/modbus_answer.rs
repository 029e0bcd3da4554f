//! A PDU held against the request that it may answer: five bytes of request, then the answer.

use solarnode_agent::{
    config::settings::Table,
    modbus::frame::{Answer, Data, Request},
};

/// The request that five bytes describe, and what follows them.
pub(crate) fn with_request(input: &[u8], then: impl FnOnce(&Request<'_>, &[u8])) {
    let Some(([function, a, b, c, d], rest)) = input.split_first_chunk::<5>() else { return };
    let (address, second) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    let many = usize::from(second % 2001);
    let (coils, words) = (vec![true; many], vec![second; many]);
    let request = match function % 8 {
        0 => Request::Read { table: Table::Coil, address, count: second },
        1 => Request::Read { table: Table::Discrete, address, count: second },
        2 => Request::Read { table: Table::Holding, address, count: second },
        3 => Request::Read { table: Table::Input, address, count: second },
        4 => Request::WriteCoil { address, on: second % 2 == 1 },
        5 => Request::WriteRegister { address, word: second },
        6 => Request::WriteCoils { address, on: &coils },
        _ => Request::WriteRegisters { address, words: &words },
    };
    then(&request, rest);
}

pub(crate) fn check(input: &[u8]) {
    with_request(input, judge);
}

fn judge(request: &Request<'_>, pdu: &[u8]) {
    let mut sent = Vec::new();
    let fits = request.encode(&mut sent).is_ok();
    assert!(sent.len() <= 253 && sent.is_empty() != fits);

    // Whatever is accepted can be written again from what was made of it.
    let again = match request.answer(pdu) {
        Err(_) => return,
        Ok(Err(exception)) => vec![request.function() | 0x80, exception.0],
        Ok(Ok(Answer::Data(Data::Bits(bytes) | Data::Words(bytes)))) => {
            let length = u8::try_from(bytes.len()).expect("a byte says how many");
            [&[request.function(), length], bytes].concat()
        }
        Ok(Ok(Answer::Written)) => {
            assert!(fits, "a write was confirmed that cannot have been sent");
            sent[..5].to_vec()
        }
    };
    assert_eq!(again, pdu);
    if let Ok(Ok(Answer::Data(data))) = request.answer(pdu) {
        // All that was asked for is there, and nothing behind it.
        let Request::Read { count, .. } = *request else { panic!("data for {request:?}") };
        let count = usize::from(count);
        match data {
            Data::Bits(_) => assert!(count == 0 || data.bit(count - 1).is_some()),
            Data::Words(bytes) => {
                assert_eq!(data.words(0, count), Some(bytes));
                assert_eq!(data.words(count, 1), None);
            }
        }
    }
}
