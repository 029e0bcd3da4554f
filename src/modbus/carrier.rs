//! The carriers of a bus, one of which a configuration names.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    frame::{Answer, Request},
    link::TcpLink,
    rtu::RtuLink,
    wire::{CallError, Wire},
};
use crate::config::settings::{Bus, Link};

/// Whatever carries the frames of a bus.
#[derive(Debug)]
pub enum Carrier {
    /// Modbus TCP.
    Tcp(TcpLink),
    /// Modbus RTU, on a serial port or over TCP. Boxed: it is twice as large as the other.
    Rtu(Box<RtuLink>),
}

impl Carrier {
    /// The one of a bus; opened when it is first used.
    #[must_use]
    pub fn of(bus: &Bus) -> Self {
        let rtu = |link| Self::Rtu(Box::new(link));
        match &bus.link {
            Link::Tcp { host, port } => Self::Tcp(TcpLink::new(host, *port, bus.connect_timeout)),
            Link::RtuTcp { host, port } => rtu(RtuLink::tcp(host, *port, bus.connect_timeout)),
            Link::Serial(serial) => rtu(RtuLink::serial(serial)),
        }
    }
}

impl Wire for Carrier {
    async fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> Result<Answer<'a>, CallError> {
        match self {
            Self::Tcp(link) => link.call(unit, request, wait).await,
            Self::Rtu(link) => link.call(unit, request, wait).await,
        }
    }

    fn take_late(&mut self) -> Option<u8> {
        match self {
            Self::Tcp(link) => link.take_late(),
            Self::Rtu(link) => link.take_late(),
        }
    }

    fn rests_until(&self, unit: u8) -> Option<Instant> {
        match self {
            Self::Tcp(link) => link.rests_until(unit),
            Self::Rtu(link) => link.rests_until(unit),
        }
    }
}
