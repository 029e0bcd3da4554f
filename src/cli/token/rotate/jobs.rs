//! The import jobs that may have been begun with the old token. The server does not tell with which one
//! a job was begun, so all that are under way when the daemon has gone over are waited for.

use std::time::Instant;

use super::{LOOK_EVERY, Run};
use crate::{
    cli::{Exit, Failure},
    refresh::RefreshCalls,
    solarnet::{CallAs, Next},
    upload::import::{batch, http},
};

impl<C: CallAs + RefreshCalls> Run<'_, '_, C> {
    /// Waits until the jobs that are under way now are over. Later ones are the successor's.
    pub(super) async fn drain(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + self.patience();
        let mut first: Option<Vec<String>> = None;
        loop {
            let open = self.open_jobs().await?;
            let mut waited_for = first.clone().unwrap_or_else(|| open.clone());
            waited_for.retain(|job| open.contains(job));
            let old = &self.old()?.id;
            if waited_for.is_empty() {
                if first.is_some() {
                    let said = format!("the import jobs begun with {old} are over");
                    self.say(&said)?;
                }
                self.seen.done.drained = true;
                return Ok(());
            }
            if first.is_none() {
                let said = format!(
                    "waiting for {} import job(s): they may have been begun with {old}, under whose \
                     policy they are carried out",
                    waited_for.len()
                );
                self.say(&said)?;
                first = Some(waited_for);
            } else if Instant::now() >= until {
                return Err(Failure::new(
                    Exit::Unavailable,
                    "the import jobs do not come to an end; the old token stays enabled until they do",
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// This node's import jobs that the server has not finished.
    async fn open_jobs(&mut self) -> Result<Vec<String>, Failure> {
        let Some(needs) = &self.context.needs else { return Ok(Vec::new()) };
        let group = batch::group(needs.node, 0);
        let credential = self.stored_now()?;
        match self.calls.call_as(&credential, http::list()).await {
            Ok(answer) => Ok(http::open_jobs(&answer.data, &group)),
            Err(error) if matches!(error.next(), Next::Retry { .. }) => {
                Err(Failure { exit: Exit::Unavailable, error: error.into() })
            }
            // Whoever may not list jobs cannot begin one either.
            Err(_) => Ok(Vec::new()),
        }
    }
}
