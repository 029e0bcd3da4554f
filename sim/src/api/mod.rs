//! Which path does what, and who may: the routes of SolarUser and SolarQuery, with the server's order of
//! firewall, token filter, rate limit, role and handler.

mod aggregate;
mod import;
pub(crate) mod instruction;
mod query;
mod token;

pub(crate) use instruction::parameters;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::answer::{Answer, Refusal};
use crate::auth::Rejection;
use crate::misbehave::Act;
use crate::policy::Policy;
use crate::rate::Verdict;
use crate::request::Incoming;
use crate::world::World;
use crate::world::token::TokenKind;

/// An authenticated request on its way to a handler.
struct Call<'a> {
    request: &'a Incoming,
    parameters: Vec<(String, String)>,
    caller: Caller,
    now: DateTime<Utc>,
    act: Option<&'a Act>,
}

/// Who calls.
struct Caller {
    token: String,
    user: i64,
    kind: TokenKind,
    policy: Option<Policy>,
    roles: BTreeSet<String>,
}

impl Call<'_> {
    /// The first value of a parameter.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str())
    }

    fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.parameter(name).ok_or_else(|| {
            Refusal::invalid(format!("Required request parameter '{name}' is not present"))
        })
    }

    /// All values of any of the names, each split at commas.
    fn list(&self, names: &[&str]) -> Vec<&str> {
        let named = self.parameters.iter().filter(|pair| names.contains(&pair.0.as_str()));
        named.flat_map(|pair| pair.1.split(',')).filter(|text| !text.is_empty()).collect()
    }

    fn ids(&self, names: &[&str]) -> Result<Vec<i64>, Refusal> {
        let id = |text: &str| {
            text.trim().parse().map_err(|_| {
                Refusal::illegal_argument(format!("{} is not an ID: {text}", names[0]))
            })
        };
        self.list(names).into_iter().map(id).collect()
    }

    /// The body as JSON.
    fn json(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(&self.request.body).map_err(Refusal::malformed_json)
    }
}

impl World {
    /// Answers a request to SolarUser or SolarQuery. `act` is what is to be spoilt on the way.
    pub(crate) fn answer(&mut self, request: &Incoming, act: Option<&Act>) -> Answer {
        self.advance();
        if let Some(reason) = request.malformed() {
            let body = json!({ "success": false, "message": reason });
            return Answer::json(400, &body);
        }
        let now = self.clock.now();
        let token = match self.authenticate(request, now) {
            Ok(token) => token,
            Err(rejection) => return rejection.into(),
        };
        let mut remaining = None;
        if request.path().strip_prefix(request.context()).is_some_and(|p| p.starts_with("/api/")) {
            match self.spend(request, token.as_deref(), now) {
                Ok(left) => remaining = left,
                Err(answer) => return answer,
            }
        }
        let answer = match self.route(request, token, now, act) {
            Ok(answer) => answer,
            Err(Stop::Anonymous) => Rejection::unauthenticated().into(),
            Err(Stop::Refused(refusal)) => refusal.into(),
        };
        match remaining {
            Some(left) => answer.with_header("x-sn-rate-limit-remaining", left),
            None => answer,
        }
    }

    /// Takes from the bucket of (token, application); gives what is left, where there is a limit at all.
    fn spend(
        &mut self,
        request: &Incoming,
        token: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Option<u32>, Answer> {
        let Some(limit) = self.rate_limit else { return Ok(None) };
        let key = format!("{} {}", request.context(), token.unwrap_or("anonymous"));
        match self.buckets.take(limit, &key, now) {
            Verdict::Allowed { remaining } => Ok(Some(remaining)),
            Verdict::Refused { retry_at } => Err(Answer::from(Refusal::too_many())
                .with_header("x-sn-rate-limit-retry-after", retry_at.timestamp_millis())),
        }
    }

    fn route(
        &mut self,
        request: &Incoming,
        token: Option<String>,
        now: DateTime<Utc>,
        act: Option<&Act>,
    ) -> Result<Answer, Stop> {
        let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
        if method == "OPTIONS" {
            return Ok(Answer::text(200, "text/plain", ""));
        }
        let context = request.context();
        let inside = request.path().strip_prefix(context).unwrap_or_default();
        if method == "GET" && inside == "/ping" {
            return Ok(Answer::data(json!({ "allGood": true })));
        }
        if !matches!(context, "/solaruser" | "/solarquery") {
            return Err(Refusal::not_found().into());
        }
        if method == "GET" && inside == "/api/v1/pub/config" {
            return Ok(self.address_book());
        }
        if context == "/solaruser"
            && let Some(answer) = self.associate(method, inside, request)
        {
            return answer.map_err(Stop::Refused);
        }
        let caller = token.and_then(|id| self.caller(id)).ok_or(Stop::Anonymous)?;
        let Some(path) = inside.strip_prefix("/api/v1/sec") else {
            return Err(Refusal::not_found().into());
        };
        let role = match (context, method) {
            ("/solaruser", _) if path.starts_with("/user/import/") => "ROLE_IMPORT",
            ("/solarquery", "GET") if caller.kind == TokenKind::ReadNodeData => "ROLE_READNODEDATA",
            _ => "ROLE_USER",
        };
        if !caller.roles.contains(role) {
            return Err(Refusal::role_missing().into());
        }
        let parameters = request.parameters();
        let call = Call { request, parameters, caller, now, act };
        let answer = match (context, path) {
            (_, "/whoami") if method == "GET" => Ok(whoami(&call)),
            ("/solarquery", path) => self.query(method, path, &call),
            (_, path) => match path.strip_prefix("/user/auth-tokens") {
                Some(rest) => self.token_call(method, rest, &call),
                None => match (path.strip_prefix("/user/import"), path.strip_prefix("/instr")) {
                    (Some(rest), _) => self.import_call(method, rest, &call),
                    (_, Some(rest)) => self.instruction_call(method, rest, &call),
                    _ => Err(Refusal::not_found()),
                },
            },
        };
        answer.map_err(Stop::Refused)
    }

    fn caller(&self, id: String) -> Option<Caller> {
        let token = self.tokens.get(&id)?;
        let user = self.users.get(&token.user)?;
        Some(Caller {
            user: token.user,
            kind: token.kind,
            policy: token.policy.clone(),
            roles: token.roles(&user.roles),
            token: id,
        })
    }

    /// The checks of a call that names one node.
    fn check_node(&self, caller: &Caller, node: i64) -> Result<(), Refusal> {
        let known = self.nodes.get(&node).ok_or_else(Refusal::unknown_object)?;
        if known.archived && caller.kind == TokenKind::ReadNodeData {
            return Err(Refusal::unknown_object());
        }
        let listed = caller.policy.as_ref().is_none_or(|policy| policy.allows_node(node));
        if known.user == caller.user && listed { Ok(()) } else { Err(Refusal::access_denied()) }
    }
}

/// Why a request ends before or in its handler.
enum Stop {
    Anonymous,
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn whoami(call: &Call<'_>) -> Answer {
    Answer::data(json!({
        "userId": call.caller.user,
        "token": call.caller.token,
        "tokenType": call.caller.kind.name(),
    }))
}
