//! The public face of the writer.

use std::{ops::RangeInclusive, path::Path};

use crate::{
    disk::Folder,
    engine::Engine,
    error::{Error, io_error},
    format::{Layout, Seq},
    record::Loss,
    segment::{Record, Wanted},
};

/// How large a queue may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What all its files may take on disk, in bytes; at least two segments.
    pub limit_bytes: u64,
    /// Length of a segment in bytes, from 16 KiB to 16 MiB.
    pub segment_bytes: u32,
}

impl Options {
    /// A queue of this size with segments of 1 MiB, or a sixteenth of a limit below 16 MiB.
    pub fn new(limit_bytes: u64) -> Self {
        const MIB: u64 = 1 << 20;
        let sixteenth = (limit_bytes / 16).max(1);
        let power = 1 << sixteenth.ilog2();
        let segment = power.clamp(u64::from(Layout::MIN_BYTES), MIB);
        Self { limit_bytes, segment_bytes: segment as u32 }
    }

    /// The same with segments of another length.
    pub fn with_segment_bytes(self, segment_bytes: u32) -> Self {
        Self { segment_bytes, ..self }
    }

    /// The longest payload that [`Spool::append`] takes.
    pub fn max_payload(&self) -> usize {
        Layout::new(self.segment_bytes).max_payload()
    }
}

/// What opening found damaged. All zero after a clean end; none of it hinders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Damaged places among records that had been synced, as far as was read.
    pub corrupt: u64,
    /// Bytes skipped in a commit that was under way; nothing of it had been reported durable.
    pub torn_bytes: u64,
    /// Segments whose header does not check out; their records were kept.
    pub broken_headers: u64,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// Every record up to here is on disk, unless it was acknowledged before.
    pub durable: Seq,
    /// Bytes written.
    pub written: u64,
    /// Records dropped to stay within the limit; see [`Spool::losses`].
    pub dropped: u64,
}

/// The state of a queue in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// Records that are not acknowledged, pending ones included.
    pub records: u64,
    /// Those that wait for a commit.
    pub pending: u64,
    /// Bytes on disk of the segments in use.
    pub bytes: u64,
    /// Bytes that segments and spares may take.
    pub limit: u64,
    /// No record before this one waits.
    pub first: Seq,
    /// The next sequence number.
    pub next: Seq,
    /// Every record up to here is on disk, unless it was acknowledged before.
    pub durable: Seq,
    /// Records dropped without acknowledgement since the queue exists.
    pub dropped: u64,
    /// Damaged places met since the queue was opened.
    pub corrupt: u64,
    /// Segments in use.
    pub segments: usize,
    /// Spare segments ready to be used.
    pub spares: usize,
    /// Separate acknowledged ranges that are being remembered.
    pub ranges: usize,
}

/// The single writer of a queue; holds the folder's lock while it exists.
///
/// After [`Error::Poisoned`] drop it and open the queue again.
pub struct Spool {
    engine: Engine<Folder>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("stat", &self.stat()).finish_non_exhaustive()
    }
}

impl Spool {
    /// Opens the queue in `folder`, or makes one, and repairs what a crash left.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it; [`Error::Full`] if not even one segment can be
    /// made.
    pub fn open(folder: &Path, options: Options) -> Result<(Self, Recovery), Error> {
        let disk = Folder::for_writing(folder).map_err(io_error("make the folder"))?;
        let (engine, recovery) = Engine::open(disk, options)?;
        Ok((Self { engine }, recovery))
    }

    /// Takes a record into memory; it is durable after the next [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`Error::Full`] after a commit that found the disk full, until one succeeds;
    /// [`Error::Uncommitted`] after tens of thousands of records or 16 MiB without a commit. The
    /// record is then not taken.
    pub fn append(&mut self, payload: &[u8]) -> Result<Seq, Error> {
        self.engine.append(payload)
    }

    /// Writes all records appended since the last commit, with one sync (and those of a new segment
    /// where one is started). Acknowledgements ride along; without records nothing is written.
    ///
    /// # Errors
    /// [`Error::Full`]: a part may be durable, see [`Stat::durable`]; the rest stays pending, and
    /// committing again goes on once there is room or enough was acknowledged.
    pub fn commit(&mut self) -> Result<Commit, Error> {
        self.engine.commit(false)
    }

    /// Like [`commit`](Self::commit), but writes acknowledgements even if there are no records.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn sync(&mut self) -> Result<Commit, Error> {
        self.engine.commit(true)
    }

    /// Marks records as delivered: they are not handed out again, and never written if still
    /// pending.
    ///
    /// The acknowledgement becomes durable with a later commit; a crash before that costs a repeat.
    /// Acknowledging twice, or what was dropped meanwhile, is harmless.
    ///
    /// # Errors
    /// [`Error::Unknown`] beyond the last record; [`Error::Scattered`] if thousands of separate
    /// ranges are open and cannot be merged. Nothing is acknowledged then.
    pub fn acknowledge(&mut self, range: RangeInclusive<Seq>) -> Result<(), Error> {
        self.engine.acknowledge(range)
    }

    /// Records from `from` on that are not acknowledged, in order, pending ones included.
    ///
    /// At least one is returned if there is one, even if it is longer than `max_bytes` of payload.
    ///
    /// # Errors
    /// Only if the disk cannot be read; damaged records are skipped and counted.
    pub fn peek(
        &mut self,
        from: Seq,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        self.engine.peek(Wanted { from, records: max_records, bytes: max_bytes })
    }

    /// The queue in figures.
    pub fn stat(&self) -> Stat {
        self.engine.stat()
    }

    /// What was dropped, oldest first; beyond 16 entries the oldest are merged.
    pub fn losses(&self) -> &[Loss] {
        self.engine.losses()
    }

    /// Sets the note that loss records written from now on carry, such as the time.
    pub fn set_note(&mut self, note: u64) {
        self.engine.note = note;
    }

    /// Prepares one more spare segment; false when the limit is reached.
    ///
    /// # Errors
    /// [`Error::Full`] if the disk is; try again later.
    pub fn prepare(&mut self) -> Result<bool, Error> {
        self.engine.prepare()
    }

    /// Commits everything, acknowledgements included, and gives back unused sequence numbers.
    ///
    /// Dropping the queue instead loses nothing durable; the next open then leaves a gap in the
    /// numbers.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn close(self) -> Result<(), Error> {
        self.engine.close()
    }
}
