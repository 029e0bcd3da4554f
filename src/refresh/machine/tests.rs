use proptest::prelude::*;

use super::*;
use crate::{
    credential::{TokenSecret, signing_key},
    solarnet::Refusal,
};

fn secret() -> TokenSecret {
    "Zq3.v7X_k9-LmN2pRsT4uVwYz".parse().expect("a secret")
}

fn day(text: &str) -> NaiveDate {
    text.parse().expect("a day")
}

fn credential(key_date: NaiveDate, keep_secret: bool) -> Arc<Credential> {
    let token_id = "abc".parse().expect("a token ID");
    Arc::new(Credential::derive(token_id, secret(), key_date, keep_secret))
}

fn at(server: &str) -> Moment {
    Moment { server: Some(server.parse().expect("a date")), elapsed: Duration::ZERO }
}

fn later(at: Moment, wait: Duration) -> Moment {
    Moment { server: at.server.map(|now| now + wait), elapsed: at.elapsed + wait }
}

fn call_error(cause: Cause) -> CallError {
    let refusal = Refusal { status: 403, code: None, message: None, retry_after: None };
    CallError { method: "GET", path: "/r".to_owned(), cause, refusal: Some(refusal), detail: None }
}

fn refused(cause: Cause) -> Event {
    Event::Proved(Err(Unproved::Refused(call_error(cause))))
}

/// A machine that has asked about its key and rests.
fn settled(key_date: &str, at: Moment) -> Machine {
    let mut machine = Machine::new(Some(credential(day(key_date), false)), 0.5);
    assert!(matches!(machine.step(at), Step::Prove(_)));
    machine.on(Event::Proved(Ok(())), at, 0.5);
    assert!(matches!(machine.step(at), Step::Wait(_)));
    machine
}

#[test]
fn a_key_older_than_today_is_renewed_at_the_start_and_proved_before_it_is_saved() {
    let at = at("2026-11-22T10:00:00Z");
    let old = credential(day("2026-11-17"), false);
    let new = credential(day("2026-11-22"), false);
    let mut machine = Machine::new(Some(old.clone()), 0.5);
    assert_eq!(machine.step(at), Step::Fetch(old.clone(), day("2026-11-22")));
    machine.on(Event::Fetched(Ok(new.key.clone())), at, 0.5);
    assert_eq!(machine.credential(), Some(&old), "the old one is used until then");
    assert_eq!(machine.step(at), Step::Prove(new.clone()));
    machine.on(Event::Proved(Ok(())), at, 0.5);
    assert_eq!(machine.step(at), Step::Save(new.clone()));
    machine.on(Event::Saved(Ok(Saved::Written)), at, 0.5);
    assert_eq!(machine.credential(), Some(&new));
    assert_eq!(machine.condition(at), Condition::Well);
    assert!(matches!(machine.step(at), Step::Wait(_)));
    assert_eq!(
        machine.next_attempt(at).map(|at| at.to_rfc3339()).as_deref(),
        Some("2026-11-23T00:30:00+00:00")
    );
}

#[test]
fn a_settled_key_is_renewed_in_the_first_hour_of_the_next_day_at_a_moment_of_its_own() {
    let mut machine = settled("2026-11-22", at("2026-11-22T10:00:00Z"));
    assert!(matches!(machine.step(at("2026-11-22T23:59:59Z")), Step::Wait(_)));
    let wait = machine.step(at("2026-11-23T00:29:59Z"));
    assert_eq!(wait, Step::Wait(Duration::from_secs(1)));
    assert!(matches!(machine.step(at("2026-11-23T00:30:00Z")), Step::Fetch(..)));
}

#[test]
fn a_new_key_that_does_not_prove_itself_changes_nothing() {
    let now = at("2026-11-22T10:00:00Z");
    let old = credential(day("2026-11-20"), false);
    for outcome in [
        refused(Cause::BadCredentials),
        refused(Cause::Unreachable),
        Event::Proved(Err(Unproved::OtherKey { day: day("2026-11-22") })),
    ] {
        let mut machine = Machine::new(Some(old.clone()), 0.5);
        machine.step(now);
        machine.on(Event::Fetched(Ok(SigningKey::new([1; 32]))), now, 1.0);
        machine.on(outcome, now, 1.0);
        assert_eq!(machine.credential(), Some(&old));
        // The old key works: nobody is told that the token is refused.
        assert_eq!(machine.condition(now), Condition::Failing);
        assert_eq!(machine.step(now), Step::Wait(Duration::from_secs(15)));
        assert!(matches!(machine.step(later(now, Duration::from_secs(15))), Step::Fetch(..)));
    }
}

#[test]
fn failures_are_tried_again_ever_more_rarely_up_to_an_hour_and_never_before_the_server_says() {
    let mut now = at("2026-11-22T10:00:00Z");
    let mut machine = Machine::new(Some(credential(day("2026-11-20"), false)), 0.0);
    let mut pauses = Vec::new();
    for attempt in 0..12 {
        assert!(matches!(machine.step(now), Step::Fetch(..)), "attempt {attempt}");
        machine.on(Event::Fetched(Err(call_error(Cause::Unreachable))), now, 1.0);
        let before = now.elapsed;
        while let Step::Wait(wait) = machine.step(now) {
            assert!(wait <= LONGEST_WAIT);
            now = later(now, wait);
        }
        pauses.push((now.elapsed - before).as_secs());
    }
    assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]);

    let mut error = call_error(Cause::RateLimited);
    let until = now.server.expect("known") + TimeDelta::seconds(4000);
    error.refusal.as_mut().expect("there").retry_after = Some(until);
    machine.on(Event::Fetched(Err(error)), now, 0.0);
    assert_eq!(machine.next_attempt(now), Some(until));
}

#[test]
fn what_stands_against_renewing_is_named() {
    let early = at("2026-11-21T10:00:00Z");
    let late = Moment { elapsed: Duration::from_secs(3 * 86_400), ..at("2026-11-24T10:00:01Z") };
    let gone = Moment { elapsed: Duration::from_secs(6 * 86_400), ..at("2026-11-27T00:00:00Z") };
    #[rustfmt::skip]
    let cases = [
        (Cause::AccessDenied,   Trouble::RefreshForbidden, Condition::NotRenewable, Condition::EndsSoon),
        (Cause::PathDenied,     Trouble::PathForbidden,    Condition::NotRenewable, Condition::EndsSoon),
        (Cause::TokenExpired,   Trouble::Expired,          Condition::Refused,      Condition::Refused),
        (Cause::BadCredentials, Trouble::Rejected,         Condition::Refused,      Condition::Refused),
        (Cause::ServerTrouble,  Trouble::Passing(call_error(Cause::ServerTrouble).to_string()),
                                                           Condition::Failing,      Condition::EndsSoon),
    ];
    for (cause, trouble, first, then) in cases {
        let mut machine = Machine::new(Some(credential(day("2026-11-20"), false)), 0.5);
        machine.step(early);
        machine.on(Event::Fetched(Err(call_error(cause))), early, 0.5);
        assert_eq!(machine.trouble(), Some(&trouble));
        assert_eq!(machine.condition(early), first, "{cause:?}");
        assert_eq!(machine.condition(late), then, "{cause:?}");
        assert_eq!(machine.condition(gone), Condition::RunOut, "{cause:?}");
        assert!(matches!(machine.step(late), Step::Fetch(..)), "it is looked at again");
        machine.on(Event::Fetched(Err(call_error(cause))), late, 0.5);
        assert!(matches!(machine.step(gone), Step::Prove(_)), "only the time is asked for");
    }
}

#[test]
fn a_policy_that_forbids_renewing_is_known_on_the_first_day() {
    let now = at("2026-11-22T10:00:00Z");
    let mut machine = Machine::new(Some(credential(day("2026-11-22"), false)), 0.5);
    machine.step(now);
    machine.on(refused(Cause::AccessDenied), now, 0.5);
    assert_eq!(machine.condition(now), Condition::NotRenewable);
    assert!(matches!(machine.step(now), Step::Wait(_)), "nothing is due today");

    let mut machine = Machine::new(Some(credential(day("2026-11-22"), false)), 0.5);
    machine.step(now);
    machine.on(refused(Cause::Unreachable), now, 0.5);
    assert_eq!(machine.condition(now), Condition::Well, "nothing had to be renewed");
}

#[test]
fn what_a_person_has_to_change_is_looked_at_until_they_have() {
    let hour = Duration::from_secs(3600);
    for (cause, bad) in [
        (Cause::BadCredentials, Condition::Refused),
        (Cause::AccessDenied, Condition::NotRenewable),
    ] {
        let mut now = at("2026-11-22T10:00:00Z");
        let mut machine = Machine::new(Some(credential(day("2026-11-22"), false)), 0.5);
        for outcome in [refused(cause), refused(Cause::Unreachable), refused(cause)] {
            assert!(matches!(machine.step(now), Step::Prove(_)), "{cause:?}");
            machine.on(outcome, now, 0.5);
            assert_eq!(machine.condition(now), bad);
            assert!(matches!(machine.step(now), Step::Wait(_)));
            now = later(now, hour);
        }
        assert!(matches!(machine.step(now), Step::Prove(_)));
        machine.on(Event::Proved(Ok(())), now, 0.5);
        assert_eq!(machine.condition(now), Condition::Well);
        assert!(matches!(machine.step(later(now, hour)), Step::Wait(_)));
    }
}

#[test]
fn a_key_that_ran_out_is_repaired_from_outside_without_a_restart() {
    let now = at("2026-11-22T10:00:00Z");
    let mut machine = Machine::new(Some(credential(day("2026-11-15"), false)), 0.5);
    assert!(matches!(machine.step(now), Step::Prove(_)));
    machine.on(refused(Cause::BadCredentials), now, 0.5);
    assert!(matches!(machine.step(now), Step::Wait(_)));
    assert_eq!(machine.condition(now), Condition::RunOut);
    assert_eq!(machine.next_attempt(now), None);
    let imported = credential(day("2026-11-22"), false);
    machine.on(Event::Replaced(Some(imported.clone())), now, 0.5);
    assert_eq!(machine.condition(now), Condition::Well);
    assert_eq!(machine.step(now), Step::Prove(imported));

    machine.on(Event::Replaced(None), now, 0.5);
    assert_eq!(machine.condition(now), Condition::Missing);
    assert_eq!(machine.step(now), Step::Wait(LONGEST_WAIT));
}

#[test]
fn a_kept_secret_makes_its_keys_here_and_asks_nobody() {
    let mut machine = Machine::new(Some(credential(day("2026-11-01"), true)), 0.5);
    let now = at("2026-11-22T10:00:00Z");
    assert_eq!(machine.condition(now), Condition::Well);
    let today = credential(day("2026-11-22"), true);
    assert_eq!(machine.step(now), Step::Save(today.clone()));
    machine.on(Event::Saved(Ok(Saved::Written)), now, 0.5);
    assert_eq!(machine.step(at("2026-11-22T23:59:59Z")), Step::Wait(Duration::from_secs(1)));
    assert_eq!(
        machine.step(at("2026-11-23T00:00:00Z")),
        Step::Save(credential(day("2026-11-23"), true))
    );
}

#[test]
fn without_the_time_any_answer_is_asked_for_and_then_the_right_day() {
    for keep_secret in [false, true] {
        let old = credential(day("2026-11-20"), keep_secret);
        let mut machine = Machine::new(Some(old.clone()), 0.5);
        let unknown = Moment { server: None, elapsed: Duration::ZERO };
        assert_eq!(machine.step(unknown), Step::Prove(old.clone()));
        machine.on(refused(Cause::Unreachable), unknown, 1.0);
        assert_eq!(machine.condition(unknown), Condition::TimeUnknown);
        assert_eq!(machine.step(unknown), Step::Wait(Duration::from_secs(15)));

        // The refusal of a wrongly dated request taught the time and means nothing else.
        let asked = later(unknown, Duration::from_secs(15));
        assert_eq!(machine.step(asked), Step::Prove(old.clone()));
        let known = Moment { elapsed: asked.elapsed, ..at("2026-11-22T10:00:00Z") };
        machine.on(refused(Cause::BadCredentials), known, 1.0);
        let want = match keep_secret {
            true => Step::Save(credential(day("2026-11-22"), true)),
            false => Step::Fetch(old, day("2026-11-22")),
        };
        assert_eq!(machine.step(known), want);
        assert_eq!(machine.trouble(), None);
    }
}

#[test]
fn a_key_of_a_day_that_the_answer_proves_wrong_is_not_taken() {
    let old = credential(day("2026-11-20"), false);
    let mut machine = Machine::new(Some(old.clone()), 0.5);
    machine.step(at("2026-11-22T23:59:59Z"));
    let key = signing_key(&secret(), day("2026-11-22"));
    let next_day = at("2026-11-23T00:00:01Z");
    machine.on(Event::Fetched(Ok(key)), next_day, 0.5);
    assert_eq!(machine.step(next_day), Step::Fetch(old, day("2026-11-23")));
}

#[test]
fn a_disk_that_fails_does_not_keep_a_proved_key_from_being_used_nor_the_next_from_being_fetched() {
    let now = at("2026-11-22T10:00:00Z");
    let mut machine = Machine::new(Some(credential(day("2026-11-20"), false)), 0.5);
    let new = credential(day("2026-11-22"), false);
    machine.step(now);
    machine.on(Event::Fetched(Ok(new.key.clone())), now, 1.0);
    machine.on(Event::Proved(Ok(())), now, 1.0);
    machine.on(Event::Saved(Err("no space left".to_owned())), now, 1.0);
    assert_eq!(machine.credential(), Some(&new));
    assert_eq!(machine.condition(now), Condition::Failing);
    let soon = later(now, Duration::from_secs(15));
    assert_eq!(machine.step(soon), Step::Save(new));
    machine.on(Event::Saved(Err("no space left".to_owned())), soon, 1.0);
    let tomorrow = later(now, Duration::from_secs(86_400));
    assert!(matches!(machine.step(tomorrow), Step::Fetch(..)));
}

#[test]
fn an_import_meanwhile_wins() {
    let now = at("2026-11-22T10:00:00Z");
    let mut machine = Machine::new(Some(credential(day("2026-11-20"), false)), 0.5);
    machine.step(now);
    machine.on(Event::Fetched(Ok(SigningKey::new([1; 32]))), now, 1.0);
    machine.on(Event::Proved(Ok(())), now, 1.0);
    let mut other = (*credential(day("2026-11-22"), false)).clone();
    other.token_id = "other".parse().expect("a token ID");
    machine.on(Event::Saved(Ok(Saved::Superseded(Box::new(other.clone())))), now, 1.0);
    assert_eq!(machine.credential().map(|c| &**c), Some(&other));
    assert!(matches!(machine.step(now), Step::Prove(_)), "it is new here");

    // The outcome of a step for a credential that is gone does nothing.
    machine.on(Event::Replaced(None), now, 1.0);
    machine.on(Event::Proved(Ok(())), now, 1.0);
    assert_eq!(machine.condition(now), Condition::Missing);
}

/// What befalls one step.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Works,
    Fails(Cause),
    /// The process dies before the step has an effect, or after it.
    Dies {
        after: bool,
    },
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Works),
        2 => prop_oneof![
            Just(Cause::Unreachable), Just(Cause::ServerTrouble), Just(Cause::RateLimited),
            Just(Cause::AccessDenied), Just(Cause::BadCredentials),
        ].prop_map(Fate::Fails),
        2 => any::<bool>().prop_map(|after| Fate::Dies { after }),
    ]
}

#[test]
fn a_key_that_ran_out_by_a_wrong_time_signs_again_when_the_time_is_right() {
    let right = at("2026-11-22T10:00:00Z");
    for wrong in ["2036-11-22T10:00:00Z", "2026-11-01T10:00:00Z"] {
        let mut machine = Machine::new(Some(credential(day("2026-11-22"), false)), 0.5);
        let mut now = at(wrong);
        let mut asked = 0;
        for _ in 0..1000 {
            match machine.step(now) {
                Step::Wait(wait) => now = later(now, wait),
                Step::Prove(_) => {
                    asked += 1;
                    machine.on(refused(Cause::BadCredentials), now, 0.5);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(machine.condition(now), Condition::RunOut);
        }
        // 15 s, 30 s … 1 h; a thousand looks are 16 hours.
        assert!((10..40).contains(&asked), "{asked}");
        let right = Moment { elapsed: now.elapsed, ..right };
        assert!(matches!(machine.step(right), Step::Prove(_)), "at once");
        machine.on(Event::Proved(Ok(())), right, 0.5);
        assert_eq!(machine.condition(right), Condition::Well);
        assert!(matches!(machine.step(right), Step::Wait(_)));
    }
}

#[test]
fn a_new_key_that_signs_nothing_is_not_the_tokens_fault() {
    let now = at("2026-11-22T10:00:00Z");
    let mut machine = Machine::new(Some(credential(day("2026-11-20"), false)), 0.5);
    let today = day("2026-11-22");
    assert!(matches!(machine.step(now), Step::Fetch(..)));
    machine.on(Event::Fetched(Ok(signing_key(&secret(), day("2026-01-01")))), now, 0.5);
    assert!(matches!(machine.step(now), Step::Prove(new) if new.key_date == today));
    machine.on(refused(Cause::BadCredentials), now, 0.5);
    assert_eq!(machine.trouble(), Some(&Trouble::UselessKey));
    assert_eq!(machine.condition(now), Condition::Failing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever fails and whenever the process dies: what is on disk is a key of the server's, of
    /// the day it says; and as long as one try a few days works, it never runs out.
    #[test]
    fn the_key_survives_failures_and_deaths(
        fates in prop::collection::vec((fate(), 0.0..1.0), 20..200),
        keep_secret in any::<bool>(),
    ) {
        let mut disk = credential(day("2026-11-17"), keep_secret);
        let mut now = at("2026-11-22T10:00:00Z");
        let mut machine = Machine::new(Some(disk.clone()), 0.5);
        let mut working = now.elapsed;
        let mut steps = fates.into_iter();
        while now.elapsed < Duration::from_secs(20 * 86_400) {
            let step = machine.step(now);
            if let Step::Wait(wait) = step {
                now = later(now, wait);
                prop_assert!(now.elapsed - working > Duration::from_secs(86_400) * 5
                    || machine.condition(now) != Condition::RunOut);
                continue;
            }
            let Some((fate, random)) = steps.next() else { break };
            let death = matches!(fate, Fate::Dies { .. });
            let effect = !matches!(fate, Fate::Dies { after: false });
            let event = match (&step, fate) {
                (Step::Fetch(..), Fate::Fails(cause)) => Event::Fetched(Err(call_error(cause))),
                (Step::Prove(_), Fate::Fails(cause)) => refused(cause),
                (Step::Save(_), Fate::Fails(_)) => Event::Saved(Err("full".to_owned())),
                (Step::Fetch(_, day), _) => Event::Fetched(Ok(signing_key(&secret(), *day))),
                (Step::Prove(_), _) => Event::Proved(Ok(())),
                (Step::Save(new), _) => {
                    if effect {
                        disk = new.clone();
                        working = now.elapsed;
                    }
                    Event::Saved(Ok(Saved::Written))
                }
                (Step::Wait(_), _) => unreachable!("waited above"),
            };
            if death {
                machine = Machine::new(Some(disk.clone()), random);
            } else {
                machine.on(event, now, random);
            }
            prop_assert_eq!(&disk.key, &signing_key(&secret(), disk.key_date));
            let used = machine.credential().expect("one is in use");
            prop_assert_eq!(&used.key, &signing_key(&secret(), used.key_date));
            now = later(now, Duration::from_secs(1));
        }
    }

    /// A day of nothing but failures costs few requests.
    #[test]
    fn failing_is_cheap(randoms in prop::collection::vec(0.0..1.0f64, 200)) {
        let mut now = at("2026-11-22T00:00:00Z");
        let mut machine = Machine::new(Some(credential(day("2026-11-17"), false)), 0.5);
        let mut requests = 0;
        for random in randoms {
            match machine.step(now) {
                Step::Wait(wait) => now = later(now, wait),
                _ => {
                    requests += 1;
                    machine.on(Event::Fetched(Err(call_error(Cause::Unreachable))), now, random);
                }
            }
        }
        let hours = u32::try_from(now.elapsed.as_secs() / 3600).expect("few");
        prop_assert!(requests <= 12 + 2 * hours, "{requests} in {hours} h");
    }
}

#[test]
fn a_doubted_token_is_asked_about_at_once_and_nothing_is_put_off_by_that() {
    let now = at("2026-11-22T10:00:00Z");
    // One that was found well.
    let mut machine = settled("2026-11-22", now);
    machine.doubt();
    assert!(matches!(machine.step(now), Step::Prove(_)));
    machine.on(Event::Proved(Ok(())), now, 0.5);
    assert!(matches!(machine.step(now), Step::Wait(_)), "once");
    // One that was refused, and would be looked at hourly.
    machine.doubt();
    machine.step(now);
    machine.on(refused(Cause::BadCredentials), now, 0.5);
    assert_eq!(machine.condition(now), Condition::Refused);
    assert!(matches!(machine.step(now), Step::Wait(_)));
    machine.doubt();
    assert!(matches!(machine.step(now), Step::Prove(_)));
    // One whose keys are made here: that its renewal is forbidden means nothing.
    let mut machine = Machine::new(Some(credential(day("2026-11-22"), true)), 0.5);
    assert!(matches!(machine.step(now), Step::Wait(_)));
    machine.doubt();
    assert!(matches!(machine.step(now), Step::Prove(_)));
    machine.on(refused(Cause::AccessDenied), now, 0.5);
    assert_eq!(machine.condition(now), Condition::Well);
    let midnight = at("2026-11-23T00:00:00Z");
    assert!(matches!(machine.step(midnight), Step::Save(_)), "the next key comes in time");
}
