//! SNWS2: from a request to its signature. Pure.
//!
//! ```text
//!  canonical request             signing message             key of day D
//!  ┌────────────────────────┐    ┌───────────────────────┐   k1  = HMAC("SNWS2" + secret, "YYYYMMDD")
//!  │ METHOD                 │    │ SNWS2-HMAC-SHA256     │   key = HMAC(k1, "snws2_request")
//!  │ /path, as sent         │    │ 20250615T080910Z      │
//!  │ canonical query        │    │ hex SHA-256 of the    │   signature = hex HMAC(key, signing message)
//!  │ name:value …           │───▶│   canonical request   │
//!  │ name;name;…            │    └───────────────────────┘
//!  │ hex SHA-256 of body    │        lines end with LF, the last one with nothing
//!  └────────────────────────┘
//! ```
//!
//! Signed are `host`, the date, `content-type`, `content-md5`, `digest` and every `x-sn-*` that is
//! sent, and whatever the caller wants beside them. Of a header sent twice, the first counts. Where
//! both `date` and `x-sn-date` are signed, the server leaves `date` out of the canonical request,
//! and so does this.
//!
//! The fields of a form (a POST, PUT, PATCH or DELETE of `application/x-www-form-urlencoded`) are
//! signed with the query and the body counts as empty: the server has consumed it by then. With a
//! digest header the server reads the body first; then a POST is signed like any other body
//! (though its fields are lost on the server), and the other three never pass.
//!
//! What cannot be signed so that the server accepts it is refused with a reason. It does not check
//! that a digest fits the body, nor that the key is of a day that fits the date.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, SubsecRound, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    date::{parse_http_date, signing_day, timestamp},
    key::{SigningKey, TokenSecret},
    query::{self, InvalidEscape},
};
use crate::domain::TokenId;

pub use super::{date::http_date, query::encode_query};

/// A request as it goes out, but for its `Authorization` header.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The request target exactly as on the request line: `path[?query]`.
    pub target: &'a str,
    /// The headers in the order they are sent, `Host` and `X-SN-Date` (or `Date`) among them.
    pub headers: &'a [(String, String)],
    /// What the server takes for the host where a proxy changes the `Host` header.
    pub sign_host: Option<&'a str>,
    /// Names of headers to sign beside those that have to be.
    pub also_sign: &'a [String],
    /// The body exactly as sent: compressed, if it is.
    pub body: &'a [u8],
}

/// A signature, with the texts it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The request as the server writes it down to check the signature.
    pub canonical_request: String,
    /// What the key signed.
    pub signing_message: String,
    /// Names of the signed headers as in the `Authorization` header, joined with `;`.
    pub signed_headers: String,
    /// 64 lower case hexadecimal digits.
    pub signature: String,
    /// The value of the `Authorization` header.
    pub authorization: String,
}

/// Why a request cannot be signed so that the server would accept it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No request has such a method.
    #[error("`{method}` is not the method of a request")]
    Method {
        /// As given.
        method: String,
    },
    /// The target would not arrive as it is.
    #[error(
        "the request target `{target}` must begin with `/` \
         and have only visible ASCII characters; percent-encode the others"
    )]
    Target {
        /// As given.
        target: String,
    },
    /// The query, or the body of a form, has a malformed escape.
    #[error("the parameters of the request cannot be signed")]
    Parameters(#[from] InvalidEscape),
    /// A name that no header can have, or that of the header the signature goes into.
    #[error("`{name}` is not the name of a header that can be signed")]
    HeaderName {
        /// As given.
        name: String,
    },
    /// The server reads other bytes as another character set.
    #[error("the header `{name}` is to be signed, so its value must be visible ASCII text")]
    HeaderValue {
        /// Whose value it is.
        name: String,
    },
    /// Every signature covers the host.
    #[error("the request has no Host header")]
    NoHost,
    /// Every signature covers the date.
    #[error("the request has neither an X-SN-Date nor a Date header")]
    NoDate,
    /// The server takes the time from the header, and would compute another signature.
    #[error("the date header `{header}` does not say {wanted}, the time to sign with")]
    DateDiffers {
        /// The header's value.
        header: String,
        /// The text that would be right.
        wanted: String,
    },
    /// The server has consumed the form before it compares the digest.
    #[error("a form sent by {method} with Digest or Content-MD5 is always refused by the server")]
    DigestedForm {
        /// The method.
        method: String,
    },
}

/// Signs `request`, dated `date`, for `token`.
///
/// # Errors
///
/// If no signature of this request could be right.
pub fn sign(
    request: &Request<'_>,
    token: &TokenId,
    key: &SigningKey,
    date: DateTime<Utc>,
) -> Result<Signed, SignError> {
    if !is_token(request.method) {
        return Err(SignError::Method { method: request.method.to_owned() });
    }
    let (path, query) = split_target(request.target)?;
    let form = is_signed_form(request)?;
    let names = signed_names(request)?;
    check_date(request, date)?;

    let mut canonical = String::with_capacity(
        request.target.len()
            + request.headers.iter().map(|(n, v)| 2 * n.len() + v.len() + 3).sum::<usize>()
            + 160,
    );
    canonical.push_str(&request.method.to_ascii_uppercase());
    canonical.push('\n');
    canonical.push_str(path);
    canonical.push('\n');
    let mut pairs = Vec::new();
    query::parse(query.as_bytes(), &mut pairs)?;
    if form {
        query::parse(request.body, &mut pairs)?;
    }
    query::push_canonical(&mut canonical, &mut pairs);
    canonical.push('\n');
    push_headers(&mut canonical, request, &names)?;
    let body = if form { &[][..] } else { request.body };
    push_hash(&mut canonical, body);

    let mut message = String::with_capacity(100);
    message.push_str("SNWS2-HMAC-SHA256\n");
    message.push_str(&timestamp(date));
    message.push('\n');
    push_hash(&mut message, canonical.as_bytes());

    let signature = hex::encode(*hmac(key.expose(), message.as_bytes()));
    let signed_headers = names.join(";");
    let authorization =
        format!("SNWS2 Credential={token},SignedHeaders={signed_headers},Signature={signature}");
    Ok(Signed {
        canonical_request: canonical,
        signing_message: message,
        signed_headers,
        signature,
        authorization,
    })
}

/// The key that a secret gives for one UTC day.
#[must_use]
pub fn signing_key(secret: &TokenSecret, day: NaiveDate) -> SigningKey {
    let mut first = Zeroizing::new(Vec::with_capacity(5 + secret.expose().len()));
    first.extend_from_slice(b"SNWS2");
    first.extend_from_slice(secret.expose().as_bytes());
    let day_key = hmac(&first, signing_day(day).as_bytes());
    SigningKey::new(*hmac(day_key.as_slice(), b"snws2_request"))
}

fn hmac(key: &[u8], message: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn split_target(target: &str) -> Result<(&str, &str), SignError> {
    if !target.starts_with('/') || !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(SignError::Target { target: target.to_owned() });
    }
    Ok(target.split_once('?').unwrap_or((target, "")))
}

/// The value of the first header of that name.
fn header<'a>(request: &Request<'a>, name: &str) -> Option<&'a str> {
    let named = request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str())
}

/// Whether the body's fields are signed with the query.
fn is_signed_form(request: &Request<'_>) -> Result<bool, SignError> {
    let media_type = header(request, "content-type").and_then(|t| t.split(';').next());
    if !media_type
        .is_some_and(|t| t.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
    {
        return Ok(false);
    }
    let digested = header(request, "digest").is_some() || header(request, "content-md5").is_some();
    match request.method.to_ascii_uppercase().as_str() {
        "POST" => Ok(!digested),
        method @ ("PUT" | "PATCH" | "DELETE") if digested => {
            Err(SignError::DigestedForm { method: method.to_owned() })
        }
        "PUT" | "PATCH" | "DELETE" => Ok(true),
        _ => Ok(false),
    }
}

/// The names in the `Authorization` header: lower case, sorted, each once.
fn signed_names(request: &Request<'_>) -> Result<Vec<String>, SignError> {
    if request.sign_host.is_none() && header(request, "host").is_none() {
        return Err(SignError::NoHost);
    }
    let date = if header(request, "x-sn-date").is_some() { "x-sn-date" } else { "date" };
    let must = |name: &str| {
        matches!(name, "host" | "content-type" | "content-md5" | "digest")
            || name.starts_with("x-sn-")
            || name == date
    };
    let sent = request.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
    let mut names = vec!["host".to_owned()];
    names.extend(sent.filter(|name| must(name)));
    names.extend(request.also_sign.iter().map(|name| name.to_ascii_lowercase()));
    names.sort_unstable();
    names.dedup();
    let sent = request.headers.iter().map(|(name, _)| name.as_str());
    let mut all = names.iter().map(String::as_str).chain(sent);
    match all.find(|name| !is_token(name) || name.eq_ignore_ascii_case("authorization")) {
        Some(name) => Err(SignError::HeaderName { name: name.to_owned() }),
        None => Ok(names),
    }
}

/// RFC 9110, 5.6.2.
fn is_token(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(allowed)
}

/// The server derives the message's timestamp from the header, so both must denote one second.
fn check_date(request: &Request<'_>, date: DateTime<Utc>) -> Result<(), SignError> {
    let text = header(request, "x-sn-date").or_else(|| header(request, "date"));
    let text = text.ok_or(SignError::NoDate)?;
    let wanted = http_date(date);
    if text != wanted && parse_http_date(text) != Some(date.trunc_subsecs(0)) {
        return Err(SignError::DateDiffers { header: text.to_owned(), wanted });
    }
    Ok(())
}

fn push_headers(
    canonical: &mut String,
    request: &Request<'_>,
    names: &[String],
) -> Result<(), SignError> {
    let both_dates = names.iter().any(|name| name == "x-sn-date");
    let names = || names.iter().filter(|name| !(both_dates && *name == "date"));
    for name in names() {
        let sent = header(request, name);
        let value = match request.sign_host {
            Some(host) if name == "host" => host,
            _ => sent.unwrap_or_default(),
        };
        if !value.bytes().all(|b| b.is_ascii_graphic() || matches!(b, b' ' | b'\t')) {
            return Err(SignError::HeaderValue { name: name.clone() });
        }
        canonical.push_str(name);
        canonical.push(':');
        canonical.push_str(&folded(value));
        canonical.push('\n');
    }
    for (index, name) in names().enumerate() {
        if index > 0 {
            canonical.push(';');
        }
        canonical.push_str(name);
    }
    canonical.push('\n');
    Ok(())
}

/// Without blanks at its ends, and with one space where there are several.
fn folded(value: &str) -> Cow<'_, str> {
    let value = value.trim_matches(|c| c <= ' ');
    if !value.contains("  ") {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if c != ' ' || !text.ends_with(' ') {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

fn push_hash(text: &mut String, bytes: &[u8]) {
    let mut digits = [0; 64];
    hex::encode_to_slice(Sha256::digest(bytes), &mut digits).expect("64 digits for 32 bytes");
    text.extend(digits.iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests;
