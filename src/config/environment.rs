//! Where things are when nobody says otherwise. The only file that reads the environment.

use std::{
    env,
    path::{Path, PathBuf},
};

use directories::ProjectDirs;

/// The configuration of the system's own service.
const SYSTEM_FILE: &str = "/etc/solarnode-agent/agent.toml";
const SYSTEM_STATE: &str = "/var/lib/solarnode-agent";
const SYSTEM_SOCKET: &str = "/run/solarnode-agent/control.sock";

/// The first user ID of people; those below are the system's.
///
/// # Source
///
/// `UID_MIN` of `login.defs(5)`, and `SYS_UID_MAX` of systemd.
const FIRST_ORDINARY_USER: u32 = 1000;

/// Default paths, as they follow from who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    /// The configuration file that is read unless another one is named.
    pub(super) file: PathBuf,
    state_dir: PathBuf,
}

impl Environment {
    /// Of this process: systemd's `$STATE_DIRECTORY`, the user, and the user's folders.
    pub(super) fn read() -> Self {
        // systemd separates several folders by colons; the unit has one.
        let state = env::var("STATE_DIRECTORY").ok();
        let state = state.and_then(|list| list.split(':').next().map(PathBuf::from));
        let user = rustix::process::geteuid().as_raw();
        let own = (user >= FIRST_ORDINARY_USER)
            .then(|| ProjectDirs::from("", "", "solarnode-agent"))
            .flatten();
        let folders = own
            .map(|own| (own.config_dir().into(), own.state_dir().unwrap_or(own.data_dir()).into()));
        Self::of(state.filter(|path| path.is_absolute()), folders)
    }

    /// A service has what systemd says, an ordinary user (configuration, state) of their own, and
    /// everybody else the system's.
    pub(super) fn of(service_state: Option<PathBuf>, own: Option<(PathBuf, PathBuf)>) -> Self {
        match (service_state, own) {
            (Some(state_dir), _) => Self { file: SYSTEM_FILE.into(), state_dir },
            (None, Some((config, state_dir))) => {
                Self { file: config.join("agent.toml"), state_dir }
            }
            (None, None) => Self { file: SYSTEM_FILE.into(), state_dir: SYSTEM_STATE.into() },
        }
    }

    /// The state folder of whoever runs on the configuration `file`. The system's file means the
    /// system's daemon, whoever asks.
    pub(super) fn state_dir(&self, file: &Path) -> PathBuf {
        let foreign = file == Path::new(SYSTEM_FILE) && self.file != file;
        if foreign { SYSTEM_STATE.into() } else { self.state_dir.clone() }
    }
}

/// The configuration file that `$SOLARNODE_CONFIG` names. An empty one is none.
pub(super) fn named_file() -> Option<PathBuf> {
    env::var_os("SOLARNODE_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// The folder of credentials that systemd passes to a service (`LoadCredential=`).
pub(super) fn passed_credentials() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Whether standard error is the journal: systemd's word is inherited by whatever a service starts, also
/// where standard error then goes elsewhere, so it names the stream.
pub(super) fn logs_to_journal() -> bool {
    let stream = rustix::fs::fstat(std::io::stderr()).ok();
    let named = env::var("JOURNAL_STREAM").ok();
    stream.zip(named).is_some_and(|(stream, named)| is_stream(&named, stream.st_dev, stream.st_ino))
}

/// Whether `DEVICE:INODE` are these.
fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let numbers = named.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    numbers == Some((Ok(device), Ok(inode)))
}

/// The control socket of a daemon with that state folder.
pub(super) fn control_socket(state_dir: &Path) -> PathBuf {
    if state_dir == Path::new(SYSTEM_STATE) {
        SYSTEM_SOCKET.into()
    } else {
        state_dir.join("control.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_asking_about_the_system_finds_the_systems_daemon() {
        let user = Environment::of(None, Some(("/home/u/c".into(), "/home/u/s".into())));
        assert_eq!(user.file, Path::new("/home/u/c/agent.toml"));
        assert_eq!(user.state_dir(&user.file), Path::new("/home/u/s"));
        let system = user.state_dir(Path::new(SYSTEM_FILE));
        assert_eq!(control_socket(&system), Path::new(SYSTEM_SOCKET));
    }

    #[test]
    fn an_inherited_word_about_another_stream_does_not_send_the_log_to_the_journal() {
        assert!(is_stream("8:5017", 8, 5017));
        for other in ["8:5018", "9:5017", "8", "", ":", "8:5017:1"] {
            assert!(!is_stream(other, 8, 5017), "{other}");
        }
    }

    #[test]
    fn a_service_keeps_its_state_where_systemd_says() {
        let own = Some(("/home/u/c".into(), "/home/u/s".into()));
        let service = Environment::of(Some("/srv/agent".into()), own);
        assert_eq!(service.file, Path::new(SYSTEM_FILE));
        assert_eq!(service.state_dir(&service.file), Path::new("/srv/agent"));
        assert_eq!(control_socket(Path::new("/srv/agent")), Path::new("/srv/agent/control.sock"));
    }
}
