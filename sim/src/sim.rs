//! The simulator as a handle: starts the servers on a thread of their own, so that any test can use it,
//! and asks or changes the world behind them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::http::{self, Door, Shared, lock};
use crate::ledger::{Entry, Key, LedgerCount, Seen};
use crate::misbehave::Misbehaviour;
use crate::policy::Policy;
use crate::rate::RateLimit;
use crate::seed::Seed;
use crate::server::{Server, StartError};
use crate::solarin::associate::Invitation;
use crate::solarin::batch::Dropped;
use crate::stream::{Kind, Stream};
use crate::tls::Identity;
use crate::world::World;
use crate::world::instruction::{Instruction, NewInstruction, State};
use crate::world::job::ImportDelays;
use crate::world::token::{Token, TokenKind};

/// A token just issued: the only time that its secret is told.
#[derive(Clone)]
pub struct IssuedToken {
    /// Token ID.
    pub id: String,
    /// Secret.
    pub secret: String,
}

impl std::fmt::Debug for IssuedToken {
    /// Without the secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("IssuedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Locks what is shown. It is replaced whole, so poison is of no matter.
pub(crate) fn lock_identity(identity: &Mutex<Identity>) -> MutexGuard<'_, Identity> {
    identity.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_url(urls: &mut BTreeMap<String, String>, service: &str, url: &str) {
    match url {
        "" => drop(urls.remove(service)),
        url => drop(urls.insert(service.to_owned(), url.to_owned())),
    }
}

/// Running servers. Dropping the handle stops them.
#[derive(Debug)]
pub struct Sim {
    world: Shared,
    server: Server,
    /// What new connections are shown; `None` without TLS.
    identity: Option<Arc<Mutex<Identity>>>,
}

impl Sim {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// When no port or thread is to be had.
    pub fn start(seed: Seed) -> Result<Self, StartError> {
        Self::start_at(seed, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts on an address.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub fn start_at(seed: Seed, address: SocketAddr) -> Result<Self, StartError> {
        let world = Shared::new(seed.grow().into());
        let served = world.clone();
        let server = Server::start("solarnet-sim", address, move |stream, orders| {
            http::connection(stream, served.clone(), orders, Door::Tokens)
        })?;
        Ok(Self { world, server, identity: None })
    }

    /// Starts on an address with HTTPS.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub fn start_tls(
        seed: Seed,
        address: SocketAddr,
        identity: Identity,
    ) -> Result<Self, StartError> {
        let world = Shared::new(seed.grow().into());
        let served = world.clone();
        let identity = Arc::new(Mutex::new(identity));
        let shown = identity.clone();
        let server = Server::start("solarnet-sim", address, move |stream, orders| {
            let accepted = lock_identity(&shown).acceptor().accept(stream);
            let world = served.clone();
            async move {
                // An error is a client that does not like the certificate.
                if let Ok(stream) = accepted.await {
                    http::connection(stream, world, orders, Door::Tokens).await;
                }
            }
        })?;
        Ok(Self { world, server, identity: Some(identity) })
    }

    /// Shows another certificate from the next connection on. Nothing happens without TLS.
    pub fn set_identity(&self, identity: Identity) {
        if let Some(shown) = &self.identity {
            *lock_identity(shown) = identity;
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// `http://host:port`, or `https://host:port`
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// SolarUser's address, as an agent's configuration wants it.
    pub fn user_url(&self) -> String {
        format!("{}/solaruser", self.url())
    }

    /// SolarQuery's address, as an agent's configuration wants it.
    pub fn query_url(&self) -> String {
        format!("{}/solarquery", self.url())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.world
    }

    /// The world, with everything done that is due.
    fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut world = lock(&self.world);
        world.advance();
        look(&mut world)
    }

    /// All accepted datum, by key.
    pub fn ledger(&self) -> Vec<(Key, Entry)> {
        self.world(|world| {
            world.ledger.rows().iter().map(|(key, entry)| (key.clone(), entry.clone())).collect()
        })
    }

    /// The ledger's sums.
    pub fn ledger_count(&self) -> LedgerCount {
        self.world(|world| world.ledger.count())
    }

    /// One datum of the ledger.
    pub fn entry(&self, node: i64, source: &str, ms: i64) -> Option<Entry> {
        let key = Key { node, source: source.to_owned(), ms };
        self.world(|world| world.ledger.rows().get(&key).cloned())
    }

    /// One datum of a location.
    pub fn location_entry(&self, location: i64, source: &str, ms: i64) -> Option<Entry> {
        let key = Key { node: location, source: source.to_owned(), ms };
        self.world(|world| world.ledger.location(&key).cloned())
    }

    /// What nodes sent in vain without being told, oldest first, and why a batch was an internal error. Empty
    /// after the run of an agent that does everything right.
    pub fn dropped(&self) -> Vec<Dropped> {
        self.world(|world| world.dropped.clone())
    }

    /// The stream of a node's source, which the first datum makes.
    pub fn stream(&self, node: i64, source: &str) -> Option<Stream> {
        self.world(|world| world.ledger.streams.get(Kind::Node, node, source).cloned())
    }

    /// Puts a stream in place, for one whose ID has to be a certain one.
    pub fn put_stream(&self, stream: Stream) {
        self.world(|world| world.ledger.streams.put(stream));
    }

    /// Loses a datum that was accepted, as a server must not; false when there is none.
    pub fn lose_datum(&self, node: i64, source: &str, ms: i64) -> bool {
        self.world(|world| world.ledger.lose(&Key { node, source: source.to_owned(), ms }))
    }

    /// How long an accepted datum takes to show up in SolarQuery.
    pub fn set_query_delay(&self, delay: TimeDelta) {
        self.world(|world| world.query_delay = delay);
    }

    /// Requests seen so far, oldest first; those to `/sim/` are not kept.
    pub fn requests(&self) -> Vec<Seen> {
        self.world(|world| world.seen().cloned().collect())
    }

    /// How many requests with this method had a path that begins so.
    pub fn count_requests(&self, method: &str, path: &str) -> usize {
        self.world(|world| {
            let fits = |seen: &&Seen| seen.method == method && seen.path.starts_with(path);
            world.seen().filter(fits).count()
        })
    }

    /// Sets a misbehaviour switch.
    pub fn misbehave(&self, switch: Misbehaviour) {
        self.world(|world| world.switches.add(switch));
    }

    /// Clears all misbehaviour switches.
    pub fn behave(&self) {
        self.world(|world| world.switches.clear());
    }

    /// The simulator's clock.
    pub fn now(&self) -> DateTime<Utc> {
        lock(&self.world).clock.now()
    }

    /// Sets the simulator's clock off the machine's. What was due before is done by the old clock.
    pub fn set_clock_offset(&self, offset: TimeDelta) {
        self.world(|world| world.clock.offset = offset);
    }

    /// Changes how long import jobs rest in each state, for those on their way too.
    pub fn set_import_delays(&self, delays: ImportDelays) {
        self.world(|world| world.jobs.delays = delays);
    }

    /// Switches the rate limit on, with full buckets, or off.
    pub fn set_rate_limit(&self, limit: Option<RateLimit>) {
        self.world(|world| {
            world.rate_limit = limit;
            world.buckets = crate::rate::Buckets::default();
        });
    }

    /// Adds an instruction; gives its ID.
    pub fn add_instruction(&self, new: NewInstruction) -> i64 {
        self.world(|world| {
            let now = world.clock.now();
            world.instructions.add(new, now).id
        })
    }

    /// How long an instruction is `Queuing`, pushed over MQTT, before it is `Queued`.
    pub fn set_instruction_queuing(&self, queuing: TimeDelta) {
        self.world(|world| world.instructions.queuing = queuing);
    }

    /// Takes a message as the broker's collector does, without a broker.
    pub fn take_message(&self, topic: &str, payload: &[u8]) {
        self.world(|world| world.take_message(topic, payload));
    }

    /// An instruction as it stands, with every state that was written.
    pub fn instruction(&self, id: i64) -> Option<Instruction> {
        self.world(|world| world.instructions.get(id).cloned())
    }

    /// Sets an instruction's state, as its owner may at any time.
    pub fn set_instruction_state(&self, id: i64, state: State) {
        self.world(|world| {
            let now = world.clock.now();
            world.instructions.set_state(id, state, now);
        });
    }

    /// Invites a device to become a node; `None` while there is no SolarIn that it could be led to.
    pub fn invite(&self, node: i64, username: &str) -> Option<Invitation> {
        self.world(|world| world.invite(node, username))
    }

    /// How long a renewed certificate, or that of a new node, takes.
    pub fn set_issuing_delay(&self, delay: TimeDelta) {
        self.world(|world| world.network.issuing = delay);
    }

    /// How long such a one is good, instead of two years.
    pub fn set_certificate_life(&self, life: TimeDelta) {
        self.world(|world| world.network.life = Some(life));
    }

    /// Names a service in the network identity document; an empty URL takes it out.
    pub fn set_network_url(&self, service: &str, url: &str) {
        self.world(|world| set_url(&mut world.network.urls, service, url));
    }

    /// Names a service in the answer of `pub/config`; an empty URL takes it out.
    pub fn set_service_url(&self, service: &str, url: &str) {
        self.world(|world| set_url(&mut world.network.service_urls, service, url));
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> Vec<i64> {
        self.world(|world| world.nodes.keys().copied().collect())
    }

    /// Issues a token of an account in the seed, without a call. A policy that is no object is none.
    pub fn issue_token(&self, user: i64, kind: TokenKind, policy: &Value) -> IssuedToken {
        self.world(|world| {
            let policy = policy.is_object().then(|| Policy::read(policy).unwrap_or_default());
            let token = Token::issue(user, kind, policy, world.clock.now());
            let issued = IssuedToken { id: token.id.clone(), secret: token.secret.clone() };
            world.tokens.insert(token.id.clone(), token);
            issued
        })
    }

    /// Disables or enables a token; false when there is none.
    pub fn set_token_active(&self, id: &str, active: bool) -> bool {
        self.world(|world| match world.tokens.get_mut(id) {
            Some(token) => {
                token.active = active;
                true
            }
            None => false,
        })
    }

    /// Replaces a token's policy; false when there is no such token. A policy that is no object is none.
    pub fn set_token_policy(&self, id: &str, policy: &Value) -> bool {
        let policy = policy.is_object().then(|| Policy::read(policy).unwrap_or_default());
        self.world(|world| match world.tokens.get_mut(id) {
            Some(token) => {
                token.policy = policy;
                true
            }
            None => false,
        })
    }

    /// Deletes a token; false when there was none.
    pub fn delete_token(&self, id: &str) -> bool {
        self.world(|world| world.tokens.remove(id).is_some())
    }

    /// A token as the API shows it.
    pub fn token(&self, id: &str) -> Option<Value> {
        self.world(|world| {
            let now = world.clock.now();
            world.tokens.get(id).map(|token| token.to_json(now, false))
        })
    }

    /// Sets a node's metadata, an object with `m`, `pm`, `t`; false when there is no such node.
    pub fn set_node_metadata(&self, node: i64, metadata: Value) -> bool {
        self.world(|world| match world.nodes.get_mut(&node) {
            Some(node) => {
                node.metadata = metadata;
                true
            }
            None => false,
        })
    }

    /// Sets an account's metadata, an object with `m`, `pm`, `t`; false when there is no such account.
    pub fn set_user_metadata(&self, user: i64, metadata: Value) -> bool {
        self.world(|world| match world.users.get_mut(&user) {
            Some(user) => {
                user.metadata = metadata;
                true
            }
            None => false,
        })
    }

    /// All import jobs that are remembered, as the API shows them, in order of submission.
    pub fn jobs(&self) -> Vec<Value> {
        self.world(|world| world.jobs.all().into_iter().map(|job| job.to_json()).collect())
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
