//! `run`: the daemon.

use std::{error::Error, io, path::Path, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tracing::{level_filters::LevelFilter, warn};

use super::{Exit, Failure, OrExit};
use crate::{
    app::{self, AppError, Beginning, Ended},
    config::{self, ConfigError, Service},
    observe::{control::BindError, log},
    queue::QueueError,
    runtime,
};

/// Run the daemon: read, keep, send, obey, until SIGTERM or SIGINT
///
/// On SIGHUP it reads its configuration again and restarts only what changed. A file that `check`
/// complains about changes nothing.
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
        let levels = log::start(self.log, service.logs_to_journal);
        runtime::timer_began(Instant::now());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // A hangup would end the process; from here on it is a reload, after the start at the earliest.
        let hangup = {
            let _runtime = runtime.enter();
            signal(SignalKind::hangup())?
        };
        let loaded = config::load(path)?;
        for problem in &loaded.warnings {
            warn!(event = "config.warning", %problem, "configuration warning");
        }
        let beginning = Beginning {
            file: path.to_owned(),
            settings: Arc::new(loaded.settings),
            passed_credentials: service.credentials,
            levels,
        };
        let done = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let asked = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            Ok::<_, io::Error>(app::run(beginning, hangup, asked).await)
        })?;
        // Blocking work that was abandoned at the end of the grace period is not waited for.
        runtime.shutdown_background();
        match done {
            Ok(Ended::Asked) => Ok(Exit::Ok),
            Ok(Ended::ToRestart) => Ok(Exit::Restart),
            Err(error) => {
                let exit = exit_of(&error);
                if exit == Exit::Config
                    && let Ok(loaded) = config::load(path)
                    && let refused = app::rehearse(path, &loaded.settings)
                    && !refused.is_empty()
                {
                    // The same, with its place in the file.
                    return Err(ConfigError::Invalid(refused).into());
                }
                Err(error).or_exit(exit)
            }
        }
    }
}

/// The code for systemd: whether a restart may help.
fn exit_of(error: &AppError) -> Exit {
    match error {
        AppError::Net(_) | AppError::Plan(_) => Exit::Config,
        AppError::TaskLost { .. } | AppError::GraceOver => Exit::Failed,
        // Another daemon has it.
        AppError::Control(BindError::Taken(_))
        | AppError::Queue(QueueError::Open { source: spool::Error::Locked { .. }, .. }) => {
            Exit::NoPermission
        }
        AppError::StateDir { .. }
        | AppError::Control(BindError::Io { .. })
        | AppError::Clock(_)
        | AppError::Queue(_)
            if is_about_permission(error) =>
        {
            Exit::NoPermission
        }
        AppError::StateDir { .. }
        | AppError::Control(BindError::Io { .. })
        | AppError::Clock(_)
        | AppError::Queue(_)
        | AppError::Watchdog(_) => Exit::Io,
    }
}

/// Whether at the root of it is a file that is not ours to open.
fn is_about_permission(error: &AppError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_of_another_user_keeps_systemd_from_trying_again() {
        let open = |kind: io::ErrorKind| {
            let source = spool::Error::Io { action: "open the lock", source: kind.into() };
            exit_of(&AppError::Queue(QueueError::Open { folder: "/q".into(), source }))
        };
        assert_eq!(open(io::ErrorKind::PermissionDenied), Exit::NoPermission);
        assert_eq!(open(io::ErrorKind::StorageFull), Exit::Io);
    }
}
