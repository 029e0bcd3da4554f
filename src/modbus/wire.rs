//! What carries requests to units, whatever it is made of, and why a call brings no answer.
//!
//! A failed *request* says something about its unit, an ended *link* about what all units share.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    frame::{Answer, BrokenFraming, DoesNotFit, Exception, Mismatch, Request},
    serial::OpenError,
};

/// What carries requests to units and brings their answers.
pub trait Wire: Send {
    /// Sends a request and waits for its answer; `wait` counts from when it was sent.
    ///
    /// Dropping the future is safe: whatever still arrives is discarded by the next call.
    fn call<'a>(
        &'a mut self,
        unit: u8,
        request: &'a Request<'a>,
        wait: Duration,
    ) -> impl Future<Output = Result<Answer<'a>, CallError>> + Send;

    /// The unit whose answer came too late and was discarded since the last call of this function.
    fn take_late(&mut self) -> Option<u8>;

    /// Until when an answer that is late by now may still come from a unit, and be taken for the answer to the
    /// next request, because nothing in it tells them apart. A call before that first waits.
    fn rests_until(&self, unit: u8) -> Option<Instant>;
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// This request failed; the link is well.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The link is over.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Why one request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The unit did not answer.
    #[error("no answer within {} ms", after.as_millis())]
    Silent {
        /// How long was waited.
        after: Duration,
    },
    /// Something answered, but not this request.
    #[error("no answer within {} ms, but {discarded}", after.as_millis())]
    Foreign {
        /// How long was waited.
        after: Duration,
        /// The last answer discarded.
        discarded: Discarded,
    },
    /// The unit refused.
    #[error("the unit answered with {0}")]
    Exception(Exception),
    /// The answer came, damaged.
    #[error("the checksum of the answer is wrong: noise, parity, or two units with this address")]
    Damaged,
    /// Somebody talks all the time; nothing was sent.
    #[error("the line was not quiet for {} ms: another master, noise, or a wrong baud rate", after.as_millis())]
    NotQuiet {
        /// How long was waited.
        after: Duration,
    },
    /// Nobody answers to what all units hear; nothing was sent.
    #[error("unit 0 means all units of a serial line, and none of them answers")]
    Broadcast,
    /// The protocol has no room for the request; nothing was sent.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// It failed when it was recorded, in these words; said by a recording that is played back.
    #[error("{0}")]
    Recorded(String),
}

/// Why an answer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Discarded {
    /// It belongs to an earlier request, or to none.
    #[error("an answer to another request came")]
    Transaction,
    /// It is from another unit.
    #[error("unit {0} answered in its place")]
    Unit(u8),
    /// It is no answer to what was asked.
    #[error("{0} came")]
    Mismatch(Mismatch),
    /// No frame at all.
    #[error("{0} bytes came that are no answer: baud rate, parity, or noise")]
    Noise(usize),
}

/// Why a link is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No connection could be made. Nothing was sent.
    #[error("could not connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// A serial port could not be opened. Nothing was sent.
    #[error("could not open {port}: {reason}")]
    Port {
        /// Its path.
        port: String,
        /// Why not.
        reason: OpenError,
    },
    /// The connection broke, or the other end closed it.
    #[error("the connection to {address} ended: {reason}")]
    Lost {
        /// Where to.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// What came is not Modbus, so nothing after it can be trusted.
    #[error("{address} does not speak Modbus TCP: {reason}")]
    NotModbus {
        /// Where to.
        address: String,
        /// What was wrong.
        reason: BrokenFraming,
    },
}

impl CallError {
    /// Whether the request may have reached the unit.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Request(error) => !matches!(
                error,
                RequestError::DoesNotFit(_)
                    | RequestError::NotQuiet { .. }
                    | RequestError::Broadcast
            ),
            Self::Link(error) => !error.is_before_sending(),
        }
    }

    /// The unit's refusal, if it answered with one.
    #[must_use]
    pub fn exception(&self) -> Option<Exception> {
        match self {
            Self::Request(RequestError::Exception(exception)) => Some(*exception),
            _ => None,
        }
    }
}

impl LinkError {
    /// Whether there was no link to send anything over, which says nothing about any unit.
    #[must_use]
    pub fn is_before_sending(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Port { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_may_have_arrived() {
        let (address, reason) = ("here".to_owned(), "gone".to_owned());
        let port = OpenError::NotAPort;
        let wait = Duration::from_secs(1);
        let does_not_fit = Request::WriteCoils { address: 0, on: &[] }.encode(&mut Vec::new());
        for unsent in [
            RequestError::from(does_not_fit.expect_err("nothing to write")).into(),
            RequestError::NotQuiet { after: wait }.into(),
            RequestError::Broadcast.into(),
            LinkError::Connect { address: address.clone(), reason: reason.clone() }.into(),
            LinkError::Port { port: address.clone(), reason: port }.into(),
        ] {
            assert!(!CallError::may_have_arrived(&unsent), "{unsent}");
        }
        for sent in [
            RequestError::Silent { after: wait }.into(),
            RequestError::Foreign { after: wait, discarded: Discarded::Noise(1) }.into(),
            RequestError::Damaged.into(),
            RequestError::Exception(Exception::BUSY).into(),
            LinkError::Lost { address, reason }.into(),
        ] {
            assert!(CallError::may_have_arrived(&sent), "{sent}");
        }
    }
}
