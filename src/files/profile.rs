//! Which generation of the server answers. There is no negotiation; the answers differ.
//!
//! | Profile | Releases | Known by |
//! | --- | --- | --- |
//! | V2A | v2.1.0-rc1, rc2 | refuses a bad expiry with HTTP 200, and the field `id` always |
//! | V2B | v2.1.0-rc3, rc4 | as V2A, but refuses a bad expiry with HTTP 400, and takes `id` |
//! | V3 | v3.0.0-ALPHA1 to BETA1 | envelopes with a boolean `status` and an object `token` |

use std::fmt;

use serde_json::Value;

use super::answer::Call;

/// One generation of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum Profile {
    /// v2.1.0-rc1 and rc2, the documented one.
    V2A,
    /// v2.1.0-rc3 and rc4.
    V2B,
    /// v3.0.0-ALPHA1 to BETA1.
    V3,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2A => "V2A",
            Self::V2B => "V2B",
            Self::V3 => "V3",
        })
    }
}

/// The generations that could have said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profiles(u8);

impl Profiles {
    /// Nothing is known.
    pub const ALL: Self = Self(0b111);
    /// The first of the second generation.
    pub const V2A: Self = Self(0b001);
    /// The later of the second generation.
    pub const V2B: Self = Self(0b010);
    /// The second generation.
    pub const V2: Self = Self(0b011);
    /// The third.
    pub const V3: Self = Self(0b100);
    /// All but the first.
    pub const SINCE_V2B: Self = Self(0b110);

    /// Only this one.
    #[must_use]
    pub fn only(profile: Profile) -> Self {
        Self(1 << profile as u8)
    }

    /// Whether it may be this one.
    #[must_use]
    pub fn contains(self, profile: Profile) -> bool {
        self.0 & Self::only(profile).0 != 0
    }

    /// What both allow; the later word counts where they contradict, as after an update of the server.
    #[must_use]
    pub fn narrowed_by(self, later: Self) -> Self {
        match self.0 & later.0 {
            0 => later,
            both => Self(both),
        }
    }
}

impl fmt::Display for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [Profile::V2A, Profile::V2B, Profile::V3];
        let names = all.into_iter().filter(|one| self.contains(*one)).map(|one| one.to_string());
        f.write_str(&names.collect::<Vec<_>>().join(" or "))
    }
}

/// Texts that only some generations have.
const TEXTS: [(&str, Profiles); 6] = [
    ("Invalid authorization. Details: Invalid token, cannot decrypt", Profiles::V2),
    ("Invalid authorization. Details: Invalid token, cannot find token", Profiles::V3),
    ("File name is not valid, please normalize it", Profiles::V2),
    ("Filename is not valid, please normalize it", Profiles::V3),
    ("The filename is empty.", Profiles::V3),
    ("Current token does not allow setting predictable identifiers", Profiles::SINCE_V2B),
];

/// Which generations give this answer to this call.
#[must_use]
pub fn recognise(call: Call, status: u16, body: &Value) -> Profiles {
    let Value::Object(members) = body else { return Profiles::ALL };
    let number = |name: &str| members.get(name).and_then(Value::as_u64);
    if members.get("status").is_some_and(Value::is_boolean) || members.contains_key("token") {
        return Profiles::V3;
    }
    if members.contains_key("tokenId") {
        return Profiles::V2;
    }
    if let Some(text) = members.get("status").and_then(Value::as_str)
        && let Some((_, known)) = TEXTS.iter().find(|(start, _)| text.starts_with(start))
    {
        return *known;
    }
    match call {
        Call::Generate => {
            let field = |name: &str| body["fields"].get(name).is_some();
            let extra_id = body["fields"]["form"].to_string().contains("such as \\\"id\\\"");
            match (status, number("http_code")) {
                (200, Some(400)) => Profiles::V2A,
                (400, _) if field("expires") || field("id") => Profiles::SINCE_V2B,
                (400, _) if extra_id => Profiles::V2A,
                _ => Profiles::ALL,
            }
        }
        Call::Revoke if status == 200 && members.len() == 1 => Profiles::V2,
        // "Not-Changed" is answered so by all of them.
        Call::Upload if status == 202 && body["status"] == "OK" => Profiles::V2,
        Call::LookUp | Call::Revoke | Call::Upload | Call::List | Call::Other => Profiles::ALL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_is_settled_by_the_later_word() {
        assert_eq!(Profiles::ALL.narrowed_by(Profiles::V2), Profiles::V2);
        assert_eq!(Profiles::V2.narrowed_by(Profiles::SINCE_V2B), Profiles::V2B);
        assert_eq!(Profiles::V2A.narrowed_by(Profiles::V3), Profiles::V3);
        assert_eq!(Profiles::V2.to_string(), "V2A or V2B");
    }
}
