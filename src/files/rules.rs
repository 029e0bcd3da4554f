//! Whether the repository would take a file, before anything is sent. Pure.
//!
//! It knows what is known of the token ([`Restrictions`]), which is nothing where nobody looked it up. It
//! refuses only what the server is sure to refuse: the server decides by its own detection of types and its
//! own clock. (One exception is not followed: bytes that the repository has already pass without a check of
//! type and size.)

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    expiry::UTC,
    role::{ADMINISTRATOR, ENFORCE_TAGS, mime_list},
    wanted::may_upload,
};
use crate::domain::is_file_tag;

/// What a token may upload, as far as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restrictions {
    /// Its roles.
    pub roles: Vec<String>,
    /// The tags it allows; none means any.
    pub tags: Vec<String>,
    /// The types it allows beside those of its roles.
    pub mime_types: Vec<String>,
    /// Files have to be smaller than this. Negative: none is.
    pub max_file_size: Option<i64>,
    /// The digits of its end by the server's clock.
    pub expires: Option<NaiveDateTime>,
    /// How many seconds the server's clock is ahead of UTC, where that was learnt.
    #[serde(default)]
    pub offset_secs: Option<i32>,
}

/// Why something would be refused, and whom it concerns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// No upload with this token works.
    #[error("{0}")]
    Token(String),
    /// No upload with these tags works.
    #[error("{0}")]
    Tags(String),
    /// This file is not taken.
    #[error("{0}")]
    File(String),
}

/// Checks the tags themselves.
///
/// # Errors
///
/// With the tag that no upload can have.
pub fn check_tags(tags: &[String]) -> Result<(), Obstacle> {
    let bad = tags.iter().find(|tag| !is_file_tag(tag));
    bad.map_or(Ok(()), |tag| {
        Err(Obstacle::Tags(format!(
            "the repository takes no tag {tag:?}: tags are 3 to 32 of A-Z a-z 0-9 . - _"
        )))
    })
}

impl Restrictions {
    /// What concerns every upload.
    ///
    /// # Errors
    ///
    /// With what stands in the way.
    pub fn check_upload(&self, tags: &[String], now: DateTime<Utc>) -> Result<(), Obstacle> {
        if !self.roles.iter().any(|role| may_upload(role)) {
            let sentence = "the token may not upload files: none of its roles lets it";
            return Err(Obstacle::Token(sentence.to_owned()));
        }
        if let Some(digits) = self.is_over(now) {
            return Err(Obstacle::Token(format!(
                "the token expired on {digits} by the server's clock"
            )));
        }
        let enforced = self.roles.iter().any(|role| role == ENFORCE_TAGS);
        let foreign = tags.iter().find(|tag| !self.tags.contains(tag));
        match foreign {
            Some(tag) if !enforced && !self.tags.is_empty() => Err(Obstacle::Tags(format!(
                "the token does not allow the tag {tag:?}, only {} (compared with capitals)",
                self.tags.join(", ")
            ))),
            _ => Ok(()),
        }
    }

    /// The digits of its end, if that has passed for sure.
    fn is_over(&self, now: DateTime<Utc>) -> Option<NaiveDateTime> {
        let digits = self.expires?;
        // Where the zone was not learnt: the last place on earth to see that hour.
        let (offset, grace) = match self.offset_secs {
            Some(secs) => (FixedOffset::east_opt(secs).unwrap_or(UTC), TimeDelta::seconds(60)),
            None => (UTC, TimeDelta::hours(12)),
        };
        let ends = digits.and_local_timezone(offset).single()?;
        // The end is foreign and may be the last that there is: nothing is added to it.
        (ends.to_utc() < now - grace).then_some(digits)
    }

    /// The instant of its end, where the server's zone is known.
    #[must_use]
    pub fn ends(&self) -> Option<DateTime<Utc>> {
        let offset = FixedOffset::east_opt(self.offset_secs?)?;
        Some(self.expires?.and_local_timezone(offset).single()?.to_utc())
    }

    /// What concerns one file: its size, and the names under which the server may know its type, where it is
    /// one of those that are recognised for sure.
    ///
    /// # Errors
    ///
    /// With what stands in the way.
    pub fn check_file(&self, bytes: u64, mimes: Option<&[&str]>) -> Result<(), Obstacle> {
        if let Some(limit) = self.max_file_size
            && i64::try_from(bytes).map_or(true, |bytes| bytes >= limit)
        {
            return Err(Obstacle::File(format!(
                "it has {bytes} bytes, and the token takes files smaller than {limit} bytes"
            )));
        }
        let allowed = self.allowed_mimes();
        match mimes {
            Some(mimes)
                if !allowed.is_empty() && !mimes.iter().any(|mime| allowed.contains(mime)) =>
            {
                Err(Obstacle::File(format!(
                    "it is of type {}, and the token takes only {}",
                    mimes[0],
                    allowed.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// The union of the token's own types and those of its roles; empty means any. An administrator's
    /// are not looked at.
    fn allowed_mimes(&self) -> Vec<&str> {
        if self.roles.iter().any(|role| role == ADMINISTRATOR) {
            return Vec::new();
        }
        let of_roles = self.roles.iter().filter_map(|role| mime_list(role)).flatten().copied();
        self.mime_types.iter().map(String::as_str).chain(of_roles).collect()
    }
}

/// The names under which servers know the type of a file that begins with these bytes, the newest first.
///
/// Only types that file(1) is sure about; its names changed over the years. Text is left to the server,
/// which takes some for program sources.
#[must_use]
pub fn mime_names(start: &[u8]) -> Option<&'static [&'static str]> {
    const MAGIC: [(&[u8], &[&str]); 9] = [
        (b"\x89PNG\r\n\x1a\n", &["image/png"]),
        (b"\xff\xd8\xff", &["image/jpeg"]),
        (b"GIF87a", &["image/gif"]),
        (b"GIF89a", &["image/gif"]),
        (b"%PDF-", &["application/pdf"]),
        (b"\x1f\x8b\x08", &["application/gzip", "application/x-gzip"]),
        (b"\xfd7zXZ\0", &["application/x-xz"]),
        (b"BZh", &["application/x-bzip2"]),
        (b"\x28\xb5\x2f\xfd", &["application/zstd", "application/x-zstd"]),
    ];
    MAGIC.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, names)| *names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(roles: &[&str]) -> Restrictions {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Restrictions { roles, ..Restrictions::default() }
    }

    fn now() -> DateTime<Utc> {
        "2026-11-22T10:00:00Z".parse().expect("a date")
    }

    #[test]
    fn the_limit_of_size_is_exclusive() {
        let token = Restrictions { max_file_size: Some(100), ..roles(&["upload.all"]) };
        assert_eq!(token.check_file(99, None), Ok(()));
        assert!(token.check_file(100, None).is_err());
        let negative = Restrictions { max_file_size: Some(-1), ..roles(&["upload.all"]) };
        assert!(negative.check_file(0, None).is_err(), "a negative limit blocks everything");
        assert_eq!(roles(&["upload.all"]).check_file(u64::MAX, None), Ok(()));
    }

    #[test]
    fn types_are_the_union_of_the_token_s_and_those_of_its_roles() {
        let png: Option<&[&str]> = Some(&["image/png"]);
        let gzip = mime_names(b"\x1f\x8b\x08rest");
        let with = |names: &[&str], mimes: &[&str]| Restrictions {
            mime_types: mimes.iter().map(|mime| (*mime).to_owned()).collect(),
            ..roles(names)
        };
        assert!(with(&["upload.all"], &["image/jpeg"]).check_file(1, png).is_err());
        assert!(with(&["upload.images"], &["text/plain"]).check_file(1, png).is_ok());
        assert!(with(&["upload.all", "upload.images"], &[]).check_file(1, gzip).is_err());
        assert!(with(&["upload.all"], &[]).check_file(1, gzip).is_ok());
        assert!(with(&["upload.all"], &["application/x-gzip"]).check_file(1, gzip).is_ok());
        assert!(with(&[ADMINISTRATOR], &["image/jpeg"]).check_file(1, gzip).is_ok());
        assert!(
            with(&["upload.images"], &[]).check_file(1, None).is_ok(),
            "unknown: the server decides"
        );
        assert!(roles(&["upload.backup"]).check_file(1, mime_names(b"\x28\xb5\x2f\xfd.")).is_err());
    }

    #[test]
    fn tags_are_compared_with_capitals_unless_the_token_s_are_enforced() {
        let tag = |tag: &str| vec![tag.to_owned()];
        let token = Restrictions { tags: tag("site-1"), ..roles(&["upload.all"]) };
        assert_eq!(token.check_upload(&tag("site-1"), now()), Ok(()));
        assert_eq!(token.check_upload(&[], now()), Ok(()));
        assert!(matches!(token.check_upload(&tag("Site-1"), now()), Err(Obstacle::Tags(_))));
        assert_eq!(roles(&["upload.all"]).check_upload(&tag("any"), now()), Ok(()));
        let enforced = Restrictions { tags: tag("site-1"), ..roles(&["upload.all", ENFORCE_TAGS]) };
        assert_eq!(enforced.check_upload(&tag("other"), now()), Ok(()));
    }

    #[test]
    fn a_token_that_cannot_upload_or_has_ended_is_told_from_a_file_that_is_not_taken() {
        let token = |result| matches!(result, Err(Obstacle::Token(_)));
        assert!(token(roles(&["view.any_file"]).check_upload(&[], now())));
        let ended = |text: &str, offset_secs| Restrictions {
            expires: super::super::expiry::parse_digits(text),
            offset_secs,
            ..roles(&["upload.all"])
        };
        assert!(token(ended("2026-11-22 09:58:00", Some(0)).check_upload(&[], now())));
        assert!(!token(ended("2026-11-22 09:58:00", Some(-3600)).check_upload(&[], now())));
        assert!(
            !token(ended("2026-11-22 09:58:00", None).check_upload(&[], now())),
            "perhaps not there"
        );
        assert!(token(ended("2026-11-21 09:58:00", None).check_upload(&[], now())));
        let last = ended("+262142-12-31 23:59:59", None);
        assert!(last.expires.is_some() && last.check_upload(&[], now()).is_ok());
    }
}
