//! The guarantee `[bus]` over any bus of which the budget says that it fits.

use proptest::prelude::*;

use super::*;
use crate::modbus::budget::{BusBudget, REPLY};

/// When the unit begins to misbehave, how long after it the guarantee holds, and when the test is over.
const FAULT: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(170);
/// The clock of these tests has steps of a millisecond, and rounds up.
const STEP: Duration = MS;

/// How a unit misbehaves.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Silent,
    /// Every answer takes nearly the whole timeout.
    Slow,
    /// Every answer takes longer than that.
    TooSlow,
    Garbage,
}

fn links() -> impl Strategy<Value = Link> {
    prop_oneof![Just(tcp()), prop::sample::select(vec![9600, 19_200, 115_200]).prop_map(line)]
}

fn misbehaving() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::Silent, Fault::Slow, Fault::TooSlow, Fault::Garbage])
}

fn a_unit() -> impl Strategy<Value = Unit> {
    let every = prop::sample::select(vec![200u32, 500, 700, 1000, 1500, 2000, 3000, 5000, 10_000]);
    let timeout = prop::sample::select(vec![100u32, 300, 1000, 2000, 4000]);
    (every, timeout, 1u16..4, 0u8..3).prop_map(|(every, timeout, blocks, retries)| {
        let registers: Vec<u16> = (0..blocks).map(|block| block * 5).collect();
        Unit { every: every * MS, timeout: timeout * MS, retries, ..unit(1, &registers) }
    })
}

fn buses() -> impl Strategy<Value = (Link, Vec<Unit>)> {
    (links(), prop::collection::vec(a_unit(), 2..9)).prop_map(|(link, mut units)| {
        for (id, unit) in (1..).zip(&mut units) {
            (unit.id, unit.source) = (id, source(id));
        }
        (link, units)
    })
}

/// Lets the first unit misbehave; gives whose schedule suffered, and how.
async fn suffered(link: &Link, units: &[Unit], fault: Fault) -> Option<String> {
    let well = Device { latency: REPLY - STEP * 2, ..Device::well() };
    let devices = units.iter().map(|unit| (unit.id, well.clone()));
    let mut bus = Running::start_on(link.clone(), units.to_vec(), devices, 64);
    bus.watch(FAULT).await;
    let timeout = units[0].timeout;
    bus.change(1, |device| match fault {
        Fault::Silent => device.silent = true,
        Fault::Garbage => device.garbage = true,
        Fault::Slow => device.latency = (timeout * 9 / 10).max(device.latency),
        Fault::TooSlow => device.latency = timeout * 3 / 2,
    });
    let times = bus.watch(END).await;
    units[1..].iter().find_map(|unit| {
        let times = times.get(&unit.source).map_or(&[][..], Vec::as_slice);
        let due = 60.0 / unit.every.as_secs_f64();
        let from = (FAULT + GRACE).as_secs()..=(END - Duration::from_mins(1)).as_secs();
        from.step_by(5).find_map(|second| {
            let window = Duration::from_secs(second)..Duration::from_secs(second + 60);
            let read = times.iter().filter(|at| window.contains(*at)).count();
            // One turn may lie on either edge of the window.
            ((read as f64) < (0.95 * due - 1.0).floor()).then(|| {
                format!("{} was read {read} of {due} times from {second} s on", unit.source)
            })
        })
    })
}

fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    /// Where the budget says that a bus fits, one unit that misbehaves costs the others a turn in twenty at most.
    #[test]
    fn on_a_bus_that_fits_neighbours_of_a_bad_unit_keep_their_schedule(
        (link, units) in buses(), fault in misbehaving(),
    ) {
        let bus = bus(link.clone(), units.clone());
        prop_assume!(BusBudget::of(&bus).fits());
        let suffered = in_virtual_time(suffered(&link, &units, fault));
        prop_assert_eq!(suffered, None);
    }
}
