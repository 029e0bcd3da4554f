//! A serial port: opened for us alone, set, read and written without waiting.
//!
//! ```text
//!  open ─▶ a port? ─▶ lock (flock, TIOCEXCL, lock files of others) ─▶ speed, parity, raw ─▶ empty its buffers
//!    │         │         │                                              │
//!  Absent    NotAPort   Held by …                                     Speed
//!  Denied
//! ```
//!
//! * Two masters on a line destroy each other's frames, so a port that another program locked is not used, and
//!   the program is named. One that only has it open is reported and put up with: it may be a monitor.
//! * A character with a parity error is read as a zero, so that a damaged frame keeps its length and is judged at
//!   once by its checksum.
//!
//! What it does *not* do: switch the direction of an RS-485 driver. That is the adapter's work, or the kernel's where
//! the device tree says `linux,rs485-enabled-at-boot-time`.

mod holder;
pub(super) mod journal;

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

pub use holder::Holder;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
    termios::{
        ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
        ioctl_tiocexcl, ioctl_tiocnxcl, isatty, tcflush, tcgetattr, tcsetattr,
    },
};
use tokio::io::unix::AsyncFd;
use tracing::debug;

use crate::config::settings::{Parity, Serial};

/// Where the system keeps names that stay with an adapter.
const STABLE_NAMES: &str = "/dev/serial/by-id";
/// How far a speed may be off: a receiver samples the middle of a character's tenth bit.
const MOST_OFF: f64 = 0.03;

/// Why a port could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is not there.
    #[error("there is no such port; {present}")]
    Absent {
        /// Which ones there are.
        present: String,
    },
    /// It is not ours to open.
    #[error("permission denied; the agent's user has to be in the group `{group}`")]
    Denied {
        /// The group that may open it.
        group: String,
    },
    /// Another program has it.
    #[error("it is locked by {}", .0.as_ref().map_or("another program (`sudo fuser -v` on it names which)".to_owned(), ToString::to_string))]
    Held(
        /// Which, as far as is known.
        Option<Holder>,
    ),
    /// It is another kind of file.
    #[error("it is no serial port")]
    NotAPort,
    /// It cannot do the speed.
    #[error("it runs at {found} baud when set to {wanted}")]
    Speed {
        /// As configured.
        wanted: u32,
        /// What it does.
        found: u32,
    },
    /// Something else.
    #[error("{0}")]
    System(
        /// What the system said.
        String,
    ),
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> Self {
        Self::System(io::Error::from(error).to_string())
    }
}

/// An open port.
#[derive(Debug)]
pub(super) struct Port {
    file: AsyncFd<OwnedFd>,
    /// Who else had it open, without a lock, when it was opened.
    pub(super) shared_with: Option<Holder>,
}

impl Port {
    /// Opens and sets a port. Has to be called inside of the runtime that will wait for it.
    ///
    /// # Errors
    ///
    /// If it is not there, not ours, taken, or no serial port that can be set like this.
    pub(super) fn open(serial: &Serial) -> Result<Self, OpenError> {
        let path = &serial.port;
        // Without NONBLOCK some drivers wait for a carrier here.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => {
                OpenError::Absent { present: stable_names(Path::new(STABLE_NAMES)) }
            }
            Errno::ACCESS | Errno::PERM => OpenError::Denied { group: group_of(path) },
            Errno::BUSY => OpenError::Held(holder::with_open_file(path)),
            other => other.into(),
        })?;
        if !isatty(&file) {
            return Err(OpenError::NotAPort);
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                let holder = holder::with_file_lock(path);
                OpenError::Held(holder.or_else(|| holder::with_open_file(path)))
            }
            other => other.into(),
        })?;
        if let Some(holder) = holder::with_lock_file(path) {
            return Err(OpenError::Held(Some(holder)));
        }
        set(&file, serial)?;
        ioctl_tiocexcl(&file)?;
        let file = watched(file).map_err(|error| OpenError::System(error.to_string()))?;
        Ok(Self { file, shared_with: holder::with_open_file(path) })
    }

    /// Reads what is there; `WouldBlock` where nothing is.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(self.file.get_ref(), buffer)
    }

    /// Waits for at least one byte. Safe to drop.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.file.readable().await?;
            if let Ok(result) = ready.try_io(|file| read(file.get_ref(), buffer)) {
                return result;
            }
        }
    }

    /// Hands bytes to the driver, which has room for several frames. Returns before they are on the line.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.file.get_ref(), bytes) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.file.writable().await?.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[expect(deprecated, reason = "its successor is unsafe, for types that may swap their descriptor")]
fn watched(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(file)
}

fn read(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(file, buffer) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the port has gone")),
        Ok(received) => Ok(received),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Were it open elsewhere, too, the mark would outlive us.
        if let Err(error) = ioctl_tiocnxcl(self.file.get_ref()) {
            debug!(%error, "a port that has gone cannot be unlocked");
        }
    }
}

fn set(file: &impl AsFd, serial: &Serial) -> Result<(), OpenError> {
    let mut termios = tcgetattr(file)?;
    make_modbus(&mut termios, serial)?;
    tcsetattr(file, OptionalActions::Now, &termios)?;
    let found = tcgetattr(file)?.output_speed();
    if (f64::from(found) / f64::from(serial.baud) - 1.0).abs() > MOST_OFF {
        return Err(OpenError::Speed { wanted: serial.baud, found });
    }
    Ok(tcflush(file, QueueSelector::IOFlush)?)
}

fn make_modbus(termios: &mut Termios, serial: &Serial) -> Result<(), Errno> {
    termios.make_raw();
    let modes = &mut termios.control_modes;
    // HUPCL would drop the modem lines, by which some adapters are powered, at each restart.
    modes.remove(ControlModes::CRTSCTS | ControlModes::HUPCL | ControlModes::CMSPAR);
    modes.insert(ControlModes::CREAD | ControlModes::CLOCAL);
    modes.set(ControlModes::PARENB, serial.parity != Parity::None);
    modes.set(ControlModes::PARODD, serial.parity == Parity::Odd);
    modes.set(ControlModes::CSTOPB, serial.stop_bits == 2);
    let inputs = &mut termios.input_modes;
    inputs.remove(InputModes::IGNPAR | InputModes::PARMRK);
    inputs.set(InputModes::INPCK, serial.parity != Parity::None);
    termios.special_codes[SpecialCodeIndex::VMIN] = 1;
    termios.special_codes[SpecialCodeIndex::VTIME] = 0;
    termios.set_speed(serial.baud)
}

/// Which adapters are plugged in, for somebody who misspelled one.
fn stable_names(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.path().display().to_string()).collect();
    names.sort();
    match names.as_slice() {
        [] => "no USB adapter is plugged in".to_owned(),
        names => format!("plugged in: {}", names.join(", ")),
    }
}

/// The name of the group that a file belongs to; its number where it has none.
fn group_of(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else { return "dialout".to_owned() };
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group_name(&groups, metadata.gid()).unwrap_or_else(|| metadata.gid().to_string())
}

fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_called_by_their_names() {
        let groups = "root:x:0:\ndialout:x:20:pi,me\n";
        assert_eq!(group_name(groups, 20), Some("dialout".to_owned()));
        assert_eq!(group_name(groups, 21), None);
    }

    #[test]
    fn a_port_that_is_not_there_is_answered_with_those_that_are() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(stable_names(folder.path()), "no USB adapter is plugged in");
        fs::write(folder.path().join("usb-FTDI_1"), "").expect("written");
        let names = stable_names(folder.path());
        assert!(names.starts_with("plugged in: ") && names.ends_with("/usb-FTDI_1"), "{names}");
    }

    #[test]
    fn what_is_no_serial_port_is_refused() {
        let serial = |port: &str| Serial {
            port: port.into(),
            baud: 9600,
            parity: Parity::None,
            stop_bits: 1,
        };
        assert_eq!(Port::open(&serial("/dev/null")).err(), Some(OpenError::NotAPort));
        let absent = Port::open(&serial("/dev/none")).err();
        assert!(matches!(absent, Some(OpenError::Absent { .. })), "{absent:?}");
    }
}
