//! When SolarQuery is asked for which rows, and what follows from what it shows. Pure.
//!
//! ```text
//!  handed over ─▶ gathered ──settled, on disk──▶ asked for ──shown as they are here──▶ acknowledged
//!                                                 │     ▲
//!                                                 │     └─ not shown: after 4, 16, 64 … times as long
//!                                                 ├─ not shown at the last look ──▶ released: sent again
//!                                                 └─ hidden by the token's policy ──▶ kept; a person is told
//! ```
//!
//! What always holds:
//!
//! * A row is acknowledged for one reason only: SolarQuery showed its key with its values. (Or with those of a
//!   row that was handed over later, has the same key, and so replaced it.)
//! * Rows are compared as they are on disk, and not before they are there: until then their number may come to
//!   belong to another row.
//! * Every row that was handed over is acknowledged or released at some time, unless nothing can be asked.
//!   Then it waits.
//!
//! Rows that were released come back, handed over once more. That goes on as long as they are not shown, less
//! and less often: with each such round they are looked for once more before they are released.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{
        retry::{self, Pause},
        waits::Trouble,
    },
    terms::{Effect, Failed, Found, Held, Key, Limits, Note, Step},
};
use crate::queue::Ranges;

/// Rows that are asked for together.
pub const GROUP: u64 = 5000;

/// Looks for a row before it is sent again.
const LOOKS: u32 = 3;

/// As many more at most, one with each round.
const MORE_LOOKS: u32 = 3;

/// Each pause between two looks is so many times the one before. SolarQuery repeats an answer for a minute.
const GROWTH: u32 = 4;

/// The longest pause between two looks.
const LONGEST: Duration = Duration::from_secs(3600);

/// After rows were not yet on disk when they were to be read.
const NOT_YET: Duration = Duration::from_secs(1);

/// How long it may take until a row that was released is handed over again.
const COMES_BACK: Duration = Duration::from_secs(6 * 3600);

/// Ranges of released rows that are remembered.
const MAX_RANGES: usize = 64;

/// Rows that are asked for together.
#[derive(Debug, Clone)]
struct Group {
    seqs: Ranges,
    /// `None` until they were read.
    rows: Option<Arc<[Held]>>,
    due: Duration,
    looks: u32,
    /// Sent before a restart, and looked for in the hope to spare sending them again.
    known: bool,
}

/// The prover's state.
#[derive(Debug, Clone)]
pub struct Machine {
    limits: Limits,
    /// Handed over last, and room for more.
    gathering: Option<Group>,
    groups: VecDeque<Group>,
    /// What is being read or asked for.
    busy: Option<Group>,
    trouble: Option<Trouble<()>>,
    /// Sources that are hidden, and since when.
    hidden: Option<(BTreeSet<Arc<str>>, Duration)>,
    /// Rows that were released and not shown since.
    unseen: Ranges,
    /// How often rows were released since all was shown, and when last.
    rounds: u32,
    released: Duration,
}

impl Machine {
    /// Begins with nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            gathering: None,
            groups: VecDeque::new(),
            busy: None,
            trouble: None,
            hidden: None,
            unseen: Ranges::default(),
            rounds: 0,
            released: Duration::ZERO,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().chain(&self.gathering).chain(&self.busy)
    }

    /// How many rows wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.all().map(|group| group.seqs.count()).sum()
    }

    /// Which rows wait.
    #[must_use]
    pub fn held(&self) -> Ranges {
        let mut held = Ranges::default();
        self.all().for_each(|group| held.extend(&group.seqs));
        held
    }

    /// How many rows had to be sent again and are not shown yet.
    #[must_use]
    pub fn unseen(&self) -> u64 {
        self.unseen.count()
    }

    /// Why nothing can be asked, for people.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let hidden = || self.hidden.as_ref().map(|(hidden, _)| hidden_text(hidden));
        self.trouble.as_ref().map(|trouble| trouble.text.clone()).or_else(hidden)
    }

    /// Whether a person has to do something.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        let trouble = self.trouble.as_ref().is_some_and(|trouble| trouble.pause != Pause::Trouble);
        trouble || self.hidden.is_some()
    }

    /// The server took these rows.
    pub fn handed_over(&mut self, now: Duration, seqs: &Ranges) {
        let due = now + self.limits.every + self.limits.settle;
        let group = self.gathering.get_or_insert(Group {
            seqs: Ranges::default(),
            rows: None,
            due,
            looks: 0,
            known: false,
        });
        group.seqs.extend(seqs);
        if group.seqs.count() >= GROUP {
            group.due = now + self.limits.settle;
            self.groups.extend(self.gathering.take());
        }
    }

    /// The server took these rows in a former run; they are asked for before they are sent again.
    pub fn known(&mut self, now: Duration, seqs: &Ranges) {
        let mut seqs = seqs.clone();
        while !seqs.is_empty() {
            let part = seqs.first_of(GROUP);
            seqs.subtract(&part);
            let due = now + self.limits.settle;
            self.groups.push_back(Group { seqs: part, rows: None, due, looks: 0, known: true });
        }
    }

    /// These rows are not in the queue any more.
    pub fn forget(&mut self, seqs: &Ranges) {
        let groups = self.groups.iter_mut().chain(&mut self.gathering).chain(&mut self.busy);
        groups.for_each(|group| group.without(seqs));
        self.groups.retain(|group| !group.seqs.is_empty());
        self.unseen.subtract(seqs);
    }

    /// What to do now. Rows with higher numbers than `durable` are not on disk yet.
    pub fn next(&mut self, now: Duration, durable: u64) -> Step {
        if let Some(gathering) = self.gathering.take_if(|group| group.due <= now) {
            self.groups.push_back(gathering);
        }
        let until = self.trouble.as_ref().map(|trouble| trouble.until);
        if let Some(until) = until.filter(|until| now < *until) {
            return Step::Wait(Some(until));
        }
        for group in &mut self.groups {
            if group.due <= now && group.rows.is_none() && group.seqs.last() > Some(durable) {
                group.due = now + NOT_YET;
            }
        }
        // All are read before the first is asked for, as a row of one may have replaced one of another.
        let due = |group: &Group| group.due <= now;
        let unread = self.groups.iter().position(|group| due(group) && group.rows.is_none());
        let Some(at) = unread.or_else(|| self.groups.iter().position(due)) else {
            let due = self.groups.iter().chain(&self.gathering).map(|group| group.due);
            return Step::Wait(due.min());
        };
        let Some(group) = self.groups.remove(at) else { return Step::Wait(None) };
        let step = match &group.rows {
            None => Step::Read(group.seqs.clone()),
            Some(rows) => Step::Look { rows: rows.clone(), last: self.is_last(&group) },
        };
        self.busy = Some(group);
        step
    }

    /// The answer to [`Step::Read`]; rows that are not among them are not in the queue any more.
    pub fn read(&mut self, rows: Vec<Held>) {
        let Some(mut group) = self.busy.take() else { return };
        let mut gone = group.seqs.clone();
        rows.iter().for_each(|row| gone.remove(row.seq..=row.seq));
        self.unseen.subtract(&gone);
        // Others may have been forgotten meanwhile.
        let rows: Vec<Held> = rows.into_iter().filter(|row| group.seqs.contains(row.seq)).collect();
        group.seqs = rows.iter().map(|row| row.seq).collect();
        group.rows = Some(rows.into());
        if !group.seqs.is_empty() {
            self.groups.push_front(group);
        }
    }

    /// The answer to [`Step::Look`].
    pub fn looked(
        &mut self,
        now: Duration,
        jitter: f64,
        result: Result<Found, Failed>,
    ) -> Vec<Effect> {
        let Some(group) = self.busy.take() else { return Vec::new() };
        match result {
            Ok(found) => {
                let mut effects = self.well(now);
                effects.extend(self.judge(group, now, jitter, &found));
                effects
            }
            Err(failed) => {
                self.groups.push_front(group);
                self.fails(now, jitter, failed)
            }
        }
    }

    /// Another key is there: what waited for it need not wait any longer.
    pub fn key_changed(&mut self, now: Duration) {
        Trouble::hurry(&mut self.trouble, now);
        if self.hidden.is_some() {
            self.groups.iter_mut().for_each(|group| group.due = group.due.min(now));
        }
    }

    fn is_last(&self, group: &Group) -> bool {
        let back = self.unseen.intersects(&group.seqs);
        let more = if back { self.rounds.min(MORE_LOOKS) } else { 0 };
        group.known || group.looks + 1 >= LOOKS + more
    }

    fn judge(&mut self, group: Group, now: Duration, jitter: f64, found: &Found) -> Vec<Effect> {
        let Some(rows) = &group.rows else { return Vec::new() };
        let mut effects = Vec::new();
        let seen = self.seen(rows, found);
        if !seen.is_empty() {
            // Of other groups as well, where a later row replaced an earlier one.
            self.forget(&seen);
            effects.push(Effect::Acknowledge(seen.clone()));
        }
        let rest =
            rows.iter().filter(|row| group.seqs.contains(row.seq) && !seen.contains(row.seq));
        let (hidden, unseen): (Vec<&Held>, Vec<&Held>) =
            rest.partition(|row| found.hidden.contains(&row.source));
        effects.extend(self.note_hidden(rows, found, now));
        if !hidden.is_empty() {
            let since = self.hidden.as_ref().map_or(now, |(_, since)| *since);
            let due = now + retry::wait(Pause::Person, now.saturating_sub(since), jitter);
            self.groups.push_back(Group::of(hidden, due, group.looks, group.known));
        }
        if unseen.is_empty() {
            // Nothing is left.
        } else if self.is_last(&group) {
            effects.extend(self.send_again(&unseen, found, group.known, now));
        } else {
            let looks = group.looks + 1;
            let pause = self.limits.settle * GROWTH.saturating_pow(looks);
            let due = now + pause.min(LONGEST).mul_f64(0.9 + jitter.clamp(0.0, 1.0) / 5.0);
            self.groups.push_back(Group::of(unseen, due, looks, group.known));
        }
        effects.extend(self.note_complete(now));
        effects
    }

    fn note_complete(&mut self, now: Duration) -> Option<Effect> {
        // What did not come back has left the queue in another way.
        let expired =
            now.saturating_sub(self.released) > COMES_BACK && !self.unseen.intersects(&self.held());
        if self.rounds == 0 || !(self.unseen.is_empty() || expired) {
            return None;
        }
        self.rounds = 0;
        self.unseen = Ranges::default();
        Some(Effect::Note(Note::Complete))
    }

    /// The rows that are there: those shown as they are here, and earlier ones that they replaced.
    fn seen(&self, rows: &[Held], found: &Found) -> Ranges {
        let others = self.groups.iter().filter_map(|group| group.rows.as_deref());
        let all = || others.clone().chain([rows]).flatten();
        let shown = |row: &&Held| found.shown.get(&row.key()) == Some(&row.contents);
        let mut latest = HashMap::<Key, u64>::new();
        for row in all().filter(shown) {
            let seq = latest.entry(row.key()).or_default();
            *seq = row.seq.max(*seq);
        }
        let is_seen = |row: &&Held| latest.get(&row.key()).is_some_and(|latest| row.seq <= *latest);
        all().filter(is_seen).map(|row| row.seq).collect()
    }

    fn send_again(
        &mut self,
        unseen: &[&Held],
        found: &Found,
        known: bool,
        now: Duration,
    ) -> Vec<Effect> {
        let mut first_of_key = HashMap::<Key, u64>::new();
        for row in unseen {
            let seq = first_of_key.entry(row.key()).or_insert(row.seq);
            *seq = row.seq.min(*seq);
        }
        // Later rows of the same key are sent again behind them, or an old value would replace a new one.
        let others = self.groups.iter().filter_map(|group| group.rows.as_ref());
        let behind = others.flat_map(|rows| rows.iter());
        let behind =
            behind.filter(|row| first_of_key.get(&row.key()).is_some_and(|s| row.seq > *s));
        let seqs: Ranges = behind.chain(unseen.iter().copied()).map(|row| row.seq).collect();
        self.forget(&seqs);
        if known {
            return vec![Effect::Release(seqs)];
        }
        let first = self.unseen.is_empty() && self.rounds == 0;
        self.rounds = self.rounds.saturating_add(1);
        self.released = now;
        self.unseen.extend(&seqs);
        self.unseen.keep_last(MAX_RANGES);
        let note = unseen.first().filter(|_| first).map(|row| {
            Effect::Note(Note::Unseen {
                rows: seqs.count(),
                source: row.source.clone(),
                unix_ms: row.unix_ms,
                other_values: found.shown.contains_key(&row.key()),
            })
        });
        note.into_iter().chain([Effect::Release(seqs)]).collect()
    }

    /// Sources that the token may not see are a person's business; so is their end.
    fn note_hidden(&mut self, rows: &[Held], found: &Found, now: Duration) -> Option<Effect> {
        let (known, since) = self.hidden.take().map_or((BTreeSet::new(), now), |hidden| hidden);
        let is_shown = |source: &Arc<str>| found.shown.keys().any(|(shown, _)| shown == source);
        let mut hidden: BTreeSet<Arc<str>> = known.clone();
        hidden.retain(|source| !is_shown(source));
        hidden.extend(found.hidden.iter().cloned());
        // Nothing of them waits any more.
        let waits = |source: &Arc<str>| {
            let others = self.groups.iter().filter_map(|group| group.rows.as_deref());
            others.chain([rows]).flatten().any(|row| row.source == *source)
        };
        hidden.retain(waits);
        let note = if hidden.is_subset(&known) {
            let over = hidden.is_empty() && !known.is_empty();
            over.then(|| Note::Resumed { down: now.saturating_sub(since) })
        } else {
            let text = hidden_text(&hidden);
            let (pause, kind, not_before) = (Pause::Person, "hidden", None);
            Some(Note::Stopped(Failed { pause, kind, not_before, text }))
        };
        self.hidden = (!hidden.is_empty()).then_some((hidden, since));
        note.map(Effect::Note)
    }

    fn well(&mut self, now: Duration) -> Vec<Effect> {
        let over = Trouble::ends(&mut self.trouble, now, |()| true);
        over.map(|down| Effect::Note(Note::Resumed { down })).into_iter().collect()
    }

    fn fails(&mut self, now: Duration, jitter: f64, failed: Failed) -> Vec<Effect> {
        let news = Trouble::fails(&mut self.trouble, (), now, jitter, failed);
        news.map(|failed| Effect::Note(Note::Stopped(failed))).into_iter().collect()
    }
}

impl Group {
    fn of(rows: Vec<&Held>, due: Duration, looks: u32, known: bool) -> Self {
        let seqs = rows.iter().map(|row| row.seq).collect();
        let rows = Some(rows.into_iter().cloned().collect());
        Self { seqs, rows, due, looks, known }
    }

    fn without(&mut self, seqs: &Ranges) {
        self.seqs.subtract(seqs);
        let is_left = |row: &&Held| self.seqs.contains(row.seq);
        if let Some(rows) = self.rows.take_if(|rows| !rows.iter().all(|row| is_left(&row))) {
            self.rows = Some(rows.iter().filter(is_left).cloned().collect());
        }
    }
}

fn hidden_text(hidden: &BTreeSet<Arc<str>>) -> String {
    let (first, others) =
        (hidden.first().map_or("", |source| source), hidden.len().saturating_sub(1));
    let more = if others > 0 { format!(" and {others} more") } else { String::new() };
    format!(
        "the token that asks SolarQuery may not see {first}{more}: its policy has to let it read the datum of every \
         source of this node (`token policy --for-config --type data` prints what it needs)"
    )
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
