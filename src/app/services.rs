//! What instructions may ask of the node itself, as far as the daemon can do it.
//!
//! A restart of the agent is an end with an exit code of its own, after which systemd starts it again
//! (`RestartForceExitStatus=75` of the unit). A restart of the machine is asked for and not done, so the
//! daemon needs no right to it: it writes [`REQUEST`] beside its control socket, and the unit
//! `solarnode-agent-reboot.path`, where somebody has enabled it, sees that file. Whoever removes the file
//! has decided: systemd, which then reboots, or the daemon after [`TAKEN_WITHIN`], which then says that
//! nobody did.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::{
    domain::BootId,
    identity::Installer,
    instruct::{self, Life},
    observe::log::Levels,
    runtime::off_thread,
};

/// The file that asks for a reboot, beside the control socket.
const REQUEST: &str = "reboot";

/// How long systemd may take to see the file.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether the file is gone.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the daemon can do for an instruction.
#[derive(Debug, Clone)]
pub(super) struct Services {
    agent: String,
    machine: String,
    restart: CancellationToken,
    request: PathBuf,
    levels: Levels,
    installer: Installer,
}

impl Services {
    /// Of this process, in this boot.
    pub(super) fn new(
        control_socket: &Path,
        boot: BootId,
        levels: Levels,
        installer: Installer,
    ) -> Self {
        Self {
            agent: hex::encode(fastrand::u128(..).to_be_bytes()),
            machine: hex::encode(boot.0),
            restart: CancellationToken::new(),
            request: control_socket.with_file_name(REQUEST),
            levels,
            installer,
        }
    }

    /// Waits until an instruction has asked for a restart of the agent.
    pub(super) fn restart_asked(&self) -> impl Future<Output = ()> + use<> {
        self.restart.clone().cancelled_owned()
    }
}

impl instruct::Services for Services {
    fn life(&self, of: Life) -> String {
        match of {
            Life::Agent => self.agent.clone(),
            Life::Machine => self.machine.clone(),
        }
    }

    fn restart(&self) {
        self.restart.cancel();
    }

    async fn reboot(&self) -> Result<(), String> {
        let shown = self.request.display();
        let write = on_file(&self.request, |path| fs::write(path, "")).await;
        write.map_err(|error| format!("{shown} could not be written: {error}"))?;
        for _ in 0..TAKEN_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
            sleep(LOOK_EVERY).await;
            if !on_file(&self.request, |path| path.try_exists()).await.unwrap_or(true) {
                return Ok(());
            }
        }
        match on_file(&self.request, |path| fs::remove_file(path)).await {
            // Taken in the last moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(format!("{shown} could not be removed again: {error}")),
            Ok(()) => Err(format!(
                "nobody took {shown} within {} s: is solarnode-agent-reboot.path enabled?",
                TAKEN_WITHIN.as_secs()
            )),
        }
    }

    fn log_level(&self, loggers: &[String], level: Option<LevelFilter>) -> Result<String, String> {
        self.levels.set(loggers, level)
    }

    async fn install_certificate(&self, certificate: String) -> Result<String, String> {
        self.installer.install(certificate).await
    }
}

/// Does something to a file on a thread that may block.
async fn on_file<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    off_thread(move || work(&path)).await
}
