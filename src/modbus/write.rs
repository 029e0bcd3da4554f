//! One write to a control, from the value before to the value after.
//!
//! ```text
//!  read before ──▶ write once ──▶ read back, again every 250 ms until it fits or `settle` is over
//!       │              │               │
//!   NotStarted   Refused, Unknown   taken or not; Unknown if it cannot be read
//! ```
//!
//! Each arrow is one request, and other units are read between them. Reads are repeated, the write
//! never: whether it may be repeated is not for the bus to decide. A write that was sent and not
//! confirmed may have happened, and so may one that failed inside the device or behind a gateway;
//! both are `Unknown`, never `Refused`. Nobody waiting for the result any more withdraws a write that was
//! not sent: it would come late.

use std::time::Duration;

use rust_decimal::Decimal;
use tokio::sync::oneshot;

use super::{
    decode,
    encode::{self, Write},
    frame::{Answer, Exception, Request},
    wire::{CallError, RequestError, Wire},
};
use crate::{
    config::settings::{Control, Table},
    domain::{ControlWrite, WriteError, WriteReport},
};

/// Between two reads of a control that does not show the value yet.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the value before is asked for.
const ASKS: u8 = 2;

/// A write asked for, and where its result goes.
pub type WriteJob = (ControlWrite, oneshot::Sender<Result<WriteReport, WriteError>>);

/// A write under way.
#[derive(Debug)]
pub struct Writing {
    control: Control,
    wanted: Decimal,
    write: Write,
    reply: oneshot::Sender<Result<WriteReport, WriteError>>,
    stage: Stage,
    /// When the next request is due.
    at: Duration,
}

#[derive(Debug)]
enum Stage {
    Before { asked: u8 },
    Write { before: Decimal },
    After { before: Decimal, until: Duration, give_up: Duration },
}

impl Writing {
    /// Prepares a write; one that cannot be made is answered at once.
    #[must_use]
    pub fn begin(controls: &[Control], (job, reply): WriteJob, now: Duration) -> Option<Self> {
        if reply.is_closed() {
            return None;
        }
        let prepared = match controls.iter().find(|control| control.id == job.control) {
            None => Err(WriteError::NotStarted {
                control: job.control,
                reason: "this bus has no such control".to_owned(),
            }),
            Some(control) => match encode::write(&control.register, &control.scale, job.value) {
                Ok(write) => Ok((control.clone(), write)),
                Err(reason) => Err(WriteError::NotRepresentable {
                    control: job.control,
                    value: job.value,
                    reason: reason.to_string(),
                }),
            },
        };
        match prepared {
            Ok((control, write)) => {
                let stage = Stage::Before { asked: 0 };
                Some(Self { control, wanted: job.value, write, reply, stage, at: now })
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// The unit that is written to.
    #[must_use]
    pub fn unit(&self) -> u8 {
        self.control.unit
    }

    /// When its next request is due.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.at
    }

    /// Lets go before anything was sent, or looks a last time after.
    #[must_use]
    pub fn hurry(mut self, now: Duration) -> Option<Self> {
        match &mut self.stage {
            Stage::Before { .. } | Stage::Write { .. } => {
                let error = self.not_started("the bus is being stopped".to_owned());
                answer(self.reply, Err(error))
            }
            Stage::After { until, give_up, .. } => {
                (*until, *give_up, self.at) = (now, now, now);
                Some(self)
            }
        }
    }

    /// Makes one request. Returns the write while it is not over.
    ///
    /// Must not be dropped half-way: the result would be lost with it.
    pub async fn step<W: Wire>(
        mut self,
        wire: &mut W,
        running: impl Fn() -> Duration,
    ) -> Option<Self> {
        match self.stage {
            Stage::Before { asked } => match self.read(wire).await {
                Ok(before) => self.stage = Stage::Write { before },
                Err(Unread::Call(error)) if asked + 1 < ASKS && error.exception().is_none() => {
                    self.stage = Stage::Before { asked: asked + 1 };
                }
                Err(reason) => {
                    let error = self.not_started(reason.to_string());
                    return answer(self.reply, Err(error));
                }
            },
            Stage::Write { .. } if self.reply.is_closed() => return None,
            Stage::Write { before } => {
                let request = self.write.request();
                let result = wire.call(self.control.unit, &request, self.control.timeout).await;
                if let Err(error) = result.map(drop)
                    && !accepted_for_later(&error)
                {
                    let error = self.write_failed(&error);
                    return answer(self.reply, Err(error));
                }
                let now = running();
                let until = now + self.control.settle;
                // Even without any time to settle, a lost answer gets a second chance.
                let give_up = until.max(now + self.control.timeout * 2);
                self.stage = Stage::After { before, until, give_up };
            }
            Stage::After { before, until, give_up } => {
                let read = self.read(wire).await;
                let now = running();
                match read {
                    Ok(after) => {
                        let off = after.checked_sub(self.wanted).map(|off| off.abs());
                        let taken = off.is_some_and(|off| off <= self.control.tolerance);
                        if taken || now >= until {
                            return answer(self.reply, Ok(WriteReport { before, after, taken }));
                        }
                        self.at = until.min(now + LOOK_EVERY);
                    }
                    Err(reason) if now >= give_up => {
                        let error = self.unknown(format!(
                            "the device accepted it but could not be read back: {reason}"
                        ));
                        return answer(self.reply, Err(error));
                    }
                    Err(_) => self.at = give_up.min(now + LOOK_EVERY),
                }
            }
        }
        Some(self)
    }

    /// What the control shows now.
    async fn read<W: Wire>(&self, wire: &mut W) -> Result<Decimal, Unread> {
        let Control { register, scale, unit, timeout, .. } = &self.control;
        let count = match register.table {
            Table::Coil | Table::Discrete => 1,
            Table::Input | Table::Holding => register.encoding.words(),
        };
        let request = Request::Read { table: register.table, address: register.address, count };
        match wire.call(*unit, &request, *timeout).await? {
            Answer::Data(data) => Ok(decode::control(register, scale, register.address, data)?),
            // No link takes a confirmation for the answer to a read.
            Answer::Written => Err(RequestError::Silent { after: *timeout }.into()),
        }
    }

    fn write_failed(&self, error: &CallError) -> WriteError {
        let control = self.control.id.clone();
        let reason = error.to_string();
        match error.exception() {
            Some(Exception::DEVICE_FAILURE | Exception::GATEWAY_SILENT) => self.unknown(reason),
            Some(_) => WriteError::Refused { control, reason },
            None if error.may_have_arrived() => self.unknown(reason),
            None => self.not_started(reason),
        }
    }

    fn not_started(&self, reason: String) -> WriteError {
        WriteError::NotStarted { control: self.control.id.clone(), reason }
    }

    fn unknown(&self, reason: String) -> WriteError {
        WriteError::Unknown { control: self.control.id.clone(), reason }
    }
}

/// Why a control could not be read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Value(#[from] decode::Absent),
}

impl From<RequestError> for Unread {
    fn from(error: RequestError) -> Self {
        Self::Call(error.into())
    }
}

/// Whether the device took the write and works on it.
fn accepted_for_later(error: &CallError) -> bool {
    error.exception() == Some(Exception::ACKNOWLEDGE)
}

/// Ends a write with its result.
fn answer(
    reply: oneshot::Sender<Result<WriteReport, WriteError>>,
    result: Result<WriteReport, WriteError>,
) -> Option<Writing> {
    // Whoever asked may be gone; its journal says that the write may have happened.
    if let Err(result) = reply.send(result) {
        tracing::debug!(?result, "nobody waits for the result of a write");
    }
    None
}
