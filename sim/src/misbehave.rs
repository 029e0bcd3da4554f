//! Misbehaviour on demand: what the server does wrong, to which requests, how often.
//!
//! A switch names requests by method and path prefix, lets the first `skip` of them pass, acts on the next
//! `times` (or until cleared) and is then used up. Of several that fit the first one acts. Requests to `/sim/`
//! are never touched.
//!
//! Acts come in three kinds. Some replace the answer (`status`, `proxy_page`, …): the request is *not*
//! processed unless the switch says `processed`. Some process it and spoil the answer (`slow`,
//! `cut_after`, `refresh_wrong_key`, …). Those named `job_…` attach to the import job that the request
//! creates and act later; those named `batch_…` are for SolarIn's `bulkCollector.do`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misbehaviour {
    /// Only this method; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only paths that begin so; absent: any.
    #[serde(default)]
    pub path: String,
    /// How many fitting requests pass before it acts.
    #[serde(default)]
    pub skip: u32,
    /// How often it acts; absent: until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Acts that replace the answer: carry the request out first all the same.
    #[serde(default)]
    pub processed: bool,
    /// What it does.
    #[serde(flatten)]
    pub act: Act,
}

impl Misbehaviour {
    /// Acts on every request to paths that begin so, until cleared.
    pub fn new(path: &str, act: Act) -> Self {
        Self { method: None, path: path.to_owned(), skip: 0, times: None, processed: false, act }
    }

    /// Reads a switch from JSON. Unlike plain deserialization it takes no member that would have no effect.
    pub(crate) fn read(json: Value) -> Result<Self, String> {
        let given: Vec<String> =
            json.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
        let switch: Self = serde_json::from_value(json).map_err(|error| error.to_string())?;
        let shown = serde_json::to_value(&switch).map_err(|error| error.to_string())?;
        // `method` and `times` are not shown where they are null.
        let known = |name: &str| shown.get(name).is_some() || matches!(name, "method" | "times");
        match given.iter().find(|name| !known(name)) {
            Some(name) => Err(format!("{name} is unknown, or of no use to this act")),
            None => Ok(switch),
        }
    }

    /// Only requests with this method.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..self }
    }

    /// Acts this often, then never again.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Lets this many requests pass first.
    #[must_use]
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Carries the request out before its answer is replaced.
    #[must_use]
    pub fn processed(self) -> Self {
        Self { processed: true, ..self }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// The request is carried out, the answer comes this much later.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// The answer's body comes byte by byte.
    Trickle {
        /// Milliseconds between two bytes.
        ms: u64,
    },
    /// The connection is cut before the body is read. Nothing is carried out.
    CutBefore,
    /// The connection is cut when so much of the body was read. Nothing is carried out. A body that is shorter
    /// comes through.
    CutUpload {
        /// Bytes.
        after: u64,
    },
    /// The body is read with pauses, and then carried out.
    SlowUpload {
        /// Milliseconds after each piece, which is up to some hundred kilobytes.
        ms: u64,
    },
    /// The request is carried out, then the connection is cut without an answer.
    CutAfter,
    /// The request is carried out, the connection is cut in the middle of the answer's body.
    CutMidBody,
    /// 429 `WEB.10000` with `X-SN-Rate-Limit-Retry-After`.
    TooMany {
        /// How far in the future the retry time lies, in milliseconds.
        retry_after_ms: u64,
    },
    /// 429 `DAO.00202`: the database is busy.
    Transient,
    /// This status with the envelope of an internal error.
    Status {
        /// HTTP status.
        status: u16,
    },
    /// This status with an HTML page, as a proxy on the way would answer.
    ProxyPage {
        /// HTTP status.
        status: u16,
    },
    /// Status 200, `success` false.
    SuccessFalse {
        /// The envelope's message.
        message: String,
    },
    /// Status 200 and an envelope with `success` true and nothing else.
    SuccessWithoutData,
    /// Status 200 and `success` true with data that means nothing.
    SuccessNonsense,
    /// Status 200 and a body that is no JSON.
    Garbage,
    /// A `Date` header that is off.
    WrongDate {
        /// Milliseconds, negative for the past.
        offset_ms: i64,
    },
    /// No `Date` header.
    NoDate,
    /// The refresh call answers a key that is not the token's.
    RefreshWrongKey,
    /// Instruction lists name each instruction twice.
    DuplicateInstruction,
    /// Instruction lists show finished instructions as `Queued` again.
    ReplayInstruction,
    /// Instruction lists are empty, whatever there is; so instructions arrive late.
    HoldInstruction,
    /// The batch is a success, its last datum are neither stored nor listed.
    BatchLosesEntries {
        /// How many.
        entries: usize,
    },
    /// The batch is a success and lists every datum, and the first ones are not stored.
    BatchDropsEntries {
        /// How many.
        entries: usize,
    },
    /// The batch is a success, and storing ended after so many of its groups (stream datum, node datum, location
    /// datum), as when the database is in trouble. Nothing of the others is stored or listed.
    BatchTransient {
        /// How many; 0: no datum at all.
        groups: u8,
    },
    /// The batch comes to an internal error over an element whose JSON holds all of these texts.
    BatchFailsOver {
        /// Parts of the element's JSON as it was sent, without blanks.
        texts: Vec<String>,
    },
    /// An element whose JSON holds all of these texts is dropped without a word.
    BatchSkips {
        /// Parts of the element's JSON as it was sent, without blanks.
        texts: Vec<String>,
    },
    /// The job completes with `success` false and this message. No row is stored.
    JobFails {
        /// The status's message.
        message: String,
    },
    /// The job stores everything and reports this count.
    JobMiscounts {
        /// The reported `loadedCount`.
        loaded: u64,
    },
    /// The job reports success and a `loadedCount` that is short by the rows that it lost (the last ones).
    JobLosesRows {
        /// How many.
        rows: usize,
    },
    /// The job reports success and every row loaded, and has dropped the first ones without a word.
    JobDropsRows {
        /// How many.
        rows: usize,
    },
    /// The job is forgotten as soon as it exists: `UNKNOWN_OBJECT` ever after. No row is stored.
    JobVanishes,
    /// The job executes for ever.
    JobHangs,
}

impl Act {
    /// Whether the act replaces the answer instead of spoiling it.
    pub(crate) fn replaces_answer(&self) -> bool {
        match self {
            Self::CutBefore
            | Self::TooMany { .. }
            | Self::Transient
            | Self::Status { .. }
            | Self::ProxyPage { .. }
            | Self::SuccessFalse { .. }
            | Self::SuccessWithoutData
            | Self::SuccessNonsense
            | Self::Garbage => true,
            Self::Slow { .. }
            | Self::CutUpload { .. }
            | Self::SlowUpload { .. }
            | Self::Trickle { .. }
            | Self::CutAfter
            | Self::CutMidBody
            | Self::WrongDate { .. }
            | Self::NoDate
            | Self::RefreshWrongKey
            | Self::DuplicateInstruction
            | Self::ReplayInstruction
            | Self::HoldInstruction
            | Self::BatchLosesEntries { .. }
            | Self::BatchDropsEntries { .. }
            | Self::BatchTransient { .. }
            | Self::BatchFailsOver { .. }
            | Self::BatchSkips { .. }
            | Self::JobFails { .. }
            | Self::JobMiscounts { .. }
            | Self::JobLosesRows { .. }
            | Self::JobDropsRows { .. }
            | Self::JobVanishes
            | Self::JobHangs => false,
        }
    }
}

/// The switches that are set, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    list: VecDeque<Misbehaviour>,
}

impl Switches {
    pub(crate) fn add(&mut self, misbehaviour: Misbehaviour) {
        self.list.push_back(misbehaviour);
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = &Misbehaviour> {
        self.list.iter()
    }

    /// What to do to this request, if anything; uses up one of the switch's times.
    pub(crate) fn take(&mut self, method: &str, path: &str) -> Option<Misbehaviour> {
        let fits = |switch: &Misbehaviour| {
            path.starts_with(&switch.path)
                && switch.method.as_deref().is_none_or(|wanted| wanted == method)
        };
        let at = self.list.iter_mut().position(|switch| {
            if !fits(switch) {
                return false;
            }
            let skipped = switch.skip > 0;
            switch.skip = switch.skip.saturating_sub(1);
            !skipped
        })?;
        let switch = self.list.get_mut(at)?;
        let taken = switch.clone();
        if let Some(left) = &mut switch.times {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.list.remove(at);
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_skips_acts_and_is_used_up() {
        let mut switches = Switches::default();
        switches
            .add(Misbehaviour::new("/solaruser/", Act::Transient).method("POST").skip(1).times(2));
        let mut take = |method: &str, path: &str| switches.take(method, path).is_some();
        assert!(!take("GET", "/solaruser/x"));
        assert!(!take("POST", "/solarquery/x"));
        assert!(!take("POST", "/solaruser/x"));
        assert!(take("POST", "/solaruser/x"));
        assert!(take("POST", "/solaruser/x"));
        assert!(!take("POST", "/solaruser/x"));
    }

    #[test]
    fn switches_read_as_the_readme_writes_them() {
        let text = r#"{"path":"/solaruser/","method":"POST","times":1,"act":"slow","ms":5}"#;
        let read = |text: &str| Misbehaviour::read(serde_json::from_str(text).unwrap());
        let switch = read(text).unwrap();
        let expected =
            Misbehaviour::new("/solaruser/", Act::Slow { ms: 5 }).method("POST").times(1);
        assert_eq!(switch, expected);
        for wrong in [r#"{"act":"explode"}"#, r#"{"act":"transient","time":1}"#, "[]", "{}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
