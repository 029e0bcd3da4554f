//! `clock.json`: the wall time at the start of each boot that learnt it.
//!
//! ```json
//! {"anchors":[{"boot":"<32 hex digits>","started":"2026-11-22T09:58:20.500Z"}]}
//! ```

use std::{collections::BTreeMap, path::Path};

use chrono::{DateTime, Utc};
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
    Ok(file.anchors.into_iter().filter_map(|a| Some((parse_boot(&a.boot)?, a.started))).collect())
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
}
