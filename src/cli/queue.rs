//! `queue stat|peek|export|check`: looks into the queue, also while the daemon runs.
//!
//! Nothing here writes or locks anything: the files are read beside the daemon, and read again where
//! they changed meanwhile. Records that are not committed yet are in the daemon's memory and not shown.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::Path,
};

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use serde_json::json;
use spool::{Reader, Record};

use super::{Exit, Failure};
use crate::{
    clock::{Clock, ClockError},
    domain::{Datum, SourceId},
    queue::{self, QueueStat, record, show},
};

/// Records read at a time. Each look reads the folder anew, so few large ones are much quicker than many
/// small ones; the memory is that of a short command.
const CHUNK_ROWS: usize = 32 * 1024;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Look into the queue of datum that wait to be sent, also while the daemon runs
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  solarnode-agent queue export --source /site/meter > meter.jsonl"
)]
pub struct Queue {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Count what waits, since when, and what was given up or lost
    #[command(after_help = "Example:\n  solarnode-agent queue stat --json")]
    Stat {
        /// Print JSON: {records, bytes, limit, oldest, rejected, dropped, corrupt, unplaced}
        #[arg(long)]
        json: bool,
    },
    /// Show the oldest datum that wait
    #[command(after_help = "Example:\n  solarnode-agent queue peek 3")]
    Peek {
        /// How many to show
        #[arg(default_value_t = 10)]
        count: usize,
        /// Print JSON, one line each
        #[arg(long)]
        json: bool,
    },
    /// Print all datum that wait, one line of JSON each
    #[command(after_help = "Example:\n  solarnode-agent queue export --from 1200 > rest.jsonl")]
    Export {
        /// Begin with this sequence number
        #[arg(long, default_value_t = 0, value_name = "SEQ")]
        from: u64,
        /// Print only this source; may be repeated
        #[arg(long, value_name = "SOURCE")]
        source: Vec<SourceId>,
    },
    /// Read every record and its checksum; the exit code is 65 if something is damaged
    #[command(after_help = "Example:\n  solarnode-agent queue check && echo sound")]
    Check {
        /// Print JSON: {records, held, segments, corrupt, broken_headers, torn_bytes, damage, unreadable}
        #[arg(long)]
        json: bool,
    },
}

impl Queue {
    /// Does what was asked with the queue below `state_dir`.
    ///
    /// # Errors
    ///
    /// If there is no queue, it may not be read, or the output cannot be written.
    pub fn run(self, state_dir: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
        let look = Look::open(state_dir)?;
        let exit = match self.what {
            What::Stat { json } => look.stat(json, out)?,
            What::Peek { count, json } => look.peek(count, json, out)?,
            What::Export { from, source } => look.export(from, &source, out)?,
            What::Check { json } => look.check(json, out)?,
        };
        out.flush()?;
        Ok(exit)
    }
}

/// How many datum wait.
pub(super) fn waiting(state_dir: &Path) -> Result<u64, Failure> {
    Ok(Look::open(state_dir)?.reader.stat().map_err(unread)?.records)
}

/// The sources of all datum that wait; of none where there is no queue yet.
pub(super) fn sources(state_dir: &Path) -> Result<BTreeSet<SourceId>, Failure> {
    let mut sources = BTreeSet::new();
    if matches!(queue::folder(state_dir).try_exists(), Ok(false)) {
        return Ok(sources);
    }
    Look::open(state_dir)?.each(0, |record| {
        sources.extend(record::decode(&record.payload).map(|datum| datum.source));
        Ok(true)
    })?;
    Ok(sources)
}

struct Look<'a> {
    state_dir: &'a Path,
    reader: Reader,
    clock: Clock,
}

impl<'a> Look<'a> {
    fn open(state_dir: &'a Path) -> Result<Self, Failure> {
        let folder = queue::folder(state_dir);
        let reader = Reader::open(&folder)
            .map_err(|error| Failure { exit: exit_for(&error), error: error.into() })
            .map_err(|failure| Failure {
                exit: failure.exit,
                error: failure.error.context(format!(
                    "no queue to read in {}: it is made by the daemon's first start, and belongs to the daemon's user",
                    folder.display()
                )),
            })?;
        let clock = Clock::read_only(state_dir).map_err(|error| {
            let exit = match &error {
                ClockError::Anchors { source, .. } => exit_for_io(source, Exit::Io),
                ClockError::BootId(_) => Exit::Io,
            };
            Failure { exit, error: error.into() }
        })?;
        Ok(Self { state_dir, reader, clock })
    }

    fn stat(&self, json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
        let spool = self.reader.stat().map_err(unread)?;
        let mut stat = QueueStat {
            records: spool.records,
            bytes: spool.bytes,
            limit: spool.limit,
            rejected: queue::rejected_count(self.state_dir),
            dropped: spool.dropped,
            corrupt: spool.corrupt,
            ..QueueStat::default()
        };
        let mut first = true;
        self.each(0, |record| {
            let stamp = record::decode_stamp(&record.payload);
            let unix_ms = stamp.as_ref().ok().and_then(|stamp| self.clock.place(*stamp));
            if std::mem::take(&mut first) {
                stat.oldest = unix_ms.and_then(DateTime::from_timestamp_millis);
            }
            match stamp {
                Ok(_) if unix_ms.is_none() => stat.unplaced += 1,
                Ok(_) => {}
                Err(_) => stat.corrupt += 1,
            }
            Ok(true)
        })?;
        if json {
            writeln!(out, "{}", json!(stat))?;
            return Ok(Exit::Ok);
        }
        let oldest = stat
            .oldest
            .map_or("-".to_owned(), |oldest| oldest.to_rfc3339_opts(SecondsFormat::Millis, true));
        for (name, value) in [
            ("records", stat.records.to_string()),
            ("bytes", format!("{} of {}", stat.bytes, stat.limit)),
            ("oldest", oldest),
            ("rejected", stat.rejected.to_string()),
            ("dropped", stat.dropped.to_string()),
            ("corrupt", stat.corrupt.to_string()),
            ("unplaced", stat.unplaced.to_string()),
        ] {
            writeln!(out, "{name:<9} {value}")?;
        }
        Ok(Exit::Ok)
    }

    fn peek(&self, count: usize, json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
        let mut left = count;
        self.each(0, |record| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            match (self.datum(record), json) {
                (Some((datum, unix_ms)), true) => {
                    writeln!(out, "{}", show::json(record.seq, &datum, unix_ms))?;
                }
                (Some((datum, unix_ms)), false) => person(out, record.seq, &datum, unix_ms)?,
                (None, _) => {}
            }
            Ok(left > 0)
        })?;
        Ok(Exit::Ok)
    }

    fn export(
        &self,
        from: u64,
        sources: &[SourceId],
        out: &mut impl Write,
    ) -> Result<Exit, Failure> {
        let mut out = io::BufWriter::new(out);
        self.each(from, |record| {
            if let Some((datum, unix_ms)) = self.datum(record)
                && (sources.is_empty() || sources.contains(&datum.source))
            {
                writeln!(out, "{}", show::json(record.seq, &datum, unix_ms))?;
            }
            Ok(true)
        })?;
        out.flush()?;
        Ok(Exit::Ok)
    }

    fn check(&self, json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
        let verified = self.reader.verify().map_err(unread)?;
        let mut unreadable = Vec::new();
        self.each(0, |record| {
            if let Err(error) = record::decode(&record.payload) {
                unreadable.push((record.seq, error.to_string()));
            }
            Ok(true)
        })?;
        let corrupt = verified.corrupt + unreadable.len() as u64;
        let sound = corrupt == 0 && verified.broken_headers == 0;
        if json {
            let damage = verified.damage.iter();
            let damage = damage.map(|d| json!({ "file": d.file, "from": d.from, "to": d.to }));
            let unreadable = unreadable.iter();
            let unreadable =
                unreadable.map(|(seq, reason)| json!({ "seq": seq, "reason": reason }));
            let report = json!({
                "records": verified.records,
                "held": verified.held,
                "segments": verified.segments,
                "corrupt": corrupt,
                "broken_headers": verified.broken_headers,
                "torn_bytes": verified.torn_bytes,
                "damage": damage.collect::<Vec<_>>(),
                "unreadable": unreadable.collect::<Vec<_>>(),
            });
            writeln!(out, "{report}")?;
        } else {
            for damage in &verified.damage {
                writeln!(out, "{}: damaged from {} to {}", damage.file, damage.from, damage.to)?;
            }
            for (seq, reason) in &unreadable {
                writeln!(out, "record {seq}: {reason}")?;
            }
            writeln!(
                out,
                "records {}, segments {}, damaged places {corrupt}, damaged headers {}",
                verified.records, verified.segments, verified.broken_headers
            )?;
        }
        Ok(if sound { Exit::Ok } else { Exit::Data })
    }

    /// A record as a datum; one that is none is `queue check`'s business.
    fn datum(&self, record: &Record) -> Option<(Datum, Option<i64>)> {
        let datum = record::decode(&record.payload).ok()?;
        let unix_ms = self.clock.place(datum.stamp);
        Some((datum, unix_ms))
    }

    /// Hands over every record from `from` on, oldest first, until told to stop.
    fn each(
        &self,
        mut from: u64,
        mut take: impl FnMut(&Record) -> io::Result<bool>,
    ) -> Result<(), Failure> {
        loop {
            let chunk = self.reader.peek(from, CHUNK_ROWS, CHUNK_BYTES).map_err(unread)?;
            let Some(last) = chunk.last().map(|record| record.seq) else { return Ok(()) };
            for record in &chunk {
                if !take(record)? {
                    return Ok(());
                }
            }
            from = last.saturating_add(1);
        }
    }
}

/// The end of a command whose queue was there and could not be read.
fn unread(error: spool::Error) -> Failure {
    let exit = match &error {
        spool::Error::Io { source, .. } => exit_for_io(source, Exit::Io),
        _ => Exit::Io,
    };
    Failure { exit, error: anyhow::Error::from(error).context("could not read the queue") }
}

/// The code for a queue that could not be opened.
fn exit_for(error: &spool::Error) -> Exit {
    match error {
        spool::Error::Io { source, .. } => exit_for_io(source, Exit::Unavailable),
        _ => Exit::Io,
    }
}

fn exit_for_io(error: &io::Error, missing: Exit) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        io::ErrorKind::NotFound => missing,
        _ => Exit::Io,
    }
}

/// One line for people: number, time, source, and the samples as they are sent.
fn person(out: &mut impl Write, seq: u64, datum: &Datum, unix_ms: Option<i64>) -> io::Result<()> {
    let shown = show::json(seq, datum, unix_ms);
    let created = shown["created"].as_str().unwrap_or("time unknown");
    write!(out, "{seq:>8}  {created:<24}  {}", datum.source)?;
    for group in ["i", "a", "s"] {
        for (name, value) in shown[group].as_object().into_iter().flatten() {
            write!(out, " {name}={value}")?;
        }
    }
    for tag in &datum.samples.tags {
        write!(out, " #{tag}")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use spool::{Options, Spool};

    use super::*;
    use crate::domain::{BootId, Samples, Stamp};

    #[derive(Parser)]
    struct Test {
        #[command(flatten)]
        queue: Queue,
    }

    fn datum(source: &str, stamp: Stamp) -> Vec<u8> {
        let watts = ("watts".to_owned(), "230.50".parse().expect("a decimal"));
        record::encode(&Datum {
            source: source.parse().expect("a source"),
            stamp,
            samples: Samples { instantaneous: vec![watts], ..Samples::default() },
        })
    }

    /// A queue of three good datum, the second of a boot without a known time.
    fn queue() -> (tempfile::TempDir, Spool) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = Options::new(1 << 20);
        let (mut spool, _) = Spool::open(&queue::folder(dir.path()), options).expect("open");
        let boot = Stamp::Boot { boot: BootId([1; 16]), since_boot_ms: 5 };
        for (source, stamp) in [
            ("/a", Stamp::Wall { unix_ms: 1_795_341_605_007 }),
            ("/b", boot),
            ("/a", Stamp::Wall { unix_ms: 1_795_341_606_007 }),
        ] {
            spool.append(&datum(source, stamp)).expect("append");
        }
        spool.commit().expect("commit");
        (dir, spool)
    }

    fn run(dir: &tempfile::TempDir, arguments: &[&str]) -> (Exit, String) {
        let arguments = std::iter::once("queue").chain(arguments.iter().copied());
        let test = Test::try_parse_from(arguments).expect("arguments");
        let mut out = Vec::new();
        let exit = test.queue.run(dir.path(), &mut out).expect("a queue");
        (exit, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn stat_counts_beside_the_writer() {
        let (dir, _writer) = queue();
        let (_, text) = run(&dir, &["stat", "--json"]);
        let stat: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(stat["records"], 3);
        assert_eq!(stat["unplaced"], 1);
        assert_eq!(stat["oldest"], "2026-11-22T10:00:05.007Z");
        for member in ["bytes", "limit", "rejected", "dropped", "corrupt"] {
            assert!(stat[member].is_u64(), "{member}");
        }
    }

    #[test]
    fn export_is_one_line_a_datum_and_keeps_to_its_filters() {
        let (dir, _writer) = queue();
        let (_, all) = run(&dir, &["export"]);
        assert_eq!(all.lines().count(), 3);
        assert_eq!(
            all.lines().next().expect("a line"),
            r#"{"seq":1,"source":"/a","created":"2026-11-22T10:00:05.007Z","i":{"watts":230.5},"a":{},"s":{},"t":[],"failed":[]}"#
        );
        let (_, some) = run(&dir, &["export", "--from", "2", "--source", "/a"]);
        assert_eq!(some.lines().count(), 1);
        assert!(some.contains(r#""seq":3"#));
    }

    #[test]
    fn peek_shows_the_oldest_for_people() {
        let (dir, _writer) = queue();
        let (_, text) = run(&dir, &["peek", "2"]);
        assert_eq!(
            text,
            "       1  2026-11-22T10:00:05.007Z  /a watts=230.5\n       2  time unknown              /b watts=230.5\n"
        );
    }

    #[test]
    fn check_ends_with_65_where_a_record_is_not_a_datum() {
        let (dir, mut writer) = queue();
        assert_eq!(run(&dir, &["check"]).0, Exit::Ok);
        writer.append(b"\xffnot a datum").expect("append");
        writer.commit().expect("commit");
        let (exit, text) = run(&dir, &["check"]);
        assert_eq!(exit, Exit::Data);
        assert!(text.contains("record 4:"), "{text}");
    }

    #[test]
    fn the_sources_of_what_waits_are_named_and_none_where_there_is_no_queue() {
        let (dir, _writer) = queue();
        let names = |dir: &Path| -> Vec<String> {
            sources(dir).expect("sources").iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(dir.path()), ["/a", "/b"]);
        assert_eq!(names(&dir.path().join("new")), [""; 0]);
    }

    #[test]
    fn without_a_queue_the_message_says_what_makes_one() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let test = Test::try_parse_from(["queue", "stat"]).expect("arguments");
        let failure = test.queue.run(dir.path(), &mut Vec::new()).expect_err("no queue");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.error.to_string().contains("no queue to read"), "{:#}", failure.error);
    }
}
