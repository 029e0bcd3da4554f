//! The shell around [`super::answer`] and [`super::pace`]: waits for its turn, signs, sends.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    Answer, Application, Call, CallAs, CallError, Caller, Cause,
    answer::{self, Received},
    pace::Pace,
};
use crate::{
    clock::Clock,
    config::settings::SolarNet,
    credential::{
        Credential, Signer,
        sign::{self, Request},
    },
    net::{Incoming, Net, Outgoing, SendError},
    pulse::{Bound, Pulse},
};

/// Requests that one attempt makes at most: refused for the certificate's dates, the probe, once more.
const ATTEMPTS: u32 = 3;

/// The real [`Caller`]. Cheap to clone; clones share their pace.
#[derive(Debug, Clone)]
pub struct Api {
    net: Net,
    clock: Clock,
    signer: Signer,
    shared: Arc<Shared>,
    pulse: Pulse,
}

#[derive(Debug)]
struct Shared {
    user: Endpoint,
    query: Endpoint,
    sign_host: Option<String>,
    timeout: Duration,
}

#[derive(Debug)]
struct Endpoint {
    /// Scheme and authority, for example `https://data.solarnetwork.net`.
    origin: String,
    /// What the `Host` header will say.
    host: String,
    /// The application's prefix, for example `/solaruser`.
    prefix: String,
    pace: Pace,
}

impl Endpoint {
    /// Splits a checked base URL.
    fn new(base: &str, requests_per_second: f64) -> Self {
        let after_scheme = base.find("://").map_or(0, |at| at + 3);
        let path = base[after_scheme..].find('/').map_or(base.len(), |at| after_scheme + at);
        let (origin, prefix) = base.split_at(path);
        let (scheme, host) = origin.split_at(after_scheme);
        // A client leaves the scheme's own port out of `Host`, whatever the URL said.
        let standard = if scheme == "https://" { ":443" } else { ":80" };
        let host = host.strip_suffix(standard).unwrap_or(host);
        Self {
            origin: format!("{scheme}{host}"),
            host: host.to_ascii_lowercase(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            pace: Pace::new(requests_per_second),
        }
    }
}

impl Api {
    /// Calls as `solarnet` says, with whatever key `signer` holds at that moment.
    #[must_use]
    pub fn new(solarnet: &SolarNet, net: Net, clock: Clock, signer: Signer) -> Self {
        let endpoint = |base: &str| Endpoint::new(base, solarnet.requests_per_second);
        let shared = Shared {
            user: endpoint(&solarnet.user_url),
            query: endpoint(&solarnet.query_url),
            sign_host: solarnet.sign_host.clone(),
            timeout: solarnet.timeout,
        };
        Self { net, clock, signer, shared: Arc::new(shared), pulse: Pulse::unheard() }
    }

    /// The same for a task, whose pulse shows its calls.
    #[must_use]
    pub fn for_task(&self, pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), ..self.clone() }
    }

    /// The client below, for calls to other servers: the authorities and connections are the same.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The server's time as far as it is known: what calls are dated with.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.signing_now()
    }

    /// As [`Caller::call`], signed with a credential that is not (yet) the signer's.
    ///
    /// # Errors
    ///
    /// As [`Caller::call`].
    pub async fn call_as(&self, credential: &Credential, call: Call) -> Result<Answer, CallError> {
        let endpoint = self.endpoint(call.application);
        endpoint.pace.turn(call.priority, &self.pulse).await;
        let mut answer = self.attempt(endpoint, credential, &call).await;
        // The answer taught the clock the server's time: the same call may pass now.
        if answer.as_ref().is_err_and(|e| e.cause == Cause::DateSkew) {
            endpoint.pace.turn(call.priority, &self.pulse).await;
            answer = self.attempt(endpoint, credential, &call).await;
        }
        if answer.as_ref().err().is_none_or(|error| error.cause.shows_token()) {
            self.signer.note_accepted(&credential.token_id, self.clock.signing_now());
        }
        answer
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        credential: &Credential,
        call: &Call,
    ) -> Result<Answer, CallError> {
        let longest = Bound::Within(self.shared.timeout * ATTEMPTS);
        let _calling = self.pulse.enter("calling the server", longest);
        let sent = match self.net.send(&self.signed(endpoint, credential, call)?).await {
            Err(SendError::CertificateDates(_)) if self.net.probe_date(&endpoint.origin).await => {
                self.net.send(&self.signed(endpoint, credential, call)?).await
            }
            sent => sent,
        };
        let incoming = sent.map_err(|error| {
            let (cause, detail) = match error {
                SendError::CertificateDates(detail)
                | SendError::Tls(detail)
                | SendError::OwnCertificate(detail) => (Cause::Tls, detail),
                SendError::Unreachable(detail) | SendError::Content(detail) => {
                    (Cause::Unreachable, detail)
                }
                SendError::TooLong(detail) => (Cause::AnswerTooLong, detail),
            };
            failed(call, cause, Some(format!("{}: {detail}", endpoint.host)))
        })?;
        self.read(endpoint, call, &incoming)
    }

    fn read(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        incoming: &Incoming,
    ) -> Result<Answer, CallError> {
        let now = self.clock.signing_now();
        let received = Received {
            status: incoming.status,
            body: &incoming.body,
            authenticate: incoming.headers.contains_key("www-authenticate"),
            error_message: incoming.header("x-sn-errormessage"),
            rate_limit_retry_after: incoming.header("x-sn-rate-limit-retry-after"),
            retry_after: incoming.header("retry-after"),
            now,
        };
        answer::read(&received).map_err(|(cause, refusal)| {
            if let Some(wait) = refusal.retry_after.and_then(|at| (at - now).to_std().ok()) {
                endpoint.pace.block(wait);
            }
            CallError { refusal: Some(refusal), ..failed(call, cause, None) }
        })
    }

    fn endpoint(&self, application: Application) -> &Endpoint {
        match application {
            Application::User => &self.shared.user,
            Application::Query => &self.shared.query,
        }
    }

    fn signed(
        &self,
        endpoint: &Endpoint,
        credential: &Credential,
        call: &Call,
    ) -> Result<Outgoing, CallError> {
        let mut target = format!("{}{}", endpoint.prefix, call.path);
        if !call.query.is_empty() {
            target.push('?');
            target.push_str(&sign::encode_query(&call.query));
        }
        let date: DateTime<Utc> = self.clock.signing_now();
        let mut headers = vec![
            ("Host".to_owned(), endpoint.host.clone()),
            ("X-SN-Date".to_owned(), sign::http_date(date)),
        ];
        let mut body = Bytes::new();
        if let Some(content) = &call.body {
            headers.push(("Content-Type".to_owned(), content.content_type.clone()));
            body = content.bytes.clone();
        }
        let signed = sign::sign(
            &Request {
                method: call.method.name(),
                target: &target,
                headers: &headers,
                sign_host: self.shared.sign_host.as_deref(),
                also_sign: &[],
                body: &body,
            },
            &credential.token_id,
            &credential.key,
            date,
        )
        .map_err(|error| failed(call, Cause::BadContent, Some(error.to_string())))?;
        headers.remove(0);
        headers.push(("Accept".to_owned(), "application/json".to_owned()));
        headers.push(("Authorization".to_owned(), signed.authorization));
        let url = format!("{}{target}", endpoint.origin);
        Ok(Outgoing { method: call.method.name(), url, headers, body })
    }
}

fn failed(call: &Call, cause: Cause, detail: Option<String>) -> CallError {
    CallError { method: call.method.name(), path: call.path.clone(), cause, refusal: None, detail }
}

impl CallAs for Api {
    fn server_time(&self) -> DateTime<Utc> {
        self.now()
    }

    async fn call_as(&self, credential: &Credential, call: Call) -> Result<Answer, CallError> {
        Self::call_as(self, credential, call).await
    }
}

impl Caller for Api {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let Some(credential) = self.signer.current() else {
            return Err(failed(&call, Cause::NoKey, None));
        };
        // Not the time that is signed with: one answer with a wrong date would end all calls, and with
        // them every chance to hear the right one.
        let now = self.clock.trusted_now().unwrap_or_else(|| self.clock.signing_now());
        if !credential.usable_at(now) {
            let detail = format!("the signing key ended on {}", credential.ends().date_naive());
            return Err(failed(&call, Cause::NoKey, Some(detail)));
        }
        self.call_as(&credential, call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_split_as_the_client_will_send_it() {
        #[rustfmt::skip]
        let cases = [
            ("https://data.solarnetwork.net/solaruser", "https://data.solarnetwork.net", "data.solarnetwork.net", "/solaruser"),
            ("https://Data.example:443/a/b/",           "https://Data.example",          "data.example",          "/a/b"),
            ("http://127.0.0.1:9082",                   "http://127.0.0.1:9082",         "127.0.0.1:9082",        ""),
            ("http://[::1]:80/x",                       "http://[::1]",                  "[::1]",                 "/x"),
        ];
        for (base, origin, host, prefix) in cases {
            let endpoint = Endpoint::new(base, 1.0);
            let got = (endpoint.origin.as_str(), endpoint.host.as_str(), endpoint.prefix.as_str());
            assert_eq!(got, (origin, host, prefix), "{base}");
        }
    }
}
