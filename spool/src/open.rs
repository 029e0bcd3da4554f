//! Opening for writing: what `load.rs` found is repaired and made durable before it counts.

use std::collections::VecDeque;

use crate::{
    disk::{Disk, DiskFile},
    engine::Engine,
    error::{Error, io_error},
    format::{HEADER_BYTES, HEADER_SLOTS, Header, Layout, Name, RESERVATION, Seq},
    load::{Current, State, load},
    ranges::RangeSet,
    record::{RESERVATION_BYTES, push_reservation},
    room::prewrite,
    segment::Segment,
    spool::{Options, Recovery},
};

/// Numbers skipped at each open, so that one whose name was lost in a power cut is not used again.
const NUMBERS_SKIPPED: u64 = 1024;

impl<D: Disk> Engine<D> {
    pub(crate) fn open(disk: D, options: Options) -> Result<(Self, Recovery), Error> {
        let lock = disk.lock()?;
        let mut loaded = load(&disk).map_err(io_error("read the segments"))?;
        // An earlier handle may have renamed without syncing.
        disk.sync_names().map_err(io_error("sync the folder"))?;
        let layout = Layout::new(options.segment_bytes);
        let limit = options.limit_bytes.max(2 * layout.bytes() as u64);
        loaded.state.limit = limit;
        let mut next_number = loaded.last_number + NUMBERS_SKIPPED;
        let (first_start, current) = match loaded.current {
            Some(current) => (false, current),
            None => {
                let number = next_number;
                next_number += 1;
                let name = Name::Segment { number, base: loaded.next };
                (true, first_segment(&disk, layout, name, &loaded.state, loaded.next)?)
            }
        };
        let Current { segment, file, entries, tail, tail_at, length, header_is_good, .. } = current;
        let recovery = Recovery {
            corrupt: loaded.corrupt,
            torn_bytes: loaded.torn,
            broken_headers: loaded.broken_headers,
        };
        let mut segments = loaded.sealed;
        segments.push(segment);
        let mut engine = Self {
            disk,
            _lock: lock,
            layout,
            segments,
            spares: Vec::new(),
            next_number,
            names_dirty: false,
            file,
            entries,
            indexes: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            state: loaded.state,
            unsaved: RangeSet::default(),
            next: loaded.next,
            corrupt: loaded.corrupt,
            left_over_until: 0,
            full: false,
            poisoned: false,
            note: 0,
        };
        engine.state.reserved = engine.next;
        if first_start {
            engine.state.reserved += RESERVATION;
        } else {
            let layout = Layout::new(u32::try_from(length).unwrap_or(u32::MAX));
            engine.rewrite_tail(tail, tail_at, layout, header_is_good)?;
        }
        engine.sort_out_spares(loaded.spares, &loaded.leftovers, &loaded.replaced)?;
        engine.recycle_acknowledged()?;
        // Records of acknowledgements outlive the segments carried forward since.
        while engine.state.acknowledged.len() > engine.layout.max_ranges() {
            match engine.carry_most_scattered() {
                Ok(true) => {}
                Ok(false) | Err(Error::Full) => break,
                Err(error) => return Err(error),
            }
        }
        if engine.spares.is_empty() && engine.segments.len() < 2 {
            match engine.prepare() {
                // Usable with one; a second is asked for again when it is needed.
                Ok(_) | Err(Error::Full) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((engine, recovery))
    }

    /// Writes the last commit once more, with a new reservation, before any of it counts as
    /// durable.
    fn rewrite_tail(
        &mut self,
        mut tail: Vec<u8>,
        tail_at: usize,
        layout: Layout,
        header_is_good: bool,
    ) -> Result<(), Error> {
        let current = self.current();
        let sync = io_error("write the last commit again");
        if current.bytes < layout.bytes() as u64 {
            // Truncated by somebody: the length is what commits without metadata rely on.
            let zeros = vec![0; layout.bytes() - current.bytes as usize];
            self.file.write_at(&zeros, current.bytes).map_err(&sync)?;
        }
        if !header_is_good {
            let page = self.header(current.number, current.base, layout, self.next).encode();
            self.file.write_at(&page, 0).map_err(&sync)?;
        }
        // Without room the reservation stays what it is, and the next commit starts a new segment.
        let reserved = self.next + RESERVATION;
        let fits = current.end + RESERVATION_BYTES <= layout.ack_end();
        if fits {
            push_reservation(&mut tail, current.seed(), false, reserved);
        }
        self.file.write_at(&tail, tail_at as u64).map_err(&sync)?;
        self.file.sync().map_err(&sync)?;
        let current = self.current_mut();
        current.end = tail_at + tail.len();
        current.bytes = current.bytes.max(layout.bytes() as u64);
        if fits {
            self.state.reserved = reserved;
        }
        Ok(())
    }
}

/// Makes the segment of an empty queue.
fn first_segment<D: Disk>(
    disk: &D,
    layout: Layout,
    name: Name,
    state: &State,
    next: Seq,
) -> Result<Current<D::File>, Error> {
    let number = name.number();
    let ranges = state.acknowledged.as_slice();
    let header = Header {
        bytes: layout.bytes() as u32,
        number,
        base: next,
        reserved: next + RESERVATION,
        dropped: state.dropped,
        limit: state.limit,
        ranges: ranges[..ranges.len().min(HEADER_SLOTS)].to_vec(),
        replaces: Vec::new(),
    };
    let unfinished = Name::Unfinished { number }.to_string();
    let file = prewrite(disk, &unfinished, layout, &header.encode())?;
    let named = disk.rename(&unfinished, &name.to_string()).and_then(|()| disk.sync_names());
    named.map_err(io_error("name the first segment"))?;
    let segment = Segment::empty(number, next, layout, HEADER_BYTES);
    Ok(Current {
        segment,
        file,
        entries: Vec::new(),
        corrupt: Vec::new(),
        tail: Vec::new(),
        tail_at: HEADER_BYTES,
        length: layout.bytes(),
        header_is_good: true,
    })
}
