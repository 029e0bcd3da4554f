//! Stage one: the text of one file as a tree in which every value knows where it was written.
//!
//! This stage knows TOML and nothing of the agent. It keeps numbers as they were spelled, so that
//! `0.1` stays one tenth, and keeps entries in the order of the text.

use std::{ops::Range, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problems, join, shorten};

/// A table with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) place: Place,
    pub(super) entries: Vec<(String, Node)>,
}

impl Table {
    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }
}

/// A value and the line it stands on. Its key is known by whoever has the table around it: with one each, a large
/// file would take half as much memory again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) value: Value,
}

impl Node {
    /// Its place, with the key that it has there.
    pub(super) fn place(&self, key: String) -> Place {
        Place { file: self.file.clone(), line: Some(self.line), key }
    }
}

/// A value as TOML has it, numbers still as text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(Whole),
    /// Without underscores; may be `inf` or `nan`.
    Float(String),
    Flag(bool),
    /// A date or time; no key wants one.
    Moment(String),
    List(Vec<Node>),
    Table(Table),
}

/// A whole number as it was spelled, without underscores and prefix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Whole {
    pub(super) digits: String,
    pub(super) radix: u32,
}

impl Whole {
    /// The number, if it is not absurdly large.
    pub(super) fn number(&self) -> Option<i128> {
        i128::from_str_radix(&self.digits, self.radix).ok()
    }
}

impl Value {
    /// The value as a complaint shows it: on one line, short, as the user would recognise it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{:?}", shorten(text)),
            Self::Whole(Whole { digits, radix }) => {
                let prefix = match radix {
                    2 => "0b",
                    8 => "0o",
                    16 => "0x",
                    _ => "",
                };
                shorten(&format!("{prefix}{digits}"))
            }
            Self::Float(text) | Self::Moment(text) => shorten(text),
            Self::Flag(flag) => flag.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// Reads the text of `file`. What is not TOML goes to `problems`, and there is no table then.
pub(super) fn parse(file: &str, bytes: &[u8], problems: &Problems) -> Option<Table> {
    let file: Arc<str> = file.into();
    let whole_file = Place { file: file.clone(), line: None, key: String::new() };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let lines = Lines::of(bytes);
            let place = Place { line: Some(lines.line(error.valid_up_to())), ..whole_file };
            problems.error(&place, "bytes that are not UTF-8", "text encoded as UTF-8");
            return None;
        }
    };
    let lines = Lines::of(bytes);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let reader = Source { file, lines };
        return Some(reader.table(whole_file, table.into_inner()));
    }
    let mut last = None;
    for error in errors {
        let line = error.span().map(|span| lines.line(span.start));
        // One slip often makes the parser stumble again on the same line.
        if last.replace(line) == Some(line) {
            continue;
        }
        let place = Place { line, ..whole_file.clone() };
        // The message only: the parser's own display quotes the line, which may hold a secret.
        if error.message() == "duplicate key" {
            let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
            let found = format!("`{}` once more", shorten(key).escape_debug());
            problems.error(&place, found, "each key once in its table");
            continue;
        }
        let (why, expected) =
            error.message().split_once(", expected ").unwrap_or((error.message(), "valid TOML"));
        problems.error(&place, format!("text that is not TOML ({why})"), expected);
    }
    None
}

/// Reads one value written in TOML, as the defaults and examples of keys are.
pub(super) fn parse_value(text: &str) -> Option<Value> {
    Some(placeless(DeValue::parse(text).ok()?.into_inner()))
}

/// A parsed value without its place.
pub(super) fn placeless(value: DeValue<'_>) -> Value {
    Source { file: "".into(), lines: Lines(Vec::new()) }.node(&String::new, 0..0, value).value
}

struct Source {
    file: Arc<str>,
    lines: Lines,
}

impl Source {
    fn table(&self, place: Place, table: DeTable<'_>) -> Table {
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries = entries.into_iter().map(|(key, value)| {
            // A table's own span may lie further down, in the header of a table inside it.
            let span = if value.get_ref().is_table() { key.span() } else { value.span() };
            let name = key.into_inner().into_owned();
            let node = self.node(&|| join(&place.key, &name), span, value.into_inner());
            (name, node)
        });
        Table { entries: entries.collect(), place }
    }

    /// `key` is asked for where it is kept, which is with tables.
    fn node(&self, key: &dyn Fn() -> String, span: Range<usize>, value: DeValue<'_>) -> Node {
        let (file, line) = (self.file.clone(), self.lines.line(span.start));
        let value = match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => {
                Value::Whole(Whole { digits: number.as_str().to_owned(), radix: number.radix() })
            }
            DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
            DeValue::Boolean(flag) => Value::Flag(flag),
            DeValue::Datetime(moment) => Value::Moment(moment.to_string()),
            DeValue::Array(values) => {
                let key = key();
                let nodes = values.into_iter().enumerate().map(|(index, value)| {
                    let span = value.span();
                    self.node(&|| format!("{key}[{index}]"), span, value.into_inner())
                });
                Value::List(nodes.collect())
            }
            DeValue::Table(table) => {
                let place = Place { file: file.clone(), line: Some(line), key: key() };
                Value::Table(self.table(place, table))
            }
        };
        Node { file, line, value }
    }
}

/// Where the line breaks of a text lie.
struct Lines(Vec<usize>);

impl Lines {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte, counted from 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Table {
        parse("f", text.as_bytes(), &Problems::default()).expect("valid TOML")
    }

    fn complaints(bytes: &[u8]) -> Vec<String> {
        let problems = Problems::default();
        assert_eq!(parse("f", bytes, &problems), None);
        problems.into_sorted().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_value_knows_its_line_and_key() {
        let table = parsed("a = 1\n\n[b]\nc = [\n  2,\n  3]\n[[d.e]]\nf = 4\n[[d.e]]\nf = 5\n");
        let mut seen = Vec::new();
        fn walk(key: String, node: &Node, seen: &mut Vec<(String, usize)>) {
            seen.push((key.clone(), node.line));
            match &node.value {
                Value::List(nodes) => {
                    let nodes = nodes.iter().enumerate();
                    nodes.for_each(|(index, node)| walk(format!("{key}[{index}]"), node, seen));
                }
                Value::Table(table) => {
                    assert_eq!((&table.place.key, table.place.line), (&key, Some(node.line)));
                    walk_table(table, seen);
                }
                _ => {}
            }
        }
        fn walk_table(table: &Table, seen: &mut Vec<(String, usize)>) {
            for (name, node) in &table.entries {
                walk(table.place.of(name).key, node, seen);
            }
        }
        walk_table(&table, &mut seen);
        let seen: Vec<_> = seen.iter().map(|(key, line)| (key.as_str(), *line)).collect();
        assert_eq!(
            seen,
            [
                ("a", 1),
                ("b", 3),
                ("b.c", 4),
                ("b.c[0]", 5),
                ("b.c[1]", 6),
                ("d", 7),
                ("d.e", 7),
                ("d.e[0]", 7),
                ("d.e[0].f", 8),
                ("d.e[1]", 9),
                ("d.e[1].f", 10),
            ]
        );
    }

    #[test]
    fn numbers_stay_as_they_were_spelled() {
        let table = parsed("a = 0.10\nb = 0xFFFF_FFFF_FFFF_FFFF\nc = 1_000.5e3");
        let shown: Vec<_> = table.entries.iter().map(|(_, node)| node.value.shown()).collect();
        assert_eq!(shown, ["0.10", "0xFFFFFFFFFFFFFFFF", "1000.5e3"]);
    }

    #[test]
    fn several_slips_are_named_in_one_run_and_no_line_is_quoted() {
        let complaints = complaints(b"a = \"hunter2\nb = 1\nc = = hunter2\nb = 3\n");
        assert!(complaints.len() >= 2, "{complaints:?}");
        assert!(complaints.iter().all(|line| !line.contains("hunter2")), "{complaints:?}");
        assert!(complaints.iter().any(|line| line.contains("f:4: found `b` once more")));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_line() {
        assert_eq!(
            complaints(b"a = 1\nb = \"\xff\""),
            ["f:2: found bytes that are not UTF-8, expected text encoded as UTF-8"]
        );
    }
}
