//! What is heard on an RTU line, and what is made of it. Pure: bytes and times are arguments.
//!
//! ```text
//!            ┌── room, took ──┐                         ┌▶ Listen until …
//!   forget ──┴──▶ frame, asked ──▶ room, took ──▶ judge ┤
//!      ▲                                                └▶ Over: Answer, Damaged, Nothing
//!      └──────────────────────────────────────────────────────────┘
//!
//!   noise, late answers │ our own echo │ noise, late answers │ answer │ …
//! ```
//!
//! * **Noise.** The answer is looked for at every offset of what came since the request was sent, and has to be
//!   right in unit, function, length and checksum. How the bytes were cut on their way makes no difference.
//! * **Damage.** A read that came whole and damaged is over once nothing follows, so that it can be repeated at once.
//! * **Echo.** Some RS-485 adapters hear themselves. The answer to a write of one value *is* a copy of the request,
//!   so whether a line does is learnt from reads that show a copy, from answers that nothing stood before, and from
//!   a second copy behind a write. Until a line is known to have no echo, a write counts only behind its echo: a
//!   single copy confirms nothing.
//! * **Late answers.** An RTU frame does not say which request it answers. A unit that did not answer in time
//!   therefore *rests* for the same time again before it is asked anything. A late answer that is seen ends the
//!   rest, and is reported ([`Hearing::take_late`]).
//!
//! What it does *not* do: keep apart the answers of a unit that takes longer than all that; and guess that an echo of
//! which not one byte came will come with the next request.

#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tracing::{debug, trace};

use super::super::{
    frame::{
        DoesNotFit, Request,
        rtu::{self, Found},
    },
    wire::Discarded,
};

/// Room for an echo, an answer, and as much noise again.
const BUFFER: usize = 4 * rtu::MAX_FRAME;
/// Nothing follows a frame after this pause: USB adapters hand over what they have every 16 ms, serial servers
/// about as often.
const SETTLED: Duration = Duration::from_millis(20);

/// What one line said.
#[derive(Debug)]
pub(super) struct Hearing {
    /// Between two frames.
    silence: Duration,
    /// The last request.
    sent: Vec<u8>,
    /// Until when its answer counts.
    deadline: Instant,
    buffer: Box<[u8; BUFFER]>,
    /// Bytes heard, and how many of them were dealt with.
    filled: usize,
    done: usize,
    /// Whether the request's echo is among those.
    echo: bool,
    /// Whether the line gives our own bytes back, if that is known.
    echoes: Option<bool>,
    /// Before that, nothing is sent.
    quiet_at: Instant,
    /// Units whose answer may still come, and until when.
    resting: Vec<(u8, Instant)>,
    late: Option<u8>,
}

/// How to go on after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing is clear before more is heard, or this moment.
    Listen(Instant),
    Over(Heard),
}

/// What was heard after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// Where its answer's PDU is.
    Answer(Range<usize>),
    Damaged,
    Nothing,
}

impl Hearing {
    pub(super) fn new(silence: Duration, now: Instant) -> Self {
        Self {
            silence,
            sent: Vec::with_capacity(rtu::MAX_FRAME),
            deadline: now,
            buffer: Box::new([0; BUFFER]),
            filled: 0,
            done: 0,
            echo: false,
            echoes: None,
            quiet_at: now,
            resting: Vec::new(),
            late: None,
        }
    }

    /// The line is open now, and is perhaps another one than before.
    pub(super) fn opened(&mut self, now: Instant, may_be_another: bool) {
        self.forget();
        // Nobody knows what was on the line before.
        self.occupied_until(now);
        if may_be_another {
            self.echoes = None;
        }
    }

    /// The last byte on the line ends then.
    pub(super) fn occupied_until(&mut self, at: Instant) {
        self.quiet_at = at + self.silence;
    }

    /// From when on something may be sent.
    pub(super) fn quiet_at(&self) -> Instant {
        self.quiet_at
    }

    /// Until when a unit is not to be asked.
    pub(super) fn rests_until(&self, unit: u8) -> Option<Instant> {
        self.resting.iter().find(|(resting, _)| *resting == unit).map(|(_, until)| *until)
    }

    /// The unit that answered too late since this was last asked for.
    pub(super) fn take_late(&mut self) -> Option<u8> {
        self.late.take()
    }

    /// Where the next bytes go; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.filled == BUFFER {
            // No frame is longer than what stays.
            self.hear_late(BUFFER / 2);
            self.buffer.copy_within(BUFFER / 2.., 0);
            (self.filled, self.done) = (BUFFER / 2, self.done.saturating_sub(BUFFER / 2));
        }
        &mut self.buffer[self.filled..]
    }

    /// So many bytes were put there.
    pub(super) fn took(&mut self, received: usize, now: Instant) {
        self.filled += received;
        self.occupied_until(now);
    }

    /// No answer is waited for: whatever was heard is late.
    pub(super) fn forget(&mut self) {
        // A copy behind the answer: what was taken for that was the echo.
        let is_copy_an_echo = self.is_read() || self.done > 0;
        if is_copy_an_echo && holds(&self.buffer[self.done..self.filled], &self.sent) {
            self.learn(Some(true));
        }
        self.hear_late(self.filled);
        (self.filled, self.done, self.echo) = (0, 0, false);
    }

    /// The frame of the next request.
    pub(super) fn frame(&mut self, unit: u8, request: &Request<'_>) -> Result<&[u8], DoesNotFit> {
        rtu::encode(unit, request, &mut self.sent)?;
        Ok(&self.sent)
    }

    /// It was sent just now to a unit that may take so long until its answer is whole; after that, it rests.
    pub(super) fn asked(&mut self, unit: u8, now: Instant, longest: Duration, rest: Duration) {
        self.deadline = now + longest;
        self.resting.retain(|(other, until)| *other != unit && *until > now);
        self.resting.push((unit, self.deadline + rest));
    }

    /// What to make of what was heard since.
    pub(super) fn judge(&mut self, unit: u8, request: &Request<'_>, now: Instant) -> Next {
        let over = now >= self.deadline;
        self.look_for_echo();
        let found = if !over && (self.is_echo_due() || self.may_be_echo()) {
            Found::Nothing
        } else {
            rtu::find_answer(unit, request, &self.buffer[self.done..self.filled], over)
        };
        match found {
            Found::Answer(pdu) => {
                let pdu = self.done + pdu.start..self.done + pdu.end;
                self.learn_before(pdu.start - 1);
                self.done = pdu.end + 2;
                self.need_not_rest(unit);
                Next::Over(Heard::Answer(pdu))
            }
            // The unit rests all the same: it may have been something else.
            Found::Damaged if over => Next::Over(Heard::Damaged),
            // An echo that is damaged may look like an answer that is.
            Found::Damaged if self.echo || self.echoes == Some(false) => {
                let settled = self.quiet_at + SETTLED;
                if now < settled {
                    return Next::Listen(settled.min(self.deadline));
                }
                self.need_not_rest(unit);
                Next::Over(Heard::Damaged)
            }
            Found::Nothing if over => Next::Over(Heard::Nothing),
            Found::Damaged | Found::Nothing => Next::Listen(self.deadline),
        }
    }

    /// Bytes that were heard.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Whether anything was heard since the request.
    pub(super) fn has_heard(&self) -> bool {
        self.filled > 0
    }

    /// What came in place of an answer.
    pub(super) fn instead(&self, unit: u8, request: &Request<'_>) -> Option<Discarded> {
        let heard = &self.buffer[self.done..self.filled];
        if heard.is_empty() {
            return None;
        }
        Some(match rtu::find_any(heard, 0) {
            Some(frame) if frame.unit != unit => Discarded::Unit(frame.unit),
            Some(frame) => match request.answer(&heard[frame.pdu]) {
                Err(mismatch) => Discarded::Mismatch(mismatch),
                Ok(_) => Discarded::Noise(heard.len()),
            },
            None => Discarded::Noise(heard.len()),
        })
    }

    fn is_read(&self) -> bool {
        matches!(self.sent.get(1), Some(1..=4))
    }

    /// Whether the answer repeats the whole request.
    fn is_its_own_answer(&self) -> bool {
        matches!(self.sent.get(1), Some(5 | 6))
    }

    /// Whether nothing counts in time before the echo was heard. A copy is the echo then, and never the answer.
    fn is_echo_due(&self) -> bool {
        !self.echo && self.echoes.unwrap_or(!self.is_read())
    }

    /// Whether what came so far may be the beginning of an echo.
    fn may_be_echo(&self) -> bool {
        self.filled < self.sent.len() && self.sent.starts_with(&self.buffer[..self.filled])
    }

    fn look_for_echo(&mut self) {
        let heard = &self.buffer[..self.filled];
        let begin = if self.is_echo_due() {
            // Noise may stand before it.
            heard.windows(self.sent.len()).position(|bytes| bytes == self.sent)
        } else if !self.echo && !self.is_its_own_answer() && heard.starts_with(&self.sent) {
            Some(0)
        } else {
            None
        };
        let Some(begin) = begin else { return };
        self.hear_late(begin);
        (self.done, self.echo) = (begin + self.sent.len(), true);
        if !self.is_its_own_answer() {
            self.learn(Some(true));
        }
    }

    /// What the bytes before an answer that begins at `begin` tell.
    fn learn_before(&mut self, begin: usize) {
        let late = self.hear_late(begin);
        if self.echo {
            return;
        }
        let before = &self.buffer[self.done..begin];
        self.learn(match before.len() - late {
            _ if holds(before, &self.sent) => Some(true),
            0 => Some(false),
            // Too little for an echo.
            stray if stray < self.sent.len() / 2 => self.echoes.or(Some(false)),
            // It may have been one, damaged.
            _ => self.echoes.filter(|echoes| *echoes),
        });
    }

    fn learn(&mut self, echoes: Option<bool>) {
        if self.echoes != echoes {
            self.echoes = echoes;
            debug!(echoes, "echo of own bytes");
        }
    }

    /// Looks for late answers up to `end`: who gave one need not rest any longer. Returns how many bytes they are.
    fn hear_late(&mut self, end: usize) -> usize {
        let (mut from, mut bytes) = (self.done, 0);
        while let Some(frame) = rtu::find_any(&self.buffer[..end], from) {
            from = frame.pdu.end + 2;
            bytes += frame.pdu.len() + 3;
            self.need_not_rest(frame.unit);
            self.late = Some(frame.unit);
            trace!(unit = frame.unit, "late answer discarded");
        }
        bytes
    }

    fn need_not_rest(&mut self, unit: u8) {
        self.resting.retain(|(other, _)| *other != unit);
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|bytes| bytes == part)
}
