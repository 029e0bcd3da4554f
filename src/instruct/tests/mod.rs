//! The task against fakes, in paused time, with the real journal on disk.

mod chance;
mod node;
mod pushed;
mod wire;
mod world;

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{journal, outcome::Code, state::State};
use crate::{
    domain::{InstructionState, Stamp},
    solarnet::Cause,
};
use world::{Device, World};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn world() -> (World, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    (World::new(dir.path()), dir)
}

/// The status values of the only datum of an instruction.
fn said(world: &World, id: i64) -> BTreeMap<String, String> {
    let of_id = |status: &[(String, String)]| {
        status.iter().any(|(name, value)| name == "instruction" && *value == id.to_string())
    };
    let inner = world.lock();
    let datum: Vec<_> = inner.datum.iter().filter(|d| of_id(&d.samples.status)).collect();
    assert_eq!(datum.len(), 1, "one outcome of {id}: {datum:?}");
    datum[0].samples.status.iter().cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn an_order_is_on_disk_then_told_then_done_then_reported_then_ended() {
    let (world, _dir) = world();
    world.set(7, "12.5");
    world.run_for(secs(5)).await;
    assert_eq!(
        world.log(),
        ["7 Executing", "write /control 12.5", "datum /control 7 Completed", "7 Completed"]
    );
    assert_eq!(world.lock().on_disk, [Some(State::Executing)]);
    let said = said(&world, 7);
    let values =
        ["before", "wanted", "after", "val"].map(|name| said.get(name).map(String::as_str));
    assert_eq!(values, [Some("0"), Some("12.5"), None, Some("12.5")]);
    let v = world.lock().datum[0].samples.instantaneous.clone();
    assert_eq!(v, [("v".to_owned(), Decimal::new(125, 1))]);
    assert!(world.record(7).expect("a record").is_settled());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_device_does_not_show_is_declined_with_all_three_values() {
    let (world, _dir) = world();
    world.lock().device = Device::Ignores;
    world.set(7, "3");
    world.run_for(secs(5)).await;
    assert_eq!(world.state(7), Some(InstructionState::Declined));
    let said = said(&world, 7);
    assert_eq!(said["code"], Code::NotTaken.name());
    assert!(said["message"].contains("before 0, wanted 3, after 0"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_may_have_happened_and_is_not_repeated() {
    let (world, _dir) = world();
    world.lock().device = Device::LosesTheAnswer;
    world.set(7, "3");
    world.run_for(secs(120)).await;
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(world.state(7), Some(InstructionState::Declined));
    assert!(said(&world, 7)["message"].contains("may have happened"));
    assert_eq!(world.status.borrow().uncertain, 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_hangs_is_given_up_and_the_next_order_is_carried_out() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(3600));
    world.set(7, "3");
    let running = world.start();
    sleep(secs(61)).await;
    assert_eq!(world.state(7), Some(InstructionState::Declined));
    world.lock().device = Device::Obeys;
    world.set(8, "4");
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(world.state(8), Some(InstructionState::Completed));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_declined_at_once_to_the_result_source() {
    let (world, _dir) = world();
    world.add(7, "ShedLoad", json!([]), json!({}));
    world.run_for(secs(1)).await;
    assert_eq!(world.log(), ["datum /agent 7 Declined", "7 Declined"]);
    assert_eq!(said(&world, 7)["code"], Code::UnknownTopic.name());
}

/// Every point at which the agent waits for something else, before and after its effect.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_never_repeats_a_write_and_always_ends_it() {
    for crash_at in 1.. {
        let (world, _dir) = world();
        world.lock().crash_at = Some(crash_at);
        world.set(7, "3");
        world.run_for(secs(120)).await;
        let writes = world.lock().writes.len();
        assert!(writes <= 1, "crash at {crash_at}: {:?}", world.log());
        let state = world.state(7).expect("it is there");
        assert!(state.is_final(), "crash at {crash_at}: {:?}", world.log());
        // Told once, or twice where the answer to the first was lost, and never something else.
        let finals = world.log().iter().filter(|l| *l == &format!("7 {}", state.name())).count();
        assert_eq!(finals, 1, "crash at {crash_at}: {:?}", world.log());
        // A repeated datum is the same datum.
        let inner = world.lock();
        assert!(!inner.datum.is_empty());
        assert!(inner.datum.iter().all(|d| *d == inner.datum[0]), "crash at {crash_at}");
        if writes == 1 && state == InstructionState::Declined {
            let message = &inner.datum[0].samples.status;
            assert!(message.iter().any(|(_, v)| v.contains("may have happened")), "{message:?}");
        }
        assert_eq!(inner.onto_final, Vec::<String>::new());
        if inner.crash_at.is_some() {
            assert!(crash_at > 12, "only {crash_at} points were tried");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_order_waits_as_received_is_viewed_again_and_done_on_time() {
    let (world, _dir) = world();
    let due = world.now() + TimeDelta::seconds(100);
    let parameters = json!({"/control": "3", "executionDate": due.to_rfc3339()});
    world.add(7, "SetControlParameter", parameters, json!({}));
    let running = world.start();
    sleep(secs(50)).await;
    assert_eq!(world.log(), ["7 Received"]);
    assert_eq!(world.status.borrow().waiting.len(), 1);
    running.kill().await;
    world.run_for(secs(60)).await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    let at = world.lock().writes[0].1;
    assert!(at >= due && at - due < TimeDelta::milliseconds(100), "{at}");
    let viewed = world.lock().calls.iter().filter(|c| c.path.ends_with("/view")).count();
    assert_eq!(viewed, 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_withdrawn_while_it_waits_is_left_alone() {
    let (world, _dir) = world();
    let due = world.now() + TimeDelta::seconds(40);
    let parameters = json!({"/control": "3", "executionDate": due.timestamp_millis().to_string()});
    world.add(7, "SetControlParameter", parameters, json!({}));
    let running = world.start();
    sleep(secs(39)).await;
    world.force(7, InstructionState::Declined);
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(world.log(), ["7 Received"]);
    let record = world.record(7).expect("a record");
    assert_eq!(record.code, Some(Code::EndedElsewhere));
    assert!(record.is_settled());
}

#[tokio::test(start_paused = true)]
async fn an_order_that_expires_while_the_server_is_away_is_not_carried_out() {
    let (world, _dir) = world();
    let at = |secs| (world.now() + TimeDelta::seconds(secs)).to_rfc3339();
    let parameters = json!({"/control": "3", "executionDate": at(20)});
    world.add(7, "SetControlParameter", parameters, json!({"expirationDate": at(60)}));
    let running = world.start();
    sleep(secs(5)).await;
    world.lock().failures.extend([Some(Cause::Unreachable); 6]);
    sleep(secs(300)).await;
    running.stop().await;
    assert_eq!(world.lock().writes, []);
    assert_eq!(world.state(7), Some(InstructionState::Declined));
    assert_eq!(world.lock().onto_final, Vec::<String>::new());
    assert_eq!(said(&world, 7)["code"], Code::Expired.name());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_order_is_cancelled_and_one_that_ran_is_not() {
    let (world, _dir) = world();
    let due = (world.now() + TimeDelta::seconds(500)).to_rfc3339();
    let later = json!({"/control": "3", "executionDate": due});
    world.set(6, "2");
    world.add(7, "SetControlParameter", later.clone(), json!({}));
    let running = world.start();
    sleep(secs(10)).await;
    world.add(8, "CancelInstruction", json!({"id": "7"}), json!({}));
    world.add(9, "CancelInstruction", json!({"id": "6"}), json!({}));
    // Given together with its cancellation.
    world.set(10, "5");
    world.add(11, "CancelInstruction", json!({"id": "10"}), json!({}));
    sleep(secs(600)).await;
    running.stop().await;
    use InstructionState::{Completed, Declined};
    let states: Vec<_> = (6..=11).filter_map(|id| world.state(id)).collect();
    assert_eq!(states, [Completed, Declined, Completed, Declined, Declined, Completed]);
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(said(&world, 7)["code"], Code::Cancelled.name());
    assert_eq!(said(&world, 9)["code"], Code::NotCancellable.name());
}

#[tokio::test(start_paused = true)]
async fn what_an_order_made_is_cancelled_with_it() {
    let (world, _dir) = world();
    let due = (world.now() + TimeDelta::seconds(500)).to_rfc3339();
    let later = |parent: &str| json!({"/control": "3", "executionDate": due, "parentInstructionId": parent});
    world.add(7, "SetControlParameter", later("1"), json!({}));
    world.add(8, "SetControlParameter", later("7"), json!({}));
    let running = world.start();
    sleep(secs(10)).await;
    // The last one comes together with the cancellation.
    world.add(9, "CancelInstruction", json!({"id": "7"}), json!({}));
    world.add(
        10,
        "SetControlParameter",
        json!({"/control": "4", "parentInstructionId": "7"}),
        json!({}),
    );
    sleep(secs(600)).await;
    running.stop().await;
    use InstructionState::{Completed, Declined};
    let states: Vec<_> = (7..=10).filter_map(|id| world.state(id)).collect();
    assert_eq!(states, [Declined, Declined, Completed, Declined]);
    assert_eq!(world.lock().writes.len(), 0);
    assert_eq!(said(&world, 8)["code"], Code::Cancelled.name());
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_delivered_is_repeated_without_acting_again() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(1));
    world.set(7, "3");
    let running = world.start();
    sleep(Duration::from_millis(500)).await;
    world.lock().failures.extend([Some(Cause::Unreachable); 5]);
    sleep(secs(10)).await;
    assert_eq!(world.state(7), Some(InstructionState::Executing));
    assert_eq!(world.status.borrow().undelivered, 1);
    assert!(world.status.borrow().error.is_some());
    sleep(secs(200)).await;
    running.stop().await;
    assert_eq!(
        world.log(),
        ["7 Executing", "write /control 3", "datum /control 7 Completed", "7 Completed"]
    );
    assert_eq!(world.status.borrow().error, None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_server_knows_that_it_is_executing() {
    let (world, _dir) = world();
    world.set(7, "3");
    // The poll works, the next call does not.
    world.lock().failures.extend([None, Some(Cause::Unreachable)]);
    let running = world.start();
    sleep(secs(1)).await;
    let paths: Vec<_> = world.lock().calls.iter().map(|c| c.path.clone()).collect();
    assert!(paths[1].ends_with("/updateState"), "{paths:?}");
    assert_eq!(world.lock().writes, []);
    assert_eq!(world.record(7).map(|r| (r.state, r.written)), Some((State::Received, None)));
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(world.log()[..2], ["7 Executing", "write /control 3"]);
    assert_eq!(world.state(7), Some(InstructionState::Completed));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_expires_while_the_server_is_told_is_not_carried_out() {
    let (world, _dir) = world();
    let expiry = (world.now() + TimeDelta::seconds(10)).to_rfc3339();
    world.add(
        7,
        "SetControlParameter",
        json!({"/control": "3"}),
        json!({"expirationDate": expiry}),
    );
    world.lock().latency = secs(3);
    world.run_for(secs(60)).await;
    assert_eq!(world.log(), ["7 Executing", "datum /control 7 Declined", "7 Declined"]);
    assert_eq!(world.lock().writes, []);
    assert_eq!(said(&world, 7)["code"], Code::Expired.name());
}

#[tokio::test(start_paused = true)]
async fn the_final_state_waits_for_the_result_datum() {
    let (world, _dir) = world();
    world.lock().queue_works = false;
    world.set(7, "3");
    let running = world.start();
    sleep(secs(60)).await;
    assert_eq!(world.state(7), Some(InstructionState::Executing));
    world.lock().queue_works = true;
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(
        world.log(),
        ["7 Executing", "write /control 3", "datum /control 7 Completed", "7 Completed"]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_until_the_time_is_known() {
    let (world, _dir) = world();
    world.lock().time_known = false;
    world.set(7, "3");
    let running = world.start();
    sleep(secs(60)).await;
    assert_eq!(world.log(), Vec::<String>::new());
    assert!(world.status.borrow().held);
    world.lock().time_known = true;
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    assert!(!world.status.borrow().held);
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_an_action_under_way_finish() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(4));
    world.set(7, "3");
    world.set(8, "4");
    let running = world.start();
    sleep(secs(1)).await;
    running.stop().await;
    assert_eq!(
        world.log(),
        ["7 Executing", "write /control 3", "datum /control 7 Completed", "7 Completed"]
    );
    assert_eq!(world.state(8), Some(InstructionState::Queued));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_journal_entry_never_lets_an_instruction_run_again() {
    let (world, dir) = world();
    world.set(7, "3");
    world.run_for(secs(5)).await;
    std::fs::write(journal::folder(dir.path()).join("7.json"), "{").expect("write");
    world.force(7, InstructionState::Queued);
    world.run_for(secs(60)).await;
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(world.state(7), Some(InstructionState::Declined));
    assert_eq!(world.record(7).and_then(|r| r.code), Some(Code::MayHaveHappened));
}

#[tokio::test(start_paused = true)]
async fn without_a_journal_what_the_server_calls_executing_may_have_happened() {
    let (world, _dir) = world();
    world.set(7, "3");
    world.force(7, InstructionState::Executing);
    world.run_for(secs(5)).await;
    assert_eq!(world.lock().writes, []);
    assert_eq!(said(&world, 7)["code"], Code::MayHaveHappened.name());
}

#[tokio::test(start_paused = true)]
async fn one_that_ended_and_is_handed_out_again_gets_its_final_state_again() {
    let (world, _dir) = world();
    world.set(7, "3");
    world.run_for(secs(5)).await;
    world.force(7, InstructionState::Queued);
    world.run_for(secs(60)).await;
    let log = world.log();
    assert_eq!(log.iter().filter(|l| l.starts_with("write")).count(), 1);
    assert_eq!(log.iter().filter(|l| l.starts_with("datum")).count(), 1);
    assert_eq!(log.last().map(String::as_str), Some("7 Completed"));
}

#[tokio::test(start_paused = true)]
async fn the_shortest_time_between_writes_holds_across_a_restart() {
    let (world, _dir) = world();
    let relay = |value: &str| json!({"/relay": value});
    world.add(7, "SetControlParameter", relay("on"), json!({}));
    world.run_for(secs(5)).await;
    world.add(8, "SetControlParameter", relay("off"), json!({}));
    world.run_for(secs(5)).await;
    assert_eq!(said(&world, 8)["code"], Code::TooSoon.name());
    sleep(secs(60)).await;
    world.add(9, "SetControlParameter", relay("off"), json!({}));
    world.run_for(secs(5)).await;
    assert_eq!(world.state(9), Some(InstructionState::Completed));
}

#[tokio::test(start_paused = true)]
async fn polls_become_rare_in_quiet_times_and_frequent_after_an_instruction() {
    let (world, _dir) = world();
    let running = world.start();
    let polls = || world.lock().calls.iter().filter(|c| c.path.ends_with("viewPending")).count();
    sleep(secs(600)).await;
    let quiet = polls();
    assert!((20..=26).contains(&quiet), "{quiet} polls in ten quiet minutes");
    world.set(7, "3");
    sleep(secs(40)).await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    let after = polls() - quiet;
    assert!((3..=8).contains(&after), "{after} polls around an instruction");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_outcomes_of_one_source_never_share_a_millisecond() {
    let (world, _dir) = world();
    for id in 1..=5 {
        world.set(id, "-1");
    }
    world.run_for(secs(5)).await;
    let inner = world.lock();
    let mut stamps: Vec<_> = inner
        .datum
        .iter()
        .map(|d| match d.stamp {
            Stamp::Wall { unix_ms } => unix_ms,
            Stamp::Boot { .. } => panic!("a result without a time"),
        })
        .collect();
    stamps.dedup();
    assert_eq!(stamps.len(), 5);
}

/// Members that nobody knows yet do not keep a record from being read.
#[test]
fn a_record_of_a_newer_agent_is_still_read() {
    let record = super::record::Record::new(crate::domain::InstructionId(7), "SetControlParameter");
    let mut json: Value = serde_json::from_slice(&record.to_json()).expect("JSON");
    json["addedLater"] = json!([1]);
    let again = super::record::Record::from_json(json.to_string().as_bytes()).expect("a record");
    assert_eq!(again, record);
}
