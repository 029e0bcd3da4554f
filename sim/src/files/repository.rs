//! Everything that the simulated server knows, and which request does what: routes, then the credential, then
//! the handler. Handlers read their form before they look at permissions, as the server does.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::NaiveDateTime;
use serde_json::json;
use tempfile::TempDir;

use super::answer::Answer;
use super::collection::Collection;
use super::profile::Profile;
use super::request::Request;
use super::role;
use super::token::Token;
use crate::ledger::Seen;
use crate::misbehave::Switches;
use crate::time::Clock;

/// Tokens that the server honours in every environment, which an operator has to block in front of it.
const FIXED_TOKENS: [&str; 2] = ["test-token-full-permissions", "internal-console-token"];
/// How many requests are remembered; older ones are forgotten first.
const SEEN_LIMIT: usize = 100_000;

/// The repository, shared between the server's thread and its handles.
pub(super) type Shared = Arc<Mutex<Repository>>;

/// Locks the repository. Poison is of no matter: a panic elsewhere fails its own test.
pub(super) fn lock(repository: &Shared) -> MutexGuard<'_, Repository> {
    repository.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stored file: a name that points at a content.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) id: u64,
    pub(super) filename: String,
    pub(super) sha256: String,
    pub(super) size: u64,
    pub(super) mime_type: String,
    pub(super) tags: Vec<String>,
    pub(super) public: bool,
    /// The server keeps a hash of it; this one has no secrets to keep.
    pub(super) password: Option<String>,
    /// The token that uploaded it first.
    pub(super) token: String,
    pub(super) added: NaiveDateTime,
    /// How often it was uploaded, repeats that were answered with it included.
    pub(super) accepts: u32,
}

pub(super) struct Repository {
    pub(super) profile: Profile,
    /// `http` or `https`: how its addresses begin.
    pub(super) scheme: &'static str,
    pub(super) clock: Clock,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) files: BTreeMap<u64, Stored>,
    pub(super) collections: BTreeMap<String, Collection>,
    pub(super) switches: Switches,
    last_id: u64,
    folder: TempDir,
    seen: VecDeque<Seen>,
}

impl fmt::Debug for Repository {
    /// Without tokens and passwords.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Repository").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Repository {
    pub(super) fn new(profile: Profile, scheme: &'static str) -> std::io::Result<Self> {
        Ok(Self {
            profile,
            scheme,
            clock: Clock::default(),
            tokens: BTreeMap::new(),
            files: BTreeMap::new(),
            collections: BTreeMap::new(),
            switches: Switches::default(),
            last_id: 0,
            folder: tempfile::tempdir()?,
            seen: VecDeque::new(),
        })
    }

    /// The clock on the wall, by which tokens expire.
    pub(super) fn now(&self) -> NaiveDateTime {
        self.clock.now().naive_utc()
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where a content is kept.
    pub(super) fn content(&self, sha256: &str) -> PathBuf {
        self.folder.path().join(sha256)
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn named(&self, filename: &str) -> Option<&Stored> {
        self.files.values().find(|file| file.filename == filename)
    }

    pub(super) fn remember(&mut self, seen: Seen) {
        if self.seen.len() == SEEN_LIMIT {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
    }

    pub(super) fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter()
    }

    /// Answers every request but the one that has to fetch first, `add-by-url`.
    pub(super) fn answer(&mut self, request: Request) -> Answer {
        self.route(request).unwrap_or_else(|refusal| refusal)
    }

    fn route(&mut self, request: Request) -> Result<Answer, Answer> {
        let segments = request.segments();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
        match segments.as_slice() {
            ["version"] => match method {
                "GET" => {
                    self.caller(&request, Anonymous::Refused)?;
                    Ok(Answer::json(200, json!({ "version": self.profile.version() })))
                }
                _ => Err(Answer::html(405)),
            },
            ["auth", "roles"] if method == "GET" => {
                self.roles(&self.caller(&request, Anonymous::Refused)?)
            }
            ["auth", "search"] if method == "GET" && self.profile.is_v3() => {
                self.search(&request, &self.caller(&request, Anonymous::Refused)?)
            }
            ["jobs", "token", "expired", "clear"] if !self.profile.is_v3() => match method {
                "GET" => {
                    let caller = self.caller(&request, Anonymous::Refused)?;
                    self.clear_expired(&caller)
                }
                _ => Err(Answer::html(405)),
            },
            ["auth", "token", id] => {
                let is_generate = *id == "generate";
                match method {
                    "POST" if is_generate => {
                        let caller = self.caller(&request, Anonymous::Refused)?;
                        self.generate(&request, &caller)
                    }
                    "GET" => self.look_up(id, &self.caller(&request, Anonymous::Refused)?),
                    "DELETE" => {
                        let caller = self.caller(&request, Anonymous::Refused)?;
                        self.revoke(id, &caller)
                    }
                    _ => Err(Answer::html(405)),
                }
            }
            ["repository"] => match method {
                "GET" => self.list(&request, &self.caller(&request, Anonymous::Refused)?),
                _ => Err(Answer::html(405)),
            },
            ["repository", _, "upload"] if method == "POST" => self.upload(request, None),
            ["repository", _, "upload"] => Err(Answer::html(405)),
            ["repository", "file", name] => match method {
                "POST" => {
                    let name = (*name).to_owned();
                    self.upload(request, Some(name))
                }
                "GET" => self.download(&request, name),
                "DELETE" => {
                    let caller = self.caller(&request, Anonymous::Refused)?;
                    self.delete(&request, name, &caller)
                }
                _ => Err(Answer::html(405)),
            },
            ["repository", "collection", rest @ ..] => {
                let rest: Vec<String> = rest.iter().map(|text| (*text).to_owned()).collect();
                let method = method.to_owned();
                self.collection_call(&method, &rest, request)
            }
            _ => Err(Answer::html(404)),
        }
    }

    /// Who calls, or why nobody may under this credential.
    pub(super) fn caller(&self, request: &Request, anonymous: Anonymous) -> Result<Token, Answer> {
        let nobody = || Token::new(String::new(), Vec::new(), NaiveDateTime::MAX);
        let Some(id) = request.token() else {
            return match (self.profile.is_v3(), anonymous) {
                (true, Anonymous::Allowed) => Ok(nobody()),
                (true, _) => Err(Answer::html(403)),
                (false, _) => Err(self.unknown_token()),
            };
        };
        let token = self.known_token(id).ok_or_else(|| self.unknown_token())?;
        // The server compares the header before it knows whether there is one.
        let user_agent = request.header("user-agent").ok_or_else(|| Answer::html(500))?;
        if token.fits(request, user_agent, self.now()) {
            return Ok(token);
        }
        match (self.profile.is_v3(), anonymous) {
            (_, Anonymous::Allowed) | (false, Anonymous::Refused) => Ok(nobody()),
            (false, Anonymous::Fatal) => Err(Answer::html(500)),
            (true, _) => Err(Answer::html(403)),
        }
    }

    fn known_token(&self, id: &str) -> Option<Token> {
        let fixed = if self.profile.is_v3() { &FIXED_TOKENS[..] } else { &FIXED_TOKENS[..1] };
        match fixed.contains(&id) {
            true => {
                let roles = vec![role::ADMINISTRATOR.to_owned()];
                Some(Token::new(id.to_owned(), roles, self.now()))
            }
            false => self.tokens.get(id).cloned(),
        }
    }

    fn unknown_token(&self) -> Answer {
        let how = if self.profile.is_v3() { "find" } else { "decrypt, parse or find" };
        Answer::denied(&format!(
            "Invalid authorization. Details: Invalid token, cannot {how} token id in the persistent database"
        ))
    }
}

/// What becomes of a caller without a credential that works: no token (V3), or one that is expired or
/// bound to another address or program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anonymous {
    /// Goes on without roles, in every profile.
    Allowed,
    /// Goes on without roles in V2, so that the endpoint refuses in its own words; V3 shows a page.
    Refused,
    /// The server falls over in V2; V3 shows a page.
    Fatal,
}
