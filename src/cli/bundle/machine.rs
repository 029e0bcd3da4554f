//! The machine, as far as it matters to support: system, disk, clock, serial ports, journal. Names of
//! hosts and networks are not asked for.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{UNIT, program::Program};

/// Mount options that say something about a disk and nothing else. (Those of network file systems may
/// hold passwords.)
const MOUNT_OPTIONS: [&str; 14] = [
    "ro",
    "rw",
    "sync",
    "dirsync",
    "noatime",
    "relatime",
    "lazytime",
    "discard",
    "nobarrier",
    "data=",
    "commit=",
    "errors=",
    "barrier=",
    "size=",
];

/// What systemd is asked about the unit.
const UNIT_PROPERTIES: &str = "ActiveState,SubState,Result,NRestarts,ExecMainStartTimestamp,\
     ExecMainStatus,MemoryCurrent,CPUUsageNSec,FragmentPath,DropInPaths,StatusText";

/// Distribution, kernel, hardware, on one line.
pub(super) fn system() -> String {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = rustix::system::uname();
    let model = ["/proc/device-tree/model", "/sys/class/dmi/id/product_name"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_else(|| "unknown hardware".to_owned());
    format!(
        "{}, {} {}, {}",
        os.unwrap_or("unknown system").trim_matches('"'),
        kernel.release().to_string_lossy(),
        kernel.machine().to_string_lossy(),
        model.trim_matches(['\0', '\n', ' ']),
    )
}

/// All of it as text.
pub(super) fn describe(state_dir: Option<&Path>) -> String {
    let mut text = format!("system: {}\n", system());
    for (title, path, wanted) in [
        ("uptime and idle", "/proc/uptime", &[][..]),
        ("load", "/proc/loadavg", &[]),
        ("memory", "/proc/meminfo", &["MemTotal", "MemAvailable", "SwapTotal", "SwapFree"]),
    ] {
        section(&mut text, title, &lines_of(path, wanted));
    }
    if let Some(state_dir) = state_dir {
        section(&mut text, "disk of the state folder", &disk(state_dir));
    }
    let clock = Program::named("timedatectl", &["show", "--no-pager"]);
    section(&mut text, "clock", &said(clock));
    let properties = format!("--property={UNIT_PROPERTIES}");
    section(&mut text, UNIT, &said(Program::named("systemctl", &["show", UNIT, &properties])));
    section(&mut text, "serial ports", &serial_ports());
    text
}

fn section(text: &mut String, title: &str, body: &str) {
    let body = if body.trim().is_empty() { "none" } else { body.trim_end() };
    // A string takes everything.
    write!(text, "\n{title}:\n{body}\n").ok();
}

fn lines_of(path: &str, wanted: &[&str]) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let lines = text.lines().filter(|line| {
        wanted.is_empty() || wanted.iter().any(|name| line.split(':').next() == Some(name))
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn said(program: Program) -> String {
    match program.run() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into(),
        Ok(output) => super::program::first_line(&output.stderr),
        Err(error) => error.to_string(),
    }
}

fn disk(state_dir: &Path) -> String {
    let mut text = match rustix::fs::statvfs(state_dir) {
        Ok(disk) => format!(
            "{} of {} bytes free, {} of {} files\n",
            disk.f_bavail.saturating_mul(disk.f_frsize),
            disk.f_blocks.saturating_mul(disk.f_frsize),
            disk.f_favail,
            disk.f_files,
        ),
        Err(error) => format!("{error}\n"),
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Ok(folder) = state_dir.canonicalize()
        && let Some(mount) = mount_of(&folder, &mounts)
    {
        text += &mount;
    }
    text
}

/// Device, type and harmless options of the mount that holds a folder.
///
/// # Source
///
/// `proc_pid_mountinfo(5)`.
fn mount_of(folder: &Path, mountinfo: &str) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        let (point, options) = (*fields.get(4)?, *fields.get(5)?);
        let mut after = after.split(' ');
        let (kind, device, more) = (after.next()?, after.next()?, after.next()?);
        folder.starts_with(point).then(|| {
            let harmless = |option: &&str| {
                MOUNT_OPTIONS.iter().any(|known| match known.ends_with('=') {
                    true => option.starts_with(known),
                    false => option == known,
                })
            };
            let options: Vec<&str> =
                options.split(',').chain(more.split(',')).filter(harmless).collect();
            let device = if device.starts_with("/dev/") { device } else { "no device" };
            (point.len(), format!("{device} {kind} {}", options.join(",")))
        })
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, text)| text)
}

/// Every serial port with its owner, and the stable names that lead to it.
fn serial_ports() -> String {
    let mut text = String::new();
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kind) = name.strip_prefix("tty") else { continue };
        // A console has a number and no letters.
        if !kind.starts_with(|c: char| c.is_ascii_uppercase()) {
            continue;
        }
        let Ok(port) = entry.metadata() else { continue };
        if port.file_type().is_char_device() {
            let (mode, user, group) = (port.mode() & 0o777, port.uid(), port.gid());
            writeln!(text, "/dev/{name}  mode {mode:04o}, user {user}, group {group}").ok();
        }
    }
    for entry in fs::read_dir("/dev/serial/by-id").into_iter().flatten().flatten() {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        writeln!(text, "{} -> {}", entry.path().display(), to.display()).ok();
    }
    text
}

/// The journal as `journalctl --output json` has it, as lines of text: time, level, message, and our
/// own fields. Nothing else of an entry is taken over.
pub(super) fn journal(json: &str) -> String {
    const LEVELS: [&str; 8] =
        ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
    let mut text = String::new();
    for entry in json.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let field = |name: &str| entry[name].as_str().unwrap_or_default();
        let micros = field("__REALTIME_TIMESTAMP").parse().unwrap_or_default();
        let time = DateTime::<Utc>::from_timestamp_micros(micros).unwrap_or_default();
        let level = field("PRIORITY").parse().ok().and_then(|n: usize| LEVELS.get(n));
        let who = field("SYSLOG_IDENTIFIER");
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(text, "{time} {who} {}: {}", level.unwrap_or(&"?"), field("MESSAGE")).ok();
        for (name, value) in entry.as_object().into_iter().flatten() {
            if let (Some(name), Some(value)) = (name.strip_prefix("SOLARNODE_"), value.as_str()) {
                write!(text, " {}={value:?}", name.to_ascii_lowercase()).ok();
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_mount_only_what_concerns_the_disk_is_told() {
        let mounts = "\
22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw,errors=remount-ro
40 22 0:50 / /var/lib rw,relatime - cifs //nas/share rw,username=me,password=hunter2
41 22 8:1 / /var rw,relatime shared:2 - ext4 /dev/sda1 rw,commit=30";
        let told = |folder: &str| mount_of(Path::new(folder), mounts).expect("a mount");
        assert_eq!(told("/etc"), "/dev/mmcblk0p2 ext4 rw,noatime,rw,errors=remount-ro");
        assert_eq!(told("/var/log"), "/dev/sda1 ext4 rw,relatime,rw,commit=30");
        assert_eq!(told("/var/lib/solarnode-agent"), "no device cifs rw,relatime,rw");
    }

    #[test]
    fn a_journal_entry_becomes_a_line_with_our_fields() {
        let json = r#"{"__REALTIME_TIMESTAMP":"1795341605007000","PRIORITY":"4","_HOSTNAME":"box","MESSAGE":"source down","SOLARNODE_EVENT":"source.down","SOLARNODE_REASON":"no \"answer\"","SYSLOG_IDENTIFIER":"solarnode-agent"}
not JSON"#;
        assert_eq!(
            journal(json),
            "2026-11-22T10:00:05.007Z solarnode-agent warning: source down event=\"source.down\" reason=\"no \\\"answer\\\"\"\n"
        );
    }
}
