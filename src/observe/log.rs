//! Where log lines go: to the journal with fields under systemd, as text to standard error otherwise.
//!
//! In the journal every field is called `SOLARNODE_<FIELD>`; `SOLARNODE_EVENT` is the stable name of
//! a line that tests, alerts or the documentation rely on (`docs/logging.md`), and `MESSAGE_ID` leads from it to
//! its explanation in the journal's catalog.

use std::{
    collections::BTreeMap,
    fmt,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tracing::{Event, Level, Subscriber, enabled, info, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use super::{
    journal::Journal,
    plain::PlainFields,
    ration::{Admitted, LEFT_OUT, RATIONED, Ration},
};

/// Prefix of our fields in the journal, and the syslog identifier's base.
const JOURNAL_PREFIX: &str = "SOLARNODE";

/// Name under which the journal files our lines: `journalctl -t solarnode-agent`.
const IDENTIFIER: &str = "solarnode-agent";

/// What log lines are named after: this package's modules.
const CRATE: &str = env!("CARGO_CRATE_NAME");

/// The modules that can be given a level of their own. Not those of libraries: some would show secrets.
const MODULES: [&str; 27] = [
    "app",
    "audit",
    "cli",
    "clock",
    "config",
    "credential",
    "domain",
    "file",
    "files",
    "flux",
    "identity",
    "instruct",
    "modbus",
    "mqtt",
    "needs",
    "net",
    "observe",
    "policy",
    "pulse",
    "queue",
    "reader",
    "refresh",
    "runtime",
    "solarin",
    "solarnet",
    "tokens",
    "upload",
];

/// The levels in force, which can be changed while the daemon runs.
#[derive(Debug, Clone)]
pub struct Levels {
    handle: reload::Handle<Targets, Registry>,
    /// As the daemon was started.
    level: LevelFilter,
    /// What differs from that, by target.
    own: Arc<Mutex<BTreeMap<String, LevelFilter>>>,
}

impl Levels {
    /// Logs these modules, and those below them, from `level` on, or again as at the start.
    ///
    /// Says what is in force for them, or which of them there is not; nothing is changed then.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn set(&self, modules: &[String], level: Option<LevelFilter>) -> Result<String, String> {
        let targets = modules.iter().map(|name| {
            target(name).ok_or_else(|| {
                let known = MODULES.join(", ");
                format!("no module {name:?}: there are root, {known}")
            })
        });
        let targets: Vec<String> = targets.collect::<Result<_, _>>()?;
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        for target in &targets {
            match level {
                Some(level) => drop(own.insert(target.clone(), level)),
                None => drop(own.remove(target)),
            }
        }
        let wanted = wanted(self.level, &own);
        let modules: Vec<_> = targets.iter().map(|target| module(target)).collect();
        let modules = modules.join(", ");
        let level = level.map_or_else(|| "as at the start".to_owned(), |level| level.to_string());
        let say = || info!(event = "agent.log_level", modules, level, "level of the log changed");
        // Before it is silenced, or once it is heard.
        let heard = enabled!(Level::INFO);
        if heard {
            say();
        }
        self.handle.reload(wanted).map_err(|error| error.to_string())?;
        if !heard {
            say();
        }
        Ok(format!("{modules}: {level}"))
    }

    /// What is in force.
    #[must_use]
    pub fn status(&self) -> Status {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // All of them then: one that is as at the start may stand below one that is not.
        let differ = own.values().any(|level| *level != self.level);
        let changed = own.iter().filter(|_| differ);
        let changed = changed.map(|(target, level)| (module(target), level.to_string())).collect();
        Status { level: self.level.to_string(), changed }
    }
}

/// Which lines are logged: a member of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// As the daemon was started.
    pub level: String,
    /// Where it is another one by instruction, by module.
    pub changed: BTreeMap<String, String>,
}

/// The short name of a target.
fn module(target: &str) -> String {
    let path = target.strip_prefix(CRATE).unwrap_or(target);
    if path.is_empty() {
        "root".to_owned()
    } else {
        path.trim_start_matches(':').replace("::", ".")
    }
}

/// The target of a module that is named as `upload`, `upload.import`, `solarnode_agent::upload` or `root`.
fn target(name: &str) -> Option<String> {
    let name = name.trim().replace('.', "::");
    if name.eq_ignore_ascii_case("root") || name == CRATE {
        return Some(CRATE.to_owned());
    }
    let path = name.strip_prefix(CRATE).and_then(|rest| rest.strip_prefix("::")).unwrap_or(&name);
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let first = path.split("::").next()?;
    let fits = MODULES.contains(&first) && path.len() <= 64 && path.split("::").all(word);
    fits.then(|| format!("{CRATE}::{path}"))
}

/// Below TRACE, libraries are heard only when something is wrong.
fn wanted(level: LevelFilter, own: &BTreeMap<String, LevelFilter>) -> Targets {
    let libraries = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let targets = Targets::new().with_default(libraries).with_target(CRATE, level);
    targets.with_targets(own.iter().map(|(target, level)| (target.clone(), *level)))
}

/// Starts logging. To the journal if `to_journal` and there is one, else as text.
///
/// Call it once, first thing in the daemon; a second call changes nothing.
pub fn start(level: LevelFilter, to_journal: bool) -> Levels {
    let own = BTreeMap::new();
    let (wanted, handle) = reload::Layer::new(wanted(level, &own));
    let journal =
        to_journal.then(|| Journal::connect(IDENTIFIER, JOURNAL_PREFIX)).and_then(Result::ok);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match journal {
        Some(journal) => Box::new(journal.with_filter(wanted)),
        None => Box::new(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .fmt_fields(PlainFields)
                .event_format(Rationed {
                    ration: Ration::new(),
                    format: format::format().with_target(false),
                })
                .with_filter(wanted),
        ),
    };
    // The only error is that logging was started before, which is what the caller wants.
    drop(tracing_subscriber::registry().with(layer).try_init());
    Levels { handle, level, own: Arc::new(Mutex::new(own)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_in_any_way_that_people_would_and_others_are_not_there() {
        for name in ["upload", " upload ", "solarnode_agent::upload", "solarnode_agent.upload"] {
            assert_eq!(target(name).as_deref(), Some("solarnode_agent::upload"), "{name}");
        }
        assert_eq!(target("instruct.step").as_deref(), Some("solarnode_agent::instruct::step"));
        assert_eq!(target("ROOT").as_deref(), Some("solarnode_agent"));
        for name in
            ["", "reqwest", "rustls", "solarnode_agentx", "upload=trace", "upload::", "Upload"]
        {
            assert_eq!(target(name), None, "{name}");
        }
    }

    #[test]
    fn every_module_of_the_library_can_be_named() {
        let library = include_str!("../lib.rs").lines();
        let modules: Vec<_> =
            library.filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
        assert_eq!(modules, MODULES);
    }

    #[test]
    fn what_differs_from_the_start_is_shown_by_the_names_that_people_give() {
        let of = |level: &str| level.parse::<LevelFilter>().expect("a level");
        let (_layer, handle) = reload::Layer::<Targets, Registry>::new(Targets::new());
        let levels = Levels { handle, level: of("info"), own: Arc::default() };
        let set = |module: &str, level| levels.set(&[module.to_owned()], level).expect("taken");
        set("root", Some(of("off")));
        set("instruct.step", Some(of("debug")));
        set("queue", Some(of("info")));
        let shown: Vec<_> = levels.status().changed.into_iter().collect();
        let all = [("instruct.step", "debug"), ("queue", "info"), ("root", "off")];
        assert_eq!(shown, all.map(|(module, level)| (module.to_owned(), level.to_owned())));
        set("root", None);
        set("instruct.step", None);
        assert!(levels.status().changed.is_empty());
    }

    #[test]
    fn a_level_holds_for_a_module_until_it_is_taken_back() {
        let of = |level: &str| level.parse::<LevelFilter>().expect("a level");
        let own = BTreeMap::from([("solarnode_agent::upload".to_owned(), of("trace"))]);
        let logs =
            |targets: &Targets, target: &str| targets.would_enable(target, &tracing::Level::DEBUG);
        let wanted = |own| wanted(of("info"), own);
        assert!(logs(&wanted(&own), "solarnode_agent::upload::import"));
        for target in ["solarnode_agent::queue", "reqwest"] {
            assert!(!logs(&wanted(&own), target), "{target}");
        }
        assert!(!logs(&wanted(&BTreeMap::new()), "solarnode_agent::upload"));
    }
}
