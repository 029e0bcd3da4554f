//! The calls of SolarUser's token management, and what their answers say. Pure.
//!
//! Parameters go into the query, policies into JSON bodies.
//!
//! # Source
//!
//! SolarUser's `UserAuthTokenController`.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    credential::TokenSecret,
    domain::{TokenId, TokenKind},
    policy::{Member, Policy},
    solarnet::{Application, Body, Call, Method, Priority},
};

const BASE: &str = "/api/v1/sec/user/auth-tokens";

/// The most characters that a token's name may have.
pub const MAX_NAME_CHARS: usize = 128;
/// The most characters that a token's description may have.
pub const MAX_DESCRIPTION_CHARS: usize = 512;

/// A token as SolarUser shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public half.
    pub id: TokenId,
    /// When it was issued, if that could be read.
    pub created: Option<DateTime<Utc>>,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its description, if it has one.
    pub description: Option<String>,
    /// Whether it is `Active`; a disabled one behaves like one that is unknown.
    pub active: bool,
    /// Its type as the server spells it: there may be one that is not in [`TokenKind`].
    pub kind: String,
    /// What it is restricted to.
    pub policy: Policy,
    /// Members of its policy that this program does not know: a replacement would drop them.
    pub strange: Vec<String>,
    /// Whether its policy has run out.
    pub expired: bool,
}

/// Asks a token what it is: `data.tokenType`. Every kind may, where its policy has no API paths.
#[must_use]
pub fn who_am_i() -> Call {
    Call {
        application: Application::Query,
        priority: Priority::Urgent,
        method: Method::Get,
        path: "/api/v1/sec/whoami".to_owned(),
        query: Vec::new(),
        body: None,
    }
}

/// Lists all tokens of the account, or only the caller's own where its policy restricts it.
#[must_use]
pub fn list() -> Call {
    call(Method::Get, "", &[])
}

/// Issues a token.
#[must_use]
pub fn create(kind: TokenKind, policy: &Policy) -> Call {
    let call = call(Method::Post, &format!("/generate/{}", kind.name()), &[]);
    Call { body: (*policy != Policy::default()).then(|| body(policy)), ..call }
}

/// Writes name and description; one that is not given is cleared.
#[must_use]
pub fn describe(id: &TokenId, name: Option<&str>, description: Option<&str>) -> Call {
    let texts = [("name", name), ("description", description)];
    let given = texts.into_iter().filter_map(|(key, text)| Some((key, text?)));
    call(
        Method::Post,
        "/info",
        &[("tokenId", id.as_str())].into_iter().chain(given).collect::<Vec<_>>(),
    )
}

/// Adds to the policy; nothing is taken away.
#[must_use]
pub fn merge(id: &TokenId, policy: &Policy) -> Call {
    Call { body: Some(body(policy)), ..call(Method::Patch, "/policy", &[("tokenId", id.as_str())]) }
}

/// Puts this policy in the place of the one that is there.
#[must_use]
pub fn replace(id: &TokenId, policy: &Policy) -> Call {
    Call { body: Some(body(policy)), ..call(Method::Put, "/policy", &[("tokenId", id.as_str())]) }
}

/// Enables or disables.
#[must_use]
pub fn status(id: &TokenId, active: bool) -> Call {
    let status = if active { "Active" } else { "Disabled" };
    call(Method::Post, "/status", &[("tokenId", id.as_str()), ("status", status)])
}

/// Deletes. The server also says yes where there is no such token.
#[must_use]
pub fn delete(id: &TokenId) -> Call {
    call(Method::Delete, "", &[("tokenId", id.as_str())])
}

fn call(method: Method, path: &str, query: &[(&str, &str)]) -> Call {
    Call {
        application: Application::User,
        // A person waits for it.
        priority: Priority::Urgent,
        method,
        path: format!("{BASE}{path}"),
        query: query.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        body: None,
    }
}

fn body(policy: &Policy) -> Body {
    Body {
        content_type: "application/json".to_owned(),
        bytes: policy.to_json().to_string().into_bytes().into(),
    }
}

/// The tokens in the answer to [`list`]; `None` if it is no list. What has no ID is left out.
#[must_use]
pub fn tokens(data: &Value) -> Option<Vec<Token>> {
    Some(data.as_array()?.iter().filter_map(token).collect())
}

/// The token in an answer.
#[must_use]
pub fn token(data: &Value) -> Option<Token> {
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    // A newer server may write members that its older reader, and so ours, would stumble over.
    let members = data["policy"].as_object().cloned().unwrap_or_default();
    let (known, strange): (Map<String, Value>, Map<String, Value>) =
        members.into_iter().partition(|(name, _)| Member::named(name).is_some());
    Some(Token {
        id: data["id"].as_str()?.trim_end().parse().ok()?,
        created: data["created"].as_str().and_then(timestamp),
        name: text("name"),
        description: text("description"),
        active: data["status"] == "Active",
        kind: text("type").unwrap_or_default(),
        policy: Policy::read(&Value::Object(known)).ok()?,
        strange: strange.into_iter().map(|(name, _)| name).collect(),
        expired: data["expired"] == json!(true),
    })
}

/// The token and its secret in the answer to [`create`], the only one that ever has it.
#[must_use]
pub fn created(mut data: Value) -> Option<(Token, TokenSecret)> {
    let secret = match data.get_mut("authSecret").map(Value::take) {
        Some(Value::String(mut text)) => {
            let secret = TokenSecret::new(Zeroizing::new(text.clone())).ok();
            text.zeroize();
            secret
        }
        _ => None,
    };
    Some((token(&data)?, secret?))
}

/// `2025-06-15 08:09:10.123456Z`
fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    let text = text.strip_suffix('Z')?.replace('T', " ");
    NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|at| at.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TokenId {
        "K7.mP-x_29QwErTyUiOp".parse().expect("a token ID")
    }

    #[test]
    fn the_calls_are_those_of_the_api() {
        let policy = Policy { node_ids: vec![Some(101)], ..Policy::default() };
        let body = r#"{"nodeIds":[101]}"#;
        let token = "tokenId=K7.mP-x_29QwErTyUiOp";
        #[rustfmt::skip]
        let cases = [
            (list(),                                   "GET",    "",                       "",    None),
            (create(TokenKind::User, &policy),         "POST",   "/generate/User",         "",    Some(body)),
            (create(TokenKind::Data, &Policy::default()), "POST", "/generate/ReadNodeData", "",   None),
            (describe(&id(), Some("a"), None),         "POST",   "/info",                  "&name=a", None),
            (merge(&id(), &policy),                    "PATCH",  "/policy",                "",    Some(body)),
            (replace(&id(), &Policy::default()),       "PUT",    "/policy",                "",    Some("{}")),
            (status(&id(), false),                     "POST",   "/status",                "&status=Disabled", None),
            (delete(&id()),                            "DELETE", "",                       "",    None),
        ];
        for (call, method, path, query, body) in cases {
            assert_eq!(call.method.name(), method);
            assert_eq!(call.path, format!("/api/v1/sec/user/auth-tokens{path}"));
            let pairs: Vec<String> = call.query.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let given = pairs.join("&");
            assert!(given.is_empty() || given == format!("{token}{query}"), "{path}: {given}");
            let sent = call.body.as_ref().map(|body| body.bytes.as_ref());
            assert_eq!(sent, body.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn a_token_is_read_as_the_server_writes_it() {
        let shown = json!({
            "id": "K7.mP-x_29QwErTyUiOp", "created": "2025-06-15 08:09:10.123456Z", "userId": 123,
            "name": "Edge agent", "status": "Active", "type": "ReadNodeData",
            "policy": {"newMember": [1], "nodeIds": [101], "refreshAllowed": true}, "expired": false,
            "authSecret": "0a1B2c3D4e5F6g7H8i9J-kL.mN_oP3q",
        });
        let (token, secret) = created(shown).expect("a token");
        assert_eq!(secret, "0a1B2c3D4e5F6g7H8i9J-kL.mN_oP3q".parse().expect("a secret"));
        assert!(!format!("{token:?}{secret:?}").contains("0a1B"));
        assert_eq!(token.created.expect("a date").timestamp_micros(), 1_749_974_950_123_456);
        assert_eq!(
            (token.name.as_deref(), token.description.as_deref()),
            (Some("Edge agent"), None)
        );
        assert!(token.active && !token.expired);
        assert_eq!(token.kind, TokenKind::Data.name());
        assert_eq!(token.policy.node_ids, [Some(101)]);
        assert_eq!(token.strange, ["newMember"]);
    }

    #[test]
    fn answers_of_another_shape_are_no_tokens() {
        assert_eq!(tokens(&json!({"results": []})), None);
        assert_eq!(tokens(&json!([{}, 5, {"id": "a b"}])), Some(vec![]));
        assert!(created(json!({"id": "abc"})).is_none(), "without a secret it is of no use");
        assert_eq!(tokens(&json!([{"id": "abc"}])).expect("a list").len(), 1);
    }
}
