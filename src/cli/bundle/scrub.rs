//! The last look at what goes into a bundle: none of this device's secrets, no password in an address.
//!
//! Nothing that gets here should hold any. It is looked for all the same, because what a bundle gives
//! away cannot be taken back.

use std::{borrow::Cow, fs, path::Path};

use serde_json::Value;
use zeroize::Zeroizing;

/// In place of what was removed.
const REMOVED: &[u8] = b"[removed]";

/// Shorter texts are in everything by chance.
const SHORTEST: usize = 8;

/// What is looked for.
#[derive(Default)]
pub(super) struct Scrub {
    secrets: Vec<Zeroizing<Vec<u8>>>,
}

/// Every line of the private keys in a file of PEM, in small letters. Their base64 is not looked for across lines.
fn lines_of_keys(bytes: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        if line.starts_with(b"-----") {
            inside = line.starts_with(b"-----BEGIN") && line.ends_with(b"PRIVATE KEY-----");
        } else if inside {
            lines.push(Zeroizing::new(line.to_ascii_lowercase()));
        }
    }
    lines
}

impl Scrub {
    /// Every key and secret in the files of that folder, leftovers of a crash included. What is not
    /// ours to read, nothing that this user can read holds.
    pub(super) fn of(folder: &Path) -> Self {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut secrets = Vec::new();
        for file in files {
            let Ok(bytes) = fs::read(file.path()) else { continue };
            let bytes = Zeroizing::new(bytes);
            secrets.extend(lines_of_keys(&bytes));
            let Ok(Value::Object(members)) = serde_json::from_slice(&bytes) else { continue };
            for name in ["key", "secret", "token"] {
                if let Some(Value::String(text)) = members.get(name) {
                    secrets.push(Zeroizing::new(text.to_ascii_lowercase().into_bytes()));
                }
            }
        }
        secrets.retain(|secret| secret.len() >= SHORTEST);
        Self { secrets }
    }

    /// The bytes without secrets, and how many were found.
    pub(super) fn clean<'a>(&self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, usize) {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for secret in &self.secrets {
            let same = |window: &[u8]| window.eq_ignore_ascii_case(secret);
            let places = bytes.windows(secret.len()).enumerate();
            found.extend(places.filter(|(_, w)| same(w)).map(|(at, _)| (at, at + secret.len())));
        }
        found.extend(passwords(bytes));
        if found.is_empty() {
            return (Cow::Borrowed(bytes), 0);
        }
        found.sort_unstable();
        let (mut clean, mut at) = (Vec::with_capacity(bytes.len()), 0);
        for (from, to) in &found {
            if *from >= at {
                clean.extend_from_slice(&bytes[at..*from]);
                clean.extend_from_slice(REMOVED);
            }
            at = at.max(*to);
        }
        clean.extend_from_slice(&bytes[at..]);
        (Cow::Owned(clean), found.len())
    }
}

/// The places of `user:password` in `scheme://user:password@host`.
fn passwords(bytes: &[u8]) -> Vec<(usize, usize)> {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b"/\"'<>\\".contains(byte);
    let starts = bytes.windows(3).enumerate().filter(|(_, w)| *w == b"://").map(|(at, _)| at + 3);
    starts
        .filter_map(|from| {
            let authority = &bytes[from..];
            let length = authority.iter().position(ends).unwrap_or(authority.len());
            let at = authority[..length].iter().rposition(|byte| *byte == b'@')?;
            (at > 0).then_some((from, from + at))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_device_and_passwords_in_addresses_are_removed_wherever_they_stand() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        write(
            "site.json",
            r#"{"token_id":"public0public","key":"00aaFFbb11","secret":"hunter2hunter2"}"#,
        );
        write("site.json.new", r#"{"key":"leftover99"}"#);
        write("junk", "no JSON");
        let scrub = Scrub::of(dir.path());
        let text = "public0public 00AAffBB11 x=hunter2hunter2 leftover99 \
                    http://me:pw@h/a@b https://h/a@b \"ftp://pw@h\"";
        let (clean, found) = scrub.clean(text.as_bytes());
        assert_eq!(
            String::from_utf8_lossy(&clean),
            "public0public [removed] x=[removed] [removed] \
             http://[removed]@h/a@b https://h/a@b \"ftp://[removed]@h\""
        );
        assert_eq!(found, 5);
        assert_eq!(Scrub::default().clean(b"nothing").1, 0);
    }
}
