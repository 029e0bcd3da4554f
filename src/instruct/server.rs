//! The three calls that instructions need: `viewPending`, `view` and `updateState`.
//!
//! Parameters go into the query, where every token policy and signature vector has them; there are
//! no bodies.

use super::parse::{self, Parsed, Skipped};
use crate::{
    domain::{Instruction, InstructionId, InstructionState, NodeId},
    solarnet::{Answer, Application, Call, CallError, Caller, Method, Next, Priority},
};

const BASE: &str = "/api/v1/sec/instr";

/// The calls below as a token's policy spells them in `apiPaths`.
pub const API_PATHS: [&str; 3] = ["/instr/viewPending", "/instr/view", "/instr/updateState"];

/// What the server says of one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Viewed {
    There(Instruction),
    /// The server does not have it any more.
    Gone,
    /// There is an answer, and it makes no sense.
    Unreadable(Skipped),
}

/// SolarUser, as instructions see it.
#[derive(Debug)]
pub(super) struct Server<C> {
    pub(super) caller: C,
    pub(super) node: NodeId,
}

impl<C: Caller> Server<C> {
    /// What waits for this node: `Queued`, `Received`, `Executing`.
    pub(super) async fn pending(&self) -> Result<Parsed, CallError> {
        let node = ("nodeId", self.node.to_string());
        let answer = self.call(Method::Get, "/viewPending", [node]).await?;
        Ok(parse::instructions(&answer.data, self.node))
    }

    /// One instruction, in whatever state.
    pub(super) async fn view(&self, id: InstructionId) -> Result<Viewed, CallError> {
        let answer = match self.call(Method::Get, "/view", [("id", id.to_string())]).await {
            Err(error) if error.next() == Next::Gone => return Ok(Viewed::Gone),
            answer => answer?,
        };
        let Parsed { instructions, skipped } = parse::instructions(&answer.data, self.node);
        let found = instructions.into_iter().find(|instruction| instruction.id == id);
        Ok(match (found, skipped.into_iter().next()) {
            (Some(instruction), _) => Viewed::There(instruction),
            (None, Some(skipped)) => Viewed::Unreadable(skipped),
            (None, None) => Viewed::Gone,
        })
    }

    /// Writes a state. Returns whether the server still has the instruction.
    pub(super) async fn tell(
        &self,
        id: InstructionId,
        state: InstructionState,
    ) -> Result<bool, CallError> {
        let query = [("id", id.to_string()), ("state", state.name().to_owned())];
        match self.call(Method::Post, "/updateState", query).await {
            Ok(_) => Ok(true),
            Err(error) if error.next() == Next::Gone => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn call<const N: usize>(
        &self,
        method: Method,
        path: &str,
        query: [(&str, String); N],
    ) -> Result<Answer, CallError> {
        self.caller
            .call(Call {
                application: Application::User,
                priority: Priority::Urgent,
                method,
                path: format!("{BASE}{path}"),
                query: query.map(|(name, value)| (name.to_owned(), value)).to_vec(),
                body: None,
            })
            .await
    }
}
