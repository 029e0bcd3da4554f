//! `clock.json`: the wall time at the start of each boot that learnt it.
//!
//! ```json
//! {"anchors":[{"boot":"<32 hex digits>","started":"2026-11-22T09:58:20.500Z"}]}
//! ```

use std::{collections::BTreeMap, path::Path};

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};

use super::ClockError;
use crate::domain::BootId;

/// The file: the wall time at the start of each boot that learnt it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Anchors {
    anchors: Vec<Anchor>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Anchor {
    boot: String,
    started: DateTime<Utc>,
}

pub(super) fn load(
    path: &Path,
) -> Result<Result<BTreeMap<BootId, DateTime<Utc>>, serde_json::Error>, ClockError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ok(BTreeMap::new())),
        Err(source) => Err(ClockError::Anchors { path: path.to_owned(), source }),
    }
}

pub(super) fn parse_boot(text: &str) -> Option<BootId> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut id = [0; 16];
    hex::decode_to_slice(digits, &mut id).ok()?;
    Some(BootId(id))
}

/// Reads the file's contents. An entry that cannot be is left out.
///
/// # Errors
///
/// If they are not ours.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<BootId, DateTime<Utc>>, serde_json::Error> {
    let file: Anchors = serde_json::from_slice(bytes)?;
    // Damage can be a date all the same, and one at the end of all dates leaves no room to count from it.
    let can_be = |started: &DateTime<Utc>| (1970..=9999).contains(&started.year());
    let anchors = file.anchors.into_iter().filter(|anchor| can_be(&anchor.started));
    Ok(anchors.filter_map(|a| Some((parse_boot(&a.boot)?, a.started))).collect())
}

/// The file's contents.
#[must_use]
pub fn render(anchors: &BTreeMap<BootId, DateTime<Utc>>) -> Vec<u8> {
    let anchors = anchors
        .iter()
        .map(|(boot, started)| Anchor { boot: hex::encode(boot.0), started: *started });
    serde_json::to_vec(&Anchors { anchors: anchors.collect() })
        .expect("text and dates always make JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_survive_the_file() {
        let started = "2026-11-22T09:58:20.500Z".parse().expect("a date");
        let anchors = BTreeMap::from([(BootId([7; 16]), started)]);
        assert_eq!(parse(&render(&anchors)).expect("own JSON"), anchors);
    }

    #[test]
    fn a_date_that_no_clock_shows_is_no_anchor() {
        for started in ["+262142-12-31T23:59:59Z", "-0001-01-01T00:00:00Z"] {
            let anchors = BTreeMap::from([(BootId([7; 16]), started.parse().expect("a date"))]);
            assert_eq!(parse(&render(&anchors)).expect("own JSON"), BTreeMap::new(), "{started}");
        }
    }
}
