//! Which of the server's generations is played.

use std::str::FromStr;

/// A generation of the server, named as in the vectors of its requests and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// v2.1.0-rc1 and -rc2: the one that the public documentation describes.
    #[default]
    V2A,
    /// v2.1.0-rc3 and -rc4: the same answers, IDs may be chosen, wrong dates get a real 400.
    V2B,
    /// v3.0.0-ALPHA1 to -BETA1: other envelopes, 201 instead of 202.
    V3,
}

/// No profile has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no profile {0}; there are V2A, V2B and V3")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        [Self::V2A, Self::V2B, Self::V3]
            .into_iter()
            .find(|profile| profile.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

impl Profile {
    /// `V2A`, `V2B` or `V3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2A => "V2A",
            Self::V2B => "V2B",
            Self::V3 => "V3",
        }
    }

    /// What `GET /version` says.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::V2A => "2.1.0-rc2",
            Self::V2B => "2.1.0-rc4",
            Self::V3 => "3.0.0-BETA1",
        }
    }

    pub(super) fn is_v3(self) -> bool {
        self == Self::V3
    }

    /// Whether the caller may choose IDs at all.
    pub(super) fn has_custom_ids(self) -> bool {
        self != Self::V2A
    }

    /// The status of what was created or changed.
    pub(super) fn created(self) -> u16 {
        if self.is_v3() { 201 } else { 202 }
    }

    /// The status line of a refused `expires`; its body says 400 in every profile.
    pub(super) fn rule_violation(self) -> u16 {
        if self == Self::V2A { 200 } else { 400 }
    }

    /// How many years a token that never expires is given.
    pub(super) fn never_years(self) -> i32 {
        if self.is_v3() { 40 } else { 20 }
    }
}
