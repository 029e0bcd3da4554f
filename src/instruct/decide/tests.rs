use std::collections::BTreeSet;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::{
    config::settings::{Allow, Control, Encoding, Order as End, Register, Scale, Select, Table},
    domain::Parameter,
    instruct::topic::SET,
};

fn date(text: &str) -> DateTime<Utc> {
    parse::instant(text).expect("a date")
}

/// Noon; the instructions of these tests are given five minutes earlier.
fn now() -> DateTime<Utc> {
    date("2026-11-22T12:00:00Z")
}

fn dec(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

fn source(text: &str) -> SourceId {
    text.parse().expect("a source")
}

fn control(id: &str, table: Table, min: &str, max: &str) -> Control {
    Control {
        id: source(id),
        bus: "bus".to_owned(),
        unit: 3,
        register: Register {
            table,
            address: 0,
            encoding: if table == Table::Coil { Encoding::Bit } else { Encoding::I16 },
            word_order: End::Big,
            byte_order: End::Big,
            select: Select::All,
        },
        scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
        timeout: Duration::from_secs(1),
        tolerance: Decimal::ZERO,
        settle: Duration::ZERO,
        allow: Allow { min: dec(min), max: dec(max), every: Duration::from_secs(10) },
        states: BTreeMap::new(),
        signals: BTreeMap::new(),
    }
}

fn rules() -> Rules {
    Rules {
        controls: vec![
            control("/relay", Table::Coil, "0", "1"),
            control("/limit", Table::Holding, "-10", "50.5"),
        ],
        allow: BTreeSet::new(),
        max_age: Duration::from_secs(900),
    }
}

fn instruction(topic: &str, parameters: &[(&str, &str)]) -> Instruction {
    Instruction {
        id: InstructionId(7),
        topic: topic.to_owned(),
        instruction_date: date("2026-11-22T11:55:00Z"),
        state: InstructionState::Queued,
        expiration_date: None,
        parameters: parameters
            .iter()
            .map(|(name, value)| Parameter { name: (*name).to_owned(), value: (*value).to_owned() })
            .collect(),
        unreadable: None,
    }
}

fn set(parameters: &[(&str, &str)]) -> Instruction {
    instruction(SET, parameters)
}

fn decide_new(instruction: &Instruction) -> Decision {
    decide_as(instruction, State::New, Some(now()), Duration::ZERO)
}

fn decide_as(
    instruction: &Instruction,
    known: State,
    now: Option<DateTime<Utc>>,
    seen_ago: Duration,
) -> Decision {
    decide(&Case {
        instruction,
        seen_ago,
        now,
        known,
        rules: &rules(),
        last_writes: &BTreeMap::new(),
    })
}

fn code(decision: Decision) -> Option<Code> {
    match decision {
        Decision::Decline(refusal) => Some(refusal.code),
        _ => None,
    }
}

fn act(control: &str, value: &str) -> Decision {
    Decision::Act(ControlWrite { control: source(control), value: dec(value) })
}

#[test]
fn values_are_taken_exactly_or_not_at_all() {
    #[rustfmt::skip]
    let cases = [
        ("/relay", "1",       Ok("1")),
        ("/relay", " On ",    Ok("1")),
        ("/relay", "yes",     Ok("1")),
        ("/relay", "TRUE",    Ok("1")),
        ("/relay", "off",     Ok("0")),
        ("/relay", "no",      Ok("0")),
        ("/relay", "false",   Ok("0")),
        ("/relay", "0.0",     Ok("0.0")),
        ("/relay", "2",       Err(Code::Limit)),
        ("/relay", "maybe",   Err(Code::Value)),
        ("/limit", "50.5",    Ok("50.5")),
        ("/limit", "-10",     Ok("-10")),
        ("/limit", "+7.25",   Ok("7.25")),
        ("/limit", "50.51",   Err(Code::Limit)),
        ("/limit", "-10.001", Err(Code::Limit)),
        ("/limit", "on",      Err(Code::Value)),
        ("/limit", "1e1",     Err(Code::Value)),
        ("/limit", "1_0",     Err(Code::Value)),
        ("/limit", "NaN",     Err(Code::Value)),
        ("/limit", "0x10",    Err(Code::Value)),
        ("/limit", "1,5",     Err(Code::Value)),
        ("/limit", "-",       Err(Code::Value)),
        ("/limit", "1.00000000000000000000000000001", Err(Code::Value)),
        ("/limit", "99999999999999999999999999999999", Err(Code::Value)),
    ];
    for (control, text, want) in cases {
        let got = decide_new(&set(&[(control, text)]));
        match want {
            Ok(value) => assert_eq!(got, act(control, value), "{control} {text}"),
            Err(want) => assert_eq!(code(got), Some(want), "{control} {text}"),
        }
    }
}

#[test]
fn exactly_one_parameter_names_exactly_one_configured_control() {
    let later = ("executionDate", "2026-11-22T11:58:00Z");
    let parents = [("parentInstructionId", "6"), ("parentInstructorId", "x")];
    assert_eq!(
        decide_new(&set(&[later, ("/relay", "1"), parents[0], parents[1]])),
        act("/relay", "1")
    );
    #[rustfmt::skip]
    let cases: [(&[(&str, &str)], Code); 6] = [
        (&[],                                  Code::Parameters),
        (&[later],                             Code::Parameters),
        (&[("/relay", "1"), ("/limit", "1")],  Code::Parameters),
        (&[("/relay", "1"), ("/relay", "1")],  Code::Parameters),
        (&[("/relay", "1"), ("comment", "x")], Code::Parameters),
        (&[("/other", "1")],                   Code::UnknownControl),
    ];
    for (parameters, want) in cases {
        assert_eq!(code(decide_new(&set(parameters))), Some(want), "{parameters:?}");
    }
}

#[test]
fn an_unknown_topic_is_declined_at_once() {
    for topic in ["SystemReset", "setcontrolparameter", "ShedLoad", "x\u{1b}[31m"] {
        let refused = decide_new(&instruction(topic, &[("/relay", "1")]));
        let Decision::Decline(refusal) = refused else { panic!("{topic}: {refused:?}") };
        assert_eq!(refusal.code, Code::UnknownTopic);
        assert!(!refusal.message.contains('\u{1b}'));
    }
}

#[test]
fn the_expiry_is_the_first_instant_at_which_nothing_is_done() {
    let mut expiring = set(&[("/relay", "1")]);
    expiring.expiration_date = Some(now() + TimeDelta::milliseconds(1));
    assert_eq!(decide_new(&expiring), act("/relay", "1"));
    expiring.expiration_date = Some(now());
    assert_eq!(code(decide_new(&expiring)), Some(Code::Expired));
    // While waiting, too.
    let waiting = decide_as(&expiring, State::Received, Some(now()), Duration::ZERO);
    assert_eq!(code(waiting), Some(Code::Expired));
}

#[test]
fn without_an_expiry_the_age_counts_from_when_it_was_to_be_done() {
    let mut old = set(&[("/relay", "1")]);
    old.instruction_date = now() - TimeDelta::seconds(899);
    assert_eq!(decide_new(&old), act("/relay", "1"));
    old.instruction_date = now() - TimeDelta::seconds(900);
    assert_eq!(code(decide_new(&old)), Some(Code::TooOld));

    let mut planned = set(&[("/relay", "1"), ("executionDate", "2026-11-22T11:59:00Z")]);
    planned.instruction_date = now() - TimeDelta::days(3);
    assert_eq!(decide_new(&planned), act("/relay", "1"));
    planned.parameters[1].value = "2026-11-22T11:45:00Z".to_owned();
    assert_eq!(code(decide_new(&planned)), Some(Code::TooOld));

    // With one, only it counts.
    old.expiration_date = Some(now() + TimeDelta::days(1));
    old.instruction_date = now() - TimeDelta::days(3);
    assert_eq!(decide_new(&old), act("/relay", "1"));
}

#[test]
fn an_execution_date_is_waited_for_in_either_form() {
    let until = now() + TimeDelta::hours(1);
    for text in
        ["2026-11-22T13:00:00Z", "2026-11-22 13:00:00Z", &until.timestamp_millis().to_string()]
    {
        let later = set(&[("/relay", "1"), ("executionDate", text)]);
        for known in [State::New, State::Received] {
            let got = decide_as(&later, known, Some(now()), Duration::ZERO);
            assert_eq!(got, Decision::Wait { until }, "{text}");
            assert_eq!(
                decide_as(&later, known, Some(until), Duration::ZERO),
                act("/relay", "1"),
                "{text}"
            );
        }
    }
    let unreadable = set(&[("/relay", "1"), ("executionDate", "tomorrow")]);
    assert_eq!(code(decide_new(&unreadable)), Some(Code::Parameters));
    let twice = ("executionDate", "2026-11-22T13:00:00Z");
    assert_eq!(code(decide_new(&set(&[("/relay", "1"), twice, twice]))), Some(Code::Parameters));
}

#[test]
fn what_can_never_come_true_is_declined_at_once() {
    let mut never = set(&[("/relay", "1"), ("executionDate", "2026-11-22T13:00:00Z")]);
    never.expiration_date = Some(date("2026-11-22T13:00:00Z"));
    assert_eq!(code(decide_new(&never)), Some(Code::Expired));
    let purged = set(&[("/relay", "1"), ("executionDate", "2027-06-01T00:00:00Z")]);
    assert_eq!(code(decide_new(&purged)), Some(Code::Parameters));
    // A bad value is no reason to wait.
    let wrong = set(&[("/relay", "7"), ("executionDate", "2026-11-22T13:00:00Z")]);
    assert_eq!(code(decide_new(&wrong)), Some(Code::Limit));
}

#[test]
fn nothing_acts_and_nothing_ends_while_the_time_is_unknown() {
    let held =
        [set(&[("/relay", "1")]), instruction("Other", &[]), instruction(CANCEL, &[("id", "3")])];
    for instruction in held {
        for known in [State::New, State::Received, State::Executing] {
            let got = decide_as(&instruction, known, None, Duration::ZERO);
            assert_eq!(got, Decision::Hold, "{instruction:?} {known:?}");
        }
    }
}

#[test]
fn an_old_word_of_the_server_is_asked_for_again_before_acting() {
    let order = set(&[("/relay", "1")]);
    let after = |seen_ago| decide_as(&order, State::New, Some(now()), seen_ago);
    assert_eq!(after(FRESH), act("/relay", "1"));
    assert_eq!(after(FRESH + Duration::from_millis(1)), Decision::ViewAgain);
}

#[test]
fn a_write_too_soon_after_the_last_is_declined() {
    let order = set(&[("/relay", "1")]);
    let after = |secs: i64| {
        let last = BTreeMap::from([
            (source("/relay"), now() - TimeDelta::seconds(secs)),
            (source("/limit"), now()),
        ]);
        decide(&Case {
            instruction: &order,
            seen_ago: Duration::ZERO,
            now: Some(now()),
            known: State::New,
            rules: &rules(),
            last_writes: &last,
        })
    };
    assert_eq!(after(10), act("/relay", "1"));
    assert_eq!(code(after(9)), Some(Code::TooSoon));
    // A clock that was set back does not open the door.
    let Decision::Decline(refusal) = after(-5) else { panic!("it opened") };
    assert_eq!(refusal.code, Code::TooSoon);
    assert!(refusal.message.ends_with("the clock was set back"), "{}", refusal.message);
}

#[test]
fn a_cancellation_needs_one_id_and_has_no_maximal_age() {
    let mut cancel = instruction(CANCEL, &[("id", "42")]);
    assert_eq!(decide_new(&cancel), Decision::Cancel(InstructionId(42)));
    cancel.instruction_date = now() - TimeDelta::days(2);
    assert_eq!(decide_new(&cancel), Decision::Cancel(InstructionId(42)));
    cancel.expiration_date = Some(now());
    assert_eq!(code(decide_new(&cancel)), Some(Code::Expired));
    let bad: [&[(&str, &str)]; 5] =
        [&[], &[("id", "x")], &[("id", "-1")], &[("ids", "1")], &[("id", "1"), ("id", "2")]];
    for parameters in bad {
        let got = code(decide_new(&instruction(CANCEL, parameters)));
        assert_eq!(got, Some(Code::Parameters), "{parameters:?}");
    }
}

#[test]
fn what_is_known_and_what_the_server_says_decide_together() {
    use Decision::{Ignore, Interrupted, Overruled, Resend};
    use InstructionState as Server;
    let acts = || act("/relay", "1");
    #[rustfmt::skip]
    let cases = [
        (State::New,       Server::Queued,    acts()),
        (State::New,       Server::Queuing,   acts()),
        (State::New,       Server::Received,  acts()),
        (State::New,       Server::Executing, Interrupted),
        (State::New,       Server::Completed, Overruled(Ending::Completed)),
        (State::Received,  Server::Queued,    acts()),
        // The server was told, its answer was lost, and nothing was sent to the device.
        (State::Received,  Server::Executing, acts()),
        (State::Received,  Server::Declined,  Overruled(Ending::Declined)),
        (State::Executing, Server::Queued,    Interrupted),
        (State::Executing, Server::Executing, Interrupted),
        (State::Executing, Server::Declined,  Interrupted),
        (State::Completed, Server::Queued,    Resend),
        (State::Completed, Server::Executing, Resend),
        (State::Declined,  Server::Received,  Resend),
        (State::Completed, Server::Completed, Ignore),
        (State::Completed, Server::Declined,  Ignore),
    ];
    for (known, server, want) in cases {
        let mut order = set(&[("/relay", "1")]);
        order.state = server;
        let got = decide_as(&order, known, Some(now()), Duration::ZERO);
        assert_eq!(got, want, "{known:?} {server:?}");
    }
}

proptest! {
    /// Whatever is asked, only an allowed value of a configured control is ever acted on, in time.
    #[test]
    fn an_act_is_always_allowed_and_in_time(
        name in prop::sample::select(vec!["/relay", "/limit", "/other", "executionDate"]),
        text in prop_oneof!["[-+]?[0-9]{1,3}(\\.[0-9]{1,3})?", "\\PC{0,12}"],
        age_secs in -1000_i64..3000,
        expiry_secs in prop::option::of(-2000_i64..2000),
        due_secs in prop::option::of(-2000_i64..2000),
        seen_ms in 0_u64..10_000,
    ) {
        let mut order = set(&[(name, &text)]);
        order.instruction_date = now() - TimeDelta::seconds(age_secs);
        order.expiration_date = expiry_secs.map(|s| now() + TimeDelta::seconds(s));
        if let Some(secs) = due_secs {
            let due = (now() + TimeDelta::seconds(secs)).to_rfc3339();
            order.parameters.push(Parameter { name: EXECUTION_DATE.to_owned(), value: due });
        }
        let seen_ago = Duration::from_millis(seen_ms);
        if let Decision::Act(write) = decide_as(&order, State::New, Some(now()), seen_ago) {
            let rules = rules();
            let control = rules.controls.iter().find(|c| c.id == write.control);
            let allow = &control.expect("a configured control").allow;
            prop_assert!((allow.min..=allow.max).contains(&write.value));
            prop_assert!(not_after(&order, rules.max_age).is_some_and(|end| now() < end));
            prop_assert!(due_secs.is_none_or(|secs| secs <= 0));
            prop_assert!(seen_ago <= FRESH);
        }
    }
}
