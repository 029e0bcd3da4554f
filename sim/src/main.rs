//! `solarnet-sim`: the simulated servers and site, by hand, and the quickstart.

mod nodes;
mod quickstart;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use nodes::Nodes;
use serde_json::{Map, Value, json};
use solarnet_sim::{
    Authority, Certificate, FileRepository, FileToken, Identity, Profile, Seed, SeedError, Sim,
    Site, SolarInError, StartError, Unit, Versions,
};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Plays SolarNetwork's servers, strictly, and misbehaves on demand.
#[derive(Parser)]
#[command(name = "solarnet-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays SolarUser and SolarQuery over HTTP or HTTPS, and where asked SolarIn with its brokers, and
    /// File Repository, each on a port of its own.
    ///
    /// Examples: solarnet-sim serve --listen 127.0.0.1:8080 --seed sim/examples/seed.json --file-repository
    ///           solarnet-sim serve --seed seed.json --in-listen 127.0.0.1:8443 --in-files nodes --mqtt
    #[command(verbatim_doc_comment)]
    Serve {
        /// Address to listen on; port 0 takes a free one, which is printed.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Accounts, nodes, tokens and instructions to start with, as JSON.
        #[arg(long)]
        seed: PathBuf,
        #[command(flatten)]
        tls: Tls,
        #[command(flatten)]
        nodes: Nodes,
        /// Plays File Repository too, as this generation of it: V2A, V2B or V3. Its address and the token of its
        /// administrator are printed.
        #[arg(
            long,
            value_name = "PROFILE",
            num_args = 0..=1,
            default_missing_value = "V2A",
            value_parser = |text: &str| text.parse::<Profile>(),
        )]
        file_repository: Option<Profile>,
        /// Address that File Repository listens on; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0", requires = "file_repository")]
        file_repository_listen: SocketAddr,
    },
    /// Plays a site's devices behind one Modbus TCP port, or on a serial line as well. Prints what was read and
    /// written when it ends.
    ///
    /// Examples: solarnet-sim site --listen 127.0.0.1:5020 --meter 1 --relay 3
    ///           solarnet-sim site --serial /tmp/line --baud 9600
    #[command(verbatim_doc_comment)]
    Site {
        /// Address to listen on; port 0 takes a free one, which is printed.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Unit ID of a meter; may be repeated.
        #[arg(long = "meter", default_values_t = [1])]
        meters: Vec<u8>,
        /// Unit ID of a relay with eight coils; may be repeated.
        #[arg(long = "relay", default_values_t = [3])]
        relays: Vec<u8>,
        /// Also put them on a serial line (Modbus RTU, 8N1) whose port is linked to from here.
        #[arg(long)]
        serial: Option<PathBuf>,
        /// Speed of the serial line.
        #[arg(long, default_value_t = 9600, requires = "serial")]
        baud: u32,
    },
    /// Shows the agent's whole main job against simulated servers and devices, in half a minute.
    ///
    /// Example: cargo xtask quickstart
    Quickstart {
        /// The agent's program.
        #[arg(long)]
        agent: PathBuf,
        /// Keep it running until it is interrupted.
        #[arg(long)]
        forever: bool,
    },
}

/// With `--tls`: which certificate is shown.
#[derive(clap::Args)]
struct Tls {
    /// Serve HTTPS; the new authority's certificate is written here, for the agent's `solarnet.ca_file`. It is SolarIn's
    /// as well.
    #[arg(long, value_name = "CA_FILE")]
    tls: Option<PathBuf>,
    /// The certificate's first instant, as 2026-11-22T10:00:00Z; else 30 days ago.
    #[arg(long, requires = "tls", value_name = "TIME")]
    valid_from: Option<DateTime<Utc>>,
    /// Its last instant; else in 60 days.
    #[arg(long, requires = "tls", value_name = "TIME")]
    valid_until: Option<DateTime<Utc>>,
    /// The name or address that it is for, instead of 127.0.0.1 and localhost; may be repeated.
    #[arg(long = "name", requires = "tls", value_name = "NAME")]
    names: Vec<String>,
    /// Speak only this version of TLS.
    #[arg(long, requires = "tls", value_enum)]
    tls_version: Option<TlsVersion>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TlsVersion {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

impl Tls {
    /// Makes the certificate, and tells who is to trust it.
    fn identity(self, authority: &Authority) -> anyhow::Result<Option<Identity>> {
        let Some(path) = self.tls else { return Ok(None) };
        let usual = Certificate::around(Utc::now());
        let wanted = Certificate {
            names: if self.names.is_empty() { usual.names } else { self.names },
            from: self.valid_from.unwrap_or(usual.from),
            until: self.valid_until.unwrap_or(usual.until),
            versions: match self.tls_version {
                None => Versions::Both,
                Some(TlsVersion::V12) => Versions::Tls12,
                Some(TlsVersion::V13) => Versions::Tls13,
            },
        };
        let identity = authority.issue(&wanted)?;
        std::fs::write(&path, authority.pem())
            .with_context(|| format!("cannot write the authority to {}", path.display()))?;
        Ok(Some(identity))
    }
}

/// Coils of a relay that is played by hand.
const COILS: u16 = 8;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to do when the terminal is gone.
            drop(error.print());
            return if shown { ExitCode::SUCCESS } else { ExitCode::from(64) };
        }
    };
    let done = match cli.command {
        Command::Serve { listen, seed, tls, nodes, file_repository, file_repository_listen } => {
            let files = file_repository.map(|profile| (profile, file_repository_listen));
            serve(listen, &seed, tls, nodes, files)
        }
        Command::Site { listen, meters, relays, serial, baud } => {
            site(listen, &meters, &relays, serial.map(|path| (path, baud)))
        }
        Command::Quickstart { agent, forever } => quickstart::run(&agent, forever),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("solarnet-sim: {error:#}");
            ExitCode::from(code(&error))
        }
    }
}

/// sysexits: 78 wrong configuration, 77 a port that is not ours, 69 one that is taken, and what else keeps
/// the servers from running.
fn code(error: &anyhow::Error) -> u8 {
    if error.is::<SeedError>() {
        return 78;
    }
    let start = error.downcast_ref().or_else(|| match error.downcast_ref()? {
        SolarInError::Start(error) => Some(error),
        SolarInError::Tls(_) => None,
    });
    match start {
        Some(StartError::Bind { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            77
        }
        _ => 69,
    }
}

fn serve(
    listen: SocketAddr,
    seed: &std::path::Path,
    tls: Tls,
    nodes: Nodes,
    files: Option<(Profile, SocketAddr)>,
) -> anyhow::Result<()> {
    let end = End::watch()?;
    let seed = Seed::load(seed)?;
    let authority = Authority::new()?;
    let sim = match tls.identity(&authority)? {
        None => Sim::start_at(seed, listen)?,
        Some(identity) => Sim::start_tls(seed, listen, identity)?,
    };
    announce(&format!("listening on {}", sim.url()))?;
    let nodes = nodes.start(&sim, &authority, announce)?;
    let files = files.map(|(profile, listen)| FileRepository::start_at(profile, listen));
    let files = files.transpose()?;
    if let Some(files) = &files {
        let token = files.add_token(FileToken::with_roles(&["security.administrator"]));
        announce(&format!(
            "file repository listening on {}, token of its administrator: {token}",
            files.url()
        ))?;
    }
    end.wait();
    drop(nodes);
    Ok(())
}

fn site(
    listen: SocketAddr,
    meters: &[u8],
    relays: &[u8],
    serial: Option<(PathBuf, u32)>,
) -> anyhow::Result<()> {
    let end = End::watch()?;
    let units = meters.iter().map(|id| Unit::meter(*id));
    let units = units.chain(relays.iter().map(|id| Unit::relay(*id, COILS))).collect();
    let site = Site::start_at(units, listen)?;
    announce(&format!("listening on {}", site.address()))?;
    let line = match serial {
        Some((path, baud)) => {
            let line = site
                .serial_line(&path, baud)
                .with_context(|| format!("cannot make a serial line at {}", path.display()))?;
            announce(&format!("serial line at {}, {baud} baud", path.display()))?;
            Some(line)
        }
        None => None,
    };
    end.wait();
    let counted = |id: &u8| {
        let sums = json!({ "readings": site.readings(*id), "requests": site.requests(*id) });
        (id.to_string(), sums)
    };
    let written = |id: &u8| {
        let writes: Vec<Value> = site
            .writes(*id)
            .into_iter()
            .map(|write| {
                json!({
                    "time": write.time.to_rfc3339(),
                    "address": write.address,
                    "values": write.values,
                })
            })
            .collect();
        (id.to_string(), json!({ "writes": writes }))
    };
    let meters: Map<String, Value> = meters.iter().map(counted).collect();
    let relays: Map<String, Value> = relays.iter().map(written).collect();
    let mut report = json!({ "meters": meters, "relays": relays });
    if let Some(line) = line.map(|line| line.report()) {
        report["line"] = json!({
            "requests": line.requests,
            "damaged": line.damaged,
            "early": line.early,
            "cycle_us": line.cycle_us,
            "share": line.share,
        });
    }
    announce(&report.to_string())
}

/// One line on standard output, at once, for whoever waits for it.
fn announce(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}

/// The signals that end the program, caught from the moment this is made.
struct End {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn watch() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        drop(inside);
        Ok(Self { runtime, interrupt, terminate })
    }

    fn wait(mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }
}
