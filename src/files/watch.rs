//! Which files of a folder may be taken: those that nobody writes any more. Pure, but for [`scan`].
//!
//! A file may be taken once its size, time of change and identity were the same for `settle`, measured by the
//! machine's own time line; the wall clock may be wrong. After a start every file has to prove that anew.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{content, ledger::Shape};
use crate::domain::Pattern;

/// Files looked at in one folder; more wait until these are gone.
pub const MAX_FILES: usize = 10_000;

/// A file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its name, as far as it is text.
    pub name: String,
    /// What it is like.
    pub shape: Shape,
}

/// One look at a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The ordinary files that the patterns mean, the oldest first.
    pub files: Vec<Found>,
    /// Whether there are more than were looked at.
    pub more: bool,
}

/// Looks at a folder: ordinary files that match, no folders inside, no links, nothing hidden.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn scan(folder: &Path, patterns: &[Pattern]) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !patterns.iter().any(|pattern| pattern.matches(&name)) {
            continue;
        }
        // Gone meanwhile, or no ordinary file.
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() {
            continue;
        }
        if scan.files.len() == MAX_FILES {
            scan.more = true;
            break;
        }
        scan.files.push(Found { path: entry.path(), name, shape: content::shape(&meta) });
    }
    scan.files.sort_by(|a, b| (a.shape.mtime_ns, &a.name).cmp(&(b.shape.mtime_ns, &b.name)));
    Ok(scan)
}

/// How long files have been as they are.
#[derive(Debug, Default)]
pub struct Settling(HashMap<PathBuf, (Shape, Duration)>);

impl Settling {
    /// Takes a look at `now` (time since any fixed start) and says which have been the same for `settle`.
    pub fn look<'a>(
        &mut self,
        now: Duration,
        settle: Duration,
        files: impl IntoIterator<Item = &'a Found>,
    ) -> Vec<&'a Found> {
        let mut seen = HashMap::new();
        let mut ready = Vec::new();
        for file in files {
            let same = self.0.get(&file.path).filter(|(shape, _)| *shape == file.shape);
            let since = same.map_or(now, |(_, since)| *since);
            if now.saturating_sub(since) >= settle {
                ready.push(file);
            }
            seen.insert(file.path.clone(), (file.shape, since));
        }
        self.0 = seen;
        ready
    }

    /// Begins anew with a file that turned out to be changing.
    pub fn again(&mut self, path: &Path) {
        self.0.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, size: u64) -> Found {
        let shape = Shape { size, mtime_ns: 1, inode: 1 };
        Found { path: name.into(), name: name.into(), shape }
    }

    #[test]
    fn a_file_is_taken_once_nothing_of_it_changed_for_long_enough() {
        let settle = Duration::from_secs(10);
        let mut settling = Settling::default();
        let mut ready = |secs, size| {
            let files = [found("a", size)];
            settling.look(Duration::from_secs(secs), settle, &files).len()
        };
        assert_eq!(ready(0, 5), 0, "never taken at first sight");
        assert_eq!(ready(9, 5), 0);
        assert_eq!(ready(10, 6), 0, "it grew");
        assert_eq!(ready(19, 6), 0);
        assert_eq!(ready(20, 6), 1);
    }

    #[test]
    fn a_file_that_went_and_came_begins_anew() {
        let mut settling = Settling::default();
        let files = [found("a", 5)];
        let second = Duration::from_secs(1);
        settling.look(Duration::ZERO, second, &files);
        settling.look(second, second, []);
        assert_eq!(settling.look(3 * second, second, &files), Vec::<&Found>::new());
    }

    #[test]
    fn folders_links_hidden_and_other_names_are_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in ["b.jpg", "a.jpg", ".hidden.jpg", "c.txt"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        fs::create_dir(dir.path().join("d.jpg")).expect("made");
        std::os::unix::fs::symlink("a.jpg", dir.path().join("e.jpg")).expect("linked");
        let patterns = [Pattern::parse("*.jpg").expect("a pattern")];
        let scan = scan(dir.path(), &patterns).expect("a folder");
        let mut names: Vec<_> = scan.files.iter().map(|file| file.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a.jpg", "b.jpg"]);
    }

    #[test]
    fn a_file_whose_name_is_no_text_is_taken() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.jpg"));
        fs::write(&path, "a picture").expect("written");
        let patterns = [Pattern::parse("*.jpg").expect("a pattern")];
        let scan = scan(dir.path(), &patterns).expect("a folder");
        assert_eq!(scan.files.len(), 1);
        assert_eq!((&scan.files[0].path, scan.files[0].name.as_str()), (&path, "caf\u{fffd}.jpg"));
    }
}
