//! A recording of Modbus exchanges as a file: one line of JSON each, oldest first. Pure.
//!
//! ```text
//! {"at":"2026-11-22T10:00:00.000123Z","running_us":61000123,"took_us":5021,"bus":"cabinet","unit":1,
//!  "sent":"0400000002","received":"040400010002"}
//! {…,"sent":"0400000002","failed":"no answer within 1000 ms"}
//! {…,"sent":"0400000002","failed":"Connection refused","link":"none","address":"192.0.2.7:502"}
//! ```
//!
//! `sent` and `received` are PDUs (function and data) as hexadecimal digits: what all carriers of Modbus
//! have in common. `link` is `none` where there was no connection to send it on, `lost` where the
//! connection ended on it. `at` is absent where the time was not known. Unknown members are passed
//! over, so that a newer agent's recording can be read.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::ring::{Came, Dump, Exchange};

/// One exchange, as a line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When the request was made, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The same, in microseconds since the daemon started.
    pub running_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// The bus's name.
    pub bus: String,
    /// The unit asked.
    pub unit: u8,
    /// The request's PDU.
    #[serde(with = "hex")]
    pub sent: Vec<u8>,
    /// The answer's PDU.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub received: Option<Vec<u8>>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Whether the link was the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkState>,
    /// Where the link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What was wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// There was none.
    None,
    /// It ended on this request.
    Lost,
}

/// A file that is not a recording.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is no recorded exchange")]
pub struct NotARecording {
    line: usize,
    #[source]
    source: serde_json::Error,
}

impl Line {
    fn new(exchange: Exchange, buses: &[String], started: Option<DateTime<Utc>>) -> Self {
        let at = started.and_then(|started| {
            started.checked_add_signed(chrono::TimeDelta::from_std(exchange.at).ok()?)
        });
        let micros =
            |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bus = buses.get(usize::from(exchange.bus)).cloned().unwrap_or_default();
        let mut line = Self {
            at: at.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            running_us: micros(exchange.at),
            took_us: micros(exchange.took),
            bus,
            unit: exchange.unit,
            sent: exchange.sent,
            received: None,
            failed: None,
            link: None,
            address: None,
        };
        match exchange.came {
            Came::Answer(pdu) => line.received = Some(pdu),
            Came::Nothing(words) => line.failed = Some(words),
            Came::NoLink { address, reason } => {
                (line.failed, line.link) = (Some(reason), Some(LinkState::None));
                line.address = Some(address);
            }
            Came::LinkLost { address, reason } => {
                (line.failed, line.link) = (Some(reason), Some(LinkState::Lost));
                line.address = Some(address);
            }
        }
        line
    }

    /// When the request was made, if that is known.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.at.as_ref()?.parse().ok()
    }
}

/// The file of what a ring holds.
#[must_use]
pub fn render(dump: &Dump) -> String {
    let mut text = String::new();
    for exchange in dump.exchanges() {
        let line = Line::new(exchange, &dump.buses, dump.started);
        // Text, numbers and lists of bytes: JSON has a form for all of them.
        text.push_str(&serde_json::to_string(&line).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// Reads a file.
///
/// # Errors
///
/// If a line is no exchange.
pub fn parse(text: &str) -> Result<Vec<Line>, NotARecording> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|source| NotARecording { line: number + 1, source })
        })
        .collect()
}

/// Bytes that may be absent, as hexadecimal digits.
mod optional_hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_str(&hex::encode(bytes)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        let digits = Option::<String>::deserialize(from)?;
        digits.map(|digits| hex::decode(digits).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_is_read_as_it_was() {
        let line = |came| {
            let exchange = Exchange {
                at: std::time::Duration::from_micros(1_500_000),
                took: std::time::Duration::from_millis(5),
                bus: 0,
                unit: 7,
                sent: vec![4, 0, 0, 0, 2],
                came,
            };
            let started = "2026-11-22T10:00:00Z".parse().expect("a date");
            Line::new(exchange, &["cabinet".to_owned()], Some(started))
        };
        let lines = [
            line(Came::Answer(vec![4, 4, 0, 1, 0, 2])),
            line(Came::Nothing("no answer within 1000 ms".to_owned())),
            line(Came::NoLink { address: "h:502".to_owned(), reason: "refused".to_owned() }),
        ];
        let text: Vec<String> =
            lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
        assert_eq!(
            text[0],
            r#"{"at":"2026-11-22T10:00:01.500000Z","running_us":1500000,"took_us":5000,"bus":"cabinet","unit":7,"sent":"0400000002","received":"040400010002"}"#
        );
        assert_eq!(parse(&text.join("\n")).expect("a recording"), lines);
    }

    #[test]
    fn what_is_no_recording_is_refused_with_its_line() {
        let error = parse("\n{\"unit\": 1}").expect_err("no recording");
        assert_eq!(error.to_string(), "line 2 is no recorded exchange");
    }
}
