//! A simulated site: units behind one Modbus TCP port, as a gateway would have them.
//!
//! Requests of a connection are answered one after the other, so a slow unit holds up whoever shares its
//! connection, as on a real bus. Two counts make this an oracle: the readings taken at each meter, and
//! every write with its time. For a unit that is not there the gateway answers exception 11.
//!
//! The same units can also be on a serial line ([`Site::serial_line`]).

pub(crate) mod line;
pub(crate) mod unit;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use chrono::Utc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Server, StartError};
use line::Line;
use unit::{Fault, Table, Unit, Write};

/// The gateway's target did not respond (Modbus Application Protocol V1.1b3, section 7).
const NO_SUCH_UNIT: u8 = 11;

/// Bytes of the header before the unit: transaction, protocol, length.
const HEADER: usize = 6;

/// How often to look whether something is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Longest PDU with its unit in front.
const LONGEST: usize = 254;

type Units = Arc<Mutex<Vec<Unit>>>;

#[derive(Debug, Default)]
struct Connections {
    made: AtomicU64,
    open: AtomicU64,
}

/// Counts as open until it is dropped.
struct Open(Arc<Connections>);

impl Open {
    fn counted(connections: Arc<Connections>) -> Self {
        connections.made.fetch_add(1, Ordering::Relaxed);
        connections.open.fetch_add(1, Ordering::SeqCst);
        Self(connections)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A running site. Dropping the handle stops it.
#[derive(Debug)]
pub struct Site {
    units: Units,
    connections: Arc<Connections>,
    server: Server,
}

impl Site {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// When no port or thread is to be had.
    pub fn start(units: Vec<Unit>) -> Result<Self, StartError> {
        Self::start_at(units, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts on an address.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub fn start_at(units: Vec<Unit>, address: SocketAddr) -> Result<Self, StartError> {
        let units: Units = Arc::new(Mutex::new(units));
        let served = units.clone();
        let connections = Arc::new(Connections::default());
        let counted = connections.clone();
        let server = Server::start("modbus-site", address, move |stream, _| {
            let open = Open::counted(counted.clone());
            let served = served.clone();
            async move {
                connection(stream, served).await;
                drop(open);
            }
        })?;
        Ok(Self { units, connections, server })
    }

    /// Puts the units on a serial line as well, whose port appears under `path`.
    ///
    /// # Errors
    ///
    /// When there is no pseudo-terminal or thread to be had, or `path` is taken.
    pub fn serial_line(&self, path: &Path, baud: u32) -> std::io::Result<Line> {
        Line::start(self.units.clone(), path, baud)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How many connections were made since the start.
    pub fn connections(&self) -> u64 {
        self.connections.made.load(Ordering::Relaxed)
    }

    /// Waits until no connection is open. What a client asked before it was killed may be answered, and counted,
    /// only after its end; after this it was.
    ///
    /// # Errors
    ///
    /// When the site is down.
    pub fn until_all_have_left(&self) -> std::io::Result<()> {
        // Served only after all who came before were let in.
        let mut last = std::net::TcpStream::connect(self.address())?;
        last.write_all(&frame(0, 0, &[0]))?;
        last.read_exact(&mut [0; HEADER])?;
        drop(last);
        while self.connections.open.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// How often the meter's whole block was read and properly answered. Zero for other units.
    pub fn readings(&self, unit: u8) -> u32 {
        self.look(unit, |unit| unit.readings).unwrap_or(0)
    }

    /// How many requests named the unit, whatever became of them.
    pub fn requests(&self, unit: u8) -> u64 {
        self.look(unit, |unit| unit.requests).unwrap_or(0)
    }

    /// Every write that the unit received, in order.
    pub fn writes(&self, unit: u8) -> Vec<Write> {
        self.look(unit, |unit| unit.writes.clone()).unwrap_or_default()
    }

    /// What the unit holds, without a request.
    pub fn value(&self, unit: u8, table: Table, address: u16) -> Option<u16> {
        self.look(unit, |unit| unit.get(table, address)).flatten()
    }

    /// Changes what the unit holds, as its own buttons would. Nothing happens for a unit that is not there.
    pub fn set(&self, unit: u8, table: Table, address: u16, values: &[u16]) {
        self.look(unit, |unit| unit.set(table, address, values));
    }

    /// Lets a unit misbehave until told otherwise; `None` ends it.
    pub fn set_fault(&self, unit: u8, fault: Option<Fault>) {
        self.look(unit, |unit| unit.fault = fault.map(|fault| (fault, None)));
    }

    /// Lets a unit misbehave on its next `times` requests.
    pub fn set_fault_times(&self, unit: u8, fault: Fault, times: u32) {
        self.look(unit, |unit| unit.fault = (times > 0).then_some((fault, Some(times))));
    }

    /// Refuses connections, and cuts the open ones. The units keep their state.
    pub fn go_down(&self) {
        self.server.go_down();
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    ///
    /// When the port cannot be listened on.
    pub fn come_back(&self) -> std::io::Result<()> {
        self.server.come_back()
    }

    fn look<T>(&self, unit: u8, look: impl FnOnce(&mut Unit) -> T) -> Option<T> {
        lock(&self.units).iter_mut().find(|known| known.id() == unit).map(look)
    }
}

/// Poison is of no matter: a panic elsewhere fails its own test.
fn lock(units: &Units) -> MutexGuard<'_, Vec<Unit>> {
    units.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests until the client leaves, sends something that is no Modbus, or a fault closes.
async fn connection(mut stream: TcpStream, units: Units) {
    let mut header = [0; HEADER];
    while stream.read_exact(&mut header).await.is_ok() {
        let [t0, t1, p0, p1, l0, l1] = header;
        let transaction = u16::from_be_bytes([t0, t1]);
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if [p0, p1] != [0, 0] || !(2..=LONGEST).contains(&length) {
            return;
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let (unit, pdu) = (body[0], &body[1..]);
        let (answer, fault) = answer(&units, unit, pdu);
        let frames = match fault {
            None
            | Some(
                Fault::Exception(_) | Fault::IgnoresWrites | Fault::BadChecksum | Fault::Noise,
            ) => {
                vec![frame(transaction, unit, &answer)]
            }
            Some(Fault::Silent | Fault::LosesAnswer) => continue,
            Some(Fault::Closes) => return,
            Some(Fault::Slow(ms)) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                vec![frame(transaction, unit, &answer)]
            }
            Some(Fault::WrongUnit) => vec![frame(transaction, unit.wrapping_add(1), &answer)],
            Some(Fault::StaleFirst) => {
                let mut stale = answer.clone();
                // Other values, so that taking it for the right answer shows.
                stale.iter_mut().skip(2).for_each(|byte| *byte = !*byte);
                let before = transaction.wrapping_sub(1);
                vec![frame(before, unit, &stale), frame(transaction, unit, &answer)]
            }
            Some(Fault::ShortFrame) => {
                let mut cut = frame(transaction, unit, &answer);
                cut.truncate(cut.len() - 1);
                vec![cut]
            }
            Some(Fault::Garbage) => vec![b"\xff\xfe not a frame at all \x00\x00".to_vec()],
        };
        if stream.write_all(&frames.concat()).await.is_err() {
            return;
        }
    }
}

/// The answer's PDU, and the fault that is to spoil it.
fn answer(units: &Units, id: u8, pdu: &[u8]) -> (Vec<u8>, Option<Fault>) {
    let mut units = lock(units);
    let function = pdu.first().copied().unwrap_or(0);
    let Some(unit) = units.iter_mut().find(|unit| unit.id() == id) else {
        return (vec![function | 0x80, NO_SUCH_UNIT], None);
    };
    unit.requests += 1;
    let fault = unit.next_fault();
    let answer = match fault {
        Some(Fault::Silent | Fault::Closes) => Vec::new(),
        Some(Fault::Exception(code)) => vec![function | 0x80, code],
        other => unit.answer(pdu, other, Utc::now()),
    };
    (answer, fault)
}

fn frame(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let length = u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(HEADER + 1 + pdu.len());
    out.extend_from_slice(&transaction.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(unit);
    out.extend_from_slice(pdu);
    out
}
