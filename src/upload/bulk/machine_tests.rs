//! The machine against a server that does anything, and its decisions one by one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { every: Duration::from_secs(60), enough: 240 };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn rows(seqs: impl IntoIterator<Item = u64>) -> Ranges {
    seqs.into_iter().collect()
}

fn went(seqs: impl IntoIterator<Item = u64>) -> Sent {
    Sent { seqs: rows(seqs), ..Sent::default() }
}

fn failed(next: Next) -> Failed {
    Failed { kind: "trouble", next, not_before: None, text: "a word".into() }
}

fn refusal() -> Failed {
    failed(Next::Content)
}

fn unreachable() -> Failed {
    failed(Next::Retry { not_before: None })
}

fn with(seqs: impl IntoIterator<Item = u64>) -> Machine {
    Machine::new(LIMITS, rows(seqs), false)
}

/// What the machine wants to send now.
fn sends(machine: &mut Machine, now: u64) -> Ranges {
    match machine.next(secs(now), 0.5, None) {
        (effects, Step::Send(seqs)) if effects.is_empty() => seqs,
        other => panic!("something to send, not {other:?}"),
    }
}

/// Sends what the machine wants, all of it, and lets the server name `named` of it.
fn named(machine: &mut Machine, now: u64, named: impl IntoIterator<Item = u64>) -> Vec<Effect> {
    let seqs = sends(machine, now);
    let sent = Sent { seqs, ..Sent::default() };
    machine.sent(secs(now), 0.5, sent, Ok(rows(named)))
}

fn acknowledged(effects: &[Effect]) -> Ranges {
    let mut all = Ranges::default();
    for effect in effects {
        if let Effect::Acknowledge(seqs) = effect {
            all.extend(seqs);
        }
    }
    all
}

#[test]
fn a_batch_waits_for_the_interval_or_for_enough_rows_and_a_backlog_for_nothing() {
    let waiting = |count| Some(Waiting { count, since: Duration::ZERO });
    let mut machine = with([]);
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Wait(None));
    assert_eq!(machine.next(secs(1), 0.5, waiting(5)).1, Step::Wait(Some(secs(60))));
    assert_eq!(machine.next(secs(60), 0.5, waiting(5)).1, Step::Claim);
    machine.claimed(secs(60), &rows([]), false);
    assert_eq!(machine.next(secs(60), 0.5, waiting(5)).1, Step::Wait(Some(secs(61))), "in vain");
    assert_eq!(machine.next(secs(61), 0.5, waiting(240)).1, Step::Claim);
    machine.claimed(secs(61), &rows(1..=300), true);
    for (sent, next) in [(rows(1..=240), rows(241..=300)), (rows(241..=300), rows([]))] {
        assert_eq!(sends(&mut machine, 61), sent);
        let sent = Sent { seqs: sent.clone(), ..Sent::default() };
        machine.sent(secs(61), 0.5, sent.clone(), Ok(sent.seqs));
        if next.is_empty() {
            assert_eq!(machine.next(secs(61), 0.5, waiting(1)).1, Step::Claim, "back to back");
        }
    }
}

#[test]
fn only_what_is_named_is_acknowledged_and_the_rest_goes_alone() {
    let mut machine = with(1..=10);
    let effects = named(&mut machine, 1, (1..=10).filter(|seq| *seq != 4));
    assert_eq!(acknowledged(&effects), rows((1..=10).filter(|seq| *seq != 4)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Note(Note::Odd { .. }))), "{effects:?}");
    assert_eq!(sends(&mut machine, 1), rows([4]));
    let effects = machine.sent(secs(1), 0.5, went([4]), Ok(rows([4])));
    assert_eq!(acknowledged(&effects), rows([4]));
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Wait(None));
}

#[test]
fn keys_that_were_not_asked_for_prove_nothing() {
    let mut machine = with(1..=2);
    sends(&mut machine, 1);
    let effects = machine.sent(secs(1), 0.5, went(1..=2), Ok(rows(3..=9)));
    assert!(acknowledged(&effects).is_empty());
}

#[test]
fn a_datum_that_is_left_out_again_and_again_is_given_up_only_between_others_that_are_named() {
    let mut machine = with(1..=3);
    named(&mut machine, 1, [1, 3]);
    assert_eq!(named(&mut machine, 1, []), [], "alone, once");
    // Nothing else comes: it is looked at again later, and stays.
    assert!(matches!(machine.next(secs(2), 0.5, None).1, Step::Wait(Some(_))));
    for others in 1..=15 {
        let now = 2 + others;
        machine.claimed(secs(now), &rows([10 + others]), false);
        let mut effects = Vec::new();
        while let Step::Send(seqs) = machine.next(secs(now), 0.5, None).1 {
            let mut named = seqs.clone();
            named.remove(2..=2);
            let sent = Sent { seqs, ..Sent::default() };
            effects.extend(machine.sent(secs(now), 0.5, sent, Ok(named)));
        }
        assert_eq!(acknowledged(&effects), rows([10 + others]));
        let given_up = effects.iter().any(|e| matches!(e, Effect::GiveUp { seq: 2, .. }));
        assert_eq!(given_up, others == 15, "after {others} others: {effects:?}");
        assert!(!machine.needs_a_person());
    }
}

#[test]
fn a_datum_that_is_left_out_while_nothing_else_comes_is_sent_again_later_and_kept() {
    let mut machine = with(1..=2);
    named(&mut machine, 1, [1]);
    let mut tries = 0;
    for now in 1..100_000 {
        match machine.next(secs(now), 0.5, None).1 {
            Step::Send(seqs) => {
                assert_eq!(seqs, rows([2]));
                tries += 1;
                let effects = machine.sent(secs(now), 0.5, went([2]), Ok(rows([])));
                assert_eq!(effects, []);
            }
            Step::Wait(Some(until)) => assert!(until > secs(now)),
            other => panic!("{other:?}"),
        }
        assert!(!machine.needs_a_person(), "it may be passing trouble");
    }
    assert!((100..2000).contains(&tries), "{tries} tries in a day");
    assert_eq!(acknowledged(&named(&mut machine, 200_000, [2])), rows([2]));
}

#[test]
fn nothing_named_at_all_is_waited_for_and_gives_up_nothing() {
    let mut machine = with(1..=5);
    let mut requests = 0;
    for now in 1..4000 {
        if let Step::Send(seqs) = machine.next(secs(now), 0.5, None).1 {
            assert_eq!(seqs, rows(1..=5));
            requests += 1;
            let effects = machine.sent(secs(now), 0.5, went(1..=5), Ok(rows([])));
            assert!(effects.iter().all(|effect| matches!(effect, Effect::Note(_))), "{effects:?}");
        }
        assert!(!machine.needs_a_person());
    }
    assert!((20..200).contains(&requests), "{requests} requests in an hour");
    let effects = named(&mut machine, 5000, 1..=5);
    assert_eq!(acknowledged(&effects), rows(1..=5));
    assert!(matches!(effects[0], Effect::Note(Note::Resumed { .. })), "{effects:?}");
}

#[test]
fn a_batch_of_which_nothing_is_named_does_not_hold_up_others_for_ever() {
    // A single bad datum, and good ones after it.
    let mut machine = with([1]);
    let waiting = Some(Waiting { count: 3, since: Duration::ZERO });
    let mut claimed = 2;
    let mut given_up = Vec::new();
    let mut good = Ranges::default();
    for now in (0..3600).step_by(5) {
        match machine.next(secs(now), 0.5, waiting).1 {
            Step::Claim => {
                machine.claimed(secs(now), &rows([claimed]), false);
                claimed += 1;
            }
            Step::Send(seqs) => {
                let mut named = seqs.clone();
                named.remove(1..=1);
                let sent = Sent { seqs, ..Sent::default() };
                let effects = machine.sent(secs(now), 0.5, sent, Ok(named));
                good.extend(&acknowledged(&effects));
                given_up.extend(effects.into_iter().filter_map(|effect| match effect {
                    Effect::GiveUp { seq, .. } => Some(seq),
                    _ => None,
                }));
            }
            Step::Wait(_) => {}
            Step::Split(seqs) => machine.split(vec![seqs]),
            Step::Ask => panic!("the time is known"),
        }
    }
    assert_eq!(given_up, [1]);
    assert!(good.count() > 20, "{good:?}");
}

#[test]
fn a_refused_batch_is_split_by_source_and_halved_until_the_culprit_is_alone() {
    let mut machine = with(1..=8);
    sends(&mut machine, 1);
    let effects = machine.sent(secs(1), 0.5, went(1..=8), Err(refusal()));
    assert!(matches!(effects[..], [Effect::Note(Note::Refused { .. })]), "{effects:?}");
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Split(rows(1..=8)));
    machine.split(vec![rows([1, 3, 5, 7]), rows([2, 4, 6, 8])]);
    let bad = 6;
    let mut given_up = Vec::new();
    for now in 1..5000 {
        // A datum now and then, so that something is named.
        if now % 100 == 0 {
            machine.claimed(secs(now), &rows([now]), false);
        }
        let Step::Send(seqs) = machine.next(secs(now), 0.5, None).1 else { continue };
        let result = if seqs.contains(bad) { Err(refusal()) } else { Ok(seqs.clone()) };
        let effects = machine.sent(secs(now), 0.5, Sent { seqs, ..Sent::default() }, result);
        given_up.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::GiveUp { seq, reason } => Some((seq, reason)),
            _ => None,
        }));
    }
    assert_eq!(given_up, [(bad, "a word".to_owned())]);
}

#[test]
fn a_server_that_fails_requests_at_random_costs_no_good_datum() {
    const BAD: u64 = 20;
    for fails in [0.1, 0.3, 0.5, 0.7, 0.9] {
        let (mut machine, mut chance) = (with([]), fastrand::Rng::with_seed(7));
        let (mut left, mut given_up) = (BTreeSet::new(), BTreeSet::new());
        // A row every ten seconds; for an hour the server fails at random, or says nothing of a row.
        for now in 0..7200 {
            if now % 10 == 0 {
                left.insert(now / 10);
                machine.claimed(secs(now), &rows([now / 10]), false);
            }
            let fails = if now < 3600 { fails } else { 0.0 };
            loop {
                let (_, step) = machine.next(secs(now), 0.5, None);
                let seqs = match step {
                    Step::Send(seqs) => seqs,
                    Step::Split(seqs) => {
                        machine.split(vec![seqs]);
                        continue;
                    }
                    _ => break,
                };
                let result = match chance.f64() < fails {
                    _ if seqs.contains(BAD) => Err(refusal()),
                    true if chance.bool() => Err(refusal()),
                    true => Ok(seqs.first_of(seqs.count() - 1)),
                    false => Ok(seqs.clone()),
                };
                let sent = Sent { seqs, ..Sent::default() };
                for effect in machine.sent(secs(now), 0.5, sent, result) {
                    match effect {
                        Effect::Acknowledge(seqs) => {
                            seqs.iter().flatten().for_each(|seq| assert!(left.remove(&seq)));
                        }
                        Effect::GiveUp { seq, .. } => drop(given_up.insert(seq)),
                        Effect::Note(_) => {}
                    }
                }
            }
        }
        assert_eq!(given_up, BTreeSet::from([BAD]), "{fails} of the requests fail");
        left.remove(&BAD);
        assert!(left.len() < 3, "{left:?}");
    }
}

#[test]
fn while_everything_is_refused_nothing_is_given_up_and_a_person_is_told_once() {
    let mut machine = with(1..=1000);
    let (mut told, mut requests) = (0, 0);
    for now in 0..86_400 {
        let (effects, step) =
            machine.next(secs(now), 0.5, Some(Waiting { count: 9, since: secs(0) }));
        let effects = match step {
            Step::Send(seqs) => {
                requests += 1;
                machine.sent(secs(now), 0.5, Sent { seqs, ..Sent::default() }, Err(refusal()))
            }
            Step::Split(seqs) => {
                machine.split(vec![seqs]);
                effects
            }
            Step::Claim => {
                machine.claimed(secs(now), &rows([]), false);
                effects
            }
            Step::Wait(_) | Step::Ask => effects,
        };
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::GiveUp { .. })));
        let stopped = |e: &&Effect| matches!(e, Effect::Note(Note::Stopped { .. }));
        told += effects.iter().filter(stopped).count();
    }
    assert!(machine.needs_a_person());
    assert_eq!(told, 1);
    assert!(requests < 2000, "{requests} requests in a day");
}

#[test]
fn without_an_answer_the_same_rows_go_again_and_a_certificate_ends_the_wait_for_one() {
    let mut machine = with(1..=3);
    sends(&mut machine, 1);
    let effects = machine.sent(secs(1), 0.5, went(1..=3), Err(unreachable()));
    assert!(matches!(effects[..], [Effect::Note(Note::Stopped { pause: Pause::Trouble, .. })]));
    assert!(!machine.needs_a_person());
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Wait(Some(secs(2))));
    assert_eq!(sends(&mut machine, 2), rows(1..=3));
    let stop = failed(Next::Stop);
    machine.sent(secs(2), 0.5, went(1..=3), Err(Failed { kind: "identity", ..stop }));
    assert!(machine.needs_a_person());
    assert!(matches!(machine.next(secs(2), 0.5, None).1, Step::Wait(_)));
    machine.identity_changed(secs(2));
    assert_eq!(acknowledged(&named(&mut machine, 2, 1..=3)), rows(1..=3));
}

#[test]
fn a_server_that_names_a_time_is_not_asked_before() {
    let mut machine = with([1]);
    sends(&mut machine, 1);
    let not_before = Some(secs(100));
    machine.sent(secs(1), 0.5, went([1]), Err(Failed { not_before, ..unreachable() }));
    assert_eq!(machine.next(secs(50), 0.5, None).1, Step::Wait(Some(secs(100))));
}

#[test]
fn while_no_row_has_a_time_the_server_is_asked_for_it_ever_more_rarely() {
    let mut machine = with([]);
    machine.set_timeless(true);
    let mut asked = 0;
    for now in 0..3600 {
        match machine.next(secs(now), 0.5, None).1 {
            Step::Ask => {
                asked += 1;
                let result = if now < 1800 { Err(unreachable()) } else { Ok(false) };
                machine.asked(secs(now), 0.5, result);
            }
            step => assert!(matches!(step, Step::Wait(Some(_))), "{step:?}"),
        }
    }
    assert!((20..200).contains(&asked), "{asked} times in an hour");
    machine.identity_changed(secs(3600));
    assert_eq!(machine.next(secs(9999), 0.5, None).1, Step::Ask);
    let effects = machine.asked(secs(9999), 0.5, Ok(true));
    assert!(matches!(effects[..], [Effect::Note(Note::Resumed { .. })]), "{effects:?}");
}

#[test]
fn rows_behind_a_twin_wait_until_it_is_proved_or_stands_alone() {
    let mut machine = with(1..=4);
    sends(&mut machine, 1);
    // The third row has the key of the first.
    let sent = Sent { seqs: rows(1..=2), twin: true, ..Sent::default() };
    machine.sent(secs(1), 0.5, sent, Ok(rows([2])));
    assert_eq!(sends(&mut machine, 1), rows([1]), "not the third");
    machine.sent(secs(1), 0.5, went([1]), Ok(rows([1])));
    assert_eq!(sends(&mut machine, 1), rows(3..=4));
}

#[test]
fn rows_behind_a_twin_wait_also_where_that_one_is_left_out_once_more() {
    let mut machine = with(1..=5);
    sends(&mut machine, 1);
    // The fourth row has the key of the first.
    let sent = Sent { seqs: rows(1..=3), twin: true, ..Sent::default() };
    machine.sent(secs(1), 0.5, sent, Ok(rows([3])));
    assert_eq!(acknowledged(&named(&mut machine, 1, [2])), rows([2]));
    assert_eq!(sends(&mut machine, 1), rows([1]), "not the fourth");
}

#[test]
fn rows_behind_a_twin_wait_also_while_answers_name_nothing() {
    let mut machine = with(1..=3);
    // The third row has the key of the first.
    for (now, seqs) in [(1, 1..=3), (10, 1..=2), (100, 1..=2)] {
        assert_eq!(sends(&mut machine, now), rows(seqs), "at {now}");
        let sent = Sent { seqs: rows(1..=2), twin: true, ..Sent::default() };
        machine.sent(secs(now), 0.5, sent, Ok(rows([])));
    }
    assert_eq!(machine.next(secs(1000), 0.5, None).1, Step::Split(rows(1..=2)));
}

#[test]
fn rows_that_left_the_queue_are_forgotten() {
    let mut machine = with(1..=3);
    sends(&mut machine, 1);
    let sent = Sent { gone: rows(1..=3), ..Sent::default() };
    assert_eq!(machine.sent(secs(1), 0.5, sent, Ok(rows([]))), []);
    assert_eq!(machine.next(secs(1), 0.5, None).1, Step::Wait(None));
}

/// What the server does with one request.
#[derive(Debug, Clone)]
enum Act {
    /// Stores all good ones, and names them.
    Well,
    /// Stores, and names only some.
    Loses(u64),
    /// Names nothing, stored or not.
    Mute { stores: bool },
    /// `success: false`, stored or not.
    Fails { stores: bool },
    /// No answer, stored or not.
    Silent { stores: bool },
    /// Rows leave the queue before they are sent.
    Dropped,
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Well),
        1 => (2u64..5).prop_map(Act::Loses),
        1 => any::<bool>().prop_map(|stores| Act::Mute { stores }),
        1 => any::<bool>().prop_map(|stores| Act::Fails { stores }),
        1 => any::<bool>().prop_map(|stores| Act::Silent { stores }),
        1 => Just(Act::Dropped),
    ]
}

proptest! {
    /// Whatever the server does: a row is acknowledged only after it was stored, is never in two places, never lost,
    /// and once the server is well every good row arrives, and only bad ones are left or given up.
    #[test]
    fn nothing_is_lost_and_nothing_acknowledged_without_its_key(
        acts in prop::collection::vec(acts(), 0..60),
        poison in prop::collection::btree_set(0u64..60, 0..4),
        unreadable in prop::collection::btree_set(0u64..60, 0..4),
        sources in 1u64..4,
    ) {
        let mut acts = acts.into_iter();
        let mut machine = with([]);
        let mut now = Duration::ZERO;
        let (mut unclaimed, mut next) = (60u64, 0u64);
        let mut stored = BTreeSet::new();
        let (mut open, mut settled, mut given_up) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let bad = |seq: u64| poison.contains(&seq) || unreadable.contains(&seq);
        let mut troubled = true;
        // Rows that come in later, so that something is accepted while the last ones are tried.
        let mut later = 100;
        for _ in 0..20_000 {
            if unclaimed == 0 && later > 0 && machine.trouble.is_none() {
                unclaimed = 1;
                later -= 1;
            }
            let waiting = (unclaimed > 0).then_some(Waiting { count: unclaimed, since: Duration::ZERO });
            let (mut effects, step) = machine.next(now, 0.5, waiting);
            match step {
                Step::Claim => {
                    let count = unclaimed.min(25);
                    let seqs = next..next + count;
                    (next, unclaimed) = (next + count, unclaimed - count);
                    open.extend(seqs.clone());
                    machine.claimed(now, &seqs.collect(), unclaimed > 0);
                }
                Step::Split(seqs) => {
                    let mut by_source = vec![Ranges::default(); sources as usize];
                    for seq in seqs.iter().flatten() {
                        by_source[(seq % sources) as usize].insert(seq..=seq);
                    }
                    machine.split(by_source);
                }
                Step::Send(seqs) => {
                    let asked: Vec<u64> = seqs.iter().flatten().collect();
                    prop_assert!(!asked.is_empty());
                    prop_assert!(asked.iter().all(|seq| open.contains(seq)), "{asked:?} of {open:?}");
                    let act = acts.next().unwrap_or_else(|| { troubled = false; Act::Well });
                    let mut sent = Sent { seqs, ..Sent::default() };
                    if matches!(act, Act::Dropped) && asked[0].is_multiple_of(7) {
                        sent.seqs.remove(asked[0]..=asked[0]);
                        sent.gone.insert(asked[0]..=asked[0]);
                        open.remove(&asked[0]);
                        settled.insert(asked[0]);
                    }
                    let went: Vec<u64> = sent.seqs.iter().flatten().collect();
                    let good = |seq: &u64| !unreadable.contains(seq);
                    let readable: Vec<u64> = went.iter().copied().filter(good).collect();
                    let store = |stored: &mut BTreeSet<u64>| stored.extend(readable.iter().copied());
                    let result = match act {
                        _ if went.iter().any(|seq| poison.contains(seq)) => Err(refusal()),
                        Act::Well | Act::Dropped => { store(&mut stored); Ok(readable.iter().copied().collect()) }
                        Act::Loses(every) => {
                            store(&mut stored);
                            Ok(readable.iter().copied().filter(|seq| seq % every != 0).collect())
                        }
                        Act::Mute { stores } => { if stores { store(&mut stored) } Ok(rows([])) }
                        Act::Fails { stores } => { if stores { store(&mut stored) } Err(refusal()) }
                        Act::Silent { stores } => { if stores { store(&mut stored) } Err(unreachable()) }
                    };
                    effects.extend(machine.sent(now, 0.5, sent, result));
                }
                Step::Ask => panic!("the time is known"),
                Step::Wait(None) => {
                    if unclaimed == 0 && later == 0 { break }
                }
                Step::Wait(Some(until)) => now = now.max(until),
            }
            for effect in effects {
                match effect {
                    Effect::Acknowledge(seqs) => for seq in seqs.iter().flatten() {
                        prop_assert!(stored.contains(&seq), "{} acknowledged without its key", seq);
                        prop_assert!(open.remove(&seq), "{} acknowledged twice", seq);
                        settled.insert(seq);
                    },
                    Effect::GiveUp { seq, .. } => {
                        prop_assert!(open.remove(&seq));
                        prop_assert!(troubled || bad(seq), "{} given up by a server that is well", seq);
                        given_up.insert(seq);
                    }
                    Effect::Note(_) => {}
                }
            }
        }
        prop_assert!(open.iter().all(|seq| bad(*seq)), "left: {open:?}");
        prop_assert_eq!(settled.len() + given_up.len() + open.len(), next as usize);
    }
}
