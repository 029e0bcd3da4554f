//! Ends of channels between modules that do not know each other.

use tokio::sync::{mpsc, oneshot};

use crate::{
    domain::{ControlWrite, Datum, SourceId, WriteError, WriteReport},
    files,
    instruct::{Actuator, NotStored, Results},
    modbus::WriteJob,
    queue::Queue,
};

/// Where each control's writes go.
pub(super) struct Buses(pub(super) Vec<(SourceId, mpsc::Sender<WriteJob>)>);

impl Actuator for Buses {
    async fn write(&self, write: ControlWrite) -> Result<WriteReport, WriteError> {
        let control = write.control.clone();
        let not_started = |reason: &str| WriteError::NotStarted {
            control: control.clone(),
            reason: reason.into(),
        };
        let Some((_, bus)) = self.0.iter().find(|(id, _)| *id == write.control) else {
            return Err(not_started("no bus has it"));
        };
        let (reply, report) = oneshot::channel();
        if bus.send((write, reply)).await.is_err() {
            return Err(not_started("its bus has stopped"));
        }
        // The bus took the job and ended without a word: nobody knows how far it came.
        report.await.unwrap_or_else(|_| {
            Err(WriteError::Unknown { control, reason: "its bus stopped meanwhile".into() })
        })
    }
}

/// Outcomes of instructions, committed before the server hears of them, and addresses of files.
pub(super) struct Outcomes(pub(super) Queue);

impl Results for Outcomes {
    async fn store(&self, datum: Datum) -> Result<(), NotStored> {
        self.0.store_durably(datum).await.map_err(|error| NotStored(error.to_string()))
    }
}

impl files::Reports for Outcomes {
    async fn tell(&self, datum: Datum) -> Result<(), files::NotTold> {
        self.0.store_durably(datum).await.map_err(|error| files::NotTold(error.to_string()))
    }
}
