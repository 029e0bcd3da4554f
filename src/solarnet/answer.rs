//! One table of what the server may answer and what follows from it.
//!
//! Wrong credentials give 403 and so do six other things; only the text tells them apart. Every
//! answer that is not a success becomes a [`Cause`] in exactly one place ([`read`]), and every cause
//! one [`Next`] in exactly one other ([`CallError::next`]). `docs/spec/answers.md` is the same
//! table for people.
//!
//! This file is pure.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::Answer;

/// Why a call has no answer, told apart by what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No usable signing key is on the device.
    NoKey,
    /// No connection, or it broke before the answer was complete.
    Unreachable,
    /// The answer is longer than any that is read.
    AnswerTooLong,
    /// The server's certificate was not accepted.
    Tls,
    /// Something answered that is not SolarNetwork: a captive portal, a proxy's error page.
    NotSolarNetwork,
    /// Too many requests.
    RateLimited,
    /// The server is busy or in trouble and says so.
    ServerTrouble,
    /// The signature was not accepted: wrong key, key too old, or a token that is unknown or
    /// disabled.
    BadCredentials,
    /// The server's clock and the request's date are 15 minutes or more apart.
    DateSkew,
    /// The token's policy has run out (`notAfter`).
    TokenExpired,
    /// The token's policy has API paths, and this one is not among them.
    PathDenied,
    /// The token lacks a role: wrong token type, or the account was not granted the service.
    RoleMissing,
    /// The policy or the ownership of a node forbids it.
    AccessDenied,
    /// The object asked for is not there, or not ours.
    UnknownObject,
    /// The body is over the server's limit.
    TooLarge,
    /// The server did not like what was in the request.
    BadContent,
    /// There is no such call at this address: the configured URL is wrong.
    NoSuchCall,
}

impl Cause {
    /// A fixed name, for logs and `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Unreachable => "unreachable",
            Self::AnswerTooLong => "answer_too_long",
            Self::Tls => "tls",
            Self::NotSolarNetwork => "not_solarnetwork",
            Self::RateLimited => "rate_limited",
            Self::ServerTrouble => "server_trouble",
            Self::BadCredentials => "bad_credentials",
            Self::DateSkew => "date_skew",
            Self::TokenExpired => "token_expired",
            Self::PathDenied => "path_denied",
            Self::RoleMissing => "role_missing",
            Self::AccessDenied => "access_denied",
            Self::UnknownObject => "unknown_object",
            Self::TooLarge => "too_large",
            Self::BadContent => "bad_content",
            Self::NoSuchCall => "no_such_call",
        }
    }

    /// Whether a refusal for this reason shows that the token itself was accepted: what is asked of the
    /// account's objects comes after the token's signature and state.
    #[must_use]
    pub fn shows_token(self) -> bool {
        matches!(self, Self::AccessDenied | Self::UnknownObject)
    }

    /// What the operator can do, where it is the operator's business.
    #[must_use]
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::NoKey => {
                Some("import a token: `solarnode-agent token import NAME --token-id ID`")
            }
            Self::Tls => Some(
                "check `solarnet.ca_file` and the certificate of the server (or of a proxy in between)",
            ),
            Self::BadCredentials => Some(
                "the token is disabled (`solarnode-agent token enable ID --as MANAGER` ends that) or deleted, or ID and secret do not belong together: import the right ones with `solarnode-agent token import`",
            ),
            Self::TokenExpired => {
                Some("the token's policy has run out (notAfter): issue a new token and import it")
            }
            Self::PathDenied => Some("add this API path to the token's policy (apiPaths)"),
            Self::RoleMissing => Some(
                "use a User token of an account that was granted the service (imports need ROLE_IMPORT)",
            ),
            Self::AccessDenied => Some(
                "check the token's policy (nodeIds, sourceIds, refreshAllowed) and that the node belongs to its account",
            ),
            Self::NoSuchCall => Some("check `solarnet.user_url` and `solarnet.query_url`"),
            Self::Unreachable
            | Self::AnswerTooLong
            | Self::NotSolarNetwork
            | Self::RateLimited
            | Self::ServerTrouble
            | Self::DateSkew
            | Self::UnknownObject
            | Self::TooLarge
            | Self::BadContent => None,
        }
    }
}

/// What a caller does next. The only thing callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same again later; no sooner than told.
    Retry {
        /// The server's own word, if it gave one.
        not_before: Option<DateTime<Utc>>,
    },
    /// The same again once there is another key.
    RefreshKey,
    /// This request's content was refused: another content may pass.
    Content,
    /// The object is gone.
    Gone,
    /// Nothing changes until a person does something; look again now and then.
    Stop,
}

/// What the server said when it said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The envelope's `code`, for example `DAO.00202`.
    pub code: Option<String>,
    /// The envelope's `message`, or that of the error header; cut to a readable length.
    pub message: Option<String>,
    /// No request is welcome before this instant.
    pub retry_after: Option<DateTime<Utc>>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} {path}: {}", self.explain())]
pub struct CallError {
    /// The method of the call.
    pub method: &'static str,
    /// The path of the call, without its query.
    pub path: String,
    /// What kind of trouble.
    pub cause: Cause,
    /// What the server said, if it said anything.
    pub refusal: Option<Refusal>,
    /// What the network said, if it did not get that far.
    pub detail: Option<String>,
}

impl CallError {
    /// What to do next.
    #[must_use]
    pub fn next(&self) -> Next {
        match self.cause {
            Cause::Unreachable
            | Cause::AnswerTooLong
            | Cause::Tls
            | Cause::NotSolarNetwork
            | Cause::RateLimited
            | Cause::ServerTrouble
            | Cause::DateSkew => {
                Next::Retry { not_before: self.refusal.as_ref().and_then(|r| r.retry_after) }
            }
            Cause::NoKey | Cause::BadCredentials => Next::RefreshKey,
            Cause::TooLarge | Cause::BadContent => Next::Content,
            Cause::UnknownObject => Next::Gone,
            Cause::TokenExpired
            | Cause::PathDenied
            | Cause::RoleMissing
            | Cause::AccessDenied
            | Cause::NoSuchCall => Next::Stop,
        }
    }

    fn explain(&self) -> String {
        let (refusal, detail) = (self.refusal.as_ref(), self.detail.as_deref());
        in_words(self.cause.name(), refusal, detail, self.cause.remedy())
    }

    /// What the server or the network said, without what could be done about it.
    #[must_use]
    pub fn what_happened(&self) -> String {
        in_words(self.cause.name(), self.refusal.as_ref(), self.detail.as_deref(), None)
    }
}

/// What the server or the network said, and what can be done about it.
pub(crate) fn in_words(
    cause: &str,
    refusal: Option<&Refusal>,
    detail: Option<&str>,
    remedy: Option<&str>,
) -> String {
    let mut text = match refusal {
        Some(refusal) => {
            let mut text = format!("the server answered {}", refusal.status);
            for part in [&refusal.code, &refusal.message].into_iter().flatten() {
                text.push(' ');
                text.push_str(part);
            }
            // A status alone can be that of a success.
            if refusal.status < 400 && refusal.code.is_none() && refusal.message.is_none() {
                text = format!("{text} ({})", cause.replace('_', " "));
            }
            text
        }
        None => cause.replace('_', " "),
    };
    for (before, part) in [(": ", detail), ("; ", remedy)] {
        if let Some(part) = part {
            text.push_str(before);
            text.push_str(part);
        }
    }
    text
}

/// The parts of an HTTP answer that decide what it means.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// HTTP status.
    pub status: u16,
    /// The body, whole.
    pub body: &'a [u8],
    /// Whether `WWW-Authenticate` was there: authentication failed, as against authorization.
    pub authenticate: bool,
    /// `X-SN-ErrorMessage`.
    pub error_message: Option<&'a str>,
    /// `X-SN-Rate-Limit-Retry-After`, milliseconds since the epoch, as text.
    pub rate_limit_retry_after: Option<&'a str>,
    /// `Retry-After`, seconds or a date, as proxies send it.
    pub retry_after: Option<&'a str>,
    /// When it arrived, by the server's clock.
    pub now: DateTime<Utc>,
}

/// Turns what came back into the data of a success, or into the cause and words of a refusal.
///
/// # Errors
///
/// Whatever is not a success, see [`Cause`].
pub fn read(received: &Received<'_>) -> Result<Answer, (Cause, Refusal)> {
    let envelope = serde_json::from_slice::<Value>(received.body).ok().filter(Value::is_object);
    let text = |name: &str| {
        envelope.as_ref().and_then(|e| e.get(name)).and_then(Value::as_str).map(readable)
    };
    let success = envelope.as_ref().and_then(|e| e.get("success")).and_then(Value::as_bool);

    if received.status / 100 == 2 && success == Some(true) {
        let data = envelope.and_then(|mut e| e.get_mut("data").map(Value::take));
        return Ok(Answer { data: data.unwrap_or(Value::Null) });
    }
    let refusal = Refusal {
        status: received.status,
        code: text("code"),
        message: text("message").or_else(|| received.error_message.map(readable)),
        retry_after: retry_after(
            received.rate_limit_retry_after,
            received.retry_after,
            received.now,
        ),
    };
    let code = refusal.code.as_deref().unwrap_or_default();
    let message = refusal.message.as_deref().unwrap_or_default();
    let from_solarnetwork = success.is_some() || received.error_message.is_some();
    let cause = match received.status {
        429 => Cause::RateLimited,
        408 | 500.. => Cause::ServerTrouble,
        // An ordinary-looking page where an envelope should be: a portal or proxy, also for 401
        // and 403, which would otherwise be taken for a verdict on the token.
        200..=399 | 401 | 403 if !from_solarnetwork => Cause::NotSolarNetwork,
        200..=299 if content_code(code) => Cause::BadContent,
        200..=299 => Cause::ServerTrouble,
        401 | 403 => denied(message, received.authenticate),
        404 | 405 => Cause::NoSuchCall,
        413 => Cause::TooLarge,
        _ if from_solarnetwork => Cause::BadContent,
        400 | 422 => Cause::BadContent,
        _ => Cause::NotSolarNetwork,
    };
    Err((cause, refusal))
}

/// Codes that speak of what was sent: imports (`DI`), validation (`VAL`), constraints (`DAO.001`).
fn content_code(code: &str) -> bool {
    code.starts_with("DI.") || code.starts_with("VAL.") || code.starts_with("DAO.001")
}

fn denied(message: &str, authenticate: bool) -> Cause {
    match message {
        "Expired token" => Cause::TokenExpired,
        "Date skew too large" => Cause::DateSkew,
        "ACCESS_DENIED" => Cause::AccessDenied,
        "UNKNOWN_OBJECT" => Cause::UnknownObject,
        // The same words but for one capital: the token's API paths, and the account's roles.
        "Access denied" => Cause::PathDenied,
        "Access Denied" => Cause::RoleMissing,
        "Content too large" => Cause::TooLarge,
        _ if message.to_ascii_lowercase().contains("upload size") => Cause::TooLarge,
        "Unable to verify credentials" => Cause::ServerTrouble,
        _ if message.contains("HTTP Date header") || message.contains("X-SN-Date header") => {
            Cause::BadContent
        }
        _ if authenticate => Cause::BadCredentials,
        // "Bad credentials", and what newer servers may call it.
        _ if message.to_ascii_lowercase().contains("credentials") => Cause::BadCredentials,
        _ => Cause::AccessDenied,
    }
}

/// When the server wants to be asked again, as its rate limit or a proxy says it.
pub(crate) fn retry_after(
    rate_limit: Option<&str>,
    proxy: Option<&str>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let absolute = rate_limit
        .and_then(|text| text.trim().parse().ok())
        .and_then(DateTime::from_timestamp_millis);
    let by_proxy = proxy.and_then(|text| match text.trim().parse::<u32>() {
        Ok(secs) => Some(now + chrono::TimeDelta::seconds(secs.into())),
        Err(_) => DateTime::parse_from_rfc2822(text.trim()).ok().map(|at| at.to_utc()),
    });
    // Whoever asks for more than an hour is not waited for: the next try will tell again.
    let latest = now + chrono::TimeDelta::hours(1);
    absolute.or(by_proxy).map(|at| at.min(latest))
}

/// Foreign text in our own messages: one line, of bounded length, without control characters.
pub(crate) fn readable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-22T10:00:00Z".parse().expect("a date")
    }

    fn received(status: u16, body: &str) -> Received<'_> {
        Received {
            status,
            body: body.as_bytes(),
            authenticate: false,
            error_message: None,
            rate_limit_retry_after: None,
            retry_after: None,
            now: now(),
        }
    }

    #[test]
    fn every_answer_has_one_cause() {
        let no = |message: &str| format!(r#"{{"success":false,"message":"{message}"}}"#);
        let code = |code: &str| format!(r#"{{"success":false,"code":"{code}","message":"x"}}"#);
        #[rustfmt::skip]
        let cases = [
            (200, no("Internal error"),                Cause::ServerTrouble),
            (200, code("DI.00401"),                    Cause::BadContent),
            (200, "<html>log in</html>".to_owned(),    Cause::NotSolarNetwork),
            (302, String::new(),                       Cause::NotSolarNetwork),
            (401, no("Expired token"),                 Cause::TokenExpired),
            (401, no("Bad credentials"),               Cause::BadCredentials),
            (401, no("Unable to verify credentials"),  Cause::ServerTrouble),
            (401, "<html>".to_owned(),                 Cause::NotSolarNetwork),
            (403, no("Bad credentials"),               Cause::BadCredentials),
            (403, no("Date skew too large"),           Cause::DateSkew),
            (403, no("Access denied"),                 Cause::PathDenied),
            (403, no("Access Denied"),                 Cause::RoleMissing),
            (403, no("ACCESS_DENIED"),                 Cause::AccessDenied),
            (403, no("UNKNOWN_OBJECT"),                Cause::UnknownObject),
            (403, no("Content too large"),             Cause::TooLarge),
            (403, no("Maximum upload size exceeded"),  Cause::TooLarge),
            (403, "<html>blocked</html>".to_owned(),   Cause::NotSolarNetwork),
            (404, String::new(),                       Cause::NoSuchCall),
            (413, String::new(),                       Cause::TooLarge),
            (422, no("Illegal argument: date"),        Cause::BadContent),
            (429, r#"{"success":false,"code":"WEB.10000"}"#.to_owned(), Cause::RateLimited),
            (429, code("DAO.00202"),                   Cause::RateLimited),
            (500, no("Internal error"),                Cause::ServerTrouble),
            (503, String::new(),                       Cause::ServerTrouble),
        ];
        for (status, body, want) in cases {
            let got = read(&received(status, &body)).expect_err("a refusal").0;
            assert_eq!(got, want, "{status} {body}");
        }
    }

    #[test]
    fn a_status_without_words_is_told_with_what_is_made_of_it() {
        let words = |body: &str| {
            let (cause, refusal) = read(&received(200, body)).expect_err("a refusal");
            in_words(cause.name(), Some(&refusal), None, None)
        };
        assert_eq!(words("<html>log in</html>"), "the server answered 200 (not solarnetwork)");
        let said = words(r#"{"success":false,"message":"Internal error"}"#);
        assert_eq!(said, "the server answered 200 Internal error");
    }

    #[test]
    fn a_success_gives_its_data_or_null() {
        assert_eq!(read(&received(200, r#"{"success":true}"#)).expect("ok").data, Value::Null);
        let answer = read(&received(200, r#"{"success":true,"data":{"key":1}}"#)).expect("ok");
        assert_eq!(answer.data["key"], 1);
    }

    #[test]
    fn the_rate_limit_header_is_an_instant_and_not_trusted_beyond_an_hour() {
        let at = |text: &'static str| {
            let mut r = received(429, "");
            r.rate_limit_retry_after = Some(text);
            read(&r).expect_err("a refusal").1.retry_after
        };
        assert_eq!(at("1795341605000"), DateTime::from_timestamp_millis(1_795_341_605_000));
        assert_eq!(at("9999999999999999"), None);
        assert_eq!(at("99999999999999"), Some(now() + chrono::TimeDelta::hours(1)));
        assert_eq!(at("soon"), None);
    }

    #[test]
    fn a_proxy_says_when_to_come_back_in_seconds_or_as_a_date() {
        let at = |text: &str| retry_after(None, Some(text), now());
        let secs = |secs| Some(now() + chrono::TimeDelta::seconds(secs));
        assert_eq!((at("30"), at(" 30 ")), (secs(30), secs(30)));
        assert_eq!(at("Sun, 22 Nov 2026 10:02:00 GMT"), secs(120));
        assert_eq!(at("Sun, 22 Nov 2026 23:00:00 GMT"), secs(3600));
        assert_eq!((at("-5"), at("1e9"), at("later")), (None, None, None));
    }

    #[test]
    fn foreign_text_cannot_break_a_log_line() {
        let body = "{\"success\":false,\"message\":\"a\\nb\\u001b[31m\"}";
        let refusal = read(&received(422, body)).expect_err("a refusal").1;
        assert_eq!(refusal.message.as_deref(), Some("a b [31m"));
    }
}
