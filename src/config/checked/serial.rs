//! `serial = { … }` of `[[modbus]]`

use std::path::{Path, PathBuf};

use super::{
    super::{
        form::{Choice, Parsed, Whole},
        problem::Problems,
        schema::{Key, Presence, Reader, Section},
        settings::{Parity, Serial},
        written::Table,
    },
    Names,
};

/// The addresses of units on a serial line.
///
/// # Source
///
/// Modbus over Serial Line V1.02, section 2.2: 0 is for all of them at once, 248 to 255 are reserved.
pub(super) const ON_A_LINE: Whole<u8> = Whole { min: 1, max: 247, unit: "" };

pub(super) static SECTION: Section = Section {
    heading: "serial = { … }",
    doc: "A serial port of this machine, on which Modbus RTU is spoken. Speed, parity and stop bits have to be \
          those of all units on the line. RTU always has 8 data bits.",
    keys: &[&PORT, &BAUD, &PARITY, &STOP_BITS],
    tables: &[],
    refused: &[
        ("data_bits", "nothing: Modbus RTU always has 8 data bits"),
        ("mode", "nothing: the frames are Modbus RTU"),
        ("speed", "`baud`"),
        ("device", "`port`"),
    ],
};

static PORT: Key<Parsed<PathBuf>> = Key {
    name: "port",
    form: Parsed {
        kind: "path",
        range: "the whole path of a serial port, such as \"/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0\"",
        shown: |_| true,
        parse: |text| {
            let path = Path::new(text);
            (path.is_absolute() && !text.contains('\0')).then(|| path.to_owned())
        },
    },
    presence: Presence::Required,
    example: "\"/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0\"",
    doc: "The port. `/dev/ttyUSB0` is whichever adapter was plugged in first; `ls -l /dev/serial/by-id` shows \
          the names that stay. A port that is not there yet is waited for.",
};

static BAUD: Key<Whole<u32>> = Key {
    name: "baud",
    form: Whole { min: 300, max: 4_000_000, unit: "bits a second" },
    presence: Presence::Required,
    example: "9600",
    doc: "The speed of the line.",
};

static PARITY: Key<Choice<Parity>> = Key {
    name: "parity",
    form: Choice {
        options: &[("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)],
        aliases: &[("N", Parity::None), ("E", Parity::Even), ("O", Parity::Odd)],
        refused: &[],
    },
    presence: Presence::Default("\"none\""),
    example: "\"even\"",
    doc: "The check bit of each character. Most meters come with `none`; the protocol's own default is `even`.",
};

static STOP_BITS: Key<Whole<u8>> = Key {
    name: "stop_bits",
    form: Whole { min: 1, max: 2, unit: "" },
    presence: Presence::Default("1"),
    example: "2",
    doc: "Stop bits of each character.",
};

pub(super) fn check(table: &Table, names: &mut Names, problems: &Problems) -> Option<Serial> {
    let serial = Reader::new(table, &SECTION, problems);
    let port = serial.get(&PORT);
    if let Some(port) = &port {
        names.add_port(port, serial.place(PORT.name), problems);
        if is_unstable(port) {
            let found = format!("\"{}\", which may be another adapter tomorrow", port.display());
            let expected = "a name that stays with the adapter: `ls -l /dev/serial/by-id` shows it";
            problems.warning(&serial.place(PORT.name), found, expected);
        }
    }
    let (baud, parity) = (serial.get(&BAUD), serial.get(&PARITY));
    let stop_bits = serial.get(&STOP_BITS);
    Some(Serial { port: port?, baud: baud?, parity: parity?, stop_bits: stop_bits? })
}

/// Whether the kernel gives the name to adapters in the order in which they are plugged in.
fn is_unstable(port: &Path) -> bool {
    let text = port.to_str().unwrap_or_default();
    let number = text.strip_prefix("/dev/ttyUSB").or_else(|| text.strip_prefix("/dev/ttyACM"));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}
