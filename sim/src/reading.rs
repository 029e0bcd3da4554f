//! How a request's body is read: as fast as it comes, with pauses, or up to where the connection is cut.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::misbehave::Act;
use crate::reply::Cut;

#[derive(Debug, Default)]
pub(crate) struct Reading {
    pause: Duration,
    cut_after: Option<u64>,
}

impl Reading {
    pub(crate) fn of(act: Option<&Act>) -> Self {
        match act {
            Some(Act::SlowUpload { ms }) => {
                Self { pause: Duration::from_millis(*ms), cut_after: None }
            }
            Some(Act::CutUpload { after }) => {
                Self { pause: Duration::ZERO, cut_after: Some(*after) }
            }
            _ => Self::default(),
        }
    }

    /// The next piece; `None` at the end. An error is a client that left, or a cut that was asked for.
    pub(crate) async fn next(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Cut> {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Cut)?.into_data() else { continue };
            if let Some(left) = &mut self.cut_after {
                *left = left.checked_sub(data.len() as u64).ok_or(Cut)?;
            }
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            return Ok(Some(data));
        }
        Ok(None)
    }
}
