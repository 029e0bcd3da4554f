//! SolarIn: the servers' side for nodes with a certificate, over HTTPS with mutual TLS.
//!
//! ```text
//!   connection ─▶ verify (who is it) ─▶ http ─▶ here ─▶ batch      bulkCollector.do: statuses, datum, instructions
//!                                                 ├───▶ identity   identity.do, and the address book of pub/config
//!                                                 ├───▶ renew      sec/cert/renew, answered by an instruction
//!                                                 └───▶ metadata   sec/datum/meta/{node}/stream
//! ```
//!
//! It has a port of its own and shares world, ledger, clock and switches with the [`Sim`] that it belongs to.
//! Without a good certificate `/ping`, `/identity.do` and `GET /api/v1/pub/…` answer, everything else is 403.
//! The association of new nodes is SolarUser's, and is in [`associate`].

pub(crate) mod associate;
pub(crate) mod batch;
pub(crate) mod datum;
pub(crate) mod der;
pub(crate) mod identity;
pub(crate) mod node;
pub(crate) mod openssl;
pub(crate) mod renew;
pub(crate) mod verify;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use chrono::Utc;
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::answer::{Answer, Refusal};
use crate::http::{self, Door, lock};
use crate::misbehave::Act;
use crate::request::Incoming;
use crate::server::{Server, StartError};
use crate::sim::{Sim, lock_identity};
use crate::stream::Kind;
use crate::tls::{Authority, Certificate, Identity, TlsError, speaking};
use crate::world::World;
use verify::{Doorman, Peer};

/// Why SolarIn did not start.
#[derive(Debug, thiserror::Error)]
pub enum SolarInError {
    /// Its certificate is not to be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its port is not.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// SolarIn on a port of its own. Dropping the handle stops it.
#[derive(Debug)]
pub struct SolarIn {
    server: Server,
    doorman: Arc<Doorman>,
    shown: Arc<Mutex<Identity>>,
    refuse: Arc<AtomicBool>,
}

impl SolarIn {
    /// Starts on a free port of the loopback interface. The authority issues the server's certificate, and is the
    /// one whose nodes are let in.
    ///
    /// # Errors
    ///
    /// When no port or thread is to be had.
    pub fn start(sim: &Sim, authority: &Authority) -> Result<Self, SolarInError> {
        Self::start_at(sim, authority, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts on an address.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub fn start_at(
        sim: &Sim,
        authority: &Authority,
        address: SocketAddr,
    ) -> Result<Self, SolarInError> {
        let refuse = Arc::new(AtomicBool::new(false));
        let world = sim.shared().clone();
        let doorman = Arc::new(Doorman::new(authority, world.clone(), refuse.clone())?);
        let first = identity(authority, &Certificate::around(Utc::now()), doorman.clone())?;
        let shown = Arc::new(Mutex::new(first));
        let (served, judge) = (shown.clone(), doorman.clone());
        let server = Server::start("solarnet-sim-in", address, move |stream, orders| {
            let accepted = lock_identity(&served).acceptor().accept(stream);
            let (world, doorman) = (world.clone(), judge.clone());
            async move {
                // An error is a client that does not like the certificate, or whose own is refused.
                let Ok(stream) = accepted.await else { return };
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
                let door = Door::Certificates(Peer { doorman, chain });
                http::connection(stream, world, orders, door).await;
            }
        })?;
        let mut world = lock(sim.shared());
        world.network.authority = Some(authority.clone());
        world.network.address = Some(server.address());
        for service in ["solaruser", "solarquery"] {
            world.network.urls.insert(service.to_owned(), format!("{}/{service}", sim.url()));
        }
        drop(world);
        Ok(Self { server, doorman, shown, refuse })
    }

    /// Shows another certificate from the next connection on. Who is let in stays.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn show(&self, authority: &Authority, wanted: &Certificate) -> Result<(), SolarInError> {
        *lock_identity(&self.shown) = identity(authority, wanted, self.doorman.clone())?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// `https://host:port/solarin`, as an agent's configuration wants it.
    pub fn url(&self) -> String {
        format!("https://{}/solarin", self.address())
    }

    /// Whether a certificate that is out of date, or of another authority, ends the handshake instead of being
    /// answered with 403.
    pub fn refuse_at_handshake(&self, refuse: bool) {
        self.refuse.store(refuse, Ordering::Relaxed);
    }

    /// Goes away: the port refuses connections, open ones are cut. The world goes on.
    pub fn go_down(&self) {
        self.server.go_down();
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    ///
    /// When the port cannot be listened on.
    pub fn come_back(&self) -> std::io::Result<()> {
        self.server.come_back()
    }
}

/// What shows this certificate and leaves clients to the doorman.
fn identity(
    authority: &Authority,
    wanted: &Certificate,
    doorman: Arc<Doorman>,
) -> Result<Identity, TlsError> {
    let shown = authority.certify(wanted)?;
    let key = PrivateKeyDer::Pkcs8(shown.key.serialize_der().into());
    let config = speaking(wanted.versions)?
        .with_client_cert_verifier(doorman)
        .with_single_cert(vec![shown.certificate.der().clone()], key)?;
    Ok(Identity(TlsAcceptor::from(Arc::new(config))))
}

impl World {
    /// Answers a request to SolarIn. `act` is what is to be spoilt on the way.
    pub(crate) fn answer_node(
        &mut self,
        request: &Incoming,
        peer: &Peer,
        act: Option<&Act>,
    ) -> Answer {
        self.advance();
        self.route_node(request, peer, act).unwrap_or_else(Answer::from)
    }

    fn route_node(
        &mut self,
        request: &Incoming,
        peer: &Peer,
        act: Option<&Act>,
    ) -> Result<Answer, Refusal> {
        let path = request.path().strip_prefix("/solarin").ok_or_else(Refusal::not_found)?;
        let path = path.strip_prefix("/u").filter(|path| path.starts_with('/')).unwrap_or(path);
        let method = request.method.as_str();
        match (method, path) {
            ("GET", "/ping") => return Ok(Answer::data(json!({ "allGood": true }))),
            ("GET", "/identity.do") => return self.identity(request),
            ("GET", "/api/v1/pub/config") => return Ok(self.address_book()),
            _ => {}
        }
        let now = self.clock.now();
        let known = |node: &i64| self.nodes.contains_key(node);
        let node = peer.node(now).filter(known).ok_or_else(Refusal::role_missing)?;
        match (method, path) {
            ("POST", "/bulkCollector.do") => self.collect(request, node, act),
            (_, "/bulkCollector.do") => Err(Refusal::wrong_method(method)),
            ("POST", "/api/v1/sec/cert/renew") => self.renew(request, node, peer),
            ("GET", path) => match path.strip_prefix("/api/v1/sec/datum/meta/") {
                Some(rest) => self.stream_metadata(request, node, rest),
                None => Err(Refusal::not_found()),
            },
            _ => Err(Refusal::not_found()),
        }
    }

    /// `{node}/stream?sourceId=…&kind=…`; the real path knows nodes and locations, a node only itself.
    fn stream_metadata(
        &self,
        request: &Incoming,
        node: i64,
        path: &str,
    ) -> Result<Answer, Refusal> {
        let object = path.strip_suffix("/stream").ok_or_else(Refusal::not_found)?;
        let object: i64 = object.parse().map_err(|_| Refusal::illegal_argument("not a node ID"))?;
        let parameters = request.parameters();
        let parameter =
            |name: &str| parameters.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str());
        let kind = match parameter("kind") {
            None | Some("Node") => Kind::Node,
            Some("Location") => Kind::Location,
            Some(other) => return Err(Refusal::illegal_argument(format!("no kind {other}"))),
        };
        if kind == Kind::Node && object != node {
            return Err(Refusal::access_denied());
        }
        let source = parameter("sourceId").ok_or_else(|| {
            Refusal::invalid("Required request parameter 'sourceId' is not present")
        })?;
        let stream = self.ledger.streams.get(kind, object, source);
        stream.map(|stream| Answer::data(stream.to_json())).ok_or_else(Refusal::unknown_object)
    }
}
