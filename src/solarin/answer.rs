//! One table of what SolarIn may answer to a batch, and what follows from it. Pure.
//!
//! | Seen | [`Cause`] | [`Next`] |
//! | --- | --- | --- |
//! | no connection, or it broke | `Unreachable` | retry |
//! | the server's certificate was not accepted | `Tls` | retry |
//! | no certificate here; a TLS alert about ours; 401, 403; 400 that speaks of a certificate | `Identity` | stop: a person, or a renewal |
//! | 200 `success:false` | `Internal` | content: some item of the batch is to blame, or the server is in trouble |
//! | 413 | `TooLarge` | content |
//! | 404, 405, 415 | `NoSuchCall` | stop: the configured address is wrong |
//! | 429 | `RateLimited` | retry, not before the time it names |
//! | 408, 5xx | `ServerTrouble` | retry |
//! | anything else that is no envelope: a proxy's page, a redirect | `NotSolarNetwork` | retry |
//! | 200 `success:true` | none | see [`Heard`] |
//!
//! A success proves nothing by itself. What is stored is what [`Heard::stored`] names; an answer without any
//! entry is what a data base in trouble gives. An entry of another node names nothing: whoever it was stored for, it
//! was not this node. A 403 is taken at its word whatever its body says, since SolarIn
//! has one reason for it, and a captive portal cannot pass for SolarIn's certificate.
//!
//! `docs/spec/upload-bulk.md` is the same table for people.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::time;
use crate::{
    domain::{InstructionId, InstructionState, NodeId},
    solarnet::{
        Next, Refusal,
        answer::{in_words, retry_after},
    },
};

/// Why a batch has no answer, told apart by what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection, or it broke before the answer was complete.
    Unreachable,
    /// The server's certificate was not accepted.
    Tls,
    /// This node's certificate is missing, or was not accepted.
    Identity,
    /// Something answered that is not SolarIn.
    NotSolarNetwork,
    /// Too many requests.
    RateLimited,
    /// The server is busy or in trouble and says so.
    ServerTrouble,
    /// The server failed over the batch.
    Internal,
    /// The batch is over some limit on its way.
    TooLarge,
    /// There is no such call at this address.
    NoSuchCall,
}

impl Cause {
    /// A fixed name, for logs and `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Identity => "identity",
            Self::NotSolarNetwork => "not_solarnetwork",
            Self::RateLimited => "rate_limited",
            Self::ServerTrouble => "server_trouble",
            Self::Internal => "internal",
            Self::TooLarge => "too_large",
            Self::NoSuchCall => "no_such_call",
        }
    }

    /// What the operator can do, where it is the operator's business.
    #[must_use]
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Tls => Some(
                "check `solarnet.ca_file` and the certificate of the server (or of a proxy in between)",
            ),
            Self::Identity => Some(
                "the node's certificate is missing, has run out or is not this node's: `solarnode-agent identity check` says which, `solarnode-agent identity import` brings another",
            ),
            Self::NoSuchCall => Some("check `solarnet.in_url`"),
            Self::Unreachable
            | Self::NotSolarNetwork
            | Self::RateLimited
            | Self::ServerTrouble
            | Self::Internal
            | Self::TooLarge => None,
        }
    }
}

/// Why a batch has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("bulkCollector.do: {}", self.explain())]
pub struct InError {
    /// What kind of trouble.
    pub cause: Cause,
    /// What the server said, if it said anything.
    pub refusal: Option<Refusal>,
    /// What the network said, if it did not get that far.
    pub detail: Option<String>,
}

impl InError {
    /// Trouble before there was any answer.
    #[must_use]
    pub fn of(cause: Cause, detail: String) -> Self {
        Self { cause, refusal: None, detail: Some(detail) }
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self) -> Next {
        match self.cause {
            Cause::Unreachable
            | Cause::Tls
            | Cause::NotSolarNetwork
            | Cause::RateLimited
            | Cause::ServerTrouble => {
                Next::Retry { not_before: self.refusal.as_ref().and_then(|r| r.retry_after) }
            }
            Cause::Internal | Cause::TooLarge => Next::Content,
            Cause::Identity | Cause::NoSuchCall => Next::Stop,
        }
    }

    fn explain(&self) -> String {
        let (refusal, detail) = (self.refusal.as_ref(), self.detail.as_deref());
        in_words(self.cause.name(), refusal, detail, self.cause.remedy())
    }
}

/// The parts of an HTTP answer that decide what it means.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// HTTP status.
    pub status: u16,
    /// The body, whole.
    pub body: &'a [u8],
    /// `Retry-After`, seconds or a date, as text.
    pub retry_after: Option<&'a str>,
    /// `X-SN-Rate-Limit-Retry-After`, milliseconds since the epoch, as text.
    pub rate_limit_retry_after: Option<&'a str>,
    /// When it arrived, by the server's clock.
    pub now: DateTime<Utc>,
}

/// What identifies a datum to the server, the node apart: its source and its time in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The source.
    pub source: String,
    /// When it was read.
    pub unix_ms: i64,
}

/// What a success says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// The datum it names, whatever was asked.
    pub stored: HashSet<Key>,
    /// The streams' datum it names: UUID as written, and time.
    pub streams: HashSet<(String, i64)>,
    /// The acknowledgements it names, with the state where it says one.
    pub acknowledged: Vec<(InstructionId, Option<InstructionState>)>,
    /// The instructions it offers, as they came; null for none.
    pub instructions: Value,
}

/// Turns what came back into what a success says to `node`, or into a refusal.
///
/// Entries of an unknown form are no entries: what they are about is sent again.
///
/// # Errors
///
/// Whatever is not a success.
pub fn read(received: &Received<'_>, node: NodeId) -> Result<Heard, InError> {
    let envelope = serde_json::from_slice::<Value>(received.body).ok();
    let success = envelope.as_ref().and_then(|e| e.get("success")?.as_bool());
    if received.status / 100 == 2 && success == Some(true) {
        let data = envelope.and_then(|mut e| e.get_mut("data").map(Value::take));
        return Ok(heard(data.unwrap_or_default(), node));
    }
    let message = envelope.as_ref().and_then(|e| e.get("message")?.as_str());
    let cause = match received.status {
        401 | 403 => Cause::Identity,
        400 if speaks_of_certificates(received.body) => Cause::Identity,
        404 | 405 | 415 => Cause::NoSuchCall,
        408 | 500.. => Cause::ServerTrouble,
        413 => Cause::TooLarge,
        429 => Cause::RateLimited,
        _ if success == Some(false) => Cause::Internal,
        _ => Cause::NotSolarNetwork,
    };
    let refusal = Refusal {
        status: received.status,
        code: None,
        message: message.map(crate::solarnet::answer::readable),
        retry_after: retry_after(
            received.rate_limit_retry_after,
            received.retry_after,
            received.now,
        ),
    };
    Err(InError { cause, refusal: Some(refusal), detail: None })
}

/// Web servers that end TLS in front of SolarIn say so in a page: `400 No required SSL certificate was sent`.
fn speaks_of_certificates(body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(2048)]).to_ascii_lowercase();
    start.contains("ssl certificate") || start.contains("client certificate")
}

fn heard(mut data: Value, node: NodeId) -> Heard {
    let mut heard = Heard {
        instructions: data.get_mut("instructions").map(Value::take).unwrap_or_default(),
        ..Heard::default()
    };
    for entry in data.get("datum").and_then(Value::as_array).into_iter().flatten() {
        let text = |member: &str| entry.get(member).and_then(Value::as_str);
        let at = || {
            let at = ["created", "timestamp"].iter().find_map(|m| time::read(entry.get(m)?))?;
            Some(at.timestamp_millis())
        };
        if let Some(source) = text("sourceId") {
            // A location's datum has the same members, and is none of ours. Nor is another node's.
            let of_node = text("kind").is_none_or(|kind| kind == "n" || kind == "Node");
            let owners = ["nodeId", "objectId"].iter().filter_map(|member| entry.get(member));
            let mut owners = owners.filter(|owner| !owner.is_null());
            let is_ours = owners.all(|owner| owner.as_u64() == Some(node.number()));
            if let Some(unix_ms) = at().filter(|_| of_node && is_ours) {
                heard.stored.insert(Key { source: source.to_owned(), unix_ms });
            }
        } else if let Some(stream) = text("streamId") {
            heard.streams.extend(at().map(|unix_ms| (stream.to_owned(), unix_ms)));
        } else if let Some(id) = entry.get("id").and_then(Value::as_i64) {
            let state = text("state").and_then(InstructionState::from_name);
            heard.acknowledged.push((InstructionId(id), state));
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(status: u16, body: &str) -> Result<Heard, InError> {
        let received = Received {
            status,
            body: body.as_bytes(),
            retry_after: Some("30"),
            rate_limit_retry_after: None,
            now: DateTime::UNIX_EPOCH,
        };
        super::read(&received, NodeId::try_from(123).expect("a node"))
    }

    #[test]
    fn every_answer_has_one_cause() {
        let no = r#"{"success":false,"message":"Internal error"}"#;
        let html = "<html><body>blocked</body></html>";
        let nginx = "<html><title>400 No required SSL certificate was sent</title></html>";
        #[rustfmt::skip]
        let cases = [
            (200, no,    Cause::Internal,        Next::Content),
            (200, html,  Cause::NotSolarNetwork, Next::Retry { not_before: None }),
            (200, "[]",  Cause::NotSolarNetwork, Next::Retry { not_before: None }),
            (302, "",    Cause::NotSolarNetwork, Next::Retry { not_before: None }),
            (400, nginx, Cause::Identity,        Next::Stop),
            (400, html,  Cause::NotSolarNetwork, Next::Retry { not_before: None }),
            (401, html,  Cause::Identity,        Next::Stop),
            (403, no,    Cause::Identity,        Next::Stop),
            (403, html,  Cause::Identity,        Next::Stop),
            (404, html,  Cause::NoSuchCall,      Next::Stop),
            (405, "",    Cause::NoSuchCall,      Next::Stop),
            (413, html,  Cause::TooLarge,        Next::Content),
            (422, no,    Cause::Internal,        Next::Content),
            (429, "",    Cause::RateLimited,     Next::Retry { not_before: None }),
            (500, no,    Cause::ServerTrouble,   Next::Retry { not_before: None }),
            (503, html,  Cause::ServerTrouble,   Next::Retry { not_before: None }),
        ];
        for (status, body, cause, next) in cases {
            let mut error = read(status, body).expect_err("a refusal");
            assert_eq!(error.cause, cause, "{status} {body}");
            let not_before = DateTime::from_timestamp(30, 0);
            assert_eq!(error.refusal.as_ref().and_then(|r| r.retry_after), not_before);
            error.refusal.as_mut().expect("a refusal").retry_after = None;
            assert_eq!(error.next(), next, "{status} {body}");
        }
    }

    #[test]
    fn an_identity_that_was_refused_comes_with_its_remedy() {
        let text = read(403, "").expect_err("a refusal").to_string();
        assert!(text.starts_with("bulkCollector.do: the server answered 403; "), "{text}");
        assert!(text.contains("identity check"), "{text}");
    }

    #[test]
    fn every_answer_of_the_vectors_is_read_by_key() {
        let all: Value = serde_json::from_str(include_str!("../../tests/vectors/datum.json"))
            .expect("the vectors are JSON");
        for case in all["http_batch"].as_array().expect("a list of cases") {
            let body = case["response_json"].to_string();
            let heard = read(200, &body);
            match case["id"].as_str() {
                Some("h01") => {
                    let heard = heard.expect("a success");
                    let key = |source: &str, unix_ms| Key { source: source.into(), unix_ms };
                    let keys =
                        [key("/meter/1", 1_718_141_949_500), key("/meter/2", 1_718_141_950_500)];
                    assert_eq!(heard.stored, HashSet::from(keys));
                    let stream = "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned();
                    assert_eq!(heard.streams, HashSet::from([(stream, 1_718_141_949_500)]));
                    let completed = (InstructionId(12345), Some(InstructionState::Completed));
                    assert_eq!(heard.acknowledged, [completed]);
                    assert_eq!(heard.instructions[0]["id"], 12350);
                }
                Some("h02") => assert_eq!(heard.expect("a success"), Heard::default()),
                Some("h03") => assert_eq!(heard.expect_err("a failure").cause, Cause::Internal),
                other => {
                    assert_eq!(
                        heard.is_ok(),
                        case["response_json"]["success"] == true,
                        "{other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn entries_of_another_form_name_nothing() {
        let body = json!({ "success": true, "data": { "datum": [
            null, 7, "x", {}, { "sourceId": "/m" }, { "sourceId": "/m", "created": "soon" },
            { "kind": "l", "sourceId": "/m", "created": 5 }, { "id": "12", "state": "Completed" },
            { "sourceId": "/m", "timestamp": "1970-01-01T00:00:00.0059Z", "more": [] },
        ], "instructions": null } });
        let heard = read(200, &body.to_string()).expect("a success");
        assert_eq!(heard.stored, HashSet::from([Key { source: "/m".into(), unix_ms: 5 }]));
        assert_eq!((heard.acknowledged.len(), heard.instructions), (0, Value::Null));
        assert_eq!(read(200, r#"{"success":true}"#).expect("a success"), Heard::default());
    }

    #[test]
    fn what_was_stored_for_another_node_is_not_stored_for_this_one() {
        let named = |owner: Value| {
            let mut entry = json!({ "kind": "n", "sourceId": "/m", "created": 5 });
            entry
                .as_object_mut()
                .expect("an object")
                .extend(owner.as_object().cloned().expect("one"));
            let body = json!({ "success": true, "data": { "datum": [entry] } }).to_string();
            !read(200, &body).expect("a success").stored.is_empty()
        };
        assert!(named(json!({})) && named(json!({ "nodeId": 123 })));
        assert!(named(json!({ "objectId": 123 })));
        assert!(!named(json!({ "nodeId": 123, "objectId": 124 })));
        for other in [json!(124), json!("123"), json!(-123)] {
            assert!(!named(json!({ "nodeId": other })), "{other}");
            assert!(!named(json!({ "objectId": other })), "{other}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_do_no_harm(status in 100u16..600, body in ".*") {
            // Whatever it is, it is read or has a cause.
            drop(read(status, &body));
        }
    }
}
