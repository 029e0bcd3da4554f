//! `upload.json`: the batches that may be on their way, written before they are sent, and with them the
//! ledger of what was proved ([`crate::audit`]), which costs no write of its own this way.
//!
//! The batches exist to keep a restart from sending again what the server has. Without it, or with one that
//! cannot be read, everything is sent again, which is harmless.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{import::batch::MAX_ROWS, terms::Batch};
use crate::{audit::Ledger, file};

/// What is in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// The batches that were open when it was written.
    pub open: Vec<Batch>,
    /// What was proved until then. `None` in files of earlier versions.
    #[serde(default)]
    pub ledger: Option<Ledger>,
}

/// The file below the state folder.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("upload.json")
}

/// What was last written; `None` if there is no file.
///
/// # Errors
///
/// If there is a file that cannot be read; [`io::ErrorKind::InvalidData`] if it is not ours.
pub fn load(path: &Path) -> io::Result<Option<Contents>> {
    match std::fs::read(path) {
        Ok(bytes) => parse(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the file's contents.
///
/// # Errors
///
/// As [`load`], if they are not ours.
pub fn parse(bytes: &[u8]) -> io::Result<Contents> {
    let contents = serde_json::from_slice::<Contents>(bytes)?;
    // Damage can be JSON all the same, and a range of everything would be read into memory.
    let may_be = |batch: &Batch| batch.seqs.count() <= batch.rows && batch.rows <= MAX_ROWS as u64;
    if !contents.open.iter().all(may_be) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no batch has such rows"));
    }
    Ok(contents)
}

/// The file's contents.
#[must_use]
pub fn render(contents: &Contents) -> Vec<u8> {
    serde_json::to_vec(contents).expect("text and numbers always make JSON")
}

/// Replaces the file.
///
/// # Errors
///
/// Whatever the file system says.
pub(super) fn save(path: &Path, contents: &Contents) -> io::Result<()> {
    file::replace(path, &render(contents), 0o640)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Ranges;

    #[test]
    fn batches_survive_the_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = path(dir.path());
        assert_eq!(load(&path).expect("no file is no batch"), None);
        let seqs = Ranges::from_iter([1, 2, 3, 7]);
        let open = vec![Batch::new("1f".into(), seqs, true)];
        let contents = Contents { open, ledger: Some(Ledger::new(123, 1, true)) };
        save(&path, &contents).expect("save");
        assert_eq!(load(&path).expect("load"), Some(contents));
        std::fs::write(&path, "{\"open\":").expect("write");
        assert_eq!(load(&path).expect_err("half a file").kind(), io::ErrorKind::UnexpectedEof);
        for seqs in ["[[0,18446744073709551615]]", "[[1,4]]"] {
            let batch =
                format!(r#"{{"id":"1f","name":"1f 1-3","seqs":{seqs},"rows":3,"twin":false}}"#);
            std::fs::write(&path, format!("{{\"open\":[{batch}]}}")).expect("write");
            let error = load(&path).expect_err("more rows than it says");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{seqs}");
        }
    }
}
