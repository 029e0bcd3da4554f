//! What an instruction asks of the node itself, done and recorded.
//!
//! The order is that of a write (see [`super::step`]): `Executing` on disk, then told, then done. Two
//! requests end the life in which they are carried out, so how they end is settled differently:
//!
//! * `SystemRestart` is `Completed` on disk and told before the agent ends. Where the agent died between
//!   `Executing` and `Completed`, it did start again, and that is what is said after the start.
//! * `SystemReboot` stays `Executing` until the machine is up again: another boot ID in the journal shows
//!   that it happened. The same boot ID after a restart of the agent shows nothing: it may have happened,
//!   or happen yet.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    outcome::{Code, readable},
    record::Record,
    server::Server,
    services::{Life, Services},
    state::Event,
    task::{ACT_LIMIT, Actuator, Results, Time, Trouble, Worker},
    topic::Request,
};
use crate::{
    domain::{InstructionId, NodeTopic, SourceId},
    pulse::Bound,
};

/// How long the machine may take to stop the agent, once its restart was taken over.
const REBOOT_LIMIT: Duration = ACT_LIMIT;

impl<S: Server, A: Actuator, R: Results, T: Time, V: Services> Worker<S, A, R, T, V> {
    /// Does what is asked and brings the outcome to the server.
    pub(super) async fn serve(
        &mut self,
        id: InstructionId,
        request: Request,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let life = match request {
            Request::Restart => Some(self.services.life(Life::Agent)),
            Request::Reboot => Some(self.services.life(Life::Machine)),
            Request::LogLevel { .. } | Request::Controls(_) | Request::Install(_) => None,
        };
        let Some(mut record) = self.begin(id, now, |record| record.life = life).await? else {
            return Ok(());
        };
        let done = match request {
            Request::LogLevel { loggers, level } => self.services.log_level(&loggers, level),
            Request::Controls(ids) => {
                record.result = Some(ids.iter().map(SourceId::as_str).collect::<Value>());
                Ok(format!("{} controls", ids.len()))
            }
            Request::Install(certificate) => match self.install(certificate).await {
                Some(installed) => installed,
                None => {
                    let secs = ACT_LIMIT.as_secs();
                    let message = format!(
                        "no result within {secs} s: it is still being proved, and used if that goes well"
                    );
                    let code = Some(Code::MayHaveHappened);
                    return self.finish(record, Event::Interrupt, code, message, now).await;
                }
            },
            Request::Restart => Ok("the agent starts again".to_owned()),
            Request::Reboot => match self.reboot().await? {
                Ok(()) => {
                    let secs = REBOOT_LIMIT.as_secs();
                    let message =
                        format!("systemd took it over and has not stopped the agent in {secs} s");
                    let code = Some(Code::MayHaveHappened);
                    return self.finish(record, Event::Interrupt, code, message, now).await;
                }
                Err(reason) => Err(reason),
            },
        };
        let restarts = record.topic == NodeTopic::SystemRestart.name();
        let (event, code, message) = match done {
            Ok(message) => (Event::Succeed, None, message),
            Err(reason) => (Event::Fail, Some(Code::Failed), reason),
        };
        let finished = self.finish(record, event, code, readable(&message), now).await;
        if restarts {
            // What could not be told is told after the start.
            self.services.restart();
        }
        finished
    }

    /// `None` if the keeper of the certificate is still at it. It goes on without us.
    async fn install(&self, certificate: String) -> Option<Result<String, String>> {
        let _installing = self.pulse.enter("installing a certificate", Bound::Within(ACT_LIMIT));
        timeout(ACT_LIMIT, self.services.install_certificate(certificate)).await.ok()
    }

    /// Waits for the end that a restart of the machine is for the agent.
    ///
    /// `Ok(Ok(()))` if it does not come. The error is that it came; the journal says `Executing` then.
    async fn reboot(&self) -> Result<Result<(), String>, Trouble> {
        let _asking = self.pulse.enter("asking for a reboot", Bound::Within(ACT_LIMIT));
        if let Err(reason) = self.services.reboot().await {
            return Ok(Err(reason));
        }
        let _waiting = self.pulse.enter("waiting to be rebooted", Bound::Within(REBOOT_LIMIT));
        match timeout(REBOOT_LIMIT, self.stop.cancelled()).await {
            Ok(()) => Err(Trouble::Stopping),
            Err(_) => Ok(Ok(())),
        }
    }

    /// Whether what was being carried out in another life was the restart that ended it.
    pub(super) fn restarted(&self, record: &Record) -> Option<String> {
        let life = record.life.as_ref()?;
        let (of, what) = match NodeTopic::from_name(&record.topic)? {
            NodeTopic::SystemRestart => (Life::Agent, "the agent"),
            NodeTopic::SystemReboot => (Life::Machine, "the machine"),
            NodeTopic::LoggingSetLevel
            | NodeTopic::SystemConfiguration
            | NodeTopic::RenewCertificate => return None,
        };
        (*life != self.services.life(of)).then(|| format!("{what} has started again since"))
    }
}
