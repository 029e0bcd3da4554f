//! `run`: the daemon.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{level_filters::LevelFilter, warn};

use super::{Exit, Failure, OrExit};
use crate::{
    app::{self, AppError},
    config::{self, Service},
    observe::log,
};

/// Run the daemon: read, keep, send, obey, until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  solarnode-agent run --config agent.toml\n\nUnder systemd the log goes to the journal: journalctl -t solarnode-agent"
)]
pub struct Run {
    /// Log lines of this level and above: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value_t = LevelFilter::INFO, env = "SOLARNODE_LOG")]
    log: LevelFilter,
}

impl Run {
    /// Runs until it is asked to stop.
    ///
    /// # Errors
    ///
    /// If it cannot start, or stops for another reason than being asked.
    pub fn run(self, path: &Path) -> Result<Exit, Failure> {
        let service = Service::read();
        log::start(self.log, service.logs_to_journal);
        let loaded = config::load(path)?;
        for problem in &loaded.warnings {
            warn!(event = "config.warning", %problem, "configuration warning");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let asked = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            Ok::<_, std::io::Error>(app::run(loaded.settings, service.credentials, asked).await)
        })?;
        // Blocking work that was abandoned at the end of the grace period is not waited for.
        runtime.shutdown_background();
        let exit = done.as_ref().err().map_or(Exit::Ok, exit_of);
        done.or_exit(exit).map(|()| Exit::Ok)
    }
}

/// The code for systemd: whether a restart may help.
fn exit_of(error: &AppError) -> Exit {
    let of_io = |source: &std::io::Error| match source.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Io,
    };
    match error {
        AppError::StateDir { source, .. } => of_io(source),
        AppError::Control(error) => match error {
            crate::observe::control::BindError::Taken(_) => Exit::NoPermission,
            crate::observe::control::BindError::Io { source, .. } => of_io(source),
        },
        AppError::Clock(_) | AppError::Queue(_) => Exit::Io,
        AppError::Net(_) | AppError::Plan(_) => Exit::Config,
        AppError::TaskLost { .. } | AppError::GraceOver => Exit::Failed,
    }
}
