//! An invitation, as SolarNetwork hands it to the person who sets up a node. Pure.
//!
//! ```text
//! base64( gzip( <…Association host="in.solarnetwork.net" port="443" forceTLS="true" identityKey="…"
//!               username="…" expiration="2026-11-29T00:00:00Z" confirmationKey="…"/> ) )
//! ```
//!
//! Only the attributes of the root element count. The confirmation key lets whoever has it become the node, so it is
//! treated as a secret.

use std::{fmt, io::Read};

use chrono::{DateTime, Utc};
use flate2::read::GzDecoder;
use zeroize::Zeroizing;

use super::pem;

/// The longest document. Real ones have half a kilobyte.
const MAX_BYTES: u64 = 64 * 1024;

/// What an invitation says.
pub struct Invitation {
    /// SolarIn's host.
    pub host: String,
    /// What SolarIn says of itself, too.
    pub identity_key: String,
    /// Who invites.
    pub username: String,
    /// Until when it can be taken up.
    pub expiration: Option<DateTime<Utc>>,
    /// What lets the holder become the node.
    pub(super) confirmation_key: Zeroizing<String>,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation").field("host", &self.host).finish_non_exhaustive()
    }
}

/// A text that is no invitation. Does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not an invitation of SolarNetwork: {0}; copy the whole text again")]
pub struct NoInvitation(&'static str);

impl Invitation {
    /// Reads the text of an invitation.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, NoInvitation> {
        let packed = pem::decode(text).ok_or(NoInvitation("it is not base64"))?;
        let mut document = Zeroizing::new(String::with_capacity(4096));
        let unpacked = GzDecoder::new(&packed[..]).take(MAX_BYTES).read_to_string(&mut document);
        unpacked.map_err(|_| NoInvitation("it is damaged"))?;
        let attributes = root_attributes(&document).ok_or(NoInvitation("it is damaged"))?;
        let of = |name: &str| {
            let found = attributes.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.to_string()).filter(|value| !value.is_empty())
        };
        let expiration = of("expiration").and_then(|text| text.parse().ok());
        Ok(Self {
            host: of("host").ok_or(NoInvitation("it names no host"))?,
            identity_key: of("identityKey").unwrap_or_default(),
            username: of("username").ok_or(NoInvitation("it names no user"))?,
            expiration,
            confirmation_key: of("confirmationKey")
                .map(Zeroizing::new)
                .ok_or(NoInvitation("it has no confirmation key"))?,
        })
    }
}

type Attribute = (String, Zeroizing<String>);

/// The attributes of the first element. Namespaces are left alone.
fn root_attributes(document: &str) -> Option<Vec<Attribute>> {
    let mut rest = document;
    // Declarations, comments and the like come before it.
    let mut inside = loop {
        rest = &rest[rest.find('<')? + 1..];
        if let Some(after) = rest.strip_prefix("!--") {
            rest = &after[after.find("-->")?..];
        } else if !rest.starts_with(['?', '!']) {
            break rest;
        }
    };
    inside = inside.trim_start_matches(|c: char| !c.is_whitespace() && c != '>' && c != '/');
    let mut attributes = Vec::new();
    loop {
        inside = inside.trim_start();
        if inside.is_empty() {
            return None;
        }
        if inside.starts_with(['>', '/']) {
            return Some(attributes);
        }
        let (name, after) = inside.split_once('=')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| ['"', '\''].contains(c))?;
        let (value, after) = after[1..].split_once(quote)?;
        attributes.push((name.trim().to_owned(), plain(value)?));
        inside = after;
    }
}

/// A value without its entities.
fn plain(value: &str) -> Option<Zeroizing<String>> {
    let mut plain = Zeroizing::new(String::with_capacity(value.len()));
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (entity, after) = after.split_once(';')?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let digits = other.strip_prefix('#')?;
                let code = match digits.strip_prefix('x') {
                    Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                    None => digits.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(document: &str) -> String {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(document.as_bytes()).expect("packed");
        let text = pem::encode(&encoder.finish().expect("packed")).to_string();
        // As mail breaks it.
        text.as_bytes()
            .chunks(76)
            .map(|line| format!("{}\r\n", String::from_utf8_lossy(line)))
            .collect()
    }

    #[test]
    fn an_invitation_is_read_from_what_mail_makes_of_it() {
        let text = packed(
            "<?xml version=\"1.0\"?><!-- a > b --><NetworkAssociation host='in.example' port=\"443\" \
             identityKey=\"a&amp;b\" username=\"user@example.com\" expiration=\"2026-11-29T00:00:00Z\" \
             confirmationKey=\"hunter2\"><x host=\"y\"/></NetworkAssociation>",
        );
        let invitation = Invitation::parse(&text).expect("an invitation");
        assert_eq!(
            (invitation.host.as_str(), invitation.identity_key.as_str()),
            ("in.example", "a&b")
        );
        assert_eq!(invitation.username, "user@example.com");
        assert_eq!(*invitation.confirmation_key, "hunter2");
        assert!(invitation.expiration.is_some());
        assert!(!format!("{invitation:?}").contains("hunter2"));
    }

    #[test]
    fn anything_else_is_none_and_is_not_repeated() {
        for text in [
            "hunter2!",
            "aHVudGVyMg==",
            &packed("hunter2"),
            &packed("<a host='h'/>"),
            &packed("<a host='h"),
        ] {
            let error = Invitation::parse(text).expect_err("no invitation").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
