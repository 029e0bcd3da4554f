//! What the server answers: the common result envelope, and the refusals that handlers give.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::auth::Rejection;

/// One complete answer, before misbehaviour has its way with it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body: value.to_string().into(),
        }
    }

    pub(crate) fn text(status: u16, content_type: &'static str, body: &str) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.to_owned().into() }
    }

    /// `{"success":true}`
    pub(crate) fn success() -> Self {
        Self::json(200, &json!({ "success": true }))
    }

    /// `{"success":true,"data":…}`
    pub(crate) fn data(data: Value) -> Self {
        Self::json(200, &json!({ "success": true, "data": data }))
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// A call that was understood and is not carried out. Absent parts are left out of the envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: Option<&'static str>,
    pub(crate) message: Option<String>,
}

impl Refusal {
    fn forbidden(message: &str) -> Self {
        Self { status: 403, code: None, message: Some(message.to_owned()) }
    }

    /// Policy or ownership denies.
    pub(crate) fn access_denied() -> Self {
        Self::forbidden("ACCESS_DENIED")
    }

    /// No such object, or none that the caller may know of.
    pub(crate) fn unknown_object() -> Self {
        Self::forbidden("UNKNOWN_OBJECT")
    }

    /// Authenticated, but without the role that the path needs.
    pub(crate) fn role_missing() -> Self {
        Self::forbidden("Access Denied")
    }

    /// A value that cannot be used.
    pub(crate) fn illegal_argument(what: impl std::fmt::Display) -> Self {
        Self { status: 422, code: None, message: Some(format!("Illegal argument: {what}")) }
    }

    /// A body that cannot be read.
    pub(crate) fn malformed_json(what: impl std::fmt::Display) -> Self {
        Self { status: 422, code: None, message: Some(format!("Malformed JSON: {what}")) }
    }

    /// Something needed is missing, or of the wrong kind.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { status: 422, code: None, message: Some(message.into()) }
    }

    pub(crate) fn not_found() -> Self {
        Self { status: 404, code: None, message: Some("Not found".to_owned()) }
    }

    pub(crate) fn wrong_method(method: &str) -> Self {
        let message = format!("Request method '{method}' is not supported");
        Self { status: 405, code: None, message: Some(message) }
    }

    pub(crate) fn wrong_media_type() -> Self {
        let message = "Content-Type is not supported".to_owned();
        Self { status: 415, code: None, message: Some(message) }
    }

    /// The server fell over.
    pub(crate) fn internal() -> Self {
        Self { status: 500, code: None, message: Some("Internal error".to_owned()) }
    }

    /// The request rate limit.
    pub(crate) fn too_many() -> Self {
        Self { status: 429, code: Some("WEB.10000"), message: None }
    }

    /// Transient trouble with the database.
    pub(crate) fn transient() -> Self {
        Self { status: 429, code: Some("DAO.00202"), message: Some("Query timeout".to_owned()) }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let mut body = Map::new();
        body.insert("success".to_owned(), false.into());
        if let Some(code) = refusal.code {
            body.insert("code".to_owned(), code.into());
        }
        if let Some(message) = refusal.message {
            body.insert("message".to_owned(), message.into());
        }
        Self::json(refusal.status, &Value::Object(body))
    }
}

impl From<Rejection> for Answer {
    fn from(rejection: Rejection) -> Self {
        Self::json(rejection.status, &json!({ "success": false, "message": rejection.message }))
            .with_header("www-authenticate", rejection.scheme)
            .with_header("x-sn-errormessage", rejection.message)
            .with_header("access-control-allow-origin", "*")
            .with_header("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS")
            .with_header(
                "access-control-allow-headers",
                "Authorization, Content-MD5, Content-Type, Digest, X-SN-Date",
            )
    }
}
