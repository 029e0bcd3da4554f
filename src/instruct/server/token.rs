//! SolarUser with a token: `viewPending`, `view` and `updateState`.
//!
//! Parameters go into the query, where every token policy and signature vector has them; there are
//! no bodies, so results cannot be told: the result datum has them.

use super::{
    super::parse::{self, Parsed},
    Server, ServerError, Told, Viewed, Way,
};
use crate::{
    domain::{InstructionId, InstructionState, NodeId},
    solarin::Acknowledgement,
    solarnet::{Answer, Application, Call, CallError, Caller, Method, Next, Priority},
};

const BASE: &str = "/api/v1/sec/instr";

/// The calls below as a token's policy spells them in `apiPaths`.
pub const API_PATHS: [&str; 3] = ["/instr/viewPending", "/instr/view", "/instr/updateState"];

/// SolarUser, with a token that signs.
#[derive(Debug)]
pub struct Token<C> {
    /// Signs and calls.
    pub caller: C,
    /// Whose instructions are asked for.
    pub node: NodeId,
}

impl<C: Caller> Server for Token<C> {
    async fn pending(&self) -> Result<Parsed, ServerError> {
        let node = ("nodeId", self.node.to_string());
        let answer = self.call(Method::Get, "/viewPending", [node]).await?;
        Ok(parse::instructions(&answer.data, self.node))
    }

    async fn view(&self, id: InstructionId) -> Result<Viewed, ServerError> {
        let answer = match self.call(Method::Get, "/view", [("id", id.to_string())]).await {
            Err(error) if error.next() == Next::Gone => return Ok(Viewed::Gone),
            answer => answer?,
        };
        Ok(Viewed::of(id, parse::instructions(&answer.data, self.node)))
    }

    async fn tell(&self, word: Acknowledgement) -> Result<Told, ServerError> {
        let query = [("id", word.id.to_string()), ("state", word.state.name().to_owned())];
        match self.call(Method::Post, "/updateState", query).await {
            Ok(_) => Ok(Told::Taken),
            Err(error) if error.next() == Next::Gone => Ok(Told::Gone),
            Err(error) => Err(error.into()),
        }
    }

    fn shows_acknowledged(&self) -> bool {
        true
    }

    fn is_connected(&self) -> bool {
        false
    }

    fn way(&self, _: InstructionState) -> Way {
        Way::Token
    }
}

impl<C: Caller> Token<C> {
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
