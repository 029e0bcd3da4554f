//! Verifies SNWS2 signatures, as SolarNetwork's token filter does, in its order of checks:
//!
//! 1. a multipart body is read (and may be too large)
//! 2. date header: `X-SN-Date`, otherwise `Date`
//! 3. components of `Authorization`
//! 4. headers that have to be signed
//! 5. `Digest`, otherwise `Content-MD5`
//! 6. the token: known, active
//! 7. policy: expiry
//! 8. policy: API paths
//! 9. signature, with the keys of the request's day and the six before
//! 10. date skew: less than 15 minutes against this server's clock
//!
//! Nothing here is shared with the agent: other code, other crates. A mistake cannot pass on both sides.
//!
//! What it does not do: the V1 scheme (`SolarNetworkWS`, answered as bad credentials) and RFC 9421
//! signatures. A server name for requests without a `Host` header is not made up: such a request fails.

pub(crate) mod canonical;
pub(crate) mod date;
mod digest;
mod md5;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use chrono::{DateTime, Days, Utc};
use ring::hmac;

use crate::policy::Policy;
use crate::request::Incoming;

/// Half of the time window around the server's clock, in milliseconds. A request exactly this far off
/// is refused. (Server: `maxDateSkew`, default and configured value.)
const MAX_SKEW_MS: i64 = 900_000;

/// How many signing days are tried, counted back from the day of the request's date.
const KEY_DAYS: u64 = 7;

/// What the filter needs to know of a token that may sign.
pub(crate) struct Signatory<'a> {
    pub(crate) secret: &'a str,
    pub(crate) active: bool,
    pub(crate) policy: Option<&'a Policy>,
}

/// Why a request was turned away by the token filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Rejection {
    pub(crate) status: u16,
    pub(crate) message: String,
    /// What `WWW-Authenticate` names.
    pub(crate) scheme: &'static str,
}

impl Rejection {
    fn forbidden(message: impl Into<String>) -> Self {
        Self { status: 403, message: message.into(), scheme: "SNWS2" }
    }

    /// No credentials, or a scheme that the server does not know.
    pub(crate) fn unauthenticated() -> Self {
        Self {
            status: 401,
            message: "Full authentication is required to access this resource".to_owned(),
            scheme: "SNWS2",
        }
    }
}

/// Checks the credentials of a request. `Ok(None)` means that it carries none with a known scheme; it
/// then goes on as an anonymous one.
pub(crate) fn verify<'a>(
    request: &Incoming,
    now: DateTime<Utc>,
    lookup: impl Fn(&str) -> Option<Signatory<'a>>,
) -> Result<Option<String>, Rejection> {
    let Some(authorization) = request.header("authorization") else { return Ok(None) };
    if authorization.starts_with("SolarNetworkWS ") {
        return Err(Rejection {
            scheme: "SolarNetworkWS",
            ..Rejection::forbidden("Bad credentials")
        });
    }
    let Some(components) = authorization.strip_prefix("SNWS2 ") else { return Ok(None) };

    if request.is_multipart() && request.too_large {
        return Err(upload_too_large(request));
    }
    let date = request_date(request)?;
    let claim = Claim::parse(components)?;
    claim.check_signed_headers(request)?;
    digest::check(request)?;

    let token = lookup(claim.token_id)
        .filter(|token| token.active)
        .ok_or_else(|| Rejection::forbidden("Bad credentials"))?;
    if let Some(policy) = token.policy {
        if !policy.is_valid_at(now.timestamp_millis()) {
            return Err(Rejection { status: 401, ..Rejection::forbidden("Expired token") });
        }
        if !policy.allows_api_path(request.context(), request.path()) {
            return Err(Rejection::forbidden("Access denied"));
        }
    }

    if request.too_large {
        return Err(upload_too_large(request));
    }
    if !claim.signature_fits(request, date, token.secret) {
        return Err(Rejection::forbidden("Bad credentials"));
    }
    if (now - date).num_milliseconds().abs() >= MAX_SKEW_MS {
        return Err(Rejection::forbidden("Date skew too large"));
    }
    Ok(Some(claim.token_id.to_owned()))
}

fn upload_too_large(request: &Incoming) -> Rejection {
    Rejection::forbidden(format!("Maximum upload size of {} bytes exceeded", request.body_limit()))
}

fn request_date(request: &Incoming) -> Result<DateTime<Utc>, Rejection> {
    match request.header("x-sn-date") {
        Some(text) => date::parse(text)
            .ok_or_else(|| Rejection::forbidden("Invalid HTTP X-SN-Date header value")),
        None => request
            .header("date")
            .and_then(date::parse)
            .ok_or_else(|| Rejection::forbidden("Missing or invalid HTTP Date header value")),
    }
}

/// The components of an `Authorization` value.
struct Claim<'a> {
    token_id: &'a str,
    signed_headers: BTreeSet<&'a str>,
    signature: &'a str,
}

impl<'a> Claim<'a> {
    /// Splits at `,` and at the first `=`, removes no white space, ignores what it does not know; the last
    /// of repeated components counts.
    fn parse(components: &'a str) -> Result<Self, Rejection> {
        let (mut token_id, mut names, mut signature) = ("", "", "");
        for component in components.split(',') {
            match component.split_once('=') {
                Some(("Credential", value)) => token_id = value,
                Some(("SignedHeaders", value)) => names = value,
                Some(("Signature", value)) => signature = value,
                _ => {}
            }
        }
        if token_id.is_empty() {
            return Err(Rejection::forbidden("Invalid Credential value"));
        }
        let signed_headers: BTreeSet<&str> =
            names.split(';').filter(|name| !name.is_empty()).collect();
        if signed_headers.len() < 2 {
            return Err(Rejection::forbidden("Invalid SignedHeaders value"));
        }
        if signature.chars().count() != 64 {
            return Err(Rejection::forbidden("Invalid Signature value"));
        }
        Ok(Self { token_id, signed_headers, signature })
    }

    /// Upper case names count here; later they name a header that nobody sent.
    fn names(&self, header: &str) -> bool {
        self.signed_headers.iter().any(|name| name.eq_ignore_ascii_case(header))
    }

    fn check_signed_headers(&self, request: &Incoming) -> Result<(), Rejection> {
        let missing = |name: &str| {
            Rejection::forbidden(format!(
                "The '{name}' HTTP header must be included in SignedHeaders"
            ))
        };
        if !self.names("host") {
            return Err(missing("Host"));
        }
        if !self.names("date") && !self.names("x-sn-date") {
            return Err(Rejection::forbidden(
                "The 'Date' or 'X-SN-Date' HTTP header must be included in SignedHeaders",
            ));
        }
        for (name, _) in &request.headers {
            let mandatory = matches!(name.as_str(), "content-type" | "content-md5" | "digest")
                || name.starts_with("x-sn-");
            if mandatory && !self.names(name) {
                return Err(missing(name));
            }
        }
        Ok(())
    }

    fn canonical_request(&self, request: &Incoming) -> String {
        let mut names = self.signed_headers.clone();
        if names.contains("x-sn-date") {
            names.remove("date");
        }
        let mut text = format!(
            "{}\n{}\n{}\n",
            request.method,
            request.path(),
            canonical::query(&request.parameters())
        );
        for name in &names {
            let value = match *name {
                "host" => request.signed_host(),
                name => request.header(name).map(str::to_owned).unwrap_or_default(),
            };
            text.push_str(&format!("{name}:{}\n", canonical::header_value(&value)));
        }
        text.push_str(&names.into_iter().collect::<Vec<_>>().join(";"));
        text.push('\n');
        text.push_str(&sha256_hex(request.signed_body()));
        text
    }

    fn signature_fits(&self, request: &Incoming, date: DateTime<Utc>, secret: &str) -> bool {
        let message = signing_message(date, &self.canonical_request(request));
        let Ok(signature) = hex::decode(self.signature) else { return false };
        // The server compares text, and writes lower case.
        if self.signature.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return false;
        }
        (0..KEY_DAYS).filter_map(|back| date.checked_sub_days(Days::new(back))).any(|day| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, signing_key(secret, day).as_ref());
            hmac::verify(&key, message.as_bytes(), &signature).is_ok()
        })
    }
}

fn signing_message(date: DateTime<Utc>, canonical_request: &str) -> String {
    format!(
        "SNWS2-HMAC-SHA256\n{}\n{}",
        date.format("%Y%m%dT%H%M%SZ"),
        sha256_hex(canonical_request.as_bytes())
    )
}

/// The signing key of a secret for a UTC day, as 64 hexadecimal digits: what the refresh call hands out.
pub fn signing_key_hex(secret: &str, day: chrono::NaiveDate) -> String {
    let date = day.and_time(chrono::NaiveTime::MIN).and_utc();
    hex::encode(signing_key(secret, date).as_ref())
}

/// The signing key of a secret for the UTC day of `date`.
pub(crate) fn signing_key(secret: &str, date: DateTime<Utc>) -> hmac::Tag {
    let outer = hmac::Key::new(hmac::HMAC_SHA256, format!("SNWS2{secret}").as_bytes());
    let day = hmac::sign(&outer, date.format("%Y%m%d").to_string().as_bytes());
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, day.as_ref()), b"snws2_request")
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}
