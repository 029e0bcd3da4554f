//! `solarnet-sim`: the simulated servers and site, by hand, and the quickstart.

mod quickstart;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};
use solarnet_sim::{Seed, SeedError, Sim, Site, StartError, Unit};
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
    /// Plays SolarUser and SolarQuery over HTTP.
    ///
    /// Example: solarnet-sim serve --listen 127.0.0.1:8080 --seed sim/examples/seed.json
    Serve {
        /// Address to listen on; port 0 takes a free one, which is printed.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Accounts, nodes, tokens and instructions to start with, as JSON.
        #[arg(long)]
        seed: PathBuf,
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
        Command::Serve { listen, seed } => serve(listen, &seed),
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
    match error.downcast_ref() {
        Some(StartError::Bind { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            77
        }
        _ => 69,
    }
}

fn serve(listen: SocketAddr, seed: &std::path::Path) -> anyhow::Result<()> {
    let end = End::watch()?;
    let sim = Sim::start_at(Seed::load(seed)?, listen)?;
    announce(&format!("listening on {}", sim.url()))?;
    end.wait();
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
