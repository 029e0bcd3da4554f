//! A token's rotation: which step is next. Pure.
//!
//! ```text
//!  Record ─▶ Issue ─▶ Prove ─▶ Promise ─▶ Install ─▶ Switch ─▶ Describe ─▶ Drain ─▶ Disable ─▶ Confirm ─▶ Delete ─▶ Forget
//!    ▲        │ killed here: the successor's secret is lost │                                  │ the daemon does
//!    └─Discard┘                                             │                                  ▼ not work on
//!             the old token is in use and works             │ the new one is in use       enabled again
//! ```
//!
//! * What is on disk and at the server decides, not what an earlier run had come to: [`Rotation`] is the
//!   record, the credential in the store says which token is in use, the list of tokens says what there
//!   is. So the command may be killed at any moment, and run again it goes on from there.
//! * What cannot be seen is done again: a successor is proved, the daemon is asked, the import jobs are
//!   waited for, in every run that comes to it.
//! * The token in the store works at every moment: the successor is put in once it is proved, and the old
//!   one is disabled only when the daemon uses the successor, and deleted only when it still does then.
//! * Import jobs are carried out under the policy of the token that they were begun with, and fail when
//!   it is gone. So those are waited for ([`Step::Drain`]) before it is disabled. (One that fails all the
//!   same is no loss: its rows stay in the queue and are sent again.)
//! * The record names the successor before the store has it ([`Step::Promise`]), so the store tells which
//!   of the two cases of the picture it is. It holds nothing secret.

use serde::{Deserialize, Serialize};

use super::{Issue, Token};
use crate::domain::TokenId;

/// The record of a rotation under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// The token that is to go.
    old: String,
    /// What was asked for in its place.
    issue: Issue,
    /// Its successor, once it is proved.
    new: Option<String>,
}

/// What is there when the next step is chosen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The record.
    pub record: Option<Rotation>,
    /// The token in the store.
    pub stored: TokenId,
    /// The account's tokens.
    pub tokens: Vec<Token>,
    /// What this run has done so far that nobody can see.
    pub done: Done,
}

/// What one run has done, and a killed one takes with it.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// The record is this run's.
    pub recorded: bool,
    /// The successor whose secret this run has.
    pub issued: Option<TokenId>,
    /// It was proved.
    pub proved: bool,
    /// The daemon uses it, or none is running.
    pub switched: bool,
    /// No import job of the old token is under way.
    pub drained: bool,
    /// The daemon works without the old token.
    pub confirmed: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the record.
    Record,
    /// Ask for the successor.
    Issue,
    /// Delete what an earlier run left behind: it has no name, and nobody has the secret.
    Discard(Vec<Token>),
    /// Call the server with the successor.
    Prove,
    /// Write into the record which one it is.
    Promise(TokenId),
    /// Put it in the place of the old one in the store.
    Install,
    /// Have the daemon use it, and wait until it does.
    Switch,
    /// Give it the old one's name and description.
    Describe,
    /// Wait for the import jobs of the old one.
    Drain,
    /// Disable the old one.
    Disable,
    /// See that the daemon works on; enable the old one again if not.
    Confirm,
    /// Delete the old one.
    Delete,
    /// Remove the record. This is the last step.
    Forget,
    /// Another token was put into the store by hand: the rotation is over.
    Abandon,
    /// Somebody deleted the successor at the server.
    Lost(TokenId),
}

impl Rotation {
    /// Before a successor is asked for.
    #[must_use]
    pub fn new(old: &TokenId, issue: Issue) -> Self {
        Self { old: old.to_string(), issue, new: None }
    }

    /// The same, with the successor named.
    #[must_use]
    pub fn promising(&self, new: &TokenId) -> Self {
        Self { new: Some(new.to_string()), ..self.clone() }
    }

    /// The token that is to go.
    #[must_use]
    pub fn old(&self) -> &str {
        &self.old
    }

    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and JSON make JSON, and memory takes it")
    }

    /// Reads a record; `None` if it makes no sense.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Seen {
    /// The token that is to go, if it is still there.
    #[must_use]
    pub fn old(&self) -> Option<&Token> {
        let old = self.record.as_ref().map_or(self.stored.as_str(), Rotation::old);
        self.token(old)
    }

    /// The token in use, if it is there.
    #[must_use]
    pub fn in_use(&self) -> Option<&Token> {
        self.token(self.stored.as_str())
    }

    fn token(&self, id: &str) -> Option<&Token> {
        self.tokens.iter().find(|token| token.id.as_str() == id)
    }

    /// What is to be done next.
    #[must_use]
    pub fn next(&self) -> Step {
        let Some(record) = &self.record else { return Step::Record };
        if self.stored.as_str() == record.old {
            self.until_installed(record)
        } else if record.new.as_deref() == Some(self.stored.as_str()) {
            self.once_installed(record)
        } else {
            Step::Abandon
        }
    }

    /// While the old one is in use.
    fn until_installed(&self, record: &Rotation) -> Step {
        if let Some(new) = &self.done.issued {
            return match &record.new {
                _ if !self.done.proved => Step::Prove,
                Some(promised) if promised == new.as_str() => Step::Install,
                _ => Step::Promise(new.clone()),
            };
        }
        let left = record.issue.issued(&self.tokens, None);
        match left.is_empty() {
            false => Step::Discard(left),
            // What was issued by others since an earlier run's record is no business of ours.
            true if !self.done.recorded => Step::Record,
            true => Step::Issue,
        }
    }

    /// Once the new one is in use.
    fn once_installed(&self, record: &Rotation) -> Step {
        let Some(new) = self.in_use() else { return Step::Lost(self.stored.clone()) };
        let Some(old) = self.token(&record.old) else { return self.at_last(record) };
        if !self.done.switched {
            Step::Switch
        } else if (&new.name, &new.description) != (&old.name, &old.description) {
            Step::Describe
        } else if !self.done.drained {
            Step::Drain
        } else if old.active {
            Step::Disable
        } else if !self.done.confirmed {
            Step::Confirm
        } else {
            Step::Delete
        }
    }

    /// Once the old one is gone. What a killed run had asked for may have been issued after the next run
    /// had looked; it never got a name.
    fn at_last(&self, record: &Rotation) -> Step {
        let mut left = record.issue.issued(&self.tokens, None);
        left.retain(|token| token.id != self.stored);
        if left.is_empty() { Step::Forget } else { Step::Discard(left) }
    }
}

#[cfg(test)]
mod tests;
