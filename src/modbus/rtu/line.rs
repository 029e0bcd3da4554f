//! Where an RTU line is, and when it is opened.
//!
//! ```text
//!   closed ──open──▶ open ──▶ read, send
//!     ▲  waits longer  │
//!     └── each time ───┴── the port has gone, the connection is closed, three requests without a byte
//! ```
//!
//! A line that answered is opened again at once when it ends, any other only after a while: at first a second,
//! doubling to 5 s for a port and 30 s for a connection. Until then opening fails at once.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracing::debug;

use super::super::{
    link::connect,
    serial::{
        Port,
        journal::{Journal, Trouble},
    },
    wire::LinkError,
};
use crate::config::settings::Serial;

/// How long to wait after the first failure to open, and at most, a port and a connection.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT_PORT: Duration = Duration::from_secs(5);
const LONGEST_WAIT_TCP: Duration = Duration::from_secs(30);
/// Requests in a row without a byte after which a connection is made anew (see `link`).
const UNANSWERED: u32 = 3;

/// A serial port, or a connection that leads to one.
#[derive(Debug)]
pub(super) struct Line {
    place: Place,
    carrier: Option<Carrier>,
    journal: Journal,
    /// Before that, opening fails at once, for the reason given.
    again: Option<(Instant, LinkError)>,
    /// How long to wait after the next failure.
    wait: Duration,
    /// Requests since anything was heard.
    unanswered: u32,
    /// Whether anything was answered since it was opened.
    proven: bool,
}

#[derive(Debug)]
enum Place {
    Port(Serial),
    Host { host: String, port: u16, connect_timeout: Duration },
}

#[derive(Debug)]
enum Carrier {
    Port(Port),
    Stream(TcpStream),
}

impl Line {
    pub(super) fn serial(serial: &Serial) -> Self {
        Self::new(Place::Port(serial.clone()))
    }

    pub(super) fn tcp(host: &str, port: u16, connect_timeout: Duration) -> Self {
        Self::new(Place::Host { host: host.to_owned(), port, connect_timeout })
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            carrier: None,
            journal: Journal::default(),
            again: None,
            wait: FIRST_WAIT,
            unanswered: 0,
            proven: false,
        }
    }

    fn address(&self) -> String {
        match &self.place {
            Place::Port(serial) => serial.port.display().to_string(),
            Place::Host { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// Opens it unless it is open, and says whether it was not.
    pub(super) async fn open(&mut self) -> Result<bool, LinkError> {
        if self.carrier.is_some() {
            return Ok(false);
        }
        if let Some((at, error)) = &self.again
            && Instant::now() < *at
        {
            return Err(error.clone());
        }
        let opened = match &self.place {
            Place::Port(serial) => match Port::open(serial) {
                Ok(port) => {
                    self.journal.opened(serial, &port);
                    Ok(Carrier::Port(port))
                }
                Err(reason) => {
                    self.journal.down(serial, Trouble::of(&reason), &reason.to_string());
                    Err(LinkError::Port { port: self.address(), reason })
                }
            },
            Place::Host { host, port, connect_timeout } => {
                let stream = connect(host, *port, *connect_timeout).await;
                stream.map(Carrier::Stream).map_err(|error| LinkError::Connect {
                    address: self.address(),
                    reason: error.to_string(),
                })
            }
        };
        let carrier = opened.inspect_err(|error| self.put_off(error.clone()))?;
        self.carrier = Some(carrier);
        (self.unanswered, self.proven) = (0, false);
        Ok(true)
    }

    fn put_off(&mut self, error: LinkError) {
        self.again = Some((Instant::now() + self.wait, error));
        let longest = match self.place {
            Place::Port(_) => LONGEST_WAIT_PORT,
            Place::Host { .. } => LONGEST_WAIT_TCP,
        };
        self.wait = (self.wait * 2).min(longest);
    }

    /// Gives it up.
    fn close(&mut self, error: &io::Error) -> LinkError {
        self.carrier = None;
        let (address, reason) = (self.address(), format!("it went away: {error}"));
        match &self.place {
            Place::Port(serial) => self.journal.down(serial, Trouble::Gone, &reason),
            Place::Host { .. } => debug!(address, %error, "connection ended"),
        }
        if !self.proven {
            self.put_off(LinkError::Connect { address, reason });
        }
        LinkError::Lost { address: self.address(), reason: error.to_string() }
    }

    /// Reads what is there, perhaps nothing.
    pub(super) fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize, LinkError> {
        let received = match &self.carrier {
            Some(Carrier::Port(port)) => port.try_read(buffer),
            Some(Carrier::Stream(stream)) => stream.try_read(buffer).and_then(not_closed),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other.map_err(|error| self.close(&error)),
        }
    }

    /// Waits for at least one byte. Safe to drop.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LinkError> {
        let received = match &mut self.carrier {
            Some(Carrier::Port(port)) => port.read(buffer).await,
            Some(Carrier::Stream(stream)) => stream.read(buffer).await.and_then(not_closed),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        received.map_err(|error| self.close(&error))
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let sent = match &mut self.carrier {
            Some(Carrier::Port(port)) => port.send(bytes).await,
            Some(Carrier::Stream(stream)) => stream.write_all(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        sent.map_err(|error| self.close(&error))
    }

    /// A request was answered.
    pub(super) fn answered(&mut self) {
        (self.again, self.wait) = (None, FIRST_WAIT);
        (self.unanswered, self.proven) = (0, true);
    }

    /// A request was not answered, with other bytes in its place or without any.
    pub(super) fn not_answered(&mut self, heard: bool) {
        self.unanswered = if heard { 0 } else { self.unanswered + 1 };
        if self.unanswered >= UNANSWERED && matches!(self.carrier, Some(Carrier::Stream(_))) {
            debug!(address = self.address(), "nothing is answered, connecting anew");
            self.carrier = None;
        }
    }
}

fn not_closed(received: usize) -> io::Result<usize> {
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other end");
    if received == 0 { Err(closed()) } else { Ok(received) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::settings::Parity;

    /// A line to a listener, and the listener.
    async fn connected() -> (Line, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let mut line = Line::tcp("127.0.0.1", port, Duration::from_secs(10));
        assert_eq!(line.open().await, Ok(true), "it was not open");
        assert_eq!(line.open().await, Ok(false), "it is open");
        (line, listener)
    }

    #[tokio::test]
    async fn a_line_that_ends_before_it_answered_anything_is_not_opened_again_at_once() {
        for answered in [false, true] {
            let (mut line, listener) = connected().await;
            drop(listener.accept().expect("a connection"));
            if answered {
                line.answered();
            }
            let lost = line.read(&mut [0; 8]).await;
            assert!(matches!(lost, Err(LinkError::Lost { .. })), "{lost:?}");
            let opened = line.open().await;
            assert_eq!(opened == Ok(true), answered, "{opened:?}");
            listener.set_nonblocking(true).expect("a flag");
            assert_eq!(listener.accept().is_ok(), answered, "a second connection");
        }
    }

    #[tokio::test]
    async fn a_connection_is_made_anew_after_three_requests_without_a_byte() {
        let (mut line, _listener) = connected().await;
        for heard in [false, false, true, false, false] {
            line.not_answered(heard);
            assert_eq!(line.open().await, Ok(false));
        }
        line.not_answered(false);
        assert_eq!(line.open().await, Ok(true));
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_begins_anew_after_an_answer() {
        let serial = Serial { port: "port".into(), baud: 9600, parity: Parity::None, stop_bits: 1 };
        let host = Line::tcp("host", 1, Duration::ZERO);
        for (mut line, waits) in
            [(Line::serial(&serial), vec![1, 2, 4, 5, 5]), (host, vec![1, 2, 4, 8, 16, 30, 30])]
        {
            for seconds in waits {
                assert_eq!(line.wait, Duration::from_secs(seconds));
                line.put_off(LinkError::Lost { address: line.address(), reason: String::new() });
            }
            line.answered();
            assert_eq!((line.wait, line.again), (FIRST_WAIT, None));
        }
    }
}
