//! `/solaruser/api/v1/sec/user/auth-tokens`: the token management calls.

use serde_json::{Value, json};

use super::Call;
use crate::answer::{Answer, Refusal};
use crate::policy::Policy;
use crate::world::World;
use crate::world::token::{Token, TokenKind};

impl World {
    pub(super) fn token_call(
        &mut self,
        method: &str,
        path: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Refusal> {
        let restricted = call.caller.policy.as_ref().is_some_and(Policy::restricts);
        match (method, path) {
            ("GET", "" | "/") => {
                let found = self.visible_tokens(call, restricted, |_| true);
                Ok(Answer::data(found.into()))
            }
            ("GET", "/find") => Ok(Answer::data(self.find_tokens(call, restricted))),
            _ if restricted => Err(Refusal::access_denied()),
            ("POST", path) if path.starts_with("/generate/") => {
                let name = path.trim_start_matches("/generate/");
                let kind = TokenKind::named(name)
                    .ok_or_else(|| Refusal::illegal_argument(format!("No token type {name}")))?;
                self.generate_token(kind, call)
            }
            ("POST", "/info") => {
                let given = |name: &str| {
                    let text = call.parameter(name).filter(|text| !text.trim().is_empty());
                    text.map(str::to_owned)
                };
                let (name, description) = (given("name"), given("description"));
                for (text, column, limit) in
                    [(&name, "name", 128), (&description, "description", 512)]
                {
                    if text.as_ref().is_some_and(|text| text.chars().count() > limit) {
                        // What the server says of a text that its column cannot hold is not known.
                        return Err(Refusal::illegal_argument(format!("{column} is too long")));
                    }
                }
                let token = self.own_token(call)?;
                (token.name, token.description) = (name, description);
                Ok(Answer::success())
            }
            ("POST", "/status") => {
                let active = match call.required("status")? {
                    "Active" => true,
                    "Disabled" => false,
                    other => {
                        return Err(Refusal::illegal_argument(format!("No token status {other}")));
                    }
                };
                self.own_token(call)?.active = active;
                Ok(Answer::success())
            }
            ("PATCH" | "PUT", "/policy") => {
                let sent = sent_policy(call)?;
                let now = call.now;
                let token = self.own_token(call)?;
                token.policy = Some(match (&token.policy, method) {
                    (Some(policy), "PATCH") => policy.merged_with(&sent),
                    _ => sent,
                });
                Ok(Answer::data(token.to_json(now, false)))
            }
            ("DELETE", "" | "/") => {
                let id = call.required("tokenId")?;
                match self.tokens.get(id) {
                    Some(token) if token.user != call.caller.user => Err(Refusal::access_denied()),
                    _ => {
                        self.tokens.remove(id);
                        Ok(Answer::success())
                    }
                }
            }
            _ => Err(Refusal::not_found()),
        }
    }

    fn generate_token(&mut self, kind: TokenKind, call: &Call<'_>) -> Result<Answer, Refusal> {
        let policy = match call.request.signed_body().is_empty() {
            true => None,
            false => Some(sent_policy(call)?),
        };
        for node in policy.as_ref().and_then(Policy::listed_nodes).unwrap_or_default() {
            let known = self.nodes.get(&node).ok_or_else(Refusal::unknown_object)?;
            if known.user != call.caller.user {
                return Err(Refusal::access_denied());
            }
        }
        let token = Token::issue(call.caller.user, kind, policy, call.now);
        let shown = token.to_json(call.now, true);
        self.tokens.insert(token.id.clone(), token);
        Ok(Answer::data(shown))
    }

    /// The caller's tokens (only itself when restricted), by date of creation and ID.
    fn visible_tokens(
        &self,
        call: &Call<'_>,
        restricted: bool,
        fits: impl Fn(&Token) -> bool,
    ) -> Vec<Value> {
        let visible = |token: &&Token| {
            token.user == call.caller.user && (!restricted || token.id == call.caller.token)
        };
        let mut found: Vec<&Token> =
            self.tokens.values().filter(visible).filter(|token| fits(token)).collect();
        found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        found.into_iter().map(|token| token.to_json(call.now, false)).collect()
    }

    fn find_tokens(&self, call: &Call<'_>, restricted: bool) -> Value {
        let ids = call.list(&["identifier", "identifiers"]);
        let kinds: Vec<TokenKind> = call
            .list(&["tokenType", "tokenTypes"])
            .into_iter()
            .filter_map(TokenKind::named)
            .collect();
        let active = call.parameter("active").and_then(|text| text.parse::<bool>().ok());
        let mut found = self.visible_tokens(call, restricted, |token| {
            (ids.is_empty() || ids.contains(&token.id.as_str()))
                && (kinds.is_empty() || kinds.contains(&token.kind))
                && active.is_none_or(|active| token.active == active)
        });
        found.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
        let number = |name: &str| call.parameter(name).and_then(|text| text.parse::<usize>().ok());
        let offset = number("offset").unwrap_or(0);
        let shown: Vec<Value> =
            found.into_iter().skip(offset).take(number("max").unwrap_or(usize::MAX)).collect();
        json!({
            "startingOffset": offset,
            "returnedResultCount": shown.len(),
            "results": shown,
        })
    }

    fn own_token(&mut self, call: &Call<'_>) -> Result<&mut Token, Refusal> {
        let id = call.required("tokenId")?;
        let token = self.tokens.get_mut(id).ok_or_else(Refusal::unknown_object)?;
        if token.user == call.caller.user { Ok(token) } else { Err(Refusal::access_denied()) }
    }
}

/// The policy in the body. One of another type than JSON is refused rather than taken for no policy.
fn sent_policy(call: &Call<'_>) -> Result<Policy, Refusal> {
    if !call.request.is_json() {
        return Err(Refusal::invalid("The policy needs Content-Type application/json"));
    }
    Policy::read(&call.json()?).map_err(|_| Refusal::internal())
}
