//! What kinds of token SolarNetwork issues.

use std::fmt;

/// What a token may be used for, before its policy narrows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Acts as its owner, with all of the owner's roles.
    User,
    /// Reads datum through SolarQuery and does nothing else.
    Data,
}

impl TokenKind {
    /// The name that the API uses; case-sensitive there.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Data => "ReadNodeData",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::User, Self::Data].into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for TokenKind {
    /// As people call it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "User token",
            Self::Data => "Data token",
        })
    }
}
