use proptest::prelude::*;

use super::*;

const DAY: Duration = super::DAY;

fn at(day: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + day * 86_400, 0).expect("a time")
}

/// Of two years, ending on day 0.
fn life() -> Life {
    Life { begins: at(-730), ends: at(0) }
}

fn moment(day: i64, elapsed: Duration) -> Moment {
    Moment { now: Some(at(day)), elapsed }
}

fn machine(allowed: bool, outage_days: i64) -> Machine {
    let terms = Terms { allowed, before: TimeDelta::days(60) };
    let memory = Memory { longest_outage_secs: outage_days * 86_400, ..Memory::default() };
    let mut machine = Machine::new(terms, memory);
    machine.holds(Some(life()), false);
    machine
}

fn refused() -> Result<(), Trouble> {
    Err(Trouble::Refused("no".to_owned()))
}

fn passing() -> Result<(), Trouble> {
    Err(Trouble::Passing("later".to_owned()))
}

#[test]
fn warnings_and_requests_begin_before_the_end_by_the_configured_time() {
    let allowed = machine(true, 0);
    let look = |day| (allowed.step(moment(day, DAY)), allowed.condition(moment(day, DAY)));
    assert_eq!(look(-61), (Step::Wait(LONGEST_WAIT), Condition::Well));
    assert_eq!(look(-60), (Step::Ask, Condition::Well));
    assert_eq!(look(-59), (Step::Ask, Condition::Renewing));
    assert_eq!(look(-13), (Step::Ask, Condition::EndsSoon));
    // SolarIn knows nobody by a certificate that has ended.
    assert_eq!(look(1), (Step::Wait(LONGEST_WAIT), Condition::RunOut));
}

#[test]
fn a_key_that_may_not_travel_is_never_sent() {
    let forbidden = machine(false, 0);
    for day in -730..10 {
        assert_eq!(forbidden.step(moment(day, DAY)), Step::Wait(LONGEST_WAIT));
    }
    assert_eq!(forbidden.condition(moment(-59, DAY)), Condition::Ends);
}

#[test]
fn a_site_that_was_away_for_long_begins_as_much_earlier() {
    let away = machine(true, 100);
    assert_eq!(away.lead(None), TimeDelta::days(114));
    assert_eq!(away.condition(moment(-113, DAY)), Condition::Ends);
    // Earlier than three months before the end the server does not do it.
    assert_eq!(away.step(moment(-90, DAY)), Step::Wait(LONGEST_WAIT));
    assert_eq!(away.step(moment(-89, DAY)), Step::Ask);
    let forever = machine(true, 100_000);
    assert_eq!(forever.lead(None), TimeDelta::days(365), "half of its life at most");
}

#[test]
fn outages_are_the_longest_time_between_two_answers_and_the_one_that_lasts() {
    let mut machine = machine(true, 0);
    for day in [0, 1, 8, 9, 5, 12] {
        machine.heard(at(day));
    }
    let memory = machine.memory();
    assert_eq!(memory.longest_outage_secs, 7 * 86_400);
    assert_eq!(memory.last_contact, Some(at(12)));
    assert_eq!(memory.longest_outage(Some(at(13))), TimeDelta::days(7));
    assert_eq!(memory.longest_outage(Some(at(42))), TimeDelta::days(30));
}

/// It answers every minute; the memory on disk is that of the last write.
#[test]
fn a_restart_is_an_outage_only_as_far_as_nothing_can_have_been_heard() {
    let terms = Terms { allowed: true, before: TimeDelta::days(60) };
    let longest_after = |written: &Memory, hours: i64| {
        let mut machine = Machine::new(terms, written.clone());
        machine.heard(at(0) + TimeDelta::hours(hours));
        machine.memory().longest_outage_secs
    };
    let mut machine = Machine::new(terms, Memory::default());
    machine.heard(at(0));
    // Killed: what it heard within six hours after the write is lost.
    let killed = machine.memory().clone();
    assert_eq!(longest_after(&killed, 6), 0);
    assert_eq!(longest_after(&killed, 10), 4 * 3600);
    machine.stopping();
    let stopped = machine.memory().clone();
    assert_eq!(longest_after(&stopped, 6), 6 * 3600);
    // A run that hears nothing leaves what is known as it is, however it ends.
    for written in [killed, stopped] {
        let mut silent = Machine::new(terms, written.clone());
        silent.stopping();
        assert_eq!(silent.memory(), &written);
    }
}

#[test]
fn it_is_asked_once_a_day_until_the_renewed_one_is_here() {
    let mut machine = machine(true, 0);
    machine.asking(at(-60));
    machine.asked(Ok(()), moment(-60, Duration::ZERO));
    assert_eq!(machine.condition(moment(-59, Duration::ZERO)), Condition::Renewing);
    assert_eq!(machine.step(moment(-60, DAY / 2)), Step::Wait(LONGEST_WAIT));
    assert_eq!(machine.step(moment(-59, DAY)), Step::Ask);
    // A restart in between does not send the key once more.
    let terms = Terms { allowed: true, before: TimeDelta::days(60) };
    let mut restarted = Machine::new(terms, machine.memory().clone());
    restarted.holds(Some(life()), false);
    assert_eq!(restarted.step(moment(-60, Duration::ZERO)), Step::Wait(LONGEST_WAIT));
    // What follows a renewed one is asked for anew.
    let next = Life { begins: at(-60), ends: at(670) };
    restarted.holds(Some(next), false);
    assert_eq!(restarted.memory().asked, None);
}

#[test]
fn refusals_are_taken_for_a_day_and_silence_for_a_minute() {
    let mut machine = machine(true, 0);
    machine.asking(at(-60));
    machine.asked(refused(), moment(-60, Duration::ZERO));
    assert_eq!(machine.condition(moment(-59, Duration::ZERO)), Condition::Ends);
    assert_eq!(
        machine.step(moment(-60, DAY - Duration::from_secs(1))),
        Step::Wait(Duration::from_secs(1))
    );

    let mut elapsed = DAY;
    for pause in [2, 4, 8, 16, 32, 60, 60] {
        machine.asking(at(-59));
        machine.asked(passing(), moment(-59, elapsed));
        elapsed += Duration::from_secs(pause * 60);
        assert_ne!(machine.step(moment(-59, elapsed - Duration::from_secs(1))), Step::Ask);
        assert_eq!(machine.step(moment(-59, elapsed)), Step::Ask, "after {pause} min");
    }
}

#[test]
fn a_renewed_one_is_proved_until_the_server_says_yes_or_no() {
    let mut machine = machine(false, 0);
    machine.holds(Some(life()), true);
    assert_eq!(machine.step(moment(-50, Duration::ZERO)), Step::Prove);
    assert_eq!(machine.condition(moment(-50, Duration::ZERO)), Condition::Renewing);
    machine.proved(passing(), moment(-50, Duration::ZERO));
    assert_eq!(machine.step(moment(-50, PROOFS.0)), Step::Prove);
    machine.proved(refused(), moment(-50, PROOFS.0));
    assert_eq!(machine.step(moment(-50, DAY * 2)), Step::Wait(LONGEST_WAIT));
    assert_eq!(machine.trouble(), Some(&Trouble::Refused("no".to_owned())));
    // Another one is another matter.
    machine.holds(Some(life()), true);
    assert_eq!(machine.step(moment(-50, PROOFS.0)), Step::Prove);
}

#[test]
fn without_the_time_nothing_is_asked_for() {
    let machine = machine(true, 0);
    let blind = Moment { now: None, elapsed: DAY };
    assert_eq!(machine.step(blind), Step::Wait(TIMELESS));
    assert_eq!(machine.condition(blind), Condition::TimeUnknown);
}

#[test]
fn an_answer_that_comes_after_the_renewed_one_delays_nothing() {
    let mut machine = machine(true, 0);
    machine.asking(at(-60));
    machine.holds(Some(life()), true);
    machine.proved(passing(), moment(-60, Duration::ZERO));
    machine.asked(Ok(()), moment(-60, Duration::ZERO));
    assert_eq!(machine.step(moment(-60, PROOFS.0)), Step::Prove);
    machine.proved(Ok(()), moment(-60, PROOFS.0));
    machine.holds(Some(Life { begins: at(-60), ends: at(670) }), false);
    machine.asked(refused(), moment(-60, PROOFS.0));
    assert_eq!(machine.trouble(), None);
}

#[test]
fn when_no_further_request_comes_before_the_end_only_a_person_can_help() {
    let mut machine = machine(true, 0);
    assert_eq!(machine.asks_at(Some(at(-60))), Some(at(-60)));
    assert!(machine.remedy(Some(at(-60))).contains("unless"));
    let last_hour = at(0) - TimeDelta::hours(1);
    machine.asking(last_hour);
    machine.asked(refused(), Moment { now: Some(last_hour), elapsed: DAY });
    assert_eq!(machine.asks_at(Some(last_hour)), None);
    assert_eq!(machine.remedy(Some(last_hour)), "renew it at SolarNetwork and import it");
}

proptest! {
    #[test]
    fn the_key_travels_at_most_once_a_day_while_the_server_answers(hours in prop::collection::vec(1_u64..40, 1..40)) {
        let mut machine = machine(true, 0);
        let (mut elapsed, mut sent) = (Duration::ZERO, Vec::new());
        for hours in hours {
            elapsed += Duration::from_secs(hours * 3600);
            let now = at(-60) + TimeDelta::from_std(elapsed).expect("a span");
            let look = Moment { now: Some(now), elapsed };
            if machine.step(look) == Step::Ask {
                machine.asking(now);
                machine.asked(if hours % 2 == 0 { Ok(()) } else { refused() }, look);
                sent.push(elapsed);
            }
        }
        prop_assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= DAY));
    }
}
