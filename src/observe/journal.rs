//! Lines for the systemd journal, with their fields, over its own socket.
//!
//! ```text
//! one datagram a line, each field      NAME \n length(8, low byte first) value \n
//!
//! MESSAGE             the fixed phrase
//! MESSAGE_ID          of its event: leads to the catalog's explanation (journalctl -x)
//! SOLARNODE_<FIELD>   every field, SOLARNODE_EVENT among them
//! PRIORITY SYSLOG_IDENTIFIER TARGET CODE_FILE CODE_LINE
//! ```
//!
//! An event's ID is made of its name ([`message_id`]), so none has to be given out or looked up; the
//! catalog `systemd/solarnode-agent.catalog` is made of the same names. Span fields are not written: the
//! daemon has no spans.
//!
//! Nothing here can hold up or end the daemon: a journal that does not take a line at once loses it, and the next
//! line that it takes says how many it lost (`SOLARNODE_LOST`). Each line looks its socket up by name, so one that
//! was made anew is found.
//!
//! # Source
//!
//! systemd, "Native Journal Protocol"; `systemd.journal-fields(7)`.

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::ration::{Admitted, LEFT_OUT, RATIONED, Ration};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Longest value written; ours are lines. A datagram holds a few hundred kilobytes.
const MOST_BYTES: usize = 16 * 1024;

/// The field that says how many lines the journal did not take before this one.
const LOST: &str = "lost";

/// The journal's ID of the event with this name: 128 bits as hexadecimal digits.
///
/// The first half of a SHA-256 over the name, marked as a UUID of version 8 (own making).
#[must_use]
pub fn message_id(event: &str) -> String {
    let digest = Sha256::digest(format!("solarnode-agent event {event}"));
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id[6] = id[6] & 0x0F | 0x80;
    id[8] = id[8] & 0x3F | 0x80;
    hex::encode(id)
}

/// Writes every event to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    identifier: &'static str,
    /// Before the names of our fields.
    prefix: &'static str,
    ration: Ration,
    /// Lines that were not taken since the last one that was.
    lost: AtomicU64,
}

impl Journal {
    /// Looks for the journal.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn connect(identifier: &'static str, prefix: &'static str) -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET), identifier, prefix)
    }

    fn connect_to(path: &Path, identifier: &'static str, prefix: &'static str) -> io::Result<Self> {
        // Whether somebody listens; the lines go over one that is not bound to this listener.
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let (path, lost) = (path.to_owned(), AtomicU64::new(0));
        Ok(Self { socket, path, identifier, prefix, ration: Ration::new(), lost })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(admitted) = self.ration.admit(event) else { return };
        let about = event.metadata();
        let mut entry = Entry { bytes: Vec::with_capacity(1024), prefix: self.prefix };
        entry.put("PRIORITY", priority(*about.level()));
        entry.put("SYSLOG_IDENTIFIER", self.identifier);
        entry.put("TARGET", about.target());
        if let (Some(file), Some(line)) = (about.file(), about.line()) {
            entry.put("CODE_FILE", file);
            entry.put("CODE_LINE", &line.to_string());
        }
        event.record(&mut entry);
        let Admitted { left_out, rationed } = admitted;
        if left_out > 0 {
            entry.put(&field_name(self.prefix, LEFT_OUT), &left_out.to_string());
        }
        if rationed {
            entry.put(&field_name(self.prefix, RATIONED), "true");
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            entry.put(&field_name(self.prefix, LOST), &lost.to_string());
        }
        if self.socket.send_to(&entry.bytes, &self.path).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

/// A line in the journal's format.
struct Entry {
    bytes: Vec<u8>,
    prefix: &'static str,
}

impl Entry {
    fn put(&mut self, name: &str, value: &str) {
        let value = &value[..value.floor_char_boundary(MOST_BYTES)];
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            name => {
                self.put(&field_name(self.prefix, name), value);
                if name == "event" {
                    self.put("MESSAGE_ID", &message_id(value));
                }
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A string takes everything; a value that cannot be shown is left as far as it came.
        write!(text, "{value:?}").ok();
        self.record_str(field, &text);
    }
}

/// The journal's name of a field: capitals, digits and underscores.
fn field_name(prefix: &str, name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{prefix}_{}", name.chars().map(allowed).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The fields of a datagram.
    fn fields(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            let name = text(&bytes[..end]);
            let (length, rest) = bytes[end + 1..].split_first_chunk::<8>().expect("a length");
            let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            fields.insert(name, text(value));
            bytes = rest.strip_prefix(b"\n").expect("the end of a field");
        }
        fields
    }

    #[test]
    fn a_line_reaches_the_journal_with_its_fields_and_the_id_of_its_event() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        let layer = Journal::connect_to(&path, "agent", "SOLARNODE").expect("connected");
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let error = "two\nlines";
            tracing::warn!(event = "source.down", unit_id = 7, %error, "source down");
            tracing::info!("no event");
        });
        let receive = || {
            let mut buffer = vec![0; 65536];
            let length = journal.recv(&mut buffer).expect("a line");
            fields(&buffer[..length])
        };
        let line = receive();
        for (name, value) in [
            ("MESSAGE", "source down"),
            ("MESSAGE_ID", &message_id("source.down")),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "agent"),
            ("SOLARNODE_EVENT", "source.down"),
            ("SOLARNODE_UNIT_ID", "7"),
            ("SOLARNODE_ERROR", "two\nlines"),
            ("CODE_FILE", file!()),
        ] {
            assert_eq!(line.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(receive().get("MESSAGE_ID"), None);
    }

    #[test]
    fn a_journal_that_reads_nothing_or_is_started_anew_holds_up_nothing_and_gets_later_lines() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("socket");
        let deaf = UnixDatagram::bind(&path).expect("a socket");
        let layer = Journal::connect_to(&path, "agent", "SOLARNODE").expect("connected");
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            // Lines about the agent itself are not rationed.
            for _ in 0..1000 {
                tracing::info!(event = "agent.started", "agent started");
            }
            deaf.set_nonblocking(true).expect("a flag");
            let taken = std::iter::from_fn(|| deaf.recv(&mut [0; 4096]).ok()).count();

            drop(deaf);
            std::fs::remove_file(&path).expect("the socket's name");
            let journal = UnixDatagram::bind(&path).expect("a socket");
            journal.set_nonblocking(true).expect("a flag");
            for lost in [Some((1000 - taken).to_string()), None] {
                tracing::info!(event = "agent.started", "agent started");
                let mut buffer = vec![0; 65536];
                let length = journal.recv(&mut buffer).expect("a line");
                let line = fields(&buffer[..length]);
                assert_eq!(line.get("SOLARNODE_LOST"), lost.as_ref());
            }
            assert!(taken < 1000, "there was no room for all");
        });
    }

    #[test]
    fn an_id_never_changes() {
        // Alerts and the installed catalog know it by this.
        assert_eq!(message_id("source.down"), "d0a1876fa3bc8cfcb1dd951ce0f689ea");
    }
}
