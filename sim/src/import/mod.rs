//! Reads import files: both CSV input formats of SolarNetwork, with all their settings.
//!
//! - *Simple CSV*: one column per property, names from the header row.
//! - *Basic CSV*: one column per group, holding JSON.
//!
//! Compression is recognised from the first bytes, whatever the part says of itself; gzip is played, other
//! kinds end the job with a message that says so.

pub(crate) mod config;
mod csv;
mod date;
pub(crate) mod multipart;

use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Number, Value};

use crate::ledger::{Datum, Key};
use config::InputConfig;
use csv::Record;
use date::DateFormat;

const SIMPLE: &str =
    "net.solarnetwork.central.datum.imp.standard.SimpleCsvDatumImportInputFormatService";
const BASIC: &str =
    "net.solarnetwork.central.datum.imp.standard.BasicCsvDatumImportInputFormatService";

/// More than this, uncompressed, is not read: the server takes 250 MB a file.
const FILE_LIMIT: u64 = 250 * 1024 * 1024;

/// One row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) datum: Datum,
}

/// All rows of a file up to the first bad one, and what is wrong with that one.
pub(crate) struct Rows {
    pub(crate) good: Vec<Row>,
    pub(crate) error: Option<String>,
}

/// Reads a file as its configuration says.
pub(crate) fn read(input: &InputConfig, data: &[u8]) -> Rows {
    let mut good = Vec::new();
    let error = read_into(&mut good, input, data).err();
    Rows { good, error }
}

fn read_into(rows: &mut Vec<Row>, input: &InputConfig, data: &[u8]) -> Result<(), String> {
    let text = unpack(data)?;
    let records = csv::parse(&text)
        .map_err(|line| format!("Error parsing line {line}: unterminated quoted cell"))?;
    let skipped: usize = number_setting(input, "headerRowCount", "1")?;
    let columns = Columns::new(input, records.first())?;
    for record in records.iter().skip(skipped) {
        let row = columns
            .row(record)
            .map_err(|what| format!("Error parsing line {}: {what}", record.line))?;
        rows.push(row);
    }
    Ok(())
}

fn unpack(data: &[u8]) -> Result<String, String> {
    let mut bytes = Vec::new();
    match data {
        [0x1f, 0x8b, ..] => {
            MultiGzDecoder::new(data)
                .take(FILE_LIMIT)
                .read_to_end(&mut bytes)
                .map_err(|error| format!("Error reading compressed data: {error}"))?;
        }
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return Err("The simulator reads gzip, not bzip2 or xz".to_owned());
        }
        plain => bytes.extend_from_slice(plain),
    }
    String::from_utf8(bytes).map_err(|_| "The file is not UTF-8".to_owned())
}

fn number_setting<T: std::str::FromStr>(
    input: &InputConfig,
    name: &str,
    default: &str,
) -> Result<T, String> {
    let text = input.setting(name, default);
    text.parse().map_err(|_| format!("{name} is not a number: {text}"))
}

/// Where the parts of a datum stand in a record.
struct Columns {
    node: usize,
    source: usize,
    date: Vec<usize>,
    format: DateFormat,
    samples: Samples,
}

enum Samples {
    /// Columns with their property's name.
    Simple {
        i: Vec<(usize, String)>,
        a: Vec<(usize, String)>,
        s: Vec<(usize, String)>,
        t: Vec<usize>,
    },
    /// The four JSON columns.
    Basic { i: usize, a: usize, s: usize, t: usize },
}

impl Columns {
    fn new(input: &InputConfig, header: Option<&Record>) -> Result<Self, String> {
        let one = |name: &str, default: &str| column(input.setting(name, default), name);
        let list = |name: &str| columns(input.setting(name, ""), name);
        let samples = match input.service.as_deref() {
            Some(SIMPLE) => {
                let named = |name: &str| -> Result<Vec<(usize, String)>, String> {
                    let title = |at: usize| {
                        let cell = header.and_then(|header| header.cells.get(at));
                        cell.filter(|title| !title.is_empty()).map(|title| (at, title.clone()))
                    };
                    Ok(list(name)?.into_iter().filter_map(title).collect())
                };
                Samples::Simple {
                    i: named("instantaneousDataColumns")?,
                    a: named("accumulatingDataColumns")?,
                    s: named("statusDataColumns")?,
                    t: list("tagDataColumns")?,
                }
            }
            Some(BASIC) => Samples::Basic {
                i: one("instantaneousDataColumn", "4")?,
                a: one("accumulatingDataColumn", "5")?,
                s: one("statusDataColumn", "6")?,
                t: one("tagDataColumn", "7")?,
            },
            other => {
                return Err(format!("Input service {} not available", other.unwrap_or("null")));
            }
        };
        Ok(Self {
            node: one("nodeIdColumn", "1")?,
            source: one("sourceIdColumn", "2")?,
            date: columns(input.setting("dateColumnsValue", "3"), "dateColumnsValue")?,
            format: DateFormat::new(
                input.setting("dateFormat", "yyyy-MM-dd HH:mm:ss"),
                input.time_zone.as_deref(),
            )?,
            samples,
        })
    }

    fn row(&self, record: &Record) -> Result<Row, String> {
        let cell = |at: usize| record.cells.get(at).map_or("", String::as_str);
        let node = cell(self.node).parse().map_err(|_| "invalid node ID".to_owned())?;
        let source = cell(self.source).to_owned();
        if source.is_empty() {
            return Err("missing source ID".to_owned());
        }
        let date = self.date.iter().map(|at| cell(*at)).collect::<Vec<_>>().join(" ");
        let created =
            self.format.parse(&date).ok_or_else(|| format!("Text '{date}' is not a date"))?;
        let datum = match &self.samples {
            Samples::Simple { i, a, s, t } => Datum {
                i: numbers(record, i)?,
                a: numbers(record, a)?,
                s: s.iter()
                    .filter_map(|(at, name)| Some((name.clone(), record.cells.get(*at)?.clone())))
                    .collect(),
                t: t.iter()
                    .flat_map(|at| cell(*at).split(','))
                    .map(|tag| tag.trim().to_owned())
                    .filter(|tag| !tag.is_empty())
                    .collect(),
            },
            Samples::Basic { i, a, s, t } => Datum {
                i: json_numbers(cell(*i))?,
                a: json_numbers(cell(*a))?,
                s: json_texts(cell(*s))?,
                t: json_tags(cell(*t))?,
            },
        };
        Ok(Row { key: Key { node, source, ms: created.timestamp_millis() }, datum })
    }
}

/// A column reference, a number from 1 or a letter, as an index from 0.
fn column(text: &str, setting: &str) -> Result<usize, String> {
    let text = text.trim();
    let number = match text.parse::<usize>() {
        Ok(number) => number,
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphabetic()) => text
            .to_ascii_uppercase()
            .bytes()
            .try_fold(0usize, |sum, byte| {
                sum.checked_mul(26)?.checked_add(usize::from(byte - b'A') + 1)
            })
            .unwrap_or(0),
        Err(_) => 0,
    };
    number.checked_sub(1).ok_or_else(|| format!("{setting} is not a column: {text}"))
}

/// Columns and ranges: `4-6,J`.
fn columns(text: &str, setting: &str) -> Result<Vec<usize>, String> {
    let mut out = Vec::new();
    for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
        match piece.split_once('-') {
            Some((from, to)) => out.extend(column(from, setting)?..=column(to, setting)?),
            None => out.push(column(piece, setting)?),
        }
    }
    Ok(out)
}

type Numbers = std::collections::BTreeMap<String, Number>;

/// An empty or missing number cell is skipped.
fn numbers(record: &Record, columns: &[(usize, String)]) -> Result<Numbers, String> {
    let mut out = Numbers::new();
    for (at, name) in columns {
        let Some(cell) = record.cells.get(*at).filter(|cell| !cell.is_empty()) else { continue };
        let text = cell.strip_prefix('+').unwrap_or(cell);
        let number =
            serde_json::from_str(text).map_err(|_| format!("{name} is not a number: {cell}"))?;
        out.insert(name.clone(), number);
    }
    Ok(out)
}

fn json_object(cell: &str) -> Result<Map<String, Value>, String> {
    if cell.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(cell).map_err(|error| format!("not a JSON object: {error}"))
}

/// What is no number vanishes without a word.
fn json_numbers(cell: &str) -> Result<Numbers, String> {
    let number = |(name, value)| match value {
        Value::Number(number) => Some((name, number)),
        _ => None,
    };
    Ok(json_object(cell)?.into_iter().filter_map(number).collect())
}

/// Status values are stored as text, whatever scalar they were.
fn json_texts(cell: &str) -> Result<std::collections::BTreeMap<String, String>, String> {
    let text = |(name, value)| match value {
        Value::Null => None,
        Value::String(text) => Some((name, text)),
        other => Some((name, other.to_string())),
    };
    Ok(json_object(cell)?.into_iter().filter_map(text).collect())
}

fn json_tags(cell: &str) -> Result<Vec<String>, String> {
    if cell.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(cell).map_err(|error| format!("not a JSON array of texts: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::config::ImportConfig;
    use super::*;

    fn input(service: &str, settings: Value) -> InputConfig {
        let json = json!({
            "name": "test",
            "inputConfiguration": {
                "serviceIdentifier": service,
                "timeZoneId": "UTC",
                "serviceProperties": settings,
            },
        });
        ImportConfig::read(&json).unwrap().input
    }

    #[test]
    fn simple_csv_takes_names_from_the_header_and_columns_by_number_and_letter() {
        let settings = json!({
            "dateFormat": "yyyy-MM-dd HH:mm:ss.SSS", "instantaneousDataColumns": "4-5",
            "accumulatingDataColumns": "F", "statusDataColumns": 7, "tagDataColumns": "8",
        });
        let file = "nodeId,sourceId,created,watts,voltage,wattHours,opState,tags\n\
            123,/meter/1,2024-06-11 21:30:00.000,2603,230.10,41899999,Normal,\"a, b\"\n\
            123,/meter/2,2024-06-11 21:31:00.000,,230.0,1187733\n";
        let rows = read(&input(SIMPLE, settings), file.as_bytes());
        assert_eq!(rows.error, None);
        assert_eq!(rows.good.len(), 2);
        assert_eq!(
            rows.good[0].datum.to_json().to_string(),
            r#"{"i":{"voltage":230.10,"watts":2603},"a":{"wattHours":41899999},"s":{"opState":"Normal"},"t":["a","b"]}"#
        );
        assert_eq!(rows.good[0].key.ms, 1_718_141_400_000);
        assert!(!rows.good[1].datum.i.contains_key("watts"));
    }

    #[test]
    fn basic_csv_keeps_numbers_as_written_and_drops_what_is_none() {
        let file = "n,s,d,i,a,s,t\n\
            1,/m,2024-06-11 21:30:00,\"{\"\"w\"\":1.2300,\"\"x\"\":\"\"1\"\"}\",\"{\"\"e\"\":12345678901234567890.5}\",\"{\"\"on\"\":true}\",\"[\"\"t\"\"]\"\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(file.as_bytes()).unwrap();
        let rows = read(&input(BASIC, json!({})), &packed.finish().unwrap());
        assert_eq!(rows.error, None);
        assert_eq!(
            rows.good[0].datum.to_json().to_string(),
            r#"{"i":{"w":1.2300},"a":{"e":12345678901234567890.5},"s":{"on":"true"},"t":["t"]}"#
        );
    }

    #[test]
    fn the_first_bad_line_is_named_and_what_came_before_is_kept() {
        let file = "h\n1,/m,2024-06-11 21:30:00,{}\n1,/m,2024-06-11,{}\n";
        let rows = read(&input(BASIC, json!({})), file.as_bytes());
        assert_eq!(rows.good.len(), 1);
        assert_eq!(rows.error.unwrap(), "Error parsing line 3: Text '2024-06-11' is not a date");
    }

    #[test]
    fn a_configuration_that_cannot_work_is_named() {
        for (settings, message) in [
            (json!({"nodeIdColumn": 0}), "nodeIdColumn is not a column: 0"),
            (json!({"headerRowCount": "x"}), "headerRowCount is not a number: x"),
        ] {
            assert_eq!(read(&input(BASIC, settings), b"a\n").error.unwrap(), message);
        }
        let rows = read(&input("none", json!({})), b"a\n");
        assert_eq!(rows.error.unwrap(), "Input service none not available");
    }
}
