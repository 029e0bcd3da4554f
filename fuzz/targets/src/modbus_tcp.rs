//! What comes out of a TCP connection to a device, cut into frames.

use solarnode_agent::modbus::frame::{HEADER, MAX_FRAME, decode_tcp};

pub(crate) fn check(stream: &[u8]) {
    let mut rest = stream;
    while let Ok(Some(frame)) = decode_tcp(rest) {
        let end = frame.pdu.end;
        assert!(frame.pdu.start == HEADER && (HEADER + 1..=MAX_FRAME).contains(&end));
        // It is what it says: written again, it is the same bytes.
        let length = u16::try_from(end - HEADER + 1).expect("at most 254");
        let head = [&frame.transaction.to_be_bytes()[..], &[0, 0], &length.to_be_bytes()].concat();
        assert_eq!([&head, &[frame.unit][..], &rest[frame.pdu.clone()]].concat(), rest[..end]);
        // It does not depend on how much more has come, and none of it comes early.
        assert_eq!(decode_tcp(&rest[..end]), Ok(Some(frame)));
        assert_eq!(decode_tcp(&rest[..end - 1]), Ok(None));
        rest = &rest[end..];
    }
    // Nobody waits for more than a frame's worth of bytes.
    assert!(decode_tcp(rest) != Ok(None) || rest.len() < MAX_FRAME);
}
