//! From claimed records to the body of one import job.
//!
//! A batch is the longest beginning of the records offered that keeps to three bounds: [`MAX_ROWS`],
//! [`MAX_BYTES`] of compressed CSV, and no two rows with the same source and time. The last one
//! because the server's key is (node, source, time): of two such rows the later has to win, and that
//! is only certain if they travel one after the other. A batch that was cut for this reason says so
//! ([`Built::twin`]), and the next one waits until it is proved.
//!
//! Memory: the compressed CSV and one line of plain text.

use std::{collections::HashSet, io::Write};

use flate2::{Compression, write::GzEncoder};

use super::{csv, multipart};
use crate::{
    audit::tally::{self, Content, Tallies},
    domain::{NodeId, SourceId},
    queue::{Ranges, Row},
    solarnet::Body,
};

/// Most rows of one job. At the default request rate (a job takes two requests or more) this drains
/// 1,000 datum a second; the claimed records of a batch take about half a megabyte.
pub const MAX_ROWS: usize = 5000;

/// Most bytes of compressed CSV in one job. SolarUser reads 20 MB of a signed body.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What the compressor may still hold back when the output so far is measured: its block buffer.
const HELD_BACK: usize = 96 * 1024;

/// The import format: JSON per group.
const FORMAT: &str =
    "net.solarnetwork.central.datum.imp.standard.BasicCsvDatumImportInputFormatService";

/// What became of the records offered.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The compressed CSV; empty if there is not a single row.
    pub csv_gz: Vec<u8>,
    /// The rows in it.
    pub seqs: Ranges,
    /// How many there are.
    pub rows: u64,
    /// Whether it ends before a row with the same key as one in it.
    pub twin: bool,
    /// What is in them, for the ledger.
    pub tallies: Tallies,
    /// Records that make no row, and why.
    pub unsendable: Vec<(u64, String)>,
}

/// Compresses the longest beginning of `rows` that makes a batch.
#[must_use]
pub fn build(node: NodeId, rows: &[Row], max_rows: usize, max_bytes: usize) -> Built {
    let mut count = max_rows.min(rows.len());
    loop {
        let built = attempt(node, &rows[..count], max_bytes);
        // The estimate inside `attempt` errs on the small side; this is for certainty.
        if built.csv_gz.len() <= max_bytes || built.rows <= 1 {
            return built;
        }
        count /= 2;
    }
}

fn attempt(node: NodeId, rows: &[Row], max_bytes: usize) -> Built {
    let mut built = Built::default();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut keys: HashSet<(SourceId, i64)> = HashSet::with_capacity(rows.len());
    let mut line = String::from(csv::HEADER);
    // The bytes given to the compressor since its output last grew.
    let mut unmeasured = 0;
    for row in rows {
        let datum = match row.datum() {
            Ok(datum) => datum,
            Err(error) => {
                built.unsendable.push((row.seq, error.to_string()));
                continue;
            }
        };
        let key = (datum.source.clone(), row.unix_ms);
        if keys.contains(&key) {
            built.twin = true;
            break;
        }
        if let Err(error) = csv::push_line(&mut line, node, &datum, row.unix_ms) {
            built.unsendable.push((row.seq, error.to_string()));
            continue;
        }
        let worst = gzip.get_ref().len() + unmeasured.min(HELD_BACK) + line.len();
        if built.rows > 0 && worst > max_bytes {
            break;
        }
        let before = gzip.get_ref().len();
        gzip.write_all(line.as_bytes()).expect("memory is always written");
        unmeasured = match gzip.get_ref().len() > before {
            true => HELD_BACK,
            false => unmeasured + line.len(),
        };
        line.clear();
        let (source, unix_ms) = &key;
        let content = Content::sent(&datum.samples);
        tally::add(&mut built.tallies, source.as_str(), *unix_ms, &content);
        keys.insert(key);
        built.seqs.insert(row.seq..=row.seq);
        built.rows += 1;
    }
    if built.rows > 0 {
        built.csv_gz = gzip.finish().expect("memory is always written");
    }
    built
}

/// The group of a node's jobs. The server runs one of a group at a time, which leaves room for other
/// nodes; behind a job that never ends (so many have been met) another group is used.
#[must_use]
pub fn group(node: NodeId, hung: u32) -> String {
    match hung {
        0 => format!("solarnode-agent-{node}"),
        hung => format!("solarnode-agent-{node}-{hung}"),
    }
}

/// The body of the import call: the job's configuration and its data.
#[must_use]
pub fn body(id: &str, name: &str, group: &str, csv_gz: &[u8]) -> Body {
    let config = config(name, group).to_string();
    let parts = [
        multipart::Part {
            name: "config",
            filename: None,
            content_type: "application/json",
            content: config.as_bytes(),
        },
        multipart::Part {
            name: "data",
            filename: Some("data.csv"),
            content_type: "text/csv",
            content: csv_gz,
        },
    ];
    multipart::form(id, &parts)
}

/// Every column is spelled out: defaults of a server may change. `batchSize` is absent, which makes
/// the job one transaction.
fn config(name: &str, group: &str) -> serde_json::Value {
    serde_json::json!({
        "name": name,
        "stage": false,
        "groupKey": group,
        "inputConfiguration": {
            "name": "solarnode-agent",
            "serviceIdentifier": FORMAT,
            "timeZoneId": "UTC",
            "serviceProperties": {
                "headerRowCount": 1,
                "dateFormat": csv::DATE_FORMAT,
                "nodeIdColumn": "1",
                "sourceIdColumn": "2",
                "dateColumnsValue": "3",
                "instantaneousDataColumn": "4",
                "accumulatingDataColumn": "5",
                "statusDataColumn": "6",
                "tagDataColumn": "7",
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{Datum, Samples, Stamp},
        queue::record,
    };

    fn node() -> NodeId {
        NodeId::try_from(123).expect("a node")
    }

    fn row(seq: u64, source: &str, unix_ms: i64, status: &str) -> Row {
        let datum = Datum {
            source: source.parse().expect("a source"),
            stamp: Stamp::Wall { unix_ms },
            samples: Samples {
                status: vec![("state".into(), status.into())],
                ..Samples::default()
            },
        };
        Row { seq, unix_ms, payload: record::encode(&datum) }
    }

    fn text(built: &Built) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(built.csv_gz.as_slice())
            .read_to_string(&mut text)
            .expect("gzip of text");
        text
    }

    /// Text that compresses badly, so that bytes are the bound that is met.
    fn noise(seed: u64, length: usize) -> String {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..length).map(|_| random.alphanumeric()).collect()
    }

    #[test]
    fn a_second_row_with_the_same_key_waits_for_the_next_batch() {
        let rows = [row(1, "a", 5, "old"), row(2, "b", 5, "x"), row(4, "a", 5, "new")];
        let first = build(node(), &rows, MAX_ROWS, MAX_BYTES);
        assert_eq!((first.rows, first.twin), (2, true));
        assert_eq!(first.seqs.iter().collect::<Vec<_>>(), [1..=2]);
        let second = build(node(), &rows[2..], MAX_ROWS, MAX_BYTES);
        assert_eq!((second.rows, second.twin), (1, false));
        assert!(text(&second).contains("new"));
    }

    #[test]
    fn a_record_that_makes_no_row_is_named_and_skipped() {
        let broken = Row { seq: 2, unix_ms: 0, payload: vec![9, 9] };
        let rows = [row(1, "a", 1, ""), broken, row(3, "a", -5, ""), row(4, "a", 4, "")];
        let built = build(node(), &rows, MAX_ROWS, MAX_BYTES);
        assert_eq!(built.seqs, Ranges::from_iter([1, 4]));
        assert_eq!(built.unsendable.iter().map(|u| u.0).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn nothing_to_send_is_no_body() {
        assert!(build(node(), &[], MAX_ROWS, MAX_BYTES).csv_gz.is_empty());
    }

    #[test]
    fn bytes_bound_a_batch_and_are_used_well() {
        let rows: Vec<Row> = (0..900).map(|n| row(n, "a", n as i64, &noise(n, 2000))).collect();
        let built = build(node(), &rows, MAX_ROWS, MAX_BYTES);
        assert!(built.csv_gz.len() <= MAX_BYTES, "{}", built.csv_gz.len());
        assert!(built.csv_gz.len() > MAX_BYTES * 3 / 4, "{}", built.csv_gz.len());
        assert!(built.rows < 900);
    }

    #[test]
    fn what_is_sent_after_a_job_that_hangs_does_not_queue_behind_it() {
        assert_eq!(group(node(), 0), format!("solarnode-agent-{}", node()));
        assert_ne!(group(node(), 1), group(node(), 0));
        assert_ne!(group(node(), 2), group(node(), 1));
    }

    #[test]
    fn the_configuration_spells_out_every_setting() {
        let config = config("1f 1-9", "node-123");
        let expected: serde_json::Value = serde_json::from_str(
            r#"{"name":"1f 1-9","stage":false,"groupKey":"node-123","inputConfiguration":{
            "name":"solarnode-agent",
            "serviceIdentifier":"net.solarnetwork.central.datum.imp.standard.BasicCsvDatumImportInputFormatService",
            "timeZoneId":"UTC","serviceProperties":{"headerRowCount":1,
            "dateFormat":"yyyy-MM-dd HH:mm:ss.SSS","nodeIdColumn":"1","sourceIdColumn":"2",
            "dateColumnsValue":"3","instantaneousDataColumn":"4","accumulatingDataColumn":"5",
            "statusDataColumn":"6","tagDataColumn":"7"}}}"#,
        )
        .expect("JSON");
        assert_eq!(config, expected);
    }

    proptest! {
        /// A batch is a beginning of what was offered, within its bounds, with one line a row.
        #[test]
        fn a_batch_keeps_its_bounds(
            sizes in prop::collection::vec(0usize..3000, 1..60),
            max_rows in 1usize..50,
            max_bytes in 500usize..60_000,
        ) {
            let rows: Vec<Row> = (0u64..).zip(&sizes)
                .map(|(n, size)| row(n * 2, "a", n as i64, &noise(n, *size))).collect();
            let built = build(node(), &rows, max_rows, max_bytes);
            prop_assert!(built.rows >= 1 && built.rows <= max_rows as u64);
            prop_assert!(built.csv_gz.len() <= max_bytes || built.rows == 1);
            let taken = usize::try_from(built.rows).expect("few");
            prop_assert_eq!(&built.seqs, &rows[..taken].iter().map(|r| r.seq).collect::<Ranges>());
            prop_assert_eq!(text(&built).lines().count(), taken + 1);
        }
    }
}
