//! SolarIn over the wire, as nodes with a certificate meet it.

mod batch;
mod doors;
mod identity;
mod mqtt;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use serde_json::Value;
use solarnet_sim::{Authority, NodeCertificate, NodeIdentity, Seed, Sim, SolarIn};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Answer, exchange};
use crate::{NODE, SECRET, TOKEN, simple};

const BULK: &str = "/solarin/bulkCollector.do";

/// A simulator with SolarIn, and a node that calls it.
struct Bench {
    sim: Sim,
    authority: Authority,
    solarin: SolarIn,
    node: Node,
}

impl Bench {
    fn new() -> Self {
        Self::with(simple())
    }

    fn with(sim: Sim) -> Self {
        let authority = Authority::new().unwrap();
        let solarin = SolarIn::start(&sim, &authority).unwrap();
        let wanted = NodeCertificate::around(NODE, Utc::now());
        let node = Node::new(&solarin, &authority, Some(&authority.issue_node(&wanted).unwrap()));
        Self { sim, authority, solarin, node }
    }

    /// With a second node, 124.
    fn of_two() -> Self {
        let mut seed = Seed::simple(1, NODE, TOKEN, SECRET);
        seed.users[0].nodes.push(124);
        Self::with(Sim::start(seed).unwrap())
    }

    /// Somebody who shows this.
    fn caller(&self, wanted: &NodeCertificate) -> Node {
        let identity = self.authority.issue_node(wanted).unwrap();
        Node::new(&self.solarin, &self.authority, Some(&identity))
    }

    fn post(&self, body: &str) -> Value {
        let answer = self.node.post(BULK, "application/json", body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200);
        answer.json()
    }
}

/// A client with a certificate, or without one.
struct Node {
    address: std::net::SocketAddr,
    config: Arc<ClientConfig>,
}

impl Node {
    fn new(solarin: &SolarIn, authority: &Authority, identity: Option<&NodeIdentity>) -> Self {
        let config = client_config(authority, identity);
        Self { address: solarin.address(), config: Arc::new(config) }
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = ClientConnection::new(self.config.clone(), name).unwrap();
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut all = vec![("host", self.address.to_string())];
        all.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        exchange(StreamOwned::new(tls, stream), method, target, &all, body)
    }

    fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[("accept", "application/json")], b"").unwrap()
    }

    fn post(&self, target: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        self.send("POST", target, &[("content-type", content_type)], body)
    }
}

/// Trusts the authority, and shows the certificate of a node, or none.
fn client_config(authority: &Authority, identity: Option<&NodeIdentity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let Some(identity) = identity else { return config.with_no_client_auth() };
    let chain = identity.chain_pem();
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).unwrap();
    config.with_client_auth_cert(chain, key).unwrap()
}
