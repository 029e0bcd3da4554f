use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const CONNECTED: Seen = Seen { connected: true, waiting: true };

/// Rows of ten sources.
fn rows(seqs: impl IntoIterator<Item = u64>) -> Vec<Message> {
    let source = |seq| format!("s{}", seq % 10).parse().expect("a source");
    let row = |seq| Message { seq, source: source(seq), payload: Bytes::new() };
    seqs.into_iter().map(row).collect()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn sent(machine: &mut Machine, now: Duration) -> Vec<u64> {
    let mut sent = Vec::new();
    while let Step::Send(seq, _) = machine.next(now, CONNECTED) {
        sent.push(seq);
    }
    sent
}

fn refusal() -> Answer {
    Answer::Refused("not authorized".to_owned(), Pause::Person)
}

#[test]
fn a_backlog_goes_through_the_window_and_a_row_is_handed_over_on_its_answer() {
    let mut machine = Machine::new(2);
    assert_eq!(machine.next(secs(0), CONNECTED), Step::Claim);
    machine.claimed(secs(0), rows(1..=3));
    assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
    assert_eq!(machine.next(secs(0), CONNECTED), Step::Wait(None));
    machine.answered(secs(0), 0.5, 2, Answer::Taken);
    assert_eq!(machine.effects().handed_over, [2].into_iter().collect());
    assert_eq!(sent(&mut machine, secs(0)), [3]);
}

#[test]
fn a_lost_connection_gives_back_what_was_not_answered() {
    let mut machine = Machine::new(2);
    machine.claimed(secs(0), rows(1..=3));
    assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
    machine.answered(secs(0), 0.5, 1, Answer::Lost);
    assert_eq!(machine.next(secs(0), Seen { connected: false, ..CONNECTED }), Step::Wait(None));
    machine.answered(secs(0), 0.5, 2, Answer::Taken);
    let effects = machine.effects();
    assert_eq!(effects.released, [1, 3].into_iter().collect());
    assert_eq!(effects.handed_over, [2].into_iter().collect(), "its answer came in time");
    assert!(!machine.has_rows());
}

#[test]
fn a_refusal_stops_all_is_told_once_and_one_row_finds_out_that_it_is_over() {
    let mut machine = Machine::new(3);
    machine.claimed(secs(0), rows(1..=4));
    assert_eq!(sent(&mut machine, secs(0)), [1, 2, 3]);
    machine.answered(secs(0), 0.5, 1, refusal());
    machine.answered(secs(0), 0.5, 2, refusal());
    let effects = machine.effects();
    assert_eq!(effects.notes, [Note::Stopped(Pause::Person, "not authorized".to_owned())]);
    assert_eq!(effects.released, [1, 2, 4].into_iter().collect());
    machine.answered(secs(0), 0.5, 3, Answer::Lost);
    let Step::Wait(Some(until)) = machine.next(secs(0), CONNECTED) else { panic!("a wait") };
    assert_eq!(until, secs(30));
    assert_eq!(machine.next(until, CONNECTED), Step::Claim);
    machine.claimed(secs(0), rows(1..=4));
    assert_eq!(sent(&mut machine, until), [1], "one is enough");
    machine.answered(until, 0.5, 1, refusal());
    assert_eq!(machine.effects().notes, [], "it was told");
    let later = secs(90);
    assert_eq!(machine.next(later, CONNECTED), Step::Claim);
    machine.claimed(secs(0), rows(1..=4));
    assert_eq!(sent(&mut machine, later), [1]);
    machine.answered(later, 0.5, 1, Answer::Taken);
    assert_eq!(machine.effects().notes, [Note::Resumed { down: later }]);
    assert_eq!(sent(&mut machine, later), [2, 3, 4]);
}

#[test]
fn a_row_that_is_too_long_is_kept_aside_and_told_once_while_the_others_go_on() {
    let mut machine = Machine::new(2);
    machine.claimed(secs(0), rows(1..=4));
    assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
    let too_long = || Answer::TooLong("raise its limit".to_owned());
    machine.answered(secs(5), 0.5, 1, too_long());
    machine.answered(secs(5), 0.5, 2, Answer::Taken);
    assert_eq!(sent(&mut machine, secs(5)), [3, 4], "nothing stops");
    machine.answered(secs(6), 0.5, 3, too_long());
    let effects = machine.effects();
    assert_eq!(effects.notes, [Note::Aside(Aside::TooLong, "raise its limit".to_owned())], "once");
    assert!(effects.released.is_empty(), "or they would be claimed first again");
    assert_eq!(effects.aside, [1, 3].into_iter().collect());
    assert_eq!((machine.aside_since(), machine.refused()), (Some(secs(5)), None));
    machine.next(secs(7), Seen { connected: false, ..CONNECTED });
    assert_eq!(machine.effects().released, [1, 3].into_iter().collect());
}

#[test]
fn a_row_that_nobody_listens_to_is_kept_and_tried_again_soon() {
    let mut machine = Machine::new(3);
    machine.claimed(secs(0), rows(1..=2));
    assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
    let unheard = || Answer::Refused("nobody listens".to_owned(), Pause::Trouble);
    machine.answered(secs(0), 0.5, 1, unheard());
    machine.answered(secs(0), 0.5, 2, unheard());
    let effects = machine.effects();
    assert_eq!(effects.released, [1, 2].into_iter().collect());
    assert!(effects.handed_over.is_empty());
    assert_eq!(effects.notes, [Note::Stopped(Pause::Trouble, "nobody listens".to_owned())]);
    assert_eq!(machine.refused(), Some((Pause::Trouble, "nobody listens")));
    assert_eq!(machine.next(secs(0), CONNECTED), Step::Wait(Some(secs(1))));
}

/// A queue whose rows go over a broker that ends the connection over some of them.
struct Bench {
    machine: Machine,
    queue: BTreeSet<u64>,
    claimed: BTreeSet<u64>,
    told: Vec<Aside>,
    losses: usize,
    now: Duration,
}

impl Bench {
    fn new(window: u16, rows: u64) -> Self {
        let (machine, queue) = (Machine::new(window), (0..rows).collect());
        Self { machine, queue, claimed: BTreeSet::new(), told: Vec::new(), losses: 0, now: secs(0) }
    }

    /// Says whether rows may be claimed again.
    fn carry_out(&mut self) -> bool {
        let Effects { handed_over, released, notes, .. } = self.machine.effects();
        for seq in handed_over.iter().flatten() {
            assert!(self.queue.remove(&seq) && self.claimed.remove(&seq));
        }
        for seq in released.iter().flatten() {
            assert!(self.claimed.remove(&seq), "{seq} was not claimed");
        }
        self.told.extend(notes.into_iter().map(|note| match note {
            Note::Aside(why, _) => why,
            note => panic!("{note:?}"),
        }));
        !released.is_empty()
    }

    /// One connection, until it is lost (true) or nothing is left to send.
    fn connect(&mut self, deadly: impl Fn(u64) -> bool) -> bool {
        self.now += secs(1);
        let mut on_the_way = VecDeque::new();
        loop {
            let waiting = self.queue.len() > self.claimed.len();
            match self.machine.next(self.now, Seen { connected: true, waiting }) {
                Step::Send(seq, _) => on_the_way.push_back(seq),
                Step::Claim => {
                    let free = self.queue.difference(&self.claimed).take(7).copied();
                    let free: Vec<u64> = free.collect();
                    self.claimed.extend(&free);
                    self.machine.claimed(self.now, rows(free));
                }
                Step::Wait(_) => match on_the_way.pop_front() {
                    None if self.carry_out() => {}
                    None => return false,
                    Some(seq) if !deadly(seq) => {
                        self.machine.answered(self.now, 0.5, seq, Answer::Taken);
                    }
                    Some(seq) => {
                        on_the_way.push_front(seq);
                        break;
                    }
                },
            }
            self.carry_out();
        }
        for seq in on_the_way {
            self.machine.answered(self.now, 0.5, seq, Answer::Lost);
        }
        self.machine.next(self.now, Seen { connected: false, waiting: true });
        self.carry_out();
        self.losses += 1;
        true
    }
}

#[test]
fn a_suspect_that_is_there_no_more_slows_nothing_down() {
    for left in [false, true] {
        let mut machine = Machine::new(2);
        for _ in 0..2 {
            machine.claimed(secs(0), rows(1..=2));
            assert_eq!(sent(&mut machine, secs(0)), [1, 2]);
            machine.answered(secs(0), 0.5, 1, Answer::Lost);
            machine.answered(secs(0), 0.5, 2, Answer::Lost);
        }
        if left {
            machine.leave();
        }
        // Both went another way, or were dropped at the queue's limit.
        machine.claimed(secs(0), rows(3..=4));
        assert_eq!(sent(&mut machine, secs(0)), [3, 4]);
        machine.answered(secs(0), 0.5, 3, Answer::Lost);
        machine.answered(secs(0), 0.5, 4, Answer::Lost);
        machine.claimed(secs(0), rows([1, 5, 6]));
        assert_eq!(sent(&mut machine, secs(0)), [5], "one at a time: it was not gone");
    }
}

#[test]
fn a_source_whose_rows_all_stand_before_the_others_is_found_as_soon() {
    let mut bench = Bench::new(20, 0);
    bench.queue =
        (0..40).map(|at| at * 10 + 3).chain((400..480).filter(|seq| seq % 10 > 3)).collect();
    let deadly = |seq: u64| seq < 400;
    while bench.connect(deadly) {}
    assert!(bench.queue.iter().all(|seq| deadly(*seq)), "{:?}", bench.queue);
    assert!(bench.losses <= 10, "{} losses", bench.losses);
}

#[test]
fn a_source_whose_every_row_ends_the_connection_holds_up_no_other_and_goes_once_it_may() {
    let mut bench = Bench::new(20, 500);
    let deadly = |seq| seq % 10 == 3;
    while bench.connect(deadly) {}
    assert_eq!(bench.queue, (0..500).filter(|seq| deadly(*seq)).collect());
    assert!(bench.losses <= 10, "{} losses", bench.losses);
    assert_eq!(bench.told, [Aside::CutOff], "once");
    bench.machine.next(bench.now, Seen { connected: false, waiting: true });
    bench.carry_out();
    assert!(!bench.connect(deadly), "it is remembered from one connection to the next");
    assert!(bench.machine.aside_since().is_some());
    bench.now += secs(3600);
    assert!(!bench.connect(|_| false));
    assert!(bench.queue.is_empty(), "an hour later all go");
}

proptest! {
    /// Whichever rows end the connection: while others are read these are taken, and the former kept aside soon.
    #[test]
    fn rows_that_end_the_connection_hold_up_no_others(
        window in 1u16..9,
        rows in 1u64..10,
        deadly in any::<u16>(),
    ) {
        let deadly = |seq: u64| seq < rows && deadly >> seq & 1 == 1;
        let mut bench = Bench::new(window, rows);
        let culprits: BTreeSet<u64> = (0..rows).filter(|seq| deadly(*seq)).collect();
        while bench.connect(deadly) {
            // Of a source without any of those.
            bench.queue.insert(10 * bench.losses as u64 + 9);
            prop_assert!(bench.losses <= 2 + 5 * culprits.len(), "{} losses", bench.losses);
        }
        prop_assert_eq!(&bench.queue, &culprits);
        prop_assert_eq!(bench.told.len(), usize::from(!culprits.is_empty()), "once");
    }

    /// Where nothing at all is taken it is not about single rows.
    #[test]
    fn while_every_row_ends_the_connection_none_is_kept_aside(window in 1u16..9, rows in 1u64..10) {
        let mut bench = Bench::new(window, rows);
        for _ in 0..50 {
            prop_assert!(bench.connect(|_| true));
        }
        prop_assert!(bench.told.is_empty());
        prop_assert!(!bench.connect(|_| false), "and all go as soon as one does");
        prop_assert!(bench.queue.is_empty());
    }

    /// Whatever a broker does, a row is handed over once, on its own answer and no other.
    #[test]
    fn no_row_is_lost_or_handed_over_without_its_answer(
        events in proptest::collection::vec((0u8..8, any::<prop::sample::Index>()), 1..400),
    ) {
        let mut machine = Machine::new(4);
        let mut queue: BTreeSet<u64> = (0..40).collect();
        let (mut claimed, mut on_the_way, mut taken) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        let mut connected = true;
        for (now, (event, index)) in (0u64..).zip(events) {
            let now = secs(now * 20);
            let seen = Seen { connected, waiting: queue.len() > claimed.len() };
            match event {
                0 | 1 => match machine.next(now, seen) {
                    Step::Claim => {
                        let free: Vec<u64> = queue.difference(&claimed).copied().take(7).collect();
                        claimed.extend(&free);
                        machine.claimed(now, rows(free));
                    }
                    Step::Send(seq, _) => on_the_way.push(seq),
                    Step::Wait(_) => {}
                },
                2 => connected = !connected,
                event if !on_the_way.is_empty() => {
                    let seq = on_the_way.remove(index.index(on_the_way.len()));
                    let answer = match event {
                        3 => Answer::Taken,
                        4 => Answer::Lost,
                        5 => Answer::TooLong(String::new()),
                        6 => Answer::Unsent,
                        _ => refusal(),
                    };
                    if answer == Answer::Taken {
                        taken.insert(seq);
                    }
                    machine.answered(now, 0.5, seq, answer);
                }
                _ => {}
            }
            prop_assert!(on_the_way.len() <= 4);
            let effects = machine.effects();
            for seq in effects.handed_over.iter().flatten() {
                prop_assert!(taken.contains(&seq) && queue.remove(&seq) && claimed.remove(&seq));
            }
            for seq in effects.released.iter().flatten() {
                prop_assert!(claimed.remove(&seq), "{} was not claimed", seq);
            }
        }
        prop_assert_eq!(queue.len() + taken.len(), 40);
    }
}
