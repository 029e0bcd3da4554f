//! Looking into a queue that another process may be writing.
//!
//! A reader takes no lock and writes nothing. Each call reads the folder anew and sees what is on
//! disk, so neither pending records nor acknowledgements that were not committed. While it reads,
//! segments may be renamed and written over: their names change then and their CRCs fail, so a look
//! during which names changed, or that met damage which a second look does not meet the same way,
//! is repeated.
//!
//! It asks for patience, not for luck: beside a writer that starts segments faster than the folder
//! can be read, the last look counts after [`TRIES`].

use std::{io, path::Path};

use crate::{
    disk::{Disk, Folder},
    engine::first_waiting,
    error::{Error, io_error},
    format::Seq,
    load::{Loaded, load},
    record::Loss,
    segment::{Basket, Index, Record, Wanted, fill},
    spool::Stat,
};

const TRIES: usize = 20;
/// Damaged places that [`Verification`] lists.
const LISTED: usize = 100;

/// Reads a queue beside its writer.
#[derive(Debug)]
pub struct Reader {
    folder: Folder,
}

/// What reading every record of a queue found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Segments read.
    pub segments: usize,
    /// Records whose CRC is right and that are not acknowledged.
    pub records: u64,
    /// Records that the segments in use still hold, acknowledged ones included. One that was carried
    /// forward counts once for each place it stands in.
    pub held: u64,
    /// Damaged places among records that had been synced.
    pub corrupt: u64,
    /// Where they are; the first hundred.
    pub damage: Vec<Damage>,
    /// Bytes of a commit that was interrupted or is under way.
    pub torn_bytes: u64,
    /// Segments whose header does not check out.
    pub broken_headers: u64,
}

/// A place where no record checks out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file's name.
    pub file: String,
    /// Where it begins.
    pub from: u64,
    /// Where the next good record begins, or the last one should have ended.
    pub to: u64,
}

impl Reader {
    /// Opens the queue in `folder` for reading.
    ///
    /// # Errors
    /// If there is no such folder or it may not be read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let folder = Folder::for_reading(folder).map_err(io_error("open the folder"))?;
        Ok(Self { folder })
    }

    /// The queue in figures, as its files say: nothing is pending, and the limit is the one under
    /// which the current segment was started.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn stat(&self) -> Result<Stat, Error> {
        stat(&self.folder)
    }

    /// Records from `from` on that are not acknowledged, in order, at least one if there is one.
    ///
    /// # Errors
    /// If the folder cannot be read; damaged records are skipped.
    pub fn peek(
        &self,
        from: Seq,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        peek(&self.folder, Wanted { from, records: max_records, bytes: max_bytes })
    }

    /// What was dropped, oldest first; beyond 16 entries the oldest are merged.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn losses(&self) -> Result<Vec<Loss>, Error> {
        consistent(&self.folder, |loaded| Ok((loaded.state.losses.clone(), damaged(loaded))))
    }

    /// Reads every record and says what is damaged.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn verify(&self) -> Result<Verification, Error> {
        verify(&self.folder)
    }
}

/// Looks until nothing moved meanwhile; the flag says whether damage was met.
fn consistent<D: Disk, T: PartialEq>(
    disk: &D,
    look: impl Fn(&Loaded<D::File>) -> io::Result<(T, bool)>,
) -> Result<T, Error> {
    let names = || {
        let mut names = disk.list()?;
        names.sort_unstable();
        Ok(names)
    };
    let failed = io_error("read the segments");
    let mut last: Result<T, io::Error> = Err(io::ErrorKind::NotFound.into());
    for _ in 0..TRIES {
        let before = names().map_err(&failed)?;
        let (seen, damaged) = match load(disk).and_then(|loaded| look(&loaded)) {
            Ok(looked) => looked,
            // Renamed between being listed and being opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let same_again = last.as_ref().is_ok_and(|last| *last == seen);
        if (!damaged || same_again) && before == names().map_err(&failed)? {
            return Ok(seen);
        }
        last = Ok(seen);
    }
    last.map_err(failed)
}

fn damaged<F>(loaded: &Loaded<F>) -> bool {
    loaded.corrupt > 0 || loaded.torn > 0 || loaded.broken_headers > 0
}

pub(crate) fn stat<D: Disk>(disk: &D) -> Result<Stat, Error> {
    consistent(disk, |loaded| {
        let segments: Vec<_> = loaded
            .sealed
            .iter()
            .chain(loaded.current.as_ref().map(|current| &current.segment))
            .cloned()
            .collect();
        let after = segments.iter().filter(|s| s.count > 0).map(|s| s.last + 1).max();
        let stat = Stat {
            records: segments.iter().map(|segment| u64::from(segment.live)).sum(),
            pending: 0,
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            limit: loaded.state.limit,
            first: first_waiting(&segments, &loaded.state.acknowledged, loaded.next),
            next: loaded.next,
            durable: after.unwrap_or(1) - 1,
            dropped: loaded.state.dropped,
            corrupt: loaded.corrupt,
            segments: segments.len(),
            spares: loaded.spares.len(),
            ranges: loaded.state.acknowledged.len(),
        };
        Ok((stat, damaged(loaded)))
    })
}

pub(crate) fn peek<D: Disk>(disk: &D, wanted: Wanted) -> Result<Vec<Record>, Error> {
    consistent(disk, |loaded| {
        let mut basket = Basket::new(wanted);
        let mut damaged = damaged(loaded);
        let acknowledged = &loaded.state.acknowledged;
        for segment in loaded.sealed.iter().filter(|s| s.live > 0 && s.last >= wanted.from) {
            let index = Index::read(disk, segment)?;
            let filled = fill(&mut basket, segment, &index.file, &index.entries, acknowledged)?;
            damaged |= !filled.lost.is_empty() || !index.damage.is_empty();
            if filled.enough {
                return Ok((basket.records, damaged));
            }
        }
        if let Some(current) = &loaded.current {
            let (segment, entries) = (&current.segment, &current.entries);
            let filled = fill(&mut basket, segment, &current.file, entries, acknowledged)?;
            damaged |= !filled.lost.is_empty();
        }
        Ok((basket.records, damaged))
    })
}

pub(crate) fn verify<D: Disk>(disk: &D) -> Result<Verification, Error> {
    consistent(disk, |loaded| {
        let mut found = Verification {
            segments: loaded.sealed.len(),
            torn_bytes: loaded.torn,
            broken_headers: loaded.broken_headers,
            ..Verification::default()
        };
        let places = |name: String, damage: &[(usize, usize)]| {
            let place = |(from, to): &(usize, usize)| (name.clone(), *from as u64, *to as u64);
            damage.iter().map(place).map(|(file, from, to)| Damage { file, from, to }).collect()
        };
        let mut damage: Vec<Vec<Damage>> = Vec::new();
        for segment in &loaded.sealed {
            let index = Index::read(disk, segment)?;
            let mut segment = segment.clone();
            segment.learn(&index.entries, &loaded.state.acknowledged);
            found.records += u64::from(segment.live);
            found.held += u64::from(segment.count);
            damage.push(places(segment.name.to_string(), &index.damage));
        }
        if let Some(current) = &loaded.current {
            found.segments += 1;
            found.records += u64::from(current.segment.live);
            found.held += u64::from(current.segment.count);
            damage.push(places(current.segment.name.to_string(), &current.corrupt));
        }
        found.corrupt = damage.iter().map(|places| places.len() as u64).sum();
        found.damage = damage.into_iter().flatten().take(LISTED).collect();
        let any = found.corrupt > 0 || found.torn_bytes > 0 || found.broken_headers > 0;
        Ok((found, any))
    })
}
