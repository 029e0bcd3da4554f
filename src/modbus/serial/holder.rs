//! Who holds a serial port that cannot be had, so that the person reading can end it.
//!
//! Three places tell, and none of them always: the open files of processes (those of other users only as root),
//! the kernel's table of file locks, and the lock files of old (`LCK..ttyUSB0`, `FHS` 5.9). Nothing is written.

use std::{
    fmt, fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

/// Where programs of old keep their locks.
const LOCK_FILES: &str = "/var/lock";

/// This program, as the kernel names its processes.
const DAEMON: &str = "solarnode-agent";

/// A program that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pid: u32,
    /// Absent where its process belongs to another user.
    name: Option<String>,
}

impl Holder {
    fn new(pid: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        Self { pid, name: name.map(|name| name.trim_end().to_owned()) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) if name == DAEMON => write!(
                f,
                "`{name}` (process {}): `solarnode-agent status` shows how the daemon's sources are, and \
                 `systemctl stop solarnode-agent` frees the port",
                self.pid
            ),
            Some(name) => write!(f, "`{name}` (process {})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// Another process that has the port open.
pub(super) fn with_open_file(port: &Path) -> Option<Holder> {
    let device = fs::metadata(port).ok().filter(|port| port.file_type().is_char_device())?.rdev();
    let has_it = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let opened = files.filter_map(|file| fs::metadata(file.path()).ok());
        let mut devices = opened.filter(|file| file.file_type().is_char_device());
        devices.any(|file| file.rdev() == device)
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id()).find(has_it).map(Holder::new)
}

/// Another process that has a file lock on the port.
pub(super) fn with_file_lock(port: &Path) -> Option<Holder> {
    let (metadata, locks) = (fs::metadata(port).ok()?, fs::read_to_string("/proc/locks").ok()?);
    locked_by(&locks, metadata.ino()).filter(|pid| *pid != std::process::id()).map(Holder::new)
}

/// The process that holds a lock on this inode of a file system of devices, by the kernel's table.
fn locked_by(locks: &str, inode: u64) -> Option<u32> {
    // 1: FLOCK  ADVISORY  WRITE 1234 00:06:345 0 EOF
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let (pid, file) = (fields.next()?, fields.next()?);
        // Which file system it is differs between mounts of the same one; device files are few.
        let mut parts = file.split(':');
        let on_devices = parts.next()? == "00";
        let same = parts.nth(1)?.parse() == Ok(inode);
        (on_devices && same).then(|| pid.parse().ok()).flatten()
    })
}

/// Another process that is alive and wrote a lock file for the port.
pub(super) fn with_lock_file(port: &Path) -> Option<Holder> {
    lock_file(Path::new(LOCK_FILES), port)
}

fn lock_file(folder: &Path, port: &Path) -> Option<Holder> {
    // A stable name is a link; programs lock the device it leads to.
    let device = fs::canonicalize(port).ok()?;
    let name = format!("LCK..{}", device.file_name()?.to_str()?);
    let pid = fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()?;
    let alive = Path::new(&format!("/proc/{pid}")).exists();
    (alive && pid != std::process::id()).then(|| Holder::new(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_of_locks_names_the_process() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 00:06:345 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 1234 00:06:346 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 00:06:347 0 EOF\n";
        assert_eq!(locked_by(locks, 346), Some(1234));
        assert_eq!(locked_by(locks, 345), Some(77));
        assert_eq!(locked_by(locks, 1), None);
        assert_eq!(locked_by("nonsense\n\n1: FLOCK", 1), None);
    }

    #[test]
    fn a_lock_file_counts_while_its_process_lives() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = folder.path().join("LCK..null");
        let found = || lock_file(folder.path(), Path::new("/dev/null"));
        assert_eq!(found(), None);
        fs::write(&lock, "         1\n").expect("written");
        assert_eq!(found().map(|holder| holder.pid), Some(1));
        fs::write(&lock, format!("{:>10}\n", u32::MAX)).expect("written");
        assert_eq!(found(), None, "a lock left behind");
        fs::write(&lock, format!("{}\n", std::process::id())).expect("written");
        assert_eq!(found(), None, "our own");
    }
}
