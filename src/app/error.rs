//! Why the daemon did not start, or did not go on.

use std::{io, path::PathBuf};

use super::GRACE;
use crate::{
    clock::ClockError, modbus::PlanError, net::NetError, observe::control::BindError,
    queue::QueueError,
};

/// Why the daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder cannot be made.
    #[error("could not make the state folder {} (`state_dir`)", path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] BindError),
    /// The clock's file or the boot ID cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The HTTPS client cannot be made.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The queue cannot be opened, or could not commit when stopping.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A unit cannot be read as configured.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The watchdog's thread could not be started.
    #[error("could not start the watchdog's thread")]
    Watchdog(#[source] io::Error),
    /// A task ended although nobody asked it to.
    #[error("the task `{task}` ended on its own: {reason}")]
    TaskLost {
        /// Which.
        task: String,
        /// Why.
        reason: String,
    },
    /// Not every task finished in time.
    #[error("not everything was finished within {} s of being asked to stop", GRACE.as_secs())]
    GraceOver,
}
