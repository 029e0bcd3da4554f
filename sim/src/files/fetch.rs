//! Fetches what an upload by address names: plain HTTP, no redirects.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::spool::{Spooled, Writer};

/// How long the other server may take in all.
const PATIENCE: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 * 1024;

/// Content that came.
pub(super) struct Fetched(pub(super) Spooled);

/// Why none came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFetched {
    /// Nobody answers there.
    Unreachable,
    /// The other server answered with an error.
    Refused,
}

pub(super) async fn fetch(url: &str, folder: &Path) -> Result<Fetched, NotFetched> {
    let rest = url.strip_prefix("http://").ok_or(NotFetched::Unreachable)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let fetched = tokio::time::timeout(PATIENCE, get(&address, host, path, folder)).await;
    fetched.unwrap_or(Err(NotFetched::Unreachable))
}

/// HTTP/1.0, so that the body ends with the connection.
async fn get(address: &str, host: &str, path: &str, folder: &Path) -> Result<Fetched, NotFetched> {
    let unreachable = |_| NotFetched::Unreachable;
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let head = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: solarnet-sim\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(unreachable)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.map_err(unreachable)?;
    if !line.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
        return Err(NotFetched::Refused);
    }
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line).await.map_err(unreachable)?;
    }
    let mut content = Writer::new(folder).map_err(unreachable)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk).await.map_err(unreachable)? {
            0 => return Ok(Fetched(content.finish())),
            length => content.write(&chunk[..length]).map_err(unreachable)?,
        }
    }
}
