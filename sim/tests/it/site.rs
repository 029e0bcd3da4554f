//! The simulated site, spoken to in bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use solarnet_sim::{Fault, METER_BLOCK, MeterReading, Site, Table, Unit};

use crate::eventually;

fn connect(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(site.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Nothing whole comes for a while.
fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = receive(stream).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
}

fn send(stream: &mut TcpStream, transaction: u16, unit: u8, pdu: &[u8]) {
    let mut frame = transaction.to_be_bytes().to_vec();
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
    frame.push(unit);
    frame.extend_from_slice(pdu);
    stream.write_all(&frame).unwrap();
}

/// Transaction, unit, PDU.
fn receive(stream: &mut TcpStream) -> io::Result<(u16, u8, Vec<u8>)> {
    let mut header = [0; 7];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut pdu = vec![0; length - 1];
    stream.read_exact(&mut pdu)?;
    Ok((u16::from_be_bytes([header[0], header[1]]), header[6], pdu))
}

fn ask(stream: &mut TcpStream, unit: u8, pdu: &[u8]) -> Vec<u8> {
    send(stream, 7, unit, pdu);
    let (transaction, from, answer) = receive(stream).unwrap();
    assert_eq!((transaction, from), (7, unit));
    answer
}

const BLOCK: [u8; 5] = [4, 0, 0, 0, METER_BLOCK as u8];

fn f32_at(answer: &[u8], register: usize) -> f32 {
    let at = 2 + register * 2;
    f32::from_be_bytes(answer[at..at + 4].try_into().unwrap())
}

#[test]
fn each_whole_read_of_a_meter_is_a_reading_with_its_own_values() {
    let site = Site::start(vec![Unit::meter(1), Unit::meter(2).counting(2, 2)]).unwrap();
    let mut stream = connect(&site);
    for number in 1..=3 {
        let expected = MeterReading::at(number);
        let answer = ask(&mut stream, 1, &BLOCK);
        assert_eq!(answer[..2], [4, 36]);
        assert_eq!(f32_at(&answer, 0), expected.watts);
        assert_eq!(f32_at(&answer, 2), expected.voltage);
        assert_eq!(answer[18..26], expected.watt_hours.to_be_bytes());
        assert_eq!(answer[30..34], number.to_be_bytes());
    }
    // A part of the block is no reading; the same registers are there as holding registers.
    ask(&mut stream, 1, &[4, 0, 0, 0, 4]);
    assert_eq!(site.readings(1), 3);
    ask(&mut stream, 1, &[3, 0, 0, 0, METER_BLOCK as u8]);
    assert_eq!((site.readings(1), site.requests(1)), (4, 5));
    ask(&mut stream, 2, &[4, 0, 3, 0, 4]);
    assert_eq!(site.readings(2), 0);
    ask(&mut stream, 2, &[4, 0, 2, 0, 2]);
    assert_eq!(site.readings(2), 1);
}

#[test]
fn a_relay_takes_writes_and_remembers_each() {
    let site = Site::start(vec![Unit::relay(3, 10)]).unwrap();
    let mut stream = connect(&site);
    assert_eq!(ask(&mut stream, 3, &[5, 0, 1, 0xff, 0]), [5, 0, 1, 0xff, 0]);
    assert_eq!(ask(&mut stream, 3, &[15, 0, 8, 0, 2, 1, 0b11]), [15, 0, 8, 0, 2]);
    assert_eq!(ask(&mut stream, 3, &[1, 0, 0, 0, 10]), [1, 2, 0b10, 0b11]);
    let writes = site.writes(3);
    assert_eq!(writes.len(), 2);
    assert_eq!(
        (writes[0].address, writes[0].values.as_slice(), writes[0].taken),
        (1, &[1][..], true)
    );
    site.set(3, Table::Coil, 1, &[0]);
    assert_eq!(site.value(3, Table::Coil, 1), Some(0));
}

#[test]
fn what_is_not_there_is_an_exception() {
    let unit = Unit::new(1).with(Table::Holding, 10, &[1, 2]).with(Table::Discrete, 0, &[1]);
    let site = Site::start(vec![unit]).unwrap();
    let mut stream = connect(&site);
    assert_eq!(ask(&mut stream, 1, &[3, 0, 10, 0, 2]), [3, 4, 0, 1, 0, 2]);
    assert_eq!(ask(&mut stream, 1, &[2, 0, 0, 0, 1]), [2, 1, 1]);
    assert_eq!(ask(&mut stream, 1, &[16, 0, 10, 0, 1, 2, 0, 9]), [16, 0, 10, 0, 1]);
    assert_eq!(ask(&mut stream, 1, &[6, 0, 11, 0, 8]), [6, 0, 11, 0, 8]);
    assert_eq!(ask(&mut stream, 1, &[3, 0, 10, 0, 2]), [3, 4, 0, 9, 0, 8]);
    assert_eq!(ask(&mut stream, 1, &[3, 0, 10, 0, 3]), [0x83, 2]);
    assert_eq!(ask(&mut stream, 1, &[3, 0xff, 0xff, 0, 2]), [0x83, 2]);
    assert_eq!(ask(&mut stream, 1, &[3, 0, 0, 0, 126]), [0x83, 3]);
    assert_eq!(ask(&mut stream, 1, &[3, 0, 0, 0, 0]), [0x83, 3]);
    assert_eq!(ask(&mut stream, 1, &[5, 0, 0, 0, 1]), [0x85, 3]);
    assert_eq!(ask(&mut stream, 1, &[43, 14, 1, 0]), [0xab, 1]);
    assert_eq!(ask(&mut stream, 9, &[3, 0, 0, 0, 1]), [0x83, 11]);
}

#[test]
fn each_fault_shows_and_ends() {
    let site = Site::start(vec![Unit::meter(1), Unit::relay(3, 1)]).unwrap();
    let fault = |fault| site.set_fault_times(1, fault, 1);
    let mut stream = connect(&site);

    fault(Fault::Silent);
    send(&mut stream, 1, 1, &BLOCK);
    assert_silent(&mut stream);
    fault(Fault::Slow(50));
    let start = Instant::now();
    ask(&mut stream, 1, &BLOCK);
    assert!(start.elapsed() >= Duration::from_millis(50));
    fault(Fault::Exception(6));
    assert_eq!(ask(&mut stream, 1, &BLOCK), [0x84, 6]);
    fault(Fault::WrongUnit);
    send(&mut stream, 2, 1, &BLOCK);
    assert_eq!(receive(&mut stream).unwrap().1, 2);
    fault(Fault::StaleFirst);
    send(&mut stream, 3, 1, &BLOCK);
    let (stale, right) = (receive(&mut stream).unwrap(), receive(&mut stream).unwrap());
    assert_eq!((stale.0, right.0), (2, 3));
    assert_ne!(stale.2, right.2);
    assert_eq!(site.readings(1), 2);

    fault(Fault::ShortFrame);
    send(&mut stream, 4, 1, &BLOCK);
    assert_silent(&mut stream);
    let mut stream = connect(&site);
    fault(Fault::Garbage);
    send(&mut stream, 5, 1, &BLOCK);
    let mut start = [0; 2];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(start, [0xff, 0xfe]);
    let mut stream = connect(&site);
    fault(Fault::Closes);
    send(&mut stream, 6, 1, &BLOCK);
    assert_eq!(receive(&mut stream).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(site.readings(1), 2);

    let mut stream = connect(&site);
    site.set_fault(3, Some(Fault::IgnoresWrites));
    assert_eq!(ask(&mut stream, 3, &[5, 0, 0, 0xff, 0]), [5, 0, 0, 0xff, 0]);
    assert_eq!(site.value(3, Table::Coil, 0), Some(0));
    site.set_fault(3, Some(Fault::LosesAnswer));
    send(&mut stream, 8, 3, &[5, 0, 0, 0xff, 0]);
    assert_silent(&mut stream);
    assert_eq!(site.value(3, Table::Coil, 0), Some(1));
    assert_eq!(site.writes(3).iter().map(|write| write.taken).collect::<Vec<_>>(), [false, true]);
    site.set_fault(3, None);
    ask(&mut stream, 3, &[1, 0, 0, 0, 1]);
}

#[test]
fn the_gateway_goes_away_and_comes_back_with_its_state() {
    let site = Site::start(vec![Unit::meter(1)]).unwrap();
    ask(&mut connect(&site), 1, &BLOCK);
    site.go_down();
    assert!(TcpStream::connect(site.address()).is_err());
    site.come_back().unwrap();
    ask(&mut connect(&site), 1, &BLOCK);
    assert_eq!(site.readings(1), 2);
}

#[test]
fn two_requests_that_a_serial_line_reads_as_one_are_both_answered() {
    let site = Site::start(vec![Unit::meter(1), Unit::meter(2)]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let line = site.serial_line(&folder.path().join("line"), 115_200).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let mut port = File::from(rustix::fs::open(line.path(), flags, Mode::empty()).unwrap());
    let requests = [[1, 4, 0, 0, 0, 1, 0x31, 0xca], [2, 4, 0, 0, 0, 1, 0x31, 0xf9]];
    port.write_all(requests.as_flattened()).unwrap();
    eventually("both are answered", || (site.requests(1), site.requests(2)) == (1, 1));
    let report = line.report();
    assert_eq!((report.requests, report.damaged), (2, 0), "{report:?}");
}
