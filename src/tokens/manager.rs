//! Whoever manages tokens: a credential that exists for one command, and what it does.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::calls::{self, Token};
use crate::{
    credential::{Credential, TokenSecret},
    domain::{TokenId, TokenKind},
    policy::{
        Policy, Refused, Request,
        difference::{Difference, difference, shown},
    },
    solarnet::{Answer, Call, CallAs, CallError, Cause},
};

/// Why something was not done to a token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The server did not do it, or nobody knows.
    #[error("could not {doing} as {manager}{} ({})", hint(error), error.what_happened())]
    Call {
        /// What was attempted.
        doing: &'static str,
        /// Whose credential it was.
        manager: TokenId,
        /// What came back. Not its source: the remedies it has are for the device's own token.
        error: CallError,
    },
    /// The manager's own policy forbids it.
    #[error(
        "the token {manager} cannot manage tokens: {refused}, and a restricted token sees only itself"
    )]
    Restricted {
        /// Whose credential it is.
        manager: TokenId,
        /// What restricts it.
        refused: Refused,
    },
    /// There is no such token in the account.
    #[error("SolarNetwork has no token {0} in the manager's account")]
    NoSuchToken(TokenId),
    /// An answer that says it was done and does not show how.
    #[error("could not {doing}: the answer is none of SolarUser's")]
    Unreadable {
        /// What was attempted.
        doing: &'static str,
    },
    /// The server keeps another policy than the one it was sent.
    #[error("SolarNetwork keeps another policy for {id} than it was sent: {}", listed(differences))]
    OtherPolicy {
        /// The token.
        id: TokenId,
        /// What differs, from what was sent to what is kept.
        differences: Vec<Difference>,
    },
}

/// What else a person could know about a refusal.
fn hint(error: &CallError) -> &'static str {
    match error.cause {
        Cause::BadCredentials => {
            ": the manager's token or secret was refused: SolarNetwork does not know this token (any more), it is disabled, or the secret given is another one's"
        }
        Cause::TokenExpired => ": its policy has run out",
        Cause::PathDenied => {
            ": its policy has API paths, and a token with such a policy manages no tokens"
        }
        Cause::RoleMissing => ": it is a Data token; tokens are managed with a User token",
        Cause::AccessDenied => {
            ": its policy restricts it, or the token, or a node of the policy, is of another account"
        }
        Cause::UnknownObject => ": there is no such token, or no such node as the policy names",
        _ => "",
    }
}

fn listed(differences: &[Difference]) -> String {
    let one = |difference: &Difference| {
        let Difference { member, before, after, .. } = difference;
        let (sent, kept) = (shown(*member, before.as_ref()), shown(*member, after.as_ref()));
        format!("`{}` was sent as {sent} and is {kept}", member.name())
    };
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The manager: a User token whose policy restricts nothing but its own life.
#[derive(Debug)]
pub struct Manager<'a, C> {
    calls: &'a C,
    id: TokenId,
    secret: TokenSecret,
}

/// The account's tokens, as the manager may see them.
#[derive(Debug, Clone)]
pub struct Listing {
    /// By date of creation.
    pub tokens: Vec<Token>,
    manager: TokenId,
}

impl Listing {
    /// What keeps the manager from managing, if anything does.
    #[must_use]
    pub fn restriction(&self) -> Option<Refused> {
        let own = self.tokens.iter().find(|token| token.id == self.manager)?;
        own.policy.refuses(Request::ManageTokens)
    }

    /// The token of that ID.
    ///
    /// # Errors
    ///
    /// If there is none, or the manager may not manage.
    pub fn token(&self, id: &TokenId) -> Result<&Token, TokensError> {
        self.may_manage()?;
        let found = self.tokens.iter().find(|token| token.id == *id);
        found.ok_or_else(|| TokensError::NoSuchToken(id.clone()))
    }

    /// Fails where the server would refuse every change.
    ///
    /// # Errors
    ///
    /// If the manager's policy restricts it.
    pub fn may_manage(&self) -> Result<(), TokensError> {
        let manager = self.manager.clone();
        self.restriction()
            .map_or(Ok(()), |refused| Err(TokensError::Restricted { manager, refused }))
    }
}

impl<'a, C: CallAs> Manager<'a, C> {
    /// Acts with this credential. Nothing is asked yet.
    #[must_use]
    pub fn new(calls: &'a C, id: TokenId, secret: TokenSecret) -> Self {
        Self { calls, id, secret }
    }

    /// Whose credential it is.
    #[must_use]
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The server's time as far as it is known.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.calls.server_time()
    }

    /// All tokens of the account; only the manager itself where it is restricted.
    ///
    /// Not the call that finds one: its answers may be a quarter of an hour old.
    ///
    /// # Errors
    ///
    /// If there is no list in answer.
    pub async fn list(&self) -> Result<Listing, TokensError> {
        const DOING: &str = "list the tokens";
        let data = self.call(DOING, calls::list()).await?;
        let tokens = calls::tokens(&data).ok_or(TokensError::Unreadable { doing: DOING })?;
        Ok(Listing { tokens, manager: self.id.clone() })
    }

    /// Issues a token. Without an answer nobody knows whether there is a new one; see
    /// [`super::issue`].
    ///
    /// # Errors
    ///
    /// If there is no token in answer.
    pub async fn create(
        &self,
        kind: TokenKind,
        policy: &Policy,
    ) -> Result<(Token, TokenSecret), TokensError> {
        const DOING: &str = "create the token";
        let data = self.call(DOING, calls::create(kind, policy)).await?;
        calls::created(data).ok_or(TokensError::Unreadable { doing: DOING })
    }

    /// Writes name and description; one that is not given is cleared.
    ///
    /// # Errors
    ///
    /// If the server does not do it.
    pub async fn describe(
        &self,
        id: &TokenId,
        name: Option<&str>,
        description: Option<&str>,
    ) -> Result<(), TokensError> {
        self.call("name the token", calls::describe(id, name, description)).await.map(drop)
    }

    /// Adds `more` to a token's policy.
    ///
    /// # Errors
    ///
    /// If the server does not do it, or makes something else of it.
    pub async fn merge(&self, token: &Token, more: &Policy) -> Result<Token, TokensError> {
        let expected = token.policy.merged_with(more);
        self.change("add to the policy", calls::merge(&token.id, more), &expected).await
    }

    /// Puts `policy` in the place of a token's policy.
    ///
    /// # Errors
    ///
    /// If the server does not do it, or makes something else of it.
    pub async fn replace(&self, id: &TokenId, policy: &Policy) -> Result<Token, TokensError> {
        self.change("replace the policy", calls::replace(id, policy), policy).await
    }

    async fn change(
        &self,
        doing: &'static str,
        call: Call,
        expected: &Policy,
    ) -> Result<Token, TokensError> {
        let data = self.call(doing, call).await?;
        let token = calls::token(&data).ok_or(TokensError::Unreadable { doing })?;
        same_policy(&token, expected)?;
        Ok(token)
    }

    /// Enables or disables a token.
    ///
    /// # Errors
    ///
    /// If the server does not do it.
    pub async fn set_active(&self, id: &TokenId, active: bool) -> Result<(), TokensError> {
        let doing = if active { "enable the token" } else { "disable the token" };
        self.call(doing, calls::status(id, active)).await.map(drop)
    }

    /// Deletes a token for good.
    ///
    /// # Errors
    ///
    /// If the server does not do it.
    pub async fn delete(&self, id: &TokenId) -> Result<(), TokensError> {
        self.call("delete the token", calls::delete(id)).await.map(drop)
    }

    async fn call(&self, doing: &'static str, call: Call) -> Result<Value, TokensError> {
        let day = self.now().date_naive();
        let mut answer = self.calls.call_as(&self.credential(), call.clone()).await;
        let wrong_key = answer.as_ref().is_err_and(|error| error.cause == Cause::BadCredentials);
        // The answer taught the time: on a box without a clock that was the key of another day.
        if wrong_key && self.now().date_naive() != day {
            answer = self.calls.call_as(&self.credential(), call).await;
        }
        let manager = self.id.clone();
        let Answer { data } =
            answer.map_err(|error| TokensError::Call { doing, manager, error })?;
        Ok(data)
    }

    fn credential(&self) -> Credential {
        let today = self.now().date_naive();
        Credential::derive(self.id.clone(), self.secret.clone(), today, false)
    }
}

/// Compares what the server keeps with what it was sent.
///
/// # Errors
///
/// With every member that differs.
pub fn same_policy(token: &Token, sent: &Policy) -> Result<(), TokensError> {
    let differences = difference(sent, &token.policy);
    match differences.is_empty() {
        true => Ok(()),
        false => Err(TokensError::OtherPolicy { id: token.id.clone(), differences }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use serde_json::json;

    use super::*;
    use crate::{domain::TokenName, tokens::Issue, tokens::issue::Left};

    /// Answers every call with the next of these.
    struct Server(Mutex<Vec<Value>>);

    impl CallAs for Server {
        fn server_time(&self) -> DateTime<Utc> {
            DateTime::UNIX_EPOCH
        }

        async fn call_as(&self, _: &Credential, _: Call) -> Result<Answer, CallError> {
            let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Answer { data: answers.remove(0) })
        }
    }

    fn server(answers: &[Value]) -> Server {
        Server(Mutex::new(answers.to_vec()))
    }

    fn manager(server: &Server) -> Manager<'_, Server> {
        Manager::new(server, id("boss"), "hunter2".parse().expect("a secret"))
    }

    fn id(text: &str) -> TokenId {
        text.parse().expect("a token ID")
    }

    fn token(id: &str, policy: Value) -> Value {
        json!({"id": id, "status": "Active", "type": "User", "policy": policy})
    }

    #[tokio::test]
    async fn a_policy_that_comes_back_different_is_an_error_that_names_the_member() {
        let server =
            server(&[token("a", json!({"nodeIds": [1]})), token("a", json!({"nodeIds": [1]}))]);
        let sent = Policy { source_ids: vec!["/a".to_owned()], ..Policy::default() };
        let error = manager(&server).replace(&id("a"), &sent).await.expect_err("different");
        let text = error.to_string();
        assert!(text.contains("`sourceIds` was sent as /a and is any"), "{text}");
        assert!(text.contains("`nodeIds` was sent as any and is 1"), "{text}");

        // Added to what was there, the same answer is short of the source.
        let before = calls::token(&token("a", json!({"nodeIds": [1]}))).expect("a token");
        let error = manager(&server).merge(&before, &sent).await.expect_err("different");
        assert!(!error.to_string().contains("nodeIds"), "{error}");
    }

    #[tokio::test]
    async fn a_restricted_manager_is_told_before_anything_is_sent() {
        let server = server(&[json!([token("boss", json!({"nodeIds": [1], "notAfter": 5}))])]);
        let listing = manager(&server).list().await.expect("a list");
        let error = listing.token(&id("other")).expect_err("restricted");
        assert!(error.to_string().contains("`nodeIds`"), "{error}");
    }

    #[tokio::test]
    async fn what_an_interrupted_run_left_is_new_fits_and_has_no_other_name() {
        let policy = json!({"nodeIds": [1]});
        let named = |id: &str, name: &str| {
            let mut token = token(id, policy.clone());
            token["name"] = json!(name);
            token
        };
        let server = server(&[
            json!([token("boss", json!({})), token("old", policy.clone())]),
            json!([
                token("boss", json!({})),
                token("old", policy.clone()),
                token("wide", json!({})),
                named("theirs", "other"),
                token("lost", policy.clone()),
                named("mine", "site"),
            ]),
        ]);
        let manager = manager(&server);
        let before = manager.list().await.expect("a list");
        let wanted = Policy::read(&policy).expect("a policy");
        let record = Issue::new(TokenKind::User, &wanted, &before.tokens).to_bytes();
        let record = Issue::from_bytes(&record).expect("a record");
        let now = manager.list().await.expect("a list");
        let name: TokenName = "site".parse().expect("a name");
        let Left::Orphans(left) = record.left(&now, &name, None) else { panic!("orphans") };
        let ids: Vec<&str> = left.iter().map(|token| token.id.as_str()).collect();
        assert_eq!(ids, ["lost", "mine"]);
        let installed = record.left(&now, &name, Some(&id("mine")));
        assert!(matches!(installed, Left::Installed(token) if token.id == id("mine")));
        assert_eq!(record.left(&before, &name, None), Left::Nothing);
    }
}
