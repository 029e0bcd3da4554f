//! The command line: one file per subcommand, and the only place that prints.
//!
//! Data goes to standard output, everything else to standard error. A subcommand is a struct of its
//! arguments with a `run` that takes its input and output, so it can be tested without a process.

mod audit;
mod bundle;
mod check;
mod daemon;
pub mod exit;
pub mod files;
mod generate;
pub mod identity;
pub mod instruction;
pub mod queue;
pub mod read;
mod replay;
mod run;
mod status;
pub mod terminal;
pub mod token;

use std::{
    io::{stderr, stdout},
    path::{Path, PathBuf},
};

use clap::{Parser, Subcommand};

use crate::{config, needs::Needs};
pub use exit::{Exit, Failure, OrExit};

/// Read meters, keep what they say, send it to SolarNetwork with proof, and obey safely
#[derive(Debug, Parser)]
#[command(name = "solarnode-agent", version, propagate_version = true)]
#[command(after_help = "Example:\n  solarnode-agent check --config agent.toml")]
pub struct Cli {
    // Not clap's `env`: an empty variable would be an error, and a set one is shown as if required.
    /// Use this configuration file [default: $SOLARNODE_CONFIG, else /etc/solarnode-agent/agent.toml, or
    /// as an ordinary user ~/.config/solarnode-agent/agent.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands, in the order a new user meets them.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each argument struct has the text that --help shows")]
pub enum Command {
    Run(run::Run),
    Check(check::Check),
    Read(read::Read),
    Status(status::Status),
    Token(token::Token),
    Identity(identity::Identity),
    Files(files::Files),
    Queue(queue::Queue),
    Instruction(instruction::Instruction),
    Audit(audit::Audit),
    Bundle(bundle::Bundle),
    Replay(replay::Replay),
    #[command(hide = true)]
    Completions(generate::Completions),
    #[command(hide = true)]
    Man(generate::Man),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    ///
    /// With the exit code to end with and the reason to print.
    pub fn run(self) -> Result<Exit, Failure> {
        let config = config::locate(self.config);
        match self.command {
            Command::Run(run) => run.run(&config),
            Command::Read(read) => read.run(&config::load(&config)?.settings, &mut stdout().lock()),
            Command::Status(status) => status.run(&config, &mut stdout().lock()),
            Command::Check(check) => check.run(&config, &mut stdout().lock()),
            Command::Token(token) => {
                let mut streams = token::Streams {
                    input: &mut terminal::Input::default(),
                    out: &mut stdout(),
                    err: &mut stderr(),
                    confirm: &mut terminal::confirm,
                };
                token.run(&mut streams, || token_context(&config), token::connect)
            }
            Command::Identity(identity) => {
                let mut streams = token::Streams {
                    input: &mut terminal::Input::default(),
                    out: &mut stdout(),
                    err: &mut stderr(),
                    confirm: &mut terminal::confirm,
                };
                identity.run(&mut streams, &identity_context(&config)?)
            }
            Command::Files(files) => {
                let mut streams = token::Streams {
                    input: &mut terminal::Input::default(),
                    out: &mut stdout(),
                    err: &mut stderr(),
                    confirm: &mut terminal::confirm,
                };
                files.run(&mut streams, &files_context(&config)?)
            }
            Command::Queue(queue) => {
                let local = config::load_local(&config)?;
                queue.run(&local.state_dir, &mut stdout().lock())
            }
            Command::Instruction(instruction) => {
                let local = config::load_local(&config)?;
                instruction.run(&local.state_dir, &mut stdout().lock())
            }
            Command::Audit(audit) => {
                let settings = config::load(&config)?.settings;
                audit.run(&settings, &mut stdout().lock(), &mut stderr())
            }
            Command::Bundle(bundle) => {
                bundle.run(&config, chrono::Utc::now(), &mut stdout().lock())
            }
            Command::Replay(replay) => replay.run(&config, &mut stdout().lock(), &mut stderr()),
            Command::Completions(completions) => completions.run(&mut stdout().lock()),
            Command::Man(man) => man.run(),
        }
    }
}

/// What `files` needs of the configuration.
fn files_context(config: &Path) -> Result<files::Context, Failure> {
    let local = config::load_local(config)?;
    let solarnet = local.solarnet()?;
    Ok(files::Context {
        repository: local.repository()?.cloned(),
        ca_file: solarnet.ca_file.clone(),
        timeout: solarnet.timeout,
        state_dir: local.state_dir,
    })
}

/// What `identity` needs of the configuration.
fn identity_context(config: &Path) -> Result<identity::IdentityContext, Failure> {
    let local = config::load_local(config)?;
    Ok(identity::IdentityContext {
        solarnet: local.solarnet()?.clone(),
        state_dir: local.state_dir,
        control_socket: local.control_socket,
        node: local.node,
        identity: config::load(config).ok().map(|loaded| loaded.settings.identity),
        passed: config::Service::read().credentials,
    })
}

/// What `token` needs of the configuration.
fn token_context(config: &Path) -> Result<token::TokenContext, Failure> {
    let local = config::load_local(config)?;
    let solarnet = local.solarnet()?.clone();
    Ok(token::TokenContext {
        state_dir: local.state_dir,
        control_socket: local.control_socket,
        solarnet,
        // A slip in the section of a meter does not keep anybody from repairing a token.
        needs: config::load(config).ok().map(|loaded| Needs::of(&loaded.settings)),
    })
}
