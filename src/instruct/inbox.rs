//! What reaches the node without being asked for by the instructor: pushed by the broker, or in an answer
//! to an upload.
//!
//! Each message comes with the instant at which it arrived: that is how old the server's word is, however long
//! it waited here. The channel outlives the instructor, which a reload may start again. It holds [`WAITING`]
//! messages; what comes on top is not taken, and the server offers it again until it is acknowledged.

use std::sync::Arc;

use serde_json::Value;
use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};

/// Messages that wait while an instruction is carried out. The server pushes one instruction a message.
const WAITING: usize = 16;

/// The receiving end, held by one instructor at a time.
#[derive(Debug, Clone)]
pub struct Inbox(Arc<Mutex<mpsc::Receiver<(Instant, Value)>>>);

impl Inbox {
    /// A new channel for messages and when they arrived.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<(Instant, Value)>, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (sender, Self(Arc::new(Mutex::new(receiver))))
    }

    /// What has arrived, once something has. Waits for ever where nobody is left who sends anything.
    pub(super) async fn next(&self) -> Vec<(Instant, Value)> {
        let mut messages = Vec::new();
        if self.0.lock().await.recv_many(&mut messages, WAITING).await == 0 {
            std::future::pending::<()>().await;
        }
        messages
    }
}
