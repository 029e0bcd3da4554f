//! A line on which Modbus RTU is spoken: a serial port, or a connection that passes its bytes on.
//!
//! ```text
//!   open (line) ──▶ rested? quiet for t3.5? ──▶ send ──▶ receive (hearing) ──▶ answer
//!                     ▲                                     │
//!                     ├────────── answered, damaged ────────┤
//!                     └────────── no answer: the unit rests ┘
//! ```
//!
//! This is the shell: it opens, sleeps, sends and reads. What is made of the bytes, `hearing` says; when a line
//! is opened again, `line`.
//!
//! * **Silence.** Between the last byte received and the next request lie 3.5 characters (`airtime`), slept to the
//!   microsecond by the clock of the system: the runtime's timers have steps of a millisecond. That blocks the
//!   thread for a few milliseconds, which is why a serial bus has a thread of its own (`thread`). What arrives
//!   meanwhile begins the silence anew. Over TCP the far end keeps it.
//! * **Rest.** A unit that did not answer in time is asked again only when its answer cannot come any more. Other
//!   units are asked meanwhile: their address keeps them apart, so no neighbour waits for it.
//!
//! What it does *not* do: repeat anything. Whether a request may be repeated, only its sender knows.

mod hearing;
mod line;

use std::{
    thread,
    time::{Duration, Instant},
};

use hearing::{Heard, Hearing, Next};
use line::Line;
use tokio::time::{sleep_until, timeout_at};

use super::{
    airtime::{Airtime, TURNAROUND},
    frame::{Answer, Request},
    wire::{CallError, Discarded, LinkError, RequestError, Wire},
};
use crate::config::settings::Serial;

/// A line that is opened when it is first used.
#[derive(Debug)]
pub struct RtuLink {
    line: Line,
    /// Absent where the line is at the far end of a connection, which keeps its times.
    airtime: Option<Airtime>,
    hearing: Hearing,
}

impl RtuLink {
    /// A serial port.
    #[must_use]
    pub fn serial(serial: &Serial) -> Self {
        Self::new(Line::serial(serial), Some(Airtime::new(serial)))
    }

    /// A serial line behind a TCP connection.
    #[must_use]
    pub fn tcp(host: &str, port: u16, connect_timeout: Duration) -> Self {
        Self::new(Line::tcp(host, port, connect_timeout), None)
    }

    fn new(line: Line, airtime: Option<Airtime>) -> Self {
        let silence = airtime.map_or(Duration::ZERO, |airtime| airtime.silence());
        Self { line, airtime, hearing: Hearing::new(silence, Instant::now()) }
    }

    async fn open(&mut self) -> Result<(), LinkError> {
        if self.line.open().await? {
            // Behind a port there may be another adapter now. What a far end does with our bytes outlives the
            // connection to it.
            self.hearing.opened(Instant::now(), self.airtime.is_some());
        }
        Ok(())
    }

    /// Waits until the line is open, a unit has rested, and nothing was heard for as long as frames have to be
    /// apart. What is heard meanwhile is late. All errors say that nothing was sent.
    async fn make_ready(&mut self, unit: u8, wait: Duration) -> Result<(), CallError> {
        self.open().await?;
        if let Some(rested) = self.hearing.rests_until(unit) {
            sleep_until(rested.into()).await;
        }
        let started = Instant::now();
        loop {
            sleep_precisely(self.hearing.quiet_at());
            match self.line.try_read(self.hearing.room()) {
                Ok(0) => break,
                Ok(received) => self.hearing.took(received, Instant::now()),
                // Gone while nothing was under way: it may be back already.
                Err(_) => self.open().await?,
            }
            if started.elapsed() > wait {
                self.hearing.forget();
                return Err(RequestError::NotQuiet { after: wait }.into());
            }
            // The line may babble without end; others on this thread want a turn.
            tokio::task::yield_now().await;
        }
        self.hearing.forget();
        Ok(())
    }

    /// Takes what arrives until it is clear what was answered.
    async fn receive(&mut self, unit: u8, request: &Request<'_>) -> Result<Heard, LinkError> {
        loop {
            let until = match self.hearing.judge(unit, request, Instant::now()) {
                Next::Listen(until) => until,
                Next::Over(heard) => return Ok(heard),
            };
            let read = self.line.read(self.hearing.room());
            if let Ok(received) = timeout_at(until.into(), read).await {
                self.hearing.took(received?, Instant::now());
            }
        }
    }
}

impl Wire for RtuLink {
    async fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        if unit == 0 && matches!(request, Request::Read { .. }) {
            return Err(RequestError::Broadcast.into());
        }
        self.make_ready(unit, wait).await?;
        let frame = self.hearing.frame(unit, request).map_err(RequestError::from)?;

        let sent = Instant::now();
        self.line.send(frame).await?;
        let over = sent + self.airtime.map_or(Duration::ZERO, |airtime| airtime.of(frame.len()));
        if unit == 0 {
            self.hearing.occupied_until(over + TURNAROUND);
            return Ok(Answer::Written);
        }
        let longest = self.airtime.map_or(wait, |airtime| airtime.longest_exchange(request, wait));
        self.hearing.occupied_until(over);
        // Now already: this future may be dropped before an answer comes.
        self.hearing.asked(unit, sent, longest, wait);

        let heard = self.receive(unit, request).await?;
        let Heard::Answer(pdu) = heard else {
            self.line.not_answered(self.hearing.has_heard());
            return Err(match self.hearing.instead(unit, request) {
                _ if matches!(heard, Heard::Damaged) => RequestError::Damaged,
                Some(discarded) => RequestError::Foreign { after: wait, discarded },
                None => RequestError::Silent { after: wait },
            }
            .into());
        };
        self.line.answered();
        match request.answer(self.hearing.bytes(pdu)) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(exception)) => Err(RequestError::Exception(exception).into()),
            // Looked at before and found right.
            Err(mismatch) => {
                let discarded = Discarded::Mismatch(mismatch);
                Err(RequestError::Foreign { after: wait, discarded }.into())
            }
        }
    }

    fn take_late(&mut self) -> Option<u8> {
        self.hearing.take_late()
    }

    fn rests_until(&self, unit: u8) -> Option<tokio::time::Instant> {
        self.hearing.rests_until(unit).map(Into::into)
    }
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
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::settings::Table;

    #[tokio::test]
    async fn a_unit_that_did_not_answer_rests_and_a_broadcast_is_given_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let mut link = RtuLink::tcp("127.0.0.1", port, Duration::from_secs(10));
        let wait = Duration::from_millis(50);
        let read = Request::Read { table: Table::Holding, address: 7, count: 1 };
        let write = Request::WriteCoil { address: 7, on: true };
        let started = Instant::now();
        for asked in [1, 3] {
            let silent = Err(RequestError::Silent { after: wait }.into());
            assert_eq!(link.call(3, &read, wait).await, silent);
            assert!(started.elapsed() >= wait * asked, "{:?}", started.elapsed());
        }
        let started = Instant::now();
        for _ in 0..2 {
            assert_eq!(link.call(0, &write, wait).await, Ok(Answer::Written));
        }
        assert!(started.elapsed() >= TURNAROUND, "{:?}", started.elapsed());
    }
}
