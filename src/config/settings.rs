//! What the daemon runs on: every value here was checked, none is ever checked again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rust_decimal::Decimal;

use crate::domain::{
    BrokerUrl, Kind, NodeId, NodeTopic, OperatingState, Pattern, SourceId, TokenName,
};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The node whose data this is.
    pub node: NodeId,
    /// Where everything that must survive lives.
    pub state_dir: PathBuf,
    /// The Unix socket on which `status` and the other commands ask the daemon.
    pub control_socket: PathBuf,
    /// How SolarNetwork is reached.
    pub solarnet: SolarNet,
    /// The certificate that makes this machine a node.
    pub identity: Identity,
    /// How datum leave.
    pub upload: Upload,
    /// The broker that carries datum and instructions.
    pub mqtt: Mqtt,
    /// The broker of the live feed, where there is to be one.
    pub flux: Option<Flux>,
    /// How it is asked whether they are still there.
    pub audit: Audit,
    /// How datum wait.
    pub queue: Queue,
    /// The buses and what is read on them.
    pub modbus: Vec<Bus>,
    /// What instructions may switch.
    pub controls: Vec<Control>,
    /// How instructions are fetched and bounded.
    pub instructions: Instructions,
    /// The File Repository, where there is one.
    pub repository: Option<RepositorySettings>,
    /// The folders whose files go there.
    pub files: Vec<FileFolder>,
}

/// The File Repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Its base, without a trailing slash.
    pub url: String,
    /// The token that uploads, by its name in the credential store.
    pub token: TokenName,
}

/// A folder whose files are uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFolder {
    /// Where it is.
    pub folder: PathBuf,
    /// Which files are meant.
    pub patterns: Vec<Pattern>,
    /// Their tags.
    pub tags: Vec<String>,
    /// Whether they appear in the repository's listing.
    pub public: bool,
    /// What becomes of a file once the repository has it.
    pub after: After,
    /// How long a file has to stay as it is.
    pub settle: Duration,
    /// How often the folder is looked at.
    pub every: Duration,
    /// The largest file that is sent, in bytes.
    pub max_bytes: u64,
    /// The source of the datum with the address of each file.
    pub source: Option<SourceId>,
}

/// What becomes of a file once the repository has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It stays.
    Keep,
    /// It is deleted.
    Delete,
}

/// How SolarNetwork is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct SolarNet {
    /// SolarUser's base, without a trailing slash, for example `https://data.solarnetwork.net/solaruser`.
    pub user_url: String,
    /// SolarQuery's base, without a trailing slash.
    pub query_url: String,
    /// SolarIn's base, without a trailing slash.
    pub in_url: String,
    /// The token that signs, by its name in the credential store.
    pub token: TokenName,
    /// The host that goes into signatures where it differs from the `Host` header.
    pub sign_host: Option<String>,
    /// A PEM file of certificate authorities trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Sustained requests a second, per token and application.
    pub requests_per_second: f64,
    /// How long one request may take from connecting to the last byte of its answer.
    pub timeout: Duration,
}

/// The certificate that makes this machine a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whether it may be renewed, which sends its private key to SolarNetwork.
    pub renew: bool,
    /// How long before its end renewals and warnings begin.
    pub renew_before: Duration,
}

/// How datum leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Which way in.
    pub via: Via,
    /// The longest a committed datum waits for the next batch while the server is well.
    pub every: Duration,
    /// What has to be seen before a datum is deleted here.
    pub proof: Proof,
    /// Messages that may be without their PUBACK, over MQTT.
    pub in_flight: u16,
    /// How long MQTT may be silent before datum go over HTTPS; `None` is for ever.
    pub fallback_after: Option<Duration>,
}

/// What has to be seen before a datum is deleted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// What the way in says itself: the end of an import job, the answer of a batch, a PUBACK.
    Answer,
    /// The datum itself, in an answer of SolarQuery.
    Query,
}

/// The broker that carries datum and instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// Where it is, and how it is spoken to.
    pub broker: Broker,
    /// How long the line may be silent before it is tried out.
    pub keep_alive: Duration,
}

/// The broker of the live feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flux {
    /// Where it is, and how it is spoken to.
    pub broker: Broker,
    /// Whether the broker keeps the last message of each source.
    pub retain: bool,
}

/// Where a broker is, and how it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Broker {
    /// Its address; `None` is what the network identity document says.
    pub url: Option<BrokerUrl>,
    /// The name that its certificate must have; `None` is the address's host.
    pub server_name: Option<String>,
    /// A PEM file of authorities trusted beside the system's; `None` is that of [`SolarNet`].
    pub ca_file: Option<PathBuf>,
}

/// How the server is asked whether it has what it accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The token that asks, by its name in the credential store; `None` is that of [`SolarNet::token`].
    pub token: Option<TokenName>,
    /// How long it may take to show what was accepted.
    pub settle: Duration,
}

/// The server's ways in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// SolarUser's datum import, signed with a token.
    Import,
    /// SolarIn's batches over HTTPS, with the node's certificate.
    Bulk,
    /// SolarNetwork's broker, with the node's certificate.
    Mqtt,
}

/// How datum wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Disk the queue may take, in bytes.
    pub limit_bytes: u64,
    /// How much arriving data a power cut may cost: the longest time between two commits.
    pub at_risk: Duration,
}

/// One link with the units behind it. One request at a time is under way on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bus {
    /// The name by which controls refer to it.
    pub name: String,
    /// What carries the frames.
    pub link: Link,
    /// Silence kept between an answer and the next request.
    pub pause: Duration,
    /// How long opening the link may take.
    pub connect_timeout: Duration,
    /// The units that are read.
    pub units: Vec<Unit>,
}

/// What carries the frames of a bus.
#[derive(Debug, Clone, PartialEq)]
pub enum Link {
    /// Modbus TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 502 unless told otherwise.
        port: u16,
    },
    /// Modbus RTU through a serial server that passes bytes on as they are.
    RtuTcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Modbus RTU on a serial port of this machine.
    Serial(Serial),
}

/// A serial port and how bytes look on its line. Data bits are 8: RTU knows nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// The device file, for example `/dev/serial/by-id/…`.
    pub port: PathBuf,
    /// Bits a second.
    pub baud: u32,
    /// The check bit of each character.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

/// The check bit of each character on a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// There is none.
    None,
    /// It makes the number of ones even.
    Even,
    /// It makes the number of ones odd.
    Odd,
}

/// One unit, read as a whole into one datum of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The unit's address on the bus, 0 to 255 (1 to 247 on a serial line).
    pub id: u8,
    /// The source its datum belong to.
    pub source: SourceId,
    /// From one read's start to the next one's.
    pub every: Duration,
    /// Where in `every` the reads lie.
    pub phase: Phase,
    /// Largest number of registers in one request, at most 125.
    pub max_registers: u16,
    /// Largest number of coils or discrete inputs in one request, at most 2000.
    pub max_bits: u16,
    /// How many unwanted registers (or bits) a request may read over to join two wanted ones.
    pub max_gap: u16,
    /// How long one answer may take.
    pub timeout: Duration,
    /// How often an unanswered request is sent again within the same read.
    pub retries: u8,
    /// Silence kept before each request to this unit, on top of the bus's.
    pub pause: Duration,
    /// What is read; shared with whoever reads it.
    pub properties: Arc<[Property]>,
    /// Labels on every datum of this unit.
    pub tags: Vec<String>,
}

/// Where in its period a unit is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// At an offset made from the source ID, so that units and fleets do not fire at once.
    Spread,
    /// At whole multiples of the period in UTC.
    Aligned,
}

/// One value of a unit and what it becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// The property's name in the datum.
    pub name: String,
    /// What it is to the server.
    pub kind: Kind,
    /// Where it stands and how it is encoded.
    pub register: Register,
    /// From the raw value to the property.
    pub scale: Scale,
    /// Raw values that mean "not available", compared before scaling.
    pub invalid: Vec<Decimal>,
    /// Labels that the datum gets whenever this property was read.
    pub tags: Vec<String>,
}

/// Where a value stands on the unit and how it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// Which of the four tables.
    pub table: Table,
    /// Zero-based, as on the wire.
    pub address: u16,
    /// The encoding.
    pub encoding: Encoding,
    /// The order of the words of a value of several words.
    pub word_order: Order,
    /// The order of the two bytes in each word.
    pub byte_order: Order,
    /// Which bits of an unsigned integer count.
    pub select: Select,
}

/// The four tables of a Modbus unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single bits, readable and writable (0x).
    Coil,
    /// Single bits, read only (1x).
    Discrete,
    /// Words, read only (3x).
    Input,
    /// Words, readable and writable (4x).
    Holding,
}

/// How a value is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// A coil or discrete input; of a register, whether it is not zero.
    Bit,
    /// 16 bits, signed.
    I16,
    /// 16 bits, unsigned.
    U16,
    /// 32 bits, signed.
    I32,
    /// 32 bits, unsigned.
    U32,
    /// 64 bits, signed.
    I64,
    /// 64 bits, unsigned.
    U64,
    /// IEEE 754 half.
    F16,
    /// IEEE 754 single.
    F32,
    /// IEEE 754 double.
    F64,
    /// Bytes, shown as hexadecimal digits; length in words.
    Bytes(u16),
    /// UTF-8 text; length in words.
    Utf8(u16),
    /// ASCII text; length in words.
    Ascii(u16),
}

impl Register {
    /// Registers, or bits, that its value takes.
    #[must_use]
    pub fn count(&self) -> u16 {
        match self.table {
            Table::Coil | Table::Discrete => 1,
            Table::Input | Table::Holding => self.encoding.words(),
        }
    }
}

impl Encoding {
    /// Registers that one value takes.
    #[must_use]
    pub fn words(self) -> u16 {
        match self {
            Self::Bit | Self::I16 | Self::U16 | Self::F16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
            Self::I64 | Self::U64 | Self::F64 => 4,
            Self::Bytes(words) | Self::Utf8(words) | Self::Ascii(words) => words,
        }
    }

    /// Whether the value is text: text is neither scaled nor averaged.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Bytes(_) | Self::Utf8(_) | Self::Ascii(_))
    }
}

/// Which end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The most significant first, as the Modbus specification has it.
    Big,
    /// The least significant first.
    Little,
}

/// Which bits of an unsigned integer are the value. Bit 0 is the least significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Select {
    /// All of them.
    All,
    /// One bit, as 0 or 1.
    Bit(u8),
    /// The bits set in the mask, shifted down so that the mask's lowest bit becomes bit 0.
    Mask(u64),
}

/// `property = raw × multiply + offset`, then rounded half up to `digits` after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Factor.
    pub multiply: Decimal,
    /// Added after multiplying.
    pub offset: Decimal,
    /// Digits kept after the point; `None` keeps all.
    pub digits: Option<u32>,
}

/// Something that an instruction may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    /// Its ID: the parameter's name in the instruction and the source of its result datum.
    pub id: SourceId,
    /// The bus that reaches it, by name.
    pub bus: String,
    /// The unit that has it.
    pub unit: u8,
    /// Where it stands: a coil or a holding register, written and read back there.
    pub register: Register,
    /// From register to control value; a write goes the other way.
    pub scale: Scale,
    /// How long one answer may take.
    pub timeout: Duration,
    /// How far the value read back may lie from the one wanted, in the control's units.
    pub tolerance: Decimal,
    /// How long the device may take to show the value written.
    pub settle: Duration,
    /// What is allowed.
    pub allow: Allow,
    /// The value that each operating state stands for.
    pub states: BTreeMap<OperatingState, Decimal>,
    /// The value that each signal stands for.
    pub signals: BTreeMap<String, Decimal>,
}

/// The limits of a control.
#[derive(Debug, Clone, PartialEq)]
pub struct Allow {
    /// Smallest value.
    pub min: Decimal,
    /// Largest value.
    pub max: Decimal,
    /// Shortest time between two writes.
    pub every: Duration,
}

/// How instructions are fetched and bounded.
#[derive(Debug, Clone, PartialEq)]
pub struct Instructions {
    /// Whether they are fetched at all.
    pub enabled: bool,
    /// The interval between polls just after an instruction was seen.
    pub poll_fastest: Duration,
    /// The interval after a long quiet time.
    pub poll_slowest: Duration,
    /// How old an instruction without an expiry may be when it is carried out.
    pub max_age: Duration,
    /// The source of result datum of instructions that name no control.
    pub result_source: Option<SourceId>,
    /// What they may ask of the node itself.
    pub allow: BTreeSet<NodeTopic>,
}
