//! The calls to the File Repository. Thin: what is sent comes from [`super::wanted`], what comes back is read
//! by [`super::answer`].
//!
//! The token travels in the header `X-Auth-Token`, and a `User-Agent` is always sent: without one the server
//! fails. (The token that is looked up or revoked stands in the address; the interface leaves no other way.)

use std::{
    io::{Cursor, Read},
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    answer::{Accepted, Answer, Call, Next, Refusal, read},
    expiry::parse_digits,
    profile::{Profile, Profiles},
    rules::Restrictions,
    wanted::Wanted,
};
use crate::{
    credential::RepositoryToken,
    net::{Content, Incoming, Net, Outgoing, SendError},
};

/// The shortest body that the server takes as it is; a shorter one goes as a form's part.
///
/// # Source
///
/// `UserUploadProvider.php` reads a raw body only if it is longer than eight bytes.
const SHORTEST_RAW: u64 = 9;

/// Separates the parts of a form; the only part is shorter.
const BOUNDARY: &str = "solarnode-agent-file-part";

/// Why a call did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There was an answer.
    #[error("{0}")]
    Refused(Refusal),
    /// There was none.
    #[error("no answer from {url}: {}", reason(.error))]
    NoAnswer {
        /// The repository.
        url: String,
        /// Why.
        error: SendError,
    },
}

impl CallError {
    /// What follows for a file that was to be uploaded.
    #[must_use]
    pub fn next(&self) -> Next {
        match self {
            Self::Refused(refusal) => refusal.cause.next(),
            Self::NoAnswer { .. } => Next::Retry,
        }
    }
}

fn reason(error: &SendError) -> &str {
    match error {
        SendError::CertificateDates(reason)
        | SendError::Tls(reason)
        | SendError::OwnCertificate(reason)
        | SendError::Unreachable(reason)
        | SendError::TooLong(reason)
        | SendError::Content(reason) => reason,
    }
}

/// A token that was issued.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: RepositoryToken,
    /// The digits of its end by the server's clock, as they came.
    pub expires: String,
    /// When the answer was written, where it says so.
    pub answered: Option<DateTime<Utc>>,
    /// Which generations answer so.
    pub profiles: Profiles,
}

/// What a token is, as the server tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// What is checked before an upload.
    pub restrictions: Restrictions,
    /// The user agents it is honoured from; `None` where the server does not tell.
    pub user_agents: Option<Vec<String>>,
    /// The addresses it is honoured from; `None` where the server does not tell.
    pub ip_addresses: Option<Vec<String>>,
    /// Whether the server says that it has expired; `None` where it does not tell.
    pub expired: Option<bool>,
    /// Which generations answer so.
    pub profiles: Profiles,
}

/// One file on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound<'a> {
    /// The name it is sent under.
    pub name: &'a str,
    /// Its tags.
    pub tags: &'a [String],
    /// Whether it appears in the listing.
    pub public: bool,
    /// Its size.
    pub bytes: u64,
}

/// A file that the repository has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name there.
    pub filename: String,
    /// Its number there; `None` where the answer does not tell.
    pub id: Option<i64>,
    /// Whether the same bytes were there already; name, tags and visibility are then those of the first upload.
    pub was_there: bool,
}

/// One repository, called with one token.
#[derive(Debug, Clone)]
pub struct Repository {
    net: Net,
    url: String,
    token: RepositoryToken,
    user_agent: Option<String>,
}

impl Repository {
    /// Talks to the repository at `url`, without a slash at its end.
    #[must_use]
    pub fn new(net: Net, url: &str, token: RepositoryToken, user_agent: Option<String>) -> Self {
        Self { net, url: url.to_owned(), token, user_agent }
    }

    /// Tells this token from another one, and nothing else about it.
    #[must_use]
    pub fn token_mark(&self) -> String {
        hex::encode(&Sha256::digest(self.token.expose())[..8])
    }

    /// Issues a token.
    ///
    /// # Errors
    ///
    /// If the server refuses or does not answer.
    pub async fn issue(&self, wanted: &Wanted, offset: FixedOffset) -> Result<Issued, CallError> {
        let body = wanted.body(offset);
        let (accepted, answered) =
            self.call(Call::Generate, "POST", "/auth/token/generate", Some(&body)).await?;
        let Accepted { body, profiles } = accepted;
        let token = [&body["tokenId"], &body["token"]["id"]].into_iter().find_map(Value::as_str);
        let token = token.and_then(|token| token.parse().ok());
        let expires =
            [&body["expires"], &body["token"]["expires"]].into_iter().find_map(Value::as_str);
        match (token, expires) {
            (Some(token), Some(expires)) => {
                let expires = super::answer::clean(expires);
                Ok(Issued { token, expires, answered, profiles })
            }
            _ => Err(strange("the token that was issued cannot be read from the answer", profiles)),
        }
    }

    /// Looks a token up.
    ///
    /// # Errors
    ///
    /// If the server refuses or does not answer.
    pub async fn look_up(&self, token: &RepositoryToken) -> Result<Granted, CallError> {
        let (accepted, _) = self.call(Call::LookUp, "GET", &token_path(token), None).await?;
        Ok(granted(&accepted))
    }

    /// Revokes a token. It is gone for good.
    ///
    /// # Errors
    ///
    /// If the server refuses or does not answer.
    pub async fn revoke(&self, token: &RepositoryToken) -> Result<(), CallError> {
        self.call(Call::Revoke, "DELETE", &token_path(token), None).await.map(drop)
    }

    /// Finds out which generation the server is of, by two requests to issue a token that it has to refuse
    /// for their expiry: the answer to the first tells V2A, a role that only V3 has tells V2B from V3.
    ///
    /// # Errors
    ///
    /// If the server refuses for another reason, or does not answer.
    pub async fn find_profile(&self) -> Result<Profile, CallError> {
        let mut known = Profiles::ALL;
        for role in ["upload.images", "security.search_for_tokens"] {
            let body = json!({ "roles": [role], "expires": "which version is this" });
            match self.call(Call::Generate, "POST", "/auth/token/generate", Some(&body)).await {
                Err(CallError::Refused(refusal))
                    if refusal.cause == super::answer::Cause::Invalid =>
                {
                    // The later server refuses the expiry, the earlier one the role.
                    let told = match (role, refusal.profiles) {
                        ("upload.images", told) => told,
                        (_, Profiles::SINCE_V2B) => Profiles::V3,
                        _ => Profiles::V2B,
                    };
                    known = known.narrowed_by(told);
                }
                Err(error) => return Err(error),
                Ok((accepted, _)) => {
                    return Err(strange(
                        "the server issued a token without an expiry",
                        accepted.profiles,
                    ));
                }
            }
            let all = [Profile::V2A, Profile::V2B, Profile::V3];
            if let Some(one) = all.into_iter().find(|one| known == Profiles::only(*one)) {
                return Ok(one);
            }
        }
        Err(strange("the server answers as no known version does", known))
    }

    /// Looks for public files of these bytes under this name, where it is in doubt whether an upload arrived.
    ///
    /// # Errors
    ///
    /// If the server refuses, which it does unless the token has the role for the listing, or does not answer.
    pub async fn find(&self, name: &str, sha256: &str) -> Result<Option<Kept>, CallError> {
        let path = format!("/repository?page=1&limit=50&searchQuery={}", encode(name));
        let (accepted, _) = self.call(Call::List, "GET", &path, None).await?;
        let results = accepted.body["results"].as_array().cloned().unwrap_or_default();
        let found = results.iter().find(|entry| entry["contentHash"] == sha256);
        Ok(found.and_then(|entry| entry["filename"].as_str()).map(|filename| Kept {
            filename: filename.to_owned(),
            id: None,
            was_there: false,
        }))
    }

    /// Uploads what `reader` gives, which has to be exactly `file.bytes` bytes.
    ///
    /// # Errors
    ///
    /// If the content cannot be read, the server refuses, or there is no answer. In the last case it may have
    /// the file all the same.
    pub async fn upload(
        &self,
        file: &Outbound<'_>,
        mut reader: Box<dyn Read + Send>,
        taken: Arc<AtomicU64>,
    ) -> Result<Kept, CallError> {
        let mut path = format!("/repository/file/upload?fileName={}", encode(file.name));
        for tag in file.tags {
            path.push_str(&format!("&tags%5B%5D={}", encode(tag)));
        }
        if file.public {
            path.push_str("&public=true");
        }
        let mut request = self.request("POST", &path);
        let mut bytes = file.bytes;
        let mut content_type = "application/octet-stream".to_owned();
        if bytes < SHORTEST_RAW {
            let (before, after) = form_around(file.name);
            bytes += (before.len() + after.len()) as u64;
            reader = Box::new(Cursor::new(before).chain(reader).chain(Cursor::new(after)));
            content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        }
        request.headers.push(("Content-Type".to_owned(), content_type));
        let answer = self.net.send_content(&request, Content { reader, bytes, taken }).await;
        let (accepted, _) = self.judge(Call::Upload, answer)?;
        let body = &accepted.body;
        // The 202 of the second generation points at the file that was there.
        let was_there = body["http_code"] == 202;
        let filename = body["filename"].as_str().unwrap_or_default();
        // It becomes part of an address.
        if filename.is_empty()
            || filename.contains(|c: char| c == '/' || c.is_control() || c.is_whitespace())
        {
            return Err(strange(
                "the name of the stored file cannot be read from the answer",
                accepted.profiles,
            ));
        }
        Ok(Kept { filename: filename.to_owned(), id: body["id"].as_i64(), was_there })
    }

    async fn call(
        &self,
        call: Call,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Accepted, Option<DateTime<Utc>>), CallError> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request.headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
            request.body = Bytes::from(body.to_string());
        }
        let answer = self.net.send_untimed(&request).await;
        self.judge(call, answer)
    }

    fn request(&self, method: &'static str, path: &str) -> Outgoing {
        let mut headers = vec![("X-Auth-Token".to_owned(), self.token.expose().to_owned())];
        // The client has one of its own, so there always is one.
        headers.extend(self.user_agent.clone().map(|agent| ("User-Agent".to_owned(), agent)));
        Outgoing { method, url: format!("{}{path}", self.url), headers, body: Bytes::new() }
    }

    fn judge(
        &self,
        call: Call,
        answer: Result<Incoming, SendError>,
    ) -> Result<(Accepted, Option<DateTime<Utc>>), CallError> {
        let answer =
            answer.map_err(|error| CallError::NoAnswer { url: self.url.clone(), error })?;
        let seen = Answer {
            status: answer.status,
            location: answer.header("location"),
            body: &answer.body,
        };
        let accepted = read(call, seen).map_err(CallError::Refused)?;
        Ok((accepted, answer.date()))
    }
}

/// Where a file of that name is. The server's own `url` may begin with the wrong scheme behind a proxy.
#[must_use]
pub fn address(url: &str, filename: &str) -> String {
    format!("{url}/repository/file/{}", encode(filename))
}

fn strange(sentence: &str, profiles: Profiles) -> CallError {
    CallError::Refused(Refusal {
        cause: super::answer::Cause::Foreign,
        sentence: sentence.to_owned(),
        status: 200,
        profiles,
    })
}

fn token_path(token: &RepositoryToken) -> String {
    format!("/auth/token/{}", encode(token.expose()))
}

/// A form with one file in it, but for the file.
fn form_around(name: &str) -> (Vec<u8>, Vec<u8>) {
    let before = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    (before.into_bytes(), format!("\r\n--{BOUNDARY}--\r\n").into_bytes())
}

/// Percent encoding of all but what never needs it.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Reads both generations' way to describe a token.
#[must_use]
pub fn granted(accepted: &Accepted) -> Granted {
    let Accepted { body, profiles } = accepted;
    let (token, data) = match &body["token"] {
        Value::Object(_) => (&body["token"], &body["token"]["data"]),
        _ => (body, &Value::Null),
    };
    let newer = !data.is_null();
    let member = |old: &str, new: &str| if newer { &data[new] } else { &token[old] };
    let limit = member("max_file_size", "maxAllowedFileSize").as_i64().filter(|limit| *limit != 0);
    let expires = token["expires"].as_str().and_then(parse_digits);
    Granted {
        restrictions: Restrictions {
            roles: texts(&token["roles"]),
            tags: texts(member("tags", "tags")),
            mime_types: texts(member("mimes", "allowedMimeTypes")),
            max_file_size: limit,
            expires,
            offset_secs: None,
        },
        user_agents: newer.then(|| texts(&data["allowedUserAgents"])),
        ip_addresses: newer.then(|| texts(&data["allowedIpAddresses"])),
        expired: token["expired"].as_bool(),
        profiles: *profiles,
    }
}

/// The texts of a list; the server also gives tables, and nulls in lists, back as they were sent.
fn texts(value: &Value) -> Vec<String> {
    let clean = |value: &Value| value.as_str().map(super::answer::clean);
    let mut texts: Vec<String> = match value {
        Value::Array(values) => values.iter().filter_map(clean).collect(),
        Value::Object(values) => values.values().filter_map(clean).collect(),
        _ => Vec::new(),
    };
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}

/// The digits of a token's end, for people.
#[must_use]
pub fn shown_end(digits: Option<NaiveDateTime>) -> String {
    digits.map_or_else(
        || "unknown".to_owned(),
        |digits| digits.format(super::expiry::FORM).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(body: Value) -> Accepted {
        Accepted { body, profiles: Profiles::ALL }
    }

    #[test]
    fn both_ways_to_describe_a_token_are_read() {
        let old = granted(&accepted(json!({
            "tokenId": "T", "expires": "2030-05-05 08:00:00", "roles": ["upload.images", "upload.images"],
            "tags": ["1", null, "x"], "mimes": {"k": "image/png"}, "max_file_size": 0,
        })));
        assert_eq!(old.restrictions.roles, ["upload.images"]);
        assert_eq!(old.restrictions.tags, ["1", "x"]);
        assert_eq!(old.restrictions.mime_types, ["image/png"]);
        assert_eq!(old.restrictions.max_file_size, None);
        assert_eq!((old.user_agents, old.expired), (None, None));
        let new = granted(&accepted(json!({ "status": true, "token": {
            "id": "T", "expired": false, "expires": "2030-05-05 08:00:00", "roles": ["upload.images"],
            "data": {"tags": ["a1b"], "allowedMimeTypes": [], "maxAllowedFileSize": 14579,
                     "allowedIpAddresses": ["192.0.2.1"], "allowedUserAgents": []},
        }})));
        assert_eq!(new.restrictions.max_file_size, Some(14_579));
        assert_eq!(new.ip_addresses, Some(vec!["192.0.2.1".to_owned()]));
        assert_eq!(new.expired, Some(false));
        assert_eq!(shown_end(new.restrictions.expires), "2030-05-05 08:00:00");
    }

    #[test]
    fn names_and_tags_are_encoded_for_the_address() {
        assert_eq!(encode("a b/c?d=e&f+ä"), "a%20b%2Fc%3Fd%3De%26f%2B%C3%A4");
        assert_eq!(address("http://r", "0a1b.tar.gz"), "http://r/repository/file/0a1b.tar.gz");
    }
}
