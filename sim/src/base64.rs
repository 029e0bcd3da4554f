//! Base64 with the common alphabet, strict about it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// In lines of this length, each but the last ended by `end`, with padding. Zero: one line.
pub(crate) fn encode(bytes: &[u8], line: usize, end: &str) -> String {
    let mut out = String::with_capacity(bytes.len() * 3 / 2);
    let mut column = 0;
    for three in bytes.chunks(3) {
        if line > 0 && column == line {
            out.push_str(end);
            column = 0;
        }
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let value = bits >> (18 - 6 * place) & 0x3f;
            let shown = place <= three.len();
            out.push(if shown { char::from(ALPHABET[value as usize]) } else { '=' });
        }
        column += 4;
    }
    out
}

/// `None` for a character that is not of the alphabet; so white space has to go before.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == byte)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back_and_lines_are_broken() {
        for length in 0..100 {
            let bytes: Vec<u8> = (0..length).map(|number: u8| number.wrapping_mul(37)).collect();
            assert_eq!(decode(&encode(&bytes, 0, "")), Some(bytes.clone()));
            let broken = encode(&bytes, 64, "\n");
            assert!(broken.lines().all(|line| line.len() <= 64));
            assert_eq!(decode(&broken.replace('\n', "")), Some(bytes));
        }
        assert_eq!(encode(b"fo", 0, ""), "Zm8=");
        assert_eq!(decode("Zm 8="), None);
    }
}
