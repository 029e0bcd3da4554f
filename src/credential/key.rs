//! Secrets, and the keys made from them.
//!
//! A *token secret* is what SolarNetwork shows once, when a token is issued. A *signing key* is
//! made from it for one UTC day D, cannot be turned back, and signs requests dated D to D+6:
//!
//! ```text
//!   D 00:00 UTC                                     D+7 00:00 UTC
//!   ├──────────────── usable ─────────────────────────┤ ends
//! ```
//!
//! Both are wiped from memory when dropped. Neither has a `Display`, a `Serialize`, or a `Debug`
//! that shows anything, so the compiler refuses the leak; `expose` is the one way to reach them.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::sign::signing_key;
use crate::domain::TokenId;

/// The UTC days on which a key signs: its own and the six that follow.
///
/// # Source
///
/// SolarNetwork's token filter tries the day of the request and the six before it.
pub const USABLE_DAYS: u64 = 7;

/// Longest secret taken; SolarNetwork's column holds 32 characters.
const MAX_SECRET_BYTES: usize = 256;

/// The key that signs the requests of one token for seven UTC days.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SigningKey([u8; 32]);

/// A text that is no signing key. Does not repeat the text: it may have been nearly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing key is 64 hexadecimal digits")]
pub struct InvalidKey;

impl SigningKey {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The one way to the bytes. Call it inside the expression that consumes them.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key as keys are exchanged: 64 lower case hexadecimal digits, wiped on drop.
    pub(crate) fn expose_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0))
    }
}

impl FromStr for SigningKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut_slice()).map_err(|_| InvalidKey)?;
        Ok(Self(*bytes))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(<redacted>)")
    }
}

/// The secret half of a security token.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret(String);

/// A text that is no token secret: what is wrong with it. Does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; a token secret is one line of text without blanks, \
     as SolarNetwork showed it when the token was issued"
)]
pub struct InvalidSecret(&'static str);

impl TokenSecret {
    /// Takes a secret as issued.
    ///
    /// # Errors
    ///
    /// If the text cannot be one: empty, of several lines or words, or far too long.
    pub fn new(text: Zeroizing<String>) -> Result<Self, InvalidSecret> {
        let wrong = if text.trim().is_empty() {
            "nothing was there"
        } else if text.trim_end().contains('\n') {
            "there are several lines"
        } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            "there are blanks in it"
        } else if text.len() > MAX_SECRET_BYTES {
            "it is too long"
        } else {
            return Ok(Self(text.as_str().to_owned()));
        };
        Err(InvalidSecret(wrong))
    }

    /// The one way to the text. Call it inside the expression that consumes it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        Self::new(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(<redacted>)")
    }
}

/// What this device holds of one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The token's public half.
    pub token_id: TokenId,
    /// The key that signs.
    pub key: SigningKey,
    /// The UTC day the key was made for.
    pub key_date: NaiveDate,
    /// The secret, only where the operator asked to keep it.
    pub secret: Option<TokenSecret>,
}

impl Credential {
    /// Makes the key of `day` from a secret; the secret itself goes along only with `keep_secret`.
    #[must_use]
    pub fn derive(
        token_id: TokenId,
        secret: TokenSecret,
        day: NaiveDate,
        keep_secret: bool,
    ) -> Self {
        let key = signing_key(&secret, day);
        Self { token_id, key, key_date: day, secret: keep_secret.then_some(secret) }
    }

    /// The same token with another key.
    #[must_use]
    pub fn with_key(&self, key: SigningKey, key_date: NaiveDate) -> Self {
        Self { token_id: self.token_id.clone(), key, key_date, secret: self.secret.clone() }
    }

    /// The same token with the key of `day`, where the secret to make it from is here.
    #[must_use]
    pub fn derived(&self, day: NaiveDate) -> Self {
        match &self.secret {
            Some(secret) => self.with_key(signing_key(secret, day), day),
            None => self.clone(),
        }
    }

    /// Whether a request dated `at` can be signed.
    #[must_use]
    pub fn usable_at(&self, at: DateTime<Utc>) -> bool {
        self.key_date <= at.date_naive() && at < self.ends()
    }

    /// The first instant at which the key no longer signs.
    #[must_use]
    pub fn ends(&self) -> DateTime<Utc> {
        self.key_date
            .checked_add_days(Days::new(USABLE_DAYS))
            .map_or(DateTime::<Utc>::MAX_UTC, |day| day.and_time(NaiveTime::MIN).and_utc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential() -> Credential {
        let secret = "hunter2.hunter2".parse().expect("a secret");
        let day = NaiveDate::from_ymd_opt(2026, 2, 26).expect("a day");
        Credential::derive("abc".parse().expect("a token ID"), secret, day, true)
    }

    #[test]
    fn debug_shows_neither_secret_nor_key() {
        let credential = credential();
        let text = format!("{credential:?} {credential:#?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!text.contains(credential.key.expose_hex().as_str()), "{text}");
        assert_eq!(text.matches("<redacted>").count(), 4, "{text}");
    }

    #[test]
    fn a_key_signs_on_its_day_and_the_six_that_follow() {
        let credential = credential();
        for (at, usable) in [
            ("2026-02-25T23:59:59.999Z", false),
            ("2026-02-26T00:00:00Z", true),
            ("2026-03-04T23:59:59.999Z", true),
            ("2026-03-05T00:00:00Z", false),
        ] {
            assert_eq!(credential.usable_at(at.parse().expect("a date")), usable, "{at}");
        }
        assert_eq!(credential.ends().to_rfc3339(), "2026-03-05T00:00:00+00:00");
    }

    #[test]
    fn a_key_of_the_last_day_there_is_does_not_panic() {
        let mut credential = credential();
        credential.key_date = NaiveDate::MAX;
        assert_eq!(credential.ends(), DateTime::<Utc>::MAX_UTC);
    }

    #[test]
    fn keys_are_64_hexadecimal_digits_and_errors_do_not_repeat_them() {
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(66)] {
            let error = bad.parse::<SigningKey>().expect_err("not a key");
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
        let text = "ac7d64b63dfa8c21536328e30d41db5060680940dc0464dcec94a2d48c6c2577";
        let key: SigningKey = text.parse().expect("a key");
        assert_eq!(key.expose_hex().as_str(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(key));
    }

    #[test]
    fn a_secret_is_one_word() {
        for bad in ["", "two words", "two\nlines", "tab\t", "trailing\n", &"x".repeat(257)] {
            assert!(bad.parse::<TokenSecret>().is_err(), "{bad:?}");
        }
        assert!("{^*!#$.-_Zähler".parse::<TokenSecret>().is_ok());
    }
}
