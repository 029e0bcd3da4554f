//! The control socket: how `status` and the commands that change the credential store reach a
//! running daemon.
//!
//! One request a connection: a line of JSON in, a line of JSON out, closed.
//!
//! ```text
//! {"ask":"status"}              → the members of `status --json`
//! {"ask":"frames"}              → the last Modbus exchanges, for `bundle`
//! {"ask":"changes"}             → {"file":…,"problems":[…],"needs_restart":[…],"changes":[…]}: what a
//!                                 reload would do now
//! {"ask":"credential_changed"}  → {"ok":true}; the daemon reads its token again and asks
//!                                 SolarNetwork whether it works
//! {"ask":"identity_changed"}    → {"ok":true}; the daemon reads its certificate again
//! anything else                 → {"error":"…"}
//! ```
//!
//! A Unix socket, mode 0660, so the folder and group decide who may ask; nothing secret passes. It
//! takes no orders that act on devices.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::pulse::{Bound, Pulse};

/// Longest request line; ours have 30 bytes.
const MAX_REQUEST_BYTES: u64 = 4096;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Askers served at once. One more, and the one that was there longest has to go: it most likely hangs, and an answer
/// takes no time.
const MAX_ASKERS: usize = 8;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// How is everything?
    Status,
    /// What passed on the buses lately?
    Frames,
    /// What would a reload do?
    Changes,
    /// The credential store was changed.
    CredentialChanged,
    /// The node's certificate in it was changed.
    IdentityChanged,
}

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no daemon is running at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is another user's.
    #[error("{} is not yours to ask; run this as root or as a member of the daemon's group", .0.display())]
    NotAllowed(PathBuf),
    /// It listens but does not answer sensibly.
    #[error("the daemon at {} did not answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon has it.
    #[error("another daemon is running: it answers at {}", .0.display())]
    Taken(PathBuf),
    /// The folder or the name cannot be used.
    #[error("could not open the control socket {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// Answers asks. Implemented by the daemon.
pub trait Answers: Send + Sync + 'static {
    /// The answer to one ask, given well within five seconds.
    fn answer(&self, ask: Ask) -> impl Future<Output = Value> + Send;
}

/// The listening socket; its file is removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Opens the socket, in place of one that a killed daemon left behind.
    ///
    /// # Errors
    ///
    /// If another daemon answers there, or the folder is not ours.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io_error = |source| BindError::Io { path: path.to_owned(), source };
        if BlockingStream::connect(path).is_ok() {
            return Err(BindError::Taken(path.to_owned()));
        }
        remove_leftover(path).map_err(io_error)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io_error)?;
        }
        let listener = UnixListener::bind(path).map_err(io_error)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(io_error)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until `stop`.
    pub async fn serve<A: Answers>(self, answers: Arc<A>, pulse: Pulse, stop: CancellationToken) {
        let mut served: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let waiting = pulse.enter("waiting to be asked", Bound::Open);
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            drop(waiting);
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: asking again at once would spin.
                    debug!(%error, "control connection not accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            served.retain(|asker| !asker.is_finished());
            if served.len() >= MAX_ASKERS {
                served.pop_front().inspect(AbortHandle::abort);
            }
            let answers = answers.clone();
            let asker = tokio::spawn(pulse.watched(async move {
                match timeout(PATIENCE, converse(stream, answers.as_ref())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "control connection broke"),
                    Err(_) => debug!("control connection timed out"),
                }
            }));
            served.push_back(asker.abort_handle());
        }
    }
}

/// Removes the socket of a killed daemon. Anything else at that path is somebody's file.
fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is something that is not a socket (`control_socket` names another path)",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Already gone is fine; a leftover is replaced by the next start.
        drop(fs::remove_file(&self.path));
    }
}

async fn converse(stream: UnixStream, answers: &impl Answers) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = tokio::io::BufReader::new(read.take(MAX_REQUEST_BYTES));
    read.read_until(b'\n', &mut line).await?;
    let answer = match serde_json::from_slice(&line) {
        Ok(ask) => answers.answer(ask).await,
        Err(error) => json!({ "error": format!("not an ask that this daemon knows: {error}") }),
    };
    let mut text = answer.to_string();
    text.push('\n');
    write.write_all(text.as_bytes()).await?;
    write.shutdown().await
}

/// Asks a running daemon and waits for its answer.
///
/// # Errors
///
/// If there is no daemon, or it does not answer in five seconds.
pub fn ask(path: &Path, ask: Ask) -> Result<Value, AskError> {
    let mut stream = BlockingStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => AskError::NotAllowed(path.to_owned()),
        _ => AskError::NotRunning(path.to_owned()),
    })?;
    exchange(&mut stream, ask, PATIENCE)
        .map_err(|source| AskError::NoAnswer { path: path.to_owned(), source })
}

fn exchange(stream: &mut BlockingStream, ask: Ask, patience: Duration) -> io::Result<Value> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = serde_json::to_string(&ask)?;
    line.push('\n');
    let mut answer = String::new();
    let mut passed = stream.write_all(line.as_bytes());
    if passed.is_ok() {
        passed = BufReader::new(stream.take(16 << 20)).read_line(&mut answer).map(drop);
    }
    passed.map_err(|error| match error.kind() {
        // As the kernel words it, the resource is temporarily unavailable.
        io::ErrorKind::WouldBlock => io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "nothing came within {} s; it is stopped, or the machine is overloaded",
                patience.as_secs()
            ),
        ),
        _ => error,
    })?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it answered"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Tells a running daemon that the credential store changed. No daemon is fine: it reads the store
/// when it starts. Returns whether one was told.
///
/// # Errors
///
/// If a daemon is there but could not be told.
pub fn tell_credential_changed(path: &Path) -> Result<bool, AskError> {
    tell(path, Ask::CredentialChanged)
}

/// Tells a running daemon that the node's certificate changed, as [`tell_credential_changed`].
///
/// # Errors
///
/// If a daemon is there but could not be told.
pub fn tell_identity_changed(path: &Path) -> Result<bool, AskError> {
    tell(path, Ask::IdentityChanged)
}

fn tell(path: &Path, change: Ask) -> Result<bool, AskError> {
    match ask(path, change) {
        Ok(_) => Ok(true),
        Err(AskError::NotRunning(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Answers for Fixed {
        async fn answer(&self, ask: Ask) -> Value {
            json!({ "asked": ask })
        }
    }

    async fn asked(path: PathBuf, line: &'static str) -> Value {
        let task = tokio::task::spawn_blocking(move || {
            let mut stream = BlockingStream::connect(path).expect("the socket listens");
            stream.write_all(line.as_bytes()).expect("written");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            serde_json::from_str(&text).expect("JSON")
        });
        task.await.expect("no panic")
    }

    #[tokio::test]
    async fn asks_are_answered_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("control.sock");
        let socket = ControlSocket::bind(&path).expect("bound");
        let stop = CancellationToken::new();
        let server = tokio::spawn(socket.serve(Arc::new(Fixed), Pulse::unheard(), stop.clone()));

        let status = asked(path.clone(), "{\"ask\":\"status\"}\n").await;
        assert_eq!(status["asked"]["ask"], "status");
        let nonsense = asked(path.clone(), "{\"ask\":\"open the door\"}\n").await;
        assert!(nonsense["error"].is_string(), "{nonsense}");

        stop.cancel();
        server.await.expect("no panic");
        assert!(!path.exists(), "the socket is removed");
        assert!(matches!(ask(&path, Ask::Status), Err(AskError::NotRunning(_))));
    }

    #[test]
    fn a_daemon_that_stands_still_or_ends_is_told_in_words_of_ours() {
        let (mut asker, _stands_still) = BlockingStream::pair().expect("a pair");
        let said = exchange(&mut asker, Ask::Status, Duration::from_millis(10));
        let said = said.expect_err("nobody answers").to_string();
        assert!(said.starts_with("nothing came within"), "{said}");

        let (mut asker, ends) = BlockingStream::pair().expect("a pair");
        let ends = std::thread::spawn(move || BufReader::new(ends).read_line(&mut String::new()));
        let said = exchange(&mut asker, Ask::Status, PATIENCE).expect_err("nobody answers");
        assert_eq!(said.to_string(), "it ended before it answered");
        assert!(ends.join().expect("no panic").is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("letter.txt");
        fs::write(&path, "dear").expect("written");
        assert!(matches!(ControlSocket::bind(&path), Err(BindError::Io { .. })));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "dear");
    }

    #[tokio::test]
    async fn a_leftover_is_replaced_and_a_living_daemon_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let first = ControlSocket::bind(&path).expect("a leftover is replaced");
        assert!(matches!(ControlSocket::bind(&path), Err(BindError::Taken(_))));
        drop(first);
    }
}
