//! Random identifiers: tokens, secrets, job IDs.

use ring::rand::{SecureRandom, SystemRandom};

/// The alphabet of token IDs and secrets.
const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._";

/// `length` random bytes.
pub(crate) fn bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut out = [0; LENGTH];
    SystemRandom::new().fill(&mut out).expect("the system has a source of randomness");
    out
}

/// `length` random characters of the token alphabet. The slight bias of the remainder is of no matter to
/// a simulator.
pub(crate) fn text(length: usize) -> String {
    let bytes = bytes::<64>();
    let pick = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    bytes.iter().take(length).map(pick).collect()
}

/// A version 4 UUID.
pub(crate) fn uuid() -> String {
    let mut bytes = bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
