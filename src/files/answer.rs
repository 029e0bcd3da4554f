//! What an answer of the File Repository means. Pure.
//!
//! Many are not what they seem: HTTP 200 with `"http_code":400` inside, 202 that is final, 416 with
//! `"status":"OK"`, HTML where JSON was due, one 403 for four different reasons. So:
//!
//! * An answer is a success only if the status line, every code inside the body, and the member that this
//!   call is made for all say so.
//! * Everything else becomes a [`Refusal`]: a [`Cause`] to act on and one sentence to read. Nothing that
//!   does not look like the repository's own words is taken for its verdict.
//! * Foreign text in a sentence is one line of at most 200 characters without control characters, and of many
//!   complaints the first eight are told.
//!
//! It does not know what was sent, only which call it was.

use std::fmt;

use serde_json::{Map, Value};

use super::profile::{Profiles, recognise};

/// Which call an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `POST /auth/token/generate`
    Generate,
    /// `GET /auth/token/{id}`
    LookUp,
    /// `DELETE /auth/token/{id}`
    Revoke,
    /// `POST /repository/file/upload`
    Upload,
    /// `GET /repository`
    List,
    /// Any other call that is answered with JSON.
    Other,
}

/// An answer as it came.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The status line's code.
    pub status: u16,
    /// The `Location` header, if there is one.
    pub location: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// A success.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The whole body.
    pub body: Value,
    /// Which generations answer so.
    pub profiles: Profiles,
}

/// Anything but a success.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What to act on.
    pub cause: Cause,
    /// What to read.
    pub sentence: String,
    /// The status line's code.
    pub status: u16,
    /// Which generations answer so.
    pub profiles: Profiles,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (HTTP {})", self.sentence, self.status)
    }
}

/// Why an answer is not a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The token is unknown: never issued, revoked, purged, or a one-time token that was used.
    TokenUnknown,
    /// The token lacks a role, or it has expired, or is not allowed from here. The server does not say which.
    Denied,
    /// The token allows other tags only.
    Tag,
    /// The token forbids passwords.
    Password,
    /// The token does not take files of this type.
    Mime,
    /// The file is too large, for the token or for a proxy.
    Size,
    /// Something in the request is not valid.
    Invalid,
    /// What was asked about is not there.
    NotFound,
    /// The server is in trouble, or does not take anything for now.
    Trouble,
    /// These are not the repository's words: a proxy, another server, a wrong address.
    Foreign,
}

/// What the caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again later; it may pass by itself.
    Retry,
    /// A person has to change the token, the configuration or the server; keep everything.
    Stop,
    /// This file will never be taken as it is; the others may.
    SetAside,
}

impl Cause {
    /// What follows for a file that was to be uploaded.
    #[must_use]
    pub fn next(self) -> Next {
        match self {
            Self::Trouble => Next::Retry,
            Self::Mime | Self::Size | Self::Invalid => Next::SetAside,
            Self::TokenUnknown
            | Self::Denied
            | Self::Tag
            | Self::Password
            | Self::NotFound
            | Self::Foreign => Next::Stop,
        }
    }
}

/// Reads an answer.
///
/// # Errors
///
/// With what it means, where it is not a success.
pub fn read(call: Call, answer: Answer<'_>) -> Result<Accepted, Refusal> {
    let Answer { status, .. } = answer;
    let refuse =
        |cause, sentence: String, profiles| Err(Refusal { cause, sentence, status, profiles });
    let body = match serde_json::from_slice::<Value>(answer.body) {
        Ok(body @ Value::Object(_)) => body,
        Ok(_) | Err(_) => {
            let (cause, sentence, profiles) = not_json(call, answer);
            return refuse(cause, sentence, profiles);
        }
    };
    let Value::Object(members) = &body else { unreachable!("only objects come here") };
    let profiles = recognise(call, status, &body);
    if (200..300).contains(&status) && codes_agree(members) {
        if has_result(call, members) {
            return Ok(Accepted { body, profiles });
        }
        return refuse(Cause::Foreign, FOREIGN.to_owned(), profiles);
    }
    let (cause, sentence) = if is_its_own(members) {
        explain(status, members)
    } else if status >= 500 {
        (Cause::Trouble, "the server failed without an answer of its own".to_owned())
    } else {
        (Cause::Foreign, FOREIGN.to_owned())
    };
    refuse(cause, sentence, profiles)
}

const FOREIGN: &str = "the answer is JSON, but not a File Repository's: check the address";

/// Whether this is how the repository refuses: always with a status and a code.
fn is_its_own(members: &Map<String, Value>) -> bool {
    let codes = ["http_code", "exit_code", "error_code", "code"];
    members.contains_key("status") && codes.iter().any(|code| members.contains_key(*code))
}

/// Whether no code inside the body contradicts a success. Where there is none it says nothing; some
/// successes say 0, some 200.
fn codes_agree(members: &Map<String, Value>) -> bool {
    let agrees = |name: &str| match members.get(name) {
        None | Some(Value::Null) => true,
        Some(code) => code.as_u64().is_some_and(|code| code == 0 || (200..300).contains(&code)),
    };
    let said = match members.get("status") {
        Some(Value::Bool(good)) => *good,
        _ => members.get("success") != Some(&Value::Bool(false)),
    };
    said && ["http_code", "exit_code", "error_code", "code"].into_iter().all(agrees)
}

/// Whether the member is there for which the call was made.
fn has_result(call: Call, members: &Map<String, Value>) -> bool {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|t| !t.is_empty());
    match call {
        Call::Generate | Call::LookUp => {
            text(members.get("tokenId"))
                || text(members.get("token").and_then(|token| token.get("id")))
        }
        Call::Revoke => members.get("status").is_some_and(|s| s == "OK" || *s == Value::Bool(true)),
        Call::Upload => text(members.get("filename")),
        Call::List => members.get("results").is_some_and(Value::is_array),
        Call::Other => true,
    }
}

/// Answers that are no JSON object: pages of the server's framework, of proxies, of captive portals.
fn not_json(call: Call, answer: Answer<'_>) -> (Cause, String, Profiles) {
    let page = String::from_utf8_lossy(&answer.body[..answer.body.len().min(64 * 1024)]);
    let said = |words: &str| page.contains(words);
    match answer.status {
        300..=399 => {
            let to = answer.location.map_or_else(|| "elsewhere".to_owned(), clean);
            let sentence =
                format!("the server redirects to {to}: put that address in place of this one");
            (Cause::Foreign, sentence, Profiles::ALL)
        }
        // Only the third generation answers a missing or expired token with a page.
        403 if said("No active token found") => {
            (Cause::Denied, DENIED_PAGE.to_owned(), Profiles::V3)
        }
        401 | 403 => (Cause::Denied, DENIED_PAGE.to_owned(), Profiles::ALL),
        404 | 405 => {
            let sentence =
                "there is no File Repository at this address, or its version lacks this call";
            (Cause::Foreign, sentence.to_owned(), Profiles::ALL)
        }
        413 => {
            let sentence =
                "the file is larger than the web server in front of the repository takes";
            (Cause::Size, sentence.to_owned(), Profiles::ALL)
        }
        429 => {
            (Cause::Trouble, "the server asks to be called less often".to_owned(), Profiles::ALL)
        }
        500 if call == Call::Other => {
            let sentence = "the server failed with an error page; on collections this also means an \
                            expired token, or one not allowed from here";
            (Cause::Trouble, sentence.to_owned(), Profiles::ALL)
        }
        500.. => {
            let sentence =
                "the server failed with an error page instead of an answer; its own log knows why";
            (Cause::Trouble, sentence.to_owned(), Profiles::ALL)
        }
        _ => {
            let sentence = "the answer is not a File Repository's but some page: \
                            check the address, and whether a proxy or portal is in between";
            (Cause::Foreign, sentence.to_owned(), Profiles::ALL)
        }
    }
}

const DENIED_PAGE: &str = "the token is missing, has expired, or is not allowed from this address or \
                           with this user agent";

const UNKNOWN: &str = "the repository does not know this token: it was revoked, has expired and was \
                       purged, or was good for one upload; issue another one";

const ROLE_OR_EXPIRED: &str = "; the role is missing, or the token has expired, or is not allowed from \
                               this address or with this user agent (the server does not say which)";

/// The repository's own refusals.
fn explain(status: u16, members: &Map<String, Value>) -> (Cause, String) {
    if let Some(Value::Object(fields)) = members.get("fields") {
        return (Cause::Invalid, fields_sentence(fields));
    }
    let mut texts =
        ["status", "message"].into_iter().filter_map(|name| members.get(name)?.as_str());
    let text = texts.find(|text| *text != "OK").unwrap_or_default();
    if let Some((cause, sentence)) = known_text(text) {
        return (cause, sentence);
    }
    if let Some(Value::Object(errors)) = members.get("errors")
        && !errors.is_empty()
    {
        return (Cause::Invalid, errors_sentence(errors, members.get("context")));
    }
    let code = members.get("error_code").and_then(Value::as_u64);
    let (cause, sentence) = match (code, status) {
        (Some(3000), _) => {
            let mime = members.get("context").and_then(|context| context["mime"].as_str());
            let mime =
                mime.map_or_else(|| "this type".to_owned(), |mime| format!("type {}", clean(mime)));
            (Cause::Mime, format!("the token does not allow files of {mime}"))
        }
        (Some(3001), _) => {
            let sentence = "the file is too large for the token: its limit is exclusive, a file of exactly \
                            that many bytes is refused";
            (Cause::Size, sentence.to_owned())
        }
        (Some(3002), _) => (Cause::Tag, "the token does not allow one of the tags".to_owned()),
        (Some(60001 | 60002), _) => {
            let sentence = "the body has no file in it, or is larger than the server's PHP takes \
                            (`post_max_size`, `upload_max_filesize`)";
            (Cause::Size, sentence.to_owned())
        }
        (Some(60003), _) => {
            let sentence = "the body was empty, shorter than nine bytes, or sent as a form";
            (Cause::Invalid, sentence.to_owned())
        }
        (Some(4006), _) => {
            (Cause::Size, "the version is larger than the collection allows".to_owned())
        }
        (Some(4007), _) => (Cause::Size, "the collection would become too large".to_owned()),
        (Some(4008), _) => {
            (Cause::Invalid, "the collection holds a version with the same bytes".to_owned())
        }
        (Some(4000), _) => (Cause::Invalid, "the collection has its most versions".to_owned()),
        (Some(5_000_001), _) => (Cause::Trouble, "the server is read-only for now".to_owned()),
        (_, 403) | (Some(403), _) => (
            Cause::Denied,
            format!("{}{ROLE_OR_EXPIRED}", sentence_of(text, "the token does not allow this")),
        ),
        (_, 404) => (Cause::NotFound, "the repository has nothing of that name or ID".to_owned()),
        (_, 413) => (Cause::Size, "the file is larger than the server takes".to_owned()),
        (_, 416) => (Cause::Invalid, "the range asked for lies outside of the file".to_owned()),
        (_, 429) => (Cause::Trouble, "the server asks to be called less often".to_owned()),
        (_, 500..) => (Cause::Trouble, sentence_of(text, "the server failed without saying why")),
        _ => (Cause::Invalid, sentence_of(text, "the server refuses without saying why")),
    };
    (cause, sentence)
}

/// Texts that the repository uses word for word.
fn known_text(text: &str) -> Option<(Cause, String)> {
    const UPLOAD: &str = "No enough permissions on the token to perform the operation. ";
    if text.starts_with("Invalid authorization. Details:") {
        return Some((Cause::TokenUnknown, UNKNOWN.to_owned()));
    }
    if let Some(reason) = text.strip_prefix(UPLOAD) {
        return Some(match reason {
            "not_allowed_to_upload_any_file" => {
                (Cause::Denied, format!("the token may not upload files{ROLE_OR_EXPIRED}"))
            }
            "tag_not_allowed" => (
                Cause::Tag,
                "the token does not allow one of the tags (they are compared with capitals)"
                    .to_owned(),
            ),
            "invalid_password" => {
                (Cause::Password, "the token forbids files with a password".to_owned())
            }
            other => {
                (Cause::Denied, format!("the token does not allow the upload: {}", clean(other)))
            }
        });
    }
    let known = [
        ("Current token does not allow to generate tokens", "the token may not issue tokens", true),
        (
            "Current token does not allow to lookup other tokens",
            "the token may not look up tokens",
            true,
        ),
        (
            "Current token does not allow to revoke this token",
            "the token may not revoke this one (an administrator's only an administrator may)",
            true,
        ),
        (
            "Current token does not allow setting predictable identifiers",
            "only an administrator's token may choose the ID of a new one",
            false,
        ),
    ];
    if let Some((_, sentence, ambiguous)) = known.iter().find(|(start, ..)| text.starts_with(start))
    {
        let more = if *ambiguous { ROLE_OR_EXPIRED } else { "" };
        return Some((Cause::Denied, format!("{sentence}{more}")));
    }
    let names = ["File name is not valid", "Filename is not valid", "The filename is empty"];
    names.iter().any(|start| text.starts_with(start)).then(|| {
        let sentence =
            "the server does not take this file name; letters, digits, `.`, `-` and `_` are safe";
        (Cause::Invalid, sentence.to_owned())
    })
}

/// How many of a server's complaints about one request are told; a foreign one could have any number.
const MOST_COMPLAINTS: usize = 8;

/// `{"form.tags.0":["…"]}`
fn fields_sentence(fields: &Map<String, Value>) -> String {
    let messages = fields.iter().flat_map(|(path, messages)| {
        let texts = messages.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.map(move |text| field_sentence(path, text))
    });
    let sentences: Vec<String> = messages.take(MOST_COMPLAINTS).collect();
    if sentences.is_empty() {
        return "the server refuses the request without saying why".to_owned();
    }
    sentences.join("; ")
}

fn field_sentence(path: &str, message: &str) -> String {
    const EXTRA: &str = "This request does not support extra parameters such as ";
    let field = clean(path.strip_prefix("form.").unwrap_or(path));
    if let Some(name) = message.strip_prefix(EXTRA) {
        return format!("this server's version does not know the field {}", clean(name));
    }
    match (path, message) {
        (_, "Please select valid roles") => {
            "one of the roles does not exist on this server, or cannot be granted".to_owned()
        }
        (_, "You must select at least 1 choice.") => "a token needs at least one role".to_owned(),
        (_, "invalid_date_format_and_not_an_expression") => {
            "the server does not understand the expiry".to_owned()
        }
        (_, "id_expects_to_be_uuidv4_format") => "the ID has to be a UUID".to_owned(),
        (_, "id_already_exists_please_select_other_one") => {
            "there is a token with this ID already".to_owned()
        }
        (_, "collection_no_longer_exists") => "there is no such collection".to_owned(),
        (_, "version_no_longer_exists") => "there is no such version in the collection".to_owned(),
        (_, "token_not_found") => "there is no such token".to_owned(),
        ("form", "This value is not valid.") => {
            "the server finds a list or table of a wrong type in the request".to_owned()
        }
        _ => format!("the server does not take `{field}`: {}", clean(message)),
    }
}

/// `{"maxCollectionSize":"max_collection_size_too_big"}` with `{"max":"15.00GB"}`
fn errors_sentence(errors: &Map<String, Value>, context: Option<&Value>) -> String {
    let words = |value: &Value| clean(value.as_str().unwrap_or("refused")).replace('_', " ");
    let errors = errors.iter().map(|(field, code)| format!("`{}`: {}", clean(field), words(code)));
    let mut sentence = format!(
        "the server does not take {}",
        errors.take(MOST_COMPLAINTS).collect::<Vec<_>>().join("; ")
    );
    if let Some(Value::Object(context)) = context {
        for (name, value) in context.iter().take(MOST_COMPLAINTS) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            sentence.push_str(&format!(" ({} {})", clean(name), clean(&value)));
        }
    }
    sentence
}

fn sentence_of(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { format!("the server says: {}", clean(text)) }
}

/// Foreign text fit for one line.
#[must_use]
pub fn clean(text: &str) -> String {
    const MOST: usize = 200;
    let kept = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    kept.filter(|c| !c.is_control()).take(MOST).collect()
}

#[cfg(test)]
mod tests;
