//! The log lines about a serial port: changes, not conditions.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{OpenError, Port};
use crate::config::settings::Serial;

/// Why a port is not in use, as far as it makes a difference to whoever reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::modbus) enum Trouble {
    /// It is not there, or no longer.
    Gone,
    /// It is not ours.
    Denied,
    /// Another program has it.
    Held,
    /// Anything else.
    Other,
}

impl Trouble {
    /// What kind of trouble an error is.
    pub(in crate::modbus) fn of(error: &OpenError) -> Self {
        match error {
            OpenError::Absent { .. } => Self::Gone,
            OpenError::Denied { .. } => Self::Denied,
            OpenError::Held(_) => Self::Held,
            OpenError::NotAPort | OpenError::Speed { .. } | OpenError::System(_) => Self::Other,
        }
    }
}

/// The log lines about a port: one when it goes down or is down for another reason, one when it is up.
#[derive(Debug, Default)]
pub(in crate::modbus) struct Journal {
    down: Option<(Instant, Trouble)>,
}

impl Journal {
    /// The port is open.
    pub(in crate::modbus) fn opened(&mut self, serial: &Serial, port: &Port) {
        let link = serial.port.display().to_string();
        let down_secs = self.down.take().map(|(since, _)| since.elapsed().as_secs());
        info!(event = "serial.up", link, baud = serial.baud, down_secs, "serial port opened");
        if let Some(holder) = &port.shared_with {
            warn!(event = "serial.shared", link, %holder, "another program has the serial port open");
        }
    }

    /// The port cannot be used; said if that is news.
    pub(in crate::modbus) fn down(&mut self, serial: &Serial, trouble: Trouble, reason: &str) {
        if self.down.is_none_or(|(_, before)| before != trouble) {
            let link = serial.port.display().to_string();
            warn!(event = "serial.down", link, reason, "serial port cannot be used");
        }
        let since = self.down.map_or_else(Instant::now, |(since, _)| since);
        self.down = Some((since, trouble));
    }
}
