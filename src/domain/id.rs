//! Identifiers, checked once where they enter the program.

use std::{fmt, num::NonZeroU64, str::FromStr};

/// Why a text is not the identifier it was given as. The message says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wanted}, not `{found}`")]
pub struct InvalidId {
    wanted: &'static str,
    found: String,
}

impl InvalidId {
    fn new(wanted: &'static str, found: &str) -> Self {
        Self { wanted, found: found.to_owned() }
    }
}

/// A node's ID as SolarNetwork assigned it. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The number itself.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<i64> for NodeId {
    type Error = InvalidId;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        u64::try_from(number).ok().and_then(NonZeroU64::new).map(Self).ok_or_else(|| {
            InvalidId::new("a node ID is a whole number above zero", &number.to_string())
        })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a device or data set on a node, by convention a path such as `/site/meter`.
///
/// # Source
///
/// At most 64 characters: the width of the server's database column, where a longer one fails the
/// whole batch. The refused characters are wildcards or separators somewhere on the server's side
/// (MQTT topics, query lists, token policies).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(String);

impl SourceId {
    /// Longest source ID the server's database takes, in characters.
    pub const MAX_CHARS: usize = 64;

    /// The text as SolarNetwork spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a source ID is 1 to 64 characters without + # * ? , control characters or blanks at its ends";
        let bad = |c: char| c.is_control() || matches!(c, '+' | '#' | '*' | '?' | ',');
        let fits = (1..=Self::MAX_CHARS).contains(&text.chars().count());
        if !fits || text.trim() != text || text.contains(bad) {
            return Err(InvalidId::new(WANTED, text));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name under which a token is kept on this device; part of a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenName(String);

impl TokenName {
    /// The name as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str =
            "a token's name is 1 to 64 of a-z A-Z 0-9 - _ and .; it does not begin with a dot";
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(allowed)
        {
            return Err(InvalidId::new(WANTED, text));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The public half of a security token. Opaque text: older alphabets are known only from examples.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(String);

impl TokenId {
    /// The text as issued.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a token ID is printable ASCII text without blanks and commas, as SolarNetwork issued it";
        if text.is_empty()
            || text.len() > 64
            || !text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
        {
            return Err(InvalidId::new(WANTED, text));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ids_keep_to_what_the_server_stores() {
        for good in ["/site/meter", "m", "Gebäude 3/Zähler", &"x".repeat(64)] {
            assert!(good.parse::<SourceId>().is_ok(), "{good}");
        }
        for bad in ["", " /a", "/a ", "/a/*", "a,b", "a\nb", "/a/+", "/a/#", "/a?", &"x".repeat(65)]
        {
            assert!(bad.parse::<SourceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn token_names_cannot_leave_the_store() {
        for bad in ["", "..", ".hidden", "a/b", "a b", "ä"] {
            assert!(bad.parse::<TokenName>().is_err(), "{bad}");
        }
        assert!("site-1.backup".parse::<TokenName>().is_ok());
    }

    #[test]
    fn node_ids_are_above_zero() {
        assert!(NodeId::try_from(0).is_err());
        assert!(NodeId::try_from(-1).is_err());
        assert_eq!(NodeId::try_from(123).map(NodeId::number), Ok(123));
    }
}
