//! Writes to controls, between the reads of a bus.

use super::*;

fn writes(bus: &Running) -> usize {
    bus.asked(1).iter().filter(|asked| asked.function == 6).count()
}

#[tokio::test(start_paused = true)]
async fn a_write_reports_the_value_before_and_after() {
    let bus = Running::start(vec![unit(1, &[3])], [(1, Device::well())], 64);
    let report = bus.write(42).await.expect("a report");
    assert_eq!(report, WriteReport { before: 3.into(), after: 42.into(), taken: true });
    assert_eq!(writes(&bus), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_before_reads_that_are_due() {
    let units = (1..=20).map(|id| unit(id, &[1])).collect();
    let slow = Device { latency: 40 * MS, ..Device::well() };
    let bus = Running::start(units, (1..=20).map(|id| (id, slow.clone())), 1000);
    sleep(5 * S + 7 * MS).await;
    let asked = Instant::now();
    bus.write(1).await.expect("a report");
    assert!(asked.elapsed() <= 40 * MS * 4, "one request under way and its own three");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_its_time_is_looked_at_until_it_settled() {
    let bus =
        Running::start(vec![], [(1, Device { write: Write::Swallowed, ..Device::well() })], 4);
    let (result, ()) = tokio::join!(bus.write(7), async {
        sleep(S).await;
        bus.change(1, |device| device.words.extend([(3, 7)]));
    });
    assert!(result.expect("a report").taken);
    assert!(bus.started.elapsed() < 2 * S);
    assert_eq!(bus.asked(1).len(), 2 + 5, "before, the write, and every 250 ms");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_ignores_the_value_is_reported_as_not_taken() {
    let bus =
        Running::start(vec![], [(1, Device { write: Write::Swallowed, ..Device::well() })], 4);
    let report = bus.write(7).await.expect("a report");
    assert_eq!(report, WriteReport { before: 3.into(), after: 3.into(), taken: false });
    assert_eq!(writes(&bus), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_unknown_and_not_repeated() {
    let device = Device { write: Write::Unanswered, ..Device::well() };
    let bus = Running::start(vec![], [(1, device)], 4);
    assert!(matches!(bus.write(7).await, Err(WriteError::Unknown { .. })));
    assert_eq!(writes(&bus), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_nobody_waits_for_any_more_is_not_sent() {
    let bus = Running::start(vec![], [(1, Device::silent())], 4);
    assert!(
        timeout(500 * MS, bus.write(7)).await.is_err(),
        "given up while the value before is read"
    );
    bus.change(1, |device| *device = Device::well());
    assert!(timeout(Duration::ZERO, bus.write(8)).await.is_err(), "given up in the channel");
    sleep(60 * S).await;
    assert_eq!(bus.asked(1).len(), 2, "only the first was begun");
    assert_eq!(writes(&bus), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_device_says_to_a_write_decides_what_may_have_happened() {
    for (code, refused) in [(1, true), (2, true), (3, true), (6, true), (4, false), (0x0B, false)] {
        let device = Device { write: Write::Refused(Exception(code)), ..Device::well() };
        let bus = Running::start(vec![], [(1, device)], 4);
        let error = bus.write(7).await.expect_err("a refusal");
        assert_eq!(matches!(error, WriteError::Refused { .. }), refused, "{code}: {error}");
        assert_eq!(matches!(error, WriteError::Unknown { .. }), !refused, "{code}: {error}");
        assert_eq!(writes(&bus), 1);
    }
    let device = Device { write: Write::TakenLater, ..Device::well() };
    let bus = Running::start(vec![], [(1, device)], 4);
    assert!(bus.write(7).await.expect("accepted for later").taken);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_to_a_device_that_cannot_be_read_or_a_value_that_does_not_fit() {
    let bus = Running::start(vec![], [(1, Device::silent())], 4);
    assert!(matches!(bus.write(7).await, Err(WriteError::NotStarted { .. })));
    assert!(matches!(bus.write(70_000).await, Err(WriteError::NotRepresentable { .. })));
    assert_eq!(writes(&bus), 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_answered_when_the_task_stops() {
    let bus =
        Running::start(vec![], [(1, Device { write: Write::Swallowed, ..Device::well() })], 4);
    let (result, ()) = tokio::join!(bus.write(7), async {
        sleep(500 * MS).await;
        bus.stop.cancel();
    });
    assert!(!result.expect("a report").taken);
    assert!(bus.started.elapsed() < 600 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_turn_when_the_task_stops_did_surely_not_happen() {
    let bus =
        Running::start(vec![], [(1, Device { write: Write::Swallowed, ..Device::well() })], 4);
    let (_, waits, ()) = tokio::join!(bus.write(7), bus.write(8), async {
        sleep(500 * MS).await;
        bus.stop.cancel();
    });
    assert!(matches!(waits, Err(WriteError::NotStarted { .. })), "{waits:?}");
    assert_eq!(writes(&bus), 1);
}

#[tokio::test(start_paused = true)]
async fn a_control_is_read_right_before_it_is_written_and_right_after() {
    let units = (1..=20).map(|id| unit(id, &[1])).collect();
    let slow = Device { latency: 60 * MS, ..Device::well() };
    let bus = Running::start(units, (1..=20).map(|id| (id, slow.clone())), 1000);
    sleep(5 * S).await;
    bus.write(1).await.expect("a report");
    let world = bus.world.lock().expect("no test panics holding it");
    let written = world.asked.iter().position(|asked| asked.function == 6).expect("a write");
    let around = [&world.asked[written - 1], &world.asked[written + 1]];
    assert_eq!(around.map(|read| (read.unit, read.function, read.end)), [(1, 3, Some(4)); 2]);
}

/// One control, and no other work.
fn alone(control: &Control, device: Device) -> Running {
    Running::start_knowing(&Plans::default(), control, tcp(), vec![], [(1, device)], 4)
}

#[tokio::test(start_paused = true)]
async fn the_value_before_is_asked_for_twice_unless_the_unit_refuses() {
    let bus = alone(&control(1, 3), Device::silent());
    let (result, ()) = tokio::join!(bus.write(7), async {
        sleep(500 * MS).await;
        bus.change(1, |device| device.silent = false);
    });
    assert!(result.expect("a report").taken);

    let bus = alone(&control(1, 3), Device::silent());
    assert!(matches!(bus.write(7).await, Err(WriteError::NotStarted { .. })));
    assert_eq!(bus.asked(1).len(), 2);

    let bus = alone(&control(1, 30), Device::well());
    assert!(matches!(bus.write(7).await, Err(WriteError::NotStarted { .. })));
    assert_eq!(bus.asked(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_and_cannot_be_read_back_is_unknown_after_a_second_chance() {
    let control = Control { settle: Duration::ZERO, ..control(1, 3) };
    let device = Device { write: Write::TakenLast, ..Device::well() };
    let bus = alone(&control, device.clone());
    let (result, ()) = tokio::join!(bus.write(7), async {
        sleep(500 * MS).await;
        bus.change(1, |device| device.silent = false);
    });
    assert!(result.expect("a report").taken);

    let bus = alone(&control, device);
    let error = bus.write(7).await.expect_err("nothing shows the value");
    assert!(matches!(error, WriteError::Unknown { .. }), "{error}");
    assert_eq!(writes(&bus), 1);
}

#[tokio::test(start_paused = true)]
async fn a_value_within_the_tolerance_is_taken_and_no_other() {
    let control = Control { tolerance: Decimal::TWO, ..control(1, 3) };
    for (value, taken) in [(0, false), (1, true), (5, true), (6, false)] {
        let bus = alone(&control, Device { write: Write::Swallowed, ..Device::well() });
        let report = bus.write(value).await.expect("a report");
        assert_eq!(report, WriteReport { before: 3.into(), after: 3.into(), taken }, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_not_sent_when_the_task_stops_never_is() {
    let bus = alone(&control(1, 3), Device::silent());
    let (result, ()) = tokio::join!(bus.write(7), async {
        sleep(500 * MS).await;
        bus.change(1, |device| device.silent = false);
        bus.stop.cancel();
    });
    assert!(matches!(result, Err(WriteError::NotStarted { .. })), "{result:?}");
    assert_eq!(writes(&bus), 0);
}
