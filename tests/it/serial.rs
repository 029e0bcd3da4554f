//! Modbus RTU: the real program on serial lines: pymodbus's server, which others wrote, behind socat, and the
//! simulator's line, which keeps the pace of a real one and misbehaves when told to.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rust_decimal::Decimal;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde_json::{Value, json};
use solarnet_sim::{
    Fault, InstructionState, Line, MeterReading, NewInstruction, Sim, Site, Table, Unit,
};
use solarnode_agent::{
    config::settings::{self, Parity, Serial},
    modbus::{
        RtuLink, Wire,
        frame::{Answer, Data, Request},
        wire::{CallError, RequestError},
    },
};

use crate::support::{
    agent::{Agent, NODE, at_one_try, eventually, meter, seed, solarnet},
    modbus::{Pymodbus, SerialPair},
};

/// A serial bus called `cabinet`; units follow it.
fn serial(port: &Path, baud: u32) -> String {
    let port = port.display();
    format!("\n[[modbus]]\nname = \"cabinet\"\nserial = {{ port = \"{port}\", baud = {baud} }}\n")
}

/// The agent reads registers of a unit of `modbus_server.py`.
fn reader(link: &str, unit: u8) -> Agent {
    reader_with(link, unit, "60s")
}

fn reader_with(link: &str, unit: u8, timeout: &str) -> Agent {
    Agent::new(&format!(
        r#"
[node]
id = 1
{link}
[[modbus.unit]]
id = {unit}
source = "/unit"
every = "1s"
timeout = "{timeout}"
retries = 0
property = [
    {{ name = "tenth", kind = "instantaneous", register = {{ table = "holding", address = 0, type = "u16" }} }},
    {{ name = "volts", kind = "instantaneous", register = {{ table = "holding", address = 2, type = "f32" }} }},
    {{ name = "energy", kind = "accumulating", register = {{ table = "input", address = 104, type = "u32" }} }},
    {{ name = "on", kind = "status", register = {{ table = "coil", address = 3, type = "bit" }} }},
    {{ name = "serial", kind = "status", register = {{ table = "holding", address = 13, type = "ascii", length = 4 }} }},
]
"#
    ))
}

fn failure(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

#[test]
fn a_port_that_is_not_ours_names_the_group_that_may_open_it() {
    let pair = SerialPair::new();
    let agent = reader(&serial(pair.near(), 19_200), 1);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    };
    mode(pair.near(), 0o000);
    let mut command = agent.command(&["read", "/unit"]);
    if rustix::process::geteuid().is_root() {
        // Whom no mode keeps out.
        mode(agent.config().parent().expect("a folder"), 0o755);
        command.uid(65_534).gid(65_534);
    }
    let (code, error) = failure(&command.output().expect("the agent starts"));
    assert_eq!(code, Some(69), "{error}");
    let expected = "permission denied; the agent's user has to be in the group `";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_unit_that_others_serve_on_a_serial_line_is_read_exactly() {
    let pair = SerialPair::new();
    let _server = Pymodbus::serial(pair.far());
    let agent = reader(&serial(pair.near(), 19_200), 1);
    let mut datum = agent.ask_json(&["read", "/unit", "--json"]);
    assert!(datum["created"].take().is_string());
    let expected = json!({
        "source": "/unit", "created": null, "i": {"tenth": 2301, "volts": 230.1},
        "a": {"energy": 305_419_896}, "s": {"on": "true", "serial": "SN-0042"}, "t": [], "failed": [],
    });
    assert_eq!(datum, expected);
}

#[test]
fn a_unit_behind_a_serial_server_is_read_exactly() {
    let server = Pymodbus::rtu_over_tcp();
    let link = format!("[[modbus]]\nname = \"far\"\nrtu_tcp = \"127.0.0.1:{}\"\n", server.port);
    let datum = reader(&link, 1).ask_json(&["read", "/unit", "--json"]);
    assert_eq!(datum["i"], json!({"tenth": 2301, "volts": 230.1}));
    assert_eq!((&datum["a"]["energy"], &datum["failed"]), (&json!(305_419_896), &json!([])));
}

#[test]
fn units_of_others_that_misbehave_on_a_serial_line_are_named() {
    let pair = SerialPair::new();
    let _server = Pymodbus::serial(pair.far());
    for (unit, timeout, want) in [
        (2, "300ms", "no answer within 300 ms (function "),
        (3, "2s", "no answer within 2000 ms, but unit 99 answered in its place (function "),
        (4, "60s", "the unit answered with exception 4 (server device failure) (function "),
    ] {
        let agent = reader_with(&serial(pair.near(), 19_200), unit, timeout);
        let output = agent.run(&["read", "/unit"]);
        let (code, error) = failure(&output);
        assert_eq!(code, Some(69), "{error}");
        assert!(error.contains(want), "{error}");
    }
}

/// A site whose units are on a serial line, and an agent that uploads what it reads there.
struct Bench {
    sim: Sim,
    line: Line,
    site: Site,
    agent: Agent,
}

impl Bench {
    /// `rest` is the configuration after the bus.
    fn new(units: Vec<Unit>, rest: &str) -> Self {
        let sim = Sim::start(seed()).expect("a simulator");
        let site = Site::start(units).expect("a site");
        let agent = Agent::new("");
        let line = site.serial_line(&agent.path("line"), 115_200).expect("a line");
        agent.configure(&(solarnet(&sim) + &serial(line.path(), 115_200) + rest));
        agent.import_token();
        Self { sim, line, site, agent }
    }

    fn port(&self) -> PathBuf {
        self.line.path().to_owned()
    }

    fn source(&self, source: &str) -> Value {
        let status = self.agent.status().expect("a running daemon");
        let sources = status["sources"].as_array().expect("a list").clone();
        sources.into_iter().find(|s| s["source"] == source).expect("configured")
    }

    /// Asks for the relay to be set; gives the state in which the server has it at the end.
    fn set_relay(&self, value: &str) -> InstructionState {
        let id = self.sim.add_instruction(NewInstruction {
            node: NODE,
            topic: "SetControlParameter".to_owned(),
            parameters: vec![("/relay".to_owned(), value.to_owned())],
            ..NewInstruction::default()
        });
        let state = || self.sim.instruction(id).expect("an instruction").state;
        eventually("the instruction ends", || state().is_final());
        state()
    }

    fn is(&self, source: &str, state: &str) -> bool {
        self.source(source)["state"] == state
    }
}

#[test]
fn every_reading_on_a_serial_line_reaches_the_server_and_no_silence_is_broken() {
    let bench = Bench::new(vec![Unit::meter(1)], &meter(1, "/meter", "100ms"));
    let daemon = bench.agent.start();
    eventually("twenty readings are uploaded", || bench.sim.ledger_count().datum >= 20);
    bench.site.set_fault(1, Some(Fault::Silent));
    eventually("every reading is uploaded", || {
        bench.sim.ledger_count().datum == bench.site.readings(1) as usize
    });
    assert!(daemon.stop().success());
    let report = bench.line.report();
    assert_eq!((report.early, report.damaged), (0, 0), "{report:?}");
    let last = MeterReading::at(bench.site.readings(1));
    assert!(last.number >= 20);
}

#[test]
fn noise_damage_and_halves_cost_only_the_answers_that_they_hit() {
    let faults = [
        (1, Fault::BadChecksum, "the checksum of the answer is wrong"),
        (2, Fault::ShortFrame, "bytes came that are no answer"),
        (3, Fault::Garbage, "bytes came that are no answer"),
        (4, Fault::WrongUnit, "but unit 5 answered in its place"),
    ];
    let name = |unit: u8| format!("/unit/{unit}");
    let units = [1, 2, 3, 4, 9];
    let config: String = units.iter().map(|unit| meter(*unit, &name(*unit), "200ms")).collect();
    // The last one is well: it has all the time that a busy machine may need.
    let config = config.replacen("timeout = \"2s\"", "timeout = \"300ms\"", faults.len());
    let config = config.replace("timeout = \"2s\"", "timeout = \"60s\"");
    let bench = Bench::new(units.map(Unit::meter).into(), &config);
    let daemon = bench.agent.start();
    let count = |unit: u8, what: &str| bench.source(&name(unit))[what].as_u64().expect("a count");
    let reads = |unit: u8| count(unit, "reads");
    eventually("all are read", || units.iter().all(|unit| reads(*unit) > 0));
    let goes_on = |unit: u8| {
        let before = reads(unit);
        eventually("it is read on", || reads(unit) >= before + 5);
    };

    // Where the line's own thread stands still for seconds, a reading may fail over that.
    let costs_no_reading = |disturb: &dyn Fn()| {
        at_one_try(|| {
            let before = count(9, "failed");
            disturb();
            goes_on(9);
            let failed = count(9, "failed") - before;
            (failed == 0).then_some(()).ok_or(format!("{failed} readings failed"))
        });
    };
    // Noise around its answers, and between them.
    costs_no_reading(&|| {
        bench.site.set_fault(9, Some(Fault::Noise));
        bench.line.noise(&[0x01, 0x04, 0x24, 0x00]);
    });
    // After clean answers, which show that the line has no echo that may be damaged, a damaged answer is asked for
    // again within the same reading.
    bench.site.set_fault(9, None);
    goes_on(9);
    costs_no_reading(&|| bench.site.set_fault_times(9, Fault::BadChecksum, 1));

    for (unit, fault, _) in faults {
        bench.site.set_fault(unit, Some(fault));
    }
    for (unit, _, why) in faults {
        // On a machine that stands still for as long as the timeout, another reason may come first.
        let is_down_for_it = || {
            let source = bench.source(&name(unit));
            source["state"] == "down" && source["reason"].as_str().is_some_and(|r| r.contains(why))
        };
        eventually(&format!("unit {unit} is down: {why}"), is_down_for_it);
    }
    goes_on(9);
    for (unit, ..) in faults {
        bench.site.set_fault(unit, None);
    }
    for (unit, ..) in faults {
        eventually("it is back", || bench.is(&name(unit), "up"));
    }
    assert!(daemon.stop().success());
    assert_eq!(bench.line.report().early, 0);
}

#[test]
fn a_control_on_a_line_that_echoes_is_written_and_read_back() {
    let control = r#"
[[control]]
id = "/relay"
timeout = "30s"
write = { modbus = "cabinet", unit = 3, table = "coil", address = 0 }
allow = { min = 0, max = 1, every = "0s" }
"#;
    for echo in [false, true] {
        let units = vec![Unit::meter(1), Unit::relay(3, 8)];
        let bench = Bench::new(units, &(meter(1, "/meter", "200ms") + control));
        bench.line.set_echo(echo);
        let daemon = bench.agent.start();
        eventually("the meter is read", || bench.is("/meter", "up"));
        assert_eq!(bench.set_relay("1"), InstructionState::Completed, "echo {echo}");
        assert_eq!(bench.site.value(3, Table::Coil, 0), Some(1));
        assert_eq!(bench.site.writes(3).len(), 1, "echo {echo}");
        assert!(bench.is("/meter", "up"));
        assert!(daemon.stop().success());
    }
}

/// How long is waited for what does not come, and for what does, even on a busy machine.
const WAIT: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);

fn rtu_link(line: &Line, baud: u32) -> RtuLink {
    let port = line.path().to_owned();
    RtuLink::serial(&Serial { port, baud, parity: Parity::None, stop_bits: 1 })
}

/// Talks on a line without end; stops when dropped.
struct Babbler {
    on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Babbler {
    fn start(line: &Arc<Line>) -> Self {
        let (on, line) = (Arc::new(AtomicBool::new(true)), line.clone());
        let talking = on.clone();
        let thread = std::thread::spawn(move || {
            while talking.load(Ordering::Relaxed) {
                line.noise(&[0x55; 8]);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { on, thread: Some(thread) }
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.on.store(false, Ordering::Relaxed);
        self.thread.take().expect("dropped once").join().expect("no panic");
    }
}

#[tokio::test]
async fn an_echo_of_a_write_alone_does_not_confirm_it_and_a_broadcast_is_not_waited_for() {
    let relay = Unit::relay(3, 8).with(Table::Holding, 0, &[7]);
    let site = Site::start(vec![relay]).expect("a site");
    let folder = tempfile::tempdir().expect("a folder");
    let line = site.serial_line(&folder.path().join("line"), 38_400).expect("a line");
    line.set_echo(true);
    let mut link = rtu_link(&line, 38_400);
    let read = Request::Read { table: settings::Table::Holding, address: 0, count: 1 };
    let write = |on| Request::WriteCoil { address: 0, on };

    let read_word = link.call(3, &read, SOON).await;
    assert_eq!(read_word, Ok(Answer::Data(Data::Words(&[0, 7]))));
    assert_eq!(link.call(3, &write(true), SOON).await, Ok(Answer::Written));
    site.set_fault(3, Some(Fault::Silent));
    let silent = CallError::from(RequestError::Silent { after: WAIT });
    assert_eq!(link.call(3, &write(false), WAIT).await, Err(silent));
    site.set_fault(3, None);

    assert_eq!(link.call(0, &write(false), SOON).await, Ok(Answer::Written));
    assert!(link.call(3, &read, SOON).await.is_ok(), "after the time to carry it out");
    assert_eq!(site.value(3, Table::Coil, 0), Some(0));
    let broadcast = CallError::from(RequestError::Broadcast);
    assert_eq!(link.call(0, &read, WAIT).await, Err(broadcast.clone()));
    assert!(!broadcast.may_have_arrived());
    assert_eq!(line.report().early, 0);
}

/// Which adapter is plugged in says nothing about the one before: what that one did with our bytes is forgotten.
#[tokio::test]
async fn an_adapter_plugged_in_between_a_read_and_a_write_confirms_no_write_by_its_echo() {
    let site = Site::start(vec![Unit::relay(3, 8)]).expect("a site");
    let folder = tempfile::tempdir().expect("a folder");
    let line = site.serial_line(&folder.path().join("line"), 38_400).expect("a line");
    let mut link = rtu_link(&line, 38_400);
    let read = Request::Read { table: settings::Table::Coil, address: 0, count: 1 };
    assert!(link.call(3, &read, SOON).await.is_ok());

    line.unplug();
    line.set_echo(true);
    line.plug_in();
    site.set_fault(3, Some(Fault::Silent));
    let write = Request::WriteCoil { address: 0, on: true };
    let silent = CallError::from(RequestError::Silent { after: WAIT });
    assert_eq!(link.call(3, &write, WAIT).await, Err(silent));
    assert_eq!(site.writes(3).len(), 0);
}

#[tokio::test]
async fn on_a_line_that_is_never_quiet_nothing_is_sent() {
    let site = Site::start(vec![Unit::meter(1)]).expect("a site");
    let folder = tempfile::tempdir().expect("a folder");
    // Slow, so that its silence is long beside the pauses of whoever babbles.
    let line = site.serial_line(&folder.path().join("line"), 300).expect("a line");
    let line = Arc::new(line);
    let mut link = rtu_link(&line, 300);
    let read = Request::Read { table: settings::Table::Input, address: 0, count: 2 };
    assert!(link.call(1, &read, SOON).await.is_ok());

    let babbler = Babbler::start(&line);
    let started = Instant::now();
    loop {
        let asked = line.report().requests;
        let result = link.call(1, &read, WAIT).await.map(drop);
        if result == Err(RequestError::NotQuiet { after: WAIT }.into()) {
            assert_eq!(line.report().requests, asked, "nothing was sent");
            break;
        }
        assert!(started.elapsed() < SOON, "{result:?}");
    }
    drop(babbler);
    while link.call(1, &read, SOON).await.is_err() {
        assert!(started.elapsed() < 2 * SOON, "quiet again");
    }
}

#[test]
fn a_late_answer_is_not_taken_for_that_of_the_next_request() {
    // Two blocks of equal length in one unit: only time can tell their answers apart.
    let words: Vec<u16> = (0..200).collect();
    let unit = |source: &str, address: u16| {
        format!(
            r#"
[[modbus.unit]]
id = 7
source = "{source}"
every = "100ms"
timeout = "1s"
property = [{{ name = "v", kind = "instantaneous", register = {{ table = "holding", address = {address}, type = "u16" }} }}]
"#
        )
    };
    let units = vec![Unit::new(7).with(Table::Holding, 0, &words), Unit::meter(1)];
    let rest = unit("/a", 10) + &unit("/b", 20) + &meter(1, "/meter", "100ms");
    let bench = Bench::new(units, &rest);
    let daemon = bench.agent.start();
    eventually("all are read", || ["/a", "/b", "/meter"].iter().all(|s| bench.is(s, "up")));
    let meter_reads = || bench.source("/meter")["reads"].as_u64().expect("a count");
    // Within twice the time, with as much to spare as a busy machine may take.
    bench.site.set_fault(7, Some(Fault::Slow(1200)));
    let before = meter_reads();
    eventually("the neighbour is read meanwhile", || meter_reads() >= before + 10);
    bench.site.set_fault(7, None);
    eventually("both are up again", || bench.is("/a", "up") && bench.is("/b", "up"));
    for (source, value) in [("/a", Decimal::TEN), ("/b", Decimal::from(20))] {
        let reads = bench.source(source)["reads"].as_u64().expect("a count") as usize;
        let read = || -> Vec<Decimal> {
            let ledger = bench.sim.ledger().into_iter();
            let own = ledger.filter(|(key, _)| key.source == source);
            own.filter_map(|(_, entry)| entry.datum.decimal("v")).collect()
        };
        eventually("all that was read is uploaded", || read().len() >= reads);
        assert!(read().iter().all(|v| *v == value), "{source}: {:?}", read());
    }
    assert!(daemon.stop().success());
}

#[test]
fn an_adapter_that_vanishes_is_found_again_under_its_name() {
    let bench = Bench::new(vec![Unit::meter(1)], &meter(1, "/meter", "200ms"));
    bench.line.unplug();
    // Not there at the start: waited for.
    let daemon = bench.agent.start();
    eventually("it is missed", || daemon.events("serial.down").len() == 1);
    assert!(daemon.events("serial.down")[0].contains("there is no such port"));
    bench.line.plug_in();
    eventually("the meter is read", || bench.is("/meter", "up"));
    for times in 1..=2 {
        bench.line.unplug();
        eventually("it is missed", || daemon.events("serial.down").len() == 1 + times);
        bench.line.plug_in();
        let readings = bench.site.readings(1);
        eventually("readings go on", || bench.site.readings(1) > readings + 3);
        assert_eq!(daemon.events("serial.up").len(), 1 + times);
    }
    assert!(daemon.stop().success());
}

#[test]
fn a_port_that_another_program_locked_is_named_with_its_holder() {
    let bench = Bench::new(vec![Unit::meter(1)], &meter(1, "/meter", "200ms"));
    // Without NOCTTY the port would become the terminal of whoever runs the tests, and hang up on them.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let other = rustix::fs::open(bench.port(), flags, Mode::empty()).expect("the port");
    flock(&other, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
    let daemon = bench.agent.start();
    eventually("the holder is named", || daemon.events("serial.down").len() == 1);
    let line = &daemon.events("serial.down")[0];
    assert!(line.contains(&format!("(process {})", std::process::id())), "{line}");
    let reason = || bench.source("/meter")["reason"].to_string();
    eventually("the source says so, too", || reason().contains("it is locked by"));

    drop(other);
    eventually("the meter is read", || bench.is("/meter", "up"));
    // Now it is the daemon that has it.
    let (code, error) = failure(&bench.agent.run(&["read", "/meter"]));
    assert_eq!(code, Some(69), "{error}");
    assert!(error.contains("locked by `solarnode-agent` (process "), "{error}");
    assert_eq!(daemon.events("serial.down").len(), 1);
    assert!(daemon.stop().success());
}

#[test]
fn a_bus_stops_soon_though_nobody_answers() {
    let bench = Bench::new(Vec::new(), &meter(1, "/meter", "200ms"));
    let daemon = bench.agent.start();
    eventually("the unit is down", || bench.is("/meter", "down"));
    let asked = Instant::now();
    assert!(daemon.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}
