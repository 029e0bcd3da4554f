//! Modbus servers and clients that others wrote, and a server whose every byte is scripted.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::agent::eventually;

/// `modbus_server.py` in a process of its own, gone when dropped.
pub(crate) struct Pymodbus {
    child: Child,
    /// Where it listens; 0 on a serial port.
    pub(crate) port: u16,
    _open: ChildStdin,
}

impl Pymodbus {
    /// Starts it on a free port.
    pub(crate) fn start() -> Self {
        Self::with("tcp")
    }

    /// Starts it on a free port, with RTU frames in place of those of Modbus TCP.
    pub(crate) fn rtu_over_tcp() -> Self {
        Self::with("rtu")
    }

    /// Starts it on a serial port at 19,200 baud.
    pub(crate) fn serial(port: &Path) -> Self {
        Self::with(port.to_str().expect("text"))
    }

    fn with(link: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/test-tools/venv/bin/python");
        let mut child = Command::new(&python)
            .arg(root.join("tests/it/support/modbus_server.py"))
            .arg(link)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "pymodbus is needed for this test, run tests/setup.sh: {}: {error}",
                    python.display()
                )
            });
        let open = child.stdin.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let port =
            line.trim().parse().expect("pymodbus is needed for this test, run tests/setup.sh");
        Self { child, port, _open: open }
    }

    /// What mbpoll says these are: `-t` and first register as mbpoll has them, zero-based.
    pub(crate) fn mbpoll(&self, unit: u8, table: &str, first: u16, count: u16) -> Vec<u64> {
        let output = Command::new("mbpoll")
            .args(["-m", "tcp", "-0", "-1", "-q", "-o", "10", "-t", table])
            .args(["-p", &self.port.to_string(), "-a", &unit.to_string()])
            .args(["-r", &first.to_string(), "-c", &count.to_string(), "127.0.0.1"])
            .output()
            .expect("mbpoll is needed for this test, run tests/setup.sh");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let values = text.lines().filter(|line| line.starts_with('['));
        let number = |line: &str| line.split_whitespace().nth(1)?.parse().ok();
        let values: Vec<u64> = values.filter_map(number).collect();
        assert_eq!(values.len(), usize::from(count), "{text}");
        values
    }
}

impl Drop for Pymodbus {
    fn drop(&mut self) {
        // Already gone is fine: the test is over.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Two serial ports joined by socat; gone when dropped.
pub(crate) struct SerialPair {
    socat: Child,
    near: PathBuf,
    far: PathBuf,
    _folder: TempDir,
}

impl SerialPair {
    /// Makes both, and waits until they are there.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (near, far) = (folder.path().join("near"), folder.path().join("far"));
        let end = |path: &Path| format!("PTY,raw,echo=0,link={}", path.display());
        let socat = Command::new("socat").args([end(&near), end(&far)]).spawn();
        let socat = socat.expect("socat is needed for this test, run tests/setup.sh");
        let pair = Self { socat, near, far, _folder: folder };
        eventually("socat joins two ports", || pair.near.exists() && pair.far.exists());
        pair
    }

    /// One end.
    pub(crate) fn near(&self) -> &Path {
        &self.near
    }

    /// The other one.
    pub(crate) fn far(&self) -> &Path {
        &self.far
    }
}

impl Drop for SerialPair {
    fn drop(&mut self) {
        // Already gone is fine: the test is over.
        drop(self.socat.kill());
        drop(self.socat.wait());
    }
}

/// One end of a connection, played by the test.
pub(crate) struct Scripted(TcpStream);

impl Scripted {
    /// Listens on a free port.
    pub(crate) async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    /// Takes the next connection.
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        Self(listener.accept().await.expect("a connection").0)
    }

    /// The transaction number of the next request, which is a read or a single write.
    pub(crate) async fn request(&mut self) -> u16 {
        let mut bytes = [0; 12];
        self.0.read_exact(&mut bytes).await.expect("a request");
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    /// Sends a frame.
    pub(crate) async fn answer(&mut self, transaction: u16, unit: u8, pdu: &[u8]) {
        let length = u8::try_from(pdu.len() + 1).expect("a short PDU");
        let mut frame = transaction.to_be_bytes().to_vec();
        frame.extend([0, 0, 0, length, unit]);
        frame.extend(pdu);
        self.bytes(&frame).await;
    }

    /// Sends anything.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("still connected");
    }
}
