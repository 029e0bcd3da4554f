//! SolarNetwork as a node with a certificate meets it: SolarIn and the broker, on the world of a `Sim`.
//!
//! ```text
//! let network = Network::new();                                 SolarIn; with_broker() also runs a mosquitto
//! let agent = Agent::new(&(network.config("bulk") + &link(&site) + &meter(1, SOURCE, "200ms")));
//! network.give_certificate(&agent);
//! ```

use std::{
    fs::{self, DirBuilder},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

use chrono::Utc;
use solarnet_sim::{Authority, Broker, NodeCertificate, NodeIdentity, Sim, SolarIn};
use tempfile::TempDir;

use super::agent::{Agent, NODE, seed};

/// The servers, and the authority that both they and the node have their certificates from.
pub(crate) struct Network {
    pub(crate) sim: Sim,
    pub(crate) authority: Authority,
    pub(crate) solarin: SolarIn,
    broker: Option<Broker>,
    folder: TempDir,
}

impl Network {
    /// Without a broker.
    pub(crate) fn new() -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let authority = Authority::new().expect("an authority");
        let solarin = SolarIn::start(&sim, &authority).expect("SolarIn");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
        Self { sim, authority, solarin, broker: None, folder }
    }

    /// With a broker, whose address the network identity document tells.
    pub(crate) fn with_broker() -> Self {
        let network = Self::new();
        let broker = Broker::start(&network.sim, &network.authority).expect("a broker");
        Self { broker: Some(broker), ..network }
    }

    /// The broker of [`Network::with_broker`].
    pub(crate) fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("a network with a broker")
    }

    /// The authority's certificate, for `ca_file`.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The sections that every configuration needs, as quick as they may be, with this `upload.via`.
    pub(crate) fn config(&self, via: &str) -> String {
        self.config_through(self.solarin.address(), via)
    }

    /// The same with SolarIn reached at another address, such as that of a `Wire`.
    pub(crate) fn config_through(&self, solarin: SocketAddr, via: &str) -> String {
        format!(
            r#"
[node]
id = {NODE}

[solarnet]
in_url = "https://{solarin}/solarin"
user_url = "{user}"
query_url = "{query}"
ca_file = "{ca}"
request_rate = "50/s"
timeout = "2s"

[upload]
via = "{via}"
every = "1s"

[queue]
at_risk = "50ms"

[instructions]
poll_fastest = "200ms"
poll_slowest = "200ms"
result_source = "/site/instructions"
"#,
            user = self.sim.user_url(),
            query = self.sim.query_url(),
            ca = self.ca_file().display(),
        )
    }

    /// A new certificate of the node, good for now.
    pub(crate) fn certificate(&self) -> NodeIdentity {
        self.issue(&NodeCertificate::around(NODE, Utc::now()))
    }

    /// A new certificate like this.
    pub(crate) fn issue(&self, wanted: &NodeCertificate) -> NodeIdentity {
        self.authority.issue_node(wanted).expect("a certificate")
    }

    /// `identity import` of a new certificate.
    pub(crate) fn give_certificate(&self, agent: &Agent) {
        self.import(agent, &self.certificate());
    }

    /// `identity import` of this one.
    pub(crate) fn import(&self, agent: &Agent, identity: &NodeIdentity) {
        let pem = identity.chain_pem() + &identity.key_pem();
        let file = agent.private_file("node.pem", &pem);
        agent.ask(&["identity", "import", file.to_str().expect("text")]);
        fs::remove_file(file).expect("the certificate is removed");
    }
    /// Puts a certificate where `identity import` would not.
    pub(crate) fn smuggle(&self, agent: &Agent, identity: &NodeIdentity) {
        let folder = agent.state_dir().join("credentials");
        // As the agent makes it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.expect("a folder");
        let text = identity.key_pem() + &identity.chain_pem();
        let file = agent.private_file("smuggled", &text);
        fs::rename(file, folder.join("node.pem")).expect("moved");
    }
}
