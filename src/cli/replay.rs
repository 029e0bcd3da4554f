//! `replay FILE`: what the reader makes of recorded Modbus exchanges, without any device.
//!
//! `FILE` is an archive of `bundle` or the `frames.jsonl` in it. The planner, the decoding and the rules
//! of the daemon work on the recording with the present configuration, so a type, an order or a factor
//! can be tried out on what a meter far away has said ([`playback`]). With `--bundled` they work with
//! the configuration in the archive.
//!
//! Each recorded round of a source prints what `read` prints. Registers that the configuration asks for
//! and nobody asked for then are named as such.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use flate2::read::GzDecoder;

use super::{Exit, Failure, OrExit, bundle, read};
use crate::{
    config::{
        self,
        settings::{Bus, Table, Unit},
    },
    domain::{BootId, Stamp},
    modbus::{
        self, Failed, Outcome, decode::Absent, playback::Playback, recording, recording::Line,
        source::Now, source::Source,
    },
};

/// A recording is a few megabytes; whatever is larger is none.
const MAX_BYTES: u64 = 64 << 20;

/// Show what recorded Modbus exchanges mean with the present configuration
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  solarnode-agent replay solarnode-agent-bundle-20261122T100000Z.tar.gz --source /site/meter"
)]
pub struct Replay {
    /// An archive made by `bundle`, or the frames.jsonl in it
    file: PathBuf,
    /// Only this source
    #[arg(long)]
    source: Option<String>,
    /// Print JSON, one object for each recorded read
    #[arg(long)]
    json: bool,
    /// Take the configuration in the archive
    #[arg(long)]
    bundled: bool,
}

/// What a file holds.
struct Recording {
    lines: Vec<Line>,
    /// The configuration's files, in their order.
    config: Vec<(String, Vec<u8>)>,
}

impl Replay {
    /// Plays the recording and prints what it means.
    ///
    /// # Errors
    ///
    /// With 65 if the file is no recording, 64 if no such source is configured, 69 if nothing of
    /// the sources was recorded, 78 if the configuration cannot be used.
    pub fn run(
        self,
        config: &Path,
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> Result<Exit, Failure> {
        let recording = Recording::open(&self.file)?;
        let buses = match self.bundled {
            true if recording.config.is_empty() => {
                let text = format!("{} has no configuration", self.file.display());
                return Err(Failure::new(Exit::Usage, text));
            }
            true => config::buses_of(&recording.config)?,
            false => config::load_buses(config)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let (mut known, mut with_values) = (false, 0);
        for (bus, unit) in buses.iter().flat_map(|bus| bus.units.iter().map(move |u| (bus, u))) {
            if self.source.as_ref().is_some_and(|wanted| wanted != unit.source.as_str()) {
                continue;
            }
            known = true;
            let mut told = Told::default();
            for round in Playback::rounds(&recording.lines, &bus.name, unit.id) {
                let outcome = runtime.block_on(play(unit, round, &mut told))?;
                if self.json {
                    let line = serde_json::to_string(&read::Json::new(unit, &outcome));
                    writeln!(out, "{}", line.map_err(io::Error::from)?)?;
                } else {
                    read::table(unit, &outcome, out)?;
                }
            }
            with_values += told.with_values;
            told.summary(bus, unit, err)?;
        }
        out.flush()?;
        match (known, with_values) {
            (false, _) => Err(unknown(self.source.as_deref(), &buses)),
            (true, 0) => Err(Failure::new(Exit::Unavailable, recording.summary())),
            (true, _) => Ok(Exit::Ok),
        }
    }
}

fn unknown(source: Option<&str>, buses: &[Bus]) -> Failure {
    let units = buses.iter().flat_map(|bus| &bus.units);
    let known: Vec<&str> = units.map(|unit| unit.source.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let text = match source {
        Some(source) => format!("no source `{source}` is configured; known: {known}"),
        None => "the configuration has no source".to_owned(),
    };
    Failure::new(Exit::Usage, text)
}

/// What is said of a source after its rounds.
#[derive(Default)]
struct Told {
    rounds: usize,
    with_values: usize,
    not_recorded: BTreeSet<(Table, u16, u16)>,
}

impl Told {
    fn summary(&self, bus: &Bus, unit: &Unit, err: &mut impl Write) -> io::Result<()> {
        let who = format!("{} (unit {} on {})", unit.source, unit.id, bus.name);
        if self.rounds == 0 {
            return writeln!(err, "{who}: no read was recorded");
        }
        writeln!(
            err,
            "{who}: {} {} recorded, {} with values",
            self.rounds,
            if self.rounds == 1 { "read" } else { "reads" },
            self.with_values
        )?;
        if !self.not_recorded.is_empty() {
            let places = self.not_recorded.iter();
            let places: Vec<String> = places
                .map(|(table, address, count)| modbus::place(*table, *address, *count))
                .collect();
            writeln!(
                err,
                "{who}: the configuration asks for registers that were not recorded: {}",
                places.join(", ")
            )?;
        }
        Ok(())
    }
}

/// One round as the reader sees it.
async fn play(unit: &Unit, mut round: Playback, told: &mut Told) -> Result<Outcome, Failure> {
    // Nothing is learnt from one round for the next: it may be days later, with other blocks.
    let mut source = Source::new(unit.clone()).or_exit(Exit::Config)?;
    let stamp = match round.time() {
        Some(at) => Stamp::Wall { unix_ms: at.timestamp_millis() },
        None => Stamp::Boot { boot: BootId([0; 16]), since_boot_ms: 0 },
    };
    let mut outcome = loop {
        let now = Now { running: || Duration::ZERO, may_probe: true };
        if let Some(outcome) = source.step(&mut round, now, || stamp).await {
            break outcome;
        }
    };
    for Failed { property, reason } in &mut outcome.failed {
        let Some(register) =
            unit.properties.iter().find(|p| p.name == *property).map(|p| &p.register)
        else {
            continue;
        };
        let place = (register.table, register.address, register.count());
        if !round.has(place.0, place.1, place.2) {
            let place_name = modbus::place(place.0, place.1, place.2);
            *reason = Absent::NotRead(Arc::from(format!("not recorded: {place_name}")));
            told.not_recorded.insert(place);
        }
    }
    told.rounds += 1;
    told.with_values += usize::from(outcome.datum.is_some());
    Ok(outcome)
}

impl Recording {
    fn open(path: &Path) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        let unreadable = |error: io::Error| {
            let failure = Failure::from(error);
            let context = format!("{} cannot be opened", path.display());
            Failure { error: failure.error.context(context), ..failure }
        };
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        let (frames, config) = if bytes.starts_with(&[0x1f, 0x8b]) {
            unpack(&bytes).map_err(|_| {
                let text = "is damaged, cut off or no bundle: copy it or make it again";
                Failure::new(Exit::Data, format!("{} {text}", path.display()))
            })?
        } else {
            (Some(bytes), Vec::new())
        };
        let Some(frames) = frames else {
            let text = format!(
                "{} has no frames.jsonl: no daemon was running when it was made (see its manifest.json)",
                path.display()
            );
            return Err(Failure::new(Exit::Data, text));
        };
        let lines = recording::parse(&String::from_utf8_lossy(&frames));
        let lines = lines.or_exit(Exit::Data).map_err(|failure| named(path, failure))?;
        Ok(Self { lines, config })
    }

    /// What it holds instead.
    fn summary(&self) -> String {
        let mut units: BTreeSet<(&str, u8)> = BTreeSet::new();
        units.extend(self.lines.iter().map(|line| (line.bus.as_str(), line.unit)));
        let units: Vec<String> =
            units.iter().map(|(bus, unit)| format!("unit {unit} on {bus}")).collect();
        let units = if units.is_empty() { "nothing".to_owned() } else { units.join(", ") };
        format!("no value comes of it; the recording holds {units}")
    }
}

fn named(path: &Path, failure: Failure) -> Failure {
    let context = format!("{} is no recording", path.display());
    Failure { error: failure.error.context(context), ..failure }
}

/// The frames and the configuration of an archive. Nothing is written to disk.
#[allow(clippy::type_complexity, reason = "the two halves of one archive, used once")]
fn unpack(bytes: &[u8]) -> io::Result<(Option<Vec<u8>>, Vec<(String, Vec<u8>)>)> {
    let (mut frames, mut config) = (None, Vec::new());
    let mut archive = tar::Archive::new(GzDecoder::new(bytes).take(MAX_BYTES));
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(name) = path.strip_prefix(bundle::FOLDER) else { continue };
        let is_config = name.starts_with("config");
        if !is_config && name != Path::new("frames.jsonl") {
            continue;
        }
        let name = name.display().to_string();
        let mut bytes = Vec::new();
        entry.take(MAX_BYTES).read_to_end(&mut bytes)?;
        match is_config {
            true => config.push((name, bytes)),
            false => frames = Some(bytes),
        }
    }
    Ok((frames, config))
}
