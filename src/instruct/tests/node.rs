//! What is asked of the node itself.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    said, secs, world,
    world::{Reboot, Via, World},
};
use crate::{
    domain::{InstructionState, NodeTopic},
    instruct::outcome::Code,
};

fn ask(world: &World, id: i64, topic: NodeTopic, parameters: Value) {
    world.add(id, topic.name(), parameters, json!({}));
}

fn done(world: &World) -> Vec<String> {
    world.lock().done.clone()
}

fn valid(topic: NodeTopic) -> Value {
    match topic {
        NodeTopic::LoggingSetLevel => json!({"logger": "upload", "level": "debug"}),
        NodeTopic::SystemRestart | NodeTopic::SystemReboot => json!({}),
        NodeTopic::SystemConfiguration => json!({"service": "net.solarnetwork.node.controls"}),
        NodeTopic::RenewCertificate => json!([{"name": "Certificate", "value": "a"},
            {"name": "Certificate", "value": "b"}]),
    }
}

#[tokio::test(start_paused = true)]
async fn each_topic_is_done_where_it_is_allowed_and_declined_where_it_is_not() {
    for via in [Via::Token, Via::Certificate] {
        for topic in NodeTopic::ALL {
            let (world, _dir) = world();
            world.lock().via = via;
            world.lock().allow.remove(&topic);
            ask(&world, 7, topic, valid(topic));
            world.run_for(secs(70)).await;
            assert_eq!(said(&world, 7)["code"], Code::NotAllowed.name(), "{}", topic.name());
            assert_eq!(done(&world), Vec::<String>::new());
            assert!(!world.log().contains(&"7 Executing".to_owned()));

            world.lock().allow = [topic].into();
            ask(&world, 8, topic, valid(topic));
            world.run_for(secs(70)).await;
            let state = world.state(8);
            assert_eq!(state, Some(InstructionState::Completed), "{}", topic.name());
            let done = done(&world);
            match topic {
                NodeTopic::LoggingSetLevel => assert!(done[0].starts_with("upload: "), "{done:?}"),
                NodeTopic::SystemRestart => assert_eq!(done, ["restart"]),
                NodeTopic::SystemReboot => assert_eq!(done, ["reboot"]),
                NodeTopic::RenewCertificate => assert_eq!(done, ["install ab"]),
                NodeTopic::SystemConfiguration => {
                    assert_eq!(said(&world, 8)["result"], r#"["/control","/relay"]"#);
                    if via == Via::Certificate {
                        let result = world.lock().results[&8]["result"].clone();
                        assert_eq!(result, json!(["/control", "/relay"]));
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_node_could_not_do_is_declined_with_its_reason() {
    let (world, _dir) = world();
    world.lock().reboot = Reboot::NotTaken;
    ask(&world, 6, NodeTopic::SystemReboot, json!({}));
    ask(&world, 7, NodeTopic::RenewCertificate, json!({"Certificate": "bad"}));
    let level = json!({"logger": "nonsense", "level": "info"});
    ask(&world, 8, NodeTopic::LoggingSetLevel, level);
    world.run_for(secs(60)).await;
    for (id, message) in [(6, "nobody took it"), (7, "no certificate"), (8, "no module `nonsense`")]
    {
        assert_eq!(world.state(id), Some(InstructionState::Declined));
        let said = said(&world, id);
        assert_eq!((&*said["code"], &*said["message"]), (Code::Failed.name(), message));
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_takes_long_to_be_proved_may_be_taken_yet() {
    let (world, _dir) = world();
    ask(&world, 7, NodeTopic::RenewCertificate, json!({"Certificate": "slow"}));
    world.run_for(secs(100)).await;
    let said = said(&world, 7);
    assert_eq!(said["code"], Code::MayHaveHappened.name());
    assert!(said["message"].contains("still being proved"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_before_the_agent_starts_again() {
    let (world, _dir) = world();
    ask(&world, 7, NodeTopic::SystemRestart, json!({}));
    let running = world.start();
    while done(&world).is_empty() {
        sleep(secs(1)).await;
    }
    assert_eq!(world.log(), ["7 Executing", "datum /agent 7 Completed", "7 Completed"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reboot_is_executing_until_the_machine_is_up_again() {
    let (world, _dir) = world();
    ask(&world, 7, NodeTopic::SystemReboot, json!({}));
    let running = world.start();
    while done(&world).is_empty() {
        sleep(secs(1)).await;
    }
    assert_eq!(world.log(), ["7 Executing"]);
    // As systemd does on its way down.
    running.stop().await;
    assert_eq!(world.log(), ["7 Executing"]);
    world.run_for(secs(5)).await;
    assert_eq!(world.log()[1..], ["datum /agent 7 Completed", "7 Completed"]);
    assert_eq!(said(&world, 7)["message"], "the machine has started again since");
    assert_eq!(done(&world), ["reboot"]);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_that_was_taken_over_and_does_not_come_may_come_yet() {
    let (world, _dir) = world();
    world.lock().reboot = Reboot::NeverComes;
    ask(&world, 7, NodeTopic::SystemReboot, json!({}));
    world.run_for(secs(100)).await;
    assert_eq!(said(&world, 7)["code"], Code::MayHaveHappened.name());
    // The agent alone starts again: nobody knows, and it is not asked for twice.
    ask(&world, 8, NodeTopic::SystemReboot, json!({}));
    let running = world.start();
    while done(&world).len() < 2 {
        sleep(secs(1)).await;
    }
    running.kill().await;
    world.run_for(secs(100)).await;
    assert_eq!(said(&world, 8)["code"], Code::MayHaveHappened.name());
    assert_eq!(done(&world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_never_restarts_reboots_or_installs_twice() {
    let topics = [NodeTopic::SystemRestart, NodeTopic::SystemReboot, NodeTopic::RenewCertificate];
    for (topic, via) in
        topics.into_iter().flat_map(|topic| [(topic, Via::Token), (topic, Via::Certificate)])
    {
        for crash_at in 1.. {
            let (world, _dir) = world();
            world.lock().via = via;
            world.lock().crash_at = Some(crash_at);
            ask(&world, 7, topic, valid(topic));
            world.run_for(secs(200)).await;
            let (done, log, name) = (done(&world), world.log(), topic.name());
            assert!(done.len() <= 1, "{name}, crash at {crash_at}: {done:?} {log:?}");
            let state = world.state(7);
            let over = state.is_some_and(InstructionState::is_final);
            assert!(over, "{name}, crash at {crash_at}: {state:?} {log:?}");
            if topic == NodeTopic::SystemReboot && done.len() == 1 {
                assert_eq!(
                    state,
                    Some(InstructionState::Completed),
                    "crash at {crash_at}: {log:?}"
                );
            }
            if world.lock().crash_at.is_some() {
                assert!(crash_at > 6, "{name}: only {crash_at} points were tried");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn operating_states_and_signals_write_the_values_that_they_stand_for() {
    let (world, _dir) = world();
    world.add(7, "SetOperatingState", json!({"/control": "1"}), json!({}));
    world.add(8, "SetOperatingState", json!({"/control": "Standby"}), json!({}));
    world.add(9, "Signal", json!({"/control": "open"}), json!({}));
    world.add(10, "Signal", json!({"/control": "close"}), json!({}));
    world.run_for(secs(10)).await;
    let writes = ["write /control 1", "write /control 0", "write /control 1"];
    let log = world.log();
    let written: Vec<_> = log.iter().filter(|line| line.starts_with("write")).collect();
    assert_eq!(written, writes);
    assert_eq!(said(&world, 10)["code"], Code::Value.name());
}
