//! A bus in virtual time: the real task, plan, decoding and health over units that only exist here.

mod fairness;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rust_decimal::Decimal;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    airtime::Airtime,
    frame::{Answer, Exception, Request},
    wire::{CallError, Discarded, RequestError},
    *,
};
use crate::{
    clock::Clock,
    config::settings::{
        Allow, Bus, Control, Encoding, Link, Order, Parity, Phase, Property, Register, Scale,
        Select, Serial, Unit,
    },
    domain::{ControlWrite, Datum, Kind, SourceId, WriteError, WriteReport},
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A unit: its registers, and how it behaves.
#[derive(Debug, Clone)]
struct Device {
    words: BTreeMap<u16, u16>,
    latency: Duration,
    silent: bool,
    /// Whether it answers with bytes that are no answer.
    garbage: bool,
    /// Registers for which it stays silent instead of refusing.
    ignored: BTreeSet<u16>,
    /// What it says to writes.
    write: Write,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Write {
    Taken,
    TakenLater,
    Swallowed,
    /// And nothing is answered after it.
    TakenLast,
    Unanswered,
    Refused(Exception),
}

impl Device {
    /// Holding registers 0 to 19, each holding its own address.
    fn well() -> Self {
        Self {
            words: (0..20).map(|a| (a, a)).collect(),
            latency: 5 * MS,
            silent: false,
            garbage: false,
            ignored: BTreeSet::new(),
            write: Write::Taken,
        }
    }

    fn silent() -> Self {
        Self { silent: true, ..Self::well() }
    }
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    at: Duration,
    unit: u8,
    function: u8,
    /// The first register behind those that are to be read.
    end: Option<u16>,
}

#[derive(Debug, Default)]
struct World {
    devices: BTreeMap<u8, Device>,
    asked: Vec<Asked>,
}

/// A wire to the world, with virtual time in place of bytes.
#[derive(Debug)]
struct FakeWire {
    world: Arc<Mutex<World>>,
    started: Instant,
    pdu: Vec<u8>,
    /// Who answers late, and when.
    late: Option<(u8, Instant)>,
    /// On a serial line bytes take their time, and a unit that stayed silent rests for as long again.
    serial: Option<Airtime>,
    rests: BTreeMap<u8, Instant>,
}

impl Wire for FakeWire {
    async fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        let at = self.started.elapsed();
        let (latency, pdu, garbage) = {
            let mut world = self.world.lock().expect("no test panics holding it");
            let end = match *request {
                Request::Read { address, count, .. } => Some(address + count),
                _ => None,
            };
            world.asked.push(Asked { at, unit, function: request.function(), end });
            let silent = Device::silent();
            world.devices.get_mut(&unit).map_or((silent.latency, None, false), |d| {
                (d.latency, d.answer(request), d.garbage)
            })
        };
        let error = match garbage {
            true => RequestError::Foreign { after: wait, discarded: Discarded::Noise(7) },
            false => RequestError::Silent { after: wait },
        };
        let (silence, asked_for) = (Err(error.into()), wait);
        let mut wait = wait;
        let mut latency = latency;
        if let Some(airtime) = self.serial {
            wait = airtime.longest_exchange(request, wait);
            latency += airtime.shortest_exchange(request);
            if pdu.is_none() || latency > wait {
                self.rests.insert(unit, Instant::now() + wait + asked_for);
            }
        }
        let Some(pdu) = pdu else {
            sleep(wait).await;
            return silence;
        };
        if latency > wait {
            self.late = Some((unit, Instant::now() + latency));
            sleep(wait).await;
            return silence;
        }
        sleep(latency).await;
        self.pdu = pdu;
        match request.answer(&self.pdu).expect("the device answers what it was asked") {
            Ok(answer) => Ok(answer),
            Err(exception) => Err(RequestError::Exception(exception).into()),
        }
    }

    fn take_late(&mut self) -> Option<u8> {
        let (unit, at) = self.late?;
        if Instant::now() < at {
            return None;
        }
        self.late = None;
        Some(unit)
    }

    fn rests_until(&self, unit: u8) -> Option<Instant> {
        self.rests.get(&unit).copied()
    }
}

impl Device {
    fn answer(&mut self, request: &Request<'_>) -> Option<Vec<u8>> {
        let refusal = |exception: Exception| Some(vec![request.function() | 0x80, exception.0]);
        if self.silent || self.garbage {
            return None;
        }
        match *request {
            Request::Read { address, count, .. } => {
                let range = address..address + count;
                if range.clone().any(|a| self.ignored.contains(&a)) {
                    return None;
                }
                let words: Option<Vec<u16>> = range.map(|a| self.words.get(&a).copied()).collect();
                let Some(words) = words else { return refusal(Exception::ILLEGAL_ADDRESS) };
                let bytes = u8::try_from(words.len() * 2).expect("a short read");
                let data = words.iter().flat_map(|word| word.to_be_bytes());
                Some([request.function(), bytes].into_iter().chain(data).collect())
            }
            Request::WriteRegister { address, word } => {
                self.silent = self.write == Write::TakenLast;
                if matches!(self.write, Write::Taken | Write::TakenLast | Write::Unanswered) {
                    self.words.insert(address, word);
                }
                let echo = [&[request.function()][..], &address.to_be_bytes(), &word.to_be_bytes()];
                match self.write {
                    Write::Taken | Write::Swallowed | Write::TakenLast => Some(echo.concat()),
                    Write::TakenLater => {
                        self.words.insert(address, word);
                        refusal(Exception::ACKNOWLEDGE)
                    }
                    Write::Unanswered => None,
                    Write::Refused(exception) => refusal(exception),
                }
            }
            _ => refusal(Exception::ILLEGAL_FUNCTION),
        }
    }
}

fn register(address: u16) -> Register {
    Register {
        table: Table::Holding,
        address,
        encoding: Encoding::U16,
        word_order: Order::Big,
        byte_order: Order::Big,
        select: Select::All,
    }
}

const PLAIN: Scale = Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None };

/// A unit read every second, its properties named after their registers.
fn unit(id: u8, registers: &[u16]) -> Unit {
    let property = |address: &u16| Property {
        name: format!("r{address}"),
        kind: Kind::Instantaneous,
        register: register(*address),
        scale: PLAIN,
        invalid: Vec::new(),
        tags: Vec::new(),
    };
    Unit {
        id,
        source: source(id),
        every: S,
        phase: Phase::Spread,
        max_registers: 125,
        max_bits: 2000,
        max_gap: 0,
        timeout: S,
        retries: 0,
        pause: Duration::ZERO,
        properties: registers.iter().map(property).collect(),
        tags: Vec::new(),
    }
}

fn source(id: u8) -> SourceId {
    format!("/unit/{id}").parse().expect("a source ID")
}

fn control(unit: u8, address: u16) -> Control {
    Control {
        id: "/set".parse().expect("a source ID"),
        bus: "bus".to_owned(),
        unit,
        register: register(address),
        scale: PLAIN,
        timeout: S,
        tolerance: Decimal::ZERO,
        settle: 2 * S,
        allow: Allow { min: Decimal::ZERO, max: Decimal::ONE_HUNDRED, every: S },
        states: BTreeMap::new(),
        signals: BTreeMap::new(),
    }
}

fn tcp() -> Link {
    Link::Tcp { host: "here".to_owned(), port: 502 }
}

fn line(baud: u32) -> Link {
    Link::Serial(Serial { port: "/dev/null".into(), baud, parity: Parity::None, stop_bits: 1 })
}

fn bus(link: Link, units: Vec<Unit>) -> Bus {
    Bus { name: "bus".to_owned(), link, pause: Duration::ZERO, connect_timeout: S, units }
}

/// The task of a bus, running.
struct Running {
    world: Arc<Mutex<World>>,
    datum: mpsc::Receiver<Datum>,
    writes: mpsc::Sender<WriteJob>,
    status: watch::Receiver<BusStatus>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), PollError>>,
    started: Instant,
}

impl Running {
    fn start(
        units: Vec<Unit>,
        devices: impl IntoIterator<Item = (u8, Device)>,
        room: usize,
    ) -> Self {
        Self::start_on(tcp(), units, devices, room)
    }

    fn start_on(
        link: Link,
        units: Vec<Unit>,
        devices: impl IntoIterator<Item = (u8, Device)>,
        room: usize,
    ) -> Self {
        Self::start_knowing(&Plans::default(), &control(1, 3), link, units, devices, room)
    }

    fn start_knowing(
        plans: &Plans,
        control: &Control,
        link: Link,
        units: Vec<Unit>,
        devices: impl IntoIterator<Item = (u8, Device)>,
        room: usize,
    ) -> Self {
        let world = Arc::new(Mutex::new(World {
            devices: devices.into_iter().collect(),
            asked: Vec::new(),
        }));
        let bus = bus(link, units);
        let serial = match &bus.link {
            Link::Serial(serial) => Some(Airtime::new(serial)),
            Link::Tcp { .. } | Link::RtuTcp { .. } => None,
        };
        let (datum, datum_end) = mpsc::channel(room);
        let (writes_end, writes) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let started = Instant::now();
        let wire = FakeWire {
            world: Arc::clone(&world),
            started,
            pdu: Vec::new(),
            late: None,
            serial,
            rests: BTreeMap::new(),
        };
        let channels = Channels { datum, writes, stop: stop.clone() };
        let poller =
            Poller::new(&bus, std::slice::from_ref(control), wire, Clock::system(), channels);
        let poller = poller.expect("a plan").with_plans(plans);
        let status = poller.status();
        let task = tokio::spawn(Box::new(poller).run());
        Self { world, datum: datum_end, writes: writes_end, status, stop, task, started }
    }

    fn change(&self, unit: u8, change: impl FnOnce(&mut Device)) {
        let mut world = self.world.lock().expect("no test panics holding it");
        change(world.devices.get_mut(&unit).expect("a device"));
    }

    fn asked(&self, unit: u8) -> Vec<Asked> {
        let world = self.world.lock().expect("no test panics holding it");
        world.asked.iter().filter(|asked| asked.unit == unit).cloned().collect()
    }

    async fn next(&mut self) -> Datum {
        timeout(3600 * S, self.datum.recv())
            .await
            .expect("a datum in time")
            .expect("a running task")
    }

    /// When each unit's datum came, for a while.
    async fn watch(&mut self, until: Duration) -> BTreeMap<SourceId, Vec<Duration>> {
        let mut times: BTreeMap<_, Vec<_>> = BTreeMap::new();
        while let Ok(Some(datum)) =
            tokio::time::timeout_at(self.started + until, self.datum.recv()).await
        {
            times.entry(datum.source).or_default().push(self.started.elapsed());
        }
        times
    }

    async fn write(&self, value: u32) -> Result<WriteReport, WriteError> {
        let (reply, result) = oneshot::channel();
        let job = ControlWrite { control: control(1, 3).id, value: value.into() };
        self.writes.send((job, reply)).await.expect("a running task");
        timeout(60 * S, result).await.expect("a result in time").expect("a result")
    }

    fn state(&self, index: usize) -> SourceStatus {
        self.status.borrow().sources[index].clone()
    }
}

fn values(datum: &Datum) -> Vec<(&str, Decimal)> {
    datum.samples.instantaneous.iter().map(|(name, value)| (name.as_str(), *value)).collect()
}

#[test]
fn places_are_named_in_both_notations() {
    assert_eq!(place(Table::Input, 12, 2), "input 12..13 (30013..30014)");
    assert_eq!(place(Table::Holding, 0, 1), "holding 0 (40001)");
    assert_eq!(place(Table::Holding, 40000, 1), "holding 40000 (440001)");
    assert_eq!(place(Table::Coil, 5, 1), "coil 5 (6)");
}

#[tokio::test(start_paused = true)]
async fn a_unit_is_read_at_once_and_then_every_period() {
    let mut bus = Running::start(vec![unit(1, &[3, 4, 9])], [(1, Device::well())], 64);
    let datum = bus.next().await;
    assert_eq!(values(&datum), [("r3", 3.into()), ("r4", 4.into()), ("r9", 9.into())]);
    assert_eq!(datum.source, source(1));
    assert!(bus.started.elapsed() < 100 * MS);
    let times = bus.watch(61 * S).await;
    assert!((59..=61).contains(&times[&source(1)].len()), "{}", times[&source(1)].len());
    assert_eq!(bus.state(0).state, SourceState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_refused_register_costs_only_its_own_property() {
    let mut bus = Running::start(vec![unit(1, &[18, 19, 20])], [(1, Device::well())], 64);
    assert_eq!(values(&bus.next().await), [("r18", 18.into()), ("r19", 19.into())]);
    let state = bus.state(0);
    assert_eq!((state.state, state.missing), (SourceState::Partial, vec!["r20".to_owned()]));
    let reason = state.reason.expect("a reason");
    assert_eq!(
        reason,
        "the unit answered with exception 2 (illegal data address) (function 3, holding 20 (40021))"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_register_is_asked_for_again_at_growing_intervals_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |bus: &Running| -> Vec<u64> {
        let asked = bus.asked(1).into_iter().filter(|asked| asked.end == Some(21));
        asked.map(|asked| asked.at.as_secs()).collect()
    };
    let start = || {
        let plans = Plans::open(folder.path(), [&source(1)].into_iter());
        let units = vec![unit(1, &[18, 19, 20])];
        Running::start_knowing(&plans, &control(1, 3), tcp(), units, [(1, Device::well())], 64)
    };
    let mut bus = start();
    let times = bus.watch(100 * S).await;
    assert!(times[&source(1)].len() >= 99, "the others are read");
    let asked = refused(&bus);
    // Down to the register itself at once; then 5, 10, 20 and 40 s later, with the reading that is due then.
    assert_eq!(asked.iter().filter(|at| **at > 2).count(), 4, "{asked:?}");
    assert!(bus.state(0).reason.expect("a reason").contains("illegal data address"));
    bus.stop.cancel();
    assert!(bus.task.await.expect("no panic").is_ok());
    while !folder.path().join("plans.json").exists() {
        sleep(MS).await;
    }

    let mut bus = start();
    bus.watch(295 * S).await;
    assert_eq!(refused(&bus), Vec::<u64>::new());
    assert_eq!(bus.state(0).missing, ["r20"]);
    bus.change(1, |device| device.words.extend([(20, 20)]));
    bus.watch(310 * S).await;
    assert_eq!(bus.state(0).state, SourceState::Up, "asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_refuses_all_it_is_asked_for_is_not_silent() {
    let device = Device { words: BTreeMap::new(), ..Device::well() };
    let mut bus = Running::start(vec![unit(1, &[18])], [(1, device)], 64);
    bus.watch(100 * S).await;
    let reason = bus.state(0).reason.expect("a reason");
    assert!(reason.contains("illegal data address"), "{reason}");
    bus.change(1, |device| *device = Device::well());
    bus.watch(102 * S).await;
    assert_eq!(bus.state(0).state, SourceState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_register_that_is_met_with_silence_costs_only_its_own_property() {
    let device = Device { ignored: [0, 2].into(), ..Device::well() };
    let mut bus = Running::start(vec![unit(1, &[0, 2, 4, 6])], [(1, device)], 64);
    let times = bus.watch(600 * S).await;
    assert!(times[&source(1)].len() > 500, "{}", times[&source(1)].len());
    assert_eq!(bus.state(0).missing, ["r0", "r2"]);
    bus.change(1, |device| device.ignored.clear());
    bus.watch(1200 * S).await;
    assert_eq!(bus.state(0).state, SourceState::Up, "asked again now and then");
}

/// The guarantee `[bus]`, over a silent unit with the slowest settings and fast neighbours.
#[tokio::test(start_paused = true)]
async fn a_silent_unit_costs_its_neighbours_at_most_a_turn_in_twenty() {
    let periods = [250 * MS, 500 * MS, S, 3 * S, 10 * S];
    for (every, link) in
        periods.into_iter().flat_map(|every| [(every, tcp()), (every, line(115_200))])
    {
        let silent = Unit { timeout: 3 * S, retries: 3, ..unit(9, &[0, 5, 10]) };
        let mut units = vec![silent];
        units.extend((1..=4).map(|id| Unit { every, ..unit(id, &[1, 2]) }));
        let devices = (1..=4).map(|id| (id, Device::well())).chain([(9, Device::silent())]);
        let mut bus = Running::start_on(link, units, devices, 64);
        let times = bus.watch(600 * S).await;
        let due = 60.0 / every.as_secs_f64();
        for id in 1..=4 {
            let times = &times[&source(id)];
            for second in 10..540 {
                let window = second * S..(second + 60) * S;
                let in_time = times.iter().filter(|at| window.contains(*at)).count();
                // One turn may lie on either edge of the window.
                assert!(
                    in_time as f64 >= (0.95 * due - 1.0).floor(),
                    "{in_time} of {due} from {second} s on, every {every:?}"
                );
            }
            let over_all = times.len() as f64 / (600.0 / every.as_secs_f64());
            assert!(over_all >= 0.95, "{over_all} every {every:?}");
        }
        let asked = bus.asked(9).len();
        assert!((3..=25).contains(&asked), "asked {asked} times in ten minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_rests_is_not_asked_and_its_neighbours_are() {
    let silent = Unit { retries: 1, ..unit(9, &[0, 5]) };
    let devices = [(1, Device::well()), (9, Device::silent())];
    let mut bus = Running::start_on(line(115_200), vec![silent, unit(1, &[1])], devices, 64);
    bus.watch(5 * S).await;
    // Each try and each rest after it take the timeout of a second.
    let asked: Vec<u64> = bus.asked(9).iter().map(|asked| asked.at.as_secs()).collect();
    assert_eq!(asked, [0, 2, 4]);
    for at in [1, 3] {
        let window = at * S..(at + 1) * S;
        assert!(bus.asked(1).iter().any(|asked| window.contains(&asked.at)), "{at} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_comes_back_is_read_again() {
    let units = vec![unit(1, &[1]), unit(2, &[1, 5])];
    let mut bus = Running::start(units, [(1, Device::well()), (2, Device::silent())], 64);
    bus.watch(30 * S).await;
    assert_eq!(bus.state(1).state, SourceState::Down);
    assert_eq!(bus.state(0).state, SourceState::Up);
    bus.change(2, |device| device.silent = false);
    let times = bus.watch(400 * S).await;
    assert!(times[&source(2)].len() > 200, "{}", times[&source(2)].len());
    assert_eq!(bus.state(1).state, SourceState::Up);
    assert!(bus.state(1).failed > 0 && bus.state(1).consecutive_failures == 0);
}

#[tokio::test(start_paused = true)]
async fn a_whole_bus_that_comes_back_is_read_within_seconds() {
    let units = (1..=10).map(|id| unit(id, &[1])).collect();
    let mut bus = Running::start(units, (1..=10).map(|id| (id, Device::silent())), 64);
    bus.watch(1000 * S).await;
    (1..=10).for_each(|id| bus.change(id, |device| device.silent = false));
    let times = bus.watch(1040 * S).await;
    for id in 1..=10 {
        assert!(times[&source(id)].len() > 15, "unit {id}: {:?}", times[&source(id)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_slower_than_a_probe_but_within_its_timeout_is_not_given_up() {
    let units = vec![Unit { timeout: 4 * S, every: 20 * S, ..unit(1, &[1]) }, unit(2, &[1])];
    let slow = Device { silent: true, latency: 1500 * MS, ..Device::well() };
    let mut bus = Running::start(units, [(1, slow), (2, Device::well())], 64);
    bus.watch(30 * S).await;
    assert_eq!(bus.state(0).state, SourceState::Down);
    bus.change(1, |device| device.silent = false);
    bus.watch(400 * S).await;
    assert_eq!(bus.state(0).state, SourceState::Up);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_too_late_for_a_read_leads_to_no_other_read() {
    let units = vec![Unit { timeout: 4 * S, every: 20 * S, ..unit(1, &[1]) }, unit(2, &[1])];
    let late = Device { latency: 5 * S, ..Device::well() };
    let mut bus = Running::start(units, [(1, late), (2, Device::well())], 64);
    bus.watch(100 * S).await;
    let asked: Vec<Duration> = bus.asked(1).iter().map(|asked| asked.at).collect();
    // The first probe comes 5 s after the read was given up, whatever is heard meanwhile.
    assert!(asked[1] >= 9 * S, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_single_late_answer_costs_a_unit_no_turns_and_further_ones_do() {
    let units = (1..=3).map(|id| Unit { every: 500 * MS, ..unit(id, &[1]) }).collect();
    let mut bus = Running::start(units, (1..=3).map(|id| (id, Device::well())), 1000);
    sleep(5 * S).await;
    let reads =
        |times: &BTreeMap<SourceId, Vec<Duration>>| times.get(&source(3)).map_or(0, Vec::len);
    bus.watch(5 * S).await;
    bus.change(3, |device| device.latency = 900 * MS);
    while bus.next().await.source != source(3) {}
    bus.change(3, |device| device.latency = 5 * MS);
    let after = bus.started.elapsed();
    assert!(reads(&bus.watch(after + 10 * S).await) >= 18, "every half second");
    bus.change(3, |device| device.latency = 900 * MS);
    bus.watch(after + 20 * S).await;
    assert!(reads(&bus.watch(after + 60 * S).await) <= 4, "its neighbours keep their turns");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_within_the_same_read() {
    let units = vec![Unit { retries: 1, ..unit(1, &[1]) }];
    let mut bus = Running::start(units, [(1, Device::silent())], 64);
    sleep(500 * MS).await;
    bus.change(1, |device| device.silent = false);
    bus.next().await;
    let asked: Vec<u128> = bus.asked(1).iter().map(|asked| asked.at.as_millis()).collect();
    assert_eq!(asked, [0, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_makes_readings_wait_and_turns_are_skipped() {
    let mut bus = Running::start(vec![unit(1, &[1])], [(1, Device::well())], 2);
    sleep(100 * S).await;
    let asked = bus.asked(1).len();
    assert_eq!(asked, 3, "two wait in the channel and one to get in");
    bus.next().await;
    bus.watch(110 * S).await;
    assert!(bus.state(0).skipped >= 95, "{}", bus.state(0).skipped);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_waits_for_room_is_handed_over_when_the_task_stops() {
    let mut bus = Running::start(vec![unit(1, &[1])], [(1, Device::well())], 2);
    sleep(10 * S).await;
    bus.stop.cancel();
    sleep(S).await;
    assert_eq!(
        bus.watch(20 * S).await[&source(1)].len(),
        3,
        "two in the channel and one to get in"
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_a_few_seconds_at_most_for_a_silent_unit() {
    let units = vec![Unit { timeout: 30 * S, ..unit(1, &[1]) }];
    let bus = Running::start(units, [(1, Device::silent())], 64);
    sleep(S).await;
    bus.stop.cancel();
    let ended = timeout(3 * S + 100 * MS, bus.task).await.expect("ends in time");
    assert!(ended.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_being_read_when_asked_to_stop_is_read_to_its_end() {
    let slow = Device { latency: 400 * MS, ..Device::well() };
    // Two blocks, so two requests, and nothing for a second after them.
    let mut bus = Running::start(vec![unit(1, &[1, 9])], [(1, slow)], 64);
    sleep(200 * MS).await;
    assert_eq!(bus.asked(1).len(), 1, "in the middle of the first");
    bus.stop.cancel();
    let datum = bus.watch(2 * S).await.remove(&source(1)).expect("a reading");
    assert_eq!((datum.len(), bus.asked(1).len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_task_without_taker_ends_with_an_error() {
    let bus = Running::start(vec![unit(1, &[1])], [(1, Device::well())], 64);
    drop(bus.datum);
    let ended = timeout(10 * S, bus.task).await.expect("ends").expect("no panic");
    assert!(matches!(ended, Err(PollError::NoTaker { .. })));
}
