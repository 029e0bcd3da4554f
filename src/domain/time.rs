//! Instants as text, in one form wherever a machine may read them.

use chrono::{DateTime, SecondsFormat, Utc};

/// To the second: `2026-11-22T10:00:00Z`.
#[must_use]
pub fn utc(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
