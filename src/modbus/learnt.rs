//! What units taught by refusing requests, kept over restarts.
//!
//! ```text
//!  <state_dir>/plans.json
//!  {"version": 1, "units": {"/site/meter": {
//!      "of": "91c02d…",                        which registers it is about
//!      "blocks": [{"properties": [0, 1]}, {"properties": [2], "refused": true}]}}}
//! ```
//!
//! * A unit whose registers or limits were configured otherwise since is planned anew.
//! * The file is replaced as a whole, off the runtime's thread, and only when something was learnt: a split, a
//!   register that is refused, or one that is there after all. Nothing waits for it.
//! * It holds the units of the configuration and no others, and is read up to [`MOST_BYTES`]. One that cannot be
//!   read or written costs nothing but learning it again.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::debug;

use super::plan::Plan;
use crate::{config::settings::Unit, domain::SourceId, file};

/// The file's name.
const FILE: &str = "plans.json";
const VERSION: u32 = 1;
/// Far more than a thousand units with a hundred blocks each.
const MOST_BYTES: u64 = 8 << 20;

/// What was learnt of all units. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Plans(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Absent where nothing is kept.
    path: Option<PathBuf>,
    units: Mutex<BTreeMap<String, Learnt>>,
    /// Held by whoever writes the file, so that an older state does not replace a newer one.
    writing: Mutex<()>,
}

/// What was learnt of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Learnt {
    of: String,
    blocks: Vec<Piece>,
}

/// A block that a unit's requests were split into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// The properties it brings, as indices into the unit's list.
    pub(super) properties: Vec<usize>,
    /// Whether the unit has no such registers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) refused: bool,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    units: BTreeMap<String, Learnt>,
}

impl Plans {
    /// What is kept below `state_dir` of these sources. Blocks for one small file.
    #[must_use]
    pub fn open<'a>(state_dir: &Path, sources: impl Iterator<Item = &'a SourceId>) -> Self {
        let path = state_dir.join(FILE);
        let mut kept = match read(&path) {
            Ok(kept) => kept,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    debug!(path = %path.display(), %error, "learnt plans ignored");
                }
                BTreeMap::new()
            }
        };
        let units = sources.filter_map(|source| kept.remove_entry(source.as_str())).collect();
        Self(Arc::new(Inner {
            path: Some(path),
            units: Mutex::new(units),
            writing: Mutex::new(()),
        }))
    }

    /// The unit's plan as it was learnt, if it was and still holds.
    pub(super) fn of(&self, unit: &Unit) -> Option<Plan> {
        let units = lock(&self.0.units);
        let learnt = units.get(unit.source.as_str())?;
        (learnt.of == print(unit)).then(|| Plan::restored(unit, &learnt.blocks)).flatten()
    }

    /// Keeps what was learnt of a unit.
    pub(super) fn keep(&self, unit: &Unit, blocks: Vec<Piece>) {
        let learnt = Learnt { of: print(unit), blocks };
        lock(&self.0.units).insert(unit.source.to_string(), learnt);
        if self.0.path.is_some() {
            let inner = self.0.clone();
            // Whether it was written changes nothing for whoever learnt.
            drop(tokio::task::spawn_blocking(move || inner.write()));
        }
    }
}

impl Inner {
    fn write(&self) {
        let Some(path) = &self.path else { return };
        let _turn = lock(&self.writing);
        let written = Written { version: VERSION, units: lock(&self.units).clone() };
        let bytes = serde_json::to_vec(&written).map_err(io::Error::other);
        if let Err(error) = bytes.and_then(|bytes| file::replace(path, &bytes, 0o640)) {
            debug!(path = %path.display(), %error, "learnt plans not kept");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, Learnt>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let written: Written = serde_json::from_slice(&bytes)?;
    if written.version != VERSION {
        return Err(io::Error::other(format!("version {}", written.version)));
    }
    Ok(written.units)
}

/// Nothing that panics holds these, and what they guard is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells apart configurations of a unit that need other plans.
fn print(unit: &Unit) -> String {
    let mut hash = Sha256::new();
    let limits = (unit.id, unit.max_registers, unit.max_bits, unit.max_gap);
    hash.update(format!("{limits:?}"));
    for property in unit.properties.iter() {
        let register = &property.register;
        hash.update(format!("{:?}", (register.table, register.address, register.count())));
    }
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::modbus::plan::tests::{H, ranges, unit};

    #[test]
    fn what_was_learnt_is_there_after_a_restart_until_the_registers_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let unit = unit(&[(H, 0, 1), (H, 1, 1), (H, 2, 1)]);
        let open = || Plans::open(dir.path(), [&unit.source].into_iter());
        assert_eq!(open().of(&unit), None);
        let piece =
            |properties: &[usize], refused| Piece { properties: properties.to_vec(), refused };
        let plans = open();
        let learnt =
            Learnt { of: print(&unit), blocks: vec![piece(&[0, 1], false), piece(&[2], true)] };
        lock(&plans.0.units).insert(unit.source.to_string(), learnt);
        plans.0.write();

        let plan = open().of(&unit).expect("learnt");
        assert_eq!(ranges(&plan), [(H, 0, 2), (H, 2, 1)]);
        let refused: Vec<bool> = plan.learnt().map(|(_, refused)| refused).collect();
        assert_eq!(refused, [false, true]);
        let mut changed = unit.clone();
        Arc::make_mut(&mut changed.properties)[2].register.address = 7;
        assert_eq!(open().of(&changed), None);
        assert_eq!(
            Plans::open(dir.path(), [].into_iter()).of(&unit),
            None,
            "not configured any more"
        );
    }

    #[test]
    fn a_file_that_makes_no_sense_is_ignored() {
        let dir = tempfile::tempdir().expect("a folder");
        let unit = unit(&[(H, 0, 1), (H, 9, 1)]);
        let of = print(&unit);
        for blocks in [
            "[]",
            r#"[{"properties":[0]}]"#,
            r#"[{"properties":[0]},{"properties":[0,1]}]"#,
            r#"[{"properties":[0,1]}]"#,
            r#"[{"properties":[0]},{"properties":[1]},{"properties":[]}]"#,
            r#"[{"properties":[0]},{"properties":[2]}]"#,
            "7",
        ] {
            let text =
                format!(r#"{{"version":1,"units":{{"/m":{{"of":"{of}","blocks":{blocks}}}}}}}"#);
            fs::write(dir.path().join(FILE), text).expect("written");
            assert_eq!(
                Plans::open(dir.path(), [&unit.source].into_iter()).of(&unit),
                None,
                "{blocks}"
            );
        }
        for text in ["", "{", r#"{"version":2,"units":{}}"#] {
            fs::write(dir.path().join(FILE), text).expect("written");
            assert_eq!(
                Plans::open(dir.path(), [&unit.source].into_iter()).of(&unit),
                None,
                "{text}"
            );
        }
    }
}
