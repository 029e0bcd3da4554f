//! One reading of one source at one instant.

use rust_decimal::Decimal;

use super::SourceId;

/// What a property is to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A reading at a moment, averaged in aggregates (`i`).
    Instantaneous,
    /// A counter that only grows, differenced in aggregates (`a`).
    Accumulating,
    /// State or text (`s`).
    Status,
}

/// The boot of this machine during which a reading was taken, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub [u8; 16]);

/// When a reading was taken.
///
/// While the clock cannot be trusted there is no wall time, only the machine's own time line; such
/// a reading gets its wall time once the clock of its boot is known (design: `[clock]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    Wall {
        /// Milliseconds since the epoch.
        unix_ms: i64,
    },
    /// Milliseconds since the machine started, in the boot named.
    Boot {
        /// Which boot.
        boot: BootId,
        /// Milliseconds of `CLOCK_BOOTTIME`.
        since_boot_ms: u64,
    },
}

/// The values of a datum, in the order the properties were configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Samples {
    /// Instantaneous readings (`i`).
    pub instantaneous: Vec<(String, Decimal)>,
    /// Accumulating readings (`a`).
    pub accumulating: Vec<(String, Decimal)>,
    /// Status values (`s`), always text as the server stores them.
    pub status: Vec<(String, String)>,
    /// Tags (`t`).
    pub tags: Vec<String>,
}

impl Samples {
    /// Whether there is nothing the server would store: tags alone are no reading.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instantaneous.is_empty() && self.accumulating.is_empty() && self.status.is_empty()
    }
}

/// One reading of one source. The server's key is (node, source, time).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datum {
    /// Which device or data set.
    pub source: SourceId,
    /// When it was read.
    pub stamp: Stamp,
    /// What was read.
    pub samples: Samples,
}
