//! A Modbus TCP connection: one request at a time, and only its own answer counts.
//!
//! ```text
//!   closed ──call──▶ connect ──▶ open ──▶ send ──▶ wait ──▶ answer
//!     ▲                │          ▲ ▲               │ │
//!     │  waits longer  │          │ └─ no answer ───┘ │ another transaction, unit, function
//!     └── each time ───┘          │    in time        │ or length: discarded, waits on
//!     ▲                                               │
//!     └──── closed by the other end, no Modbus, ──────┘
//!           half an answer, 3 requests in a row without any
//! ```
//!
//! * A late answer never passes for the answer to a later request: each has its own transaction
//!   number, and unit, function, length and echo are compared too. Discarded answers do not extend
//!   the deadline. That a unit answered late is remembered ([`Wire::take_late`]).
//! * A connection that the other end closed while nothing was under way is noticed before the next
//!   request is sent, which then goes over a new one.
//! * While the link is down a call fails at once, without connecting, until the next attempt is
//!   due: 1 s after the first failure, doubling to 30 s. A connection on which anything was answered
//!   is replaced at once, and so is its successor: a gateway that hangs up when one of its units is
//!   asked is still there for the others.
//! * One request costs one write and one or two reads, and no memory is allocated for it. The
//!   buffers are bounded.
//!
//! What it does *not* do: repeat anything. Whether a request may be repeated, only its sender knows.

use std::{io, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, trace};

use super::{
    frame::{self, Answer, BrokenFraming, Request},
    wire::{CallError, Discarded, LinkError, RequestError, Wire},
};

/// Requests in a row without any answer after which the connection is made anew: where the other
/// end vanished without a word, TCP itself would go on repeating for a quarter of an hour.
const UNANSWERED: u32 = 3;
/// How long to wait after the first failure to connect, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Room for a few answers that arrive together.
const BUFFER: usize = 4 * frame::MAX_FRAME;

/// Reads after which what is left on a connection is no longer late answers but a flood: 16 KiB are more
/// than sixty answers of the greatest length.
const MOST_OLD_READS: usize = 16;

/// A Modbus TCP connection that is made when it is needed.
#[derive(Debug)]
pub struct TcpLink {
    host: String,
    port: u16,
    connect_timeout: Duration,
    state: State,
    transaction: u16,
    /// The request under way.
    out: Vec<u8>,
    late: Option<u8>,
    /// Requests since the last answer of any kind.
    unanswered: u32,
}

#[derive(Debug)]
enum State {
    Open(Open),
    Closed {
        /// Before that, calls fail at once, for the reason given.
        again: Option<(Instant, String)>,
        /// How long to wait after the next failure.
        wait: Duration,
    },
}

#[derive(Debug)]
struct Open {
    stream: TcpStream,
    buffer: Box<[u8; BUFFER]>,
    /// What was received and not yet looked at.
    filled: std::ops::Range<usize>,
    /// Whether anything was answered on this connection.
    proven: bool,
    /// The back-off to go on with if nothing ever is.
    wait: Duration,
}

impl TcpLink {
    /// A link that connects when it is first used.
    #[must_use]
    pub fn new(host: &str, port: u16, connect_timeout: Duration) -> Self {
        Self {
            host: host.to_owned(),
            port,
            connect_timeout,
            state: State::Closed { again: None, wait: BACK_OFF.0 },
            // Not 0: an answer from a peer that does not copy the number would pass for ours.
            transaction: fastrand::u16(1..),
            out: Vec::with_capacity(frame::MAX_FRAME),
            late: None,
            unanswered: 0,
        }
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Makes sure that a connection is open and that nothing old is left on it. All its errors are
    /// [`LinkError::Connect`]: nothing was sent.
    async fn open(&mut self) -> Result<(), LinkError> {
        if let State::Open(open) = &mut self.state {
            let Err(reason) = open.discard_old(&mut self.late) else { return Ok(()) };
            // Closed while idle: that is how many gateways behave, and no failure.
            debug!(address = self.address(), %reason, "idle connection ended");
            self.close(&reason.to_string());
        }
        let State::Closed { again, wait } = &self.state else { return Ok(()) };
        if let Some((at, reason)) = again
            && Instant::now() < *at
        {
            return Err(LinkError::Connect { address: self.address(), reason: reason.clone() });
        }
        let wait = *wait;
        match connect(&self.host, self.port, self.connect_timeout).await {
            Ok(stream) => {
                debug!(address = self.address(), "connected");
                self.unanswered = 0;
                let buffer = Box::new([0; BUFFER]);
                let open = Open { stream, buffer, filled: 0..0, proven: false, wait };
                self.state = State::Open(open);
                Ok(())
            }
            Err(error) => {
                let reason = error.to_string();
                self.back_off(wait.max(BACK_OFF.0), reason.clone());
                Err(LinkError::Connect { address: self.address(), reason })
            }
        }
    }

    /// Gives the connection up. One that had worked may be replaced at once, another one only after
    /// a while: a peer that hangs up on every request is not helped by more connections.
    fn close(&mut self, reason: &str) {
        match self.state {
            State::Open(Open { proven: true, .. }) => {
                self.state = State::Closed { again: None, wait: Duration::ZERO };
            }
            State::Open(Open { wait, .. }) => {
                self.back_off(wait, format!("the last connection ended: {reason}"));
            }
            State::Closed { .. } => {}
        }
    }

    fn back_off(&mut self, wait: Duration, reason: String) {
        let again = (!wait.is_zero()).then(|| (Instant::now() + wait, reason));
        self.state = State::Closed { again, wait: (wait * 2).clamp(BACK_OFF.0, BACK_OFF.1) };
    }

    /// What the answer says that the exchange found to be the one.
    fn answered<'a>(
        &'a mut self,
        request: &Request<'_>,
        pdu: std::ops::Range<usize>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        self.unanswered = 0;
        let State::Open(open) = &mut self.state else {
            return Err(RequestError::Silent { after: wait }.into());
        };
        open.proven = true;
        match request.answer(&open.buffer[pdu]) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(exception)) => Err(RequestError::Exception(exception).into()),
            // Looked at by the exchange and found right.
            Err(mismatch) => {
                let discarded = Discarded::Mismatch(mismatch);
                Err(RequestError::Foreign { after: wait, discarded }.into())
            }
        }
    }

    /// The connection ended on the request.
    fn lost(&mut self, failed: Failed) -> LinkError {
        let address = self.address();
        match failed {
            Failed::Io(error) => {
                let reason = error.to_string();
                self.close(&reason);
                LinkError::Lost { address, reason }
            }
            Failed::Framing(reason) => {
                self.close(&reason.to_string());
                LinkError::NotModbus { address, reason }
            }
        }
    }

    /// The time for the answer is over.
    fn silent(&mut self, discarded: Option<Discarded>, wait: Duration) -> RequestError {
        if matches!(&self.state, State::Open(open) if !open.filled.is_empty()) {
            // Its other half would be taken for the beginning of the next answer.
            self.close("half an answer");
        } else if discarded.is_some() {
            self.unanswered = 0;
        } else if self.unanswered >= UNANSWERED {
            debug!(address = self.address(), "nothing is answered, connecting anew");
            self.state = State::Closed { again: None, wait: BACK_OFF.0 };
        }
        match discarded {
            Some(discarded) => RequestError::Foreign { after: wait, discarded },
            None => RequestError::Silent { after: wait },
        }
    }
}

impl Wire for TcpLink {
    async fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        self.transaction = self.transaction.wrapping_add(1);
        frame::encode_tcp(self.transaction, unit, request, &mut self.out)
            .map_err(RequestError::from)?;
        self.open().await?;
        self.unanswered += 1;

        let State::Open(open) = &mut self.state else {
            return Err(RequestError::Silent { after: Duration::ZERO }.into());
        };
        let mut discarded = None;
        let exchange = async {
            open.send(&self.out).await.map_err(Failed::Io)?;
            loop {
                let Some(frame) = open.next_frame().map_err(Failed::Framing)? else {
                    open.receive().await.map_err(Failed::Io)?;
                    continue;
                };
                let pdu = &open.buffer[frame.pdu.clone()];
                if frame.transaction != self.transaction {
                    self.late = Some(frame.unit);
                    discarded = Some(Discarded::Transaction);
                } else if frame.unit != unit {
                    discarded = Some(Discarded::Unit(frame.unit));
                } else if let Err(mismatch) = request.answer(pdu) {
                    discarded = Some(Discarded::Mismatch(mismatch));
                } else {
                    return Ok(frame.pdu);
                }
                trace!(unit, transaction = frame.transaction, ?discarded, "answer discarded");
            }
        };
        match timeout_at(Instant::now() + wait, exchange).await {
            Ok(Ok(pdu)) => self.answered(request, pdu, wait),
            Ok(Err(failed)) => Err(self.lost(failed).into()),
            Err(_) => Err(self.silent(discarded, wait).into()),
        }
    }

    fn take_late(&mut self) -> Option<u8> {
        self.late.take()
    }

    fn rests_until(&self, _unit: u8) -> Option<Instant> {
        // Each request has a transaction number of its own.
        None
    }
}

enum Failed {
    Io(io::Error),
    Framing(BrokenFraming),
}

/// Connects within `wait`.
pub(super) async fn connect(host: &str, port: u16, wait: Duration) -> io::Result<TcpStream> {
    let stream = match timeout(wait, TcpStream::connect((host, port))).await {
        Ok(stream) => stream?,
        Err(_) => {
            let text = format!("no connection within {} ms", wait.as_millis());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    };
    // A request is one small write; it must not wait for company.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Open {
    async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there, at least one byte. Safe to drop.
    async fn receive(&mut self) -> io::Result<()> {
        self.make_room();
        let received = self.stream.read(&mut self.buffer[self.filled.end..]).await?;
        self.filled.end += received;
        if received == 0 { Err(closed()) } else { Ok(()) }
    }

    /// Takes the next whole frame. Its PDU stays in the buffer until more is received.
    fn next_frame(&mut self) -> Result<Option<frame::TcpFrame>, BrokenFraming> {
        let start = self.filled.start;
        let Some(mut frame) = frame::decode_tcp(&self.buffer[self.filled.clone()])? else {
            return Ok(None);
        };
        self.filled.start += frame.pdu.end;
        frame.pdu = start + frame.pdu.start..start + frame.pdu.end;
        Ok(Some(frame))
    }

    /// Throws away what came after its deadline, and notices if the other end has hung up or does not
    /// stop sending, which would hold up every other task. Costs no system call where nothing came.
    fn discard_old(&mut self, late: &mut Option<u8>) -> io::Result<()> {
        for _ in 0..MOST_OLD_READS {
            while let Some(frame) = self.next_frame().map_err(io::Error::other)? {
                *late = Some(frame.unit);
            }
            self.make_room();
            match self.stream.try_read(&mut self.buffer[self.filled.end..]) {
                Ok(0) => return Err(closed()),
                Ok(received) => self.filled.end += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("it sends without being asked"))
    }

    /// Moves what is left to the front: less than a frame, so there is always room after it.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other end")
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::config::settings::Table;

    /// A register of unit 1, as the answer to transaction `number`.
    fn answer(number: u16) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        vec![high, low, 0, 0, 0, 5, 1, 3, 2, 0, 7]
    }

    #[tokio::test]
    async fn a_device_that_sends_without_end_is_hung_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let request = Request::Read { table: Table::Holding, address: 0, count: 1 };
        let mut link = TcpLink::new("127.0.0.1", port, Duration::from_secs(5));
        let number = link.transaction.wrapping_add(1);
        let (first, device) = tokio::join!(link.call(1, &request, Duration::from_secs(5)), async {
            let (mut device, _) = listener.accept().await.expect("a connection");
            device.write_all(&answer(number)).await.expect("written");
            device
        });
        assert!(first.is_ok(), "{first:?}");

        let mut device = device;
        device.write_all(&answer(0).repeat(3000)).await.expect("room in the socket");
        let State::Open(open) = &mut link.state else { panic!("the connection is open") };
        open.stream.readable().await.expect("a stream");
        let before = Instant::now();
        while open.stream.peek(&mut [0; 32 * 1024]).await.expect("a stream") < 20 * 1024 {
            assert!(before.elapsed() < Duration::from_secs(5), "everything arrives");
        }
        let ended = open.discard_old(&mut None).expect_err("a flood");
        assert!(ended.to_string().contains("without being asked"), "{ended}");
    }
}
