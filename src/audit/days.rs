//! `audit/YYYY-MM-DD.json`: one file for each day of the ledger, for [`KEPT_DAYS`] days.
//!
//! A file is replaced whole, when recent entries are folded into it. It carries the number of the fold
//! that it has last seen ([`Day::generation`]), so that after a crash between this write and that of
//! `upload.json` nothing is counted twice: entries of a fold that the file has seen are in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, NaiveDate};
use serde::{Deserialize, Serialize};

use super::{
    ledger::{Entry, Ledger},
    tally::Hours,
};
use crate::file;

/// How many days the ledger goes back.
pub const KEPT_DAYS: i64 = 35;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Day {
    node: u64,
    generation: u64,
    /// Whether a file that could not be read stood in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    hours: Hours<Entry>,
}

/// The ledger as it was found on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// What was accepted.
    pub hours: Hours<Entry>,
    /// Days of which a part is not known, because a file was damaged.
    pub damaged: BTreeSet<i64>,
}

/// The folder below the state folder.
#[must_use]
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("audit")
}

/// The day that an hour lies in: the number of days since 1970.
#[must_use]
pub fn day_of(hour: i64) -> i64 {
    hour.div_euclid(24)
}

fn name(day: i64) -> Option<String> {
    let date = DateTime::from_timestamp(day.checked_mul(86_400)?, 0)?.date_naive();
    Some(format!("{date}.json"))
}

fn day_named(name: &str) -> Option<i64> {
    let date: NaiveDate = name.strip_suffix(".json")?.parse().ok()?;
    Some(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp().div_euclid(86_400))
}

/// Reads the file of a day; `None` if there is none for this node.
fn read_day(folder: &Path, node: u64, day: i64) -> io::Result<Option<Day>> {
    let Some(name) = name(day) else { return Ok(None) };
    match fs::read(folder.join(name)) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice::<Day>(&bytes)?).filter(|day| day.node == node))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The days that there are files of.
fn days(folder: &Path) -> io::Result<Vec<i64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut days = Vec::new();
    for entry in entries {
        days.extend(entry?.file_name().to_str().and_then(day_named));
    }
    Ok(days)
}

/// The entries, by day.
fn by_day(hours: &Hours<Entry>) -> BTreeMap<i64, Hours<Entry>> {
    let mut days = BTreeMap::<i64, Hours<Entry>>::new();
    for (source, hours) in hours {
        for (hour, entry) in hours {
            let day = days.entry(day_of(*hour)).or_default();
            day.entry(source.clone()).or_default().insert(*hour, *entry);
        }
    }
    days
}

fn merge(into: &mut Hours<Entry>, hours: Hours<Entry>) {
    for (source, hours) in hours {
        let of_source = into.entry(source).or_default();
        for (hour, entry) in hours {
            of_source.entry(hour).or_default().add(&entry);
        }
    }
}

/// Writes the ledger's recent entries into the files of their days and removes the oldest beyond [`KEPT_DAYS`];
/// gives the entries that could not be written, for [`Ledger::folded`].
///
/// The files are counted and no clock is asked: one that is far ahead for a moment must not take all of them.
pub fn fold(state_dir: &Path, ledger: &Ledger) -> (Hours<Entry>, io::Result<()>) {
    let folder = folder(state_dir);
    let mut left = Hours::new();
    let mut result = fs::create_dir_all(&folder);
    for (day, hours) in by_day(ledger.recent()) {
        if let Err(error) = fold_day(&folder, ledger, day, hours.clone()) {
            merge(&mut left, hours);
            result = Err(error);
        }
    }
    if result.is_ok() {
        result = remove_oldest(&folder);
    }
    (left, result)
}

fn fold_day(folder: &Path, ledger: &Ledger, day: i64, hours: Hours<Entry>) -> io::Result<()> {
    let Some(name) = name(day) else { return Ok(()) };
    let mut file = match read_day(folder, ledger.node(), day) {
        Ok(file) => file.unwrap_or_default(),
        Err(error) if is_damage(&error) => Day { damaged: true, ..Day::default() },
        Err(error) => return Err(error),
    };
    // A stop may have come between this file and the end of its fold.
    if file.generation >= ledger.generation() {
        return Ok(());
    }
    file.node = ledger.node();
    file.generation = ledger.generation();
    merge(&mut file.hours, hours);
    file::replace(&folder.join(name), &serde_json::to_vec(&file)?, 0o640)
}

fn remove_oldest(folder: &Path) -> io::Result<()> {
    let mut days = days(folder)?;
    days.sort_unstable();
    // Today is not over and counts beside them.
    let kept = KEPT_DAYS as usize + 1;
    for name in days.iter().rev().skip(kept).filter_map(|day| name(*day)) {
        fs::remove_file(folder.join(name))?;
    }
    Ok(())
}

/// What is not a matter of the file system: bytes that are no day.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The ledger to go on with: `saved` less what is in the files already, or a new one.
///
/// `first` is whether this device has sent nothing before, as far as anybody else knows.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn resume(
    state_dir: &Path,
    node: u64,
    saved: Option<Ledger>,
    first: bool,
) -> io::Result<Ledger> {
    let folder = folder(state_dir);
    if let Some(mut ledger) = saved.filter(|ledger| ledger.node() == node) {
        let left = unfolded(&folder, &ledger);
        ledger.folded(left);
        return Ok(ledger);
    }
    let days = days(&folder)?;
    let seen = |day: &i64| read_day(&folder, node, *day).ok().flatten().map(|day| day.generation);
    let last = days.iter().filter_map(seen).max().unwrap_or(0);
    Ok(Ledger::new(node, last.saturating_add(1), first && days.is_empty()))
}

/// The ledger's recent entries without those that are in the files of their days.
fn unfolded(folder: &Path, ledger: &Ledger) -> Hours<Entry> {
    let mut left = Hours::new();
    for (day, hours) in by_day(ledger.recent()) {
        let file = read_day(folder, ledger.node(), day).ok().flatten();
        if file.is_none_or(|file| file.generation < ledger.generation()) {
            merge(&mut left, hours);
        }
    }
    left
}

/// Reads what was accepted in the days from `first_day` to `last_day`, beside the daemon: `ledger` was read
/// before.
///
/// # Errors
///
/// If a file is not ours to read.
pub fn read(state_dir: &Path, ledger: &Ledger, first_day: i64, last_day: i64) -> io::Result<Book> {
    let folder = folder(state_dir);
    let mut book = Book { hours: unfolded(&folder, ledger), damaged: BTreeSet::new() };
    let within = |hour: &i64| (first_day..=last_day).contains(&day_of(*hour));
    book.hours.values_mut().for_each(|hours| hours.retain(|hour, _| within(hour)));
    for day in first_day..=last_day {
        match read_day(&folder, ledger.node(), day) {
            Ok(Some(file)) => {
                if file.damaged {
                    book.damaged.insert(day);
                }
                merge(&mut book.hours, file.hours);
            }
            Ok(None) => {}
            Err(error) if is_damage(&error) => {
                book.damaged.insert(day);
            }
            Err(error) => return Err(error),
        }
    }
    book.hours.retain(|_, hours| !hours.is_empty());
    Ok(book)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::tally::{Content, Tallies, add},
        queue::Ranges,
    };

    /// Noon of a day.
    const NOW: i64 = 20_000 * 86_400 + 43_200;
    const TODAY: i64 = 20_000;

    fn count(ledger: &mut Ledger, seq: u64, unix_ms: i64) {
        let mut tallies = Tallies::new();
        add(&mut tallies, "/m", unix_ms, &Content::default());
        ledger.opened("a", Ranges::from_iter([seq]), tallies, false);
        ledger.proved("a", NOW);
    }

    fn counts(book: &Book) -> Vec<(i64, u64)> {
        book.hours["/m"].iter().map(|(hour, entry)| (*hour, entry.tally.count)).collect()
    }

    fn read_all(dir: &Path, ledger: &Ledger) -> Book {
        read(dir, ledger, TODAY - KEPT_DAYS, TODAY).expect("read")
    }

    #[test]
    fn a_crash_at_any_place_of_a_fold_counts_nothing_twice_and_loses_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let (noon, yesterday) = (NOW * 1000, (NOW - 86_400) * 1000);
        let mut ledger = Ledger::new(123, 1, true);
        count(&mut ledger, 1, noon);
        count(&mut ledger, 2, yesterday);
        let want = vec![(hour(yesterday), 1), (hour(noon), 1)];
        assert_eq!(counts(&read_all(dir.path(), &ledger)), want);
        // In upload.json stands what was there before the fold.
        let saved = ledger.clone();
        let (left, result) = fold(dir.path(), &ledger);
        result.expect("folded");
        assert!(left.is_empty());
        assert_eq!(counts(&read_all(dir.path(), &saved)), want);
        let mut resumed =
            resume(dir.path(), 123, Some(saved.clone()), false).expect("the folder is read");
        assert_eq!(counts(&read_all(dir.path(), &resumed)), want);
        count(&mut resumed, 3, noon);
        let want = vec![(hour(yesterday), 1), (hour(noon), 2)];
        assert_eq!(counts(&read_all(dir.path(), &resumed)), want);
        fold(dir.path(), &resumed).1.expect("folded");
        resumed.folded(Hours::new());
        assert_eq!(counts(&read_all(dir.path(), &resumed)), want);
        // One of two days was written.
        let dir = tempfile::tempdir().expect("a folder");
        fold_day(&folder_made(dir.path()), &saved, TODAY, by_day(saved.recent())[&TODAY].clone())
            .expect("written");
        let resumed = resume(dir.path(), 123, Some(saved), false).expect("the folder is read");
        assert_eq!(
            counts(&read_all(dir.path(), &resumed)),
            vec![(hour(yesterday), 1), (hour(noon), 1)]
        );
    }

    fn hour(unix_ms: i64) -> i64 {
        crate::audit::tally::hour_of(unix_ms)
    }

    fn folder_made(dir: &Path) -> PathBuf {
        fs::create_dir_all(folder(dir)).expect("a folder");
        folder(dir)
    }

    #[test]
    fn a_damaged_day_is_known_as_such_for_good_and_hinders_no_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = folder_made(dir.path()).join(name(TODAY).expect("a name"));
        fs::write(&path, "{\"node\":123,").expect("written");
        let mut ledger = Ledger::new(123, 1, true);
        count(&mut ledger, 1, NOW * 1000);
        assert!(read_all(dir.path(), &ledger).damaged.contains(&TODAY));
        let (left, result) = fold(dir.path(), &ledger);
        result.expect("folded");
        ledger.folded(left);
        let book = read_all(dir.path(), &ledger);
        assert_eq!(
            (counts(&book), book.damaged.contains(&TODAY)),
            (vec![(hour(NOW * 1000), 1)], true)
        );
    }

    #[test]
    fn what_is_too_old_goes_and_no_clock_takes_the_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut ledger = Ledger::new(123, 1, true);
        let mut stored = |seq, day: i64| {
            count(&mut ledger, seq, day * 86_400_000);
            fold(dir.path(), &ledger).1.expect("folded");
            ledger.folded(Hours::new());
            let mut days = days(&folder(dir.path())).expect("a folder");
            days.sort_unstable();
            days
        };
        let mut last = Vec::new();
        for day in 0..=KEPT_DAYS + 4 {
            last = stored(day as u64 + 1, TODAY + day);
        }
        assert_eq!(last, (TODAY + 4..=TODAY + 4 + KEPT_DAYS).collect::<Vec<_>>());
        // A server that told another year costs the oldest day only.
        let leap = stored(99, TODAY + 700);
        assert_eq!(leap[..leap.len() - 1], last[1..]);
    }

    #[test]
    fn only_where_nothing_was_before_a_new_ledger_is_complete() {
        let dir = tempfile::tempdir().expect("a folder");
        let new = |first| resume(dir.path(), 123, None, first).expect("the folder is read");
        assert_eq!(new(true).complete_from(), Some(i64::MIN));
        assert_eq!(new(false).complete_from(), None);
        let mut ledger = new(true);
        count(&mut ledger, 1, NOW * 1000);
        fold(dir.path(), &ledger).1.expect("folded");
        let lost = new(true);
        assert_eq!((lost.complete_from(), lost.generation()), (None, ledger.generation() + 1));
        let other = resume(dir.path(), 4, Some(ledger), true).expect("the folder is read");
        assert_eq!((other.node(), other.complete_from()), (4, None));
    }
}
