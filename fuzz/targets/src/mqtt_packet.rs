//! The length of a piece, and what a broker sends, which arrives in such pieces.

use bytes::BytesMut;
use solarnode_agent::mqtt::{
    MAX_INCOMING,
    packet::{Incoming, decode},
};

pub(crate) fn check(input: &[u8]) {
    let Some((length, bytes)) = input.split_first() else { return };
    let pieces = bytes.chunks(usize::from(*length).max(1));
    assert_eq!(received(pieces), received([bytes]), "however it comes");
}

/// The packets, what is left of the bytes, and whether they ended in nonsense.
fn received<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Incoming>, Option<BytesMut>) {
    let (mut packets, mut received) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        received.extend_from_slice(piece);
        loop {
            let before = received.len();
            match decode(&mut received) {
                Ok(Some(packet)) => {
                    assert!(received.len() < before, "a packet of nothing");
                    if let Incoming::Message { payload, .. } = &packet {
                        assert!(payload.len() < before && payload.len() < MAX_INCOMING as usize);
                    }
                    packets.push(packet);
                }
                Ok(None) => {
                    assert_eq!(received.len(), before, "taken off and not given");
                    break;
                }
                Err(_) => return (packets, None),
            }
        }
    }
    (packets, Some(received))
}
