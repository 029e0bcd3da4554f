//! Targets for a fuzzer, one for each decoder of foreign bytes.
//!
//! A target is a function that takes any bytes and panics if something does not hold: mostly that what is
//! accepted can be written again as it came, that nothing is accepted that should not be, and that no
//! secret is shown. Each says at its beginning what its input is. They are run blindly for a moment by
//! `cargo test` (`tests/short.rs`), and by libFuzzer as long as one likes (`cargo xtask fuzz`).

mod cbor;
mod config;
mod control_request;
mod file_answer;
mod identity;
mod instructions;
mod modbus_answer;
mod modbus_rtu;
mod modbus_tcp;
mod modbus_value;
mod mqtt_packet;
mod policy;
mod queue_record;
mod recording;
mod server_data;
mod server_date;
mod solarin_answer;
mod solarnet_answer;
mod spool_recovery;
mod state_files;

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use serde_json::Value;
use tempfile::TempDir;

/// Takes any bytes; panics if something does not hold.
pub type Target = fn(&[u8]);

/// The targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("cbor", cbor::check),
    ("config", config::check),
    ("control_request", control_request::check),
    ("file_answer", file_answer::check),
    ("identity", identity::check),
    ("instructions", instructions::check),
    ("modbus_answer", modbus_answer::check),
    ("modbus_rtu", modbus_rtu::check),
    ("modbus_tcp", modbus_tcp::check),
    ("modbus_value", modbus_value::check),
    ("mqtt_packet", mqtt_packet::check),
    ("policy", policy::check),
    ("queue_record", queue_record::check),
    ("recording", recording::check),
    ("server_data", server_data::check),
    ("server_date", server_date::check),
    ("solarin_answer", solarin_answer::check),
    ("solarnet_answer", solarnet_answer::check),
    ("spool_recovery", spool_recovery::check),
    ("state_files", state_files::check),
];

/// JSON, where it is some.
fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// The first line, and all that follows.
fn headed(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    (String::from_utf8_lossy(head).into_owned(), body)
}

/// Text that goes into a log or to a terminal: one line, without control characters, of bounded length.
fn assert_readable(text: &str, most: usize) {
    assert!(!text.contains(char::is_control), "control characters in {text:?}");
    assert!(text.chars().count() <= most, "{} characters: {text}", text.chars().count());
}

/// A folder in memory, for what is only read from files.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

/// Writes a file that is its owner's alone.
fn write(path: &Path, bytes: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.expect("a file").write_all(bytes).expect("written");
}
