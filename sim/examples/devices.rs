//! Modbus TCP devices that count how often they are read, so that a reading that never arrives anywhere is a number that
//! is missing there: what `benches/peers` lets several agents read.
//!
//! ```console
//! $ cargo run -p solarnet-sim --example devices
//! listening on 127.0.0.1:41503
//! ```
//!
//! Every unit from 1 to 255 is there. Holding registers 0 and 1 of each are a `u32`: how many requests that begin at
//! register 0 it has answered, this one included. The others ramp slowly. Input registers 0 and 1 show the same count
//! and reading them counts nothing: by these a test asks how much was read. Ends when its standard input is closed.
//!
//! A thread a connection and the standard library are enough for a few thousand requests a second. What is no read of
//! registers is answered with exception 1 (illegal function), and a frame that cannot be one ends the connection.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// Transaction, protocol and length: two bytes each. The unit's byte belongs to the length.
const HEADER: usize = 6;
/// Unit, function, first register, count of registers.
const READ_REQUEST: usize = 6;
/// Most registers in one answer, and longest length of a frame (Modbus Application Protocol V1.1b3, sections 6.3 and 4.1).
const MOST_REGISTERS: u16 = 125;
const LONGEST: usize = 254;

const READ_HOLDING: u8 = 3;
const READ_INPUT: u8 = 4;

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_VALUE: u8 = 3;

/// Reads answered, by unit.
type Counts = Arc<[AtomicU32; 256]>;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut out = io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    let counts: Counts = Arc::new([const { AtomicU32::new(0) }; 256]);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counts = Arc::clone(&counts);
            thread::spawn(move || serve(stream, &counts));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

/// Answers a connection until its other end leaves it, or what comes cannot be Modbus.
fn serve(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if !(2..=LONGEST).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut request = vec![0; length];
        stream.read_exact(&mut request)?;
        let body = answer(&request, counts);
        let length = u16::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let frame = [&header[..4], &length.to_be_bytes(), &body].concat();
        stream.write_all(&frame)?;
    }
}

/// Unit and PDU of the answer to a request of at least a unit and a function.
fn answer(request: &[u8], counts: &Counts) -> Vec<u8> {
    let (unit, function) = (request[0], request[1]);
    let exception = |code| vec![unit, function | 0x80, code];
    if !matches!(function, READ_HOLDING | READ_INPUT) {
        return exception(ILLEGAL_FUNCTION);
    }
    let Ok([_, _, a, b, c, d]) = <[u8; READ_REQUEST]>::try_from(request) else {
        return exception(ILLEGAL_VALUE);
    };
    let (first, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let (Some(end), 1..=MOST_REGISTERS) = (first.checked_add(count), count) else {
        return exception(ILLEGAL_VALUE);
    };
    let counter = &counts[usize::from(unit)];
    let reads = if function == READ_HOLDING && first == 0 {
        counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    } else {
        counter.load(Ordering::Relaxed)
    };
    let [a, b, c, d] = reads.to_be_bytes();
    let value = |register| match register {
        0 => [a, b],
        1 => [c, d],
        // Small enough for a signed register, different in each, and not the same for ever.
        _ => ((u32::from(register) * 37 + (reads >> 4)) as u16 & 0x7fff).to_be_bytes(),
    };
    let data: Vec<u8> = (first..end).flat_map(value).collect();
    let length = u8::try_from(data.len()).unwrap_or(u8::MAX);
    [&[unit, function, length], data.as_slice()].concat()
}
