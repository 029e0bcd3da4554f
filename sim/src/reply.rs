//! How an answer's bytes go out: whole, byte by byte, or cut in the middle; from memory or from a file.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::misbehave::Act;

/// How much of a file is read at once.
const CHUNK: usize = 64 * 1024;

/// The connection is to be cut here.
#[derive(Debug, thiserror::Error)]
#[error("cut on demand")]
pub(crate) struct Cut;

/// The parts of an answer.
pub(crate) struct Parts {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// What follows the body's bytes, and how much of it.
    pub(crate) file: Option<(File, u64)>,
}

pub(crate) fn reply(parts: Parts, act: Option<&Act>) -> Response<Reply> {
    let behind = parts.file.as_ref().map_or(0, |(_, length)| *length);
    let length = parts.body.len() as u64 + behind;
    let mut response = Response::builder().status(parts.status).header("content-length", length);
    for (name, value) in parts.headers {
        response = response.header(name, value);
    }
    let manner = match act {
        Some(Act::Trickle { ms }) => Manner::Trickle {
            pause: Duration::from_millis(*ms),
            next: Box::pin(tokio::time::sleep(Duration::from_millis(*ms))),
        },
        Some(Act::CutMidBody) => Manner::CutHalfway { left: length / 2 },
        _ => Manner::Whole,
    };
    let body = Reply { rest: parts.body, file: parts.file, manner };
    response.body(body).unwrap_or_else(|_| {
        // A header that cannot be sent (a status out of range, a control character in a message).
        let nothing = Reply { rest: Bytes::new(), file: None, manner: Manner::Whole };
        let mut response = Response::new(nothing);
        *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// A body, and how it comes.
pub(crate) struct Reply {
    rest: Bytes,
    file: Option<(File, u64)>,
    manner: Manner,
}

enum Manner {
    Whole,
    Trickle { pause: Duration, next: Pin<Box<tokio::time::Sleep>> },
    CutHalfway { left: u64 },
}

impl Reply {
    /// Takes the next piece of the file into memory where there is nothing left of the one before.
    fn refill(&mut self) -> Result<(), Cut> {
        let Some((file, left)) = self.file.as_mut().filter(|(_, left)| *left > 0) else {
            return Ok(());
        };
        if self.rest.is_empty() {
            let mut chunk = vec![0; CHUNK.min(usize::try_from(*left).unwrap_or(CHUNK))];
            // A file that is shorter than it was announced.
            file.read_exact(&mut chunk).map_err(|_| Cut)?;
            *left -= chunk.len() as u64;
            self.rest = chunk.into();
        }
        Ok(())
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        if let Err(cut) = this.refill() {
            return Poll::Ready(Some(Err(cut)));
        }
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let taken = match &mut this.manner {
            Manner::Whole => this.rest.len(),
            Manner::Trickle { pause, next } => {
                std::task::ready!(next.as_mut().poll(context));
                let again = Instant::now() + *pause;
                next.as_mut().reset(again);
                1
            }
            Manner::CutHalfway { left: 0 } => return Poll::Ready(Some(Err(Cut))),
            Manner::CutHalfway { left } => {
                let taken = this.rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                taken
            }
        };
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(taken)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.file.as_ref().is_none_or(|(_, left)| *left == 0)
    }

    fn size_hint(&self) -> SizeHint {
        let behind = self.file.as_ref().map_or(0, |(_, left)| *left);
        SizeHint::with_exact(self.rest.len() as u64 + behind)
    }
}
