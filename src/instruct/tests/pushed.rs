//! A node with a certificate: what is pushed, what is polled, and both.

use chrono::TimeDelta;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    said, secs,
    world::{Device, Via, World},
};
use crate::{
    domain::InstructionState,
    instruct::{outcome::Code, server::Way, state::State},
    solarnet::Cause,
};

fn world() -> (World, TempDir) {
    let (world, dir) = super::world();
    world.lock().via = Via::Certificate;
    (world, dir)
}

fn results(world: &World, id: i64) -> Value {
    json!(world.lock().results.get(&id))
}

/// The exchanges that were asked for, and what was told over the broker, as one list of final states.
fn finals(world: &World, id: i64) -> usize {
    let finals = [format!("{id} Completed"), format!("{id} Declined")];
    world.log().iter().filter(|line| finals.contains(line)).count()
}

#[tokio::test(start_paused = true)]
async fn what_is_pushed_is_carried_out_at_once_and_its_results_come_with_the_final_state() {
    let (world, _dir) = world();
    let running = world.start();
    sleep(secs(20)).await;
    world.set(7, "12.50");
    // Long before the next poll.
    sleep(std::time::Duration::from_millis(10)).await;
    assert_eq!(
        world.log(),
        ["7 Executing", "write /control 12.50", "datum /control 7 Completed", "7 Completed"]
    );
    let wanted =
        r#"{"message":"before 0, wanted 12.5, after 12.5","before":0,"wanted":12.5,"after":12.5}"#;
    assert_eq!(results(&world, 7).to_string(), wanted);
    assert_eq!(world.record(7).expect("a record").way, Some(Way::Mqtt));
    assert!(world.status.borrow().last_arrival.is_some());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_broker_it_comes_with_the_next_poll_and_its_results_go_the_same_way() {
    let (world, _dir) = world();
    world.lock().broker_up = false;
    world.lock().device = Device::Ignores;
    world.set(7, "3");
    world.run_for(secs(5)).await;
    assert_eq!(world.state(7), Some(InstructionState::Declined));
    let results = results(&world, 7);
    assert_eq!(results["code"], Code::NotTaken.name());
    assert_eq!((&results["wanted"], &results["after"]), (&json!(3), &json!(0)));
    assert_eq!(world.record(7).expect("a record").way, Some(Way::Https));
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_by_both_ways_is_carried_out_once_and_acknowledged_each_time() {
    let (world, _dir) = world();
    let running = world.start();
    world.set(7, "3");
    for _ in 0..3 {
        world.push(7);
    }
    sleep(secs(9)).await;
    assert_eq!(world.lock().writes.len(), 1);
    // Offered over HTTPS as well, as if nothing had been acknowledged.
    world.force(7, InstructionState::Queued);
    sleep(secs(60)).await;
    running.kill().await;
    world.force(7, InstructionState::Queued);
    world.run_for(secs(60)).await;
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    assert!(finals(&world, 7) >= 3, "{:?}", world.log());
    assert_eq!(results(&world, 7)["after"], 3);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_came_too_early_is_given_again_without_acting_again() {
    let (world, _dir) = world();
    world.lock().invisible = secs(2);
    let running = world.start();
    sleep(secs(1)).await;
    world.set(7, "3");
    sleep(secs(10)).await;
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(world.state(7), Some(InstructionState::Queuing), "nothing of it arrived");
    sleep(secs(70)).await;
    running.stop().await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(results(&world, 7)["after"], 3);
}

#[tokio::test(start_paused = true)]
async fn with_the_broker_gone_in_the_middle_the_end_is_told_over_https() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(5));
    let running = world.start();
    sleep(secs(1)).await;
    world.set(7, "3");
    sleep(secs(2)).await;
    world.lock().broker_up = false;
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    assert_eq!(results(&world, 7)["after"], 3);
    assert_eq!(finals(&world, 7), 1);
}

#[tokio::test(start_paused = true)]
async fn with_only_the_broker_left_what_is_pushed_is_still_carried_out() {
    let (world, _dir) = world();
    world.lock().failures.extend([Some(Cause::Unreachable); 100]);
    let running = world.start();
    sleep(secs(100)).await;
    assert!(world.status.borrow().error.is_some());
    world.set(7, "3");
    sleep(secs(1)).await;
    running.stop().await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
}

/// One that was acknowledged is never shown again: the journal has all that is needed.
#[tokio::test(start_paused = true)]
async fn a_later_order_is_carried_out_on_time_from_the_journal_alone() {
    let (world, _dir) = world();
    let due = world.now() + TimeDelta::seconds(100);
    let parameters = json!({"/control": "3", "executionDate": due.timestamp_millis().to_string()});
    world.add(7, "SetControlParameter", parameters, json!({}));
    let running = world.start();
    world.push(7);
    sleep(secs(50)).await;
    assert_eq!(world.log(), ["7 Received"]);
    running.kill().await;
    world.run_for(secs(60)).await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    let at = world.lock().writes[0].1;
    assert!(at >= due && at - due < TimeDelta::milliseconds(100), "{at}");
    let record = world.record(7).expect("a record");
    assert!(record.is_settled() && record.kept.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_later_order_is_withdrawn_by_cancelling_it() {
    let (world, _dir) = world();
    let due = (world.now() + TimeDelta::seconds(100)).to_rfc3339();
    let running = world.start();
    sleep(secs(1)).await;
    let later = json!({"/control": "3", "executionDate": due});
    world.add(7, "SetControlParameter", later, json!({}));
    sleep(secs(10)).await;
    world.add(8, "CancelInstruction", json!({"id": "7"}), json!({}));
    sleep(secs(200)).await;
    running.stop().await;
    assert_eq!(world.lock().writes, []);
    assert_eq!(results(&world, 7)["code"], Code::Cancelled.name());
    assert_eq!(world.state(8), Some(InstructionState::Completed));
}

#[tokio::test(start_paused = true)]
async fn an_order_and_its_cancellation_that_arrive_together_cancel_out() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(5));
    let running = world.start();
    sleep(secs(1)).await;
    world.set(6, "2");
    sleep(secs(1)).await;
    // Both wait in the inbox while the device is written to.
    world.set(7, "3");
    world.add(8, "CancelInstruction", json!({"id": "7"}), json!({}));
    sleep(secs(60)).await;
    running.stop().await;
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(said(&world, 7)["code"], Code::Cancelled.name());
}

/// Its word is old when its turn comes, and it is not offered over HTTPS yet: it is left until it is.
#[tokio::test(start_paused = true)]
async fn one_whose_turn_comes_late_is_looked_at_again_before_acting() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(20));
    let running = world.start();
    sleep(secs(1)).await;
    world.set(7, "3");
    world.set(8, "4");
    sleep(secs(5)).await;
    world.force(8, InstructionState::Declined);
    sleep(secs(120)).await;
    running.stop().await;
    assert_eq!(world.lock().writes.len(), 1, "{:?}", world.log());
    assert_eq!(world.state(8), Some(InstructionState::Declined));
    assert_eq!(finals(&world, 8), 0);
}

/// It arrives while the device is written to, and is withdrawn before anybody reads it.
#[tokio::test(start_paused = true)]
async fn a_word_that_waited_in_the_inbox_is_as_old_as_its_arrival() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(15));
    let running = world.start();
    sleep(secs(1)).await;
    world.set(7, "3");
    sleep(secs(2)).await;
    world.set(8, "4");
    sleep(secs(2)).await;
    world.force(8, InstructionState::Declined);
    sleep(secs(120)).await;
    running.stop().await;
    assert_eq!(world.lock().writes.len(), 1, "{:?}", world.log());
    assert_eq!(world.record(8), None);
}

/// The answer to an upload says `Queued`, and a later poll does not list it any more.
#[tokio::test(start_paused = true)]
async fn what_a_later_answer_does_not_offer_is_not_revived_by_an_earlier_one() {
    let (world, _dir) = world();
    world.lock().broker_up = false;
    world.set(8, "4");
    let before = json!([world.lock().instructions[&8]]);
    world.force(8, InstructionState::Declined);
    let early = Instant::now();
    sleep(secs(1)).await;
    let running = world.start();
    sleep(secs(1)).await;
    let push = world.lock().push.clone().expect("it runs");
    push.send((early, before)).await.expect("it runs");
    sleep(secs(1)).await;
    assert_eq!(world.record(8), None, "{:?}", world.log());

    // Nor does anything count that waited while nobody read it.
    sleep(secs(60)).await;
    let cancel = json!([{"id": 9, "nodeId": 123, "topic": "CancelInstruction", "state": "Queuing",
        "instructionDate": world.now().to_rfc3339(), "parameters": {"id": "8"}}]);
    push.send((early, cancel)).await.expect("it runs");
    sleep(secs(1)).await;
    running.stop().await;
    assert_eq!(world.record(9), None);
    assert_eq!(world.lock().writes, []);
}

/// The device keeps the instructor busy until a poll is due and something was pushed.
#[tokio::test(start_paused = true)]
async fn what_is_pushed_when_a_poll_is_due_is_not_forgotten_for_it() {
    let (world, _dir) = world();
    world.lock().device = Device::TakesItsTime(secs(30));
    let running = world.start();
    sleep(secs(1)).await;
    world.set(7, "3");
    sleep(secs(28)).await;
    world.set(8, "4");
    sleep(secs(3)).await;
    running.stop().await;
    assert!(world.log().contains(&"8 Executing".to_owned()), "{:?}", world.log());
}

#[tokio::test(start_paused = true)]
async fn one_whose_state_is_never_taken_holds_up_no_other() {
    let (world, _dir) = world();
    world.lock().broker_up = false;
    world.lock().unnamed = Some(7);
    world.set(7, "3");
    world.set(8, "4");
    world.run_for(secs(60)).await;
    assert_eq!(world.state(7), Some(InstructionState::Queued));
    assert_eq!(world.state(8), Some(InstructionState::Completed));
    assert_eq!(world.lock().writes.len(), 1);
}

/// The server takes `Executing` from the broker long after it heard the end over HTTPS.
#[tokio::test(start_paused = true)]
async fn an_older_state_that_the_broker_kept_does_not_undo_the_end() {
    for restarts in [false, true] {
        let (world, _dir) = world();
        world.lock().device = Device::TakesItsTime(secs(5));
        world.collector(false);
        let mut running = world.start();
        sleep(secs(1)).await;
        world.set(7, "3");
        sleep(secs(2)).await;
        world.lock().broker_up = false;
        sleep(secs(20)).await;
        assert_eq!(world.state(7), Some(InstructionState::Completed));
        assert!(!world.record(7).expect("a record").is_settled());
        if restarts {
            running.kill().await;
            running = world.start();
            sleep(secs(5)).await;
        }
        world.collector(true);
        assert_eq!(world.state(7), Some(InstructionState::Executing));
        world.lock().broker_up = true;
        sleep(secs(60)).await;
        running.stop().await;
        assert_eq!(world.state(7), Some(InstructionState::Completed), "{:?}", world.log());
        assert_eq!(results(&world, 7)["after"], 3);
        assert!(world.record(7).expect("a record").is_settled());
    }
}

/// A proxy does not like what it says.
#[tokio::test(start_paused = true)]
async fn an_end_over_which_the_connection_is_lost_is_told_over_https_and_loses_it_ever_more_rarely()
{
    let (world, _dir) = world();
    world.lock().cuts_ends = true;
    let running = world.start();
    sleep(secs(1)).await;
    world.set(7, "3");
    sleep(secs(1)).await;
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    assert_eq!(results(&world, 7)["after"], 3);
    sleep(secs(6 * 3600)).await;
    let cuts = world.lock().cuts;
    assert!((5..12).contains(&cuts), "{cuts} in six hours: {:?}", world.log());
    assert!(!world.record(7).expect("a record").is_settled());
    world.lock().cuts_ends = false;
    sleep(secs(86_400)).await;
    running.stop().await;
    assert!(world.record(7).expect("a record").is_settled());
    assert_eq!(finals(&world, 7), 2);
    assert_eq!(world.lock().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_no_instructions_of_this_node_do_nothing_and_harm_nothing() {
    let (world, _dir) = world();
    let running = world.start();
    sleep(secs(1)).await;
    let push = world.lock().push.clone().expect("it runs");
    let foreign = json!({"id": 9, "nodeId": 124, "topic": "SetControlParameter", "state": "Queuing",
        "instructionDate": world.now().to_rfc3339(), "parameters": {"/control": "3"}});
    let huge = json!({"id": 10, "nodeId": 123, "topic": "SetControlParameter", "state": "Queuing",
        "instructionDate": world.now().to_rfc3339(), "parameters": {"/control": "3".repeat(70_000)}});
    let dateless = json!({"id": 11, "nodeId": 123, "topic": "SetControlParameter", "state": "Queuing",
        "instructionDate": "yesterday", "parameters": {"/control": "3"}});
    let topicless = json!({"id": 12, "nodeId": 123, "topic": 7, "state": "Queuing",
        "instructionDate": world.now().to_rfc3339()});
    let many: Vec<Value> = (0..5000).map(|_| foreign.clone()).collect();
    for message in [
        Value::Null,
        json!(7),
        json!({"instructions": "x"}),
        json!({"instructions": [1, [], {}, foreign]}),
        json!([huge, dateless, topicless]),
        json!([dateless]),
        json!({ "instructions": many }),
    ] {
        push.send((Instant::now(), message)).await.expect("it runs");
    }
    world.set(7, "3");
    sleep(secs(1)).await;
    running.stop().await;
    assert_eq!(world.lock().writes.len(), 1);
    assert_eq!(world.state(7), Some(InstructionState::Completed));
    assert_eq!(world.record(9), None);
    // What is too large or malformed is refused, so that it is not offered for ever.
    for (id, topic) in [(10, "SetControlParameter"), (11, "SetControlParameter"), (12, "unknown")] {
        let record = world.record(id).expect("it is in the journal");
        assert_eq!((record.code, record.topic.as_str()), (Some(Code::Parameters), topic));
        assert_eq!(record.instruction_date.is_some(), id == 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_never_repeats_a_write_and_always_ends_it_by_either_way() {
    for broker_up in [true, false] {
        for crash_at in 1.. {
            let (world, _dir) = world();
            world.lock().broker_up = broker_up;
            world.lock().crash_at = Some(crash_at);
            let pushes = async {
                sleep(secs(1)).await;
                world.set(7, "3");
                sleep(secs(5)).await;
                world.push(7);
            };
            tokio::join!(world.run_for(secs(120)), pushes);
            let writes = world.lock().writes.len();
            assert!(writes <= 1, "crash at {crash_at}: {:?}", world.log());
            let state = world.state(7).expect("it is there");
            assert!(state.is_final(), "crash at {crash_at}: {state:?} {:?}", world.log());
            let results = results(&world, 7);
            assert!(results["message"].is_string(), "crash at {crash_at}: {results}");
            if writes == 1 && state == InstructionState::Declined {
                assert_eq!(results["code"], Code::MayHaveHappened.name());
            }
            let record = world.record(7).expect("a record");
            assert!(record.is_settled() && record.state != State::Executing);
            if world.lock().crash_at.is_some() {
                assert!(crash_at > 10, "only {crash_at} points were tried");
                break;
            }
        }
    }
}
