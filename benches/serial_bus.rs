//! How much of a serial bus the agent uses, and whether it keeps the silence between frames.
//!
//! The real task of a bus reads two units of 50 registers as fast as the line allows (while one is read the other
//! falls due), over a pseudo-terminal that is paced like a line of 9,600, 19,200 and 115,200 baud. The line measures: the share is the least time of an
//! exchange (request, 3.5 characters, answer, 3.5 characters) over the time from one request to the next, the
//! median of all; a request that came before its 3.5 characters of silence were over is a violation.
//!
//! ```console
//! $ cargo bench --bench serial_bus
//! ```
//!
//! An argument sets the seconds for each speed, 10 otherwise. Exits with 1 at a violation.

use std::{env, process::ExitCode, time::Duration};

use rust_decimal::Decimal;
use solarnet_sim::{Site, Table as SimTable, Unit as SimUnit};
use solarnode_agent::{
    clock::Clock,
    config::settings::{
        Bus, Encoding, Link, Order, Parity, Phase, Property, Register, Scale, Select, Serial,
        Table, Unit,
    },
    domain::Kind,
    modbus::{self, Carrier, Channels, Poller},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const REGISTERS: u16 = 50;
const UNITS: [u8; 2] = [1, 2];

fn main() -> ExitCode {
    let seconds = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10);
    println!(" baud  requests  cycle ms  silence ms  gap ms   share  violations");
    let mut violations = 0;
    for baud in [9600, 19_200, 115_200] {
        violations += measure(baud, Duration::from_secs(seconds));
    }
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a line of the table; gives the number of violations.
fn measure(baud: u32, length: Duration) -> u64 {
    let words: Vec<u16> = (0..REGISTERS).collect();
    let unit = |id| SimUnit::new(id).with(SimTable::Holding, 0, &words);
    let site = Site::start(UNITS.map(unit).into()).expect("a site");
    let folder = tempfile::tempdir().expect("a folder");
    let line = site.serial_line(&folder.path().join("line"), baud).expect("a line");
    let serial = Serial { port: line.path().to_owned(), baud, parity: Parity::None, stop_bits: 1 };

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let reads = runtime.expect("a runtime").block_on(async {
        let bus = bus(serial);
        let (datum, mut taken) = mpsc::channel(1024);
        let (_writes, writes) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let channels = Channels { datum, writes, stop: stop.clone() };
        let wire = Carrier::of(&bus);
        let poller = Poller::new(&bus, &[], wire, Clock::system(), channels).expect("a plan");
        let running = tokio::spawn(modbus::run(poller));
        let count = async {
            let mut reads = 0_u64;
            while taken.recv().await.is_some() {
                reads += 1;
            }
            reads
        };
        let end = async {
            tokio::time::sleep(length).await;
            stop.cancel();
        };
        let (reads, ()) = tokio::join!(count, end);
        running.await.expect("no panic").expect("a bus that ends when asked to");
        reads
    });
    let report = line.report();
    let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
    println!(
        "{baud:6} {:9} {:9.3} {:11.3} {:7.3} {:6.2}% {:11}",
        report.requests,
        ms(report.cycle_us),
        ms(report.silence_us),
        ms(report.gap_us),
        report.share * 100.0,
        report.early,
    );
    assert!(reads + 1 >= report.requests && report.damaged == 0, "{reads} reads of {report:?}");
    report.early
}

/// Units with one block of registers each; one of them is always due.
fn bus(serial: Serial) -> Bus {
    let property = |address| Property {
        name: format!("p{address}"),
        kind: Kind::Instantaneous,
        register: Register {
            table: Table::Holding,
            address,
            encoding: Encoding::U16,
            word_order: Order::Big,
            byte_order: Order::Big,
            select: Select::All,
        },
        scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
        invalid: Vec::new(),
        tags: Vec::new(),
    };
    let unit = |id| Unit {
        id,
        source: format!("/bench/{id}").parse().expect("a source ID"),
        every: Duration::from_millis(1),
        phase: Phase::Spread,
        max_registers: 125,
        max_bits: 2000,
        max_gap: 0,
        timeout: Duration::from_secs(1),
        retries: 0,
        pause: Duration::ZERO,
        properties: (0..REGISTERS).map(property).collect(),
        tags: Vec::new(),
    };
    Bus {
        name: "bench".to_owned(),
        link: Link::Serial(serial),
        pause: Duration::ZERO,
        connect_timeout: Duration::from_secs(1),
        units: UNITS.map(unit).into(),
    }
}
