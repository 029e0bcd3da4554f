//! A disk in memory for tests: it forgets what was not synced, tears it, is full, or fails a sync.
//!
//! Content is lost sector by sector; names are lost from some point on, as a journalling file
//! system does it. A failed sync behaves as Linux does: the pages count as clean, so what was
//! written is still read but no later sync brings it to the disk.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use crate::{
    disk::{Disk, DiskFile},
    error::Error,
};

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    unreadable: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Naming {
    Link(String, Rc<RefCell<Inode>>),
    Rename(String, String),
    Remove(String),
}

type Names = BTreeMap<String, Rc<RefCell<Inode>>>;

fn apply(names: &mut Names, naming: &Naming) {
    match naming {
        Naming::Link(name, inode) => {
            names.insert(name.clone(), inode.clone());
        }
        Naming::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
    }
}

/// What goes wrong, and after how many more operations of its kind.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Files that still fit; creating one more fails.
    pub(crate) files_left: Cell<Option<usize>>,
    /// Writes to existing files until one finds the disk full.
    pub(crate) write_full_in: Cell<Option<usize>>,
    /// Syncs of content or names until one fails.
    pub(crate) sync_fails_in: Cell<Option<usize>>,
}

fn due(counter: &Cell<Option<usize>>) -> bool {
    let left = counter.get();
    counter.set(left.and_then(|left| left.checked_sub(1)));
    left == Some(0)
}

#[derive(Debug, Default)]
struct Inner {
    seen: RefCell<Names>,
    durable: RefCell<Names>,
    unsynced: RefCell<Vec<Naming>>,
    faults: Faults,
    bytes_read: Cell<usize>,
    locked: Cell<bool>,
}

/// Clones are handles of the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk {
    inner: Rc<Inner>,
}

#[derive(Debug)]
pub(crate) struct MemoryFile {
    inode: Rc<RefCell<Inode>>,
    disk: Rc<Inner>,
}

#[derive(Debug)]
pub(crate) struct MemoryLock(Rc<Inner>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.locked.set(false);
    }
}

impl MemoryDisk {
    pub(crate) fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// Cuts the power. `random(n)` returns a number below n.
    pub(crate) fn crash(&self, random: &mut dyn FnMut(usize) -> usize) {
        let mut unsynced = self.inner.unsynced.borrow_mut();
        let kept = random(unsynced.len() + 1);
        let mut names = self.inner.durable.borrow_mut();
        unsynced.drain(..).take(kept).for_each(|naming| apply(&mut names, &naming));
        for inode in names.values() {
            let mut inode = inode.borrow_mut();
            let Inode { seen, durable, dirty, .. } = &mut *inode;
            let grown = seen.len().max(durable.len());
            if random(2) == 0 {
                durable.resize(grown, 0);
            }
            for sector in std::mem::take(dirty) {
                let at = sector * SECTOR;
                let end = (at + SECTOR).min(seen.len()).min(durable.len());
                if random(2) == 0 && at < end {
                    durable[at..end].copy_from_slice(&seen[at..end]);
                }
            }
            *seen = durable.clone();
        }
        *self.inner.seen.borrow_mut() = names.clone();
    }

    /// How much was read since the last call.
    pub(crate) fn take_bytes_read(&self) -> usize {
        self.inner.bytes_read.take()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.inner.seen.borrow().keys().cloned().collect()
    }

    /// Changes the content of a file, on disk and in memory.
    pub(crate) fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let names = self.inner.seen.borrow();
        let mut inode = names[name].borrow_mut();
        change(&mut inode.seen);
        inode.durable = inode.seen.clone();
        inode.dirty.clear();
    }

    /// Makes a sector that the medium does not give back.
    pub(crate) fn spoil(&self, name: &str, sector: usize) {
        self.inner.seen.borrow()[name].borrow_mut().unreadable.insert(sector);
    }

    /// A disk with the same content, all of it durable.
    pub(crate) fn duplicate(&self) -> Self {
        let copy = Self::default();
        for (name, inode) in self.inner.seen.borrow().iter() {
            let seen = inode.borrow().seen.clone();
            let inode = Inode { durable: seen.clone(), seen, ..Inode::default() };
            copy.inner.seen.borrow_mut().insert(name.clone(), Rc::new(RefCell::new(inode)));
        }
        *copy.inner.durable.borrow_mut() = copy.inner.seen.borrow().clone();
        copy
    }

    fn naming(&self, naming: Naming) {
        apply(&mut self.inner.seen.borrow_mut(), &naming);
        self.inner.unsynced.borrow_mut().push(naming);
    }
}

impl Inner {
    fn sync_fails(&self) -> bool {
        due(&self.faults.sync_fails_in)
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;
    type Lock = MemoryLock;

    fn lock(&self) -> Result<MemoryLock, Error> {
        if self.inner.locked.replace(true) {
            return Err(Error::Locked { path: "memory".into(), pid: None });
        }
        Ok(MemoryLock(self.inner.clone()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let names = self.inner.seen.borrow();
        let inode = names.get(name).ok_or(io::ErrorKind::NotFound)?.clone();
        Ok(MemoryFile { inode, disk: self.inner.clone() })
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        if due(&self.inner.faults.files_left) {
            self.inner.faults.files_left.set(Some(0));
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.naming(Naming::Link(name.to_owned(), Rc::default()));
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.naming(Naming::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.naming(Naming::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        if self.inner.sync_fails() {
            return Err(io::Error::other("sync of names failed"));
        }
        let mut durable = self.inner.durable.borrow_mut();
        self.inner.unsynced.borrow_mut().drain(..).for_each(|naming| apply(&mut durable, &naming));
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.inode.borrow().seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let inode = self.inode.borrow();
        let rest = inode.seen.get(at as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        self.disk.bytes_read.set(self.disk.bytes_read.get() + read);
        let last = (at as usize + read).saturating_sub(1) / SECTOR;
        if read > 0 && inode.unreadable.range(at as usize / SECTOR..=last).next().is_some() {
            return Err(io::Error::other("bad spot"));
        }
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let full = due(&self.disk.faults.write_full_in);
        let (at, mut end) = (at as usize, at as usize + bytes.len());
        if full {
            // What fits is written all the same.
            end = at + bytes.len() / 2;
        }
        let mut inode = self.inode.borrow_mut();
        let grown = inode.seen.len().max(end);
        inode.seen.resize(grown, 0);
        inode.seen[at..end].copy_from_slice(&bytes[..end - at]);
        if at < end {
            inode.dirty.extend(at / SECTOR..=(end - 1) / SECTOR);
        }
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut inode = self.inode.borrow_mut();
        if self.disk.sync_fails() {
            inode.dirty.clear();
            return Err(io::Error::other("sync failed"));
        }
        let Inode { seen, durable, dirty, .. } = &mut *inode;
        durable.resize(seen.len(), 0);
        for sector in std::mem::take(dirty) {
            let at = sector * SECTOR;
            let end = (at + SECTOR).min(seen.len());
            durable[at..end].copy_from_slice(&seen[at..end]);
        }
        Ok(())
    }
}
