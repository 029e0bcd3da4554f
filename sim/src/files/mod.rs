//! File Repository: tokens, uploads, downloads, listings and collections, as the real server answered in one of
//! three generations ([`Profile`]), its mistakes included.
//!
//! ```text
//!   connection ─▶ http ─▶ spool (the body, on disk, hashed) ─▶ repository: routes, credential
//!                  │                                               │
//!       switches ◀─┘   token · upload · by_url · download · collection · version      behind one lock
//!                      form · role · rules · expires · limit · mime                   (pure)
//! ```
//!
//! Bodies go to disk as they come and are hashed on the way, so memory does not grow with a file. Contents are
//! kept by their SHA-256 in a folder that vanishes with the server.
//!
//! What is exact: status, JSON and the headers that matter of every case in `tests/vectors/file-repository.json`.
//! Where a text of the server is not known, a comment says so. Not played: MySQL and PostgreSQL, server time
//! zones other than UTC, S3 and FTP storage, the limits of PHP and nginx, replication (`securecopy`), sessions.

mod answer;
mod by_url;
mod collection;
mod download;
mod expires;
mod form;
mod http;
mod limit;
mod mime;
mod profile;
mod repository;
mod request;
mod role;
mod rules;
mod spool;
mod token;
mod upload;
mod version;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpStream;

pub use profile::{Profile, UnknownProfile};

use crate::ledger::Seen;
use crate::misbehave::Misbehaviour;
use crate::random;
use crate::server::{Server, StartError};
use crate::tls::Identity;
use repository::{Repository, Shared, Stored, lock};
use token::Token;

/// A token to start with. Empty lists restrict nothing.
#[derive(Clone, Default)]
pub struct FileToken {
    /// Its ID, which is all that a client needs; absent: a random one.
    pub id: Option<String>,
    /// Roles, such as `upload.all`.
    pub roles: Vec<String>,
    /// Tags that its uploads may have.
    pub tags: Vec<String>,
    /// MIME types beside those that its roles bring.
    pub mime_types: Vec<String>,
    /// Files have to be smaller.
    pub max_size: Option<i64>,
    /// User agents, compared as they are.
    pub user_agents: Vec<String>,
    /// Addresses, compared as they are.
    pub ip_addresses: Vec<String>,
    /// When it expires; absent: in twenty years.
    pub expires: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for FileToken {
    /// Without the ID, which is a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileToken").field("roles", &self.roles).finish_non_exhaustive()
    }
}

impl FileToken {
    /// A token with these roles and nothing else.
    pub fn with_roles(roles: &[&str]) -> Self {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Self { roles, ..Self::default() }
    }
}

/// A stored file, as the ledger tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredFile {
    /// The server's number for it.
    pub id: u64,
    /// The name under which it is read.
    pub filename: String,
    /// Of its content, lower case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// As detected.
    pub mime_type: String,
    /// As stored: lower case.
    pub tags: Vec<String>,
    /// Whether it shows up in listings.
    pub public: bool,
    /// Whether it has a password.
    pub protected: bool,
    /// How often its content was uploaded, repeats included.
    pub accepts: u32,
}

impl Stored {
    fn ledger_entry(&self) -> StoredFile {
        StoredFile {
            id: self.id,
            filename: self.filename.clone(),
            sha256: self.sha256.clone(),
            size: self.size,
            mime_type: self.mime_type.clone(),
            tags: self.tags.clone(),
            public: self.public,
            protected: self.password.is_some(),
            accepts: self.accepts,
        }
    }
}

/// A running File Repository. Dropping the handle stops it and removes what it stored.
#[derive(Debug)]
pub struct FileRepository {
    repository: Shared,
    server: Server,
}

fn shared(profile: Profile, scheme: &'static str) -> Result<Shared, StartError> {
    let repository = Repository::new(profile, scheme).map_err(StartError::Folder)?;
    Ok(Shared::new(repository.into()))
}

/// The address of the other end. Without one the connection is over, and no token is bound to this.
fn peer(stream: &TcpStream) -> IpAddr {
    stream.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip())
}

impl FileRepository {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// When no port, thread or folder is to be had.
    pub fn start(profile: Profile) -> Result<Self, StartError> {
        Self::start_at(profile, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts on an address.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, or there is no folder to be had.
    pub fn start_at(profile: Profile, address: SocketAddr) -> Result<Self, StartError> {
        let repository = shared(profile, "http")?;
        let served = repository.clone();
        let server = Server::start("file-repository", address, move |stream, _| {
            let (repository, peer) = (served.clone(), peer(&stream));
            http::connection(stream, peer, repository)
        })?;
        Ok(Self { repository, server })
    }

    /// Starts on an address with HTTPS.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, or there is no folder to be had.
    pub fn start_tls(
        profile: Profile,
        address: SocketAddr,
        identity: Identity,
    ) -> Result<Self, StartError> {
        let repository = shared(profile, "https")?;
        let served = repository.clone();
        let server = Server::start("file-repository", address, move |stream, _| {
            let (repository, peer) = (served.clone(), peer(&stream));
            let accepted = identity.acceptor().accept(stream);
            async move {
                // An error is a client that does not like the certificate.
                if let Ok(stream) = accepted.await {
                    http::connection(stream, peer, repository).await;
                }
            }
        })?;
        Ok(Self { repository, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// `http://host:port`, or `https://host:port`
    pub fn url(&self) -> String {
        format!("{}://{}", lock(&self.repository).scheme, self.address())
    }

    /// Adds a token without a call; gives its ID.
    pub fn add_token(&self, new: FileToken) -> String {
        let mut repository = lock(&self.repository);
        let id = new.id.unwrap_or_else(|| random::uuid().to_uppercase());
        let years = TimeDelta::days(20 * 365);
        let expires = new.expires.map_or(repository.now() + years, |instant| instant.naive_utc());
        let mut token = Token::new(id.clone(), new.roles, expires);
        token.tags = json!(new.tags);
        token.mime_types = json!(new.mime_types);
        token.user_agents = json!(new.user_agents);
        token.ip_addresses = json!(new.ip_addresses);
        token.max_size = new.max_size;
        repository.tokens.insert(id.clone(), token);
        id
    }

    /// Revokes a token without a call; false when there is none.
    pub fn revoke_token(&self, id: &str) -> bool {
        lock(&self.repository).tokens.remove(id).is_some()
    }

    /// Whether there is such a token.
    pub fn has_token(&self, id: &str) -> bool {
        lock(&self.repository).tokens.contains_key(id)
    }

    /// All stored files, in order of their arrival.
    pub fn files(&self) -> Vec<StoredFile> {
        lock(&self.repository).files.values().map(Stored::ledger_entry).collect()
    }

    /// A stored file's content.
    pub fn content(&self, filename: &str) -> Option<Vec<u8>> {
        let repository = lock(&self.repository);
        let file = repository.named(filename)?;
        std::fs::read(repository.content(&file.sha256)).ok()
    }

    /// Requests seen so far, oldest first; those to `/sim/` are not kept.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.repository).seen().cloned().collect()
    }

    /// Sets a misbehaviour switch. Acts that replace the answer give an HTML page with their status.
    pub fn misbehave(&self, switch: Misbehaviour) {
        lock(&self.repository).switches.add(switch);
    }

    /// Clears all misbehaviour switches.
    pub fn behave(&self) {
        lock(&self.repository).switches.clear();
    }

    /// Sets the server's clock off the machine's.
    pub fn set_clock_offset(&self, offset: TimeDelta) {
        lock(&self.repository).clock.offset = offset;
    }

    /// Goes away: the port refuses connections, open ones are cut. What is stored stays.
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
