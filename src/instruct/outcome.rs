//! What came of an instruction, in words, as a code, and as a datum.
//!
//! A token cannot write results into an instruction, so every outcome also becomes a datum: of the control's source,
//! otherwise of the configured `result_source`, otherwise none.
//!
//! | Property | | |
//! | --- | --- | --- |
//! | `v` | `i` | the value read back, where there is one |
//! | `val` | `s` | the same as text |
//! | `before`, `wanted` | `s` | the value read before, the value asked for |
//! | `instruction` | `s` | the instruction's ID |
//! | `outcome` | `s` | `Completed` or `Declined` |
//! | `message` | `s` | what happened, for people |
//! | `code` | `s` | what happened, for programs: one of [`Code`]; absent when all went well |
//! | `result` | `s` | what was asked for, as JSON; cut where it is very long |
//!
//! With a certificate the acknowledgement itself carries the same, as result parameters ([`Told::parameters`]):
//! `message`, `code`, `before`, `wanted`, `after`, `result`.
//!
//! This file is pure.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::state::Event;
use crate::domain::{
    Datum, InstructionId, InstructionState, Samples, SourceId, Stamp, WriteError, WriteReport,
    number::plain,
};

/// Why an instruction did not end as `Completed` by this node's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The node does not know this topic.
    UnknownTopic,
    /// Too few, too many or unreadable parameters.
    Parameters,
    /// The node knows it, and its configuration does not allow it.
    NotAllowed,
    /// The parameter names no configured control.
    UnknownControl,
    /// The node knows the topic and not the service that it names.
    UnknownService,
    /// The value is not a number (for a coil: not on or off), no state or signal of the control, or no level.
    Value,
    /// The value is outside `allow.min` to `allow.max`.
    Limit,
    /// Its `expirationDate` has passed.
    Expired,
    /// It has no `expirationDate` and is older than `max_age`.
    TooOld,
    /// The last write to the control is more recent than `allow.every`.
    TooSoon,
    /// Another instruction cancelled it.
    Cancelled,
    /// What should have been cancelled is not waiting.
    NotCancellable,
    /// The value does not fit the register; nothing was sent.
    NotRepresentable,
    /// The device did not answer before the write; nothing was written.
    NoAnswer,
    /// The device refused the write.
    Refused,
    /// The device took the write and shows another value.
    NotTaken,
    /// What was asked of the node itself did not work.
    Failed,
    /// It may have happened; nobody knows.
    MayHaveHappened,
    /// The server held a final state that is not from this node.
    EndedElsewhere,
}

impl Code {
    /// The code as logs, the journal and datum spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownTopic => "unknown_topic",
            Self::Parameters => "parameters",
            Self::NotAllowed => "not_allowed",
            Self::UnknownControl => "unknown_control",
            Self::UnknownService => "unknown_service",
            Self::Value => "value",
            Self::Limit => "limit",
            Self::Expired => "expired",
            Self::TooOld => "too_old",
            Self::TooSoon => "too_soon",
            Self::Cancelled => "cancelled",
            Self::NotCancellable => "not_cancellable",
            Self::NotRepresentable => "not_representable",
            Self::NoAnswer => "no_answer",
            Self::Refused => "refused",
            Self::NotTaken => "not_taken",
            Self::Failed => "failed",
            Self::MayHaveHappened => "may_have_happened",
            Self::EndedElsewhere => "ended_elsewhere",
        }
    }
}

/// Why an instruction is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What it means for the instruction's state.
    pub event: Event,
    /// Absent when the device shows the value wanted.
    pub code: Option<Code>,
    /// For people.
    pub message: String,
    /// The value before, if it was read.
    pub before: Option<Decimal>,
    /// The value after, if it was read.
    pub after: Option<Decimal>,
    /// Whether anything may have been written.
    pub touched: bool,
}

/// What an attempt to write `wanted` came to. `Completed` only if the device shows the value.
#[must_use]
pub fn attempt(wanted: Decimal, result: &Result<WriteReport, WriteError>) -> Attempt {
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            let (event, code, touched) = match error {
                WriteError::NotRepresentable { .. } => (Event::Fail, Code::NotRepresentable, false),
                WriteError::NotStarted { .. } => (Event::Fail, Code::NoAnswer, false),
                // A device may count a refused write as one all the same.
                WriteError::Refused { .. } => (Event::Fail, Code::Refused, true),
                WriteError::Unknown { .. } => (Event::Interrupt, Code::MayHaveHappened, true),
            };
            return Attempt {
                event,
                code: Some(code),
                message: readable(&error.to_string()),
                before: None,
                after: None,
                touched,
            };
        }
    };
    let values = format!(
        "before {}, wanted {}, after {}",
        plain(report.before),
        plain(wanted),
        plain(report.after)
    );
    let (event, code, message) = if report.taken {
        (Event::Succeed, None, values)
    } else {
        let message = format!("the device does not show the value: {values}");
        (Event::Fail, Some(Code::NotTaken), message)
    };
    Attempt {
        event,
        code,
        message,
        before: Some(report.before),
        after: Some(report.after),
        touched: true,
    }
}

/// What is said of an instruction that was being carried out when the node stopped.
pub const INTERRUPTED: &str =
    "the node stopped while carrying it out: it may have happened, and is not done again";

/// Everything a result datum says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told<'a> {
    /// The instruction.
    pub id: InstructionId,
    /// Its final state.
    pub outcome: InstructionState,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// The value before, if it was read.
    pub before: Option<Decimal>,
    /// The value wanted, if that much was understood.
    pub wanted: Option<Decimal>,
    /// The value after, if it was read.
    pub after: Option<Decimal>,
    /// For people.
    pub message: Option<&'a str>,
    /// For programs.
    pub code: Option<Code>,
    /// The answer, where something was asked for.
    pub result: Option<&'a Value>,
}

impl Told<'_> {
    /// The result parameters of the final acknowledgement: always all of them.
    #[must_use]
    pub fn parameters(&self) -> Map<String, Value> {
        // Decimals in their own digits, which every JSON number keeps.
        let number = |value: Option<Decimal>| serde_json::from_str(&plain(value?)).ok();
        let given = [
            ("message", self.message.map(Value::from)),
            ("code", self.code.map(|code| code.name().into())),
            ("before", number(self.before)),
            ("wanted", number(self.wanted)),
            ("after", number(self.after)),
            ("result", self.result.cloned()),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// Characters of a result that go into its datum.
const LONGEST: usize = 1000;

/// The datum that carries an outcome to the server.
#[must_use]
pub fn datum(source: SourceId, told: &Told<'_>) -> Datum {
    let status = [
        ("val", told.after.map(plain)),
        ("before", told.before.map(plain)),
        ("wanted", told.wanted.map(plain)),
        ("instruction", Some(told.id.to_string())),
        ("outcome", Some(told.outcome.name().to_owned())),
        ("message", told.message.map(str::to_owned)),
        ("code", told.code.map(|code| code.name().to_owned())),
        ("result", told.result.map(|result| result.to_string().chars().take(LONGEST).collect())),
    ];
    let samples = Samples {
        instantaneous: told.after.map(|after| ("v".to_owned(), after)).into_iter().collect(),
        status: status
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        ..Samples::default()
    };
    Datum { source, stamp: Stamp::Wall { unix_ms: told.ended.timestamp_millis() }, samples }
}

/// Foreign text in our own words: one line, of bounded length, without control characters.
#[must_use]
pub fn readable(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dec(text: &str) -> Decimal {
        text.parse().expect("a decimal")
    }

    #[test]
    fn only_a_value_that_the_device_shows_is_completed() {
        let report = |taken| WriteReport { before: dec("0.0"), after: dec("1.50"), taken };
        let done = attempt(dec("1.5"), &Ok(report(true)));
        assert_eq!((done.event, done.code), (Event::Succeed, None));
        assert_eq!(done.message, "before 0, wanted 1.5, after 1.5");

        let not = attempt(dec("7"), &Ok(report(false)));
        assert_eq!((not.event, not.code), (Event::Fail, Some(Code::NotTaken)));
        assert!(not.message.contains("before 0, wanted 7, after 1.5"), "{}", not.message);
    }

    #[test]
    fn a_write_without_proof_either_way_counts_as_a_write() {
        let control: SourceId = "/relay".parse().expect("a source");
        let lost = WriteError::Unknown { control: control.clone(), reason: "timed out".to_owned() };
        let lost = attempt(dec("1"), &Err(lost));
        assert_eq!((lost.event, lost.touched), (Event::Interrupt, true));
        assert!(lost.message.contains("may have happened"), "{}", lost.message);

        let unsent = WriteError::NotStarted { control, reason: "timed out".to_owned() };
        assert!(!attempt(dec("1"), &Err(unsent)).touched);
    }

    #[test]
    fn a_datum_says_what_is_known_and_nothing_else() {
        let told = Told {
            id: InstructionId(7),
            outcome: InstructionState::Completed,
            ended: DateTime::from_timestamp_millis(1_718_142_600_001).expect("a date"),
            before: Some(dec("0")),
            wanted: Some(dec("1")),
            after: Some(dec("1.0")),
            message: Some("before 0, wanted 1, after 1"),
            code: None,
            result: None,
        };
        let source: SourceId = "/relay".parse().expect("a source");
        let whole = datum(source.clone(), &told);
        assert_eq!(whole.stamp, Stamp::Wall { unix_ms: 1_718_142_600_001 });
        assert_eq!(whole.samples.instantaneous, [("v".to_owned(), dec("1.0"))]);
        let status: Vec<_> = whole.samples.status.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            status,
            [
                "val=1",
                "before=0",
                "wanted=1",
                "instruction=7",
                "outcome=Completed",
                "message=before 0, wanted 1, after 1"
            ]
        );

        let parameters = serde_json::to_string(&told.parameters()).expect("JSON");
        assert_eq!(
            parameters,
            r#"{"message":"before 0, wanted 1, after 1","before":0,"wanted":1,"after":1}"#
        );

        let told = Told {
            outcome: InstructionState::Declined,
            before: None,
            wanted: None,
            after: None,
            message: Some("no"),
            code: Some(Code::UnknownTopic),
            ..told
        };
        let bare = datum(source, &told).samples;
        assert!(bare.instantaneous.is_empty());
        assert_eq!(bare.status.len(), 4);
    }
}
