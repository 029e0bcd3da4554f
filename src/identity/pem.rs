//! PEM with any label: blocks of base64 between lines that name them. Pure.
//!
//! What stands outside of blocks is left alone, as is how long the lines are. A block with headers, which is how
//! old programs encrypt keys, is told apart: its body is of no use without them.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use zeroize::{Zeroize as _, Zeroizing};

/// Base64 as mail has it: the padding may be missing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Digits on a line. RFC 7468, 2.
const LINE: usize = 64;

/// A block. Wiped on drop.
pub(super) struct Block {
    pub(super) label: String,
    /// `None` where it has headers or is not base64.
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
}

/// The blocks of a text, in their order, up to the first that has no end: to look for the ends of many such would
/// take a time that grows with the square of their number.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut rest) = (Vec::new(), text);
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = after.split_once("-----") else { break };
        let Some((body, after)) = body.split_once(&format!("-----END {label}-----")) else { break };
        blocks.push(Block { label: label.to_owned(), body: decode(body) });
        rest = after;
    }
    blocks
}

/// Writes one block.
pub(super) fn write(label: &str, body: &[u8]) -> Zeroizing<String> {
    let digits = encode(body);
    let lines = digits.len().div_ceil(LINE);
    // Room from the start: a buffer that grows leaves copies behind.
    let mut text =
        Zeroizing::new(String::with_capacity(digits.len() + lines + 2 * label.len() + 40));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in digits.as_bytes().chunks(LINE) {
        text.extend(line.iter().map(|digit| char::from(*digit)));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The bytes behind base64, wherever its lines end. `None` if it is not base64.
pub(super) fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    digits.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut bytes = Zeroizing::new(vec![0; digits.len() / 4 * 3 + 3]);
    match LENIENT.decode_slice(&*digits, &mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Some(bytes)
        }
        Err(_) => {
            bytes.zeroize();
            None
        }
    }
}

/// Base64 on one line.
pub(super) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_whatever_is_around_it() {
        for length in [0, 1, 47, 48, 49, 500] {
            let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let text = write("CERTIFICATE CHAIN", &body);
            assert!(text.lines().all(|line| line.len() <= LINE));
            let text = format!("Bag Attributes\n{}\r\nmore", text.replace('\n', "\r\n"));
            let found = blocks(&text);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].label, "CERTIFICATE CHAIN");
            assert_eq!(found[0].body.as_ref().map(|body| body.to_vec()), Some(body));
        }
    }

    #[test]
    fn a_block_without_an_end_is_the_last_that_is_looked_at() {
        let good = write("A", b"a").to_string();
        assert_eq!(blocks(&format!("{good}-----BEGIN B-----\nAAAA\n{good}")).len(), 1);
        // A square of this many would take minutes.
        let begun = std::time::Instant::now();
        assert_eq!(blocks(&"-----BEGIN -----".repeat(1 << 16)).len(), 0);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn headers_and_open_ends_are_no_bytes() {
        let found = blocks(
            "-----BEGIN A-----\nDEK-Info: AES\n\nAAAA\n-----END A-----\n-----BEGIN B-----\nAAAA",
        );
        assert_eq!(found.len(), 1);
        assert!(found[0].body.is_none());
    }
}
