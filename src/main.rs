//! `solarnode-agent`: parse the arguments, run the command, turn its result into an exit code.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use solarnode_agent::cli::{Cli, Exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help) => {
            // Nowhere is left to report a failure to print to.
            drop(help.print());
            let exit = if help.use_stderr() { Exit::Usage } else { Exit::Ok };
            return ExitCode::from(exit as u8);
        }
    };
    let exit = cli.run().unwrap_or_else(|failure| {
        if failure.reader_has_gone() {
            return Exit::Ok;
        }
        drop(writeln!(std::io::stderr(), "solarnode-agent: {:#}", failure.error));
        failure.exit
    });
    ExitCode::from(exit as u8)
}
