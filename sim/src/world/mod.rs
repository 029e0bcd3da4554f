//! Everything the simulated servers know, in one place behind one lock.
//!
//! Time moves when someone looks: every access first calls [`World::advance`], which carries out what has come
//! due since the last one (import jobs, expiry of instructions), in the order of their due times. So there
//! is no background task, and nothing happens between two looks that a test could miss.

pub(crate) mod instruction;
pub(crate) mod job;
pub(crate) mod token;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::auth::{self, Rejection};
use crate::ledger::{Ledger, Seen};
use crate::misbehave::Switches;
use crate::rate::{Buckets, RateLimit};
use crate::request::Incoming;
use crate::solarin::batch::Dropped;
use crate::solarin::identity::Network;
use crate::time::Clock;
use instruction::Instructions;
use job::Jobs;
use token::Token;

/// How many requests are remembered; older ones are forgotten first.
const SEEN_LIMIT: usize = 100_000;

/// An account.
#[derive(Debug, Clone, Default)]
pub(crate) struct User {
    /// `ROLE_IMPORT` and the like.
    pub(crate) roles: BTreeSet<String>,
    /// An object with `m`, `pm`, `t`; null: none.
    pub(crate) metadata: Value,
}

/// A node and its owner.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) user: i64,
    pub(crate) archived: bool,
    /// An object with `m`, `pm`, `t`; null: none.
    pub(crate) metadata: Value,
}

/// The state of all simulated services.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) users: BTreeMap<i64, User>,
    pub(crate) nodes: BTreeMap<i64, Node>,
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) jobs: Jobs,
    pub(crate) instructions: Instructions,
    pub(crate) ledger: Ledger,
    /// What nodes sent in vain, without being told.
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) network: Network,
    /// How long an accepted datum takes to show up in queries.
    pub(crate) query_delay: TimeDelta,
    pub(crate) switches: Switches,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) buckets: Buckets,
    seen: VecDeque<Seen>,
}

impl World {
    /// Carries out everything that has come due.
    pub(crate) fn advance(&mut self) {
        let now = self.clock.now();
        self.instructions.advance(now);
        self.advance_jobs(Instant::now());
        self.jobs.forget_finished(now);
    }

    /// The token filter; see [`auth::verify`].
    pub(crate) fn authenticate(
        &self,
        request: &Incoming,
        now: DateTime<Utc>,
    ) -> Result<Option<String>, Rejection> {
        auth::verify(request, now, |id| self.tokens.get(id).map(Token::signatory))
    }

    /// Nodes of an account that are not archived, in order.
    pub(crate) fn nodes_of(&self, user: i64) -> Vec<i64> {
        let mine = self.nodes.iter().filter(|(_, node)| node.user == user && !node.archived);
        mine.map(|(id, _)| *id).collect()
    }

    pub(crate) fn remember(&mut self, seen: Seen) {
        if self.seen.len() == SEEN_LIMIT {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
    }

    pub(crate) fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter()
    }
}
