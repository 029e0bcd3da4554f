//! Sends a request whose body is read while it goes out, so that memory does not grow with it.
//!
//! ```text
//!  a blocking thread:  read 64 KiB ──▶ channel of 4 ──▶ the connection
//! ```
//!
//! The thread waits when the connection does; the runtime never waits for the disk. A reader that fails
//! breaks the request off before its last byte, so the server cannot take it for whole.
//!
//! A large body may take hours on a slow link, so there is no limit for the whole request. It ends when
//! nothing was taken for [`STALL`], or when the last byte is out and no answer came within [`ANSWER`].

use std::{
    io::{self, Read},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{Incoming, Net, Outgoing, SendError, answer_of, classify, prepare};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Chunks between the disk and the connection.
const CHUNKS: usize = 4;

/// How long the connection may take nothing.
const STALL: Duration = Duration::from_secs(60);

/// How long the answer may take after the last byte: the server hashes, types and copies the file first.
const ANSWER: Duration = Duration::from_secs(600);

/// No request lasts longer; the other two limits end it long before.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// How long a broken request waits to hear whether it was the reader that broke it.
const READER_ENDS: Duration = Duration::from_secs(1);

/// A body that is read while it is sent.
pub struct Content {
    /// Exactly `bytes` bytes, or an error.
    pub reader: Box<dyn Read + Send>,
    /// How many bytes there are; sent as `Content-Length`.
    pub bytes: u64,
    /// Bytes the connection has taken so far, for whoever shows progress.
    pub taken: Arc<AtomicU64>,
}

impl Net {
    /// Sends `request` with `content` as its body, and reads the whole answer. The clock is not told what
    /// time the server thinks it is.
    ///
    /// # Errors
    ///
    /// If the content cannot be read, or there is no complete answer.
    pub async fn send_content(
        &self,
        request: &Outgoing,
        content: Content,
    ) -> Result<Incoming, SendError> {
        let Content { reader, bytes, taken } = content;
        let (chunk, chunks) = mpsc::channel(CHUNKS);
        let body = FileBody { chunks, left: bytes, taken: taken.clone() };
        // Ends by itself: with the reader, or when the body is dropped and nobody takes chunks any more.
        let reading = spawn_blocking(move || read_chunks(reader, &chunk));
        let call = prepare(&self.client, request)?.body(reqwest::Body::wrap(body)).timeout(LONGEST);
        let answer = async { answer_of(call.send().await.map_err(|e| classify(&e))?).await };
        let answer = tokio::select! {
            answer = answer => answer,
            why = stalled(&taken, bytes) => Err(SendError::Unreachable(why)),
        };
        if answer.is_err() {
            // What broke the request off says more than that it broke.
            if let Ok(Ok(Err(error))) = timeout(READER_ENDS, reading).await {
                return Err(SendError::Content(error.to_string()));
            }
        }
        answer
    }
}

/// Reads until the end, an error, or nobody listens; an error goes out as well, which ends the request.
fn read_chunks(
    mut reader: Box<dyn Read + Send>,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                chunk.truncate(read);
                if to.blocking_send(Ok(chunk.into())).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // Whether anybody still listens changes nothing.
                drop(to.blocking_send(Err(io::Error::new(error.kind(), error.to_string()))));
                return Err(error);
            }
        }
    }
}

/// Returns, with the reason, when the other end has not moved for too long.
async fn stalled(taken: &AtomicU64, bytes: u64) -> String {
    let (mut last, mut since) = (taken.load(Ordering::Relaxed), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let patience = if now < bytes { STALL } else { ANSWER };
        if since.elapsed() >= patience {
            let secs = patience.as_secs();
            return match now < bytes {
                true => format!("the server took nothing for {secs} s, at {now} of {bytes} bytes"),
                false => format!("no answer within {secs} s after the last byte"),
            };
        }
    }
}

struct FileBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    taken: Arc<AtomicU64>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Poll::Ready(chunk) = self.chunks.poll_recv(context) else { return Poll::Pending };
        let chunk = match chunk {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
        };
        let bytes = chunk.len() as u64;
        if bytes > self.left {
            return Poll::Ready(Some(Err(io::Error::other("the content grew while it was read"))));
        }
        self.left -= bytes;
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
