//! A recording read again: its exchanges as a [`Wire`], so that the planner, the decoder and the rules of
//! a source work on them as they do on a device.
//!
//! ```text
//!  recording ──rounds──▶ one Playback a round ──▶ Source ──▶ Outcome
//!
//!  asked for                          answered with
//!  just what was asked then           what came then, in the order of then
//!  registers that were all read       their contents, put together
//!  a part of what failed then         that failure
//!  anything else                      "illegal data address", so that the planner divides the block and
//!                                     whatever was recorded of it is found
//! ```
//!
//! So a recording tells what another configuration would have made of it: other types, orders, factors,
//! other blocks. What it cannot tell are registers that were not read then: [`Playback::has`] knows them.
//!
//! Only reads are played. Time does not pass in a round.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    frame::{Answer, Data, Request},
    recording::{Line, LinkState},
    wire::{CallError, LinkError, RequestError, Wire},
};
use crate::config::settings::Table;

/// A request that failed and is repeated within this time belongs to the same round: that is how a source
/// retries. One that is down is asked again later than that.
const RETRY_WITHIN_US: u64 = 4_500_000;

/// What a unit said in one round of reading it.
#[derive(Debug)]
pub struct Playback {
    reads: Vec<Read>,
    /// Each register (its two bytes) and bit (one byte) that was read.
    image: BTreeMap<(Table, u16), [u8; 2]>,
    /// The present answer.
    pdu: Vec<u8>,
}

/// A recorded read.
#[derive(Debug)]
struct Read {
    line: Line,
    table: Table,
    /// First and past the last register.
    range: std::ops::Range<u32>,
    played: bool,
}

impl Playback {
    /// The rounds in which one unit of one bus was read, oldest first. A round ends before a request
    /// that was answered in it already.
    #[must_use]
    pub fn rounds(recording: &[Line], bus: &str, unit: u8) -> Vec<Self> {
        let mut rounds: Vec<Vec<Read>> = Vec::new();
        let mine = recording.iter().filter(|line| line.bus == bus && line.unit == unit);
        for read in mine.filter_map(Read::new) {
            let same = |earlier: &&Read| earlier.line.sent == read.line.sent;
            let before = rounds.last().and_then(|round| round.iter().rev().find(same));
            let begins = before.is_some_and(|before| {
                let silent_until = before.line.running_us.saturating_add(before.line.took_us);
                before.line.received.is_some()
                    || read.line.running_us.saturating_sub(silent_until) > RETRY_WITHIN_US
            });
            match rounds.last_mut() {
                Some(round) if !begins => round.push(read),
                _ => rounds.push(vec![read]),
            }
        }
        rounds.into_iter().map(Self::of).collect()
    }

    fn of(reads: Vec<Read>) -> Self {
        let mut image = BTreeMap::new();
        for read in &reads {
            let request = read.request();
            let pdu = read.line.received.as_deref().unwrap_or_default();
            let Ok(Ok(Answer::Data(data))) = request.answer(pdu) else { continue };
            for (index, address) in read.range.clone().enumerate() {
                let value = match data {
                    Data::Bits(_) => data.bit(index).map(|bit| [u8::from(bit), 0]),
                    Data::Words(_) => data.words(index, 1).and_then(|word| word.try_into().ok()),
                };
                if let (Some(value), Ok(address)) = (value, u16::try_from(address)) {
                    image.insert((read.table, address), value);
                }
            }
        }
        Self { reads, image, pdu: Vec::new() }
    }

    /// When the round began, if that is known.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.reads.first().and_then(|read| read.line.time())
    }

    /// Whether all of these registers were asked for in this round, answered or not.
    #[must_use]
    pub fn has(&self, table: Table, address: u16, count: u16) -> bool {
        span(address, count).all(|address| {
            self.reads.iter().any(|read| read.table == table && read.range.contains(&address))
        })
    }

    /// What the unit says to a read: an answer in `self.pdu`, or why there is none.
    fn play(&mut self, table: Table, address: u16, count: u16) -> Result<(), CallError> {
        let range = span(address, count);
        let same = |read: &&mut Read| read.table == table && read.range == range;
        let mut matching: Vec<_> = self.reads.iter_mut().filter(same).collect();
        let next = matching.iter().position(|read| !read.played);
        // Asked more often than then: it would have gone on as it ended.
        let next = next.or(matching.len().checked_sub(1));
        if let Some(read) = next.and_then(|next| matching.get_mut(next)) {
            read.played = true;
            return match &read.line.received {
                Some(pdu) => {
                    self.pdu.clone_from(pdu);
                    Ok(())
                }
                None => Err(read.failure()),
            };
        }
        if self.put_together(table, range.clone()) {
            return Ok(());
        }
        let within = |read: &&Read| {
            read.table == table && read.range.start <= range.start && range.end <= read.range.end
        };
        if let Some(read) = self.reads.iter().rev().find(within) {
            match &read.line.received {
                None => return Err(read.failure()),
                // A refusal, or the registers would have been put together.
                Some(pdu) => self.pdu.clone_from(pdu),
            }
            return Ok(());
        }
        let function = Request::Read { table, address, count }.function();
        self.pdu = vec![function | 0x80, super::frame::Exception::ILLEGAL_ADDRESS.0];
        Ok(())
    }

    /// Makes an answer of what was read, if all of the range was.
    fn put_together(&mut self, table: Table, range: std::ops::Range<u32>) -> bool {
        let values: Option<Vec<[u8; 2]>> = range
            .clone()
            .map(|address| self.image.get(&(table, u16::try_from(address).ok()?)).copied())
            .collect();
        let Some(values) = values else { return false };
        let data: Vec<u8> = match table {
            Table::Coil | Table::Discrete => values
                .chunks(8)
                .map(|eight| eight.iter().rev().fold(0, |byte, [bit, _]| byte << 1 | bit))
                .collect(),
            Table::Input | Table::Holding => values.concat(),
        };
        let Ok(length) = u8::try_from(data.len()) else { return false };
        let function = Request::Read { table, address: 0, count: 1 }.function();
        self.pdu = [&[function, length][..], &data].concat();
        true
    }
}

impl Read {
    /// A recorded request as a read; `None` for writes and what is no request.
    fn new(line: &Line) -> Option<Self> {
        let [function, a, b, c, d] = *line.sent.as_slice() else { return None };
        let table = match function {
            1 => Table::Coil,
            2 => Table::Discrete,
            3 => Table::Holding,
            4 => Table::Input,
            _ => return None,
        };
        let (address, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Some(Self { line: line.clone(), table, range: span(address, count), played: false })
    }

    fn request(&self) -> Request<'static> {
        let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let (address, count) =
            (number(self.range.start), number(self.range.end - self.range.start));
        Request::Read { table: self.table, address, count }
    }

    fn failure(&self) -> CallError {
        let reason = self.line.failed.clone().unwrap_or_else(|| "no answer".to_owned());
        let address = self.line.address.clone().unwrap_or_default();
        match self.line.link {
            Some(LinkState::None) => LinkError::Connect { address, reason }.into(),
            Some(LinkState::Lost) => LinkError::Lost { address, reason }.into(),
            None => RequestError::Recorded(reason).into(),
        }
    }
}

fn span(address: u16, count: u16) -> std::ops::Range<u32> {
    u32::from(address)..u32::from(address) + u32::from(count)
}

impl Wire for Playback {
    async fn call<'a>(
        &'a mut self,
        _unit: u8,
        request: &'a Request<'a>,
        _wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        let Request::Read { table, address, count } = *request else {
            return Err(RequestError::Recorded("a recording takes no writes".to_owned()).into());
        };
        self.play(table, address, count)?;
        match request.answer(&self.pdu) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(exception)) => Err(RequestError::Exception(exception).into()),
            Err(mismatch) => {
                let words = format!("the recorded answer does not fit its request: {mismatch}");
                Err(RequestError::Recorded(words).into())
            }
        }
    }

    fn take_late(&mut self) -> Option<u8> {
        None
    }

    fn rests_until(&self, _unit: u8) -> Option<tokio::time::Instant> {
        None
    }
}
