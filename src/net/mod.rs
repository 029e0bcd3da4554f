//! The one HTTPS client: roots, time-outs, user agent, and the server's clock.
//!
//! Certificates are verified at the time the agent believes in ([`crate::clock`]), which may be the
//! server's rather than the system's. Where nothing is known yet and a certificate fails for its
//! dates only, [`Net::probe_date`] finds the time out.
//!
//! This module knows nothing of SolarNetwork; redirects are not followed, because a signature covers
//! host and path.

mod file;
mod tls;
mod verifier;

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::HeaderMap;
use rustls::client::ResolvesClientCert;
use tracing::info;

use crate::{
    clock::{Clock, Trust, build_date},
    domain::{Chain, utc},
};
pub use file::Content;
pub use tls::Tls;
pub use verifier::is_about_dates;
use verifier::{Dates, Verifier};

/// The longest answer that is read. SolarNetwork's answers to our calls are a few kilobytes; a
/// hundred pending instructions some hundred.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A step of the clock that is not worth another look at the certificate.
const SMALL_STEP: TimeDelta = TimeDelta::minutes(1);

/// The `User-Agent` of every request that does not name another one.
pub const USER_AGENT: &str = concat!("solarnode-agent/", env!("CARGO_PKG_VERSION"));

/// Why the client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The file of extra authorities cannot be used.
    #[error("`{key}` {}: {reason}", path.display())]
    CaFile {
        /// Where the configuration names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(String),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made")]
    Client(#[source] reqwest::Error),
}

impl NetError {
    /// What is wrong, said of the key that it is about, beside which the key needs no name.
    #[must_use]
    pub fn of_its_key(&self) -> String {
        match self {
            Self::CaFile { path, reason, .. } => format!("{}: {reason}", path.display()),
            other => Chain(other).to_string(),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The certificate is fine but for its dates, as far as the clock can tell.
    CertificateDates(String),
    /// The server's certificate, or TLS otherwise, was not accepted.
    Tls(String),
    /// The server did not accept our certificate, or wants one.
    OwnCertificate(String),
    /// No connection, a break, or no complete answer in time.
    Unreachable(String),
    /// The answer is longer than any that is read.
    TooLong(String),
    /// What was to be sent could not be read.
    Content(String),
}

/// One HTTP request, ready to go.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Method name.
    pub method: &'static str,
    /// The whole URL, already encoded.
    pub url: String,
    /// Headers; `Host` comes from the URL.
    pub headers: Vec<(String, String)>,
    /// The body, empty for none.
    pub body: Bytes,
}

/// One HTTP answer, whole.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Incoming {
    /// The first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// When the answer was written, by the server's clock; not that of a cache in between.
    #[must_use]
    pub fn date(&self) -> Option<DateTime<Utc>> {
        if self.headers.contains_key("age") {
            return None;
        }
        let date = DateTime::parse_from_rfc2822(self.header("date")?).ok()?;
        Some(date.with_timezone(&Utc))
    }
}

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Net {
    client: reqwest::Client,
    verifier: Arc<Verifier>,
    /// As `client`, but for the dates of certificates.
    undated: reqwest::Client,
    undated_verifier: Arc<Verifier>,
    clock: Clock,
    /// What new connections are made with.
    tls: Tls,
    timeout: Duration,
}

impl Net {
    /// Loads the system's authorities, and those of `ca_file` beside them.
    ///
    /// # Errors
    ///
    /// If `ca_file` has no certificate in it, or the client cannot be made.
    pub fn new(
        ca_file: Option<&PathBuf>,
        timeout: Duration,
        clock: Clock,
    ) -> Result<Self, NetError> {
        Self::build(ca_file, timeout, clock, None)
    }

    /// The same for servers that want to see a certificate: they are shown that of `identity`.
    ///
    /// # Errors
    ///
    /// As [`Net::new`].
    pub fn with_identity(
        ca_file: Option<&PathBuf>,
        timeout: Duration,
        clock: Clock,
        identity: Arc<dyn ResolvesClientCert>,
    ) -> Result<Self, NetError> {
        Self::build(ca_file, timeout, clock, Some(identity))
    }

    fn build(
        ca_file: Option<&PathBuf>,
        timeout: Duration,
        clock: Clock,
        identity: Option<Arc<dyn ResolvesClientCert>>,
    ) -> Result<Self, NetError> {
        let tls = Tls::new("solarnet.ca_file", ca_file, clock.clone(), identity)?;
        Self::connecting(tls, timeout, clock)
    }

    /// The same with connections of its own: those that are open belong to the certificate that was shown on
    /// them, and so do the TLS sessions that would be taken up again.
    ///
    /// # Errors
    ///
    /// If the client cannot be made.
    pub fn renewed(&self) -> Result<Self, NetError> {
        Self::connecting(self.tls.clone(), self.timeout, self.clock.clone())
    }

    fn connecting(tls: Tls, timeout: Duration, clock: Clock) -> Result<Self, NetError> {
        let undated_verifier = tls.verifier(Dates::Ignored);
        let verifier = tls.verifier(Dates::Checked);
        let client = |verifier: Arc<Verifier>, idle_connections| {
            let config = tls.config_with(verifier);
            reqwest::Client::builder()
                .tls_backend_preconfigured(config)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(timeout)
                .http1_only()
                .pool_max_idle_per_host(idle_connections)
                .build()
                .map_err(NetError::Client)
        };
        Ok(Self {
            client: client(verifier.clone(), usize::MAX)?,
            verifier,
            // Each question for the time sees the certificate that is shown now.
            undated: client(undated_verifier.clone(), 0)?,
            undated_verifier,
            clock,
            tls,
            timeout,
        })
    }

    /// Sends one request and reads its whole answer, whose `Date` teaches the clock.
    ///
    /// Where nothing else speaks for that `Date` yet, the server is asked once more for it, over another
    /// connection: behind a load balancer that is often another machine.
    ///
    /// # Errors
    ///
    /// If there is no complete answer within the timeout.
    pub async fn send(&self, request: &Outgoing) -> Result<Incoming, SendError> {
        let answer = exchange(&self.client, request).await?;
        if let Some(date) = answer.date() {
            if self.can_be(date, &request.url) {
                self.clock.learn_server(date);
            } else {
                self.clock.refuse(date);
            }
        }
        if self.clock.doubts() {
            self.ask_date(&request.url).await;
        }
        Ok(answer)
    }

    /// Sends one request and reads its whole answer, from a server whose time is no business of the clock.
    ///
    /// # Errors
    ///
    /// If there is no complete answer within the timeout.
    pub async fn send_untimed(&self, request: &Outgoing) -> Result<Incoming, SendError> {
        exchange(&self.client, request).await
    }

    /// Whether an answer may move the clock there: not to where the certificate that vouched for it
    /// would be refused, or no later call could set it right again.
    fn can_be(&self, date: DateTime<Utc>, url: &str) -> bool {
        (date - self.clock.believed_now()).abs() <= SMALL_STEP
            || !url.starts_with("https:")
            || self.verifier.last_chain_is_valid_at(date)
    }

    /// Finds out the time from a server whose certificate fails only for its dates.
    ///
    /// One unsigned request; chain and name are verified, dates are not. The answer's `Date` counts
    /// only if it is not before this program was built nor before any time known earlier, and lies
    /// inside the validity of that very certificate chain. Returns whether the clock learnt it.
    pub async fn probe_date(&self, url: &str) -> bool {
        if self.clock.trust() != Trust::Unknown {
            return false;
        }
        let Some(date) = self.ask_date(url).await else { return false };
        info!(
            event = "clock.probed",
            date = utc(date),
            "time learnt from a verified certificate's server"
        );
        true
    }

    /// Asks for nothing but the `Date`, without a signature and without regard to the dates of the
    /// certificate, which the answer has to fit.
    async fn ask_date(&self, url: &str) -> Option<DateTime<Utc>> {
        let after_scheme = url.find("://")? + 3;
        let path = url[after_scheme..].find('/').map_or(url.len(), |at| after_scheme + at);
        let request = Outgoing {
            method: "HEAD",
            url: url[..path].to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let date = exchange(&self.undated, &request).await.ok()?.date()?;
        let floor = build_date().max(self.clock.latest_known().unwrap_or(DateTime::UNIX_EPOCH));
        let secure = url.starts_with("https:");
        if secure && (date < floor || !self.undated_verifier.last_chain_is_valid_at(date)) {
            self.clock.refuse(date);
            return None;
        }
        self.clock.learn_server(date);
        Some(date)
    }
}

async fn exchange(client: &reqwest::Client, request: &Outgoing) -> Result<Incoming, SendError> {
    let mut builder = prepare(client, request)?;
    if !request.body.is_empty() {
        builder = builder.body(request.body.clone());
    }
    answer_of(builder.send().await.map_err(|e| classify(&e))?).await
}

/// A request without its body.
fn prepare(
    client: &reqwest::Client,
    request: &Outgoing,
) -> Result<reqwest::RequestBuilder, SendError> {
    let method = reqwest::Method::from_bytes(request.method.as_bytes())
        .map_err(|e| SendError::Unreachable(e.to_string()))?;
    let mut builder = client.request(method, &request.url);
    for (name, value) in &request.headers {
        // The builder keeps what is wrong with a header until it sends.
        builder = builder.header(name, value);
    }
    Ok(builder)
}

async fn answer_of(mut response: reqwest::Response) -> Result<Incoming, SendError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| classify(&e))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            let limit = MAX_ANSWER_BYTES >> 20;
            return Err(SendError::TooLong(format!("the answer is longer than {limit} MiB")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Incoming {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: body.freeze(),
    })
}

/// Whether the server's alert is about what we showed it, or did not (RFC 8446, 6.2).
pub(crate) fn refuses_our_certificate(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let rustls::Error::AlertReceived(alert) = error else { return false };
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

/// Tells TLS trouble from the rest, by looking for rustls's own error among the causes.
fn classify(error: &reqwest::Error) -> SendError {
    let mut deepest = error.to_string();
    // The address may hold what is nobody's business in a log; whoever asked knows it.
    if let Some(at) = deepest.find(" for url (") {
        deepest.truncate(at);
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(e) = cause {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return if is_about_dates(tls) {
                SendError::CertificateDates(tls.to_string())
            } else if refuses_our_certificate(tls) {
                SendError::OwnCertificate(tls.to_string())
            } else {
                SendError::Tls(tls.to_string())
            };
        }
        let io = e.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) {
            // TLS has words of its own for it, for those who write programs.
            "the connection was closed before the answer was complete".clone_into(&mut deepest);
            break;
        }
        deepest = e.to_string();
        // What an I/O error wraps is not its source, and may be another I/O error.
        let wrapped = io.and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => e.source(),
        };
    }
    if error.is_timeout() {
        deepest = "no answer in time".to_owned();
    }
    SendError::Unreachable(deepest)
}
