//! File systems on loop devices: small ones, and one whose power can be cut.
//!
//! ```text
//! queue ─▶ ext4 ─▶ loop ─▶ file on ext4 ─▶ loop ─▶ file in memory
//!          inner           └─ its page cache is ──┘
//!                             the device's volatile memory
//! ```
//!
//! The inner loop device writes into the page cache of its file and brings it to the outer file
//! system when it is told to flush. A cut tells the outer ext4 to stop at once, journal included
//! (`EXT4_IOC_SHUTDOWN`): what was written to the inner device and not flushed is lost, and so is
//! what the inner file system had not even written.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::victim::nanos;

/// A file system that is unmounted at the end.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Makes an ext4 of so many KiB in `file` and mounts it at `at`.
    pub(crate) fn make(file: &Path, kib: u32, at: PathBuf) -> Self {
        Self::make_with(file, kib, at, &[])
    }

    /// The same with more options of `mkfs.ext4`.
    pub(crate) fn make_with(file: &Path, kib: u32, at: PathBuf, options: &[&str]) -> Self {
        std::fs::create_dir(&at).expect("a folder");
        File::create(file).and_then(|file| file.set_len(u64::from(kib) << 10)).expect("room");
        let options = ["-q", "-m0"].iter().chain(options).map(Path::new);
        let arguments: Vec<&Path> = options.chain([file]).collect();
        tool("mkfs.ext4", "e2fsprogs", &arguments);
        Self::mount(file, at)
    }

    pub(crate) fn mount(file: &Path, at: PathBuf) -> Self {
        tool("mount", "mount", &[Path::new("-oloop"), file, &at]);
        Self { at }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        // The kernel may still be busy with what a killed process left behind.
        let unmount = || Command::new("umount").arg(&self.at).stderr(Stdio::null()).status();
        while !unmount().is_ok_and(|status| status.success()) {
            if Instant::now() > until {
                eprintln!("could not unmount {}", self.at.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A place in memory for the files of loop devices.
pub(crate) fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

/// An ext4 whose power can be cut.
#[derive(Debug)]
pub(crate) struct Device {
    // Unmounted in this order.
    inner: Option<Mounted>,
    outer: Option<Mounted>,
    files: tempfile::TempDir,
}

impl Device {
    pub(crate) fn new() -> Self {
        let files = in_memory();
        let at = |name: &str| files.path().join(name);
        let outer = Mounted::make(&at("outer.img"), 40 << 10, at("outer"));
        let image = outer.path().join("inner.img");
        let inner = Mounted::make(&image, 24 << 10, at("inner"));
        // The image's own blocks and size are not what is to be lost.
        File::open(image).and_then(|image| image.sync_all()).expect("synced");
        Self { inner: Some(inner), outer: Some(outer), files }
    }

    /// Where the file system is that suffers.
    pub(crate) fn path(&self) -> PathBuf {
        self.files.path().join("inner")
    }

    /// Cuts the power and returns when; from then on every sync fails.
    pub(crate) fn cut(&self) -> u64 {
        let outer = File::open(self.files.path().join("outer")).expect("mounted");
        let at = nanos();
        stop(&outer).expect("an ext4 can be told to stop");
        at
    }

    /// Power comes back: both file systems are mounted again, and their journals replayed.
    pub(crate) fn restart(&mut self) {
        self.inner = None;
        self.outer = None;
        let at = |name: &str| self.files.path().join(name);
        let outer = Mounted::mount(&at("outer.img"), at("outer"));
        self.inner = Some(Mounted::mount(&outer.path().join("inner.img"), at("inner")));
        self.outer = Some(outer);
    }
}

/// Tells an ext4 to stop without writing anything more.
#[expect(unsafe_code, reason = "no crate wraps this ioctl")]
fn stop(on: &File) -> std::io::Result<()> {
    // linux/ext4.h: EXT4_IOC_SHUTDOWN is _IOR('X', 125, __u32), its flag 2 NOLOGFLUSH.
    const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: the kernel reads one u32 behind the pointer, which is what a Setter<_, u32> passes.
    unsafe { rustix::ioctl::ioctl(on, rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
        .map_err(Into::into)
}

/// Runs a program of the system; one that is missing is named with its package.
pub(crate) fn tool(program: &str, package: &str, arguments: &[&Path]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let ran = Command::new(program).args(arguments).env("PATH", path).output();
    let output = ran.unwrap_or_else(|error| {
        panic!("{program} of the package {package} cannot be started ({error}): run tests/setup.sh")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
