//! How long bytes occupy a serial line, and how long it has to be quiet between frames. Pure.
//!
//! ```text
//!            ┌ request ┐ t3.5 + the unit's thinking ┌── answer ──┐  t3.5  ┌ next request
//!  ──────────┘         └────────────────────────────┘            └────────┘
//!            │◀─ 8 ──▶ │◀───────── timeout ────────▶│◀ 5 to 256 ▶│  characters
//! ```
//!
//! A character is a start bit, eight data bits, perhaps a parity bit, and the stop bits. Frames are told
//! apart by a silence of 3.5 characters; above 19,200 baud it is 1.75 ms, whatever the speed.
//!
//! A unit's `timeout` is the time it may take to begin its answer; the answer's own airtime comes on top, as it
//! is the line's doing and not the unit's. That is [`Airtime::longest_exchange`].
//!
//! # Source
//!
//! Modbus over Serial Line V1.02, section 2.5.1.

use std::time::Duration;

use super::frame::{Request, rtu};
use crate::config::settings::{Parity, Serial};

/// Up to this speed silences are counted in characters.
const COUNTED_UP_TO: u32 = 19_200;
/// The silence between frames above that.
const FIXED_SILENCE: Duration = Duration::from_micros(1750);
/// What units get to carry out a broadcast, which none confirms: "typically it is in the range 100 ms to 200 ms"
/// (section 2.4.1).
pub const TURNAROUND: Duration = Duration::from_millis(100);

/// The times of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Airtime {
    /// Nanoseconds of ten thousand characters: a character alone would not be whole.
    ten_thousand_ns: u64,
    silence: Duration,
}

impl Airtime {
    /// The times of a line with these settings.
    #[must_use]
    pub fn new(line: &Serial) -> Self {
        let bits = 9 + u64::from(line.parity != Parity::None) + u64::from(line.stop_bits);
        let ten_thousand_ns = bits * 10_000 * 1_000_000_000 / u64::from(line.baud.max(1));
        let counted = Duration::from_nanos((ten_thousand_ns * 35).div_ceil(100_000));
        let silence = if line.baud > COUNTED_UP_TO { FIXED_SILENCE } else { counted };
        Self { ten_thousand_ns, silence }
    }

    /// The silence between two frames.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// How long so many bytes are on the line.
    #[must_use]
    pub fn of(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Duration::from_nanos(self.ten_thousand_ns.saturating_mul(bytes).div_ceil(10_000))
    }

    /// The least time that a request and its answer take, with the silence after each.
    #[must_use]
    pub fn shortest_exchange(&self, request: &Request<'_>) -> Duration {
        self.of(rtu::request_length(request) + rtu::answer_length(request)) + self.silence * 2
    }

    /// The longest time from the first bit of a request to the end of its answer, where the unit takes at most
    /// `timeout` to begin it. A request without an answer takes this time, too.
    #[must_use]
    pub fn longest_exchange(&self, request: &Request<'_>, timeout: Duration) -> Duration {
        self.of(rtu::request_length(request) + rtu::answer_length(request)) + timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Table;

    fn line(baud: u32, parity: Parity, stop_bits: u8) -> Airtime {
        Airtime::new(&Serial { port: "/dev/null".into(), baud, parity, stop_bits })
    }

    #[test]
    fn silences_are_three_and_a_half_characters_and_fixed_above_19200_baud() {
        for (baud, parity, stop_bits, micros) in [
            (9600, Parity::None, 1, 3646),
            (9600, Parity::Even, 1, 4011),
            (9600, Parity::None, 2, 4011),
            (19_200, Parity::Odd, 1, 2006),
            (19_200, Parity::None, 1, 1823),
            (38_400, Parity::Even, 1, 1750),
            (115_200, Parity::None, 1, 1750),
        ] {
            let silence = line(baud, parity, stop_bits).silence();
            let rounded = u64::try_from(silence.as_nanos().div_ceil(1000)).expect("small");
            assert_eq!(rounded, micros, "{baud} {parity:?} {stop_bits}");
        }
    }

    #[test]
    fn an_exchange_is_its_bytes_its_silences_and_at_most_the_timeout() {
        let read = Request::Read { table: Table::Holding, address: 0, count: 50 };
        let line = line(9600, Parity::None, 1);
        let near = |found: Duration, ms: f64| {
            assert!((found.as_secs_f64() * 1e3 - ms).abs() < 0.01, "{found:?} instead of {ms} ms");
        };
        near(line.of(8), 8.0 / 0.96);
        near(line.shortest_exchange(&read), 113.0 / 0.96 + 2.0 * 3.5 / 0.96);
        near(line.longest_exchange(&read, Duration::from_secs(1)), 113.0 / 0.96 + 1000.0);
    }
}
