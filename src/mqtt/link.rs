//! One connection to a broker: TCP, TLS, CONNECT, and why it is over.
//!
//! Each phase of opening has [`PHASE`] of its own. After a failure nothing of the connection is left.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::{AlertDescription, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::packet::{self, Incoming, Malformed, Outgoing, Refusal, Terms};
use crate::{
    domain::BrokerUrl,
    net::{Tls, is_about_dates},
};

/// How long each phase of opening a connection may take.
const PHASE: Duration = Duration::from_secs(10);

/// Addresses of a host that are tried, at most.
const ADDRESSES: usize = 8;

/// What is read at a time.
const READ: usize = 4096;

/// How a broker that refuses a certificate may end as well: its alert is lost with the connection.
const EARLY: &str = "before the session began, as brokers do that refuse a certificate";

/// How a port ends that speaks TLS where we do not.
const WANTS_TLS: &str = "before the session began";

/// How a port ends that speaks no TLS where we do, and with TLS 1.2 a broker that refuses a certificate.
const WANTS_NO_TLS: &str = "during the TLS handshake";

/// A byte stream in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// No TCP connection, or it broke.
    #[error("the broker is not reached: {0}")]
    Unreachable(String),
    /// A phase of opening took too long.
    #[error("the broker did not answer in time: {0}")]
    Late(&'static str),
    /// The broker's certificate is fine but for its dates, as far as the clock can tell.
    #[error(
        "the broker's certificate is not valid now ({0}): check the clock of this machine, or the broker's certificate"
    )]
    Dates(String),
    /// The broker's certificate, or TLS otherwise, was not accepted.
    #[error("the broker is not trusted: {0}")]
    Untrusted(String),
    /// Whoever answers there does not speak TLS.
    #[error("no TLS is spoken there: {0}")]
    NoTls(String),
    /// What is spoken there is too old.
    #[error("the broker does not speak TLS 1.2 or 1.3 as we do: {0}")]
    OldTls(String),
    /// The broker does not accept our certificate.
    #[error(
        "the broker does not accept this node's certificate: {0}; see `solarnode-agent identity check`"
    )]
    Certificate(String),
    /// The broker does not let us in.
    #[error("the broker refused the session: {0}{hint}", hint = is_it_ours(.0))]
    Refused(Refusal),
    /// Another client has come with our ID.
    #[error(
        "another client with the ID of this node took the session over: two programs run with the same node's certificate, stop one of them"
    )]
    TakenOver,
    /// It was closed again and again.
    #[error(
        "the broker closes the connection again and again soon after it let this node in: most likely another program runs with the same node's certificate, stop one of them; or the link breaks"
    )]
    Rival,
    /// The broker ended the session with a word.
    #[error("the broker ended the session: {0}")]
    Ended(Refusal),
    /// The broker ended the session over what its rules forbid.
    #[error(
        "the broker ended the session: not authorized; its rules must let this node write and read its topics"
    )]
    Forbidden,
    /// It was closed without a word.
    #[error("the connection was closed {0}")]
    Closed(&'static str),
    /// The broker owes an answer for too long.
    #[error("the broker is silent: {0} was not answered")]
    Silent(&'static str),
    /// What came is no MQTT, or longer than we take.
    #[error("what the broker sends is not understood: {0}")]
    Garbled(String),
}

impl LinkError {
    /// The broker ended the session with this word.
    #[must_use]
    pub(super) fn ended(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TakenOver => Self::TakenOver,
            Refusal::NotAuthorized => Self::Forbidden,
            refusal => Self::Ended(refusal),
        }
    }

    /// One of a fixed set of words.
    #[must_use]
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Closed(_) | Self::Ended(_) => "unreachable",
            Self::Late(_) | Self::Silent(_) => "silent",
            Self::Dates(_) => "certificate_dates",
            Self::Untrusted(_) | Self::NoTls(_) | Self::OldTls(_) => "untrusted",
            Self::Certificate(_) => "certificate_refused",
            Self::Refused(_) | Self::Forbidden => "refused",
            Self::TakenOver => "taken_over",
            Self::Rival => "rival",
            Self::Garbled(_) => "garbled",
        }
    }

    /// The same with what to look at in the section of the configuration that the broker has.
    #[must_use]
    pub(super) fn in_section(&self, section: &str) -> String {
        match self {
            Self::Untrusted(_) => format!(
                "{self}; `{section}.ca_file` names authorities beside the system's, `{section}.server_name` the name that the certificate must have"
            ),
            Self::NoTls(_) => format!("{self}; look at `{section}.url`"),
            Self::Closed(how) if *how == WANTS_TLS => format!(
                "{self}: look at `{section}.url`, which begins with mqtts:// where TLS is spoken"
            ),
            Self::Closed(how) if *how == WANTS_NO_TLS => format!(
                "{self}: either the broker refuses this node's certificate, see `solarnode-agent identity check`, or no TLS is spoken there, and `{section}.url` has to begin with mqtt://"
            ),
            error => error.to_string(),
        }
    }

    /// Whether it stays so until a person changes something.
    #[must_use]
    pub(super) fn needs_a_person(&self) -> bool {
        match self {
            Self::Untrusted(_)
            | Self::NoTls(_)
            | Self::OldTls(_)
            | Self::Certificate(_)
            | Self::Refused(Refusal::NotAuthorized | Refusal::Identity(_) | Refusal::Version)
            | Self::Forbidden
            | Self::TakenOver => true,
            Self::Unreachable(_)
            | Self::Late(_)
            | Self::Dates(_)
            | Self::Refused(Refusal::TakenOver | Refusal::Unheard | Refusal::Other(_))
            | Self::Ended(_)
            | Self::Rival
            | Self::Closed(_)
            | Self::Silent(_)
            | Self::Garbled(_) => false,
        }
    }
}

/// What to look at where a session was refused for who we are.
fn is_it_ours(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotAuthorized | Refusal::Identity(_) => "; is the certificate that of this node?",
        Refusal::TakenOver | Refusal::Version | Refusal::Unheard | Refusal::Other(_) => "",
    }
}

impl From<Malformed> for LinkError {
    fn from(malformed: Malformed) -> Self {
        Self::Garbled(malformed.to_string())
    }
}

/// Who connects, and to whom.
#[derive(Debug, Clone)]
pub(super) struct Whom {
    /// Where the broker is.
    pub(super) url: BrokerUrl,
    /// The name that its certificate must have, where it is not the host.
    pub(super) server_name: Option<String>,
    /// Our ID.
    pub(super) client_id: String,
    /// Our name, where one is wanted.
    pub(super) username: Option<&'static str>,
    /// The longest silence.
    pub(super) keep_alive: Duration,
}

/// A session that has begun.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    received: BytesMut,
    out: BytesMut,
    /// Whether something may be left in the buffers below `out`.
    unflushed: bool,
}

impl Link {
    /// Connects, and begins a session.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from that.
    pub(super) async fn open(whom: &Whom, tls: &Tls) -> Result<(Self, Terms), LinkError> {
        let BrokerUrl { host, port, secure } = &whom.url;
        let found = timeout(PHASE, lookup_host((host.as_str(), *port))).await;
        let found = found.map_err(|_| LinkError::Late("name lookup"))?;
        let found = found.map_err(|error| LinkError::Unreachable(error.to_string()))?;
        let tcp = connect(found.take(ADDRESSES), PHASE).await?;
        // Packets are small and complete.
        tcp.set_nodelay(true).map_err(|error| LinkError::Unreachable(error.to_string()))?;
        let stream: Box<dyn Stream> = if *secure {
            let name = whom.server_name.as_ref().unwrap_or(host);
            let name = ServerName::try_from(name.clone())
                .map_err(|_| LinkError::Untrusted(format!("{name} is no name of a server")))?;
            // A configuration of its own: a session taken up again would show the certificate of then.
            let connector = TlsConnector::from(Arc::new(tls.config()));
            let shaken = timeout(PHASE, connector.connect(name, tcp));
            let shaken = shaken.await.map_err(|_| LinkError::Late("TLS handshake"))?;
            let shaken = shaken.map_err(|error| closed(of_io(&error), WANTS_NO_TLS))?;
            let tls = shaken.get_ref().1;
            let version = tls.protocol_version().and_then(|version| version.as_str());
            let suite = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
            debug!(broker = %whom.url, version, suite, "TLS agreed on");
            Box::new(shaken)
        } else {
            Box::new(tcp)
        };
        let mut link = Self::over(stream);
        let terms = timeout(PHASE, link.begin(whom));
        let terms = terms.await.map_err(|_| LinkError::Late("MQTT connection"))??;
        Ok((link, terms))
    }

    /// Over this line, on which nothing was said yet.
    pub(super) fn over(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (received, out) = (BytesMut::with_capacity(READ), BytesMut::new());
        Self { reader, writer, received, out, unflushed: false }
    }

    async fn begin(&mut self, whom: &Whom) -> Result<Terms, LinkError> {
        self.push(Outgoing::Connect {
            client_id: whom.client_id.clone(),
            username: whom.username,
            keep_alive_secs: u16::try_from(whom.keep_alive.as_secs()).unwrap_or(u16::MAX),
        })?;
        loop {
            match self.next()? {
                Some(Incoming::Connected(terms)) => return Ok(terms),
                Some(Incoming::Refused(refusal)) => return Err(LinkError::Refused(refusal)),
                Some(_) => return Err(LinkError::Garbled("something before a CONNACK".into())),
                // What the broker says of our certificate may come before it has read anything.
                None => {
                    let how = if whom.url.secure { EARLY } else { WANTS_TLS };
                    self.turn().await.map_err(|error| closed(error, how))?;
                }
            }
        }
    }

    /// Takes a packet out of what was received.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, LinkError> {
        Ok(packet::decode(&mut self.received)?)
    }

    /// Puts a packet into what is to be sent.
    ///
    /// # Errors
    ///
    /// If it is longer than any packet can be.
    pub(super) fn push(&mut self, packet: Outgoing) -> Result<(), LinkError> {
        packet::encode(packet, &mut self.out)?;
        self.unflushed = true;
        Ok(())
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub(super) fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Receives, or sends what is to be sent; whichever is possible first. Given up meanwhile, nothing of
    /// either is lost.
    ///
    /// # Errors
    ///
    /// If the connection is over.
    pub(super) async fn turn(&mut self) -> Result<(), LinkError> {
        let Self { reader, writer, received, out, unflushed } = self;
        if !*unflushed {
            return read(reader, received).await;
        }
        tokio::select! {
            done = read(reader, received) => done,
            done = write(writer, out, unflushed) => done,
        }
    }

    /// Ends the session as intended, if that is possible soon.
    pub(super) async fn close(mut self) {
        let ending = async {
            self.push(Outgoing::Disconnect)?;
            self.write().await?;
            self.writer.shutdown().await.map_err(|error| of_io(&error))
        };
        // Who does not hear it will notice.
        drop(timeout(Duration::from_secs(1), ending).await);
    }

    async fn write(&mut self) -> Result<(), LinkError> {
        write(&mut self.writer, &mut self.out, &mut self.unflushed).await
    }
}

/// Connects to the first of a host's addresses that answers. Each has its own time: one that leads nowhere, as that
/// of IPv6 often does, must not hide the others.
async fn connect(
    addresses: impl Iterator<Item = SocketAddr>,
    each: Duration,
) -> Result<TcpStream, LinkError> {
    let mut failed = LinkError::Unreachable("its name has no address".to_owned());
    for address in addresses {
        failed = match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => LinkError::Unreachable(error.to_string()),
            Err(_) => LinkError::Late("TCP connection"),
        };
    }
    Err(failed)
}

async fn read(
    reader: &mut ReadHalf<Box<dyn Stream>>,
    received: &mut BytesMut,
) -> Result<(), LinkError> {
    received.reserve(READ);
    match reader.read_buf(received).await {
        Ok(0) => Err(LinkError::Closed("without a word")),
        Ok(_) => Ok(()),
        Err(error) => Err(of_io(&error)),
    }
}

async fn write(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    out: &mut BytesMut,
    unflushed: &mut bool,
) -> Result<(), LinkError> {
    while !out.is_empty() {
        writer.write_buf(out).await.map_err(|error| of_io(&error))?;
    }
    writer.flush().await.map_err(|error| of_io(&error))?;
    *unflushed = false;
    Ok(())
}

/// Says how a connection was closed that was closed.
fn closed(error: LinkError, how: &'static str) -> LinkError {
    match error {
        LinkError::Closed(_) => LinkError::Closed(how),
        error => error,
    }
}

/// Tells TLS trouble from the rest. What the other side says of our certificate arrives as an alert, with
/// TLS 1.3 only when something is read.
fn of_io(error: &io::Error) -> LinkError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(tls) = tls else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => LinkError::Closed("without a word"),
            _ => LinkError::Unreachable(error.to_string()),
        };
    };
    match tls {
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => {
                LinkError::Certificate(format!("TLS alert {alert:?}"))
            }
            AlertDescription::ProtocolVersion => LinkError::OldTls(format!("TLS alert {alert:?}")),
            alert => LinkError::Untrusted(format!("it sent the TLS alert {alert:?}")),
        },
        rustls::Error::PeerIncompatible(why) => LinkError::OldTls(format!("{why:?}")),
        rustls::Error::InvalidMessage(invalid) => LinkError::NoTls(format!("{invalid:?}")),
        error if is_about_dates(error) => LinkError::Dates(error.to_string()),
        error => LinkError::Untrusted(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn a_refusal_asks_for_the_certificate_only_where_it_may_be_to_blame() {
        let text = |refusal| LinkError::Refused(refusal).to_string();
        assert!(text(Refusal::NotAuthorized).ends_with("that of this node?"));
        let busy = Refusal::Other("server busy".to_owned());
        assert_eq!(text(busy), "the broker refused the session: server busy");
    }

    #[test]
    fn a_broker_with_an_old_tls_is_not_called_one_that_is_not_trusted() {
        let alert = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
        let error = of_io(&io::Error::other(alert));
        assert_eq!(error, LinkError::OldTls("TLS alert ProtocolVersion".to_owned()));
        assert!(!error.in_section("mqtt").contains("ca_file"), "{error}");
    }

    #[test]
    fn a_broker_that_ends_the_session_over_its_rules_needs_a_person() {
        let forbidden = LinkError::ended(Refusal::NotAuthorized);
        assert!(forbidden.needs_a_person() && forbidden.to_string().contains("its rules"));
        let down = LinkError::ended(Refusal::Other("server shutting down".to_owned()));
        assert!(!down.needs_a_person());
    }

    #[tokio::test]
    async fn an_address_that_leads_nowhere_does_not_hide_the_next_one() {
        let here = (Ipv4Addr::LOCALHOST, 0).into();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(here).expect("a port");
        // Whoever comes when its queue is full hears nothing.
        let full = socket.listen(0).expect("a listener");
        let nowhere = full.local_addr().expect("an address");
        let mut queue = Vec::new();
        while let Ok(Ok(tcp)) =
            timeout(Duration::from_millis(500), TcpStream::connect(nowhere)).await
        {
            queue.push(tcp);
        }
        let good = TcpListener::bind(here).await.expect("a listener");
        let addresses = [nowhere, good.local_addr().expect("an address")];
        let each = Duration::from_secs(2);
        let tcp = connect(addresses.into_iter(), each).await.expect("a connection");
        assert_eq!(tcp.peer_addr().expect("an address"), addresses[1]);
        let late = connect([nowhere].into_iter(), each).await.err();
        assert_eq!(late, Some(LinkError::Late("TCP connection")));
    }
}
