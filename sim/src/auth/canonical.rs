//! From a request's text to the canonical request that SNWS2 signs.
//!
//! ```text
//! METHOD \n path \n query \n name:value \n … \n name;name \n hex(SHA-256(body))
//! ```
//!
//! The query line is rebuilt from *decoded* pairs, as the server does it: grouped by name, names in
//! the order of their UTF-16 code units, values in order of appearance. Characters beyond U+FFFF
//! become `%3F%3F`, because the server encodes each half of a surrogate pair on its own.

use std::collections::BTreeMap;

/// Splits a query or form text into the pairs that the server sees.
///
/// A pair without a name, or with a malformed escape, is dropped.
pub(crate) fn parse_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|piece| !piece.is_empty())
        .filter_map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            (!name.is_empty()).then_some((name, value))
        })
        .collect()
}

/// `+` is a space, `%XX` a byte, the bytes are UTF-8. `None` when an escape is malformed.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn encode_into(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '_' | '.' | '~' => out.push(character),
            beyond if beyond > '\u{FFFF}' => out.push_str("%3F%3F"),
            other => {
                let mut utf8 = [0; 4];
                for byte in other.encode_utf8(&mut utf8).bytes() {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
        }
    }
}

/// The query line of the canonical request.
pub(crate) fn query(pairs: &[(String, String)]) -> String {
    let mut by_name: BTreeMap<Vec<u16>, (&str, Vec<&str>)> = BTreeMap::new();
    for (name, value) in pairs {
        let group = by_name.entry(name.encode_utf16().collect()).or_insert((name, Vec::new()));
        group.1.push(value);
    }
    let mut out = String::new();
    for (name, values) in by_name.into_values() {
        for value in values {
            if !out.is_empty() {
                out.push('&');
            }
            encode_into(&mut out, name);
            out.push('=');
            encode_into(&mut out, value);
        }
    }
    out
}

/// A signed header's value: trimmed of everything up to U+0020, runs of spaces made one.
pub(crate) fn header_value(value: &str) -> String {
    let trimmed = value.trim_matches(|character| character <= '\u{20}');
    let mut out = String::with_capacity(trimmed.len());
    for character in trimmed.chars() {
        if character != ' ' || !out.ends_with(' ') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_escapes_and_nameless_pairs_vanish() {
        let pairs = parse_pairs("a=1&&=2&b=%zz&c&d=x=y&e=a+b&f=%4");
        let expected = [("a", "1"), ("c", ""), ("d", "x=y"), ("e", "a b")];
        assert_eq!(pairs, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn names_sort_by_utf16_not_by_utf8() {
        let pairs = [("\u{FFFD}".to_owned(), "1".to_owned()), ("😀".to_owned(), "2".to_owned())];
        assert_eq!(query(&pairs), "%3F%3F=2&%EF%BF%BD=1");
    }

    #[test]
    fn runs_of_spaces_collapse_and_tabs_stay() {
        assert_eq!(header_value(" \ta   b \t c  "), "a b \t c");
    }
}
