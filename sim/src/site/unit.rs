//! One Modbus unit: what it holds, how it answers, what was done to it.
//!
//! A meter shows this block, in its input registers and again in its holding registers, most significant
//! word first:
//!
//! | register | content |
//! | --- | --- |
//! | 0, 1 | watts, f32 |
//! | 2, 3 | voltage, f32 |
//! | 4, 5 | frequency, f32 |
//! | 6, 7 | current, f32 |
//! | 8 … 11 | watt-hours, u64 |
//! | 12, 13 | watt-hours in reverse, u32 |
//! | 14, 15 | number of this reading, u32, from 1 |
//! | 16 | temperature, i16, tenths of a degree |
//! | 17 | operating state, u16 |
//!
//! Each request that reads the whole block ([`Unit::counting`] chooses other registers), and is answered as it
//! should be, is one *reading* and moves the values on. All of them follow from the reading's number
//! ([`MeterReading::at`]), so a datum found anywhere can be traced to the reading that it came from, and a missing
//! number is a lost reading.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

/// Registers of a meter's block, from 0.
pub const METER_BLOCK: u16 = 18;

/// What a meter shows at one reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeterReading {
    /// Number of the reading, from 1.
    pub number: u32,
    /// Active power, W.
    pub watts: f32,
    /// Voltage, V.
    pub voltage: f32,
    /// Frequency, Hz.
    pub frequency: f32,
    /// Current, A.
    pub current: f32,
    /// Energy, Wh; grows by one with each reading.
    pub watt_hours: u64,
    /// Energy sent back, Wh.
    pub watt_hours_reverse: u32,
    /// Temperature, tenths of a degree; sometimes negative.
    pub temperature: i16,
    /// Operating state.
    pub state: u16,
}

impl MeterReading {
    /// What reading `number` shows.
    pub fn at(number: u32) -> Self {
        // Each step is small enough to be exact, or to have a short text, as f32.
        let step = |length: u32| (number % length) as f32;
        Self {
            number,
            watts: 1000.0 + step(100) * 2.5,
            voltage: 230.0 + step(8) * 0.125,
            frequency: 49.75 + step(3) * 0.25,
            current: 4.5 + step(4) * 0.25,
            watt_hours: 41_000_000_000 + u64::from(number),
            watt_hours_reverse: number / 10,
            temperature: i16::try_from(number % 40).unwrap_or(0) * 10 - 55,
            state: 1,
        }
    }

    fn registers(&self) -> [u16; METER_BLOCK as usize] {
        let mut bytes = Vec::with_capacity(usize::from(METER_BLOCK) * 2);
        for value in [self.watts, self.voltage, self.frequency, self.current] {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.extend_from_slice(&self.watt_hours.to_be_bytes());
        bytes.extend_from_slice(&self.watt_hours_reverse.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.temperature.to_be_bytes());
        bytes.extend_from_slice(&self.state.to_be_bytes());
        let mut out = [0; METER_BLOCK as usize];
        for (register, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *register = u16::from_be_bytes([pair[0], pair[1]]);
        }
        out
    }
}

/// How a unit misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Does nothing and says nothing.
    Silent,
    /// Does what it is asked, and never answers.
    LosesAnswer,
    /// Answers this much later, in milliseconds.
    Slow(u64),
    /// Does nothing and answers with this exception code.
    Exception(u8),
    /// Answers in the name of the next unit.
    WrongUnit,
    /// Sends an answer to an earlier transaction, with other values, before the right one.
    StaleFirst,
    /// The answer ends before its announced length.
    ShortFrame,
    /// Answers with bytes that are no frame.
    Garbage,
    /// Closes the connection instead of answering.
    Closes,
    /// Confirms writes and does not take them.
    IgnoresWrites,
    /// On a serial line: a bit of the answer is wrong.
    BadChecksum,
    /// On a serial line: noise before and after the answer.
    Noise,
}

/// One of the four tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Single bits, read and write.
    Coil,
    /// Single bits, read only.
    Discrete,
    /// Registers, read only.
    Input,
    /// Registers, read and write.
    Holding,
}

/// A write that was received and understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// When, by the machine's clock.
    pub time: DateTime<Utc>,
    /// Coils or holding registers.
    pub table: Table,
    /// First address.
    pub address: u16,
    /// The values; bits as 0 and 1.
    pub values: Vec<u16>,
    /// False where the unit only pretended.
    pub taken: bool,
}

/// A unit and its memory. Addresses that were not given do not exist.
#[derive(Debug, Clone)]
pub struct Unit {
    id: u8,
    coils: BTreeMap<u16, u16>,
    discretes: BTreeMap<u16, u16>,
    inputs: BTreeMap<u16, u16>,
    holdings: BTreeMap<u16, u16>,
    /// The registers, first and count, whose reading counts; absent: it is no meter.
    counted: Option<(u16, u16)>,
    pub(super) readings: u32,
    pub(super) requests: u64,
    pub(super) writes: Vec<Write>,
    /// The fault, and how often it still acts (absent: until cleared).
    pub(super) fault: Option<(Fault, Option<u32>)>,
}

impl Unit {
    /// A unit that holds nothing.
    pub fn new(id: u8) -> Self {
        Self {
            id,
            coils: BTreeMap::new(),
            discretes: BTreeMap::new(),
            inputs: BTreeMap::new(),
            holdings: BTreeMap::new(),
            counted: None,
            readings: 0,
            requests: 0,
            writes: Vec::new(),
            fault: None,
        }
    }

    /// A meter, as the module describes it.
    pub fn meter(id: u8) -> Self {
        Self { counted: Some((0, METER_BLOCK)), ..Self::new(id) }
    }

    /// Counts a reading for each request that covers these registers, instead of the meter's whole block.
    #[must_use]
    pub fn counting(self, address: u16, count: u16) -> Self {
        Self { counted: Some((address, count)), ..self }
    }

    /// A relay with this many coils, all off.
    pub fn relay(id: u8, coils: u16) -> Self {
        Self::new(id).with(Table::Coil, 0, &vec![0; usize::from(coils)])
    }

    /// Adds values from an address on; bits are 0 and 1.
    #[must_use]
    pub fn with(mut self, table: Table, address: u16, values: &[u16]) -> Self {
        self.set(table, address, values);
        self
    }

    pub(super) fn id(&self) -> u8 {
        self.id
    }

    pub(super) fn set(&mut self, table: Table, address: u16, values: &[u16]) {
        let memory = self.memory(table);
        for (address, value) in (address..=u16::MAX).zip(values) {
            memory.insert(address, *value);
        }
    }

    pub(super) fn get(&self, table: Table, address: u16) -> Option<u16> {
        let memory = match table {
            Table::Coil => &self.coils,
            Table::Discrete => &self.discretes,
            Table::Input => &self.inputs,
            Table::Holding => &self.holdings,
        };
        let measured = || {
            let shows = self.counted.is_some() && matches!(table, Table::Input | Table::Holding);
            let registers = MeterReading::at(self.readings + 1).registers();
            shows.then(|| registers.get(usize::from(address)).copied()).flatten()
        };
        memory.get(&address).copied().or_else(measured)
    }

    fn memory(&mut self, table: Table) -> &mut BTreeMap<u16, u16> {
        match table {
            Table::Coil => &mut self.coils,
            Table::Discrete => &mut self.discretes,
            Table::Input => &mut self.inputs,
            Table::Holding => &mut self.holdings,
        }
    }

    /// The fault that this request meets; uses up one of its times.
    pub(super) fn next_fault(&mut self) -> Option<Fault> {
        let (fault, times) = self.fault?;
        if let Some(left) = times {
            self.fault = left.checked_sub(1).filter(|left| *left > 0).map(|n| (fault, Some(n)));
        }
        Some(fault)
    }

    /// Carries out a request and gives the answer's PDU; an exception where it cannot.
    pub(super) fn answer(
        &mut self,
        pdu: &[u8],
        fault: Option<Fault>,
        now: DateTime<Utc>,
    ) -> Vec<u8> {
        let function = pdu.first().copied().unwrap_or(0);
        let outcome = Request::parse(pdu).and_then(|request| match request {
            Request::Read { table, address, count } => {
                let answer = self.read(function, table, address, count)?;
                let whole = self.counted.is_some_and(|(first, wanted)| {
                    let (end, wanted_end) = (
                        u32::from(address) + u32::from(count),
                        u32::from(first) + u32::from(wanted),
                    );
                    address <= first && end >= wanted_end
                });
                let proper = matches!(
                    fault,
                    None | Some(
                        Fault::Slow(_) | Fault::StaleFirst | Fault::IgnoresWrites | Fault::Noise
                    )
                );
                if whole && proper && matches!(table, Table::Input | Table::Holding) {
                    self.readings += 1;
                }
                Ok(answer)
            }
            Request::Write { table, address, values } => {
                let taken = fault != Some(Fault::IgnoresWrites);
                self.write(Write { time: now, table, address, values, taken })?;
                // The confirmation repeats the request's first five bytes.
                Ok(pdu.iter().take(5).copied().collect())
            }
        });
        outcome.unwrap_or_else(|Exception(code)| vec![function | 0x80, code])
    }

    fn read(
        &self,
        function: u8,
        table: Table,
        address: u16,
        count: u16,
    ) -> Result<Vec<u8>, Exception> {
        let last = address.checked_add(count - 1).ok_or(ILLEGAL_ADDRESS)?;
        let values: Option<Vec<u16>> = (address..=last).map(|at| self.get(table, at)).collect();
        let values = values.ok_or(ILLEGAL_ADDRESS)?;
        let data: Vec<u8> = match table {
            Table::Input | Table::Holding => {
                values.iter().flat_map(|value| value.to_be_bytes()).collect()
            }
            Table::Coil | Table::Discrete => values
                .chunks(8)
                .map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit != 0)))
                .collect(),
        };
        let length = u8::try_from(data.len()).map_err(|_| ILLEGAL_VALUE)?;
        Ok([vec![function, length], data].concat())
    }

    fn write(&mut self, write: Write) -> Result<(), Exception> {
        let count = u16::try_from(write.values.len()).map_err(|_| ILLEGAL_VALUE)?;
        let last = write.address.checked_add(count.saturating_sub(1)).ok_or(ILLEGAL_ADDRESS)?;
        let memory = self.memory(write.table);
        if !(write.address..=last).all(|at| memory.contains_key(&at)) {
            return Err(ILLEGAL_ADDRESS);
        }
        if write.taken {
            memory.extend((write.address..=last).zip(write.values.iter().copied()));
        }
        self.writes.push(write);
        Ok(())
    }
}

/// A Modbus exception code.
struct Exception(u8);

const ILLEGAL_FUNCTION: Exception = Exception(1);
const ILLEGAL_ADDRESS: Exception = Exception(2);
const ILLEGAL_VALUE: Exception = Exception(3);

/// A request that was understood. Limits: Modbus Application Protocol V1.1b3, section 6.
enum Request {
    Read { table: Table, address: u16, count: u16 },
    Write { table: Table, address: u16, values: Vec<u16> },
}

impl Request {
    fn parse(pdu: &[u8]) -> Result<Self, Exception> {
        let [function, rest @ ..] = pdu else { return Err(ILLEGAL_FUNCTION) };
        let (table, limit) = match function {
            1 => (Table::Coil, 2000),
            2 => (Table::Discrete, 2000),
            3 => (Table::Holding, 125),
            4 => (Table::Input, 125),
            5 | 15 => (Table::Coil, 1968),
            6 | 16 => (Table::Holding, 123),
            _ => return Err(ILLEGAL_FUNCTION),
        };
        let [a, b, c, d, data @ ..] = rest else { return Err(ILLEGAL_VALUE) };
        let address = u16::from_be_bytes([*a, *b]);
        let second = u16::from_be_bytes([*c, *d]);
        let values = match function {
            5 => match second {
                0x0000 => vec![0],
                0xff00 => vec![1],
                _ => return Err(ILLEGAL_VALUE),
            },
            6 => vec![second],
            _ if second == 0 || second > limit => return Err(ILLEGAL_VALUE),
            15 | 16 => written(*function, second, data)?,
            _ => return Ok(Self::Read { table, address, count: second }),
        };
        Ok(Self::Write { table, address, values })
    }
}

/// The values of a write of several, after their count.
fn written(function: u8, count: u16, data: &[u8]) -> Result<Vec<u16>, Exception> {
    let count = usize::from(count);
    let wanted = if function == 15 { count.div_ceil(8) } else { count * 2 };
    let [length, data @ ..] = data else { return Err(ILLEGAL_VALUE) };
    if usize::from(*length) != wanted || data.len() != wanted {
        return Err(ILLEGAL_VALUE);
    }
    Ok(match function {
        15 => (0..count).map(|bit| u16::from(data[bit / 8] >> (bit % 8) & 1)).collect(),
        _ => data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
    })
}
