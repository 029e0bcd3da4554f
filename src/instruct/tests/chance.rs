//! Anything may happen to the agent, in any order.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use rust_decimal::Decimal;
use serde_json::json;

use super::{
    secs, world,
    world::{Device, Via, World},
};
use crate::{
    domain::{Datum, InstructionState, NodeTopic},
    solarnet::Cause,
};

/// Something that happens to the agent.
#[derive(Debug, Clone)]
enum Happening {
    Order { due_secs: Option<i64>, expiry_secs: Option<i64>, waited_secs: i64 },
    Cancel { which: usize },
    Force { which: usize, state: InstructionState },
    Pass { secs: u64 },
    CrashAfter { points: usize },
    Outage { calls: usize },
    Latency { secs: u64 },
    Device(Device),
    TimeKnown(bool),
    Push { which: usize },
    Broker(bool),
    Collector(bool),
    Invisible { secs: u64 },
    Node { topic: NodeTopic },
}

fn happening() -> impl Strategy<Value = Happening> {
    use InstructionState::{Completed, Declined, Executing, Queued, Queuing, Received};
    let states = vec![Queued, Queuing, Received, Executing, Completed, Declined];
    let devices = vec![
        Device::Obeys,
        Device::Ignores,
        Device::LosesTheAnswer,
        Device::Refuses,
        Device::TakesItsTime(secs(9)),
    ];
    prop_oneof![
        4 => (prop::option::of(-60_i64..200), prop::option::of(-30_i64..300), -10_i64..1000)
            .prop_map(|(due_secs, expiry_secs, waited_secs)| {
                Happening::Order { due_secs, expiry_secs, waited_secs }
            }),
        1 => (0_usize..8).prop_map(|which| Happening::Cancel { which }),
        1 => (0_usize..8, prop::sample::select(states))
            .prop_map(|(which, state)| Happening::Force { which, state }),
        4 => (1_u64..90).prop_map(|secs| Happening::Pass { secs }),
        3 => (1_usize..20).prop_map(|points| Happening::CrashAfter { points }),
        1 => (1_usize..6).prop_map(|calls| Happening::Outage { calls }),
        1 => (0_u64..8).prop_map(|secs| Happening::Latency { secs }),
        1 => prop::sample::select(devices).prop_map(Happening::Device),
        1 => any::<bool>().prop_map(Happening::TimeKnown),
        1 => (0_usize..8).prop_map(|which| Happening::Push { which }),
        1 => any::<bool>().prop_map(Happening::Broker),
        1 => any::<bool>().prop_map(Happening::Collector),
        1 => (0_u64..3).prop_map(|secs| Happening::Invisible { secs }),
        1 => prop::sample::select(vec![NodeTopic::SystemRestart, NodeTopic::SystemReboot])
            .prop_map(|topic| Happening::Node { topic }),
    ]
}

/// Makes it happen; orders remember until when they may be carried out, by their value.
async fn happen(world: &World, happening: &Happening, orders: &mut Vec<(i64, DateTime<Utc>)>) {
    let next = i64::try_from(world.lock().instructions.len()).expect("few") + 1;
    match *happening {
        Happening::Order { due_secs, expiry_secs, waited_secs } => {
            let from_now = |secs: i64| world.now() + TimeDelta::seconds(secs);
            let given = from_now(-waited_secs);
            let mut parameters = json!({"/control": next.to_string()});
            let mut more = json!({"instructionDate": given.to_rfc3339()});
            if let Some(secs) = due_secs {
                parameters["executionDate"] = json!(from_now(secs).to_rfc3339());
            }
            if let Some(secs) = expiry_secs {
                more["expirationDate"] = json!(from_now(secs).to_rfc3339());
            }
            let start = due_secs.map_or(given, from_now);
            let end = expiry_secs.map_or(start + TimeDelta::seconds(900), from_now);
            world.add(next, "SetControlParameter", parameters, more);
            orders.push((next, end));
        }
        Happening::Cancel { which } => {
            let id = orders.get(which).map_or(999, |order| order.0);
            world.add(next, "CancelInstruction", json!({"id": id.to_string()}), json!({}));
        }
        Happening::Force { which, state } => {
            // With a certificate, one that somebody calls begun is never shown to the node again.
            let offered = matches!(state, InstructionState::Queued | InstructionState::Queuing);
            let fits = world.lock().via == Via::Token || state.is_final() || offered;
            if let Some((id, _)) = orders.get(which).filter(|_| fits) {
                world.force(*id, state);
            }
        }
        Happening::Push { which } => {
            if let Some((id, _)) = orders.get(which) {
                world.push(*id);
            }
        }
        Happening::Broker(up) => world.lock().broker_up = up,
        Happening::Collector(up) => world.collector(up),
        Happening::Invisible { secs: time } => world.lock().invisible = secs(time),
        Happening::Node { topic } => world.add(next, topic.name(), json!({}), json!({})),
        Happening::Pass { secs: time } => world.run_for(secs(time)).await,
        Happening::CrashAfter { points } => {
            let mut inner = world.lock();
            inner.crash_at = Some(inner.passed + points);
        }
        Happening::Outage { calls } => {
            world.lock().failures.extend(vec![Some(Cause::Unreachable); calls]);
        }
        Happening::Latency { secs: time } => world.lock().latency = secs(time),
        Happening::Device(device) => world.lock().device = device,
        Happening::TimeKnown(known) => world.lock().time_known = known,
    }
}

/// Whatever happens in whatever order: at most one write for each instruction, none after its
/// last moment, nothing written onto a final state that was seen, and everything ends.
async fn holds(via: Via, happenings: &[Happening]) -> Result<(), TestCaseError> {
    let (world, _dir) = world();
    world.lock().via = via;
    let mut orders = Vec::new();
    for happening in happenings {
        happen(&world, happening, &mut orders).await;
    }
    {
        let mut inner = world.lock();
        inner.time_known = true;
        inner.failures.clear();
        inner.latency = Duration::ZERO;
        inner.crash_at = None;
        inner.broker_up = true;
    }
    world.collector(true);
    world.run_for(secs(2000)).await;

    let log = world.log();
    for (id, end) in &orders {
        let inner = world.lock();
        let value = Decimal::from(*id);
        let writes: Vec<_> = inner.writes.iter().filter(|(w, _)| w.value == value).collect();
        prop_assert!(writes.len() <= 1, "{id} was written twice: {log:?}");
        prop_assert!(writes.iter().all(|(_, at)| at < end), "{id} was late: {log:?}");
    }
    let shown = &world.lock().onto_final.clone();
    prop_assert!(shown.is_empty(), "written onto a final state: {shown:?} {log:?}");
    let ids: Vec<i64> = world.lock().instructions.keys().copied().collect();
    let asked = ids.len() - orders.len();
    prop_assert!(world.lock().done.len() <= asked, "restarted more often than asked: {log:?}");
    for id in ids {
        let state = world.state(id);
        // `Queuing` is the server's: with a token it is not handed out.
        let held = via == Via::Token && state == Some(InstructionState::Queuing);
        let over = held || state.is_some_and(InstructionState::is_final);
        prop_assert!(over, "{id} is {state:?}: {log:?}");
        // A datum that is stored again after a crash is the same datum.
        let of_id =
            |d: &&Datum| d.samples.status.contains(&("instruction".to_owned(), id.to_string()));
        let inner = world.lock();
        let datum: Vec<_> = inner.datum.iter().filter(of_id).collect();
        prop_assert!(datum.windows(2).all(|pair| pair[0] == pair[1]), "{datum:?}");
        // Results come with the final state, in whatever order the ways were used.
        if let Some(results) = inner.results.get(&id) {
            prop_assert!(results["message"].is_string(), "{results:?}");
        }
    }
    Ok(())
}

fn in_paused_time(
    work: impl Future<Output = Result<(), TestCaseError>>,
) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn at_most_once_in_time_and_always_ended(
        happenings in prop::collection::vec(happening(), 1..25),
    ) {
        in_paused_time(holds(Via::Token, &happenings))?;
    }

    #[test]
    fn at_most_once_over_broker_and_https_together(
        happenings in prop::collection::vec(happening(), 1..25),
    ) {
        in_paused_time(holds(Via::Certificate, &happenings))?;
    }
}
