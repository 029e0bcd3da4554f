//! Stage two: the file and its drop-ins as one tree.
//!
//! `agent.toml` comes first, then every `*.toml` of the folder `agent.d` beside it, by name. A later
//! file wins: a value replaces, a table is merged key by key, a list is replaced as a whole. A
//! `[[modbus]]`, `[[control]]` or `[[files]]` replaces the one of the same `name`, `id` or `folder` as a
//! whole; others are added. (Why: `docs/decisions/0003-configuration-layers.md`.)
//!
//! Every value keeps the file and line it came from. Nothing is checked here.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    ConfigError,
    problem::{Place, Problems},
    written::{self, Node, Table, Value},
};

/// Lists whose entries are known by one of their keys.
const IDENTIFIED: [(&str, &str); 3] = [("modbus", "name"), ("control", "id"), ("files", "folder")];

/// No configuration is larger; a device file or a log named by mistake is.
const MAX_BYTES: u64 = 4 << 20;

/// Reads the file and its drop-ins.
pub(super) fn read(path: &Path) -> Result<Table, ConfigError> {
    let problems = Problems::default();
    let mut files = vec![parse(path, &problems)?];
    for path in drop_ins(path)? {
        files.push(parse(&path, &problems)?);
    }
    merge_all(files, problems)
}

/// The same of files that are in memory, each with its name, in their order.
pub(super) fn of(files: &[(String, Vec<u8>)]) -> Result<Table, ConfigError> {
    let problems = Problems::default();
    let files = files.iter().map(|(name, bytes)| written::parse(name, bytes, &problems)).collect();
    merge_all(files, problems)
}

/// Lays them over one another. Where one is not TOML, the others were still read for their own slips.
fn merge_all(files: Vec<Option<Table>>, problems: Problems) -> Result<Table, ConfigError> {
    let files: Option<Vec<Table>> = files.into_iter().collect();
    let merged = files.and_then(|files| files.into_iter().reduce(merge));
    merged.ok_or_else(|| ConfigError::Invalid(problems.into_sorted()))
}

/// The tree of a file that is not there.
pub(super) fn nothing(path: &Path) -> Table {
    Table { place: whole(path), entries: Vec::new() }
}

fn whole(path: &Path) -> Place {
    Place { file: path.display().to_string().into(), line: None, key: String::new() }
}

fn parse(path: &Path, problems: &Problems) -> Result<Option<Table>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        problems.error(&whole(path), "more than 4 MiB", "a configuration file");
        return Ok(None);
    }
    Ok(written::parse(&path.display().to_string(), &bytes, problems))
}

/// The drop-ins of `path`, sorted by name; hidden files and other endings are left alone.
pub(super) fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = path.with_extension("d");
    let unreadable = |source| ConfigError::Unreadable { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if !hidden && path.extension().is_some_and(|ending| ending == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The value of a key such as `modbus[0].name`; an index counts over all files.
pub(super) fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Node> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let indexed = first.strip_suffix(']').and_then(|first| first.split_once('['));
    let node = match indexed {
        None => table.get(first)?,
        Some((list, index)) => match &table.get(list)?.value {
            Value::List(nodes) => nodes.get(index.parse::<usize>().ok()?)?,
            _ => return None,
        },
    };
    match (rest, &node.value) {
        (None, _) => Some(node),
        (Some(rest), Value::Table(table)) => find(table, rest),
        (Some(_), _) => None,
    }
}

/// `later` laid over `earlier`.
fn merge(mut earlier: Table, later: Table) -> Table {
    for (key, node) in later.entries {
        let Some(slot) = earlier.entries.iter_mut().find(|(name, _)| *name == key) else {
            earlier.entries.push((key, node));
            continue;
        };
        let identity = IDENTIFIED.iter().find(|(list, _)| *list == key).map(|(_, by)| *by);
        let old = std::mem::replace(&mut slot.1.value, Value::Flag(false));
        slot.1 = match (old, node, identity) {
            (Value::Table(old), Node { file, line, value: Value::Table(new) }, _) => {
                Node { file, line, value: Value::Table(merge(old, new)) }
            }
            (Value::List(old), Node { file, line, value: Value::List(new) }, Some(by)) => {
                Node { file, line, value: Value::List(merge_lists(old, new, by)) }
            }
            (_, node, _) => node,
        };
    }
    earlier
}

fn merge_lists(mut earlier: Vec<Node>, later: Vec<Node>, by: &str) -> Vec<Node> {
    let replaced: BTreeSet<_> = later.iter().filter_map(|node| identity(node, by)).collect();
    earlier.retain(|node| identity(node, by).is_none_or(|known| !replaced.contains(known)));
    earlier.extend(later);
    earlier
}

fn identity<'a>(node: &'a Node, by: &str) -> Option<&'a str> {
    let Value::Table(table) = &node.value else { return None };
    match &table.get(by)?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(file: &str, text: &str) -> Table {
        written::parse(file, text.as_bytes(), &Problems::default()).expect("valid TOML")
    }

    #[test]
    fn the_later_file_wins_and_every_value_keeps_its_file() {
        let earlier = parsed(
            "1",
            "[upload]\nevery = \"1m\"\nvia = \"import\"\n\
             [[modbus]]\nname = \"a\"\npause = \"1s\"\n[[modbus]]\nname = \"b\"",
        );
        let later = parsed(
            "2",
            "[upload]\nevery = \"5m\"\n[[modbus]]\nname = \"a\"\n[[modbus]]\nname = \"c\"",
        );
        let merged = merge(earlier, later);
        let Some(Node { value: Value::Table(upload), .. }) = merged.get("upload") else {
            panic!("{merged:?}")
        };
        let line = |node: &Node| format!("{}:{}", node.file, node.line);
        let seen = |key| upload.get(key).map(|node| (node.value.shown(), line(node)));
        assert_eq!(seen("every"), Some(("\"5m\"".to_owned(), "2:2".to_owned())));
        assert_eq!(seen("via"), Some(("\"import\"".to_owned(), "1:3".to_owned())));
        let Some(Node { value: Value::List(buses), .. }) = merged.get("modbus") else {
            panic!("{merged:?}")
        };
        let at = |key| find(&merged, key).map(line);
        assert_eq!(at("modbus[1].name").as_deref(), Some("2:4"));
        assert_eq!((at("modbus[3]"), at("modbus.name"), at("upload.every.x")), (None, None, None));
        let names: Vec<_> = buses.iter().map(|bus| identity(bus, "name")).collect();
        assert_eq!(names, [Some("b"), Some("a"), Some("c")]);
        let Value::Table(a) = &buses[1].value else { panic!("{buses:?}") };
        assert_eq!(a.get("pause"), None, "a bus is replaced as a whole");
    }

    #[test]
    fn drop_ins_come_by_name_and_others_are_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("agent.d")).expect("create");
        for name in ["20.toml", "10.toml", ".hidden.toml", "10.toml~", "README"] {
            fs::write(dir.path().join("agent.d").join(name), "").expect("write");
        }
        let found = drop_ins(&dir.path().join("agent.toml")).expect("list");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["10.toml", "20.toml"]);
    }
}
