//! Where log lines go: to the journal with fields under systemd, as text to standard error otherwise.
//!
//! In the journal every field is called `SOLARNODE_<FIELD>`; `SOLARNODE_EVENT` is the stable name of
//! a line that tests, alerts or the documentation rely on (`docs/logging.md`), and `MESSAGE_ID` leads from it to
//! its explanation in the journal's catalog.

use std::{fmt, io::IsTerminal};

use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::{
    journal::Journal,
    ration::{Admitted, LEFT_OUT, RATIONED, Ration},
};

/// Prefix of our fields in the journal, and the syslog identifier's base.
const JOURNAL_PREFIX: &str = "SOLARNODE";

/// Name under which the journal files our lines: `journalctl -t solarnode-agent`.
const IDENTIFIER: &str = "solarnode-agent";

/// Starts logging. To the journal if `to_journal` and there is one, else as text.
///
/// Call it once, first thing in the daemon; a second call changes nothing.
///
/// Below TRACE, libraries are heard only when something is wrong.
pub fn start(level: LevelFilter, to_journal: bool) {
    let libraries = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let wanted =
        Targets::new().with_default(libraries).with_target(env!("CARGO_CRATE_NAME"), level);
    let journal =
        to_journal.then(|| Journal::connect(IDENTIFIER, JOURNAL_PREFIX)).and_then(Result::ok);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match journal {
        Some(journal) => Box::new(journal.with_filter(wanted)),
        None => Box::new(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .event_format(Rationed {
                    ration: Ration::new(),
                    format: format::format().with_target(false),
                })
                .with_filter(wanted),
        ),
    };
    // The only error is that logging was started before, which is what the caller wants.
    drop(tracing_subscriber::registry().with(layer).try_init());
}

/// Lines of text, as many as their ration allows.
struct Rationed<F> {
    ration: Ration,
    format: F,
}

impl<S, N, F> FormatEvent<S, N> for Rationed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(admitted) = self.ration.admit(event) else { return Ok(()) };
        if admitted == Admitted::default() {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        write!(writer, "{}", line.trim_end())?;
        let Admitted { left_out, rationed } = admitted;
        if left_out > 0 {
            write!(writer, " {LEFT_OUT}={left_out}")?;
        }
        if rationed {
            write!(writer, " {RATIONED}=true")?;
        }
        writeln!(writer)
    }
}
