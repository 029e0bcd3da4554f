//! The machine against an honest server whose jobs fail by chance: what is given up, and what that costs.

use super::*;

/// A server that fails any job with some probability, as if its rows were to blame, and is honest otherwise.
struct Moody {
    machine: Machine,
    chance: fastrand::Rng,
    fails: f64,
    poison: BTreeSet<u64>,
    /// A row of one of three sources arrives this often.
    every: Duration,
    now: Duration,
    claimed: u64,
    left: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
    jobs: u64,
    stops: u64,
}

impl Moody {
    fn new(seed: u64, fails: f64, every: Duration, poison: &[u64]) -> Self {
        Self {
            machine: Machine::new(LIMITS, Vec::new(), false),
            chance: fastrand::Rng::with_seed(seed),
            fails,
            poison: poison.iter().copied().collect(),
            every,
            now: Duration::ZERO,
            claimed: 0,
            left: BTreeSet::new(),
            given_up: BTreeSet::new(),
            jobs: 0,
            stops: 0,
        }
    }

    fn run(&mut self, hours: u64) {
        let until = self.now + secs(hours * 3600);
        while self.now < until {
            self.step();
        }
    }

    fn step(&mut self) {
        let arrived = self.now.as_secs() / self.every.as_secs();
        let at = |row: u64| secs(row * self.every.as_secs());
        let waiting = Waiting { count: arrived - self.claimed, since: at(self.claimed) };
        let (now, jitter) = (self.now, self.chance.f64());
        let (mut effects, step) = self.machine.next(now, jitter, Some(waiting));
        effects.extend(match step {
            Step::Claim => {
                let seqs: Ranges = (self.claimed..arrived).take(500).collect();
                self.claimed += seqs.count();
                self.left.extend(seqs.iter().flatten());
                self.open(seqs, self.claimed < arrived)
            }
            Step::Build(seqs) => self.open(seqs, false),
            Step::Split(seqs) => {
                let of = |source| seqs.iter().flatten().filter(|seq| seq % 3 == source).collect();
                self.machine.split((0..3).map(of).collect());
                Vec::new()
            }
            Step::Send(Batch { id, .. }) => {
                self.machine.sent(&id, now, jitter, Ok(Some(id.clone())))
            }
            Step::Follow { batch: id, .. } => {
                let open = self.machine.open_batches().find(|open| open.id == id);
                let seqs = &open.expect("it is followed").seqs;
                let bad = self.poison.iter().any(|seq| seqs.contains(*seq));
                let failed = self.chance.f64() < self.fails || bad;
                let loaded = (!failed).then(|| seqs.count());
                let job = Job { id: id.clone(), ..job(JobState::Completed, !failed, loaded) };
                self.machine.followed(&id, now, jitter, Ok(job))
            }
            Step::Look => panic!("every receipt arrived"),
            Step::Wait(until) => {
                let next = at(arrived + 1);
                self.now = until.map_or(next, |until| until.min(next));
                Vec::new()
            }
        });
        for effect in effects {
            match effect {
                Effect::Acknowledge(seqs) => {
                    seqs.iter().flatten().for_each(|seq| assert!(self.left.remove(&seq), "{seq}"));
                }
                Effect::GiveUp { seq, .. } => {
                    assert!(self.left.remove(&seq), "{seq}");
                    self.given_up.insert(seq);
                }
                Effect::Note(Note::Stopped { .. }) => self.stops += 1,
                Effect::Release(seqs) => panic!("{seqs:?} released"),
                Effect::Save | Effect::Note(_) => {}
            }
        }
    }

    fn open(&mut self, seqs: Ranges, backlog: bool) -> Vec<Effect> {
        self.jobs += 1;
        let batch = (!seqs.is_empty()).then(|| Batch::new(self.jobs.to_string(), seqs, false));
        self.machine.opened(self.now, batch, Ranges::default(), backlog)
    }
}

#[test]
fn a_server_that_fails_jobs_at_random_costs_no_good_datum_and_gets_all_of_them_at_last() {
    const BAD: [u64; 2] = [20, 77];
    for every in [secs(10), secs(60)] {
        for fails in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let what = format!("{fails} of the jobs fail, a row every {every:?}");
            let mut moody = Moody::new(7, fails, every, &BAD);
            moody.run(3);
            let good: Vec<_> = moody.given_up.iter().filter(|seq| !BAD.contains(seq)).collect();
            assert!(good.is_empty(), "{what}: {good:?} given up");
            moody.fails = 0.0;
            moody.run(3);
            assert_eq!(moody.given_up, BAD.into(), "{what}");
            assert!(moody.left.len() < 20, "{what}: {} left", moody.left.len());
        }
    }
}

#[test]
fn bad_datum_among_good_ones_are_given_up_after_few_jobs_and_hold_up_no_other() {
    const BAD: [u64; 5] = [100, 101, 102, 160, 161];
    let without = {
        let mut well = Moody::new(7, 0.0, secs(10), &[]);
        well.run(1);
        well.jobs
    };
    let mut moody = Moody::new(7, 0.0, secs(10), &BAD);
    let mut most = 0;
    while moody.now < secs(3600) {
        moody.step();
        most = most.max(moody.left.len());
    }
    assert_eq!(moody.given_up, BAD.into());
    // Halving, five jobs of its own for each, and some while nothing else is there to be sent.
    assert!(moody.jobs < without + 20 * BAD.len() as u64, "{} and {without} jobs", moody.jobs);
    assert!(most < 20, "{most} rows were on their way at a time");
    assert_eq!(moody.stops, 0, "nobody is bothered");
}
