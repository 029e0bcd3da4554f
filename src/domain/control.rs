//! A write to a device, asked for by an instruction and carried out by the bus that owns the device.

use rust_decimal::Decimal;

use super::SourceId;

/// What a bus is asked to do: write `value` to the control and read it back.
///
/// The bus reads the value before, writes, and reads again; all in the control's own units, that
/// is after `multiply` and `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlWrite {
    /// Which control.
    pub control: SourceId,
    /// The value wanted, in the control's units. Limits were checked by the caller.
    pub value: Decimal,
}

/// What a device is to do, as SolarNetwork names and numbers it.
///
/// # Source
///
/// solarnetwork-common, `DeviceOperatingState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatingState(u8);

impl OperatingState {
    /// Every state's name, in the order of the codes 0 to 8.
    pub const NAMES: [&'static str; 9] = [
        "Unknown", "Normal", "Starting", "Standby", "Shutdown", "Fault", "Disabled", "Recovery",
        "Override",
    ];

    /// The state of that name, whatever its case, or of that code.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let named = Self::NAMES.iter().position(|name| name.eq_ignore_ascii_case(text));
        let code = named.or_else(|| text.parse().ok().filter(|code| *code < Self::NAMES.len()))?;
        u8::try_from(code).ok().map(Self)
    }

    /// SolarNetwork's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }
}

/// A write that reached the device, with what the device said around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteReport {
    /// The value read before the write.
    pub before: Decimal,
    /// The value read after the write.
    pub after: Decimal,
    /// Whether `after` is the value wanted, within the control's tolerance.
    pub taken: bool,
}

/// Why a write has no report. What may have happened on the device differs by variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The value cannot be put into the register exactly; nothing was sent.
    #[error("{value} cannot be written to {control}: {reason}")]
    NotRepresentable {
        /// Which control.
        control: SourceId,
        /// The value wanted.
        value: Decimal,
        /// What does not fit.
        reason: String,
    },
    /// The device did not answer before anything was written.
    #[error("{control} could not be read before the write, so nothing was written: {reason}")]
    NotStarted {
        /// Which control.
        control: SourceId,
        /// What the link said.
        reason: String,
    },
    /// The device refused the write with an answer.
    #[error("the device refused the write to {control}: {reason}")]
    Refused {
        /// Which control.
        control: SourceId,
        /// What the device said.
        reason: String,
    },
    /// The write was sent and there is no proof either way.
    #[error("the write to {control} may have happened: {reason}")]
    Unknown {
        /// Which control.
        control: SourceId,
        /// What the link said.
        reason: String,
    },
}
