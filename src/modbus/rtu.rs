//! A line on which Modbus RTU is spoken: a serial port, or a connection that passes its bytes on.
//!
//! ```text
//!   closed ──call──▶ open ──▶ quiet for t3.5? ──▶ send ──▶ receive ──▶ answer
//!     ▲  waits longer │          ▲                            │
//!     └── each time ──┘          ├── answered, damaged ───────┤
//!     ▲                          └── no answer: the unit rests ┘
//!     └──── the port has gone, the connection is closed ──────
//! ```
//!
//! * **Silence.** Between the last byte received and the next request lie 3.5 characters (`airtime`), slept to the
//!   microsecond by the clock of the system: the runtime's timers have steps of a millisecond. That blocks the
//!   thread for a few milliseconds, which is why a serial bus has a thread of its own (`thread`). What arrives
//!   meanwhile begins the silence anew. Over TCP the far end keeps it.
//! * **Late answers.** An RTU frame does not say which request it answers. A unit that did not answer in time
//!   therefore *rests* for the same time again before it is asked anything; whatever it still says is drained.
//!   Other units are asked meanwhile: their address keeps them apart, so no neighbour waits for it. A late answer
//!   that is seen ends the rest, and is reported ([`Wire::take_late`]).
//! * **Noise.** The answer is looked for at every offset of what came since the request was sent, and has to be
//!   right in unit, function, length and checksum. A read that came whole and damaged fails at once.
//! * **Echo.** Some RS-485 adapters hear themselves. A copy of the request in front of the answer is left out. The
//!   answer to a write of one value *is* a copy of the request, so there it depends on what the last other request
//!   showed; controls are always read before they are written.
//! * **Loss.** A port that goes away is opened again when it is back under its name, looked for every 1 to 5 s.
//!
//! What it does *not* do: repeat anything. Whether a request may be repeated, only its sender knows.

use std::{io, thread, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{debug, trace};

use super::{
    airtime::{Airtime, TURNAROUND},
    frame::{
        Answer, Request,
        rtu::{self, Found},
    },
    link::{CallError, Discarded, LinkError, RequestError, Wire, connect},
    serial::{
        Port,
        journal::{Journal, Trouble},
    },
};
use crate::config::settings::Serial;

/// How long to wait after the first failure to open, and at most, a port and a connection.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT_PORT: Duration = Duration::from_secs(5);
const LONGEST_WAIT_TCP: Duration = Duration::from_secs(30);
/// Requests in a row without a byte after which a connection is made anew (see `link`).
const UNANSWERED: u32 = 3;
/// Room for an echo, an answer, and as much noise again.
const BUFFER: usize = 4 * rtu::MAX_FRAME;

/// A line that is opened when it is first used.
#[derive(Debug)]
pub struct RtuLink {
    place: Place,
    /// Absent where the line is at the far end of a connection, which keeps its times.
    airtime: Option<Airtime>,
    line: Option<Line>,
    reopen: Reopen,
    journal: Journal,
    /// The request under way.
    out: Vec<u8>,
    buffer: Box<[u8; BUFFER]>,
    /// Bytes received, and how many of them were dealt with.
    filled: usize,
    done: usize,
    /// Before that, nothing is sent.
    quiet_at: Instant,
    /// Units whose answer may still come, and until when.
    resting: Vec<(u8, Instant)>,
    late: Option<u8>,
    /// Whether the line gives our own bytes back.
    echoes: bool,
    /// Requests since anything was received.
    unanswered: u32,
    /// Whether anything was answered since the line was opened.
    proven: bool,
}

/// Where the line is.
#[derive(Debug)]
enum Place {
    Port(Serial),
    Host { host: String, port: u16, connect_timeout: Duration },
}

#[derive(Debug)]
enum Line {
    Port(Port),
    Stream(TcpStream),
}

/// When a line that could not be opened is tried again.
#[derive(Debug)]
struct Reopen {
    /// Before that, calls fail at once, for the reason given.
    again: Option<(Instant, LinkError)>,
    /// How long to wait after the next failure.
    wait: Duration,
    longest: Duration,
}

impl Reopen {
    fn refusal(&self) -> Option<&LinkError> {
        let (at, error) = self.again.as_ref()?;
        (Instant::now() < *at).then_some(error)
    }

    fn failed(&mut self, error: LinkError) {
        self.again = Some((Instant::now() + self.wait, error));
        self.wait = (self.wait * 2).min(self.longest);
    }

    fn worked(&mut self) {
        (self.again, self.wait) = (None, FIRST_WAIT);
    }
}

impl RtuLink {
    /// A serial port.
    #[must_use]
    pub fn serial(serial: &Serial) -> Self {
        let airtime = Airtime::new(serial);
        Self::new(Place::Port(serial.clone()), Some(airtime), LONGEST_WAIT_PORT)
    }

    /// A serial line behind a TCP connection.
    #[must_use]
    pub fn tcp(host: &str, port: u16, connect_timeout: Duration) -> Self {
        let place = Place::Host { host: host.to_owned(), port, connect_timeout };
        Self::new(place, None, LONGEST_WAIT_TCP)
    }

    fn new(place: Place, airtime: Option<Airtime>, longest: Duration) -> Self {
        Self {
            place,
            airtime,
            line: None,
            reopen: Reopen { again: None, wait: FIRST_WAIT, longest },
            journal: Journal::default(),
            out: Vec::with_capacity(rtu::MAX_FRAME),
            buffer: Box::new([0; BUFFER]),
            filled: 0,
            done: 0,
            quiet_at: Instant::now(),
            resting: Vec::new(),
            late: None,
            echoes: false,
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

    async fn open(&mut self) -> Result<(), LinkError> {
        if self.line.is_some() {
            return Ok(());
        }
        if let Some(error) = self.reopen.refusal() {
            return Err(error.clone());
        }
        let opened = match &self.place {
            Place::Port(serial) => match Port::open(serial) {
                Ok(port) => {
                    self.journal.opened(serial, &port);
                    Ok(Line::Port(port))
                }
                Err(reason) => {
                    self.journal.down(serial, Trouble::of(&reason), &reason.to_string());
                    Err(LinkError::Port { port: self.address(), reason })
                }
            },
            Place::Host { host, port, connect_timeout } => {
                connect(host, *port, *connect_timeout).await.map(Line::Stream).map_err(|error| {
                    LinkError::Connect { address: self.address(), reason: error.to_string() }
                })
            }
        };
        match opened {
            Ok(line) => {
                // Nobody knows what was on the line before.
                self.quiet_at = Instant::now() + self.silence();
                (self.line, self.filled, self.done, self.unanswered) = (Some(line), 0, 0, 0);
                self.proven = false;
                Ok(())
            }
            Err(error) => {
                self.reopen.failed(error.clone());
                Err(error)
            }
        }
    }

    /// Gives the line up. One that had answered may be opened again at once, another one only after a while.
    fn close(&mut self, error: &io::Error) -> LinkError {
        self.line = None;
        let lost = LinkError::Lost { address: self.address(), reason: error.to_string() };
        let (address, reason) = (self.address(), format!("it went away: {error}"));
        match &self.place {
            Place::Port(serial) => self.journal.down(serial, Trouble::Gone, &reason),
            Place::Host { .. } => debug!(address, %error, "connection ended"),
        }
        if !self.proven {
            self.reopen.failed(LinkError::Connect { address, reason });
        }
        lost
    }

    fn silence(&self) -> Duration {
        self.airtime.map_or(Duration::ZERO, |airtime| airtime.silence())
    }

    /// Waits until the line is open, a unit has rested, and nothing was heard for as long as frames have to be
    /// apart. What is heard meanwhile is late. All errors say that nothing was sent.
    async fn make_ready(&mut self, unit: u8, wait: Duration) -> Result<(), CallError> {
        self.open().await?;
        self.buffer.copy_within(self.done..self.filled, 0);
        (self.filled, self.done) = (self.filled - self.done, 0);
        if let Some(rested) = self.rests_until(unit) {
            sleep_until(rested).await;
        }
        let started = Instant::now();
        loop {
            sleep_precisely(self.quiet_at);
            let Some(line) = &self.line else {
                self.open().await?;
                continue;
            };
            match line.try_read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(received) => {
                    self.took(received);
                }
                // Gone while nothing was under way: it may be back already.
                Err(error) => drop(self.close(&error)),
            }
            if started.elapsed() > wait {
                (self.filled, self.done) = (0, 0);
                return Err(RequestError::NotQuiet { after: wait }.into());
            }
            // The line may babble without end; others on this thread want a turn.
            tokio::task::yield_now().await;
        }
        self.hear_late(self.filled);
        (self.filled, self.done) = (0, 0);
        Ok(())
    }

    /// Notes bytes that came just now, and says how many old ones had to make room for more.
    fn took(&mut self, received: usize) -> usize {
        self.filled += received;
        self.quiet_at = Instant::now() + self.silence();
        if self.filled < BUFFER {
            return 0;
        }
        // No frame is longer than what stays.
        self.hear_late(BUFFER / 2);
        self.buffer.copy_within(BUFFER / 2.., 0);
        (self.filled, self.done) = (BUFFER / 2, 0);
        BUFFER / 2
    }

    /// Looks for late answers in the first `end` bytes: who gave one need not rest any longer.
    fn hear_late(&mut self, end: usize) {
        let mut from = 0;
        while let Some(frame) = rtu::find_any(&self.buffer[..end], from) {
            from = frame.pdu.end + 2;
            self.resting.retain(|(unit, _)| *unit != frame.unit);
            self.late = Some(frame.unit);
            trace!(unit = frame.unit, "late answer discarded");
        }
    }

    /// Takes what arrives until it holds the answer, or `deadline`.
    async fn receive(
        &mut self,
        unit: u8,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Heard, io::Error> {
        // Where the echo ends.
        let mut echo: Option<usize> = None;
        loop {
            let Some(line) = &mut self.line else { return Ok(Heard::Nothing) };
            let free = &mut self.buffer[self.filled..];
            // A line that babbles always has something to read, so the clock is asked as well.
            let Ok(received) = timeout_at(deadline, line.read(free)).await else {
                return Ok(self.judge(unit, request, echo, true));
            };
            let gone = self.took(received?);
            echo = echo.map(|end| end.saturating_sub(gone));
            let last = Instant::now() >= deadline;
            if echo.is_none() {
                match self.echo(request) {
                    Echo::End(end) => echo = Some(end),
                    Echo::Perhaps if !last => continue,
                    Echo::Perhaps | Echo::None => {}
                }
            }
            match self.judge(unit, request, echo, last) {
                Heard::Nothing if !last => {}
                heard => return Ok(heard),
            }
        }
    }

    fn judge(&mut self, unit: u8, request: &Request<'_>, echo: Option<usize>, last: bool) -> Heard {
        // A write that an echo alone would confirm is not confirmed by it.
        if self.echoes && is_its_own_answer(request) && echo.is_none() {
            return Heard::Nothing;
        }
        let start = echo.unwrap_or(0);
        match rtu::find_answer(unit, request, &self.buffer[start..self.filled], last) {
            Found::Answer(pdu) => {
                if !is_its_own_answer(request) {
                    self.learn(echo, start + pdu.start - 1);
                }
                self.done = start + pdu.end + 2;
                Heard::Answer(start + pdu.start..start + pdu.end)
            }
            Found::Damaged => Heard::Damaged,
            Found::Nothing => Heard::Nothing,
        }
    }

    /// Notes whether the line gives our own bytes back, from an answer that began at `begin`. Only an answer that
    /// nothing stood before shows that it does not: an echo may have been damaged.
    fn learn(&mut self, echo: Option<usize>, begin: usize) {
        let before = &self.buffer[..begin];
        let echoes = echo.is_some() || holds(before, &self.out) || (self.echoes && begin > 0);
        if self.echoes != echoes {
            self.echoes = echoes;
            debug!(address = self.address(), echoes, "echo of own bytes");
        }
    }

    /// Whether what came begins with our own request.
    fn echo(&self, request: &Request<'_>) -> Echo {
        let heard = &self.buffer[..self.filled];
        let sent = self.out.as_slice();
        if self.echoes {
            // Noise may stand before it.
            let at = heard.windows(sent.len()).position(|bytes| bytes == sent);
            return at.map_or(Echo::None, |at| Echo::End(at + sent.len()));
        }
        if is_its_own_answer(request) {
            Echo::None
        } else if heard.starts_with(sent) {
            Echo::End(sent.len())
        } else if sent.starts_with(heard) {
            Echo::Perhaps
        } else {
            Echo::None
        }
    }

    /// What came in place of an answer.
    fn why_not(&self, unit: u8, request: &Request<'_>, wait: Duration) -> RequestError {
        let sent = self.out.as_slice();
        let heard = &self.buffer[..self.filled];
        let heard = heard.strip_prefix(sent).unwrap_or(heard);
        if heard.is_empty() {
            return RequestError::Silent { after: wait };
        }
        let discarded = match rtu::find_any(heard, 0) {
            Some(frame) if frame.unit != unit => Discarded::Unit(frame.unit),
            Some(frame) => match request.answer(&heard[frame.pdu]) {
                Err(mismatch) => Discarded::Mismatch(mismatch),
                Ok(_) => Discarded::Noise(heard.len()),
            },
            None => Discarded::Noise(heard.len()),
        };
        RequestError::Foreign { after: wait, discarded }
    }

    async fn send(&mut self) -> io::Result<()> {
        match &mut self.line {
            Some(Line::Port(port)) => port.send(&self.out).await,
            Some(Line::Stream(stream)) => send_tcp(stream, &self.out).await,
            None => Ok(()),
        }
    }

    fn rest(&mut self, unit: u8, until: Instant) {
        let now = Instant::now();
        self.resting.retain(|(other, until)| *other != unit && *until > now);
        self.resting.push((unit, until));
    }
}

impl Wire for RtuLink {
    async fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        rtu::encode(unit, request, &mut self.out).map_err(RequestError::from)?;
        if unit == 0 && matches!(request, Request::Read { .. }) {
            return Err(RequestError::Broadcast.into());
        }
        self.make_ready(unit, wait).await?;

        let sent = Instant::now();
        self.unanswered += 1;
        self.send().await.map_err(|error| self.close(&error))?;
        let over = sent + self.airtime.map_or(Duration::ZERO, |airtime| airtime.of(self.out.len()));
        if unit == 0 {
            self.quiet_at = over + TURNAROUND;
            return Ok(Answer::Written);
        }
        let longest = self.airtime.map_or(wait, |airtime| airtime.longest_exchange(request, wait));
        let deadline = sent + longest;
        self.quiet_at = over + self.silence();
        // Now already: this future may be dropped before an answer comes.
        self.rest(unit, deadline + wait);

        let heard = self.receive(unit, request, deadline).await;
        match heard.map_err(|error| self.close(&error))? {
            Heard::Answer(pdu) => {
                self.hear_late(pdu.start - 1);
                self.resting.retain(|(other, _)| *other != unit);
                self.unanswered = 0;
                self.reopen.worked();
                self.proven = true;
                match request.answer(&self.buffer[pdu]) {
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(exception)) => Err(RequestError::Exception(exception).into()),
                    // Looked at before and found right.
                    Err(mismatch) => {
                        let discarded = Discarded::Mismatch(mismatch);
                        Err(RequestError::Foreign { after: wait, discarded }.into())
                    }
                }
            }
            Heard::Damaged => {
                self.resting.retain(|(other, _)| *other != unit);
                self.unanswered = 0;
                Err(RequestError::Damaged.into())
            }
            Heard::Nothing => {
                let error = self.why_not(unit, request, wait);
                if self.filled > 0 {
                    self.unanswered = 0;
                } else if self.unanswered >= UNANSWERED
                    && matches!(self.line, Some(Line::Stream(_)))
                {
                    debug!(address = self.address(), "nothing is answered, connecting anew");
                    self.line = None;
                }
                Err(error.into())
            }
        }
    }

    fn take_late(&mut self) -> Option<u8> {
        self.late.take()
    }

    fn rests_until(&self, unit: u8) -> Option<Instant> {
        self.resting.iter().find(|(resting, _)| *resting == unit).map(|(_, until)| *until)
    }
}

/// What was heard after a request.
enum Heard {
    /// Where its answer's PDU is in the buffer.
    Answer(std::ops::Range<usize>),
    Damaged,
    Nothing,
}

/// What is known about an echo.
enum Echo {
    /// There is none.
    None,
    /// What came so far may be one, or the answer.
    Perhaps,
    /// There is one, up to here.
    End(usize),
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|bytes| bytes == part)
}

/// Whether the answer repeats the whole request.
fn is_its_own_answer(request: &Request<'_>) -> bool {
    matches!(request, Request::WriteCoil { .. } | Request::WriteRegister { .. })
}

impl Line {
    /// Reads what is there, perhaps nothing.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = match self {
            Self::Port(port) => port.try_read(buffer),
            Self::Stream(stream) => stream.try_read(buffer).and_then(not_closed),
        };
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Waits for at least one byte. Safe to drop.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Port(port) => port.read(buffer).await,
            Self::Stream(stream) => stream.read(buffer).await.and_then(not_closed),
        }
    }
}

fn not_closed(received: usize) -> io::Result<usize> {
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other end");
    if received == 0 { Err(closed()) } else { Ok(received) }
}

async fn send_tcp(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    stream.write_all(bytes).await
}

/// Sleeps to the microsecond, which the runtime's timers cannot.
fn sleep_precisely(until: Instant) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::TcpListener};

    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::Table;

    const UNIT: u8 = 3;
    const WAIT: Duration = Duration::from_secs(10);

    fn read() -> Request<'static> {
        Request::Read { table: Table::Holding, address: 7, count: 1 }
    }

    fn listen() -> (TcpListener, RtuLink) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        (listener, RtuLink::tcp("127.0.0.1", port, WAIT))
    }

    /// What is made of these bytes after a request, by when they have to have come, and whether the line is said to
    /// give our own back before and after.
    async fn hear(bytes: &[u8], wait: Duration, echoes: bool) -> io::Result<(Heard, bool)> {
        let (listener, mut link) = listen();
        link.open().await.expect("somebody listens");
        let (mut peer, _) = listener.accept()?;
        peer.write_all(bytes)?;
        drop(peer);
        if let Some(Line::Stream(stream)) = &link.line {
            stream.readable().await?;
        }
        rtu::encode(UNIT, &read(), &mut link.out).expect("a request");
        link.echoes = echoes;
        let heard = link.receive(UNIT, &read(), Instant::now() + wait).await?;
        Ok((heard, link.echoes))
    }

    fn echo_and_answer() -> (Vec<u8>, Vec<u8>) {
        let mut echo = Vec::new();
        rtu::encode(UNIT, &read(), &mut echo).expect("a request");
        let mut answer = vec![UNIT, 3, 2, 0, 42];
        answer.extend(rtu::crc(&answer).to_le_bytes());
        (echo, answer)
    }

    /// A write on a line taken for one without echo is confirmed by the echo alone, although nobody did it.
    #[tokio::test]
    async fn that_a_line_echoes_is_seen_also_late_behind_noise_and_in_damage() {
        let (echo, answer) = echo_and_answer();
        let damaged = [&[echo[0] ^ 1], &echo[1..]].concat();
        let (noise, none) = (vec![0xF0, 0x55], vec![]);
        for (before, echo, wait, known, echoes) in [
            (&none, &echo, WAIT, false, true),
            (&none, &echo, Duration::ZERO, false, true),
            (&noise, &echo, WAIT, false, true),
            (&noise, &echo, WAIT, true, true),
            (&none, &damaged, WAIT, true, true),
            (&none, &damaged, Duration::ZERO, true, true),
            (&noise, &none, WAIT, true, true),
            (&noise, &none, WAIT, false, false),
            (&none, &none, WAIT, true, false),
            (&none, &none, Duration::ZERO, true, false),
        ] {
            let bytes = [&before[..], echo, &answer].concat();
            let (heard, learnt) = hear(&bytes, wait, known).await.expect("all was sent");
            assert!(matches!(heard, Heard::Answer(_)), "{bytes:x?}");
            assert_eq!(learnt, echoes, "{bytes:x?} {wait:?} {known}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_answer_is_found_behind_any_noise_before_and_after_an_echo(
            before in prop::collection::vec(0x80_u8.., 0..2048),
            after in prop::collection::vec(0x80_u8.., 0..2048),
        ) {
            let (echo, answer) = echo_and_answer();
            let bytes = [before, echo, after, answer].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (heard, _) = runtime.block_on(hear(&bytes, WAIT, true))?;
            prop_assert!(matches!(heard, Heard::Answer(_)));
        }
    }

    #[tokio::test]
    async fn a_line_that_ends_before_it_answered_anything_is_not_opened_again_at_once() {
        let (listener, mut link) = listen();
        link.open().await.expect("somebody listens");
        drop(listener.accept().expect("a connection"));
        link.call(UNIT, &read(), WAIT).await.expect_err("hung up");
        link.call(UNIT, &read(), WAIT).await.expect_err("not opened");
        listener.set_nonblocking(true).expect("a flag");
        let again = listener.accept().expect_err("no second connection");
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
    }
}
