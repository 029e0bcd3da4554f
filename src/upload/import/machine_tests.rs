//! The machine against a server that does anything, and its decisions one by one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[path = "moody_tests.rs"]
mod moody;

const LIMITS: Limits = Limits { every: Duration::from_secs(60), enough: 100 };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn batch(id: &str, seqs: std::ops::RangeInclusive<u64>) -> Batch {
    Batch::new(id.into(), seqs.collect(), false)
}

fn waiting(count: u64) -> Option<Waiting> {
    Some(Waiting { count, since: Duration::ZERO })
}

fn job(state: JobState, success: bool, loaded: Option<u64>) -> Job {
    Job {
        id: "job".into(),
        name: None,
        state,
        success,
        loaded,
        message: None,
        progress: String::new(),
    }
}

fn failed(cause: Cause) -> Failed {
    let error = crate::solarnet::CallError {
        method: "GET",
        path: "/".into(),
        cause,
        refusal: None,
        detail: None,
    };
    Failed { cause, next: error.next(), not_before: None, text: error.to_string() }
}

/// A machine with one batch of ten rows whose job is being followed.
fn following() -> Machine {
    let mut machine = Machine::new(LIMITS, Vec::new(), false);
    assert_eq!(machine.next(secs(60), 0.5, waiting(10)).1, Step::Claim);
    let effects = machine.opened(secs(60), Some(batch("b", 1..=10)), Ranges::default(), false);
    assert_eq!(effects, [Effect::Save], "on disk before it is sent");
    assert_eq!(machine.next(secs(60), 0.5, None).1, Step::Send(batch("b", 1..=10)));
    assert_eq!(machine.sent("b", secs(60), 0.5, Ok(Some("job".into()))), []);
    machine
}

fn acknowledged(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Acknowledge(_)))
}

#[test]
fn a_batch_waits_for_the_interval_or_for_enough_rows() {
    let mut machine = Machine::new(LIMITS, Vec::new(), true);
    assert_eq!(machine.next(secs(1), 0.5, waiting(5)).1, Step::Claim, "left by the last run");
    machine.opened(secs(1), None, Ranges::default(), false);
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Wait(None));
    assert_eq!(machine.next(secs(1), 0.5, waiting(5)).1, Step::Wait(Some(secs(60))));
    assert_eq!(machine.next(secs(60), 0.5, waiting(5)).1, Step::Claim);
    let soon = Step::Wait(Some(secs(2)));
    assert_eq!(machine.next(secs(1), 0.5, waiting(100)).1, soon, "not right after a claim in vain");
    assert_eq!(machine.next(secs(2), 0.5, waiting(100)).1, Step::Claim);
}

#[test]
fn a_backlog_drains_in_two_jobs_back_to_back() {
    let mut machine = Machine::new(LIMITS, Vec::new(), false);
    for (id, seqs) in [("a", 1..=5), ("b", 6..=10)] {
        assert_eq!(machine.next(secs(1), 0.5, waiting(500)).1, Step::Claim);
        machine.opened(secs(1), Some(batch(id, seqs.clone())), Ranges::default(), true);
        assert_eq!(machine.next(secs(1), 0.5, waiting(500)).1, Step::Send(batch(id, seqs)));
        machine.sent(id, secs(1), 0.5, Ok(Some(id.into())));
    }
    assert_eq!(machine.next(secs(1), 0.5, waiting(500)).1, Step::Wait(Some(secs(3))));
    let of = |id: &str, job: Job| Ok(Job { id: id.into(), ..job });
    let proof = of("a", job(JobState::Completed, true, Some(5)));
    assert!(acknowledged(&machine.followed("a", secs(3), 0.5, proof)));
    let follow = Step::Follow { batch: "b".into(), job: "b".into() };
    assert_eq!(machine.next(secs(3), 0.5, waiting(7)).1, follow);
    machine.followed("b", secs(3), 0.5, of("b", job(JobState::Pending, false, None)));
    assert_eq!(machine.next(secs(3), 0.5, waiting(7)).1, Step::Claim, "the rest waits no longer");
}

#[test]
fn a_batch_that_lost_rows_before_it_is_sent_again_is_not_proved_by_its_former_job() {
    // The former job lost as many rows as are missing here: its count fits by accident.
    let former = batch("b", 1..=10);
    let mut machine = Machine::new(LIMITS, vec![former.clone()], false);
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Look);
    machine.looked(secs(1), 0.5, Ok(Vec::new()));
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Send(former.clone()));
    let left = batch("c", 1..=4);
    assert_eq!(machine.replaced("b", Some(left.clone())), [Effect::Save]);
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Send(left.clone()));
    machine.sent("c", secs(1), 0.5, Err(failed(Cause::Unreachable)));
    assert_eq!(machine.next(secs(9), 0.5, None).1, Step::Look);
    let job = Job { name: Some(former.name), ..job(JobState::Completed, true, Some(4)) };
    assert!(!acknowledged(&machine.looked(secs(9), 0.5, Ok(vec![job]))));
    assert_eq!(machine.next(secs(9), 0.5, None).1, Step::Send(left));
    machine.replaced("c", None);
    assert_eq!(machine.open_batches().count(), 0);
}

#[test]
fn only_a_complete_job_with_every_row_is_a_proof() {
    use JobState::{Completed, Lost, Pending};
    let cases = [
        (job(Completed, true, Some(10)), true),
        (job(Completed, true, Some(9)), false),
        (job(Completed, true, Some(11)), false),
        (job(Completed, true, None), false),
        (job(Completed, false, Some(10)), false),
        (job(Pending, true, Some(10)), false),
        (job(Lost, true, Some(10)), false),
    ];
    for (job, proof) in cases {
        let effects = following().followed("b", secs(62), 0.5, Ok(job.clone()));
        assert_eq!(acknowledged(&effects), proof, "{job:?}");
    }
}

#[test]
fn one_receipt_for_two_batches_is_none_for_the_second() {
    let mut machine = following();
    machine.opened(secs(60), Some(batch("c", 11..=20)), Ranges::default(), false);
    machine.sent("c", secs(60), 0.5, Ok(Some("job".into())));
    let Step::Follow { batch: followed, .. } = machine.next(secs(64), 0.5, None).1 else {
        panic!("the first one is followed")
    };
    let proof = job(JobState::Completed, true, Some(10));
    assert!(acknowledged(&machine.followed(&followed, secs(64), 0.5, Ok(proof))));
    assert_eq!(machine.open_batches().map(|batch| &*batch.id).collect::<Vec<_>>(), ["c"]);
    assert_eq!(machine.next(secs(64), 0.5, None).1, Step::Look, "its job is looked for by name");
}

#[test]
fn odd_answers_lead_to_the_same_rows_being_sent_again() {
    let gone = || Err(failed(Cause::UnknownObject));
    let good = || job(JobState::Completed, true, Some(10));
    let cases: [Result<Job, Failed>; 6] = [
        Ok(Job { id: "another".into(), ..good() }),
        Ok(Job { name: Some("c 1-10".into()), ..good() }),
        Ok(job(JobState::Completed, true, Some(3))),
        Ok(job(JobState::Lost, false, None)),
        gone(),
        Err(failed(Cause::BadContent)),
    ];
    for answer in cases {
        let mut machine = following();
        let effects = machine.followed("b", secs(62), 0.5, answer.clone());
        assert!(matches!(effects[..], [Effect::Note(Note::Odd { .. })]), "{answer:?}");
        let Step::Wait(Some(due)) = machine.next(secs(62), 0.5, None).1 else {
            panic!("it is not sent again at once")
        };
        assert_eq!(machine.next(due, 0.5, None).1, Step::Send(batch("b", 1..=10)));
        // The same oddity again is no news.
        machine.sent("b", due, 0.5, Ok(Some("job2".into())));
        assert_eq!(machine.followed("b", due, 0.5, gone()), []);
    }
}

#[test]
fn a_job_that_never_ends_is_followed_with_patience_and_then_sent_again() {
    let mut machine = following();
    let (mut now, mut looks) = (secs(60), 0);
    loop {
        match machine.next(now, 0.5, None).1 {
            Step::Wait(Some(due)) => now = due,
            Step::Follow { batch, .. } => {
                looks += 1;
                let pending = job(JobState::Pending, false, None);
                machine.followed(&batch, now, 0.5, Ok(pending));
            }
            Step::Send(again) => break assert_eq!(again, batch("b", 1..=10)),
            other => panic!("{other:?}"),
        }
        assert!(now < secs(3600), "it is given up at last");
    }
    assert!(now > secs(15 * 60) && looks < 50, "{now:?} {looks}");
    assert_eq!(machine.hung(), 1);
}

#[test]
fn an_unanswered_batch_is_looked_for_before_it_is_sent_again() {
    for (cause, step) in [
        (Cause::Unreachable, Step::Look),
        (Cause::ServerTrouble, Step::Look),
        (Cause::RateLimited, Step::Send(batch("b", 1..=10))),
        (Cause::BadCredentials, Step::Send(batch("b", 1..=10))),
        (Cause::AccessDenied, Step::Send(batch("b", 1..=10))),
    ] {
        let mut machine = Machine::new(LIMITS, Vec::new(), false);
        machine.opened(secs(0), Some(batch("b", 1..=10)), Ranges::default(), false);
        machine.sent("b", secs(0), 0.5, Err(failed(cause)));
        let Step::Wait(Some(due)) = machine.next(secs(0), 0.5, None).1 else {
            panic!("{cause:?} is waited for")
        };
        assert_eq!(machine.next(due, 0.5, None).1, step, "{cause:?}");
    }
}

#[test]
fn a_list_of_jobs_that_is_too_long_to_be_read_keeps_nothing_waiting() {
    let mut machine = Machine::new(LIMITS, vec![batch("b", 1..=10)], false);
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Look);
    machine.looked(secs(1), 0.5, Err(failed(Cause::AnswerTooLong)));
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Send(batch("b", 1..=10)));
}

#[test]
fn a_server_that_names_no_job_is_sent_little() {
    let mut machine = Machine::new(LIMITS, Vec::new(), false);
    machine.opened(secs(0), Some(batch("b", 1..=10)), Ranges::default(), false);
    let (mut now, mut sent) = (secs(0), 0);
    while now < secs(3600) {
        match machine.next(now, 0.5, None).1 {
            Step::Wait(until) => now = until.expect("it goes on by itself"),
            Step::Send(batch) => {
                sent += 1;
                machine.sent(&batch.id, now, 0.5, Ok(None));
            }
            Step::Look => drop(machine.looked(now, 0.5, Ok(Vec::new()))),
            other => panic!("{other:?}"),
        }
        assert!(sent < 200, "{sent} times until {now:?}");
    }
    assert!(machine.waits_for().is_some());
}

#[test]
fn after_a_restart_the_list_of_jobs_decides() {
    let named =
        |state, success, loaded| Job { name: Some("b 1-10".into()), ..job(state, success, loaded) };
    let other = Job { name: Some("x 1-10".into()), ..job(JobState::Completed, true, Some(10)) };
    let restart = || Machine::new(LIMITS, vec![batch("b", 1..=10)], false);

    let mut machine = restart();
    assert_eq!(machine.next(secs(0), 0.5, None).1, Step::Look);
    machine.looked(secs(0), 0.5, Ok(vec![other.clone()]));
    assert_eq!(machine.next(secs(0), 0.5, None).1, Step::Send(batch("b", 1..=10)));

    let proof = named(JobState::Completed, true, Some(10));
    let lie = named(JobState::Completed, true, Some(3));
    assert!(acknowledged(&restart().looked(secs(0), 0.5, Ok(vec![other, lie, proof]))));

    let mut machine = restart();
    let pending = named(JobState::Pending, false, None);
    assert!(!acknowledged(&machine.looked(secs(0), 0.5, Ok(vec![pending]))));
    assert!(matches!(machine.next(secs(9), 0.5, None).1, Step::Follow { .. }));
}

#[test]
fn a_node_that_is_not_ours_stops_everything_and_gives_up_nothing() {
    let mut machine = following();
    let refusal = Job {
        message: Some("Not authorized to load data for node 456.".into()),
        ..job(JobState::Completed, false, Some(0))
    };
    let effects = machine.followed("b", secs(62), 0.5, Ok(refusal.clone()));
    let [Effect::Release(rows), Effect::Note(Note::Stopped { text, .. })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(rows.count(), 10);
    assert!(text.contains("Not authorized to load data for node 456"), "{text}");
    assert!(machine.needs_a_person());

    // It looks again, and the same answer is no news.
    let Step::Wait(Some(due)) = machine.next(secs(62), 0.5, waiting(10)).1 else { panic!("waits") };
    assert!(due >= secs(62 + 20), "{due:?}");
    // Another token may be allowed what this one was not.
    let mut repaired = machine.clone();
    repaired.key_changed(secs(63));
    assert!(!matches!(repaired.next(secs(63), 0.5, waiting(10)).1, Step::Wait(_)));
    assert_eq!(machine.next(due, 0.5, waiting(10)).1, Step::Claim);
    machine.opened(due, Some(batch("c", 1..=10)), Ranges::default(), false);
    machine.sent("c", due, 0.5, Ok(Some("job".into())));
    let effects = machine.followed("c", due, 0.5, Ok(refusal));
    assert!(matches!(effects[..], [Effect::Release(_)]), "{effects:?}");

    let Step::Wait(Some(due)) = machine.next(due, 0.5, waiting(10)).1 else { panic!("waits") };
    machine.next(due, 0.5, waiting(10));
    machine.opened(due, Some(batch("d", 1..=10)), Ranges::default(), false);
    machine.sent("d", due, 0.5, Ok(Some("job".into())));
    let effects = machine.followed("d", due, 0.5, Ok(job(JobState::Completed, true, Some(10))));
    assert!(effects.iter().any(|e| matches!(e, Effect::Note(Note::Resumed { .. }))));
    assert!(!machine.needs_a_person());
}

#[test]
fn trouble_is_told_once_and_its_end_only_by_the_call_that_failed() {
    let mut machine = following();
    let effects = machine.followed("b", secs(62), 0.5, Err(failed(Cause::Unreachable)));
    assert!(matches!(effects[..], [Effect::Note(Note::Stopped { kind: "unreachable", .. })]));
    assert_eq!(machine.followed("b", secs(70), 0.5, Err(failed(Cause::Unreachable))), []);
    let effects = machine.followed("b", secs(80), 0.5, Ok(job(JobState::Pending, false, None)));
    assert_eq!(effects, [Effect::Note(Note::Resumed { down: secs(18) })]);

    // A list that works says nothing about sending.
    let mut machine = Machine::new(LIMITS, vec![batch("b", 1..=10)], false);
    machine.looked(secs(0), 0.5, Ok(Vec::new()));
    for at in [1, 10, 20] {
        let effects = machine.sent("b", secs(at), 0.5, Err(failed(Cause::ServerTrouble)));
        assert_eq!(effects.is_empty(), at > 1, "told once");
        assert_eq!(machine.looked(secs(at), 0.5, Ok(Vec::new())), []);
    }
}

#[test]
fn the_servers_own_word_about_when_to_come_back_is_kept() {
    let mut machine = following();
    let limited = Failed { not_before: Some(secs(90)), ..failed(Cause::RateLimited) };
    machine.followed("b", secs(62), 0.5, Err(limited));
    assert_eq!(machine.next(secs(63), 0.5, None).1, Step::Wait(Some(secs(90))));
}

#[test]
fn another_key_ends_the_wait_for_one() {
    let mut machine = following();
    machine.followed("b", secs(62), 0.5, Err(failed(Cause::NoKey)));
    assert!(matches!(machine.next(secs(63), 0.5, None).1, Step::Wait(Some(_))));
    machine.key_changed(secs(63));
    assert!(matches!(machine.next(secs(63), 0.5, None).1, Step::Follow { .. }));
}

#[test]
fn a_batch_with_a_later_twin_travels_alone() {
    let mut machine = Machine::new(LIMITS, Vec::new(), false);
    let twin = Batch { twin: true, ..batch("a", 1..=5) };
    machine.opened(secs(0), Some(twin), Ranges::default(), true);
    machine.sent("a", secs(0), 0.5, Ok(Some("job".into())));
    assert_eq!(machine.next(secs(0), 0.5, waiting(500)).1, Step::Wait(Some(secs(2))));
    machine.followed("a", secs(2), 0.5, Ok(job(JobState::Completed, true, Some(5))));
    assert_eq!(machine.next(secs(2), 0.5, waiting(500)).1, Step::Claim);
}

/// A server, a queue and a clock. What the server does is decided by `chance`.
struct World {
    machine: Machine,
    chance: fastrand::Rng,
    /// Probability of each misbehaviour.
    misbehaves: f64,
    /// Rows that make a job fail.
    poison: BTreeSet<u64>,
    /// Whether every job is refused for its content.
    refuses_all: bool,
    /// Whether good rows are refused at random, so that some are rightly given up.
    capricious: bool,
    now: Duration,
    rows: u64,
    claimed: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
    ledger: BTreeSet<u64>,
    jobs: BTreeMap<String, (Batch, JobState, bool, u64)>,
    saved: Vec<Batch>,
    ids: u64,
    calls: u64,
}

impl World {
    fn new(seed: u64, rows: u64, poison: BTreeSet<u64>, misbehaves: f64) -> Self {
        Self {
            machine: Machine::new(LIMITS, Vec::new(), false),
            chance: fastrand::Rng::with_seed(seed),
            misbehaves,
            poison,
            refuses_all: false,
            capricious: false,
            now: Duration::ZERO,
            rows,
            claimed: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            given_up: BTreeSet::new(),
            ledger: BTreeSet::new(),
            jobs: BTreeMap::new(),
            saved: Vec::new(),
            ids: 0,
            calls: 0,
        }
    }

    fn maybe(&mut self) -> bool {
        self.chance.f64() < self.misbehaves
    }

    fn is_left(&self, seq: u64) -> bool {
        !self.acknowledged.contains(&seq) && !self.given_up.contains(&seq)
    }

    fn trouble(&mut self) -> Option<Failed> {
        const CAUSES: [Cause; 6] = [
            Cause::Unreachable,
            Cause::ServerTrouble,
            Cause::RateLimited,
            Cause::BadCredentials,
            Cause::AccessDenied,
            Cause::NotSolarNetwork,
        ];
        self.calls += 1;
        self.maybe().then(|| failed(CAUSES[self.chance.usize(..CAUSES.len())]))
    }

    /// The server works on its jobs: as they are, half, or not at all.
    fn work(&mut self) {
        let ids: Vec<String> = self.jobs.keys().cloned().collect();
        for id in ids {
            let (vanishes, lies, fails, stays) =
                (self.maybe(), self.maybe(), self.maybe(), self.maybe());
            let whim = self.capricious && self.maybe();
            let Some((batch, state, success, loaded)) = self.jobs.get_mut(&id) else { continue };
            if *state == JobState::Pending && !stays {
                let bad = whim
                    || self.refuses_all
                    || batch.seqs.iter().flatten().any(|seq| self.poison.contains(&seq));
                *state = JobState::Completed;
                if !bad && !fails {
                    *success = true;
                    *loaded = batch.rows;
                    self.ledger.extend(batch.seqs.iter().flatten());
                } else if bad {
                    *success = false;
                } else {
                    // A success that loaded something else than what it was given.
                    *success = true;
                    *loaded = batch.rows + 1;
                }
            }
            // Answers that are wrong now and right another time.
            if lies && *loaded == batch.rows {
                *loaded += 1;
            }
            if vanishes {
                self.jobs.remove(&id);
            }
        }
    }

    fn job(&self, id: &str) -> Option<Job> {
        let (batch, state, success, loaded) = self.jobs.get(id)?;
        Some(Job {
            id: id.to_owned(),
            name: Some(batch.name.clone()),
            state: *state,
            success: *success,
            loaded: Some(*loaded),
            message: (!success).then(|| "bad data".to_owned()),
            progress: String::new(),
        })
    }

    fn batch(&mut self, seqs: Ranges) -> Option<Batch> {
        self.ids += 1;
        let id = format!("b{}", self.ids);
        (!seqs.is_empty()).then(|| Batch::new(id, seqs, false))
    }

    fn restart(&mut self) {
        self.claimed.clear();
        let mut open = Vec::new();
        for mut batch in self.saved.clone() {
            batch.seqs = batch.seqs.iter().flatten().filter(|seq| self.is_left(*seq)).collect();
            if !batch.seqs.is_empty() {
                self.claimed.extend(batch.seqs.iter().flatten());
                open.push(batch);
            }
        }
        self.machine = Machine::new(LIMITS, open, true);
        self.now = Duration::ZERO;
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Save => self.saved = self.machine.open_batches().cloned().collect(),
                Effect::Acknowledge(seqs) => {
                    for seq in seqs.iter().flatten() {
                        assert!(self.ledger.contains(&seq), "row {seq} acknowledged without proof");
                        self.claimed.remove(&seq);
                        self.acknowledged.insert(seq);
                    }
                }
                Effect::GiveUp { seq, .. } => {
                    let bad = self.capricious || self.poison.contains(&seq);
                    assert!(bad, "row {seq} given up without need");
                    self.claimed.remove(&seq);
                    self.given_up.insert(seq);
                }
                Effect::Release(seqs) => {
                    for seq in seqs.iter().flatten() {
                        self.claimed.remove(&seq);
                    }
                }
                Effect::Note(_) => {}
            }
        }
    }

    fn step(&mut self) {
        let free: Vec<u64> =
            (0..self.rows).filter(|s| self.is_left(*s) && !self.claimed.contains(s)).collect();
        let waiting = Waiting { count: free.len() as u64, since: Duration::ZERO };
        let jitter = self.chance.f64();
        let (effects, step) = self.machine.next(self.now, jitter, Some(waiting));
        self.apply(effects);
        let now = self.now;
        let effects = match step {
            Step::Claim => {
                let seqs: Ranges = free.iter().copied().take(16).collect();
                self.claimed.extend(seqs.iter().flatten());
                let batch = self.batch(seqs);
                self.machine.opened(now, batch, Ranges::default(), free.len() > 16)
            }
            Step::Build(seqs) => {
                let batch = self.batch(seqs);
                self.machine.opened(now, batch, Ranges::default(), false)
            }
            Step::Split(seqs) => {
                let mut by_source: BTreeMap<u64, Ranges> = BTreeMap::new();
                for seq in seqs.iter().flatten() {
                    by_source.entry(seq % 3).or_default().insert(seq..=seq);
                }
                self.machine.split(by_source.into_values().collect());
                Vec::new()
            }
            Step::Send(batch) => {
                assert!(self.saved.contains(&batch), "on disk before it is sent");
                let answer = self.trouble();
                let arrives = answer.is_none()
                    || answer.as_ref().is_some_and(|f| f.cause == Cause::Unreachable)
                        && self.chance.bool();
                let id = format!("j{}", self.calls);
                if arrives {
                    let job = (batch.clone(), JobState::Pending, false, 0);
                    self.jobs.insert(id.clone(), job);
                }
                let garbage = self.maybe();
                let result = answer.map_or(Ok((!garbage).then_some(id)), Err);
                self.machine.sent(&batch.id, now, jitter, result)
            }
            Step::Look => {
                let result = match self.trouble() {
                    Some(failed) => Err(failed),
                    None => Ok(self.jobs.keys().filter_map(|id| self.job(id)).collect()),
                };
                self.machine.looked(now, jitter, result)
            }
            Step::Follow { batch, job } => {
                self.work();
                let result = match self.trouble() {
                    Some(failed) => Err(failed),
                    None => self.job(&job).ok_or_else(|| failed(Cause::UnknownObject)),
                };
                self.machine.followed(&batch, now, jitter, result)
            }
            Step::Wait(until) => {
                assert!(until.is_none_or(|until| until > now), "a wait for the past");
                self.now = until.unwrap_or(now + secs(60));
                Vec::new()
            }
        };
        self.apply(effects);
        // A crash after any step, before anything else happens.
        if self.chance.f64() < self.misbehaves / 20.0 {
            self.restart();
        }
    }

    /// Whether all is decided but the bad rows, which may wait for another row to be accepted.
    fn is_done(&self) -> bool {
        (0..self.rows).all(|seq| !self.is_left(seq) || self.poison.contains(&seq))
    }

    fn run(&mut self, steps: u32) -> bool {
        for _ in 0..steps {
            if self.is_done() {
                return true;
            }
            self.step();
        }
        self.is_done()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No row is acknowledged that the server did not load, none is given up that it would take, and
    /// once the server is well every good row is there.
    #[test]
    fn nothing_is_lost_whatever_the_server_does(
        seed in any::<u64>(),
        rows in 2u64..120,
        poison in prop::collection::btree_set(0u64..120, 0..6),
        misbehaves in 0.0..0.6f64,
        refuses_all in any::<bool>(),
        capricious in any::<bool>(),
    ) {
        let mut world = World::new(seed, rows, poison.clone(), misbehaves);
        world.refuses_all = refuses_all;
        world.capricious = capricious && !refuses_all;
        // While everything is refused nothing may be given up, good or bad.
        if refuses_all {
            world.poison.clear();
        }
        world.run(400);
        world.poison.clone_from(&poison);
        world.refuses_all = false;
        world.misbehaves = 0.0;
        world.capricious = false;
        world.run(3000);
        for seq in 0..rows {
            if poison.contains(&seq) {
                prop_assert!(!world.acknowledged.contains(&seq) || world.ledger.contains(&seq));
            } else {
                prop_assert!(!world.is_left(seq), "row {} is still here", seq);
            }
        }
    }
}

#[test]
fn one_bad_row_among_thousands_is_found_and_costs_no_other() {
    let mut world = World::new(7, 1000, BTreeSet::from([577]), 0.0);
    assert!(world.run(10_000));
    // The next reading is what shows that the server is well.
    world.rows += 1;
    for _ in 0..50 {
        world.step();
    }
    assert_eq!(world.given_up, BTreeSet::from([577]));
    assert_eq!(world.acknowledged.len(), 1000);
}

#[test]
fn a_server_that_refuses_everything_is_asked_less_and_less_and_loses_nothing() {
    let mut world = World::new(7, 500, BTreeSet::new(), 0.0);
    world.refuses_all = true;
    while world.now < secs(24 * 3600) {
        world.step();
    }
    assert!(world.given_up.is_empty() && world.machine.needs_a_person());
    // 24 hours / 15 minutes, eight parts a look and two calls for each.
    assert!(world.calls < 3000, "{} calls in a day", world.calls);
    world.refuses_all = false;
    assert!(world.run(10_000), "and once it takes data again, all of it goes");
    assert_eq!(world.acknowledged.len(), 500);
}
