//! A serial line of the site: Modbus RTU on a pseudo-terminal, at the pace of a real line.
//!
//! ```text
//!  master ── request ──▶ │ its airtime │ t3.5 │ thinking │ answer, character by character │ t3.5 │ …
//!                        ▲ first byte                                                     ▲
//!                        └────────── a request before the end of that silence is *early* ─┘
//! ```
//!
//! A pseudo-terminal hands bytes over at once, so the times of a line are kept here: a request occupies the line
//! from its first byte for its own length, and each character of an answer (eight at a time above 19,200 baud) is
//! written when its last bit would have come. Characters have 10 bits, as without parity. What the line sees is
//! counted: requests, damaged ones, early ones, how much of the time was used.
//!
//! Parity, framing errors and collisions do not exist here; their effects do: [`Fault`] has damaged, halved and
//! noisy answers, and [`Line::noise`] puts bytes on the line unasked.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::unit::Fault;
use super::{Units, lock};

/// Start, eight data bits, stop.
const BITS: u32 = 10;
/// Above this speed silences are fixed, and receivers hand over several characters at once.
const FAST: u32 = 19_200;
/// How soon orders are heard.
const LOOK: Duration = Duration::from_millis(5);
/// After this silence a request that is not whole is given up.
const ABANDONED: Duration = Duration::from_millis(50);
/// Sleeps end late by less than this; the rest is waited for without sleeping.
const OVERSLEEP: Duration = Duration::from_micros(60);
/// Noise: a few bytes that look like the beginning of frames.
const NOISE: [u8; 7] = [0x00, 0x01, 0x03, 0xff, 0x01, 0x04, 0x24];
/// Exchanges remembered for the report.
const REMEMBERED: usize = 100_000;

/// What a line saw.
#[derive(Debug, Clone, PartialEq)]
pub struct LineReport {
    /// Requests that were whole.
    pub requests: u64,
    /// What came and was no request.
    pub damaged: u64,
    /// Requests that began before the line had been quiet for 3.5 characters.
    pub early: u64,
    /// The silence to be kept, in microseconds.
    pub silence_us: u64,
    /// The median silence before a request, in microseconds.
    pub gap_us: u64,
    /// The median time from one request to the next, in microseconds.
    pub cycle_us: u64,
    /// The median of the least time that an exchange can take over the time that it took.
    pub share: f64,
}

/// A running line. Dropping the handle ends it.
#[derive(Debug)]
pub struct Line {
    orders: Arc<Mutex<Orders>>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Orders {
    stop: bool,
    unplugged: bool,
    echo: bool,
    noise: Vec<u8>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    damaged: u64,
    early: u64,
    /// Least and real time of each exchange, and the silence before it, in seconds.
    exchanges: Vec<(f64, f64, f64)>,
    silence: Duration,
    /// Whether the adapter is where the orders want it.
    plugged: bool,
}

impl Line {
    /// Starts a line with these units; `path` becomes a link to its port.
    pub(super) fn start(units: Units, path: &Path, baud: u32) -> io::Result<Self> {
        let orders = Arc::new(Mutex::new(Orders::default()));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let character = Duration::from_secs(BITS.into()) / baud.max(1);
        let silence = if baud > FAST { Duration::from_micros(1750) } else { character * 35 / 10 };
        guard(&seen).silence = silence;
        let mut adapter = Adapter {
            units,
            orders: orders.clone(),
            seen: seen.clone(),
            path: path.to_owned(),
            baud,
            character,
            silence,
            master: None,
            heard: Vec::new(),
            begun: Instant::now(),
            sending: VecDeque::new(),
            last: None,
        };
        adapter.plug_in()?;
        let thread = thread::Builder::new().name("serial-line".to_owned()).spawn(move || {
            if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
                eprintln!("the serial line will be less exact: {error}");
            }
            while adapter.turn() {}
        })?;
        Ok(Self { orders, seen, thread: Some(thread), path: path.to_owned() })
    }

    /// Where its port is: a link that stays, like those in `/dev/serial/by-id`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pulls the adapter out: the port and its name are gone when this returns.
    pub fn unplug(&self) {
        self.plug(true);
    }

    /// Plugs it in again: another port under the same name.
    pub fn plug_in(&self) {
        self.plug(false);
    }

    fn plug(&self, unplugged: bool) {
        guard(&self.orders).unplugged = unplugged;
        while guard(&self.seen).plugged == unplugged {
            thread::sleep(LOOK);
        }
    }

    /// Whether the master hears its own bytes from now on, as with some RS-485 adapters.
    pub fn set_echo(&self, echo: bool) {
        guard(&self.orders).echo = echo;
    }

    /// Puts bytes on the line that nobody asked for.
    pub fn noise(&self, bytes: &[u8]) {
        guard(&self.orders).noise.extend(bytes);
    }

    /// What it saw so far.
    pub fn report(&self) -> LineReport {
        let seen = guard(&self.seen);
        let median = |of: fn(&(f64, f64, f64)) -> f64| {
            let mut values: Vec<f64> = seen.exchanges.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let micros = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let micros = |seconds| u64::try_from(micros(seconds).as_micros()).unwrap_or(u64::MAX);
        LineReport {
            requests: seen.requests,
            damaged: seen.damaged,
            early: seen.early,
            silence_us: micros(seen.silence.as_secs_f64()),
            gap_us: micros(median(|exchange| exchange.2)),
            cycle_us: micros(median(|exchange| exchange.1)),
            share: median(|exchange| exchange.0 / exchange.1),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        guard(&self.orders).stop = true;
        if let Some(thread) = self.thread.take() {
            // A panic in there was already reported by the thread itself.
            drop(thread.join());
        }
    }
}

/// Poison is of no matter: a panic elsewhere fails its own test.
fn guard<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line's own thread.
struct Adapter {
    units: Units,
    orders: Arc<Mutex<Orders>>,
    seen: Arc<Mutex<Seen>>,
    path: PathBuf,
    baud: u32,
    character: Duration,
    silence: Duration,
    master: Option<OwnedFd>,
    /// A request that is not whole yet, and when it began.
    heard: Vec<u8>,
    begun: Instant,
    /// Answers and when they begin.
    sending: VecDeque<(Instant, Vec<u8>)>,
    /// The last exchange: when it began, when its answer ended, its least time.
    last: Option<(Instant, Instant, Duration)>,
}

impl Adapter {
    fn plug_in(&mut self) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let mut termios = tcgetattr(&master)?;
        termios.make_raw();
        termios.set_speed(self.baud)?;
        tcsetattr(&master, OptionalActions::Now, &termios)?;
        let port = ptsname(&master, Vec::new())?;
        symlink(Path::new(port.to_str().map_err(io::Error::other)?), &self.path)?;
        self.master = Some(master);
        guard(&self.seen).plugged = true;
        Ok(())
    }

    fn unplug(&mut self) {
        // It is ours; somebody who removed it already wanted the same.
        drop(std::fs::remove_file(&self.path));
        (self.master, self.last) = (None, None);
        self.heard.clear();
        self.sending.clear();
        guard(&self.seen).plugged = false;
    }

    /// One look at orders, master and clock. False once it is over.
    fn turn(&mut self) -> bool {
        let (stop, unplugged, noise) = {
            let mut orders = guard(&self.orders);
            (orders.stop, orders.unplugged, std::mem::take(&mut orders.noise))
        };
        if stop {
            self.unplug();
            return false;
        }
        match (unplugged, self.master.is_some()) {
            (true, true) => self.unplug(),
            // Tried again at the next turn.
            (false, false) => drop(self.plug_in()),
            _ => {}
        }
        self.write(&noise);
        self.listen();
        if let Some((at, _)) = self.sending.front()
            && *at <= Instant::now()
            && let Some((at, frame)) = self.sending.pop_front()
        {
            self.say(at, &frame);
        }
        true
    }

    /// Waits for bytes of the master until something else is due.
    fn listen(&mut self) {
        let due = self.sending.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let wait = due.unwrap_or(LOOK).min(LOOK);
        if !self.is_spoken_to(wait) {
            if !self.heard.is_empty() && self.begun.elapsed() > ABANDONED {
                self.heard.clear();
                guard(&self.seen).damaged += 1;
            }
            return;
        }
        let Some(master) = &self.master else { return };
        let mut bytes = [0; 512];
        let Ok(received) = rustix::io::read(master, &mut bytes) else { return };
        let now = Instant::now();
        if self.heard.is_empty() {
            self.begun = now;
            self.note_silence(now);
        }
        self.heard.extend(&bytes[..received]);
        if guard(&self.orders).echo {
            self.write(&bytes[..received]);
        }
        while self.take_request() {}
    }

    fn is_spoken_to(&self, wait: Duration) -> bool {
        let Some(master) = &self.master else {
            thread::sleep(wait);
            return false;
        };
        let time = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let is_ready = poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0);
        let is_spoken_to = fds[0].revents().contains(PollFlags::IN);
        if is_ready && !is_spoken_to {
            // Nobody has the port open any more, which is not waited for.
            thread::sleep(wait);
        }
        is_spoken_to
    }

    fn note_silence(&mut self, now: Instant) {
        let Some((began, ended, least)) = self.last.take() else { return };
        let gap = now.saturating_duration_since(ended);
        let mut seen = guard(&self.seen);
        seen.early += u64::from(gap < self.silence);
        if seen.exchanges.len() < REMEMBERED {
            let took = now.saturating_duration_since(began);
            seen.exchanges.push((least.as_secs_f64(), took.as_secs_f64(), gap.as_secs_f64()));
        }
    }

    /// Takes what was heard as a request, once it is whole; false when there is none.
    fn take_request(&mut self) -> bool {
        let length = match *self.heard.as_slice() {
            [_, 15 | 16, _, _, _, _, bytes, ..] => 9 + usize::from(bytes),
            [_, 15 | 16, ..] => 9,
            _ => 8,
        };
        if self.heard.len() < length {
            return false;
        }
        let whole = crc(&self.heard[..length - 2]) == self.heard[length - 2..length];
        // What follows a whole one is the next one, which came while this thread stood still.
        let end = if whole { length } else { self.heard.len() };
        let heard: Vec<u8> = self.heard.drain(..end).collect();
        {
            let mut seen = guard(&self.seen);
            seen.requests += u64::from(whole);
            seen.damaged += u64::from(!whole);
        }
        if whole {
            self.answer(&heard[..length - 2]);
        }
        whole
    }

    /// Lets the units do what is asked of them, and keeps their answer for its time.
    fn answer(&mut self, request: &[u8]) {
        let Some((id, pdu)) = request.split_first() else { return };
        let (id, length) = (*id, request.len() + 2);
        let Some((answer, fault)) = answer(&self.units, id, pdu) else { return };
        let frame = spoilt(id, &answer, fault);
        let thinking = match fault {
            Some(Fault::Slow(ms)) => Duration::from_millis(ms),
            _ => Duration::ZERO,
        };
        let at = self.begun + self.airtime(length) + self.silence + thinking;
        if !frame.is_empty() {
            self.sending.push_back((at, frame));
            self.sending.make_contiguous().sort_by_key(|(at, _)| *at);
        }
    }

    fn airtime(&self, bytes: usize) -> Duration {
        self.character * u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Sends an answer at the pace of the line.
    fn say(&mut self, at: Instant, frame: &[u8]) {
        let step = if self.baud > FAST { 8 } else { 1 };
        let (mut sent, mut due, mut is_on_time) = (0, at, true);
        for bytes in frame.chunks(step) {
            let is_spoken_to = self.is_spoken_to(Duration::ZERO);
            // Somebody speaks while we do, unless this thread stood still for so long that the line was quiet.
            is_on_time &= due.elapsed() < self.silence;
            if is_on_time && is_spoken_to && self.heard.is_empty() {
                guard(&self.seen).early += 1;
                // Once.
                is_on_time = false;
            }
            sent += bytes.len();
            due = at + self.airtime(sent);
            wait_until(due);
            self.write(bytes);
        }
        // The least time of the whole exchange: what came before, the answer, the silence after it.
        self.last = Some((self.begun, due, due + self.silence - self.begun));
    }

    fn write(&self, mut bytes: &[u8]) {
        let Some(master) = &self.master else { return };
        while !bytes.is_empty() {
            // A master that has gone hears nothing.
            let Ok(written) = rustix::io::write(master, bytes) else { return };
            bytes = &bytes[written..];
        }
    }
}

fn wait_until(at: Instant) {
    let left = at.saturating_duration_since(Instant::now());
    if left > OVERSLEEP {
        thread::sleep(left - OVERSLEEP);
    }
    while Instant::now() < at {
        std::hint::spin_loop();
    }
}

/// The answer's PDU and the fault that is to spoil it; none where nobody answers.
fn answer(units: &Units, id: u8, pdu: &[u8]) -> Option<(Vec<u8>, Option<Fault>)> {
    let mut units = lock(units);
    if id == 0 {
        // All of them do it, and none says so.
        units.iter_mut().for_each(|unit| drop(unit.answer(pdu, None, Utc::now())));
        return None;
    }
    let unit = units.iter_mut().find(|unit| unit.id() == id)?;
    unit.requests += 1;
    let fault = unit.next_fault();
    let function = pdu.first().copied().unwrap_or(0);
    match fault {
        Some(Fault::Silent | Fault::Closes) => None,
        Some(Fault::Exception(code)) => Some((vec![function | 0x80, code], fault)),
        other => Some((unit.answer(pdu, other, Utc::now()), fault)),
    }
}

/// The bytes that go on the line.
fn spoilt(id: u8, pdu: &[u8], fault: Option<Fault>) -> Vec<u8> {
    let mut right = frame(id, pdu);
    match fault {
        Some(Fault::LosesAnswer) => Vec::new(),
        Some(Fault::WrongUnit) => frame(id.wrapping_add(1), pdu),
        Some(Fault::ShortFrame) => {
            right.truncate(right.len() / 2);
            right
        }
        Some(Fault::Garbage) => b"\xff\xfe not a frame at all \x00\x00".to_vec(),
        Some(Fault::BadChecksum) => {
            right.iter_mut().skip(3).take(1).for_each(|byte| *byte ^= 1);
            right
        }
        Some(Fault::Noise) => [&NOISE[..], &right, &NOISE].concat(),
        // Two answers of one unit to one request cannot be told apart on a line, so the stale one stays away.
        _ => right,
    }
}

fn frame(id: u8, pdu: &[u8]) -> Vec<u8> {
    let body = [&[id], pdu].concat();
    let checksum = crc(&body);
    [body, checksum.to_vec()].concat()
}

/// Modbus over Serial Line V1.02, 6.2.2, bit by bit.
fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xffff_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}
