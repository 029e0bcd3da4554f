//! The command line: one file per subcommand, and the only place that prints.
//!
//! Data goes to standard output, everything else to standard error. A subcommand is a struct of its
//! arguments with a `run` that takes its input and output, so it can be tested without a process.

pub mod exit;
pub mod queue;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure, OrExit};

/// Reads meters, keeps what they say, sends it to SolarNetwork with proof, and obeys safely
#[derive(Debug, Parser)]
#[command(name = "solarnode-agent", version, propagate_version = true)]
pub struct Cli {
    /// Configuration file [default: /etc/solarnode-agent/agent.toml, as an ordinary user the
    /// user's own configuration folder]
    #[arg(short, long, global = true, env = "SOLARNODE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands, in the order a new user meets them.
#[derive(Debug, Subcommand)]
pub enum Command {}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    ///
    /// With the exit code to end with and the reason to print.
    pub fn run(self) -> Result<Exit, Failure> {
        match self.command {}
    }
}
