//! Plays SolarNetwork's servers and a site's devices, strictly, for tests and for use by hand.
//!
//! - [`Sim`] plays SolarUser (tokens, import jobs, instructions) and SolarQuery (key refresh, nodes, metadata,
//!   datum raw and aggregated) over HTTP/1.1, or HTTPS with certificates of an [`Authority`] of its own. It
//!   verifies signatures and policies with code of its own, answers in the servers' own words, keeps a ledger of
//!   every datum that it accepted, and misbehaves on demand ([`Misbehaviour`]).
//! - [`SolarIn`] plays SolarIn on a port of its own, with mutual TLS, for nodes whose certificates an [`Authority`]
//!   issues as right or as wrong as need be; [`Broker`] is a real mosquitto with the servers' collector behind it.
//!   Both belong to a [`Sim`], whose ledger, instructions and clock are theirs.
//! - [`FileRepository`] plays File Repository on a port of its own, in the generation that is asked for
//!   ([`Profile`]), with a ledger of the files that it stored and the same misbehaviour.
//! - [`Site`] plays meters and relays behind one Modbus TCP port, counts readings, and remembers writes. A
//!   [`Line`] has the same units on a serial line, at its pace, with a report of what was seen there.
//!
//! ```text
//!   connection ─▶ http ──▶ api ─────▶ world: tokens, jobs, instructions, ledger     all behind one lock;
//!                  │  │     └─ auth, policy, import (pure)          ▲                time moves when
//!       switches ◀─┘  ├──▶ solarin (nodes' certificates) ───────────┤                someone looks
//!                     └──▶ admin (/sim/…) ──────────────────────────┤
//!   mosquitto ─▶ mqtt: collector, CBOR ─────────────────────────────┘
//! ```
//!
//! Each runs on a thread of its own, so that plain tests can use it, and stops when its handle is dropped.
//!
//! What is exact: status, envelope, headers and messages of every refusal that the reference documents;
//! the signature's canonical form; the path matcher; numbers, which are kept as they were written. What is
//! not played: SolarFlux towards applications (what it would grant can be asked), metadata of nodes and sources
//! over SolarIn, interpolation where datum are aggregated, readings, other answer formats than JSON, time zones
//! other than fixed offsets, the `preview` of a staged import, `exec` of an instruction.

mod admin;
mod answer;
mod api;
mod auth;
mod base64;
mod files;
mod http;
mod import;
mod ledger;
mod misbehave;
mod mqtt;
mod number;
mod policy;
mod port;
mod random;
mod rate;
mod reading;
mod reply;
mod request;
mod seed;
mod server;
mod sim;
mod site;
mod solarin;
mod stream;
mod time;
mod tls;
mod world;

pub use auth::signing_key_hex;
pub use files::{FileRepository, FileToken, Profile, StoredFile, UnknownProfile};
pub use ledger::{Datum, Entry, Key, LedgerCount, Seen};
pub use misbehave::{Act, Misbehaviour};
pub use mqtt::{Broker, BrokerError, FluxMessage, MqttSession};
pub use policy::{Policy, UnreadablePolicy};
pub use rate::RateLimit;
pub use seed::{Seed, SeedError, SeedToken, SeedUser};
pub use server::StartError;
pub use sim::{IssuedToken, Sim};
pub use site::Site;
pub use site::line::{Line, LineReport};
pub use site::unit::{Fault, METER_BLOCK, MeterReading, Table, Unit, Write};
pub use solarin::associate::Invitation;
pub use solarin::batch::Dropped;
pub use solarin::node::{NodeCertificate, NodeIdentity};
pub use solarin::openssl::OpensslError;
pub use solarin::{SolarIn, SolarInError};
pub use stream::{Kind, Stream};
pub use tls::{Authority, Certificate, Identity, TlsError, Versions};
pub use world::instruction::{Instruction, NewInstruction, State as InstructionState};
pub use world::job::{ImportDelays, JobState};
pub use world::token::TokenKind;
