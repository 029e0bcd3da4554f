//! The world as a node with a certificate meets it: SolarIn, the broker, and what is asked of the node itself.

use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use tracing::level_filters::LevelFilter;

use super::world::{Reboot, Via, World};
use crate::{
    domain::{InstructionId, InstructionState},
    instruct::{
        Life, Services,
        server::{Broker, Exchange, Heard, ServerError},
    },
    solarin::{Acknowledgement, cbor},
    solarnet::CallError,
};

/// How long an instruction is being pushed until it is offered over HTTPS instead.
const ABANDONED: TimeDelta = TimeDelta::seconds(30);

impl World {
    /// Pushes an instruction as it is, if the agent is connected to the broker.
    pub(super) fn push(&self, id: i64) {
        let mut inner = self.lock();
        if inner.via == Via::Token || !inner.broker_up {
            return;
        }
        let Some(instruction) = inner.instructions.get_mut(&id) else { return };
        if instruction["state"] == "Queued" {
            instruction["state"] = json!("Queuing");
        }
        let mut pushed = instruction.clone();
        // What is pushed says so, whatever became of the row meanwhile.
        pushed["state"] = json!("Queuing");
        if let Some(push) = &inner.push {
            // A full inbox or a dead agent takes nothing.
            drop(push.try_send((Instant::now(), json!({ "instructions": [pushed] }))));
        }
    }

    /// What the server does by itself, before it answers over HTTPS.
    fn server_jobs(&self) {
        let now = self.now();
        let mut inner = self.lock();
        let added = inner.added.clone();
        for (id, instruction) in &mut inner.instructions {
            let expiry = instruction["expirationDate"].as_str().map(|t| t.parse());
            let over = expiry.is_some_and(|at: Result<chrono::DateTime<chrono::Utc>, _>| {
                at.expect("a date") <= now
            });
            let state = instruction["state"].as_str().and_then(InstructionState::from_name);
            if over && !state.is_some_and(InstructionState::is_final) {
                instruction["state"] = json!("Declined");
            } else if state == Some(InstructionState::Queuing)
                && added.get(id).is_some_and(|at| now - *at >= ABANDONED)
            {
                instruction["state"] = json!("Queued");
            }
        }
    }

    /// Writes what was acknowledged. Over HTTPS a state that is there already is ignored, results included.
    fn acknowledged(
        &self,
        id: i64,
        state: &str,
        result: Option<Map<String, Value>>,
        over_https: bool,
    ) {
        let mut inner = self.lock();
        let Some(told) = inner.instructions.get_mut(&id) else { return };
        if over_https && told["state"] == state {
            return;
        }
        told["state"] = json!(state);
        inner.log.push(format!("{id} {state}"));
        match result {
            Some(result) if over_https => inner.results.entry(id).or_default().extend(result),
            Some(result) => drop(inner.results.insert(id, result)),
            None if over_https => {}
            None => drop(inner.results.remove(&id)),
        }
    }
}

impl Exchange for World {
    async fn exchange(&self, word: Option<&Acknowledgement>) -> Result<Heard, ServerError> {
        let latency = self.lock().latency;
        self.pass().await;
        sleep(latency).await;
        let failure = self.lock().failures.pop_front().flatten();
        if let Some(cause) = failure {
            let path = "/solarin/bulkCollector.do".to_owned();
            let error = CallError { method: "POST", path, cause, refusal: None, detail: None };
            return Err(error.into());
        }
        let unnamed = self.lock().unnamed;
        let word = word.filter(|word| Some(word.id.0) != unnamed);
        if let Some(word) = word {
            self.acknowledged(word.id.0, word.state.name(), word.result.clone(), true);
        }
        self.server_jobs();
        let waits = |instruction: &&Value| instruction["state"] == "Queued";
        let instructions: Value =
            self.lock().instructions.values().filter(waits).cloned().collect();
        self.pass().await;
        sleep(latency).await;
        let push = self.lock().push.clone();
        if let Some(push) = push {
            // As from any exchange; a full inbox takes nothing.
            drop(push.try_send((Instant::now(), instructions.clone())));
        }
        Ok(Heard { taken: word.is_some(), instructions })
    }

    async fn hush(&self, _: InstructionId) {}
}

impl Broker for World {
    async fn publish(&self, message: Bytes) -> Result<(), String> {
        self.pass().await;
        if !self.lock().broker_up {
            return Err("not connected".to_owned());
        }
        let word = cbor::decode(&message).expect("CBOR");
        if self.lock().cuts_ends && word.get("resultParameters").is_some() {
            self.lock().cuts += 1;
            return Err("the connection was lost".to_owned());
        }
        self.lock().at_broker.push(message);
        self.collect();
        self.pass().await;
        Ok(())
    }

    fn is_used(&self) -> bool {
        true
    }

    fn is_connected(&self) -> bool {
        self.lock().broker_up
    }
}

impl World {
    /// Whether the server's collector runs; when it comes back it takes what the broker kept for it.
    pub(super) fn collector(&self, up: bool) {
        self.lock().collector_up = up;
        self.collect();
    }

    fn collect(&self) {
        if self.lock().collector_up {
            let waiting = std::mem::take(&mut self.lock().at_broker);
            waiting.iter().for_each(|message| self.collected(message));
        }
    }

    fn collected(&self, message: &[u8]) {
        let word = cbor::decode(message).expect("CBOR");
        let id = word["instructionId"].as_i64().expect("an ID");
        let state = word["state"].as_str().expect("a state").to_owned();
        assert!(InstructionState::from_name(&state).is_some(), "{state}");
        let row = {
            let inner = self.lock();
            let since = inner.added.get(&id).map(|at| (self.now() - *at).to_std());
            since.is_none_or(|since| since.is_ok_and(|since| since >= inner.invisible))
        };
        if row {
            let result = word.get("resultParameters").and_then(Value::as_object).cloned();
            self.acknowledged(id, &state, result, false);
        }
    }
}

impl Services for World {
    fn life(&self, of: Life) -> String {
        let inner = self.lock();
        match of {
            Life::Agent => inner.lives.to_string(),
            Life::Machine => inner.boots.to_string(),
        }
    }

    fn restart(&self) {
        self.lock().done.push("restart".to_owned());
        self.crashed.notify_one();
    }

    async fn reboot(&self) -> Result<(), String> {
        self.pass().await;
        self.lock().done.push("reboot".to_owned());
        let reboot = self.lock().reboot;
        match reboot {
            Reboot::NotTaken => {
                sleep(Duration::from_secs(10)).await;
                return Err("nobody took it".to_owned());
            }
            Reboot::NeverComes => {}
            Reboot::Comes => {
                self.lock().boots += 1;
                self.crashed.notify_one();
            }
        }
        self.pass().await;
        Ok(())
    }

    fn log_level(&self, loggers: &[String], level: Option<LevelFilter>) -> Result<String, String> {
        if loggers.iter().any(|logger| logger == "nonsense") {
            return Err("no module `nonsense`".to_owned());
        }
        let said = format!("{}: {level:?}", loggers.join(","));
        self.lock().done.push(said.clone());
        Ok(said)
    }

    async fn install_certificate(&self, certificate: String) -> Result<String, String> {
        self.pass().await;
        self.lock().done.push(format!("install {certificate}"));
        if certificate.contains("slow") {
            sleep(Duration::from_secs(70)).await;
        }
        self.pass().await;
        if certificate.contains("bad") {
            Err("no certificate".to_owned())
        } else {
            Ok("it".to_owned())
        }
    }
}
