//! The last minutes of a daemon's Modbus exchanges, always kept, in a fixed piece of memory.
//!
//! ```text
//!   Poller ──▶ Recorded ──▶ any Wire ──▶ units          length(2)  bytes that follow
//!                 │                                     at(8) took(4)  µs since the recorder was made, µs
//!                 ▼                                     bus(2) unit(1) kind(1)
//!              Recorder: one ring a process,            sent(1+n)  the request's PDU
//!              the oldest exchange gives way            came(n)    by kind: the answer's PDU, or words
//! ```
//!
//! Numbers have their low byte first. An exchange is a request and what came of it; one whose sender
//! was stopped meanwhile is not kept. Answers that the link discarded (late, foreign) are not seen here,
//! only what the link said of them.
//!
//! * The memory is taken once; it never grows. In steady state nothing is allocated for an exchange.
//! * All buses share it: a quick bus shortens what is kept of a slow one.
//!
//! What it does *not* do: look at the wall clock (an exchange gets its date when the ring is read), or
//! write anything to disk.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    frame::{Answer, Data, Request},
    wire::{CallError, LinkError, RequestError, Wire},
};

/// Memory for exchanges in all: minutes of a busy site, and little beside the rest of the daemon.
pub const BYTES: usize = 256 * 1024;

/// Longest words kept of a failure.
const MOST_WORDS: usize = 300;

/// Bytes of a record before the length of the request: time, duration, bus, unit and kind.
const FIXED: usize = 8 + 4 + 2 + 1 + 1;

/// The kinds of what comes of a request.
const ANSWER: u8 = 0;
const NOTHING: u8 = 1;
const NO_LINK: u8 = 2;
const LINK_LOST: u8 = 3;

/// A request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// When the request was made, since the recorder was.
    pub at: Duration,
    /// How long it took until the answer or the failure.
    pub took: Duration,
    /// The bus, by its number in [`Dump::buses`].
    pub bus: u16,
    /// The unit asked.
    pub unit: u8,
    /// The request's PDU; empty where it did not fit into one.
    pub sent: Vec<u8>,
    /// What came of it.
    pub came: Came,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// An answer, or a refusal: its PDU.
    Answer(Vec<u8>),
    /// No answer; in the link's words.
    Nothing(String),
    /// There was no connection to send it on.
    NoLink {
        /// Where to.
        address: String,
        /// Why.
        reason: String,
    },
    /// The connection ended on it.
    LinkLost {
        /// Where to.
        address: String,
        /// Why.
        reason: String,
    },
}

/// A ring of records. Pure.
#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::with_capacity(capacity), capacity }
    }

    /// Keeps a record; the oldest ones give way. One that has no room at all is not kept.
    fn push(&mut self, record: &[u8]) {
        let Ok(length) = u16::try_from(record.len()) else { return };
        let needed = 2 + record.len();
        if needed > self.capacity {
            return;
        }
        while self.capacity - self.bytes.len() < needed {
            self.drop_oldest();
        }
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(record);
    }

    fn drop_oldest(&mut self) {
        let length = match (self.bytes.front(), self.bytes.get(1)) {
            (Some(low), Some(high)) => usize::from(u16::from_le_bytes([*low, *high])),
            _ => 0,
        };
        self.bytes.drain(..(2 + length).min(self.bytes.len()));
    }
}

/// An exchange that was just made, to be written in the ring's format.
struct Entry<'a> {
    at: Duration,
    took: Duration,
    bus: u16,
    unit: u8,
    request: &'a Request<'a>,
    result: &'a Result<Answer<'a>, CallError>,
}

impl Entry<'_> {
    /// Replaces what stands in `out`, whose memory is used again.
    fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend(micros(self.at).to_le_bytes());
        out.extend(u32::try_from(micros(self.took)).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.bus.to_le_bytes());
        let kind = match self.result {
            Ok(_) | Err(CallError::Request(RequestError::Exception(_))) => ANSWER,
            Err(CallError::Link(link)) if link.is_before_sending() => NO_LINK,
            Err(CallError::Link(LinkError::Lost { .. })) => LINK_LOST,
            Err(_) => NOTHING,
        };
        out.extend([self.unit, kind, 0]);
        // A request that does not fit leaves nothing; the failure says why.
        let sent = if self.request.encode(out).is_ok() { out.len() - FIXED - 1 } else { 0 };
        out[FIXED] = u8::try_from(sent).unwrap_or(u8::MAX);
        match self.result {
            Ok(Answer::Data(Data::Bits(bytes) | Data::Words(bytes))) => {
                out.extend([self.request.function(), u8::try_from(bytes.len()).unwrap_or(u8::MAX)]);
                out.extend_from_slice(bytes);
            }
            // The answer to a write repeats the first five bytes of its request.
            Ok(Answer::Written) => out.extend_from_within(FIXED + 1..FIXED + 1 + sent.min(5)),
            Err(CallError::Request(RequestError::Exception(exception))) => {
                out.extend([self.request.function() | 0x80, exception.0]);
            }
            Err(CallError::Link(
                LinkError::Connect { address, reason } | LinkError::Lost { address, reason },
            )) => append(out, format_args!("{address}\0{reason}")),
            Err(CallError::Link(LinkError::Port { port, reason })) => {
                append(out, format_args!("{port}\0{reason}"));
            }
            Err(other) => append(out, format_args!("{other}")),
        }
    }
}

/// Appends text, cut to what is kept of it.
fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    struct Cut<'a>(&'a mut Vec<u8>, usize);
    impl fmt::Write for Cut<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let end = text.floor_char_boundary(self.1);
            self.0.extend_from_slice(&text.as_bytes()[..end]);
            self.1 -= end;
            Ok(())
        }
    }
    // A vector takes everything.
    fmt::Write::write_fmt(&mut Cut(out, MOST_WORDS), text).ok();
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Reads one record. `None` where it is none.
fn decode(record: &[u8]) -> Option<Exchange> {
    let (at, rest) = record.split_first_chunk::<8>()?;
    let (took, rest) = rest.split_first_chunk::<4>()?;
    let (bus, rest) = rest.split_first_chunk::<2>()?;
    let ([unit, kind, sent], rest) = rest.split_first_chunk::<3>()?;
    let (sent, came) = rest.split_at_checked(usize::from(*sent))?;
    let text = || String::from_utf8_lossy(came).into_owned();
    let link = || match text().split_once('\0') {
        Some((address, reason)) => (address.to_owned(), reason.to_owned()),
        None => (String::new(), text()),
    };
    let came = match *kind {
        ANSWER => Came::Answer(came.to_vec()),
        NOTHING => Came::Nothing(text()),
        NO_LINK => {
            let (address, reason) = link();
            Came::NoLink { address, reason }
        }
        LINK_LOST => {
            let (address, reason) = link();
            Came::LinkLost { address, reason }
        }
        _ => return None,
    };
    Some(Exchange {
        at: Duration::from_micros(u64::from_le_bytes(*at)),
        took: Duration::from_micros(u32::from_le_bytes(*took).into()),
        bus: u16::from_le_bytes(*bus),
        unit: *unit,
        sent: sent.to_vec(),
        came,
    })
}

/// What the ring holds, as it passes the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// When the recorder was made, if the time is known now.
    #[serde(default)]
    pub started: Option<DateTime<Utc>>,
    /// Time since the recorder was made, in microseconds.
    pub running_us: u64,
    /// The names of the buses, by number.
    pub buses: Vec<String>,
    /// The records, oldest first, as hexadecimal digits.
    pub records: String,
}

impl Dump {
    /// The exchanges, oldest first. What cannot be read ends the list.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        let bytes = hex::decode(&self.records).unwrap_or_default();
        let mut rest = bytes.as_slice();
        let mut exchanges = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*length));
            let Some((record, after)) = after.split_at_checked(length) else { break };
            let Some(exchange) = decode(record) else { break };
            exchanges.push(exchange);
            rest = after;
        }
        exchanges
    }
}

/// Keeps what passes on the wires of all buses. A cheap clone of one ring.
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
    epoch: Instant,
}

#[derive(Debug)]
struct Shared {
    ring: Ring,
    buses: Vec<String>,
    /// The record being made.
    record: Vec<u8>,
}

impl Recorder {
    /// A ring of that many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let shared =
            Shared { ring: Ring::new(bytes), buses: Vec::new(), record: Vec::with_capacity(600) };
        Self { shared: Arc::new(Mutex::new(shared)), epoch: Instant::now() }
    }

    /// The wire of the bus of that name, recorded.
    #[must_use]
    pub fn on<W>(&self, bus: &str, wire: W) -> Recorded<W> {
        let mut shared = self.lock();
        let known = shared.buses.iter().position(|known| known == bus);
        let number = known.unwrap_or_else(|| {
            shared.buses.push(bus.to_owned());
            shared.buses.len() - 1
        });
        drop(shared);
        Recorded { wire, bus: u16::try_from(number).unwrap_or(u16::MAX), recorder: self.clone() }
    }

    /// What is kept at present. `now` is the time, if it is known.
    #[must_use]
    pub fn dump(&self, now: Option<DateTime<Utc>>) -> Dump {
        let shared = self.lock();
        let (first, second) = shared.ring.bytes.as_slices();
        let running = self.epoch.elapsed();
        let started =
            now.and_then(|now| now.checked_sub_signed(TimeDelta::from_std(running).ok()?));
        Dump {
            started,
            running_us: micros(running),
            buses: shared.buses.clone(),
            records: hex::encode(first) + &hex::encode(second),
        }
    }

    fn keep(
        &self,
        bus: u16,
        unit: u8,
        request: &Request<'_>,
        began: Instant,
        result: &Result<Answer<'_>, CallError>,
    ) {
        let (at, took) = (began.saturating_duration_since(self.epoch), began.elapsed());
        let Shared { ring, record, .. } = &mut *self.lock();
        Entry { at, took, bus, unit, request, result }.encode(record);
        ring.push(record);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A record is whole or not there, whoever panicked.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wire whose exchanges are kept.
#[derive(Debug)]
pub struct Recorded<W> {
    wire: W,
    bus: u16,
    recorder: Recorder,
}

impl<W: Wire> Wire for Recorded<W> {
    async fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        let began = Instant::now();
        let result = self.wire.call(unit, request, wait).await;
        self.recorder.keep(self.bus, unit, request, began, &result);
        result
    }

    fn take_late(&mut self) -> Option<u8> {
        self.wire.take_late()
    }

    fn rests_until(&self, unit: u8) -> Option<Instant> {
        self.wire.rests_until(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{config::settings::Table, modbus::frame::Exception};

    const READ: Request<'static> = Request::Read { table: Table::Input, address: 0x102, count: 2 };

    /// Gives the same answer for ever.
    struct Fixed(Result<Vec<u8>, CallError>);

    impl Wire for Fixed {
        async fn call<'a>(
            &'a mut self,
            _unit: u8,
            request: &'a Request<'a>,
            _wait: Duration,
        ) -> Result<Answer<'a>, CallError> {
            let pdu = self.0.as_ref().map_err(Clone::clone)?;
            let answer = request.answer(pdu).expect("an answer to that request");
            answer.map_err(|exception| RequestError::Exception(exception).into())
        }

        fn take_late(&mut self) -> Option<u8> {
            Some(9)
        }

        fn rests_until(&self, _unit: u8) -> Option<Instant> {
            None
        }
    }

    async fn recorded(request: &Request<'_>, result: Result<Vec<u8>, CallError>) -> Exchange {
        let recorder = Recorder::new(BYTES);
        let mut wire = recorder.on("cabinet", Fixed(result.clone()));
        let passed = wire.call(7, request, Duration::from_secs(1)).await.map(|_| ());
        assert_eq!(passed.is_ok(), result.as_ref().is_ok_and(|pdu| pdu[0] < 0x80));
        assert_eq!(wire.take_late(), Some(9));
        let dump = recorder.dump(None);
        assert_eq!(dump.buses, ["cabinet"]);
        let mut exchanges = dump.exchanges();
        assert_eq!(exchanges.len(), 1);
        exchanges.remove(0)
    }

    #[tokio::test]
    async fn what_passes_on_a_wire_is_kept_as_it_was_and_passed_on() {
        let answer = vec![4, 4, 1, 2, 3, 4];
        let exchange = recorded(&READ, Ok(answer.clone())).await;
        assert_eq!((exchange.bus, exchange.unit), (0, 7));
        assert_eq!(exchange.sent, [4, 1, 2, 0, 2]);
        assert_eq!(exchange.came, Came::Answer(answer));

        let refusal = recorded(&READ, Ok(vec![0x84, Exception::BUSY.0])).await;
        assert_eq!(refusal.came, Came::Answer(vec![0x84, 6]));

        let write = Request::WriteRegisters { address: 1, words: &[5, 6] };
        let write = recorded(&write, Ok(vec![16, 0, 1, 0, 2])).await;
        assert_eq!(write.sent, [16, 0, 1, 0, 2, 4, 0, 5, 0, 6]);
        assert_eq!(write.came, Came::Answer(vec![16, 0, 1, 0, 2]));

        let silence = RequestError::Silent { after: Duration::from_millis(250) };
        let silence = recorded(&READ, Err(silence.into())).await;
        assert_eq!(silence.came, Came::Nothing("no answer within 250 ms".to_owned()));

        let (address, reason) = ("192.0.2.7:502".to_owned(), "refused".to_owned());
        let error = LinkError::Connect { address: address.clone(), reason: reason.clone() };
        let refused = recorded(&READ, Err(error.into())).await;
        assert_eq!(refused.came, Came::NoLink { address, reason });
    }

    #[tokio::test]
    async fn the_ring_takes_no_more_than_its_memory_however_long_it_runs() {
        let recorder = Recorder::new(1000);
        let memory = recorder.lock().ring.bytes.capacity();
        let mut wires = ["a", "b"].map(|bus| recorder.on(bus, Fixed(Ok(vec![4, 4, 0, 0, 0, 0]))));
        for _ in 0..1000 {
            for (wire, unit) in wires.iter_mut().zip(1..) {
                wire.call(unit, &READ, Duration::ZERO).await.expect("an answer");
            }
        }
        assert_eq!(recorder.lock().ring.bytes.capacity(), memory);
        let exchanges = recorder.dump(None).exchanges();
        // A record of this kind takes 30 bytes.
        assert_eq!(exchanges.len(), 33);
        assert!(exchanges.windows(2).all(|two| two[0].at <= two[1].at && two[0].bus != two[1].bus));
        assert_eq!(exchanges.last().map(|last| last.unit), Some(2), "the newest is there");
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_record_are_no_exchange_and_no_panic(
            records in "[0-9a-f]{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            decode(&bytes);
            let dump = Dump { started: None, running_us: 0, buses: Vec::new(), records };
            prop_assert!(dump.exchanges().len() <= dump.records.len() / 2);
        }

        #[test]
        fn the_ring_holds_the_newest_records_that_fit(
            lengths in prop::collection::vec(0usize..40, 0..60),
        ) {
            let mut ring = Ring::new(100);
            let mut kept: Vec<Vec<u8>> = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let record = vec![number as u8; length];
                ring.push(&record);
                kept.push(record);
                while kept.iter().map(|record| record.len() + 2).sum::<usize>() > 100 {
                    kept.remove(0);
                }
                let wanted: Vec<u8> = kept.iter()
                    .flat_map(|record| [&[record.len() as u8, 0], &record[..]].concat())
                    .collect();
                prop_assert_eq!(Vec::from(ring.bytes.clone()), wanted);
            }
        }
    }
}
