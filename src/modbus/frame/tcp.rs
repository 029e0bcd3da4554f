//! Modbus TCP frames: a header that says how much follows.
//!
//! ```text
//!  transaction(2) protocol=0(2) length(2) unit(1) │ PDU(1..253)
//!  length counts the unit and the PDU; every number has its high byte first
//! ```
//!
//! # Source
//!
//! Modbus Messaging on TCP/IP V1.0b, section 3.

use std::ops::Range;

use super::{DoesNotFit, Request};

/// Bytes of the header, the unit included.
pub const HEADER: usize = 7;
/// Longest frame: the header and a PDU of 253 bytes.
pub const MAX_FRAME: usize = HEADER + 253;

/// Replaces `out` by a whole Modbus TCP frame.
///
/// # Errors
///
/// If the protocol has no room for the request.
pub fn encode_tcp(
    transaction: u16,
    unit: u8,
    request: &Request<'_>,
    out: &mut Vec<u8>,
) -> Result<(), DoesNotFit> {
    out.clear();
    out.extend_from_slice(&transaction.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, unit]);
    request.encode(out)?;
    // At most 254: the limits in `numbers` see to it.
    let length = u16::try_from(out.len() - HEADER + 1).unwrap_or(u16::MAX);
    out[4..6].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// A Modbus TCP frame found at the start of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpFrame {
    /// Which request it claims to answer.
    pub transaction: u16,
    /// Which unit it claims to be from.
    pub unit: u8,
    /// Where in the buffer its PDU is; the frame ends there too.
    pub pdu: Range<usize>,
}

/// Bytes that cannot be cut into frames: nothing after them can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenFraming {
    /// Not Modbus at all.
    #[error("protocol number {0} where Modbus has 0")]
    Protocol(u16),
    /// No frame has this length.
    #[error("a frame of {0} bytes where Modbus allows 2 to 254")]
    Length(u16),
}

/// Finds the frame at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
///
/// If the bytes are not Modbus TCP.
pub fn decode_tcp(bytes: &[u8]) -> Result<Option<TcpFrame>, BrokenFraming> {
    let Some([t0, t1, p0, p1, l0, l1, unit]) = bytes.first_chunk::<HEADER>().copied() else {
        return Ok(None);
    };
    let protocol = u16::from_be_bytes([p0, p1]);
    if protocol != 0 {
        return Err(BrokenFraming::Protocol(protocol));
    }
    let length = u16::from_be_bytes([l0, l1]);
    if !(2..=254).contains(&length) {
        return Err(BrokenFraming::Length(length));
    }
    let end = HEADER - 1 + usize::from(length);
    if bytes.len() < end {
        return Ok(None);
    }
    let transaction = u16::from_be_bytes([t0, t1]);
    Ok(Some(TcpFrame { transaction, unit, pdu: HEADER..end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Table;

    #[test]
    fn frames_are_cut_where_their_length_says() {
        let words = Request::Read { table: Table::Holding, address: 0x6B, count: 3 };
        let mut bytes = Vec::new();
        encode_tcp(0x1501, 0xFF, &words, &mut bytes).expect("fits");
        assert_eq!(bytes, [0x15, 1, 0, 0, 0, 6, 0xFF, 3, 0, 0x6B, 0, 3]);
        for cut in 0..bytes.len() {
            assert_eq!(decode_tcp(&bytes[..cut]), Ok(None));
        }
        let frame = TcpFrame { transaction: 0x1501, unit: 0xFF, pdu: 7..12 };
        assert_eq!(decode_tcp(&bytes), Ok(Some(frame.clone())));
        bytes.push(9);
        assert_eq!(decode_tcp(&bytes), Ok(Some(frame)));
        assert_eq!(decode_tcp(b"HTTP/1.1 400"), Err(BrokenFraming::Protocol(0x5450)));
        assert_eq!(decode_tcp(&[0, 0, 0, 0, 1, 0, 0]), Err(BrokenFraming::Length(256)));
        assert_eq!(decode_tcp(&[0, 0, 0, 0, 0, 1, 0]), Err(BrokenFraming::Length(1)));
    }
}
