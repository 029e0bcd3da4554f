use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(60);

/// The server's rows: what is there, by key.
type There = BTreeMap<(String, i64), u64>;

/// A machine with a queue and a server around it.
struct Bench {
    machine: Machine,
    now: Duration,
    /// What is in the queue: every row that was ever stored and not acknowledged.
    queue: BTreeMap<u64, Held>,
    there: There,
    hidden: BTreeSet<Arc<str>>,
    released: Ranges,
    notes: Vec<Note>,
    looks: usize,
}

fn row(seq: u64, source: &str, unix_ms: i64, contents: u64) -> Held {
    Held { seq, source: source.into(), unix_ms, contents }
}

impl Bench {
    fn new() -> Self {
        Self {
            machine: Machine::new(Limits { every: EVERY, settle: SETTLE }),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            there: There::new(),
            hidden: BTreeSet::new(),
            released: Ranges::default(),
            notes: Vec::new(),
            looks: 0,
        }
    }

    /// Rows with these numbers, each at its own time.
    fn hand_over(&mut self, seqs: std::ops::Range<u64>) {
        for seq in seqs.clone() {
            self.queue.insert(seq, row(seq, "/m", seq as i64, seq));
        }
        self.machine.handed_over(self.now, &seqs.collect());
    }

    fn store(&mut self, row: &Held) {
        self.there.insert((row.source.to_string(), row.unix_ms), row.contents);
    }

    fn store_all(&mut self) {
        let rows: Vec<Held> = self.queue.values().cloned().collect();
        rows.iter().for_each(|row| self.store(row));
    }

    fn found(&self, rows: &[Held]) -> Found {
        let visible = rows.iter().filter(|row| !self.hidden.contains(&row.source));
        let shown = visible.filter_map(|row| {
            let contents = self.there.get(&(row.source.to_string(), row.unix_ms))?;
            Some((row.key(), *contents))
        });
        let sources = rows.iter().map(|row| row.source.clone());
        let hidden = sources.filter(|source| self.hidden.contains(source)).collect();
        Found { shown: shown.collect(), hidden }
    }

    /// One step. What is acknowledged has to be at the server with its values, or replaced by a later row.
    fn step(&mut self, answer: Option<Failed>) -> Step {
        let step = self.machine.next(self.now, u64::MAX);
        match &step {
            Step::Read(seqs) => {
                let rows = seqs.iter().flatten().filter_map(|seq| self.queue.get(&seq).cloned());
                self.machine.read(rows.collect());
            }
            Step::Look { rows, .. } => {
                self.looks += 1;
                let result = answer.map_or_else(|| Ok(self.found(rows)), Err);
                for effect in self.machine.looked(self.now, 0.5, result) {
                    match effect {
                        Effect::Acknowledge(seqs) => self.acknowledge(&seqs),
                        Effect::Release(seqs) => self.released.extend(&seqs),
                        Effect::Note(note) => self.notes.push(note),
                    }
                }
            }
            Step::Wait(_) => {}
        }
        step
    }

    fn acknowledge(&mut self, seqs: &Ranges) {
        for seq in seqs.iter().flatten() {
            let row = self.queue.remove(&seq).expect("acknowledged once");
            let key = (row.source.to_string(), row.unix_ms);
            let there = self.there.get(&key).expect("only what is there is acknowledged");
            let replaced = || self.queue.values().any(|later| later.key() == row.key());
            let same_batch = seqs.count() > 1;
            assert!(*there == row.contents || same_batch || replaced(), "{row:?}");
        }
    }

    /// Runs until nothing is left to do but to wait for longer than `until`.
    fn run_to(&mut self, until: Duration) {
        for _ in 0..10_000 {
            match self.step(None) {
                Step::Wait(Some(at)) if at <= until => self.now = at,
                Step::Wait(_) => {
                    self.now = until;
                    return;
                }
                Step::Read(_) | Step::Look { .. } => {}
            }
        }
        panic!("it does not come to rest");
    }

    fn after(&mut self, wait: Duration) {
        self.run_to(self.now + wait);
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn failed(pause: Pause) -> Failed {
    Failed { pause, kind: "any", not_before: None, text: "any".to_owned() }
}

#[test]
fn what_is_shown_is_acknowledged_after_it_has_settled_and_with_one_look() {
    let mut bench = Bench::new();
    bench.hand_over(1..500);
    bench.after(EVERY / 2);
    bench.hand_over(500..900);
    bench.store_all();
    assert_eq!(bench.machine.waiting(), 899);
    bench.run_to(EVERY + SETTLE - Duration::from_secs(1));
    assert_eq!(bench.looks, 0);
    bench.after(Duration::from_secs(1));
    assert_eq!((bench.looks, bench.machine.waiting(), bench.queue.len()), (1, 0, 0));
    assert_eq!(bench.notes, []);
}

#[test]
fn a_full_group_is_not_kept_waiting_for_more() {
    let mut bench = Bench::new();
    bench.hand_over(1..GROUP + 1);
    bench.store_all();
    bench.after(SETTLE);
    assert_eq!(bench.queue.len(), 0);
}

#[test]
fn what_is_not_shown_is_looked_for_three_times_and_then_sent_again_and_that_is_told_once() {
    let mut bench = Bench::new();
    bench.hand_over(1..10);
    bench.store_all();
    bench.there.remove(&("/m".to_owned(), 4));
    bench.run_to(EVERY + SETTLE);
    assert_eq!((bench.looks, bench.queue.len()), (1, 1));
    bench.run_to(EVERY + SETTLE * 4);
    assert_eq!(bench.looks, 1, "SolarQuery repeats its answer for a minute");
    bench.after(hours(1));
    assert_eq!((bench.looks, bench.machine.waiting()), (3, 0));
    assert_eq!(bench.released, Ranges::from_iter([4]));
    let source = "/m".into();
    let told = Note::Unseen { rows: 1, source, unix_ms: 4, other_values: false };
    assert_eq!(bench.notes, [told]);
    // Sent again, and lost again: looked for longer, and not told again.
    bench.machine.handed_over(bench.now, &Ranges::from_iter([4]));
    bench.after(hours(9));
    assert_eq!((bench.looks, bench.notes.len()), (3 + 4, 1));
    // And again: now it is there.
    bench.store_all();
    bench.machine.handed_over(bench.now, &Ranges::from_iter([4]));
    bench.after(hours(1));
    assert_eq!((bench.queue.len(), &bench.notes[1..]), (0, &[Note::Complete][..]));
}

#[test]
fn other_values_are_no_proof() {
    let mut bench = Bench::new();
    bench.hand_over(1..2);
    bench.store(&row(1, "/m", 1, 77));
    bench.after(hours(1));
    assert_eq!((bench.queue.len(), bench.released.count()), (1, 1));
    assert!(matches!(bench.notes[..], [Note::Unseen { other_values: true, .. }]));
}

#[test]
fn a_later_row_of_the_same_key_proves_the_one_that_it_replaced_and_never_the_other_way_round() {
    let twins = |there: u64| {
        let mut bench = Bench::new();
        bench.queue.insert(1, row(1, "/m", 5, 10));
        bench.queue.insert(2, row(2, "/m", 5, 20));
        bench.machine.handed_over(bench.now, &Ranges::from_iter([1]));
        // In a look of its own: the first one has been asked for in vain before.
        bench.run_to(EVERY + SETTLE);
        bench.machine.handed_over(bench.now, &Ranges::from_iter([2]));
        bench.store(&row(0, "/m", 5, there));
        bench.after(EVERY + SETTLE * 2);
        bench
    };
    assert_eq!(twins(20).queue.len(), 0);
    let mut old = twins(10);
    assert_eq!(old.queue.keys().copied().collect::<Vec<_>>(), [2]);
    old.after(hours(1));
    assert_eq!(old.released, Ranges::from_iter([2]));
    // Neither: they are sent again together, so that the later one comes last.
    let mut other = twins(30);
    other.after(hours(1));
    assert_eq!(other.released, Ranges::from_iter([1, 2]));
}

#[test]
fn after_a_restart_an_old_row_is_not_sent_over_the_one_that_replaced_it() {
    let mut bench = Bench::new();
    // Together they are more than one look asks for.
    let (old, new) = (row(1, "/m", 5, 1), row(GROUP + 1, "/m", 5, 2));
    bench.queue.insert(1, old);
    bench.queue.insert(GROUP + 1, new.clone());
    bench.store(&new);
    bench.machine.known(bench.now, &(1..=GROUP + 1).collect());
    bench.run_to(hours(9));
    assert_eq!((bench.released.count(), bench.queue.len()), (0, 0));
}

#[test]
fn a_source_that_is_hidden_is_kept_and_told_and_the_others_are_proved() {
    let mut bench = Bench::new();
    bench.hand_over(1..5);
    bench.queue.insert(5, row(5, "/secret", 5, 5));
    bench.machine.handed_over(bench.now, &Ranges::from_iter([5]));
    bench.store_all();
    bench.hidden.insert("/secret".into());
    bench.after(hours(12));
    assert_eq!((bench.queue.len(), bench.released.count()), (1, 0));
    assert!(bench.machine.needs_a_person());
    assert!(bench.machine.waits_for().is_some_and(|text| text.contains("/secret")));
    assert!(matches!(bench.notes[..], [Note::Stopped(Failed { kind: "hidden", .. })]));
    assert!(bench.looks < 80, "{}", bench.looks);
    // Another key may be another token's.
    bench.hidden.clear();
    bench.machine.key_changed(bench.now);
    bench.after(Duration::from_secs(1));
    assert_eq!((bench.queue.len(), bench.machine.needs_a_person()), (0, false));
    assert!(matches!(bench.notes[1..], [Note::Resumed { .. }]));
}

#[test]
fn trouble_loses_nothing_costs_few_requests_and_is_told_once() {
    for (pause, most) in [(Pause::Trouble, 400), (Pause::Key, 160), (Pause::Person, 160)] {
        let mut bench = Bench::new();
        bench.hand_over(1..5);
        bench.store_all();
        let until = hours(24);
        while bench.now < until {
            if let Step::Wait(Some(at)) = bench.step(Some(failed(pause))) {
                bench.now = at;
            }
        }
        assert_eq!((bench.queue.len(), bench.notes.len()), (4, 1), "{pause:?}");
        assert!(bench.looks < most, "{pause:?} {}", bench.looks);
        assert_eq!(bench.machine.needs_a_person(), pause != Pause::Trouble);
        bench.machine.key_changed(bench.now);
        bench.after(hours(1));
        assert_eq!((bench.queue.len(), bench.notes.len()), (0, 2), "{pause:?}");
    }
}

#[test]
fn rows_are_compared_as_they_are_on_disk() {
    let mut bench = Bench::new();
    bench.hand_over(1..5);
    bench.now = EVERY + SETTLE;
    assert!(matches!(bench.machine.next(bench.now, 3), Step::Wait(_)));
    bench.now += NOT_YET;
    assert_eq!(bench.machine.next(bench.now, 4), Step::Read((1..5).collect()));
}

#[test]
fn rows_that_were_dropped_meanwhile_are_not_asked_for() {
    let mut bench = Bench::new();
    bench.hand_over(1..5);
    bench.store_all();
    bench.queue.retain(|seq, _| *seq > 2);
    bench.after(hours(1));
    assert_eq!((bench.queue.len(), bench.machine.waiting(), bench.looks), (0, 0, 1));
}

#[test]
fn what_was_sent_before_a_restart_is_asked_for_once_before_it_is_sent_again_and_nobody_is_alarmed()
{
    let mut bench = Bench::new();
    bench.hand_over(1..GROUP * 2);
    bench.machine = Machine::new(Limits { every: EVERY, settle: SETTLE });
    bench.store_all();
    bench.there.remove(&("/m".to_owned(), 7));
    bench.machine.known(bench.now, &(1..GROUP * 2).collect());
    bench.after(hours(1));
    assert_eq!(bench.queue.keys().copied().collect::<Vec<_>>(), [7]);
    assert_eq!((&bench.released, &bench.notes[..]), (&Ranges::from_iter([7]), &[][..]));
    assert_eq!(bench.looks, 2);
}

/// What the server does with rows that it said it took.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Store,
    Forget,
    Alter,
    Hide,
    Fail,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => Just(Deed::Store),
        2 => Just(Deed::Forget),
        1 => Just(Deed::Alter),
        1 => Just(Deed::Hide),
        1 => Just(Deed::Fail),
    ]
}

proptest! {
    /// A server that forgets, lies and hides, and then does not: nothing is acknowledged that is not there
    /// ([`Bench::acknowledge`]), nothing waits without being sent again, and in the end everything is there.
    #[test]
    fn nothing_is_acknowledged_unseen_and_an_honest_server_gets_everything(
        deeds in prop::collection::vec((deeds(), 1u64..40, 0u64..4000), 1..30),
    ) {
        let mut bench = Bench::new();
        let mut next = 1;
        for (deed, rows, wait) in deeds {
            bench.hand_over(next..next + rows);
            next += rows;
            bench.hidden.clear();
            match deed {
                Deed::Store => bench.store_all(),
                Deed::Forget => bench.there.retain(|(_, ms), _| ms % 3 > 0),
                Deed::Alter => bench.there.values_mut().for_each(|contents| *contents ^= 1 << 40),
                Deed::Hide => drop(bench.hidden.insert("/m".into())),
                Deed::Fail => drop(bench.step(Some(failed(Pause::Trouble)))),
            }
            bench.after(Duration::from_secs(wait));
            // The uploader claims what was released, and the server says that it took it.
            let released = std::mem::take(&mut bench.released);
            bench.machine.handed_over(bench.now, &released);
        }
        bench.hidden.clear();
        for _ in 0..4 {
            let released = std::mem::take(&mut bench.released);
            bench.machine.handed_over(bench.now, &released);
            bench.store_all();
            bench.after(hours(24));
        }
        prop_assert_eq!(bench.queue.len(), 0);
        prop_assert_eq!((bench.machine.waiting(), bench.machine.unseen()), (0, 0));
        prop_assert!(!bench.machine.needs_a_person());
    }
}
