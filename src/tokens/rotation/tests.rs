use serde_json::json;

use super::*;
use crate::{domain::TokenKind, tokens::calls};

/// Everything that outlives a killed run: the server, the device's store, its daemon.
#[derive(Debug, Clone)]
struct World {
    tokens: Vec<Token>,
    issued: usize,
    stored: TokenId,
    record: Option<Vec<u8>>,
    daemon: TokenId,
}

/// When a run is killed: before or after its step of that number is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kill {
    step: usize,
    after: bool,
}

fn id(text: &str) -> TokenId {
    text.parse().expect("a token ID")
}

fn token(id: &str) -> Token {
    let policy = json!({"nodeIds": [123], "sourceIds": ["/a"]});
    let token = json!({"id": id, "status": "Active", "type": "User", "policy": policy});
    calls::token(&token).expect("a token")
}

impl World {
    fn new() -> Self {
        let old = Token {
            name: Some("Barn".to_owned()),
            description: Some("Gateway".to_owned()),
            ..token("old")
        };
        let boss = Token { policy: Default::default(), ..token("boss") };
        Self {
            tokens: vec![boss, old],
            issued: 0,
            stored: id("old"),
            record: None,
            daemon: id("old"),
        }
    }

    fn seen(&self, done: &Done) -> Seen {
        let record = self.record.as_deref().map(|bytes| Rotation::from_bytes(bytes).expect("ours"));
        Seen {
            record,
            stored: self.stored.clone(),
            tokens: self.tokens.clone(),
            done: done.clone(),
        }
    }

    fn active(&self, id: &TokenId) -> bool {
        self.tokens.iter().any(|token| token.id == *id && token.active)
    }

    fn carry_out(&mut self, step: &Step, done: &mut Done) {
        let seen = self.seen(done);
        let old = |world: &mut Self| -> usize {
            world.tokens.iter().position(|t| t.id.as_str() == "old").expect("it is there")
        };
        match step {
            Step::Record => {
                let issue = Issue::new(TokenKind::User, &token("x").policy, &self.tokens);
                self.record = Some(Rotation::new(&id("old"), issue).to_bytes());
                done.recorded = true;
            }
            Step::Issue => {
                self.issued += 1;
                let new = token(&format!("new{}", self.issued));
                done.issued = Some(new.id.clone());
                self.tokens.push(new);
            }
            Step::Discard(left) => {
                self.tokens.retain(|token| left.iter().all(|left| left.id != token.id));
            }
            Step::Prove => {
                let new = done.issued.clone().expect("issued");
                assert!(self.active(&new));
                done.proved = true;
            }
            Step::Promise(new) => {
                self.record = Some(seen.record.expect("recorded").promising(new).to_bytes());
            }
            Step::Install => {
                assert!(done.proved, "only what is proved is put in");
                self.stored = done.issued.clone().expect("issued");
            }
            Step::Switch => {
                self.daemon = self.stored.clone();
                done.switched = true;
            }
            Step::Describe => {
                let at = old(self);
                let (name, text) =
                    (self.tokens[at].name.clone(), self.tokens[at].description.clone());
                let stored = self.stored.clone();
                let new = self.tokens.iter_mut().find(|t| t.id == stored).expect("it is there");
                (new.name, new.description) = (name, text);
            }
            Step::Drain => done.drained = true,
            Step::Disable => {
                let at = old(self);
                self.tokens[at].active = false;
            }
            Step::Confirm => {
                assert!(self.active(&self.daemon));
                done.confirmed = true;
            }
            Step::Delete => {
                assert!(done.drained && done.confirmed);
                let at = old(self);
                self.tokens.remove(at);
            }
            Step::Forget => self.record = None,
            Step::Abandon | Step::Lost(_) => panic!("{step:?}"),
        }
    }

    /// Runs to the end, or until it is killed; gives the steps that were carried out.
    fn run(&mut self, kill: Option<Kill>) -> Vec<Step> {
        let (mut done, mut steps) = (Done::default(), Vec::new());
        loop {
            let step = self.seen(&done).next();
            let killed = kill.filter(|kill| kill.step == steps.len());
            if killed.is_some_and(|kill| !kill.after) {
                return steps;
            }
            self.carry_out(&step, &mut done);
            self.assert_working();
            steps.push(step.clone());
            if killed.is_some() || step == Step::Forget {
                return steps;
            }
            assert!(steps.len() < 40, "no end: {steps:?}");
        }
    }

    /// At every moment the store has a token that works, and so has the daemon.
    fn assert_working(&self) {
        assert!(self.active(&self.stored), "{self:?}");
        assert!(self.active(&self.daemon), "{self:?}");
    }

    /// One successor, like the old one in all that people see; nothing else is left.
    fn assert_rotated(&self) {
        let ids: Vec<&TokenId> = self.tokens.iter().map(|token| &token.id).collect();
        assert_eq!(ids, [&id("boss"), &self.stored]);
        assert_eq!((&self.daemon, &self.record), (&self.stored, &None));
        let new = &self.tokens[1];
        assert_eq!(new.name.as_deref(), Some("Barn"));
        assert_eq!(new.description.as_deref(), Some("Gateway"));
        assert_eq!((&new.policy, new.active), (&token("x").policy, true));
    }
}

#[test]
fn the_steps_of_an_undisturbed_rotation_come_in_their_order() {
    let mut world = World::new();
    let steps = world.run(None);
    world.assert_rotated();
    let new = id("new1");
    #[rustfmt::skip]
    assert_eq!(steps, [
        Step::Record, Step::Issue, Step::Prove, Step::Promise(new), Step::Install, Step::Switch,
        Step::Describe, Step::Drain, Step::Disable, Step::Confirm, Step::Delete, Step::Forget,
    ]);
}

/// Killed between every two steps, and the run after that as well, and the one after that.
#[test]
fn killed_anywhere_again_and_again_the_next_run_ends_with_one_token_that_works() {
    let kills: Vec<Kill> =
        (0..14).flat_map(|step| [false, true].map(|after| Kill { step, after })).collect();
    for first in &kills {
        for second in &kills {
            for third in &kills {
                let mut world = World::new();
                let before = world.tokens.len();
                for kill in [first, second, third] {
                    let steps = world.run(Some(*kill));
                    assert!(world.tokens.len() <= before + 1, "{first:?} {second:?} {third:?}");
                    if steps.last() == Some(&Step::Forget) {
                        break;
                    }
                }
                if world.record.is_some() || world.stored == id("old") {
                    world.run(None);
                }
                world.assert_rotated();
            }
        }
    }
}

#[test]
fn a_token_that_others_created_meanwhile_is_never_taken_for_a_leftover() {
    let mut world = World::new();
    // Killed when the record was written and nothing was asked for.
    world.run(Some(Kill { step: 0, after: true }));
    let theirs = [Some("theirs"), Some("Barn")]
        .map(|name| Token { name: name.map(str::to_owned), ..token(name.unwrap_or_default()) });
    world.tokens.extend(theirs.clone());
    let steps = world.run(None);
    assert!(!steps.iter().any(|step| matches!(step, Step::Discard(_))), "{steps:?}");
    assert!(theirs.iter().all(|theirs| world.tokens.contains(theirs)));
}

#[test]
fn what_a_killed_run_asked_for_and_was_issued_late_is_not_left_behind() {
    let mut world = World::new();
    world.run(Some(Kill { step: 0, after: true }));
    // The next run has looked, and asks for its own; then the call of the killed one is carried out.
    world.run(Some(Kill { step: 4, after: true }));
    world.tokens.push(token("late"));
    let steps = world.run(None);
    assert!(steps.contains(&Step::Discard(vec![token("late")])), "{steps:?}");
    world.assert_rotated();
}

#[test]
fn what_others_did_meanwhile_is_seen_and_nothing_is_done_on_top_of_it() {
    let mut world = World::new();
    world.run(Some(Kill { step: 4, after: true }));
    assert_eq!(world.stored, id("new1"));

    let mut by_hand = world.clone();
    by_hand.stored = id("imported");
    assert_eq!(by_hand.seen(&Done::default()).next(), Step::Abandon);

    let mut lost = world.clone();
    lost.tokens.retain(|token| token.id != id("new1"));
    assert_eq!(lost.seen(&Done::default()).next(), Step::Lost(id("new1")));

    world.tokens.retain(|token| token.id != id("old"));
    assert_eq!(world.seen(&Done::default()).next(), Step::Forget);
}

#[test]
fn a_record_that_makes_no_sense_is_none() {
    assert_eq!(Rotation::from_bytes(b"{}"), None);
    assert_eq!(Rotation::from_bytes(b""), None);
}
