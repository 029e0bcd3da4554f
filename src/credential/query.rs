//! Query text: into pairs as the server reads them, and out of pairs as it signs them.
//!
//! The server signs *decoded* pairs, so how a URL was escaped does not matter, but what it decodes
//! to does. Reading, as Tomcat does it:
//!
//! * pieces lie between `&` (`;` separates nothing); an empty piece, or one with an empty name, is
//!   dropped;
//! * the name ends at the first `=`; without one the value is empty;
//! * `+` is a space, `%XX` a byte, bytes are UTF-8 (what is not becomes U+FFFD).
//!
//! Writing for the signature: names in the order of their UTF-16 code units, the values of one name
//! in the order they came, and everything but `A-Z a-z 0-9 - _ . ~` escaped in upper case. A
//! character above U+FFFF becomes `%3F%3F` there, because the server encodes each of its two
//! surrogates alone and each turns into a `?`.

use std::borrow::Cow;

/// A `%` that is not followed by two hexadecimal digits. Servers drop the pair or refuse the
/// request, depending on their version, so nothing right can be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{escape}` is no escape: write a percent sign as %25")]
pub struct InvalidEscape {
    escape: String,
}

/// One decoded pair.
pub(super) type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The text to put into a URL: `name=value` joined with `&`, in the order given.
#[must_use]
pub fn encode_query(pairs: &[(String, String)]) -> String {
    let mut text = String::with_capacity(pairs.iter().map(|(n, v)| n.len() + v.len() + 16).sum());
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        push_escaped(&mut text, name.bytes());
        text.push('=');
        push_escaped(&mut text, value.bytes());
    }
    text
}

/// Adds the pairs of `text`, a URL's query or a form's body, to `pairs`.
pub(super) fn parse<'a>(text: &'a [u8], pairs: &mut Vec<Pair<'a>>) -> Result<(), InvalidEscape> {
    for piece in text.split(|b| *b == b'&') {
        let (name, value) = match piece.iter().position(|b| *b == b'=') {
            Some(at) => (&piece[..at], &piece[at + 1..]),
            None => (piece, &b""[..]),
        };
        let (name, value) = (decode(name)?, decode(value)?);
        if !name.is_empty() {
            pairs.push((name, value));
        }
    }
    Ok(())
}

fn decode(text: &[u8]) -> Result<Cow<'_, str>, InvalidEscape> {
    if !text.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Ok(String::from_utf8_lossy(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let byte = tail.first_chunk().and_then(|digits: &[u8; 2]| {
                    let mut byte = [0];
                    hex::decode_to_slice(digits, &mut byte).ok()?;
                    Some(byte[0])
                });
                let Some(byte) = byte else {
                    let end = tail.len().min(2);
                    let escape = format!("%{}", tail[..end].escape_ascii());
                    return Err(InvalidEscape { escape });
                };
                rest = &tail[2..];
                byte
            }
            other => *other,
        });
    }
    Ok(Cow::Owned(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}

/// Writes pairs as the server signs them. Sorts them in place.
pub(super) fn push_canonical(text: &mut String, pairs: &mut [Pair<'_>]) {
    // Stable: the values of one name keep their order.
    pairs.sort_by(|(a, _), (b, _)| match a.is_ascii() && b.is_ascii() {
        true => a.cmp(b),
        false => a.encode_utf16().cmp(b.encode_utf16()),
    });
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            text.push('&');
        }
        push_signed(text, name);
        text.push('=');
        push_signed(text, value);
    }
}

/// Escapes as the server does for its own canonical request.
fn push_signed(text: &mut String, part: &str) {
    let mut utf8 = [0; 4];
    for c in part.chars() {
        match c {
            '\u{10000}'.. => text.push_str("%3F%3F"),
            _ => push_escaped(text, c.encode_utf8(&mut utf8).bytes()),
        }
    }
}

fn push_escaped(text: &mut String, bytes: impl Iterator<Item = u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(query: &str) -> String {
        let mut pairs = Vec::new();
        parse(query.as_bytes(), &mut pairs).expect("proper escapes");
        let mut text = String::new();
        push_canonical(&mut text, &mut pairs);
        text
    }

    #[test]
    fn queries_are_read_as_the_server_reads_them() {
        #[rustfmt::skip]
        let cases = [
            ("", ""),
            ("&&a=1&", "a=1"),
            ("a", "a="),
            ("=1&a=2", "a=2"),
            ("a=b=c", "a=b%3Dc"),
            ("a;b=1", "a%3Bb=1"),
            ("q=a+b%2Bc", "q=a%20b%2Bc"),
            ("b=2&a=&a=1&b=1", "a=&a=1&b=2&b=1"),
            ("a=1&A=2", "A=2&a=1"),
            ("n=caf%c3%a9", "n=caf%C3%A9"),
            ("n=%ff", "n=%EF%BF%BD"),
            ("e=%F0%9F%98%80", "e=%3F%3F"),
            ("a=%00", "a=%00"),
        ];
        for (query, want) in cases {
            assert_eq!(canonical(query), want, "{query}");
        }
    }

    /// U+1F600 begins with the unit D83D and so comes before U+E000 and U+FFFD, which UTF-8 has
    /// the other way round.
    #[test]
    fn names_are_sorted_by_utf16_code_units() {
        let pairs = ["\u{fffd}", "\u{1f600}", "\u{e000}", "z", "\u{d7ff}"]
            .map(|name| (name.to_owned(), name.len().to_string()));
        let text = canonical(&encode_query(&pairs));
        assert_eq!(text, "z=1&%ED%9F%BF=3&%3F%3F=4&%EE%80%80=3&%EF%BF%BD=3");
    }

    #[test]
    fn a_malformed_escape_is_named() {
        for (query, escape) in
            [("a=%zz", "%zz"), ("a=%", "%"), ("%4", "%4"), ("a=%é", "%\\xc3\\xa9")]
        {
            let error = parse(query.as_bytes(), &mut Vec::new()).expect_err("malformed");
            assert!(error.to_string().contains(&format!("`{escape}`")), "{error}");
        }
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        let text = || prop_oneof!["[a-zA-Z0-9]{0,4}", "\\PC{0,6}", "[ +%&=;/?#~]{0,4}"];
        prop::collection::vec((text(), text()), 0..8)
    }

    /// Escapes everything, in lower case, and spaces as `+`: as unlike our own text as can be.
    fn escaped_otherwise(pairs: &[(String, String)]) -> String {
        let escape = |text: &str| -> String {
            let one = |b: u8| if b == b' ' { "+".to_owned() } else { format!("%{b:02x}") };
            text.bytes().map(one).collect()
        };
        let pieces: Vec<_> =
            pairs.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect();
        pieces.join("&&")
    }

    proptest! {
        /// What is put into a URL is read back as the same pairs, but for those without a name.
        #[test]
        fn pairs_survive_the_url(pairs in pairs()) {
            let text = encode_query(&pairs);
            let mut read = Vec::new();
            parse(text.as_bytes(), &mut read).expect("own escapes");
            let read: Vec<_> =
                read.into_iter().map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
            let named: Vec<_> = pairs.into_iter().filter(|(n, _)| !n.is_empty()).collect();
            prop_assert_eq!(read, named);
        }

        /// The canonical query does not depend on how the URL was escaped.
        #[test]
        fn escaping_does_not_matter(pairs in pairs()) {
            prop_assert_eq!(canonical(&encode_query(&pairs)), canonical(&escaped_otherwise(&pairs)));
        }

        /// Moving a pair past one of another name changes nothing.
        #[test]
        fn order_between_names_does_not_matter(mut pairs in pairs(), at in 0usize..7) {
            let before = canonical(&encode_query(&pairs));
            if at + 1 < pairs.len() && pairs[at].0 != pairs[at + 1].0 {
                pairs.swap(at, at + 1);
            }
            prop_assert_eq!(canonical(&encode_query(&pairs)), before);
        }

        /// No bytes make the parser panic, and what it accepts is canonical in plain ASCII.
        #[test]
        fn foreign_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut pairs = Vec::new();
            if parse(&bytes, &mut pairs).is_ok() {
                let mut text = String::new();
                push_canonical(&mut text, &mut pairs);
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~%=&".contains(&b);
                prop_assert!(text.bytes().all(plain), "{}", text);
            }
        }
    }
}
