//! A task that can be stopped and started again without the others.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::AppError;
use crate::{domain::Chain, pulse::Pulse};

type Ended = Result<Result<(), String>, JoinError>;

/// A running task and its stop.
#[derive(Debug)]
pub(super) struct Task {
    name: String,
    stop: CancellationToken,
    /// `None` once its end was heard.
    running: Option<JoinHandle<Result<(), String>>>,
}

impl Task {
    /// Starts `work`, which ends when `stop` is cancelled. It is called as its pulse is.
    pub(super) fn spawn<E: Error>(
        pulse: &Pulse,
        stop: CancellationToken,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        // In a box of its own first: each future around another one takes the room of that again.
        let work = pulse.watched(work);
        let work = async move { work.await.map_err(|error| Chain(&error).to_string()) };
        let name = pulse.sample().task;
        Self { name, stop, running: Some(tokio::spawn(work)) }
    }

    /// As [`Task::spawn`], for work that cannot fail.
    pub(super) fn spawn_sure(
        pulse: &Pulse,
        stop: CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let work = Box::pin(work);
        let work = async move {
            work.await;
            Ok::<(), std::convert::Infallible>(())
        };
        Self::spawn(pulse, stop, work)
    }

    /// Asks it to stop, without waiting.
    pub(super) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Asks it to stop and waits until it has. Given up meanwhile, it may be called again.
    pub(super) async fn finish(&mut self) {
        self.ask_to_stop();
        let Some(running) = &mut self.running else { return };
        let ended: Ended = running.await;
        self.running = None;
        let task = &self.name;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => warn!(task, reason, "task stopped with an error"),
            Err(panic) => error!(task, %panic, "task panicked while stopping"),
        }
    }

    /// Ready when the task ended, which says why. Only once; afterwards never.
    pub(super) fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<AppError> {
        let Some(running) = &mut self.running else { return Poll::Pending };
        let ended: Ended = ready!(Pin::new(running).poll(context));
        self.running = None;
        let reason = match ended {
            Ok(Ok(())) => "without an error".to_owned(),
            Ok(Err(reason)) => reason,
            Err(panic) => panic.to_string(),
        };
        Poll::Ready(AppError::TaskLost { task: self.name.clone(), reason })
    }
}

/// Stops tasks, all at once, and waits for each.
pub(super) async fn finish_all<'a>(tasks: impl IntoIterator<Item = &'a mut Task>) {
    let tasks: Vec<&mut Task> = tasks.into_iter().collect();
    tasks.iter().for_each(|task| task.ask_to_stop());
    for task in tasks {
        task.finish().await;
    }
}
