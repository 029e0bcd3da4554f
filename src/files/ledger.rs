//! What became of every file: which contents the repository has, and which files need not be looked at
//! again. Pure; [`super::journal`] keeps it on disk as the lines it is made of.
//!
//! ```text
//!  a content:   unknown ──Sending──▶ in doubt ──Stored──▶ stored ──Told──▶ told     (no way back)
//!                  ▲──────Refused────────┘
//!  a file:      unknown ──File { sha256 }──▶ done      or      ──File { reason }──▶ set aside
//! ```
//!
//! A content is known by its SHA-256 and the repository it went to. `Sending` is on disk before the first
//! byte leaves, `Stored` before anything is deleted; so after a crash a content is either known to be there,
//! or known to be in doubt, or was never sent.
//!
//! A file is known by its path with size and time of change; one that changes is a new file.
//!
//! Contents beyond [`MAX_CONTENTS`] are forgotten, the oldest first, but none that a file still in its
//! folder has, and none that is in doubt or not told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::domain::{BootId, SourceId, Stamp};

/// Contents remembered that no file has any more: a camera's pictures of a month, at one in five minutes.
pub const MAX_CONTENTS: usize = 10_000;

/// A file as the folder shows it; any change of these makes it another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes.
    pub size: u64,
    /// Time of the last change, nanoseconds since the epoch by whatever clock there was.
    pub mtime_ns: i64,
    /// Which file it is on its disk.
    pub inode: u64,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The content is about to be sent.
    Sending(Sending),
    /// The repository has it.
    Stored(Stored),
    /// The repository has refused it, so it is not there.
    Refused {
        /// The content.
        sha256: String,
    },
    /// The datum with its address is committed.
    Told {
        /// The content.
        sha256: String,
    },
    /// What a file is.
    File(Noted),
}

/// See [`Line::Sending`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// The content.
    pub sha256: String,
    /// The repository.
    pub url: String,
    /// The name it is sent under.
    pub name: String,
}

/// See [`Line::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The content.
    pub sha256: String,
    /// The repository.
    pub url: String,
    /// Its name there.
    pub filename: String,
    /// Its number there, where it was told.
    pub id: Option<i64>,
    /// The name it was sent under.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// The source of the datum that is to carry its address.
    pub source: Option<String>,
    /// When the repository had it.
    pub at: When,
}

/// A [`Stamp`] on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Milliseconds since the epoch.
    UnixMs(i64),
    /// The boot, as hexadecimal digits, and milliseconds since it began.
    Boot(String, u64),
}

impl From<Stamp> for When {
    fn from(stamp: Stamp) -> Self {
        match stamp {
            Stamp::Wall { unix_ms } => Self::UnixMs(unix_ms),
            Stamp::Boot { boot, since_boot_ms } => Self::Boot(hex::encode(boot.0), since_boot_ms),
        }
    }
}

impl When {
    /// The stamp, unless the digits were damaged.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::UnixMs(unix_ms) => Some(Stamp::Wall { unix_ms: *unix_ms }),
            Self::Boot(digits, since_boot_ms) => {
                let mut boot = [0; 16];
                hex::decode_to_slice(digits, &mut boot).ok()?;
                Some(Stamp::Boot { boot: BootId(boot), since_boot_ms: *since_boot_ms })
            }
        }
    }
}

impl Stored {
    /// The source of its datum, if it is to have one.
    #[must_use]
    pub fn source(&self) -> Option<SourceId> {
        self.source.as_ref()?.parse().ok()
    }
}

/// See [`Line::File`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Where it is.
    #[serde(with = "path_of_any_bytes")]
    pub path: PathBuf,
    /// What it was like.
    pub shape: Shape,
    /// What became of it.
    pub fate: Fate,
}

/// A path as text, or as its bytes where it is none.
mod path_of_any_bytes {
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt, OsStringExt},
        path::{Path, PathBuf},
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(PathBuf),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(to),
            None => path.as_os_str().as_bytes().serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Text(path) => path,
            Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The repository has this content.
    Done {
        /// The content.
        sha256: String,
    },
    /// It is not taken.
    Aside {
        /// Why.
        reason: String,
        /// The rules under which that was so; under others it is tried again.
        rules: String,
    },
}

/// How far a content has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    InDoubt(Sending),
    Stored { stored: Stored, told: bool },
}

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// With the order in which they came.
    contents: BTreeMap<String, (u64, Content)>,
    files: BTreeMap<PathBuf, Noted>,
    next: u64,
}

impl Ledger {
    /// What these lines say, in order.
    pub fn from_lines(lines: impl IntoIterator<Item = Line>) -> Self {
        let mut ledger = Self::default();
        lines.into_iter().for_each(|line| ledger.take(line));
        ledger
    }

    /// Takes one line. One that leads back is not followed: what is stored stays stored.
    pub fn take(&mut self, line: Line) {
        self.next += 1;
        let order = self.next;
        match line {
            Line::Sending(sending) => {
                let known = self.stored(&sending.sha256, &sending.url).is_some();
                if !known {
                    self.contents
                        .insert(sending.sha256.clone(), (order, Content::InDoubt(sending)));
                }
            }
            Line::Stored(stored) => {
                let told = stored.source.is_none();
                let sha256 = stored.sha256.clone();
                self.contents.insert(sha256, (order, Content::Stored { stored, told }));
            }
            Line::Refused { sha256 } => {
                if matches!(self.contents.get(&sha256), Some((_, Content::InDoubt(_)))) {
                    self.contents.remove(&sha256);
                }
            }
            Line::Told { sha256 } => {
                if let Some((_, Content::Stored { told, .. })) = self.contents.get_mut(&sha256) {
                    *told = true;
                }
            }
            Line::File(noted) => {
                self.files.insert(noted.path.clone(), noted);
            }
        }
    }

    /// The content, where that repository has it.
    #[must_use]
    pub fn stored(&self, sha256: &str, url: &str) -> Option<&Stored> {
        match self.contents.get(sha256) {
            Some((_, Content::Stored { stored, .. })) if stored.url == url => Some(stored),
            _ => None,
        }
    }

    /// How the content was sent, where nobody knows whether it arrived.
    #[must_use]
    pub fn in_doubt(&self, sha256: &str, url: &str) -> Option<&Sending> {
        match self.contents.get(sha256) {
            Some((_, Content::InDoubt(sending))) if sending.url == url => Some(sending),
            _ => None,
        }
    }

    /// The contents whose datum is not committed yet.
    #[must_use]
    pub fn untold(&self) -> Vec<Stored> {
        let untold = self.contents.values().filter_map(|(_, content)| match content {
            Content::Stored { stored, told: false } => Some(stored.clone()),
            _ => None,
        });
        untold.collect()
    }

    /// What became of a file, if it is still as it was, and the rules are, where it was set aside.
    #[must_use]
    pub fn fate(&self, path: &Path, shape: Shape, rules: &str) -> Option<&Fate> {
        let noted = self.files.get(path).filter(|noted| noted.shape == shape)?;
        match &noted.fate {
            Fate::Aside { rules: under, .. } if under != rules => None,
            fate => Some(fate),
        }
    }

    /// Forgets the files of a folder that are not there any more.
    pub fn keep_files(&mut self, folder: &Path, there: &BTreeSet<&Path>) {
        self.files
            .retain(|path, _| path.parent() != Some(folder) || there.contains(path.as_path()));
    }

    /// Forgets the oldest contents beyond `most` that nothing needs any more.
    pub fn forget_beyond(&mut self, most: usize) {
        let surplus = self.contents.len().saturating_sub(most);
        if surplus == 0 {
            return;
        }
        let held: BTreeSet<&str> = self
            .files
            .values()
            .filter_map(|noted| match &noted.fate {
                Fate::Done { sha256 } => Some(sha256.as_str()),
                Fate::Aside { .. } => None,
            })
            .collect();
        let spare = |(sha256, (order, content)): (&String, &(u64, Content))| {
            let done = matches!(content, Content::Stored { told: true, .. });
            (done && !held.contains(sha256.as_str())).then(|| (*order, sha256.clone()))
        };
        let mut spare: Vec<_> = self.contents.iter().filter_map(spare).collect();
        spare.sort_unstable();
        for (_, sha256) in spare.into_iter().take(surplus) {
            self.contents.remove(&sha256);
        }
    }

    /// The fewest lines that say the same.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut contents: Vec<_> = self.contents.values().collect();
        contents.sort_unstable_by_key(|(order, _)| *order);
        let mut lines = Vec::new();
        for (_, content) in contents {
            match content {
                Content::InDoubt(sending) => lines.push(Line::Sending(sending.clone())),
                Content::Stored { stored, told } => {
                    lines.push(Line::Stored(stored.clone()));
                    if *told && stored.source.is_some() {
                        lines.push(Line::Told { sha256: stored.sha256.clone() });
                    }
                }
            }
        }
        lines.extend(self.files.values().cloned().map(Line::File));
        lines
    }

    /// How many lines [`Ledger::lines`] gives at most.
    #[must_use]
    pub fn most_lines(&self) -> usize {
        2 * self.contents.len() + self.files.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URL: &str = "http://r";

    fn sending(sha256: &str) -> Line {
        Line::Sending(Sending { sha256: sha256.into(), url: URL.into(), name: "a".into() })
    }

    fn stored(sha256: &str, source: Option<&str>) -> Line {
        Line::Stored(Stored {
            sha256: sha256.into(),
            url: URL.into(),
            filename: format!("0123{sha256}"),
            id: Some(1),
            name: "a".into(),
            bytes: 9,
            source: source.map(str::to_owned),
            at: When::UnixMs(1),
        })
    }

    fn shape(size: u64) -> Shape {
        Shape { size, mtime_ns: 1, inode: 1 }
    }

    fn file(path: &str, size: u64, fate: Fate) -> Line {
        Line::File(Noted { path: path.into(), shape: shape(size), fate })
    }

    fn done(sha256: &str) -> Fate {
        Fate::Done { sha256: sha256.into() }
    }

    #[test]
    fn a_content_is_in_doubt_until_the_repository_is_known_to_have_it_and_never_after() {
        let mut ledger = Ledger::default();
        ledger.take(sending("a"));
        assert!(ledger.in_doubt("a", URL).is_some());
        assert!(ledger.in_doubt("a", "http://other").is_none(), "nothing went there");
        ledger.take(stored("a", Some("/files")));
        ledger.take(sending("a"));
        assert!(ledger.in_doubt("a", URL).is_none());
        assert!(ledger.stored("a", URL).is_some());
        assert!(ledger.stored("a", "http://other").is_none());
        assert_eq!(ledger.untold().len(), 1);
        ledger.take(Line::Told { sha256: "a".into() });
        assert_eq!(ledger.untold(), []);
    }

    #[test]
    fn a_file_whose_name_is_no_text_is_remembered_as_well() {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"/in/caf\xe9.jpg".to_vec()));
        let line = Line::File(Noted { path, shape: shape(1), fate: done("a") });
        let text = serde_json::to_string(&line).expect("a line");
        assert_eq!(serde_json::from_str::<Line>(&text).expect("a line"), line);
    }

    #[test]
    fn a_file_that_changed_is_another_one_and_other_rules_try_again() {
        let path = Path::new("/d/f");
        let aside = Fate::Aside { reason: "too large".into(), rules: "1".into() };
        let mut ledger = Ledger::from_lines([file("/d/f", 5, aside.clone())]);
        assert_eq!(ledger.fate(path, shape(5), "1"), Some(&aside));
        assert_eq!(ledger.fate(path, shape(6), "1"), None);
        assert_eq!(ledger.fate(path, shape(5), "2"), None);
        ledger.keep_files(Path::new("/d"), &BTreeSet::new());
        assert_eq!(ledger.fate(path, shape(5), "1"), None);
    }

    #[test]
    fn only_what_nothing_needs_is_forgotten_the_oldest_first() {
        let mut ledger = Ledger::from_lines([
            stored("held", None),
            sending("doubt"),
            stored("untold", Some("/s")),
            stored("old", None),
            stored("new", None),
            file("/d/f", 1, done("held")),
        ]);
        ledger.forget_beyond(4);
        assert!(ledger.stored("old", URL).is_none());
        ledger.forget_beyond(0);
        assert!(ledger.stored("new", URL).is_none());
        assert!(ledger.stored("held", URL).is_some() && ledger.stored("untold", URL).is_some());
        assert!(ledger.in_doubt("doubt", URL).is_some());
    }

    fn any_line() -> impl Strategy<Value = Line> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        (name, 0..6_u8).prop_map(|(name, kind)| match kind {
            0 => sending(name),
            1 => stored(name, None),
            2 => stored(name, Some("/s")),
            3 => Line::Told { sha256: name.into() },
            4 => Line::Refused { sha256: name.into() },
            _ => file(&format!("/d/{name}"), 1, done(name)),
        })
    }

    proptest! {
        /// Written anew, from JSON, it knows the same.
        #[test]
        fn a_ledger_is_what_its_lines_say(lines in prop::collection::vec(any_line(), 0..30)) {
            let ledger = Ledger::from_lines(lines);
            let again = ledger.lines().into_iter().map(|line| {
                let json = serde_json::to_string(&line).expect("JSON");
                serde_json::from_str(&json).expect("own JSON")
            });
            let again = Ledger::from_lines(again.collect::<Vec<Line>>());
            prop_assert_eq!(&again.files, &ledger.files);
            prop_assert_eq!(again.untold(), ledger.untold());
            for sha256 in ["a", "b", "c"] {
                prop_assert_eq!(again.stored(sha256, URL), ledger.stored(sha256, URL));
                prop_assert_eq!(again.in_doubt(sha256, URL), ledger.in_doubt(sha256, URL));
            }
        }
    }
}
