//! `[[files]]`

use std::{path::PathBuf, time::Duration};

use super::{
    super::{
        form::{Choice, File, Flag, Listed, Parsed, Size, Span},
        problem::Problems,
        schema::{Key, Presence, Reader, Section},
        settings::{After, FileFolder},
        written::Table,
    },
    Names,
};
use crate::domain::{Pattern, SourceId};

pub(super) static SECTION: Section = Section {
    heading: "[[files]]",
    doc: "A folder whose files are uploaded to the repository as they appear: each content once. Folders inside it, links \
          and names that begin with a dot are left alone.",
    keys: &[&FOLDER, &PATTERNS, &TAGS, &PUBLIC, &AFTER, &SETTLE, &EVERY, &MAX_SIZE, &SOURCE],
    tables: &[],
    refused: &[
        ("url", "`url` under the heading [repository]"),
        ("token", "`token` under the heading [repository]"),
        ("path", "`folder`"),
        ("delete", "`after = \"delete\"`"),
    ],
};

static FOLDER: Key<File> = Key {
    name: "folder",
    form: File,
    presence: Presence::Required,
    example: "\"/var/spool/camera\"",
    doc: "The folder that is watched. A relative path starts at the folder of the file it is written in. No two entries \
          have the same.",
};

static PATTERNS: Key<Listed<Pattern>> = Key {
    name: "patterns",
    form: Listed {
        kind: "list of patterns",
        range: "names with * for any text and ? for one character; capitals count",
        least: 1,
        parse: Pattern::parse,
    },
    presence: Presence::Default("[\"*\"]"),
    example: "[\"*.jpg\", \"*.csv.gz\"]",
    doc: "Which files are meant, by their names.",
};

static TAGS: Key<Listed<String>> = Key {
    name: "tags",
    form: Listed {
        kind: "list of tags",
        range: "each 3 to 32 of A-Z a-z 0-9 . - _",
        least: 0,
        parse: |text| crate::domain::is_file_tag(text).then(|| text.to_owned()),
    },
    presence: Presence::Default("[]"),
    example: "[\"site-1\", \"camera\"]",
    doc: "The tags that the files get. The token has to allow each of them.",
};

static PUBLIC: Key<Flag> = Key {
    name: "public",
    form: Flag,
    presence: Presence::Default("false"),
    example: "true",
    doc: "Whether the files appear in the repository's listing. Others are found by their address only, which is no \
          protection against whoever learns it.",
};

static AFTER: Key<Choice<After>> = Key {
    name: "after",
    form: Choice {
        options: &[("keep", After::Keep), ("delete", After::Delete)],
        aliases: &[],
        refused: &[("move", "\"keep\" or \"delete\": files are not moved")],
    },
    presence: Presence::Default("\"keep\""),
    example: "\"delete\"",
    doc: "What becomes of a file once the repository is known to have it. To delete, the agent needs to write in the folder.",
};

static SETTLE: Key<Span> = Key {
    name: "settle",
    form: Span { min: Duration::ZERO, max: Duration::from_secs(86_400) },
    presence: Presence::Default("\"10s\""),
    example: "\"1m\"",
    doc: "How long a file has to stay as it is before it counts as complete.",
};

static EVERY: Key<Span> = Key {
    name: "every",
    form: Span { min: Duration::from_millis(100), max: Duration::from_secs(86_400) },
    presence: Presence::Default("\"10s\""),
    example: "\"1m\"",
    doc: "How often the folder is looked at.",
};

static MAX_SIZE: Key<Size> = Key {
    name: "max_size",
    form: Size { min: 1, max: 1 << 50 },
    presence: Presence::Default("\"1 GiB\""),
    example: "\"20 MiB\"",
    doc: "Larger files are left alone, and told.",
};

static SOURCE: Key<Parsed<SourceId>> = Key {
    name: "source",
    form: Parsed {
        kind: "source ID",
        range: "1 to 64 characters without + # * ? , and blanks at its ends",
        shown: |_| true,
        parse: |text| text.parse().ok(),
    },
    presence: Presence::Optional("no datum"),
    example: "\"/site/camera\"",
    doc: "The source of a datum for each uploaded file, with its address (`file`), name and size (`bytes`).",
};

pub(super) fn check(
    table: &Table,
    names: &mut Names,
    folders: &mut Vec<PathBuf>,
    problems: &Problems,
) -> Option<FileFolder> {
    let files = Reader::new(table, &SECTION, problems);
    let folder = files.get(&FOLDER).map(|path| super::beside(&files.place(FOLDER.name), &path));
    let patterns = files.get(&PATTERNS);
    let tags = files.get(&TAGS);
    let (public, after) = (files.get(&PUBLIC), files.get(&AFTER));
    let (settle, every) = (files.get(&SETTLE), files.get(&EVERY));
    let max_bytes = files.get(&MAX_SIZE);
    let source = files.optional(&SOURCE);
    if let Some(source) = &source {
        names.add_source(source, files.place(SOURCE.name), problems);
    }
    let folder = folder?;
    if folders.contains(&folder) {
        files.error(
            FOLDER.name,
            files.shown(FOLDER.name),
            "a folder of its own for each [[files]]",
        );
        return None;
    }
    folders.push(folder.clone());
    Some(FileFolder {
        folder,
        patterns: patterns?,
        tags: tags?,
        public: public?,
        after: after?,
        settle: settle?,
        every: every?,
        max_bytes: max_bytes?,
        source,
    })
}
