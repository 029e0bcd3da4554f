//! MQTT: a real mosquitto, and the server's collector behind it.
//!
//! ```text
//!  node ─ TLS, client certificate ─▶ mosquitto ─ loopback ─▶ collector ─▶ the world of a Sim
//!          its own two topics only              everything
//! ```
//!
//! The broker is the program of Debian's package `mosquitto`, so that the agent meets a broker that nobody here
//! wrote. It can be killed, stopped and started again on the same ports. Of the certificate's subject it makes the user,
//! whose topics follow from the `UID` in it. It does not enforce that the client's ID is the node's, which SolarNetwork
//! does; [`Broker::sessions`] tells how clients came.

pub(crate) mod cbor;
mod collector;
mod intake;
mod packet;

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Shared, lock};
use crate::port::Port;
use crate::sim::Sim;
use crate::tls::{Authority, Certificate, TlsError, Versions};
use crate::world::World;
pub use collector::FluxMessage;
use collector::{Collector, Role};

/// How long the broker may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The program is not there.
    #[error("mosquitto cannot be run (package mosquitto)")]
    NoMosquitto(#[source] io::Error),
    /// It ended, or does not listen.
    #[error("mosquitto does not serve; it says: {0}")]
    Silent(String),
    /// Its certificate is not to be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its files, ports or threads are not.
    #[error("mosquitto cannot be prepared")]
    Io(#[from] io::Error),
}

/// How a client came to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSession {
    /// The client's ID.
    pub client: String,
    /// The subject of its certificate; empty on the listener without TLS.
    pub user: String,
    /// 5, or 4 for version 3.1.1.
    pub version: u8,
    /// It began without what the broker may have kept for it.
    pub clean: bool,
    /// In seconds.
    pub keep_alive: u16,
}

/// A running broker with its collector. Dropping the handle ends both.
#[derive(Debug)]
pub struct Broker {
    world: Shared,
    collector: Collector,
    process: Mutex<Option<Child>>,
    tls: Port,
    plain: Port,
    folder: TempDir,
}

impl Broker {
    /// Starts the broker of SolarIn on free ports, and tells the network identity document of it. Instructions that
    /// are added from now on are pushed first.
    ///
    /// # Errors
    ///
    /// Names the package where the program is missing.
    pub fn start(sim: &Sim, authority: &Authority) -> Result<Self, BrokerError> {
        let broker = Self::start_as(sim, authority, Role::Datum)?;
        let mut world = lock(sim.shared());
        world.instructions.push_first();
        world.network.urls.insert("solarin-mqtt".to_owned(), broker.url());
        drop(world);
        Ok(broker)
    }

    /// Starts the broker of SolarFlux, and tells `pub/config` of it.
    ///
    /// # Errors
    ///
    /// As for [`Broker::start`].
    pub fn start_flux(sim: &Sim, authority: &Authority) -> Result<Self, BrokerError> {
        let broker = Self::start_as(sim, authority, Role::Flux)?;
        let url = broker.url();
        lock(sim.shared()).network.service_urls.insert("solarflux".to_owned(), url);
        Ok(broker)
    }

    fn start_as(sim: &Sim, authority: &Authority, role: Role) -> Result<Self, BrokerError> {
        let world = sim.shared().clone();
        let folder = tempfile::tempdir()?;
        let file = |name: &str, text: String| fs::write(folder.path().join(name), text);
        file("ca.pem", authority.pem())?;
        certify(folder.path(), authority, &Certificate::around(Utc::now()))?;
        file("openssl.cnf", versions_of(Versions::Both))?;
        let nodes: Vec<i64> = lock(&world).nodes.keys().copied().collect();
        file("acl", nodes.into_iter().map(|node| rules(node, role)).collect())?;
        let (tls, plain) = (Port::local()?, Port::local()?);
        file("mosquitto.conf", configuration(folder.path(), tls.address(), plain.address()))?;
        let process = Mutex::new(Some(serve(folder.path(), plain.address())?));
        let collector = Collector::start(world.clone(), plain.address(), role)?;
        let broker = Self { world, collector, process, tls, plain, folder };
        broker.wait_for_the_collector()?;
        Ok(broker)
    }

    /// `mqtts://host:port`, where a node's certificate is needed.
    pub fn url(&self) -> String {
        format!("mqtts://{}", self.tls.address())
    }

    /// Where `url` listens.
    pub fn address(&self) -> SocketAddr {
        self.tls.address()
    }

    /// `mqtt://host:port`, where everyone may do everything.
    pub fn plain_url(&self) -> String {
        format!("mqtt://{}", self.plain.address())
    }

    /// Kills the broker. What it had not passed on is lost, but for what it saved in the second before.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// Stops the broker, which saves what it has not passed on.
    pub fn stop(&self) {
        self.end(Signal::TERM);
    }

    /// Starts it again on the same ports.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_again(&self) -> Result<(), BrokerError> {
        let mut process = self.process();
        if process.is_none() {
            *process = Some(serve(self.folder.path(), self.plain.address())?);
        }
        drop(process);
        self.wait_for_the_collector()
    }

    /// The certificate that it shows from its next start on.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn show(&self, authority: &Authority, wanted: &Certificate) -> Result<(), BrokerError> {
        certify(self.folder.path(), authority, wanted)
    }

    /// The versions of TLS that it speaks from its next start on.
    ///
    /// # Errors
    ///
    /// When that cannot be written down.
    pub fn speak(&self, versions: Versions) -> io::Result<()> {
        fs::write(self.folder.path().join("openssl.cnf"), versions_of(versions))
    }

    /// Publishes anything on any topic, as the server; false when the broker is not there.
    pub fn publish(&self, topic: &str, payload: &[u8]) -> bool {
        self.collector.publish(topic, payload)
    }

    /// Pushes an instruction as it stands, once more or at last; false when there is none, or no broker.
    pub fn push(&self, id: i64) -> bool {
        let instruction = lock(&self.world).instructions.get(id).cloned();
        instruction.is_some_and(|instruction| {
            let payload = cbor::instructions(&[pushed(instruction.to_json())]);
            self.publish(&format!("node/{}/instr", instruction.node), &payload)
        })
    }

    /// While it holds, new instructions are not pushed, and are Queued when their time is over.
    pub fn hold_pushes(&self, hold: bool) {
        lock(&self.world).instructions.hold = hold;
    }

    /// Waits until everything that the broker has acknowledged so far is in the ledger; false when there is no broker.
    pub fn until_taken(&self) -> bool {
        self.collector.catch_up()
    }

    /// The collector loses the next messages of nodes without a word; the broker has acknowledged them.
    pub fn lose(&self, count: usize) {
        self.collector.lose(count);
    }

    /// What nodes showed on SolarFlux, oldest first.
    pub fn flux(&self) -> Vec<FluxMessage> {
        self.collector.flux()
    }

    /// What a new subscriber is given at once, by topic filter.
    ///
    /// # Errors
    ///
    /// When the broker is not there.
    pub fn retained(&self, filter: &str) -> io::Result<Vec<FluxMessage>> {
        // On a thread, because this may be called where there is a runtime already.
        let (plain, filter) = (self.plain.address(), filter.to_owned());
        let asked = std::thread::spawn(move || collector::retained(plain, &filter)).join();
        asked.unwrap_or_else(|_| Err(io::Error::other("the asking thread ended")))
    }

    /// How clients other than the collector came, oldest first.
    pub fn sessions(&self) -> Vec<MqttSession> {
        let sessions = self.log();
        let sessions = sessions.lines().filter_map(session);
        sessions.filter(|session| !session.client.starts_with(collector::CLIENT)).collect()
    }

    /// What the broker said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, signal: Signal) {
        let Some(mut child) = self.process().take() else { return };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // An error is a process that has ended by itself.
        pid.map(|pid| kill_process(pid, signal).is_ok());
        drop(child.wait());
        // Nobody is to take the connection that was for the one to come.
        let end = Instant::now() + PATIENCE;
        while self.collector.is_connected() && Instant::now() < end {
            std::thread::sleep(POLL);
        }
    }

    fn wait_for_the_collector(&self) -> Result<(), BrokerError> {
        let end = Instant::now() + PATIENCE;
        while !self.collector.is_connected() {
            if Instant::now() > end {
                return Err(BrokerError::Silent(self.log()));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Puts a certificate and its key where the broker reads them.
fn certify(
    folder: &std::path::Path,
    authority: &Authority,
    wanted: &Certificate,
) -> Result<(), BrokerError> {
    let shown = authority.certify(wanted)?;
    fs::write(folder.join("server.pem"), shown.certificate.pem())?;
    Ok(fs::write(folder.join("server.key"), shown.key.serialize_pem())?)
}

/// Runs the program, and waits until it listens.
fn serve(folder: &std::path::Path, plain: SocketAddr) -> Result<Child, BrokerError> {
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-c").arg(folder.join("mosquitto.conf")).stdin(Stdio::null());
        command.env("OPENSSL_CONF", folder.join("openssl.cnf"));
        command.stdout(Stdio::null()).stderr(log.try_clone()?).spawn()
    };
    // It is not on the path of ordinary users.
    let child = run("mosquitto").or_else(|_| run("/usr/sbin/mosquitto"));
    let mut child = child.map_err(BrokerError::NoMosquitto)?;
    let end = Instant::now() + PATIENCE;
    loop {
        if TcpStream::connect(plain).is_ok() && child.try_wait()?.is_none() {
            return Ok(child);
        }
        if child.try_wait()?.is_some() || Instant::now() > end {
            drop(child.kill());
            drop(child.wait());
            let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(BrokerError::Silent(said.lines().last().unwrap_or("nothing").to_owned()));
        }
        std::thread::sleep(POLL);
    }
}

/// OpenSSL's own configuration: mosquitto's has a least version of TLS and no latest one.
fn versions_of(versions: Versions) -> String {
    let (least, most) = match versions {
        Versions::Both => ("TLSv1.2", "TLSv1.3"),
        Versions::Tls12 => ("TLSv1.2", "TLSv1.2"),
        Versions::Tls13 => ("TLSv1.3", "TLSv1.3"),
    };
    format!(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n\
         [default]\nMinProtocol = {least}\nMaxProtocol = {most}\n"
    )
}

/// What a node may do, by the subject of its certificate.
fn rules(node: i64, role: Role) -> String {
    let user = format!("user UID={node},CN=node-{node},OU=SolarNode,O=SolarNetwork\n");
    let topics = match role {
        Role::Datum => format!("topic write node/{node}/datum\ntopic read node/{node}/instr\n"),
        Role::Flux => format!("topic write node/{node}/datum/0/#\n"),
    };
    user + &topics
}

fn configuration(folder: &std::path::Path, tls: SocketAddr, plain: SocketAddr) -> String {
    let folder = folder.display();
    // As root it would become a user that cannot read its own files.
    let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
    format!(
        "{user}per_listener_settings true
persistence true
persistence_location {folder}/
autosave_interval 1
max_queued_messages 0
log_dest stderr
connection_messages true

listener {tls_port} 127.0.0.1
cafile {folder}/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
require_certificate true
use_subject_as_username true
allow_anonymous false
acl_file {folder}/acl

listener {plain_port} 127.0.0.1
allow_anonymous true
",
        tls_port = tls.port(),
        plain_port = plain.port(),
    )
}

/// `New client connected from 127.0.0.1:40506 as 123 (p5, c1, k60, u'UID=123,…').`
fn session(line: &str) -> Option<MqttSession> {
    let (_, rest) = line.split_once("New client connected from ")?;
    let (_, rest) = rest.split_once(" as ")?;
    let (client, rest) = rest.split_once(" (")?;
    let rest = rest.trim_end_matches(['.', ')']);
    let (rest, user) = rest.split_once(", u'").unwrap_or((rest, ""));
    let number = |letter: char| rest.split(", ").find_map(|part| part.strip_prefix(letter));
    Some(MqttSession {
        client: client.to_owned(),
        user: user.trim_end_matches('\'').to_owned(),
        version: match number('p')? {
            "5" => 5,
            _ => 4,
        },
        clean: number('c')? == "1",
        keep_alive: number('k')?.parse().ok()?,
    })
}

/// As it is pushed: without the date of a state that is not yet one.
fn pushed(mut instruction: Value) -> Value {
    if let Some(members) = instruction.as_object_mut() {
        members.remove("statusDate");
        members.insert("state".to_owned(), "Queuing".into());
    }
    instruction
}

/// An instruction on its way to the broker.
struct Push {
    id: i64,
    node: i64,
    message: Value,
}

impl World {
    /// Instructions that wait to be pushed; each is given once.
    fn due_pushes(&mut self) -> Vec<Push> {
        self.advance();
        let now = self.clock.now();
        let due = self.instructions.due_pushes(now).into_iter();
        due.map(|instruction| Push {
            id: instruction.id,
            node: instruction.node,
            message: pushed(instruction.to_json()),
        })
        .collect()
    }

    fn push_failed(&mut self, id: i64) {
        let now = self.clock.now();
        self.instructions.push_failed(id, now);
    }
}
